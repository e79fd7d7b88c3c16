//! Models that come with the program.

use super::config::Size;
use super::config::UNetConfig;
use crate::error::{Error, Result};

type Preset = (&'static str, fn() -> UNetConfig);

const PRESETS: [Preset; 4] =
    [("digits", digits), ("mnist", || grey(28, [32, 64, 64])), ("base", base), ("cifar10", cifar10)];

/// All names, as a sentence lists them.
pub fn preset_names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

/// The model called `name`.
///
/// # Errors
/// [`Error::Config`] lists the presets.
pub fn preset(name: &str) -> Result<UNetConfig> {
    let found = PRESETS.iter().find(|(own, _)| *own == name);
    let (_, model) = found.ok_or_else(|| Error::Config(format!("no preset {name}; there are {}", preset_names())))?;
    Ok(model())
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(String::from).to_vec()
}

fn grey(side: u32, channels: [u32; 3]) -> UNetConfig {
    UNetConfig {
        sample_size: Some(Size::Square(side)),
        in_channels: 1,
        out_channels: 1,
        layers_per_block: 1,
        norm_num_groups: 8,
        block_out_channels: channels.into(),
        down_block_types: names(["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: names(["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]),
        ..UNetConfig::default()
    }
}

/// The preset `digits`: ten classes and the null class of guidance.
pub fn digits() -> UNetConfig {
    UNetConfig { num_class_embeds: Some(11), ..grey(16, [16, 32, 32]) }
}

fn base() -> UNetConfig {
    UNetConfig {
        sample_size: Some(Size::Square(32)),
        block_out_channels: vec![64, 128, 128, 128],
        down_block_types: names(["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        up_block_types: names(["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
        ..UNetConfig::default()
    }
}

/// google/ddpm-cifar10-32.
fn cifar10() -> UNetConfig {
    UNetConfig {
        block_out_channels: vec![128, 256, 256, 256],
        flip_sin_to_cos: false,
        freq_shift: 1.0,
        norm_eps: 1e-6,
        attention_head_dim: None,
        downsample_padding: 0,
        ..base()
    }
}
