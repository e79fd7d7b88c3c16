//! Images as a person looks at them: grids, PNG files and animations.

use std::path::Path;

use gif::{Encoder, EncodingError, Frame, Repeat};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{DynamicImage, ImageFormat, ImageResult, Rgb, RgbImage};

use crate::error::{Error, Result};
use crate::files::{self, write_atomic};

/// Pixels between two cells of a grid.
const GAP: usize = 2;
const GAP_COLOR: Rgb<u8> = Rgb([255; 3]);
/// Magenta: nobody takes a value that is not a number for black.
const NOT_FINITE: Rgb<u8> = Rgb([255, 0, 255]);
/// Pixels on the longest side of a grid; what would lie beyond is cut off.
const LONGEST_SIDE: usize = 16_384;
/// Milliseconds for which an animation shows its last frame.
const LAST_DELAY: u32 = 2_000;
/// The quickest that viewers show: they take anything shorter for 100 ms.
const SHORTEST_DELAY: u32 = 20;
/// The format counts hundredths of a second in 16 bits.
const LONGEST_DELAY: u32 = 655_350;
/// Of 1 (best) to 30 (fastest): how many pixels the encoder looks at to choose 256 colours for a frame of more.
const PALETTE_SPEED: i32 = 10;

/// A batch of images with values in [-1, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// `[count, height, width, channels]`, row-major. Values that are missing count as not finite.
    pub values: Vec<f32>,
    pub count: usize,
    pub height: usize,
    pub width: usize,
    /// 1 is grey, 3 is RGB; of more the first three are shown as RGB, of two the first as grey.
    pub channels: usize,
}

impl Images {
    /// `count` images of [height, width, channels] out of their bytes.
    pub fn of_bytes(
        bytes: impl IntoIterator<Item = u8>,
        count: usize,
        [height, width, channels]: [usize; 3],
    ) -> Images {
        let values = bytes.into_iter().map(|byte| f32::from(byte) / 127.5 - 1.0).collect();
        Images { values, count, height, width, channels }
    }

    fn color(&self, image: usize, y: usize, x: usize) -> Rgb<u8> {
        let channel = |channel| self.value(image, y, x, channel).unwrap_or(f32::NAN);
        let shown = match self.channels {
            0..=2 => [channel(0); 3],
            _ => [channel(0), channel(1), channel(2)],
        };
        if shown.iter().all(|value| value.is_finite()) { Rgb(shown.map(byte)) } else { NOT_FINITE }
    }

    /// Nothing if the values don't reach that far, however large the sizes claim to be.
    fn value(&self, image: usize, y: usize, x: usize, channel: usize) -> Option<f32> {
        let row = image.checked_mul(self.height)?.checked_add(y)?;
        let pixel = row.checked_mul(self.width)?.checked_add(x)?;
        let index = pixel.checked_mul(self.channels)?.checked_add(channel)?;
        if channel < self.channels { self.values.get(index).copied() } else { None }
    }
}

