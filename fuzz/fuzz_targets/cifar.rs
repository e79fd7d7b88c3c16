//! CIFAR's binary files: one of ten classes with their names, and the same bytes as one of a hundred.
#![no_main]

use std::fs;

use diffuse_fuzz::{begin, load, place, put, two};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: {
    begin();
    ["ten", "hundred"].iter().for_each(|name| fs::create_dir_all(place().join(name)).expect("a place"));
}, |bytes: &[u8]| {
    let (names, records) = two(bytes);
    put("ten/batches.meta.txt", names);
    put("ten/data_batch_1.bin", records);
    put("ten/test_batch.bin", records);
    load(&place().join("ten"));
    put("hundred/fine_label_names.txt", names);
    put("hundred/train.bin", records);
    load(&place().join("hundred"));
});
