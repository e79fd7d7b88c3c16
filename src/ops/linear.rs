//! Linear layer: `shaders/linear.wgsl`. A 1x1 convolution is the same thing over N·H·W rows.

use super::{Draw, reduce};
use crate::cpu::linear as twin;
use crate::gpu::{Grid, Kernel, Recorder, Tensor, Value};

pub static KERNEL: Kernel = Kernel::new(
    "linear",
    include_str!("../../shaders/linear.wgsl"),
    &[("forward", twin::forward), ("backward_data", twin::backward_data), ("backward_weight", twin::backward_weight)],
);

/// Rows and quads of channels that one lane owns.
const TILE: (u32, u32) = (8, 2);
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

    fn params(&self, splits: u32, split_rows: u32) -> [(&'static str, Value); 5] {
        [
            ("rows", self.rows.into()),
            ("c4", self.c4.into()),
            ("k4", self.k4.into()),
            ("split_rows", split_rows.into()),
            ("splits", splits.into()),
        ]
    }

    fn lanes(&self, channels4: u32) -> Grid {
        Grid::Invocations(self.rows.div_ceil(TILE.0) as u64 * channels4.div_ceil(TILE.1) as u64)
    }
}

/// y = x W + bias. x: any shape of rows times C, weight: [1, 1, C, K] with C padded to a multiple of 4, bias:
/// [1, 1, 1, K]. `y_shape` has as many rows times padded K, be it [N, H, W, K] or [N, T, heads, d] with heads·d = K.
pub fn forward(r: &mut Recorder, x: Tensor, weight: Tensor, bias: Tensor, y_shape: [u32; 4]) -> Tensor {
    let extent = Extent::new(x.elements(), weight);
    let y = r.temp(y_shape);
    assert_eq!(y.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "y and weight disagree");
    assert_eq!(bias.channels4(), extent.k4);
    let grid = extent.lanes(extent.k4);
    r.dispatch(&KERNEL, "forward", &extent.params(0, 0), &[x, weight, bias, y], grid, extent.flops);
    y
}

/// The gradient with respect to x, whose shape is `x_shape`.
pub fn backward_data(r: &mut Recorder, dy: Tensor, weight: Tensor, x_shape: [u32; 4]) -> Tensor {
    let dx = r.temp(x_shape);
    let extent = Extent::new(dx.elements(), weight);
    assert_eq!(dy.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "dy and weight disagree");
    let grid = extent.lanes(extent.c4);
    r.dispatch(&KERNEL, "backward_data", &extent.params(0, 0), &[dy, weight, dx], grid, extent.flops);
    dx
}

/// The gradients with respect to weight and bias, written to `dweight` and `dbias`.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.elements(), dweight);
    assert_eq!(dy.elements(), extent.rows as u64 * extent.k4 as u64 * 4, "dy and weight disagree");
    let tiles = extent.c4.div_ceil(2) * extent.k4.div_ceil(2);
    let (splits, split_rows) = reduce::splits(extent.rows, tiles);
    let [.., channels, k] = dweight.shape;
    let partial = if splits == 1 { dweight } else { r.temp([splits, 1, channels, k]) };
    let grid = Grid::Invocations(splits as u64 * tiles as u64);
    r.dispatch(&KERNEL, "backward_weight", &extent.params(splits, split_rows), &[x, dy, partial], grid, extent.flops);
    if splits > 1 {
        reduce::sum_partials(r, partial, splits, dweight);
    }
    reduce::sum_rows(r, dy, extent.rows, dbias);
}

pub fn case(draw: &mut Draw) {
    // Now and then workgroups that are full to the last lane.
    let full = draw.range(0, 3) == 0;
    let small = [draw.range(1, 3), draw.range(1, 9), draw.range(1, 9), draw.range(1, 19)];
    let shape = if full { [2, 16, 32, 15] } else { small };
    let (heads, d) = if full { (2, 16) } else { (draw.range(1, 3), draw.range(1, 6)) };
    let k = heads * d.div_ceil(4) * 4;
    let x = draw.input("x", shape);
    let weight = draw.weight("weight", [1, 1, shape[3], k]);
    let bias = draw.input("bias", [1, 1, 1, k]);
    let dy = draw.input("dy", [shape[0], shape[1], shape[2], k]);
    let r = &mut draw.recorder;
    let y = forward(r, x, weight, bias, dy.shape);
    let dx = backward_data(r, dy, weight, shape);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    backward_weight(r, x, dy, dweight, dbias);
    draw.gradient(x, y, dy, dx);
    draw.gradient(weight, y, dy, dweight);
    draw.gradient(bias, y, dy, dbias);
}
