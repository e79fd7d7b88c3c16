//! Linear layer: `shaders/linear.wgsl`. A 1x1 convolution is the same thing over N·H·W rows.

use super::conv2d::{Epilogue, grid, tile, weight_lanes, weight_tile};
use super::{Corner, Draw, reduce};
use crate::cpu::{Twin, linear as twin};
use crate::gpu::kernel::{File, wgsl};
use crate::gpu::{Candidate, Kernel, Need, Recorder, Tensor, Value, Ways};

const PREFIX: File = wgsl!("linear.wgsl");
const TWINS: &[(&str, Twin)] =
    &[("forward", twin::forward), ("backward_data", twin::backward_data), ("backward_weight", twin::backward_weight)];

pub static KERNEL: Kernel = Kernel::variant("linear", "register", &[], &[PREFIX, wgsl!("linear.register.wgsl")], TWINS);
static SUBGROUP: Kernel =
    Kernel::variant("linear", "subgroup", &[Need::Subgroups], &[PREFIX, wgsl!("linear.subgroup.wgsl")], TWINS);
static TILED: Kernel =
    Kernel::variant("linear", "tiled", &[], &[PREFIX, wgsl!("lib.tiled.wgsl"), wgsl!("linear.tiled.wgsl")], TWINS);

static COOP8: Kernel = Kernel::variant(
    "linear",
    "coop8",
    &[Need::Subgroups, Need::Matrices8],
    &[PREFIX, wgsl!("lib.coop8.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("linear.coop.wgsl")],
    TWINS,
);
static COOP16: Kernel = Kernel::variant(
    "linear",
    "coop16",
    &[Need::Subgroups, Need::Matrices16],
    &[PREFIX, wgsl!("lib.coop16.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("linear.coop.wgsl")],
    TWINS,
);

/// Whether input and output channels fill half a tile of matrix units at least: else most of what they multiply is padding.
fn fills_half_a_tile_of_8(shape: &[u32]) -> bool {
    [shape[1], shape[2]].iter().all(|channels| *channels >= 16)
}

fn fills_half_a_tile_of_16(shape: &[u32]) -> bool {
    [shape[1], shape[2]].iter().all(|channels| *channels >= 32)
}

static CANDIDATES: [Candidate; 12] = [
    Candidate::new(&SUBGROUP, &[("LANES", 8)]),
    Candidate::new(&SUBGROUP, &[("LANES", 4)]),
    Candidate::new(&SUBGROUP, &[("LANES", 16)]),
    Candidate::new(&KERNEL, &[]),
    Candidate::new(&SUBGROUP, &[("LANES", 32)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 16)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 8)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 8), ("CHANNEL_LANES", 8)]),
    Candidate::for_gpus(&COOP8, &[("LANES", 8)]).of_class("coop8").usual_for(fills_half_a_tile_of_8),
    Candidate::for_gpus(&COOP8, &[("LANES", 32)]).of_class("coop8").usual_for(fills_half_a_tile_of_8),
    Candidate::for_gpus(&COOP16, &[("LANES", 64)]).of_class("coop16").usual_for(fills_half_a_tile_of_16),
    Candidate::for_gpus(&COOP16, &[("LANES", 32)]).of_class("coop16").usual_for(fills_half_a_tile_of_16),
];

pub static FORWARD: Ways =
    Ways { kernel: "linear", entry: "forward", candidates: &CANDIDATES, record: |r, shape| alone(r, shape, "forward") };
pub static BACKWARD_DATA: Ways = Ways {
    kernel: "linear",
    entry: "backward_data",
    candidates: &CANDIDATES,
    record: |r, shape| alone(r, shape, "backward_data"),
};
pub static BACKWARD_WEIGHT: Ways = Ways {
    kernel: "linear",
    entry: "backward_weight",
    candidates: &CANDIDATES,
    record: |r, shape| alone(r, shape, "backward_weight"),
};

struct Extent {
    rows: u32,
    c4: u32,
    k4: u32,
    flops: u64,
}

impl Extent {
    /// Of a weight [1, 1, C, K] whose C is padded, on `elements` of x.
    fn new(elements: u64, weight: Tensor) -> Extent {
        let [one, same, c, k] = weight.shape;
        assert!((one, same, c % 4) == (1, 1, 0) && elements.is_multiple_of(c as u64), "x and weight disagree");
        let rows = (elements / c as u64) as u32;
        Extent { rows, c4: c / 4, k4: k.div_ceil(4), flops: 2 * rows as u64 * c as u64 * k as u64 }
    }

    /// What the speed depends on: M, C, K, padded.
    fn shape(&self) -> [u32; 3] {
        [self.rows, 4 * self.c4, 4 * self.k4]
    }

    fn params(&self, splits: u32, split_rows: u32, epilogue: Epilogue) -> [(&'static str, Value); 7] {
        [
            ("rows", self.rows.into()),
            ("c4", self.c4.into()),
            ("k4", self.k4.into()),
            ("split_rows", split_rows.into()),
            ("splits", splits.into()),
            ("addend", epilogue.addend.is_some().into()),
            ("scale", epilogue.scale.into()),
        ]
    }

    /// Tiles of the rows by `channels4` quads.
    fn tiles(&self, candidate: &Candidate, channels4: u32) -> u64 {
        let (rows, quads) = rows_and_quads(candidate);
        self.rows.div_ceil(rows) as u64 * channels4.div_ceil(quads) as u64
    }
}

/// As [`tile`].
pub(super) fn rows_and_quads(candidate: &Candidate) -> (u32, u32) {
    if candidate.is_register() { (8, 2) } else { tile(candidate) }
}

/// As [`weight_tile`].
pub(super) fn weight_quads(candidate: &Candidate) -> (u32, u32) {
    if candidate.is_register() { (2, 2) } else { weight_tile(candidate) }
}

/// y = x W + bias. x: any shape of rows times C, weight: [1, 1, C, K] with C padded to a multiple of 4, bias:
/// [1, 1, 1, K]. `y_shape` has as many rows times padded K, be it [N, H, W, K] or [N, T, heads, d] with heads·d = K.
pub fn forward(r: &mut Recorder, x: Tensor, weight: Tensor, bias: Tensor, y_shape: [u32; 4]) -> Tensor {
    forward_with(r, x, weight, bias, y_shape, Epilogue::NONE)
}

/// y = scale (x W + bias + addend), the addend as large as y.
pub fn forward_with(
    r: &mut Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y_shape: [u32; 4],
    epilogue: Epilogue,
) -> Tensor {
    let extent = Extent::new(x.elements(), weight);
    let y = r.temp(y_shape);
    assert_eq!(y.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "y and weight disagree");
    assert_eq!(bias.channels4(), extent.k4);
    assert!(epilogue.addend.is_none_or(|addend| addend.elements() == y.elements()), "y and addend disagree");
    let candidate = r.choose(&FORWARD, &extent.shape());
    let tiles = extent.tiles(candidate, extent.k4);
    // Where there is no addend, something must be bound in its place.
    let io = [x, weight, bias, epilogue.addend.unwrap_or(x), y];
    let params = extent.params(0, 0, epilogue);
    r.dispatch_candidate(candidate, "forward", &params, &io, grid(candidate, tiles), extent.flops);
    y
}

/// The gradient with respect to x, whose shape is `x_shape`.
pub fn backward_data(r: &mut Recorder, dy: Tensor, weight: Tensor, x_shape: [u32; 4]) -> Tensor {
    let dx = r.temp(x_shape);
    let extent = Extent::new(dx.elements(), weight);
    assert_eq!(dy.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "dy and weight disagree");
    let candidate = r.choose(&BACKWARD_DATA, &extent.shape());
    let tiles = extent.tiles(candidate, extent.c4);
    let params = extent.params(0, 0, Epilogue::NONE);
    let io = [dy, weight, dx];
    r.dispatch_candidate(candidate, "backward_data", &params, &io, grid(candidate, tiles), extent.flops);
    dx
}

/// The gradients with respect to weight and bias, written to `dweight` and `dbias`.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.elements(), dweight);
    assert_eq!(dy.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "dy and weight disagree");
    let candidate = r.choose(&BACKWARD_WEIGHT, &extent.shape());
    let (quads_c, quads_k) = weight_quads(candidate);
    let tiles = extent.c4.div_ceil(quads_c) * extent.k4.div_ceil(quads_k);
    let lanes = weight_lanes(r, candidate, 1, extent.c4, extent.k4);
    let (splits, split_rows) = reduce::splits(r, extent.rows, lanes);
    let [.., channels, k] = dweight.shape;
    let partial = if splits == 1 { dweight } else { r.temp([splits, 1, channels, k]) };
    let grid = grid(candidate, splits as u64 * tiles as u64);
    let params = extent.params(splits, split_rows, Epilogue::NONE);
    r.dispatch_candidate(candidate, "backward_weight", &params, &[x, dy, partial], grid, extent.flops);
    if splits > 1 {
        reduce::sum_partials(r, partial, splits, dweight);
    }
    reduce::sum_rows(r, dy, extent.rows, dbias);
}

/// One entry point alone, on inputs of its own.
fn alone(r: &mut Recorder, shape: &[u32], entry: &str) {
    let [rows, c, k] = *shape else { panic!("a shape has 3 numbers") };
    let (x, dy) = (r.persistent("x", [rows, 1, 1, c]), r.persistent("dy", [rows, 1, 1, k]));
    let (weight, bias) = (r.persistent("weight", [1, 1, c, k]), r.persistent("bias", [1, 1, 1, k]));
    match entry {
        "forward" => drop(forward(r, x, weight, bias, dy.shape)),
        "backward_data" => drop(backward_data(r, dy, weight, x.shape)),
        _ => {
            let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
            backward_weight(r, x, dy, dweight, dbias);
        }
    }
}

/// The tiles are those of convolution.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], 1)),
    Corner::new("one full tile", |draw| case_of(draw, [2, 8, 8, 128], 128)),
    Corner::new("a row and a quadruple less", |draw| case_of(draw, [1, 1, 127, 122], 123)),
    Corner::new("several tiles of rows", |draw| case_of(draw, [3, 7, 9, 5], 9)),
    Corner::new("several tiles of channels", |draw| case_of(draw, [1, 3, 5, 131], 258)),
    Corner::new("tiles of rows and x's channels", |draw| case_of(draw, [1, 10, 13, 131], 6)),
    Corner::new("tiles of rows and y's channels", |draw| case_of(draw, [1, 10, 13, 5], 258)),
    Corner::new("workgroups without a lane idle", |draw| case_of(draw, [2, 16, 32, 15], 32)),
    Corner::new("splits of rows, the last short", |draw| case_of(draw, [2, 5, 19, 5], 9)),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 3), draw.range(1, 9), draw.range(1, 9), draw.range(1, 19)];
    let k = draw.range(1, 3) * draw.range(1, 6).div_ceil(4) * 4;
    case_of(draw, shape, k);
}

fn case_of(draw: &mut Draw, shape: [u32; 4], k: u32) {
    let x = draw.input("x", shape);
    let weight = draw.weight("weight", [1, 1, shape[3], k]);
    let bias = draw.input("bias", [1, 1, 1, k]);
    let dy = draw.input("dy", [shape[0], shape[1], shape[2], k]);
    let addend = draw.flip().then(|| draw.input("addend", dy.shape));
    let scale = draw.choose(&[1.0, 0.5]);
    let r = &mut draw.recorder;
    let y = forward_with(r, x, weight, bias, dy.shape, Epilogue { addend, scale });
    let dy_in = dy;
    let dy = super::add::scale(r, dy, scale);
    let dx = backward_data(r, dy, weight, shape);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    backward_weight(r, x, dy, dweight, dbias);
    draw.gradient(x, y, dy_in, dx);
    draw.gradient(weight, y, dy_in, dweight);
    draw.gradient(bias, y, dy_in, dbias);
}
