//! The blocks of a U-Net, down and up: layers with the attention that may follow them.

use super::config::UNetConfig;
use super::layers::{
    Attention, AttentionSaved, Common, Conv2d, Heads, Input, ResnetBlock, ResnetGradient, ResnetSaved, Upsample,
};
use super::params::{Joined, Params};
use crate::gpu::{Recorder, Tensor};
use crate::ops::add;
use crate::ops::conv2d::Geometry;

/// A residual block with the attention that may follow it.
pub(super) struct Layer {
    pub resnet: ResnetBlock,
    pub attention: Option<Attention>,
    pub scope: String,
}

pub(super) struct LayerSaved {
    resnet: ResnetSaved,
    attention: Option<AttentionSaved>,
}

/// Layers, then halving but for the last block.
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Conv2d>,
}

pub(super) type DownSaved = (Vec<LayerSaved>, Option<Input>);

/// Layers that read the skips, then doubling but for the last block.
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

pub(super) struct UpSaved {
    layers: Vec<LayerSaved>,
    upsample: Option<Input>,
}

/// The gradients of the skips, last ones on top; none where nothing reads them.
pub struct Skips(pub Option<Vec<Tensor>>);

impl Skips {
    /// The gradient of the skip that forward took at the same place.
    pub(super) fn pop(&mut self) -> Option<Tensor> {
        self.0.as_mut().map(|skips| skips.pop().expect("as many skips as the down path made"))
    }

    /// dh plus that.
    pub(super) fn add_to(&mut self, r: &mut Recorder, dh: Tensor) -> Tensor {
        match self.pop() {
            None => dh,
            Some(dskip) => r.scope("skip", |r| add::add(r, dh, dskip)),
        }
    }
}

impl Layer {
    /// Of x, to which `skip` is joined if there is one.
    pub(super) fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        skip: Option<Tensor>,
        projections: Tensor,
    ) -> (Tensor, LayerSaved) {
        let (y, resnet) = r.scope(&format!("resnet.{}", self.scope), |r| self.resnet.forward(r, x, skip, projections));
        let Some(layer) = &self.attention else { return (y, LayerSaved { resnet, attention: None }) };
        let (y, attention) = r.scope(&format!("attention.{}", self.scope), |r| layer.forward(r, y));
        (y, LayerSaved { resnet, attention: Some(attention) })
    }

    /// As [`ResnetBlock::backward`].
    pub(super) fn backward(
        &self,
        r: &mut Recorder,
        saved: LayerSaved,
        dy: Tensor,
        other: Option<Tensor>,
        dprojections: Tensor,
    ) -> ResnetGradient {
        let dy = match (&self.attention, saved.attention) {
            (Some(layer), Some(saved)) => {
                r.scope(&format!("attention.{}", self.scope), |r| layer.backward(r, saved, dy))
            }
            _ => dy,
        };
        let scope = format!("resnet.{}", self.scope);
        r.scope(&scope, |r| self.resnet.backward(r, saved.resnet, dy, other, dprojections))
    }
}

