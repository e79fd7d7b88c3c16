//! Forward and hand-derived backward passes as recorded dispatches, one file a shader.
//!
//! How to add one: README.md, "Adding a kernel".
//! Tests, benches, `verify` and `profile` iterate [`ALL`]; none of them names a kernel.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod case;
pub mod ceiling;
pub mod concat;
pub mod conv2d;
pub mod cross_entropy;
pub mod diffusion;
pub mod embed;
pub mod group_norm;
pub mod linear;
pub mod pool;
pub mod reduce;
pub mod resample;
pub mod silu;

use std::sync::Arc;

use crate::gpu::{Choices, Device, Kernel, Precision, Ways};
pub use case::{Case, Draw};

/// A kernel with what draws its cases.
pub struct Op {
    pub kernel: &'static Kernel,
    /// The entry points that can run in several ways.
    pub ways: &'static [&'static Ways],
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

/// Every kernel.
pub const ALL: &[Op] = &[
    Op { kernel: &add::KERNEL, ways: &[], case: add::case },
    Op {
        kernel: &attention::KERNEL,
        ways: &[&attention::FORWARD, &attention::BACKWARD_QUERY, &attention::BACKWARD_KEY_VALUE],
        case: attention::case,
    },
    Op { kernel: &embed::KERNEL, ways: &[], case: embed::case },
    Op {
        kernel: &conv2d::KERNEL,
        ways: &[&conv2d::FORWARD, &conv2d::BACKWARD_DATA, &conv2d::BACKWARD_WEIGHT],
        case: conv2d::case,
    },
    Op { kernel: &concat::KERNEL, ways: &[], case: concat::case },
    Op { kernel: &group_norm::KERNEL, ways: &[], case: group_norm::case },
    Op {
        kernel: &linear::KERNEL,
        ways: &[&linear::FORWARD, &linear::BACKWARD_DATA, &linear::BACKWARD_WEIGHT],
        case: linear::case,
    },
    Op { kernel: &pool::KERNEL, ways: &[], case: pool::case },
    Op { kernel: &resample::KERNEL, ways: &[], case: resample::case },
    Op { kernel: &silu::KERNEL, ways: &[], case: silu::case },
    Op { kernel: &reduce::KERNEL, ways: &[], case: reduce::case },
    Op { kernel: &diffusion::KERNEL, ways: &[], case: diffusion::case },
    Op { kernel: &cross_entropy::KERNEL, ways: &[], case: cross_entropy::case },
    Op { kernel: &adamw::KERNEL, ways: &[], case: adamw::case },
    Op { kernel: &ceiling::KERNEL, ways: &[&ceiling::MATRICES], case: ceiling::case },
];
