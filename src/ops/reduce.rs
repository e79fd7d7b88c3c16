//! Sums over rows, over partial results, and of a list: `shaders/reduce.wgsl`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::case::{Corner, Draw};
use crate::cpu::reduce as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::recorder::{Dispatch, PartialSums, Place};
use crate::gpu::{Grid, Kernel, Recorder, Recording, Slice, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "reduce",
    &[wgsl!("reduce.wgsl")],
    &[("columns", twin::columns), ("partials", twin::partials), ("many", twin::many), ("total", twin::total)],
);

struct Extent {
    groups: u32,
    rows: u32,
    chunk: u32,
    chunks: u32,
    quads: u32,
    /// Of y, in quadruples.
    stride: u32,
    first: u32,
}

impl Extent {
    /// Of a list: `quads` of `groups` runs.
    fn list(groups: u32, quads: u32) -> Extent {
        Extent { groups, rows: 0, chunk: 0, chunks: 0, quads, stride: 0, first: 0 }
    }
}

fn record(r: &mut Recorder, entry: &'static str, extent: &Extent, io: &[Tensor], grid: Grid) {
    let params = [
        ("groups", extent.groups.into()),
        ("rows", extent.rows.into()),
        ("chunk", extent.chunk.into()),
        ("chunks", extent.chunks.into()),
        ("quads", extent.quads.into()),
        ("stride", extent.stride.into()),
        ("first", extent.first.into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, grid, io[0].count());
}

/// Sums chunks of rows of each of `groups` equal runs of `rows` rows of `x`, of `channels` each: gives the sums,
/// [groups, 1, chunks, C].
fn sum_chunks(r: &mut Recorder, x: Tensor, groups: u32, rows: u32, channels: u32) -> (Extent, Tensor) {
    // About as many chunks as rows in a chunk: both passes are short, and rounding grows with neither.
    let chunk = (rows as f64).sqrt().ceil() as u32;
    let chunks = rows.div_ceil(chunk);
    let partial = r.temp([groups, 1, chunks, channels]);
    let extent = Extent { groups, rows, chunk, chunks, quads: partial.channels4(), stride: 0, first: 0 };
    assert_eq!(x.elements(), 4 * groups as u64 * rows as u64 * extent.quads as u64);
    record(r, "columns", &extent, &[x, partial], Grid::Invocations(partial.elements() / 4));
    (extent, partial)
}

/// Sums over height and width: [N, H, W, C] to C channels of [N, 1, 1, ..].
pub fn sum_per_image(r: &mut Recorder, x: Tensor, y: Slice) {
    assert_eq!([y.tensor.rows(), y.channels], [x.n(), x.channels()], "a row for each image");
    let (extent, partial) = sum_chunks(r, x, x.n(), x.height() * x.width(), x.channels());
    let extent = Extent { stride: y.tensor.channels4(), first: y.first / 4, ..extent };
    record(
        r,
        "partials",
        &extent,
        &[partial, y.tensor],
        Grid::Invocations(partial.elements() / 4 / extent.chunks as u64),
    );
}

/// Sums the `rows` equal rows that x is in memory into `y`: together with other sums, at [`sum_waiting`] at the latest.
pub fn sum_rows(r: &mut Recorder, x: Tensor, rows: u32, y: Tensor) {
    let (extent, partial) = sum_chunks(r, x, 1, rows, y.elements() as u32);
    sum_later(r, partial, extent.chunks, y);
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

/// Sums `count` equal parts, which `parts` holds one after the other, into `total`: together with other sums, at
/// [`sum_waiting`] at the latest.
pub fn sum_later(r: &mut Recorder, parts: Tensor, count: u32, total: Tensor) {
    assert_eq!(parts.elements(), total.elements() * count as u64);
    let stride = (total.elements() / 4) as u32;
    sum_all_later(r, &[PartialSums { parts, first: 0, stride, count, total }]);
}

/// The same of several sums, which may be of the same parts.
pub fn sum_all_later(r: &mut Recorder, sums: &[PartialSums]) {
    r.waiting().extend(sums);
    let waiting: u64 = distinct_parts(r.waiting()).iter().map(|parts| 4 * parts.elements()).sum();
    if waiting >= most_waiting(r) {
        sum_waiting(r);
    }
}

/// Bytes of parts that may wait: a device with more lanes makes more of them.
fn most_waiting(r: &Recorder) -> u64 {
    r.device_lanes() as u64 * 1024
}

/// Elements of a binding of totals: 64 MiB.
const MOST_TOTALS: u64 = 1 << 24;

/// Records the sums that wait, as few dispatches as there are buffers of totals.
pub fn sum_waiting(r: &mut Recorder) {
    let mut waiting = std::mem::take(r.waiting());
    if waiting.is_empty() {
        return;
    }
    waiting.sort_by_key(|sums| buffer_of(r, sums.total));
    let joined = Joined::new(r, distinct_parts(&waiting));
    let mut rest = &waiting[..];
    while let Some(first) = rest.first() {
        let (buffer, start) = buffer_of(r, first.total);
        let fits = |sums: &PartialSums| {
            let (own, offset) = buffer_of(r, sums.total);
            own == buffer && offset + sums.total.elements() <= start + MOST_TOTALS.max(first.total.elements())
        };
        let count = rest.iter().take_while(|sums| fits(sums)).count();
        let (together, others) = rest.split_at(count);
        record_sums(r, &joined, together, start);
        rest = others;
    }
}

/// What tells the buffer of a tensor from others, and its first element there.
fn buffer_of(r: &Recorder, tensor: Tensor) -> ((bool, u64), u64) {
    match r.place(tensor) {
        Place::Buffer { buffer, offset } => ((true, buffer as u64), offset / 4),
        _ => ((false, tensor.id as u64), 0),
    }
}

fn distinct_parts(sums: &[PartialSums]) -> Vec<Tensor> {
    let mut parts: Vec<Tensor> = Vec::new();
    for sums in sums {
        if !parts.contains(&sums.parts) {
            parts.push(sums.parts);
        }
    }
    parts
}

/// Parts of sums in one tensor.
struct Joined {
    whole: Tensor,
    parts: Vec<Tensor>,
    /// The first element of each.
    firsts: Vec<u64>,
}

impl Joined {
    fn new(r: &mut Recorder, parts: Vec<Tensor>) -> Joined {
        let (whole, firsts) = r.join(&parts);
        Joined { whole, parts, firsts }
    }

    /// The quadruple at which the parts of some sums begin.
    fn start_of(&self, sums: &PartialSums) -> u32 {
        let at = self.parts.iter().position(|parts| *parts == sums.parts).expect("each has its parts among them");
        (self.firsts[at] / 4) as u32 + sums.first
    }
}

/// Quadruples of sums that a workgroup makes, all of one total.
const RUN: u32 = 64;
/// Numbers of a run in the table: where its parts begin, their stride and count, where its totals begin, how many, and padding.
const RUN_COLUMNS: usize = 8;

/// One dispatch for sums into one buffer, in which `start` is the first element of the first total.
fn record_sums(r: &mut Recorder, joined: &Joined, sums: &[PartialSums], start: u64) {
    let mut runs = Vec::new();
    let mut end = start;
    for own in sums {
        let (_, offset) = buffer_of(r, own.total);
        let (from, to) = (joined.start_of(own), ((offset - start) / 4) as u32);
        let quads = (own.total.elements() / 4) as u32;
        for done in (0..quads).step_by(RUN as usize) {
            let run: [u32; RUN_COLUMNS] =
                [from + done, own.stride, own.count, to + done, (quads - done).min(RUN), 0, 0, 0];
            runs.extend(run.map(|number| number as f32));
        }
        end = end.max(offset + own.total.elements());
    }
    let totals = match r.place(sums[0].total) {
        Place::Buffer { .. } => r.beside(sums[0].total, start, [1, 1, 1, (end - start) as u32]),
        _ => sums[0].total,
    };
    let count = (runs.len() / RUN_COLUMNS) as u32;
    let runs = r.constant(&table_name(&runs), [count, 1, 1, 8], &runs);
    let extent = Extent::list(count, 0);
    record(r, "many", &extent, &[joined.whole, runs, totals], Grid::Workgroups(count as u64));
}

/// The elements of a named buffer that a dispatch of sums writes, from the first of its totals on; none of any other dispatch.
pub fn written(recording: &Recording, dispatch: &Dispatch) -> Option<Vec<Range<u64>>> {
    if !std::ptr::eq(dispatch.kernel, &KERNEL) || dispatch.entry != "many" {
        return None;
    }
    let table = recording.tensors[dispatch.io[1] as usize].place;
    let Place::Buffer { buffer, .. } = table else { return None };
    let quads = |words: &[u32], column: usize| f32::from_bits(words[column]) as u64;
    let run = |words: &[u32]| 4 * quads(words, 3)..4 * (quads(words, 3) + quads(words, 4));
    Some(recording.buffers[buffer].contents.chunks_exact(RUN_COLUMNS).map(run).collect())
}

/// Tables of the same contents have the same name.
fn table_name(table: &[f32]) -> String {
    let mut hasher = DefaultHasher::new();
    table.iter().for_each(|number| number.to_bits().hash(&mut hasher));
    format!("runs {:016x}", hasher.finish())
}

/// Sums all elements of `parts`, [1, 1, 1, P], into the first of `total`, [1, 1, 1, 1].
pub fn total(r: &mut Recorder, parts: Tensor, total: Tensor) {
    assert_eq!(total.elements(), 4);
    let extent = Extent::list(1, (parts.elements() / 4) as u32);
    record(r, "total", &extent, &[parts, total], Grid::Workgroups(1));
}

/// A workgroup takes 64 quadruples of sums, `total` 256 of its list at a time; rows are summed in chunks, whose number is
/// about that of the rows in one; a run is 64 quadruples of one total.
pub const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1], 1)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [4, 8, 8, 32], 1024)),
    Corner::full("full workgroups of sums", |draw| case_of(draw, [5, 1, 2, 256], 3)),
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

