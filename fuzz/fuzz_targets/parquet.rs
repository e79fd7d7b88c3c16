//! A Parquet table.
#![no_main]

use diffuse_fuzz::{begin, load, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| load(&put("x.parquet", bytes)));
