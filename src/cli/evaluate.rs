//! `diffuse evaluate`.

mod text;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use super::progress::Progress;
use super::{Adapter, sample, sampler};
use diffuse::chart::{Curve, write_curves};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::data::{self, Dataset, Split, Want};
use diffuse::diffusion::{Sampler, SamplerKind, Schedule};
use diffuse::error::Error;
use diffuse::evaluate::levels::{LevelError, level_errors};
use diffuse::evaluate::likelihood::{
    Dequantization, FlowLikelihood, FlowOptions, Setting, VariationalBound, flow_likelihood, variational_bound,
};
use diffuse::evaluate::quality::{self, Report, nearest_pairs};
use diffuse::evaluate::{Network, Observer};
use diffuse::gpu::{Context, Memory, WEIGHTS};
use diffuse::nn::config::Size;
use diffuse::picture::{self, Images};
use diffuse::sample::{Generator, Request, Start};
use diffuse::tensors;

/// The ways to a likelihood.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Likelihood {
    /// The variational bound, term by term (Ho et al. 2020)
    Vlb,
    /// The probability-flow ODE (Song et al. 2021)
    Ode,
}

/// How bytes become real numbers for the ODE.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Dequantize {
    /// Uniform noise as wide as a byte's bin (Song et al. 2021)
    Uniform,
    /// The model's lowest noise level, with its posterior over bytes (Kingma et al. 2021)
    Gaussian,
}

/// Say what a trained U-Net is worth: likelihood of images, quality of samples, errors by noise level
#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    checkpoint: PathBuf,
    /// `digits` (embedded), a directory of IDX files or of images; of test images where it has some
    #[arg(long)]
    data: String,
    /// Bits per dimension of the test images
    #[arg(long, value_enum)]
    likelihood: Option<Likelihood>,
    /// Samples against training images on the features of --classifier, and how new they are
    #[arg(long, requires = "classifier")]
    quality: bool,
    /// What `train-classifier` made
    #[arg(long, value_name = "DIR")]
    classifier: Option<PathBuf>,
    /// Samples to judge, as `sample --tensor` stores them, each class in turn [default: draws some]
    #[arg(long, value_name = "F.safetensors", requires = "quality")]
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
    dequantize: Dequantize,
    /// Steps of the sampler that draws samples to judge
    #[arg(long, default_value_t = 50)]
    sampler_steps: usize,
    /// Scale of classifier-free guidance of these samples; 1 is none
    #[arg(long, default_value_t = 1.0, value_name = "W", allow_negative_numbers = true)]
    guidance: f64,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Directory for pictures
    #[arg(long, default_value = "evaluation")]
    out: PathBuf,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Everything that was asked for.
#[derive(Default)]
struct Found {
    bound: Option<VariationalBound>,
    flow: Option<FlowLikelihood>,
    levels: Option<Vec<LevelError>>,
    quality: Option<Report>,
    files: Vec<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    check(args)?;
    let model = checkpoint::load(&args.checkpoint)?;
    let (split, schedule) = (load_split(args, &model)?, model.scheduler.schedule()?);
    let context = adapter.open()?;
    let mut found = Found::default();
    if args.likelihood.is_some() || args.levels {
        look(args, &context, &model, &split.test, &schedule, &mut found)?;
    }
    if let (true, Some(classifier)) = (args.quality, &args.classifier) {
        judge(args, &context, &model, (&split, classifier), &schedule, &mut found)?;
    }
    if !args.json {
        return super::print(&text::lines(&found, &split).join("\n"));
    }
    let mut object = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| object.insert(name.into(), value));
    put("variational_bound", found.bound.map(|bound| json!(bound)));
    put("probability_flow", found.flow.map(|flow| json!(flow)));
    put("levels", found.levels.map(|levels| json!(levels)));
    put("quality_on_classifier_features", found.quality.map(|quality| json!(quality)));
    put("test_images_held_out", Some(split.held_out.into()));
    put("files", Some(json!(found.files)));
    super::print(&Value::from(object).to_string())
}

