//! Modules with forward and backward: diffusers' `UNet2DModel`, and the classifier that shares its encoder.
//!
//! The call stack is the tape: `forward` returns what `backward` will need, `backward` consumes it, so that it can't
//! run twice; sampling drops it, and activations die early.

pub mod blocks;
pub mod classifier;
pub mod config;
pub mod encoder;
pub mod layers;
pub mod params;
mod presets;
pub mod unet;

pub use classifier::{Classifier, ClassifierConfig};
pub use config::UNetConfig;
pub use params::Params;
pub use presets::{digits, preset, preset_names};
pub use unet::UNet;
