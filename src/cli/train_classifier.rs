//! `diffuse train-classifier`.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use clap::{Args as _, Command};
use serde_json::json;

use super::adapter::Adapter;
use super::decoding;
use super::flags::{RunFlags, Typed, option_flags};
use super::output::Json;
use super::train::{Asked, Ending, Trained, going_on};
use diffuse::checkpoint;
use diffuse::data::{self, Want};
use diffuse::evaluate::accuracy::{Accuracy, accuracy_by_noise};
use diffuse::evaluate::images_of;
use diffuse::gpu::Context;
use diffuse::run::{Observer, Session, Task, TrainOptions};

/// Train a classifier of noisy images, which guides sampling and judges samples
///
/// It is the U-Net's encoder half with attention pooling, and takes the noise schedule of the model that it is to guide.
/// Where the data have no test images, every tenth image of each class is held out and tells how good it is.
#[derive(clap::Args)]
#[command(
    args = option_flags(&defaults(), |id| FLAGS.split(' ').any(|flag| flag == id))
)]
pub struct Args {
    #[command(flatten)]
    typed: Typed,
    #[command(flatten)]
    run: RunFlags,
}

/// The options that may be set.
const FLAGS: &str = "memory_limit steps batch learning_rate noise_schedule timesteps sigma_min sigma_max seed checkpoint_every keep \
     tensorboard histograms_every on_nan audit_every exchange on_differ";

fn defaults() -> TrainOptions {
    TrainOptions {
        task: Task::Classify,
        steps: 1000,
        learning_rate: 2e-3,
        // Of no use here, but held to be at most as many as timesteps.
        sample_steps: 1,
        class_dropout: 0.0,
        sample_every: 0,
        // The average of a short run must be of its end.
        ema_decay: 0.99,
        ..TrainOptions::default()
    }
}

impl Args {
    fn options(&self, base: TrainOptions) -> Result<TrainOptions> {
        let mut options = self.typed.put(&self.run, base)?;
        options.model.num_class_embeds = None;
        options.validate()?;
        Ok(options)
    }
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    super::interrupt::catch_interrupts();
    let started = Instant::now();
    let out = &args.run.place(Task::Classify, None)?;
    let asked = Asked {
        flags: &args.run,
        out,
        typed: &args.typed,
        task: Task::Classify,
        options: &|then| args.options(then.unwrap_or_else(defaults)),
        command: Args::augment_args(Command::new("")),
        precision: None,
        winograd: adapter.winograd(),
        counts_classes: false,
        config: None,
        ranks: adapter.ranks(),
    };
    let again = going_on("train-classifier", out);
    let ending = Ending { out, json: &Json::default(), started, again, is_live: args.run.live, ranks: adapter.ranks() };
    // Locked, for nobody may replace the checkpoint before it is measured.
    let Trained { context, options, is_done, lock: _lock } = asked.train(adapter, &ending)?;
    if !is_done {
        return Ok(());
    }
    let (accuracies, held_out) = measure(&context, out, &options)?;
    let object = || {
        Ok(json!({
            "out": out, "step": options.steps, "checkpoint": out.join("checkpoint"), "accuracy": accuracies,
            "test_images_held_out": held_out, "seconds": started.elapsed().as_secs_f64(),
        }))
    };
    args.run.json.print(object, || Ok(table(&accuracies, held_out)))
}

/// The accuracy of the checkpoint on test images, and whether these were held out of the training images.
fn measure(context: &Context, out: &Path, options: &TrainOptions) -> Result<(Vec<Accuracy>, bool)> {
    let model = checkpoint::classifier::load(out)?;
    let config = &model.classifier.config;
    let want = Want::of(Some(config.sides()?), config.unet.in_channels).limited(options.memory_limit);
    let want = want.watched(decoding::watch());
    let split = data::load_split(&options.data, &want)?;
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
