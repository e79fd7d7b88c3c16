//! The half of a U-Net that looks at an image: time embedding, way down, middle.

use super::blocks::{DownBlock, DownSaved, Layer, LayerSaved, Skips, build_down};
use super::config::UNetConfig;
use super::layers::{Attention, Common, Conv2d, Heads, Input, Linear, ResnetBlock, WHOLE};
use super::params::{Init, Joined, Layout, Params};
use crate::gpu::{Recorder, Tensor, Weight};
use crate::ops::conv2d::Geometry;
use crate::ops::matrix::Addend;
use crate::ops::{add, embed, reduce};

/// Weights that one dispatch narrows: a binding of 64 MiB.
const MOST_NARROWED: u64 = 1 << 24;

/// Two residual blocks with attention between them.
struct MidBlock {
    first: Layer,
    second: Layer,
}

/// The U-Net up to its middle, which a classifier shares.
pub struct Encoder {
    config: UNetConfig,
    conv_in: Conv2d,
    time_linear_1: Linear,
    time_linear_2: Linear,
    class_embedding: Option<Weight>,
    /// What each residual block reads of the embedding, side by side.
    projections: Linear,
    down: Vec<DownBlock>,
    mid: Option<MidBlock>,
}

/// What backward needs of forward.
pub struct EncoderSaved {
    conv_in: Input,
    embedding: EmbeddingSaved,
    down: Vec<DownSaved>,
    mid: Option<(LayerSaved, LayerSaved)>,
}

struct EmbeddingSaved {
    linear_1: Input,
    linear_2: Input,
    /// Of the classes, if there are any.
    class: Addend,
    projections: Input,
    labels: Option<Tensor>,
}

/// What the encoder makes of a batch.
pub struct Encoded {
    /// The middle: [N, H / f, W / f, C], f = 2^(levels - 1), C the last of `block_out_channels`.
    pub h: Tensor,
    /// The outputs on the way down, in order.
    pub skips: Vec<Tensor>,
    /// Of the embedding of time and class, for all residual blocks: [N, 1, 1, channels].
    pub projections: Tensor,
}

/// The gradient of what the encoder made.
pub struct EncodedGradient {
    pub h: Tensor,
    pub skips: Skips,
    pub projections: Tensor,
}

impl Encoder {
    /// Adds the encoder's parameters, in the order of PyTorch's modules. `rest` adds those behind it, given the channels of the
    /// encoder's skips; its residual blocks add their projections to the others.
    pub fn new<T>(
        params: &mut Params,
        config: &UNetConfig,
        common: Common,
        rest: impl FnOnce((&mut Params, &mut Joined), Vec<u32>) -> T,
    ) -> (Encoder, T) {
        let first = config.block_out_channels[0];
        let conv_in = Conv2d::new(params, "conv_in", config.in_channels, first, 3, Geometry::same(3));
        let e = common.embedding;
        let time_linear_1 = Linear::new(params, "time_embedding.linear_1", first, e, WHOLE);
        let time_linear_2 = Linear::new(params, "time_embedding.linear_2", e, e, WHOLE);
        let class_embedding = config.num_class_embeds.map(|classes| {
            let shape = [classes as usize, e as usize];
            params.add("class_embedding.weight".into(), &shape, Layout::Table, Init::Normal)
        });
        let mut projections = Joined::default();
        let (down, skips) = build_down((&mut *params, &mut projections), config, common);
        let mid = config.mid_block_type.as_ref().map(|_| build_mid((&mut *params, &mut projections), config, common));
        let rest = rest((&mut *params, &mut projections), skips);
        let projections = Linear::joined(params, projections);
        let config = config.clone();
        (Encoder { config, conv_in, time_linear_1, time_linear_2, class_embedding, projections, down, mid }, rest)
    }

