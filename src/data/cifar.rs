//! CIFAR's binary files (Krizhevsky 2009): records of a label, of CIFAR-100 two, and 32x32 pixels: all red values, all green
//! ones, all blue ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Read, Shape, Want};
use super::pixels::{self, Labels, Pixels};
use super::place::{Parsed, entries, name_of, reason, stem};
use crate::error::{Error, Result};

const FORMAT: &str = "CIFAR files";
const PYTHON: &str = "CIFAR for Python, pickles that could run any code, is not read: get the binary version, \
                      cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, which lie beside it at https://www.cs.toronto.edu/~kriz/cifar.html";
/// The folders that the archives for Python hold.
const PYTHON_FOLDERS: [&str; 2] = ["cifar-10-batches-py", "cifar-100-python"];
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
    let folder = PYTHON_FOLDERS.iter().any(|folder| directory.ends_with(folder)).then_some(directory);
    match (found, python.first().map(PathBuf::as_path).or(folder)) {
        (None, Some(path)) => Err(Error::file(path, PYTHON)),
        (found, _) => Ok(found),
    }
}

/// Reads the records and fits the images to what is wanted; as they are, they are 32x32 and RGB.
///
/// # Errors
/// One line that names the file that can't be read, holds no whole records, or is larger than the limit.
pub(super) fn load(files: &Files, name: String, want: &Want) -> Result<Dataset> {
    let mut records = Records::new(files.classes, files.labels);
    for path in &files.images {
        let mut read = || -> Parsed<()> {
            let length = path.metadata().map_err(|error| reason(&error))?.len();
            want.check_memory(length, "the file has")?;
            records.add(&std::fs::read(path).map_err(|error| reason(&error))?)
        };
        read().map_err(|problem| Error::file(path, problem))?;
    }
    let names = std::fs::read_to_string(&files.names).unwrap_or_default();
    let mut data = records.dataset(name, &names, want)?;
    data.account.part = Some(files.part.to_string());
    note_missing(&mut data, files.images.len(), files.expected);
    Ok(data)
}

/// What the records of one set hold.
pub(super) struct Records {
    classes: u32,
    /// Bytes before the pixels, of which the last is the label.
    label_bytes: usize,
    labels: Vec<u32>,
    /// `[N, 32, 32, 3]`.
    pixels: Vec<u8>,
}

impl Records {
    pub fn new(classes: u32, label_bytes: usize) -> Records {
        Records { classes, label_bytes, labels: Vec::new(), pixels: Vec::new() }
    }

    /// Adds those of one file. The error is what is wrong with it.
    pub fn add(&mut self, bytes: &[u8]) -> Parsed<()> {
        let length = self.label_bytes + PIXELS;
        if bytes.is_empty() || !bytes.len().is_multiple_of(length) {
            return Err(format!("{} bytes are no whole records of {length}: get it again", bytes.len()));
        }
        for (index, record) in bytes.chunks_exact(length).enumerate() {
            let label = u32::from(record[self.label_bytes - 1]);
            if label >= self.classes {
                let classes = self.classes;
                return Err(format!("record {index} has label {label} of {classes} classes: get it again"));
            }
            self.labels.push(label);
            let planes = &record[self.label_bytes..];
            self.pixels.extend((0..PIXELS).map(|i| planes[i % 3 * PLANE + i / 3]));
        }
        Ok(())
    }

    /// The data set of these records; `names` has a line for each class, or they are numbers.
    pub fn dataset(self, name: String, names: &str, want: &Want) -> Result<Dataset> {
        let shape = Shape { height: SIDE, width: SIDE, channels: 3 };
        let pixels = Pixels { count: self.labels.len(), shape, bytes: self.pixels.into() };
        let labels = Labels::Named(self.labels, class_names(names, self.classes));
        let want = Want { height: want.height.or(want.width), width: want.width.or(want.height), ..*want };
        pixels::dataset(name, FORMAT, pixels, labels, &want)
    }
}

/// CIFAR's files out of its archive, by their names without the folder.
#[derive(Default)]
pub(super) struct Packed {
    files: BTreeMap<String, Vec<u8>>,
    /// Of all of them, with their names.
    pub bytes: u64,
}

impl Packed {
    /// Whether the file `path` in an archive is one of CIFAR's. The error is what is wrong with it if it is one for Python.
    pub fn takes(path: &str) -> Parsed<bool> {
        let Some((folder, name)) = path.rsplit_once('/') else { return Ok(false) };
        match folder.rsplit('/').next() {
            Some(folder) if PYTHON_FOLDERS.contains(&folder) => Err(PYTHON.into()),
            Some("cifar-10-batches-bin" | "cifar-100-binary") => Ok(name.ends_with(".bin") || name.ends_with(".txt")),
            _ => Ok(false),
        }
    }

    /// Adds the file `path`.
    pub fn add(&mut self, path: &str, bytes: Vec<u8>) {
        self.bytes += (path.len() + bytes.len()) as u64;
        self.files.insert(path.rsplit('/').next().unwrap_or(path).into(), bytes);
    }

    /// The set that these files of the archive at `path` are; none if none has training images.
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(mut self, path: &Path, want: &Want, tested: bool) -> Result<Option<Read>> {
        let batches: Vec<String> = self.files.keys().filter(|name| name.starts_with("data_batch_")).cloned().collect();
        let (train, test, expected, (classes, label_bytes), names) = match batches.is_empty() {
            false => (batches, "test_batch.bin", 5, (10, 1), "batches.meta.txt"),
            true if !self.files.contains_key("train.bin") => return Ok(None),
            true => (vec!["train.bin".into()], "test.bin", 1, (100, 2), "fine_label_names.txt"),
        };
        let names = String::from_utf8_lossy(&self.files.remove(names).unwrap_or_default()).into_owned();
        let is_tested = tested && self.files.contains_key(test);
        let mut read = |files: &[String], part: &str| -> Result<Dataset> {
            let mut records = Records::new(classes, label_bytes);
            for file in files {
                let bytes = self.files.remove(file).unwrap_or_default();
                records.add(&bytes).map_err(|problem| Error::file(path.join(file), problem))?;
            }
            let mut data = records.dataset(stem(path), &names, want)?;
            data.account.part = Some(part.into());
            Ok(data)
        };
        let mut data = read(&train, "train")?;
        note_missing(&mut data, train.len(), expected);
        Ok(Some((data, is_tested.then(|| read(&[test.into()], "test")).transpose())))
    }
}

fn note_missing(data: &mut Dataset, count: usize, expected: usize) {
    if count < expected {
        data.account
            .notes
            .push(format!("{count} of the set's {expected} training files are there: get the others, too"));
    }
}

/// The names in the text, if it has as many as there are classes, else numbers.
fn class_names(text: &str, classes: u32) -> Vec<String> {
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(String::from).collect();
    if names.len() == classes as usize { names } else { (0..classes).map(|class| class.to_string()).collect() }
}
