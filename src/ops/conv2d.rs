//! Convolution: `shaders/conv2d.wgsl`.

mod winograd;

use super::case::{Corner, Draw};
use super::matrix::{self, Addend, Epilogue, Product, WeightGradient, grid, products, tile, weight_tile};
use super::{linear, reduce};
use crate::gpu::kernel::wgsl;
use crate::gpu::{Candidate, Kernel, Need, Recorder, Tensor, Value, Ways};

products!(
    "conv2d",
    crate::cpu::conv2d,
    |s: &[u32]| [s[3], s[4]],
    |s: &[u32]| s[0] * s[1] * s[2],
    (8, 4),
    winograd(&[("LANES", 8)]),
    winograd(&[("LANES", 4)]),
    winograd(&[("LANES", 16)])
);

/// The class of those that sum by F(2x2, 3x3).
pub const WINOGRAD: &str = "winograd 2";

/// Usual where it won on the newer lavapipe: of fewer channels, or in images of a few tiles, transforms cost what is saved. The
/// number of images counts for nothing, so that an image comes out the same whatever it is computed beside.
const fn winograd(constants: &'static [(&'static str, u32)]) -> Candidate {
    let candidate = Candidate::for_cpus(&winograd::KERNEL, constants).of_class(WINOGRAD);
    candidate
        .only_for(|shape| shape[5..] == [3, 3, 1, 1, 1])
        .usual_for(|shape| shape[1] * shape[2] >= 49 && shape[3].min(shape[4]) >= 32)
}

/// See [`Ways::trials`]: [N, H, W, C, K, R, S, stride, zeros before, zeros behind].
const TRIALS: &[&[u32]] = &[
    &[3, 9, 11, 37, 19, 3, 3, 1, 1, 1],
    &[1, 13, 14, 134, 67, 3, 2, 2, 1, 1],
    &[2, 16, 16, 4, 32, 3, 3, 1, 1, 1],
    &[2, 17, 15, 12, 21, 3, 3, 2, 0, 1],
    &[1, 8, 8, 64, 64, 3, 3, 1, 1, 1],
];

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
        own.into_iter().chain(epilogue.params()).collect()
    }

    /// Panics if the addend is neither of the output nor of each image.
    fn check_addend(&self, addend: Addend) {
        let [n, _, _, k] = self.y;
        match addend {
            Addend::None => {}
            Addend::PerRow(tensor) => assert_eq!(tensor.shape, self.y, "an addend is of the output"),
            Addend::PerImage(slice) => {
                assert_eq!((slice.tensor.rows(), slice.channels), (n, k), "a row for each image")
            }
            Addend::Product(Product { x, weight, bias }) => {
                assert_eq!(x.shape[..3], self.y[..3], "a product has the rows of the output");
                assert_eq!(weight.shape, [1, 1, x.channels4() * 4, k], "a product has the channels of the output");
                assert_eq!(bias.shape, [1, 1, 1, k]);
            }
        }
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
    extent.check_addend(epilogue.addend);
    let epilogue = Epilogue { addend: addend_for(r, candidate, epilogue.addend, y.shape), ..epilogue };
    if winograd::is_way(candidate) {
        winograd::forward(r, candidate, [x, weight, bias, y], epilogue);
        return y;
    }
    let (rows, quads) = tile(candidate);
    let tiles = y.rows().div_ceil(rows) as u64 * y.channels4().div_ceil(quads) as u64;
    let (shortcut, shortcut_flops) = match epilogue.addend {
        Addend::Product(Product { x, weight, bias }) => ([weight, bias], 2 * y.count() * x.channels() as u64),
        _ => ([weight, bias], 0),
    };
    let mut io = vec![x, weight, bias, epilogue.addend.tensor_or(x), y];
    if takes_products(candidate) {
        io.extend(shortcut);
    }
    let params = extent.params(0, 0, epilogue);
    let flops = extent.flops() + shortcut_flops;
    r.dispatch_candidate(candidate, "forward", &params, &io, grid(candidate, tiles), flops);
    y
}

/// Whether a way sums an added product with its own: where its WGSL binds one. Those for drivers that compute on the CPU don't.
pub(super) fn takes_products(candidate: &Candidate) -> bool {
    candidate.kernel.entry_point("forward").storage.iter().any(|binding| binding.name == "shortcut_weight")
}

