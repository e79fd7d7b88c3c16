//! diffusers' `UNet2DModel`: the denoising network of Ho et al. (2020), with their tensor names.

use super::config::UNetConfig;
use super::layers::{
    Attention, AttentionSaved, Common, Conv2d, GroupNorm, Heads, Input, Linear, ResnetBlock, ResnetSaved, Upsample,
    WHOLE, concat_skip, concat_skip_backward,
};
use super::params::{Init, Layout, Params};
use crate::error::Result;
use crate::gpu::{Recorder, Tensor, Weight};
use crate::ops::conv2d::Geometry;
use crate::ops::group_norm::{self, Norm};
use crate::ops::{add, embed, silu};

/// Weights that one dispatch narrows: a binding of 64 MiB.
const MOST_NARROWED: u64 = 1 << 24;

/// A residual block with the attention that may follow it.
struct Layer {
    resnet: ResnetBlock,
    attention: Option<Attention>,
    scope: String,
}

struct LayerSaved {
    resnet: ResnetSaved,
    attention: Option<AttentionSaved>,
}

struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Conv2d>,
}

struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

/// Two residual blocks with attention between them.
struct MidBlock {
    first: Layer,
    second: Layer,
}

/// The network: what it is built of, and where its parameters lie.
pub struct UNet {
    pub config: UNetConfig,
    pub params: Params,
    conv_in: Conv2d,
    time_linear_1: Linear,
    time_linear_2: Linear,
    class_embedding: Option<Weight>,
    down: Vec<DownBlock>,
    mid: Option<MidBlock>,
    up: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// What backward needs of forward.
pub struct UNetSaved {
    conv_in: Input,
    embedding: EmbeddingSaved,
    down: Vec<(Vec<LayerSaved>, Option<Input>)>,
    mid: Option<(LayerSaved, LayerSaved)>,
    up: Vec<UpSaved>,
    conv_norm_out: group_norm::Saved,
    conv_out: Input,
}

struct EmbeddingSaved {
    linear_1: Input,
    hidden: Tensor,
    linear_2: Input,
    sum: Tensor,
    labels: Option<Tensor>,
}

struct UpSaved {
    /// Each layer with the channels that came from below.
    layers: Vec<(LayerSaved, u32)>,
    upsample: Option<Input>,
}

/// Adds up the gradients of the one embedding that every residual block reads.
struct EmbeddingGradient(Option<Tensor>);

impl EmbeddingGradient {
    fn add(&mut self, r: &mut Recorder, gradient: Tensor) {
        self.0 = Some(match self.0 {
            None => gradient,
            Some(sum) => r.scope("embedding", |r| add::add(r, sum, gradient)),
        });
    }
}

impl Layer {
    fn forward(&self, r: &mut Recorder, x: Tensor, embedding: Tensor) -> (Tensor, LayerSaved) {
        let (y, resnet) = r.scope(&format!("resnet.{}", self.scope), |r| self.resnet.forward(r, x, embedding));
        let Some(layer) = &self.attention else { return (y, LayerSaved { resnet, attention: None }) };
        let (y, attention) = r.scope(&format!("attention.{}", self.scope), |r| layer.forward(r, y));
        (y, LayerSaved { resnet, attention: Some(attention) })
    }

    fn backward(&self, r: &mut Recorder, saved: LayerSaved, dy: Tensor, embedding: &mut EmbeddingGradient) -> Tensor {
        let dy = match (&self.attention, saved.attention) {
            (Some(layer), Some(saved)) => {
                r.scope(&format!("attention.{}", self.scope), |r| layer.backward(r, saved, dy))
            }
            _ => dy,
        };
        let (dx, dembedding) =
            r.scope(&format!("resnet.{}", self.scope), |r| self.resnet.backward(r, saved.resnet, dy));
        embedding.add(r, dembedding);
        dx
    }
}

impl UNet {
    /// Builds the network; parameters are in the order of PyTorch's modules.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if the configuration asks for what can't be built.
    pub fn new(config: UNetConfig) -> Result<UNet> {
        config.validate()?;
        let mut params = Params::default();
        let channels = config.block_out_channels.clone();
        let common = Common {
            embedding: config.embedding(),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
            scale_shift: config.scale_shift(),
        };
        let conv_in = Conv2d::new(&mut params, "conv_in", config.in_channels, channels[0], 3, Geometry::same(3));
        let e = common.embedding;
        let time_linear_1 = Linear::new(&mut params, "time_embedding.linear_1", channels[0], e, WHOLE);
        let time_linear_2 = Linear::new(&mut params, "time_embedding.linear_2", e, e, WHOLE);
        let class_embedding = config.num_class_embeds.map(|classes| {
            let shape = [classes as usize, e as usize];
            params.add("class_embedding.weight".into(), &shape, Layout::Table, Init::Normal)
        });
        let (down, skips) = build_down(&mut params, &config, common);
        let mid = config.mid_block_type.as_ref().map(|_| build_mid(&mut params, &config, common));
        let up = build_up(&mut params, &config, common, skips);
        let norm = Norm { groups: config.norm_num_groups, eps: config.norm_eps, silu: true };
        let conv_norm_out = GroupNorm::new(&mut params, "conv_norm_out", channels[0], norm);
        let same = Geometry::same(3);
        let conv_out = Conv2d::new(&mut params, "conv_out", channels[0], config.out_channels, 3, same);
        Ok(UNet {
            config,
            params,
            conv_in,
            time_linear_1,
            time_linear_2,
            class_embedding,
            down,
            mid,
            up,
            conv_norm_out,
            conv_out,
        })
    }

