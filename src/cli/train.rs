//! `diffuse train`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use super::progress::Progress;
use super::{Adapter, Storage};
use diffuse::checkpoint;
use diffuse::gpu::{Context, context::mebibytes};
use diffuse::run::TrainOptions;
use diffuse::run::options::{LearningRateSchedule, NoiseSchedule, Target, Weighting, preset};
use diffuse::train::{Run, Stored, run};

/// Train a U-Net
#[derive(clap::Args)]
pub struct Args {
    /// `digits` (embedded), a directory of IDX files, or a directory of images with a sub-folder a class
    #[arg(long, required_unless_present_any = ["resume", "config"])]
    data: Option<String>,
    /// Model that comes with the program: digits, mnist, base, cifar10 [default: digits]
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    preset: Option<String>,
    /// Model of a diffusers `config.json`
    #[arg(long, value_name = "CONFIG.json")]
    model: Option<PathBuf>,
    /// File of all flags, such as the `config.json` of a run; flags on the command line go before it
    #[arg(long, value_name = "FILE.json")]
    config: Option<PathBuf>,
    /// Directory of the run
    #[arg(long, default_value = "runs/train")]
    out: PathBuf,
    /// Go on with the run in --out, from its checkpoint
    #[arg(long, conflicts_with_all = ["config", "preset", "model", "data"])]
    resume: bool,
    /// Print one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

fn read_options(path: &Path) -> Result<TrainOptions> {
    let given: serde_json::Map<String, serde_json::Value> = checkpoint::read_json(path)?;
    if given.contains_key("block_out_channels") {
        bail!("{}: a model, not the options of a run: --model takes it", path.display());
    }
    Ok(checkpoint::read_json(path)?)
}

/// Each is a key of the options; absent ones keep what --config or the default says.
#[derive(clap::Args)]
struct Flags {
    /// Optimizer steps
    #[arg(long)]
    steps: Option<u64>,
    /// Images in a batch
    #[arg(long)]
    batch: Option<u32>,
    /// Batches whose gradients make one step
    #[arg(long)]
    accumulate: Option<u32>,
    /// Learning rate
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Steps over which the learning rate rises
    #[arg(long)]
    warmup: Option<u64>,
    /// What the learning rate does after that
    #[arg(long, value_enum)]
    lr_schedule: Option<LearningRateSchedule>,
    /// Decoupled weight decay
    #[arg(long, allow_negative_numbers = true)]
    weight_decay: Option<f64>,
    /// Largest norm of the gradient; 0 doesn't clip
    #[arg(long, allow_negative_numbers = true)]
    max_norm: Option<f64>,
    /// Decay of the average of the weights
    #[arg(long, allow_negative_numbers = true)]
    ema_decay: Option<f64>,
    /// How often the class is hidden, for guidance
    #[arg(long, allow_negative_numbers = true)]
    class_dropout: Option<f64>,
    /// Whether to show images flipped left to right [default: as the data allow]
    #[arg(long)]
    flip: Option<bool>,
    /// Noise schedule
    #[arg(long, value_enum, alias = "noise-schedule")]
    schedule: Option<NoiseSchedule>,
    /// Timesteps of the noise schedule: levels of the ladder [default: 1000]
    #[arg(long)]
    timesteps: Option<usize>,
    /// Least noise of the schedules ve and edm [default: the papers']
    #[arg(long, allow_negative_numbers = true)]
    sigma_min: Option<f64>,
    /// Most noise of the schedules ve and edm [default: the papers']
    #[arg(long, allow_negative_numbers = true)]
    sigma_max: Option<f64>,
    /// What the network learns to put out [default: epsilon]
    #[arg(long, value_enum)]
    target: Option<Target>,
    /// What each timestep counts in the loss [default: simple]
    #[arg(long, value_enum)]
    loss_weight: Option<Weighting>,
    /// Learn the variance of the reverse steps, too: twice the output channels, L_hybrid (Nichol & Dhariwal 2021)
    #[arg(long)]
    learned_variance: bool,
    /// How activations and copies of weights are stored [default: f32]; sums and master weights are f32 always
    #[arg(long, value_enum)]
    precision: Option<Storage>,
    /// Less memory, a little more time: compute outputs of norms and activations once more in the backward pass
    #[arg(long)]
    recompute: bool,
    /// Seed of weights, batches and noise
    #[arg(long)]
    seed: Option<u64>,
    /// Steps between sample grids; 0 draws none
    #[arg(long)]
    sample_every: Option<u64>,
    /// Steps between checkpoints; 0 saves at the end alone
    #[arg(long)]
    checkpoint_every: Option<u64>,
}

fn put<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}

impl Flags {
    /// What decides the noise, the target and the loss.
    fn put_diffusion(&self, options: &mut TrainOptions) {
        put(&mut options.noise_schedule, self.schedule);
        if let Some(timesteps) = self.timesteps {
            options.timesteps = timesteps;
            options.sample_steps = options.sample_steps.min(timesteps.max(1));
        }
        options.sigma_min = self.sigma_min.or(options.sigma_min);
        options.sigma_max = self.sigma_max.or(options.sigma_max);
        put(&mut options.target, self.target);
        put(&mut options.loss_weight, self.loss_weight);
        if self.learned_variance {
            options.model.out_channels = 2 * options.model.in_channels;
        }
    }
}

