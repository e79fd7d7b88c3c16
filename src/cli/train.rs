//! `diffuse train`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args as _, Command};
use serde_json::json;

use super::adapter::{Adapter, Storage};
use super::decoding;
use super::flags::{MicroBatch, RunFlags, Typed, changes, in_shards, option_flags};
use super::output::{Json, say};
use super::outputs::{Input, Place, Source, check_apart, file, input};
use super::progress::Progress;
use diffuse::checkpoint;
use diffuse::error::{Error, counted, quoted};
use diffuse::gpu::{Context, context::mebibytes};
use diffuse::ranks::Ranks;
use diffuse::run::trainer::check_shared;
use diffuse::run::{Audited, Exchanged, Task, TrainOptions};
use diffuse::train::{Lock, Losses, Model, Over, Run, Stored, check_place, is_of_a_run, run};
use diffuse::tune::{Policy, Winograd};

/// Train a U-Net
#[derive(clap::Args)]
#[command(
    mut_arg("data", |data| data.required_unless_present("config")),
    args = option_flags(&TrainOptions::default(), |_| true)
)]
pub struct Args {
    #[command(flatten)]
    typed: Typed,
    #[command(flatten)]
    run: RunFlags,
    /// File of all flags, such as the `config.json` of a run; flags on the command line go before it
    #[arg(long, help_heading = "Run", value_name = "FILE.json")]
    config: Option<PathBuf>,
    /// Learn the variance of the reverse steps, too: twice the output channels, L_hybrid (Nichol & Dhariwal 2021)
    #[arg(long, help_heading = "Diffusion")]
    learned_variance: bool,
    /// How activations and copies of weights are stored [default: f32]; sums and master weights are f32 always
    #[arg(long, help_heading = "Model", value_enum)]
    precision: Option<Storage>,
}

fn read_options(path: &Path) -> Result<TrainOptions> {
    let given: serde_json::Map<String, serde_json::Value> = checkpoint::read_json(path)?;
    if given.contains_key("block_out_channels") {
        bail!("{}: a model, not the options of a run: --model takes it", path.display());
    }
    let options: TrainOptions = checkpoint::read_json(path)?;
    if options.task != Task::Denoise {
        bail!("{}: the options of a classifier, which train-classifier trains, with flags alone", path.display());
    }
    Ok(options)
}

impl Args {
    /// What --config says, or the run that goes on, or what is usual, with what the flags say instead.
    fn options(&self, then: Option<TrainOptions>) -> Result<TrainOptions> {
        let told = self.config.as_deref().map(read_options).transpose()?.or(then);
        // What a file says, or a run that goes on, is all that it says.
        let is_told = told.is_some();
        let base = told.unwrap_or_default();
        let mut options = self.typed.put(&self.run, base.clone())?;
        if options.is_private() && !is_told {
            options = self.typed.put(&self.run, base.with_private_defaults(options.dp_epsilon))?;
        }
        if self.learned_variance {
            options.model.out_channels = 2 * options.model.in_channels;
        }
        options.validate()?;
        Ok(options)
    }
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    super::interrupt::catch_interrupts();
    let started = Instant::now();
    let out = args.run.place(Task::Denoise, args.config.as_deref())?;
    let asked = Asked {
        flags: &args.run,
        out: &out,
        typed: &args.typed,
        task: Task::Denoise,
        options: &|then| args.options(then),
        command: Args::augment_args(Command::new("")),
        precision: args.precision,
        winograd: adapter.winograd(),
        // A preset takes as many classes as the data have; a configuration of one's own is taken at its word.
        counts_classes: !args.run.model.is_of_file() && args.config.is_none(),
        config: args.config.as_deref(),
        ranks: adapter.ranks(),
    };
    let again = going_on("train", &out);
    let ending =
        Ending { out: &out, json: &args.run.json, started, again, is_live: args.run.live, ranks: adapter.ranks() };
    asked.train(adapter, &ending)?;
    Ok(())
}

/// What a command that trains has before it.
pub enum Begun<'c> {
    Run(Box<Run<'c>>),
    /// Nothing: all steps were done already. The run stays locked as long as this is there.
    Done {
        options: Box<TrainOptions>,
        stored: Box<Stored>,
    },
}

