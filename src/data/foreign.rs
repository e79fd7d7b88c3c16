//! What people have instead of what is read here, and how to convert it.

use std::path::{Path, PathBuf};

use super::dataset::ACCEPTED;
use super::decode::{FORMATS, is_other_picture};
use super::place::ending;

const ARCHIVE: &str = "an archive: unpack it and give the folder";
const TABLE: &str = "a file of many images: write each as a PNG, in a folder for each class (image.save(f\"{label}/{index}.png\") in \
                     Python, where `datasets`, numpy or h5py reads it)";

/// By the endings of their names.
const KINDS: [(&[&str], &str); 2] = [
    (&["zip", "tar", "tgz", "gz", "bz2", "xz", "zst", "7z", "rar"], ARCHIVE),
    (
        &[
            "parquet",
            "arrow",
            "mat",
            "pkl",
            "pickle",
            "pt",
            "h5",
            "hdf5",
            "mdb",
            "tfrecord",
            "tfrecords",
            "csv",
            "jsonl",
            "beton",
        ],
        TABLE,
    ),
];

/// What a file of that name is, if it holds images in a way that is not read.
pub(super) fn what(path: &Path) -> Option<&'static str> {
    let ending = ending(path);
    KINDS.iter().find(|(endings, _)| endings.contains(&ending.as_str())).map(|(_, what)| *what)
}

/// What is said of a folder that holds these files, but no image.
pub(super) fn nothing_in(files: &[PathBuf]) -> String {
    let count = files.len();
    let Some(first) = files.first() else { return format!("an empty folder: {ACCEPTED}") };
    if let Some(picture) = files.iter().find(|path| is_other_picture(path)) {
        let picture = picture.display();
        return format!("no {FORMATS} images, but {count} other files (such as {picture}): convert them to PNG");
    }
    match files.iter().find_map(|path| Some((path.display(), what(path)?))) {
        Some((path, what)) => format!("no images, but {path}, {what}"),
        None => format!("no images, but other files ({count}, first {}): {ACCEPTED}", first.display()),
    }
}
