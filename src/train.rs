//! Training: the loop and the run directory.

mod appended;
mod canaries;
mod curves;
mod follow;
mod lock;
mod log;
mod losses;
pub mod model;
mod monitor;
pub mod private;
mod report;
pub mod run;
mod save;
mod share;
mod stored;
mod tail;
mod tensorboard;

pub use canaries::CANARIES;
pub use follow::{follow, lead};
pub use lock::Lock;
pub use log::{METRICS, Row};
pub use losses::Losses;
pub use model::{Initial, Model};
pub use monitor::{Grid, Monitor, News, Standing};
pub use private::{PRIVACY, PRIVATE};
pub use run::{Run, Watch};
pub use save::TRAINER;
pub use stored::{DATA, Over, Stored, TRAINER_STATE, best, check_place, is_of_a_run, saw_one_data_set};
