//! Group norm with optional modulation and SiLU: `shaders/group_norm.wgsl`.

use super::case::{Corner, Draw};
use super::{add, concat, reduce};
use crate::cpu::group_norm as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::recorder::PartialSums;
use crate::gpu::{Grid, Kernel, Recorder, Slice, Tensor, Value};

pub static KERNEL: Kernel = Kernel::new(
    "group_norm",
    &[wgsl!("group_norm.wgsl"), wgsl!("group_norm.whole.wgsl")],
    &[
        ("chunk_moments", twin::chunk_moments),
        ("affine", twin::affine),
        ("affine_modulated", twin::affine_modulated),
        ("apply", twin::apply),
        ("backward_sums", twin::backward_sums),
        ("backward_totals", twin::backward_totals),
        ("backward_data", twin::backward_data),
        ("backward_modulation", twin::backward_modulation),
        ("forward", twin::forward),
        ("forward_modulated", twin::forward_modulated),
        ("forward_joined", twin::forward_joined),
        ("backward", twin::backward),
        ("backward_modulated", twin::backward_modulated),
        ("backward_with_sums", twin::backward_with_sums),
        ("backward_joined", twin::backward_joined),
    ],
);

/// Rows that one lane takes where an image is large: long enough to load the table's quads once, short enough to fill a device.
const CHUNK: u32 = 32;
/// Quads of a row that a workgroup takes at the least, if there are as many: 64 bytes in single precision.
const NARROWEST_RUN: u32 = 4;
/// Quads that a workgroup takes at the most, 256 KiB in single precision: beyond, several fill a device better.
const LARGEST_SHARE: u32 = 16_384;

/// What a norm does besides normalising.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub groups: u32,
    pub eps: f32,
    pub silu: bool,
}

/// What backward needs of forward.
pub struct Saved {
    extent: Extent,
    table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    modulated: bool,
    /// Channels of the first of two parts, where x is them joined.
    first: u32,
}

#[derive(Clone, Copy)]
struct Extent {
    x: Tensor,
    norm: Norm,
    /// Quads of a row that a workgroup takes; none where lanes take chunks of rows.
    span: Option<u32>,
    /// Of the rows of the modulation, or of the sums of dx: quadruples between them, and the first one in each.
    modulation: [u32; 2],
}

/// The fewest quads of a row that hold whole groups and are not too few, where a workgroup shall take all their rows: on a GPU,
/// for which a dispatch costs more than its lanes wait for each other.
fn span_on(r: &Recorder, shape: [u32; 4], norm: Norm) -> Option<u32> {
    if r.is_gpu() { span(shape, norm) } else { None }
}

/// The same where workgroups can take whole groups at all.
fn span([_, h, w, channels]: [u32; 4], norm: Norm) -> Option<u32> {
    let group = channels / norm.groups;
    let quads = group / [4, 1, 2, 1][group as usize % 4];
    let span = (quads * NARROWEST_RUN.div_ceil(quads)).min(channels.div_ceil(4));
    let widest = KERNEL.constant("MOST_QUADS", &[]);
    let share = h as u64 * w as u64 * span as u64;
    (span <= widest && share <= LARGEST_SHARE as u64).then_some(span)
}

/// Whether workgroups read x in two parts, the first of `first` channels: quads may not straddle them.
fn reads_parts(span: Option<u32>, first: u32) -> bool {
    span.is_some() && first.is_multiple_of(4)
}

impl Extent {
    fn new(x: Tensor, norm: Norm, span: Option<u32>) -> Extent {
        assert!(x.channels().is_multiple_of(norm.groups), "{} channels in {} groups", x.channels(), norm.groups);
        Extent { x, norm, span, modulation: [0, 0] }
    }

    /// Of a part of the row that each image has: a scale and a shift of each channel.
    fn modulated(self, slice: Slice) -> Extent {
        assert_eq!(slice.channels, 8 * self.x.channels4(), "a modulation is a scale and a shift of each channel");
        self.with_rows(slice)
    }

    fn with_rows(self, slice: Slice) -> Extent {
        assert_eq!(slice.tensor.rows(), self.x.n(), "a row for each image");
        Extent { modulation: [slice.tensor.channels4(), slice.first / 4], ..self }
    }

