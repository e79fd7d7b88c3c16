//! The networks that can be trained, as runs make and store them.

use std::path::Path;

use crate::checkpoint::{self, SchedulerConfig};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::nn::{Classifier, ClassifierConfig, Params, UNet};
use crate::run::{Objective, Task, TrainOptions};

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
    pub fn initial(&self, place: &Path, options: &TrainOptions, data: &Dataset) -> Result<Vec<f32>> {
        let (tensors, classes) = match self {
            Model::Denoiser(_) => {
                let from = checkpoint::load(place)?;
                (checkpoint::unflatten(&from.unet.params, &from.weights, ""), from.classes)
            }
            Model::Classifier(_) => {
                let from = checkpoint::classifier::load(place)?;
                (checkpoint::unflatten(&from.classifier.params, &from.weights, ""), None)
            }
        };
        let fresh = self.params().initialise(options.seed);
        checkpoint::adopt(self.params(), &fresh, tensors, (classes.as_ref(), &data.classes), place)
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
