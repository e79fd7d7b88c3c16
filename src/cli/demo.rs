//! `diffuse demo`: digits, from nothing to a picture.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::Adapter;
use super::draw::{self, Drawing, Film};
use super::output::{Json, say};
use super::train::{Begun, Ending};
use super::{sample, train};
use diffuse::checkpoint;
use diffuse::data::Dataset;
use diffuse::diffusion::{Sampler, ScheduleKind};
use diffuse::error::quoted;
use diffuse::files;
use diffuse::gpu::{Context, Precision};
use diffuse::nn::config::Size;
use diffuse::nn::digits;
use diffuse::picture;
use diffuse::run::{Request, Session, TrainOptions};
use diffuse::train::{Over, Run, Stored, check_place, run};
use diffuse::tune::Policy;

/// Learn to draw handwritten digits from the embedded set, then draw them
#[derive(clap::Args)]
pub struct Args {
    /// Directory for pictures and checkpoint
    #[arg(long, default_value = DEFAULT_PLACE)]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

const DEFAULT_PLACE: &str = "runs/demo";

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
    let [samples, gif] = ["samples.png", "denoising.gif"].map(|name| args.out.join(name));
    args.json.check()?;
    check_place(&args.out)?;
    [&samples, &gif].into_iter().try_for_each(|path| files::check_writable(path))?;
    let mut again = "diffuse demo".to_string();
    if args.out != Path::new(DEFAULT_PLACE) {
        again.push_str(&format!(" --out {}", quoted(&args.out.to_string_lossy())));
    }
    let ending = Ending { out: &args.out, json: &Json::default(), started, again, is_live: false, ranks: None };
    let trained = train::train_through_losses(
        adapter,
        &ending,
        |context, policy| begin(args, context, policy),
        |mut options, context, policy| {
            let data = run::load_data(&mut options, None)?;
            create(args, options, &data, context, policy)
        },
    )?;
    if !trained.is_done {
        return Ok(());
    }
    let context = &trained.context;
    draw(Session::open(context, &adapter.policy(context)?, Precision::F32), &args.out, &samples, &gif)?;
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

/// The run: one that goes on, or a new one, unless all is done already.
fn begin<'c>(args: &Args, context: &'c Context, policy: &Policy) -> Result<Begun<'c>> {
    let mut options = TrainOptions { winograd: policy.winograd, ..options(context)? };
    // The model takes its size and its classes from them.
    let data = run::load_data(&mut options, None)?;
    let stored = Stored::find(&args.out)?;
    refuse_other(&args.out, stored.as_ref(), &options)?;
    Ok(match stored {
        Some(stored) if stored.step() >= options.steps => {
            say(format_args!("trained {} steps already: {}; this draws again", stored.step(), args.out.display()));
            Begun::Done { options: Box::new(options), stored: Box::new(stored) }
        }
        Some(stored) => Begun::Run(Box::new(Run::resume(context, policy, stored, options, None)?)),
        None => {
            say(format_args!("learning to draw digits from {} handwritten ones", data.len()));
            Begun::Run(Box::new(create(args, options, &data, context, policy)?))
        }
    })
}

fn create<'c>(
    args: &Args,
    options: TrainOptions,
    data: &Dataset,
    context: &'c Context,
    policy: &Policy,
) -> Result<Run<'c>> {
    Ok(Run::create(context, policy, &args.out, options, data, (Over::Unfinished, None))?)
}

/// A run of other options is somebody's work, and so is a configuration that is no run's.
fn refuse_other(out: &Path, stored: Option<&Stored>, options: &TrainOptions) -> Result<()> {
    let config = out.join(checkpoint::CONFIG);
    let is_own = match stored {
        Some(stored) => stored.options() == options,
        None => !config.exists() || checkpoint::read_json::<TrainOptions>(&config).is_ok_and(|there| there == *options),
    };
    if !is_own {
        bail!("{}: holds a run already that is not the demo's; --out takes another place", out.display());
    }
    Ok(())
}

fn draw(session: Session, out: &Path, samples: &Path, gif: &Path) -> Result<()> {
    let model = checkpoint::load(out)?;
    let labels = (0..ROWS * COLUMNS).map(|i| i / COLUMNS).collect();
    let request = draw::request(&model, &Sampler::ddpm(SAMPLER_STEPS), ROWS * COLUMNS, 0)?;
    let request = Request { labels: Some(labels), guidance: sample::GUIDANCE, ..request };
    let mut film = Film::new(COLUMNS as usize, request.length());
    let drawing = Drawing { model: &model, request, classifier: None, batch: ROWS * COLUMNS, ranks: None };
    let images = drawing.run(session, &mut film)?.images;
    let scale = picture::default_scale(images.height);
    picture::write_png(samples, &picture::grid(&images, COLUMNS as usize, scale))?;
    Ok(picture::write_gif(gif, &film.frames, 80)?)
}
