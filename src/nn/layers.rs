//! Layers and blocks of the U-Net: forward, and backward by hand.

use super::config::UNetConfig;
use super::params::{Init, Joined, Layout, Params};
use crate::gpu::{Recorder, Slice, Tensor, Weight};
use crate::ops::conv2d::{self, Geometry};
use crate::ops::group_norm::{self, Norm};
use crate::ops::matrix::{Addend, Epilogue, Product};
use crate::ops::{add, attention, linear, resample, silu};

/// Convolution with bias.
pub struct Conv2d {
    weight: Weight,
    bias: Weight,
    geometry: Geometry,
}

/// The input of a convolution or linear layer.
pub struct Input {
    x: Tensor,
}

impl Conv2d {
    pub fn new(params: &mut Params, name: &str, inputs: u32, outputs: u32, taps: u32, geometry: Geometry) -> Conv2d {
        let (inputs, outputs, taps) = (inputs as usize, outputs as usize, taps as usize);
        let init = Init::FanIn(inputs * taps * taps);
        let shape = [outputs, inputs, taps, taps];
        let weight = params.add(format!("{name}.weight"), &shape, Layout::Conv, init);
        let bias = params.add(format!("{name}.bias"), &[outputs], Layout::Vector { segments: 1 }, init);
        Conv2d { weight, bias, geometry }
    }

    pub fn forward(&self, r: &mut Recorder, x: Tensor) -> (Tensor, Input) {
        self.forward_with(r, x, Epilogue::NONE)
    }

    /// As `forward`, with what follows while the output is in registers.
    fn forward_with(&self, r: &mut Recorder, x: Tensor, epilogue: Epilogue) -> (Tensor, Input) {
        let (weight, bias) = (r.matrix(self.weight), r.weight(self.bias));
        (conv2d::forward_with(r, x, weight, bias, self.geometry, epilogue), Input { x })
    }

    /// The gradients of weight and bias alone, for the layer that sees the data.
    pub fn backward_weight(&self, r: &mut Recorder, saved: &Input, dy: Tensor) {
        let (dweight, dbias) = (r.grad(self.weight), r.grad(self.bias));
        conv2d::backward_weight(r, saved.x, dy, self.geometry, dweight, dbias);
    }

    pub fn backward(&self, r: &mut Recorder, saved: Input, dy: Tensor) -> Tensor {
        self.backward_weight(r, &saved, dy);
        let weight = r.matrix(self.weight);
        conv2d::backward_data(r, dy, weight, saved.x.shape, self.geometry)
    }
}

/// Linear layer with bias; a 1x1 convolution too, over N·H·W rows.
pub struct Linear {
    weight: Weight,
    bias: Weight,
}

/// Equal segments of a linear layer's channels that are padded one by one: heads, scale and shift.
#[derive(Clone, Copy)]
pub struct Segments {
    pub outputs: u32,
    pub inputs: u32,
}

/// No segments.
pub const WHOLE: Segments = Segments { outputs: 1, inputs: 1 };

impl Linear {
    pub fn new(params: &mut Params, name: &str, inputs: u32, outputs: u32, segments: Segments) -> Linear {
        let layout = Layout::Linear { outputs: segments.outputs as usize, inputs: segments.inputs as usize };
        let (inputs, outputs) = (inputs as usize, outputs as usize);
        let init = Init::FanIn(inputs);
        let weight = params.add(format!("{name}.weight"), &[outputs, inputs], layout, init);
        let bias_layout = Layout::Vector { segments: segments.outputs as usize };
        let bias = params.add(format!("{name}.bias"), &[outputs], bias_layout, init);
        Linear { weight, bias }
    }

    /// The projections NAME.to_q, NAME.to_k and NAME.to_v of self-attention as one layer, whose output is
    /// [N, T, 3 heads, head_dim]: of each token all queries, then all keys, then all values.
    pub fn query_key_value(params: &mut Params, name: &str, inputs: u32, heads: u32, head_dim: u32) -> Linear {
        let shape = [(heads * head_dim) as usize, inputs as usize];
        let mut joined = Joined::default();
        for part in ["to_q", "to_k", "to_v"] {
            joined.add(params, &format!("{name}.{part}"), shape, heads as usize, Init::FanIn(shape[1]));
        }
        Linear::joined(params, joined)
    }

