//! What a user points at.

use std::path::Path;

use super::dataset::{ACCEPTED, Dataset, Picture, Read, Shape, Want, check};
use super::format::format_of;
use super::place::{entries, name_of, reason};
use super::{cifar, folder, foreign, idx, packed, parts};
use crate::error::{Error, Result};

/// Reads the data set that `source` names, with every image scaled and centre-cropped to what `want` says.
///
/// `digits` is the embedded set (a directory of that name is `./digits`). A directory with IDX files gives its training
/// pair, else its test pair, else its only one; of several sets `DIRECTORY/PREFIX` names one. A directory with CIFAR's binary
/// files gives all training files. A file of many images (`packed.rs`) gives what it holds to train on, and a directory of such
/// files without images the files of its training part. Any other directory is a folder of images; of `train` and `test` folders in
/// it, that of `train`.
///
/// # Errors
/// One line that names the file or directory, if it's missing, holds no images, or holds an IDX file that is damaged
/// or disagrees with its labels. A single bad image in a folder is a warning, unless no good one is left.
pub fn load(source: &str, want: &Want) -> Result<Dataset> {
    check(want)?;
    Ok(read(source, want, false)?.0)
}

/// As [`load`], and the test images of the source if it has some beside its training images, or what is wrong with those.
///
/// # Errors
/// Those of [`load`].
pub fn load_parts(source: &str, want: &Want) -> Result<(Dataset, Result<Option<Dataset>>)> {
    check(want)?;
    let (mut train, test) = read(source, want, true)?;
    let test = test.and_then(|test| test.map_or(Ok(None), |test| align(&mut train, test)));
    Ok((train, test))
}

/// The test images with the classes of the training images; none where nothing says of which they are.
fn align(train: &mut Dataset, mut test: Dataset) -> Result<Option<Dataset>> {
    let (source, part) = (train.account.source.clone(), test.account.part.clone().unwrap_or_default());
    if !train.account.is_labelled {
        // Nothing says of what class its images are.
        test.labels.fill(0);
        test.classes = train.classes.clone();
        test.account.is_labelled = false;
    }
    if train.classes.len() > 1 && !test.account.is_labelled {
        train.account.notes.push(format!("{source}: the images of {part} are of no classes, so none to test on"));
        return Ok(None);
    }
    test.put_in_order(&train.classes).map_err(|problem| {
        let alone = format!("{source}/{}", train.account.part.as_deref().unwrap_or_default());
        let is_place = train.account.format == idx::FORMAT || Path::new(&alone).exists();
        let hint = if is_place { format!("; {alone} names the training images alone") } else { String::new() };
        Error::file(&source, format!("test images: {problem}{hint}"))
    })?;
    test.account.source = source;
    Ok(Some(test))
}

fn read(source: &str, want: &Want, tested: bool) -> Result<Read> {
    let (mut train, test) = match source {
        "digits" => (idx::embedded(want)?, Ok(None)),
        _ => {
            let (path, prefix) = locate(source)?;
            let name = prefix.map_or_else(|| name_of(path), String::from);
            match format_of(path).filter(|_| !path.is_dir()) {
                Some(format) => packed::read_file(path, format, want, tested)?,
                None => read_directory(path, prefix, &name, want, tested)?,
            }
        }
    };
    train.account.source = source.into();
    Ok((train, test))
}

fn read_directory(path: &Path, prefix: Option<&str>, name: &str, want: &Want, tested: bool) -> Result<Read> {
    if let Some(read) = read_files(path, prefix, name, want, tested)? {
        return Ok(read);
    }
    match packed::read_directory(path, name, want, tested)? {
        Some(read) => Ok(read),
        None => read_folder(path, name, want, tested),
    }
}