    /// x: [N, H, W, in_channels], timestep: f32 [1, 1, 1, N], labels: u32 [1, 1, 1, N] if there is a class embedding.
    /// Every network begins here: in half precision all its weights are narrowed first, those behind the encoder too.
    pub fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        timestep: Tensor,
        labels: Option<Tensor>,
    ) -> (Encoded, EncoderSaved) {
        r.scope("half weights", |r| {
            for (weights, halves) in r.half_weights(MOST_NARROWED) {
                add::narrow_into(r, weights, halves);
            }
        });
        let (projections, embedding) = r.scope("embedding", |r| self.embed(r, timestep, labels));
        let x = if self.config.center_input_sample { r.scope("center", |r| center(r, x)) } else { x };
        let (mut h, conv_in) = r.scope("conv_in", |r| self.conv_in.forward(r, x));
        let mut skips = vec![h];
        let mut down = Vec::new();
        for (level, block) in self.down.iter().enumerate() {
            let (out, saved) = r.scope(&format!("down.{level}"), |r| block.forward(r, h, projections, &mut skips));
            h = out;
            down.push(saved);
        }
        let mid = self.mid.as_ref().map(|block| {
            r.scope("mid", |r| {
                let (a, first) = block.first.forward(r, h, None, projections);
                let (b, second) = block.second.forward(r, a, None, projections);
                h = b;
                (first, second)
            })
        });
        (Encoded { h, skips, projections }, EncoderSaved { conv_in, embedding, down, mid })
    }

    /// Records the gradients of all parameters.
    pub fn backward(&self, r: &mut Recorder, saved: EncoderSaved, gradient: EncodedGradient) {
        self.backward_through(r, saved, gradient, |r, input, dh| self.conv_in.backward_weight(r, &input, dh));
    }

    /// As [`Encoder::backward`]; gives the gradient with respect to x.
    pub fn backward_to_input(&self, r: &mut Recorder, saved: EncoderSaved, gradient: EncodedGradient) -> Tensor {
        let dx = self.backward_through(r, saved, gradient, |r, input, dh| self.conv_in.backward(r, input, dh));
        // The derivative of 2 x - 1.
        if self.config.center_input_sample { r.scope("center", |r| add::scale(r, dx, 2.0)) } else { dx }
    }

    /// `conv_in` records the end of the way back.
    fn backward_through<T>(
        &self,
        r: &mut Recorder,
        saved: EncoderSaved,
        gradient: EncodedGradient,
        conv_in: impl FnOnce(&mut Recorder, Input, Tensor) -> T,
    ) -> T {
        let EncodedGradient { h: mut dh, mut skips, projections } = gradient;
        dh = match (&self.mid, saved.mid) {
            (Some(block), Some((first, second))) => r.scope("mid", |r| {
                let d = block.second.backward(r, second, dh, None, projections).x;
                block.first.backward(r, first, d, skips.pop(), projections).x
            }),
            _ => skips.add_to(r, dh),
        };
        for (level, (block, saved)) in self.down.iter().zip(saved.down).enumerate().rev() {
            dh = r.scope(&format!("down.{level}"), |r| block.backward(r, saved, dh, &mut skips, projections));
        }
        let result = r.scope("conv_in", |r| conv_in(r, saved.conv_in, dh));
        r.scope("embedding", |r| self.embed_backward(r, saved.embedding, projections));
        r.scope("sums", reduce::sum_waiting);
        result
    }

    /// What residual blocks read of the time embedding (plus the class embedding), after SiLU.
    fn embed(&self, r: &mut Recorder, timestep: Tensor, labels: Option<Tensor>) -> (Tensor, EmbeddingSaved) {
        let config = &self.config;
        let n = timestep.channels();
        let shape = [n, 1, 1, config.embedding()];
        let waves =
            embed::timestep(r, timestep, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift);
        assert_eq!(labels.is_some(), self.class_embedding.is_some(), "labels and class embedding go together");
        let class = match (labels, self.class_embedding) {
            (Some(labels), Some(table)) => {
                let table = r.weight(table);
                Addend::PerRow(embed::gather(r, table, labels))
            }
            _ => Addend::None,
        };
        let (hidden, linear_1) = self.time_linear_1.forward_silu(r, waves, shape, Addend::None);
        let (activated, linear_2) = self.time_linear_2.forward_silu(r, hidden, shape, class);
        let shape = [n, 1, 1, self.projections.outputs()];
        let (y, projections) = r.scope("time_emb_proj", |r| self.projections.forward(r, activated, shape));
        (y, EmbeddingSaved { linear_1, linear_2, class, projections, labels })
    }

    /// Room for the gradients that the residual blocks write, of `images` images.
    pub fn projections_gradient(&self, r: &mut Recorder, images: u32) -> Tensor {
        r.temp([images, 1, 1, self.projections.outputs()])
    }

    fn embed_backward(&self, r: &mut Recorder, saved: EmbeddingSaved, dprojections: Tensor) {
        let dactivated = r.scope("time_emb_proj", |r| self.projections.backward(r, saved.projections, dprojections));
        let dsum = self.time_linear_2.backward_silu(r, &saved.linear_2, saved.class, dactivated);
        if let (Some(labels), Some(table)) = (saved.labels, self.class_embedding) {
            let dtable = r.grad(table);
            embed::gather_backward(r, labels, dsum, dtable);
        }
        let dactivated = self.time_linear_2.backward(r, saved.linear_2, dsum);
        let dhidden = self.time_linear_1.backward_silu(r, &saved.linear_1, Addend::None, dactivated);
        self.time_linear_1.backward(r, saved.linear_1, dhidden);
    }
}

/// 2 x - 1.
fn center(r: &mut Recorder, x: Tensor) -> Tensor {
    let shape = [x.n(), 1, 1, x.channels()];
    let stride = x.channels4() as usize * 4;
    let values: Vec<f32> =
        (0..x.n() as usize * stride).map(|i| if i % stride < x.channels() as usize { -1.0 } else { 0.0 }).collect();
    let minus_one = r.constant(&format!("minus one {shape:?}"), shape, &values);
    let doubled = add::scale(r, x, 2.0);
    let minus_one = add::narrow(r, minus_one);
    add::add_per_image(r, doubled, minus_one)
}

fn build_mid((params, projections): (&mut Params, &mut Joined), config: &UNetConfig, common: Common) -> MidBlock {
    let channels = config.block_out_channels[config.block_out_channels.len() - 1];
    let scale = config.mid_block_scale_factor;
    let attention = config.add_attention.then(|| {
        let heads = Heads { head_dim: config.head_dim(channels), groups: config.mid_attention_groups(), scale };
        Attention::new(&mut *params, "mid_block.attentions.0", channels, config.norm_eps, heads)
    });
    let mut layer = |index: usize, attention: Option<Attention>| Layer {
        resnet: ResnetBlock::new(
            (&mut *params, &mut *projections),
            &format!("mid_block.resnets.{index}"),
            [channels, channels],
            common,
            scale,
        ),
        attention,
        scope: index.to_string(),
    };
    MidBlock { first: layer(0, attention), second: layer(1, None) }
}