/// -1 to 0, 1 to 255, rounded; anything beyond is clamped.
fn byte(value: f32) -> u8 {
    ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

/// The images in rows of `columns`, each enlarged `scale` times by repeating pixels, with 2 white pixels between
/// cells.
///
/// A value that is not finite makes its pixel magenta. Places without an image are white; with no image at all the
/// picture is one white pixel. A side ends at 16,384 pixels.
pub fn grid(images: &Images, columns: usize, scale: usize) -> RgbImage {
    if images.count == 0 {
        return RgbImage::from_pixel(1, 1, GAP_COLOR);
    }
    let columns = columns.clamp(1, images.count);
    let scale = scale.max(1);
    let rows = images.count.div_ceil(columns);
    let (cell_width, cell_height) = (images.width.saturating_mul(scale), images.height.saturating_mul(scale));
    RgbImage::from_fn(side(columns, cell_width), side(rows, cell_height), |x, y| {
        let (column, x) = cell(x, cell_width);
        let (row, y) = cell(y, cell_height);
        let image = row.saturating_mul(columns).saturating_add(column);
        if x < cell_width && y < cell_height && image < images.count {
            images.color(image, y / scale, x / scale)
        } else {
            GAP_COLOR
        }
    })
}

/// Pixels along a side of `cells` cells and the gaps between them.
fn side(cells: usize, cell_size: usize) -> u32 {
    let length = cell_size.saturating_add(GAP).saturating_mul(cells).saturating_sub(GAP);
    length.clamp(1, LONGEST_SIDE) as u32
}

/// The cell at a pixel and the place in it, which lies beyond `cell_size` in the gap.
fn cell(pixel: u32, cell_size: usize) -> (usize, usize) {
    let pitch = cell_size.saturating_add(GAP);
    (pixel as usize / pitch, pixel as usize % pitch)
}

/// The images of a [`grid`] of the usual enlargement, of `height` and `width` pixels each, white ones where it has none; none if it
/// is another grid.
pub fn tiles(grid: &RgbImage, height: usize, width: usize) -> Option<Vec<RgbImage>> {
    let scale = default_scale(height);
    let [cell_width, cell_height] = [width, height].map(|side| side.saturating_mul(scale));
    let cells = |length: u32, cell: usize| {
        let pitch = cell.saturating_add(GAP);
        let is_whole = cell > 0 && (length as usize + GAP).is_multiple_of(pitch);
        is_whole.then(|| (length as usize + GAP) / pitch)
    };
    let (columns, rows) = (cells(grid.width(), cell_width)?, cells(grid.height(), cell_height)?);
    let tile = |index: usize| {
        let (left, top) = (index % columns * (cell_width + GAP), index / columns * (cell_height + GAP));
        let pixel = |x: u32, y: u32| {
            let at = |start: usize, pixel: u32| (start + pixel as usize * scale) as u32;
            *grid.get_pixel(at(left, x), at(top, y))
        };
        RgbImage::from_fn(width as u32, height as u32, pixel)
    };
    Some((0..columns * rows).map(tile).collect())
}

/// Reads a picture that this program wrote.
///
/// # Errors
/// [`Error::File`] if it can't be read, or is none.
pub fn read(path: &Path) -> Result<RgbImage> {
    let picture = image::open(path).map_err(|error| Error::file(path, error))?;
    Ok(picture.to_rgb8())
}

/// The enlargement that makes an image of this height about 64 pixels tall, at least 1.
pub fn default_scale(height: usize) -> usize {
    let height = height.max(1);
    (64usize.saturating_add(height / 2) / height).max(1)
}

/// The fewest columns of a grid that is no taller than wide, in cells; at least 1.
pub fn default_columns(count: usize) -> usize {
    let root = count.isqrt();
    (if root * root < count { root + 1 } else { root }).max(1)
}

/// What [`write`] takes: the endings of files and their formats.
const ENDINGS: [(&str, ImageFormat); 3] =
    [("png", ImageFormat::Png), ("jpg", ImageFormat::Jpeg), ("jpeg", ImageFormat::Jpeg)];

/// The format that a file's ending names.
///
/// # Errors
/// [`Error::File`] lists the endings.
fn format_of(path: &Path) -> Result<ImageFormat> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let found = ENDINGS.iter().find(|(known, _)| *known == ending);
    found.map(|(_, format)| *format).ok_or_else(|| {
        let known: Vec<String> = ENDINGS.iter().map(|(ending, _)| format!(".{ending}")).collect();
        Error::file(path, format!("no format of pictures that is written here; there are {}", known.join(", ")))
    })
}

/// Whether [`write()`] could write there, as far as that can be said beforehand.
///
/// # Errors
/// As [`write()`].
pub fn check_writable(path: &Path) -> Result<()> {
    files::check_writable(path)?;
    // A device has no ending.
    if path.starts_with("/dev") { Ok(()) } else { format_of(path).map(|_| ()) }
}

