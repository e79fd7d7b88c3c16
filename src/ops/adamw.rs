//! Global-norm clip, AdamW and the average of the weights over flat buffers: `shaders/adamw.wgsl`.

use super::case::{Corner, Draw};
use super::{add, reduce};
use crate::cpu::adamw as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Precision, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "adamw",
    &[wgsl!("adamw.wgsl")],
    &[("square_sum", twin::square_sum), ("update", twin::update), ("adjust_scale", twin::adjust_scale)],
);

/// Settings that stay for a whole run. Learning rate, bias corrections and the decay of the average come with each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of the gradient.
    pub beta1: f64,
    /// Decay of the mean of its square.
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: each step takes learning_rate · weight_decay of a weight.
    pub weight_decay: f64,
    /// Largest norm of the whole gradient; 0 doesn't clip.
    pub max_norm: f64,
}

impl Default for AdamW {
    fn default() -> AdamW {
        AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: 1.0 }
    }
}

/// What one update reads and writes, [1, 1, 1, count] each: the same range of every flat buffer.
#[derive(Clone, Copy, Debug)]
pub struct State {
    pub weights: Tensor,
    pub gradient: Tensor,
    /// Mean of the gradient.
    pub m: Tensor,
    /// Mean of its square.
    pub v: Tensor,
    /// Average of the weights.
    pub ema: Tensor,
    /// What the gradient was scaled with, by [`loss_scale`]: [1, 1, 1, 2].
    pub loss_scale: Tensor,
}

/// How many partial sums [`square_sum`] leaves for `count` values: 64 of 64 vec4 each in a workgroup.
pub fn partial_count(count: u64) -> u32 {
    (count.div_ceil(4).div_ceil(64 * 64) * 64) as u32
}

/// The named buffer of [`loss_scale`].
pub const LOSS_SCALE: &str = "loss scale";
/// Scale at the start, scale at the most, and steps without overflow until it doubles, in half precision.
const FIRST_SCALE: f32 = 65_536.0;
const MOST_SCALE: f32 = 16_777_216.0;
const SCALE_INTERVAL: f32 = 1000.0;

/// What the loss is scaled with, [1, 1, 1, 2]: the scale, and steps since it last changed. 1 for ever in single precision.
pub fn loss_scale(r: &mut Recorder, precision: Precision) -> Tensor {
    let scale = if precision == Precision::F32 { 1.0 } else { FIRST_SCALE };
    r.constant(LOSS_SCALE, [1, 1, 1, 2], &[scale, 0.0, 0.0, 0.0])
}

/// Halves the scale if `square_sum` isn't finite, doubles it after `interval` steps in which it was.
fn adjust_scale(r: &mut Recorder, square_sum: Tensor, scale: Tensor, interval: f32) {
    let params = [("interval", interval.into()), ("most", MOST_SCALE.into())];
    r.dispatch(&KERNEL, "adjust_scale", &params, &[square_sum, scale], Grid::Workgroups(1), 0);
}

/// Halves the scale if `square_sum`, the square of the gradient's norm, isn't finite; doubles it now and then.
pub fn keep_scale(r: &mut Recorder, square_sum: Tensor, scale: Tensor) {
    adjust_scale(r, square_sum, scale, SCALE_INTERVAL);
}

/// Sums the squares of `gradient` into `partials`, [1, 1, 1, [`partial_count`]]; [`reduce::total`] gives the square of
/// the norm. A gradient in several ranges has its partials in one tensor after the other.
pub fn square_sum(r: &mut Recorder, gradient: Tensor, partials: Tensor, scale: Tensor) {
    let count = partial_count(gradient.count());
    assert_eq!(partials.shape, [1, 1, 1, count]);
    let params = [("quads", (gradient.elements() as u32 / 4).into()), ("partials", count.into())];
    let grid = Grid::Invocations(count as u64);
    r.dispatch(&KERNEL, "square_sum", &params, &[gradient, partials, scale], grid, 2 * gradient.count());
}

/// One step of AdamW on the gradient times `gradient_scale` (1/K after K micro-batches), clipped by its norm over all
/// ranges, whose square before the scale is `square_sum`. If that isn't finite, nothing changes.
pub fn update(r: &mut Recorder, adamw: &AdamW, gradient_scale: f32, state: State, square_sum: Tensor) {
    let State { weights, gradient, m, v, ema, loss_scale } = state;
    assert!([gradient, m, v, ema].iter().all(|tensor| tensor.shape == weights.shape));
    assert!(adamw.max_norm >= 0.0 && adamw.max_norm < f32::MAX as f64, "max_norm {}: 0 is off", adamw.max_norm);
    let params = [
        ("quads", (weights.elements() as u32 / 4).into()),
        ("scale", gradient_scale.into()),
        ("max_norm", (adamw.max_norm as f32).into()),
        ("beta1", (adamw.beta1 as f32).into()),
        ("beta2", (adamw.beta2 as f32).into()),
        ("one_minus_beta1", ((1.0 - adamw.beta1) as f32).into()),
        ("one_minus_beta2", ((1.0 - adamw.beta2) as f32).into()),
        ("eps", (adamw.eps as f32).into()),
        ("weight_decay", (adamw.weight_decay as f32).into()),
    ];
    let io = [gradient, square_sum, weights, m, v, ema, loss_scale];
    r.dispatch(&KERNEL, "update", &params, &io, Grid::Invocations(weights.elements() / 4), 20 * weights.count());
}

