//! diffusers' `config.json` of a `UNet2DModel`.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One number, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a whole number of pixels, or [height, width]")]
pub enum Size {
    Square(u32),
    Sides([u32; 2]),
}

impl Size {
    /// (height, width).
    pub fn sides(self) -> (u32, u32) {
        match self {
            Size::Square(side) => (side, side),
            Size::Sides([height, width]) => (height, width),
        }
    }
}

/// As it is typed: `64`, or height and width, `48x64`.
impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Size, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=MOST_PIXELS).contains(side));
        let size = match text.split_once(['x', 'X']) {
            Some((height, width)) if height == width => side(width).map(Size::Square),
            Some((height, width)) => side(height).zip(side(width)).map(|(height, width)| Size::Sides([height, width])),
            None => side(text).map(Size::Square),
        };
        size.ok_or_else(|| format!("a size is a whole number of pixels up to {MOST_PIXELS}, or HEIGHTxWIDTH"))
    }
}

/// Longest side that can be asked for.
const MOST_PIXELS: u32 = 1 << 14;

/// Keys, meanings and defaults of diffusers' `UNet2DModel`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UNetConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub sample_size: Option<Size>,
    pub in_channels: u32,
    pub out_channels: u32,
    pub center_input_sample: bool,
    pub time_embedding_type: String,
    pub time_embedding_dim: Option<u32>,
    pub freq_shift: f32,
    pub flip_sin_to_cos: bool,
    pub down_block_types: Vec<String>,
    pub mid_block_type: Option<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<u32>,
    pub layers_per_block: u32,
    pub mid_block_scale_factor: f32,
    pub downsample_padding: u32,
    pub downsample_type: String,
    pub upsample_type: String,
    /// How much is dropped in training, which is not done here; nothing is when images are drawn.
    pub dropout: f32,
    pub act_fn: String,
    pub attention_head_dim: Option<u32>,
    pub norm_num_groups: u32,
    pub attn_norm_num_groups: Option<u32>,
    pub norm_eps: f32,
    pub resnet_time_scale_shift: String,
    pub class_embed_type: Option<String>,
    pub num_class_embeds: Option<u32>,
    pub add_attention: bool,
    pub num_train_timesteps: Option<u32>,
}

