//! The flags of classifier guidance.

use std::path::PathBuf;

use anyhow::{Result, bail};

use diffuse::checkpoint::{self, Checkpoint, SchedulerConfig};
use diffuse::gpu::{Memory, WEIGHTS};
use diffuse::sample::{ClassifierGuidance, Generator, Request};

/// Guidance by a classifier of noisy images.
#[derive(clap::Args)]
pub struct Args {
    /// Steer by this classifier, which `train-classifier` made
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Scale of the classifier's gradient
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "classifier", allow_negative_numbers = true)]
    classifier_scale: f64,
}

/// A classifier, and how hard it steers.
pub struct Chosen {
    model: checkpoint::classifier::Checkpoint,
    scale: f64,
}

impl Args {
    /// Whether a classifier steers.
    pub fn is_given(&self) -> bool {
        self.classifier.is_some()
    }

    /// Loads what was asked for.
    pub fn load(&self, model: &Checkpoint) -> Result<Option<Chosen>> {
        let Some(path) = &self.classifier else { return Ok(None) };
        if !(-1000.0..=1000.0).contains(&self.classifier_scale) {
            bail!("--classifier-scale must be a number from -1000 to 1000");
        }
        let classifier = checkpoint::classifier::load(path)?;
        let noise = |scheduler: &SchedulerConfig| {
            let SchedulerConfig { num_train_timesteps, beta_schedule, beta_start, beta_end, .. } = scheduler.clone();
            (num_train_timesteps, beta_schedule, beta_start, beta_end)
        };
        let (own, wanted) = (noise(&classifier.scheduler), noise(&model.scheduler));
        if own != wanted {
            bail!(
                "{}: trained on the noise of {} over {} timesteps, the checkpoint on {} over {}: train it on the same",
                path.display(),
                own.1,
                own.0,
                wanted.1,
                wanted.0
            );
        }
        Ok(Some(Chosen { model: classifier, scale: self.classifier_scale }))
    }
}

impl Chosen {
    /// Classes that it knows.
    pub fn classes(&self) -> u32 {
        self.model.classifier.config.classes
    }

    /// The sampler under its guidance to these classes.
    pub fn steer<'a>(
        &self,
        generator: Generator<'a>,
        model: &Checkpoint,
        memory: &mut Memory,
        request: &Request,
        labels: Vec<u32>,
    ) -> Result<Generator<'a>> {
        let schedule = model.scheduler.schedule()?;
        let guidance = ClassifierGuidance {
            classifier: &self.model.classifier,
            weights: &self.model.weights,
            scale: self.scale,
            labels,
            schedule: &schedule,
        };
        Ok(generator.steered_by(&model.unet, memory, WEIGHTS, request, guidance)?)
    }
}
