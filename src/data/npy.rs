//! NumPy's format of one array: a header that is a dictionary of Python's, then the values.
//!
//! ```text
//! bytes 0-5   \x93NUMPY
//! bytes 6-7   version: 1, 2 or 3
//! 2 or 4      length of the header, little-endian; 2 bytes in version 1
//! the header  {'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }
//! the rest    the values, the last index fastest, or the first one in Fortran's order
//! ```

use std::io::{self, Read};

use super::dataset::Want;
use super::place::{Parsed, damaged};
use super::room::Room;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read; NumPy's own stops at 10,000 bytes.
const MAX_HEADER: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 32;
/// Bytes of values that are read at once: whole ones of any size.
const PIECE: usize = 1 << 16;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
}

/// What is said of an array before its values.
pub(super) struct Header {
    pub kind: Kind,
    pub shape: Vec<usize>,
    /// Whether the first index is the fastest.
    pub is_fortran: bool,
    /// Bytes of a value.
    size: usize,
    is_big_endian: bool,
}

impl Header {
    /// Reads it. The error is what is wrong with it.
    pub fn read(source: &mut dyn Read, want: &Want) -> Parsed<Header> {
        let text = header(source)?;
        let field = |name: &str| {
            let (_, rest) = text.split_once(&format!("'{name}':"))?;
            Some(rest.trim_start())
        };
        let (Some(descr), Some(order), Some(shape)) = (field("descr"), field("fortran_order"), field("shape")) else {
            return Err("its header is none of NumPy's: get it again".into());
        };
        let (kind, size, is_big_endian) = element(descr)?;
        let is_fortran = order.starts_with("True");
        let shape = shape_of(shape).ok_or("the shape in its header is none: get it again")?;
        let header = Header { kind, shape, is_fortran, size, is_big_endian };
        want.check_memory(header.bytes(), "its header declares")?;
        Ok(header)
    }

    /// How many bytes its values are.
    fn bytes(&self) -> u64 {
        self.shape.iter().try_fold(self.size as u64, |bytes, &side| bytes.checked_mul(side as u64)).unwrap_or(u64::MAX)
    }

    /// How many values there are.
    pub fn len(&self) -> u64 {
        self.bytes() / self.size as u64
    }

    /// Whether each value is one byte without a sign.
    pub fn is_bytes(&self) -> bool {
        self.kind == Kind::Unsigned && self.size == 1
    }

    /// The values that follow in `source`, in the order of the file, as the bytes that `convert` makes of numbers: it is given some and
    /// as many bytes for them. They are never held as they lie.
    pub fn converted(&self, source: &mut dyn Read, convert: &mut dyn FnMut(&[f64], &mut [u8])) -> Parsed<Room> {
        let (bytes, numbers, made) = (Vec::new(), Vec::new(), Vec::new());
        let mut values = Converted { header: self, source, left: self.len(), bytes, numbers, made, taken: 0, convert };
        Room::promised(&mut values, self.len(), 1)
    }

    /// The bytes that follow in `source`, if [`Header::is_bytes`].
    pub fn as_they_lie(&self, source: &mut dyn Read) -> Parsed<Room> {
        Room::promised(source, self.bytes(), self.size)
    }

    /// Hands over the values that follow in `source` as numbers, in the order of the file; whole ones beyond 2^53 are rounded.
    pub fn numbers(&self, source: &mut dyn Read, take: &mut dyn FnMut(&[f64])) -> Parsed<()> {
        let (bytes, mut numbers) = (Room::promised(source, self.bytes(), self.size)?, Vec::new());
        for piece in bytes.chunks(PIECE) {
            numbers.clear();
            self.extend(piece, &mut numbers);
            take(&numbers);
        }
        Ok(())
    }

    /// Adds the numbers that `bytes` are to `numbers`.
    fn extend(&self, bytes: &[u8], numbers: &mut Vec<f64>) {
        macro_rules! values {
            ($kind:ty, $number:expr) => {{
                let values = bytes.as_chunks().0.iter();
                match self.is_big_endian {
                    true => numbers.extend(values.map(|value| $number(<$kind>::from_be_bytes(*value)))),
                    false => numbers.extend(values.map(|value| $number(<$kind>::from_le_bytes(*value)))),
                }
            }};
        }
        match (self.kind, self.size) {
            (Kind::Bool, _) => numbers.extend(bytes.iter().map(|value| f64::from(u8::from(*value != 0)))),
            (Kind::Unsigned, 1) => values!(u8, f64::from),
            (Kind::Unsigned, 2) => values!(u16, f64::from),
            (Kind::Unsigned, 4) => values!(u32, f64::from),
            (Kind::Unsigned, _) => values!(u64, |value| value as f64),
            (Kind::Signed, 1) => values!(i8, f64::from),
            (Kind::Signed, 2) => values!(i16, f64::from),
            (Kind::Signed, 4) => values!(i32, f64::from),
            (Kind::Signed, _) => values!(i64, |value| value as f64),
            (Kind::Float, 2) => values!(u16, |bits| half::f16::from_bits(bits).to_f64()),
            (Kind::Float, 4) => values!(f32, f64::from),
            (Kind::Float, _) => values!(f64, |value| value),
        }
    }
}

