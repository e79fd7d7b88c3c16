//! `diffuse export`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::output::{Json, say};
use super::outputs::{Place, check_apart, file, input};
use super::sample::GUIDANCE;
use diffuse::checkpoint::pipeline::{self, Needs};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::nn::config::Size;

/// Write a checkpoint as a pipeline that diffusers loads unedited
#[derive(clap::Args)]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    checkpoint: PathBuf,
    /// Directory to write, which `DDPMPipeline.from_pretrained` loads. Where that can't draw with the model by itself, the lines
    /// of Python that can are printed
    #[arg(long, value_name = "DIR")]
    pipeline: PathBuf,
    /// Put it in the place of the pipeline that is there
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
    let Args { checkpoint, pipeline: directory, .. } = args;
    args.json.check()?;
    pipeline::check_place(directory, args.replace)?;
    let writes = [("--pipeline", Place::Directory(directory, |_| true))];
    let writes: Vec<_> = writes.into_iter().chain(file("--json", args.json.file())).collect();
    check_apart(&writes, &input("the checkpoint", Some(checkpoint)).into_iter().collect::<Vec<_>>())?;
    let mut model = checkpoint::load(checkpoint)?;
    model.unet.config.sample_size = args.size.or(model.unet.config.sample_size);
    pipeline::export(&model, directory)?;
    let needs = Needs::of(&model);
    say(format_args!("{}: {}", directory.display(), about(needs, &model.scheduler.class_name)));
    let python = needs.map(|_| lines(&model, directory));
    args.json.print(
        || Ok(json!({ "pipeline": directory, "scheduler": model.scheduler.class_name, "python": python })),
        || Ok(python.clone().unwrap_or_default()),
    )
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