    /// All of `joined` at once.
    pub fn joined(params: &mut Params, joined: Joined) -> Linear {
        let [weight, bias] = joined.place(params);
        Linear { weight, bias }
    }

    /// Channels of the output.
    pub fn outputs(&self) -> u32 {
        self.bias.shape[3]
    }

    /// A 1x1 convolution, which differs in the file's shape only.
    pub fn conv1x1(params: &mut Params, name: &str, inputs: u32, outputs: u32) -> Linear {
        let (inputs, outputs) = (inputs as usize, outputs as usize);
        let init = Init::FanIn(inputs);
        let shape = [outputs, inputs, 1, 1];
        let weight = params.add(format!("{name}.weight"), &shape, Layout::Conv, init);
        let bias = params.add(format!("{name}.bias"), &[outputs], Layout::Vector { segments: 1 }, init);
        Linear { weight, bias }
    }

    pub fn forward(&self, r: &mut Recorder, x: Tensor, y_shape: [u32; 4]) -> (Tensor, Input) {
        self.forward_with(r, x, y_shape, Epilogue::NONE)
    }

    fn forward_with(&self, r: &mut Recorder, x: Tensor, y_shape: [u32; 4], epilogue: Epilogue) -> (Tensor, Input) {
        let (weight, bias) = (r.matrix(self.weight), r.weight(self.bias));
        (linear::forward_with(r, x, weight, bias, y_shape, epilogue), Input { x })
    }

    /// SiLU of the output and of what is added.
    pub fn forward_silu(&self, r: &mut Recorder, x: Tensor, y_shape: [u32; 4], addend: Addend) -> (Tensor, Input) {
        let (weight, bias) = (r.matrix(self.weight), r.weight(self.bias));
        (linear::forward_silu(r, x, weight, bias, y_shape, addend), Input { x })
    }

    /// The gradient of what [`Linear::forward_silu`] makes SiLU of, which is computed once more, for `dy` that of SiLU.
    pub fn backward_silu(&self, r: &mut Recorder, saved: &Input, addend: Addend, dy: Tensor) -> Tensor {
        let (sum, _) = self.forward_with(r, saved.x, dy.shape, Epilogue { addend, scale: 1.0 });
        silu::backward(r, sum, dy)
    }

    /// As what a convolution adds.
    fn product(&self, r: &mut Recorder, x: Tensor) -> Product {
        Product { x, weight: r.matrix(self.weight), bias: r.weight(self.bias) }
    }

    pub fn backward(&self, r: &mut Recorder, saved: Input, dy: Tensor) -> Tensor {
        let (dweight, dbias) = (r.grad(self.weight), r.grad(self.bias));
        linear::backward_weight(r, saved.x, dy, dweight, dbias);
        let weight = r.matrix(self.weight);
        linear::backward_data(r, dy, weight, saved.x.shape)
    }
}

/// Group norm, with SiLU where it is followed by one.
pub struct GroupNorm {
    gamma: Weight,
    beta: Weight,
    norm: Norm,
}

impl GroupNorm {
    pub fn new(params: &mut Params, name: &str, channels: u32, norm: Norm) -> GroupNorm {
        let (shape, layout) = ([channels as usize], Layout::Vector { segments: 1 });
        let gamma = params.add(format!("{name}.weight"), &shape, layout, Init::Constant(1.0));
        let beta = params.add(format!("{name}.bias"), &shape, layout, Init::Constant(0.0));
        GroupNorm { gamma, beta, norm }
    }

    pub fn forward(&self, r: &mut Recorder, x: Tensor, modulation: Option<Slice>) -> (Tensor, group_norm::Saved) {
        let (gamma, beta) = (r.weight(self.gamma), r.weight(self.beta));
        group_norm::forward(r, x, gamma, beta, modulation, self.norm)
    }

    /// The output that `forward` gave, `kept`, or where memory is short computed once more.
    pub fn output(&self, r: &mut Recorder, saved: &group_norm::Saved, kept: Input) -> Input {
        if r.recomputes() { Input { x: group_norm::again(r, saved) } } else { kept }
    }

    /// The gradient of the input; that of the modulation goes to `dmodulation`.
    pub fn backward(
        &self,
        r: &mut Recorder,
        saved: group_norm::Saved,
        dy: Tensor,
        dmodulation: Option<Slice>,
    ) -> Tensor {
        let (dgamma, dbeta) = (r.grad(self.gamma), r.grad(self.beta));
        group_norm::backward(r, saved, dy, &[], dgamma, dbeta, dmodulation)
    }