/// What a command that trains was asked for.
pub struct Asked<'a> {
    pub flags: &'a RunFlags,
    /// The directory of the run.
    pub out: &'a Path,
    pub typed: &'a Typed,
    /// What it trains.
    pub task: Task,
    /// Options of the run that goes on, or of a new one, with what the flags say instead.
    pub options: &'a dyn Fn(Option<TrainOptions>) -> Result<TrainOptions>,
    /// Whose flags they are.
    pub command: Command,
    pub precision: Option<Storage>,
    pub winograd: Option<Winograd>,
    /// The file that said all of it, if one did.
    pub config: Option<&'a Path>,
    /// Whether the model takes as many classes as the data have.
    pub counts_classes: bool,
    /// Who computes it together.
    pub ranks: Option<&'a dyn Ranks>,
}

/// A run that came to its end, and the device that it ended on.
pub struct Trained {
    pub context: Context,
    pub options: TrainOptions,
    /// Whether all steps are done.
    pub is_done: bool,
    pub lock: Lock,
}

/// What became of a run on one device.
enum Life {
    Ended(Box<Trained>),
    Lost(Box<Lost>),
}

/// A run whose device was lost.
struct Lost {
    error: Error,
    /// What the adapter is called.
    adapter: String,
    options: TrainOptions,
    /// Steps that were known to be done.
    known: u64,
    lock: Option<Lock>,
}

/// Trains what `begin` begins on a device.
fn live(
    context: Context,
    ending: &Ending,
    begin: impl for<'c> FnOnce(&'c Context) -> Result<Begun<'c>>,
) -> Result<Life> {
    let (options, is_done, lock) = match begin(&context)? {
        Begun::Done { options, stored } => {
            ending.print(options.steps, options.steps, Audited::default())?;
            (*options, true, stored.into_lock())
        }
        Begun::Run(mut run) => match (train_together(&mut run, &context, ending), run.options().clone()) {
            (Ok(is_done), options) => (options, is_done, run.into_lock()),
            (Err(error), options) => {
                let adapter = context.info.name.clone();
                let (error, known) = (lost(error)?, run.steps_known());
                if let Err(problem) = run.write_held() {
                    say(format_args!("warning: what was held in memory is not saved: {problem}"));
                }
                if ending.ranks.is_some() {
                    bail!("{error}; go on with: {}", ending.again);
                }
                return Ok(Life::Lost(Box::new(Lost { error, adapter, options, known, lock: Some(run.into_lock()) })));
            }
        },
    };
    Ok(Life::Ended(Box::new(Trained { context, options, is_done, lock })))
}

/// As [`train`], with other ranks if there are some.
fn train_together<'c>(run: &mut Run<'c>, context: &Context, ending: &Ending<'c>) -> Result<bool> {
    if let Some(ranks) = ending.ranks {
        run.join(ranks)?;
    }
    train(run, context, ending)
}

/// Takes part in the run that rank 0 trains. Whether that ended well.
pub fn follow(ranks: &dyn Ranks, adapter: &Adapter) -> Result<bool> {
    super::interrupt::catch_quietly();
    let context = adapter.open();
    let policy = context.as_ref().map_or_else(|_| Ok(Policy::default()), |context| adapter.policy(context))?;
    let opened = context.as_ref().map_err(|error| format!("{error:#}"));
    let name = ranks.name(ranks.rank());
    let warn = |finding: &str| say(format_args!("warning: {name}: {finding}"));
    Ok(diffuse::train::follow(ranks, opened, &policy, super::interrupt::interrupted, warn)?)
}

/// The error of a lost device.
///
/// # Errors
/// Any other.
fn lost(error: anyhow::Error) -> Result<Error> {
    match error.downcast::<Error>()? {
        lost @ Error::Lost(_) => Ok(lost),
        other => Err(other.into()),
    }
}

/// Trains what `begin` begins. Where the device is lost, it is opened again, and the run goes on from the newest state that is left
/// of it as it does with --resume, or as `start` starts it with the options that it had if there is none.
///
/// # Errors
/// One line, if the device is lost again and again.
pub fn train_through_losses(
    adapter: &Adapter,
    ending: &Ending,
    begin: impl for<'c> FnOnce(&'c Context, &Policy) -> Result<Begun<'c>>,
    start: impl for<'c> Fn(TrainOptions, &'c Context, &Policy) -> Result<Run<'c>>,
) -> Result<Trained> {
    let mut life = live(adapter.open()?, ending, |context| begin(context, &adapter.policy(context)?))?;
    let mut losses = Losses::default();
    loop {
        life = match life {
            Life::Ended(trained) => return Ok(*trained),
            Life::Lost(lost) if losses.count(lost.known) => live_again(*lost, &losses, adapter, ending, &start)?,
            Life::Lost(lost) => {
                bail!("{} ({losses}, and no step was new between them); go on with: {}", lost.error, ending.again)
            }
        };
    }
}

