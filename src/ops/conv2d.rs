//! Convolution: `shaders/conv2d.wgsl`.

use super::{Corner, Draw, reduce};
use crate::cpu::{Twin, conv2d as twin};
use crate::gpu::choices::IN_ORDER;
use crate::gpu::kernel::{File, wgsl};
use crate::gpu::{Candidate, Grid, Kernel, Need, Recorder, Tensor, Value, Ways};

const PREFIX: File = wgsl!("conv2d.wgsl");
const TWINS: &[(&str, Twin)] =
    &[("forward", twin::forward), ("backward_data", twin::backward_data), ("backward_weight", twin::backward_weight)];

pub static KERNEL: Kernel = Kernel::variant("conv2d", "register", &[], &[PREFIX, wgsl!("conv2d.register.wgsl")], TWINS);
static SUBGROUP: Kernel =
    Kernel::variant("conv2d", "subgroup", &[Need::Subgroups], &[PREFIX, wgsl!("conv2d.subgroup.wgsl")], TWINS);
static TILED: Kernel =
    Kernel::variant("conv2d", "tiled", &[], &[PREFIX, wgsl!("lib.tiled.wgsl"), wgsl!("conv2d.tiled.wgsl")], TWINS);

static COOP8: Kernel = Kernel::variant(
    "conv2d",
    "coop8",
    &[Need::Subgroups, Need::Matrices8],
    &[PREFIX, wgsl!("lib.coop8.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("conv2d.coop.wgsl")],
    TWINS,
);
static COOP16: Kernel = Kernel::variant(
    "conv2d",
    "coop16",
    &[Need::Subgroups, Need::Matrices16],
    &[PREFIX, wgsl!("lib.coop16.wgsl"), wgsl!("lib.coop.wgsl"), wgsl!("conv2d.coop.wgsl")],
    TWINS,
);

/// Whether input and output channels fill half a tile of matrix units at least: else most of what they multiply is padding.
fn fills_half_a_tile_of_8(shape: &[u32]) -> bool {
    [shape[3], shape[4]].iter().all(|channels| *channels >= 16)
}

fn fills_half_a_tile_of_16(shape: &[u32]) -> bool {
    [shape[3], shape[4]].iter().all(|channels| *channels >= 32)
}

static CANDIDATES: [Candidate; 12] = [
    Candidate::new(&SUBGROUP, &[("LANES", 8)]),
    Candidate::new(&SUBGROUP, &[("LANES", 4)]),
    Candidate::new(&SUBGROUP, &[("LANES", 16)]),
    Candidate::new(&KERNEL, &[]),
    Candidate::new(&SUBGROUP, &[("LANES", 32)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 16)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 8), ("CHANNEL_LANES", 8)]),
    Candidate::for_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 8)]),
    Candidate::for_gpus(&COOP8, &[("LANES", 8)]).of_class("coop8").usual_for(fills_half_a_tile_of_8),
    Candidate::for_gpus(&COOP8, &[("LANES", 32)]).of_class("coop8").usual_for(fills_half_a_tile_of_8),
    Candidate::for_gpus(&COOP16, &[("LANES", 64)]).of_class("coop16").usual_for(fills_half_a_tile_of_16),
    Candidate::for_gpus(&COOP16, &[("LANES", 32)]).of_class("coop16").usual_for(fills_half_a_tile_of_16),
];

pub static FORWARD: Ways =
    Ways { kernel: "conv2d", entry: "forward", candidates: &CANDIDATES, record: |r, shape| alone(r, shape, "forward") };
pub static BACKWARD_DATA: Ways = Ways {
    kernel: "conv2d",
    entry: "backward_data",
    candidates: &CANDIDATES,
    record: |r, shape| alone(r, shape, "backward_data"),
};
pub static BACKWARD_WEIGHT: Ways = Ways {
    kernel: "conv2d",
    entry: "backward_weight",
    candidates: &CANDIDATES,
    record: |r, shape| alone(r, shape, "backward_weight"),
};

/// How the window moves over the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// 1 or 2.
    pub stride: u32,
    /// Zeros before the first row and column.
    pub pad: u32,
    /// Zeros behind the last row and column.
    pub pad_end: u32,
}

impl Geometry {
    /// 3x3 or 1x1 that keeps the size.
    pub const fn same(taps: u32) -> Geometry {
        Geometry { stride: 1, pad: taps / 2, pad_end: taps / 2 }
    }

    fn output(self, input: u32, taps: u32) -> u32 {
        (input + self.pad + self.pad_end - taps) / self.stride + 1
    }
}

/// What is done to the output while it is in registers: y = scale (conv + bias + addend).
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    /// [N, P, Q, K] or [N, 1, 1, K].
    pub addend: Option<Tensor>,
    pub scale: f32,
}

