//! The networks that can be trained, as runs make and store them.

use std::path::Path;

use super::stored::data_behind;
use crate::checkpoint::{self, Classes, SchedulerConfig};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::nn::{Classifier, ClassifierConfig, Params, UNet};
use crate::run::{Objective, Task, TrainOptions};

/// Weights that a run begins with, out of a checkpoint.
pub struct Initial {
    pub weights: Vec<f32>,
    /// Digests of what they were trained on; none where nobody knows.
    pub(super) data: Vec<Option<String>>,
    /// What the run does otherwise than the checkpoint's, a line each.
    pub notes: Vec<String>,
}

fn new_classes(then: &Classes, data: &Dataset) -> Option<String> {
    let (then, now) = (then.names.len(), data.classes.len());
    (now > then).then(|| format!("classes: {then} of the checkpoint's, {} new", now - then))
}

/// How what the network is to learn differs from what it has learnt.
fn other_noise(then: &SchedulerConfig, options: &TrainOptions) -> Vec<String> {
    let now = options.scheduler();
    let mut lines = Vec::new();
    if options.task == Task::Denoise && then.prediction().ok() != Some(options.target) {
        lines.push(format!("target: {} here, {} in the checkpoint", now.prediction_type, then.prediction_type));
    }
    // What comes out of a file is in single precision, as diffusers has it.
    let stored = serde_json::from_value::<SchedulerConfig>(now.to_json().into()).map(|stored| stored.schedule().ok());
    let same = [now.schedule().ok(), stored.unwrap_or_default()].contains(&then.schedule().ok());
    if !same {
        let said = |config: &SchedulerConfig| {
            let kind = config.schedule.as_ref().unwrap_or(&config.beta_schedule);
            format!("{kind} of {} timesteps", config.num_train_timesteps)
        };
        let (here, there) = (said(&now), said(then));
        // Of the same words, but of other numbers.
        let there = if here == there { "one of other numbers".into() } else { there };
        lines.push(format!("schedule: {here} here, {there} in the checkpoint"));
    }
    lines
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
    /// [`Error::Config`] if it can't be built or trained, or if there is nothing to tell apart.
    pub fn new(options: &TrainOptions, data: &Dataset) -> Result<Model> {
        if options.model.dropout != 0.0 {
            let problem = format!("dropout is {}, and this program trains without: set it to 0", options.model.dropout);
            return Err(Error::Config(problem));
        }
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

    /// Initial weights, as a checkpoint or a run at `place` has them.
    ///
    /// # Errors
    /// [`Error::File`] names what is wrong with its files, or the tensor that doesn't fit.
    pub fn initial(&self, place: &Path, options: &TrainOptions, data: &Dataset) -> Result<Initial> {
        let (tensors, classes, scheduler, directory) = match self {
            Model::Denoiser(_) => {
                let from = checkpoint::load(place)?;
                let tensors = checkpoint::unflatten(&from.unet.params, &from.weights, "");
                (tensors, from.classes, from.scheduler, from.directory)
            }
            Model::Classifier(_) => {
                let from = checkpoint::classifier::load(place)?;
                let tensors = checkpoint::unflatten(&from.classifier.params, &from.weights, "");
                (tensors, None, from.scheduler, from.directory)
            }
        };
        let fresh = self.params().initialise(options.seed);
        let weights = checkpoint::adopt(self.params(), &fresh, tensors, (classes.as_ref(), &data.classes), place)?;
        let mut notes: Vec<String> = classes.iter().filter_map(|classes| new_classes(classes, data)).collect();
        notes.extend(other_noise(&scheduler, options));
        Ok(Initial { weights, data: data_behind(&directory), notes })
    }

    /// Writes configuration, names of the classes, weights and schedule.
    ///
    /// # Errors
    /// [`Error::File`] if a file can't be written.
    pub fn save(
        &self,
        directory: &Path,
        classes: &[String],
        weights: &[f32],
        scheduler: &SchedulerConfig,
    ) -> Result<()> {
        match self {
            Model::Denoiser(unet) => checkpoint::save(directory, unet, classes, weights, scheduler),
            Model::Classifier(model) => checkpoint::classifier::save(directory, model, classes, weights, scheduler),
        }
    }

    /// What the trainer trains.
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