fn live_again(
    before: Lost,
    losses: &Losses,
    adapter: &Adapter,
    ending: &Ending,
    start: impl for<'c> Fn(TrainOptions, &'c Context, &Policy) -> Result<Run<'c>>,
) -> Result<Life> {
    let (out, Lost { error, adapter: name, options, lock, .. }) = (ending.out, before);
    let stored = lock.map_or_else(|| Stored::find(out), |lock| Stored::find_locked(out, lock))?;
    let step = stored.as_ref().map_or(0, Stored::step);
    say(format_args!("{error}; it is opened again and training goes on from step {step} ({losses})"));
    // A driver may need it to come to itself.
    std::thread::sleep(Duration::from_secs(1));
    let opened = adapter.open().and_then(|context| match context.info.name == name {
        true => Ok(context),
        false => bail!("{name} is not there any more"),
    });
    let lived = opened.map_err(|error| Error::Lost(format!("{error:#}")).into()).and_then(|context| {
        live(context, ending, |context| {
            let (policy, options) = (adapter.policy(context)?, options.clone());
            Ok(Begun::Run(Box::new(match stored {
                Some(stored) => Run::resume(context, &policy, stored, options, decoding::watch())?,
                None => start(options, context, &policy)?,
            })))
        })
    });
    lived.or_else(|error| {
        let error = lost(error)?;
        Ok(Life::Lost(Box::new(Lost { error, adapter: name, options, known: 0, lock: None })))
    })
}

