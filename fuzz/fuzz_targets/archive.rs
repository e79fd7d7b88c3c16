//! A tar archive, plain or gzipped: WebDataset's, or CIFAR's.
#![no_main]

use diffuse_fuzz::{begin, load, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| load(&put("x.tar", &with_sums(bytes))));

/// The archive with the sums of its headers put right, without which nothing behind them would be reached.
fn with_sums(bytes: &[u8]) -> Vec<u8> {
    let (mut bytes, mut at) = (bytes.to_vec(), 0);
    while let Some(header) = bytes.get_mut(at..at + 512).filter(|header| header.iter().any(|byte| *byte != 0)) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let length = header[124..136].iter().filter(|byte| (b'0'..=b'7').contains(byte));
        let length = length.fold(0_usize, |length, digit| length << 3 | usize::from(digit - b'0'));
        let Some(next) = length.checked_next_multiple_of(512).and_then(|length| at.checked_add(512 + length)) else {
            break;
        };
        at = next;
    }
    bytes
}
