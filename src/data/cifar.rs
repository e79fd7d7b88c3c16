//! CIFAR's binary files (Krizhevsky 2009): records of a label, of CIFAR-100 two, and 32x32 pixels: all red values, all green
//! ones, all blue ones.

use std::path::{Path, PathBuf};

use image::{DynamicImage, RgbImage};

use super::account::{Account, Changes};
use super::dataset::{Dataset, Shape, Want};
use super::decode::Decoded;
use super::fill::fill_images;
use super::place::{entries, name_of, reason};
use super::resize;
use crate::error::{Error, Result};

const SIDE: u32 = 32;
const PLANE: usize = (SIDE * SIDE) as usize;
const PIXELS: usize = 3 * PLANE;

/// Files of one set in `directory`.
pub(super) struct Files {
    images: Vec<PathBuf>,
    part: &'static str,
    /// How many files the set has.
    expected: usize,
    /// The file of the classes' names, a line each.
    names: PathBuf,
    classes: u32,
    /// Bytes before the pixels, of which the last is the label.
    labels: usize,
}

/// The training files in `directory` and its test file; none if it holds neither.
///
/// # Errors
/// One line if what it holds is CIFAR for Python.
pub(super) fn find(directory: &Path) -> Result<Option<(Files, Option<Files>)>> {
    let paths = entries(directory)?;
    let named = |wanted: &dyn Fn(&str) -> bool| -> Vec<PathBuf> {
        paths.iter().filter(|path| path.is_file() && wanted(&name_of(path))).cloned().collect()
    };
    let is_batch = |name: &str| name.starts_with("data_batch_") && name.ends_with(".bin");
    let (ten, ten_test) = (named(&is_batch), named(&|name| name == "test_batch.bin"));
    let fine = directory.join("fine_label_names.txt");
    // Other files have these names; those of CIFAR-100 are whole records.
    let is_records =
        |path: &PathBuf| path.metadata().is_ok_and(|own| own.len() > 0 && own.len() % (2 + PIXELS as u64) == 0);
    let (hundred, hundred_test) = match fine.is_file() || named(&|name| name == "train.bin").iter().any(is_records) {
        true => (named(&|name| name == "train.bin"), named(&|name| name == "test.bin")),
        false => (Vec::new(), Vec::new()),
    };
    let names = directory.join("batches.meta.txt");
    let of_ten =
        |(part, expected), images| Files { images, part, expected, names: names.clone(), classes: 10, labels: 1 };
    let of_hundred = |(part, expected), images| {
        let names = fine.clone();
        Files { images, part, expected, names, classes: 100, labels: 2 }
    };
    let pair = |train: Vec<PathBuf>,
                test: Vec<PathBuf>,
                count,
                files: &dyn Fn((&'static str, usize), Vec<PathBuf>) -> Files| {
        let train = (!train.is_empty()).then(|| files(("train", count), train));
        let test = (!test.is_empty()).then(|| files(("test", 1), test));
        match (train, test) {
            (None, test) => test.map(|test| (test, None)),
            (Some(train), test) => Some((train, test)),
        }
    };
    let found = pair(ten, ten_test, 5, &of_ten).or_else(|| pair(hundred, hundred_test, 1, &of_hundred));
    let python = named(&|name| name == "data_batch_1" || name == "test_batch");
    match (found, python.first()) {
        (None, Some(path)) => Err(Error::file(path, "CIFAR for Python is not read: get the binary version of the set")),
        (found, _) => Ok(found),
    }
}

/// Reads the records and fits the images to what is wanted; as they are, they are 32x32 and RGB.
///
/// # Errors
/// One line that names the file that can't be read, or holds no whole records.
pub(super) fn load(files: &Files, name: String, want: &Want) -> Result<Dataset> {
    let (height, width) = (want.height.or(want.width).unwrap_or(SIDE), want.width.or(want.height).unwrap_or(SIDE));
    let shape = Shape { height, width, channels: want.channels.unwrap_or(3) };
    let length = files.labels + PIXELS;
    let (mut records, mut labels) = (Vec::new(), Vec::new());
    for path in &files.images {
        let bytes = std::fs::read(path).map_err(|error| Error::file(path, reason(&error)))?;
        if bytes.is_empty() || !bytes.len().is_multiple_of(length) {
            let problem = format!("{} bytes are no whole records of {length}: get it again", bytes.len());
            return Err(Error::file(path, problem));
        }
        for (index, record) in bytes.chunks_exact(length).enumerate() {
            let label = u32::from(record[files.labels - 1]);
            if label >= files.classes {
                let problem = format!("record {index} has label {label} of {} classes: get it again", files.classes);
                return Err(Error::file(path, problem));
            }
            labels.push(label);
            records.extend_from_slice(&record[files.labels..]);
        }
    }
    let mut images = shape.allocate(labels.len())?;
    let changes = std::sync::Mutex::new(Changes::default());
    fill_images(&mut images, shape.bytes(1)?, |index, slot| {
        let planes = &records[index * PIXELS..][..PIXELS];
        let pixels = (0..PIXELS).map(|i| planes[i % 3 * PLANE + i / 3]).collect();
        let image = DynamicImage::ImageRgb8(RgbImage::from_raw(SIDE, SIDE, pixels).ok_or(())?);
        resize::fit_counted(Decoded { image, is_animation: false }, shape, slot, &changes);
        Ok::<(), ()>(())
    });
    let changes = changes.into_inner().unwrap_or_default();
    let part = Some(files.part.to_string());
    let mut account = Account { format: "CIFAR files", is_labelled: true, part, changes, ..Account::default() };
    let (count, expected) = (files.images.len(), files.expected);
    if count < expected {
        account.notes.push(format!("{count} of the set's {expected} training files are there: get the others, too"));
    }
    let Shape { height, width, channels } = shape;
    let images = images.into();
    Ok(Dataset { name, height, width, channels, images, labels, classes: class_names(files), account })
}

/// The names in the file, if it has as many as there are classes, else numbers.
fn class_names(files: &Files) -> Vec<String> {
    let text = std::fs::read_to_string(&files.names).unwrap_or_default();
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    let numbers = || (0..files.classes).map(|class| class.to_string()).collect();
    if names.len() == files.classes as usize { names } else { numbers() }
}
