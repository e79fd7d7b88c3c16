//! `diffuse sample`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::CommandFactory;
use serde_json::json;

use super::Adapter;
use super::edit::{self, Edit};
use super::progress::Progress;
use super::{sampler, steering};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::diffusion::Sampler;
use diffuse::error::Error;
use diffuse::gpu::{Context, Memory, WEIGHTS};
use diffuse::nn::config::Size;
use diffuse::picture::{self, Images};
use diffuse::sample::{self, Generator, Request};
use diffuse::tensors::{self, FileTensor, FileTensors};
use diffuse::train::run::{TRAINER, take_prefix};

/// Draw images with a trained U-Net
#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    #[arg(required_unless_present = "sampler")]
    checkpoint: Option<PathBuf>,
    /// Images to draw
    #[arg(long, default_value_t = 16)]
    count: u32,
    #[command(flatten)]
    sampler: sampler::Flags,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    #[command(flatten)]
    edit: edit::Flags,
    /// Class of every image [default: each class in turn]
    #[arg(long)]
    class: Option<u32>,
    /// Scale of classifier-free guidance; 1 is none [default: 2 where the checkpoint knows classes]
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    guidance: Option<f64>,
    #[command(flatten)]
    steering: steering::Args,
    /// Images drawn at a time
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// The raw weights instead of their average
    #[arg(long)]
    raw: bool,
    /// Picture of all images
    #[arg(long, default_value = "samples.png", value_name = "F.png")]
    out: PathBuf,
    /// Film of the denoising of the first batch
    #[arg(long, value_name = "F.gif")]
    gif: Option<PathBuf>,
    /// The images as tensor `samples` [N, C, H, W], f32 in [-1, 1]
    #[arg(long, value_name = "F.safetensors")]
    tensor: Option<PathBuf>,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
}

/// Scale of guidance where none is asked for.
pub const GUIDANCE: f64 = 2.0;

/// Frames of a film.
const FRAMES: usize = 25;

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.sampler.sampler == sampler::LIST {
        return super::print(&sampler::list());
    }
    let Some(checkpoint) = &args.checkpoint else {
        let missing = clap::error::ErrorKind::MissingRequiredArgument;
        super::Cli::command().error(missing, "sample needs a CHECKPOINT; see diffuse sample --help").exit();
    };
    check(args)?;
    let mut model = checkpoint::load(checkpoint)?;
    if args.raw {
        model.weights = raw_weights(&model)?;
    }
    let request = request(args, &model)?;
    let classifier = args.steering.load(&model)?;
    let mut context = adapter.open()?;
    let rows = args.batch.min(args.count);
    adapter.tune(&mut context, |choices| {
        let denoise = sample::record(&model.unet, WEIGHTS, rows, &request, choices).denoise;
        let gradient = classifier.as_ref().map(|classifier| classifier.record(&model, rows, &request, choices));
        Ok(std::iter::once(denoise).chain(gradient.transpose()?).collect())
    })?;
    let mut memory = Memory::default();
    let batch = args.batch.min(args.count);
    let generator = open_generator(&context, &model, &mut memory, batch, &request)?;
    let generator = match &classifier {
        Some(classifier) => {
            let labels = request.labels.clone().unwrap_or_else(|| in_turn(args, classifier.classes()));
            classifier.steer(generator, &model, &mut memory, &request, labels)?
        }
        None => generator,
    };
    memory.write(&context, WEIGHTS, 0, &model.weights);
    let mut film = Film::new(args.gif.is_some(), request.length(), columns(args, &model, batch as usize));
    let images = draw(&generator, &memory, &request, &mut film)?;
    if let Some(path) = &args.tensor {
        write_tensor(path, &images)?;
    }
    let columns = columns(args, &model, images.count);
    let grid = picture::grid(&images, columns, picture::default_scale(images.height));
    picture::write_png(&args.out, &grid)?;
    if let Some(path) = &args.gif {
        picture::write_gif(path, &film.frames, 80)?;
    }
    let written = [Some(&args.out), args.gif.as_ref(), args.tensor.as_ref()];
    let written: Vec<&PathBuf> = written.into_iter().flatten().collect();
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    eprintln!("{} images: {}", images.count, names.join(", "));
    if args.json {
        let object = json!({ "count": images.count, "files": written, "steps": request.length(), "seed": args.seed });
        super::print(&object.to_string())?;
    }
    Ok(())
}

fn check(args: &Args) -> Result<()> {
    if args.count == 0 || args.batch == 0 || args.count > 1 << 20 {
        bail!("--count must be 1 to {} and --batch at least 1", 1 << 20);
    }
    if args.guidance.is_some_and(|scale| !(-1000.0..=1000.0).contains(&scale)) {
        bail!("--guidance must be a number from -1000 to 1000");
    }
    Ok(())
}

/// Plans for as many images at a time as asked; if they don't fit, says how many would.
fn open_generator<'a>(
    context: &'a Context,
    model: &Checkpoint,
    memory: &mut Memory,
    batch: u32,
    request: &Request,
) -> Result<Generator<'a>> {
    let mut open = |batch| Generator::new(context, &model.unet, memory, WEIGHTS, batch, request);
    let error = match open(batch) {
        Err(error @ Error::Device(_)) => error,
        result => return Ok(result?),
    };
    let mut halves = std::iter::successors(Some(batch / 2), |batch| Some(batch / 2)).take_while(|batch| *batch > 0);
    let fits = |batch: &u32| {
        let small = planned_bytes(context, model, *batch, request).is_some_and(|bytes| sample::may_try(context, bytes));
        small && open(*batch).is_ok()
    };
    match halves.find(fits) {
        Some(fits) => bail!("{batch} images at a time do not fit ({error}); --batch {fits} does"),
        None => Err(error.into()),
    }
}

