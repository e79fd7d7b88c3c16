//! The pages of one column in one group of rows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::codec::Codec;
use super::footer::{Group, Leaf};
use super::runs::{Runs, damaged};
use super::thrift::{self, Value};
use super::values::{Dictionary, Values};
use crate::data::dataset::Want;
use crate::data::place::{Parsed, reason};
use crate::error::{Error, Result};

/// The longest header of a page that is read; what statistics are in it is cut by its writers.
const MAX_HEADER: u64 = 1 << 16;
/// What is read of it first: a file can be full of pages without values.
const USUAL_HEADER: u64 = 256;

/// What becomes of a value; null is none.
type Sink<'a> = &'a mut dyn FnMut(Option<&[u8]>) -> Result<()>;

/// A column in a group of rows.
pub struct Chunk<'a> {
    file: &'a File,
    leaf: &'a Leaf,
    want: &'a Want,
    codec: Codec,
    /// What is left of it in the file.
    at: u64,
    end: u64,
    rows: u64,
    /// Bytes of values that its pages hold once for several rows, each as often as a row has them.
    shared: u64,
}

/// A page out of the file, as its header and its unpacked bytes are.
struct Page {
    kind: PageKind,
    /// How many values, nulls included.
    count: u64,
    encoding: i64,
    /// Bytes of levels that precede the values, where the header says so.
    levels: Option<usize>,
    bytes: Vec<u8>,
}

#[derive(PartialEq, Eq)]
enum PageKind {
    Data,
    Dictionary,
    /// Of no values.
    Other,
}

impl<'a> Chunk<'a> {
    /// The column `number`. The error is what is wrong with its file.
    pub fn new(file: &'a File, group: &Group, number: usize, leaf: &'a Leaf, want: &'a Want) -> Parsed<Chunk<'a>> {
        let place = &group.places[number];
        let end = place.start.checked_add(place.length).ok_or_else(damaged)?;
        let codec = Codec::of(place.codec)?;
        Ok(Chunk { file, leaf, want, codec, at: place.start, end, rows: group.rows, shared: 0 })
    }

    /// Hands all values over, one a row.
    ///
    /// # Errors
    /// One line about the column; and what `sink` gives.
    pub fn each(mut self, path: &std::path::Path, sink: Sink) -> Result<()> {
        let name = self.leaf.path.join(".");
        let refused = |problem: String| Error::file(path, format!("column {name}: {problem}"));
        let mut dictionary = Dictionary::default();
        let mut row = 0;
        while row < self.rows {
            let Some(page) = self.next().map_err(refused)? else {
                let rows = self.rows;
                return Err(refused(format!("truncated: {row} of {rows} rows are there: get it again")));
            };
            match page.kind {
                PageKind::Other => {}
                PageKind::Dictionary => {
                    let own = Dictionary::new(page.bytes, page.count, self.leaf.kind);
                    dictionary = own.ok_or_else(|| refused(damaged()))?;
                }
                PageKind::Data => {
                    row = row.saturating_add(page.count);
                    if row > self.rows {
                        return Err(refused("more values than rows: is it damaged?".into()));
                    }
                    self.hand_over(page, &dictionary, &refused, sink)?;
                }
            }
        }
        Ok(())
    }

    /// Hands over the values of one page.
    fn hand_over(
        &mut self,
        page: Page,
        dictionary: &Dictionary,
        refused: &dyn Fn(String) -> Error,
        sink: Sink,
    ) -> Result<()> {
        let optional = self.leaf.optional;
        let (levels, start) = levels(&page, optional).map_err(refused)?;
        let mut levels = Runs::new(page.bytes.get(levels).unwrap_or_default(), u32::BITS - optional.leading_zeros());
        let mut is_there = || if optional == 0 { Some(true) } else { Some(levels.next()? == optional) };
        let bytes = page.bytes.get(start..).ok_or_else(|| refused(damaged()))?;
        // Where all are null, some writers leave nothing.
        let mut values = match bytes {
            [] => Values::Nothing,
            _ => Values::new(page.encoding, bytes, page.count, self.leaf.kind, dictionary).map_err(refused)?,
        };
        for _ in 0..page.count {
            let value = match is_there().ok_or_else(|| refused(damaged()))? {
                false => None,
                true => {
                    let (value, shared) = values.next().ok_or_else(|| refused(damaged()))?;
                    self.shared = self.shared.saturating_add(shared as u64);
                    self.want.check_memory(self.shared, "its repeated values unpack to").map_err(refused)?;
                    Some(value)
                }
            };
            sink(value)?;
        }
        Ok(())
    }

    /// The next page; none at the end.
    fn next(&mut self) -> Parsed<Option<Page>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let left = self.end - self.at;
        let mut bytes = self.read(USUAL_HEADER.min(left))?;
        if thrift::read(&bytes).is_err() {
            bytes = self.read(MAX_HEADER.min(left))?;
        }
        let (header, length) = thrift::read(&bytes)?;
        self.at += length as u64;
        let size = |id: i16| header.int(id).and_then(|size| u64::try_from(size).ok()).ok_or_else(damaged);
        let (unpacked, packed) = (size(2)?, size(3)?);
        if packed > self.end - self.at {
            return Err("truncated: a page ends behind its column: get it again".into());
        }
        self.want.check_memory(unpacked.max(packed), "a page has")?;
        let about = about(&header)?;
        if about.kind == PageKind::Other {
            self.at += packed;
            return Ok(Some(about));
        }
        let bytes = self.read(packed)?;
        self.at += packed;
        if bytes.len() as u64 != packed {
            return Err("truncated: it ends within a page: get it again".into());
        }
        // Levels of the newer kind of page are not packed, whatever the values are.
        let is_packed = header.get(8).and_then(|header| header.bool(7)).unwrap_or(true);
        let before = about.levels.unwrap_or(0);
        let bytes = match (self.codec, is_packed) {
            (Codec::Nothing, _) | (_, false) => bytes,
            _ => {
                let (levels, rest) = bytes.split_at_checked(before).ok_or_else(damaged)?;
                let rest_unpacked = usize::try_from(unpacked).ok().and_then(|all| all.checked_sub(before));
                let unpacked = self.codec.unpack(levels, rest, rest_unpacked.ok_or_else(damaged)?);
                unpacked.ok_or_else(damaged)?
            }
        };
        Ok(Some(Page { bytes, ..about }))
    }