    fn rows(&self) -> u32 {
        self.x.height() * self.x.width()
    }

    fn chunks(&self) -> u32 {
        self.rows().div_ceil(CHUNK)
    }

    /// Of x in two parts, the first of `first` channels, and with so many addends.
    fn params(&self, first: u32, added: usize) -> [(&'static str, Value); 14] {
        [
            ("images", self.x.n().into()),
            ("rows", self.rows().into()),
            ("c4", self.x.channels4().into()),
            ("channels", self.x.channels().into()),
            ("group_channels", (self.x.channels() / self.norm.groups).into()),
            ("chunk", CHUNK.into()),
            ("chunks", self.chunks().into()),
            ("span", self.span.unwrap_or(0).into()),
            ("x4", (first / 4).into()),
            ("silu", self.norm.silu.into()),
            ("added", (added as u32).into()),
            ("eps", self.norm.eps.into()),
            ("modulation_stride4", self.modulation[0].into()),
            ("modulation_first4", self.modulation[1].into()),
        ]
    }

    /// One dispatch; `per_value` operations on each value of x.
    fn record(&self, r: &mut Recorder, entry: &'static str, io: &[Tensor], lanes: u32, per_value: u64) {
        let flops = per_value * self.x.count();
        r.dispatch(&KERNEL, entry, &self.params(0, 0), io, Grid::Invocations(lanes as u64), flops);
    }

    /// One dispatch whose workgroups take `span` quads of all rows.
    fn record_whole(&self, r: &mut Recorder, entry: &'static str, first: u32, added: usize, io: &[Tensor], flops: u64) {
        let span = self.span.expect("asked before");
        let groups = self.x.n() as u64 * self.x.channels4().div_ceil(span) as u64;
        let flops = flops * self.x.count();
        r.dispatch(&KERNEL, entry, &self.params(first, added), io, Grid::Workgroups(groups), flops);
    }

    fn chunk_lanes(&self) -> u32 {
        self.x.n() * self.chunks() * self.x.channels4()
    }

    fn chunk_table(&self, r: &mut Recorder) -> Tensor {
        r.temp([self.x.n(), self.chunks(), 2, self.x.channels()])
    }

    fn table(&self, r: &mut Recorder) -> Tensor {
        r.temp([self.x.n(), 1, 5, self.x.channels()])
    }

    fn weight_sums(&self, r: &mut Recorder) -> Tensor {
        r.temp([2, self.x.n(), 1, self.x.channels()])
    }

    /// Sums up the gradients of gamma and beta that each image has: at [`reduce::sum_waiting`] at the latest.
    fn sum_weights(&self, r: &mut Recorder, parts: Tensor, dgamma: Tensor, dbeta: Tensor) {
        let (count, stride) = (self.x.n(), self.x.channels4());
        let sums = |first: u32, total: Tensor| PartialSums { parts, first, stride, count, total };
        reduce::sum_all_later(r, &[sums(0, dgamma), sums(count * stride, dbeta)]);
    }

    /// Operations on a value in `apply`.
    fn forward_work(&self) -> u64 {
        if self.norm.silu { 7 } else { 3 }
    }

    /// Operations on a value for sums in the backward pass; for dx there are three more.
    fn backward_work(&self) -> u64 {
        if self.norm.silu { 13 } else { 6 }
    }

    /// The table, and y.
    fn forward(&self, r: &mut Recorder, gamma: Tensor, beta: Tensor, modulation: Option<Tensor>) -> (Tensor, Tensor) {
        if self.span.is_none() {
            return self.forward_chunks(r, gamma, beta, modulation);
        }
        let (table, y) = (self.table(r), r.temp(self.x.shape));
        let work = 4 + self.forward_work();
        match modulation {
            None => self.record_whole(r, "forward", 0, 0, &[self.x, gamma, beta, table, y], work),
            Some(modulation) => {
                let io = [self.x, gamma, beta, table, modulation, y];
                self.record_whole(r, "forward_modulated", 0, 0, &io, work);
            }
        }
        (table, y)
    }

    fn forward_chunks(
        &self,
        r: &mut Recorder,
        gamma: Tensor,
        beta: Tensor,
        modulation: Option<Tensor>,
    ) -> (Tensor, Tensor) {
        let groups = self.x.n() * self.norm.groups;
        let moments = self.chunk_table(r);
        self.record(r, "chunk_moments", &[self.x, moments], self.chunk_lanes(), 4);
        let table = self.table(r);
        match modulation {
            None => self.record(r, "affine", &[moments, gamma, beta, table], groups, 0),
            Some(modulation) => {
                self.record(r, "affine_modulated", &[moments, gamma, beta, table, modulation], groups, 0);
            }
        }
        (table, self.apply(r, table))
    }

    /// y by a table.
    fn apply(&self, r: &mut Recorder, table: Tensor) -> Tensor {
        let y = r.temp(self.x.shape);
        self.record(r, "apply", &[self.x, table, y], self.chunk_lanes(), self.forward_work());
        y
    }
}

/// y = act((x - mean) rstd gamma + beta), with `modulation` act(u (1 + scale) + shift). x: [N, H, W, C]; gamma, beta:
/// [1, 1, 1, C]; modulation: of each image's row the scales of all channels, then the shifts. The groups must divide C.
pub fn forward(
    r: &mut Recorder,
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    modulation: Option<Slice>,
    norm: Norm,
) -> (Tensor, Saved) {
    let span = span_on(r, x.shape, norm);
    forward_of(r, Extent::new(x, norm, span), gamma, beta, modulation)
}

fn forward_of(
    r: &mut Recorder,
    extent: Extent,
    gamma: Tensor,
    beta: Tensor,
    modulation: Option<Slice>,
) -> (Tensor, Saved) {
    let own = modulation.map_or(extent, |slice| extent.modulated(slice));
    let (table, y) = own.forward(r, gamma, beta, modulation.map(|slice| slice.tensor));
    (y, Saved { extent, table, gamma, beta, modulated: modulation.is_some(), first: 0 })
}

/// As [`forward`] of x and skip, joined: [N, H, W, A] and [N, H, W, B] to [N, H, W, A + B]. Gives (joined, y, saved), what is
/// saved for [`backward_joined`].
pub fn forward_joined(
    r: &mut Recorder,
    parts: [Tensor; 2],
    gamma: Tensor,
    beta: Tensor,
    norm: Norm,
) -> (Tensor, Tensor, Saved) {
    let span = span_on(r, joined_shape(parts), norm);
    joined_of(r, parts, span, gamma, beta, norm)
}

fn joined_shape([x, skip]: [Tensor; 2]) -> [u32; 4] {
    let [n, h, w, channels] = x.shape;
    [n, h, w, channels + skip.channels()]
}

fn joined_of(
    r: &mut Recorder,
    [x, skip]: [Tensor; 2],
    span: Option<u32>,
    gamma: Tensor,
    beta: Tensor,
    norm: Norm,
) -> (Tensor, Tensor, Saved) {
    let first = x.channels();
    if !reads_parts(span, first) {
        let joined = concat::concat(r, x, skip);
        let (y, saved) = forward_of(r, Extent::new(joined, norm, span), gamma, beta, None);
        return (joined, y, Saved { first, ..saved });
    }
    let joined = r.temp(joined_shape([x, skip]));
    let extent = Extent::new(joined, norm, span);
    let (table, y) = (extent.table(r), r.temp(joined.shape));
    let io = [x, gamma, beta, table, y, skip, joined];
    extent.record_whole(r, "forward_joined", first, 0, &io, 4 + extent.forward_work());
    (joined, y, Saved { extent, table, gamma, beta, modulated: false, first })
}

/// y of `forward` once more, so that it need not be kept until the backward pass.
pub fn again(r: &mut Recorder, saved: &Saved) -> Tensor {
    saved.extent.apply(r, saved.table)
}

/// The gradient of x, to which what comes `around` the norm is added: two tensors at the most, none with modulation. That of the
/// modulation goes to `dmodulation`, if there was one; those of gamma and beta go to `dgamma` and `dbeta`, at
/// [`reduce::sum_waiting`] at the latest.
pub fn backward(
    r: &mut Recorder,
    saved: Saved,
    dy: Tensor,
    around: &[Tensor],
    dgamma: Tensor,
    dbeta: Tensor,
    dmodulation: Option<Slice>,
) -> Tensor {
    let x = saved.extent.x;
    assert!(around.len() <= if saved.modulated { 0 } else { 2 }, "{} addends", around.len());
    assert!(around.iter().all(|addend| addend.shape == x.shape) && dy.shape == x.shape);
    let dx = r.temp(x.shape);
    assert_eq!(dmodulation.is_some(), saved.modulated, "a modulation has a gradient");
    let sums = match (saved.extent.span, dmodulation) {
        (None, _) => saved.backward_chunks(r, dy, dx, around, dmodulation),
        (Some(_), None) => saved.backward_whole(r, "backward", [dy, dx], around.len(), &bound(around, x)),
        (Some(_), Some(dmodulation)) => {
            let own = Saved { extent: saved.extent.modulated(dmodulation), ..saved };
            own.backward_whole(r, "backward_modulated", [dy, dx], 0, &[own.gamma, own.beta, dmodulation.tensor])
        }
    };
    saved.extent.sum_weights(r, sums, dgamma, dbeta);
    dx
}

/// As [`backward`] without modulation and addends; the sums of dx over height and width go to `dx_sums`, a row for each image.
pub fn backward_with_sums(
    r: &mut Recorder,
    saved: Saved,
    dy: Tensor,
    dgamma: Tensor,
    dbeta: Tensor,
    dx_sums: Slice,
) -> Tensor {
    let x = saved.extent.x;
    if saved.extent.span.is_none() {
        let dx = backward(r, saved, dy, &[], dgamma, dbeta, None);
        reduce::sum_per_image(r, dx, dx_sums);
        return dx;
    }
    assert!(dy.shape == x.shape && dx_sums.channels == x.channels() && !saved.modulated);
    let dx = r.temp(x.shape);
    let own = Saved { extent: saved.extent.with_rows(dx_sums), ..saved };
    let sums = own.backward_whole(r, "backward_with_sums", [dy, dx], 0, &[dx_sums.tensor]);
    own.extent.sum_weights(r, sums, dgamma, dbeta);
    dx
}

/// As [`backward`] behind [`forward_joined`]: the gradients of x and skip, to which those of `around` are added, which are joined.
pub fn backward_joined(
    r: &mut Recorder,
    saved: Saved,
    dy: Tensor,
    around: Tensor,
    dgamma: Tensor,
    dbeta: Tensor,
) -> [Tensor; 2] {
    let (extent, first) = (saved.extent, saved.first);
    if !reads_parts(extent.span, first) {
        let dx = backward(r, saved, dy, &[around], dgamma, dbeta, None);
        return concat::concat_backward(r, dx, first);
    }
    let [n, h, w, channels] = extent.x.shape;
    assert!(dy.shape == extent.x.shape && around.shape == dy.shape);
    let (dx, dskip) = (r.temp([n, h, w, first]), r.temp([n, h, w, channels - first]));
    let sums = saved.backward_whole(r, "backward_joined", [dy, dx], 1, &[around, dskip]);
    extent.sum_weights(r, sums, dgamma, dbeta);
    [dx, dskip]
}

/// Two tensors to bind as addends: where there is none, something must be bound in its place.
fn bound(around: &[Tensor], x: Tensor) -> [Tensor; 2] {
    [0, 1].map(|index| around.get(index).copied().unwrap_or(x))
}

impl Saved {
    /// One dispatch that writes dx and, beside what it binds besides, each image's part of the gradients of gamma and beta.
    fn backward_whole(
        &self,
        r: &mut Recorder,
        entry: &'static str,
        [dy, dx]: [Tensor; 2],
        added: usize,
        more: &[Tensor],
    ) -> Tensor {
        let sums = self.extent.weight_sums(r);
        let io = [&[self.extent.x, self.table, dy, sums, dx][..], more].concat();
        self.extent.record_whole(r, entry, self.first, added, &io, 2 * self.extent.backward_work() + 3);
        sums
    }

