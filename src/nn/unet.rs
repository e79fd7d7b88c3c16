//! diffusers' `UNet2DModel`: the denoising network of Ho et al. (2020), with their tensor names.

use super::blocks::{Skips, UpBlock, UpSaved, build_up};
use super::config::UNetConfig;
use super::encoder::{EncodedGradient, Encoder, EncoderSaved};
use super::layers::{Common, Conv2d, GroupNorm, Input};
use super::params::Params;
use crate::error::Result;
use crate::gpu::{Recorder, Tensor};
use crate::ops::conv2d::Geometry;
use crate::ops::group_norm::{self, Norm};

/// The network: what it is built of, and where its parameters lie.
pub struct UNet {
    pub config: UNetConfig,
    pub params: Params,
    encoder: Encoder,
    up: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// What backward needs of forward.
pub struct UNetSaved {
    encoder: EncoderSaved,
    up: Vec<UpSaved>,
    conv_norm_out: group_norm::Saved,
    conv_out: Input,
}

impl UNet {
    /// Builds the network; parameters are in the order of PyTorch's modules.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if the configuration asks for what can't be built.
    pub fn new(config: UNetConfig) -> Result<UNet> {
        config.validate()?;
        let mut params = Params::default();
        let first = config.block_out_channels[0];
        let common = Common::of(&config);
        let (encoder, up) =
            Encoder::new(&mut params, &config, common, |params, skips| build_up(params, &config, common, skips));
        let norm = Norm { groups: config.norm_num_groups, eps: config.norm_eps, silu: true };
        let conv_norm_out = GroupNorm::new(&mut params, "conv_norm_out", first, norm);
        let conv_out = Conv2d::new(&mut params, "conv_out", first, config.out_channels, 3, Geometry::same(3));
        Ok(UNet { config, params, encoder, up, conv_norm_out, conv_out })
    }

    /// Whether the network is told a class.
    pub fn is_conditional(&self) -> bool {
        self.config.num_class_embeds.is_some()
    }

    /// x: [N, H, W, in_channels], timestep: f32 [1, 1, 1, N], labels: u32 [1, 1, 1, N] if the network is conditional.
    /// Gives [N, H, W, out_channels].
    pub fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        timestep: Tensor,
        labels: Option<Tensor>,
    ) -> (Tensor, UNetSaved) {
        let (encoded, encoder) = self.encoder.forward(r, x, timestep, labels);
        let (mut h, mut skips, projections) = (encoded.h, encoded.skips, encoded.projections);
        let mut up = Vec::new();
        for (level, block) in self.up.iter().enumerate() {
            let (out, saved) = r.scope(&format!("up.{level}"), |r| block.forward(r, h, projections, &mut skips));
            h = out;
            up.push(saved);
        }
        let (h, conv_norm_out) = r.scope("conv_norm_out", |r| self.conv_norm_out.forward(r, h, None));
        let (y, conv_out) = r.scope("conv_out", |r| self.conv_out.forward(r, h));
        (y, UNetSaved { encoder, up, conv_norm_out, conv_out })
    }

    /// Records the gradients of all parameters for the gradient `dy` of the output.
    pub fn backward(&self, r: &mut Recorder, saved: UNetSaved, dy: Tensor) {
        let (encoder, gradient) = self.backward_up(r, saved, dy);
        self.encoder.backward(r, encoder, gradient);
    }

    /// As [`UNet::backward`]; gives the gradient with respect to x. Where it alone is wanted,
    /// [`crate::gpu::Recording::only`] leaves out the gradients of the parameters.
    pub fn backward_to_input(&self, r: &mut Recorder, saved: UNetSaved, dy: Tensor) -> Tensor {
        let (encoder, gradient) = self.backward_up(r, saved, dy);
        self.encoder.backward_to_input(r, encoder, gradient)
    }

    fn backward_up(&self, r: &mut Recorder, saved: UNetSaved, dy: Tensor) -> (EncoderSaved, EncodedGradient) {
        let projections = self.encoder.projections_gradient(r, dy.n());
        let h = r.scope("conv_norm_out", |r| self.conv_norm_out.output(r, &saved.conv_norm_out, saved.conv_out));
        let dh = r.scope("conv_out", |r| self.conv_out.backward(r, h, dy));
        let mut dh = r.scope("conv_norm_out", |r| self.conv_norm_out.backward(r, saved.conv_norm_out, dh, None));
        let mut dskips = Vec::new();
        for (level, (block, saved)) in self.up.iter().zip(saved.up).enumerate().rev() {
            dh = r.scope(&format!("up.{level}"), |r| block.backward(r, saved, dh, &mut dskips, projections));
        }
        (saved.encoder, EncodedGradient { h: dh, skips: Skips(Some(dskips)), projections })
    }
}
