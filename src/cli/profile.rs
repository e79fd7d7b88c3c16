//! `diffuse profile`.

mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::{Adapter, Storage};
use super::flags::{ModelFlags, in_shards};
use super::output::{Json, say};
use super::outputs::{Input, Output, check_apart, file, input};
use diffuse::files;
use diffuse::gpu::Precision;
use diffuse::nn::{UNet, UNetConfig, digits};
use diffuse::picture;
use diffuse::profile::ceilings::Ceilings;
use diffuse::profile::{self, Options, Profile, compare, compiled, predict, samplers, shapes};
use diffuse::ranks::Ranks;
use diffuse::run::{Crossing, SentAs, TrainOptions};
use diffuse::train;

/// Time one training or denoising step, kernel by kernel and layer by layer
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Images in a batch
    #[arg(long, default_value_t = 16)]
    batch: u32,
    /// Unprofiled steps to time
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// A denoising step instead of a training step; and what each sampler and guidance cost beside the U-Net
    #[arg(long)]
    infer: bool,
    /// How activations and copies of weights are stored; sums and master weights are f32 always
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    precision: Storage,
    /// A training step that computes outputs of norms and activations once more instead of keeping them
    #[arg(long, conflicts_with = "infer")]
    recompute: bool,
    #[command(flatten)]
    json: Json,
    /// Trace of the profiled step, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "F.json")]
    trace: Option<PathBuf>,
    /// Picture of the kernels under this adapter's roofline
    #[arg(long, value_name = "F.png|F.jpg")]
    png: Option<PathBuf>,
    /// Output of an earlier `profile --json`: print the ratios new to old
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Measure kernels on the standing shapes instead of a model's step
    #[arg(long, conflicts_with_all = ["preset", "model", "batch", "steps", "infer", "trace", "png", "compare", "predict"])]
    shapes: bool,
    /// With --shapes: only those whose name holds this
    #[arg(long, value_name = "PART", requires = "shapes")]
    only: Option<String>,
    /// What the driver's compiler made of each kernel of the step: registers, spills, occupancy
    #[arg(long, conflicts_with_all = ["steps", "trace", "png", "compare", "shapes", "predict"])]
    compiler: bool,
    /// With --compiler: every way to run every kernel that this device could run, instead of a step
    #[arg(long, requires = "compiler", conflicts_with_all = ["preset", "model", "batch", "infer", "recompute", "precision"])]
    all: bool,
    /// Under mpirun: what ranks send each other of gradients
    #[arg(long, value_enum)]
    exchange: Option<SentAs>,
    /// Under mpirun: milliseconds that each bucket of gradients takes longer to cross, as on a slower network: what overlap hides of it
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=10_000))]
    delay: Option<u32>,
    /// Needs no GPU: the roofline's time for a card of each vendor, from counted work and published peaks
    #[arg(long, conflicts_with_all = ["steps", "trace", "png", "compare"])]
    predict: bool,
}

impl Args {
    /// Whether ranks share the step that is timed.
    pub fn is_shared(&self) -> bool {
        !(self.infer || self.shapes || self.compiler || self.predict)
    }
}

/// Time for one standing shape.
const SHAPE_BUDGET: Duration = Duration::from_secs(2);

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.batch == 0 || args.steps == 0 {
        bail!("--batch and --steps must be at least 1");
    }
    args.json.check()?;
    args.trace.iter().try_for_each(|path| files::check_writable(path))?;
    args.png.iter().try_for_each(|path| picture::check_writable(path))?;
    let outputs = [("--trace", args.trace.as_deref()), ("--png", args.png.as_deref()), ("--json", args.json.file())];
    let writes: Vec<Output> = outputs.iter().filter_map(|(flag, path)| file(flag, *path)).collect();
    let named = [input("--compare", args.compare.as_deref()), args.model.file(), adapter.file()];
    let reads: Vec<Input> = named.into_iter().flatten().collect();
    check_apart(&writes, &reads)?;
    if args.only.is_some() && !args.shapes {
        bail!("--only goes with --shapes");
    }
    if (args.exchange.is_some() || args.delay.is_some()) && !(args.is_shared() && adapter.ranks().is_some()) {
        bail!("--exchange and --delay go with a training step on several ranks: mpirun -n N diffuse profile");
    }
    if args.shapes {
        return measure_shapes(args, adapter);
    }
    if args.compiler {
        return print_compiled(args, adapter);
    }
    let config = args.model.config(digits())?;
    let options = Options { batch: args.batch, steps: args.steps, infer: args.infer, recompute: args.recompute };
    if args.predict {
        return print_predictions(args, &config, &options);
    }
    if let Some(ranks) = adapter.ranks() {
        return time_shared(args, config, adapter, ranks);
    }
    // Read before anything is measured: it may not be there.
    let old = args.compare.as_deref().map(compare::read).transpose()?;
    let context = adapter.open()?;
    let session = adapter.session(&context, args.precision)?;
    let profile = profile::profile(&session, &config, &options)?;
    let report = &profile.report;
    let comparison = old.map(|old| compare::compare(&old, report));
    let costs = options.infer.then(|| samplers::measure(&session, &config, &options)).transpose()?;
    let object = || {
        let mut object = serde_json::to_value(report)?;
        if let Some(comparison) = &comparison {
            object["comparison"] = serde_json::to_value(comparison)?;
        }
        if let Some(costs) = &costs {
            object["samplers"] = serde_json::to_value(costs)?;
        }
        Ok(object)
    };
    let table = || {
        let mut text = tables::report(report, context.is_cpu())?;
        if let Some(costs) = &costs {
            text.push_str(&tables::samplers(costs)?);
        }
        if let Some(comparison) = &comparison {
            text.push_str(&tables::comparison(comparison)?);
        }
        Ok(text)
    };
    args.json.print(object, table)?;
    if let Some(path) = &args.trace {
        write_trace(path, &profile)?;
    }
    if let Some(path) = &args.png {
        profile.write_roofline(path)?;
    }
    if report.allocated_bytes != report.peak_bytes {
        bail!("{} bytes are allocated, {} were planned: that is a bug", report.allocated_bytes, report.peak_bytes);
    }
    Ok(())
}