    /// Whether the network is told a class.
    pub fn is_conditional(&self) -> bool {
        self.class_embedding.is_some()
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
        let mut up = Vec::new();
        for (level, block) in self.up.iter().enumerate() {
            let (out, saved) = r.scope(&format!("up.{level}"), |r| block.forward(r, h, embedding, &mut skips));
            h = out;
            up.push(saved);
        }
        let (h, conv_norm_out) = r.scope("conv_norm_out", |r| self.conv_norm_out.forward(r, h, None));
        let (y, conv_out) = r.scope("conv_out", |r| self.conv_out.forward(r, h));
        (y, UNetSaved { conv_in, embedding: embedding_saved, down, mid, up, conv_norm_out, conv_out })
    }

    /// Records the gradients of all parameters for the gradient `dy` of the output.
    pub fn backward(&self, r: &mut Recorder, saved: UNetSaved, dy: Tensor) {
        let mut embedding = EmbeddingGradient(None);
        let h = r.scope("conv_norm_out", |r| self.conv_norm_out.output(r, &saved.conv_norm_out, saved.conv_out));
        let dh = r.scope("conv_out", |r| self.conv_out.backward(r, h, dy));
        let (mut dh, _) = r.scope("conv_norm_out", |r| self.conv_norm_out.backward(r, saved.conv_norm_out, dh));
        let mut dskips = Vec::new();
        for (level, (block, saved)) in self.up.iter().zip(saved.up).enumerate().rev() {
            dh = r.scope(&format!("up.{level}"), |r| block.backward(r, saved, dh, &mut dskips, &mut embedding));
        }
        if let (Some(block), Some((first, second))) = (&self.mid, saved.mid) {
            dh = r.scope("mid", |r| {
                let d = block.second.backward(r, second, dh, &mut embedding);
                block.first.backward(r, first, d, &mut embedding)
            });
        }
        for (level, (block, saved)) in self.down.iter().zip(saved.down).enumerate().rev() {
            dh = r.scope(&format!("down.{level}"), |r| block.backward(r, saved, dh, &mut dskips, &mut embedding));
        }
        let dskip = dskips.pop().expect("the first skip is left");
        r.scope("conv_in", |r| {
            let dh = add::add(r, dh, dskip);
            self.conv_in.backward_weight(r, &saved.conv_in, dh);
        });
        if let Some(dembedding) = embedding.0 {
            r.scope("embedding", |r| self.embed_backward(r, saved.embedding, dembedding));
        }
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
        assert_eq!(labels.is_some(), self.is_conditional(), "labels and class embedding go together");
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

impl DownBlock {
    fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        embedding: Tensor,
        skips: &mut Vec<Tensor>,
    ) -> (Tensor, (Vec<LayerSaved>, Option<Input>)) {
        let mut h = x;
        let mut saved = Vec::new();
        for layer in &self.layers {
            let (y, layer_saved) = layer.forward(r, h, embedding);
            h = y;
            skips.push(h);
            saved.push(layer_saved);
        }
        let downsample = self.downsample.as_ref().map(|conv| {
            let (y, input) = r.scope("downsample", |r| conv.forward(r, h));
            h = y;
            skips.push(h);
            input
        });
        (h, (saved, downsample))
    }

    fn backward(
        &self,
        r: &mut Recorder,
        saved: (Vec<LayerSaved>, Option<Input>),
        dy: Tensor,
        dskips: &mut Vec<Tensor>,
        embedding: &mut EmbeddingGradient,
    ) -> Tensor {
        let mut dh = dy;
        if let (Some(conv), Some(input)) = (&self.downsample, saved.1) {
            dh = r.scope("downsample", |r| {
                let sum = add_skip(r, dh, dskips);
                conv.backward(r, input, sum)
            });
        }
        for (layer, saved) in self.layers.iter().zip(saved.0).rev() {
            let sum = r.scope("skip", |r| add_skip(r, dh, dskips));
            dh = layer.backward(r, saved, sum, embedding);
        }
        dh
    }
}

fn add_skip(r: &mut Recorder, dh: Tensor, dskips: &mut Vec<Tensor>) -> Tensor {
    let dskip = dskips.pop().expect("as many skips as the down path made");
    add::add(r, dh, dskip)
}

impl UpBlock {
    fn forward(&self, r: &mut Recorder, x: Tensor, embedding: Tensor, skips: &mut Vec<Tensor>) -> (Tensor, UpSaved) {
        let mut h = x;
        let mut layers = Vec::new();
        for layer in &self.layers {
            let skip = skips.pop().expect("as many skips as the down path made");
            let joined = concat_skip(r, h, skip);
            let (y, saved) = layer.forward(r, joined, embedding);
            layers.push((saved, h.channels()));
            h = y;
        }
        let upsample = self.upsample.as_ref().map(|layer| {
            let (y, input) = r.scope("upsample", |r| layer.forward(r, h));
            h = y;
            input
        });
        (h, UpSaved { layers, upsample })
    }

