//! `diffuse evaluate`.

mod quality;
mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::progress::Progress;
use super::{Adapter, Json, sampler, steering};
use diffuse::chart::{Curve, write_curves};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::data::{self, Dataset, Split, Want};
use diffuse::diffusion::Schedule;
use diffuse::evaluate::levels::{LevelError, level_errors};
use diffuse::evaluate::likelihood::{
    Dequantization, FlowLikelihood, FlowOptions, Setting, VariationalBound, flow_likelihood, variational_bound,
};
use diffuse::evaluate::quality::Report;
use diffuse::evaluate::{Network, network};
use diffuse::gpu::{Choices, Context, Recording};
use diffuse::nn::config::Size;
use quality::{Method, Trial};

/// The ways to a likelihood.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Likelihood {
    /// The variational bound, term by term (Ho et al. 2020)
    Vlb,
    /// The probability-flow ODE (Song et al. 2021)
    Ode,
}

/// Say what a trained U-Net is worth: likelihood, quality of samples, errors by noise level
#[derive(clap::Args)]
// These flags say how samples are drawn.
#[command(
    mut_group("sampling", |group| group.requires("quality")),
    mut_group("steering", |group| group.requires("quality"))
)]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    checkpoint: PathBuf,
    /// `digits` (embedded), a directory of IDX files or of images; of test images where it has some
    #[arg(long)]
    data: String,
    /// Bits per dimension of the test images
    #[arg(long, value_enum)]
    likelihood: Option<Likelihood>,
    /// Samples against training images on the features of --judge, and how new they are
    #[arg(long, requires = "judge")]
    quality: bool,
    /// The classifier on whose features they are judged, as `train-classifier` made it
    #[arg(long, value_name = "DIR", requires = "quality")]
    judge: Option<PathBuf>,
    /// Samples to judge, as `sample --tensor` stores them, each class in turn [default: draws some]
    #[arg(long, value_name = "F.safetensors", requires = "quality",
          conflicts_with_all = ["sampling", "reverse_step", "guidance", "steering"])]
    samples: Option<PathBuf>,
    /// Errors at noise levels from the lowest to the highest
    #[arg(long)]
    levels: bool,
    /// Images to look at [default: 64; with --quality 1000]
    #[arg(long)]
    count: Option<usize>,
    /// Images at a time
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Runge-Kutta steps of the ODE, of 4 evaluations each
    #[arg(long, default_value_t = 40)]
    ode_steps: usize,
    /// How bytes become real numbers for the ODE
    #[arg(long, value_enum, default_value = "uniform")]
    dequantize: Dequantization,
    #[command(flatten)]
    sampler: sampler::Flags,
    #[command(flatten)]
    variance: sampler::VarianceFlag,
    /// Scale of classifier-free guidance of samples that are drawn to be judged [default: 1, which is none]
    #[arg(long, value_name = "W", requires = "quality", allow_negative_numbers = true)]
    guidance: Option<f64>,
    #[command(flatten)]
    steering: steering::Args,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Directory for pictures
    #[arg(long, default_value = "evaluation")]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

/// Everything that was asked for.
#[derive(Default)]
struct Found {
    bound: Option<VariationalBound>,
    flow: Option<FlowLikelihood>,
    levels: Option<Vec<LevelError>>,
    drawn: Option<Method>,
    quality: Option<Report>,
    files: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.sampler.sampler == sampler::LIST {
        return super::print(&sampler::list());
    }
    check(args)?;
    let model = checkpoint::load(&args.checkpoint)?;
    let (split, schedule) = (load_split(args, &model)?, model.scheduler.schedule()?);
    let trial = args.judge.as_ref().map(|judge| Trial::load(args, &model, judge)).transpose()?;
    let mut context = adapter.open()?;
    adapter.tune(&mut context, |choices| recordings(args, &model, &split, trial.as_ref(), choices))?;
    let mut found = Found::default();
    if args.likelihood.is_some() || args.levels {
        look(args, &context, &model, &split.test, &schedule, &mut found)?;
    }
    if let Some(trial) = trial {
        trial.run(args, &context, &split, &mut found)?;
    }
    args.json.print(|| Ok(object(&found, &split)), || Ok(text::lines(&found, &split).join("\n")))
}

/// What was found, without what wasn't asked for.
fn object(found: &Found, split: &Split) -> Value {
    let Found { bound, flow, levels, drawn, quality, files } = found;
    let mut object = json!({
        "variational_bound": bound, "probability_flow": flow, "levels": levels, "drawn": drawn,
        "quality_on_classifier_features": quality, "test_images_held_out": split.held_out, "files": files,
    });
    object.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    object
}