    /// The same in dispatches over chunks of rows.
    fn backward_chunks(
        &self,
        r: &mut Recorder,
        dy: Tensor,
        dx: Tensor,
        around: &[Tensor],
        dmodulation: Option<Slice>,
    ) -> Tensor {
        let Saved { extent, table, gamma, beta, .. } = *self;
        let (x, work) = (extent.x, extent.backward_work());
        let sums = extent.chunk_table(r);
        extent.record(r, "backward_sums", &[x, table, dy, sums], extent.chunk_lanes(), work);
        let (totals, weight_sums) = (r.temp([x.n(), 1, 4, x.channels()]), extent.weight_sums(r));
        let io = [sums, table, totals, weight_sums];
        extent.record(r, "backward_totals", &io, x.n() * extent.norm.groups, 0);
        let [addend, second] = bound(around, x);
        let io = [x, table, dy, totals, dx, addend, second];
        let (lanes, params) = (extent.chunk_lanes(), extent.params(0, around.len()));
        r.dispatch(&KERNEL, "backward_data", &params, &io, Grid::Invocations(lanes as u64), (work + 3) * x.count());
        if let Some(dmodulation) = dmodulation {
            let io = [totals, gamma, beta, dmodulation.tensor];
            extent.modulated(dmodulation).record(r, "backward_modulation", &io, x.n() * x.channels4(), 0);
        }
        weight_sums
    }
}

/// A workgroup takes a run of quadruples of channels that holds whole groups, at least four if there are as many, a lane of its 256
/// every so many rows of a quadruple, which four at a time join. Of large images a lane takes 32 rows of a quadruple, a workgroup
/// 64 lanes; of statistics a lane takes a group.
pub const CORNERS: &[Corner] = &[
    // A norm of one element is 0, and its gradient rounding alone: of two it is not.
    Corner::new("one group of two elements", |draw| case_of(draw, [1, 1, 2], [1, 1], 0.5, false)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [2, 3, 11], [64, 8], 0.5, true)),
    Corner::new("the same without modulation", |draw| case_of(draw, [1, 1, 3], [64, 8], 0.5, false)),
    Corner::new("chunks of rows, all full", |draw| case_of(draw, [2, 8, 8], [3, 2], 0.0, true)),
    Corner::new("a chunk of one row", |draw| case_of(draw, [2, 3, 11], [2, 3], 0.5, false)),
    Corner::new("groups across quadruples", |draw| case_of(draw, [3, 5, 7], [5, 3], 0.5, true)),
    Corner::new("the last workgroup not full", |draw| case_of(draw, [3, 3, 3], [43, 4], 0.0, false)),
    // Where the last place of x is a tenth of the tolerance: not of many values.
    Corner::new("a mean far from 0", |draw| case_of(draw, [2, 4, 5], [2, 5], 20.0, true)),
    Corner::new("a turn of each lane, all full", |draw| case_of(draw, [2, 8, 16], [8, 4], 0.5, false)),
    Corner::new("lanes that the run leaves over", |draw| case_of(draw, [2, 7, 13], [5, 12], 0.5, true)),
    Corner::new("the last run of one quadruple", |draw| case_of(draw, [2, 9, 9], [5, 4], 0.5, false)),
    Corner::new("the widest run", |draw| case_of(draw, [2, 3, 3], [1, 256], 0.5, true)),
];

