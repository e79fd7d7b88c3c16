//! `diffuse privacy audit`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use crate::cli::adapter::Adapter;
use crate::cli::decoding;
use crate::cli::output::Json;
use crate::cli::outputs::{Input, Source, check_apart, file, input};
use crate::cli::progress::Progress;
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::data::Dataset;
use diffuse::error::{Error, counted};
use diffuse::evaluate::membership;
use diffuse::privacy::audit::{Guesses, bounds, usual_numbers};
use diffuse::run::Denoiser;
use diffuse::train::{PRIVACY, run::load_canaries};

/// Say what epsilon a run has at least: guess from its weights which of its canaries it was trained on
///
/// The run was made by `train --canaries M`. Its canaries are ordered by their mean loss; those with the lowest are taken for trained on,
/// those with the highest for left out. How many guesses are right bounds epsilon from below (Steinke, Nasr & Jagielski 2023).
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the run
    run: PathBuf,
    /// Where its data are now, if they moved
    #[arg(long)]
    data: Option<String>,
    /// Draws of timestep and noise that the loss of an image is the mean of
    #[arg(long, value_name = "K", default_value_t = 256)]
    draws: u32,
    /// How sure the bound is to hold
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    confidence: f64,
    /// Guesses, fixed before anything is seen [default: tries M, a half, a quarter and an eighth, of which it takes account]
    #[arg(long, value_name = "R")]
    guesses: Option<usize>,
    #[command(flatten)]
    json: Json,
}

/// Images that are looked at at a time.
const BATCH: u32 = 64;

/// What a private run promises.
struct Promise {
    epsilon: f64,
    /// What truncation adds included.
    delta: f64,
}

impl Promise {
    /// Of the model in `checkpoint`; none if it was not trained under differential privacy.
    fn read(checkpoint: &Path) -> Result<Option<Promise>> {
        let path = checkpoint.join(PRIVACY);
        if !path.is_file() {
            return Ok(None);
        }
        let told: Value = checkpoint::read_json(&path)?;
        let number = |value: &Value| value.as_f64().ok_or_else(|| Error::file(&path, "a number is missing"));
        let delta = number(&told["delta"])? + number(&told["delta_of_truncation"])?;
        Ok(Some(Promise { epsilon: number(&told["epsilon"]["pld"])?, delta }))
    }
}

/// What came of the guesses.
struct Found {
    promise: Option<Promise>,
    canaries: usize,
    /// Each number of guesses, and its bound.
    tried: Vec<(Guesses, f64)>,
}

impl Found {
    /// What the largest bound was found with.
    fn best(&self) -> (Guesses, f64) {
        self.tried.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best }).expect("one at least")
    }

    fn delta(&self) -> f64 {
        self.promise.as_ref().map_or(0.0, |promise| promise.delta)
    }

    /// The epsilon that is promised, if these guesses refute it.
    fn refuted(&self) -> Option<f64> {
        self.promise.as_ref().map(|promise| promise.epsilon).filter(|epsilon| self.best().1 > *epsilon)
    }
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    args.json.check()?;
    check(args)?;
    let model = checkpoint::load(&args.run)?;
    let promise = Promise::read(&model.directory)?;
    let (images, are_in) = load_canaries(&args.run, &model.directory, args.data.as_deref(), decoding::watch())?;
    let canaries = images.len();
    if let Some(guesses) = args.guesses.filter(|guesses| *guesses > canaries) {
        bail!("--guesses {guesses}: the run has {canaries} canaries");
    }
    let were_in = in_order(&losses(args, adapter, &model, &images)?, &are_in);
    let numbers = args.guesses.map_or_else(|| usual_numbers(canaries), |guesses| vec![guesses]);
    let delta = promise.as_ref().map_or(0.0, |promise| promise.delta);
    let found = Found { tried: bounds(&were_in, &numbers, delta, args.confidence)?, promise, canaries };
    args.json.print(|| Ok(object(args, &found)), || Ok(table(args, &found)))?;
    match found.refuted() {
        None => Ok(()),
        Some(epsilon) => bail!(
            "the bound is above epsilon {epsilon:.4}, which is accounted: training is less private than it says, but for a chance of {:.1e}",
            1.0 - args.confidence
        ),
    }
}

