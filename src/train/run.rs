//! A run directory: `config.json`, `metrics.csv`, `loss.png`, `samples/`, `checkpoint/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::engine::{DataShape, Engine, FIRST_MOMENT, Metrics, SECOND_MOMENT, record};
use super::lock::Lock;
use super::log::MetricsLog;
use super::model::{Model, Objective};
use super::options::{Task, TrainOptions};
use crate::checkpoint::{self, SchedulerConfig};
use crate::data::{self, Dataset, Want};
use crate::error::{Error, Result};
use crate::gpu::context::mebibytes;
use crate::gpu::{Choices, Context, EMA, Recording, WEIGHTS};
use crate::nn::config::Size;
use crate::ops::adamw::LOSS_SCALE;
use crate::sample::{self, Generator, Request, Start};
use crate::tensors::FileTensors;
use crate::tune::{self, Chosen};
use crate::{chart, picture, tensors};

/// Raw weights and moments, under `weights.NAME`, `m.NAME`, `v.NAME`.
pub const TRAINER: &str = "trainer.safetensors";
const TRAINER_STATE: &str = "trainer.json";
const CHECKPOINT: &str = "checkpoint";

/// Where a run stands; with the options all that resumption needs beside the tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct TrainerState {
    /// Optimizer steps done.
    step: u64,
    /// Batches drawn: Philox's counter of the next.
    counter: u64,
    /// Times the data were gone through, and images used up of this one.
    epoch: u64,
    cursor: u64,
    images: u64,
    scheduler: SchedulerConfig,
    options: TrainOptions,
    /// The variants that were chosen for it.
    #[serde(default)]
    choices: Vec<Chosen>,
    /// The loss's scale, and steps since it last changed.
    #[serde(default = "unscaled")]
    loss_scale: [f32; 2],
}

fn unscaled() -> [f32; 2] {
    [1.0, 0.0]
}

/// What the loop tells and asks after each step.
pub trait Watch {
    /// Called for every step whose loss is known, in order.
    fn step(&mut self, metrics: &Metrics, images_per_second: f64);
    /// Called with one line worth telling.
    fn note(&mut self, line: &str);
    /// Whether to save and end after this step.
    fn stop(&self) -> bool;
}

/// A training run on a device.
pub struct Run<'a> {
    context: &'a Context,
    directory: PathBuf,
    options: TrainOptions,
    model: Model,
    engine: Engine,
    log: MetricsLog,
    images: u64,
    classes: u32,
    /// Steps done.
    step: u64,
    _lock: Lock,
}

/// Loads the data as the model wants them; a model without a size takes the data's.
///
/// # Errors
/// Of [`data::load`]; [`Error::Config`] if data and model don't fit.
pub fn load_data(options: &mut TrainOptions) -> Result<Dataset> {
    let sides = options.model.sample_size.map(Size::sides);
    let want = Want {
        height: sides.map(|(height, _)| height),
        width: sides.map(|(_, width)| width),
        channels: Some(options.model.in_channels),
    };
    options.model.validate_denoiser()?;
    if ![1, 3].contains(&options.model.in_channels) {
        let inputs = options.model.in_channels;
        return Err(Error::Config(format!("images are grey or RGB; this model has {inputs} channels in")));
    }
    let data = match options.task {
        Task::Denoise => data::load(&options.data, &want)?,
        Task::Classify => data::load_split(&options.data, &want)?.train,
    };
    data.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    if options.model.sample_size.is_none() {
        options.model.sample_size = Some(Size::Sides([data.height, data.width]));
    }
    options.model.validate_size(data.height, data.width)?;
    let classes = data.classes.len() as u32;
    if options.model.num_class_embeds.is_some_and(|embeds| embeds != classes + 1) {
        return Err(Error::Config(format!(
            "{} has {classes} classes: num_class_embeds must be {} (one more, for the null class)",
            options.data,
            classes + 1
        )));
    }
    let bytes = data.len() as u64 * (2 + data.height as u64 * data.width as u64 * data.channels as u64);
    if bytes >= 1 << 32 {
        return Err(Error::Config(format!("{} is {}; at most 4 GiB go to the GPU", options.data, mebibytes(bytes))));
    }
    Ok(data)
}

/// What a step of the run records, with other variants.
///
/// # Errors
/// [`Error::Config`] for a model that can't be built, otherwise as [`record`].
pub fn recordings(options: &TrainOptions, data: &Dataset, choices: &Arc<Choices>) -> Result<Vec<Recording>> {
    let model = Model::new(options, data)?;
    Ok(vec![record(model.objective(), options, &DataShape::of(data), choices)?.gradients])
}

