//! A run directory: `config.json`, `data.json`, `metrics.csv`, `report.html`, `loss.png`, `samples/`, `checkpoint/`, `checkpoints/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::canaries::{self, Canaries};
use super::lock::Lock;
use super::log::{MetricsLog, is_there};
use super::model::{Initial, Model};
use super::private::{self, Ledger, beside};
use super::report::{Report, data_section};
use super::save::{Outcome, Purpose, Save, Saver, TRAINER};
use super::stored::{
    DATA, Over, SAMPLES, Stored, TRAINER_STATE, TrainerState, check_place, claim, digest, read_state, refuse_used,
};
use super::tensorboard::Events;
use crate::checkpoint;
use crate::checkpoint::manifest::{self, MadeOn};
use crate::data::{self, Dataset, Want};
use crate::error::{Error, Result, list_names};
use crate::files;
use crate::gpu::{Context, EMA, GRADIENTS, WEIGHTS};
use crate::nn::config::Size;
use crate::run::session;
use crate::run::trainer::{FIRST_MOMENT, MOST_SKIPPED, SECOND_MOMENT};
use crate::run::{
    Audited, Feed, Generator, Metrics, Networks, OnNan, Request, Session, Start, Task, TrainOptions, Trainer,
};
use crate::tensors::FileTensors;
use crate::tune::{Chosen, Policy};
use crate::{picture, tensors, tune};

/// Steps before one that breaks of which nothing may be heard: those under way with it.
const UNHEARD: u64 = 2;

/// Steps in a row that the device may get wrong and right when it computes them again.
const MOST_PASSING: u32 = 3;

/// How old a copy of the state in memory gets before another is taken: what a lost device costs at the most.
const HOLD_EVERY: Duration = Duration::from_secs(60);

/// What the loop tells and asks after each step.
pub trait Watch {
    /// Called for every step whose loss is known, in order.
    fn step(&mut self, _metrics: &Metrics, _images_per_second: f64) {}
    /// Called with one line worth telling.
    fn note(&mut self, _line: &str) {}
    /// Called for every sampler step of a grid of samples: `done` of `of`.
    fn drawing(&mut self, _done: u64, _of: u64) {}
    /// Whether to save and end after this step.
    fn stop(&self) -> bool {
        false
    }
}

/// What a run knows of its data.
struct About {
    images: u64,
    digest: String,
    canaries: Option<Canaries>,
    /// Digests of what the initial weights were trained on.
    initial: Vec<Option<String>>,
    /// Names of the classes.
    classes: Vec<String>,
    /// All of it, and a line for people.
    description: serde_json::Value,
    line: String,
    /// The same on the page of the run.
    section: String,
}

impl About {
    fn new(
        options: &TrainOptions,
        data: &Dataset,
        digest: String,
        canaries: Option<Canaries>,
        initial: Vec<Option<String>>,
    ) -> About {
        let (description, line) = describe(options, data);
        let (images, classes) = (data.len() as u64, data.classes.clone());
        let section = data_section(options, data, &line);
        About { images, digest, canaries, initial, classes, description, line, section }
    }

    /// Writes what the run in `directory` trains, and on what.
    fn write(&self, directory: &Path, options: &TrainOptions) -> Result<()> {
        if options.is_private() {
            private::prepare(directory)?;
        }
        self.canaries.as_ref().map_or(Ok(()), |canaries| canaries.write(directory))?;
        checkpoint::write_json(&directory.join(checkpoint::CONFIG), options)?;
        checkpoint::write_json(&beside(directory, options).join(DATA), &self.description)
    }
}

/// The last checkpoint, and the learning rate that its weights were made at.
#[derive(Clone, Copy)]
struct Saved {
    step: u64,
    learning_rate: f64,
}

/// A training run on a device.
pub struct Run<'a> {
    directory: PathBuf,
    options: TrainOptions,
    model: Arc<Model>,
    trainer: Trainer<'a>,
    saver: Saver,
    log: MetricsLog,
    report: Arc<Report>,
    events: Option<Events>,
    data: About,
    /// Steps done.
    step: u64,
    /// Steps done at the last checkpoint.
    saved: Option<Saved>,
    /// When the state was copied last, and how old that may get.
    copied: Instant,
    hold_every: Duration,
    /// Steps that are known to be sound.
    told: u64,
    /// Whether what is saved now is the last of this process.
    ends: bool,
    /// Steps done at the last one that is known to have moved the weights.
    moved: u64,
    /// Whether it was said that what lies beside the checkpoint can't be written, and that metrics can't.
    warned: [bool; 2],
    /// What computes it.
    made_on: MadeOn,
    /// What is to be said of how it goes on.
    notes: Vec<String>,
    /// The images, until other ranks have them or the first step is done.
    to_share: Option<Dataset>,
    /// Of a private run, and how many more steps it counts than the run has: those of checkpoints that it went back behind.
    ledger: Option<Ledger>,
    abandoned: u64,
    lock: Lock,
}

