//! Directories of a training set and a test set: those are no classes.

use std::path::{Path, PathBuf};

use super::folder::{first_image, images_in};
use super::place::{Parsed, entries, name_of};
use crate::error::{Error, Result, list_names};

const TRAIN: [&str; 2] = ["train", "training"];
/// In the order of preference.
const TEST: [&str; 6] = ["test", "testing", "val", "valid", "validation", "dev"];
/// Words that may stand beside those in a name: `training_set`, `train2017`, `test_images`.
const BESIDE: [&str; 8] = ["set", "data", "dataset", "images", "image", "imgs", "img", "seg"];

/// The directories of a source that is divided.
pub(super) struct Parts {
    pub train: PathBuf,
    pub test: Option<PathBuf>,
    /// Further parts.
    pub further: Vec<PathBuf>,
    /// Directories with images that are no part.
    pub others: Vec<PathBuf>,
    /// Images that lie beside all of them.
    pub beside: Vec<PathBuf>,
}

/// The place of a name among those of parts.
fn rank(name: &str, parts: &[&str]) -> Option<usize> {
    let name = name.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let rank = parts.iter().position(|part| words.contains(part))?;
    words.iter().all(|word| *word == parts[rank] || BESIDE.contains(word)).then_some(rank)
}

/// The part of a set that a file or an array is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    /// Named so.
    Test(usize),
    /// No part is named.
    Whole,
}

impl Part {
    /// Its usual name.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Part::Train => Some(TRAIN[0]),
            Part::Test(rank) => TEST.get(rank).copied(),
            Part::Whole => None,
        }
    }

    /// The part that these words name, whatever else they say; `Whole` if they name none, or several.
    pub fn of<'a>(words: impl Iterator<Item = &'a str>) -> Part {
        let named: Vec<Part> = words.filter_map(Part::of_word).collect();
        match named.as_slice() {
            [first, rest @ ..] if rest.iter().all(|part| part == first) => *first,
            _ => Part::Whole,
        }
    }

    /// The part that a word names.
    pub fn of_word(word: &str) -> Option<Part> {
        let test = || TEST.iter().position(|test| *test == word).map(Part::Test);
        if TRAIN.contains(&word) { Some(Part::Train) } else { test() }
    }
}

/// Whether a folder of that name is a part of a set.
pub(super) fn is_part(name: &str) -> bool {
    rank(name, &TRAIN).is_some() || rank(name, &TEST).is_some()
}

/// What to say of classes that are called as parts are.
pub(super) fn note_alone(classes: &[impl AsRef<str>]) -> Option<String> {
    let alone = classes.iter().map(AsRef::as_ref).filter(|class| is_part(class)).map(String::from).collect::<Vec<_>>();
    let is_odd = classes.len() > 1 && !alone.is_empty();
    is_odd.then(|| format!("{}: taken for a class, for other folders of images lie beside it", list_names(&alone)))
}

/// The parts that `root` is divided into, if it is: `train` beside `test` or `val`, or one of them alone.
///
/// # Errors
/// One line if there are two, and neither is to train on.
pub(super) fn find(root: &Path) -> Result<Option<Parts>> {
    let directories: Vec<PathBuf> = entries(root)?.into_iter().filter(|path| path.is_dir()).collect();
    let divided = divide(directories, |path| name_of(path), |path| first_image(path).is_some());
    let Some(divided) = divided.map_err(|problem| Error::file(root, problem))? else { return Ok(None) };
    let Divided { train, test, further, others } = divided;
    Ok(Some(Parts { train, test, further, others, beside: images_in(root)? }))
}

/// Folders by what they are of a set.
pub(super) struct Divided<T> {
    pub train: T,
    pub test: Option<T>,
    pub further: Vec<T>,
    /// With images, and no part.
    pub others: Vec<T>,
}

/// As [`find`], of the folders of one place. The error is what is wrong with it.
pub(super) fn divide<T>(
    mut folders: Vec<T>,
    name: impl Fn(&T) -> String,
    has_images: impl Fn(&T) -> bool,
) -> Parsed<Option<Divided<T>>> {
    let mut take = |parts: &[&str]| -> Vec<T> {
        let rank = |folder: &T| rank(&name(folder), parts);
        let mut taken: Vec<T> = folders.extract_if(.., |folder| rank(folder).is_some()).collect();
        taken.sort_by_cached_key(rank);
        taken
    };
    let (train, test) = (take(&TRAIN), take(&TEST));
    if train.is_empty() && test.is_empty() {
        return Ok(None);
    }
    let others: Vec<T> = folders.into_iter().filter(has_images).collect();
    // Among others one alone may be a class: of vehicles, say.
    if (train.is_empty() || test.is_empty()) && !others.is_empty() {
        return Ok(None);
    }
    if train.is_empty() && test.len() > 1 {
        let names: Vec<String> = test.iter().map(&name).collect();
        return Err(format!("{} but no train: name the one to train on", names.join(" and ")));
    }
    let (mut trains, mut tests) = (train.into_iter(), test.into_iter());
    let (train, test) = match trains.next() {
        // Test images alone are what there is to train on.
        None => (tests.next(), None),
        train => (train, tests.next()),
    };
    let Some(train) = train else { return Ok(None) };
    Ok(Some(Divided { train, test, further: trains.chain(tests).collect(), others }))
}
