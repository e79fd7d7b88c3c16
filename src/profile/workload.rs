//! The plans of one step and what they run on.

use std::sync::Arc;

use super::Options;
use crate::diffusion::Program;
use crate::error::{Error, Result};
use crate::gpu::profile::Submission;
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Recording, Step, WEIGHTS};
use crate::nn::{UNet, UNetConfig, config::Size};
use crate::ops::diffusion::Records;
use crate::random::Random;
use crate::sample::{self, Request, Start};
use crate::train::TrainOptions;
use crate::train::engine::{self, DATA, DataShape};

/// One plan of a step.
pub struct Part {
    pub name: &'static str,
    pub recording: Recording,
    pub plan: Plan,
}

/// A step, ready to run.
pub struct Workload {
    /// In the order in which they run.
    pub parts: Vec<Part>,
    memory: Memory,
    /// Bytes that the recordings say it takes.
    pub planned_bytes: u64,
    training: Option<TrainOptions>,
}

/// Elements that one tensor may have: kernels index with a u32.
const MAX_ELEMENTS: u64 = 1 << 32;

impl Workload {
    /// Plans a step of `unet`, with initial weights and random images of its size.
    ///
    /// # Errors
    /// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if it does not fit.
    pub fn new(context: &Context, unet: &UNet, options: &Options) -> Result<Workload> {
        Workload::of(context, unet, Recorded::new(unet, options, &context.choices)?)
    }

    /// Plans what was recorded of `unet`, likewise.
    pub(super) fn of(context: &Context, unet: &UNet, recorded: Recorded) -> Result<Workload> {
        let planned_bytes = recorded.planned_bytes;
        let mut memory = Memory::default();
        let mut parts = Vec::new();
        for (name, recording) in recorded.parts {
            let plan = Plan::new(context, &recording, &mut memory, PlanOptions::default())?;
            parts.push(Part { name, recording, plan });
        }
        if let Some(data) = &recorded.data {
            memory.write(context, DATA, 0, &random_records(data));
        }
        if let Some(start) = &recorded.start {
            // Noise to begin with; what this takes beside the step is given back.
            Plan::new(context, start, &mut memory, PlanOptions::default())?.run(context, &Step::default());
            context.wait()?;
        }
        memory.write(context, WEIGHTS, 0, &unet.params.initialise(0));
        Ok(Workload { parts, memory, planned_bytes, training: recorded.training })
    }

    /// Encodes and submits one step.
    pub fn run(&self, context: &Context, step: u64) -> Submission {
        let values = self.values(step);
        let mut last = None;
        for part in &self.parts {
            last = Some(part.plan.run(context, &values));
        }
        last.expect("a step has a plan")
    }

    /// The uniform of step `step`.
    pub fn values(&self, step: u64) -> Step {
        if let Some(options) = &self.training {
            return engine::step_values(options, options.batch as u64, step, 0);
        }
        // Any sampler's step costs the same.
        let mut values = Step::default();
        values.set("counter", step as f64).set("guidance", 1.0).set("timestep", 500.0).set("clip", 1.0);
        values.set("x", 1.0).set("out", -0.01);
        values
    }

    /// All dispatches with their recordings, in the order in which they run.
    pub fn dispatches(&self) -> impl Iterator<Item = (&Recording, &crate::gpu::recorder::Dispatch)> {
        self.parts.iter().flat_map(|part| part.recording.dispatches.iter().map(|dispatch| (&part.recording, dispatch)))
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.memory.bytes() + self.parts.iter().map(|part| part.plan.own_bytes()).sum::<u64>()
    }