    /// The gradient of the input where `around` is what comes past the norm.
    fn backward_with(&self, r: &mut Recorder, saved: group_norm::Saved, dy: Tensor, around: &[Tensor]) -> Tensor {
        let (dgamma, dbeta) = (r.grad(self.gamma), r.grad(self.beta));
        group_norm::backward(r, saved, dy, around, dgamma, dbeta, None)
    }

    /// The gradient of the input; its sums over height and width go to `sums`.
    fn backward_with_sums(&self, r: &mut Recorder, saved: group_norm::Saved, dy: Tensor, sums: Slice) -> Tensor {
        let (dgamma, dbeta) = (r.grad(self.gamma), r.grad(self.beta));
        group_norm::backward_with_sums(r, saved, dy, dgamma, dbeta, sums)
    }

    /// Of an input in two parts: those joined, the output, and what backward needs.
    fn forward_joined(&self, r: &mut Recorder, parts: [Tensor; 2]) -> (Tensor, Tensor, group_norm::Saved) {
        let (gamma, beta) = (r.weight(self.gamma), r.weight(self.beta));
        group_norm::forward_joined(r, parts, gamma, beta, self.norm)
    }

    /// The gradients of the two parts where `around` is what comes past the norm.
    fn backward_joined(&self, r: &mut Recorder, saved: group_norm::Saved, dy: Tensor, around: Tensor) -> [Tensor; 2] {
        let (dgamma, dbeta) = (r.grad(self.gamma), r.grad(self.beta));
        group_norm::backward_joined(r, saved, dy, around, dgamma, dbeta)
    }
}

/// What the blocks of a U-Net have in common.
#[derive(Clone, Copy)]
pub struct Common {
    /// Width of the time embedding.
    pub embedding: u32,
    pub groups: u32,
    pub eps: f32,
    /// The embedding scales and shifts the second norm, instead of being added before it.
    pub scale_shift: bool,
}

impl Common {
    pub fn of(config: &UNetConfig) -> Common {
        Common {
            embedding: config.embedding(),
            groups: config.norm_num_groups,
            eps: config.norm_eps,
            scale_shift: config.scale_shift(),
        }
    }
}

/// diffusers' `ResnetBlock2D`: norm, SiLU, conv, time embedding, norm, SiLU, conv, residual.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// Its first channel among the projections of the embedding.
    time_emb_proj: u32,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Linear>,
    scale_shift: bool,
    /// The sum with the residual is divided by diffusers' `output_scale_factor`.
    factor: f32,
    outputs: u32,
}

pub struct ResnetSaved {
    /// Whether a skip was joined to x.
    joined: bool,
    norm1: group_norm::Saved,
    conv1: Input,
    norm2: group_norm::Saved,
    conv2: Input,
    shortcut: Option<Input>,
}

/// The gradients of what a residual block reads.
pub struct ResnetGradient {
    pub x: Tensor,
    /// Where there was one.
    pub skip: Option<Tensor>,
}

impl ResnetBlock {
    /// `projections` are those of the embedding, of all blocks.
    pub fn new(
        (params, projections): (&mut Params, &mut Joined),
        name: &str,
        [inputs, outputs]: [u32; 2],
        common: Common,
        scale: f32,
    ) -> ResnetBlock {
        let norm = Norm { groups: common.groups, eps: common.eps, silu: true };
        let same = Geometry::same(3);
        let norm1 = GroupNorm::new(params, &format!("{name}.norm1"), inputs, norm);
        let conv1 = Conv2d::new(params, &format!("{name}.conv1"), inputs, outputs, 3, same);
        let parts: usize = if common.scale_shift { 2 } else { 1 };
        let shape = [parts * outputs as usize, common.embedding as usize];
        let projection = format!("{name}.time_emb_proj");
        let time_emb_proj = projections.add(params, &projection, shape, parts, Init::FanIn(shape[1]));
        let norm2 = GroupNorm::new(params, &format!("{name}.norm2"), outputs, norm);
        let conv2 = Conv2d::new(params, &format!("{name}.conv2"), outputs, outputs, 3, same);
        let shortcut =
            (inputs != outputs).then(|| Linear::conv1x1(params, &format!("{name}.conv_shortcut"), inputs, outputs));
        let (scale_shift, factor) = (common.scale_shift, 1.0 / scale);
        ResnetBlock { norm1, conv1, time_emb_proj, norm2, conv2, shortcut, scale_shift, factor, outputs }
    }

