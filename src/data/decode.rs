//! One file of an image: what is one is decided by its first bytes, or by its name.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::codecs::{png::PngDecoder, webp::WebPDecoder};
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::dataset::{Want, said_bytes};
use super::place::{Parsed, ending, reason};
use super::{gif, tiff, webp};
use crate::files;

/// The longest side of an image that is decoded, and the most memory: what a 90-megapixel camera makes. A file of a
/// few bytes can claim to be larger than any memory.
const MAX_SIDE: u32 = 32_768;
const MAX_DECODED: u64 = 300 << 20;
/// The largest file that is read as an image.
const MAX_FILE: u64 = 256 << 20;

/// How many times the sides of the picture it lies on a mask may have, or of the model's images if those are longer.
const MOST_MASK: u32 = 4;
/// The most bytes of a pixel: four floats.
const MOST_PIXEL: u64 = 16;
/// What decoders take of the smallest picture.
const LEAST_DECODED: u64 = 1 << 20;

/// The formats that are read, as a sentence lists them.
pub(super) const FORMATS: &str = "PNG, JPEG, GIF, WebP, BMP or TIFF";
/// Endings of pictures that are not read. Some begin as TIFF does, and hold a small preview first.
const OTHER_PICTURES: [&str; 13] =
    ["avif", "heic", "heif", "jxl", "jp2", "svg", "tga", "dng", "nef", "cr2", "arw", "exr", "dds"];

/// An image out of a file.
pub(super) struct Decoded {
    /// Upright; of an animation the first frame.
    pub image: DynamicImage,
    pub is_animation: bool,
}

/// How large a picture may be that is decoded.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    side: u32,
    bytes: u64,
    is_mask: bool,
}

impl Bound {
    /// Of any picture.
    pub fn of(want: &Want) -> Bound {
        Bound { side: MAX_SIDE, bytes: most_decoded(want), is_mask: false }
    }

    /// Of a mask for a picture and a model of these sizes, height and width.
    pub fn of_mask(sizes: [[u32; 2]; 2]) -> Bound {
        let side = |size: &[u32; 2]| size[0].max(size[1]).saturating_mul(MOST_MASK);
        let side = sizes.iter().map(side).max().unwrap_or(0).min(MAX_SIDE);
        let bytes = MOST_PIXEL * u64::from(side) * u64::from(side);
        Bound { side, bytes: bytes.clamp(LEAST_DECODED, MAX_DECODED), is_mask: true }
    }

    /// Why a picture beyond it is not read.
    fn refused(self) -> String {
        let Bound { side, bytes, is_mask } = self;
        match bytes < MAX_DECODED {
            _ if is_mask => format!(
                "a mask larger than {side} pixels a side, {MOST_MASK} times the picture's and the model's, or {} of them: \
                 scale it down",
                said_bytes(bytes)
            ),
            true => format!(
                "larger than --memory-limit allows ({}): raise it if the file is to be trusted",
                said_bytes(bytes)
            ),
            false => format!("larger than {side} pixels a side or {} MiB of them: scale it down", MAX_DECODED >> 20),
        }
    }

    fn limits(self) -> Limits {
        let mut limits = Limits::default();
        limits.max_image_width = Some(self.side);
        limits.max_image_height = Some(self.side);
        limits.max_alloc = Some(self.bytes);
        limits
    }
}

/// Whether the file is named as an image, or begins as one; not so what can't be opened, and never a pipe or device, where a
/// read may wait for ever.
pub(super) fn is_image(path: &Path) -> bool {
    !is_other_picture(path) && (readable(ImageFormat::from_path(path).ok()) || starts_as_image(path))
}

/// Whether the name is that of a picture of a format that is not read.
pub(super) fn is_other_picture(path: &Path) -> bool {
    OTHER_PICTURES.contains(&ending(path).as_str())
}

fn starts_as_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let file = if path.is_file() { File::open(path).ok() } else { None };
    file.is_some_and(|file| file.take(16).read_to_end(&mut start).is_ok()) && readable(image::guess_format(&start).ok())
}

/// The formats whose decoders are built in.
fn readable(format: Option<ImageFormat>) -> bool {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    matches!(format, Some(Png | Jpeg | Gif | WebP | Bmp | Tiff))
}

/// Decodes the image at `path`. The error is what is wrong with it.
pub(super) fn decode(path: &Path, want: &Want) -> Parsed<Decoded> {
    decode_guarded(&read(path)?, want)
}

