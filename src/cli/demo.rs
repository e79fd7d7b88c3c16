//! `diffuse demo`: digits, from nothing to a picture.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::adapter::Adapter;
use super::draw::{self, Drawing, Film};
use super::output::{Json, say};
use super::train::Ending;
use super::{sample, train};
use diffuse::checkpoint;
use diffuse::diffusion::{Sampler, ScheduleKind};
use diffuse::gpu::{Context, Precision};
use diffuse::nn::config::Size;
use diffuse::nn::digits;
use diffuse::picture;
use diffuse::run::{Request, Session, TrainOptions};
use diffuse::train::{Over, Run, run};

/// Learn to draw handwritten digits from the embedded set, then draw them
#[derive(clap::Args)]
pub struct Args {
    /// Directory for pictures and checkpoint
    #[arg(long, default_value = "runs/demo")]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

/// A row for each class, and as many columns.
const ROWS: u32 = 10;
const COLUMNS: u32 = 8;
const SAMPLER_STEPS: usize = 50;

/// Small enough for a processor, or larger for a GPU.
fn options(context: &Context) -> Result<TrainOptions> {
    let mut model = digits();
    let mut steps = 800;
    if !context.is_cpu() {
        model.sample_size = Some(Size::Square(28));
        model.block_out_channels = vec![32, 64, 64];
        steps = 2000;
    }
    Ok(TrainOptions {
        model,
        steps,
        // Measured at this budget: small batches, a short memory of squares and the cosine schedule draw best.
        batch: 32,
        learning_rate: 3e-3,
        warmup: 100,
        beta2: 0.99,
        noise_schedule: ScheduleKind::COSINE,
        ema_decay: 0.99,
        class_dropout: 0.1,
        sample_every: 0,
        checkpoint_every: 0,
        ..TrainOptions::default()
    })
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    super::interrupt::catch_interrupts();
    let started = Instant::now();
    let context = adapter.open()?;
    let policy = adapter.policy(&context)?;
    let mut options = options(&context)?;
    let data = run::load_data(&mut options)?;
    say(format_args!("learning to draw digits from {} handwritten ones", data.len()));
    let mut run = Run::create(&context, &policy, &args.out, options, &data, (Over::All, None))?;
    let again = train::going_on("train", &args.out);
    let ending = Ending { out: &args.out, json: &Json::default(), started, again };
    if !train::train(&mut run, &context, &ending)? {
        return Ok(());
    }
    let _lock = run.into_lock();
    let samples = args.out.join("samples.png");
    let gif = args.out.join("denoising.gif");
    draw(Session::open(&context, &policy, Precision::F32), &args.out, &samples, &gif)?;
    let seconds = started.elapsed().as_secs_f64();
    let chart = args.out.join("loss.png");
    let checkpoint = args.out.join("checkpoint");
    say(format_args!("done in {seconds:.0} s:"));
    for (path, what) in [
        (&samples, "what it draws, a row for each digit"),
        (&gif, "how it gets there"),
        (&chart, "the loss"),
        (&checkpoint, "the model, for: diffuse sample"),
    ] {
        say(format_args!("  {:32} {what}", path.display().to_string()));
    }
    args.json.print_object(
        || json!({ "samples": samples, "gif": gif, "loss": chart, "checkpoint": checkpoint, "seconds": seconds }),
    )
}

fn draw(session: Session, out: &std::path::Path, samples: &std::path::Path, gif: &std::path::Path) -> Result<()> {
    let model = checkpoint::load(out)?;
    let labels = (0..ROWS * COLUMNS).map(|i| i / COLUMNS).collect();
    let request = draw::request(&model, &Sampler::ddpm(SAMPLER_STEPS), ROWS * COLUMNS, 0)?;
    let request = Request { labels: Some(labels), guidance: sample::GUIDANCE, ..request };
    let mut film = Film::new(COLUMNS as usize, request.length());
    let drawing = Drawing { model: &model, request, classifier: None, batch: ROWS * COLUMNS };
    let images = drawing.run(session, &mut film)?.images;
    let scale = picture::default_scale(images.height);
    picture::write_png(samples, &picture::grid(&images, COLUMNS as usize, scale))?;
    Ok(picture::write_gif(gif, &film.frames, 80)?)
}
