//! Sums over rows, over partial results, and of a list: `shaders/reduce.wgsl`.

use super::add;
use super::case::{Corner, Draw};
use crate::cpu::reduce as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "reduce",
    &[wgsl!("reduce.wgsl")],
    &[("columns", twin::columns), ("partials", twin::partials), ("total", twin::total)],
);

struct Extent {
    groups: u32,
    rows: u32,
    chunk: u32,
    chunks: u32,
    quads: u32,
}

fn record(r: &mut Recorder, entry: &'static str, extent: &Extent, io: &[Tensor], grid: Grid) {
    let params = [
        ("groups", extent.groups.into()),
        ("rows", extent.rows.into()),
        ("chunk", extent.chunk.into()),
        ("chunks", extent.chunks.into()),
        ("quads", extent.quads.into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, grid, io[0].count());
}

/// Sums the rows of each of `groups` equal runs of `rows` rows of `x` into `y`, [groups, 1, 1, C].
fn sum_groups(r: &mut Recorder, x: Tensor, groups: u32, rows: u32, y: Tensor) {
    assert_eq!(y.rows(), groups);
    assert_eq!(x.elements(), rows as u64 * y.elements());
    // About as many chunks as rows in a chunk: both passes are short, and rounding grows with neither.
    let chunk = (rows as f64).sqrt().ceil() as u32;
    let chunks = rows.div_ceil(chunk);
    let extent = Extent { groups, rows, chunk, chunks, quads: y.channels4() };
    let partial = r.temp([groups, 1, chunks, y.channels()]);
    record(r, "columns", &extent, &[x, partial], Grid::Invocations(partial.elements() / 4));
    record(r, "partials", &extent, &[partial, y], Grid::Invocations(y.elements() / 4));
}

/// Sums over height and width: [N, H, W, C] to [N, 1, 1, C].
pub fn sum_per_image(r: &mut Recorder, x: Tensor) -> Tensor {
    let y = r.temp([x.n(), 1, 1, x.channels()]);
    sum_groups(r, x, x.n(), x.height() * x.width(), y);
    add::narrow(r, y)
}

/// Sums over all rows into `y`, [1, 1, 1, C]: the gradient of a bias. x may be shaped otherwise as long as it is
/// `rows` times C in memory.
pub fn sum_rows(r: &mut Recorder, x: Tensor, rows: u32, y: Tensor) {
    sum_groups(r, x, 1, rows, y);
}

/// The fewest rows worth a split.
const SPLIT_ROWS: u32 = 64;

/// How a gradient of weights that `lanes` lanes make splits its sum over `rows` to fill the device: (splits, rows of a
/// split).
pub fn splits(r: &Recorder, rows: u32, lanes: u32) -> (u32, u32) {
    let wanted = r.device_lanes().div_ceil(lanes).min(rows.div_ceil(SPLIT_ROWS));
    let split_rows = rows.div_ceil(wanted);
    (rows.div_ceil(split_rows), split_rows)
}

/// Sums `count` equal parts, which `partial` holds one after the other, into `y`.
pub fn sum_partials(r: &mut Recorder, partial: Tensor, count: u32, y: Tensor) {
    assert_eq!(partial.elements(), y.elements() * count as u64);
    let extent = Extent { groups: 1, rows: 0, chunk: 0, chunks: count, quads: (y.elements() / 4) as u32 };
    record(r, "partials", &extent, &[partial, y], Grid::Invocations(y.elements() / 4));
}

/// Sums all elements of `parts`, [1, 1, 1, P], into the first of `total`, [1, 1, 1, 1].
pub fn total(r: &mut Recorder, parts: Tensor, total: Tensor) {
    assert_eq!(total.elements(), 4);
    let extent = Extent { groups: 1, rows: 0, chunk: 0, chunks: 0, quads: (parts.elements() / 4) as u32 };
    record(r, "total", &extent, &[parts, total], Grid::Workgroups(1));
}

/// A workgroup takes 64 quadruples of sums, `total` 256 of its list at a time; rows are summed in chunks, whose number is
/// about that of the rows in one.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], 1)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [4, 8, 8, 32], 1024)),
    Corner::new("a list just over a turn", |draw| case_of(draw, [2, 3, 5, 7], 1025)),
    Corner::new("the last chunk not full", |draw| case_of(draw, [3, 5, 7, 9], 2051)),
    Corner::new("the last chunk of one row", |draw| case_of(draw, [1, 1, 17, 4], 5)),
    Corner::new("a list just under a turn", |draw| case_of(draw, [5, 9, 11, 23], 1023)),
];

pub fn case(draw: &mut Draw) {
    let shape = [draw.range(1, 4), draw.range(1, 9), draw.range(1, 9), draw.range(1, 13)];
    let count = draw.range(1, 3000);
    case_of(draw, shape, count);
}

/// Of rows and parts, and of a list of `count` numbers.
fn case_of(draw: &mut Draw, shape: [u32; 4], count: u32) {
    let x = draw.input("x", shape);
    let parts = draw.input("parts", shape);
    let list = draw.input("list", [1, 1, 1, count]);
    let r = &mut draw.recorder;
    sum_per_image(r, x);
    let y = r.temp([1, 1, 1, shape[3]]);
    sum_rows(r, x, x.rows(), y);
    let y = r.temp([1, shape[1], shape[2], shape[3]]);
    sum_partials(r, parts, shape[0], y);
    let y = r.temp([1, 1, 1, 1]);
    total(r, list, y);
}