/// What runs on the device, for the tuner.
fn recordings(
    args: &Args,
    model: &Checkpoint,
    split: &Split,
    trial: Option<&Trial>,
    choices: &Arc<Choices>,
) -> diffuse::error::Result<Vec<Recording>> {
    let mut recordings = Vec::new();
    if args.likelihood.is_some() || args.levels {
        let [n, height, width] = size(args, &split.test);
        model.unet.config.validate_size(height, width)?;
        diffuse::sample::check_elements(&model.unet.config, n.into(), height, width)?;
        let shape = [n, height, width, model.unet.config.in_channels];
        let product = args.likelihood == Some(Likelihood::Ode);
        recordings.push(network::record(&model.unet, shape, product, choices));
    }
    if let Some(trial) = trial {
        recordings.extend(trial.recordings(choices)?);
    }
    Ok(recordings)
}

fn check(args: &Args) -> Result<()> {
    if args.likelihood.is_none() && !args.quality && !args.levels {
        bail!("nothing to evaluate: give --likelihood vlb, --likelihood ode, --quality or --levels");
    }
    if args.variance.is_given() && !args.quality && args.likelihood != Some(Likelihood::Vlb) {
        bail!("--variance goes with --quality and --likelihood vlb");
    }
    if args.count == Some(0) || args.batch == 0 || args.ode_steps == 0 {
        bail!("--count, --batch and --ode-steps must be at least 1");
    }
    Ok(())
}

/// The data in the model's size.
fn load_split(args: &Args, model: &Checkpoint) -> Result<Split> {
    let config = &model.unet.config;
    let sides = config.sample_size.map(Size::sides);
    let channels = Some(config.in_channels);
    let want = Want { height: sides.map(|sides| sides.0), width: sides.map(|sides| sides.1), channels };
    let split = data::load_split(&args.data, &want)?;
    let classes = split.train.classes.len() as u32;
    if config.num_class_embeds.is_some_and(|embeds| embeds < classes) {
        bail!("{} has {classes} classes, more than the checkpoint knows", args.data);
    }
    Ok(split)
}

/// Images whose likelihood or errors are asked for.
fn count(args: &Args, test: &Dataset) -> usize {
    args.count.unwrap_or(64).min(test.len())
}

/// Their batches: (N, H, W).
fn size(args: &Args, test: &Dataset) -> [u32; 3] {
    [args.batch.min(count(args, test) as u32), test.height, test.width]
}

/// Likelihood and errors by level.
fn look(
    args: &Args,
    context: &Context,
    model: &Checkpoint,
    test: &Dataset,
    schedule: &Schedule,
    found: &mut Found,
) -> Result<()> {
    let (count, size) = (count(args, test), size(args, test));
    let product = args.likelihood == Some(Likelihood::Ode);
    let network = Network::new(context, &model.unet, &model.weights, size, product)?;
    let scheduler = &model.scheduler;
    let setting = Setting {
        schedule,
        prediction: scheduler.prediction()?,
        variance: args.variance.of(scheduler)?,
        clip: scheduler.clip_sample.then_some(scheduler.clip_sample_range),
    };
    let seed = args.seed.into();
    let mut bar = Progress::new("evaluating", 0, 0);
    let mut watch = |done, of| bar.set_of(done, of);
    match args.likelihood {
        Some(Likelihood::Vlb) => {
            let bound = variational_bound(&network, test, count, &setting, seed, &mut watch)?;
            found.files.push(write_terms(&args.out, &bound)?);
            found.bound = Some(bound);
        }
        Some(Likelihood::Ode) => {
            let options = FlowOptions { steps: args.ode_steps, dequantization: args.dequantize, seed };
            found.flow = Some(flow_likelihood(&network, test, count, &setting, &options, &mut watch)?);
        }
        None => {}
    }
    if args.levels {
        let levels = level_errors(&network, test, count, &setting, (25, seed), &mut watch)?;
        found.files.extend(write_levels(&args.out, &levels)?);
        found.levels = Some(levels);
    }
    bar.finish();
    Ok(())
}

fn write_terms(out: &Path, bound: &VariationalBound) -> Result<PathBuf> {
    let path = out.join("variational_bound.png");
    let terms = bound.reverse.iter().enumerate().map(|(i, bits)| (i as u64 + 1, *bits));
    let curve = Curve::new("L_t", terms);
    let title = "variational bound, term by term";
    write_curves(&path, title, ["timestep", "bits per dimension"], &[curve])?;
    Ok(path)
}

fn write_levels(out: &Path, levels: &[LevelError]) -> Result<[PathBuf; 2]> {
    let paths = ["loss_by_timestep.png", "x0_error_by_timestep.png"].map(|name| out.join(name));
    let curve = |name: &str, value: fn(&LevelError) -> f64| {
        Curve::new(name, levels.iter().map(|level| (level.timestep as u64, value(level))))
    };
    write_curves(&paths[0], "loss by timestep", ["timestep", "mean square error"], &[curve("loss", |l| l.loss)])?;
    let curves = [
        curve("waves longer than 8 pixels: coherence", |level| level.low),
        curve("shorter waves: detail", |level| level.high),
    ];
    let title = "error of the estimate of x0 by timestep";
    write_curves(&paths[1], title, ["timestep", "mean square error"], &curves)?;
    Ok(paths)
}
