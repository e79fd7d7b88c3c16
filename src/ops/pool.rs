//! The tokens of attention pooling: `shaders/pool.wgsl`.

use super::add::scale;
use super::case::{Corner, Draw};
use super::reduce;
use crate::cpu::pool as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "pool",
    &[wgsl!("pool.wgsl")],
    &[
        ("tokens", twin::tokens),
        ("tokens_backward", twin::tokens_backward),
        ("first", twin::first),
        ("first_backward", twin::first_backward),
    ],
);

fn record(r: &mut Recorder, entry: &'static str, token4: u32, tokens: u32, io: &[Tensor], flops: u64) {
    let written = io[io.len() - 1];
    let quads = (written.elements() / 4) as u32;
    let params = [("quads", quads.into()), ("token4", token4.into()), ("tokens", tokens.into())];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Invocations(quads as u64), flops);
}

/// The positions of `x`, [N, H, W, C], as tokens behind their mean, all plus an embedding of the place:
/// [N, H·W + 1, 1, C]. positions: [1, 1, H·W + 1, C] in f32.
pub fn tokens(r: &mut Recorder, x: Tensor, positions: Tensor) -> Tensor {
    let [n, h, w, c] = x.shape;
    assert_eq!(positions.shape, [1, 1, h * w + 1, c], "one embedding for each token");
    let y = r.temp([n, h * w + 1, 1, c]);
    record(r, "tokens", y.channels4(), h * w, &[x, positions, y], 3 * x.count());
    y
}

/// The gradient with respect to x, whose shape is `x_shape`; that of the embedding goes to `d_positions`.
pub fn tokens_backward(r: &mut Recorder, dy: Tensor, x_shape: [u32; 4], d_positions: Tensor) -> Tensor {
    let [n, h, w, c] = x_shape;
    assert_eq!(dy.shape, [n, h * w + 1, 1, c]);
    let dx = r.temp(x_shape);
    record(r, "tokens_backward", dy.channels4(), h * w, &[dy, dx], 2 * dx.count());
    reduce::sum_rows(r, dy, n, d_positions);
    dx
}

/// The first token of each image: [N, T, heads, d] to [N, 1, heads, d].
pub fn first(r: &mut Recorder, x: Tensor) -> Tensor {
    let [n, tokens, heads, d] = x.shape;
    let y = r.temp([n, 1, heads, d]);
    record(r, "first", heads * x.channels4(), tokens, &[x, y], 0);
    y
}

/// The gradient with respect to all `tokens` tokens: [N, 1, heads, d] to [N, T, heads, d].
pub fn first_backward(r: &mut Recorder, dy: Tensor, tokens: u32) -> Tensor {
    let [n, _, heads, d] = dy.shape;
    let dx = r.temp([n, tokens, heads, d]);
    record(r, "first_backward", heads * dy.channels4(), tokens, &[dy, dx], 0);
    dx
}

/// A workgroup takes 64 quadruples of what is written.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], [1, 1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [16, 3, 5, 16], [4, 2, 32])),
    Corner::new("the last workgroup not full", |draw| case_of(draw, [3, 4, 5, 9], [5, 3, 7])),
    Corner::new("one lane in the last workgroup", |draw| case_of(draw, [5, 3, 4, 3], [13, 1, 3])),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 3), draw.range(1, 5), draw.range(1, 5), draw.range(1, 13)];
    let tokens_heads_d = [draw.range(1, 6), draw.range(1, 3), draw.range(1, 9)];
    case_of(draw, shape, tokens_heads_d);
}

/// Pooled are the positions of `shape`; the first token is taken of as many images of others.
fn case_of(draw: &mut Draw, shape: [u32; 4], [token_count, heads, d]: [u32; 3]) {
    let [n, h, w, c] = shape;
    let x = draw.input("x", shape);
    let positions = draw.input("positions", [1, 1, h * w + 1, c]);
    let dy = draw.input("dy", [n, h * w + 1, 1, c]);
    let all = draw.input("all", [n, token_count, heads, d]);
    let d_one = draw.input("d one", [n, 1, heads, d]);
    let r = &mut draw.recorder;
    // Behind the end of a temporary stands NaN.
    let [x1, dy1, all1, d_one1] = [x, dy, all, d_one].map(|input| scale(r, input, 1.0));
    let (y, d_positions) = (tokens(r, x1, positions), r.temp(positions.shape));
    let dx = tokens_backward(r, dy1, shape, d_positions);
    reduce::sum_waiting(r);
    let one = first(r, all1);
    let d_all = first_backward(r, d_one1, token_count);
    draw.gradient(x, y, dy, dx);
    draw.gradient(positions, y, dy, d_positions);
    draw.gradient(all, one, d_one, d_all);
}