pub fn case(draw: &mut Draw) {
    let images = [draw.range(1, 3), draw.range(1, 9), draw.range(2, 9)];
    let groups = [draw.range(1, 5), draw.range(1, 5)];
    let (offset, modulated) = (draw.choose(&[0.0, 0.5, 20.0]), draw.flip());
    case_of(draw, images, groups, offset, modulated);
}

/// Of so many groups of so many channels each, about a mean of `offset`: in chunks, and as whole groups.
fn case_of(draw: &mut Draw, [n, h, w]: [u32; 3], [groups, size]: [u32; 2], offset: f64, modulated: bool) {
    let channels = groups * size;
    let norm = Norm { groups, eps: draw.choose(&[1e-5, 1e-3]), silu: draw.flip() };
    let x = draw.input_by("x", [n, h, w, channels], |draw| draw.normal() + offset);
    let [gamma, beta] = ["gamma", "beta"].map(|name| draw.input(name, [1, 1, 1, channels]));
    let modulation = modulated.then(|| draw.slice("modulation", n, 2 * channels.next_multiple_of(4)));
    let [dy, around, other] = ["dy", "around", "skip's gradient"].map(|name| draw.input(name, x.shape));
    let whole = Extent::new(x, norm, span(x.shape, norm));
    for extent in [Extent { span: None, ..whole }, whole] {
        differentiated(draw, Inputs { extent, gamma, beta, modulation, dy });
        let inputs = Inputs { extent, gamma, beta, modulation: None, dy };
        inputs.with_addends(&mut draw.recorder, &[around]);
        inputs.with_addends(&mut draw.recorder, &[around, other]);
    }
    let inputs = Inputs { extent: whole, gamma, beta, modulation: None, dy };
    // Of one channel the sums are 0, and what is found rounding alone.
    if size > 1 {
        let sums = draw.slice("sums", n, channels);
        inputs.with_sums(&mut draw.recorder, sums);
    }
    // The first part ends with a quadruple, and where it can amid a group.
    if channels > 4 {
        let first = channels.div_ceil(8) * 4 - if channels > 8 { 4 } else { 0 };
        let parts = [("first part", first), ("second part", channels - first)];
        let parts = parts.map(|(name, c)| draw.input_by(name, [n, h, w, c], |draw| draw.normal() + offset));
        inputs.in_parts(&mut draw.recorder, parts, around);
    }
}