/// Decodes the mask at `path`, within `bound`. The error is what is wrong with it.
pub(super) fn decode_mask(path: &Path, bound: Bound) -> Parsed<DynamicImage> {
    Ok(guarded(&read(path)?, bound)?.image)
}

/// The most bytes of one image.
pub(super) fn most_decoded(want: &Want) -> u64 {
    want.limit().min(MAX_DECODED)
}

/// Decodes an image out of the bytes of its file. The error is what is wrong with them.
pub(super) fn decode_guarded(bytes: &[u8], want: &Want) -> Parsed<Decoded> {
    guarded(bytes, Bound::of(want))
}

fn guarded(bytes: &[u8], bound: Bound) -> Parsed<Decoded> {
    // A decoder that trips over a file nobody foresaw must not end the run.
    std::panic::catch_unwind(|| decode_bytes(bytes, bound)).unwrap_or_else(|_| Err("corrupt image".into()))
}

/// Refuses an image's file of so many bytes, if it is too large.
pub(super) fn check_length(bytes: u64) -> Parsed<()> {
    if bytes > MAX_FILE { Err(format!("larger than {} MiB", MAX_FILE >> 20)) } else { Ok(()) }
}

fn read(path: &Path) -> Parsed<Vec<u8>> {
    let kind = path.metadata().map_err(|error| reason(&error))?;
    if !kind.is_file() {
        return Err("not a file".into());
    }
    check_length(kind.len())?;
    std::fs::read(path).map_err(|error| reason(&error))
}

fn decode_bytes(bytes: &[u8], bound: Bound) -> Parsed<Decoded> {
    if let Some(problem) = files::lfs_pointer(bytes) {
        return Err(problem.into());
    }
    if bytes.is_empty() {
        return Err("an empty file".into());
    }
    let format = image::guess_format(bytes).ok().filter(|format| readable(Some(*format)));
    let format = format.ok_or_else(|| format!("not a {FORMATS} image"))?;
    if format == ImageFormat::Jpeg && !jpeg_ends(bytes) {
        let image = decode_open_jpeg(bytes, bound).ok_or("corrupt image: truncated JPEG")?;
        return Ok(Decoded { image, is_animation: false });
    }
    // What decoders make room for before they look at their limits.
    match format {
        ImageFormat::Tiff => tiff::check(bytes)?,
        ImageFormat::WebP if webp::largest(bytes) > bound.bytes => return Err(bound.refused()),
        _ => {}
    }
    let image = decode_as(format, bytes, bound)?;
    Ok(Decoded { image, is_animation: is_animation(format, bytes) })
}

/// Whether more than one frame follows in an image that could be decoded.
fn is_animation(format: ImageFormat, bytes: &[u8]) -> bool {
    let bytes = Cursor::new(bytes);
    match format {
        ImageFormat::Gif => gif::is_animation(bytes.get_ref()),
        ImageFormat::Png => PngDecoder::new(bytes).is_ok_and(|png| png.is_apng().unwrap_or(false)),
        ImageFormat::Tiff => tiff::has_pages(bytes.get_ref()),
        ImageFormat::WebP => WebPDecoder::new(bytes).is_ok_and(|webp| webp.has_animation()),
        _ => false,
    }
}

/// A JPEG without an end marker, if that is all that it lacks: then what is put in its place changes no pixel.
fn decode_open_jpeg(bytes: &[u8], bound: Bound) -> Option<DynamicImage> {
    let ended = |rest: &[u8]| decode_as(ImageFormat::Jpeg, &[bytes, rest, &[0xff, 0xd9]].concat(), bound).ok();
    let image = ended(&[])?;
    let is_whole = [0x5a, 0xa5, 0x0f].iter().all(|byte| ended(&[*byte; 64]).as_ref() == Some(&image));
    is_whole.then_some(image)
}

fn decode_as(format: ImageFormat, bytes: &[u8], bound: Bound) -> Parsed<DynamicImage> {
    let corrupt = |error: ImageError| match error {
        ImageError::Limits(_) => bound.refused(),
        ImageError::Unsupported(error) => format!("not read: {}", one_line(&error.to_string())),
        error => format!("corrupt image: {}", one_line(&error.to_string())),
    };
    let mut limits = bound.limits();
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