impl Args {
    fn options(&self) -> Result<TrainOptions> {
        let mut options: TrainOptions = match &self.config {
            Some(path) => read_options(path)?,
            None => TrainOptions::default(),
        };
        put(&mut options.data, self.data.clone());
        if let Some(path) = &self.model {
            options.model = checkpoint::read_config(path)?;
        }
        if let Some(name) = &self.preset {
            options.model = preset(name)?;
        }
        let Flags { steps, batch, accumulate, lr, warmup, lr_schedule, weight_decay, max_norm, .. } = &self.flags;
        put(&mut options.steps, *steps);
        put(&mut options.batch, *batch);
        put(&mut options.accumulate, *accumulate);
        put(&mut options.learning_rate, *lr);
        put(&mut options.warmup, *warmup);
        put(&mut options.learning_rate_schedule, *lr_schedule);
        put(&mut options.weight_decay, *weight_decay);
        put(&mut options.max_norm, *max_norm);
        let Flags { ema_decay, class_dropout, flip, seed, sample_every, checkpoint_every, .. } = &self.flags;
        put(&mut options.ema_decay, *ema_decay);
        put(&mut options.class_dropout, *class_dropout);
        options.flip = flip.or(options.flip);
        self.flags.put_diffusion(&mut options);
        put(&mut options.seed, *seed);
        put(&mut options.sample_every, *sample_every);
        put(&mut options.checkpoint_every, *checkpoint_every);
        options.recompute |= self.flags.recompute;
        options.validate()?;
        Ok(options)
    }

    fn refuse_flags_with_resume(&self) -> Result<()> {
        let Flags { steps: _, batch, accumulate, lr, warmup, lr_schedule, weight_decay, max_norm, .. } = &self.flags;
        let Flags { ema_decay, class_dropout, flip, seed, sample_every, checkpoint_every, .. } = &self.flags;
        let Flags { schedule, timesteps, sigma_min, sigma_max, target, loss_weight, .. } = &self.flags;
        let given = [
            ("--batch", batch.is_some()),
            ("--accumulate", accumulate.is_some()),
            ("--lr", lr.is_some()),
            ("--warmup", warmup.is_some()),
            ("--lr-schedule", lr_schedule.is_some()),
            ("--weight-decay", weight_decay.is_some()),
            ("--max-norm", max_norm.is_some()),
            ("--ema-decay", ema_decay.is_some()),
            ("--class-dropout", class_dropout.is_some()),
            ("--flip", flip.is_some()),
            ("--schedule", schedule.is_some()),
            ("--timesteps", timesteps.is_some()),
            ("--sigma-min", sigma_min.is_some()),
            ("--sigma-max", sigma_max.is_some()),
            ("--target", target.is_some()),
            ("--loss-weight", loss_weight.is_some()),
            ("--learned-variance", self.flags.learned_variance),
            ("--precision", self.flags.precision.is_some()),
            ("--recompute", self.flags.recompute),
            ("--seed", seed.is_some()),
            ("--sample-every", sample_every.is_some()),
            ("--checkpoint-every", checkpoint_every.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((flag, _)) => bail!("{flag} can't change in a resumed run; --steps can"),
            None => Ok(()),
        }
    }
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    super::catch_interrupts();
    let started = Instant::now();
    if args.resume {
        args.refuse_flags_with_resume()?;
        let stored = Stored::open(&args.out)?;
        let context = adapter.open()?;
        let policy = adapter.policy_of_resumed(&context)?;
        let mut run = Run::resume(&context, &policy, stored, args.flags.steps)?;
        return train(&mut run, &context, &args.out, args.json, started).map(|_| ());
    }
    let mut options = args.options()?;
    // A preset takes as many classes as the data have; a configuration of one's own is taken at its word.
    let classes =
        if args.model.is_none() && args.config.is_none() { options.model.num_class_embeds.take() } else { None };
    let data = run::load_data(&mut options)?;
    if classes.is_some() {
        options.model.num_class_embeds = Some(data.classes.len() as u32 + 1);
    }
    let context = adapter.open()?;
    if let Some(storage) = args.flags.precision {
        options.precision = storage.precision(&context);
    }
    let mut run = Run::create(&context, &adapter.policy(&context)?, &args.out, options, &data, false)?;
    train(&mut run, &context, &args.out, args.json, started).map(|_| ())
}

/// Trains and says what came of it; whether it went to the end.
pub fn train(run: &mut Run, context: &Context, out: &Path, json: bool, started: Instant) -> Result<bool> {
    let steps = run.options().steps;
    let from = if run.steps_done() > 0 { format!(", from step {}", run.steps_done()) } else { String::new() };
    eprintln!(
        "{} parameters on {}, batch {}, {}{from}",
        run.parameters(),
        context.info.name,
        run.options().batch * run.options().accumulate,
        mebibytes(run.allocated_bytes())
    );
    let mut progress = Progress::new("training", run.steps_done(), steps);
    let result = run.train(&mut progress);
    progress.finish();
    let done = result?;
    if done {
        eprintln!("trained {steps} steps in {:.0} s: {}", started.elapsed().as_secs_f64(), out.display());
    } else {
        let at = run.steps_done();
        eprintln!(
            "stopped at step {at} of {steps} and saved; go on with: diffuse train --resume --out {}",
            out.display()
        );
    }
    if json {
        let object = json!({
            "out": out, "step": run.steps_done(), "steps": steps, "done": done,
            "checkpoint": out.join("checkpoint"), "seconds": started.elapsed().as_secs_f64(),
        });
        super::print(&object.to_string())?;
    }
    Ok(done)
}
