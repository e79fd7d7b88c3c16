//! One picture, PNG, JPEG, GIF, WebP, BMP or TIFF: as a folder of images and as a mask.
#![no_main]

use diffuse::data::{Want, load, load_mask};
use diffuse_fuzz::{BESIDE, begin, bounded, check_line, place, put};
use libfuzzer_sys::fuzz_target;

/// The most bytes of a decoded picture.
const LIMIT: usize = 4 << 20;
/// How many times that are held at once: a decoder's own planes, copies in other colours, and the part that is scaled.
const COPIES: usize = 8;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let path = put("x.png", bytes);
    let folder = place().to_str().expect("a path of ours");
    bounded(COPIES * LIMIT + BESIDE, || {
        match load(folder, &Want::of(Some((8, 8)), 3).limited(LIMIT as u64)) {
            Ok(data) => assert_eq!(data.images.len(), 8 * 8 * 3),
            Err(error) => check_line(&error),
        }
        if let Err(error) = load_mask(&path, [8, 8, 1], [8, 8]) {
            check_line(&error);
        }
    });
});
