//! The plans of one step and what they run on.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Choices, Plan, Plans, Recording, Recordings, Step, Submission, WEIGHTS};
use crate::nn::{UNet, UNetConfig, config::Size};
use crate::ops::diffusion::Records;
use crate::random::Random;
use crate::run::trainer::{self, DATA, DataShape};
use crate::run::{Frame, Networks, Session, TrainOptions, generator};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Images in a batch.
    pub batch: u32,
    /// Unprofiled steps.
    pub steps: usize,
    /// A denoising step instead of a training step.
    pub infer: bool,
    /// As [`crate::run::TrainOptions::recompute`].
    pub recompute: bool,
}

/// A step, ready to run.
pub struct Workload<'a> {
    session: Session<'a>,
    /// In the order in which they run.
    pub recordings: Recordings,
    plans: Plans,
    training: Option<TrainOptions>,
}

/// Records a step of `unet` as `options` say.
///
/// # Errors
/// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if no kernel could index it.
pub fn record(unet: &UNet, options: &Options, choices: &Arc<Choices>) -> Result<Recordings> {
    match options.infer {
        false => trainer::record(unet, &training(unet, options, choices)?, &data(unet, options.batch)?, choices),
        true => {
            let mut recordings = record_denoising(unet, options.batch, false, choices)?;
            recordings.take("start");
            Ok(recordings)
        }
    }
}

/// Records a step of a sampler that starts in noise.
fn record_denoising(unet: &UNet, batch: u32, guided: bool, choices: &Arc<Choices>) -> Result<Recordings> {
    unet.config.validate_denoiser()?;
    let (height, width) = size(&unet.config)?;
    // Any sampler's step costs the same.
    let frame = Frame { batch, height, width, slots: 1, guided, updates: false, masked: false };
    generator::record(&Networks { unet, weights: WEIGHTS, classifier: None }, &frame, choices)
}

impl<'a> Workload<'a> {
    /// Plans a step of `unet`, with initial weights and random images of its size.
    ///
    /// # Errors
    /// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if it does not fit.
    pub fn new(mut session: Session<'a>, unet: &UNet, options: &Options) -> Result<Workload<'a>> {
        if options.infer {
            return Workload::denoising(session, unet, options.batch, false);
        }
        let record = |batch, choices: &_| record(unet, &Options { batch, ..*options }, choices);
        let (recordings, plans) = session.fit(options.batch, record)?;
        session.write(DATA, &random_records(&data(unet, options.batch)?));
        session.write(WEIGHTS, &unet.params.initialise(0));
        let training = Some(training(unet, options, session.choices())?);
        Ok(Workload { session, recordings, plans, training })
    }

    /// Plans a denoising step of `unet` for `batch` images; `guided`: under classifier-free guidance, as a batch of twice
    /// as many.
    ///
    /// # Errors
    /// As [`Workload::new`].
    pub fn denoising(mut session: Session<'a>, unet: &UNet, batch: u32, guided: bool) -> Result<Workload<'a>> {
        let record = |batch, choices: &_| record_denoising(unet, batch, guided, choices);
        let (mut recordings, mut plans) = session.fit(batch, record)?;
        recordings.take("start");
        // Noise to begin with; what this takes beside the step is given back.
        if let Some(start) = plans.take("start") {
            let mut values = Step::default();
            values.set("noise", 1.0);
            session.run(&start, &values);
            session.context.wait()?;
        }
        session.write(WEIGHTS, &unet.params.initialise(0));
        Ok(Workload { session, recordings, plans, training: None })
    }

    /// Encodes and submits one step.
    pub fn run(&self, step: u64) -> Submission {
        let values = self.values(step);
        let submissions = self.plans.iter().map(|(_, plan)| self.session.run(plan, &values));
        submissions.last().expect("a step has a plan")
    }

    /// The uniform of step `step`.
    pub fn values(&self, step: u64) -> Step {
        if let Some(options) = &self.training {
            return trainer::step_values(options, options.batch as u64, step, 0);
        }
        let mut values = Step::default();
        values.set("counter", step as f64).set("guidance", 1.0).set("timestep", 500.0).set("clip", 1.0);
        values.set("x", 1.0).set("out", -0.01);
        values
    }

    /// The plans by name, in the order in which they run.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.plans.iter()
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.persistent_bytes() + self.plans().map(|(_, plan)| plan.own_bytes()).sum::<u64>()
    }

    /// Bytes of all that outlives a step: weights, gradients, moments, data.
    pub fn persistent_bytes(&self) -> u64 {
        self.session.memory().bytes()
    }

    /// Bytes of the temporaries: as they share slots, and if none did.
    pub fn temporary_bytes(&self) -> (u64, u64) {
        let shared = |(_, recording): (&str, &Recording)| recording.slots(true).bytes.iter().sum::<u64>();
        let apart = |(_, recording): (&str, &Recording)| recording.sum_bytes();
        (self.recordings.iter().map(shared).sum(), self.recordings.iter().map(apart).sum())
    }
}

/// Height and width of the model's images.
pub(super) fn size(config: &UNetConfig) -> Result<(u32, u32)> {
    let Some((height, width)) = config.sample_size.map(Size::sides) else {
        return Err(Error::Config("the model's configuration has no sample_size, so that its images have none".into()));
    };
    config.validate_size(height, width)?;
    Ok((height, width))
}

fn training(unet: &UNet, options: &Options, choices: &Choices) -> Result<TrainOptions> {
    let (batch, recompute, precision) = (options.batch, options.recompute, choices.precision);
    let options = TrainOptions { model: unet.config.clone(), batch, precision, recompute, ..TrainOptions::default() };
    options.validate()?;
    unet.config.validate_denoiser()?;
    Ok(options)
}

/// As many images as a batch has, so that the step's memory is the model's and not the data's.
fn data(unet: &UNet, batch: u32) -> Result<DataShape> {
    let (height, width) = size(&unet.config)?;
    // The last embedding is the null class.
    let classes = unet.config.num_class_embeds.map_or(1, |embeds| embeds - 1);
    Ok(DataShape { images: batch, shape: [height, width, unet.config.in_channels], classes, are_streamed: false })
}

fn random_records(data: &DataShape) -> Vec<u32> {
    let mut random = Random::new(0);
    let bytes = data.shape.iter().map(|extent| *extent as usize).product::<usize>() * data.images as usize;
    let images: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
    let labels: Vec<u32> = (0..data.images).map(|index| index % data.classes.clamp(1, 1 << 16)).collect();
    Records::pack(&images, &labels)
}
