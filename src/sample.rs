//! Draws images: the U-Net and one fused denoise dispatch a step, coefficients from the host.

mod steered;

use crate::diffusion::Step as Coefficients;
use crate::error::{Error, Result};
use crate::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Recording, Step};
use crate::guidance;
use crate::nn::{UNet, UNetConfig};
use crate::ops::diffusion;
use crate::picture::Images;
pub use steered::ClassifierGuidance;
use steered::Steered;

const X: &str = "x";
const PREVIOUS: &str = "previous";
const LABELS: &str = "sample labels";

/// What to draw.
#[derive(Clone, Debug)]
pub struct Request {
    /// The sampler's steps, first to last.
    pub steps: Vec<Coefficients>,
    /// Standard deviation of the noise it starts from.
    pub initial_scale: f64,
    /// The class of each sample, if the network is told one. As many as samples.
    pub labels: Option<Vec<u32>>,
    /// How many samples.
    pub count: u32,
    /// Scale S of classifier-free guidance, S·D(x, c) + (1 - S)·D(x); 1 is none (Ho & Salimans 2022).
    pub guidance: f64,
    pub seed: u64,
    pub height: u32,
    pub width: u32,
}

/// Plans for batches of one size.
pub struct Generator<'a> {
    context: &'a Context,
    start: Plan,
    denoise: Plan,
    batch: u32,
    shape: [u32; 4],
    guided: bool,
    null_class: u32,
    steered: Option<Steered>,
}

/// The two recordings of a sampler: where it starts, and one step.
pub struct Recordings {
    pub start: Recording,
    pub denoise: Recording,
    guided: bool,
}

/// Records a sampler's start and step for `batch` images, weights read from the flat buffer `weights`.
pub fn record(unet: &UNet, weights: &'static str, batch: u32, request: &Request) -> Recordings {
    record_with(unet, weights, batch, request, false)
}

/// As [`record`]; `steered` adds the classifier's gradient to the network's output.
fn record_with(unet: &UNet, weights: &'static str, batch: u32, request: &Request, steered: bool) -> Recordings {
    let guided = is_guided(request);
    let channels = unet.config.in_channels;
    let shape = [batch, request.height, request.width, channels];
    let rows = if guided { 2 * batch } else { batch };
    let network = [rows, request.height, request.width, channels];
    let r = &mut Recorder::new();
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, shape));
    diffusion::start(r, x, previous, guided, request.initial_scale as f32);
    let start = std::mem::take(r).finish();
    let r = &mut Recorder::for_model(unet.params.elements, weights);
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, shape));
    let labels = unet.is_conditional().then(|| r.persistent(LABELS, [1, 1, 1, rows]));
    let timestep = diffusion::broadcast_timestep(r, rows);
    let (out, _) = unet.forward(r, x, timestep, labels);
    let out = if steered { guidance::steer(r, out, shape) } else { out };
    r.scope("denoise", |r| diffusion::denoise(r, x, out, previous, guided));
    Recordings { start, denoise: std::mem::take(r).finish(), guided }
}

impl<'a> Generator<'a> {
    /// Plans for `batch` images at a time; `memory` holds the flat buffer `weights`, or will.
    ///
    /// # Errors
    /// [`Error::Config`] if the network's output can't be fed back to it or the labels don't fit, [`Error::Device`] if
    /// the batch does not fit.
    pub fn new(
        context: &'a Context,
        unet: &UNet,
        memory: &mut Memory,
        weights: &'static str,
        batch: u32,
        request: &Request,
    ) -> Result<Generator<'a>> {
        check(unet, request)?;
        let rows = if is_guided(request) { 2 * batch as u64 } else { batch as u64 };
        check_elements(&unet.config, rows, request.height, request.width)?;
        memory.forget(&[X, PREVIOUS, LABELS]);
        let recordings = record(unet, weights, batch, request);
        let start = Plan::new(context, &recordings.start, memory, PlanOptions::default())?;
        let denoise = Plan::new(context, &recordings.denoise, memory, PlanOptions::default())?;
        let shape = [batch, request.height, request.width, unet.config.in_channels];
        let null_class = unet.config.num_class_embeds.unwrap_or(1) - 1;
        let guided = recordings.guided;
        Ok(Generator { context, start, denoise, batch, shape, guided, null_class, steered: None })
    }

    /// Draws all samples of the request, batch by batch. `watch(done, of, frame)` is called after every step, done
    /// counting the steps of all batches; asking it for the frame reads the images back.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, [`Error::Diverged`] if a sample is not finite.
    pub fn run(
        &self,
        memory: &Memory,
        request: &Request,
        mut watch: impl FnMut(Progress) -> Result<()>,
    ) -> Result<Images> {
        let [_, height, width, channels] = self.shape.map(|extent| extent as usize);
        let mut all = Images { values: Vec::new(), count: request.count as usize, height, width, channels };
        let batches = request.count.div_ceil(self.batch);
        let of = batches as usize * request.steps.len();
        for index in 0..batches {
            let first = index * self.batch;
            self.write_labels(memory, request, first);
            self.write_steered_labels(memory, first);
            self.start.run(self.context, &self.values(request, first, 0));
            let mut last = None;
            for (number, coefficients) in request.steps.iter().enumerate() {
                let mut values = self.values(request, first, number);
                set(&mut values, coefficients);
                self.steer(&mut values, coefficients);
                let submitted = self.denoise.run(self.context, &values);
                // One step ahead of the device: progress is true, and nothing piles up.
                if let Some(last) = last.replace(submitted) {
                    self.context.wait_for(Some(last))?;
                }
                let done = index as usize * request.steps.len() + number + 1;
                watch(Progress { done, of, batch: index, step: number + 1, generator: self, memory })?;
            }
            let images = self.images(memory)?;
            let wanted = (request.count - first).min(self.batch) as usize * height * width * channels;
            all.values.extend_from_slice(&images.values[..wanted]);
        }
        match all.values.iter().all(|value| value.is_finite()) {
            true => Ok(all),
            false => Err(Error::Diverged("the samples are not finite; is this checkpoint trained?".into())),
        }
    }

    /// The images as they are now.
    fn images(&self, memory: &Memory) -> Result<Images> {
        let [n, height, width, channels] = self.shape.map(|extent| extent as usize);
        let padded = memory.read(self.context, X)?;
        let rows = padded.chunks_exact(channels.next_multiple_of(4)).take(n * height * width);
        let values = rows.flat_map(|row| row[..channels].iter().copied()).collect();
        Ok(Images { values, count: n, height, width, channels })
    }

    fn values(&self, request: &Request, first: u32, number: usize) -> Step {
        let mut values = Step::default();
        values.set("seed", (request.seed as u32) as f64).set("sample", first as f64);
        values.set("counter", number as f64).set("guidance", request.guidance);
        values
    }

    /// The labels of a batch, then the null class for its unconditional half; surplus places repeat the last.
    fn write_labels(&self, memory: &Memory, request: &Request, first: u32) {
        let Some(labels) = &request.labels else { return };
        let label = |i: u32| labels[((first + i) as usize).min(labels.len() - 1)];
        let mut values: Vec<u32> = (0..self.batch).map(label).collect();
        if self.guided {
            values.extend(std::iter::repeat_n(self.null_class, self.batch as usize));
        }
        values.resize(values.len().next_multiple_of(4), 0);
        memory.write(self.context, LABELS, 0, &values);
    }
}