struct Inputs {
    extent: Extent,
    gamma: Tensor,
    beta: Tensor,
    modulation: Option<Slice>,
    dy: Tensor,
}

/// A slice to write, of a tensor that is zero where it isn't written.
fn zeros(r: &mut Recorder, like: Slice) -> Slice {
    Slice { tensor: add::scale(r, like.tensor, 0.0), ..like }
}

fn differentiated(draw: &mut Draw, inputs: Inputs) {
    let Inputs { extent, gamma, beta, modulation, dy } = inputs;
    let r = &mut draw.recorder;
    let (y, saved) = inputs.forward(r);
    again(r, &saved);
    let [dgamma, dbeta] = inputs.gradients(r);
    let dmodulation = modulation.map(|modulation| zeros(r, modulation));
    let dx = backward(r, saved, dy, &[], dgamma, dbeta, dmodulation);
    reduce::sum_waiting(r);
    draw.gradient(extent.x, y, dy, dx);
    draw.gradient(gamma, y, dy, dgamma);
    draw.gradient(beta, y, dy, dbeta);
    if let (Some(modulation), Some(dmodulation)) = (modulation, dmodulation) {
        draw.gradient(modulation.tensor, y, dy, dmodulation.tensor);
    }
}

impl Inputs {
    fn forward(&self, r: &mut Recorder) -> (Tensor, Saved) {
        forward_of(r, self.extent, self.gamma, self.beta, self.modulation)
    }

