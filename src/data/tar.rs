//! Tar archives, entry by entry, plain or gzipped. Nothing is unpacked to disk.
//!
//! ```text
//! bytes 0-99     name, ended by a zero     bytes 124-135  length, octal, or binary behind a set bit
//! bytes 148-155  sum of all bytes          byte  156      kind: `0` a file, `L` a longer name, `x` records of the next
//! bytes 257-261  `ustar`                   bytes 345-499  what precedes the name
//! 512 bytes of that, then what it names, filled up to a multiple of 512; zeros at the end
//! ```

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::place::{Parsed, damaged, open, reason};
use crate::error::{Error, Result};

const BLOCK: usize = 512;
/// The longest name, or records of one entry.
const MAX_RECORDS: u64 = 64 << 10;

/// One file in an archive.
pub(super) struct Entry {
    pub name: String,
    pub length: u64,
}

/// What is no file.
pub(super) enum Next {
    File(Entry),
    /// A link or a device, by its name.
    Other(String),
    End,
}

/// An archive that is read from its beginning to its end.
pub(super) struct Tar {
    /// The file, to see how far it was read.
    file: File,
    length: u64,
    source: Box<dyn Read>,
    /// What is left of the current entry, and what fills it up.
    left: u64,
    padding: u64,
}

impl Tar {
    /// Opens the archive at `path`.
    ///
    /// # Errors
    /// One line that names it, if it can't be read.
    pub fn open(path: &Path) -> Result<Tar> {
        let failed = |error: std::io::Error| Error::file(path, reason(&error));
        let file = open(path)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut source = BufReader::with_capacity(1 << 16, file.try_clone().map_err(failed)?);
        let start = source.fill_buf().map_err(failed)?;
        // By content: browsers unpack files and leave them the name.
        let source: Box<dyn Read> = match start {
            [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(source))),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                return Err(Error::file(path, "packed with Zstandard: unpack it to a .tar"));
            }
            [b'B', b'Z', b'h', ..] => return Err(Error::file(path, "packed with bzip2: unpack it to a .tar")),
            [0xfd, b'7', b'z', ..] => return Err(Error::file(path, "packed with xz: unpack it to a .tar")),
            _ => Box::new(source),
        };
        Ok(Tar { file, length, source, left: 0, padding: 0 })
    }

    /// How much of the file was read, 0 to 1.
    pub fn share(&self) -> f64 {
        let position = (&self.file).stream_position().unwrap_or(0);
        position as f64 / self.length.max(1) as f64
    }

    /// The next entry; of the last one what was not read is passed over.
    pub fn next(&mut self) -> Parsed<Next> {
        let (mut long_name, mut long_length) = (None, None);
        loop {
            self.pass_over()?;
            let mut header = [0; BLOCK];
            self.exactly(&mut header)?;
            if header == [0; BLOCK] {
                self.drain()?;
                return Ok(Next::End);
            }
            check_sum(&header)?;
            let length = number(&header[124..136]).ok_or_else(no_archive)?;
            let kind = header[156];
            match kind {
                b'L' | b'x' => {
                    let records = self.records(length)?;
                    if kind == b'L' {
                        long_name = Some(text(&records));
                    } else {
                        let (name, length) = extended(&records)?;
                        long_name = name.or(long_name);
                        long_length = length.or(long_length);
                    }
                    continue;
                }
                b'K' | b'g' => {
                    self.records(length)?;
                    continue;
                }
                _ => {}
            }
            let name = long_name.take().unwrap_or_else(|| own_name(&header));
            check_name(&name)?;
            let is_file = matches!(kind, b'0' | 0 | b'7');
            // Links and folders have no content, whatever their length says.
            let has_content = !matches!(kind, b'1'..=b'6');
            self.begin(if has_content { long_length.take().unwrap_or(length) } else { 0 })?;
            match kind {
                _ if is_file && name.ends_with('/') => long_length = None,
                b'5' => long_length = None,
                _ if is_file => {
                    return Ok(Next::File(Entry { name: name.trim_start_matches("./").into(), length: self.left }));
                }
                _ => return Ok(Next::Other(name)),
            }
        }
    }

    /// What is in the current entry.
    pub fn content(&mut self) -> Parsed<Vec<u8>> {
        let mut bytes = Vec::new();
        let length = self.left;
        // The vector grows with what arrives, so a wrong header costs no memory.
        (&mut self.source).take(length).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
        self.left -= bytes.len() as u64;
        if self.left > 0 { Err(truncated()) } else { Ok(bytes) }
    }

    fn begin(&mut self, length: u64) -> Parsed<()> {
        self.left = length;
        self.padding = length.checked_next_multiple_of(BLOCK as u64).ok_or_else(no_archive)? - length;
        Ok(())
    }

    fn pass_over(&mut self) -> Parsed<()> {
        let rest = self.left.checked_add(self.padding).ok_or_else(no_archive)?;
        let passed = std::io::copy(&mut (&mut self.source).take(rest), &mut std::io::sink());
        let passed = passed.map_err(|error| damaged(&error))?;
        (self.left, self.padding) = (0, 0);
        if passed < rest { Err(truncated()) } else { Ok(()) }
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Parsed<()> {
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => truncated(),
            _ => damaged(&error),
        })
    }

    /// What stands in for a header's fields.
    fn records(&mut self, length: u64) -> Parsed<Vec<u8>> {
        if length > MAX_RECORDS {
            return Err(format!("a name or note of {length} bytes: is it damaged?"));
        }
        self.begin(length)?;
        self.content()
    }

    /// Reads a little of what follows the end: zeros, and the checksum of what is packed.
    fn drain(&mut self) -> Parsed<()> {
        const MOST: u64 = 1 << 20;
        let read = std::io::copy(&mut (&mut self.source).take(MOST), &mut std::io::sink());
        read.map(|_| ()).map_err(|error| damaged(&error))
    }
}

