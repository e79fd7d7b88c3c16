//! `diffuse sample`.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Command;
use image::RgbImage;
use serde_json::json;

use super::adapter::Adapter;
use super::draw::{self, Drawing, Film, Method};
use super::edit::{self, Edit};
use super::half_blocks::{Colors, Mosaic};
use super::output::{Json, say};
use super::outputs::{Input, Output, Place, check_apart, check_file, file, input};
use super::{sampler, steering};
use diffuse::checkpoint::{self, Checkpoint, Classes};
use diffuse::diffusion::Sampler;
use diffuse::error::{counted, list_names};
use diffuse::files;
use diffuse::nn::config::Size;
use diffuse::picture::{self, Images};
use diffuse::run::{Drawn, Noise, Request, Start};
use diffuse::tensors::{self, FileTensor, FileTensors};
use diffuse::train::TRAINER;
use diffuse::train::run::take_prefix;

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
    /// Size of the images [default: the checkpoint's sample_size]
    #[arg(long, value_name = "N|HxW")]
    size: Option<Size>,
    /// Class of every image: its name, else its number from 0 [default: each class in turn]
    #[arg(long, value_name = "NAME|N")]
    class: Option<String>,
    /// Scale of classifier-free guidance; 1 is none [default: 2 where the checkpoint has a null class]
    #[arg(long, value_name = "W")]
    guidance: Option<f64>,
    #[command(flatten)]
    steering: steering::Args,
    /// Images drawn at a time
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// The raw weights instead of their average
    #[arg(long)]
    raw: bool,
    /// Picture of all images; the ending says the format
    #[arg(long, default_value = "samples.png", value_name = "F.png|F.jpg")]
    out: PathBuf,
    /// Directory for each image as a PNG of its own size
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
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

impl Args {
    /// Whether it draws, and lists no samplers.
    pub fn draws(&self) -> bool {
        !self.sampler.is_list()
    }
}

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
    args.json.check()?;
    check(args, adapter)?;
    let mut model = checkpoint::load(checkpoint)?;
    model.unet.config.sample_size = args.size.or(model.unet.config.sample_size);
    if args.raw {
        model.weights = raw_weights(&model)?;
    }
    let (mut request, sampler) = request(args, &model)?;
    let labels = |classes: &Classes| request.labels.clone().map_or_else(|| in_turn(args, classes), Ok);
    let (classifier, steering) = args.steering.load(&model, labels)?.unzip();
    request.steering = steering;
    let classes = model.classes.as_ref().or(classifier.as_ref().map(|classifier| &classifier.classes)).cloned();
    if let Some(classes) = &classes {
        say(legend(args, classes));
    }
    let drawing = Drawing { model: &model, request, classifier, batch: args.batch, ranks: adapter.ranks() };
    super::interrupt::catch_interrupts();
    let context = adapter.open()?;
    let session = adapter.session_for(&context, args.count, args.batch)?;
    let steps = drawing.request.length();
    let mut film = match &args.gif {
        Some(_) => Film::new(columns(args, classes.as_ref(), drawing.batch() as usize), steps),
        None => Film::none(),
    };
    let Drawn { images, evaluations } = drawing.run(session, &mut film)?;
    if let Some(path) = &args.tensor {
        write_tensor(path, &images, args.noise.is_none())?;
    }
    let columns = columns(args, classes.as_ref(), images.count);
    let grid = picture::grid(&images, columns, picture::default_scale(images.height));
    picture::write(&args.out, &grid)?;
    if let Some(directory) = &args.images {
        write_each(directory, &images)?;
    }
    if let Some(path) = &args.gif {
        picture::write_gif(path, &film.frames, 80)?;
    }
    if images.count < args.count as usize {
        say(format_args!("interrupted: the first {} of {} images are there", images.count, args.count));
    }
    let written = [Some(&args.out), args.images.as_ref(), args.gif.as_ref(), args.tensor.as_ref()];
    let written: Vec<&PathBuf> = written.into_iter().flatten().collect();
    let names: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    say(format_args!("{}: {}", counted(images.count as u64, "image"), names.join(", ")));
    if std::io::stdout().is_terminal() && !args.json.is_alone() {
        match strip(&images).as_str() {
            "" => {}
            strip => super::output::print(strip)?,
        }
    }
    args.json.print_object(|| {
        let mut object = json!(Method::of(&drawing, &sampler, evaluations));
        object["count"] = json!(images.count);
        object["files"] = json!(written);
        // Noise out of a file has no seed.
        let seeds =
            args.edit.seeds().unwrap_or_else(|| if args.noise.is_some() { Vec::new() } else { vec![args.seed] });
        object["seed"] = json!(seeds.first());
        object["seeds"] = json!(seeds);
        object["noise"] = json!(args.noise);
        object["raw"] = json!(args.raw);
        args.edit.describe(&mut object);
        object["classes"] = json!(classes.as_ref().map(|classes| &classes.names));
        object["class_of_each"] = json!(drawing.labels().map(|labels| &labels[..images.count]));
        object
    })
}

