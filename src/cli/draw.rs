//! Drawing samples with a checkpoint: what `sample` and `evaluate` share.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::{Map, Value};

use super::output::say;
use super::progress::Progress;
use super::ranks::{self, Ended};
use super::sampler;
use diffuse::checkpoint::{Checkpoint, classifier};
use diffuse::diffusion::{Sampler, SamplerKind};
use diffuse::error::Error;
use diffuse::gpu::WEIGHTS;
use diffuse::nn::Classifier;
use diffuse::nn::config::Size;
use diffuse::picture;
use diffuse::ranks::Ranks;
use diffuse::run::classifier as steering;
use diffuse::run::{self, Drawn, Frame, Generator, Networks, Request, Session};

/// Most samples of one command.
pub const MOST: u32 = 1 << 20;

/// Frames of a film.
const FRAMES: usize = 25;

/// How samples were drawn.
#[derive(Serialize)]
pub struct Method {
    pub sampler: &'static str,
    /// What is the sampler's own.
    pub settings: Map<String, Value>,
    /// None of a sampler that finds its own, nor has that a spacing.
    pub steps: Option<usize>,
    pub spacing: Option<&'static str>,
    /// Evaluations of the network as they were counted, mean over the samples.
    pub evaluations_per_sample: f64,
    /// Whether each of these is of two rows a sample, one with its class and one with none.
    pub doubled_batch: bool,
    pub guidance: f64,
    /// The scale of the classifier that steered, if one did.
    pub classifier_scale: Option<f64>,
    pub seed: u64,
}

impl Method {
    /// Of a drawing by `sampler` that took so many evaluations a sample.
    pub fn of(drawing: &Drawing, sampler: &Sampler, evaluations: f64) -> Method {
        let (request, mut kind) = (&drawing.request, sampler.kind);
        let mut settings = sampler::settings(&mut kind, None);
        if matches!(kind, SamplerKind::Ddim { .. }) {
            settings.push(("use-clipped-model-output", sampler.use_clipped_model_output.into()));
        }
        let listed = !matches!(sampler.kind, SamplerKind::Rk45 { .. });
        Method {
            sampler: sampler.kind.name(),
            settings: settings.into_iter().map(|(name, value)| (name.replace('-', "_"), value)).collect(),
            steps: listed.then_some(sampler.steps),
            spacing: listed.then(|| sampler.spacing_name()),
            evaluations_per_sample: evaluations,
            doubled_batch: request.is_guided(),
            guidance: request.guidance,
            classifier_scale: request.steering.as_ref().map(|steering| steering.scale),
            seed: request.seed,
        }
    }
}

/// A request to a checkpoint, with the classifier that the request is steered by, if it is.
pub struct Drawing<'a> {
    pub model: &'a Checkpoint,
    pub request: Request,
    pub classifier: Option<classifier::Checkpoint>,
    /// Images at a time, at the most.
    pub batch: u32,
    /// Who draws it together.
    pub ranks: Option<&'a dyn Ranks>,
}

/// The scale of classifier-free guidance that was asked for, or `otherwise` where the checkpoint has a null class.
///
/// # Errors
/// One line if it is no scale, or there is nothing to guide.
pub fn guidance(asked: Option<f64>, model: &Checkpoint, otherwise: f64) -> Result<f64> {
    match (asked, &model.classes) {
        (Some(scale), _) if !(-1000.0..=1000.0).contains(&scale) => {
            bail!("--guidance must be a number from -1000 to 1000")
        }
        (Some(scale), None) if scale != 1.0 => bail!("--guidance: this checkpoint knows no classes"),
        (None, None) => Ok(1.0),
        (asked, Some(classes)) if !classes.has_null => {
            let (number, name) = (classes.count() - 1, classes.names.last().cloned().unwrap_or_default());
            let last = if name == number.to_string() { format!("class {name}") } else { format!("{number}, {name}") };
            if asked.is_some_and(|scale| scale != 1.0) {
                say(format_args!(
                    "this checkpoint names no null class: guidance takes the last embedding, {last}, for it"
                ));
            }
            Ok(asked.unwrap_or(1.0))
        }
        (asked, _) => Ok(asked.unwrap_or(otherwise)),
    }
}

