//! Drawing samples with a checkpoint: what `sample` and `evaluate` share.

use std::sync::Arc;

use anyhow::{Result, bail};

use super::progress::Progress;
use super::steering::Chosen;
use diffuse::checkpoint::Checkpoint;
use diffuse::diffusion::Sampler;
use diffuse::error::Error;
use diffuse::gpu::{Choices, Context, Memory, Recording, WEIGHTS};
use diffuse::nn::config::Size;
use diffuse::picture;
use diffuse::sample::{self, Drawn, Generator, Request, Start};

/// Most samples of one command.
pub const MOST: u32 = 1 << 20;

/// Frames of a film.
const FRAMES: usize = 25;

/// A request to a checkpoint, with the classifier that steers it, if any.
pub struct Drawing<'a> {
    pub model: &'a Checkpoint,
    pub request: Request,
    pub classifier: Option<Chosen>,
    /// Images at a time.
    pub batch: u32,
}

/// Classes without the null class.
pub fn classes(model: &Checkpoint) -> Option<u32> {
    model.unet.config.num_class_embeds.map(|embeds| (embeds - 1).max(1))
}

/// The scale of classifier-free guidance that was asked for, or `otherwise` where the checkpoint knows classes.
///
/// # Errors
/// One line if it is no scale, or there is nothing to guide.
pub fn guidance(asked: Option<f64>, model: &Checkpoint, otherwise: f64) -> Result<f64> {
    match (asked, classes(model)) {
        (Some(scale), _) if !(-1000.0..=1000.0).contains(&scale) => {
            bail!("--guidance must be a number from -1000 to 1000")
        }
        (Some(scale), None) if scale != 1.0 => bail!("--guidance: this checkpoint knows no classes"),
        (None, None) => Ok(1.0),
        (asked, _) => Ok(asked.unwrap_or(otherwise)),
    }
}

/// `count` samples out of noise, without classes or guidance.
///
/// # Errors
/// One line if the checkpoint doesn't say its size, or sampler and schedule don't fit.
pub fn request(model: &Checkpoint, sampler: &Sampler, count: u32, seed: u32) -> Result<Request> {
    let Some((height, width)) = model.unet.config.sample_size.map(Size::sides) else {
        bail!("{}: config.json has no sample_size", model.directory.display());
    };
    let schedule = model.scheduler.schedule()?;
    Ok(Request {
        program: sampler.program(&schedule).map_err(|error| Error::Config(error.to_string()))?,
        initial_scale: sampler.initial_scale(&schedule),
        start: Start::Noise,
        known: None,
        labels: None,
        count,
        guidance: 1.0,
        seed: seed.into(),
        height,
        width,
    })
}

impl Drawing<'_> {
    /// Images at a time: no more than there are.
    pub fn batch(&self) -> u32 {
        self.batch.min(self.request.count)
    }

    /// What runs on the device, for the tuner; nothing if the batch is one that kernels can't index: [`Drawing::run`] says
    /// which they can.
    ///
    /// # Errors
    /// [`Error::Config`] if model, request and classifier don't fit.
    pub fn recordings(&self, choices: &Arc<Choices>) -> diffuse::error::Result<Vec<Recording>> {
        let Drawing { model, request, classifier, .. } = self;
        sample::check(&model.unet, request)?;
        let rows = self.batch() as u64 * if sample::is_guided(request) { 2 } else { 1 };
        if sample::check_elements(&model.unet.config, rows, request.height, request.width).is_err() {
            return Ok(Vec::new());
        }
        let denoise = sample::record(&model.unet, WEIGHTS, self.batch(), request, choices).denoise;
        let gradient = classifier.as_ref().map(|classifier| classifier.record(model, self.batch(), request, choices));
        Ok(std::iter::once(denoise).chain(gradient.transpose()?).collect())
    }

    /// The class of each sample, if anything draws them by class.
    pub fn labels(&self) -> Option<&[u32]> {
        let steered = self.classifier.as_ref().map(|classifier| &classifier.labels);
        self.request.labels.as_ref().or(steered).map(Vec::as_slice)
    }

    /// Draws with a progress bar.
    ///
    /// # Errors
    /// One line; of a batch that doesn't fit, it says how many images would.
    pub fn run(&self, context: &Context, film: &mut Film) -> Result<Drawn> {
        let mut memory = Memory::default();
        let mut generator = self.open(context, &mut memory)?;
        if let Some(classifier) = &self.classifier {
            generator = classifier.steer(generator, self.model, &mut memory, &self.request)?;
        }
        memory.write(context, WEIGHTS, 0, &self.model.weights);
        let mut bar: Option<Progress> = None;
        let drawn = generator.run(&memory, &self.request, |progress| {
            let bar = bar.get_or_insert_with(|| Progress::new("sampling", 0, progress.of as u64));
            bar.set(progress.done as u64, String::new);
            film.watch(&progress)
        });
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(drawn?)
    }

    /// Plans for as many images at a time as asked; if they don't fit, says how many would.
    fn open<'a>(&self, context: &'a Context, memory: &mut Memory) -> Result<Generator<'a>> {
        let batch = self.batch();
        let mut open = |batch| Generator::new(context, &self.model.unet, memory, WEIGHTS, batch, &self.request);
        let error = match open(batch) {
            Err(error @ Error::Device(_)) => error,
            result => return Ok(result?),
        };
        let mut halves = std::iter::successors(Some(batch / 2), |batch| Some(batch / 2)).take_while(|batch| *batch > 0);
        let fits = |batch: &u32| {
            let small = self.planned_bytes(context, *batch).is_some_and(|bytes| sample::may_try(context, bytes));
            small && open(*batch).is_ok()
        };
        match halves.find(fits) {
            Some(fits) => bail!("{batch} images at a time do not fit ({error}); --batch {fits} does"),
            None => Err(error.into()),
        }
    }

    fn planned_bytes(&self, context: &Context, batch: u32) -> Option<u64> {
        let Drawing { model, request, .. } = self;
        let rows = 2 * batch as u64;
        sample::check_elements(&model.unet.config, rows, request.height, request.width).ok()?;
        Some(sample::record(&model.unet, WEIGHTS, batch, request, &context.choices).denoise.peak_bytes())
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

    fn watch(&mut self, progress: &sample::Progress) -> diffuse::error::Result<()> {
        let Some((columns, steps)) = self.wanted else { return Ok(()) };
        let due = progress.step * FRAMES / steps > self.frames.len() || progress.step == steps;
        if progress.batch == 0 && due {
            let frame = progress.frame()?;
            self.frames.push(picture::grid(&frame, columns, picture::default_scale(frame.height).min(3)));
        }
        Ok(())
    }
}
