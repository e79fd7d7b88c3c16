//! What training under differential privacy does with the gradient of one image: `shaders/private.wgsl`.

use super::case::{Corner, Draw};
use crate::cpu::private as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "private",
    &[wgsl!("private.wgsl")],
    &[("clip", twin::clip), ("add", twin::add), ("release", twin::release)],
);

/// Quadruples that one lane takes.
const SHARE: u32 = 4;

/// What a gradient is multiplied with, its loss's scale taken out: `scale`, or less so that its norm, of which `total` is the square,
/// comes to `limit`; 0 if it isn't finite, or if the step says that the place is not taken. [1, 1, 1, 1].
pub fn clip(r: &mut Recorder, total: Tensor, loss_scale: Tensor, scale: f32, limit: f32) -> Tensor {
    let factor = r.temp([1, 1, 1, 1]);
    clip_into(r, total, loss_scale, [scale, limit], factor);
    factor
}

/// The same, into a tensor that is there.
fn clip_into(r: &mut Recorder, total: Tensor, loss_scale: Tensor, [scale, limit]: [f32; 2], factor: Tensor) {
    let params = [("scale", scale.into()), ("limit", limit.into())];
    r.dispatch(&KERNEL, "clip", &params, &[total, loss_scale, factor], Grid::Workgroups(1), 0);
}

/// Adds `factor` times `gradient`, [1, 1, 1, count], rounded to whole numbers, to as many words of `sum`, modulo 2^32.
pub fn add(r: &mut Recorder, factor: Tensor, gradient: Tensor, sum: Tensor) {
    assert_eq!(gradient.shape, sum.shape);
    let quads = (gradient.elements() / 4) as u32;
    let grid = Grid::Workgroups(quads.div_ceil(256 * SHARE) as u64);
    r.dispatch(&KERNEL, "add", &[("quads", quads.into())], &[factor, gradient, sum], grid, 2 * gradient.count());
}

/// `scale` times `sum`, words of two's complement, into `gradient`.
pub fn release(r: &mut Recorder, sum: Tensor, gradient: Tensor, scale: f32) {
    assert_eq!(gradient.shape, sum.shape);
    let quads = (gradient.elements() / 4) as u32;
    let params = [("quads", quads.into()), ("scale", scale.into())];
    let grid = Grid::Workgroups(quads.div_ceil(256 * SHARE) as u64);
    r.dispatch(&KERNEL, "release", &params, &[sum, gradient], grid, gradient.count());
}

/// A workgroup takes 1,024 quadruples, a lane 4 of them 256 apart.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element, not clipped", |draw| case_of(draw, 1, [1.0, 10.0], true, 1.0)),
    Corner::new("a place that is not taken", |draw| case_of(draw, 300, [1.0, 0.5], false, 1.0)),
    Corner::new("clipped, of a scaled loss", |draw| case_of(draw, 65, [1e3, 0.5], true, 8.0)),
    Corner::new("not clipped, of a scaled loss", |draw| case_of(draw, 65, [1e3, 10.0], true, 8.0)),
    Corner::new("a norm that isn't finite", |draw| case_of(draw, 65, [1e3, 0.0], true, 1.0)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, 8192, [1e6, 0.5], true, 1.0)),
    Corner::new("a lane with fewer quadruples", |draw| case_of(draw, 9001, [3.0, 2.0], true, 64.0)),
];

pub fn case(draw: &mut Draw) {
    let count = draw.choose(&[1, 3, 5, 64, 257, 4099, 9001]);
    let limits = [draw.choose(&[1.0, 300.0, 1e6]), draw.choose(&[0.0, 0.5, 0.5, 2.0])];
    let (is_taken, loss_scale) = (draw.range(0, 3) > 0, draw.choose(&[1.0, 8.0, 65_536.0]));
    case_of(draw, count, limits, is_taken, loss_scale);
}

/// Of so many units in 1, and a limit of so many times the norm, which isn't finite where that is 0.
fn case_of(draw: &mut Draw, count: u32, [scale, limit]: [f64; 2], is_taken: bool, loss_scale: f64) {
    draw.step.set("taken", is_taken.into());
    let norm = draw.choose(&[0.01, 1.0, 30.0]);
    let infinite = draw.choose(&[f64::INFINITY, f32::from_bits(0x7fff_ffff).into()]);
    let total = draw.input_by("total", [1, 1, 1, 1], |_| if limit == 0.0 { infinite } else { norm * norm });
    let mut scales = [3.0, loss_scale];
    let loss = draw.input_by("loss scale", [1, 1, 1, 2], |_| {
        scales.reverse();
        scales[0]
    });
    // Ties that are rounded to the even one, and what isn't finite.
    let value = |draw: &mut Draw| match draw.range(0, 9) {
        0 => draw.range(0, 9) as f64 - 4.5,
        1 => draw.choose(&[f64::INFINITY, f64::NEG_INFINITY, f32::from_bits(0x7fff_ffff).into(), 0.0]),
        _ => 40.0 * draw.normal(),
    };
    let gradient = draw.input_by("gradient", [1, 1, 1, count], value);
    let times = draw.choose(&[1.0, 0.0, 2.5, 3e5]);
    let factor = draw.input_by("factor", [1, 1, 1, 1], |_| times);
    let sum = draw.integers("sum", count, |draw| draw.bits() as u32);
    let words = draw.integers("words", count, |draw| draw.bits() as u32);
    // What a place leaves that isn't taken is 0, whatever was there.
    let clipped = draw.input("clipped", [1, 1, 1, 1]);
    let limit = scale * norm * if limit == 0.0 { 1.0 } else { limit };
    let r = &mut draw.recorder;
    clip_into(r, total, loss, [scale as f32, limit as f32], clipped);
    add(r, factor, gradient, sum);
    let noisy = r.temp([1, 1, 1, count]);
    release(r, words, noisy, scale as f32 * 1e-6);
}