/// Loads the data as the model wants them, and tells `watch` how far that is; a model without a size takes the data's.
///
/// # Errors
/// Of [`data::load`]; [`Error::Config`] if data and model don't fit.
pub fn load_data(options: &mut TrainOptions, watch: Option<data::Watch>) -> Result<Dataset> {
    let data = read_data(options, watch)?;
    check_embeds(options, &data)?;
    Ok(data)
}

fn read_data(options: &mut TrainOptions, watch: Option<data::Watch>) -> Result<Dataset> {
    let want = Want::of(options.model.sample_size.map(Size::sides), options.model.in_channels);
    let want = want.limited(options.memory_limit).watched(watch);
    options.model.validate_denoiser()?;
    if ![1, 3].contains(&options.model.in_channels) {
        let inputs = options.model.in_channels;
        return Err(Error::Config(format!("images are grey or RGB; this model has {inputs} channels in")));
    }
    let data = match options.task {
        Task::Denoise => data::load(&options.data, &want)?,
        Task::Classify => data::load_split(&options.data, &want)?.train,
    };
    data.account.warnings().iter().for_each(|warning| log::warn!("{warning}"));
    if options.model.sample_size.is_none() {
        options.model.sample_size = Some(Size::Sides([data.height, data.width]));
    }
    options.model.validate_size(data.height, data.width)?;
    Ok(data)
}

/// The data of a run that began before.
pub struct SameData {
    whole: Dataset,
    /// What it trains on, and the digest of that.
    trained: Dataset,
    digest: String,
    /// Those that it left out are of them.
    canaries: Option<Canaries>,
}

/// The data of a run that goes on.
///
/// # Errors
/// Of [`load_data`]; [`Error::Config`] if they are others than the run had, [`Error::File`] if its canaries are.
pub fn load_same_data(stored: &Stored, options: &mut TrainOptions, watch: Option<data::Watch>) -> Result<SameData> {
    same_data(&stored.directory, &stored.state, options, watch)
}

/// The images of which coins decided whether the run in `directory` trains on them, and what they decided. `data` is where its data
/// are now, if they moved; `checkpoint` one of its own.
///
/// # Errors
/// [`Error::Config`] if it has none, else of [`load_same_data`].
pub fn load_canaries(
    directory: &Path,
    checkpoint: &Path,
    data: Option<&str>,
    watch: Option<data::Watch>,
) -> Result<(Dataset, Vec<bool>)> {
    if !checkpoint.join(TRAINER_STATE).is_file() {
        return Err(Error::file(directory, format!("no run: there is no {TRAINER_STATE} beside its model")));
    }
    let (state, _) = read_state(directory, checkpoint)?;
    let mut options = state.options.clone();
    options.data = data.map_or(options.data, String::from);
    let none = || Error::file(directory, "this run has no canaries: train --canaries M begins one that has");
    options.canaries.ok_or_else(none)?;
    let SameData { whole, canaries, .. } = same_data(directory, &state, &mut options, watch)?;
    canaries.ok_or_else(none)?.images(&whole)
}

fn same_data(
    directory: &Path,
    state: &TrainerState,
    options: &mut TrainOptions,
    watch: Option<data::Watch>,
) -> Result<SameData> {
    let whole = read_data(options, watch).map_err(|error| match error {
        Error::File { path, problem } if !path.exists() => {
            Error::file(path, format!("{problem}; if it moved, --data takes its new place"))
        }
        error => error,
    })?;
    check_classes(&options.data, &state.classes, &whole)?;
    check_embeds(options, &whole)?;
    if state.is_of_old() && whole.account.format == "folder" {
        options.flip = options.flip.or(Some(true));
    }
    let refuse = |what: &str| Err(Error::Config(format!("{}: {what}; this is not the same run", options.data)));
    let canaries = options.canaries.map(|_| Canaries::open(directory, &state.options)).transpose()?;
    if canaries.as_ref().is_some_and(|canaries| !canaries.are_of(&whole)) {
        return refuse("not the images that the run drew its canaries from");
    }
    let trained = canaries.as_ref().map_or_else(|| Ok(whole.clone()), |canaries| canaries.rest(&whole))?;
    let digest = digest(&trained);
    let is_same = trained.len() as u64 == state.images && state.digest.as_ref().is_none_or(|then| *then == digest);
    match is_same {
        true => Ok(SameData { whole, trained, digest, canaries }),
        false if canaries.is_some() => Err(canaries::of_another_run(directory)),
        false => refuse(&difference(directory, state, &trained)),
    }
}

fn check_embeds(options: &TrainOptions, data: &Dataset) -> Result<()> {
    let classes = data.classes.len() as u32;
    if options.model.num_class_embeds.is_some_and(|embeds| embeds != classes + 1) {
        return Err(Error::Config(format!(
            "{} has {classes} classes: num_class_embeds must be {} (one more, for the null class)",
            options.data,
            classes + 1
        )));
    }
    Ok(())
}

