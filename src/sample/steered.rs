//! A sampler under classifier guidance: before each evaluation the classifier's gradient is computed where x stands.

use std::sync::Arc;

use super::{Generator, Request, X, check_elements, is_guided, record_with};
use crate::diffusion::Step as Coefficients;
use crate::error::{Error, Result};
use crate::gpu::{Choices, Memory, Plan, PlanOptions, Precision, Recording, Step};
use crate::guidance::{self, Source, Steering, coefficient};
use crate::nn::{Classifier, UNet};

/// Which classifier steers, where to, and how hard.
pub struct ClassifierGuidance<'a> {
    pub classifier: &'a Classifier,
    /// The flat buffer of its weights.
    pub weights: &'a [f32],
    /// The scale s (Dhariwal & Nichol 2021, algorithm 2); 0 is none.
    pub scale: f64,
    /// The class of each sample, as many as samples.
    pub labels: Vec<u32>,
}

/// The classifier of a generator.
pub(super) struct Steered {
    steering: Steering,
    scale: f64,
    labels: Vec<u32>,
}

/// Where a sampler of `batch` images of `channels` channels holds what `classifier` is to look at.
fn source(classifier: &Classifier, batch: u32, channels: u32, request: &Request) -> Result<Source> {
    let config = &classifier.config;
    let Request { height, width, .. } = *request;
    if config.sides()? != (height, width) || config.unet.in_channels != channels {
        let (own, other) = (config.sides()?, config.unet.in_channels);
        return Err(Error::Config(format!(
            "the classifier knows images of {}x{}x{other}, samples are {height}x{width}x{channels}",
            own.0, own.1
        )));
    }
    check_elements(&config.unet, batch as u64, height, width)?;
    let rows = if is_guided(request) { 2 * batch } else { batch };
    Ok(Source { x: X, rows, shape: [batch, height, width, channels] })
}

/// Records the classifier's gradient for a sampler of `batch` images of `channels` channels.
///
/// # Errors
/// [`Error::Config`] if classifier and samples don't fit, [`Error::Device`] if no kernel could index the batch.
pub fn record_steering(
    classifier: &Classifier,
    batch: u32,
    channels: u32,
    request: &Request,
    choices: &Arc<Choices>,
) -> Result<Recording> {
    Ok(guidance::record(classifier, source(classifier, batch, channels, request)?, choices))
}

impl Generator<'_> {
    /// The same sampler under classifier guidance.
    ///
    /// # Errors
    /// [`Error::Config`] if classifier and samples don't fit, [`Error::Device`] if the plans don't.
    pub fn steered_by(
        mut self,
        unet: &UNet,
        memory: &mut Memory,
        weights: &'static str,
        request: &Request,
        guidance: ClassifierGuidance,
    ) -> Result<Self> {
        let config = &guidance.classifier.config;
        let source = source(guidance.classifier, self.batch, self.shape[3], request)?;
        if let Some(label) = guidance.labels.iter().find(|label| **label >= config.classes) {
            return Err(Error::Config(format!(
                "class {label} is out of range: the classifier knows {}",
                config.classes
            )));
        }
        let steering = Steering::new(self.context, memory, guidance.classifier, guidance.weights, source)?;
        let choices = self.context.choices.at(Precision::F32);
        let recordings = record_with(unet, weights, self.batch, request, &choices, true);
        self.denoise = Plan::new(self.context, &recordings.denoise, memory, PlanOptions::default())?;
        self.steered = Some(Steered { steering, scale: guidance.scale, labels: guidance.labels });
        Ok(self)
    }

    /// Computes the gradient for the evaluation that `step` describes, and says in `values` what it is multiplied by.
    pub(super) fn steer(&self, values: &mut Step, step: &Coefficients) {
        if let Some(steered) = &self.steered {
            values.set("classifier", coefficient(steered.scale, step.at, step.x0_from_out));
            steered.steering.run(self.context, values);
        }
    }

    /// The classes to steer a batch to; surplus places repeat the last.
    pub(super) fn write_steered_labels(&self, memory: &Memory, first: u32) {
        if let Some(Steered { steering, labels, .. }) = &self.steered {
            let label = |i: u32| labels[((first + i) as usize).min(labels.len() - 1)];
            let labels: Vec<u32> = (0..self.batch).map(label).collect();
            steering.write_labels(self.context, memory, &labels);
        }
    }
}
