//! A classifier of noisy images: the U-Net's encoder half and attention pooling (Dhariwal & Nichol 2021, section 4.1).

use super::blocks::Skips;
use super::config::{Size, UNetConfig};
use super::encoder::{EncodedGradient, Encoder, EncoderSaved};
use super::layers::{Common, GroupNorm, Input, Linear, Segments, WHOLE};
use super::params::{Init, Layout, Params};
use crate::error::{Error, Result};
use crate::gpu::{Recorder, Tensor, Weight};
use crate::ops::attention;
use crate::ops::group_norm::{self, Norm};
use crate::ops::pool;

/// What a classifier is built of.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassifierConfig {
    /// The U-Net whose encoder half it is; `sample_size` must be given, `num_class_embeds` not.
    pub unet: UNetConfig,
    /// K, the classes that it tells apart.
    pub classes: u32,
}

/// Attention in which a token of its own gathers what the positions say; what it gathers, projected, are the logits
/// (guided-diffusion's `AttentionPool2d`).
struct AttentionPool {
    norm: GroupNorm,
    positions: Weight,
    to_qkv: Linear,
    to_logits: Linear,
    heads: u32,
    head_dim: u32,
    classes: u32,
}

struct PoolSaved {
    norm: group_norm::Saved,
    shape: [u32; 4],
    to_qkv: Input,
    core: attention::Saved,
    to_logits: Input,
}

/// The network: what it is built of, and where its parameters lie.
pub struct Classifier {
    pub config: ClassifierConfig,
    pub params: Params,
    encoder: Encoder,
    pool: AttentionPool,
}

/// What it says of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// [N, 1, 1, K].
    pub logits: Tensor,
    /// What the pooling token gathered, from which the logits are one linear layer away: [N, 1, heads, d].
    pub features: Tensor,
}

/// What backward needs of forward.
pub struct ClassifierSaved {
    encoder: EncoderSaved,
    pool: PoolSaved,
}

impl ClassifierConfig {
    /// Height and width of the images.
    ///
    /// # Errors
    /// [`Error::Config`] if `sample_size` is missing.
    pub fn sides(&self) -> Result<(u32, u32)> {
        let missing = || Error::Config("a classifier needs sample_size: its pooling knows each position".into());
        self.unet.sample_size.map(Size::sides).ok_or_else(missing)
    }
}

impl Classifier {
    /// Builds the network.
    ///
    /// # Errors
    /// [`Error::Config`] if the configuration asks for what can't be built.
    pub fn new(config: ClassifierConfig) -> Result<Classifier> {
        let unet = &config.unet;
        unet.validate()?;
        let (height, width) = config.sides()?;
        unet.validate_size(height, width)?;
        if unet.num_class_embeds.is_some() {
            return Err(Error::Config("a classifier isn't told the class: it has no num_class_embeds".into()));
        }
        let levels = unet.block_out_channels.len();
        let channels = unet.block_out_channels[levels - 1];
        if config.classes == 0 || config.classes > 1 << 16 || unet.head_dim(channels) > channels {
            let (classes, head) = (config.classes, unet.head_dim(channels));
            let problem = format!("{classes} classes, heads of {head} of {channels} channels: no such classifier");
            return Err(Error::Config(problem));
        }
        let mut params = Params::default();
        let (encoder, ()) = Encoder::new(&mut params, unet, Common::of(unet), |_, _| ());
        let positions = (height >> (levels - 1)) * (width >> (levels - 1));
        let pool = AttentionPool::new(&mut params, &config, channels, positions);
        Ok(Classifier { config, params, encoder, pool })
    }

    /// x: [N, H, W, in_channels], noisy images at `timestep`: f32 [1, 1, 1, N].
    pub fn forward(&self, r: &mut Recorder, x: Tensor, timestep: Tensor) -> (Verdict, ClassifierSaved) {
        let (encoded, encoder) = self.encoder.forward(r, x, timestep, None);
        let (verdict, pool) = r.scope("attention_pool", |r| self.pool.forward(r, encoded.h));
        (verdict, ClassifierSaved { encoder, pool })
    }

