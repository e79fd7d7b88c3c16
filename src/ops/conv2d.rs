//! Convolution: `shaders/conv2d.wgsl`.

use super::{Draw, reduce};
use crate::cpu::conv2d as twin;
use crate::gpu::{Grid, Kernel, Recorder, Tensor, Value};

pub static KERNEL: Kernel = Kernel::new(
    "conv2d",
    include_str!("../../shaders/conv2d.wgsl"),
    &[("forward", twin::forward), ("backward_data", twin::backward_data), ("backward_weight", twin::backward_weight)],
);

/// Rows and quads of channels that one lane of `forward` and `backward_data` owns.
const TILE: (u32, u32) = (16, 2);
/// Quads of input and output channels that one lane of `backward_weight` owns.
const WEIGHT_TILE: (u32, u32) = (2, 4);

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
    pub fn same(taps: u32) -> Geometry {
        Geometry { stride: 1, pad: taps / 2, pad_end: taps / 2 }
    }

    fn output(self, input: u32, taps: u32) -> u32 {
        (input + self.pad + self.pad_end - taps) / self.stride + 1
    }
}

struct Extent {
    x: [u32; 4],
    weight: Tensor,
    y: [u32; 4],
    geometry: Geometry,
}

impl Extent {
    fn new(x: [u32; 4], weight: Tensor, geometry: Geometry) -> Extent {
        let [r, s, channels, k] = weight.shape;
        assert!(matches!(geometry.stride, 1 | 2), "kernels know strides 1 and 2");
        assert_eq!(channels, x[3].div_ceil(4) * 4, "the third axis of a weight is padded to a multiple of 4");
        let y = [x[0], geometry.output(x[1], r), geometry.output(x[2], s), k];
        Extent { x, weight, y, geometry }
    }

    fn params(&self, splits: u32, split_rows: u32) -> [(&'static str, Value); 13] {
        let ([n, h, w, c], [_, p, q, k]) = (self.x, self.y);
        [
            ("n", n.into()),
            ("h", h.into()),
            ("w", w.into()),
            ("c4", c.div_ceil(4).into()),
            ("p", p.into()),
            ("q", q.into()),
            ("k4", k.div_ceil(4).into()),
            ("r", self.weight.shape[0].into()),
            ("s", self.weight.shape[1].into()),
            ("stride", self.geometry.stride.into()),
            ("pad", self.geometry.pad.into()),
            ("split_rows", split_rows.into()),
            ("splits", splits.into()),
        ]
    }

    /// Multiplies and adds, those on padding included.
    fn flops(&self) -> u64 {
        let [r, s, ..] = self.weight.shape;
        2 * (self.y[0] * self.y[1] * self.y[2]) as u64 * self.y[3] as u64 * (r * s * self.x[3]) as u64
    }
}

fn lanes(rows: u32, channels4: u32) -> Grid {
    Grid::Invocations(rows.div_ceil(TILE.0) as u64 * channels4.div_ceil(TILE.1) as u64)
}

/// y = conv(x, weight) + bias. x: [N, H, W, C], weight: [R, S, C, K] with C padded to a multiple of 4, bias: [1, 1, 1, K].
pub fn forward(r: &mut Recorder, x: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor {
    let extent = Extent::new(x.shape, weight, geometry);
    let y = r.temp(extent.y);
    assert_eq!(bias.shape, [1, 1, 1, y.channels()]);
    let io = [x, weight, bias, y];
    r.dispatch(&KERNEL, "forward", &extent.params(0, 0), &io, lanes(y.rows(), y.channels4()), extent.flops());
    y
}

/// The gradient with respect to x, whose shape is `x_shape`.
pub fn backward_data(r: &mut Recorder, dy: Tensor, weight: Tensor, x_shape: [u32; 4], geometry: Geometry) -> Tensor {
    let extent = Extent::new(x_shape, weight, geometry);
    assert_eq!(dy.shape, extent.y);
    let dx = r.temp(x_shape);
    let io = [dy, weight, dx];
    r.dispatch(&KERNEL, "backward_data", &extent.params(0, 0), &io, lanes(dx.rows(), dx.channels4()), extent.flops());
    dx
}

/// The gradients with respect to weight and bias, written to `dweight` and `dbias`.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, geometry: Geometry, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.shape, dweight, geometry);
    assert_eq!(dy.shape, extent.y);
    let [taps_h, taps_w, channels, k] = dweight.shape;
    let tiles = taps_h * taps_w * x.channels4().div_ceil(WEIGHT_TILE.0) * dy.channels4().div_ceil(WEIGHT_TILE.1);
    let (splits, split_rows) = reduce::splits(dy.rows(), tiles);
    let partial = if splits == 1 { dweight } else { r.temp([splits * taps_h, taps_w, channels, k]) };
    let grid = Grid::Invocations(splits as u64 * tiles as u64);
    let params = extent.params(splits, split_rows);
    r.dispatch(&KERNEL, "backward_weight", &params, &[x, dy, partial], grid, extent.flops());
    if splits > 1 {
        reduce::sum_partials(r, partial, splits, dweight);
    }
    reduce::sum_rows(r, dy, dy.rows(), dbias);
}

pub fn case(draw: &mut Draw) {
    match draw.range(0, 7) {
        // Workgroups that are full to the last lane.
        0 | 1 => return case_of(draw, [2, 32, 32, 11], [3, 3], 6, Geometry::same(3)),
        // A split of backward_weight that begins within a row.
        2 => return case_of(draw, [3, 15, 13, 5], [3, 3], 9, Geometry { stride: 2, pad: 0, pad_end: 1 }),
        _ => {}
    }
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
    let r = &mut draw.recorder;
    let y = forward(r, x, weight, bias, geometry);
    let dy = draw.input("dy", y.shape);
    let r = &mut draw.recorder;
    let dx = backward_data(r, dy, weight, shape, geometry);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    backward_weight(r, x, dy, geometry, dweight, dbias);
    draw.gradient(x, y, dy, dx);
    draw.gradient(weight, y, dy, dweight);
    draw.gradient(bias, y, dy, dbias);
}
