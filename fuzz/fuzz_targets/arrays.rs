//! NumPy's arrays: one alone, or those of an `.npz`.
#![no_main]

use diffuse_fuzz::{begin, load, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    load(&put(if bytes.starts_with(b"PK") { "x.npz" } else { "x.npy" }, bytes));
});