/// What is added, as a way can: where it doesn't take products, one is made first.
fn addend_for(r: &mut Recorder, candidate: &Candidate, addend: Addend, y_shape: [u32; 4]) -> Addend {
    match addend {
        Addend::Product(Product { x, weight, bias }) if !takes_products(candidate) => {
            Addend::PerRow(linear::forward(r, x, weight, bias, y_shape))
        }
        addend => addend,
    }
}

/// The gradient with respect to x, whose shape is `x_shape`.
pub fn backward_data(r: &mut Recorder, dy: Tensor, weight: Tensor, x_shape: [u32; 4], geometry: Geometry) -> Tensor {
    let extent = Extent::new(x_shape, weight.shape, geometry);
    assert_eq!(dy.shape, extent.y);
    let dx = r.temp(x_shape);
    let candidate = r.choose(&BACKWARD_DATA, &extent.shape());
    if winograd::is_way(candidate) {
        winograd::backward_data(r, candidate, [dy, weight, dx]);
        return dx;
    }
    let (rows, quads) = tile(candidate);
    let tiles = extent.parity_tiles(rows) * dx.channels4().div_ceil(quads) as u64;
    let params = extent.params(0, 0, Epilogue::NONE);
    let io = [dy, weight, dx];
    r.dispatch_candidate(candidate, "backward_data", &params, &io, grid(candidate, tiles), extent.flops());
    dx
}

/// The gradients with respect to weight and bias go to `dweight` and `dbias`, at [`reduce::sum_waiting`] at the latest.
pub fn backward_weight(r: &mut Recorder, x: Tensor, dy: Tensor, geometry: Geometry, dweight: Tensor, dbias: Tensor) {
    let extent = Extent::new(x.shape, dweight.shape, geometry);
    assert_eq!(dy.shape, extent.y);
    let candidate = r.choose(&BACKWARD_WEIGHT, &extent.shape());
    if winograd::is_way(candidate) {
        winograd::backward_weight(r, candidate, [x, dy, dweight]);
        return reduce::sum_rows(r, dy, dy.rows(), dbias);
    }
    let gradient = WeightGradient {
        rows: dy.rows(),
        matrices: dweight.shape[0] * dweight.shape[1],
        c4: x.channels4(),
        k4: dy.channels4(),
        tile: weight_tile(candidate),
        flops: extent.flops(),
    };
    let params = |splits, split_rows| extent.params(splits, split_rows, Epilogue::NONE);
    gradient.record(r, candidate, [x, dy], [dweight, dbias], params);
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
            reduce::sum_waiting(r);
        }
    }
}

/// The largest tiles are 128 rows by 32 quadruples of channels, of a weight's gradient 32 by 32, the widest turn 4 quadruples of
/// channels or 16 rows.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], [1, 1], 1, STRAIGHT)),
    Corner::full("one full tile", |draw| case_of(draw, [2, 8, 8, 128], [1, 1], 128, STRAIGHT)),
    Corner::new("a row and a quadruple less", |draw| case_of(draw, [1, 1, 127, 122], [1, 1], 123, STRAIGHT)),
    Corner::new("several tiles of rows", |draw| case_of(draw, [3, 7, 9, 5], [3, 3], 9, Geometry::same(3))),
    Corner::new("several tiles of channels", |draw| case_of(draw, [1, 5, 6, 131], [3, 1], 258, Geometry::same(3))),
    Corner::new("tiles of rows and x's channels", |draw| case_of(draw, [1, 10, 13, 131], [1, 1], 6, STRAIGHT)),
    Corner::new("tiles of rows and y's channels", |draw| case_of(draw, [1, 10, 13, 5], [1, 1], 258, STRAIGHT)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [2, 32, 32, 11], [3, 3], 6, Geometry::same(3))),
    Corner::new("splits that begin within a row", |draw| case_of(draw, [2, 5, 17, 5], [3, 1], 9, Geometry::same(3))),
    Corner::new("full tiles of each parity", |draw| case_of(draw, [2, 16, 16, 3], [3, 3], 5, HALVING)),
    Corner::new("less than a tile of each parity", |draw| case_of(draw, [1, 2, 3, 5], [3, 3], 5, HALVING)),
    Corner::new("several tiles of each parity", |draw| case_of(draw, [2, 19, 17, 6], [2, 3], 7, HALVING)),
    Corner::new("a parity without inputs", |draw| case_of(draw, [2, 1, 5, 9], [3, 3], 5, HALVING)),
    Corner::new("a parity without taps", |draw| case_of(draw, [1, 7, 5, 9], [1, 1], 5, SKIPPING)),
    Corner::new("halved, tiles of channels", |draw| case_of(draw, [1, 4, 5, 258], [3, 2], 131, HALVING)),
    Corner::new("no padding before", |draw| case_of(draw, [3, 15, 13, 5], [3, 3], 9, DOWNSAMPLING)),
    Corner::new("2x2: a column, a residual", |draw| {
        case_with(draw, [2, 7, 1, 5], [3, 3], 6, Geometry::same(3), Added::PerRow)
    }),
    Corner::new("2x2: one, of one output", |draw| case_of(draw, [1, 1, 1, 1], [3, 3], 1, Geometry::same(3))),
    Corner::new("2x2: less than a block", |draw| case_of(draw, [1, 5, 6, 5], [3, 3], 9, Geometry::same(3))),
    Corner::full("2x2: full blocks", |draw| case_of(draw, [4, 8, 8, 64], [3, 3], 64, Geometry::same(3))),
    Corner::new("2x2: pieces of x", |draw| case_of(draw, [2, 13, 29, 131], [3, 3], 5, Geometry::same(3))),
    Corner::new("2x2: several of channels", |draw| case_of(draw, [1, 6, 5, 131], [3, 3], 134, Geometry::same(3))),
    Corner::new("2x2: pieces of dy", |draw| case_of(draw, [2, 14, 29, 5], [3, 3], 131, Geometry::same(3))),
    Corner::new("a product: less than a turn", |draw| with_product(draw, 5)),
    Corner::new("a product: full turns", |draw| with_product(draw, 32)),
    Corner::new("a product: the last turn short", |draw| with_product(draw, 35)),
    Corner::new("full channels, 3 taps", |draw| case_of(draw, [1, 5, 6, 128], [3, 1], 128, Geometry::same(3))),
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