/// Writes a picture in the format that the ending names, whole or not at all; to a device as PNG.
///
/// # Errors
///
/// [`Error::File`] if the ending names none, the picture has no pixel or the place can't be written.
pub fn write(path: &Path, picture: &RgbImage) -> Result<()> {
    match format_of(path) {
        Ok(ImageFormat::Jpeg) => {
            let mut bytes = Vec::new();
            let encoder = JpegEncoder::new_with_quality(&mut bytes, 95);
            picture.write_with_encoder(encoder).map_err(|error| Error::file(path, error))?;
            write_atomic(path, &bytes)
        }
        Ok(_) => write_png(path, picture),
        Err(_) if path.starts_with("/dev") => write_png(path, picture),
        Err(error) => Err(error),
    }
}

/// Writes a PNG file, whole or not at all.
///
/// # Errors
///
/// [`Error::File`] if the picture has no pixel or the place can't be written.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let bytes = encode_png(picture).map_err(|error| Error::file(path, error))?;
    write_atomic(path, &bytes)
}

/// A picture as PNG, small. Repeated pixels defeat the filters: without one, and in one channel where it will do, a grid of digits takes a fifth
/// of the bytes that the encoder's defaults take.
///
/// # Errors
/// If the picture has no pixel.
pub fn encode_png(picture: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::NoFilter);
    if picture.pixels().all(|Rgb([red, green, blue])| red == green && green == blue) {
        DynamicImage::ImageRgb8(picture.clone()).to_luma8().write_with_encoder(encoder)?;
    } else {
        picture.write_with_encoder(encoder)?;
    }
    Ok(bytes)
}

/// Writes an animation that repeats for ever, whole or not at all.
///
/// A frame is shown for `delay_ms` milliseconds, rounded to hundredths of a second and at least 20; the last one for two
/// seconds. Frames of at most 256 colours, so all grey ones, keep each pixel exactly; others get the 256 colours that
/// fit them.
///
/// # Errors
///
/// [`Error::File`] if there is no frame, if frames differ in size, if a side is 0 or over 65,535 pixels, or if the place
/// can't be written.
pub fn write_gif(path: &Path, frames: &[RgbImage], delay_ms: u32) -> Result<()> {
    let Some(first) = frames.first() else {
        return Err(Error::file(path, "an animation needs at least one frame"));
    };
    let size = first.dimensions();
    if frames.iter().any(|frame| frame.dimensions() != size) {
        return Err(Error::file(path, "the frames of an animation must be of one size"));
    }
    if [size.0, size.1].iter().any(|side| !(1..=u32::from(u16::MAX)).contains(side)) {
        let problem = format!("{} x {} pixels do not fit a GIF file", size.0, size.1);
        return Err(Error::file(path, problem));
    }
    let bytes = encode_gif(frames, delay_ms).map_err(|error| Error::file(path, error))?;
    write_atomic(path, &bytes)
}

/// Grey frames share one table of colours: what viewers make of grey tables of the frames' own differs, and Pillow shows them black.
fn encode_gif(frames: &[RgbImage], delay_ms: u32) -> std::result::Result<Vec<u8>, EncodingError> {
    let are_grey = frames.iter().flat_map(|frame| frame.pixels()).all(|Rgb([r, g, b])| r == g && g == b);
    let greys: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    let [width, height] = <[u32; 2]>::from(frames[0].dimensions()).map(|side| side as u16);
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width, height, if are_grey { &greys } else { &[] })?;
    encoder.set_repeat(Repeat::Infinite)?;
    for (index, frame) in frames.iter().enumerate() {
        let mut encoded = match are_grey {
            true => Frame {
                width,
                height,
                buffer: frame.pixels().map(|pixel| pixel[0]).collect::<Vec<u8>>().into(),
                ..Frame::default()
            },
            false => Frame::from_rgb_speed(width, height, frame, PALETTE_SPEED),
        };
        encoded.delay = hundredths(if index + 1 == frames.len() { LAST_DELAY } else { delay_ms });
        encoder.write_frame(&encoded)?;
    }
    drop(encoder);
    Ok(bytes)
}

fn hundredths(milliseconds: u32) -> u16 {
    (milliseconds.clamp(SHORTEST_DELAY, LONGEST_DELAY).saturating_add(5) / 10) as u16
}
