//! Private training, proved by replay: with and without an image, all else and all that is drawn in secret being the same, sums differ
//! by at most the clipping norm; and each way to get that wrong is noticed.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod runs;
mod steps;

use common::{model, options};
use diffuse::nn::{Params, UNet};
use diffuse::run::TrainOptions;

/// Of a step with so many places and draws, clipped at `clip`.
fn private(places: u32, draws: u32, clip: f64) -> TrainOptions {
    TrainOptions {
        dp_noise: Some(1.5),
        dp_delta: Some(1e-3),
        dp_clip: Some(clip),
        dp_draws: Some(draws),
        dp_places: Some(places),
        dp_seed: Some(9),
        ..options(100, 4, 1)
    }
}

fn params(options: &TrainOptions) -> Params {
    UNet::new(options.model.clone()).expect("a valid model").params
}
