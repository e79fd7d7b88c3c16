//! Files of many images each: which a source has, and which of them are its parts.

use std::path::{Path, PathBuf};

use super::arrays;
use super::dataset::{Read, Want};
use super::folder::first_image;
use super::place::{ending, entries, stem};
use crate::error::{Error, Result};

/// How such files hold their images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Arrays,
}

/// What a file of that name holds images in, if it is one that is read.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    match ending(path).as_str() {
        "npz" | "npy" => Some(Format::Arrays),
        _ => None,
    }
}

/// Reads the one file at `path`, all parts that it holds.
///
/// # Errors
/// One line that names it, if it can't be read.
pub(super) fn read_file(path: &Path, format: Format, want: &Want, tested: bool) -> Result<Read> {
    match format {
        Format::Arrays => read_arrays(arrays::of_file(path)?, stem(path), want, tested),
    }
}

/// Reads the files in `directory`, if it holds some and no images themselves, which go before them.
///
/// # Errors
/// One line that names a file that can't be read, or the directory if several sets are in it.
pub(super) fn read_directory(directory: &Path, name: &str, want: &Want, tested: bool) -> Result<Option<Read>> {
    let files: Vec<PathBuf> = entries(directory)?.into_iter().filter(|path| path.is_file()).collect();
    let ends = |wanted: &str| files.iter().filter(|path| ending(path) == wanted).cloned().collect::<Vec<_>>();
    if first_image(directory).is_some() {
        return Ok(None);
    }
    match ends("npz").as_slice() {
        [] => {}
        [one] => return read_file(one, Format::Arrays, want, tested).map(Some),
        [first, ..] => {
            let count = ends("npz").len();
            return Err(Error::file(directory, format!("{count} sets of arrays: name one, as {}", first.display())));
        }
    }
    let arrays = arrays::of_files(directory, &ends("npy"))?;
    arrays.map(|arrays| read_arrays(arrays, name.into(), want, tested)).transpose()
}

fn read_arrays(arrays: arrays::Arrays, name: String, want: &Want, tested: bool) -> Result<Read> {
    let mut train = arrays::load(&arrays.train, name.clone(), want)?;
    train.account.skip(&arrays.further, "a further part of the set, which is not read");
    train.account.skip(&arrays.unknown, "an array that isn't called as images or labels are");
    let test = arrays.test.filter(|_| tested);
    Ok((train, test.map(|pair| arrays::load(&pair, name, want)).transpose()))
}
