//! The values of a page, one by one, out of the ways in which Parquet writes them.

use std::ops::Range;

use super::deltas::Deltas;
use super::footer::Type;
use super::runs::{Runs, damaged, take};
use crate::data::place::Parsed;

/// Values that later pages name by their numbers.
#[derive(Default)]
pub struct Dictionary {
    bytes: Vec<u8>,
    places: Vec<Range<usize>>,
}

/// The values of a page that are not null.
pub enum Values<'a> {
    Nothing,
    /// One behind the other.
    Plain(&'a [u8], Type),
    /// Places in a dictionary.
    Indices(Runs<'a>, &'a Dictionary),
    /// Numbers of so many bytes, by what each adds to the one before.
    Deltas(Deltas<'a>, usize, [u8; 8]),
    /// Numbers of so many bytes, of which the first byte of each comes first, then the second of each.
    Split {
        bytes: &'a [u8],
        width: usize,
        at: usize,
        number: [u8; 8],
    },
    /// All lengths, then all bytes.
    Lengths(Deltas<'a>, &'a [u8]),
    /// How many bytes each has of the one before it, how many more, and those.
    Prefixes {
        prefixes: Deltas<'a>,
        lengths: Deltas<'a>,
        bytes: &'a [u8],
        value: Vec<u8>,
    },
}

impl Dictionary {
    /// Of `count` plain values; none if they are not there.
    pub fn new(bytes: Vec<u8>, count: u64, kind: Type) -> Option<Dictionary> {
        let (mut places, mut rest) = (Vec::new(), &bytes[..]);
        for _ in 0..count {
            let length = plain(&mut rest, kind)?.len();
            let end = bytes.len() - rest.len();
            places.push(end - length..end);
        }
        Some(Dictionary { bytes, places })
    }
}

impl<'a> Values<'a> {
    /// Those in `bytes`, of which there is at least one, at most `most`. The error says what is wrong with them.
    pub fn new(
        encoding: i64,
        bytes: &'a [u8],
        most: u64,
        kind: Type,
        dictionary: &'a Dictionary,
    ) -> Parsed<Values<'a>> {
        let deltas = |bytes: &'a [u8]| Deltas::new(bytes, most).ok_or_else(damaged);
        let behind = |numbers: &Deltas<'a>| numbers.clone().rest().ok_or_else(damaged);
        Ok(match (encoding, width_of(kind)) {
            (0, _) => Values::Plain(bytes, kind),
            (2 | 8, _) => match bytes {
                [width @ 0..=32, indices @ ..] => Values::Indices(Runs::new(indices, u32::from(*width)), dictionary),
                _ => return Err(damaged()),
            },
            (5, Some(width)) => Values::Deltas(deltas(bytes)?, width, [0; 8]),
            (6, None) => {
                let lengths = deltas(bytes)?;
                let bytes = behind(&lengths)?;
                Values::Lengths(lengths, bytes)
            }
            (7, None) => {
                let prefixes = deltas(bytes)?;
                let lengths = deltas(behind(&prefixes)?)?;
                let bytes = behind(&lengths)?;
                Values::Prefixes { prefixes, lengths, bytes, value: Vec::new() }
            }
            (9, Some(width)) if bytes.len().is_multiple_of(width) => {
                Values::Split { bytes, width, at: 0, number: [0; 8] }
            }
            (5..=7 | 9, _) => return Err(damaged()),
            _ => {
                let read = "read are plain values, dictionaries and deltas";
                return Err(format!("encoding {encoding}: {read}; write it with pyarrow's defaults"));
            }
        })
    }

    /// The next value, and how many of its bytes were in one before it, too; none if there is none, or it is damaged.
    pub fn next(&mut self) -> Option<(&[u8], usize)> {
        let length = |numbers: &mut Deltas| u64::try_from(numbers.next()?).ok();
        match self {
            Values::Nothing => None,
            Values::Plain(bytes, kind) => Some((plain(bytes, *kind)?, 0)),
            Values::Indices(indices, dictionary) => {
                let place = dictionary.places.get(indices.next()? as usize)?;
                Some((&dictionary.bytes[place.clone()], place.len()))
            }
            Values::Deltas(numbers, width, number) => {
                *number = numbers.next()?.to_le_bytes();
                Some((&number[..*width], 0))
            }
            Values::Split { bytes, width, at, number } => {
                let count = bytes.len() / *width;
                if *at == count {
                    return None;
                }
                (0..*width).for_each(|byte| number[byte] = bytes[byte * count + *at]);
                *at += 1;
                Some((&number[..*width], 0))
            }
            Values::Lengths(lengths, bytes) => Some((take(bytes, length(lengths)?)?, 0)),
            Values::Prefixes { prefixes, lengths, bytes, value } => {
                let shared = usize::try_from(length(prefixes)?).ok().filter(|shared| *shared <= value.len())?;
                value.truncate(shared);
                value.extend(take(bytes, length(lengths)?)?);
                Some((value, shared))
            }
        }
    }
}

/// The bytes of a number.
fn width_of(kind: Type) -> Option<usize> {
    match kind {
        Type::Int32 => Some(4),
        Type::Int64 => Some(8),
        Type::Bytes | Type::Other => None,
    }
}

/// The plain value that `bytes` begin with, which begin behind it then.
fn plain<'a>(bytes: &mut &'a [u8], kind: Type) -> Option<&'a [u8]> {
    let length = match (kind, width_of(kind)) {
        (_, Some(width)) => width as u64,
        (Type::Bytes, None) => {
            let length = take(bytes, 4)?.first_chunk()?;
            u64::from(u32::from_le_bytes(*length))
        }
        _ => return None,
    };
    take(bytes, length)
}
