//! Multi-head self-attention between its projections: `shaders/attention.wgsl`.

use super::Draw;
use super::add::scale;
use crate::cpu::attention as twin;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "attention",
    &[include_str!("../../shaders/attention.wgsl")],
    &[
        ("log_sum_exp", twin::log_sum_exp),
        ("forward", twin::forward),
        ("delta", twin::delta),
        ("backward_query", twin::backward_query),
        ("backward_key_value", twin::backward_key_value),
    ],
);

/// What the backward pass needs of a forward pass.
pub struct Saved {
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
    pub o: Tensor,
    /// Of each query's scores: [N, heads, 1, T].
    pub log_sum_exp: Tensor,
}

/// 4 tokens a lane.
const TOKENS: u32 = 4;
/// Quadruples of channels a lane, in the entries that write channels.
const CHUNK: u32 = 4;

/// The arithmetic of one T x T x d product for every image and head, padding left out. Counted are the products that
/// the equations hold, not those that lanes of one block repeat: 1 in log_sum_exp (S), 2 in forward (S, O), 3 in
/// backward_query (S, dP, dQ), 4 in backward_key_value (S, dP, dK, dV).
fn product_flops(q: Tensor) -> u64 {
    2 * q.count() * q.height() as u64
}

fn record(r: &mut Recorder, entry: &'static str, q: Tensor, chunks: u32, io: &[Tensor], flops: u64) {
    let [images, tokens, heads, channels] = q.shape;
    let lanes = images * heads * tokens.div_ceil(TOKENS) * chunks;
    let params = [
        ("lanes", lanes.into()),
        ("tokens", tokens.into()),
        ("heads", heads.into()),
        ("channels4", q.channels4().into()),
        ("scale", (1.0 / (channels as f64).sqrt() as f32).into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Invocations(lanes as u64), flops);
}

/// One number for each image, head and token.
fn statistic(r: &mut Recorder, q: Tensor) -> Tensor {
    r.temp([q.shape[0], q.shape[2], 1, q.shape[1]])
}

/// o = softmax(q k^T / sqrt(d)) v for each image and head, all [N, T, heads, d].
pub fn forward(r: &mut Recorder, q: Tensor, k: Tensor, v: Tensor) -> (Tensor, Saved) {
    assert!(q.shape == k.shape && q.shape == v.shape, "self-attention takes q, k and v of one shape");
    let (o, log_sum_exp) = (r.temp(q.shape), statistic(r, q));
    let flops = product_flops(q);
    record(r, "log_sum_exp", q, 1, &[q, k, log_sum_exp], flops);
    let chunks = q.channels4().div_ceil(CHUNK);
    record(r, "forward", q, chunks, &[q, k, v, log_sum_exp, o], 2 * flops);
    (o, Saved { q, k, v, o, log_sum_exp })
}

/// The gradients of <o, d_o> with respect to q, k and v.
pub fn backward(r: &mut Recorder, saved: Saved, d_o: Tensor) -> (Tensor, Tensor, Tensor) {
    let Saved { q, k, v, o, log_sum_exp } = saved;
    assert_eq!(d_o.shape, o.shape);
    let delta = statistic(r, q);
    record(r, "delta", q, 1, &[o, d_o, delta], 2 * q.count());
    let (d_q, d_k, d_v) = (r.temp(q.shape), r.temp(q.shape), r.temp(q.shape));
    let flops = product_flops(q);
    let chunks = q.channels4().div_ceil(CHUNK);
    record(r, "backward_query", q, chunks, &[q, k, v, d_o, log_sum_exp, delta, d_q], 3 * flops);
    record(r, "backward_key_value", q, chunks, &[q, k, v, d_o, log_sum_exp, delta, d_k, d_v], 4 * flops);
    (d_q, d_k, d_v)
}

pub fn case(draw: &mut Draw) {
    if draw.range(0, 3) == 0 {
        return case_of_large_scores(draw);
    }
    let tokens = draw.choose(&[1, 3, 5, 8, 17, 33]);
    let channels = draw.choose(&[1, 3, 4, 6, 16, 17, 20, 40]);
    let mut shape = [draw.range(1, 3), tokens, draw.range(1, 3), channels];
    if draw.range(0, 7) == 0 {
        // Workgroups that are full to the last lane.
        shape = [2, 64, 4, 17];
    }
    // Scores have a deviation of sharpness^2.
    let sharpness = draw.choose(&[0.5, 1.0, 1.0, 2.0]);
    let q = draw.input_by("q", shape, |draw| sharpness * draw.normal());
    let k = draw.input_by("k", shape, |draw| sharpness * draw.normal());
    let (v, d_o) = (draw.input("v", shape), draw.input("d_o", shape));
    let r = &mut draw.recorder;
    // Behind the end of a temporary stands NaN.
    let [q1, k1, v1, d_o1] = [q, k, v, d_o].map(|input| scale(r, input, 1.0));
    let (o, saved) = forward(r, q1, k1, v1);
    let (d_q, d_k, d_v) = backward(r, saved, d_o1);
    draw.gradient(q, o, d_o, d_q);
    draw.gradient(k, o, d_o, d_k);
    draw.gradient(v, o, d_o, d_v);
}

/// Scores of ten thousands, close together or thousands apart. Whole q and k make them exact in f32; L, whose last place
/// is then 1e-3, is too coarse for a comparison of gradients.
fn case_of_large_scores(draw: &mut Draw) {
    let shape = [draw.range(1, 2), draw.choose(&[5, 17]), draw.range(1, 2), draw.choose(&[4, 16])];
    let offset = draw.choose(&[-4000.0, 4000.0]);
    let spread = draw.choose(&[1.0, 300.0]);
    let q = draw.input_by("q", shape, |draw| draw.range(0, 3) as f64);
    let k = draw.input_by("k", shape, |draw| offset + spread * draw.range(0, 3) as f64);
    let v = draw.input("v", shape);
    forward(&mut draw.recorder, q, k, v);
}
