//! SiLU: `shaders/silu.wgsl`.

use super::case::{Corner, Draw};
use crate::cpu::silu as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel =
    Kernel::new("silu", &[wgsl!("silu.wgsl")], &[("forward", twin::forward), ("backward", twin::backward)]);

/// y = x sigmoid(x).
pub fn forward(r: &mut Recorder, x: Tensor) -> Tensor {
    let y = r.temp(x.shape);
    let quads = y.elements() / 4;
    r.dispatch(
        &KERNEL,
        "forward",
        &[("quads", (quads as u32).into())],
        &[x, y],
        Grid::Invocations(quads),
        4 * x.count(),
    );
    y
}

/// The gradient with respect to x.
pub fn backward(r: &mut Recorder, x: Tensor, dy: Tensor) -> Tensor {
    assert_eq!(x.shape, dy.shape);
    let dx = r.temp(x.shape);
    let quads = dx.elements() / 4;
    let params = [("quads", (quads as u32).into())];
    r.dispatch(&KERNEL, "backward", &params, &[x, dy, dx], Grid::Invocations(quads), 7 * x.count());
    dx
}

/// A workgroup takes 64 quadruples.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [3, 8, 8, 8])),
    Corner::new("the last workgroup not full", |draw| case_of(draw, [2, 7, 5, 7])),
    Corner::new("one lane in the last workgroup", |draw| case_of(draw, [1, 3, 43, 3])),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 3), draw.range(1, 7), draw.range(1, 7), draw.range(1, 13)];
    case_of(draw, shape);
}

fn case_of(draw: &mut Draw, shape: [u32; 4]) {
    let x = draw.input_by("x", shape, |draw| 4.0 * draw.normal());
    let dy = draw.input("dy", shape);
    let y = forward(&mut draw.recorder, x);
    let dx = backward(&mut draw.recorder, x, dy);
    draw.gradient(x, y, dy, dx);
}
