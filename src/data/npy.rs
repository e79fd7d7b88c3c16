//! NumPy's format of one array: a header that is a dictionary of Python's, then the values.
//!
//! ```text
//! bytes 0-5   \x93NUMPY
//! bytes 6-7   version: 1, 2 or 3
//! 2 or 4      length of the header, little-endian; 2 bytes in version 1
//! the header  {'descr': '|u1', 'fortran_order': False, 'shape': (60000, 28, 28), }
//! the rest    the values, the last index fastest, or the first one in Fortran's order
//! ```

use std::io::Read;

use super::dataset::Want;
use super::place::{Parsed, damaged};
use super::room::Room;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read; NumPy's own stops at 10,000 bytes.
const MAX_HEADER: usize = 1 << 16;
const MAX_DIMENSIONS: usize = 32;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    Float,
}

/// One array as its file has it.
pub(super) struct Array {
    pub kind: Kind,
    pub shape: Vec<usize>,
    /// Whether the first index is the fastest.
    pub is_fortran: bool,
    /// Bytes of a value.
    size: usize,
    is_big_endian: bool,
    bytes: Room,
}

impl Array {
    /// How many values there are.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Whether each value is one byte without a sign.
    pub fn is_bytes(&self) -> bool {
        self.kind == Kind::Unsigned && self.size == 1
    }

    /// The values as they lie.
    pub fn into_bytes(self) -> Room {
        self.bytes
    }

    /// The bits of value `index`.
    fn bits(&self, index: usize) -> u64 {
        let bytes = &self.bytes[index * self.size..][..self.size];
        let add = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
        if self.is_big_endian { bytes.iter().fold(0, add) } else { bytes.iter().rev().fold(0, add) }
    }

    /// All values as numbers, in the order of the file; whole ones beyond 2^53 are rounded.
    pub fn numbers(&self) -> impl Iterator<Item = f64> {
        let unused = 64 - 8 * self.size as u32;
        (0..self.len()).map(move |index| {
            let bits = self.bits(index);
            match (self.kind, self.size) {
                (Kind::Bool, _) => f64::from(u8::from(bits != 0)),
                (Kind::Unsigned, _) => bits as f64,
                (Kind::Signed, _) => ((bits << unused) as i64 >> unused) as f64,
                (Kind::Float, 2) => half::f16::from_bits(bits as u16).to_f64(),
                (Kind::Float, 4) => f64::from(f32::from_bits(bits as u32)),
                (Kind::Float, _) => f64::from_bits(bits),
            }
        })
    }
}

/// Reads one array. The error is what is wrong with it.
pub(super) fn read(source: &mut dyn Read, want: &Want) -> Parsed<Array> {
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
    let bytes = shape.iter().try_fold(size as u64, |bytes, &side| bytes.checked_mul(side as u64));
    want.check_memory(bytes.unwrap_or(u64::MAX), "its header declares")?;
    let bytes = Room::promised(source, bytes.unwrap_or(u64::MAX), size)?;
    Ok(Array { kind, shape, is_fortran, size, is_big_endian, bytes })
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