impl Asked<'_> {
    /// Begins the run, or goes on with it, and trains through losses of the device.
    ///
    /// # Errors
    /// One line.
    pub fn train(&self, adapter: &Adapter, ending: &Ending) -> Result<Trained> {
        let fresh = self.fresh()?;
        train_through_losses(
            adapter,
            ending,
            |context, policy| self.begin(fresh, context, policy),
            |options, context, policy| self.start(Some(options), Over::Unfinished, context, policy),
        )
    }

    /// The options of a new run, unless one goes on. Refuses what makes no sense, before a device is opened.
    fn fresh(&self) -> Result<Option<TrainOptions>> {
        self.flags.json.check()?;
        let run = ("--out", Place::Directory(self.out, is_of_a_run));
        let data = self.flags.data.as_deref().map(|data| ("--data", Source::Data(Path::new(data))));
        let init = input("--init", self.flags.init.as_deref());
        let reads = [data, init, self.flags.model.file(), input("--config", self.config)];
        let reads: Vec<Input> = reads.into_iter().flatten().collect();
        check_apart(&file("--json", self.flags.json.file()).into_iter().collect::<Vec<_>>(), &reads)?;
        check_apart(&file("--json", self.flags.json.file()).into_iter().chain([run]).collect::<Vec<_>>(), &[])?;
        if !self.flags.resume {
            check_place(self.out)?;
        }
        (!self.flags.resume).then(|| (self.options)(None)).transpose()
    }

    /// The run: one that goes on, or a new one with the options `fresh`.
    fn begin<'c>(&self, fresh: Option<TrainOptions>, context: &'c Context, policy: &Policy) -> Result<Begun<'c>> {
        let stored = if self.flags.resume { Stored::find(self.out)? } else { None };
        match stored {
            Some(stored) => self.resume(context, policy, stored),
            None => {
                let over = if self.flags.resume { Over::Unfinished } else { Over::Nothing };
                Ok(Begun::Run(Box::new(self.start(fresh, over, context, policy)?)))
            }
        }
    }

    /// What a step takes at a time, as it fitted when the run began, whatever would fit now: its bits follow.
    fn keep_passes(&self, then: &TrainOptions, now: &mut TrainOptions) -> Result<()> {
        let [was, is] = [then, &*now].map(TrainOptions::images_of_a_step);
        // The line that began the run says the images of a step, whoever takes them.
        if now.batch == was && now.accumulate == then.accumulate && !self.typed.is_given("accumulate") {
            (now.batch, now.accumulate) = (then.batch, then.accumulate);
            return Ok(());
        }
        if self.flags.shards.is_some() && was == is && then.accumulate != now.accumulate {
            let [was, is] = [then, &*now].map(|options| options.accumulate);
            bail!("--shards can't change in a resumed run ({was} then, {is} now): its bits follow from them");
        }
        let (flag, was, is) = match self.flags.micro_batch {
            Some(_) if was != is => ("batch", was, is),
            Some(MicroBatch::Of(pass)) if pass != then.batch => ("micro-batch", then.batch, pass),
            Some(_) => {
                (now.batch, now.accumulate) = (then.batch, then.accumulate);
                return Ok(());
            }
            None => return Ok(()),
        };
        bail!(
            "--{flag} can't change in a resumed run ({was} then, {is} now): it would be another one; start that in another --out"
        )
    }

    fn resume<'c>(&self, context: &'c Context, policy: &Policy, stored: Stored) -> Result<Begun<'c>> {
        let then = stored.options().clone();
        if then.task != self.task {
            let other = if then.task == Task::Denoise { "a U-Net: train" } else { "a classifier: train-classifier" };
            bail!("{}: this run trains {other} --resume goes on with it", self.out.display());
        }
        let mut now = (self.options)(Some(then.clone()))?;
        now.precision = self.precision.map_or(now.precision, |storage| storage.precision(context));
        now.winograd = self.winograd.unwrap_or(now.winograd);
        // What the data decided at first.
        now.model.sample_size = now.model.sample_size.or(then.model.sample_size);
        if self.counts_classes {
            now.model.num_class_embeds = then.model.num_class_embeds;
        }
        let mut now = stored.in_its_words(now);
        self.keep_passes(&then, &mut now)?;
        let changed = changes(&then, &now, &self.command, self.typed)?;
        if self.flags.init.is_some() {
            say("--init is for the start of a run: this one goes on from its own checkpoint");
        }
        if now.steps == stored.step() {
            if self.flags.data.is_some() || self.config.is_some() {
                run::load_same_data(&stored, &mut now, decoding::watch())?;
            }
            say(format_args!(
                "trained {} already: {}; --steps takes more",
                counted(now.steps, "step"),
                self.out.display()
            ));
            return Ok(Begun::Done { options: Box::new(now), stored: Box::new(stored) });
        }
        let run = Run::resume(context, policy, stored, now, decoding::watch())?;
        changed.iter().for_each(say);
        Ok(Begun::Run(Box::new(run)))
    }

    fn start<'c>(
        &self,
        fresh: Option<TrainOptions>,
        over: Over,
        context: &'c Context,
        policy: &Policy,
    ) -> Result<Run<'c>> {
        if self.flags.data.is_none() && self.config.is_none() {
            bail!("{}: no run to go on with, and no --data to start one", self.out.display());
        }
        let mut options = fresh.map_or_else(|| (self.options)(None), Ok)?;
        options.precision = self.precision.map_or(options.precision, |storage| storage.precision(context));
        options.winograd = self.winograd.unwrap_or(options.winograd);
        if let (Some(place), Task::Denoise, false, false) =
            (&self.flags.init, options.task, self.flags.model.is_given(), self.config.is_some())
        {
            let config = checkpoint::Place::find(place)?.directory.join(checkpoint::CONFIG);
            options.model = self.flags.model.sized(checkpoint::read_config(&config)?)?;
        }
        let classes = if self.counts_classes { options.model.num_class_embeds.take() } else { None };
        let data = run::load_data(&mut options, decoding::watch())?;
        if classes.is_some() {
            options.model.num_class_embeds = Some(data.classes.len() as u32 + 1);
        }
        let initial =
            self.flags.init.as_deref().map(|place| Model::new(&options, &data)?.initial(place, &options, &data));
        let initial = initial.transpose()?;
        let notes: Vec<String> = initial.iter().flat_map(|initial| initial.notes.clone()).collect();
        if self.flags.micro_batch == Some(MicroBatch::Auto) && options.accumulate == 1 {
            options = run::with_fewest_passes(context, policy, &options, &data)?;
            say(format_args!("{} images of a step's {} at a time", options.batch, options.images_of_a_step()));
        }
        if let Some(ranks) = self.ranks.filter(|_| options.accumulate == 1 && !options.is_private()) {
            options = in_shards(options, ranks.count().next_power_of_two())?;
        }
        self.ranks.map_or(Ok(()), |ranks| check_shared(&options, ranks))?;
        let run = Run::create(context, policy, self.out, options, &data, (over, initial))?;
        notes.iter().for_each(say);
        if self.flags.out.is_none() {
            let place = quoted(&self.out.to_string_lossy());
            say(format_args!("{place}: this run; diffuse watch {place} shows how it goes"));
        }
        Ok(run)
    }
}

