//! A sampler under classifier guidance: before each evaluation the classifier's gradient is computed where x stands.

use super::{Generator, Request, X, check_elements, is_guided, record_with};
use crate::diffusion::{Schedule, Step as Coefficients};
use crate::error::{Error, Result};
use crate::gpu::{Memory, Plan, PlanOptions, Step};
use crate::guidance::{Source, Steering, coefficient};
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
    /// The noise that sampler and classifier know.
    pub schedule: &'a Schedule,
}

/// The classifier of a generator.
pub(super) struct Steered {
    steering: Steering,
    scale: f64,
    labels: Vec<u32>,
    /// (alpha, sigma) of each timestep.
    levels: Vec<(f64, f64)>,
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
        let [_, height, width, channels] = self.shape;
        if config.sides()? != (height, width) || config.unet.in_channels != channels {
            let (own, other) = (config.sides()?, config.unet.in_channels);
            return Err(Error::Config(format!(
                "the classifier knows images of {}x{}x{other}, samples are {height}x{width}x{channels}",
                own.0, own.1
            )));
        }
        if let Some(label) = guidance.labels.iter().find(|label| **label >= config.classes) {
            return Err(Error::Config(format!(
                "class {label} is out of range: the classifier knows {}",
                config.classes
            )));
        }
        check_elements(&config.unet, self.batch as u64, height, width)?;
        let rows = if is_guided(request) { 2 * self.batch } else { self.batch };
        let source = Source { x: X, rows, shape: self.shape };
        let steering = Steering::new(self.context, memory, guidance.classifier, guidance.weights, source)?;
        let recordings = record_with(unet, weights, self.batch, request, true);
        self.denoise = Plan::new(self.context, &recordings.denoise, memory, PlanOptions::default())?;
        let schedule = guidance.schedule;
        let levels = (0..schedule.timesteps()).map(|t| (schedule.alpha(t), schedule.sigma(t))).collect();
        self.steered = Some(Steered { steering, scale: guidance.scale, labels: guidance.labels, levels });
        Ok(self)
    }

    /// Computes the gradient for the evaluation that `step` describes, and says in `values` what it is multiplied by.
    pub(super) fn steer(&self, values: &mut Step, step: &Coefficients) {
        if let Some(steered) = &self.steered {
            let (alpha, sigma) = steered.levels[step.timestep as usize];
            values.set("classifier", coefficient(steered.scale, alpha, sigma, step.x0_from_out));
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
