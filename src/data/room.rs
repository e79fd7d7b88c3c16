//! Bytes of many images: in memory, or in a file that is mapped where they are many.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use super::place::{Parsed, damaged};
use crate::files;

/// More bytes than this lie in a file.
const MOST_IN_MEMORY: u64 = 256 << 20;
/// Bytes that are read or written at once.
const PIECE: usize = 1 << 20;

/// Images as they are filled in; nothing at first.
#[derive(Debug, Default)]
pub(super) struct Room {
    storage: Storage,
    /// Bytes of it that count.
    length: usize,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<u8>),
    /// Of a file without a name, which goes when this does.
    Mapped {
        file: File,
        bytes: MmapMut,
    },
}

impl Default for Storage {
    fn default() -> Storage {
        Storage::Memory(Vec::new())
    }
}

impl Room {
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
        let before = bytes.len();
        drop(bytes);
        let length = before as u64 + copy(source, &mut file)?;
        Room::map(file, length as usize)
    }

    /// The values, of `size` bytes each, that a header promises: `expected` bytes. The error is what is wrong with the file.
    pub fn promised(source: &mut dyn Read, expected: u64, size: usize) -> Parsed<Room> {
        // The one byte more shows a tail, and makes what unpacks look at its checksum.
        let bytes = Room::read(&mut source.take(expected.saturating_add(1))).map_err(|error| damaged(&error))?;
        let (found, promised) = (bytes.len() as u64, expected / size as u64);
        if found < expected {
            let values = found / size as u64;
            return Err(format!("truncated: its header promises {promised} values, {values} follow: get it again"));
        }
        if found > expected {
            return Err(format!("more than the {promised} values that its header promises: is it damaged?"));
        }
        Ok(bytes)
    }

    /// Makes it `bytes` long, which it isn't yet; what comes to it is zeros.
    ///
    /// # Errors
    /// If there is no memory for them, or no place on the disk; it holds nothing then.
    pub fn grow(&mut self, bytes: usize) -> io::Result<()> {
        self.grow_within(bytes, MOST_IN_MEMORY)
    }

    fn grow_within(&mut self, bytes: usize, most: u64) -> io::Result<()> {
        let Room { storage, length } = std::mem::take(self);
        let mut file = match storage {
            Storage::Memory(mut own) => {
                own.truncate(length);
                if bytes as u64 <= most {
                    own.try_reserve(bytes.saturating_sub(length)).map_err(|_| io::ErrorKind::OutOfMemory)?;
                    own.resize(bytes, 0);
                    *self = own.into();
                    return Ok(());
                }
                let mut file = files::scratch()?;
                file.write_all(&own)?;
                file
            }
            Storage::Mapped { mut file, .. } => {
                file.seek(SeekFrom::Start(length as u64))?;
                file
            }
        };
        copy(&mut io::repeat(0).take(bytes.saturating_sub(length) as u64), &mut file)?;
        *self = Room::map(file, bytes)?;
        Ok(())
    }

    /// The first `length` bytes of a file without a name, all of them written.
    fn map(file: File, length: usize) -> io::Result<Room> {
        // SAFETY: the file has no name, so that no other process can open it, and none of ours shortens it; all of it was
        // written, so that no full disk can take a page away.
        let bytes = unsafe { MmapMut::map_mut(&file) }?;
        Ok(Room { length, storage: Storage::Mapped { file, bytes } })
    }

    /// Forgets what is behind `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

fn copy(source: &mut dyn Read, file: &mut File) -> io::Result<u64> {
    io::copy(&mut BufReader::with_capacity(PIECE, source), file)
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
            Storage::Mapped { bytes, .. } => bytes,
        };
        &all[..self.length]
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        let all: &mut [u8] = match &mut self.storage {
            Storage::Memory(bytes) => bytes,
            Storage::Mapped { bytes, .. } => bytes,
        };
        &mut all[..self.length]
    }
}

/// Bytes of images, `[N, H, W, C]`, that nobody changes any more. A clone is the same bytes.
#[derive(Clone, Debug)]
pub struct ImageBytes(Arc<Room>);

impl ImageBytes {
    /// What `source` holds.
    ///
    /// # Errors
    /// Of `source`; or if there is no place for it.
    pub fn read(source: &mut dyn Read) -> io::Result<ImageBytes> {
        Ok(Room::read(source)?.into())
    }
}

impl From<Room> for ImageBytes {
    fn from(mut room: Room) -> ImageBytes {
        if let Storage::Memory(bytes) = &mut room.storage {
            bytes.truncate(room.length);
            bytes.shrink_to_fit();
        }
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

    fn is_mapped(room: &Room) -> bool {
        matches!(room.storage, Storage::Mapped { .. })
    }

    #[test]
    fn what_is_too_much_for_memory_lies_in_a_file_and_is_the_same() {
        let bytes: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 5).collect();
        for (most, mapped) in [(bytes.len() as u64, false), (bytes.len() as u64 - 1, true), (7, true)] {
            let mut room = Room::read_within(&mut &bytes[..], most).expect("a place for 3 MiB");
            assert!(room[..] == bytes[..] && is_mapped(&room) == mapped, "{most} bytes in memory");
            room[PIECE] = 7;
            room.truncate(PIECE + 1);
            let kept = ImageBytes::from(room);
            assert_eq!((kept.len(), kept[PIECE], is_mapped(&kept.0)), (PIECE + 1, 7, mapped));
        }
    }

    #[test]
    fn what_grows_keeps_what_it_holds_and_moves_to_a_file_in_time() {
        let (mut room, mut expected) = (Room::default(), Vec::new());
        // The limit is passed between the second and the third; each leaves something behind its end.
        for (round, bytes) in [10, PIECE, PIECE + 7, 3 * PIECE, 3 * PIECE + 1].into_iter().enumerate() {
            room.grow_within(bytes, PIECE as u64).expect("a place for 3 MiB");
            expected.resize(bytes, 0);
            assert!(room[..] == expected[..] && is_mapped(&room) == (bytes > PIECE), "{bytes} bytes");
            room[bytes - 4..].fill(round as u8 + 1);
            room.truncate(bytes - 2);
            expected.resize(bytes - 2, 0);
            expected[bytes - 4..].fill(round as u8 + 1);
        }
        assert!(ImageBytes::from(room) == expected);
    }
}
