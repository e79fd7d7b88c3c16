//! Images in memory, and what is wanted of them.

use std::path::Path;

use super::account::{Account, Changes, FOLDER};
use super::place::reason;
use super::room::{ImageBytes, Room};
use crate::error::{Error, Result, list_names};
use crate::files::{CACHE_DIRECTORY, resolved};

/// What `load` accepts, for the errors of those who gave it something else.
pub(super) const ACCEPTED: &str = "give `digits`, a directory with IDX files (train-images-idx3-ubyte[.gz] and its labels), with \
                        CIFAR's binary files, or a folder of PNG, JPEG, GIF, WebP, BMP or TIFF images (one sub-folder per class, or none)";

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
    pub images: ImageBytes,
    /// `[N]`, indices into `classes`; all 0 when there is one class.
    pub labels: Vec<u32>,
    /// The names of the classes: the labels of IDX files from the least to the largest; the sub-folders, numbers first and
    /// in their order, then the others in order of their names; or the one name of the data set.
    pub classes: Vec<String>,
    /// What came of the source.
    pub account: Account,
}

impl Dataset {
    /// How many images there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Refuses to write pictures to `out` where these images came from: they would be read as images of the set the next time.
    ///
    /// # Errors
    /// [`Error::File`] names `out`.
    pub fn check_outside(&self, out: &Path) -> Result<()> {
        let source = Path::new(&self.account.source);
        if self.account.format == FOLDER && resolved(out).starts_with(resolved(source)) {
            let problem =
                format!("lies in {}, where it would be read as images: --out takes another place", source.display());
            return Err(Error::file(out, problem));
        }
        Ok(())
    }

    /// Makes `names` the classes, in this order, so that labels mean the same in two sets.
    ///
    /// # Errors
    /// Which of its own classes is not among them.
    pub fn put_in_order(&mut self, names: &[String]) -> std::result::Result<(), String> {
        let place = |class: &String| names.iter().position(|name| name == class).map(|place| place as u32);
        let places: Vec<Option<u32>> = self.classes.iter().map(place).collect();
        if let Some(unknown) = places.iter().position(Option::is_none) {
            let (class, known) = (&self.classes[unknown], list_names(names));
            return Err(format!("class {class} is none of those that were learnt ({known})"));
        }
        self.labels.iter_mut().for_each(|label| *label = places[*label as usize].unwrap_or_default());
        self.classes = names.to_vec();
        Ok(())
    }

    /// Whether there are none. [`crate::data::load`] never returns such a set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// One picture of the size that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// `[H, W, C]`, 0..=255.
    pub bytes: Vec<u8>,
    /// What was done to it.
    pub changes: Changes,
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

impl Want {
    /// Images of `sides`, height and width, or as they are.
    pub fn of(sides: Option<(u32, u32)>, channels: u32) -> Want {
        let (height, width) = sides.unzip();
        Want { height, width, channels: Some(channels) }
    }
}

/// The shape of every image of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub height: u32,
    pub width: u32,
    pub channels: u32,
}

impl Shape {
    /// The bytes of `count` images of this shape, refused where nothing could address them.
    pub fn bytes(self, count: usize) -> Result<usize> {
        let sides = [self.height, self.width, self.channels].map(|side| side as usize);
        let all = sides.into_iter().try_fold(count, usize::checked_mul).filter(|all| *all < isize::MAX as usize);
        all.ok_or_else(|| self.too_large(count, "more than can be addressed"))
    }

    /// Zeroed room for `count` images, in memory or in a file; or an error where there is no place for them.
    pub fn allocate(self, count: usize) -> Result<Room> {
        Room::zeroed(self.bytes(count)?).map_err(|error| self.too_large(count, &reason(&error)))
    }

    fn too_large(self, count: usize, why: &str) -> Error {
        let Shape { height, width, channels } = self;
        Error::Config(format!(
            "{count} images of {height}x{width}x{channels} are too large to hold ({why}): ask for a smaller size, give fewer \
             images, or name a larger disk by {CACHE_DIRECTORY}"
        ))
    }
}

/// Refuses wishes that no data can meet, before anything is read.
pub(super) fn check(want: &Want) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_number_can_count_is_refused() {
        let shape = |side| Shape { height: side, width: side, channels: 3 };
        assert_eq!(shape(4).bytes(5).expect("few bytes"), 240);
        for (shape, count) in [(shape(u32::MAX), 1), (shape(4), usize::MAX)] {
            let error = shape.bytes(count).expect_err("too many bytes").to_string();
            assert!(error.contains("too large to hold (more than can be addressed)"), "{error}");
        }
    }
}
