//! What a file of many images is, by its name.

use std::path::Path;

use super::place::{ending, name_of};

/// How a file holds many images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Format {
    Parquet,
    Archive,
    Arrays,
}

/// What a file of that name holds images in, if it is one that is read.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    match ending(path).as_str() {
        "npz" | "npy" => Some(Format::Arrays),
        "parquet" => Some(Format::Parquet),
        _ if is_archive(&name_of(path).to_lowercase()) => Some(Format::Archive),
        _ => None,
    }
}

fn is_archive(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}
