//! A folder of images: one sub-folder a class, or all of them in one.
//!
//! A name that ends like an image's, but holds none, is reported as corrupt. Other files (captions, lists, archives) are passed over and counted; hidden ones are not looked at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::account::{Account, Changes, FOLDER, Unread};
use super::dataset::{Dataset, Picture, Shape, Want};
use super::decode::{Bound, FORMATS, decode, decode_mask, is_image, most_decoded};
use super::fill::{Fitted, fit_images, has_failed};
use super::foreign::nothing_in;
use super::format::format_of;
use super::kept::{self, Decoded};
use super::place::{entries, listed, name_of, natural};
use super::resize;
use super::room::Room;
use super::watch::Watched;
use crate::error::{Error, Result, list_names};
use crate::files::cache_directory;

/// Labels have two bytes.
const MOST_CLASSES: usize = 1 << 16;

/// What the walk through the folder found: images with the index of their class.
#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, u32)>,
    classes: Vec<String>,
    others: Vec<PathBuf>,
    /// To folders, within a class.
    links: Vec<PathBuf>,
}

/// Reads the images of `root`, scaled and cropped to what is wanted.
///
/// # Errors
/// One line that names the directory, if it holds no image or none that can be decoded.
pub(super) fn load(root: &Path, name: String, want: &Want) -> Result<Dataset> {
    let mut account = Account { format: FOLDER, ..Account::default() };
    let found = find(root, &name, &mut account)?;
    if found.files.is_empty() {
        return Err(Error::file(root, nothing_in(&found.others)));
    }
    let Some(shape) = shape_of(&found, want) else {
        return Err(all_corrupt(root, &found, want));
    };
    let Decoded { images, changes, failures } = decoded(&found, shape, want)?;
    if failures.len() == found.files.len() {
        return Err(all_corrupt(root, &found, want));
    }
    account.changes = changes;
    let mut unread = Unread::default();
    failures.iter().for_each(|(index, problem)| unread.add(found.files[*index].0.clone(), problem.clone()));
    account.skip_unread(unread);
    let labels = good_labels(&found, &failures);
    account.note_lost_colour(labels.len());
    let (labels, classes) = drop_empty_classes(root, labels, found.classes, &mut account);
    check_number(root, classes.len())?;
    let Shape { height, width, channels } = shape;
    Ok(Dataset { name, height, width, channels, images: images.into(), labels, classes, account })
}

/// Refuses more folders of classes than labels can name.
pub(super) fn check_number(root: &Path, classes: usize) -> Result<()> {
    if classes > MOST_CLASSES {
        let problem = format!("{classes} folders of classes: there can be {MOST_CLASSES} at the most");
        return Err(Error::file(root, problem));
    }
    Ok(())
}

/// Notes the files that are no images; files of many images might have been meant.
fn skip_others(account: &mut Account, others: &[PathBuf]) {
    let (packed, others): (Vec<&PathBuf>, Vec<&PathBuf>) = others.iter().partition(|path| format_of(path).is_some());
    account.skip(&packed, "a set of its own beside images, which are what is read: its path names it");
    account.skip(&others, format!("no {FORMATS} image"));
}

/// Sub-folders that hold images are the classes; without any, the images in `root` itself are one class.
///
/// # Errors
/// As many images beside the folders as in them, or more: are these the set, or those?
fn find(root: &Path, name: &str, account: &mut Account) -> Result<Found> {
    let (mut classes, mut flat) = (Found::default(), Found::default());
    let mut inside = listed(root)?;
    inside.sort_by_cached_key(|(path, _)| natural(&name_of(path)));
    for (path, is_directory) in inside {
        if is_directory {
            let label = classes.classes.len() as u32;
            let before = classes.files.len();
            collect(&path, label, &mut classes)?;
            let is_class = classes.files.len() > before;
            classes.classes.push(if is_class { class_name(&path)? } else { name_of(&path) });
        } else {
            sort_in(path, 0, &mut flat);
        }
    }
    if classes.files.is_empty() {
        flat.others.append(&mut classes.others);
        flat.classes = vec![name.to_string()];
        skip_others(account, &flat.others);
        return Ok(flat);
    }
    let beside: Vec<PathBuf> = flat.files.drain(..).map(|(path, _)| path).collect();
    check_beside(root, &beside, (&classes.files[0].0, classes.files.len()))?;
    account.skip(&beside, "beside the folders of the classes, so in none");
    classes.others.append(&mut flat.others);
    skip_others(account, &classes.others);
    account.skip(&classes.links, "a link to a folder within a class, not followed");
    account.is_labelled = true;
    note_nested_classes(root, &classes, account);
    Ok(classes)
}