/// How far a sampler is.
pub struct Progress<'a> {
    /// Steps done, over all batches.
    pub done: usize,
    pub of: usize,
    pub batch: u32,
    /// Steps done of this batch.
    pub step: usize,
    generator: &'a Generator<'a>,
    memory: &'a Memory,
}

impl Progress<'_> {
    /// The images of this batch as they are now.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn frame(&self) -> Result<Images> {
        self.generator.images(self.memory)
    }
}

fn set(values: &mut Step, step: &Coefficients) {
    values
        .set("timestep", step.timestep)
        .set("x", step.x)
        .set("out", step.out)
        .set("x0", step.x0)
        .set("x0_from_x", step.x0_from_x)
        .set("x0_from_out", step.x0_from_out)
        .set("clip", step.clip)
        .set("previous", step.previous)
        .set("noise", step.noise);
}

fn is_guided(request: &Request) -> bool {
    request.guidance != 1.0 && request.labels.is_some()
}

/// Whether to allocate `bytes` only to see whether they fit. A driver that computes on the CPU takes the machine's own
/// memory, and some touch all of it: the answer is not worth gigabytes.
pub fn may_try(context: &Context, bytes: u64) -> bool {
    !context.is_cpu() || bytes <= 1 << 30
}

/// Whether the widest activation of `images` images of `height` x `width` is one that kernels can index: a recording
/// takes that for granted.
///
/// # Errors
/// [`Error::Device`] if it is wider.
pub fn check_elements(config: &UNetConfig, images: u64, height: u32, width: u32) -> Result<()> {
    let channels = &config.block_out_channels;
    let padded = |c: u32| c.next_multiple_of(4) as u64;
    let widest = (0..channels.len()).map(|level| {
        // Where the way up joins the way down, each may be as wide as a neighbouring level; a head is padded alone.
        let joined = 2 * channels[level.saturating_sub(1)..channels.len().min(level + 2)].iter().max().unwrap_or(&0);
        let head = config.head_dim(channels[level]).max(1);
        let attended = channels[level].div_ceil(head) as u64 * padded(head);
        (height as u64 * width as u64).div_ceil(1 << (2 * level)) * attended.max(padded(joined))
    });
    let outside = height as u64 * width as u64 * padded(config.in_channels.max(config.out_channels));
    let elements = widest.fold(outside, u64::max).saturating_mul(images);
    if elements > u32::MAX as u64 {
        let problem = format!("{images} images of {height}x{width} make a tensor of {elements} elements, at most 2^32");
        return Err(Error::Device(format!("{problem} can be indexed")));
    }
    Ok(())
}

fn check(unet: &UNet, request: &Request) -> Result<()> {
    let config = &unet.config;
    config.validate_size(request.height, request.width)?;
    if config.in_channels != config.out_channels {
        let (inputs, outputs) = (config.in_channels, config.out_channels);
        return Err(Error::Config(format!("a model of {inputs} channels in and {outputs} out can't be sampled here")));
    }
    match (&request.labels, config.num_class_embeds) {
        (None, Some(_)) => Err(Error::Config("this checkpoint is class-conditional: it needs labels".into())),
        (Some(_), None) => Err(Error::Config("this checkpoint knows no classes".into())),
        (Some(labels), Some(classes)) => match labels.iter().find(|label| **label >= classes) {
            Some(label) => Err(Error::Config(format!("class {label} is out of range: there are {classes}"))),
            None => Ok(()),
        },
        (None, None) => Ok(()),
    }
}