/// Of rows, and of a list of `count` numbers.
fn case_of(draw: &mut Draw, shape: [u32; 4], count: u32) {
    let x = draw.input("x", shape);
    let list = draw.input("list", [1, 1, 1, count]);
    let r = &mut draw.recorder;
    // Two slices of each image's row: nothing lies beside them.
    let padded = shape[3].next_multiple_of(4);
    let rows = r.temp([shape[0], 1, 1, padded + shape[3]]);
    for first in [padded, 0] {
        sum_per_image(r, x, Slice { tensor: rows, first, channels: shape[3] });
    }
    // Three totals in two dispatches: two that share a buffer with nothing between them or something, and one in a temporary.
    let image = (x.elements() / x.n() as u64) as u32;
    let second = (image as u64).next_multiple_of(64);
    let first = r.range("totals", 2 * second, 0, [1, 1, 1, image]);
    let second = r.range("totals", 2 * second, second, [1, 1, 1, shape[3]]);
    let alone = r.temp([1, 1, 1, shape[3]]);
    sum_rows(r, x, x.n(), first);
    sum_rows(r, x, x.rows(), second);
    sum_rows(r, x, x.rows(), alone);
    sum_waiting(r);
    let y = r.temp([1, 1, 1, 1]);
    total(r, list, y);
}
