//! Networks on devices: what trains, draws, denoises and classifies. `session` makes all plans.

mod audit;
pub mod choice;
pub mod classifier;
pub mod denoiser;
mod draw;
mod exchange;
mod feed;
pub mod fit;
mod flat;
pub mod generator;
pub mod lottery;
pub mod objective;
pub mod options;
pub mod private;
pub mod request;
pub mod session;
mod shards;
pub mod trainer;

pub use audit::{Audited, Finding};
pub use classifier::{Observations, Observer};
pub use denoiser::Denoiser;
pub use draw::{Drawn, Progress, set_coefficients};
pub use exchange::{BUCKET, BUCKETS, Crossing, Exchanged};
pub use feed::Feed;
pub use generator::{Generator, Networks};
pub use objective::Objective;
pub use options::{OnDiffer, OnNan, SentAs, Task, TrainOptions};
pub use request::{Frame, Known, Noise, Request, Start, Steering};
pub use session::Session;
pub use trainer::{Metrics, Trainer};

pub use crate::ops::diffusion::LEVELS;