/// A workgroup takes 64 quadruples, or 4,096 whose squares are summed.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, 1, 1.0, 0.5, false)),
    Corner::new("a norm that isn't finite", |draw| case_of(draw, 257, 1.0, 0.5, true)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, 2 * 16_384, 30.0, 0.5, false)),
    Corner::new("lanes of squares not full", |draw| case_of(draw, 40_001, 30.0, 0.0, false)),
    // Where the 1e-6 that clipping adds counts.
    Corner::new("a norm as small as clipping's", |draw| case_of(draw, 65, 1e-6, 0.5, false)),
    Corner::new("a norm below the limit", |draw| case_of(draw, 643, 1.0, 4.0, false)),
];

pub fn case(draw: &mut Draw) {
    let count = draw.choose(&[1, 3, 5, 64, 255, 257, 1030, 20_000, 40_001]);
    let (norm, limit) = (draw.choose(&[1e-6, 1e-6, 1.0, 30.0]), draw.choose(&[0.0, 0.5, 0.5, 4.0]));
    let broken = draw.range(0, 4) == 0;
    case_of(draw, count, norm, limit, broken);
}

/// Of a gradient of about this norm, which is clipped at `limit` times as much, or not finite.
fn case_of(draw: &mut Draw, count: u32, norm: f64, limit: f64, broken_norm: bool) {
    let shape = [1, 1, 1, count];
    let size = norm / (count as f64).sqrt();
    let gradient = draw.input_by("gradient", shape, |draw| size * draw.normal());
    let [weights, ema] = ["weights", "ema"].map(|name| draw.input(name, shape));
    let m = draw.input_by("m", shape, |draw| 0.1 * size * draw.normal());
    let v = draw.input_by("v", shape, |draw| 0.1 * (size * draw.normal()).powi(2));
    let broken = draw.choose(&[f64::INFINITY, f64::NEG_INFINITY, f32::from_bits(0x7fff_ffff) as f64]);
    let not_finite = draw.input_by("not finite", [1, 1, 1, 1], |_| broken);
    draw_step(draw);
    let adamw = AdamW {
        beta1: draw.choose(&[0.9, 0.5]),
        beta2: draw.choose(&[0.999, 0.9]),
        eps: draw.choose(&[1e-8, 0.1]),
        weight_decay: draw.choose(&[0.0, 0.3]),
        max_norm: norm * limit,
    };
    let scale = draw.choose(&[1.0, 0.25]);
    let (size, good) = (draw.choose(&[1.0, 8.0]), draw.choose(&[0.0, 0.0, 1.0]));
    let factor = draw.input_by("loss scale", [1, 1, 1, 2], |_| size);
    let large = draw.choose(&[1.0, 8.0, 16_777_216.0]);
    let mut numbers = [good, large];
    let state = draw.input_by("state", [1, 1, 1, 2], |_| {
        numbers.reverse();
        numbers[0]
    });
    let interval = draw.choose(&[1.0, 2.0, 5.0]);
    let r = &mut draw.recorder;
    let partials = r.temp([1, 1, 1, partial_count(count as u64)]);
    square_sum(r, gradient, partials, factor);
    let total = r.temp([1, 1, 1, 1]);
    reduce::total(r, partials, total);
    let square = if broken_norm { not_finite } else { total };
    // Temporaries have a guarded end.
    let [weights, m, v, ema] = [weights, m, v, ema].map(|tensor| add::scale(r, tensor, 1.0));
    update(r, &adamw, scale, State { weights, gradient, m, v, ema, loss_scale: factor }, square);
    adjust_scale(r, square, state, interval);
}

fn draw_step(draw: &mut Draw) {
    let values = [
        ("learning_rate", draw.choose(&[0.01, 0.3])),
        ("bias_correction1", draw.choose(&[0.1, 0.7, 1.0])),
        ("bias_correction2", draw.choose(&[0.001, 0.4, 1.0])),
        ("ema_decay", draw.choose(&[0.0, 0.5, 0.99])),
    ];
    for (name, value) in values {
        draw.step.set(name, value);
    }
}
