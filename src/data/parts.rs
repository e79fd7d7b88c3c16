//! Directories of a training set and a test set: those are no classes.

use std::path::{Path, PathBuf};

use super::folder;
use super::place::{entries, name_of};
use crate::error::{Error, Result};

const TRAIN: [&str; 2] = ["train", "training"];
/// In the order of preference.
const TEST: [&str; 6] = ["test", "testing", "val", "valid", "validation", "dev"];

/// The directories of a source that is divided.
pub(super) struct Parts {
    pub train: PathBuf,
    pub test: Option<PathBuf>,
    /// Directories with images that are no part.
    pub others: Vec<PathBuf>,
}

/// The parts that `root` is divided into, if it is: `train` beside `test` or `val`, or one of them alone.
///
/// # Errors
/// One line if there are two, and neither is to train on.
pub(super) fn find(root: &Path) -> Result<Option<Parts>> {
    let mut directories: Vec<PathBuf> = entries(root)?.into_iter().filter(|path| path.is_dir()).collect();
    let mut take = |names: &[&str]| -> Vec<PathBuf> {
        let is = |path: &Path, name: &str| name_of(path).eq_ignore_ascii_case(name);
        let taken = names.iter().filter_map(|name| directories.iter().find(|path| is(path, name))).cloned().collect();
        directories.retain(|path| !names.iter().any(|name| is(path, name)));
        taken
    };
    let (train, test) = (take(&TRAIN), take(&TEST));
    if train.is_empty() && test.is_empty() {
        return Ok(None);
    }
    let holds_images = |path: &PathBuf| folder::holds_image(path);
    let others: Vec<PathBuf> = directories.into_iter().filter(holds_images).collect();
    match (train.first(), test.as_slice()) {
        (Some(train), [test, ..]) => Ok(Some(Parts { train: train.clone(), test: Some(test.clone()), others })),
        // Among others it may be a class: of vehicles, say.
        _ if !others.is_empty() => Ok(None),
        (Some(only), []) | (None, [only]) => Ok(Some(Parts { train: only.clone(), test: None, others })),
        _ => {
            let names: Vec<String> = test.iter().map(|path| name_of(path)).collect();
            let problem = format!("{} but no train: name the one to train on", names.join(" and "));
            Err(Error::file(root, problem))
        }
    }
}
