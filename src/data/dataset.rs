//! Images in memory, and what is wanted of them.

use std::path::Path;

use super::account::{ARRAYS, Account, Changes, FOLDER, PARQUET, WEBDATASET};
use super::place::{Parsed, reason};
use super::room::{ImageBytes, Room};
use super::watch::Watch;
use crate::error::{Error, Result, list_names};
use crate::files::{CACHE_DIRECTORY, resolved};

/// What `load` accepts, for the errors of those who gave it something else.
pub(super) const ACCEPTED: &str = "give `digits`, a directory with IDX files (train-images-idx3-ubyte[.gz] and its labels), with \
                        CIFAR's binary files, or a folder of PNG, JPEG, GIF, WebP, BMP or TIFF images (one sub-folder per class, or \
                        none); or .npz, .npy, .parquet, .tar or .tar.gz files, or a directory of such";

/// What one array may take, or one file within an archive, if nobody says otherwise: twenty times MNIST.
pub const MEMORY_LIMIT: u64 = 1 << 30;

/// Bytes in the largest unit of which there is one.
pub(super) fn said_bytes(bytes: u64) -> String {
    let unit = |shift: u32, unit: &str| format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64);
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => unit(10, "KiB"),
        0x10_0000..0x4000_0000 => unit(20, "MiB"),
        _ => unit(30, "GiB"),
    }
}

/// The bytes that `1500`, `64K`, `500MB`, `4G` or `1GiB` mean; units are powers of 1024.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = unit.trim().to_uppercase();
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        "T" => Some(40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| "bytes, such as 500MiB or 4G".into())
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
    /// Images that are in memory already: `images` are `[N, height, width, channels]` bytes, the N `labels` are indices into
    /// `classes`. Without classes all images are of one, and labels may be left out.
    ///
    /// # Errors
    /// [`Error::Config`] if these don't go together.
    pub fn new(
        name: &str,
        [height, width, channels]: [u32; 3],
        images: Vec<u8>,
        labels: Vec<u32>,
        classes: &[&str],
    ) -> Result<Dataset> {
        let refuse = |problem: String| Err(Error::Config(format!("{name}: {problem}")));
        let size = [height, width, channels].iter().map(|extent| *extent as usize).product::<usize>();
        if ![1, 3].contains(&channels) || size == 0 || images.is_empty() || !images.len().is_multiple_of(size) {
            let bytes = images.len();
            return refuse(format!("{bytes} bytes are no images of {height}x{width} with {channels} channels, 1 or 3"));
        }
        let count = images.len() / size;
        let labels = if labels.is_empty() && classes.is_empty() { vec![0; count] } else { labels };
        let classes = if classes.is_empty() { &[name] } else { classes };
        if labels.len() != count || labels.iter().any(|label| *label as usize >= classes.len()) {
            let (labels, classes) = (labels.len(), classes.len());
            return refuse(format!("{labels} labels for {count} images: each is to have one, below {classes}"));
        }
        let account = Account { source: name.into(), is_labelled: classes.len() > 1, ..Account::default() };
        let classes = classes.iter().map(ToString::to_string).collect();
        Ok(Dataset { name: name.into(), height, width, channels, images: images.into(), labels, classes, account })
    }

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
        // Images go before files of many images.
        let is_looked_for = [FOLDER, ARRAYS, PARQUET, WEBDATASET].contains(&self.account.format);
        if is_looked_for && resolved(out).starts_with(resolved(source)) {
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

    /// The images at `indices`, in that order.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no room for them.
    pub fn part(&self, indices: &[usize]) -> Result<Dataset> {
        let bytes = self.images.len() / self.len();
        let Dataset { height, width, channels, .. } = *self;
        let mut images = Shape { height, width, channels }.allocate(indices.len())?;
        for (slot, index) in images.chunks_exact_mut(bytes).zip(indices) {
            slot.copy_from_slice(&self.images[index * bytes..][..bytes]);
        }
        Ok(Dataset {
            images: images.into(),
            labels: indices.iter().map(|&index| self.labels[index]).collect(),
            name: self.name.clone(),
            classes: self.classes.clone(),
            account: self.account.clone(),
            ..*self
        })
    }

    /// Indices of up to `count` images of each class, spread over all of them.
    pub fn some_of_each(&self, count: usize) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.classes.len()];
        self.labels.iter().enumerate().for_each(|(index, label)| members[*label as usize].push(index));
        let spread = |members: Vec<usize>| {
            let shown = count.min(members.len());
            (0..shown).map(|i| members[i * members.len() / shown]).collect()
        };
        members.into_iter().map(spread).collect()
    }

    /// The bytes of an image.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.images.len() / self.len();
        &self.images[index * bytes..][..bytes]
    }

    /// Whether there are none. [`crate::data::load`] never returns such a set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Training images, and test images if they are wanted and there are some.
