//! What is drawn, and the frame that it is drawn in: what a generator is planned for.

use crate::diffusion::{Program, Sampler, Schedule};
use crate::error::{Error, Result};
use crate::nn::{Classifier, UNetConfig};

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
    /// Where a classifier steers the samples, and how hard.
    pub steering: Option<Steering>,
    pub seed: u64,
}

/// What a classifier makes of samples.
#[derive(Clone, Debug)]
pub struct Steering {
    /// The scale s (Dhariwal & Nichol 2021, algorithm 2); 0 is none.
    pub scale: f64,
    /// The class of each sample, as many as samples.
    pub labels: Vec<u32>,
}

/// Where samples start.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// In noise.
    #[default]
    Noise,
    /// In this noise, and with that of each step.
    Given(Box<Noise>),
    /// In the image `[H, W, C]`, times `scale`, and noise (Meng et al. 2022, SDEdit, Algorithm 1).
    Image { image: Vec<f32>, scale: f64 },
    /// Along the great circle from the noise of one seed's first sample to that of another's (Song, Meng & Ermon 2020,
    /// section 5.3, appendix D.5).
    Between { seeds: [u64; 2] },
}

/// Noise that isn't drawn here: what two programs have in common.
#[derive(Clone, Debug)]
pub struct Noise {
    /// x_T of each sample, `[N, H, W, C]` of deviation 1.
    pub start: Vec<f32>,
    /// The same of each step that adds noise, in their order.
    pub steps: Vec<Vec<f32>>,
}

/// A part of the picture that is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// `[H, W, C]` in [-1, 1].
    pub image: Vec<f32>,
    /// `[H, W, C]`: 1 where the image stays, 0 where the network paints, between them for a part of each.
    pub mask: Vec<f32>,
}

/// What a generator is planned for: any request that it fits can be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Images at a time.
    pub batch: u32,
    pub height: u32,
    pub width: u32,
    /// Slots of the past that the sampler needs.
    pub slots: u32,
    /// Whether the network sees each sample twice at once.
    pub guided: bool,
    /// Whether the sampler takes steps without the network.
    pub updates: bool,
    /// Whether a part of the picture is known.
    pub masked: bool,
}

/// Parts of an adaptive sampler's way, of which nobody knows how many steps it takes.
pub(super) const SHARES: usize = 1000;

impl Request {
    /// `count` samples out of noise, as `sampler` draws them, without classes or guidance.
    ///
    /// # Errors
    /// [`Error::Config`] if sampler and schedule don't go together.
    pub fn new(sampler: &Sampler, schedule: &Schedule, count: u32, seed: u32) -> Result<Request> {
        Ok(Request {
            program: sampler.program(schedule).map_err(|error| Error::Config(error.to_string()))?,
            initial_scale: sampler.initial_scale(schedule),
            start: Start::Noise,
            known: None,
            labels: None,
            count,
            guidance: 1.0,
            steering: None,
            seed: seed.into(),
        })
    }

    /// Steps of a batch, as [`super::Progress`] counts them.
    pub fn length(&self) -> usize {
        match &self.program {
            Program::Steps(steps) => steps.len(),
            Program::Adaptive(_) => SHARES,
        }
    }

    /// Whether the network sees each sample twice at once, with its class and with none.
    pub fn is_guided(&self) -> bool {
        self.guidance != 1.0 && self.labels.is_some()
    }

    /// The slot of given noise, behind those of the sampler, if it adds any.
    pub(super) fn noise_slot(&self) -> Option<usize> {
        let adds = matches!(self.start, Start::Given(_)) && !self.program.is_deterministic();
        adds.then(|| self.program.slots())
    }

    /// The frame that it needs, for images of `height` x `width`, up to `batch` at a time.
    pub fn frame(&self, batch: u32, [height, width]: [u32; 2]) -> Frame {
        Frame {
            batch: batch.min(self.count),
            height,
            width,
            slots: self.program.slots() as u32 + u32::from(self.noise_slot().is_some()),
            guided: self.is_guided(),
            updates: matches!(self.program, Program::Adaptive(_)) || self.program.thresholds(),
            masked: self.known.is_some(),
        }
    }