    /// Records the gradients of all parameters for the gradient `dlogits` of the logits.
    pub fn backward(&self, r: &mut Recorder, saved: ClassifierSaved, dlogits: Tensor) {
        let (encoder, gradient) = self.backward_pool(r, saved, dlogits);
        self.encoder.backward(r, encoder, gradient);
    }

    /// As [`Classifier::backward`]; gives the gradient with respect to x. Where it alone is wanted,
    /// [`crate::gpu::Recording::only`] leaves out the gradients of the parameters.
    pub fn backward_to_input(&self, r: &mut Recorder, saved: ClassifierSaved, dlogits: Tensor) -> Tensor {
        let (encoder, gradient) = self.backward_pool(r, saved, dlogits);
        self.encoder.backward_to_input(r, encoder, gradient)
    }

    fn backward_pool(
        &self,
        r: &mut Recorder,
        saved: ClassifierSaved,
        dlogits: Tensor,
    ) -> (EncoderSaved, EncodedGradient) {
        let projections = self.encoder.projections_gradient(r, dlogits.n());
        let h = r.scope("attention_pool", |r| self.pool.backward(r, saved.pool, dlogits));
        (saved.encoder, EncodedGradient { h, skips: Skips(None), projections })
    }
}

impl AttentionPool {
    fn new(params: &mut Params, config: &ClassifierConfig, channels: u32, positions: u32) -> AttentionPool {
        let unet = &config.unet;
        let head_dim = unet.head_dim(channels);
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        let norm = Norm { groups: unet.norm_num_groups, eps: unet.norm_eps, silu: true };
        let norm = GroupNorm::new(params, "attention_pool.group_norm", channels, norm);
        let shape = [positions as usize + 1, channels as usize];
        let name = "attention_pool.positional_embedding".into();
        let positions = params.add(name, &shape, Layout::Table, Init::FanIn(channels as usize));
        let to_qkv = Linear::query_key_value(params, "attention_pool", channels, heads, head_dim);
        let into = Segments { inputs: heads, ..WHOLE };
        let to_logits = Linear::new(params, "attention_pool.to_logits", inner, config.classes, into);
        AttentionPool { norm, positions, to_qkv, to_logits, heads, head_dim, classes: config.classes }
    }

    fn forward(&self, r: &mut Recorder, x: Tensor) -> (Verdict, PoolSaved) {
        let (normed, norm) = r.scope("group_norm", |r| self.norm.forward(r, x, None));
        let positions = r.weight(self.positions);
        let tokens = pool::tokens(r, normed, positions);
        let shape = [x.n(), tokens.height(), 3 * self.heads, self.head_dim];
        let (qkv, to_qkv) = r.scope("to_qkv", |r| self.to_qkv.forward(r, tokens, shape));
        let (o, core) = attention::forward(r, qkv);
        let features = pool::first(r, o);
        let logits_shape = [x.n(), 1, 1, self.classes];
        let (logits, to_logits) = r.scope("to_logits", |r| self.to_logits.forward(r, features, logits_shape));
        (Verdict { logits, features }, PoolSaved { norm, shape: x.shape, to_qkv, core, to_logits })
    }

    fn backward(&self, r: &mut Recorder, saved: PoolSaved, dlogits: Tensor) -> Tensor {
        let dfeatures = r.scope("to_logits", |r| self.to_logits.backward(r, saved.to_logits, dlogits));
        let tokens = saved.shape[1] * saved.shape[2] + 1;
        let d_o = pool::first_backward(r, dfeatures, tokens);
        let d_qkv = attention::backward(r, saved.core, d_o);
        let dtokens = r.scope("to_qkv", |r| self.to_qkv.backward(r, saved.to_qkv, d_qkv));
        let dpositions = r.grad(self.positions);
        let dnormed = pool::tokens_backward(r, dtokens, saved.shape, dpositions);
        r.scope("group_norm", |r| self.norm.backward(r, saved.norm, dnormed, None))
    }
}
