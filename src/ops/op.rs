//! A kernel as tests, benches and `verify` see it.

use std::sync::Arc;

use super::case::{Case, Corner, Draw, Which};
use crate::gpu::{Choices, Device, Kernel, Precision, Ways};

/// A kernel with what draws its cases.
pub struct Op {
    pub kernel: &'static Kernel,
    /// The entry points that can run in several ways.
    pub ways: &'static [&'static Ways],
    /// Hard shapes, worked out from the tiles and loops of every variant: each way to run the kernel is checked on all.
    pub corners: &'static [Corner],
    /// Records one case of drawn shapes, small and odd ones, that runs every entry point which those shapes need.
    pub case: fn(&mut Draw),
}

impl Op {
    /// What `device` can run: both precisions, where there is a choice of variants each of them.
    pub fn choices(&self, device: &Device) -> Vec<Arc<Choices>> {
        let precisions: &[Precision] = match self.variants().iter().any(|kernel| kernel.knows_halves()) {
            true => &[Precision::F32, Precision::F16],
            false => &[Precision::F32],
        };
        precisions.iter().flat_map(|precision| self.choices_of(device, *precision)).collect()
    }

    fn choices_of(&self, device: &Device, precision: Precision) -> Vec<Arc<Choices>> {
        let most = self.ways.iter().map(|ways| ways.candidates.len()).max().unwrap_or(0);
        let runs = |index: &usize| {
            self.ways.iter().any(|w| w.candidates.get(*index).is_some_and(|c| c.runs_on(device, precision)))
        };
        let mut indices: Vec<usize> = (0..most).filter(runs).collect();
        if indices.is_empty() {
            indices.push(0);
        }
        indices.into_iter().map(|index| Arc::new(Choices::forced(device, precision, index))).collect()
    }

    /// What a case is known by: `silu, one element`, the corner's name, or `silu, seed 5`.
    pub fn name(&self, which: Which) -> String {
        match which {
            Which::Corner(index) => format!("{}, {}", self.kernel.name, self.corners[index].name),
            Which::Random(seed) => format!("{}, seed {seed}", self.kernel.name),
        }
    }

    /// The kernel in all its variants.
    pub fn variants(&self) -> Vec<&'static Kernel> {
        let mut all = vec![self.kernel];
        for candidate in self.ways.iter().flat_map(|ways| ways.candidates) {
            if !all.iter().any(|kernel| kernel.label() == candidate.kernel.label()) {
                all.push(candidate.kernel);
            }
        }
        all
    }
}

impl Case {
    /// A case of a kernel, in the variants that `choices` names; every second one in folded grids. Panics if the kernel has
    /// no such corner.
    pub fn new(op: &Op, which: Which, choices: &Arc<Choices>) -> Case {
        let (record, folded) = match which {
            Which::Corner(index) => (op.corners[index].draw, index % 2 == 0 && !op.corners[index].is_full),
            Which::Random(seed) => (op.case, seed % 2 == 1),
        };
        Case::drawn(record, which, folded, choices)
    }
}