    /// Bytes of all that outlives a step: weights, gradients, moments, data.
    pub fn persistent_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Bytes of the temporaries: as they share slots, and if none did.
    pub fn temporary_bytes(&self) -> (u64, u64) {
        let shared = |part: &Part| part.recording.slots(true).bytes.iter().sum::<u64>();
        let apart = |part: &Part| part.recording.sum_bytes();
        (self.parts.iter().map(shared).sum(), self.parts.iter().map(apart).sum())
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

/// Refuses what the recorder would panic at. The largest activation is a concatenation of two at full size.
fn check_batch(config: &UNetConfig, batch: u32) -> Result<()> {
    let (height, width) = size(config)?;
    let widest = config.block_out_channels.iter().chain([&config.in_channels]).max().copied().unwrap_or(1);
    let image = 2 * widest.next_multiple_of(4) as u128 * height as u128 * width as u128;
    let most = (MAX_ELEMENTS as u128 - 1) / image;
    match most {
        0 => Err(Error::Config(format!("{height}x{width} images are too large for this model's channels"))),
        _ if batch as u128 > most.min(1 << 16) => {
            Err(Error::Config(format!("a batch of {batch} is too large; this model takes {}", most.min(1 << 16))))
        }
        _ => Ok(()),
    }
}

/// The recordings of a step; needs no device.
pub struct Recorded {
    /// In the order in which they run.
    pub parts: Vec<(&'static str, Recording)>,
    pub planned_bytes: u64,
    training: Option<TrainOptions>,
    data: Option<DataShape>,
    start: Option<Recording>,
}

impl Recorded {
    /// Records a step of `unet`.
    ///
    /// # Errors
    /// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if no kernel could index it.
    pub fn new(unet: &UNet, options: &Options, choices: &Arc<Choices>) -> Result<Recorded> {
        let (height, width) = size(&unet.config)?;
        if options.batch == 0 {
            return Err(Error::Config("--batch must be at least 1".into()));
        }
        check_batch(&unet.config, options.batch)?;
        unet.config.validate_denoiser()?;
        match options.infer {
            true => denoising(unet, options.batch, [height, width], false, choices),
            false => training(unet, options, [height, width], choices),
        }
    }

    /// Records a denoising step of `unet` for `batch` images; `guided`: under classifier-free guidance, as a batch of twice
    /// as many.
    ///
    /// # Errors
    /// As [`Recorded::new`].
    pub fn denoising(unet: &UNet, batch: u32, guided: bool, choices: &Arc<Choices>) -> Result<Recorded> {
        let (height, width) = size(&unet.config)?;
        check_batch(&unet.config, batch.saturating_mul(1 + u32::from(guided)))?;
        unet.config.validate_denoiser()?;
        denoising(unet, batch, [height, width], guided, choices)
    }
}

fn training(unet: &UNet, options: &Options, [height, width]: [u32; 2], choices: &Arc<Choices>) -> Result<Recorded> {
    let (batch, recompute, precision) = (options.batch, options.recompute, choices.precision);
    let options = TrainOptions { model: unet.config.clone(), batch, precision, recompute, ..TrainOptions::default() };
    options.validate()?;
    // The last embedding is the null class.
    let classes = unet.config.num_class_embeds.map_or(1, |embeds| embeds - 1);
    let shape = [height, width, unet.config.in_channels];
    let data = DataShape { images: batch, shape, classes, flip: false };
    let recordings = engine::record(unet, &options, &data, choices)?;
    let planned_bytes = recordings.peak_bytes();
    let parts = vec![("gradients", recordings.gradients), ("update", recordings.update)];
    Ok(Recorded { parts, planned_bytes, training: Some(options), data: Some(data), start: None })
}

/// As many images as a batch has, so that the step's memory is the model's and not the data's.
fn random_records(data: &DataShape) -> Vec<u32> {
    let mut random = Random::new(0);
    let bytes = data.shape.iter().map(|extent| *extent as usize).product::<usize>() * data.images as usize;
    let images: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
    let labels: Vec<u32> = (0..data.images).map(|index| index % data.classes.clamp(1, 1 << 16)).collect();
    Records::pack(&images, &labels)
}

fn denoising(
    unet: &UNet,
    batch: u32,
    [height, width]: [u32; 2],
    guided: bool,
    choices: &Arc<Choices>,
) -> Result<Recorded> {
    let labels = unet.is_conditional().then(|| vec![0; batch as usize]);
    let request = Request {
        program: Program::Steps(Vec::new()),
        initial_scale: 1.0,
        start: Start::Noise,
        known: None,
        labels,
        count: batch,
        guidance: if guided { 2.0 } else { 1.0 },
        seed: 0,
        height,
        width,
    };
    sample::check_elements(&unet.config, batch as u64 * (1 + u64::from(guided)), height, width)?;
    let recordings = sample::record(unet, WEIGHTS, batch, &request, choices);
    let planned_bytes = recordings.denoise.peak_bytes();
    let parts = vec![("denoise", recordings.denoise)];
    Ok(Recorded { parts, planned_bytes, training: None, data: None, start: Some(recordings.start) })
}
