//! What `diffuse evaluate` finds.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::draw::Method;
use diffuse::checkpoint;
use diffuse::data::Split;
use diffuse::evaluate::levels::LevelError;
use diffuse::evaluate::likelihood::{FlowLikelihood, VariationalBound};
use diffuse::evaluate::quality::Report;
use diffuse::run::TrainOptions;
use diffuse::train::{self, saw_one_data_set};

/// Everything that was asked for.
#[derive(Default)]
pub struct Found {
    pub bound: Option<VariationalBound>,
    pub flow: Option<FlowLikelihood>,
    pub levels: Option<Vec<LevelError>>,
    pub drawn: Option<Method>,
    pub quality: Option<Report>,
    pub files: Vec<PathBuf>,
}

/// Whether a model has not seen the test images, as far as its run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldOut {
    Yes,
    No,
    Unknown,
}

/// A JSON file of the run whose checkpoint is in `directory`.
fn of_run<T: DeserializeOwned>(directory: &Path, name: &str) -> Option<T> {
    checkpoint::read_json(&directory.parent()?.join(name)).ok()
}

impl HeldOut {
    /// Of the model in `directory`, for test images of `source` that are the data's own or, if `split` took them out, a tenth
    /// of what there is.
    pub fn of(directory: &Path, source: &str, split: &Split) -> HeldOut {
        let Some(options) = of_run::<TrainOptions>(directory, checkpoint::CONFIG) else { return HeldOut::Unknown };
        let place = |source: &str| Path::new(source).canonicalize().unwrap_or_else(|_| source.into());
        // Of a set of parts a run was trained on one.
        let of_private = || of_run(directory, &format!("{}/{}", train::PRIVATE, train::DATA));
        let data: Value = of_run(directory, train::DATA).or_else(of_private).unwrap_or_default();
        let part = data["part"].as_str().map(|part| Path::new(&options.data).join(part));
        let is_part = part.and_then(|part| part.canonicalize().ok()).is_some_and(|part| part == place(source));
        match (options.data == source || place(&options.data) == place(source), split.held_out) {
            (false, true) if is_part => HeldOut::No,
            (false, _) => HeldOut::Unknown,
            // A denoiser is trained on all that is no test image of the data's own.
            (true, true) => HeldOut::No,
            // Those that the initial weights were trained on may have been among others.
            (true, false) if !saw_one_data_set(directory) => HeldOut::Unknown,
            (true, false) => HeldOut::Yes,
        }
    }

    /// For JSON.
    pub fn value(self) -> Value {
        match self {
            HeldOut::Yes => true.into(),
            HeldOut::No => false.into(),
            HeldOut::Unknown => "unknown".into(),
        }
    }
}
