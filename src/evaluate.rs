//! What a trained model is worth.

pub mod accuracy;
pub mod levels;
pub mod likelihood;
pub mod membership;
pub mod quality;
pub mod spectrum;
pub mod statistics;
pub mod structure;

use crate::data::Dataset;
use crate::picture::Images;

/// The first `count` images of a data set with values in [-1, 1].
pub fn images_of(data: &Dataset, count: usize) -> Images {
    let count = count.min(data.len());
    let bytes = data.images.len() / data.len().max(1);
    Images {
        values: data.images[..count * bytes].iter().map(|byte| *byte as f32 / 127.5 - 1.0).collect(),
        count,
        height: data.height as usize,
        width: data.width as usize,
        channels: data.channels as usize,
    }
}
