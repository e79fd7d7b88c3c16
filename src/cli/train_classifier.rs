//! `diffuse train-classifier`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use super::Adapter;
use super::train::train;
use diffuse::checkpoint;
use diffuse::data::{self, Want};
use diffuse::evaluate::accuracy::{Accuracy, accuracy_by_noise};
use diffuse::evaluate::images_of;
use diffuse::gpu::Context;
use diffuse::run::options::{NoiseSchedule, preset};
use diffuse::run::{Observer, Session, Task, TrainOptions};
use diffuse::train::{Run, Stored, run};

/// Train a classifier of noisy images: the U-Net's encoder half with attention pooling. Where the data have no test
/// images, every tenth image of each class is held out and tells how good it is
#[derive(clap::Args)]
pub struct Args {
    /// `digits` (embedded), a directory of IDX files, or a directory of images with a sub-folder a class
    #[arg(long, required_unless_present = "resume")]
    data: Option<String>,
    /// U-Net whose encoder half it is: digits, mnist, base, cifar10 [default: digits]
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    preset: Option<String>,
    /// The same by a diffusers `config.json`
    #[arg(long, value_name = "CONFIG.json")]
    model: Option<PathBuf>,
    /// Directory of the run
    #[arg(long, default_value = "runs/classifier")]
    out: PathBuf,
    /// Go on with the run in --out, from its checkpoint
    #[arg(long, conflicts_with_all = [
        "data", "preset", "model", "batch", "lr", "schedule", "timesteps", "sigma_min", "sigma_max", "seed",
    ])]
    resume: bool,
    /// Optimizer steps [default: 1000]
    #[arg(long)]
    steps: Option<u64>,
    /// Images in a batch
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Learning rate
    #[arg(long, default_value_t = 2e-3, allow_negative_numbers = true)]
    lr: f64,
    /// Noise schedule: that of the model to be guided
    #[arg(long, value_enum, alias = "noise-schedule", default_value = "linear")]
    schedule: NoiseSchedule,
    /// Its timesteps
    #[arg(long, default_value_t = 1000)]
    timesteps: usize,
    /// Least noise of the schedules ve and edm [default: the papers']
    #[arg(long, allow_negative_numbers = true)]
    sigma_min: Option<f64>,
    /// Most noise of the schedules ve and edm [default: the papers']
    #[arg(long, allow_negative_numbers = true)]
    sigma_max: Option<f64>,
    /// Seed of weights, batches and noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps between checkpoints; 0 saves at the end alone
    #[arg(long, default_value_t = 1000)]
    checkpoint_every: u64,
    /// Print one JSON object on stdout at the end
    #[arg(long)]
    json: bool,
}

impl Args {
    fn options(&self) -> Result<TrainOptions> {
        let mut options = TrainOptions {
            task: Task::Classify,
            data: self.data.clone().unwrap_or_default(),
            steps: self.steps.unwrap_or(1000),
            batch: self.batch,
            learning_rate: self.lr,
            noise_schedule: self.schedule,
            timesteps: self.timesteps,
            sigma_min: self.sigma_min,
            sigma_max: self.sigma_max,
            // Of no use here, but held to be at most as many as timesteps.
            sample_steps: 1,
            seed: self.seed,
            checkpoint_every: self.checkpoint_every,
            class_dropout: 0.0,
            sample_every: 0,
            // The average of a short run must be of its end.
            ema_decay: 0.99,
            ..TrainOptions::default()
        };
        if let Some(path) = &self.model {
            options.model = checkpoint::read_config(path)?;
        }
        if let Some(name) = &self.preset {
            options.model = preset(name)?;
        }
        options.model.num_class_embeds = None;
        options.validate()?;
        Ok(options)
    }
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    super::catch_interrupts();
    let started = Instant::now();
    let context;
    let mut run = if args.resume {
        let stored = Stored::open(&args.out)?;
        if stored.options().task != Task::Classify {
            bail!("{}: this run trains a U-Net: train --resume goes on with it", args.out.display());
        }
        context = adapter.open()?;
        let policy = adapter.policy_of_resumed(&context)?;
        Run::resume(&context, &policy, stored, args.steps)?
    } else {
        let mut options = args.options()?;
        let data = run::load_data(&mut options)?;
        context = adapter.open()?;
        Run::create(&context, &adapter.policy(&context)?, &args.out, options, &data, false)?
    };
    let done = train(&mut run, &context, &args.out, false, started)?;
    let (step, options) = (run.steps_done(), run.options().clone());
    let _lock = run.into_lock();
    if !done {
        return Ok(());
    }
    let (accuracies, held_out) = measure(&context, &args.out, &options.data)?;
    if args.json {
        let object = json!({
            "out": args.out, "step": step, "checkpoint": args.out.join("checkpoint"), "accuracy": accuracies,
            "test_images_held_out": held_out, "seconds": started.elapsed().as_secs_f64(),
        });
        return super::print(&object.to_string());
    }
    super::print(&table(&accuracies, held_out))
}

/// The accuracy of the checkpoint on test images, and whether these were held out of the training images.
fn measure(context: &Context, out: &Path, source: &str) -> Result<(Vec<Accuracy>, bool)> {
    let model = checkpoint::classifier::load(out)?;
    let (height, width) = model.classifier.config.sides()?;
    let channels = Some(model.classifier.config.unet.in_channels);
    let split = data::load_split(source, &Want { height: Some(height), width: Some(width), channels })?;
    let observer = Observer::new(Session::new(context), &model.classifier, &model.weights)?;
    let (images, schedule) = (images_of(&split.test, 1000), model.scheduler.schedule()?);
    let labels = &split.test.labels[..images.count];
    Ok((accuracy_by_noise(&observer, &images, labels, &schedule, 1)?, split.held_out))
}

fn table(accuracies: &[Accuracy], held_out: bool) -> String {
    let count = accuracies.first().map_or(0, |accuracy| accuracy.count);
    let kind = if held_out { "images held out of training" } else { "test images" };
    let mut lines =
        vec![format!("accuracy on {count} {kind}"), format!("{:>8} {:>12} {:>9}", "timestep", "SNR", "right")];
    lines.extend(accuracies.iter().map(|Accuracy { timestep, signal_to_noise, accuracy, .. }| {
        format!("{timestep:8} {signal_to_noise:12.4e} {:8.1}%", 100.0 * accuracy)
    }));
    lines.join("\n")
}
