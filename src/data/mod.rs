//! Data sets: what a user points at, read into memory as bytes the way the GPU gets them.
//!
//! Three sources: `digits`, which is embedded; a directory of IDX files (MNIST and its relatives); a folder
//! of images. All of them end as one [`Dataset`] of one size. Nothing here knows of the GPU.

mod folder;
mod idx;
mod resize;
mod split;

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::error::{Error, Result};
pub use split::{HELD_OUT, Split, load_split};

/// What `load` accepts, for the errors of those who gave it something else.
const ACCEPTED: &str = "give `digits`, a directory with IDX files (train-images-idx3-ubyte[.gz] and its labels) \
                        or a folder of PNG, JPEG or GIF images (one sub-folder per class, or none)";

/// The most bytes of all images and their labels: kernels address them by a u32.
const MAX_BYTES: u64 = u32::MAX as u64;
/// Bytes of a label on the GPU.
const LABEL_BYTES: u64 = 2;

/// The bytes of `count` images of `each` bytes, without their labels; none where a kernel couldn't address them all.
fn bytes_of(count: u64, each: u64) -> Option<usize> {
    let with_labels = each.checked_add(LABEL_BYTES)?.checked_mul(count)?;
    if with_labels > MAX_BYTES { None } else { usize::try_from(count * each).ok() }
}

/// Images in memory as bytes, the way the GPU gets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// `digits`, or the last component of the path.
    pub name: String,
    /// Rows of every image.
    pub height: u32,
    /// Columns of every image.
    pub width: u32,
    /// 1 (grey) or 3 (RGB).
    pub channels: u32,
    /// `[N, H, W, C]`, 0..=255.
    pub images: Vec<u8>,
    /// `[N]`, indices into `classes`; all 0 when there is one class.
    pub labels: Vec<u32>,
    /// The names of the classes: `0`, `1`, ... for IDX files with labels; the sub-folders in order of their names; or
    /// the one name of the data set.
    pub classes: Vec<String>,
    /// Whether an image flipped left to right is as likely a member of the set: not for digits, and not for IDX
    /// files, which look the same to us; so only for folders.
    pub flip: bool,
    /// One line for each thing that was left out or looked odd; the caller logs them.
    pub warnings: Vec<String>,
}

impl Dataset {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none. [`load`] never returns such a set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// The size and channels that the model wants.
///
/// `None` means as the data are. IDX files: their own size, 1 channel. A folder: 3 channels; a missing side equals
/// the other; with neither side given, a square as large as the first image's shorter side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Want {
    pub height: Option<u32>,
    pub width: Option<u32>,
    pub channels: Option<u32>,
}

/// Reads the data set that `source` names, with every image scaled and centre-cropped to what `want` says.
///
/// `digits` is the embedded set (a directory of that name is `./digits`). A directory with IDX files gives the
/// `train` pair if it has one, else `t10k`, else its only pair. Any other directory is a folder of images.
///
/// # Errors
/// One line that names the file or directory, if it's missing, holds no images, or holds an IDX file that is damaged
/// or disagrees with its labels. A single bad image in a folder is a warning, unless no good one is left.
pub fn load(source: &str, want: &Want) -> Result<Dataset> {
    check(want)?;
    if source == "digits" {
        return idx::embedded(want);
    }
    let path = Path::new(source);
    let kind = std::fs::metadata(path).map_err(|error| Error::file(path, format!("{}: {ACCEPTED}", reason(&error))))?;
    if !kind.is_dir() {
        return Err(Error::file(path, format!("not a directory: {ACCEPTED}")));
    }
    match idx::find(path)? {
        Some(pair) => idx::load(&pair, name_of(path), want),
        None => folder::load(path, name_of(path), want),
    }
}

/// Reads one picture as `[H, W, C]` bytes of this shape: scaled and centre-cropped, or if `exact` only as large as that.
///
/// # Errors
/// One line that names the file, if it can't be read or isn't of the size.
pub fn load_image(path: &Path, [height, width, channels]: [u32; 3], exact: bool) -> Result<Vec<u8>> {
    let want = Want { height: Some(height), width: Some(width), channels: Some(channels) };
    check(&want)?;
    folder::load_image(path, Shape { height, width, channels }, exact)
}

