//! Bytes of many images: in memory, or in a file that is mapped where they are many.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::files;

/// More bytes than this lie in a file.
const MOST_IN_MEMORY: u64 = 256 << 20;
/// Bytes that are read or written at once.
const PIECE: usize = 1 << 20;

/// Images as they are filled in.
#[derive(Debug)]
pub(super) struct Room {
    storage: Storage,
    /// Bytes of it that count.
    length: usize,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<u8>),
    /// Of a file without a name, which goes when this does.
    Mapped(MmapMut),
}

impl Room {
    /// So many zeros.
    ///
    /// # Errors
    /// If there is no memory for them, or no place on the disk.
    pub fn zeroed(bytes: usize) -> io::Result<Room> {
        Room::zeroed_within(bytes, MOST_IN_MEMORY)
    }

    fn zeroed_within(bytes: usize, most: u64) -> io::Result<Room> {
        if bytes as u64 > most {
            return Room::read_within(&mut io::repeat(0).take(bytes as u64), most);
        }
        let mut images = Vec::new();
        images.try_reserve_exact(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        images.resize(bytes, 0);
        Ok(images.into())
    }

    /// What `source` holds. It takes as much as arrives, so that who says there is more costs nothing.
    ///
    /// # Errors
    /// Of `source`; or if there is no place for it.
    pub fn read(source: &mut dyn Read) -> io::Result<Room> {
        Room::read_within(source, MOST_IN_MEMORY)
    }

    fn read_within(source: &mut dyn Read, most: u64) -> io::Result<Room> {
        let mut bytes = Vec::new();
        source.take(most + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 <= most {
            return Ok(bytes.into());
        }
        let mut file = files::scratch()?;
        file.write_all(&bytes)?;
        drop(bytes);
        io::copy(&mut io::BufReader::with_capacity(PIECE, source), &mut file)?;
        Room::map(&file)
    }

    fn map(file: &File) -> io::Result<Room> {
        // SAFETY: the file has no name, so that no other process can open it, and none of ours shortens it; all of it was
        // written, so that no full disk can take a page away.
        let mapped = unsafe { MmapMut::map_mut(file) }?;
        Ok(Room { length: mapped.len(), storage: Storage::Mapped(mapped) })
    }

    /// Forgets what is behind `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl From<Vec<u8>> for Room {
    fn from(bytes: Vec<u8>) -> Room {
        Room { length: bytes.len(), storage: Storage::Memory(bytes) }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Memory(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        };
        &all[..self.length]
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = match &mut self.storage {
            Storage::Memory(bytes) => bytes,
            Storage::Mapped(bytes) => bytes,
        };
        &mut all[..self.length]
    }
}

/// Bytes of images, `[N, H, W, C]`, that nobody changes any more. A clone is the same bytes.
#[derive(Clone, Debug)]
pub struct ImageBytes(Arc<Room>);

impl ImageBytes {
    /// Whether they lie in a file.
    pub fn are_mapped(&self) -> bool {
        matches!(self.0.storage, Storage::Mapped(_))
    }
}

impl From<Room> for ImageBytes {
    fn from(room: Room) -> ImageBytes {
        ImageBytes(Arc::new(room))
    }
}

impl From<Vec<u8>> for ImageBytes {
    fn from(bytes: Vec<u8>) -> ImageBytes {
        Room::from(bytes).into()
    }
}

impl FromIterator<u8> for ImageBytes {
    fn from_iter<I: IntoIterator<Item = u8>>(bytes: I) -> ImageBytes {
        bytes.into_iter().collect::<Vec<u8>>().into()
    }
}

impl Deref for ImageBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for ImageBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<T: AsRef<[u8]> + ?Sized> PartialEq<T> for ImageBytes {
    fn eq(&self, other: &T) -> bool {
        **self == *other.as_ref()
    }
}

impl Eq for ImageBytes {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_memory_lies_in_a_file_and_is_the_same() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 5).collect();
        for (most, is_mapped) in [(bytes.len() as u64, false), (bytes.len() as u64 - 1, true), (7, true)] {
            let mut room = Room::read_within(&mut &bytes[..], most).expect("a place for 3 MiB");
            assert_eq!((&room[..], matches!(room.storage, Storage::Mapped(_))), (&bytes[..], is_mapped));
            room[PIECE] = 7;
            room.truncate(PIECE + 1);
            let kept = ImageBytes::from(room);
            assert_eq!((kept.len(), kept[PIECE], kept.are_mapped()), (PIECE + 1, 7, is_mapped));
        }
        let mut zeroed = Room::zeroed_within(2 * PIECE, 1).expect("a place for 2 MiB");
        zeroed[2 * PIECE - 1] = 1;
        assert!(ImageBytes::from(zeroed).iter().rev().eq([1].iter().chain(&vec![0; 2 * PIECE - 1])));
    }
}