/// A training step on digits of the model's size, shared by all ranks: how long, and what of it is spent with others.
fn time_shared(args: &Args, model: UNetConfig, adapter: &Adapter, ranks: &dyn Ranks) -> Result<()> {
    if args.trace.is_some() || args.png.is_some() || args.compare.is_some() {
        bail!("--trace, --png and --compare are for one process");
    }
    let context = adapter.open()?;
    let (batch, precision) = (args.batch, args.precision.precision(&context));
    let model = UNetConfig { num_class_embeds: None, ..model };
    let base =
        TrainOptions { model, batch, precision, recompute: args.recompute, audit_every: 0, ..Default::default() };
    let base = TrainOptions { exchange: args.exchange.unwrap_or_default(), ..base };
    let delay = Duration::from_millis(args.delay.unwrap_or(0).into());
    let options = in_shards(base, ranks.count().next_power_of_two())?;
    let mut rows = Vec::new();
    for overlaps in [true, false] {
        let crossing = Crossing { overlaps, delay };
        let mut trainer = train::lead(ranks, &context, &adapter.policy(&context)?, options.clone(), crossing)?;
        trainer.step(0)?;
        trainer.finish()?;
        let (before, begun) = (trainer.exchanged().unwrap_or_default(), Instant::now());
        for step in 1..=args.steps as u64 {
            trainer.step(step)?;
        }
        trainer.finish()?;
        let (all, after) = (begun.elapsed(), trainer.exchanged().unwrap_or_default());
        let each = |time: Duration| 1e3 * time.as_secs_f64() / args.steps as f64;
        rows.push(tables::Shared {
            overlaps,
            step_ms: each(all),
            device_ms: each(after.device - before.device),
            exchange_ms: each(after.exchange - before.exchange),
            hidden_ms: each(after.hidden - before.hidden),
        });
    }
    let (name, driver, count) = (&context.info.name, context.driver(), ranks.count());
    let object = || Ok(json!({ "adapter": name, "driver": driver, "ranks": count, "batch": batch, "shared": rows }));
    args.json.print(object, || Ok(tables::shared(name, &driver, count, batch, &rows)?))
}

fn measure_shapes(args: &Args, adapter: &Adapter) -> Result<()> {
    let part = args.only.as_deref().unwrap_or("");
    if shapes::standing(part, &Default::default()).iter().next().is_none() {
        bail!("no standing shape has {part:?} in its name; without --only all are measured");
    }
    let context = adapter.open()?;
    let mut session = adapter.session(&context, args.precision)?;
    let recordings = session.settle(|choices| Ok(shapes::standing(part, choices)))?;
    let ceilings = Ceilings::measure(&context)?;
    let figures = recordings.iter().map(|shape| shapes::measure(&context, shape, &ceilings, SHAPE_BUDGET));
    let figures = figures.collect::<Result<Vec<_>, _>>()?;
    let (adapter, driver) = (&context.info.name, context.driver());
    let object = || Ok(json!({ "adapter": adapter, "driver": driver, "ceilings": ceilings, "shapes": figures }));
    args.json.print(object, || Ok(tables::shapes(adapter, &driver, &ceilings, &figures)?))
}

fn print_compiled(args: &Args, adapter: &Adapter) -> Result<()> {
    let context = adapter.open()?;
    let compiled = if args.all {
        compiled::of_all(&context)?
    } else {
        let options = Options { batch: args.batch, steps: 1, infer: args.infer, recompute: args.recompute };
        let unet = UNet::new(args.model.config(digits())?)?;
        let known = adapter.policy(&context)?.known(&context, args.precision.precision(&context));
        compiled::of_recordings(&context, &profile::record(&unet, &options, &known)?)?
    };
    let (name, driver) = (&context.info.name, context.driver());
    let object = || Ok(json!({ "adapter": name, "driver": driver, "pipelines": compiled }));
    args.json.print(object, || Ok(tables::compiled(name, &driver, &compiled)?))
}

fn print_predictions(args: &Args, config: &UNetConfig, options: &Options) -> Result<()> {
    let choices = Arc::new(predict::choices(Precision::F32));
    let recorded = profile::record(&UNet::new(config.clone())?, options, &choices)?;
    let (predictions, counts) = (predict::predict(&recorded, options.batch), predict::counts(&recorded));
    let object = || {
        let launch = predict::LAUNCH_MICROSECONDS;
        Ok(json!({ "batch": options.batch, "launch_us": launch, "predictions": predictions, "kernels": counts }))
    };
    args.json.print(object, || Ok(tables::predictions(options, &predictions, &counts)?))
}

fn write_trace(path: &Path, profile: &Profile) -> Result<()> {
    files::write_atomic(path, profile.trace_json()?.as_bytes())?;
    say(format_args!("{} dispatches: {} (open in ui.perfetto.dev)", profile.dispatches.len(), path.display()));
    Ok(())
}
