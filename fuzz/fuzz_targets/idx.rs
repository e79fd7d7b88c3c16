//! IDX files, of images and of labels, plain or gzipped.
#![no_main]

use diffuse_fuzz::{begin, load, place, put, two};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let (images, labels) = two(bytes);
    put("train-images-idx3-ubyte", images);
    put("train-labels-idx1-ubyte", labels);
    load(place());
});
