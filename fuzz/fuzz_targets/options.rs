//! The file of `--config`, which `--model` may be given, too.
#![no_main]

use diffuse::checkpoint::{read_config, read_json};
use diffuse::nn::UNet;
use diffuse::run::TrainOptions;
use diffuse_fuzz::{BESIDE, begin, bounded, check_line, put};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: begin(), |bytes: &[u8]| {
    let path = put("options.json", bytes);
    bounded(BESIDE, || {
        match read_json::<TrainOptions>(&path) {
            Ok(options) => match options.validate() {
                Ok(()) => {
                    for step in [0, options.steps] {
                        assert!(options.learning_rate_at(step).is_finite() && options.ema_decay_at(step) < 1.0);
                    }
                    options.sampler();
                }
                Err(error) => check_line(&error),
            },
            Err(error) => check_line(&error),
        }
        match read_config(&path).and_then(UNet::new) {
            Ok(unet) => assert!(unet.params.count() <= unet.params.elements),
            Err(error) => check_line(&error),
        }
    });
});