/// Refuses as many images `beside` folders as there are in them, or more: are these the set, or those? Of the others `within` has the
/// first, and their number.
pub(super) fn check_beside(root: &Path, beside: &[PathBuf], within: (&Path, usize)) -> Result<()> {
    let Some(first) = beside.first().filter(|_| beside.len() >= within.1) else { return Ok(()) };
    Err(Error::file(root, too_many_beside((first, beside.len()), within)))
}

/// What to say of so many images beside folders, the first of which is there.
pub(super) fn too_many_beside((here, count): (&Path, usize), (there, within): (&Path, usize)) -> String {
    let (here, there) = (here.display(), there.display());
    format!(
        "{count} images (first {here}) beside folders that hold {within} (first {there}): folders are classes or parts of the \
         set, so give each image a folder, or move those folders away"
    )
}

/// The name of a folder as that of a class, which is typed, listed and stored.
fn class_name(path: &Path) -> Result<String> {
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if !name.contains(char::is_control) => Ok(name.into()),
        _ => Err(Error::Config(format!("the name of the folder {path:?} is no line of UTF-8: rename it"))),
    }
}

/// Folders in the folders of the classes are likely to be the classes themselves.
fn note_nested_classes(root: &Path, found: &Found, account: &mut Account) {
    let of_class = found.files.chunk_by(|(_, one), (_, other)| one == other);
    let below = |files: &[(PathBuf, u32)]| folders_below(root.join(&found.classes[files[0].1 as usize]), files);
    let classes: Vec<(PathBuf, BTreeSet<String>)> = of_class.map(below).collect();
    let Some((place, folders)) = classes.first().filter(|(_, folders)| folders.len() > 1) else { return };
    let (place, listed) = (place.display(), list_names(&folders.iter().cloned().collect::<Vec<_>>()));
    if classes.len() == 1 {
        account.notes.push(format!("all images are one class; if its folders ({listed}) are classes, give {place}"));
    } else if classes.iter().all(|(_, others)| others == folders) {
        account.notes.push(format!(
            "each class holds folders of the same names ({listed}), which are not told apart; if those are the classes, give \
             one such as {place}"
        ));
    }
}

/// The folders in which the `files` below `place` are, behind folders that hold but one; none where files lie beside them.
fn folders_below(mut place: PathBuf, files: &[(PathBuf, u32)]) -> (PathBuf, BTreeSet<String>) {
    loop {
        let mut folders = BTreeSet::new();
        for (file, _) in files {
            let mut rest = file.strip_prefix(&place).unwrap_or(file).components();
            match (rest.next(), rest.next()) {
                (Some(folder), Some(_)) => folders.insert(folder.as_os_str().to_string_lossy().into_owned()),
                _ => return (place, BTreeSet::new()),
            };
        }
        match folders.first() {
            Some(only) if folders.len() == 1 => place.push(only),
            _ => return (place, folders),
        }
    }
}

/// The first image below `directory`.
pub(super) fn first_image(directory: &Path) -> Option<PathBuf> {
    let inside = entries(directory).ok()?;
    let here = inside.iter().find(|path| !path.is_dir() && is_image(path)).cloned();
    here.or_else(|| inside.iter().filter(|path| path.is_dir() && !path.is_symlink()).find_map(|path| first_image(path)))
}

/// The images in `directory` itself, and the folders in it that hold some.
pub(super) fn all_images(directory: &Path) -> Result<Vec<PathBuf>> {
    let holds = |path: &PathBuf| if path.is_dir() { first_image(path).is_some() } else { is_image(path) };
    Ok(entries(directory)?.into_iter().filter(holds).collect())
}

/// The images in `directory` itself.
pub(super) fn images_in(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(directory)?.into_iter().filter(|path| !path.is_dir() && is_image(path)).collect())
}

/// Adds all files under `directory` to `found`. Links to directories are followed for the classes only, not below
/// them, so that no loop of links can hold us.
fn collect(directory: &Path, label: u32, found: &mut Found) -> Result<()> {
    for (path, is_directory) in listed(directory)? {
        if !is_directory {
            sort_in(path, label, found);
        } else if path.is_symlink() {
            found.links.push(path);
        } else {
            collect(&path, label, found)?;
        }
    }
    Ok(())
}

fn sort_in(path: PathBuf, label: u32, found: &mut Found) {
    if is_image(&path) {
        found.files.push((path, label));
    } else {
        found.others.push(path);
    }
}

fn all_corrupt(root: &Path, found: &Found, want: &Want) -> Error {
    let first = found.files.iter().find_map(|(path, _)| Some((path, decode(path, want).err()?)));
    let first = first.map_or_else(String::new, |(path, problem)| format!(", first {}: {problem}", path.display()));
    let count = found.files.len();
    Error::file(root, format!("no image can be read ({count} tried{first}): give a folder with some that can"))
}

