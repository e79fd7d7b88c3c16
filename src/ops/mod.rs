//! Forward and hand-derived backward passes as recorded dispatches, one file a shader.
//!
//! To add a kernel: `shaders/x.wgsl`, `src/cpu/x.rs` (twin), `src/ops/x.rs` (this layer), one line in [`ALL`].
//! Tests, benches, `verify` and `profile` iterate [`ALL`]; none of them names a kernel.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod case;
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

use crate::gpu::Kernel;
pub use case::{Case, Draw};

/// A kernel with what draws its cases.
pub struct Op {
    pub kernel: &'static Kernel,
    /// Records one case of drawn shapes, small and odd ones, that runs every entry point which those shapes need.
    pub case: fn(&mut Draw),
}

/// Every kernel.
pub const ALL: &[Op] = &[
    Op { kernel: &add::KERNEL, case: add::case },
    Op { kernel: &attention::KERNEL, case: attention::case },
    Op { kernel: &embed::KERNEL, case: embed::case },
    Op { kernel: &conv2d::KERNEL, case: conv2d::case },
    Op { kernel: &concat::KERNEL, case: concat::case },
    Op { kernel: &group_norm::KERNEL, case: group_norm::case },
    Op { kernel: &linear::KERNEL, case: linear::case },
    Op { kernel: &pool::KERNEL, case: pool::case },
    Op { kernel: &resample::KERNEL, case: resample::case },
    Op { kernel: &silu::KERNEL, case: silu::case },
    Op { kernel: &reduce::KERNEL, case: reduce::case },
    Op { kernel: &diffusion::KERNEL, case: diffusion::case },
    Op { kernel: &cross_entropy::KERNEL, case: cross_entropy::case },
    Op { kernel: &adamw::KERNEL, case: adamw::case },
];