fn no_archive() -> String {
    "not a tar archive, or a damaged one: get it again".into()
}

fn truncated() -> String {
    "truncated: it ends before its end is marked: get it again".into()
}

/// The sum of all bytes, of which those of the sum itself count as spaces.
fn check_sum(header: &[u8; BLOCK]) -> Parsed<()> {
    let bytes = header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let sum: u64 = bytes.map(u64::from).sum();
    if number(&header[148..156]) == Some(sum) { Ok(()) } else { Err(no_archive()) }
}

/// An octal number between spaces and zeros, or a binary one behind a set bit.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8);
        let is_small = high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        return is_small.then(|| low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let text = text(field);
    let text = text.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// What is before the first zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn own_name(header: &[u8; BLOCK]) -> String {
    let name = text(&header[..100]);
    match (&header[257..263], text(&header[345..500])) {
        // GNU's own archives have times in that place.
        (b"ustar\0", prefix) if !prefix.is_empty() => format!("{prefix}/{name}"),
        _ => name,
    }
}

/// Name and length out of records `LENGTH KEY=VALUE\n`.
fn extended(mut records: &[u8]) -> Parsed<(Option<String>, Option<u64>)> {
    let (mut name, mut length) = (None, None);
    while !records.is_empty() {
        let digits = records.iter().position(|byte| *byte == b' ').ok_or_else(no_archive)?;
        let own: usize = text(&records[..digits]).parse().map_err(|_| no_archive())?;
        let record = records.get(digits + 1..own.saturating_sub(1)).ok_or_else(no_archive)?;
        records = records.get(own..).ok_or_else(no_archive)?;
        let record = String::from_utf8_lossy(record);
        match record.split_once('=') {
            Some(("path", value)) => name = Some(value.to_string()),
            Some(("size", value)) => length = Some(value.parse().map_err(|_| no_archive())?),
            _ => {}
        }
    }
    Ok((name, length))
}

/// Refuses a name that leads out of the archive: nothing is written there, but such an archive isn't to be trusted.
fn check_name(name: &str) -> Parsed<()> {
    let leads_out = name.starts_with(['/', '\\']) || name.split(['/', '\\']).any(|part| part == "..");
    if leads_out || name.contains(char::is_control) {
        return Err(format!("its entry {name:?} leads out of the archive: none to be trusted"));
    }
    Ok(())
}