fn planned_bytes(context: &Context, model: &Checkpoint, batch: u32, request: &Request) -> Option<u64> {
    let rows = 2 * batch as u64;
    sample::check_elements(&model.unet.config, rows, request.height, request.width).ok()?;
    Some(sample::record(&model.unet, WEIGHTS, batch, request, &context.choices).denoise.peak_bytes())
}

/// One row a class where each class has its turn, else nearly square.
fn columns(args: &Args, model: &Checkpoint, count: usize) -> usize {
    match (args.class, classes(model)) {
        (None, Some(classes)) if !args.edit.is_of_one_class() => (classes as usize).min(count),
        _ => picture::default_columns(count),
    }
}

/// Classes without the null class.
fn classes(model: &Checkpoint) -> Option<u32> {
    model.unet.config.num_class_embeds.map(|embeds| (embeds - 1).max(1))
}

fn raw_weights(model: &Checkpoint) -> Result<Vec<f32>> {
    let path = model.directory.join(TRAINER);
    if !path.is_file() {
        bail!("{}: no raw weights here, only their average", path.display());
    }
    let raw = take_prefix(&mut tensors::read(&path)?, "weights.");
    Ok(checkpoint::flatten(&model.unet.params, raw, &path)?)
}

fn request(args: &Args, model: &Checkpoint) -> Result<Request> {
    let Some(size) = model.unet.config.sample_size.map(Size::sides) else {
        bail!("{}: config.json has no sample_size", model.directory.display());
    };
    let schedule = model.scheduler.schedule()?;
    let sampler = Sampler { strength: args.edit.strength(), ..args.sampler.sampler(&model.scheduler)? };
    let program = sampler.program(&schedule).map_err(|error| Error::Config(error.to_string()))?;
    let labels = match (args.class, classes(model)) {
        (Some(class), Some(classes)) if class >= classes => {
            bail!("class {class} is out of range: there are {classes}, from 0")
        }
        (_, Some(classes)) => Some(in_turn(args, classes)),
        (Some(_), None) if !args.steering.is_given() => bail!("--class: this checkpoint knows no classes"),
        (_, None) if args.guidance.is_some_and(|scale| scale != 1.0) => {
            bail!("--guidance: this checkpoint knows no classes")
        }
        (_, None) => None,
    };
    let (height, width) = size;
    let shape = [height, width, model.unet.config.in_channels];
    let Edit { start, known, initial_scale } = args.edit.read(shape, args.count, &sampler, &schedule)?;
    Ok(Request {
        program,
        initial_scale,
        start,
        known,
        labels,
        count: args.count,
        guidance: args.guidance.unwrap_or(if classes(model).is_some() { GUIDANCE } else { 1.0 }),
        seed: args.seed.into(),
        height,
        width,
    })
}

/// The class that was asked for, or each in turn; of an interpolation, one for all.
fn in_turn(args: &Args, classes: u32) -> Vec<u32> {
    let own = |i: u32| if args.edit.is_of_one_class() { 0 } else { i % classes };
    (0..args.count).map(|i| args.class.unwrap_or(own(i))).collect()
}

/// Frames of the first batch.
pub struct Film {
    wanted: bool,
    steps: usize,
    columns: usize,
    pub frames: Vec<image::RgbImage>,
}

impl Film {
    pub fn new(wanted: bool, steps: usize, columns: usize) -> Film {
        Film { wanted, steps, columns, frames: Vec::new() }
    }
}

/// Draws with a progress bar.
pub fn draw(generator: &Generator, memory: &Memory, request: &Request, film: &mut Film) -> Result<Images> {
    let mut bar: Option<Progress> = None;
    let images = generator.run(memory, request, |progress| {
        let bar = bar.get_or_insert_with(|| Progress::new("sampling", 0, progress.of as u64));
        bar.set(progress.done as u64, String::new);
        let due = progress.step * FRAMES / film.steps > film.frames.len() || progress.step == film.steps;
        if film.wanted && progress.batch == 0 && due {
            let frame = progress.frame()?;
            film.frames.push(picture::grid(&frame, film.columns, picture::default_scale(frame.height).min(3)));
        }
        Ok(())
    });
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(images?)
}

fn write_tensor(path: &std::path::Path, images: &Images) -> Result<()> {
    let (plane, channels) = (images.height * images.width, images.channels);
    let size = images.count * plane * channels;
    let from = |i: usize| (i / (plane * channels) * plane + i % plane) * channels + i / plane % channels;
    // [N, H, W, C] to [N, C, H, W]; a sampler that doesn't clip may end a little outside.
    let values = (0..size).map(|i| images.values[from(i)].clamp(-1.0, 1.0)).collect();
    let shape = vec![images.count, channels, images.height, images.width];
    Ok(tensors::write(path, &FileTensors::from([("samples".to_string(), FileTensor { shape, values })]))?)
}
