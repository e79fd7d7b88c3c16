//! A checkpoint: `config.json`, `scheduler_config.json`, `manifest.json`, `model_index.json`, the index of weights and the weights,
//! with a byte of 255 between them. A file of no bytes is not there.
#![no_main]

use std::fs;
use std::path::Path;

use diffuse::checkpoint::{
    CLASSIFIER, CONFIG, MODEL, PIPELINE, SCHEDULER, SchedulerConfig, classifier, load, manifest::MANIFEST,
};
use diffuse::error::Error;
use diffuse_fuzz::{BESIDE, begin, bounded, check_line, place, put};
use libfuzzer_sys::fuzz_target;

const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";

fuzz_target!(init: {
    begin();
    ["unet", "classifier"].iter().for_each(|name| fs::create_dir_all(place().join(name)).expect("a place"));
}, |bytes: &[u8]| {
    bounded(BESIDE, || {
        write("unet", [CONFIG, SCHEDULER, MANIFEST, PIPELINE, INDEX, MODEL], bytes);
        match load(&place().join("unet")) {
            Ok(checkpoint) => draw(&checkpoint.scheduler),
            Err(error) => check_line(&error),
        }
        write("classifier", [CONFIG, SCHEDULER, MANIFEST, PIPELINE, INDEX, CLASSIFIER], bytes);
        match classifier::load(&place().join("classifier")) {
            Ok(checkpoint) => draw(&checkpoint.scheduler),
            Err(error) => check_line(&error),
        }
    });
});

fn write(directory: &str, names: [&str; 6], bytes: &[u8]) {
    let mut parts = bytes.splitn(names.len(), |byte| *byte == 0xff);
    for name in names.map(|name| Path::new(directory).join(name)) {
        match parts.next() {
            Some(part) if !part.is_empty() => _ = put(name.to_str().expect("a path of ours"), part),
            _ => _ = fs::remove_file(place().join(name)),
        }
    }
}

/// What a sampler asks of a scheduler.
fn draw(scheduler: &SchedulerConfig) {
    let all = || {
        scheduler.schedule()?;
        scheduler.prediction()?;
        scheduler.for_diffusers()?;
        scheduler.variance()?;
        if let Some(kind) = scheduler.kind(None)? {
            let program = scheduler.sampler(kind, 10, None)?.program(&scheduler.schedule()?);
            program.map_err(|error| Error::Config(error.to_string()))?;
        }
        Ok::<(), Error>(())
    };
    all().unwrap_or_else(|error| check_line(&error));
}
