//! Embeddings of timesteps and classes: `shaders/embed.wgsl`.

use super::add::scale;
use super::case::{Corner, Draw};
use crate::cpu::embed as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "embed",
    &[wgsl!("embed.wgsl")],
    &[("timestep", twin::timestep), ("gather", twin::gather), ("gather_backward", twin::gather_backward)],
);

/// Options of a timestep embedding.
#[derive(Clone, Copy, Default)]
struct Waves {
    flip_sin_to_cos: bool,
    freq_shift: f32,
}

fn record(r: &mut Recorder, entry: &'static str, written: Tensor, count: u32, waves: Waves, io: &[Tensor], flops: u64) {
    let quads = written.rows() * written.channels4();
    let params = [
        ("quads", quads.into()),
        ("channels4", written.channels4().into()),
        ("dim", written.channels().into()),
        ("flip", waves.flip_sin_to_cos.into()),
        ("freq_shift", waves.freq_shift.into()),
        ("count", count.into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Invocations(quads as u64), flops);
}

/// The 12 most significant bits of `value` as f32, and what they leave.
fn split(value: f64) -> (f32, f64) {
    let head = f32::from_bits((value as f32).to_bits() & 0xffff_f000);
    (head, value - head as f64)
}

/// The frequencies in turns, each as three f32 whose sum is good to 48 bits; the first two have 12 significant bits, so
/// that their products with whole numbers of 12 bits are exact. See `turns_of` in the shader.
fn turns(half: u32, freq_shift: f32) -> Vec<f32> {
    let frequency = |i: u32| (-(10000f64.ln()) * i as f64 / (half as f64 - freq_shift as f64)).exp();
    let rows = (0..half).flat_map(|i| {
        let (high, rest) = split(frequency(i) / (2.0 * std::f64::consts::PI));
        let (middle, rest) = split(rest);
        [high, middle, rest as f32, 0.0]
    });
    rows.collect()
}

/// diffusers' `get_timestep_embedding`: `y[n]` = [sin(t f_i), cos(t f_i)], or the cosines first if flipped, for the dim / 2
/// frequencies f_i = 10000^(-i / (dim / 2 - freq_shift)); the last channel of an odd dim is zero. t: [1, 1, 1, N]; y:
/// [N, 1, 1, dim].
pub fn timestep(r: &mut Recorder, t: Tensor, dim: u32, flip_sin_to_cos: bool, freq_shift: f32) -> Tensor {
    assert_eq!(t.rows(), 1, "timesteps are [1, 1, 1, N]");
    let half = dim / 2;
    assert!(half > 0 && half as f32 > freq_shift, "a timestep embedding of {dim} channels has no frequencies");
    let name = format!("embed.turns dim {dim} freq_shift {freq_shift}");
    let turns = r.constant(&name, [1, 1, half, 3], &turns(half, freq_shift));
    let y = r.temp([t.channels(), 1, 1, dim]);
    record(r, "timestep", y, t.channels(), Waves { flip_sin_to_cos, freq_shift }, &[t, turns, y], 16 * y.count());
    y
}

/// `y[n] = table[labels[n]]`. table: [1, 1, classes, C] in f32; labels: u32 [1, 1, 1, N], each below `classes`; y:
/// [N, 1, 1, C].
pub fn gather(r: &mut Recorder, table: Tensor, labels: Tensor) -> Tensor {
    assert_eq!([table.n(), table.height(), labels.rows()], [1, 1, 1], "gather takes [classes, C] and [N]");
    let y = r.temp([labels.channels(), 1, 1, table.channels()]);
    record(r, "gather", y, labels.channels(), Waves::default(), &[table, labels, y], 0);
    y
}

/// Overwrites `d_table[class]` with the sum of `dy[n]` over all n with `labels[n]` = class, for every class.
pub fn gather_backward(r: &mut Recorder, labels: Tensor, dy: Tensor, d_table: Tensor) {
    assert_eq!(dy.shape, [labels.channels(), 1, 1, d_table.channels()]);
    assert_eq!([d_table.n(), d_table.height()], [1, 1], "the table is [1, 1, classes, C]");
    record(r, "gather_backward", d_table, labels.channels(), Waves::default(), &[labels, dy, d_table], dy.count());
}

/// A workgroup takes 64 quadruples of what is written.
pub const CORNERS: &[Corner] = &[
    Corner::new("one image, one class", |draw| case_of(draw, 1, 2, [1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, 8, 64, [8, 64])),
    Corner::new("a width that ends in a zero", |draw| case_of(draw, 5, 31, [11, 18])),
    Corner::new("the last workgroup not full", |draw| case_of(draw, 9, 70, [10, 55])),
    Corner::new("sines and cosines in a quadruple", |draw| case_of(draw, 3, 14, [2, 7])),
];

pub fn case(draw: &mut Draw) {
    let (count, dim) = (draw.range(1, 9), draw.choose(&[2, 5, 8, 14, 31, 130]));
    let table = [draw.range(1, 11), draw.choose(&[1, 4, 7, 18])];
    case_of(draw, count, dim, table);
}

/// Of `count` timesteps in `dim` channels, and as many classes from a table.
fn case_of(draw: &mut Draw, count: u32, dim: u32, [classes, channels]: [u32; 2]) {
    let whole = draw.flip();
    let t = draw.input_by("t", [1, 1, 1, count], |draw| {
        let t = draw.range(0, 4196) as f64 - 100.0;
        if whole { t } else { t / 4.0 + draw.uniform() }
    });
    let freq_shift = if dim < 4 { 0.0 } else { draw.choose(&[0.0, 1.0]) };
    let flip = draw.flip();
    timestep(&mut draw.recorder, t, dim, flip, freq_shift);

    let table = draw.input("table", [1, 1, classes, channels]);
    let labels = draw.integers("labels", count, |draw| draw.range(0, classes - 1));
    let dy = draw.input("dy", [count, 1, 1, channels]);
    let r = &mut draw.recorder;
    let (y, d_table) = (gather(r, table, labels), r.temp(table.shape));
    // Behind the end of a temporary stands NaN.
    let dy1 = scale(r, dy, 1.0);
    gather_backward(r, labels, dy1, d_table);
    draw.gradient(table, y, dy, d_table);
}
