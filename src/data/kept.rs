//! Decoded images of a folder, kept between runs: reading them again takes a hundredth of the time.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::account::Changes;
use super::dataset::Shape;
use super::place::reason;
use super::room::Room;
use crate::error::{Error, Result};
use crate::files;

/// Fewer images are decoded in a moment.
const FEWEST: usize = 2000;
/// Bytes of all that is kept: what was written first goes first.
const MOST: u64 = 8 << 30;
/// Bytes that a header may have: of a few failures an image.
const MOST_HEADER: u64 = 1 << 30;

/// What became of files: the images that could be read, one behind the other, and what is wrong with the others.
#[derive(Debug)]
pub(super) struct Decoded {
    pub images: Room,
    pub changes: Changes,
    /// Numbers of the files, ascending.
    pub failures: Vec<(usize, String)>,
}

/// What stands before the images in a file: its length in eight bytes, the low one first, then this as JSON.
#[derive(Serialize, Deserialize)]
struct Header {
    images: usize,
    changes: Changes,
    failures: Vec<(usize, String)>,
}

/// Whether so many images, of so many bytes together, are kept.
pub(super) fn is_kept(count: usize, bytes: usize) -> bool {
    count >= FEWEST && bytes as u64 <= MOST
}

/// The name under which these files are kept, as they are now, in images of this shape, of which none may take more than `most` bytes
/// while it is decoded; none where one of them can't be seen.
pub(super) fn name_of<'a>(files: impl Iterator<Item = &'a Path>, shape: Shape, most: u64) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    (env!("CARGO_PKG_VERSION"), shape.height, shape.width, shape.channels, most).hash(&mut hasher);
    for path in files {
        let about = fs::metadata(path).ok()?;
        let changed = about.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        (std::path::absolute(path).ok()?, about.len(), changed).hash(&mut hasher);
    }
    Some(format!("{:016x}.images", hasher.finish()))
}

/// What is kept of `count` files under `name`, if that is whole.
pub(super) fn find(directory: &Path, name: &str, count: usize, shape: Shape) -> Option<Decoded> {
    let mut file = BufReader::new(File::open(directory.join(name)).ok()?);
    let mut length = [0; 8];
    file.read_exact(&mut length).ok()?;
    let length = u64::from_le_bytes(length);
    let mut header = Vec::new();
    (&mut file).take(length.min(MOST_HEADER)).read_to_end(&mut header).ok()?;
    let Header { images, changes, failures } = serde_json::from_slice(&header).ok()?;
    let expected = shape.bytes(images).ok()?;
    let are_of_files = failures.is_sorted_by(|(one, _), (next, _)| one < next)
        && failures.last().is_none_or(|(last, _)| *last < count);
    if !are_of_files || images != count - failures.len() {
        return None;
    }
    // The one byte more shows a tail.
    let room = Room::read(&mut file.take(expected as u64 + 1)).ok()?;
    (room.len() == expected).then_some(Decoded { images: room, changes, failures })
}

/// Keeps what became of files.
///
/// # Errors
/// If there is no place for it; nothing is left of it then.
pub(super) fn keep(directory: &Path, name: &str, decoded: &Decoded, images: usize) -> Result<()> {
    let named = |error: io::Error| Error::file(directory, reason(&error));
    fs::create_dir_all(directory).map_err(named)?;
    files::remove_abandoned(directory);
    make_room(directory, decoded.images.len() as u64).map_err(named)?;
    let (changes, failures) = (decoded.changes.clone(), decoded.failures.clone());
    let header = serde_json::to_vec(&Header { images, changes, failures });
    let header = header.map_err(|error| Error::file(directory, error))?;
    let length = (header.len() as u64).to_le_bytes();
    files::write_parts(&directory.join(name), &[&length, &header, &decoded.images])
}

/// Removes what was written first until there is room for so many bytes.
fn make_room(directory: &Path, bytes: u64) -> io::Result<()> {
    let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        files.push((about.modified()?, about.len(), entry.path()));
    }
    files.sort();
    let mut all: u64 = bytes + files.iter().map(|(_, length, _)| length).sum::<u64>();
    for (_, length, path) in files {
        if all <= MOST {
            break;
        }
        fs::remove_file(path)?;
        all -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { height: 1, width: 2, channels: 1 };

    fn decoded() -> Decoded {
        let changes = Changes { scaled: 2, ..Changes::default() };
        Decoded { images: vec![1, 2, 3, 4].into(), changes, failures: vec![(1, "no picture".into())] }
    }

    #[test]
    fn what_is_kept_comes_back_and_what_is_not_whole_does_not() {
        let place = tempfile::tempdir().expect("a place");
        keep(place.path(), "a", &decoded(), 2).expect("room");
        let found = find(place.path(), "a", 3, SHAPE).expect("it is there");
        assert_eq!(
            (&found.images[..], found.changes, found.failures),
            (&[1, 2, 3, 4][..], decoded().changes, decoded().failures)
        );
        assert!(find(place.path(), "b", 3, SHAPE).is_none() && find(place.path(), "a", 4, SHAPE).is_none());
        assert!(find(place.path(), "a", 3, Shape { width: 3, ..SHAPE }).is_none());
        for numbers in [&[3][..], &[1, 1], &[1, 0], &[0, usize::MAX]] {
            let failures = numbers.iter().map(|number| (*number, String::new())).collect();
            keep(place.path(), "c", &Decoded { failures, ..decoded() }, 2).expect("room");
            assert!(find(place.path(), "c", 2 + numbers.len(), SHAPE).is_none(), "{numbers:?}");
        }
        keep(place.path(), "c", &decoded(), usize::MAX).expect("room");
        assert!(find(place.path(), "c", 0, SHAPE).is_none());
        let bytes = fs::read(place.path().join("a")).expect("it is there");
        for length in 0..bytes.len() {
            fs::write(place.path().join("a"), &bytes[..length]).expect("room");
            assert!(find(place.path(), "a", 3, SHAPE).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn another_file_has_another_name() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join("x.png");
        let name = || name_of([path.as_path()].into_iter(), SHAPE, 9);
        assert_eq!(name(), None);
        fs::write(&path, "1").expect("room");
        let first = name().expect("it is there");
        assert_eq!(name(), Some(first.clone()));
        assert_ne!(name_of([path.as_path()].into_iter(), Shape { height: 2, ..SHAPE }, 9), Some(first.clone()));
        assert_ne!(name_of([path.as_path()].into_iter(), SHAPE, 8), Some(first.clone()));
        fs::write(&path, "12").expect("room");
        assert_ne!(name(), Some(first));
    }
}
