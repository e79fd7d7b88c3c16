//! The presets `mnist`, `base` and `cifar10` of diffuse in Burn, on Vulkan through wgpu: the time of a training step.
//!
//! usage: burn-peer MODEL BATCH STEPS. Prints one JSON object. `BURN_DEVICE=gpu` takes the first discrete GPU, else the
//! driver that computes on the CPU.

use std::time::Instant;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::interpolate::{Interpolate2d, Interpolate2dConfig, InterpolateMode};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::{Device, DeviceKind, Distribution, Tensor};

/// What the presets differ in.
struct Config {
    side: usize,
    image_channels: usize,
    channels: Vec<usize>,
    layers: usize,
    /// Which level attends.
    attends: usize,
    groups: usize,
    epsilon: f64,
    /// Channels of one head; none is one head of all.
    head: Option<usize>,
    /// Downsampling pads below and to the right alone.
    pad_behind: bool,
}

impl Config {
    fn of(model: &str) -> Config {
        let mnist = Config {
            side: 28,
            image_channels: 1,
            channels: vec![32, 64, 64],
            layers: 1,
            attends: 2,
            groups: 8,
            epsilon: 1e-5,
            head: Some(8),
            pad_behind: false,
        };
        let base = |channels: Vec<usize>| Config {
            side: 32,
            image_channels: 3,
            channels,
            layers: 2,
            attends: 1,
            groups: 32,
            ..Config::of("mnist")
        };
        match model {
            "mnist" => mnist,
            "base" => base(vec![64, 128, 128, 128]),
            "cifar10" => Config { epsilon: 1e-6, head: None, pad_behind: true, ..base(vec![128, 256, 256, 256]) },
            _ => panic!("no model {model}; there are mnist, base, cifar10"),
        }
    }

    fn time_channels(&self) -> usize {
        4 * self.channels[0]
    }
}

fn convolution(from: usize, to: usize, taps: usize, stride: usize, pad: [usize; 4], device: &Device) -> Conv2d {
    let [top, left, bottom, right] = pad;
    let config = Conv2dConfig::new([from, to], [taps, taps]).with_stride([stride, stride]);
    config.with_padding(PaddingConfig2d::Explicit(top, left, bottom, right)).init(device)
}

fn same(from: usize, to: usize, taps: usize, device: &Device) -> Conv2d {
    convolution(from, to, taps, 1, [taps / 2; 4], device)
}

fn norm(config: &Config, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(config.groups, channels).with_epsilon(config.epsilon).init(device)
}

#[derive(Module, Debug)]
struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Resnet {
    fn new(config: &Config, from: usize, to: usize, device: &Device) -> Resnet {
        Resnet {
            norm1: norm(config, from, device),
            conv1: same(from, to, 3, device),
            time: LinearConfig::new(config.time_channels(), to).init(device),
            norm2: norm(config, to, device),
            conv2: same(to, to, 3, device),
            shortcut: (from != to).then(|| same(from, to, 1, device)),
        }
    }

    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let y = self.conv1.forward(silu(self.norm1.forward(x.clone())));
        let shift = self.time.forward(silu(time));
        let [images, channels] = shift.dims();
        let y = y + shift.reshape([images, channels, 1, 1]);
        let y = self.conv2.forward(silu(self.norm2.forward(y)));
        y + match &self.shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        }
    }
}

#[derive(Module, Debug)]
struct Attention {
    norm: GroupNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    head: usize,
}

impl Attention {
    fn new(config: &Config, channels: usize, device: &Device) -> Attention {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Attention {
            norm: norm(config, channels, device),
            query: linear(),
            key: linear(),
            value: linear(),
            out: linear(),
            head: config.head.unwrap_or(channels),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [images, channels, height, width] = x.dims();
        let tokens = height * width;
        let y = self.norm.forward(x.clone()).reshape([images, channels, tokens]).swap_dims(1, 2);
        let split = |y: Tensor<3>| y.reshape([images, tokens, channels / self.head, self.head]).swap_dims(1, 2);
        let query = split(self.query.forward(y.clone()));
        let key = split(self.key.forward(y.clone()));
        let value = split(self.value.forward(y));
        let scores = softmax(query.matmul(key.swap_dims(2, 3)) * (self.head as f64).powf(-0.5), 3);
        let y = scores.matmul(value).swap_dims(1, 2).reshape([images, tokens, channels]);
        self.out.forward(y).swap_dims(1, 2).reshape([images, channels, height, width]) + x
    }
}

#[derive(Module, Debug)]
struct Level {
    resnets: Vec<Resnet>,
    attentions: Vec<Attention>,
    resample: Option<Conv2d>,
    nearest: Option<Interpolate2d>,
}

impl Level {
    fn new(config: &Config, level: usize, inputs: &[usize], device: &Device) -> Level {
        let channels = config.channels[level];
        let resnets = inputs.iter().map(|from| Resnet::new(config, *from, channels, device)).collect();
        let attentions = if level == config.attends { inputs.len() } else { 0 };
        let attentions = (0..attentions).map(|_| Attention::new(config, channels, device)).collect();
        Level { resnets, attentions, resample: None, nearest: None }
    }

