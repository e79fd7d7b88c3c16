//! What a GPU is; knows no network.
//!
//! `Recorder -> Recording` (no GPU needed: shapes, dispatches, scopes) `-> Plan` (buffers, bind groups, pipelines),
//! which is then replayed for ever.

pub mod agreement;
pub mod choices;
pub mod compiler;
pub mod context;
pub mod fault;
mod health;
pub mod interpret;
pub mod kernel;
pub mod look;
pub mod memory;
pub mod pace;
mod pipelines;
pub mod plan;
pub mod profile;
pub mod prune;
pub mod recorder;
pub mod recordings;
pub mod ring;
pub mod slots;
pub mod snapshot;
pub mod staging;
pub mod step;
pub mod stored;
pub mod trial;
pub mod tune;
pub mod work;

pub use agreement::Bound;
pub use choices::{Candidate, Choices, Device};
pub use context::{Context, Submission};
pub use interpret::CpuState;
pub use kernel::{Kernel, Need, Precision};
pub use memory::Memory;
pub use plan::{Plan, PlanOptions};
pub use recorder::{EMA, GRADIENTS, Grid, Recorder, Recording, Slice, Tensor, Value, WEIGHTS, Ways, Weight};
pub use recordings::{Plans, Recordings};
pub use ring::Ring;
pub use staging::Staging;
pub use step::Step;
pub use wgpu::Buffer;
pub use work::Work;
