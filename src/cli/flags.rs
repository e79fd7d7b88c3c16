//! Flags that several commands share.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use serde_json::Value;

use super::outputs::{Input, input};
use super::runs;
use diffuse::checkpoint;
use diffuse::data::{Want, parse_bytes};
use diffuse::nn::config::Size;
use diffuse::nn::{UNetConfig, preset, preset_names};
use diffuse::run::{Task, TrainOptions};

/// The preset where none is named.
const DEFAULT_PRESET: &str = "digits";

/// A model that comes with the program, or one of a file.
#[derive(Args)]
pub struct ModelFlags {
    #[arg(long, help_heading = "Model", value_name = "NAME", conflicts_with = "model",
          help = format!("Model that comes with the program: {} [default: digits]", preset_names()))]
    preset: Option<String>,
    /// Model of a checkpoint directory or a diffusers `config.json`; the weights are not read
    #[arg(long, help_heading = "Model", value_name = "DIR|CONFIG.json")]
    model: Option<PathBuf>,
    /// Size of its images, in place of the model's sample_size
    #[arg(long, help_heading = "Model", value_name = "N|HxW")]
    size: Option<Size>,
}

impl ModelFlags {
    /// Whether any is named.
    pub fn is_given(&self) -> bool {
        self.preset.is_some() || self.model.is_some()
    }

    /// What the model is called, if one is named.
    fn name(&self) -> Option<String> {
        self.preset.clone().or(self.model.as_deref().map(runs::stem))
    }

    /// The file or directory of the model, if it is of one.
    pub fn file(&self) -> Option<Input<'_>> {
        input("--model", self.model.as_deref())
    }

    /// Whether the model is that of a file.
    pub fn is_of_file(&self) -> bool {
        self.model.is_some()
    }

    /// The model that is named, if one is.
    fn named(&self) -> Result<Option<UNetConfig>> {
        match (&self.preset, &self.model) {
            (Some(name), _) => Ok(Some(preset(name)?)),
            (_, Some(path)) => read_model(path).map(Some),
            _ => Ok(None),
        }
    }

    /// The model that is named, else `otherwise`, of the size that is asked for.
    pub fn config(&self, otherwise: UNetConfig) -> Result<UNetConfig> {
        self.sized(self.named()?.unwrap_or(otherwise))
    }

    /// `model` of the size that is asked for, if one is.
    pub fn sized(&self, mut model: UNetConfig) -> Result<UNetConfig> {
        if let Some(size) = self.size {
            let (height, width) = size.sides();
            model.validate_size(height, width)?;
            model.sample_size = Some(size);
        }
        Ok(model)
    }
}

fn read_model(path: &Path) -> Result<UNetConfig> {
    let own = path.join(checkpoint::CONFIG);
    // A directory without weights will do, unless its `config.json` is that of a run, which says what to train.
    let is_model = |path| checkpoint::read_json::<Value>(path).is_ok_and(|given| given.get("_class_name").is_some());
    let file = match checkpoint::Place::find(path) {
        _ if path.is_file() || path.extension().is_some_and(|extension| extension == "json") => path.into(),
        Ok(place) => place.directory.join(checkpoint::CONFIG),
        Err(_) if is_model(&own) => own,
        Err(error) => return Err(error.into()),
    };
    Ok(checkpoint::read_config(&file)?)
}

/// How much memory reading data may take.
#[derive(Args)]
pub struct MemoryFlag {
    /// Most bytes that one array, one file of an archive or one page of a table may unpack to, such as 500M or 4GiB [default: 1GiB]
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    memory_limit: Option<u64>,
}

impl MemoryFlag {
    /// `want` within that limit.
    pub fn put(&self, want: Want) -> Want {
        Want { memory_limit: self.memory_limit, ..want }
    }
}

/// Images that a device takes at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum MicroBatch {
    /// The most that fit.
    Auto,
    Of(u32),
}

impl std::str::FromStr for MicroBatch {
    type Err = String;

    fn from_str(text: &str) -> Result<MicroBatch, String> {
        match text.parse() {
            _ if text == "auto" => Ok(MicroBatch::Auto),
            Ok(images) if images > 0 => Ok(MicroBatch::Of(images)),
            _ => Err("neither `auto` nor a number of images".into()),
        }
    }
}

