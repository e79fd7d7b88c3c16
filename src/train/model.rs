//! The networks that can be trained, each with its loss.

use std::path::Path;

use super::options::{Task, TrainOptions};
use crate::checkpoint::{self, SchedulerConfig};
use crate::data::Dataset;
use crate::diffusion::HYBRID;
use crate::error::{Error, Result};
use crate::gpu::{Recorder, Tensor};
use crate::nn::{Classifier, ClassifierConfig, Params, UNet, UNetConfig};
use crate::ops::diffusion::{self, Batch};
use crate::ops::{adamw, cross_entropy};

/// A network and what it is trained for.
pub trait Objective {
    /// Its learnt tensors.
    fn params(&self) -> &Params;

    /// The U-Net that it is, or is a half of.
    fn config(&self) -> &UNetConfig;

    /// Records forward, loss and backward of a batch. The loss, a mean over the batch, goes to `loss`, [1, 1, 1, 1].
    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor);
}

/// The denoiser: weighted mean square of the error (Ho et al. 2020, eq. 14); with a learned variance L_hybrid (Nichol &
/// Dhariwal 2021, eq. 16).
impl Objective for UNet {
    fn params(&self) -> &Params {
        &self.params
    }

    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor) {
        let labels = self.is_conditional().then_some(batch.label);
        let (out, saved) = self.forward(r, batch.x, batch.timestep, labels);
        let scale = adamw::loss_scale(r, r.precision());
        let d_out = r.scope("loss", |r| match self.config.learns_variance() {
            true => {
                let bound = HYBRID * batch.schedule.n() as f64;
                diffusion::hybrid_loss(r, out, batch, bound as f32, loss, scale)
            }
            false => diffusion::loss(r, out, batch.target, batch.weight, loss, scale),
        });
        self.backward(r, saved, d_out);
    }
}

/// The classifier of noisy images: cross-entropy (Dhariwal & Nichol 2021, section 4.1).
impl Objective for Classifier {
    fn params(&self) -> &Params {
        &self.params
    }

    fn config(&self) -> &UNetConfig {
        &self.config.unet
    }

    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor) {
        let (verdict, saved) = self.forward(r, batch.x, batch.timestep);
        let mean = 1.0 / batch.x.n() as f32;
        let dlogits = r.scope("loss", |r| cross_entropy::loss(r, verdict.logits, batch.label, mean, loss));
        self.backward(r, saved, dlogits);
    }
}

/// What a run trains.
pub enum Model {
    Denoiser(UNet),
    Classifier(Classifier),
}

impl Model {
    /// The network that the options ask for.
    ///
    /// # Errors
    /// [`Error::Config`] if it can't be built, or if there is nothing to tell apart.
    pub fn new(options: &TrainOptions, data: &Dataset) -> Result<Model> {
        Ok(match options.task {
            Task::Denoise => Model::Denoiser(UNet::new(options.model.clone())?),
            Task::Classify => {
                let classes = data.classes.len() as u32;
                if classes < 2 {
                    let problem = format!("{} has one class: there is nothing to classify", options.data);
                    return Err(Error::Config(problem));
                }
                Model::Classifier(Classifier::new(ClassifierConfig { unet: options.model.clone(), classes })?)
            }
        })
    }

    /// The network of a checkpoint, and its averaged weights.
    ///
    /// # Errors
    /// [`Error::File`] if a file is not what it should be, [`Error::Config`] if the data's classes have changed.
    pub fn load(directory: &Path, options: &TrainOptions, data: &Dataset) -> Result<(Model, Vec<f32>)> {
        match options.task {
            Task::Denoise => {
                let model = checkpoint::load(directory)?;
                Ok((Model::Denoiser(model.unet), model.weights))
            }
            Task::Classify => {
                let model = checkpoint::classifier::load(directory)?;
                let (then, now) = (model.classifier.config.classes, data.classes.len());
                if then as usize != now {
                    let problem = format!("{} has {now} classes now and had {then}", options.data);
                    return Err(Error::Config(problem));
                }
                Ok((Model::Classifier(model.classifier), model.weights))
            }
        }
    }

    /// Writes configuration, weights and schedule.
    ///
    /// # Errors
    /// [`Error::File`] if a file can't be written.
    pub fn save(&self, directory: &Path, weights: &[f32], scheduler: &SchedulerConfig) -> Result<()> {
        match self {
            Model::Denoiser(unet) => checkpoint::save(directory, unet, weights, scheduler),
            Model::Classifier(model) => checkpoint::classifier::save(directory, model, weights, scheduler),
        }
    }

    /// What the engine trains.
    pub fn objective(&self) -> &dyn Objective {
        match self {
            Model::Denoiser(unet) => unet,
            Model::Classifier(classifier) => classifier,
        }
    }

    /// Its learnt tensors.
    pub fn params(&self) -> &Params {
        self.objective().params()
    }
}
