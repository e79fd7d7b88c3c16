//! The file in which decoded images of a folder are kept: of two thousand that are empty, which takes no time to decode.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use diffuse::data::{Want, load};
use diffuse_fuzz::{BESIDE, LIMIT, begin, bounded, check_line, place};
use libfuzzer_sys::fuzz_target;

fn read() {
    let folder = place().join("folder");
    let want = Want::of(Some((1, 1)), 1).limited(LIMIT as u64);
    match load(folder.to_str().expect("a path of ours"), &want) {
        Ok(data) => assert_eq!(data.images.len(), data.len()),
        Err(error) => check_line(&error),
    }
}

/// All that a first input would wait for.
fn prepare() {
    begin();
    LazyLock::force(&KEPT);
}

/// The file.
static KEPT: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = place().join("folder");
    fs::create_dir_all(&folder).expect("a place");
    (0..2000).for_each(|number| fs::write(folder.join(format!("{number}.png")), "").expect("room"));
    read();
    let entries = fs::read_dir(place().join("cache/data")).expect("a cache");
    let is_kept = |path: &PathBuf| path.extension() == Some(Path::new("images").as_os_str());
    entries.flatten().map(|entry| entry.path()).find(is_kept).expect("two thousand files are kept")
});

fuzz_target!(init: prepare(), |bytes: &[u8]| {
    fs::write(&*KEPT, bytes).expect("room");
    bounded(LIMIT + BESIDE, read);
});
