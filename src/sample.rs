//! Draws images: the U-Net and one fused denoise dispatch a step, coefficients from the host.

mod batch;
mod edit;
mod steered;

use std::sync::Arc;

use crate::diffusion::Program;
use crate::error::{Error, Result};
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Precision, Recorder, Recording, Step};
use crate::guidance;
use crate::nn::{UNet, UNetConfig};
use crate::ops::diffusion;
use crate::picture::Images;
use batch::Batch;
pub use batch::set_coefficients;
pub use edit::{Known, Start};
use steered::Steered;
pub use steered::{ClassifierGuidance, record_steering};

const X: &str = "x";
const PREVIOUS: &str = "previous";
const LABELS: &str = "sample labels";
/// Zeros, where the network is not asked.
const NO_OUTPUT: &str = "no output";
/// A picture of which a part is known, and where.
const KNOWN: &str = "known";
const MASK: &str = "mask";

/// What to draw.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the sampler does.
    pub program: Program,
    /// Standard deviation of the noise it starts from.
    pub initial_scale: f64,
    /// What it starts from.
    pub start: Start,
    /// What stays as it is.
    pub known: Option<Known>,
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

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub images: Images,
    /// Evaluations of the network that a sample took, mean over the samples: an adaptive sampler takes as many as the batch
    /// needs. The two halves of a batch under classifier-free guidance are evaluated at once, and counted once.
    pub evaluations: f64,
}

/// Plans for batches of one size.
pub struct Generator<'a> {
    context: &'a Context,
    start: Plan,
    denoise: Plan,
    update: Option<Plan>,
    batch: u32,
    shape: [u32; 4],
    guided: bool,
    null_class: u32,
    steered: Option<Steered>,
}

/// The recordings of a sampler: where it starts, one step, and a step that does without the network if it takes such.
pub struct Recordings {
    pub start: Recording,
    pub denoise: Recording,
    pub update: Option<Recording>,
    guided: bool,
}

/// Records a sampler's start and step for `batch` images, weights read from the flat buffer `weights`.
pub fn record(unet: &UNet, weights: &'static str, batch: u32, request: &Request, choices: &Arc<Choices>) -> Recordings {
    record_with(unet, weights, batch, request, choices, false)
}

/// As [`record`]; `steered` adds the classifier's gradient to the network's output.
fn record_with(
    unet: &UNet,
    weights: &'static str,
    batch: u32,
    request: &Request,
    choices: &Arc<Choices>,
    steered: bool,
) -> Recordings {
    let guided = is_guided(request);
    let channels = unet.config.in_channels;
    let rows = if guided { 2 * batch } else { batch };
    let network = [rows, request.height, request.width, channels];
    let slots = [request.program.slots() as u32 * batch, request.height, request.width, channels];
    let r = &mut Recorder::new();
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, slots));
    diffusion::start(r, x, previous, guided, request.initial_scale as f32);
    let start = std::mem::take(r).finish();
    let update = matches!(request.program, Program::Adaptive(_)).then(|| {
        let r = &mut Recorder::new();
        let [x, none] = [X, NO_OUTPUT].map(|name| r.persistent(name, network));
        let previous = r.persistent(PREVIOUS, slots);
        diffusion::denoise(r, x, none, previous, guided);
        std::mem::take(r).finish()
    });
    let r = &mut Recorder::for_model(unet.params.elements, weights).with_choices(choices);
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, slots));
    let labels = unet.is_conditional().then(|| r.persistent(LABELS, [1, 1, 1, rows]));
    let timestep = diffusion::broadcast_timestep(r, rows);
    let (out, _) = unet.forward(r, x, timestep, labels);
    let single = [batch, request.height, request.width, channels];
    let out = if steered { guidance::steer(r, out, single) } else { out };
    r.scope("denoise", |r| diffusion::denoise(r, x, out, previous, guided));
    if request.known.is_some() {
        let [known, mask] = [KNOWN, MASK].map(|name| r.persistent(name, [1, request.height, request.width, channels]));
        r.scope("mask", |r| diffusion::impute(r, x, known, mask, guided));
    }
    Recordings { start, denoise: std::mem::take(r).finish(), update, guided }
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
        memory.forget(&[X, PREVIOUS, LABELS, NO_OUTPUT, KNOWN, MASK]);
        let recordings = record(unet, weights, batch, request, &context.choices.at(Precision::F32));
        let start = Plan::new(context, &recordings.start, memory, PlanOptions::default())?;
        let denoise = Plan::new(context, &recordings.denoise, memory, PlanOptions::default())?;
        let update = recordings.update.map(|update| Plan::new(context, &update, memory, PlanOptions::default()));
        let update = update.transpose()?;
        let shape = [batch, request.height, request.width, unet.config.in_channels];
        let null_class = unet.config.num_class_embeds.unwrap_or(1) - 1;
        let guided = recordings.guided;
        let steered = None;
        let generator = Generator { context, start, denoise, update, batch, shape, guided, null_class, steered };
        if let Some(known) = &request.known {
            memory.write(context, KNOWN, 0, &generator.padded(&known.image));
            memory.write(context, MASK, 0, &generator.padded(&known.mask));
        }
        Ok(generator)
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
    ) -> Result<Drawn> {
        let [_, height, width, channels] = self.shape.map(|extent| extent as usize);
        let mut all = Images { values: Vec::new(), count: request.count as usize, height, width, channels };
        let mut evaluations = 0.0;
        for index in 0..request.count.div_ceil(self.batch) {
            let first = index * self.batch;
            self.write_labels(memory, request, first);
            self.write_steered_labels(memory, first);
            self.begin(memory, request, first)?;
            let mut batch = Batch::new(self, memory, request, index, &mut watch);
            let report = request.program.run(&mut batch)?;
            let images = self.images(memory)?;
            let samples = (request.count - first).min(self.batch);
            all.values.extend_from_slice(&images.values[..samples as usize * height * width * channels]);
            evaluations += report.evaluations as f64 * samples as f64 / request.count as f64;
        }
        match all.values.iter().all(|value| value.is_finite()) {
            true => Ok(Drawn { images: all, evaluations }),
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

/// Parts of an adaptive sampler's way, of which nobody knows how many steps it takes.
const SHARES: usize = 1000;

impl Request {
    /// Steps of a batch, as [`Progress`] counts them.
    pub fn length(&self) -> usize {
        match &self.program {
            Program::Steps(steps) => steps.len(),
            Program::Adaptive(_) => SHARES,
        }
    }
}

/// How far a sampler is.
pub struct Progress<'a> {
    /// Steps done, over all batches; of an adaptive sampler, thousandths of the way.
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

/// Whether the network sees each sample twice at once, with its class and with none.
pub fn is_guided(request: &Request) -> bool {
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

/// Whether `unet` can be asked for this: a recording takes that for granted.
///
/// # Errors
/// [`Error::Config`] if the size, the channels or the labels don't fit.
pub fn check(unet: &UNet, request: &Request) -> Result<()> {
    let config = &unet.config;
    config.validate_size(request.height, request.width)?;
    config.validate_denoiser()?;
    if !config.learns_variance() && request.program.learns_variance() {
        return Err(Error::Config("this checkpoint has no learned variance".into()));
    }
    edit::check(request, config.in_channels)?;
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
