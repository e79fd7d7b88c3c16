//! The folders of an archive, taken as they would be if it were unpacked: as classes, or as parts of a set, with classes in them.

use std::path::Path;

use super::folder::too_many_beside;
use super::parts::{Divided, divide, is_part, note_alone};
use super::place::Parsed;

/// A folder of an archive.
#[derive(Clone, Copy)]
pub(super) struct Folder<'a> {
    pub path: &'a str,
    /// The images in it that could be decoded, and the first of all.
    pub images: usize,
    pub first: &'a Path,
}

/// What the images of a folder are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken<'a> {
    /// Of the set, or of its test images, and of a class if folders are classes.
    Read { is_test: bool, class: Option<&'a str> },
    /// Nothing, and why.
    Left(&'static str),
}

/// What the folders are together.
pub(super) struct Tree<'a> {
    /// One for each folder.
    pub taken: Vec<Taken<'a>>,
    /// The part of the set that is to train on, if parts are named, and that of its test images.
    pub part: Option<&'a str>,
    pub test: Option<&'a str>,
    pub note: Option<String>,
}

/// Takes the folders. The error is why they can't be.
pub(super) fn arrange<'a>(folders: &[Folder<'a>]) -> Parsed<Tree<'a>> {
    let split = |folder: &Folder<'a>| folder.path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    let paths: Vec<Vec<&str>> = folders.iter().map(split).collect();
    let (mut depth, mut part) = (0, None);
    while let Some(top) = common(&paths, depth) {
        part = Some(top).filter(|top| is_part(top)).or(part);
        depth += 1;
    }
    let paths: Vec<&[&str]> = paths.iter().map(|path| &path[depth..]).collect();
    let mut tops: Vec<&str> = paths.iter().filter_map(|path| path.first().copied()).collect();
    tops.sort();
    tops.dedup();
    let mut taken = vec![Taken::Left("images beside the parts of the set, so in none"); folders.len()];
    let at = |top: &str| (0..paths.len()).filter(|at| paths[*at].first() == Some(&top)).collect::<Vec<usize>>();
    let Some(divided) = divide(tops.clone(), |top| top.to_string(), |_| true)? else {
        let paths: Vec<(usize, &[&str])> = paths.into_iter().enumerate().collect();
        classes(folders, &paths, false, &mut taken)?;
        return Ok(Tree { taken, part, test: None, note: note_alone(&tops) });
    };
    let Divided { train, test, further, .. } = divided;
    let beside: Vec<usize> = (0..paths.len()).filter(|at| paths[*at].is_empty()).collect();
    check_beside(folders, &beside, &at(train))?;
    for (part, is_test) in [(Some(train), false), (test, true)] {
        let Some(part) = part else { continue };
        let mut own: Vec<(usize, &[&str])> = at(part).into_iter().map(|at| (at, &paths[at][1..])).collect();
        // As some archives unpack: `seg_train/seg_train`, and nothing beside it.
        if own.iter().all(|(_, path)| path.first() == Some(&part)) {
            own.iter_mut().for_each(|(_, path)| *path = &path[1..]);
        }
        classes(folders, &own, is_test, &mut taken)?;
    }
    for at in further.into_iter().flat_map(at) {
        taken[at] = Taken::Left("a further part of the set, which is not read");
    }
    Ok(Tree { taken, part: Some(train), test, note: None })
}

/// The folder that all are in behind so many names, but for one that it may be.
fn common<'a>(paths: &[Vec<&'a str>], depth: usize) -> Option<&'a str> {
    let top = *paths.first()?.get(depth)?;
    let is_outer = paths.iter().all(|path| path.get(depth) == Some(&top));
    (is_outer && paths.iter().any(|path| path.len() > depth + 1)).then_some(top)
}