/// How a run is spoken of when it ends.
pub struct Ending<'a> {
    pub out: &'a Path,
    pub json: &'a Json,
    pub started: Instant,
    /// The command that goes on with it.
    pub again: String,
    /// Whether more than a bar is shown until then.
    pub is_live: bool,
    /// Who computes it together.
    pub ranks: Option<&'a dyn Ranks>,
}

impl Ending<'_> {
    /// `step` steps are done of `steps`, of which `audited` were audited by this call.
    pub fn print(&self, step: u64, steps: u64, audited: Audited) -> Result<()> {
        let object = || {
            json!({
                "out": self.out, "step": step, "steps": steps, "done": step >= steps,
                "checkpoint": self.out.join("checkpoint"), "seconds": self.started.elapsed().as_secs_f64(),
                "audited": audited,
            })
        };
        self.json.print_object(object)
    }
}

/// Trains and says what came of it; whether it went to the end.
pub fn train(run: &mut Run, context: &Context, ending: &Ending) -> Result<bool> {
    let all = run.options().steps;
    run.notes().iter().for_each(say);
    say(run.about_data());
    let from = if run.steps_done() > 0 { format!(", from step {}", run.steps_done()) } else { String::new() };
    say(format_args!(
        "{} parameters on {}, batch {}, {}{from}",
        run.parameters(),
        context.info.name,
        run.options().batch * run.options().accumulate,
        mebibytes(run.allocated_bytes())
    ));
    if let Some(feed) = run.feed() {
        let (whole, held) = (mebibytes(feed.whole_bytes()), feed.bytes() as f64 / (1 << 20) as f64);
        say(format_args!("images are read as they come: {held:.2} MiB of {whole} are in memory at a time"));
    }
    if let Some([planned, _]) = run.about_privacy()? {
        say(format_args!("planned: {planned}"));
        say(format_args!("private/ of the run, and losses on this terminal, are not to be published"));
    }
    let progress = Progress::new("training", run.steps_done(), all);
    let mut progress = if ending.is_live { progress.live() } else { progress };
    let begun = Instant::now();
    let result = run.train(&mut progress);
    progress.finish();
    let done = result?;
    if let Some(feed) = run.feed() {
        let (waited, all) = (feed.waited().as_secs_f64(), begun.elapsed().as_secs_f64());
        say(format_args!("steps waited {waited:.2} s for images, {:.2} % of the time", 100.0 * waited / all.max(1e-9)));
    }
    if let Some(exchanged) = run.trainer().exchanged() {
        let Exchanged { exchange, hidden, .. } = exchanged;
        let [exchange, hidden, all] = [exchange, hidden, begun.elapsed()].map(|time| time.as_secs_f64());
        let share = 100.0 * exchange / all.max(1e-9);
        let behind = 100.0 * hidden / exchange.max(1e-9);
        say(format_args!("other ranks took {share:.1} % of the time, {behind:.0} % of it while this device computed"));
    }
    let audited = run.audited();
    if audited.steps > 0 {
        say(audited);
    }
    if let Some([_, spent]) = run.about_privacy()? {
        say(spent);
    }
    let Ending { out, started, again, .. } = ending;
    if done {
        say(format_args!(
            "trained {} in {:.0} s: {}",
            counted(all, "step"),
            started.elapsed().as_secs_f64(),
            out.display()
        ));
    } else {
        say(format_args!("stopped at step {} of {all} and saved; go on with: {again}", run.steps_done()));
    }
    ending.print(run.steps_done(), all, audited)?;
    Ok(done)
}

/// What is typed to go on with a run.
pub fn going_on(command: &str, out: &Path) -> String {
    format!("diffuse {command} --resume --out {}", quoted(&out.to_string_lossy()))
}
