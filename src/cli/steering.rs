//! The flags of classifier guidance.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, bail};

use diffuse::checkpoint::{self, Checkpoint};
use diffuse::diffusion::Schedule;
use diffuse::gpu::{Choices, Memory, Recording, WEIGHTS};
use diffuse::sample::{self, ClassifierGuidance, Generator, Request};

/// Guidance by a classifier of noisy images.
#[derive(clap::Args)]
#[group(id = "steering")]
pub struct Args {
    /// Steer by this classifier, which `train-classifier` made
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Scale of the classifier's gradient
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "classifier", allow_negative_numbers = true)]
    classifier_scale: f64,
}

/// A classifier, how hard it steers, and where to.
pub struct Chosen {
    model: checkpoint::classifier::Checkpoint,
    /// The scale s; 0 is none.
    pub scale: f64,
    /// The class of each sample.
    pub labels: Vec<u32>,
}

impl Args {
    /// Whether a classifier steers.
    pub fn is_given(&self) -> bool {
        self.classifier.is_some()
    }

    /// Loads what was asked for. `labels` says the class of each sample, out of as many as the classifier knows.
    pub fn load(&self, model: &Checkpoint, labels: impl FnOnce(u32) -> Vec<u32>) -> Result<Option<Chosen>> {
        let Some(path) = &self.classifier else { return Ok(None) };
        if !(-1000.0..=1000.0).contains(&self.classifier_scale) {
            bail!("--classifier-scale must be a number from -1000 to 1000");
        }
        let classifier = checkpoint::classifier::load(path)?;
        let (own, wanted) = (classifier.scheduler.schedule()?, model.scheduler.schedule()?);
        if own != wanted {
            let name =
                |schedule: &Schedule| format!("{} over {} timesteps", schedule.kind().name(), schedule.timesteps());
            let (own, wanted) = (name(&own), name(&wanted));
            let ends = if own == wanted { " with other ends" } else { "" };
            let path = path.display();
            bail!("{path}: trained on the noise of {own}, the checkpoint on {wanted}{ends}: train it on the same");
        }
        let labels = labels(classifier.classifier.config.classes);
        Ok(Some(Chosen { model: classifier, scale: self.classifier_scale, labels }))
    }
}

impl Chosen {
    /// Classes that it knows.
    pub fn classes(&self) -> u32 {
        self.model.classifier.config.classes
    }

    /// The recording of its gradient, for `batch` samples at a time.
    pub fn record(
        &self,
        model: &Checkpoint,
        batch: u32,
        request: &Request,
        choices: &Arc<Choices>,
    ) -> diffuse::error::Result<Recording> {
        let channels = model.unet.config.in_channels;
        sample::record_steering(&self.model.classifier, batch, channels, request, choices)
    }

    /// The sampler under its guidance.
    pub fn steer<'a>(
        &self,
        generator: Generator<'a>,
        model: &Checkpoint,
        memory: &mut Memory,
        request: &Request,
    ) -> Result<Generator<'a>> {
        let guidance = ClassifierGuidance {
            classifier: &self.model.classifier,
            weights: &self.model.weights,
            scale: self.scale,
            labels: self.labels.clone(),
        };
        Ok(generator.steered_by(&model.unet, memory, WEIGHTS, request, guidance)?)
    }
}
