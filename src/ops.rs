//! Forward and hand-derived backward passes as recorded dispatches, one file a shader.
//!
//! How to add one: README.md, "Adding a kernel".
//! Tests, benches, `verify` and `profile` iterate [`ALL`]; none of them names a kernel.
//!
//! An op lists its [`Corner`]s: for each axis that a variant cuts into tiles or walks over in turns, an extent of one, one of
//! less than a tile, tiles that are all full, several with the last one not full; and whatever else its code asks (a parity
//! without inputs, a split that begins within a row). Every way to run the kernel runs all of them, and random cases on top.
//! The edges that corners of convolution, linear layer and attention must reach are counted in `tiles.rs`: a candidate with a
//! larger tile needs a corner that reaches its edges.

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
pub mod matrix;
pub mod op;
pub mod pool;
pub mod private;
pub mod reduce;
pub mod resample;
pub mod silu;
#[cfg(test)]
mod tiles;

pub use case::{Case, Corner, Draw, Which};
pub use op::Op;

use std::collections::BTreeMap;

use crate::gpu::{Candidate, Precision};

/// Every kernel.
pub const ALL: &[Op] = &[
    Op { kernel: &add::KERNEL, ways: &[], corners: add::CORNERS, case: add::case },
    Op {
        kernel: &attention::KERNEL,
        ways: &[&attention::FORWARD, &attention::BACKWARD_QUERY, &attention::BACKWARD_KEY_VALUE],
        corners: attention::CORNERS,
        case: attention::case,
    },
    Op { kernel: &embed::KERNEL, ways: &[], corners: embed::CORNERS, case: embed::case },
    Op {
        kernel: &conv2d::KERNEL,
        ways: &[&conv2d::FORWARD, &conv2d::BACKWARD_DATA, &conv2d::BACKWARD_WEIGHT],
        corners: conv2d::CORNERS,
        case: conv2d::case,
    },
    Op { kernel: &concat::KERNEL, ways: &[], corners: concat::CORNERS, case: concat::case },
    Op { kernel: &group_norm::KERNEL, ways: &[], corners: group_norm::CORNERS, case: group_norm::case },
    Op {
        kernel: &linear::KERNEL,
        ways: &[&linear::FORWARD, &linear::BACKWARD_DATA, &linear::BACKWARD_WEIGHT],
        corners: linear::CORNERS,
        case: linear::case,
    },
    Op { kernel: &pool::KERNEL, ways: &[], corners: pool::CORNERS, case: pool::case },
    Op { kernel: &resample::KERNEL, ways: &[], corners: resample::CORNERS, case: resample::case },
    Op { kernel: &silu::KERNEL, ways: &[], corners: silu::CORNERS, case: silu::case },
    Op { kernel: &reduce::KERNEL, ways: &[], corners: reduce::CORNERS, case: reduce::case },
    Op { kernel: &diffusion::KERNEL, ways: &[], corners: diffusion::CORNERS, case: diffusion::case },
    Op { kernel: &cross_entropy::KERNEL, ways: &[], corners: cross_entropy::CORNERS, case: cross_entropy::case },
    Op { kernel: &adamw::KERNEL, ways: &[], corners: adamw::CORNERS, case: adamw::case },
    Op { kernel: &private::KERNEL, ways: &[], corners: private::CORNERS, case: private::case },
    Op { kernel: &ceiling::KERNEL, ways: &[&ceiling::MATRICES], corners: ceiling::CORNERS, case: ceiling::case },
];

/// The way to run a kernel that is known by its label and the values of its constants: how [`crate::gpu::stored`] knows them.
pub fn find(label: &str, constants: &BTreeMap<String, u32>) -> Option<Candidate> {
    let ways = ALL.iter().flat_map(|op| op.ways).flat_map(|ways| ways.candidates).copied();
    // What isn't chosen has no constants.
    let others = ALL.iter().flat_map(Op::variants).map(|kernel| Candidate::new(kernel, &[]));
    let is_meant = |candidate: &Candidate| {
        let own = candidate.constants.iter();
        candidate.kernel.label() == label
            && candidate.constants.len() == constants.len()
            && own.clone().all(|(name, value)| constants.get(*name) == Some(value))
    };
    ways.chain(others).find(is_meant)
}

/// All kernels in 16 hexadecimal digits (BLAKE3): of other ones, results are rounded otherwise.
pub fn digest() -> String {
    let mut hasher = blake3::Hasher::new();
    for kernel in ALL.iter().flat_map(Op::variants) {
        [Precision::F32, Precision::F16].iter().for_each(|precision| {
            hasher.update(kernel.source(*precision).as_bytes());
        });
    }
    hasher.finalize().to_hex()[..16].into()
}
