//! Multi-head self-attention between its projections: `shaders/attention.wgsl`.

use super::add::scale;
use super::case::{Corner, Draw};
use super::matrix::{declared, grid};
use crate::cpu::{Twin, attention as twin};
use crate::gpu::agreement::{Bound, Declared};
use crate::gpu::kernel::{File, wgsl};
use crate::gpu::{Candidate, Kernel, Need, Recorder, Tensor, Ways};

const PREFIX: File = wgsl!("attention.wgsl");
const TWINS: &[(&str, Twin)] = &[
    ("forward", twin::forward),
    ("backward_query", twin::backward_query),
    ("backward_key_value", twin::backward_key_value),
];

pub static KERNEL: Kernel =
    Kernel::variant("attention", "register", &[], &[PREFIX, wgsl!("attention.register.wgsl")], TWINS);
static SUBGROUP: Kernel = Kernel::variant(
    "attention",
    "subgroup",
    &[Need::Subgroups],
    &[PREFIX, wgsl!("lib.subgroup.wgsl"), wgsl!("attention.subgroup.wgsl")],
    TWINS,
);
static WIDE: Kernel = Kernel::variant(
    "attention",
    "wide",
    &[Need::Subgroups],
    &[PREFIX, wgsl!("lib.subgroup.wgsl"), wgsl!("attention.wide.wgsl")],
    TWINS,
);
static TILED: Kernel = Kernel::variant("attention", "tiled", &[], &[PREFIX, wgsl!("attention.tiled.wgsl")], TWINS);
static COOP8: Kernel = Kernel::variant(
    "attention",
    "coop8",
    &[Need::Subgroups, Need::Matrices8],
    &[PREFIX, wgsl!("lib.coop8.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("attention.coop.wgsl")],
    TWINS,
);
static COOP16: Kernel = Kernel::variant(
    "attention",
    "coop16",
    &[Need::Subgroups, Need::Matrices16],
    &[PREFIX, wgsl!("lib.coop16.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("attention.coop.wgsl")],
    TWINS,
);

/// Of matrix units, which take P and dS as halves.
const OF_HALVES: Declared = Declared {
    bound: Bound { rms: 1e-3, relative: 0.0 },
    derivation: "each P or dS is rounded by 2^-11 of itself at the most, 2^-12.3 in the root mean square; errors that are independent are as \
                 much of the root mean square of the sums; five times that, for the worst of 10^6",
};

/// Whether the channels of a head are one tile of matrix units, and half of it at least: several make their scores anew, of less most is
/// padding.
fn is_one_tile(kernel: &Kernel, shape: &[u32]) -> bool {
    let tile = 4 * kernel.constant("TILE_QUADS", &[]);
    (tile / 2..=tile).contains(&shape[3])
}

/// `in_order`: all sum products in one order. Else they differ in how many keys they take between two looks for a higher score,
/// or sum the exponentials in an order of their own.
const fn candidates(in_order: bool) -> [Candidate; 19] {
    const fn classed(candidate: Candidate, class: &'static str, in_order: bool) -> Candidate {
        if in_order { candidate } else { candidate.of_class(class) }
    }
    const fn on_matrices(
        kernel: &'static Kernel,
        constants: &'static [(&'static str, u32)],
        class: &'static str,
    ) -> Candidate {
        Candidate::for_gpus(kernel, constants).of_class(class).held_to(OF_HALVES).when_checked()
    }
    const ONE_BY_ONE: &str = "subgroup, key by key";
    [
        Candidate::for_cpus(&SUBGROUP, &[("LANES", 8), ("QUADS", 2), ("AT_ONCE", 4)]).only_for(|shape| shape[3] <= 8),
        Candidate::for_cpus(&SUBGROUP, &[("LANES", 16), ("QUADS", 2), ("AT_ONCE", 4)]).only_for(|shape| shape[3] <= 8),
        classed(Candidate::for_cpus(&SUBGROUP, &[("LANES", 8), ("QUADS", 8)]), ONE_BY_ONE, in_order)
            .only_for(|shape| shape[3] <= 32),
        classed(Candidate::for_cpus(&SUBGROUP, &[("LANES", 16), ("QUADS", 8)]), ONE_BY_ONE, in_order)
            .only_for(|shape| shape[3] <= 32),
        classed(Candidate::for_cpus(&SUBGROUP, &[("LANES", 8), ("QUADS", 16)]), ONE_BY_ONE, in_order)
            .only_for(|shape| shape[3] <= 64),
        classed(Candidate::for_cpus(&SUBGROUP, &[("LANES", 16), ("QUADS", 16)]), ONE_BY_ONE, in_order)
            .only_for(|shape| shape[3] <= 64),
        classed(Candidate::for_cpus(&WIDE, &[("LANES", 8)]), "wide 8", in_order).usual_for(|shape| shape[3] > 8),
        classed(Candidate::for_cpus(&WIDE, &[("LANES", 4)]), "wide 4", in_order).usual_for(|shape| shape[3] > 8),
        classed(Candidate::for_cpus(&WIDE, &[("LANES", 16)]), "wide 16", in_order).usual_for(|shape| shape[3] > 8),
        Candidate::for_cpus(&KERNEL, &[("TILE_QUADS", 4)]),
        Candidate::new(&KERNEL, &[]),
        classed(Candidate::for_large_gpus(&TILED, &[("CHANNEL_LANES", 16), ("QUADS", 2)]), "tiled 16", in_order)
            .usual_for(|_| false),
        classed(Candidate::for_gpus(&TILED, &[("CHANNEL_LANES", 16), ("QUADS", 1)]), "tiled 16", in_order)
            .usual_for(|shape| shape[3] <= 64),
        classed(Candidate::for_gpus(&TILED, &[("CHANNEL_LANES", 32), ("QUADS", 1)]), "tiled 32", in_order)
            .usual_for(|shape| (65..=128).contains(&shape[3])),
        classed(Candidate::for_gpus(&TILED, &[("CHANNEL_LANES", 32), ("QUADS", 2)]), "tiled 32", in_order)
            .usual_for(|shape| shape[3] > 128),
        on_matrices(&COOP8, &[("LANES", 8)], "coop8").usual_for(|shape| is_one_tile(&COOP8, shape)),
        on_matrices(&COOP8, &[("LANES", 32)], "coop8").usual_for(|shape| is_one_tile(&COOP8, shape)),
        on_matrices(&COOP16, &[("LANES", 64)], "coop16").usual_for(|shape| is_one_tile(&COOP16, shape)),
        on_matrices(&COOP16, &[("LANES", 32)], "coop16").usual_for(|shape| is_one_tile(&COOP16, shape)),
    ]
}
static FORWARD_CANDIDATES: [Candidate; 19] = candidates(false);
static BACKWARD_CANDIDATES: [Candidate; 19] = candidates(true);

/// See [`Ways::trials`]: [images, tokens, heads, channels of a head].
const TRIALS: &[&[u32]] = &[&[2, 37, 2, 7], &[2, 37, 2, 20], &[1, 65, 1, 70], &[1, 33, 1, 132]];

const fn ways(entry: &'static str, candidates: &'static [Candidate], record: fn(&mut Recorder, &[u32])) -> Ways {
    Ways { kernel: "attention", entry, candidates, record, trials: TRIALS }
}
pub static FORWARD: Ways = ways("forward", &FORWARD_CANDIDATES, |r, shape| {
    let [images, tokens, heads, channels] = of_shape(shape);
    let qkv = r.persistent("qkv", [images, tokens, 3 * heads, channels]);
    forward(r, qkv);
});
pub static BACKWARD_QUERY: Ways = ways("backward_query", &BACKWARD_CANDIDATES, |r, shape| {
    let inputs = inputs(r, shape);
    let d_qkv = r.temp(inputs.saved.qkv.shape);
    backward_query(r, &inputs, d_qkv);
});
pub static BACKWARD_KEY_VALUE: Ways = ways("backward_key_value", &BACKWARD_CANDIDATES, |r, shape| {
    let inputs = inputs(r, shape);
    let [images, tokens, heads, _] = of_shape(shape);
    let delta = r.persistent("deltas", [images, heads, 1, tokens]);
    let d_qkv = r.temp(inputs.saved.qkv.shape);
    backward_key_value(r, &inputs, delta, d_qkv);
});

/// What the backward pass needs of a forward pass.
#[derive(Clone, Copy)]
pub struct Saved {
    qkv: Tensor,
    o: Tensor,
    /// Of each query's scores: [N, heads, 1, T].
    log_sum_exp: Tensor,
}

/// Tokens of a block, and quadruples of channels of a chunk, that a lane or a workgroup makes.
pub(super) fn tile(candidate: &Candidate) -> (u32, u32) {
    (declared(candidate, "TILE_TOKENS"), declared(candidate, "TILE_QUADS"))
}

/// Records `products` products of T x T x d numbers for each image and head, padding left out. Counted are those that the equations
/// hold, not those that lanes of one block repeat: 2 in forward (S, O), 3 in backward_query (S, dP, dQ), 4 in
/// backward_key_value (S, dP, dK, dV).
fn record(r: &mut Recorder, ways: &'static Ways, o: Tensor, io: &[Tensor], products: u64) {
    let [images, tokens, heads, channels] = o.shape;
    let candidate = r.choose(ways, &o.shape);
    let (tile_tokens, tile_quads) = tile(candidate);
    let places = images * heads * tokens.div_ceil(tile_tokens) * o.channels4().div_ceil(tile_quads);
    let params = [
        ("places", places.into()),
        ("tokens", tokens.into()),
        ("heads", heads.into()),
        ("channels4", o.channels4().into()),
        ("scale", (1.0 / (channels as f64).sqrt() as f32).into()),
    ];
    let flops = products * 2 * o.count() * tokens as u64;
    r.dispatch_candidate(candidate, ways.entry, &params, io, grid(candidate, places as u64), flops);
}

/// One number for each image, head and token.
fn statistic(r: &mut Recorder, o: Tensor) -> Tensor {
    r.temp([o.shape[0], o.shape[2], 1, o.shape[1]])
}

/// o = softmax(q k^T / sqrt(d)) v for each image and head: [N, T, heads, d]. qkv: [N, T, 3 heads, d], of each token all
/// queries, then all keys, then all values.
pub fn forward(r: &mut Recorder, qkv: Tensor) -> (Tensor, Saved) {
    let [images, tokens, parts, channels] = qkv.shape;
    assert!(parts.is_multiple_of(3), "as many heads of queries as of keys and of values");
    let o = r.temp([images, tokens, parts / 3, channels]);
    let log_sum_exp = statistic(r, o);
    record(r, &FORWARD, o, &[qkv, o, log_sum_exp], 2);
    (o, Saved { qkv, o, log_sum_exp })
}

/// The gradient of <o, d_o> with respect to qkv.
pub fn backward(r: &mut Recorder, saved: Saved, d_o: Tensor) -> Tensor {
    assert_eq!(d_o.shape, saved.o.shape);
    let inputs = Inputs { saved, d_o };
    let d_qkv = r.temp(inputs.saved.qkv.shape);
    let delta = backward_query(r, &inputs, d_qkv);
    backward_key_value(r, &inputs, delta, d_qkv);
    d_qkv
}

/// What the gradients of q, k and v are made from.
struct Inputs {
    saved: Saved,
    d_o: Tensor,
}

/// Writes the gradients of the queries to their part of `d_qkv`, and gives D.
fn backward_query(r: &mut Recorder, inputs: &Inputs, d_qkv: Tensor) -> Tensor {
    let Inputs { saved: Saved { qkv, o, log_sum_exp }, d_o } = *inputs;
    let delta = statistic(r, o);
    record(r, &BACKWARD_QUERY, o, &[qkv, o, d_o, log_sum_exp, delta, d_qkv], 3);
    delta
}

/// Writes the gradients of keys and values to their parts of `d_qkv`.
fn backward_key_value(r: &mut Recorder, inputs: &Inputs, delta: Tensor, d_qkv: Tensor) {
    let Inputs { saved: Saved { qkv, log_sum_exp, .. }, d_o } = *inputs;
    record(r, &BACKWARD_KEY_VALUE, d_o, &[qkv, d_o, log_sum_exp, delta, d_qkv], 4);
}

/// A shape as it was asked for.
fn of_shape(shape: &[u32]) -> [u32; 4] {
    shape.try_into().expect("a shape has 4 numbers")
}

/// Inputs of an entry point alone.
fn inputs(r: &mut Recorder, shape: &[u32]) -> Inputs {
    let [images, tokens, heads, channels] = of_shape(shape);
    let qkv = r.persistent("qkv", [images, tokens, 3 * heads, channels]);
    let [o, d_o] = ["o", "d_o"].map(|name| r.persistent(name, of_shape(shape)));
    let log_sum_exp = r.persistent("log_sums", [images, heads, 1, tokens]);
    Inputs { saved: Saved { qkv, o, log_sum_exp }, d_o }
}

/// The largest tiles are 64 tokens of its own by 64 others by 128 quadruples of channels, the widest turn 16 quadruples.
pub const CORNERS: &[Corner] = &[
    Corner::new("one token of one channel", |draw| case_of(draw, [1, 1, 1, 1], 1.0)),
    Corner::new("one token of many channels", |draw| case_of(draw, [1, 1, 1, 60], 1.0)),
    Corner::new("two tokens", |draw| case_of(draw, [2, 2, 1, 6], 1.0)),
    Corner::full("one full tile of tokens", |draw| case_of(draw, [1, 32, 2, 8], 1.0)),
    Corner::new("one token less than a tile", |draw| case_of(draw, [2, 31, 1, 13], 1.0)),
    Corner::new("several tiles of tokens", |draw| case_of(draw, [1, 69, 2, 5], 1.0)),
    Corner::full("one full tile of channels", |draw| case_of(draw, [1, 4, 2, 512], 1.0)),
    Corner::new("several tiles and turns", |draw| case_of(draw, [1, 37, 1, 523], 0.5)),
    Corner::new("several images and heads", |draw| case_of(draw, [3, 33, 3, 6], 2.0)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [2, 64, 4, 7], 1.0)),
    Corner::full("a lane's widest heads", |draw| case_of(draw, [1, 32, 1, 64], 1.0)),
    Corner::new("heads half as wide", |draw| case_of(draw, [1, 33, 1, 32], 1.0)),
    Corner::new("scores of ten thousands", |draw| case_of_large_scores(draw, [2, 37, 2, 4], [4000.0, 1.0])),
    Corner::new("scores thousands apart", |draw| case_of_large_scores(draw, [1, 35, 2, 16], [-4000.0, 300.0])),
];

pub fn case(draw: &mut Draw) {
    if draw.range(0, 3) == 0 {
        let shape = [draw.range(1, 2), draw.choose(&[5, 17]), draw.range(1, 2), draw.choose(&[4, 16])];
        let scores = [draw.choose(&[-4000.0, 4000.0]), draw.choose(&[1.0, 300.0])];
        return case_of_large_scores(draw, shape, scores);
    }
    let tokens = draw.choose(&[1, 3, 5, 8, 17, 33]);
    let channels = draw.choose(&[1, 3, 4, 6, 16, 17, 20, 40]);
    let shape = [draw.range(1, 3), tokens, draw.range(1, 3), channels];
    let sharpness = draw.choose(&[0.5, 1.0, 1.0, 2.0]);
    case_of(draw, shape, sharpness);
}

/// Queries, keys and values, which `of_part` draws; heads and channels as the shape of o has them.
fn input_qkv(draw: &mut Draw, shape: [u32; 4], of_part: impl Fn(&mut Draw, u32) -> f64) -> Tensor {
    let [images, tokens, heads, channels] = shape;
    let mut count = 0;
    draw.input_by("qkv", [images, tokens, 3 * heads, channels], |draw| {
        let part = count / (heads * channels) % 3;
        count += 1;
        of_part(draw, part)
    })
}

/// Of scores with a deviation of `sharpness`^2.
fn case_of(draw: &mut Draw, shape: [u32; 4], sharpness: f64) {
    let of_part = |draw: &mut Draw, part| if part == 2 { draw.normal() } else { sharpness * draw.normal() };
    let (qkv, d_o) = (input_qkv(draw, shape, of_part), draw.input("d_o", shape));
    let r = &mut draw.recorder;
    // Behind the end of a temporary stands NaN.
    let [qkv1, d_o1] = [qkv, d_o].map(|input| scale(r, input, 1.0));
    let (o, saved) = forward(r, qkv1);
    let d_qkv = backward(r, saved, d_o1);
    draw.gradient(qkv, o, d_o, d_qkv);
}

/// Scores of ten thousands, close together or thousands apart. Whole q and k make them exact in f32; L, whose last place
/// is then 1e-3, is too coarse for a comparison of gradients.
fn case_of_large_scores(draw: &mut Draw, shape: [u32; 4], [offset, spread]: [f64; 2]) {
    let of_part = |draw: &mut Draw, part| match part {
        0 => draw.range(0, 3) as f64,
        1 => offset + spread * draw.range(0, 3) as f64,
        _ => draw.normal(),
    };
    let qkv = input_qkv(draw, shape, of_part);
    forward(&mut draw.recorder, qkv);
}
