//! A safetensors file: of weights, of noise, of samples.
#![no_main]

use diffuse_fuzz::{BESIDE, begin, bounded, check_line, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let path = put("x.safetensors", bytes);
    bounded(BESIDE, || match diffuse::tensors::read(&path) {
        Ok(tensors) => {
            for tensor in tensors.values() {
                assert_eq!(tensor.values.len(), tensor.shape.iter().product::<usize>());
                if let Some((images, sides)) = tensor.to_images() {
                    assert_eq!(images.len(), sides.iter().product::<usize>());
                }
            }
        }
        Err(error) => check_line(&error),
    });
});
