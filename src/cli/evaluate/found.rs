//! What `diffuse evaluate` finds.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value};

use diffuse::evaluate::levels::LevelError;
use diffuse::evaluate::likelihood::{FlowLikelihood, VariationalBound};
use diffuse::evaluate::quality::Report;

/// How samples were drawn.
#[derive(Serialize)]
pub struct Method {
    pub sampler: &'static str,
    /// What is the sampler's own.
    pub settings: Map<String, Value>,
    /// None of a sampler that finds its own, nor has that a spacing.
    pub steps: Option<usize>,
    pub spacing: Option<&'static str>,
    /// Evaluations of the network as they were counted, mean over the samples.
    pub evaluations_per_sample: f64,
    /// Whether each of these is of two rows a sample, one with its class and one with none.
    pub doubled_batch: bool,
    pub guidance: f64,
    /// The scale of the classifier that steered, if one did.
    pub classifier_scale: Option<f64>,
    pub seed: u32,
}

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
