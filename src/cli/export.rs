//! `diffuse export`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::json;

use super::draw;
use super::output::{Json, say};
use super::outputs::{Output, Place, check_apart, check_file, file, input};
use super::sample::GUIDANCE;
use diffuse::checkpoint::pipeline::{self, Needs};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::gpu::Precision;
use diffuse::nn::config::Size;
use diffuse::{files, page};

/// Write a checkpoint as a pipeline that diffusers loads unedited, or as a page that draws in a browser
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("form").required(true))]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    checkpoint: PathBuf,
    /// Directory to write, which `DDPMPipeline.from_pretrained` loads. Where that can't draw with the model by itself, the lines
    /// of Python that can are printed
    #[arg(long, value_name = "DIR", group = "form")]
    pipeline: Option<PathBuf>,
    /// File to write: the model with all that draws, which a browser with WebGPU opens. Its weights are rounded to f16
    #[arg(long, value_name = "FILE.html", group = "form")]
    page: Option<PathBuf>,
    /// Keep the weights of a page as they are: it is twice as large
    #[arg(long, conflicts_with = "pipeline")]
    f32: bool,
    /// Put it in the place of the pipeline or page that is there
    #[arg(long)]
    replace: bool,
    /// Size of its images, in place of the model's [default: the model's sample_size]
    #[arg(long, value_name = "N|HxW")]
    size: Option<Size>,
    #[command(flatten)]
    json: Json,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.json.check()?;
    match (&args.pipeline, &args.page) {
        (Some(directory), _) => export_pipeline(args, directory),
        (None, Some(file)) => export_page(args, file),
        (None, None) => unreachable!("clap asks for one of them"),
    }
}

/// The model, once it is known that it and what is written are apart.
fn load(args: &Args, written: Output) -> Result<Checkpoint> {
    let writes: Vec<_> = [written].into_iter().chain(file("--json", args.json.file())).collect();
    check_apart(&writes, &input("the checkpoint", Some(&args.checkpoint)).into_iter().collect::<Vec<_>>())?;
    let mut model = checkpoint::load(&args.checkpoint)?;
    model.unet.config.sample_size = args.size.or(model.unet.config.sample_size);
    Ok(model)
}

fn export_pipeline(args: &Args, directory: &Path) -> Result<()> {
    pipeline::check_place(directory, args.replace)?;
    let model = load(args, ("--pipeline", Place::Directory(directory, |_| true)))?;
    pipeline::export(&model, directory)?;
    let needs = Needs::of(&model);
    say(format_args!("{}: {}", directory.display(), about(needs, &model.scheduler.class_name)));
    let python = needs.map(|_| lines(&model, directory));
    args.json.print(
        || Ok(json!({ "pipeline": directory, "scheduler": model.scheduler.class_name, "python": python })),
        || Ok(python.clone().unwrap_or_default()),
    )
}

fn export_page(args: &Args, path: &Path) -> Result<()> {
    check_file(path, &["html", "htm"])?;
    if path.is_file() && !args.replace {
        bail!("{}: there is a file already; --replace puts the new one in its place", path.display());
    }
    let model = load(args, ("--page", Place::File(path)))?;
    let title = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let precision = if args.f32 { Precision::F32 } else { Precision::F16 };
    let guidance = draw::guidance(None, &model, GUIDANCE)?;
    let text = page::write(&model, &page::Options { title, precision, guidance })?;
    files::write_atomic(path, text.as_bytes())?;
    let weights = if args.f32 { "f32" } else { "rounded to f16; --f32 keeps them as they are" };
    let megabytes = text.len() as f64 / 1e6;
    say(format_args!(
        "{}: {megabytes:.2} MB, which a browser with WebGPU draws with; weights {weights}",
        path.display()
    ));
    args.json.print(|| Ok(json!({ "page": path, "bytes": text.len(), "precision": precision })), || Ok(String::new()))
}

fn about(needs: Option<Needs>, scheduler: &str) -> String {
    match needs {
        None => "DDPMPipeline.from_pretrained loads it and draws".into(),
        Some(Needs::Labels) => {
            "DDPMPipeline.from_pretrained loads it, but passes no labels; these lines draw with it".into()
        }
        Some(Needs::AnotherLoop) => format!(
            "DDPMPipeline.from_pretrained loads it, but doesn't draw with a {scheduler}; these lines draw with it"
        ),
    }
}

/// Images of one call of [`lines`], at the most.
const MOST: u32 = 16;

/// The lines of Python that draw with the pipeline in `directory`, as `sample` does by default.
fn lines(model: &Checkpoint, directory: &Path) -> String {
    let config = &model.unet.config;
    let place = json!(directory).to_string();
    let (height, width) = config.sample_size.map(Size::sides).unwrap_or_default();
    let count = model.classes.as_ref().map_or(4, |classes| classes.count().min(MOST));
    let labels = model.classes.as_ref().map(|_| format!("labels = torch.arange({count})"));
    let call = "pipe.unet(pipe.scheduler.scale_model_input(x, t), t";
    let output = match &model.classes {
        None => format!("        out = {call}).sample"),
        Some(classes) if !classes.has_null => format!("        out = {call}, labels).sample"),
        Some(classes) => {
            let null = classes.count();
            // What the network says of the variance is not guided.
            let channels = config.in_channels;
            let variance = if config.learns_variance() {
                format!("\n        out[:, {channels}:] = own[:, {channels}:]")
            } else {
                String::new()
            };
            format!(
                "        own, null = ({call}, y).sample for y in (labels, torch.full_like(labels, {null})))\n        \
                 out = null + {GUIDANCE:?} * (own - null){variance}"
            )
        }
    };
    let parts = [
        "import diffusers, torch".into(),
        format!("pipe = diffusers.DDPMPipeline.from_pretrained({place})"),
        labels.unwrap_or_default(),
        format!("pipe.scheduler.set_timesteps({})", model.scheduler.num_train_timesteps.min(50)),
        format!(
            "x = torch.randn({count}, {}, {height}, {width}) * pipe.scheduler.init_noise_sigma",
            config.in_channels
        ),
        "with torch.no_grad():".into(),
        "    for t in pipe.scheduler.timesteps:".into(),
        output,
        "        x = pipe.scheduler.step(out, t, x).prev_sample".into(),
        "images = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()".into(),
        "[image.save(f\"{i}.png\") for i, image in enumerate(pipe.numpy_to_pil(images))]".into(),
    ];
    let written: Vec<String> = parts.into_iter().filter(|part: &String| !part.is_empty()).collect();
    written.join("\n")
}