    /// Where the gradients of gamma and beta go.
    fn gradients(&self, r: &mut Recorder) -> [Tensor; 2] {
        [self.gamma, self.beta].map(|weight| r.temp(weight.shape))
    }

    /// With what comes around the norm, which is no part of its derivative.
    fn with_addends(&self, r: &mut Recorder, around: &[Tensor]) {
        let (_, saved) = self.forward(r);
        let [dgamma, dbeta] = self.gradients(r);
        backward(r, saved, self.dy, around, dgamma, dbeta, None);
        reduce::sum_waiting(r);
    }

    fn with_sums(&self, r: &mut Recorder, like: Slice) {
        let (_, saved) = self.forward(r);
        let [dgamma, dbeta] = self.gradients(r);
        let sums = zeros(r, like);
        backward_with_sums(r, saved, self.dy, dgamma, dbeta, sums);
        reduce::sum_waiting(r);
    }

    fn in_parts(&self, r: &mut Recorder, parts: [Tensor; 2], around: Tensor) {
        let Extent { norm, span, .. } = self.extent;
        let (_, _, saved) = joined_of(r, parts, span, self.gamma, self.beta, norm);
        let [dgamma, dbeta] = self.gradients(r);
        backward_joined(r, saved, self.dy, around, dgamma, dbeta);
        reduce::sum_waiting(r);
    }
}