/// Which images a run trains on and what it makes of them, whole and in a line.
fn describe(options: &TrainOptions, data: &Dataset) -> (serde_json::Value, String) {
    let mirrored = options.flip.unwrap_or(false);
    let description = data.description(Some(mirrored));
    let mirrored = match (mirrored, data.account.format) {
        (true, _) => "; half of them shown mirrored (--flip false: none)",
        // Of digits and letters, which nobody would mirror.
        (false, "digits" | "IDX files") => "",
        (false, _) => "; none shown mirrored (--flip true: half of them)",
    };
    let unused = options.task == Task::Denoise && options.model.num_class_embeds.is_none() && data.classes.len() > 1;
    let unused = if unused { "; the model is told no classes (its num_class_embeds is null)" } else { "" };
    (description, format!("{}{mirrored}{unused}", data.summary()))
}

/// Nothing yet, to run what `options` say.
pub(super) fn open<'a>(context: &'a Context, policy: &Policy, options: &TrainOptions) -> Session<'a> {
    Session::open(context, &Policy { winograd: options.winograd, ..policy.clone() }, options.precision)
}

/// `options` with the fewest passes of equal size that make their batch on this device. A run is stored with that: its bits follow.
///
/// # Errors
/// [`Error::Device`] if not even passes of one image fit.
pub fn with_fewest_passes(
    context: &Context,
    policy: &Policy,
    options: &TrainOptions,
    data: &Dataset,
) -> Result<TrainOptions> {
    let (model, session) = (Model::new(options, data)?, open(context, policy, options));
    let room_to_save = |session: &Session| Saver::new(session).map(|_| ());
    let found = Trainer::with_fewest_passes(session, model.objective(), data, options, room_to_save)?;
    found.ok_or_else(|| Error::Device("not even one image at a time fits: a smaller --model or --size does".into()))
}