    /// Whether a U-Net, and a classifier if one steers, can be asked for this in `frame`.
    ///
    /// # Errors
    /// [`Error::Config`] names what doesn't fit.
    pub fn check(&self, config: &UNetConfig, classifier: Option<&Classifier>, frame: &Frame) -> Result<()> {
        config.validate_size(frame.height, frame.width)?;
        config.validate_denoiser()?;
        if self.program.learns_variance() {
            config.validate_variance()?;
        }
        self.check_images([frame.height, frame.width, config.in_channels])?;
        match (&self.labels, config.num_class_embeds) {
            (None, Some(_)) => {
                return Err(Error::Config("this checkpoint is class-conditional: it needs labels".into()));
            }
            (Some(_), None) => return Err(Error::Config("this checkpoint knows no classes".into())),
            (Some(labels), Some(classes)) => check_labels(labels, classes, "there are")?,
            (None, None) => {}
        }
        let (Some(steering), Some(classifier)) = (&self.steering, classifier) else { return Ok(()) };
        let (own, (height, width)) = (&classifier.config, classifier.config.sides()?);
        let size = |[h, w, c]: [u32; 3]| format!("{h}x{w}x{c}");
        let known = size([height, width, own.unet.in_channels]);
        let samples = size([frame.height, frame.width, config.in_channels]);
        if known != samples {
            return Err(Error::Config(format!("the classifier knows images of {known}, samples are {samples}")));
        }
        check_labels(&steering.labels, own.classes, "the classifier knows")
    }

    /// Whether there is noise for each sample of `size` elements and each step.
    fn check_noise(&self, noise: &Noise, size: usize) -> Result<()> {
        let (steps, given) = (noisy_steps(&self.program), noise.steps.len());
        if self.program.learns_variance() {
            return Err(Error::Config(
                "given noise and a learned variance don't go together: take another variance".into(),
            ));
        }
        if given < steps {
            let problem = format!("noise.{given} is missing: {steps} steps of this sampler add noise, each its own");
            return Err(Error::Config(problem));
        }
        let whole = self.count as usize * size;
        match [&noise.start].into_iter().chain(&noise.steps).all(|values| values.len() == whole) {
            true => Ok(()),
            false => Err(Error::Config("the noise has another size than the samples".into())),
        }
    }

    /// Whether its images have the size of the samples, [H, W, C], and its sampler does what they need.
    fn check_images(&self, shape: [u32; 3]) -> Result<()> {
        let size: usize = shape.iter().map(|extent| *extent as usize).product();
        let refuse = |problem: &str| Err(Error::Config(problem.into()));
        match &self.start {
            Start::Image { image, .. } if image.len() != size => {
                return refuse("the image has another size than the model's");
            }
            Start::Given(noise) => return self.check_noise(noise, size),
            Start::Between { .. } if !self.program.is_deterministic() => {
                return refuse("interpolation needs a deterministic sampler: ddim, euler, heun, dpm++, unipc or rk45");
            }
            _ => {}
        }
        match &self.known {
            Some(known) if known.image.len() != size || known.mask.len() != size => {
                refuse("the mask or its image has another size than the model's")
            }
            Some(_) if matches!(self.program, Program::Adaptive(_)) => {
                refuse("a mask needs a sampler of known steps: any but rk45")
            }
            Some(_) if self.program.thresholds() => refuse(
                "a mask and thresholding don't go together here: set thresholding to false in scheduler_config.json",
            ),
            _ => Ok(()),
        }
    }
}

/// Steps that add noise.
fn noisy_steps(program: &Program) -> usize {
    match program {
        Program::Steps(steps) => steps.iter().filter(|step| step.noise != 0.0).count(),
        Program::Adaptive(_) => 0,
    }
}

fn check_labels(labels: &[u32], classes: u32, known: &str) -> Result<()> {
    match labels.iter().find(|label| **label >= classes) {
        Some(label) => Err(Error::Config(format!("class {label} is out of range: {known} {classes}"))),
        None => Ok(()),
    }
}
