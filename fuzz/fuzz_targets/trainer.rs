//! The trainer's own state, with a manifest before it or none, as `--resume` finds it.
#![no_main]

use std::fs;

use diffuse::train::{Stored, saw_one_data_set};
use diffuse_fuzz::{BESIDE, begin, bounded, check_line, place, put, two};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: {
    begin();
    fs::create_dir_all(place().join("run/checkpoint")).expect("a place");
}, |bytes: &[u8]| {
    let (manifest, state) = two(bytes);
    put("run/checkpoint/trainer.json", state);
    match manifest {
        [] => _ = fs::remove_file(place().join("run/checkpoint/manifest.json")),
        _ => _ = put("run/checkpoint/manifest.json", manifest),
    }
    bounded(BESIDE, || {
        saw_one_data_set(&place().join("run/checkpoint"));
        match Stored::find(&place().join("run")) {
            Ok(Some(stored)) => {
                let options = stored.in_its_words(stored.options().clone());
                options.validate().unwrap_or_else(|error| check_line(&error));
            }
            Ok(None) => panic!("a run was there"),
            Err(error) => check_line(&error),
        }
    });
});