fn check(args: &Args) -> Result<()> {
    if args.draws == 0 || args.guesses == Some(0) {
        bail!("--draws and --guesses must be at least 1");
    }
    if !(args.confidence > 0.0 && args.confidence < 1.0) {
        bail!("--confidence {} is no chance: it must be above 0 and below 1", args.confidence);
    }
    let data = args.data.as_deref().map(|data| ("--data", Source::Data(Path::new(data))));
    let reads: Vec<Input> = [input("the run", Some(&*args.run)), data].into_iter().flatten().collect();
    check_apart(&file("--json", args.json.file()).into_iter().collect::<Vec<_>>(), &reads)
}

fn losses(args: &Args, adapter: &Adapter, model: &Checkpoint, images: &Dataset) -> Result<Vec<f64>> {
    let context = adapter.open()?;
    let (count, schedule) = (images.len() as u32, model.scheduler.schedule()?);
    let session = adapter.session_for(&context, count, BATCH)?;
    let size = [BATCH.min(count), images.height, images.width];
    let network = Denoiser::new(session, &model.unet, &model.weights, size, false)?;
    let trained = (&schedule, model.scheduler.prediction()?);
    let mut bar = Progress::new("auditing", 0, 0);
    let losses = membership::losses(&network, images, trained, args.draws as usize, |done, of| bar.set_of(done, of));
    bar.finish();
    Ok(losses?)
}

/// Whether each was trained on, in the order of their losses; of equal ones in that of the data, which knows nothing of coins.
fn in_order(losses: &[f64], are_in: &[bool]) -> Vec<bool> {
    let mut order: Vec<usize> = (0..losses.len()).collect();
    order.sort_by(|one, other| losses[*one].total_cmp(&losses[*other]));
    order.into_iter().map(|place| are_in[place]).collect()
}

fn object(args: &Args, found: &Found) -> Value {
    let row = |(guesses, epsilon): &(Guesses, f64)| json!({ "guesses": guesses.guessed, "right": guesses.right, "epsilon": epsilon });
    let (best, epsilon) = found.best();
    json!({
        "attack": "loss threshold", "draws": args.draws, "canaries": found.canaries, "confidence": args.confidence,
        "delta": found.delta(), "tried": found.tried.iter().map(row).collect::<Vec<_>>(),
        "guesses": best.guessed, "right": best.right, "epsilon_at_least": epsilon,
        "epsilon_accounted": found.promise.as_ref().map(|promise| promise.epsilon), "refuted": found.refuted().is_some(),
    })
}

fn table(args: &Args, found: &Found) -> String {
    let numbers = found.tried.len();
    let how = match numbers {
        1 => "whose number was fixed beforehand".into(),
        _ => format!("the best of {numbers} numbers of guesses, which is taken account of (Bonferroni)"),
    };
    let (best, epsilon) = found.best();
    let mut lines = vec![format!(
        "loss threshold: {} canaries by the logarithm of their loss, its mean over {}, the lowest taken for trained on, the highest for left out",
        found.canaries,
        counted(args.draws.into(), "draw")
    )];
    let row = |(guesses, epsilon): &(Guesses, f64)| {
        format!("{} guesses: {} right, epsilon at least {}", guesses.guessed, guesses.right, downwards(*epsilon))
    };
    lines.extend(found.tried.iter().map(row));
    lines.push(format!(
        "epsilon is at least {} at delta {:.2e}, with confidence {}: {} of {} guesses are right, {how}",
        downwards(epsilon),
        found.delta(),
        args.confidence,
        best.right,
        best.guessed
    ));
    lines.extend(
        found.promise.as_ref().map(|promise| format!("accounted: epsilon {:.4} at most ({PRIVACY})", promise.epsilon)),
    );
    lines.join("\n")
}

/// To four digits behind the point: what is printed holds.
fn downwards(epsilon: f64) -> String {
    format!("{:.4}", (epsilon * 1e4).floor() / 1e4)
}
