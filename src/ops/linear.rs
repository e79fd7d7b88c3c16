//! Linear layer: `shaders/linear.wgsl`. A 1x1 convolution is the same thing over N·H·W rows.

use super::case::{Corner, Draw};
use super::matrix::{self, Addend, Epilogue, WeightGradient, grid, products, tile, weight_tile};
use super::{reduce, silu};
use crate::gpu::kernel::wgsl;
use crate::gpu::{Candidate, Kernel, Need, Recorder, Tensor, Value, Ways};

products!("linear", crate::cpu::linear, |s: &[u32]| [s[1], s[2]], |s: &[u32]| s[0], (8, 2));

/// See [`Ways::trials`]: [rows, C, K].
const TRIALS: &[&[u32]] = &[&[391, 36, 20], &[130, 136, 68], &[1030, 4, 32], &[128, 128, 64]];

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

    fn params(&self, splits: u32, split_rows: u32, epilogue: Epilogue, silu: bool) -> Vec<(&'static str, Value)> {
        vec![
            ("rows", self.rows.into()),
            ("c4", self.c4.into()),
            ("k4", self.k4.into()),
            ("split_rows", split_rows.into()),
            ("splits", splits.into()),
            ("addend", (epilogue.addend.kind() > 0).into()),
            ("scale", epilogue.scale.into()),
            ("silu", silu.into()),
        ]
    }

    /// Tiles of the rows by `channels4` quads.
    fn tiles(&self, candidate: &Candidate, channels4: u32) -> u64 {
        let (rows, quads) = tile(candidate);
        self.rows.div_ceil(rows) as u64 * channels4.div_ceil(quads) as u64
    }
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
    forward_as(r, [x, weight, bias], y_shape, epilogue, false)
}

/// y = SiLU(x W + bias + addend).
pub fn forward_silu(
    r: &mut Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    y_shape: [u32; 4],
    addend: Addend,
) -> Tensor {
    forward_as(r, [x, weight, bias], y_shape, Epilogue { addend, scale: 1.0 }, true)
}

/// `silu`: SiLU of it all.
fn forward_as(
    r: &mut Recorder,
    [x, weight, bias]: [Tensor; 3],
    y_shape: [u32; 4],
    epilogue: Epilogue,
    silu: bool,
) -> Tensor {
    let extent = Extent::new(x.elements(), weight);
    let y = r.temp(y_shape);
    assert_eq!(y.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "y and weight disagree");
    assert_eq!(bias.channels4(), extent.k4);
    let fits = match epilogue.addend {
        Addend::None => true,
        Addend::PerRow(addend) => addend.elements() == y.elements(),
        Addend::PerImage(_) | Addend::Product(_) => false,
    };
    assert!(fits, "y and addend disagree");
    let candidate = r.choose(&FORWARD, &extent.shape());
    let tiles = extent.tiles(candidate, extent.k4);
    let io = [x, weight, bias, epilogue.addend.tensor_or(x), y];
    let params = extent.params(0, 0, epilogue, silu);
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
    let params = extent.params(0, 0, Epilogue::NONE, false);
    let io = [dy, weight, dx];
    r.dispatch_candidate(candidate, "backward_data", &params, &io, grid(candidate, tiles), extent.flops);
    dx
}

/// The gradients with respect to weight and bias go to `dweight` and `dbias`, at [`reduce::sum_waiting`] at the latest.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.elements(), dweight);
    assert_eq!(dy.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "dy and weight disagree");
    let candidate = r.choose(&BACKWARD_WEIGHT, &extent.shape());
    let (rows, c4, k4, flops) = (extent.rows, extent.c4, extent.k4, extent.flops);
    let gradient = WeightGradient { rows, matrices: 1, c4, k4, tile: weight_tile(candidate), flops };
    let params = |splits, split_rows| extent.params(splits, split_rows, Epilogue::NONE, false);
    gradient.record(r, candidate, [x, dy], [dweight, dbias], params);
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
            reduce::sum_waiting(r);
        }
    }
}

/// The tiles are those of convolution.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], 1)),
    Corner::full("one full tile", |draw| case_of(draw, [2, 8, 8, 128], 128)),
    Corner::new("a row and a quadruple less", |draw| case_of(draw, [1, 1, 127, 122], 123)),
    Corner::new("several tiles of rows", |draw| case_of(draw, [3, 7, 9, 5], 9)),
    Corner::new("several tiles of channels", |draw| case_of(draw, [1, 3, 5, 131], 258)),
    Corner::new("tiles of rows and x's channels", |draw| case_of(draw, [1, 10, 13, 131], 6)),
    Corner::new("tiles of rows and y's channels", |draw| case_of(draw, [1, 10, 13, 5], 258)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [2, 16, 32, 15], 32)),
    Corner::new("splits of rows, the last short", |draw| case_of(draw, [2, 5, 19, 5], 9)),
    Corner::new("full tiles of channels, splits", |draw| case_of(draw, [1, 10, 20, 64], 32)),
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
    let addend = if draw.flip() { Addend::PerRow(draw.input("addend", dy.shape)) } else { Addend::None };
    let activates = draw.flip();
    let scale = if activates { 1.0 } else { draw.choose(&[1.0, 0.5]) };
    let r = &mut draw.recorder;
    let mut y = forward_with(r, x, weight, bias, dy.shape, Epilogue { addend, scale });
    let dy_in = dy;
    let dy = if activates {
        let dsum = silu::backward(r, y, dy);
        y = forward_silu(r, x, weight, bias, dy.shape, addend);
        dsum
    } else {
        super::add::scale(r, dy, scale)
    };
    let dx = backward_data(r, dy, weight, shape);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    backward_weight(r, x, dy, dweight, dbias);
    reduce::sum_waiting(r);
    draw.gradient(x, y, dy_in, dx);
    draw.gradient(weight, y, dy_in, dweight);
    draw.gradient(bias, y, dy_in, dbias);
}