    /// What the block reads of the projections, or writes of their gradients.
    fn own(&self, projections: Tensor) -> Slice {
        let channels = if self.scale_shift { 2 * self.outputs.next_multiple_of(4) } else { self.outputs };
        Slice { tensor: projections, first: self.time_emb_proj, channels }
    }

    /// x, with the channels of `skip` behind its own if there is one: [N, H, W, inputs]; projections: those of the embedding,
    /// [N, 1, 1, all channels].
    pub fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        skip: Option<Tensor>,
        projections: Tensor,
    ) -> (Tensor, ResnetSaved) {
        let own = self.own(projections);
        let (added, modulation) =
            if self.scale_shift { (Addend::None, Some(own)) } else { (Addend::PerImage(own), None) };
        let (x, a, norm1) = r.scope("norm1", |r| match skip {
            Some(skip) => self.norm1.forward_joined(r, [x, skip]),
            None => {
                let (a, norm1) = self.norm1.forward(r, x, None);
                (x, a, norm1)
            }
        });
        let embed = Epilogue { addend: added, scale: 1.0 };
        let (b, conv1) = r.scope("conv1", |r| self.conv1.forward_with(r, a, embed));
        let (c, norm2) = r.scope("norm2", |r| self.norm2.forward(r, b, modulation));
        let (residual, shortcut) = match &self.shortcut {
            None => (Addend::PerRow(x), None),
            // A launch less, which drivers that compute on the CPU don't feel: there not all ways take products, and they are to
            // give the same bits.
            Some(layer) if r.is_gpu() => (Addend::Product(layer.product(r, x)), Some(Input { x })),
            Some(layer) => {
                let y_shape = [x.n(), x.height(), x.width(), self.outputs];
                let (y, saved) = r.scope("conv_shortcut", |r| layer.forward(r, x, y_shape));
                (Addend::PerRow(y), Some(saved))
            }
        };
        let add_residual = Epilogue { addend: residual, scale: self.factor };
        let (y, conv2) = r.scope("conv2", |r| self.conv2.forward_with(r, c, add_residual));
        (y, ResnetSaved { joined: skip.is_some(), norm1, conv1, norm2, conv2, shortcut })
    }

    /// The gradients of x, to which that of another reader of x, `other`, is added, and of the skip; that of the projections
    /// goes to `dprojections`.
    pub fn backward(
        &self,
        r: &mut Recorder,
        saved: ResnetSaved,
        dy: Tensor,
        other: Option<Tensor>,
        dprojections: Tensor,
    ) -> ResnetGradient {
        let dsum = scaled(r, dy, self.factor);
        let c = r.scope("norm2", |r| self.norm2.output(r, &saved.norm2, saved.conv2));
        let dc = r.scope("conv2", |r| self.conv2.backward(r, c, dsum));
        let own = self.own(dprojections);
        let db = r.scope("norm2", |r| match self.scale_shift {
            true => self.norm2.backward(r, saved.norm2, dc, Some(own)),
            false => self.norm2.backward_with_sums(r, saved.norm2, dc, own),
        });
        let a = r.scope("norm1", |r| self.norm1.output(r, &saved.norm1, saved.conv1));
        let da = r.scope("conv1", |r| self.conv1.backward(r, a, db));
        let around = match (&self.shortcut, saved.shortcut) {
            (Some(layer), Some(saved)) => r.scope("conv_shortcut", |r| layer.backward(r, saved, dsum)),
            _ => dsum,
        };
        r.scope("norm1", |r| match saved.joined {
            true => {
                assert!(other.is_none(), "nothing but the block reads x joined to a skip");
                let [x, skip] = self.norm1.backward_joined(r, saved.norm1, da, around);
                ResnetGradient { x, skip: Some(skip) }
            }
            false => {
                let around: Vec<Tensor> = [around].into_iter().chain(other).collect();
                ResnetGradient { x: self.norm1.backward_with(r, saved.norm1, da, &around), skip: None }
            }
        })
    }
}