impl<'a> Run<'a> {
    /// Starts a run in `directory`, which holds no more than `over` says; with weights of its own, or with `initial`. Of `data` it leaves
    /// out the canaries whose coins say so.
    ///
    /// # Errors
    /// [`Error`] of any kind; nothing is written before the plans stand.
    pub fn create(
        context: &'a Context,
        policy: &Policy,
        directory: &Path,
        options: TrainOptions,
        data: &Dataset,
        (over, initial): (Over, Option<Initial>),
    ) -> Result<Run<'a>> {
        options.validate()?;
        if options.canaries.is_some() && initial.is_some() {
            let problem = "--init with --canaries: those weights may have seen the images that are left out";
            return Err(Error::Config(problem.into()));
        }
        // A run whose device was lost before its first checkpoint is the same run: its coins are tossed.
        let tossed = match over {
            Over::Unfinished => Canaries::open(directory, &options).ok().filter(|canaries| canaries.are_of(data)),
            Over::Nothing => None,
        };
        let draw = |count| tossed.map_or_else(|| Canaries::draw(data, count, options.dp_seed), Ok);
        let canaries = options.canaries.map(draw).transpose()?;
        let rest = canaries.as_ref().map(|canaries| canaries.rest(data)).transpose()?;
        let data = rest.as_ref().unwrap_or(data);
        let options = private::resolve(&options, data.len() as u64)?;
        // Spares the time to plan; another process may still come first.
        check_place(directory)?;
        refuse_used(directory, over)?;
        let (model, session) = (Model::new(&options, data)?, open(context, policy, &options));
        let mut trainer = Trainer::new(session, model.objective(), data, &options)?;
        let saver = Saver::new(&trainer.session)?;
        let (weights, before) = initial.map(|initial| (initial.weights, initial.data)).unzip();
        let digest = digest(data);
        if options.is_private() && before.iter().flatten().any(|then| then.as_ref().is_none_or(|then| *then == digest))
        {
            let problem = "--init with --dp: these weights have seen the same images, or nobody knows which";
            return Err(Error::Config(format!("{problem}; nothing would be private")));
        }
        trainer.write_weights(&weights.unwrap_or_else(|| model.params().initialise(options.seed)));
        trainer.find_scale()?;
        files::create_directory(directory).map_err(|error| Error::file(directory, error))?;
        let lock = claim(directory)?;
        refuse_used(directory, over)?;
        data.check_outside(directory)?;
        let ledger = options.is_private().then(|| Ledger::new(&options, data.len() as u64, digest.clone()));
        let notes = canaries.iter().map(|canaries| canaries.said(directory)).collect();
        let about = About::new(&options, data, digest, canaries, before.unwrap_or_default());
        about.write(directory, &options)?;
        let log = MetricsLog::create(&beside(directory, &options))?;
        let events = events(directory, &options, 1)?;
        let run = Run::standing((directory.into(), lock), options, (model, trainer, saver), (log, about), 0);
        Ok(Run { ledger, notes, events, to_share: Some(data.clone()), ..run })
    }

    /// A run of which `step` steps are done.
    fn standing(
        (directory, lock): (PathBuf, Lock),
        options: TrainOptions,
        (model, trainer, saver): (Model, Trainer<'a>, Saver),
        (log, mut data): (MetricsLog, About),
        step: u64,
    ) -> Run<'a> {
        let made_on = made_on(trainer.session.context);
        let report = Arc::new(Report {
            directory: directory.clone(),
            data: std::mem::take(&mut data.section),
            classes: data.classes.clone(),
            parameters: model.params().count(),
            made_on: made_on.clone(),
        });
        let model = model.into();
        let (saved, notes, ends, warned) = (None, Vec::new(), false, [false; 2]);
        let (told, moved) = (step, step);
        let (copied, hold_every) = (Instant::now(), HOLD_EVERY);
        Run {
            directory,
            options,
            model,
            trainer,
            saver,
            log,
            report,
            events: None,
            data,
            step,
            saved,
            copied,
            hold_every,
            told,
            ends,
            moved,
            warned,
            made_on,
            notes,
            to_share: None,
            ledger: None,
            abandoned: 0,
            lock,
        }
    }

    /// Goes on with a run as `options` say, in the ways that it was made with: others would give other bits. `watch` is told how
    /// far its data are loaded.
    ///
    /// # Errors
    /// [`Error::File`] if its files are not whole, [`Error::Config`] if the data are others.
    pub fn resume(
        context: &'a Context,
        policy: &Policy,
        stored: Stored,
        mut options: TrainOptions,
        watch: Option<data::Watch>,
    ) -> Result<Run<'a>> {
        options.validate()?;
        if options.steps <= stored.step() {
            let problem = format!("step {} is done already; --steps takes more", stored.step());
            return Err(Error::file(&stored.directory, problem));
        }
        check_place(&stored.directory)?;
        if let Some(ledger) = &stored.ledger {
            ledger.check(options.steps - stored.step(), options.dp_epsilon)?;
        }
        let SameData { trained: data, digest, canaries, .. } = load_same_data(&stored, &mut options, watch)?;
        let made_on = manifest::made_on(&stored.checkpoint);
        let Stored { checkpoint, state, .. } = &stored;
        let (model, average) = Model::load(checkpoint, &options, &data)?;
        let differ = |chosen: &Chosen| !state.choices.contains(chosen);
        if policy.explicit.iter().any(differ) {
            return Err(Error::Config("what --tune FILE chooses can't change in a resumed run".into()));
        }
        let policy = Policy { explicit: state.choices.clone(), ..policy.clone() };
        let session = open(context, &policy, &options);
        let trainer = Trainer::new(session, model.objective(), &data, &options)?;
        let saver = Saver::new(&trainer.session)?;
        let path = checkpoint.join(TRAINER);
        let mut all = tensors::read(&path)?;
        for name in [WEIGHTS, FIRST_MOMENT, SECOND_MOMENT] {
            let part = take_prefix(&mut all, &format!("{name}."));
            trainer.session.write(name, &checkpoint::flatten(model.params(), part, &path)?);
        }
        trainer.session.write(EMA, &average);
        trainer.write_loss_scale(state.loss_scale);
        let notes = stored.set_wrong_aside()?;
        let Stored { directory, state, ledger, lock, .. } = stored;
        let about = About::new(&options, &data, digest, canaries, state.initial_data);
        about.write(&directory, &options)?;
        let log = MetricsLog::resume(&beside(&directory, &options), state.step)?;
        let events = events(&directory, &options, state.step + 1)?;
        let abandoned = ledger.as_ref().map_or(0, |ledger| ledger.steps() - state.step);
        let spent = (abandoned > 0)
            .then(|| format!("the ledger counts {abandoned} steps more, of checkpoints that are left behind"));
        let run = Run::standing((directory, lock), options, (model, trainer, saver), (log, about), state.step);
        let other = made_on.and_then(|then| difference_of(&then, &run.made_on));
        let saved = Some(Saved { step: state.step, learning_rate: state.options.learning_rate });
        let notes = notes.into_iter().chain(other).chain(spent).collect();
        Ok(Run { saved, notes, events, to_share: Some(data), ledger, abandoned, ..run })
    }

    /// Lines on how a run goes on that was not as it should be, or that was made on something else.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The step, for tests of what befalls a device.
    pub fn trainer(&mut self) -> &mut Trainer<'a> {
        &mut self.trainer
    }

    /// The images that it trains on, once, before the first step; and what tells them from others.
    pub(super) fn take_data(&mut self) -> (Option<Dataset>, String) {
        (self.to_share.take(), self.data.digest.clone())
    }

    /// What audits came to.
    pub fn audited(&self) -> Audited {
        self.trainer.audited()
    }

    /// Flags, model included.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// The images that it trains on, in a line.
    pub fn about_data(&self) -> &str {
        &self.data.line
    }

    /// Steps done so far.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Steps whose loss is known, from the first of the run on.
    pub fn steps_known(&self) -> u64 {
        self.told
    }

    /// Learnt numbers of the model.
    pub fn parameters(&self) -> u64 {
        self.model.params().count()
    }

    /// What a private run will have spent when it ends, and what it has spent now, a line each.
    ///
    /// # Errors
    /// [`Error::Config`] if it can't be accounted.
    pub fn about_privacy(&self) -> Result<Option<[String; 2]>> {
        let all = self.options.steps + self.abandoned;
        let lines = |ledger: &Ledger| Ok([ledger.line(all)?, ledger.line(self.step + self.abandoned)?]);
        self.ledger.as_ref().map(lines).transpose()
    }

    /// What brings the images, where the device doesn't hold them.
    pub fn feed(&self) -> Option<&Feed> {
        self.trainer.feed()
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.trainer.allocated_bytes()
    }

    /// How old the copy of the state in memory gets, which [`Run::write_held`] writes; a minute, where nothing is said.
    pub fn hold_every(&mut self, age: Duration) {
        self.hold_every = age;
    }

    /// Writes the checkpoint that is held in memory, if none on disk is newer: what is left of a run whose device is lost. The newest step
    /// that can be gone on from; none if that is the start.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be written.
    pub fn write_held(&mut self) -> Result<Option<u64>> {
        self.flush()?;
        self.saver.write_held(self.saved.map(|saved| saved.step))
    }

    /// Frees the device. The directory stays locked for whoever reads in it what the run made.
    pub fn into_lock(self) -> Lock {
        self.lock
    }

    /// Trains to the last step, or until `watch` says stop. Whether all steps were done.
    ///
    /// # Errors
    /// [`Error::Diverged`] if the loss or the gradient is not finite and `--on-nan` says no more, [`Error::Lost`],
    /// [`Error::Device`], [`Error::File`] if the disk is full.
    pub fn train(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        self.to_share = None;
        match self.train_past_breaks(watch) {
            // A loss may be heard of first by what it made fail.
            Err(Error::Device(problem)) => self.trainer.session.context.check().and(Err(Error::Device(problem))),
            result => result,
        }
    }

    fn train_past_breaks(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        // Steps that broke, and how often in a row.
        let (mut last, mut in_a_row) = (None, 0);
        loop {
            let (result, broken) = (self.train_steps(watch), self.trainer.broken_step());
            let (Err(Error::Diverged(problem)), Some(step)) = (&result, broken) else { return result };
            for metrics in self.trainer.untold() {
                self.tell(&metrics, &mut Pace::new(0.0), watch)?;
            }
            self.told = step;
            self.settle_save(watch)?;
            // Those behind it changed nothing.
            self.saver.forget();
            let wrong = self.trainer.trace_broken(step)?;
            in_a_row = if last.is_some_and(|last| step <= last + 1) { in_a_row + 1 } else { 1 };
            last = Some(step);
            self.step = step;
            match wrong {
                None if in_a_row <= MOST_PASSING => watch.note(&format!(
                    "warning: {problem}, and finite numbers when it was computed again: a passing fault of the device; the step \
                     is done again"
                )),
                None => return Err(self.give_up(step, &format!("{problem}, not when it is computed alone"))),
                Some(wrong) if self.options.on_nan() == OnNan::Skip && in_a_row <= MOST_SKIPPED => {
                    watch.note(&format!("warning: {problem}; first not finite: {wrong}; skipped"));
                    self.skip(watch)?;
                }
                Some(wrong) => return Err(self.give_up(step, &format!("{problem}; first not finite: {wrong}"))),
            }
        }
    }

    /// Counts the next step as done, which changes neither weights nor moments nor average: the learning rate and the images go on.
    fn skip(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let metrics = self.trainer.metrics_of_skipped(self.step);
        self.step += 1;
        self.tell(&metrics, &mut Pace::new(0.0), watch)
    }

    /// The device stands where it stood after `step` steps, before the one that broke. Those weights are not saved: with the
    /// images and the noise that come next, which the seed says, they break again at any learning rate.
    fn give_up(&self, step: u64, problem: &str) -> Error {
        // Half precision skips steps until it breaks. What the last ones did is not heard when one of them breaks.
        let moved = if step > self.moved + UNHEARD { self.moved } else { step };
        let lr = |was: f64| format!("a smaller --lr (it was {was})");
        let now = self.options.learning_rate;
        let advice = match self.saved {
            _ if moved == 0 && self.data.initial.is_empty() => {
                "no --lr can help, for no step was taken: start anew in another --out with another model, --seed or \
                 --precision"
                    .into()
            }
            _ if moved == 0 => "the initial weights give that, which no --lr can help: --init takes others".into(),
            Some(Saved { step, learning_rate }) if step >= moved => {
                format!(
                    "the weights of step {step} are beyond help: start anew in another --out with {}",
                    lr(learning_rate)
                )
            }
            Some(Saved { step, .. }) => {
                format!("checkpoint/ holds step {step}: go on from there with --resume and {}", lr(now))
            }
            None => format!("no checkpoint was written: start again with --resume and {}", lr(now)),
        };
        Error::Diverged(format!("{problem}; {advice}"))
    }

    fn train_steps(&mut self, watch: &mut dyn Watch) -> Result<bool> {
        let mut pace = Pace::new((self.options.batch * self.options.accumulate) as f64);
        while self.step < self.options.steps && !watch.stop() && !self.trainer.must_stop() {
            let (metrics, _) = self.trainer.step(self.step)?;
            self.step += 1;
            metrics.iter().try_for_each(|metrics| self.tell(metrics, &mut pace, watch))?;
            self.tell_findings(watch);
            if self.options.histograms_every > 0 && self.step.is_multiple_of(self.options.histograms_every) {
                self.catch_up(&mut pace, watch)?;
                self.add_tensors(watch)?;
                pace.restart();
            }
            let due = |every: u64| every > 0 && self.step.is_multiple_of(every) && self.step < self.options.steps;
            let (sample, save) = (due(self.options.sample_every), due(self.options.checkpoint_every));
            self.attend_save(false, watch)?;
            if save {
                self.begin_save(&mut pace, watch)?;
            } else if self.copied.elapsed() >= self.hold_every && self.saver.is_idle() {
                self.begin_copy(Purpose::Hold);
            }
            if sample {
                // Whatever befalls the drawing, what was learnt is safe.
                self.end_save(&mut pace, watch)?;
                self.catch_up(&mut pace, watch)?;
                self.show_samples(watch);
                self.trainer.session.context.check()?;
                pace.restart();
            }
        }
        self.catch_up(&mut pace, watch)?;
        self.trainer.end_audit();
        self.tell_findings(watch);
        let done = self.step >= self.options.steps;
        self.end_save(&mut pace, watch)?;
        self.ends = true;
        self.begin_save(&mut pace, watch)?;
        self.end_save(&mut pace, watch)?;
        if done && self.options.sample_every > 0 {
            self.show_samples(watch);
        }
        Ok(done)
    }

    fn catch_up(&mut self, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        let rest = self.trainer.finish()?;
        rest.iter().try_for_each(|metrics| self.tell(metrics, pace, watch))
    }

    fn tell(&mut self, metrics: &Metrics, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        let images_per_second = pace.step();
        self.told = metrics.step;
        if let (Some(ledger), Some(lottery)) = (&mut self.ledger, self.trainer.lottery()) {
            ledger.sizes.push(lottery.size(metrics.step - 1));
        }
        if metrics.gradient_norm.is_finite() {
            self.moved = metrics.step;
        }
        let logged = self.log.add(metrics, images_per_second);
        let shown = self.events.as_mut().map_or(Ok(()), |events| events.add(metrics, images_per_second));
        logged.and(shown).unwrap_or_else(|error| self.warn_of_log(&error, watch));
        watch.step(metrics, images_per_second);
        Ok(())
    }

    /// Writes histograms of the last step's weights and gradient, which the device must tell first.
    fn add_tensors(&mut self, watch: &mut dyn Watch) -> Result<()> {
        // A step that was skipped has no gradient to speak of.
        let norm = self.log.curves().gradient_norm.last().filter(|(step, _)| *step == self.step);
        let (Some(events), Some((step, norm))) = (&mut self.events, norm) else { return Ok(()) };
        let session = &self.trainer.session;
        let (weights, gradient) = (session.read(WEIGHTS)?, session.read(GRADIENTS)?);
        let added = events.add_tensors(step, self.model.params(), [&weights, &gradient], norm);
        added.unwrap_or_else(|error| self.warn_of_log(&error, watch));
        Ok(())
    }

    /// Brings to the files all that is known of steps.
    fn flush(&mut self) -> Result<()> {
        let shown = self.events.as_mut().map_or(Ok(()), Events::flush);
        self.log.flush().and(shown)
    }

    fn tell_findings(&mut self, watch: &mut dyn Watch) {
        self.trainer.findings().iter().for_each(|finding| watch.note(&format!("warning: {finding}")));
    }

    fn show_samples(&mut self, watch: &mut dyn Watch) {
        match self.draw_samples(watch) {
            Ok(Some(path)) => {
                watch.note(&format!("step {}: {}", self.step, path.display()));
                let shown = self.report.write(self.step, &self.options, self.log.curves());
                shown.unwrap_or_else(|error| self.warn(&error, watch));
            }
            Ok(None) => {}
            // Training doesn't go on without pictures: it goes on elsewhere.
            Err(Error::Lost(_)) if self.step < self.options.steps => {}
            Err(error) => self.warn(&error, watch),
        }
    }

    /// What lies beside the checkpoint and can't be had is no reason to end; that is said once.
    fn warn(&mut self, error: &Error, watch: &mut dyn Watch) {
        if !std::mem::replace(&mut self.warned[0], true) {
            watch.note(&format!("warning: {error}; training goes on without it"));
        }
    }

    /// As [`Run::warn`], of lines that wait.
    fn warn_of_log(&mut self, error: &Error, watch: &mut dyn Watch) {
        if !std::mem::replace(&mut self.warned[1], true) {
            watch.note(&format!("warning: {error}; training goes on, and its lines wait in memory"));
        }
    }

    /// Draws a grid with the averaged weights into `samples/`, if the model is one that draws.
    fn draw_samples(&mut self, watch: &mut dyn Watch) -> Result<Option<PathBuf>> {
        let Model::Denoiser(unet) = &*self.model else { return Ok(None) };
        let (height, width) = self.options.model.sample_size.map(Size::sides).unwrap_or_default();
        let (conditional, classes) = (unet.is_conditional(), self.data.classes.len() as u32);
        let count = if conditional { (2 * classes).min(20) } else { 16 };
        let scheduler = self.options.scheduler();
        let schedule = scheduler.schedule()?;
        let sampler = self.options.sampler();
        let program = sampler.program(&schedule);
        let request = Request {
            program: program.map_err(|error| Error::Config(error.to_string()))?,
            initial_scale: sampler.initial_scale(&schedule),
            start: Start::Noise,
            known: None,
            labels: conditional.then(|| (0..count).map(|i| i % classes).collect()),
            count,
            guidance: if conditional { 2.0 } else { 1.0 },
            steering: None,
            seed: self.options.seed,
        };
        let networks = Networks { unet, weights: EMA, classifier: None };
        let session = &mut self.trainer.session;
        let generator = Generator::usual(session, &networks, &request.frame(count, [height, width]))?;
        let drawn = generator.run(session, &request, |progress| {
            watch.drawing(progress.done as u64, progress.of as u64);
            Ok(())
        })?;
        let images = drawn.images;
        let columns = if conditional { classes.min(10) as usize } else { 4 };
        let path = beside(&self.directory, &self.options).join(SAMPLES).join(format!("step_{:06}.png", self.step));
        let grid = picture::grid(&images, columns, picture::default_scale(height as usize));
        let png = picture::encode_png(&grid).map_err(|error| Error::file(&path, error))?;
        files::write_atomic(&path, &png)?;
        if let Some(events) = &mut self.events {
            events.add_grid(self.step, grid.dimensions(), png)?;
        }
        Ok(Some(path))
    }

    /// Begins to save the state behind the last step, once what was saved before is written.
    fn begin_save(&mut self, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        self.saver.hold_nothing_more();
        self.end_save(pace, watch)?;
        // Averaged weights, weights and two moments, with the names and the JSON around them.
        let bytes = 16 * self.model.params().count() + (1 << 16);
        let place = self.hold_directory(watch).and_then(|()| files::check_room(&self.directory, bytes));
        if let Err(error) = place {
            return self.unsaved(self.step, error, watch);
        }
        self.begin_copy(Purpose::Write);
        Ok(())
    }

    /// Has the device copy the state behind the last step.
    fn begin_copy(&mut self, purpose: Purpose) {
        self.copied = Instant::now();
        let state = TrainerState {
            step: self.step,
            images: self.data.images,
            digest: self.ledger.is_none().then(|| self.data.digest.clone()),
            classes: self.data.classes.clone(),
            initial_data: self.data.initial.clone(),
            options: self.options.clone(),
            choices: tune::chosen(self.trainer.session.choices()),
            loss_scale: [1.0, 0.0],
            mean_loss: None,
        };
        let (directory, model, made_on) = (self.directory.clone(), self.model.clone(), self.made_on.clone());
        // What it spends is entered before its outcome can be seen.
        let ledger = self.ledger.as_ref().map(|ledger| ledger.charged(self.step + self.abandoned));
        let (points, curves, report) = (self.log.points().to_vec(), self.log.curves().clone(), self.report.clone());
        let save = Save { directory, model, state, made_on, points, curves, report, ledger };
        self.saver.begin(&self.trainer.session, save, purpose);
    }

    /// Writes or holds what is copied once its numbers are here and its steps are known to be sound, and hears what came of it: if
    /// that is done, or `patiently`.
    fn attend_save(&mut self, patiently: bool, watch: &mut dyn Watch) -> Result<()> {
        if let Some(step) = self.saver.here().filter(|step| *step <= self.told) {
            self.flush().unwrap_or_else(|error| self.warn_of_log(&error, watch));
            self.saver.proceed(self.mean_loss(step));
        }
        match self.saver.outcome(patiently) {
            Some(outcome) => self.hear(outcome, watch),
            None => Ok(()),
        }
    }

    /// See [`TrainerState::mean_loss`].
    fn mean_loss(&self, step: u64) -> Option<f64> {
        // Of a private run losses are secret, and which checkpoint is kept would tell of them.
        if self.options.is_private() {
            return None;
        }
        let before = match self.options.checkpoint_every {
            0 => 0,
            every => step.saturating_sub(1) / every * every,
        };
        let losses = self.log.points().iter().filter(|(at, _)| before < *at && *at <= step);
        let (sum, count) = losses.fold((0.0, 0.0), |(sum, count), (_, loss)| (sum + f64::from(*loss), count + 1.0));
        Some(sum / count).filter(|mean| mean.is_finite())
    }

    /// Makes the directory anew if it was removed, or has another name now: what is written from here on can be gone on with.
    fn hold_directory(&mut self, watch: &mut dyn Watch) -> Result<()> {
        let directory = &self.directory;
        if self.lock.is_of(directory) {
            return Ok(());
        }
        files::create_directory(directory).map_err(|error| Error::file(directory, error))?;
        let lock = claim(directory)?;
        // A picture that was written meanwhile is ours.
        if is_there(directory) {
            return Err(Error::file(directory, "another run began here after the directory of this one was removed"));
        }
        self.data.write(directory, &self.options)?;
        let place = beside(directory, &self.options);
        self.log.begin_anew(&place)?;
        self.events.as_mut().map_or(Ok(()), |events| events.begin_anew(&place, self.told + 1))?;
        self.lock = lock;
        watch.note(&format!(
            "warning: {}: was removed or renamed; it is made anew, with metrics and checkpoints from here on (step {})",
            directory.display(),
            self.step
        ));
        Ok(())
    }

    /// Waits until what is being saved is written.
    fn end_save(&mut self, pace: &mut Pace, watch: &mut dyn Watch) -> Result<()> {
        if !self.saver.is_idle() {
            self.catch_up(pace, watch)?;
        }
        self.settle_save(watch)
    }

    /// Waits until what is being saved is written, if its steps are known to be sound by now.
    fn settle_save(&mut self, watch: &mut dyn Watch) -> Result<()> {
        if self.saver.is_idle() {
            return Ok(());
        }
        self.trainer.session.context.wait()?;
        self.attend_save(true, watch)
    }

    fn hear(&mut self, outcome: Outcome, watch: &mut dyn Watch) -> Result<()> {
        let Outcome { step, learning_rate, written, beside } = outcome;
        if let Err(error) = written {
            return self.unsaved(step, error, watch);
        }
        self.saved = Some(Saved { step, learning_rate });
        beside.unwrap_or_else(|error| self.warn(&error, watch));
        Ok(())
    }

    /// Before the end, a checkpoint that can't be written is no reason to end: the one before it stands.
    fn unsaved(&mut self, step: u64, error: Error, watch: &mut dyn Watch) -> Result<()> {
        match error {
            Error::File { .. } if !self.ends => {
                watch.note(&format!("warning: step {step} is not saved: {error}; training goes on"));
                Ok(())
            }
            error => Err(error),
        }
    }
}