fn check(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.count == 0 || args.batch == 0 || args.count > draw::MOST {
        bail!("--count must be 1 to {} and --batch at least 1", draw::MOST);
    }
    check_outputs(args, adapter)
}

/// What `--images` takes of its directory.
fn is_image(relative: &Path) -> bool {
    let name = relative.to_string_lossy();
    name.strip_suffix(".png")
        .is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_outputs(args: &Args, adapter: &Adapter) -> Result<()> {
    picture::check_writable(&args.out)?;
    args.gif.iter().try_for_each(|path| check_file(path, &["gif"]))?;
    args.tensor.iter().try_for_each(|path| check_file(path, &["safetensors", "st"]))?;
    let (tensor, json) = (args.tensor.as_deref(), args.json.file());
    let images = args.images.as_deref().map(|images| ("--images", Place::Directory(images, is_image)));
    let files = [("--out", Some(&*args.out)), ("--gif", args.gif.as_deref()), ("--tensor", tensor), ("--json", json)];
    let writes: Vec<Output> = files.iter().filter_map(|(flag, path)| file(flag, *path)).chain(images).collect();
    let checkpoint = input("the checkpoint", args.checkpoint.as_deref());
    let named = [input("--noise", args.noise.as_deref()), checkpoint, adapter.file(), args.steering.file()];
    let reads: Vec<Input> = named.into_iter().chain(args.edit.files()).flatten().collect();
    check_apart(&writes, &reads)?;
    let first = args.images.as_ref().map(|directory| directory.join(name_of(0)));
    Ok(first.map_or(Ok(()), |path| files::check_writable(&path))?)
}

/// One column a class where each class has its turn, else nearly square.
fn columns(args: &Args, classes: Option<&Classes>, count: usize) -> usize {
    match classes {
        Some(classes) if takes_turns(args) => classes.names.len().min(count),
        _ => picture::default_columns(count),
    }
}

/// Whether each class has its turn.
fn takes_turns(args: &Args) -> bool {
    args.class.is_none() && !args.edit.is_of_one_class()
}

/// Which classes there are, and which image is of which.
fn legend(args: &Args, classes: &Classes) -> String {
    let drawn = match &args.class {
        Some(class) => {
            let name = classes.index(class).map(|index| &classes.names[index as usize]);
            format!("all images are of {}", name.unwrap_or(class))
        }
        None if !takes_turns(args) => format!("all images are of {}", classes.names[0]),
        None if classes.names.len() == 1 => return classes.listed(),
        None => {
            let first = &classes.names[..classes.names.len().min(args.count as usize)];
            format!("from left to right {}", list_names(first))
        }
    };
    format!("{}; {drawn}", classes.listed())
}

fn raw_weights(model: &Checkpoint) -> Result<Vec<f32>> {
    let path = model.directory.join(TRAINER);
    let beside = model.directory.join("../unet");
    if model.directory.ends_with("unet_ema") && beside.is_dir() {
        return Ok(checkpoint::load(&beside)?.weights);
    }
    if !path.is_file() {
        bail!("{}: no raw weights here: a run keeps them in {TRAINER}", model.directory.display());
    }
    checkpoint::manifest::check(&model.directory, |name| name == TRAINER)?;
    let raw = take_prefix(&mut tensors::read(&path)?, "weights.");
    Ok(checkpoint::flatten(&model.unet.params, raw, &path)?)
}

fn request(args: &Args, model: &Checkpoint) -> Result<(Request, Sampler)> {
    let sampler = Sampler { strength: args.edit.strength(), ..args.sampler.sampler(&model.scheduler, &args.variance)? };
    let request = draw::request(model, &sampler, args.count, args.seed)?;
    let labels = match &model.classes {
        Some(classes) => Some(in_turn(args, classes)?),
        None if args.class.is_some() && !args.steering.is_given() => bail!("--class: this checkpoint knows no classes"),
        None => None,
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
    Ok((Request { start, known, initial_scale, labels, guidance, ..request }, sampler))
}

/// The noise in a file, for images of `shape` [N, H, W, C].
fn noise(path: &Path, shape: [u32; 4]) -> Result<Noise> {
    let mut tensors = tensors::read(path)?;
    let shape = shape.map(|extent| extent as usize);
    let mut take = |name: String| match tensors.remove(&name).map(|tensor| (tensor.to_images(), tensor.shape)) {
        None => Ok(None),
        Some((Some((values, own)), _)) if own == shape => match values.iter().find(|value| !value.is_finite()) {
            Some(value) => bail!("{}: {name} holds {value}", path.display()),
            None => Ok(Some(values)),
        },
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
///
/// # Errors
/// One line if there is no such class.
fn in_turn(args: &Args, classes: &Classes) -> Result<Vec<u32>> {
    let asked = args.class.as_ref().map(|class| classes.index(class)).transpose()?;
    let own = |i: u32| if args.edit.is_of_one_class() { 0 } else { i % classes.count() };
    Ok((0..args.count).map(|i| asked.unwrap_or(own(i))).collect())
}

fn name_of(image: usize) -> String {
    format!("{image:05}.png")
}

fn write_each(directory: &Path, images: &Images) -> Result<()> {
    let size = images.height * images.width * images.channels;
    for (index, values) in images.values.chunks_exact(size).enumerate() {
        let one = Images { values: values.to_vec(), count: 1, ..*images };
        picture::write_png(&directory.join(name_of(index)), &picture::grid(&one, 1, 1))?;
    }
    Ok(())
}

/// Lines of a terminal that images take at the most.
const MOST_LINES: u16 = 16;

/// The first images, side by side, as many as the terminal is wide enough for; nothing where nobody knows how wide it is.
fn strip(images: &Images) -> String {
    let Ok((columns, lines)) = ratatui::crossterm::terminal::size() else { return String::new() };
    let size = images.height * images.width * images.channels;
    let one = |values: &[f32]| picture::grid(&Images { values: values.to_vec(), count: 1, ..*images }, 1, 1);
    let first: Vec<RgbImage> = images.values.chunks_exact(size).take(columns.into()).map(one).collect();
    let high = images.height.div_ceil(2).min(MOST_LINES.into()) as u16;
    let mosaic = Mosaic::new(&first, [columns, high.min(lines.saturating_sub(2))]);
    mosaic.text(Colors::of_terminal()).trim_end_matches('\n').into()
}

fn write_tensor(path: &Path, images: &Images, clamps: bool) -> Result<()> {
    // A sampler that doesn't clip may end a little outside.
    let range = if clamps { 1.0 } else { f32::INFINITY };
    let values: Vec<f32> = images.values.iter().map(|value| value.clamp(-range, range)).collect();
    let tensor = FileTensor::from_images(&values, [images.count, images.height, images.width, images.channels]);
    Ok(tensors::write(path, &FileTensors::from([("samples".to_string(), tensor)]))?)
}
