//! Nearest upsampling by two: `shaders/resample.wgsl`. Downsampling is a convolution of stride 2.

use super::case::{Corner, Draw};
use crate::cpu::resample as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "resample",
    &[wgsl!("resample.wgsl")],
    &[("upsample", twin::upsample), ("upsample_backward", twin::upsample_backward)],
);

fn record(r: &mut Recorder, entry: &'static str, from: Tensor, to: Tensor, width: u32, flops: u64) {
    let quads = to.elements() / 4;
    let params = [("quads", (quads as u32).into()), ("width", width.into()), ("c4", to.channels4().into())];
    r.dispatch(&KERNEL, entry, &params, &[from, to], Grid::Invocations(quads), flops);
}

/// [N, H, W, C] to [N, 2H, 2W, C], each value four times.
pub fn upsample(r: &mut Recorder, x: Tensor) -> Tensor {
    let y = r.temp([x.n(), 2 * x.height(), 2 * x.width(), x.channels()]);
    record(r, "upsample", x, y, x.width(), 0);
    y
}

/// The gradient: the sum of the four, [N, 2H, 2W, C] to [N, H, W, C].
pub fn upsample_backward(r: &mut Recorder, dy: Tensor) -> Tensor {
    let dx = r.temp([dy.n(), dy.height() / 2, dy.width() / 2, dy.channels()]);
    record(r, "upsample_backward", dy, dx, dx.width(), 3 * dx.count());
    dx
}

/// A workgroup takes 64 quadruples of what is written.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [2, 4, 8, 16])),
    Corner::new("the last workgroup not full", |draw| case_of(draw, [3, 3, 5, 7])),
    Corner::new("one lane in the last workgroup", |draw| case_of(draw, [1, 5, 13, 3])),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 3), draw.range(1, 6), draw.range(1, 6), draw.range(1, 13)];
    case_of(draw, shape);
}

fn case_of(draw: &mut Draw, [n, h, w, c]: [u32; 4]) {
    let x = draw.input("x", [n, h, w, c]);
    let dy = draw.input("dy", [n, 2 * h, 2 * w, c]);
    let y = upsample(&mut draw.recorder, x);
    let dx = upsample_backward(&mut draw.recorder, dy);
    draw.gradient(x, y, dy, dx);
}
