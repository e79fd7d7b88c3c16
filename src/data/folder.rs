//! A folder of images: one sub-folder a class, or all of them in one.
//!
//! What is an image is decided by its first bytes; a name that ends like an image's, but holds none, is reported as
//! corrupt. Other files (captions, lists, archives) are passed over and counted; hidden ones are not looked at.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::account::{Account, Changes};
use super::dataset::{ACCEPTED, Dataset, Picture, Shape, Want};
use super::fill::fill_images;
use super::place::{entries, name_of, reason};
use super::resize;
use crate::error::{Error, Result, list_names};

/// The longest side of an image that is decoded, and the most memory: what a 90-megapixel camera makes. A file of a
/// few bytes can claim to be larger than any memory.
const MAX_SIDE: u32 = 32_768;
const MAX_DECODED: u64 = 300 << 20;
/// The largest file that is read as an image.
const MAX_FILE: u64 = 256 << 20;

/// Why a file is passed over.
const NO_IMAGE: &str = "no PNG, JPEG or GIF image";
/// Endings of pictures that are not read here.
const OTHER_PICTURES: [&str; 12] =
    ["webp", "bmp", "tif", "tiff", "avif", "heic", "heif", "jxl", "jp2", "svg", "tga", "dng"];
/// Labels have two bytes.
const MOST_CLASSES: usize = 1 << 16;

/// What the walk through the folder found: images with the index of their class.
#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, u32)>,
    classes: Vec<String>,
    others: Vec<PathBuf>,
}

/// Reads the images of `root`, scaled and cropped to what is wanted.
///
/// # Errors
/// One line that names the directory, if it holds no image or none that can be decoded.
pub(super) fn load(root: &Path, name: String, want: &Want) -> Result<Dataset> {
    let mut account = Account { format: "folder", ..Account::default() };
    let found = find(root, &name, &mut account)?;
    if found.files.is_empty() {
        return Err(Error::file(root, nothing_in(&found.others)));
    }
    let Some(shape) = shape_of(&found, want) else {
        return Err(all_corrupt(root, &found));
    };
    let bytes = shape.bytes(1)?;
    let mut images = shape.allocate(found.files.len())?;
    let changes = Mutex::new(Changes::default());
    let failures = fill_images(&mut images, bytes, |index, slot| {
        let image = decode(&found.files[index].0)?;
        resize::fit_counted(image, shape, slot, &changes);
        Ok(())
    });
    if failures.len() == found.files.len() {
        return Err(all_corrupt(root, &found));
    }
    account.changes = changes.into_inner().unwrap_or_default();
    let unread: Vec<&PathBuf> = failures.iter().map(|(index, _)| &found.files[*index].0).collect();
    account.skip(&unread, failures.first().map_or("", |(_, problem): &(usize, String)| problem));
    let labels = keep_good(&mut images, bytes, &found, &failures);
    warn_of_colour(&mut account, labels.len());
    let (labels, classes) = drop_empty_classes(root, labels, found.classes, &mut account);
    check_number(root, classes.len())?;
    let Shape { height, width, channels } = shape;
    Ok(Dataset { name, height, width, channels, images, labels, classes, account })
}

fn check_number(root: &Path, classes: usize) -> Result<()> {
    if classes > MOST_CLASSES {
        let problem = format!("{classes} folders of classes: there can be {MOST_CLASSES} at the most");
        return Err(Error::file(root, problem));
    }
    Ok(())
}

/// Colour that a model of grey images can't learn is worth more than a word in the summary.
fn warn_of_colour(account: &mut Account, count: usize) {
    let coloured = account.changes.made_grey;
    if coloured > 0 {
        account.notes.push(format!(
            "{coloured} of {count} images are in colour and the model is of grey ones: it learns them grey; a model of 3 \
             channels (--preset base, cifar10) keeps their colours"
        ));
    }
}

