//! Networks on devices: what trains, draws, denoises and classifies. The one place where a network meets a plan.

mod batch;
pub mod classifier;
pub mod denoiser;
pub mod fit;
pub mod generator;
pub mod objective;
pub mod options;
pub mod request;
pub mod session;
pub mod trainer;

pub use batch::set_coefficients;
pub use classifier::{Observations, Observer};
pub use denoiser::Denoiser;
pub use generator::{Drawn, Generator, Networks, Progress};
pub use objective::Objective;
pub use options::{Task, TrainOptions};
pub use request::{Frame, Known, Request, Start, Steering};
pub use session::Session;
pub use trainer::{Metrics, Trainer};
