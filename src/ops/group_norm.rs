//! Group norm with optional modulation and SiLU: `shaders/group_norm.wgsl`.

use super::add::scale;
use super::case::{Corner, Draw};
use crate::cpu::group_norm as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Slice, Tensor, Value};

pub static KERNEL: Kernel = Kernel::new(
    "group_norm",
    &[wgsl!("group_norm.wgsl")],
    &[
        ("chunk_moments", twin::chunk_moments),
        ("affine", twin::affine),
        ("affine_modulated", twin::affine_modulated),
        ("apply", twin::apply),
        ("backward_sums", twin::backward_sums),
        ("backward_totals", twin::backward_totals),
        ("backward_data", twin::backward_data),
        ("backward_weight", twin::backward_weight),
        ("backward_weight_modulated", twin::backward_weight_modulated),
        ("backward_modulation", twin::backward_modulation),
    ],
);

/// Rows that one lane takes: long enough to load the table's four quads once, short enough to fill a device.
const CHUNK: u32 = 32;

/// What a norm does besides normalising.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub groups: u32,
    pub eps: f32,
    pub silu: bool,
}

/// What backward needs of forward.
pub struct Saved {
    norm: Norm,
    x: Tensor,
    table: Tensor,
    gamma: Tensor,
    beta: Tensor,
    modulation: Option<Slice>,
}

struct Extent {
    x: Tensor,
    norm: Norm,
    /// Of the rows of the modulation: quadruples between them, and the first one in each.
    modulation: [u32; 2],
}

impl Extent {
    fn rows(&self) -> u32 {
        self.x.height() * self.x.width()
    }

    fn chunks(&self) -> u32 {
        self.rows().div_ceil(CHUNK)
    }

    fn new(x: Tensor, norm: Norm, modulation: Option<Slice>) -> Extent {
        let fits = |slice: Slice| slice.tensor.rows() == x.n() && slice.channels == 8 * x.channels4();
        assert!(modulation.is_none_or(fits), "a modulation is a scale and a shift of each channel, for each image");
        let modulation = modulation.map_or([0, 0], |slice| [slice.tensor.channels4(), slice.first / 4]);
        Extent { x, norm, modulation }
    }