/// Sub-folders that hold images are the classes; without any, the images in `root` itself are one class.
///
/// # Errors
/// As many images beside the folders as in them, or more: are these the set, or those?
fn find(root: &Path, name: &str, account: &mut Account) -> Result<Found> {
    let (mut classes, mut flat) = (Found::default(), Found::default());
    for path in in_natural_order(entries(root)?) {
        if path.is_dir() {
            let label = classes.classes.len() as u32;
            collect(&path, label, &mut classes)?;
            classes.classes.push(name_of(&path));
        } else {
            sort_in(path, 0, &mut flat);
        }
    }
    if classes.files.is_empty() {
        flat.others.append(&mut classes.others);
        flat.classes = vec![name.to_string()];
        account.skip(&flat.others, NO_IMAGE);
        return Ok(flat);
    }
    let (beside, within) = (flat.files.len(), classes.files.len());
    if beside >= within {
        let (first, folder) = (flat.files[0].0.display(), classes.files[0].0.display());
        return Err(Error::file(
            root,
            format!(
                "{beside} images (first {first}) beside folders that hold {within} (first {folder}): folders are classes, so \
                 give each image a folder, or move those folders away"
            ),
        ));
    }
    let beside: Vec<&PathBuf> = flat.files.iter().map(|(path, _)| path).collect();
    account.skip(&beside, "beside the folders of the classes, so in none");
    classes.others.append(&mut flat.others);
    account.skip(&classes.others, NO_IMAGE);
    warn_of_nested_classes(root, &classes, account)?;
    Ok(classes)
}

/// A single folder of folders is likely to be one that holds the classes.
fn warn_of_nested_classes(root: &Path, found: &Found, account: &mut Account) -> Result<()> {
    let label = found.files[0].1;
    let below = root.join(&found.classes[label as usize]);
    if found.files.iter().all(|(path, other)| *other == label && path.parent() != Some(&below)) {
        let folders: Vec<String> =
            entries(&below)?.iter().filter(|path| holds_image(path)).map(|path| name_of(path)).collect();
        if folders.len() > 1 {
            let (below, folders) = (below.display(), list_names(&folders));
            account
                .notes
                .push(format!("all images are one class; if its folders ({folders}) are classes, give {below}"));
        }
    }
    Ok(())
}

/// Whether there is what looks like an image below `directory`.
pub(super) fn holds_image(directory: &Path) -> bool {
    let mut found = Found::default();
    directory.is_dir() && collect(directory, 0, &mut found).is_ok() && !found.files.is_empty()
}

/// Folders whose names are whole numbers first, by their value: 2 comes before 10.
fn in_natural_order(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    let number = |path: &PathBuf| name_of(path).parse::<u64>().unwrap_or(u64::MAX);
    paths.sort_by_cached_key(number);
    paths
}

/// Adds all files under `directory` to `found`. Links to directories are followed for the classes only, not below
/// them, so that no loop of links can hold us.
fn collect(directory: &Path, label: u32, found: &mut Found) -> Result<()> {
    for path in entries(directory)? {
        if !path.is_dir() {
            sort_in(path, label, found);
        } else if !path.is_symlink() {
            collect(&path, label, found)?;
        }
    }
    Ok(())
}

fn sort_in(path: PathBuf, label: u32, found: &mut Found) {
    if named_as_image(&path) || starts_as_image(&path) {
        found.files.push((path, label));
    } else {
        found.others.push(path);
    }
}

fn named_as_image(path: &Path) -> bool {
    readable(ImageFormat::from_path(path).ok())
}

/// Whether the first bytes are those of an image; not so for what can't be opened, and never for a pipe or device,
/// where a read may wait for ever.
fn starts_as_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let file = if path.is_file() { File::open(path).ok() } else { None };
    file.is_some_and(|file| file.take(16).read_to_end(&mut start).is_ok()) && readable(image::guess_format(&start).ok())
}

/// The formats whose decoders are built in.
fn readable(format: Option<ImageFormat>) -> bool {
    matches!(format, Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Gif))
}

fn nothing_in(others: &[PathBuf]) -> String {
    let is_picture = |path: &&PathBuf| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        ending.is_some_and(|ending| OTHER_PICTURES.contains(&ending.as_str()))
    };
    let count = others.len();
    match (others.iter().find(is_picture), others.first()) {
        (Some(first), _) => {
            format!(
                "no PNG, JPEG or GIF images, but {count} other files (such as {}): convert them to PNG",
                first.display()
            )
        }
        (_, None) => format!("an empty folder: {ACCEPTED}"),
        (_, Some(first)) => format!("no images, but other files ({count}, first {}): {ACCEPTED}", first.display()),
    }
}

fn all_corrupt(root: &Path, found: &Found) -> Error {
    let first = found.files.iter().find_map(|(path, _)| Some((path, decode(path).err()?)));
    let first = first.map_or_else(String::new, |(path, problem)| format!(", first {}: {problem}", path.display()));
    let count = found.files.len();
    Error::file(root, format!("no image can be read ({count} tried{first}): give a folder with some that can"))
}