/// What every run is told: on what it trains, which model, where it is.
#[derive(Args)]
pub struct RunFlags {
    /// `digits` (embedded), a directory of IDX files, of CIFAR's binary files, or of images with a sub-folder a class; or .npz, .npy,
    /// .parquet or .tar[.gz] files, by their path or in a directory
    #[arg(long, help_heading = "Data", required_unless_present = "resume")]
    pub data: Option<String>,
    #[command(flatten)]
    pub model: ModelFlags,
    /// Start with the weights of this checkpoint or run
    #[arg(long, help_heading = "Model", value_name = "DIR")]
    pub init: Option<PathBuf>,
    /// Images that a device takes at a time of those of a step, which --batch says: a number that divides it, or `auto` for the most
    /// that fit. In the run's files it is the batch, and accumulate says how many make a step; a run keeps it
    #[arg(long, help_heading = "Optimizer", value_name = "N|auto", conflicts_with = "accumulate")]
    pub micro_batch: Option<MicroBatch>,
    /// Shards of a step's --batch images, a power of two, whose gradients are added in one order whoever computes them: under mpirun
    /// the ranks [default: as many as there are ranks, or the next power of two], else one after the other. A run keeps it
    #[arg(long, help_heading = "Optimizer", value_name = "G", conflicts_with_all = ["accumulate", "micro_batch"])]
    pub shards: Option<u32>,
    /// Directory of the run [default: in runs/, by the time and the model, such as runs/2026-11-30_14-05_mnist]
    #[arg(long, help_heading = "Run")]
    pub out: Option<PathBuf>,
    /// Go on with the run in --out from its checkpoint; start it if there is none yet
    #[arg(long, help_heading = "Run")]
    pub resume: bool,
    /// Show losses as they come in some lines below the bar, on a terminal; `diffuse watch` shows more
    #[arg(long, help_heading = "Run")]
    pub live: bool,
    #[command(flatten)]
    pub json: super::output::Json,
}

impl RunFlags {
    /// The directory of the run: --out, or a new one that is named by the time and the model, which `config` says if it is given.
    ///
    /// # Errors
    /// One line that names the runs that there are, if one of them is to go on.
    pub fn place(&self, task: Task, config: Option<&Path>) -> Result<PathBuf> {
        match &self.out {
            Some(out) => Ok(out.clone()),
            None if self.resume => bail!("--resume needs --out, the directory of the run: {}", runs::there(task)),
            None => {
                let model = self.model.name().or(config.or(self.init.as_deref()).map(runs::stem));
                let kind = if task == Task::Classify { "-classifier" } else { "" };
                Ok(runs::fresh(&format!("{}{kind}", model.unwrap_or_else(|| DEFAULT_PRESET.into()))))
            }
        }
    }
}

/// What was typed. Stands before all other fields, which take what is theirs away.
pub struct Typed(ArgMatches);

