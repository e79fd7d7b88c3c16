//! What a user points at.

use std::path::Path;

use super::dataset::{ACCEPTED, Dataset, Picture, Shape, Want, check};
use super::place::{name_of, reason};
use super::{cifar, folder, idx, parts};
use crate::error::{Error, Result};

/// Reads the data set that `source` names, with every image scaled and centre-cropped to what `want` says.
///
/// `digits` is the embedded set (a directory of that name is `./digits`). A directory with IDX files gives its training
/// pair, else its test pair, else its only one; of several sets `DIRECTORY/PREFIX` names one. A directory with CIFAR's binary
/// files gives all training files. Any other directory is a folder of images; of `train` and `test` folders in it, that
/// of `train`.
///
/// # Errors
/// One line that names the file or directory, if it's missing, holds no images, or holds an IDX file that is damaged
/// or disagrees with its labels. A single bad image in a folder is a warning, unless no good one is left.
pub fn load(source: &str, want: &Want) -> Result<Dataset> {
    Ok(load_tested(source, want, false)?.0)
}

/// As [`load`], and the test images of the source if it has some beside its training images.
///
/// # Errors
/// Those of [`load`]; of test images of a class that isn't learnt, too.
pub fn load_parts(source: &str, want: &Want) -> Result<(Dataset, Option<Dataset>)> {
    load_tested(source, want, true)
}

fn load_tested(source: &str, want: &Want, tested: bool) -> Result<(Dataset, Option<Dataset>)> {
    check(want)?;
    let (mut train, test) = read(source, want, tested)?;
    train.account.source = source.into();
    let Some(mut test) = test else { return Ok((train, None)) };
    if train.classes == [train.name.clone()] {
        // Nothing says of what class its images are.
        test.labels.fill(0);
        test.classes = train.classes.clone();
    }
    if train.classes.len() > 1 && test.classes == [test.name.clone()] {
        let part = test.account.part.unwrap_or_default();
        train.account.notes.push(format!("{source}: the images of {part} are of no classes, so none to test on"));
        return Ok((train, None));
    }
    let aligned = test.put_in_order(&train.classes);
    aligned.map_err(|problem| Error::file(source, format!("test images: {problem}")))?;
    test.account.source = source.into();
    Ok((train, Some(test)))
}

fn read(source: &str, want: &Want, tested: bool) -> Result<(Dataset, Option<Dataset>)> {
    if source == "digits" {
        return Ok((idx::embedded(want)?, None));
    }
    let (path, prefix) = locate(source)?;
    let name = prefix.map_or_else(|| name_of(path), String::from);
    if let Some((train, test)) = idx::find(path, prefix)? {
        let test = test.filter(|_| tested).map(|pair| idx::load(&pair, name.clone(), want)).transpose()?;
        return Ok((idx::load(&train, name, want)?, test));
    }
    if let Some((train, test)) = cifar::find(path)? {
        let test = test.filter(|_| tested).map(|files| cifar::load(&files, name.clone(), want)).transpose()?;
        return Ok((cifar::load(&train, name, want)?, test));
    }
    let Some(parts) = parts::find(path)? else { return Ok((folder::load(path, name, want)?, None)) };
    let load = |part: &Path| -> Result<Dataset> {
        let whole = part.to_str().unwrap_or_default();
        let (mut data, _) = if idx::find(part, None)?.is_some() || cifar::find(part)?.is_some() {
            read(whole, want, false)?
        } else {
            (folder::load(part, name.clone(), want)?, None)
        };
        data.account.part = Some(name_of(part));
        Ok(data)
    };
    let mut train = load(&parts.train)?;
    train.account.skip(&parts.others, "images beside the parts of the set, so in none");
    Ok((train, parts.test.filter(|_| tested).map(|test| load(&test)).transpose()?))
}

/// The directory that `source` names, or the one in which it names a set of IDX files by what their names begin with.
fn locate(source: &str) -> Result<(&Path, Option<&str>)> {
    let path = Path::new(source);
    match std::fs::metadata(path) {
        Ok(kind) if kind.is_dir() => Ok((path, None)),
        Ok(_) => Err(Error::file(path, format!("not a directory: {ACCEPTED}"))),
        Err(error) => match (path.parent(), path.file_name().and_then(|name| name.to_str())) {
            (Some(parent), Some(prefix)) if parent.is_dir() && idx::has(parent, prefix) => Ok((parent, Some(prefix))),
            _ => Err(Error::file(path, format!("{}: {ACCEPTED}", reason(&error)))),
        },
    }
}

/// Reads one picture: scaled and centre-cropped to this shape, [H, W, C].
///
/// # Errors
/// One line that names the file, if it can't be read.
pub fn load_image(path: &Path, shape: [u32; 3]) -> Result<Picture> {
    folder::load_image(path, shape_of(shape)?)
}

/// Reads a mask as `[H, W, C]` bytes, all channels of a pixel alike: 0 where it is black or transparent, 255 where it is white.
/// It is as large as the `picture` it lies on, height and width, or in its proportions, and scaled and cropped like that; or
/// it has the size that is wanted.
///
/// # Errors
/// One line that names the file, if it can't be read or has another size.
pub fn load_mask(path: &Path, shape: [u32; 3], picture: [u32; 2]) -> Result<Vec<u8>> {
    folder::load_mask(path, shape_of(shape)?, picture)
}

fn shape_of([height, width, channels]: [u32; 3]) -> Result<Shape> {
    check(&Want { height: Some(height), width: Some(width), channels: Some(channels) })?;
    Ok(Shape { height, width, channels })
}