/// What a case adds.
enum Added {
    Drawn,
    PerRow,
    /// A product of so many channels.
    Product(u32),
}

fn case_of(draw: &mut Draw, shape: [u32; 4], taps: [u32; 2], k: u32, geometry: Geometry) {
    case_with(draw, shape, taps, k, geometry, Added::Drawn);
}

fn case_with(draw: &mut Draw, shape: [u32; 4], [taps_h, taps_w]: [u32; 2], k: u32, geometry: Geometry, added: Added) {
    let x = draw.input("x", shape);
    let weight = draw.weight("weight", [taps_h, taps_w, shape[3], k]);
    let bias = draw.input("bias", [1, 1, 1, k]);
    let y_shape = Extent::new(shape, weight.shape, geometry).y;
    let added = match added {
        Added::Drawn if draw.range(0, 3) == 0 => Added::Product(draw.range(1, 19)),
        added => added,
    };
    let addend = match added {
        Added::Product(channels) => Addend::Product(draw_product(draw, channels, y_shape)),
        Added::Drawn if draw.flip() => Addend::None,
        Added::Drawn if draw.flip() => Addend::PerImage(draw.slice("embedding", shape[0], k)),
        Added::Drawn | Added::PerRow => Addend::PerRow(draw.input("residual", y_shape)),
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
    reduce::sum_waiting(r);
    draw.gradient(x, y, dy_in, dx);
    draw.gradient(weight, y, dy_in, dweight);
    draw.gradient(bias, y, dy_in, dbias);
    if let Addend::Product(product) = addend {
        product_gradients(draw, product, y, [dy_in, dy]);
    }
}

fn with_product(draw: &mut Draw, channels: u32) {
    case_with(draw, [2, 5, 7, 6], [3, 3], 9, Geometry::same(3), Added::Product(channels));
}

fn draw_product(draw: &mut Draw, channels: u32, [n, p, q, k]: [u32; 4]) -> Product {
    let x = draw.input("shortcut", [n, p, q, channels]);
    let weight = draw.weight("shortcut weight", [1, 1, channels, k]);
    Product { x, weight, bias: draw.input("shortcut bias", [1, 1, 1, k]) }
}

/// For the gradient `dy_in` of y, of whose sum `dy` is the gradient.
fn product_gradients(draw: &mut Draw, product: Product, y: Tensor, [dy_in, dy]: [Tensor; 2]) {
    let Product { x, weight, bias } = product;
    let r = &mut draw.recorder;
    let dx = linear::backward_data(r, dy, weight, x.shape);
    let (dweight, dbias) = (r.temp(weight.shape), r.temp(bias.shape));
    linear::backward_weight(r, x, dy, dweight, dbias);
    reduce::sum_waiting(r);
    draw.gradient(x, y, dy_in, dx);
    draw.gradient(weight, y, dy_in, dweight);
    draw.gradient(bias, y, dy_in, dbias);
}