fn check(args: &Args) -> Result<()> {
    if args.likelihood.is_none() && !args.quality && !args.levels {
        bail!("nothing to evaluate: give --likelihood vlb, --likelihood ode, --quality or --levels");
    }
    if args.count == Some(0) || args.batch == 0 || args.ode_steps == 0 {
        bail!("--count, --batch and --ode-steps must be at least 1");
    }
    if !(-1000.0..=1000.0).contains(&args.guidance) {
        bail!("--guidance must be a number from -1000 to 1000");
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

/// Likelihood and errors by level.
fn look(
    args: &Args,
    context: &Context,
    model: &Checkpoint,
    test: &Dataset,
    schedule: &Schedule,
    found: &mut Found,
) -> Result<()> {
    let count = args.count.unwrap_or(64).min(test.len());
    let size = [args.batch.min(count as u32), test.height, test.width];
    let product = args.likelihood == Some(Likelihood::Ode);
    let network = Network::new(context, &model.unet, &model.weights, size, product)?;
    let scheduler = &model.scheduler;
    let setting = Setting {
        schedule,
        prediction: scheduler.prediction()?,
        variance: sampler::variance(scheduler)?,
        clip: scheduler.clip_sample.then_some(scheduler.clip_sample_range),
    };
    let seed = args.seed.into();
    let mut bar = Bar::new("evaluating");
    let mut watch = |done, of| bar.set(done, of);
    match args.likelihood {
        Some(Likelihood::Vlb) => {
            let bound = variational_bound(&network, test, count, &setting, seed, &mut watch)?;
            found.files.push(write_terms(&args.out, &bound)?);
            found.bound = Some(bound);
        }
        Some(Likelihood::Ode) => {
            let dequantization = match args.dequantize {
                Dequantize::Uniform => Dequantization::Uniform,
                Dequantize::Gaussian => Dequantization::Gaussian,
            };
            let options = FlowOptions { steps: args.ode_steps, dequantization, seed };
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

/// Samples against training images.
fn judge(
    args: &Args,
    context: &Context,
    model: &Checkpoint,
    (split, classifier): (&Split, &Path),
    schedule: &Schedule,
    found: &mut Found,
) -> Result<()> {
    let loaded = checkpoint::classifier::load(classifier)?;
    let observer = Observer::new(context, &loaded.classifier, &loaded.weights)?;
    let classes = model.unet.config.num_class_embeds.map(|embeds| (embeds - 1).max(1));
    if classes.is_some_and(|classes| classes != loaded.classifier.config.classes) {
        bail!("{}: it knows {} classes, the checkpoint others", classifier.display(), loaded.classifier.config.classes);
    }
    let samples = match &args.samples {
        Some(path) => read_samples(path)?,
        None => draw(args, context, model, classes, schedule)?,
    };
    let labels = classes.map(|classes| (0..samples.count as u32).map(|i| i % classes).collect::<Vec<_>>());
    let report = quality::judge(&observer, &samples, labels.as_deref(), split, args.seed.into())?;
    let path = args.out.join("nearest_neighbours.png");
    let pairs = nearest_pairs(&samples, &split.train, &report.nearest, 20);
    picture::write_png(&path, &picture::grid(&pairs, 10, picture::default_scale(pairs.height)))?;
    found.files.push(path);
    found.quality = Some(report);
    Ok(())
}

/// The tensor `samples` [N, C, H, W] of a file.
fn read_samples(path: &Path) -> Result<Images> {
    let mut file = tensors::read(path)?;
    let tensor = file.remove("samples").with_context(|| format!("{}: no tensor `samples`", path.display()))?;
    let [count, channels, height, width] = tensor.shape[..] else {
        bail!("{}: samples must be [N, C, H, W]", path.display());
    };
    let plane = height * width;
    let from = |i: usize| {
        let (image, rest) = (i / (plane * channels), i % (plane * channels));
        tensor.values[image * plane * channels + rest % channels * plane + rest / channels]
    };
    Ok(Images { values: (0..tensor.values.len()).map(from).collect(), count, height, width, channels })
}

fn draw(
    args: &Args,
    context: &Context,
    model: &Checkpoint,
    classes: Option<u32>,
    schedule: &Schedule,
) -> Result<Images> {
    let Some((height, width)) = model.unet.config.sample_size.map(Size::sides) else {
        bail!("{}: config.json has no sample_size", model.directory.display());
    };
    let count = args.count.unwrap_or(1000) as u32;
    let scheduler = &model.scheduler;
    let sampler = Sampler {
        kind: SamplerKind::Ddpm { variance: sampler::variance(scheduler)? },
        prediction: scheduler.prediction()?,
        clip: scheduler.clip_sample.then_some(scheduler.clip_sample_range),
        ..Sampler::ddpm(args.sampler_steps)
    };
    let request = Request {
        program: sampler.program(schedule).map_err(|error| Error::Config(error.to_string()))?,
        initial_scale: sampler.initial_scale(schedule),
        start: Start::Noise,
        known: None,
        labels: classes.map(|classes| (0..count).map(|i| i % classes).collect()),
        count,
        guidance: args.guidance,
        seed: args.seed.into(),
        height,
        width,
    };
    let mut memory = Memory::default();
    let batch = args.batch.min(count);
    let generator = Generator::new(context, &model.unet, &mut memory, WEIGHTS, batch, &request)?;
    memory.write(context, WEIGHTS, 0, &model.weights);
    let mut film = sample::Film::new(false, request.length(), 1);
    sample::draw(&generator, &memory, &request, &mut film)
}

/// A bar whose length is known when the work begins.
struct Bar {
    name: &'static str,
    bar: Option<(u64, Progress)>,
}

impl Bar {
    fn new(name: &'static str) -> Bar {
        Bar { name, bar: None }
    }

    fn set(&mut self, done: u64, of: u64) {
        if self.bar.as_ref().is_none_or(|(length, _)| *length != of) {
            self.finish();
            self.bar = Some((of, Progress::new(self.name, 0, of)));
        }
        if let Some((_, bar)) = &mut self.bar {
            bar.set(done, String::new);
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
        }
    }
}