/// What TensorBoard is told of the run in `directory` from step `first` on, if it is to be told.
fn events(directory: &Path, options: &TrainOptions, first: u64) -> Result<Option<Events>> {
    options.tensorboard.then(|| Events::begin(&beside(directory, options), first)).transpose()
}

/// What computes on a device.
fn made_on(context: &Context) -> MadeOn {
    MadeOn { adapter: context.info.name.clone(), driver: context.driver(), shaders: session::kernels() }
}

/// Why a run that was made so far on `then` has other bits from here on.
fn difference_of(then: &MadeOn, now: &MadeOn) -> Option<String> {
    let of = |device: &MadeOn| format!("{} ({})", device.adapter, device.driver);
    let made = match (of(then) == of(now), then.shaders == now.shaders) {
        (true, true) => return None,
        (true, false) => "by another version of the kernels".into(),
        (false, _) => format!("on {}", of(then)),
    };
    Some(format!("made so far {made}: not bit-equal from here to a run that stays there"))
}

/// Whether the classes are those that a run has learnt: others by the same numbers would be learnt into one another. A set of
/// one class bears the name of its directory, which may change.
fn check_classes(source: &str, then: &[String], data: &Dataset) -> Result<()> {
    let now = &data.classes;
    let problem = match then.iter().zip(now).position(|(then, now)| then != now) {
        _ if then.is_empty() && data.account.format == "folder" && !now.is_sorted() => {
            "its folders of numbers come in the order of numbers now, and came in that of letters when this run began: a \
             letter before each name keeps the old order"
                .into()
        }
        _ if then.len() == now.len() && now.len() == 1 || then.is_empty() => return Ok(()),
        Some(index) if then.len() == now.len() => format!("class {index} is {} now and was {}", now[index], then[index]),
        None if then.len() == now.len() => return Ok(()),
        _ => format!("{} classes now ({}), {} then ({})", now.len(), list_names(now), then.len(), list_names(then)),
    };
    Err(Error::Config(format!("{source}: {problem}; this is not the same run")))
}