impl DownBlock {
    pub(super) fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        projections: Tensor,
        skips: &mut Vec<Tensor>,
    ) -> (Tensor, DownSaved) {
        let mut h = x;
        let mut saved = Vec::new();
        for layer in &self.layers {
            let (y, layer_saved) = layer.forward(r, h, None, projections);
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

    /// `dy` holds the gradient of the skip at the end already; what is given holds that of the skip before the block.
    pub(super) fn backward(
        &self,
        r: &mut Recorder,
        saved: DownSaved,
        dy: Tensor,
        dskips: &mut Skips,
        dprojections: Tensor,
    ) -> Tensor {
        let mut dh = dy;
        if let (Some(conv), Some(input)) = (&self.downsample, saved.1) {
            dh = r.scope("downsample", |r| conv.backward(r, input, dh));
            dh = dskips.add_to(r, dh);
        }
        for (layer, saved) in self.layers.iter().zip(saved.0).rev() {
            dh = layer.backward(r, saved, dh, dskips.pop(), dprojections).x;
        }
        dh
    }
}

impl UpBlock {
    pub(super) fn forward(
        &self,
        r: &mut Recorder,
        x: Tensor,
        projections: Tensor,
        skips: &mut Vec<Tensor>,
    ) -> (Tensor, UpSaved) {
        let mut h = x;
        let mut layers = Vec::new();
        for layer in &self.layers {
            let skip = skips.pop().expect("as many skips as the down path made");
            let (y, saved) = layer.forward(r, h, Some(skip), projections);
            layers.push(saved);
            h = y;
        }
        let upsample = self.upsample.as_ref().map(|layer| {
            let (y, input) = r.scope("upsample", |r| layer.forward(r, h));
            h = y;
            input
        });
        (h, UpSaved { layers, upsample })
    }

    pub(super) fn backward(
        &self,
        r: &mut Recorder,
        saved: UpSaved,
        dy: Tensor,
        dskips: &mut Vec<Tensor>,
        dprojections: Tensor,
    ) -> Tensor {
        let mut dh = dy;
        if let (Some(layer), Some(input)) = (&self.upsample, saved.upsample) {
            dh = r.scope("upsample", |r| layer.backward(r, input, dh));
        }
        for (layer, saved) in self.layers.iter().zip(saved.layers).rev() {
            let gradient = layer.backward(r, saved, dh, None, dprojections);
            dskips.extend(gradient.skip);
            dh = gradient.x;
        }
        dh
    }
}

/// The down path, and the channels of the skips it makes.
pub(super) fn build_down(
    (params, projections): (&mut Params, &mut Joined),
    config: &UNetConfig,
    common: Common,
) -> (Vec<DownBlock>, Vec<u32>) {
    let channels = &config.block_out_channels;
    let mut skips = vec![channels[0]];
    let mut blocks = Vec::new();
    let mut inputs = channels[0];
    for (level, outputs) in channels.iter().copied().enumerate() {
        let name = format!("down_blocks.{level}");
        let attends = config.down_block_types[level] == "AttnDownBlock2D";
        let widths: Vec<u32> = (0..config.layers_per_block).map(|i| if i == 0 { inputs } else { outputs }).collect();
        let layers = build_layers((&mut *params, &mut *projections), config, common, &name, &widths, outputs, attends);
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

/// The up path, for skips of these channels.
pub(super) fn build_up(
    (params, projections): (&mut Params, &mut Joined),
    config: &UNetConfig,
    common: Common,
    mut skips: Vec<u32>,
) -> Vec<UpBlock> {
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
        let layers = build_layers((&mut *params, &mut *projections), config, common, &name, &widths, outputs, attends);
        let upsample =
            (index + 1 < channels.len()).then(|| Upsample::new(params, &format!("{name}.upsamplers.0"), outputs));
        blocks.push(UpBlock { layers, upsample });
        inputs = outputs;
    }
    blocks
}

/// One layer for each input width.
fn build_layers(
    (params, projections): (&mut Params, &mut Joined),
    config: &UNetConfig,
    common: Common,
    name: &str,
    widths: &[u32],
    outputs: u32,
    attends: bool,
) -> Vec<Layer> {
    let mut layers = Vec::new();
    for (index, inputs) in widths.iter().copied().enumerate() {
        let resnet = ResnetBlock::new(
            (&mut *params, &mut *projections),
            &format!("{name}.resnets.{index}"),
            [inputs, outputs],
            common,
            1.0,
        );
        let attention = attends.then(|| {
            let groups = Some(config.norm_num_groups);
            let heads = Heads { head_dim: config.head_dim(outputs), groups, scale: 1.0 };
            Attention::new(params, &format!("{name}.attentions.{index}"), outputs, config.norm_eps, heads)
        });
        layers.push(Layer { resnet, attention, scope: index.to_string() });
    }
    layers
}