    fn layer(&self, index: usize, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let y = self.resnets[index].forward(x, time);
        match self.attentions.get(index) {
            Some(attention) => attention.forward(y),
            None => y,
        }
    }
}

#[derive(Module, Debug)]
struct UNet {
    time1: Linear,
    time2: Linear,
    conv_in: Conv2d,
    down: Vec<Level>,
    middle1: Resnet,
    attention: Attention,
    middle2: Resnet,
    up: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    width: usize,
}

impl UNet {
    fn new(config: &Config, device: &Device) -> UNet {
        let (channels, time) = (&config.channels, config.time_channels());
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let (mut down, mut skips, mut current) = (Vec::new(), vec![first], first);
        for (index, to) in channels.iter().enumerate() {
            let inputs: Vec<usize> = (0..config.layers).map(|layer| if layer == 0 { current } else { *to }).collect();
            let mut level = Level::new(config, index, &inputs, device);
            skips.extend(vec![*to; config.layers]);
            if index + 1 < channels.len() {
                let pad = if config.pad_behind { [0, 0, 1, 1] } else { [1; 4] };
                level.resample = Some(convolution(*to, *to, 3, 2, pad, device));
                skips.push(*to);
            }
            current = *to;
            down.push(level);
        }
        let mut up = Vec::new();
        for (index, to) in channels.iter().enumerate().rev() {
            let mut inputs = Vec::new();
            for _ in 0..=config.layers {
                inputs.push(current + skips.pop().expect("one for each layer"));
                current = *to;
            }
            let mut level = Level::new(config, index, &inputs, device);
            if index > 0 {
                level.resample = Some(same(*to, *to, 3, device));
                let nearest = Interpolate2dConfig::new().with_scale_factor(Some([2.0, 2.0]));
                level.nearest = Some(nearest.with_mode(InterpolateMode::Nearest).init());
            }
            up.push(level);
        }
        UNet {
            time1: LinearConfig::new(first, time).init(device),
            time2: LinearConfig::new(time, time).init(device),
            conv_in: same(config.image_channels, first, 3, device),
            down,
            middle1: Resnet::new(config, last, last, device),
            attention: Attention::new(config, last, device),
            middle2: Resnet::new(config, last, last, device),
            up,
            norm_out: norm(config, first, device),
            conv_out: same(first, config.image_channels, 3, device),
            width: first,
        }
    }

    fn embed(&self, time: Tensor<2>) -> Tensor<2> {
        let half = self.width / 2;
        let frequency = |i: usize| (-(10_000f32.ln()) * i as f32 / half as f32).exp();
        let frequencies: Vec<f32> = (0..half).map(frequency).collect();
        let device = time.device();
        let angle = time * Tensor::<1>::from_floats(frequencies.as_slice(), &device).reshape([1, half]);
        let waves = Tensor::cat(vec![angle.clone().sin(), angle.cos()], 1);
        self.time2.forward(silu(self.time1.forward(waves)))
    }

    fn forward(&self, x: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let time = self.embed(time);
        let mut y = self.conv_in.forward(x);
        let mut skips = vec![y.clone()];
        for level in &self.down {
            for layer in 0..level.resnets.len() {
                y = level.layer(layer, y, time.clone());
                skips.push(y.clone());
            }
            if let Some(resample) = &level.resample {
                y = resample.forward(y);
                skips.push(y.clone());
            }
        }
        y = self.attention.forward(self.middle1.forward(y, time.clone()));
        y = self.middle2.forward(y, time.clone());
        for level in &self.up {
            for layer in 0..level.resnets.len() {
                let skip = skips.pop().expect("one for each layer");
                y = level.layer(layer, Tensor::cat(vec![y, skip], 1), time.clone());
            }
            if let (Some(resample), Some(nearest)) = (&level.resample, &level.nearest) {
                y = resample.forward(nearest.forward(y));
            }
        }
        self.conv_out.forward(silu(self.norm_out.forward(y)))
    }
}

/// Steps before the timed ones: the first tunes and compiles.
const WARM_UP: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, batch, steps] = arguments.as_slice() else { panic!("usage: burn-peer MODEL BATCH STEPS") };
    let (batch, steps): (usize, usize) = (batch.parse().expect("a number"), steps.parse().expect("a number"));
    let config = Config::of(model);
    let gpu = std::env::var("BURN_DEVICE").is_ok_and(|device| device == "gpu");
    let device = Device::vulkan(if gpu { DeviceKind::DiscreteGpu(0) } else { DeviceKind::Cpu }).autodiff();
    let mut unet = UNet::new(&config, &device);
    let parameters = unet.num_params();
    let mut optimizer = AdamWConfig::new().init();
    let shape = [batch, config.image_channels, config.side, config.side];
    let normal = || Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let x = normal();
    let time = Tensor::<2>::random([batch, 1], Distribution::Uniform(0.0, 1000.0), &device);
    let mut times = Vec::new();
    for _ in 0..steps + WARM_UP {
        let start = Instant::now();
        let noise = normal();
        let noisy = x.clone() * 0.7 + noise.clone() * 0.7;
        let difference = unet.forward(noisy, time.clone()) - noise;
        let loss = (difference.clone() * difference).mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &unet);
        unet = optimizer.step(1e-4f64, unet, gradients);
        // Waits for the device.
        let _ = loss.into_data();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let first = times[0];
    times.drain(..WARM_UP);
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!(
        r#"{{"peer": "Burn 0.22.1, Vulkan", "parameters": {parameters}, "step_ms": {median:.3}, "first_ms": {first:.3}}}"#
    );
}
