//! The half of a U-Net that looks at an image: time embedding, way down, middle.

use super::blocks::{DownBlock, DownSaved, EmbeddingGradient, Layer, LayerSaved, Skips, build_down};
use super::config::UNetConfig;
use super::layers::{Attention, Common, Conv2d, Heads, Input, Linear, ResnetBlock, WHOLE};
use super::params::{Init, Layout, Params};
use crate::gpu::{Recorder, Tensor, Weight};
use crate::ops::conv2d::Geometry;
use crate::ops::{add, embed, reduce, silu};

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
    hidden: Tensor,
    linear_2: Input,
    sum: Tensor,
    labels: Option<Tensor>,
}

/// What the encoder makes of a batch.
pub struct Encoded {
    /// The middle: [N, H / f, W / f, C], f = 2^(levels - 1), C the last of `block_out_channels`.
    pub h: Tensor,
    /// The outputs on the way down, in order.
    pub skips: Vec<Tensor>,
    /// SiLU of the embedding of time and class: [N, 1, 1, E].
    pub embedding: Tensor,
}

/// The gradient of what the encoder made.
pub struct EncodedGradient {
    pub h: Tensor,
    pub skips: Skips,
    pub embedding: EmbeddingGradient,
}

impl Encoder {
    /// Adds the encoder's parameters, in the order of PyTorch's modules. Gives the channels of its skips, too.
    pub fn new(params: &mut Params, config: &UNetConfig, common: Common) -> (Encoder, Vec<u32>) {
        let first = config.block_out_channels[0];
        let conv_in = Conv2d::new(params, "conv_in", config.in_channels, first, 3, Geometry::same(3));
        let e = common.embedding;
        let time_linear_1 = Linear::new(params, "time_embedding.linear_1", first, e, WHOLE);
        let time_linear_2 = Linear::new(params, "time_embedding.linear_2", e, e, WHOLE);
        let class_embedding = config.num_class_embeds.map(|classes| {
            let shape = [classes as usize, e as usize];
            params.add("class_embedding.weight".into(), &shape, Layout::Table, Init::Normal)
        });
        let (down, skips) = build_down(params, config, common);
        let mid = config.mid_block_type.as_ref().map(|_| build_mid(params, config, common));
        let config = config.clone();
        (Encoder { config, conv_in, time_linear_1, time_linear_2, class_embedding, down, mid }, skips)
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
        let (embedding, embedding_saved) = r.scope("embedding", |r| self.embed(r, timestep, labels));
        let x = if self.config.center_input_sample { r.scope("center", |r| center(r, x)) } else { x };
        let (mut h, conv_in) = r.scope("conv_in", |r| self.conv_in.forward(r, x));
        let mut skips = vec![h];
        let mut down = Vec::new();
        for (level, block) in self.down.iter().enumerate() {
            let (out, saved) = r.scope(&format!("down.{level}"), |r| block.forward(r, h, embedding, &mut skips));
            h = out;
            down.push(saved);
        }
        let mid = self.mid.as_ref().map(|block| {
            r.scope("mid", |r| {
                let (a, first) = block.first.forward(r, h, embedding);
                let (b, second) = block.second.forward(r, a, embedding);
                h = b;
                (first, second)
            })
        });
        (Encoded { h, skips, embedding }, EncoderSaved { conv_in, embedding: embedding_saved, down, mid })
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
        let EncodedGradient { h: mut dh, mut skips, mut embedding } = gradient;
        if let (Some(block), Some((first, second))) = (&self.mid, saved.mid) {
            dh = r.scope("mid", |r| {
                let d = block.second.backward(r, second, dh, &mut embedding);
                block.first.backward(r, first, d, &mut embedding)
            });
        }
        for (level, (block, saved)) in self.down.iter().zip(saved.down).enumerate().rev() {
            dh = r.scope(&format!("down.{level}"), |r| block.backward(r, saved, dh, &mut skips, &mut embedding));
        }
        let result = r.scope("conv_in", |r| {
            let dh = skips.add_to(r, dh);
            conv_in(r, saved.conv_in, dh)
        });
        if let Some(dembedding) = embedding.sum() {
            r.scope("embedding", |r| self.embed_backward(r, saved.embedding, dembedding));
        }
        r.scope("sums", reduce::sum_waiting);
        result
    }

    /// SiLU of the time embedding (plus the class embedding), as every residual block wants it: [N, 1, 1, E].
    fn embed(&self, r: &mut Recorder, timestep: Tensor, labels: Option<Tensor>) -> (Tensor, EmbeddingSaved) {
        let config = &self.config;
        let n = timestep.channels();
        let shape = [n, 1, 1, config.embedding()];
        let waves =
            embed::timestep(r, timestep, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift);
        let (hidden, linear_1) = self.time_linear_1.forward(r, waves, shape);
        let activated = silu::forward(r, hidden);
        let (mut sum, linear_2) = self.time_linear_2.forward(r, activated, shape);
        assert_eq!(labels.is_some(), self.class_embedding.is_some(), "labels and class embedding go together");
        if let (Some(labels), Some(table)) = (labels, self.class_embedding) {
            let table = r.weight(table);
            let class = embed::gather(r, table, labels);
            sum = add::add(r, sum, class);
        }
        (silu::forward(r, sum), EmbeddingSaved { linear_1, hidden, linear_2, sum, labels })
    }

    fn embed_backward(&self, r: &mut Recorder, saved: EmbeddingSaved, dactivated: Tensor) {
        let dsum = silu::backward(r, saved.sum, dactivated);
        if let (Some(labels), Some(table)) = (saved.labels, self.class_embedding) {
            let dtable = r.grad(table);
            embed::gather_backward(r, labels, dsum, dtable);
        }
        let dactivated = self.time_linear_2.backward(r, saved.linear_2, dsum);
        let dhidden = silu::backward(r, saved.hidden, dactivated);
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

fn build_mid(params: &mut Params, config: &UNetConfig, common: Common) -> MidBlock {
    let channels = config.block_out_channels[config.block_out_channels.len() - 1];
    let scale = config.mid_block_scale_factor;
    let attention = config.add_attention.then(|| {
        let heads = Heads { head_dim: config.head_dim(channels), groups: config.mid_attention_groups(), scale };
        Attention::new(params, "mid_block.attentions.0", channels, config.norm_eps, heads)
    });
    let mut layer = |index: usize, attention: Option<Attention>| Layer {
        resnet: ResnetBlock::new(params, &format!("mid_block.resnets.{index}"), channels, channels, common, scale),
        attention,
        scope: index.to_string(),
    };
    MidBlock { first: layer(0, attention), second: layer(1, None) }
}
