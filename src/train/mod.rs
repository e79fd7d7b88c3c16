//! Training: options, the step on the GPU, and the run directory.

pub mod choice;
pub mod engine;
mod lock;
mod log;
pub mod model;
pub mod options;
pub mod run;
mod stored;

pub use engine::{Engine, Metrics};
pub use lock::Lock;
pub use model::{Model, Objective};
pub use options::{Task, TrainOptions};
pub use run::{Run, Watch};
pub use stored::Stored;