pub(super) type Read = (Dataset, Result<Option<Dataset>>);

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
#[derive(Debug, Clone, Copy, Default)]
pub struct Want {
    pub height: Option<u32>,
    pub width: Option<u32>,
    pub channels: Option<u32>,
    /// The most bytes of one array, of one file within an archive, of one page of a table or of one picture once it is unpacked; by
    /// default 1 GiB.
    pub memory_limit: Option<u64>,
    /// Told how far decoding is.
    pub watch: Option<Watch>,
}

impl Want {
    /// Images of `sides`, height and width, or as they are.
    pub fn of(sides: Option<(u32, u32)>, channels: u32) -> Want {
        let (height, width) = sides.unzip();
        Want { height, width, channels: Some(channels), ..Want::default() }
    }

    /// The same with `memory_limit` bytes.
    pub fn limited(self, memory_limit: u64) -> Want {
        Want { memory_limit: Some(memory_limit), ..self }
    }

    /// The same, of which `watch` is told how far decoding is.
    pub fn watched(self, watch: Option<Watch>) -> Want {
        Want { watch, ..self }
    }

    /// The most bytes that one thing may take once it is unpacked.
    pub(super) fn limit(&self) -> u64 {
        self.memory_limit.unwrap_or(MEMORY_LIMIT)
    }

    /// Refuses `bytes` above the limit; `who` has them. The error is the rest of a line that names the file.
    pub(super) fn check_memory(&self, bytes: u64, who: &str) -> Parsed<()> {
        let limit = self.limit();
        match bytes > limit {
            true => Err(format!(
                "{who} {}, more than --memory-limit allows ({}): raise it if the file is to be trusted",
                said_bytes(bytes),
                said_bytes(limit)
            )),
            false => Ok(()),
        }
    }
}

/// The most bytes of an image, which with its label kernels address by a u32.
const MOST_BYTES: u64 = u32::MAX as u64 - 2;

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
        let sides = [self.height, self.width, self.channels].map(u64::from);
        let each = sides.into_iter().try_fold(1, u64::checked_mul).filter(|each| *each <= MOST_BYTES);
        let all = each.and_then(|each| usize::try_from(each).ok()?.checked_mul(count));
        let all = all.filter(|all| *all < isize::MAX as usize);
        all.ok_or_else(|| self.too_large(count, "more than can be addressed"))
    }

    /// Zeroed room for `count` images, in memory or in a file; or an error where there is no place for them.
    pub fn allocate(self, count: usize) -> Result<Room> {
        let mut room = Room::default();
        self.grow(&mut room, count)?;
        Ok(room)
    }

    /// Makes `images`, of this shape, `count` images, of which the further ones are zero.
    pub fn grow(self, images: &mut Room, count: usize) -> Result<()> {
        images.grow(self.bytes(count)?).map_err(|error| self.too_large(count, &reason(&error)))
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
    fn bytes_are_typed_with_units() {
        let all = [("1500", 1500), ("64K", 65_536), ("2MB", 2 << 20), ("1GiB", 1 << 30), ("3 t", 3 << 40)];
        all.iter().for_each(|(text, bytes)| assert_eq!(parse_bytes(text), Ok(*bytes), "{text}"));
        ["", "0", "G", "-1", "1.5G", "99999999T", "1X"]
            .iter()
            .for_each(|text| assert!(parse_bytes(text).is_err(), "{text}"));
    }

    #[test]
    fn what_no_number_can_count_is_refused() {
        let shape = |side| Shape { height: side, width: side, channels: 3 };
        assert_eq!(shape(4).bytes(5).expect("few bytes"), 240);
        // An image's own bytes end with a u32.
        let grey = |width| Shape { height: 65_536, width, channels: 1 };
        assert_eq!(grey(65_535).bytes(2).expect("4 GiB each"), 2 * 65_536 * 65_535);
        for (shape, count) in [(shape(u32::MAX), 1), (shape(4), usize::MAX), (grey(65_536), 1)] {
            let error = shape.bytes(count).expect_err("too many bytes").to_string();
            assert!(error.contains("too large to hold (more than can be addressed)"), "{error}");
        }
    }
}
