//! Single pictures and masks. What is right is what Pillow 12 reads.

use std::io::Write as _;

use diffuse::data::{load_image, load_mask};
use flate2::write::ZlibEncoder;
use image::{GrayAlphaImage, LumaA};

use super::*;

/// A PNG of these chunks between header and pixels; `rows` have their filter byte.
fn png([width, height]: [u32; 2], depth: u8, colour: u8, chunks: &[(&[u8; 4], &[u8])], rows: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut add = |name: &[u8; 4], content: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(name);
        crc.update(content);
        let length = (content.len() as u32).to_be_bytes();
        bytes.extend([&length[..], name, content, &crc.sum().to_be_bytes()].concat());
    };
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    add(b"IHDR", &header);
    chunks.iter().for_each(|(name, content)| add(name, content));
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(rows).unwrap();
    add(b"IDAT", &encoder.finish().unwrap());
    add(b"IEND", &[]);
    bytes
}

fn read(bytes: &[u8], shape: [u32; 3]) -> Vec<u8> {
    let set = directory(&[("a.png", bytes)]);
    load_image(&set.path().join("a.png"), shape).unwrap().bytes
}

#[test]
fn palettes_and_their_transparency_are_resolved() {
    let palette = [230, 60, 40, 40, 90, 220, 1, 2, 3];
    let opaque = png([3, 1], 8, 3, &[(b"PLTE", &palette)], &[0, 0, 1, 2]);
    assert_eq!(read(&opaque, [1, 3, 3]), palette);
    let clear = png([3, 1], 8, 3, &[(b"PLTE", &palette), (b"tRNS", &[0, 255])], &[0, 0, 1, 2]);
    assert_eq!(read(&clear, [1, 3, 3]), [255, 255, 255, 40, 90, 220, 1, 2, 3]);
    // Two bits an index.
    let packed = png([3, 1], 2, 3, &[(b"PLTE", &palette)], &[0, 0b00_01_10_00]);
    assert_eq!(read(&packed, [1, 3, 3]), palette);
}

#[test]
fn deep_greys_keep_their_share_of_the_range() {
    let ramp: Vec<u8> = std::iter::once(0).chain((0..16_u16).flat_map(|i| (i * 4369).to_be_bytes())).collect();
    assert_eq!(read(&png([16, 1], 16, 0, &[], &ramp), [1, 16, 1]), (0..16).map(|i| i * 17).collect::<Vec<u8>>());
    let bits = png([8, 1], 1, 0, &[], &[0, 0b1010_0001]);
    assert_eq!(read(&bits, [1, 8, 1]), [255, 0, 255, 0, 0, 0, 0, 255]);
}

/// The mask that `image` makes of 4x4 for a picture of `picture` pixels, height and width.
fn mask(image: impl Into<DynamicImage>, picture: [u32; 2]) -> Result<Vec<u8>, String> {
    let set = directory(&[("m.png", &encode(image, ImageFormat::Png))]);
    load_mask(&set.path().join("m.png"), [4, 4, 1], picture).map_err(|error| error.to_string())
}

#[test]
fn masks_keep_what_is_black_or_transparent() {
    let grey = GrayImage::from_fn(4, 4, |x, _| Luma([[0, 100, 128, 255][x as usize]]));
    assert_eq!(mask(grey, [4, 4]).unwrap(), [0, 100, 128, 255].repeat(4));
    let clear =
        GrayAlphaImage::from_fn(4, 4, |x, _| LumaA([[255, 255, 100, 0][x as usize], [0, 51, 255, 255][x as usize]]));
    assert_eq!(mask(clear, [4, 4]).unwrap(), [0, 51, 100, 0].repeat(4));
    let set = directory(&[("m.png", &encode(GrayImage::from_pixel(4, 4, Luma([7])), ImageFormat::Png))]);
    assert_eq!(load_mask(&set.path().join("m.png"), [4, 4, 3], [4, 4]).unwrap(), [7; 48]);
}

#[test]
fn masks_are_cut_and_scaled_as_the_picture_is() {
    // White from column 20 on: of the square in the middle, columns 5 to 34, the right half.
    let half =
        |width, height, from| GrayImage::from_fn(width, height, move |x, _| Luma([if x >= from { 255 } else { 0 }]));
    let near = |(value, expected): (&u8, u8)| value.abs_diff(expected) <= 1;
    let right = |mask: Vec<u8>| mask.chunks(4).all(|row| row.iter().zip([0, 32, 223, 255]).all(near));
    assert!(right(mask(half(40, 30, 20), [30, 40]).unwrap()));
    // Twice as large, in the same proportions.
    assert!(right(mask(half(80, 60, 40), [30, 40]).unwrap()));
    // As large as the model's images.
    assert_eq!(mask(half(4, 4, 2), [30, 40]).unwrap(), [0, 0, 255, 255].repeat(4));
    let error = mask(half(30, 30, 15), [30, 40]).unwrap_err();
    assert!(error.contains("30 x 30 pixels; the picture has 40 x 30, the model 4 x 4"), "{error}");
}

#[test]
fn masks_are_at_most_four_times_as_large_as_what_they_lie_on() {
    let white = |width, height| GrayImage::from_pixel(width, height, Luma([255]));
    assert_eq!(mask(white(160, 120), [30, 40]).unwrap(), [255; 16]);
    for (image, picture, side) in [(white(164, 123), [30, 40], 160), (white(20, 20), [2, 2], 16)] {
        let error = mask(image, picture).unwrap_err();
        let line = format!("m.png: a mask larger than {side} pixels a side, 4 times the picture's and the model's, or");
        assert!(error.contains(&line) && error.ends_with("of them: scale it down"), "{error}");
    }
}

#[test]
fn the_size_of_a_picture_is_told() {
    let set = directory(&[("a.png", &encode(GrayImage::new(40, 30), ImageFormat::Png))]);
    let picture = load_image(&set.path().join("a.png"), [8, 8, 3]).unwrap();
    assert_eq!((picture.changes.largest, picture.bytes.len()), ([30, 40], 192));
}
