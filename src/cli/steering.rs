//! The flags of classifier guidance.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::outputs::{Input, input};
use diffuse::checkpoint::{Checkpoint, Classes, classifier};
use diffuse::diffusion::Schedule;
use diffuse::run::Steering;

/// Guidance by a classifier of noisy images.
#[derive(clap::Args)]
#[group(id = "steering")]
pub struct Args {
    /// Steer by this classifier, which `train-classifier` made
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Scale of the classifier's gradient
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "classifier")]
    classifier_scale: f64,
}

impl Args {
    /// Whether a classifier steers.
    pub fn is_given(&self) -> bool {
        self.classifier.is_some()
    }

    /// The classifier's directory.
    pub fn file(&self) -> Option<Input<'_>> {
        input("--classifier", self.classifier.as_deref())
    }

    /// Loads what was asked for. `labels` says the class of each sample, out of as many as the classifier knows.
    pub fn load(
        &self,
        model: &Checkpoint,
        labels: impl FnOnce(&Classes) -> Result<Vec<u32>>,
    ) -> Result<Option<(classifier::Checkpoint, Steering)>> {
        let Some(path) = &self.classifier else { return Ok(None) };
        if !(-1000.0..=1000.0).contains(&self.classifier_scale) {
            bail!("--classifier-scale must be a number from -1000 to 1000");
        }
        let classifier = classifier::load(path)?;
        let (own, wanted) = (classifier.scheduler.schedule()?, model.scheduler.schedule()?);
        if own != wanted {
            let name =
                |schedule: &Schedule| format!("{} over {} timesteps", schedule.kind().name(), schedule.timesteps());
            let (own, wanted) = (name(&own), name(&wanted));
            let ends = if own == wanted { " with other ends" } else { "" };
            let path = path.display();
            bail!("{path}: trained on the noise of {own}, the checkpoint on {wanted}{ends}: train it on the same");
        }
        if let Some(classes) = &model.classes
            && classes.are_named
            && classifier.classes.are_named
            && classes.names != classifier.classes.names
        {
            let (own, wanted) = (classifier.classes.listed(), classes.listed());
            bail!("{}: it tells apart {own}; the checkpoint draws {wanted}", path.display());
        }
        let labels = labels(&classifier.classes)?;
        Ok(Some((classifier, Steering { scale: self.classifier_scale, labels })))
    }
}