/// Puts the precision of the run in `directory` and the variants that were chosen for it into `context`: others would give
/// other bits.
///
/// # Errors
/// [`Error::File`] if there is no run.
pub fn restore_choices(context: &mut Context, directory: &Path) -> Result<()> {
    let state: TrainerState = checkpoint::read_json(&find_run(directory)?.join(TRAINER_STATE))?;
    context.choices = context.choices.at(state.options.precision);
    tune::restore(context, state.choices);
    Ok(())
}

impl<'a> Run<'a> {
    /// Starts a run in `directory`, which must not hold one unless `replace`.
    ///
    /// # Errors
    /// [`Error`] of any kind; nothing is written before the plans stand.
    pub fn create(
        context: &'a Context,
        directory: &Path,
        options: TrainOptions,
        data: &Dataset,
        replace: bool,
    ) -> Result<Run<'a>> {
        options.validate()?;
        if !replace {
            refuse_used(directory)?;
        }
        let model = Model::new(&options, data)?;
        let engine = open_engine(context, model.objective(), data, &options)?;
        let weights = model.params().initialise(options.seed);
        engine.memory.write(context, WEIGHTS, 0, &weights);
        engine.memory.write(context, EMA, 0, &weights);
        fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
        let lock = Lock::take(directory)?;
        checkpoint::write_json(&directory.join(checkpoint::CONFIG), &options)?;
        let log = MetricsLog::create(directory)?;
        Ok(Run::new(context, directory, options, model, engine, log, data, 0, lock))
    }

    /// Goes on with the run in `directory`, to `steps` instead of what it was started with if given.
    ///
    /// # Errors
    /// [`Error::File`] if there is none, or its files are not whole.
    pub fn resume(context: &'a Context, directory: &Path, steps: Option<u64>) -> Result<Run<'a>> {
        let lock = Lock::take(directory)?;
        let checkpoint = find_run(directory)?;
        let state: TrainerState = checkpoint::read_json(&checkpoint.join(TRAINER_STATE))?;
        let mut options = state.options;
        options.steps = steps.unwrap_or(options.steps);
        options.validate()?;
        if options.steps <= state.step {
            let problem = format!("step {} is done already; --steps takes more", state.step);
            return Err(Error::file(directory, problem));
        }
        let data = load_data(&mut options)?;
        if data.len() as u64 != state.images {
            let (now, then) = (data.len(), state.images);
            return Err(Error::Config(format!(
                "{} has {now} images now and had {then}: this is not the same run",
                options.data
            )));
        }
        let (model, average) = Model::load(&checkpoint, &options, &data)?;
        let engine = open_engine(context, model.objective(), &data, &options)?;
        let path = checkpoint.join(TRAINER);
        let mut stored = tensors::read(&path)?;
        for name in [WEIGHTS, FIRST_MOMENT, SECOND_MOMENT] {
            let part = take_prefix(&mut stored, &format!("{name}."));
            engine.memory.write(context, name, 0, &checkpoint::flatten(model.params(), part, &path)?);
        }
        engine.memory.write(context, EMA, 0, &average);
        engine.memory.write(context, LOSS_SCALE, 0, &state.loss_scale);
        checkpoint::write_json(&directory.join(checkpoint::CONFIG), &options)?;
        let log = MetricsLog::resume(directory, state.step)?;
        Ok(Run::new(context, directory, options, model, engine, log, &data, state.step, lock))
    }

    #[allow(clippy::too_many_arguments)]
    fn new(
        context: &'a Context,
        directory: &Path,
        options: TrainOptions,
        model: Model,
        engine: Engine,
        log: MetricsLog,
        data: &Dataset,
        step: u64,
        lock: Lock,
    ) -> Run<'a> {
        let (directory, images) = (directory.to_path_buf(), data.len() as u64);
        let classes = data.classes.len() as u32;
        Run { context, directory, options, model, engine, log, images, classes, step, _lock: lock }
    }

    /// Flags, model included.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Learnt numbers of the model.
    pub fn parameters(&self) -> u64 {
        self.model.params().count()
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.engine.allocated_bytes()
    }

    /// Trains to the last step, or until `watch` says stop. Whether all steps were done.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss is not finite, [`Error::Device`], [`Error::File`] if the disk is full.
    pub fn train(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        let mut pace = Pace::new((self.options.batch * self.options.accumulate) as f64);
        while self.step < self.options.steps && !watch.stop() {
            let (metrics, _) = self.engine.step(self.context, self.step)?;
            self.step += 1;
            metrics.iter().try_for_each(|metrics| self.tell(metrics, &mut pace, watch))?;
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every) && self.step < self.options.steps;
            let (sample, save) = (due(self.options.sample_every), due(self.options.checkpoint_every));
            if sample || save {
                self.catch_up(&mut pace, watch)?;
            }
            if sample {
                self.show_samples(watch)?;
            }
            if save {
                self.save()?;
            }
            if sample || save {
                pace.restart();
            }
        }
        self.catch_up(&mut pace, watch)?;
        let done = self.step >= self.options.steps;
        if done && self.options.sample_every > 0 {
            self.show_samples(watch)?;
        }
        self.save()?;
        Ok(done)
    }

    fn catch_up(&mut self, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        let rest = self.engine.finish(self.context)?;
        rest.iter().try_for_each(|metrics| self.tell(metrics, pace, watch))
    }

    fn tell(&mut self, metrics: &Metrics, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        let images_per_second = pace.step();
        self.log.add(metrics, images_per_second)?;
        watch.step(metrics, images_per_second);
        Ok(())
    }

    fn show_samples(&mut self, watch: &mut dyn Watch) -> Result<()> {
        if let Some(path) = self.draw_samples()? {
            watch.note(&format!("step {}: {}", self.step, path.display()));
        }
        Ok(())
    }

    /// Draws a grid with the averaged weights into `samples/`, if the model is one that draws.
    fn draw_samples(&mut self) -> Result<Option<PathBuf>> {
        let Model::Denoiser(unet) = &self.model else { return Ok(None) };
        let (height, width) = self.options.model.sample_size.map(Size::sides).unwrap_or_default();
        let conditional = unet.is_conditional();
        let count = if conditional { (2 * self.classes).min(20) } else { 16 };
        let scheduler = self.options.scheduler();
        let schedule = scheduler.schedule()?;
        let sampler = self.options.sampler();
        let program = sampler.program(&schedule);
        let request = Request {
            program: program.map_err(|error| Error::Config(error.to_string()))?,
            initial_scale: sampler.initial_scale(&schedule),
            start: Start::Noise,
            known: None,
            labels: conditional.then(|| (0..count).map(|i| i % self.classes).collect()),
            count,
            guidance: if conditional { 2.0 } else { 1.0 },
            seed: self.options.seed,
            height,
            width,
        };
        let memory = &mut self.engine.memory;
        let generator = Generator::new(self.context, unet, memory, EMA, count, &request)?;
        let images = generator.run(memory, &request, |_| Ok(()))?.images;
        let columns = if conditional { self.classes.min(10) as usize } else { 4 };
        let path = self.directory.join(format!("samples/step_{:06}.png", self.step));
        picture::write_png(&path, &picture::grid(&images, columns, picture::default_scale(height as usize)))?;
        Ok(Some(path))
    }

    /// Writes `checkpoint/` anew, whole or not at all, and `loss.png`.
    fn save(&mut self) -> Result<()> {
        self.log.flush()?;
        let counter = self.step * self.options.accumulate as u64;
        let position = counter * self.options.batch as u64;
        let loss_scale = self.engine.memory.read(self.context, LOSS_SCALE)?;
        let state = TrainerState {
            step: self.step,
            counter,
            epoch: position / self.images,
            cursor: position % self.images,
            images: self.images,
            scheduler: self.options.scheduler(),
            options: self.options.clone(),
            choices: tune::chosen(&self.context.choices),
            loss_scale: [loss_scale[0], loss_scale[1]],
        };
        let fresh = self.directory.join("checkpoint.new");
        let written = self.write_checkpoint(&fresh, &state);
        let swapped = written.and_then(|()| swap(&self.directory, &fresh));
        if swapped.is_err() {
            // The error that led here is the one to report; the old checkpoint stands.
            let _ = fs::remove_dir_all(&fresh);
        }
        swapped?;
        let title = format!("training loss, {} steps", self.step);
        chart::write_loss_chart(&self.directory.join("loss.png"), &title, self.log.points())
    }

    fn write_checkpoint(&self, directory: &Path, state: &TrainerState) -> Result<()> {
        let memory = &self.engine.memory;
        let average = memory.read(self.context, EMA)?;
        if directory.exists() {
            fs::remove_dir_all(directory).map_err(|error| Error::file(directory, error))?;
        }
        self.model.save(directory, &average, &self.options.scheduler())?;
        let mut stored = FileTensors::new();
        for name in [WEIGHTS, FIRST_MOMENT, SECOND_MOMENT] {
            let flat = memory.read(self.context, name)?;
            stored.append(&mut checkpoint::unflatten(self.model.params(), &flat, &format!("{name}.")));
        }
        tensors::write(&directory.join(TRAINER), &stored)?;
        checkpoint::write_json(&directory.join(TRAINER_STATE), state)
    }
}