impl Epilogue {
    /// Nothing but the bias.
    pub const NONE: Epilogue = Epilogue { addend: None, scale: 1.0 };

    /// As the shader's params, for an output [N, P, Q, K]. Panics if the addend has neither shape.
    fn params(self, y: [u32; 4]) -> [(&'static str, Value); 2] {
        let kind = match self.addend.map(|addend| addend.shape) {
            None => 0u32,
            Some(shape) if shape == y => 2,
            Some(shape) => {
                assert_eq!(shape, [y[0], 1, 1, y[3]], "an addend is of the output, or of each image");
                1
            }
        };
        [("addend", kind.into()), ("scale", self.scale.into())]
    }
}

/// A tile of a candidate: rows and quads of channels of one lane or workgroup.
pub(super) fn tile(candidate: &Candidate) -> (u32, u32) {
    match candidate.kernel.variant {
        "subgroup" => (32, candidate.constant("LANES")),
        "coop8" => (32, 8),
        "coop16" => (64, 16),
        "tiled" => (8 * candidate.constant("ROW_LANES"), 2 * candidate.constant("CHANNEL_LANES")),
        _ => (16, 2),
    }
}

/// A tile of a weight's gradient: quads of x and of dy.
pub(super) fn weight_tile(candidate: &Candidate) -> (u32, u32) {
    let constant = |name| candidate.constant(name);
    match candidate.kernel.variant {
        "subgroup" => (8, constant("LANES")),
        "coop8" => (8, 8),
        "coop16" => (16, 16),
        "tiled" => (2 * constant("ROW_LANES"), 2 * constant("CHANNEL_LANES")),
        _ => (2, 4),
    }
}

/// Lanes that make one split of a gradient of `matrices` matrices of `c4` by `k4` quads. All candidates of a class count
/// alike, so that all of them split alike: on a GPU a lane makes 2 x 2 quads, on a driver that computes on the CPU 8 x 1,
/// and on matrix units a workgroup is 128 lanes.
pub(super) fn weight_lanes(r: &Recorder, candidate: &Candidate, matrices: u32, c4: u32, k4: u32) -> u32 {
    let (quads_c, quads_k) = weight_tile(candidate);
    matrices
        * match candidate.class {
            IN_ORDER if r.is_gpu() => c4.div_ceil(2) * k4.div_ceil(2),
            IN_ORDER => c4.div_ceil(8) * k4,
            _ => c4.div_ceil(quads_c) * k4.div_ceil(quads_k) * 128,
        }
}

/// Tiles to lanes or workgroups, whatever a tile of the candidate is.
pub(super) fn grid(candidate: &Candidate, tiles: u64) -> Grid {
    if candidate.is_register() { Grid::Invocations(tiles) } else { Grid::Workgroups(tiles) }
}

struct Extent {
    x: [u32; 4],
    weight: [u32; 4],
    y: [u32; 4],
    geometry: Geometry,
}

impl Extent {
    fn new(x: [u32; 4], weight: [u32; 4], geometry: Geometry) -> Extent {
        let [r, s, channels, k] = weight;
        assert!(matches!(geometry.stride, 1 | 2), "kernels know strides 1 and 2");
        assert_eq!(channels, x[3].div_ceil(4) * 4, "the third axis of a weight is padded to a multiple of 4");
        let y = [x[0], geometry.output(x[1], r), geometry.output(x[2], s), k];
        Extent { x, weight, y, geometry }
    }

    /// What the speed depends on.
    fn shape(&self) -> [u32; 10] {
        let ([n, h, w, c], [r, s, _, k]) = (self.x, self.weight);
        [n, h, w, c, k, r, s, self.geometry.stride, self.geometry.pad, self.geometry.pad_end]
    }

    fn of_shape(shape: &[u32]) -> Extent {
        let [n, h, w, c, k, r, s, stride, pad, pad_end] = *shape else { panic!("a shape has 10 numbers") };
        Extent::new([n, h, w, c], [r, s, c.div_ceil(4) * 4, k], Geometry { stride, pad, pad_end })
    }

    fn params(&self, splits: u32, split_rows: u32, epilogue: Epilogue) -> Vec<(&'static str, Value)> {
        let ([n, h, w, c], [_, p, q, k]) = (self.x, self.y);
        let own = [
            ("n", n.into()),
            ("h", h.into()),
            ("w", w.into()),
            ("c4", c.div_ceil(4).into()),
            ("p", p.into()),
            ("q", q.into()),
            ("k4", k.div_ceil(4).into()),
            ("r", self.weight[0].into()),
            ("s", self.weight[1].into()),
            ("stride", self.geometry.stride.into()),
            ("pad", self.geometry.pad.into()),
            ("split_rows", split_rows.into()),
            ("splits", splits.into()),
        ];
        own.into_iter().chain(epilogue.params(self.y)).collect()
    }

