//! One image of any size into one slot of a data set: cropped, resized, grey or RGB.

use std::sync::Mutex;

use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageBuffer, Luma, Pixel, RgbImage};

use super::account::Changes;
use super::dataset::Shape;
use super::decode::Decoded;

/// Writes `image` to `slot` `[H, W, C]`: the largest centred part that has the wanted aspect ratio, scaled to fit.
///
/// That's the picture that scaling by the larger of the two ratios and cropping the centre gives, up to half a pixel
/// of the source; but a cut made first never builds the huge intermediate image of a very long and thin one.
pub(super) fn fit(image: DynamicImage, shape: Shape, slot: &mut [u8]) {
    let (left, top, width, height) = window(image.width(), image.height(), shape);
    let whole = (width, height) == (image.width(), image.height());
    let part = if whole { image } else { image.crop_imm(left, top, width, height) };
    let part = if part.color().has_alpha() { over_white(&part) } else { part };
    match shape.channels {
        1 => scale(grey(part), shape, slot),
        _ => scale(part.into_rgb8(), shape, slot),
    }
}

/// As [`fit`]; adds to `all` what it does.
pub(super) fn fit_counted(decoded: Decoded, shape: Shape, slot: &mut [u8], all: &Mutex<Changes>) {
    let own = Changes { first_frames: decoded.is_animation.into(), ..changes(&decoded.image, shape) };
    if let Ok(mut all) = all.lock() {
        all.add(&own);
    }
    fit(decoded.image, shape, slot);
}

/// Writes a mask to `slot` `[H, W, C]`, cut where [`fit`] cuts an image. Transparent is black; and the filter is one that doesn't
/// swing at edges: white stays white up to them.
pub(super) fn fit_mask(image: &DynamicImage, shape: Shape, slot: &mut [u8]) {
    let (left, top, width, height) = window(image.width(), image.height(), shape);
    let part = imageops::crop_imm(&image.to_luma_alpha8(), left, top, width, height).to_image();
    let over_black = |value: u8, alpha: u8| ((u32::from(value) * u32::from(alpha) + 127) / 255) as u8;
    let mask = GrayImage::from_fn(width, height, |x, y| {
        let [value, alpha] = part.get_pixel(x, y).0;
        Luma([over_black(value, alpha)])
    });
    let resized = match mask.dimensions() == (shape.width, shape.height) {
        true => mask,
        false => imageops::resize(&mask, shape.width, shape.height, FilterType::Triangle),
    };
    for (pixel, value) in slot.chunks_exact_mut(shape.channels as usize).zip(resized.as_raw()) {
        pixel.fill(*value);
    }
}

/// What [`fit`] does to an image.
pub(super) fn changes(image: &DynamicImage, shape: Shape) -> Changes {
    let own = [image.height(), image.width()];
    let (_, _, width, height) = window(own[1], own[0], shape);
    let transparent = || image.to_rgba8().pixels().any(|pixel| pixel[3] < u8::MAX);
    let mut changes = Changes {
        smallest: own,
        largest: own,
        scaled: ([height, width] != [shape.height, shape.width]).into(),
        cropped: ([height, width] != own).into(),
        ..Changes::default()
    };
    changes.made_grey = (shape.channels == 1 && image.color().has_color() && is_coloured(image)).into();
    changes.made_opaque = (image.color().has_alpha() && transparent()).into();
    changes
}

/// Whether any pixel is farther from grey than rounding in a file of colours makes it.
fn is_coloured(image: &DynamicImage) -> bool {
    const ROUNDING: u8 = 8;
    let coloured = |[red, green, blue]: [u8; 3]| red.max(green).max(blue) - red.min(green).min(blue) > ROUNDING;
    image.to_rgb8().pixels().any(|pixel| coloured(pixel.0))
}

/// Left, top, width and height of the largest centred window with the aspect ratio of `shape`.
fn window(width: u32, height: u32, shape: Shape) -> (u32, u32, u32, u32) {
    let fitted = |other: u32, side: u32, per: u32, limit: u32| {
        let (other, side, per) = (u64::from(other), u64::from(side), u64::from(per));
        let rounded = (other * side + per / 2) / per;
        rounded.clamp(1, u64::from(limit)) as u32
    };
    let wide = u64::from(width) * u64::from(shape.height) >= u64::from(height) * u64::from(shape.width);
    if wide {
        let cut = fitted(height, shape.width, shape.height, width);
        ((width - cut) / 2, 0, cut, height)
    } else {
        let cut = fitted(width, shape.height, shape.width, height);
        (0, (height - cut) / 2, width, cut)
    }
}

/// Transparent pixels become white: pictures with a cut-out subject are drawn for light pages, often with dark
/// outlines, which black would swallow; and what the hidden pixels hold is arbitrary, so they can't stay.
fn over_white(image: &DynamicImage) -> DynamicImage {
    let rgba = image.to_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        let blend = |value: u8| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        to.0 = [blend(from[0]), blend(from[1]), blend(from[2])];
    }
    rgb.into()
}

/// The brightness of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B in 16 bits behind the point, as Pillow, OpenCV and TensorFlow have it;
/// the weights of the crate `image` are BT.709's.
fn grey(image: DynamicImage) -> GrayImage {
    if !image.color().has_color() {
        return image.into_luma8();
    }
    let rgb = image.into_rgb8();
    let weighed = |[red, green, blue]: [u8; 3]| {
        let sum = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue);
        ((sum + 0x8000) >> 16) as u8
    };
    GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| Luma([weighed(rgb.get_pixel(x, y).0)]))
}

/// Resizes and copies. The filter widens with the reduction, so all of the source counts, and is the bicubic of the
/// field. Digits of 16 pixels looked best with it: `Triangle` dims thin strokes, an area mean leaves them jagged.
fn scale<P>(image: ImageBuffer<P, Vec<u8>>, shape: Shape, slot: &mut [u8])
where
    P: Pixel<Subpixel = u8> + 'static,
{
    if image.dimensions() == (shape.width, shape.height) {
        return slot.copy_from_slice(image.as_raw());
    }
    let resized = imageops::resize(&image, shape.width, shape.height, FilterType::CatmullRom);
    slot.copy_from_slice(resized.as_raw());
}