/// A run that was saved is somebody's work; of one that was not, only the metrics would be lost.
fn refuse_used(directory: &Path) -> Result<()> {
    let problem = if checkpoint_of(directory).is_some() {
        "holds a run already; --resume goes on with it, --out takes another place"
    } else if directory.join(super::log::FILE).exists() {
        "holds a run that is under way or ended before its first checkpoint; remove it or take another --out"
    } else {
        return Ok(());
    };
    Err(Error::file(directory, problem))
}

/// The checkpoint of the run in `directory`.
fn checkpoint_of(directory: &Path) -> Option<PathBuf> {
    let places = [directory.join(CHECKPOINT), directory.join("checkpoint.old")];
    places.into_iter().find(|place| place.join(TRAINER_STATE).is_file())
}

fn find_run(directory: &Path) -> Result<PathBuf> {
    checkpoint_of(directory).ok_or_else(|| {
        let problem = match directory.join(TRAINER_STATE).is_file() {
            true => "a checkpoint; --out takes the directory of the run, which holds it",
            false => "no run to go on with: there is no checkpoint/trainer.json",
        };
        Error::file(directory, problem)
    })
}

/// The old checkpoint makes way only when the new one is whole; between the two renames [`checkpoint::find`] takes
/// `checkpoint.old`.
fn swap(directory: &Path, fresh: &Path) -> Result<()> {
    let (current, old) = (directory.join(CHECKPOINT), directory.join("checkpoint.old"));
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error: std::io::Error| Error::file(path, error)
    };
    if current.exists() {
        if old.exists() {
            fs::remove_dir_all(&old).map_err(at(&old))?;
        }
        fs::rename(&current, &old).map_err(at(&current))?;
    }
    fs::rename(fresh, &current).map_err(at(&current))?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(at(&old))?;
    }
    Ok(())
}

