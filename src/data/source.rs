//! What a user points at.

use std::path::Path;

use super::dataset::{ACCEPTED, Dataset, Shape, Want, check};
use super::place::{name_of, reason};
use super::{folder, idx};
use crate::error::{Error, Result};

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