/// The shape of the data set; only an open size looks at an image, and `None` says that none can be decoded.
fn shape_of(found: &Found, want: &Want) -> Option<Shape> {
    let own = || {
        let image = found.files.iter().find_map(|(path, _)| decode(path, want).ok())?.image;
        Some(image.width().min(image.height()))
    };
    let (height, width) = match (want.height, want.width) {
        (Some(height), width) => (height, width.unwrap_or(height)),
        (None, Some(width)) => (width, width),
        (None, None) => own().map(|side| (side, side))?,
    };
    Some(Shape { height, width, channels: want.channels.unwrap_or(3) })
}

/// One image of the wanted shape.
pub(super) fn load_image(path: &Path, shape: Shape) -> Result<Picture> {
    let decoded = decode(path, &Want::default()).map_err(|problem| Error::file(path, problem))?;
    let mut bytes = vec![0; shape.bytes(1)?];
    let changes = Mutex::new(Changes::default());
    resize::fit_counted(decoded, shape, &mut bytes, &changes);
    Ok(Picture { bytes, changes: changes.into_inner().unwrap_or_default() })
}

/// A mask of the wanted shape, for a picture that was as large as `picture`.
pub(super) fn load_mask(path: &Path, shape: Shape, picture: [u32; 2]) -> Result<Vec<u8>> {
    let bound = Bound::of_mask([picture, [shape.height, shape.width]]);
    let image = decode_mask(path, bound).map_err(|problem| Error::file(path, problem))?;
    let own = [image.height(), image.width()];
    let product = |one: u32, other: u32| u64::from(one) * u64::from(other);
    let is_alike = product(own[0], picture[1]) == product(own[1], picture[0]);
    if !is_alike && own != [shape.height, shape.width] {
        let size = |[height, width]: [u32; 2]| format!("{width} x {height}");
        let (own, picture, wanted) = (size(own), size(picture), size([shape.height, shape.width]));
        let problem =
            format!("{own} pixels; the picture has {picture}, the model {wanted}: a mask has the size of one of them");
        return Err(Error::file(path, problem));
    }
    let mut bytes = vec![0; shape.bytes(1)?];
    resize::fit_mask(&image, shape, &mut bytes);
    Ok(bytes)
}

/// What became of the files, from what was kept of it where they are many.
fn decoded(found: &Found, shape: Shape, want: &Want) -> Result<Decoded> {
    let count = found.files.len();
    let is_kept = kept::is_kept(count, shape.bytes(count)?);
    let directory = cache_directory().filter(|_| is_kept).map(|directory| directory.join("data"));
    let place =
        directory.zip(kept::name_of(found.files.iter().map(|(path, _)| path.as_path()), shape, most_decoded(want)));
    let Some((directory, name)) = place else { return decode_all(found, shape, want) };
    if let Some(decoded) = kept::find(&directory, &name, count, shape) {
        return Ok(decoded);
    }
    let decoded = decode_all(found, shape, want)?;
    match kept::keep(&directory, &name, &decoded, count - decoded.failures.len()) {
        Ok(()) => log::info!("{count} decoded images are kept in {}", directory.display()),
        Err(error) => log::warn!("decoded images can't be kept: {error}"),
    }
    Ok(decoded)
}

fn decode_all(found: &Found, shape: Shape, want: &Want) -> Result<Decoded> {
    let (mut images, count, mut watched) = (Room::default(), found.files.len(), Watched::new(want.watch));
    watched.expect(count, 1.0);
    let Fitted { changes, failures } =
        fit_images(&mut images, 0, count, shape, &watched, |index| decode(&found.files[index].0, want))?;
    Ok(Decoded { images, changes, failures })
}

/// The labels of the images that stay.
fn good_labels(found: &Found, failures: &[(usize, String)]) -> Vec<u32> {
    let all = found.files.iter().enumerate();
    all.filter(|(index, _)| !has_failed(failures, *index)).map(|(_, (_, label))| *label).collect()
}

/// A class without an image can't be learnt: those after it move up.
fn drop_empty_classes(
    root: &Path,
    labels: Vec<u32>,
    classes: Vec<String>,
    account: &mut Account,
) -> (Vec<u32>, Vec<String>) {
    let mut counts = vec![0_usize; classes.len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    let (mut kept, mut empty) = (Vec::new(), Vec::new());
    let mut moved = Vec::new();
    for (class, count) in classes.into_iter().zip(counts) {
        moved.push(kept.len() as u32);
        match count {
            0 => empty.push(root.join(class)),
            _ => kept.push(class),
        }
    }
    account.skip(&empty, "no images, so no class");
    (labels.into_iter().map(|label| moved[label as usize]).collect(), kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_classes_than_labels_can_name() {
        let check = |classes| check_number(Path::new("many"), classes).map_err(|error| error.to_string());
        assert_eq!(check(65_536), Ok(()));
        assert_eq!(check(65_537), Err("many: 65537 folders of classes: there can be 65536 at the most".into()));
    }
}
