//! Elementwise sums: `shaders/add.wgsl`.

use super::case::{Corner, Draw};
use crate::cpu::add as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Precision, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "add",
    &[wgsl!("add.wgsl")],
    &[
        ("add", twin::add),
        ("scale", twin::scale),
        ("add_per_image", twin::add_per_image),
        ("add_guidance", twin::add_guidance),
        ("accumulate", twin::accumulate),
        ("narrow", twin::narrow),
        ("widen", twin::widen),
    ],
);

/// Quadruples that one lane takes.
const SHARE: u32 = 4;

fn record(r: &mut Recorder, entry: &'static str, y: Tensor, factor: f32, io: &[Tensor]) {
    record_repeated(r, entry, y, (y.elements() / 4) as u32 / y.n(), factor, io);
}

fn record_repeated(r: &mut Recorder, entry: &'static str, y: Tensor, period: u32, factor: f32, io: &[Tensor]) {
    let quads = (y.elements() / 4) as u32;
    let params = [
        ("quads", quads.into()),
        ("quads_per_image", period.into()),
        ("channels4", y.channels4().into()),
        ("scale", factor.into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Workgroups(quads.div_ceil(256 * SHARE) as u64), 2 * y.count());
}

/// y = factor (a + b), all of one shape.
pub fn add_scaled(r: &mut Recorder, a: Tensor, b: Tensor, factor: f32) -> Tensor {
    assert_eq!(a.shape, b.shape);
    let y = r.temp(a.shape);
    record(r, "add", y, factor, &[a, b, y]);
    y
}

/// y = a + b, all of one shape. Its gradient is dy for both.
pub fn add(r: &mut Recorder, a: Tensor, b: Tensor) -> Tensor {
    add_scaled(r, a, b, 1.0)
}

/// y = factor a.
pub fn scale(r: &mut Recorder, a: Tensor, factor: f32) -> Tensor {
    let y = r.temp(a.shape);
    scale_into(r, a, factor, y);
    y
}

/// y = factor a, into a tensor that is there.
pub fn scale_into(r: &mut Recorder, a: Tensor, factor: f32, y: Tensor) {
    assert_eq!(a.shape, y.shape);
    record(r, "scale", y, factor, &[a, y]);
}

/// y = a + the step's `classifier` times b, which is repeated if a has more images.
pub fn add_guidance(r: &mut Recorder, a: Tensor, b: Tensor) -> Tensor {
    assert!(a.shape[1..] == b.shape[1..] && a.n().is_multiple_of(b.n()), "a holds b's images, or those several times");
    let y = r.temp(a.shape);
    record_repeated(r, "add_guidance", y, (b.elements() / 4) as u32, 1.0, &[a, b, y]);
    y
}

/// `y[n,h,w,c] = a[n,h,w,c] + b[n,0,0,c]`. Its gradients are dy and [`super::reduce::sum_per_image`] of dy.
pub fn add_per_image(r: &mut Recorder, a: Tensor, b: Tensor) -> Tensor {
    assert_eq!(b.shape, [a.n(), 1, 1, a.channels()]);
    let y = r.temp(a.shape);
    record(r, "add_per_image", y, 1.0, &[a, b, y]);
    y
}

/// total += part, in place.
pub fn accumulate(r: &mut Recorder, total: Tensor, part: Tensor) {
    assert_eq!(total.shape, part.shape);
    record(r, "accumulate", total, 1.0, &[part, total]);
}

/// What is f32 as activations are stored: itself in single precision.
pub fn narrow(r: &mut Recorder, part: Tensor) -> Tensor {
    match r.precision() {
        Precision::F32 => part,
        Precision::F16 => {
            let y = r.temp(part.shape);
            narrow_into(r, part, y);
            y
        }
    }
}

/// As [`narrow`], into a tensor that exists.
pub fn narrow_into(r: &mut Recorder, part: Tensor, y: Tensor) {
    assert_eq!(part.elements(), y.elements());
    record(r, "narrow", y, 1.0, &[part, y]);
}

/// An activation as f32: itself in single precision.
pub fn widen(r: &mut Recorder, a: Tensor) -> Tensor {
    match r.precision() {
        Precision::F32 => a,
        Precision::F16 => {
            let total = r.temp(a.shape);
            record(r, "widen", total, 1.0, &[a, total]);
            total
        }
    }
}

/// A workgroup takes 1,024 quadruples, a lane 4 of them 256 apart.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], 1)),
    Corner::new("a guidance of fewer images", |draw| case_of(draw, [2, 3, 2, 5], 3)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [4, 16, 16, 8], 1)),
    Corner::new("a lane with fewer quadruples", |draw| case_of(draw, [3, 21, 11, 13], 2)),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 3), draw.range(1, 7), draw.range(1, 7), draw.range(1, 13)];
    case_of(draw, shape, 2);
}

/// With `times` as many images in what is guided as in the guidance.
fn case_of(draw: &mut Draw, shape: [u32; 4], times: u32) {
    let (a, b, dy) = (draw.input("a", shape), draw.input("b", shape), draw.input("dy", shape));
    let per_image = draw.input("per image", [shape[0], 1, 1, shape[3]]);
    let total = draw.input("total", shape);
    let factor = draw.uniform() as f32 + 0.5;
    let guided = draw.input("guided", [times * shape[0], shape[1], shape[2], shape[3]]);
    let coefficient = draw.normal();
    draw.step.set("classifier", coefficient);
    let r = &mut draw.recorder;
    let y = add_scaled(r, a, b, factor);
    let gradient = scale(r, dy, factor);
    add_per_image(r, a, per_image);
    add_guidance(r, guided, b);
    let part = r.temp(shape);
    record(r, "widen", part, 1.0, &[a, part]);
    accumulate(r, total, part);
    let narrowed = r.temp(shape);
    narrow_into(r, part, narrowed);
    draw.gradient(a, y, dy, gradient);
    draw.gradient(b, y, dy, gradient);
}
