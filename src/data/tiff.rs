//! What is seen of a TIFF without decoding it: the directory of its first page.
//!
//! ```text
//! bytes 0-3    `II*\0`, all numbers have the low byte first, or `MM\0*`, the high one
//! bytes 4-7    where the directory is
//! there        2 bytes, the number of entries; entries; 4 bytes, where the next page's directory is, or 0
//! an entry     2 bytes, its tag; 2, of which type its values are; 4, how many; 4, the values or where they are
//! ```

use super::place::Parsed;

const ENTRY: usize = 12;
/// Bytes of a value, by its type.
const SIZES: [usize; 19] = [0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8];

/// The file, and where its directory is.
struct Directory<'a> {
    bytes: &'a [u8],
    at: usize,
    entries: usize,
}

impl Directory<'_> {
    fn of(bytes: &[u8]) -> Option<Directory<'_>> {
        let file = Directory { bytes, at: 0, entries: 0 };
        let at = file.number(4, 4).filter(|_| file.number(2, 2) == Some(42))?;
        Some(Directory { at, entries: file.number(at, 2)?, ..file })
    }

    fn number(&self, at: usize, length: usize) -> Option<usize> {
        let own = self.bytes.get(at..at.checked_add(length)?)?.iter();
        let add = |value: usize, byte: &u8| value << 8 | usize::from(*byte);
        Some(if self.bytes.starts_with(b"II") { own.rev().fold(0, add) } else { own.fold(0, add) })
    }

    /// Where entry `index` is, or what is behind the last.
    fn entry(&self, index: usize) -> Option<usize> {
        self.at.checked_add(2 + ENTRY * index)
    }
}

/// Whether another page follows the first.
pub(super) fn has_pages(bytes: &[u8]) -> bool {
    let next = || {
        let directory = Directory::of(bytes)?;
        directory.number(directory.entry(directory.entries)?, 4)
    };
    next().is_some_and(|next| next != 0)
}

/// Refuses a file of an entry with more values than all of it could hold: the decoder would make room for them.
pub(super) fn check(bytes: &[u8]) -> Parsed<()> {
    let Some(directory) = Directory::of(bytes) else { return Ok(()) };
    let is_too_long = |entry: usize| {
        let size = SIZES.get(directory.number(entry + 2, 2)?)?;
        Some(directory.number(entry + 4, 4)?.saturating_mul(*size) > bytes.len())
    };
    let mut entries = (0..directory.entries).filter_map(|index| directory.entry(index));
    match entries.any(|entry| is_too_long(entry).unwrap_or(false)) {
        true => Err("corrupt image: a list in it is longer than the file".into()),
        false => Ok(()),
    }
}