impl Default for UNetConfig {
    fn default() -> UNetConfig {
        let names = |names: [&str; 4]| names.map(String::from).to_vec();
        UNetConfig {
            class_name: "UNet2DModel".into(),
            sample_size: None,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: "positional".into(),
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: names(["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"]),
            mid_block_type: Some("UNetMidBlock2D".into()),
            up_block_types: names(["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: "conv".into(),
            upsample_type: "conv".into(),
            dropout: 0.0,
            act_fn: "silu".into(),
            attention_head_dim: Some(8),
            norm_num_groups: 32,
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: "default".into(),
            class_embed_type: None,
            num_class_embeds: None,
            add_attention: true,
            num_train_timesteps: None,
        }
    }
}

const DOWN: [&str; 2] = ["DownBlock2D", "AttnDownBlock2D"];
const UP: [&str; 2] = ["UpBlock2D", "AttnUpBlock2D"];

fn refuse<T>(problem: String) -> Result<T> {
    Err(Error::Config(problem))
}

/// `key` must be one of `accepted`.
fn one_of(key: &str, value: &str, accepted: &[&str]) -> Result<()> {
    if accepted.contains(&value) {
        return Ok(());
    }
    refuse(format!("{key} is {value:?}; this program builds {}", accepted.join(", ")))
}

impl UNetConfig {
    /// The attention block's channels of one head, for a block of `channels`.
    pub fn head_dim(&self, channels: u32) -> u32 {
        self.attention_head_dim.unwrap_or(channels)
    }

    /// Width of the time embedding.
    pub fn embedding(&self) -> u32 {
        self.time_embedding_dim.unwrap_or(4 * self.block_out_channels[0])
    }

    /// Groups of the norm in the middle block's attention; `None` is no norm, as diffusers has it.
    pub fn mid_attention_groups(&self) -> Option<u32> {
        self.attn_norm_num_groups.or((!self.scale_shift()).then_some(self.norm_num_groups))
    }

    /// Whether the time embedding scales and shifts the second norm, instead of being added before it.
    pub fn scale_shift(&self) -> bool {
        self.resnet_time_scale_shift == "scale_shift"
    }

    /// Whether all that the keys ask for can be built.
    ///
    /// # Errors
    /// [`Error::Config`] names the key and what is accepted.
    pub fn validate(&self) -> Result<()> {
        one_of("_class_name", &self.class_name, &["UNet2DModel"])?;
        one_of("time_embedding_type", &self.time_embedding_type, &["positional"])?;
        one_of("downsample_type", &self.downsample_type, &["conv"])?;
        one_of("upsample_type", &self.upsample_type, &["conv"])?;
        one_of("act_fn", &self.act_fn, &["silu", "swish"])?;
        one_of("resnet_time_scale_shift", &self.resnet_time_scale_shift, &["default", "scale_shift"])?;
        one_of("mid_block_type", self.mid_block_type.as_deref().unwrap_or("UNetMidBlock2D"), &["UNetMidBlock2D"])?;
        self.down_block_types.iter().try_for_each(|name| one_of("down_block_types", name, &DOWN))?;
        self.up_block_types.iter().try_for_each(|name| one_of("up_block_types", name, &UP))?;
        if let Some(kind) = &self.class_embed_type {
            return refuse(format!("class_embed_type {kind:?} is not built here; num_class_embeds is (an embedding)"));
        }
        if self.downsample_padding > 1 {
            return refuse(format!("downsample_padding is {}; it can be 0 or 1", self.downsample_padding));
        }
        self.validate_numbers()
    }

    fn validate_numbers(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if levels == 0 || self.down_block_types.len() != levels || self.up_block_types.len() != levels {
            return refuse(format!(
                "block_out_channels has {levels} entries, down_block_types {}, up_block_types {}: one each a level",
                self.down_block_types.len(),
                self.up_block_types.len()
            ));
        }
        let counts = [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("layers_per_block", self.layers_per_block),
            ("norm_num_groups", self.norm_num_groups),
            ("attention_head_dim", self.attention_head_dim.unwrap_or(1)),
            ("attn_norm_num_groups", self.attn_norm_num_groups.unwrap_or(1)),
            ("num_class_embeds", self.num_class_embeds.unwrap_or(1)),
            ("time_embedding_dim", self.time_embedding_dim.unwrap_or(1)),
        ];
        for (key, value) in counts.into_iter().chain(self.block_out_channels.iter().map(|c| ("block_out_channels", *c)))
        {
            if value == 0 || value > 1 << 16 {
                return refuse(format!("{key} is {value}; it must be 1 to 65536"));
            }
        }
        if !(self.norm_eps > 0.0 && self.norm_eps.is_finite()) || self.mid_block_scale_factor == 0.0 {
            return refuse("norm_eps must be positive and mid_block_scale_factor not 0".into());
        }
        if self.block_out_channels[0] / 2 <= self.freq_shift as u32 {
            return refuse(format!(
                "freq_shift {} needs more channels than {}",
                self.freq_shift, self.block_out_channels[0]
            ));
        }
        if self.layers_per_block > 64 || levels > 16 {
            return refuse("more than 64 layers_per_block or 16 levels is no U-Net".into());
        }
        self.validate_groups()
    }

    /// Every norm's channels must divide by its groups, and every head must fit.
    fn validate_groups(&self) -> Result<()> {
        let channels = &self.block_out_channels;
        let mut normed: Vec<u32> = channels.clone();
        let mut skips = vec![channels[0]];
        for (level, c) in channels.iter().enumerate() {
            skips.extend(std::iter::repeat_n(*c, self.layers_per_block as usize));
            if level + 1 < channels.len() {
                skips.push(*c);
            }
        }
        let mut current = channels[channels.len() - 1];
        for c in channels.iter().rev() {
            for _ in 0..=self.layers_per_block {
                normed.push(current + skips.pop().unwrap_or(0));
                current = *c;
            }
        }
        for c in normed {
            if !c.is_multiple_of(self.norm_num_groups) {
                return refuse(format!(
                    "norm_num_groups {} does not divide {c} channels (from block_out_channels {channels:?})",
                    self.norm_num_groups
                ));
            }
        }
        let last = channels[channels.len() - 1];
        if self.mid_attention_groups().is_some_and(|groups| !last.is_multiple_of(groups)) {
            return refuse(format!("attn_norm_num_groups does not divide {last} channels"));
        }
        let attends = |types: &[String], level: usize| types[level].starts_with("Attn");
        for (level, c) in channels.iter().enumerate() {
            let used = attends(&self.down_block_types, level)
                || attends(&self.up_block_types, channels.len() - 1 - level)
                || (level + 1 == channels.len() && self.add_attention && self.mid_block_type.is_some());
            if used && self.head_dim(*c) > *c {
                return refuse(format!("attention_head_dim {} is more than {c} channels", self.head_dim(*c)));
            }
        }
        Ok(())
    }

    /// Whether half of the output's channels say the variance of the reverse step (Nichol & Dhariwal 2021, section 3.1).
    pub fn learns_variance(&self) -> bool {
        self.out_channels == 2 * self.in_channels
    }

    /// Whether the output is of an image like the input, with or without a learned variance.
    ///
    /// # Errors
    /// [`Error::Config`] if it has other channels.
    pub fn validate_denoiser(&self) -> Result<()> {
        if self.out_channels == self.in_channels || self.learns_variance() {
            return Ok(());
        }
        let (inputs, outputs) = (self.in_channels, self.out_channels);
        Err(Error::Config(format!(
            "a model of {inputs} channels in and {outputs} out is no denoiser: it takes as many, or twice as many"
        )))
    }

    /// Whether half of what it puts out says a variance.
    ///
    /// # Errors
    /// [`Error::Config`] if it does not.
    pub fn validate_variance(&self) -> Result<()> {
        if self.learns_variance() {
            return Ok(());
        }
        let outputs = self.out_channels;
        Err(Error::Config(format!(
            "this checkpoint has no learned variance (out_channels {outputs}): take --variance fixed-small or fixed-large"
        )))
    }

    /// Whether images of `height` x `width` can be halved at every level.
    ///
    /// # Errors
    /// [`Error::Config`] says which sizes can.
    pub fn validate_size(&self, height: u32, width: u32) -> Result<()> {
        let factor = 1 << (self.block_out_channels.len() - 1);
        if height == 0 || width == 0 || !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            return refuse(format!(
                "{height}x{width} images can't be halved at each of {} levels; height and width must be multiples of {factor}",
                self.block_out_channels.len() - 1
            ));
        }
        Ok(())
    }
}