    /// Multiplies and adds, those on padding included.
    fn flops(&self) -> u64 {
        let [r, s, ..] = self.weight;
        2 * (self.y[0] * self.y[1] * self.y[2]) as u64 * self.y[3] as u64 * (r * s * self.x[3]) as u64
    }

    /// Tiles of `rows` inputs over all parities of backward_data.
    fn parity_tiles(&self, rows: u32) -> u64 {
        let stride = self.geometry.stride;
        let inputs = |first: u32, extent: u32| (extent + stride - 1 - first) / stride;
        let parities = (0..stride * stride).map(|i| (i / stride, i % stride));
        parities.map(|(a, b)| (self.x[0] * inputs(a, self.x[1]) * inputs(b, self.x[2])).div_ceil(rows) as u64).sum()
    }
}

/// y = conv(x, weight) + bias. x: [N, H, W, C], weight: [R, S, C, K] with C padded to a multiple of 4, bias: [1, 1, 1, K].
pub fn forward(r: &mut Recorder, x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor {
    forward_with(r, x, weight, bias, geometry, Epilogue::NONE)
}

/// y = scale (conv(x, weight) + bias + addend).
pub fn forward_with(
    r: &mut Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    geometry: Geometry,
    epilogue: Epilogue,
) -> Tensor {
    let extent = Extent::new(x.shape, weight.shape, geometry);
    let y = r.temp(extent.y);
    assert_eq!(bias.shape, [1, 1, 1, y.channels()]);
    let candidate = r.choose(&FORWARD, &extent.shape());
    let (rows, quads) = tile(candidate);
    let tiles = y.rows().div_ceil(rows) as u64 * y.channels4().div_ceil(quads) as u64;
    // Where there is no addend, something must be bound in its place.
    let io = [x, weight, bias, epilogue.addend.unwrap_or(x), y];
    let params = extent.params(0, 0, epilogue);
    r.dispatch_candidate(candidate, "forward", &params, &io, grid(candidate, tiles), extent.flops());
    y
}

/// The gradient with respect to x, whose shape is `x_shape`.
pub fn backward_data(r: &mut Recorder, dy: Tensor, weight: Tensor, x_shape: [u32; 4], geometry: Geometry) -> Tensor {
    let extent = Extent::new(x_shape, weight.shape, geometry);
    assert_eq!(dy.shape, extent.y);
    let dx = r.temp(x_shape);
    let candidate = r.choose(&BACKWARD_DATA, &extent.shape());
    let (rows, quads) = tile(candidate);
    let tiles = extent.parity_tiles(rows) * dx.channels4().div_ceil(quads) as u64;
    let params = extent.params(0, 0, Epilogue::NONE);
    let io = [dy, weight, dx];
    r.dispatch_candidate(candidate, "backward_data", &params, &io, grid(candidate, tiles), extent.flops());
    dx
}

/// The gradients with respect to weight and bias, written to `dweight` and `dbias`.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, geometry: Geometry, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.shape, dweight.shape, geometry);
    assert_eq!(dy.shape, extent.y);
    let candidate = r.choose(&BACKWARD_WEIGHT, &extent.shape());
    let (quads_c, quads_k) = weight_tile(candidate);
    let [taps_h, taps_w, channels, k] = dweight.shape;
    let tiles = taps_h * taps_w * x.channels4().div_ceil(quads_c) * dy.channels4().div_ceil(quads_k);
    let lanes = weight_lanes(r, candidate, taps_h * taps_w, x.channels4(), dy.channels4());
    let (splits, split_rows) = reduce::splits(r, dy.rows(), lanes);
    let partial = if splits == 1 { dweight } else { r.temp([splits * taps_h, taps_w, channels, k]) };
    let grid = grid(candidate, splits as u64 * tiles as u64);
    let params = extent.params(splits, split_rows, Epilogue::NONE);
    r.dispatch_candidate(candidate, "backward_weight", &params, &[x, dy, partial], grid, extent.flops());
    if splits > 1 {
        reduce::sum_partials(r, partial, splits, dweight);
    }
    reduce::sum_rows(r, dy, dy.rows(), dbias);
}

/// One entry point alone, on inputs of its own.
fn alone(r: &mut Recorder, shape: &[u32], entry: &str) {
    let Extent { x, weight, y, geometry } = Extent::of_shape(shape);
    let (x_input, dy) = (r.persistent("x", x), r.persistent("dy", y));
    let (w, bias) = (r.persistent("weight", weight), r.persistent("bias", [1, 1, 1, y[3]]));
    match entry {
        "forward" => drop(forward(r, x_input, w, bias, geometry)),
        "backward_data" => drop(backward_data(r, dy, w, x, geometry)),
        _ => {
            let (dweight, dbias) = (r.temp(weight), r.temp(bias.shape));
            backward_weight(r, x_input, dy, geometry, dweight, dbias);
        }
    }
}

/// The largest tiles are 128 rows by 32 quadruples of channels, of a weight's gradient 32 by 32, the widest turn 4 quadruples of
/// channels or 16 rows.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], [1, 1], 1, STRAIGHT)),
    Corner::new("one full tile", |draw| case_of(draw, [2, 8, 8, 128], [1, 1], 128, STRAIGHT)),
    Corner::new("a row and a quadruple less", |draw| case_of(draw, [1, 1, 127, 122], [1, 1], 123, STRAIGHT)),
    Corner::new("several tiles of rows", |draw| case_of(draw, [3, 7, 9, 5], [3, 3], 9, Geometry::same(3))),
    Corner::new("several tiles of channels", |draw| case_of(draw, [1, 5, 6, 131], [3, 1], 258, Geometry::same(3))),
    Corner::new("tiles of rows and x's channels", |draw| case_of(draw, [1, 10, 13, 131], [1, 1], 6, STRAIGHT)),
    Corner::new("tiles of rows and y's channels", |draw| case_of(draw, [1, 10, 13, 5], [1, 1], 258, STRAIGHT)),
    Corner::new("workgroups without a lane idle", |draw| case_of(draw, [2, 32, 32, 11], [3, 3], 6, Geometry::same(3))),
    Corner::new("splits that begin within a row", |draw| case_of(draw, [2, 5, 17, 5], [3, 1], 9, Geometry::same(3))),
    Corner::new("full tiles of each parity", |draw| case_of(draw, [2, 16, 16, 3], [3, 3], 5, HALVING)),
    Corner::new("several tiles of each parity", |draw| case_of(draw, [2, 19, 17, 6], [2, 3], 7, HALVING)),
    Corner::new("a parity without inputs", |draw| case_of(draw, [2, 1, 5, 9], [3, 3], 5, HALVING)),
    Corner::new("a parity without taps", |draw| case_of(draw, [1, 7, 5, 9], [1, 1], 5, SKIPPING)),
    Corner::new("halved, tiles of channels", |draw| case_of(draw, [1, 4, 5, 258], [3, 2], 131, HALVING)),
    Corner::new("no padding before", |draw| case_of(draw, [3, 15, 13, 5], [3, 3], 9, DOWNSAMPLING)),
];

