//! What `diffuse tune --out FILE` writes, and an earlier profile.
#![no_main]

use diffuse_fuzz::{BESIDE, begin, bounded, check_line, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let path = put("tuned.json", bytes);
    bounded(BESIDE, || {
        if let Err(error) = diffuse::tune::read_for("a", "b", &path) {
            check_line(&error);
        }
        match diffuse::profile::compare::read(&path) {
            Ok(report) => _ = diffuse::profile::compare::compare(&report, &report),
            Err(error) => check_line(&error),
        }
    });
});
