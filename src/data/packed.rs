//! Files of many images each: which a source has, and which of them are its parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::arrays;
use super::dataset::{Dataset, Read, Want};
use super::folder::first_image;
use super::format::{Format, format_of};
use super::parts::Part;
use super::place::{ending, listed, stem};
use super::{parquet, webdataset};
use crate::error::{Error, Result};

/// How deep below a directory its files may be: `data/train/0000.parquet`.
const MOST_DEPTH: usize = 3;

/// Reads the one file at `path`, all parts that it holds.
///
/// # Errors
/// One line that names it, if it can't be read.
pub(super) fn read_file(path: &Path, format: Format, want: &Want, tested: bool) -> Result<Read> {
    let mut read = match format {
        Format::Arrays => read_arrays(arrays::of_file(path)?, stem(path), want, tested)?,
        Format::Parquet => (parquet::load(&[path.into()], stem(path), want)?, Ok(None)),
        Format::Archive => webdataset::load_one(path, want, tested)?,
    };
    read.0.account.part = read.0.account.part.or_else(|| part_of(Path::new(&stem(path))).name().map(String::from));
    Ok(read)
}

/// Reads the files in `directory` or a little below, if it holds some and no images themselves, which go before them.
///
/// # Errors
/// One line that names a file that can't be read, or the directory if several sets are in it.
pub(super) fn read_directory(directory: &Path, name: &str, want: &Want, tested: bool) -> Result<Option<Read>> {
    let mut files = Vec::new();
    collect(directory, MOST_DEPTH, &mut files)?;
    if files.is_empty() || first_image(directory).is_some() {
        return Ok(None);
    }
    let of = |format: Format| -> Vec<PathBuf> {
        files.iter().filter(|path| format_of(path) == Some(format)).cloned().collect()
    };
    let (tables, archives, arrays) = (of(Format::Parquet), of(Format::Archive), of(Format::Arrays));
    let (mut read, further) = match (tables.as_slice(), archives.as_slice()) {
        ([], []) => return read_arrays_in(directory, &arrays, name, want, tested),
        ([], [only]) => (read_file(only, Format::Archive, want, tested)?, arrays),
        ([], _) => (read_shards(directory, &archives, name, want, tested, webdataset::load)?, arrays),
        _ => {
            let read = read_shards(directory, &tables, name, want, tested, parquet::load)?;
            (read, [archives, arrays].concat())
        }
    };
    let problem = format!("another file of images beside {}, which are what is read", read.0.account.format);
    read.0.account.skip(&further, problem);
    Ok(Some(read))
}

/// Adds the files of many images in `directory`, and in the folders below that are no links.
fn collect(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    for (path, is_directory) in listed(directory)? {
        if !is_directory {
            files.extend(format_of(&path).map(|_| path));
        } else if depth > 1 && !path.is_symlink() {
            collect(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

/// The part that a file is: by its name, else by that of a folder it is in.
fn part_of(path: &Path) -> Part {
    let named = |name: &str| {
        let name = name.to_lowercase();
        Part::of(name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()))
    };
    let names = path.iter().rev().map(|name| named(&name.to_string_lossy()));
    names.into_iter().find(|part| *part != Part::Whole).unwrap_or(Part::Whole)
}

/// The folder of a set that `file` is in, without those of its parts.
fn set_of(file: &Path) -> PathBuf {
    let folders = file.parent().unwrap_or(Path::new(""));
    folders.iter().filter(|name| part_of(Path::new(name)) == Part::Whole).collect()
}

/// Reads files of which several are one part.
fn read_shards(
    directory: &Path,
    files: &[PathBuf],
    name: &str,
    want: &Want,
    tested: bool,
    load: fn(&[PathBuf], String, &Want) -> Result<Dataset>,
) -> Result<Read> {
    let (mut sets, mut parts) = (BTreeMap::new(), BTreeMap::<Part, Vec<PathBuf>>::new());
    for file in files {
        let below = file.strip_prefix(directory).unwrap_or(file);
        sets.entry(set_of(below)).or_insert(file);
        parts.entry(part_of(below)).or_default().push(file.clone());
    }
    if sets.len() > 1 {
        let folders: Vec<String> = sets.keys().map(|set| directory.join(set).display().to_string()).collect();
        return Err(Error::file(directory, format!("several sets, in {}: name one", folders.join(", "))));
    }
    // Files of no part are the set, where none is there to train on.
    let rest = parts.remove(&Part::Whole);
    let (rest, whole) = if parts.contains_key(&Part::Train) { (rest, None) } else { (None, rest) };
    let mut parts = whole.map(|files| (Part::Whole, files)).into_iter().chain(parts);
    let Some((part, files)) = parts.next() else {
        return Err(Error::file(directory, "no files of images"));
    };
    let named = |part: Part, files: &[PathBuf]| -> Result<Dataset> {
        let mut data = load(files, name.into(), want)?;
        data.account.part = part.name().map(String::from);
        Ok(data)
    };
    let mut train = named(part, &files)?;
    let test = parts.next();
    for (_, files) in parts {
        train.account.skip(&files, "a further part of the set, which is not read");
    }
    train.account.skip(&rest.unwrap_or_default(), "neither training nor test images by its name");
    Ok((train, test.filter(|_| tested).map(|(part, files)| named(part, &files)).transpose()))
}

/// Reads the one `.npz` of `files`, or those that are one array each.
fn read_arrays_in(directory: &Path, files: &[PathBuf], name: &str, want: &Want, tested: bool) -> Result<Option<Read>> {
    let (sets, files): (Vec<PathBuf>, Vec<PathBuf>) = files.iter().cloned().partition(|path| ending(path) == "npz");
    match sets.as_slice() {
        [] => {
            let arrays = arrays::of_files(directory, &files)?;
            arrays.map(|arrays| read_arrays(arrays, name.into(), want, tested)).transpose()
        }
        [one] => read_file(one, Format::Arrays, want, tested).map(Some),
        [first, ..] => {
            let count = sets.len();
            Err(Error::file(directory, format!("{count} sets of arrays: name one, as {}", first.display())))
        }
    }
}

fn read_arrays(arrays: arrays::Arrays, name: String, want: &Want, tested: bool) -> Result<Read> {
    let mut train = arrays::load(&arrays.train, name.clone(), want)?;
    train.account.skip(&arrays.further, "a further part of the set, which is not read");
    train.account.skip(&arrays.unknown, "an array that isn't called as images or labels are");
    let test = arrays.test.filter(|_| tested);
    Ok((train, test.map(|pair| arrays::load(&pair, name, want)).transpose()))
}
