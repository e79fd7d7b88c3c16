//! The most that an adapter reaches, which `diffuse profile` measures kernels by: `shaders/ceiling.wgsl`.

use super::case::{Corner, Draw};
use crate::cpu::{Twin, ceiling as twin};
use crate::gpu::kernel::wgsl;
use crate::gpu::{Candidate, Grid, Kernel, Need, Recorder, Tensor, Ways};

pub static KERNEL: Kernel = Kernel::new(
    "ceiling",
    &[wgsl!("ceiling.wgsl")],
    &[
        ("copy_1", twin::copy_1),
        ("copy_8", twin::copy_8),
        ("multiply_2", twin::multiply_2),
        ("multiply_3", twin::multiply_3),
        ("multiply_8", twin::multiply_8),
    ],
);

/// A loop of multiplications and additions in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    pub entry: &'static str,
    /// vec4 that are independent of each other.
    pub sums: u32,
    /// Steps of each in a block.
    pub steps: u32,
}

const MATRIX_TWINS: &[(&str, Twin)] = &[("matrices", twin::matrices)];
static COOP8: Kernel = Kernel::variant(
    "ceiling",
    "coop8",
    &[Need::Subgroups, Need::Matrices8],
    &[wgsl!("ceiling.coop.wgsl"), wgsl!("lib.coop8.wgsl"), wgsl!("lib.coop.wgsl")],
    MATRIX_TWINS,
);
static COOP16: Kernel = Kernel::variant(
    "ceiling",
    "coop16",
    &[Need::Subgroups, Need::Matrices16],
    &[wgsl!("ceiling.coop.wgsl"), wgsl!("lib.coop16.wgsl"), wgsl!("lib.coop.wgsl")],
    MATRIX_TWINS,
);

/// Loops on matrix units, for each size of matrix and width of a subgroup.
pub static MATRICES: Ways = Ways {
    kernel: "ceiling",
    entry: "matrices",
    candidates: &[
        Candidate::new(&COOP8, &[("LANES", 8)]),
        Candidate::new(&COOP8, &[("LANES", 32)]),
        Candidate::new(&COOP16, &[("LANES", 32)]),
        Candidate::new(&COOP16, &[("LANES", 64)]),
    ],
    record: |_, _| {},
    trials: &[],
};

/// Runs a loop of `rounds` products on the matrix units in `workgroups` workgroups, with a and b in the first two numbers
/// of `factors`, a quad; what comes out goes to a tensor that is returned.
pub fn matrices(r: &mut Recorder, candidate: &Candidate, factors: Tensor, workgroups: u32, rounds: u32) -> Tensor {
    let side = if candidate.kernel.needs.contains(&Need::Matrices8) { 8u32 } else { 16 };
    let y = r.temp([1, 1, 1, workgroups * 4 * side * side]);
    let params = [("quads", ((y.elements() / 4) as u32).into()), ("rounds", rounds.into()), ("side", side.into())];
    let flops = 4 * 4 * 2 * (side as u64).pow(3) * rounds as u64 * workgroups as u64;
    let grid = Grid::Workgroups(workgroups as u64);
    r.dispatch_candidate(candidate, "matrices", &params, &[factors, y], grid, flops);
    y
}

/// Which one is fastest depends on the device.
pub const LOOPS: [Loop; 3] = [
    Loop { entry: "multiply_2", sums: 2, steps: 64 },
    Loop { entry: "multiply_3", sums: 3, steps: 128 },
    Loop { entry: "multiply_8", sums: 8, steps: 4 },
];

/// A quad of factors for each lane of the largest workgroup.
pub const FACTORS: [u32; 4] = [1, 1, 256, 4];

/// Entries that copy, with the quads that a workgroup of each takes. Which one is fastest depends on the device.
pub const COPIES: [(&str, u64); 2] = [("copy_1", 64), ("copy_8", 2048)];

/// y = x, of one shape, by one of [`COPIES`].
pub fn copy(r: &mut Recorder, (entry, group_quads): (&'static str, u64), x: Tensor, y: Tensor) {
    assert_eq!(x.shape, y.shape);
    let quads = y.elements() / 4;
    let params = [("quads", (quads as u32).into()), ("rounds", 0.into())];
    r.dispatch(&KERNEL, entry, &params, &[x, y], Grid::Workgroups(quads.div_ceil(group_quads)), 0);
}

/// Runs `rounds` blocks of a loop on every quad of x, with a and b in the first two channels of `factors`
/// ([`FACTORS`]); the sums go to y.
pub fn multiply(r: &mut Recorder, kind: Loop, x: Tensor, factors: Tensor, rounds: u32, y: Tensor) {
    assert_eq!(x.shape, y.shape);
    assert_eq!(factors.shape, FACTORS);
    assert!(x.channels().is_multiple_of(4), "padding would not stay zero");
    let quads = y.elements() / 4;
    let params = [("quads", (quads as u32).into()), ("rounds", rounds.into())];
    let flops = 2 * y.elements() * (kind.sums * kind.steps) as u64 * rounds as u64;
    r.dispatch(&KERNEL, kind.entry, &params, &[x, y, factors], Grid::Invocations(quads), flops);
}

/// Workgroups take 64, 256 or 2,048 quadruples. There is no padding: its sums would not be zero.
pub const CORNERS: &[Corner] = &[
    Corner::new("one quadruple", |draw| case_of(draw, 4, 1)),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, 16_384, 2)),
    Corner::new("the last workgroup not full", |draw| case_of(draw, 12_300, 3)),
];

pub fn case(draw: &mut Draw) {
    let count = draw.choose(&[4, 60, 1000, 2048, 3004, 8192, 12_300]);
    let rounds = draw.range(1, 3);
    case_of(draw, count, rounds);
}

fn case_of(draw: &mut Draw, count: u32, rounds: u32) {
    let x = draw.input("x", [1, 1, 1, count]);
    // Close to 1: what a step leaves out shows to the end.
    let mut near = 0;
    let factors = draw.input_by("factors", FACTORS, |draw| {
        near += 1;
        if near % 4 == 1 { 1.0 - 0.01 * draw.uniform() } else { 0.02 * draw.normal() }
    });
    let small = draw.input_by("small", [1, 1, 1, 4], |draw| draw.range(1, 4) as f64 / 4.0);
    let r = &mut draw.recorder;
    if let Some(candidate) = r.possible(&MATRICES) {
        matrices(r, candidate, small, 1 + count / 4000, rounds);
    }
    for kind in COPIES {
        let y = r.temp(x.shape);
        copy(r, kind, x, y);
    }
    for kind in LOOPS {
        let y = r.temp(x.shape);
        multiply(r, kind, x, factors, rounds, y);
    }
}