/// Of IDX files or CIFAR's in `path`, if it holds any.
fn read_files(path: &Path, prefix: Option<&str>, name: &str, want: &Want, tested: bool) -> Result<Option<Read>> {
    let (mut train, test) = if let Some(idx::Sets { train, test, others }) = idx::find(path, prefix)? {
        let mut train = idx::load(&train, name.into(), want)?;
        train.account.skip(&others, "another set of IDX files, which is not read");
        (train, test.filter(|_| tested).map(|pair| idx::load(&pair, name.into(), want)).transpose())
    } else if let Some((train, test)) = cifar::find(path)? {
        let test = test.filter(|_| tested).map(|files| cifar::load(&files, name.into(), want)).transpose();
        (cifar::load(&train, name.into(), want)?, test)
    } else {
        return Ok(None);
    };
    let format = train.account.format;
    train.account.skip(&folder::all_images(path)?, format!("images beside {format}, which are what is read"));
    Ok(Some((train, test)))
}

/// Of a folder of images, or of a folder with one for each part.
fn read_folder(path: &Path, name: &str, want: &Want, tested: bool) -> Result<Read> {
    let Some(parts) = parts::find(path)? else {
        let mut data = folder::load(path, name.into(), want).map_err(|error| files_below(path).unwrap_or(error))?;
        data.account.notes.extend(parts::note_alone(&data.classes));
        return Ok((data, Ok(None)));
    };
    let load = |part: &Path| -> Result<Dataset> {
        // As some archives unpack: `seg_train/seg_train`, and nothing beside it.
        let inner = part.join(name_of(part));
        let place = if folder::all_images(part)? == [inner.clone()] { &inner } else { part };
        let mut data = match read_files(place, None, &name_of(part), want, false)? {
            Some((data, _)) => data,
            None => folder::load(place, name.into(), want)?,
        };
        data.account.part = Some(name_of(part));
        Ok(data)
    };
    let mut train = load(&parts.train)?;
    folder::check_beside(path, &parts.beside, (&parts.train, train.len()))?;
    train.account.skip(&parts.beside, "images beside the parts of the set, so in none");
    train.account.skip(&parts.others, "images beside the parts of the set, so in none");
    train.account.skip(&parts.further, "a further part of the set, which is not read");
    Ok((train, parts.test.filter(|_| tested).map(|test| load(&test)).transpose()))
}

/// The error that says where the files of a set are, or what is wrong with them, if they are in a folder below `path`.
fn files_below(path: &Path) -> Option<Error> {
    let folders = |path: &Path| {
        let inside = entries(path).unwrap_or_default();
        inside.into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let near = folders(path);
    let below = near.iter().flat_map(|path| folders(path)).collect::<Vec<_>>();
    near.iter().chain(&below).find_map(|found| {
        let holds = || Error::file(path, format!("its files are in {}: give that", found.display()));
        match (idx::find(found, None), cifar::find(found)) {
            (Ok(Some(_)), _) | (_, Ok(Some(_))) => Some(holds()),
            // What can't be read says why.
            (_, Err(error)) => Some(error),
            _ => None,
        }
    })
}

/// The directory or the file of many images that `source` names, or the directory in which it names a set of IDX files by what their names begin with.
fn locate(source: &str) -> Result<(&Path, Option<&str>)> {
    let path = Path::new(source);
    match std::fs::metadata(path) {
        Ok(kind) if kind.is_dir() => Ok((path, None)),
        Ok(_) if format_of(path).is_some() => Ok((path, None)),
        Ok(_) => {
            let what = foreign::what(path)
                .map_or_else(|| format!("not a directory, nor a file of many images: {ACCEPTED}"), String::from);
            Err(Error::file(path, what))
        }
        Err(_) if source.contains("://") => {
            Err(Error::file(path, format!("an address: download it first; {ACCEPTED}")))
        }
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
/// One line that names the file, if it can't be read, has another size, or has more than four times the sides of these.
pub fn load_mask(path: &Path, shape: [u32; 3], picture: [u32; 2]) -> Result<Vec<u8>> {
    folder::load_mask(path, shape_of(shape)?, picture)
}

fn shape_of([height, width, channels]: [u32; 3]) -> Result<Shape> {
    check(&Want { height: Some(height), width: Some(width), channels: Some(channels), ..Want::default() })?;
    Ok(Shape { height, width, channels })
}
