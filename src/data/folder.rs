//! A folder of images: one sub-folder a class, or all of them in one.
//!
//! What is an image is decided by its first bytes; a name that ends like an image's, but holds none, is reported as
//! corrupt. Other files (captions, lists, archives) are passed over and counted; hidden ones are not looked at.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::dataset::{ACCEPTED, Dataset, Shape, Want};
use super::fill::fill_images;
use super::place::{entries, name_of, reason};
use super::resize;
use crate::error::{Error, Result};

/// The longest side of an image that is decoded, and the most memory: what a 90-megapixel camera makes. A file of a
/// few bytes can claim to be larger than any memory.
const MAX_SIDE: u32 = 32_768;
const MAX_DECODED: u64 = 300 << 20;
/// The largest file that is read as an image.
const MAX_FILE: u64 = 256 << 20;

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
    let (found, mut warnings) = find(root)?;
    if found.files.is_empty() {
        return Err(Error::file(root, nothing_in(&found.others)));
    }
    let Some(shape) = shape_of(&found, want) else {
        return Err(all_corrupt(root, &found));
    };
    let bytes = shape.bytes(1)?;
    let mut images = shape.allocate(found.files.len())?;
    let failures = fill_images(&mut images, bytes, |index, slot| {
        resize::fit(decode(&found.files[index].0)?, shape, slot);
        Ok(())
    });
    if failures.len() == found.files.len() {
        return Err(all_corrupt(root, &found));
    }
    warnings.extend(
        failures.iter().map(|(index, problem): &(usize, String)| {
            format!("{}: {problem}; skipped", found.files[*index].0.display())
        }),
    );
    let labels = keep_good(&mut images, bytes, &found, &failures);
    let (labels, classes) = drop_empty_classes(root, labels, found.classes, &mut warnings);
    let Shape { height, width, channels } = shape;
    Ok(Dataset { name, height, width, channels, images, labels, classes, flip: true, warnings })
}

/// Sub-folders that hold images are the classes; without any, the images in `root` itself are one class.
fn find(root: &Path) -> Result<(Found, Vec<String>)> {
    let (mut classes, mut flat) = (Found::default(), Found::default());
    for path in entries(root)? {
        if path.is_dir() {
            let label = classes.classes.len() as u32;
            collect(&path, label, &mut classes)?;
            classes.classes.push(name_of(&path));
        } else {
            sort_in(path, 0, &mut flat);
        }
    }
    let mut warnings = Vec::new();
    if classes.files.is_empty() {
        flat.others.append(&mut classes.others);
        flat.classes = vec![name_of(root)];
        warnings.extend(passed_over(root, &flat.others));
        return Ok((flat, warnings));
    }
    if let Some((first, _)) = flat.files.first() {
        let (count, first) = (flat.files.len(), first.display());
        warnings.push(format!("{first}: beside the folders of the classes, so in none ({count} such); skipped"));
    }
    classes.others.append(&mut flat.others);
    warnings.extend(passed_over(root, &classes.others));
    Ok((classes, warnings))
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

/// One line for all files that are no images.
fn passed_over(root: &Path, others: &[PathBuf]) -> Option<String> {
    let first = others.first()?;
    let (root, count) = (root.display(), others.len());
    Some(format!("{root}: not PNG, JPEG or GIF ({count} such, first {}); skipped", first.display()))
}

fn nothing_in(others: &[PathBuf]) -> String {
    match others.first() {
        None => format!("an empty folder: {ACCEPTED}"),
        Some(first) => {
            format!("no images, but other files ({}, first {}): {ACCEPTED}", others.len(), first.display())
        }
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

/// One image of the wanted shape, of its very size if `exact`.
pub(super) fn load_image(path: &Path, shape: Shape, exact: bool) -> Result<Vec<u8>> {
    let image = decode(path).map_err(|problem| Error::file(path, problem))?;
    let Shape { height, width, .. } = shape;
    if exact && (image.width(), image.height()) != (width, height) {
        let (own_width, own_height) = (image.width(), image.height());
        return Err(Error::file(path, format!("{own_width} x {own_height} pixels; it must be {width} x {height}")));
    }
    let mut bytes = vec![0; shape.bytes(1)?];
    resize::fit(image, shape, &mut bytes);
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
        return Err("corrupt image: truncated JPEG".into());
    }
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

/// A class without an image can't be learnt: it's named in a warning and those after it move up.
fn drop_empty_classes(
    root: &Path,
    labels: Vec<u32>,
    classes: Vec<String>,
    warnings: &mut Vec<String>,
) -> (Vec<u32>, Vec<String>) {
    let mut counts = vec![0_usize; classes.len()];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    let mut kept = Vec::new();
    let mut moved = Vec::new();
    for (class, count) in classes.into_iter().zip(counts) {
        moved.push(kept.len() as u32);
        match count {
            0 => warnings.push(format!("{}: no images, so no class", root.join(class).display())),
            _ => kept.push(class),
        }
    }
    (labels.into_iter().map(|label| moved[label as usize]).collect(), kept)
}
