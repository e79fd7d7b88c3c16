//! `diffuse train`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::{Adapter, Storage};
use super::flags::{RunFlags, Typed, option_flags};
use super::output::Json;
use super::progress::Progress;
use diffuse::checkpoint;
use diffuse::gpu::{Context, context::mebibytes};
use diffuse::run::TrainOptions;
use diffuse::train::{Run, Stored, run};

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
    #[arg(long, value_name = "FILE.json", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Learn the variance of the reverse steps, too: twice the output channels, L_hybrid (Nichol & Dhariwal 2021)
    #[arg(long)]
    learned_variance: bool,
    /// How activations and copies of weights are stored [default: f32]; sums and master weights are f32 always
    #[arg(long, value_enum)]
    precision: Option<Storage>,
}

fn read_options(path: &Path) -> Result<TrainOptions> {
    let given: serde_json::Map<String, serde_json::Value> = checkpoint::read_json(path)?;
    if given.contains_key("block_out_channels") {
        bail!("{}: a model, not the options of a run: --model takes it", path.display());
    }
    Ok(checkpoint::read_json(path)?)
}

impl Args {
    fn options(&self) -> Result<TrainOptions> {
        let given = self.config.as_deref().map(read_options).transpose()?;
        let mut options = self.typed.put(&self.run, given.unwrap_or_default())?;
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
    if args.run.resume {
        let steps = args.typed.resumed_steps::<Args>()?;
        let stored = Stored::open(&args.run.out)?;
        let context = adapter.open()?;
        let policy = adapter.policy_of_resumed(&context)?;
        let mut run = Run::resume(&context, &policy, stored, steps)?;
        return train(&mut run, &context, &args.run.out, &args.run.json, started).map(|_| ());
    }
    let mut options = args.options()?;
    // A preset takes as many classes as the data have; a configuration of one's own is taken at its word.
    let classes = if !args.run.model.is_of_file() && args.config.is_none() {
        options.model.num_class_embeds.take()
    } else {
        None
    };
    let data = run::load_data(&mut options)?;
    if classes.is_some() {
        options.model.num_class_embeds = Some(data.classes.len() as u32 + 1);
    }
    let context = adapter.open()?;
    if let Some(storage) = args.precision {
        options.precision = storage.precision(&context);
    }
    let mut run = Run::create(&context, &adapter.policy(&context)?, &args.run.out, options, &data, false)?;
    train(&mut run, &context, &args.run.out, &args.run.json, started).map(|_| ())
}

/// Trains and says what came of it; whether it went to the end.
pub fn train(run: &mut Run, context: &Context, out: &Path, json: &Json, started: Instant) -> Result<bool> {
    let steps = run.options().steps;
    eprintln!("{}", run.about_data());
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
    json.print_object(|| {
        json!({
            "out": out, "step": run.steps_done(), "steps": steps, "done": done,
            "checkpoint": out.join("checkpoint"), "seconds": started.elapsed().as_secs_f64(),
        })
    })?;
    Ok(done)
}
