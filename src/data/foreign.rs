//! What people have instead of what is read here, and how to convert it.

use std::path::{Path, PathBuf};

use super::dataset::ACCEPTED;
use super::decode::{FORMATS, is_other_picture};
use super::place::ending;

/// What to do with what Python alone reads.
macro_rules! as_arrays {
    ($what:literal) => {
        concat!($what, ": read it in Python and np.savez(\"set.npz\", images=x, labels=y), x of np.uint8 [N, H, W, C]")
    };
}
const SHARDS: &str = "records of TensorFlow: write each image as KEY.png with its label as KEY.cls to a .tar, or into a folder for each class";

/// Endings of names, and what is said of such a file.
type Kind = (&'static [&'static str], &'static str);

/// By the endings of their names, in small letters.
const KINDS: [Kind; 10] = [
    (&["zip", "7z", "rar"], "an archive: unpack it and give the folder"),
    (
        &["bz2", "xz", "zst", "lz4", "gz"],
        "a packed file: unpack it (of archives .tar and .tar.gz are read as they are)",
    ),
    (&["h5", "hdf5", "hdf"], as_arrays!("HDF5")),
    (&["mat"], as_arrays!("a file of MATLAB (scipy.io.loadmat; its images may be [H, W, C, N])")),
    (&["pkl", "pickle", "pt", "pth"], as_arrays!("a pickle, which could run any code")),
    (&["tfrecord", "tfrecords"], SHARDS),
    (
        &["mdb", "lmdb", "beton"],
        "a data base: write each image as KEY.png with its label as KEY.cls to a .tar, or into a folder for each class",
    ),
    (
        &["arrow", "feather"],
        "Arrow's own format: datasets.Dataset.from_file(path).to_parquet(\"train.parquet\") is read",
    ),
    (
        &["npy"],
        "an array that isn't called as images are: call it x_train.npy or images.npy, its labels y_train.npy or labels.npy",
    ),
    (&["csv", "tsv", "jsonl"], "a table: put each image into a folder for its class"),
];

/// Whether the name ends so; behind a dash there may be the number of a shard.
fn is_of(path: &Path, (endings, _): &Kind) -> bool {
    endings.contains(&ending(path).split('-').next().unwrap_or_default())
}

/// What a file of that name is, if it holds images in a way that is not read.
pub(super) fn what(path: &Path) -> Option<&'static str> {
    KINDS.iter().find(|kind| is_of(path, kind)).map(|(_, what)| *what)
}

/// What is said of a folder that holds these files, but no image.
pub(super) fn nothing_in(files: &[PathBuf]) -> String {
    let count = files.len();
    let Some(first) = files.first() else { return format!("an empty folder: {ACCEPTED}") };
    if let Some(picture) = files.iter().find(|path| is_other_picture(path)) {
        let picture = picture.display();
        return format!("no {FORMATS} images, but {count} other files (such as {picture}): convert them to PNG");
    }
    // What says most comes first.
    let of = |kind: &Kind| files.iter().find(|path| is_of(path, kind));
    match KINDS.iter().find_map(|kind| Some((of(kind)?.display(), kind.1))) {
        Some((path, what)) => format!("no images, but {path}, {what}"),
        None => format!("no images, but other files ({count}, first {}): {ACCEPTED}", first.display()),
    }
}