/// Takes the tensors whose name starts with `prefix`, without it.
pub fn take_prefix(tensors: &mut FileTensors, prefix: &str) -> FileTensors {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let taken = names
        .into_iter()
        .filter_map(|name| tensors.remove(&name).map(|tensor| (name[prefix.len()..].to_string(), tensor)));
    taken.collect()
}

/// Plans the run; if it does not fit, says which batch would.
fn open_engine(context: &Context, model: &dyn Objective, data: &Dataset, options: &TrainOptions) -> Result<Engine> {
    let shape = DataShape::of(data);
    let planned = |options: &TrainOptions| {
        record(model, options, &shape, &context.choices.at(options.precision)).map(|recordings| recordings.peak_bytes())
    };
    if let Ok(bytes) = planned(options) {
        log::info!("batch {}: {} on the device", options.batch, mebibytes(bytes));
    }
    let error = match Engine::new(context, model, data, options) {
        Ok(engine) => return Ok(engine),
        Err(error) => error,
    };
    let mut smaller = options.clone();
    while smaller.batch > 1 {
        smaller.batch /= 2;
        let Ok(bytes) = planned(&smaller) else { continue };
        if sample::may_try(context, bytes) && Engine::new(context, model, data, &smaller).is_ok() {
            let (batch, fits, needs) = (options.batch, smaller.batch, mebibytes(bytes));
            let problem = format!("batch {batch} does not fit ({error}); --batch {fits} does, with {needs}");
            return Err(Error::Device(problem));
        }
    }
    Err(error)
}

/// Images a second, smoothed over the last steps.
struct Pace {
    last: Instant,
    images: f64,
    seconds: Option<f64>,
}

impl Pace {
    fn new(images: f64) -> Pace {
        Pace { last: Instant::now(), images, seconds: None }
    }

    /// Time that went to something else does not count.
    fn restart(&mut self) {
        self.last = Instant::now();
    }

    fn step(&mut self) -> f64 {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        let smooth = self.seconds.map_or(seconds, |before| 0.9 * before + 0.1 * seconds);
        self.seconds = Some(smooth);
        self.images / smooth.max(1e-9)
    }
}
