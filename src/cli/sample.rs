//! `diffuse sample`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Command;
use serde_json::json;

use super::adapter::{Adapter, Storage};
use super::draw::{self, Drawing, Film};
use super::edit::{self, Edit};
use super::output::Json;
use super::{sampler, steering};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::diffusion::Sampler;
use diffuse::picture::{self, Images};
use diffuse::run::{Noise, Request, Start};
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
    #[command(flatten)]
    variance: sampler::VarianceFlag,
    #[arg(long, default_value_t = 0)]
    seed: u32,
    #[command(flatten)]
    edit: edit::Flags,
    /// Noise that isn't drawn here: tensors `x_T` and `noise.0`, `noise.1`, ..., one for each step that adds noise, all
    /// [N, C, H, W] of deviation 1. --tensor then holds what the sampler leaves, not clamped to [-1, 1]
    #[arg(long, value_name = "F.safetensors", conflicts_with_all = ["from", "interpolate", "seed"])]
    noise: Option<PathBuf>,
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
    #[command(flatten)]
    json: Json,
}

/// Scale of guidance where none is asked for.
pub const GUIDANCE: f64 = 2.0;

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.sampler.is_list() {
        return super::output::print(&sampler::list());
    }
    let Some(checkpoint) = &args.checkpoint else {
        let missing = clap::error::ErrorKind::MissingRequiredArgument;
        <Args as clap::Args>::augment_args(Command::new("diffuse sample"))
            .error(missing, "sample needs a CHECKPOINT; see diffuse sample --help")
            .exit();
    };
    check(args)?;
    let mut model = checkpoint::load(checkpoint)?;
    if args.raw {
        model.weights = raw_weights(&model)?;
    }
    let mut request = request(args, &model)?;
    let labels = |classes| request.labels.clone().unwrap_or_else(|| in_turn(args, classes));
    let (classifier, steering) = args.steering.load(&model, labels)?.unzip();
    request.steering = steering;
    let drawing = Drawing { model: &model, request, classifier, batch: args.batch };
    let context = adapter.open()?;
    let session = adapter.session(&context, Storage::F32)?;
    let steps = drawing.request.length();
    let mut film = match &args.gif {
        Some(_) => Film::new(columns(args, &model, drawing.batch() as usize), steps),
        None => Film::none(),
    };
    let images = drawing.run(session, &mut film)?.images;
    if let Some(path) = &args.tensor {
        write_tensor(path, &images, args.noise.is_none())?;
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
    args.json.print_object(|| json!({ "count": images.count, "files": written, "steps": steps, "seed": args.seed }))
}

fn check(args: &Args) -> Result<()> {
    if args.count == 0 || args.batch == 0 || args.count > draw::MOST {
        bail!("--count must be 1 to {} and --batch at least 1", draw::MOST);
    }
    Ok(())
}

/// One row a class where each class has its turn, else nearly square.
fn columns(args: &Args, model: &Checkpoint, count: usize) -> usize {
    match (args.class, draw::classes(model)) {
        (None, Some(classes)) if !args.edit.is_of_one_class() => (classes as usize).min(count),
        _ => picture::default_columns(count),
    }
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
    let sampler = Sampler { strength: args.edit.strength(), ..args.sampler.sampler(&model.scheduler, &args.variance)? };
    let request = draw::request(model, &sampler, args.count, args.seed)?;
    let labels = match (args.class, draw::classes(model)) {
        (Some(class), Some(classes)) if class >= classes => {
            bail!("class {class} is out of range: there are {classes}, from 0")
        }
        (_, Some(classes)) => Some(in_turn(args, classes)),
        (Some(_), None) if !args.steering.is_given() => bail!("--class: this checkpoint knows no classes"),
        (_, None) => None,
    };
    let guidance = draw::guidance(args.guidance, model, GUIDANCE)?;
    let [height, width] = draw::sides(model)?;
    let shape = [height, width, model.unet.config.in_channels];
    let Edit { start, known, initial_scale } =
        args.edit.read(shape, args.count, &sampler, &model.scheduler.schedule()?)?;
    let start = match &args.noise {
        Some(path) => Start::Given(Box::new(noise(path, [args.count, height, width, model.unet.config.in_channels])?)),
        None => start,
    };
    Ok(Request { start, known, initial_scale, labels, guidance, ..request })
}

/// The noise in a file, for images of `shape` [N, H, W, C].
fn noise(path: &Path, shape: [u32; 4]) -> Result<Noise> {
    let mut tensors = tensors::read(path)?;
    let shape = shape.map(|extent| extent as usize);
    let mut take = |name: String| match tensors.remove(&name).map(|tensor| (tensor.to_images(), tensor.shape)) {
        None => Ok(None),
        Some((Some((values, own)), _)) if own == shape => Ok(Some(values)),
        Some((_, own)) => {
            let [n, h, w, c] = shape;
            bail!("{}: {name} is {own:?} and must be [{n}, {c}, {h}, {w}]; --count says the first", path.display())
        }
    };
    let Some(start) = take("x_T".into())? else { bail!("{}: x_T is missing", path.display()) };
    let mut steps = Vec::new();
    while let Some(values) = take(format!("noise.{}", steps.len()))? {
        steps.push(values);
    }
    Ok(Noise { start, steps })
}

/// The class that was asked for, or each in turn; of an interpolation, one for all.
fn in_turn(args: &Args, classes: u32) -> Vec<u32> {
    let own = |i: u32| if args.edit.is_of_one_class() { 0 } else { i % classes };
    (0..args.count).map(|i| args.class.unwrap_or(own(i))).collect()
}

fn write_tensor(path: &Path, images: &Images, clamps: bool) -> Result<()> {
    // A sampler that doesn't clip may end a little outside.
    let range = if clamps { 1.0 } else { f32::INFINITY };
    let values: Vec<f32> = images.values.iter().map(|value| value.clamp(-range, range)).collect();
    let tensor = FileTensor::from_images(&values, [images.count, images.height, images.width, images.channels]);
    Ok(tensors::write(path, &FileTensors::from([("samples".to_string(), tensor)]))?)
}