/// The shape of the data set; only an open size looks at an image, and `None` says that none can be decoded.
fn shape_of(found: &Found, want: &Want) -> Option<Shape> {
    let own = || {
        let image = found.files.iter().find_map(|(path, _)| decode(path).ok())?;
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
    let image = decode(path).map_err(|problem| Error::file(path, problem))?;
    let size = [image.height(), image.width()];
    let mut bytes = vec![0; shape.bytes(1)?];
    resize::fit(image, shape, &mut bytes);
    Ok(Picture { bytes, size })
}

/// A mask of the wanted shape, for a picture that was as large as `picture`.
pub(super) fn load_mask(path: &Path, shape: Shape, picture: [u32; 2]) -> Result<Vec<u8>> {
    let image = decode(path).map_err(|problem| Error::file(path, problem))?;
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

/// Decodes the image at `path`, upright. The error is what is wrong with it.
fn decode(path: &Path) -> std::result::Result<DynamicImage, String> {
    let bytes = read(path)?;
    // A decoder that trips over a file nobody foresaw must not end the run.
    std::panic::catch_unwind(|| decode_bytes(&bytes)).unwrap_or_else(|_| Err("corrupt image".into()))
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let kind = path.metadata().map_err(|error| reason(&error))?;
    if !kind.is_file() {
        return Err("not a file".into());
    }
    if kind.len() > MAX_FILE {
        return Err(format!("larger than {} MiB", MAX_FILE >> 20));
    }
    std::fs::read(path).map_err(|error| reason(&error))
}

fn decode_bytes(bytes: &[u8]) -> std::result::Result<DynamicImage, String> {
    let format = image::guess_format(bytes).ok().filter(|format| readable(Some(*format)));
    let format = format.ok_or("not a PNG, JPEG or GIF image")?;
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        return decode_open_jpeg(bytes).ok_or_else(|| "corrupt image: truncated JPEG".into());
    }
    decode_as(format, bytes)
}

/// A JPEG without an end marker, if that is all that it lacks: then what is put in its place changes no pixel.
fn decode_open_jpeg(bytes: &[u8]) -> Option<DynamicImage> {
    let ended = |rest: &[u8]| decode_as(ImageFormat::Jpeg, &[bytes, rest, &[0xff, 0xd9]].concat()).ok();
    let image = ended(&[])?;
    let is_whole = [0x5a, 0xa5, 0x0f].iter().all(|byte| ended(&[*byte; 64]).as_ref() == Some(&image));
    is_whole.then_some(image)
}

fn decode_as(format: ImageFormat, bytes: &[u8]) -> std::result::Result<DynamicImage, String> {
    let corrupt = |error: image::ImageError| format!("corrupt image: {}", one_line(&error.to_string()));
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder().map_err(corrupt)?;
    limits.reserve(decoder.total_bytes()).map_err(corrupt)?;
    // A damaged EXIF block spoils no picture.
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(corrupt)?;
    if image.width() == 0 || image.height() == 0 {
        return Err("corrupt image: it has no pixels".into());
    }
    image.apply_orientation(orientation);
    Ok(image)
}

/// Whether an end marker follows the start of a JPEG's pixels. The decoder takes a truncated file for a whole one
/// and paints the rest grey; within coded pixels `FF D9` can't occur, so its absence is the sign. The segments
/// before, which may hold a whole thumbnail, are stepped over.
fn jpeg_ends(bytes: &[u8]) -> bool {
    let mut at = 2;
    while let Some(&[0xff, marker]) = bytes.get(at..at + 2) {
        match marker {
            0xda => return bytes[at..].windows(2).any(|pair| pair == [0xff, 0xd9]),
            0xff => at += 1,
            _ => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => at += 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
        }
    }
    // Not the order that every JPEG has: the decoder will say what is wrong.
    bytes.len() > at
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Closes the gaps that `failures` left among `images` and returns the labels of those that stay.
fn keep_good(images: &mut Vec<u8>, bytes: usize, found: &Found, failures: &[(usize, String)]) -> Vec<u32> {
    let mut labels = Vec::with_capacity(found.files.len() - failures.len());
    for (index, (_, label)) in found.files.iter().enumerate() {
        if failures.binary_search_by_key(&index, |(failed, _)| *failed).is_err() {
            images.copy_within(index * bytes..(index + 1) * bytes, labels.len() * bytes);
            labels.push(*label);
        }
    }
    images.truncate(labels.len() * bytes);
    labels
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