    fn backward(
        &self,
        r: &mut Recorder,
        saved: UpSaved,
        dy: Tensor,
        dskips: &mut Vec<Tensor>,
        embedding: &mut EmbeddingGradient,
    ) -> Tensor {
        let mut dh = dy;
        if let (Some(layer), Some(input)) = (&self.upsample, saved.upsample) {
            dh = r.scope("upsample", |r| layer.backward(r, input, dh));
        }
        for (layer, (saved, channels)) in self.layers.iter().zip(saved.layers).rev() {
            let djoined = layer.backward(r, saved, dh, embedding);
            let (dx, dskip) = concat_skip_backward(r, djoined, channels);
            dskips.push(dskip);
            dh = dx;
        }
        dh
    }
}

/// The down path, and the channels of the skips it makes.
fn build_down(params: &mut Params, config: &UNetConfig, common: Common) -> (Vec<DownBlock>, Vec<u32>) {
    let channels = &config.block_out_channels;
    let mut skips = vec![channels[0]];
    let mut blocks = Vec::new();
    let mut inputs = channels[0];
    for (level, outputs) in channels.iter().copied().enumerate() {
        let name = format!("down_blocks.{level}");
        let attends = config.down_block_types[level] == "AttnDownBlock2D";
        let widths: Vec<u32> = (0..config.layers_per_block).map(|i| if i == 0 { inputs } else { outputs }).collect();
        let layers = build_layers(params, config, common, &name, &widths, outputs, attends);
        skips.extend(layers.iter().map(|_| outputs));
        let downsample = (level + 1 < channels.len()).then(|| {
            skips.push(outputs);
            let pad = config.downsample_padding;
            // Without padding diffusers puts one zero behind each row and column.
            let geometry = Geometry { stride: 2, pad, pad_end: 1 };
            Conv2d::new(params, &format!("{name}.downsamplers.0.conv"), outputs, outputs, 3, geometry)
        });
        blocks.push(DownBlock { layers, downsample });
        inputs = outputs;
    }
    (blocks, skips)
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

fn build_up(params: &mut Params, config: &UNetConfig, common: Common, mut skips: Vec<u32>) -> Vec<UpBlock> {
    let channels = &config.block_out_channels;
    let mut blocks = Vec::new();
    let mut inputs = channels[channels.len() - 1];
    for (index, outputs) in channels.iter().rev().copied().enumerate() {
        let name = format!("up_blocks.{index}");
        let attends = config.up_block_types[index] == "AttnUpBlock2D";
        let widths: Vec<u32> = (0..=config.layers_per_block)
            .map(|i| if i == 0 { inputs } else { outputs })
            .map(|width| width + skips.pop().expect("as many skips as the down path made"))
            .collect();
        let layers = build_layers(params, config, common, &name, &widths, outputs, attends);
        let upsample =
            (index + 1 < channels.len()).then(|| Upsample::new(params, &format!("{name}.upsamplers.0"), outputs));
        blocks.push(UpBlock { layers, upsample });
        inputs = outputs;
    }
    blocks
}

/// One layer for each input width.
fn build_layers(
    params: &mut Params,
    config: &UNetConfig,
    common: Common,
    name: &str,
    widths: &[u32],
    outputs: u32,
    attends: bool,
) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (index, inputs) in widths.iter().copied().enumerate() {
        let resnet = ResnetBlock::new(params, &format!("{name}.resnets.{index}"), inputs, outputs, common, 1.0);
        let attention = attends.then(|| {
            let groups = Some(config.norm_num_groups);
            let heads = Heads { head_dim: config.head_dim(outputs), groups, scale: 1.0 };
            Attention::new(params, &format!("{name}.attentions.{index}"), outputs, config.norm_eps, heads)
        });
        layers.push(Layer { resnet, attention, scope: index.to_string() });
    }
    layers
}