/// The values of an array, a byte each.
struct Converted<'a> {
    header: &'a Header,
    source: &'a mut dyn Read,
    /// How many are promised and were not there yet.
    left: u64,
    /// What was read last, and its numbers.
    bytes: Vec<u8>,
    numbers: Vec<f64>,
    /// What became of them, and how much of that was handed on.
    made: Vec<u8>,
    taken: usize,
    convert: &'a mut dyn FnMut(&[f64], &mut [u8]),
}

impl Converted<'_> {
    /// Converts the next values, of which there are none at the end.
    fn advance(&mut self) -> io::Result<()> {
        self.bytes.clear();
        (&mut *self.source).take(PIECE as u64).read_to_end(&mut self.bytes)?;
        self.numbers.clear();
        self.header.extend(&self.bytes, &mut self.numbers);
        let count = self.numbers.len();
        // A part of a value is none, but behind the last one it must be seen.
        let has_tail = self.left == count as u64 && !self.bytes.len().is_multiple_of(self.header.size);
        self.left = self.left.saturating_sub(count as u64);
        self.made.clear();
        self.made.resize(count + usize::from(has_tail), 0);
        (self.convert)(&self.numbers, &mut self.made[..count]);
        self.taken = 0;
        Ok(())
    }
}

impl Read for Converted<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.made.len() {
            self.advance()?;
        }
        let count = (&self.made[self.taken..]).read(room)?;
        self.taken += count;
        Ok(count)
    }
}

/// The dictionary.
fn header(source: &mut dyn Read) -> Parsed<String> {
    let mut start = [0; 8];
    let read = fill(source, &mut start)?;
    if read < start.len() || !start.starts_with(MAGIC) {
        return Err("not an array of NumPy: get it again".into());
    }
    let wide = match start[6] {
        1 => false,
        2 | 3 => true,
        version => return Err(format!("version {version} of NumPy's format, of which 1 to 3 are read")),
    };
    let mut length = [0; 4];
    let bytes = if wide { 4 } else { 2 };
    exactly(source, &mut length[..bytes])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(format!("a header of {length} bytes: is it damaged?"));
    }
    let mut text = vec![0; length];
    exactly(source, &mut text)?;
    String::from_utf8(text).map_err(|_| "its header is no text: get it again".into())
}

/// Fills as much of `buffer` as there is.
fn fill(source: &mut dyn Read, buffer: &mut [u8]) -> Parsed<usize> {
    let mut bytes = Vec::new();
    source.take(buffer.len() as u64).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
    buffer[..bytes.len()].copy_from_slice(&bytes);
    Ok(bytes.len())
}

fn exactly(source: &mut dyn Read, buffer: &mut [u8]) -> Parsed<()> {
    match fill(source, buffer)? == buffer.len() {
        true => Ok(()),
        false => Err("truncated: it ends within its header: get it again".into()),
    }
}

/// Kind, bytes and byte order of `'<f4', ...`.
fn element(descr: &str) -> Parsed<(Kind, usize, bool)> {
    let Some(name) = descr.strip_prefix('\'').and_then(|rest| rest.split('\'').next()) else {
        return Err("values of several fields: save an array of numbers alone".into());
    };
    let (order, code) = name.split_at_checked(1).unwrap_or_default();
    let (kind, size) = match code {
        "b1" => (Kind::Bool, 1),
        "u1" | "u2" | "u4" | "u8" => (Kind::Unsigned, code[1..].parse().unwrap_or(1)),
        "i1" | "i2" | "i4" | "i8" => (Kind::Signed, code[1..].parse().unwrap_or(1)),
        "f2" | "f4" | "f8" => (Kind::Float, code[1..].parse().unwrap_or(1)),
        "O" => {
            return Err(
                "pickled Python objects, which could run any code: save it as np.array(x, dtype=np.uint8)".into()
            );
        }
        _ if code.starts_with(['U', 'S']) => return Err("an array of text: save numbers".into()),
        _ => return Err(format!("values of type {name:?}: save whole numbers or floats")),
    };
    match order {
        "<" | "|" => Ok((kind, size, false)),
        ">" => Ok((kind, size, true)),
        _ => Err(format!("values of type {name:?}, whose byte order is not said: save it again")),
    }
}

/// The numbers of `(60000, 28, 28), ...`.
fn shape_of(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let sides = inside.split(',').map(str::trim).filter(|side| !side.is_empty());
    // As Python 2 wrote long ones.
    let shape: Option<Vec<usize>> = sides.map(|side| side.trim_end_matches('L').parse().ok()).collect();
    shape.filter(|shape| shape.len() <= MAX_DIMENSIONS)
}