/// How other images than those that the run had differ from them, as far as its `data.json` tells.
fn difference(directory: &Path, state: &TrainerState, data: &Dataset) -> String {
    let place = beside(directory, &state.options).join(DATA);
    let stored: serde_json::Value = checkpoint::read_json(&place).unwrap_or_default();
    let then = |index: usize| stored["classes"][index]["images"].as_u64();
    let counts = data.counts().into_iter().enumerate();
    let changed =
        counts.filter_map(|(index, now)| then(index).filter(|then| *then != now as u64).map(|then| (index, then, now)));
    let changed: Vec<String> =
        changed.map(|(index, then, now)| format!("{} ({then} then, {now} now)", data.classes[index])).collect();
    let (images, now) = (state.images, data.len());
    match (changed.is_empty(), images == now as u64) {
        (true, true) => "other images or labels than the run had, of the same numbers".into(),
        (true, false) => format!("{now} images, and the run had {images}"),
        (false, _) => format!("other numbers of images than the run had, of {}", list_names(&changed)),
    }
}

/// Takes the tensors whose name starts with `prefix`, without it.
pub fn take_prefix(tensors: &mut FileTensors, prefix: &str) -> FileTensors {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let taken = names
        .into_iter()
        .filter_map(|name| tensors.remove(&name).map(|tensor| (name[prefix.len()..].to_string(), tensor)));
    taken.collect()
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