    /// Up to `count` bytes of the file from here.
    fn read(&mut self, count: u64) -> Parsed<Vec<u8>> {
        let mut file = self.file;
        file.seek(SeekFrom::Start(self.at)).map_err(|error| reason(&error))?;
        let mut bytes = Vec::new();
        file.take(count).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
        Ok(bytes)
    }
}

/// What the header of a page says, without its bytes.
fn about(header: &Value) -> Parsed<Page> {
    let count = |about: &Value| about.int(1).and_then(|count| u64::try_from(count).ok()).ok_or_else(damaged);
    let (kind, about, encoding) = match header.int(1) {
        Some(0) => (PageKind::Data, header.get(5), 2),
        Some(2) => (PageKind::Dictionary, header.get(7), 2),
        Some(3) => (PageKind::Data, header.get(8), 4),
        _ => return Ok(Page { kind: PageKind::Other, count: 0, encoding: 0, levels: None, bytes: Vec::new() }),
    };
    let about = about.ok_or_else(damaged)?;
    let levels = match header.int(1) {
        Some(3) => {
            let length = |id: i16| about.int(id).and_then(|length| usize::try_from(length).ok()).ok_or_else(damaged);
            // Columns that repeat are not read, so they have no levels of repetition.
            if length(6)? != 0 {
                return Err(damaged());
            }
            Some(length(5)?)
        }
        _ => None,
    };
    let encoding = about.int(encoding).ok_or_else(damaged)?;
    if kind == PageKind::Dictionary && !matches!(encoding, 0 | 2) {
        return Err(damaged());
    }
    Ok(Page { kind, count: count(about)?, encoding, levels, bytes: Vec::new() })
}

/// Where the levels are in the bytes of a page, and where its values begin.
fn levels(page: &Page, optional: u32) -> Parsed<(Range<usize>, usize)> {
    if let Some(length) = page.levels {
        return if length <= page.bytes.len() { Ok((0..length, length)) } else { Err(damaged()) };
    }
    if optional == 0 {
        return Ok((0..0, 0));
    }
    let length =
        page.bytes.first_chunk::<4>().map(|length| u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
    let end = length.checked_add(4).filter(|end| *end <= page.bytes.len()).ok_or_else(damaged)?;
    Ok((4..end, end))
}