/// Height and width of what a checkpoint draws.
///
/// # Errors
/// One line if it doesn't say.
pub fn sides(model: &Checkpoint) -> Result<[u32; 2]> {
    match model.unet.config.sample_size.map(Size::sides) {
        Some((height, width)) => {
            model.unet.config.validate_size(height, width)?;
            Ok([height, width])
        }
        None => bail!(
            "{}: config.json has no sample_size: say it there, or to sample with --size",
            model.directory.display()
        ),
    }
}

/// `count` samples out of noise, without classes or guidance.
///
/// # Errors
/// One line if sampler and schedule don't fit.
pub fn request(model: &Checkpoint, sampler: &Sampler, count: u32, seed: u32) -> Result<Request> {
    Ok(Request::new(sampler, &model.scheduler.schedule()?, count, seed)?)
}

impl Drawing<'_> {
    /// Images at a time: no more than there are.
    pub fn batch(&self) -> u32 {
        self.batch.min(self.request.count)
    }

    /// The class of each sample, if anything draws them by class.
    pub fn labels(&self) -> Option<&[u32]> {
        let steered = self.request.steering.as_ref().map(|steering| &steering.labels);
        self.request.labels.as_ref().or(steered).map(Vec::as_slice)
    }

    /// The frame that it is planned in, if the networks can be asked for it.
    ///
    /// # Errors
    /// One line that says what doesn't fit.
    pub fn frame(&self) -> Result<Frame> {
        let frame = self.request.frame(self.batch, sides(self.model)?);
        self.request.check(&self.model.unet.config, self.steers(), &frame)?;
        Ok(frame)
    }

    /// The classifier that steers.
    fn steers(&self) -> Option<&Classifier> {
        self.classifier.as_ref().map(|classifier| &classifier.classifier)
    }

    /// Draws with a progress bar, together with other ranks if there are some.
    ///
    /// # Errors
    /// One line; of a batch that doesn't fit, it says how many images would. [`Ended`] at all ranks but 0 once all is drawn.
    pub fn run(&self, mut session: Session, film: &mut Film) -> Result<Drawn> {
        let Drawing { model, request, classifier, .. } = self;
        let networks = Networks { unet: &model.unet, weights: WEIGHTS, classifier: self.steers() };
        let frame = self.frame()?;
        let generator = Generator::fit(&mut session, &networks, &frame)?;
        session.write(WEIGHTS, &model.weights);
        if let Some(classifier) = classifier {
            session.write(steering::WEIGHTS, &classifier.weights);
        }
        self.ranks.map_or(Ok(()), ranks::begin_together)?;
        let mut bar: Option<Progress> = None;
        let watch = |progress: run::Progress| {
            let bar = bar.get_or_insert_with(|| Progress::new("sampling", 0, progress.of as u64));
            bar.set(progress.done as u64, String::new);
            if super::interrupt::interrupted() {
                return Err(Error::Interrupted);
            }
            film.watch(&progress)
        };
        let drawn = match self.ranks {
            Some(ranks) => generator.run_among(&session, request, ranks, watch),
            None => generator.run(&session, request, watch).map(Some),
        };
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(drawn?.ok_or(Ended::Done)?)
    }
}

/// Frames of the first batch.
pub struct Film {
    /// Images in a row, and steps; none if no film is wanted.
    wanted: Option<(usize, usize)>,
    pub frames: Vec<image::RgbImage>,
}

impl Film {
    /// A film of `steps` steps, `columns` images in a row.
    pub fn new(columns: usize, steps: usize) -> Film {
        Film { wanted: Some((columns, steps)), frames: Vec::new() }
    }

    /// No film.
    pub fn none() -> Film {
        Film { wanted: None, frames: Vec::new() }
    }

    fn watch(&mut self, progress: &run::Progress) -> diffuse::error::Result<()> {
        let Some((columns, steps)) = self.wanted else { return Ok(()) };
        let due = progress.step * FRAMES / steps > self.frames.len() || progress.step == steps;
        if progress.batch == 0 && due {
            let frame = progress.frame()?;
            self.frames.push(picture::grid(&frame, columns, picture::default_scale(frame.height).min(3)));
        }
        Ok(())
    }
}