impl FromArgMatches for Typed {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Typed, clap::Error> {
        Ok(Typed(matches.clone()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Typed::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Typed {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl Typed {
    /// Whether the argument stood there.
    pub fn is_given(&self, id: &str) -> bool {
        self.0.value_source(id) == Some(ValueSource::CommandLine)
    }

    /// The flags that chose the model; --model if none did.
    fn model_flags(&self) -> String {
        let is_known = |id: &str| self.0.ids().any(|known| known.as_str() == id);
        let given = |id: &&str| is_known(id) && self.is_given(id);
        let flags = ["preset", "model", "size", "learned_variance", "config"].into_iter().filter(given);
        let flags: Vec<String> = flags.map(|id| id.replace('_', "-")).collect();
        if flags.is_empty() { "model".into() } else { flags.join(" and --") }
    }

    /// What was given for it, if anything.
    pub fn get<T: Copy + Send + Sync + 'static>(&self, id: &str) -> Option<T> {
        self.0.get_one(id).copied()
    }

    /// `options` with what the flags say instead.
    pub fn put(&self, run: &RunFlags, mut options: TrainOptions) -> Result<TrainOptions> {
        let base = options.images_of_a_step();
        options.update_from_arg_matches(&self.0)?;
        if run.micro_batch.is_some() && options.is_private() {
            bail!("--micro-batch does not go with --dp, which takes a step's images one at a time");
        }
        let images = if self.is_given("batch") { options.batch } else { base };
        if let Some(micro_batch) = run.micro_batch {
            let pass = if let MicroBatch::Of(pass) = micro_batch { pass } else { images };
            if !images.is_multiple_of(pass) {
                bail!(
                    "--micro-batch {pass} does not divide --batch {images}: all passes of a step take as many images"
                );
            }
            (options.batch, options.accumulate) = (pass, images / pass);
        }
        if let Some(shards) = run.shards {
            if options.is_private() {
                bail!("--shards does not go with --dp, which takes a step's images one at a time");
            }
            options = in_shards(TrainOptions { batch: images, accumulate: 1, ..options }, shards)?;
        }
        if self.is_given("timesteps") {
            options.sample_steps = options.sample_steps.min(options.timesteps.max(1));
        }
        options.data = run.data.clone().unwrap_or(options.data);
        options.model = run.model.config(options.model)?;
        Ok(options)
    }
}

/// `options` with the images of a step, which is one batch, in `shards` of equal size.
pub fn in_shards(mut options: TrainOptions, shards: u32) -> Result<TrainOptions> {
    if !shards.is_power_of_two() {
        bail!("--shards {shards}: takes a power of two");
    }
    if !options.batch.is_multiple_of(shards) {
        bail!("--batch {} can't be cut into {shards} shards of equal size: take a multiple", options.batch);
    }
    (options.batch, options.accumulate) = (options.batch / shards, shards);
    Ok(options)
}

/// What may change in a run that goes on: the rest of it follows from its beginning.
const MAY_CHANGE: [&str; 17] = [
    "steps",
    "learning_rate",
    "warmup",
    "learning_rate_schedule",
    "data",
    "memory_limit",
    "sample_every",
    "checkpoint_every",
    "keep",
    "tensorboard",
    "histograms_every",
    "on_nan",
    "audit_every",
    "exchange",
    "on_differ",
    "recompute",
    "stream",
];

/// The differences of `now`, what a run goes on with, from `then`: a line each.
///
/// # Errors
/// One line that names the flag of what can't change, out of those that `command` has, or that were typed.
pub fn changes(then: &TrainOptions, now: &TrainOptions, command: &Command, typed: &Typed) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let [was, is] = [then, now].map(|options| serde_json::to_value(options).expect("options can be written"));
    for (key, now) in is.as_object().expect("an object") {
        let then = &was[key];
        if then == now {
            continue;
        }
        let arg = command.get_arguments().find(|arg| arg.get_id() == key.as_str());
        let flag = arg.and_then(Arg::get_long).unwrap_or(key).replace('_', "-");
        let (flag, then, now) = match key.as_str() {
            "model" => (typed.model_flags(), "one model".to_string(), "another".to_string()),
            _ => (flag, then.to_string(), now.to_string()),
        };
        if !MAY_CHANGE.contains(&key.as_str()) {
            bail!(
                "--{flag} can't change in a resumed run ({then} then, {now} now): it would be another one; start that in \
                 another --out, with --init from these weights if they fit"
            );
        }
        lines.push(format!("{flag}: {now} from here on, {then} before"));
    }
    Ok(lines)
}

/// The flags of [`TrainOptions`], of which the command takes those of `wanted`, with its defaults in the help.
pub fn option_flags(defaults: &TrainOptions, wanted: impl Fn(&str) -> bool) -> Vec<Arg> {
    let defaults = serde_json::to_value(defaults).expect("options can be written");
    let refuse = |_: &str| Err::<String, _>("this command doesn't take it");
    let flag = |(index, arg): (usize, &Arg)| {
        let (id, help) = (arg.get_id().as_str(), arg.get_help().expect("a line"));
        // Behind the command's own.
        let arg = arg.clone().display_order(100 + index);
        match &defaults[id] {
            _ if !wanted(id) => arg.hide(true).value_parser(refuse),
            Value::Null | Value::Bool(false) => arg,
            Value::String(key) => arg.help(format!("{help} [default: {}]", key.replace('_', "-"))),
            number => arg.help(format!("{help} [default: {number}]")),
        }
    };
    TrainOptions::augment_args_for_update(Command::new("")).get_arguments().enumerate().map(flag).collect()
}