const STRAIGHT: Geometry = Geometry { stride: 1, pad: 0, pad_end: 0 };
const HALVING: Geometry = Geometry { stride: 2, pad: 1, pad_end: 1 };
const SKIPPING: Geometry = Geometry { stride: 2, pad: 0, pad_end: 0 };
/// Diffusers' downsampling.
const DOWNSAMPLING: Geometry = Geometry { stride: 2, pad: 0, pad_end: 1 };

pub fn case(draw: &mut Draw) {
    let taps = [draw.choose(&[1, 3, 3u32]), draw.choose(&[1, 3, 3])];
    let stride = draw.choose(&[1, 1, 2u32]);
    let pad = if taps == [1, 1] { 0 } else { draw.range(0, 1) };
    // Stride 2 without padding before is diffusers' downsampling: one zero behind.
    let pad_end = if stride == 2 && pad == 0 && taps != [1, 1] { 1 } else { pad };
    let least = taps[0].max(taps[1]).saturating_sub(pad + pad_end).max(1);
    let shape = [draw.range(1, 3), draw.range(least, 12), draw.range(least, 12), draw.range(1, 19)];
    let k = draw.range(1, 19);
    case_of(draw, shape, taps, k, Geometry { stride, pad, pad_end });
}

fn case_of(draw: &mut Draw, shape: [u32; 4], [taps_h, taps_w]: [u32; 2], k: u32, geometry: Geometry) {
    let x = draw.input("x", shape);
    let weight = draw.weight("weight", [taps_h, taps_w, shape[3], k]);
    let bias = draw.input("bias", [1, 1, 1, k]);
    let y_shape = Extent::new(shape, weight.shape, geometry).y;
    let addend = match draw.range(0, 2) {
        0 => None,
        1 => Some(draw.input("embedding", [shape[0], 1, 1, k])),
        _ => Some(draw.input("residual", y_shape)),
    };
    let scale = draw.choose(&[1.0, 0.5]);
    let dy = draw.input("dy", y_shape);
    let r = &mut draw.recorder;
    let y = forward_with(r, x, weight, bias, geometry, Epilogue { addend, scale });
    let dy_in = dy;
    let dy = super::add::scale(r, dy, scale);
    let dx = backward_data(r, dy, weight, shape, geometry);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    backward_weight(r, x, dy, geometry, dweight, dbias);
    draw.gradient(x, y, dy_in, dx);
    draw.gradient(weight, y, dy_in, dweight);
    draw.gradient(bias, y, dy_in, dbias);
}