/// Takes those of one part, by their numbers and what is left of their paths.
fn classes<'a>(
    folders: &[Folder],
    paths: &[(usize, &[&'a str])],
    is_test: bool,
    taken: &mut [Taken<'a>],
) -> Parsed<()> {
    let (beside, within): (Vec<_>, Vec<_>) = paths.iter().partition(|(_, path)| path.is_empty());
    let numbers = |paths: &[&(usize, &[&str])]| paths.iter().map(|(at, _)| *at).collect::<Vec<usize>>();
    let (beside, all) = (numbers(&beside), numbers(&within));
    if !all.is_empty() {
        check_beside(folders, &beside, &all)?;
    }
    for at in beside {
        taken[at] = match all.is_empty() {
            true => Taken::Read { is_test, class: None },
            false => Taken::Left("beside the folders of the classes, so in none"),
        };
    }
    within.iter().for_each(|(at, path)| taken[*at] = Taken::Read { is_test, class: path.first().copied() });
    Ok(())
}

/// Refuses as many images beside folders as in them.
fn check_beside(folders: &[Folder], beside: &[usize], within: &[usize]) -> Parsed<()> {
    let all = |numbers: &[usize]| {
        let first = numbers.first().map_or(Path::new(""), |at| folders[*at].first);
        (first, numbers.iter().map(|at| folders[*at].images).sum())
    };
    let (beside, within) = (all(beside), all(within));
    if beside.1 > 0 && beside.1 >= within.1 { Err(too_many_beside(beside, within)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of folders, as `PART CLASS`, and the parts.
    fn taken(folders: &[(&str, usize)]) -> (Vec<String>, Option<String>, Option<String>) {
        let folders: Vec<Folder> =
            folders.iter().map(|(path, images)| Folder { path, images: *images, first: Path::new("first") }).collect();
        let tree = arrange(&folders).unwrap_or_else(|problem| panic!("{problem}"));
        let said = |taken: &Taken| match taken {
            Taken::Read { is_test, class } => format!("{} {}", u8::from(*is_test), class.unwrap_or("-")),
            Taken::Left(why) => why.split(' ').take(3).collect::<Vec<_>>().join(" "),
        };
        (tree.taken.iter().map(said).collect(), tree.part.map(String::from), tree.test.map(String::from))
    }

    #[test]
    fn parts_are_told_from_classes() {
        let read = |folders: &[&str]| taken(&folders.iter().map(|path| (*path, 1)).collect::<Vec<_>>());
        let part = |name: &str| Some(name.to_string());
        assert_eq!(read(&[""]), (vec!["0 -".into()], None, None));
        assert_eq!(read(&["all"]), (vec!["0 all".into()], None, None));
        assert_eq!(read(&["set/b", "set/a/deep"]), (vec!["0 b".into(), "0 a".into()], None, None));
        assert_eq!(read(&["set/train/b", "set/train/a"]), (vec!["0 b".into(), "0 a".into()], part("train"), None));
        let divided = read(&["x/test/a", "x/train/a", "x/train/b", "x/val/a"]);
        assert_eq!(divided.0, ["1 a", "0 a", "0 b", "a further part"]);
        assert_eq!((divided.1, divided.2), (part("train"), part("test")));
        assert_eq!(
            read(&["training_set", "valid"]),
            (vec!["0 -".into(), "1 -".into()], part("training_set"), part("valid"))
        );
        let inner = read(&["seg_train/seg_train/a", "seg_test/seg_test/a"]);
        assert_eq!(inner.0, ["0 a", "1 a"]);
        // A train among vehicles is a class.
        assert_eq!(
            read(&["car", "train", "bus"]),
            (vec!["0 car".into(), "0 train".into(), "0 bus".into()], None, None)
        );
    }

    #[test]
    fn deep_folders_are_passed_in_no_time() {
        let deep = "a/".repeat(30_000);
        let folders: Vec<String> = (0..50).map(|class| format!("{deep}{class}")).collect();
        let folders: Vec<Folder> =
            folders.iter().map(|path| Folder { path, images: 1, first: Path::new("first") }).collect();
        let tree = arrange(&folders).unwrap_or_else(|problem| panic!("{problem}"));
        assert_eq!(tree.taken[49], Taken::Read { is_test: false, class: Some("49") });
    }

    #[test]
    fn few_images_beside_folders_are_left_out_and_many_refused() {
        assert_eq!(taken(&[("", 1), ("a", 2)]).0, ["beside the folders", "0 a"]);
        assert_eq!(taken(&[("", 1), ("train/a", 2), ("test/a", 1), ("more/a", 9)]).0[0], "images beside the");
        assert_eq!(taken(&[("train", 1), ("train/a", 2), ("test", 1)]).0, ["beside the folders", "0 a", "1 -"]);
        let refused = |folders: &[(&str, usize)]| {
            let folders = folders.iter().map(|(path, images)| Folder { path, images: *images, first: Path::new(path) });
            arrange(&folders.collect::<Vec<_>>()).err()
        };
        let problem = refused(&[("set", 2), ("set/a", 1), ("set/b", 1)]).unwrap_or_default();
        assert!(problem.starts_with("2 images (first set) beside folders that hold 2 (first set/a)"), "{problem}");
        let problem = refused(&[("test/a", 2), ("val/a", 1)]).unwrap_or_default();
        assert_eq!(problem, "test and val but no train: name the one to train on");
    }
}