fn scaled(r: &mut Recorder, dy: Tensor, factor: f32) -> Tensor {
    if factor == 1.0 { dy } else { r.scope("residual", |r| add::scale(r, dy, factor)) }
}

/// Which attention a block has.
#[derive(Clone, Copy)]
pub struct Heads {
    /// Channels of a head; there are as many heads as fit.
    pub head_dim: u32,
    /// Groups of the norm before it; `None` is no norm.
    pub groups: Option<u32>,
    /// The sum with the residual is divided by this.
    pub scale: f32,
}

/// diffusers' `Attention` over the positions of an image: norm, q, k, v, attention, projection, residual.
pub struct Attention {
    norm: Option<GroupNorm>,
    to_qkv: Linear,
    to_out: Linear,
    heads: u32,
    head_dim: u32,
    factor: f32,
}

pub struct AttentionSaved {
    norm: Option<group_norm::Saved>,
    to_qkv: Input,
    core: attention::Saved,
    to_out: Input,
}

impl Attention {
    pub fn new(params: &mut Params, name: &str, channels: u32, eps: f32, config: Heads) -> Attention {
        let heads = channels / config.head_dim;
        let inner = heads * config.head_dim;
        let norm = config.groups.map(|groups| {
            GroupNorm::new(params, &format!("{name}.group_norm"), channels, Norm { groups, eps, silu: false })
        });
        let to_qkv = Linear::query_key_value(params, name, channels, heads, config.head_dim);
        let into = Segments { outputs: 1, inputs: heads };
        let to_out = Linear::new(params, &format!("{name}.to_out.0"), inner, channels, into);
        Attention { norm, to_qkv, to_out, heads, head_dim: config.head_dim, factor: 1.0 / config.scale }
    }

    /// x: [N, H, W, C].
    pub fn forward(&self, r: &mut Recorder, x: Tensor) -> (Tensor, AttentionSaved) {
        let tokens = [x.n(), x.height() * x.width(), 3 * self.heads, self.head_dim];
        let (normed, norm) = match &self.norm {
            None => (x, None),
            Some(layer) => {
                let (y, saved) = r.scope("group_norm", |r| layer.forward(r, x, None));
                (y, Some(saved))
            }
        };
        let (qkv, to_qkv) = r.scope("to_qkv", |r| self.to_qkv.forward(r, normed, tokens));
        let (o, core) = attention::forward(r, qkv);
        let add_residual = Epilogue { addend: Addend::PerRow(x), scale: self.factor };
        let (y, to_out) = r.scope("to_out", |r| self.to_out.forward_with(r, o, x.shape, add_residual));
        (y, AttentionSaved { norm, to_qkv, core, to_out })
    }

    pub fn backward(&self, r: &mut Recorder, saved: AttentionSaved, dy: Tensor) -> Tensor {
        let dsum = scaled(r, dy, self.factor);
        let d_o = r.scope("to_out", |r| self.to_out.backward(r, saved.to_out, dsum));
        let d_qkv = attention::backward(r, saved.core, d_o);
        let mut to_qkv = saved.to_qkv;
        if let (true, Some(norm)) = (r.recomputes(), &saved.norm) {
            to_qkv = Input { x: r.scope("group_norm", |r| group_norm::again(r, norm)) };
        }
        let through = r.scope("to_qkv", |r| self.to_qkv.backward(r, to_qkv, d_qkv));
        match (&self.norm, saved.norm) {
            (Some(layer), Some(saved)) => r.scope("group_norm", |r| layer.backward_with(r, saved, through, &[dsum])),
            _ => r.scope("residual", |r| add::add(r, through, dsum)),
        }
    }
}

/// Nearest upsampling by two, then a convolution.
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub fn new(params: &mut Params, name: &str, channels: u32) -> Upsample {
        Upsample { conv: Conv2d::new(params, &format!("{name}.conv"), channels, channels, 3, Geometry::same(3)) }
    }

    pub fn forward(&self, r: &mut Recorder, x: Tensor) -> (Tensor, Input) {
        let larger = resample::upsample(r, x);
        self.conv.forward(r, larger)
    }

    pub fn backward(&self, r: &mut Recorder, saved: Input, dy: Tensor) -> Tensor {
        let dlarger = self.conv.backward(r, saved, dy);
        resample::upsample_backward(r, dlarger)
    }
}