    fn params(&self, added: bool) -> [(&'static str, Value); 12] {
        [
            ("images", self.x.n().into()),
            ("rows", self.rows().into()),
            ("c4", self.x.channels4().into()),
            ("channels", self.x.channels().into()),
            ("group_channels", (self.x.channels() / self.norm.groups).into()),
            ("chunk", CHUNK.into()),
            ("chunks", self.chunks().into()),
            ("silu", self.norm.silu.into()),
            ("added", added.into()),
            ("eps", self.norm.eps.into()),
            ("modulation_stride4", self.modulation[0].into()),
            ("modulation_first4", self.modulation[1].into()),
        ]
    }

    /// One dispatch; `per_value` operations on each value of x.
    fn record(&self, r: &mut Recorder, entry: &'static str, io: &[Tensor], lanes: u32, per_value: u64) {
        self.record_added(r, entry, io, lanes, per_value, false);
    }

    fn record_added(
        &self,
        r: &mut Recorder,
        entry: &'static str,
        io: &[Tensor],
        lanes: u32,
        per_value: u64,
        added: bool,
    ) {
        let flops = per_value * self.x.count();
        r.dispatch(&KERNEL, entry, &self.params(added), io, Grid::Invocations(lanes as u64), flops);
    }

    fn chunk_lanes(&self) -> u32 {
        self.x.n() * self.chunks() * self.x.channels4()
    }

    fn chunk_table(&self, r: &mut Recorder) -> Tensor {
        r.temp([self.x.n(), self.chunks(), 2, self.x.channels()])
    }

    fn table(&self, r: &mut Recorder) -> Tensor {
        r.temp([self.x.n(), 1, 4, self.x.channels()])
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
    assert!(x.channels().is_multiple_of(norm.groups), "{} channels in {} groups", x.channels(), norm.groups);
    let extent = Extent::new(x, norm, modulation);
    let groups = x.n() * norm.groups;
    let moments = extent.chunk_table(r);
    extent.record(r, "chunk_moments", &[x, moments], extent.chunk_lanes(), 4);
    let table = extent.table(r);
    match modulation {
        None => extent.record(r, "affine", &[moments, gamma, beta, table], groups, 0),
        Some(modulation) => {
            extent.record(r, "affine_modulated", &[moments, gamma, beta, table, modulation.tensor], groups, 0);
        }
    }
    let y = r.temp(x.shape);
    extent.record(r, "apply", &[x, table, y], extent.chunk_lanes(), if norm.silu { 7 } else { 3 });
    (y, Saved { norm, x, table, gamma, beta, modulation })
}

/// y of `forward` once more, so that it need not be kept until the backward pass.
pub fn again(r: &mut Recorder, saved: &Saved) -> Tensor {
    let Saved { norm, x, table, .. } = *saved;
    let extent = Extent::new(x, norm, None);
    let y = r.temp(x.shape);
    extent.record(r, "apply", &[x, table, y], extent.chunk_lanes(), if norm.silu { 7 } else { 3 });
    y
}

/// The gradient with respect to x, plus `addend` (what comes around the norm); those of gamma, beta and the modulation, if there
/// was one, are written to `dgamma`, `dbeta` and `dmodulation`.
pub fn backward(
    r: &mut Recorder,
    saved: Saved,
    dy: Tensor,
    addend: Option<Tensor>,
    dgamma: Tensor,
    dbeta: Tensor,
    dmodulation: Option<Slice>,
) -> Tensor {
    let Saved { norm, x, table, gamma, beta, modulation } = saved;
    assert_eq!(dy.shape, x.shape);
    let extent = Extent::new(x, norm, modulation);
    let work = if norm.silu { 13 } else { 6 };
    let sums = extent.chunk_table(r);
    extent.record(r, "backward_sums", &[x, table, dy, sums], extent.chunk_lanes(), work);
    let totals = extent.table(r);
    extent.record(r, "backward_totals", &[sums, table, totals], x.n() * norm.groups, 0);
    let dx = r.temp(x.shape);
    // Where there is no addend, something must be bound in its place.
    let io = [x, table, dy, totals, dx, addend.unwrap_or(x)];
    extent.record_added(r, "backward_data", &io, extent.chunk_lanes(), work + 3, addend.is_some());
    let (Some(modulation), Some(dmodulation)) = (modulation, dmodulation) else {
        extent.record(r, "backward_weight", &[totals, dgamma, dbeta], x.channels4(), 0);
        return dx;
    };
    extent.record(r, "backward_weight_modulated", &[totals, dgamma, dbeta, modulation.tensor], x.channels4(), 0);
    let io = [totals, gamma, beta, dmodulation.tensor];
    let extent = Extent::new(x, norm, Some(dmodulation));
    extent.record(r, "backward_modulation", &io, x.n() * x.channels4(), 0);
    dx
}

/// A lane takes 32 rows of a quadruple, a workgroup 64 lanes; of statistics a lane takes a group.
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
];

pub fn case(draw: &mut Draw) {
    let images = [draw.range(1, 3), draw.range(1, 9), draw.range(2, 9)];
    let groups = [draw.range(1, 5), draw.range(1, 5)];
    let (offset, modulated) = (draw.choose(&[0.0, 0.5, 20.0]), draw.flip());
    case_of(draw, images, groups, offset, modulated);
}

/// Of so many groups of so many channels each, about a mean of `offset`.
fn case_of(draw: &mut Draw, [n, h, w]: [u32; 3], [groups, size]: [u32; 2], offset: f64, modulated: bool) {
    let c = groups * size;
    let shape = [n, h, w, c];
    let norm = Norm { groups, eps: draw.choose(&[1e-5, 1e-3]), silu: draw.flip() };
    let x = draw.input_by("x", shape, |draw| draw.normal() + offset);
    let (gamma, beta) = (draw.input("gamma", [1, 1, 1, c]), draw.input("beta", [1, 1, 1, c]));
    let modulation = modulated.then(|| draw.slice("modulation", n, 2 * c.next_multiple_of(4)));
    let dy = draw.input("dy", shape);
    let r = &mut draw.recorder;
    let (y, saved) = forward(r, x, gamma, beta, modulation, norm);
    let (dgamma, dbeta) = (r.temp(gamma.shape), r.temp(beta.shape));
    // Zero where another layer's modulation lies.
    let zeros = |r: &mut Recorder| modulation.map(|own| Slice { tensor: scale(r, own.tensor, 0.0), ..own });
    let dmodulation = zeros(r);
    let dx = backward(r, saved, dy, None, dgamma, dbeta, dmodulation);
    draw.gradient(x, y, dy, dx);
    // With what comes around the norm: a second time, since it is no part of the derivative.
    let around = draw.input("around", shape);
    let r = &mut draw.recorder;
    let (_, saved) = forward(r, x, gamma, beta, modulation, norm);
    let (dgamma2, dbeta2) = (r.temp(gamma.shape), r.temp(beta.shape));
    let again = zeros(r);
    backward(r, saved, dy, Some(around), dgamma2, dbeta2, again);
    draw.gradient(gamma, y, dy, dgamma);
    draw.gradient(beta, y, dy, dbeta);
    if let (Some(modulation), Some(dmodulation)) = (modulation, dmodulation) {
        draw.gradient(modulation.tensor, y, dy, dmodulation.tensor);
    }
}