/// Refuses wishes that no data can meet, before anything is read.
fn check(want: &Want) -> Result<()> {
    if want.height == Some(0) || want.width == Some(0) {
        let problem = "an image size of 0: give a height and a width of 1 or more";
        return Err(Error::Config(problem.into()));
    }
    match want.channels {
        None | Some(1 | 3) => Ok(()),
        Some(channels) => Err(Error::Config(format!(
            "{channels} image channels: data have 1 (grey) or 3 (RGB), so the model must too"
        ))),
    }
}

/// The shape of every image of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    height: u32,
    width: u32,
    channels: u32,
}

impl Shape {
    /// The bytes of `count` images of this shape, refused where a kernel couldn't address them.
    fn bytes(self, count: usize) -> Result<usize> {
        let [height, width, channels] = [self.height, self.width, self.channels].map(u64::from);
        let each = (height * width).checked_mul(channels);
        each.and_then(|each| bytes_of(count as u64, each)).ok_or_else(|| self.too_large(count))
    }

    /// Zeroed room for `count` images, or an error where the machine has too little memory for them.
    fn allocate(self, count: usize) -> Result<Vec<u8>> {
        let bytes = self.bytes(count)?;
        let mut images = Vec::new();
        images.try_reserve_exact(bytes).map_err(|_| self.too_large(count))?;
        images.resize(bytes, 0);
        Ok(images)
    }

    fn too_large(self, count: usize) -> Error {
        let Shape { height, width, channels } = self;
        Error::Config(format!(
            "{count} images of {height}x{width}x{channels} are too large to hold, in memory or in the 4 GiB that kernels \
             can address: ask for a smaller size or give fewer images"
        ))
    }
}

/// Runs `fill(index, slot)` for every image of `bytes` bytes in `images`, over all processors.
///
/// Returns the failures in the order of the images, whatever thread met them.
fn fill_images<E: Send>(
    images: &mut [u8],
    bytes: usize,
    fill: impl Fn(usize, &mut [u8]) -> std::result::Result<(), E> + Sync,
) -> Vec<(usize, E)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    fill_on(threads, images, bytes, fill)
}

/// `fill_images` on so many threads.
fn fill_on<E: Send>(
    threads: usize,
    images: &mut [u8],
    bytes: usize,
    fill: impl Fn(usize, &mut [u8]) -> std::result::Result<(), E> + Sync,
) -> Vec<(usize, E)> {
    // Images differ in cost, so each thread takes the next one instead of a fixed share.
    let queue = Mutex::new(images.chunks_exact_mut(bytes).enumerate());
    let next = || queue.lock().ok()?.next();
    let work = || {
        let mut failures = Vec::new();
        while let Some((index, slot)) = next() {
            if let Err(error) = fill(index, slot) {
                failures.push((index, error));
            }
        }
        failures
    };
    let mut failures: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|list| list.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    failures.sort_by_key(|(index, _)| *index);
    failures
}

/// The files and directories of `directory`, sorted, without the hidden ones.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| Error::file(directory, format!("can't be listed: {}", reason(&error)));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The last component of `path`, also for `.` and `..`.
fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().ok();
    let name = path.file_name().or_else(|| whole.as_deref()?.file_name());
    name.map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
}

/// An I/O error in few words, those of the commonest the same on every system.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string().to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_set_is_what_a_u32_can_address_with_its_labels() {
        // 65,536 bytes each with the label.
        let shape = Shape { height: 2, width: 32_767, channels: 1 };
        assert_eq!(shape.bytes(65_535).expect("a word of 32 bits reaches the end"), 65_535 * 65_534);
        let error = shape.bytes(65_536).expect_err("one byte too many").to_string();
        assert!(
            error.contains("65536 images of 2x32767x1 are too large to hold") && error.contains("4 GiB"),
            "{error}"
        );
        assert!(Shape { height: u32::MAX, width: u32::MAX, channels: 3 }.bytes(usize::MAX).is_err());
    }

    #[test]
    fn failures_come_in_order_whatever_thread_met_them() {
        // Neither thread goes on before the other has an image too, so both meet failures all along.
        let both = std::sync::Barrier::new(2);
        let mut images = [0; 16];
        let failures = fill_on(2, &mut images, 2, |index, slot| {
            both.wait();
            slot.fill(index as u8);
            Err(index)
        });
        assert_eq!(failures, (0..8).map(|index| (index, index)).collect::<Vec<_>>());
        assert_eq!(images, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }
}
