//! `diffuse privacy`.

mod audit;

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::adapter::Adapter;
use super::output::Json;
use diffuse::privacy::{Epsilon, Noise, SampledGaussian, noise_for, steps_for, truncation};

/// Say what training under differential privacy costs, without training
///
/// For batches to which each image comes with chance batch/images (Poisson sampling) and noise on the sum of clipped gradients:
/// epsilon from `--noise` and `--steps`, the noise from `--epsilon` and `--steps`, or the steps from `--epsilon` and `--noise`.
/// All are upper bounds for data sets of which one lacks an image of the other (add/remove), at most `--images` large.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Images that are trained on
    #[arg(long, value_name = "N", required = true)]
    images: Option<u64>,
    /// Images in a batch, on average
    #[arg(long, value_name = "B", required = true)]
    batch: Option<u64>,
    /// Standard deviation of the noise over the clip: the noise multiplier
    #[arg(long, value_name = "SIGMA")]
    noise: Option<f64>,
    /// Steps, each of one batch
    #[arg(long, value_name = "T")]
    steps: Option<u64>,
    /// What the steps may cost
    #[arg(long, value_name = "E")]
    epsilon: Option<f64>,
    /// The chance that the bound does not hold, at most 1/N
    #[arg(long, value_name = "D", required = true)]
    delta: Option<f64>,
    /// Places for a batch, beyond which it is truncated [default: as few as add a hundredth of delta at most]
    #[arg(long, value_name = "P")]
    places: Option<u64>,
    #[command(flatten)]
    json: Json,
}

#[derive(Subcommand)]
enum Command {
    Audit(audit::Args),
}

/// What is accounted.
struct Account {
    images: u64,
    batch: u64,
    delta: f64,
    noise: Option<f64>,
    steps: Option<u64>,
    epsilon: Option<f64>,
    places: Option<u64>,
}

/// What was asked for.
enum Asked {
    Epsilon,
    Noise(Noise),
    Steps,
}

struct Answer {
    asked: Asked,
    /// With the noise or the steps that were asked for.
    mechanism: SampledGaussian,
    epsilon: Epsilon,
    places: u64,
    /// What truncation adds to delta.
    truncated: f64,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if let Some(Command::Audit(args)) = &args.command {
        return audit::run(args, adapter);
    }
    args.json.check()?;
    let Args { noise, steps, epsilon, places, .. } = *args;
    let (Some(images), Some(batch), Some(delta)) = (args.images, args.batch, args.delta) else {
        bail!("give --images, --batch and --delta, or `audit RUN`");
    };
    let account = Account { images, batch, delta, noise, steps, epsilon, places };
    check(&account)?;
    let answer = answer(&account)?;
    args.json.print(|| Ok(object(&account, &answer)), || Ok(table(&account, &answer)))
}

fn check(args: &Account) -> Result<()> {
    let Account { images, batch, delta, .. } = *args;
    if images == 0 || batch == 0 {
        bail!("--images and --batch must be at least 1");
    }
    if batch > images {
        bail!(
            "--batch {batch} is more than --images {images}: each image joins a step with chance batch/images, at most 1"
        );
    }
    if delta * images as f64 > 1.0 {
        bail!(
            "--delta {delta} is above 1/images: publishing one image at random would keep it; take at most {:.1e}",
            1.0 / images as f64
        );
    }
    Ok(())
}

fn answer(args: &Account) -> Result<Answer> {
    let (delta, sampling) = (args.delta, args.batch as f64 / args.images as f64);
    let (asked, mechanism) = match (args.noise, args.steps, args.epsilon) {
        (Some(noise), Some(steps), None) => (Asked::Epsilon, SampledGaussian { sampling, noise, steps }),
        (None, Some(steps), Some(epsilon)) => {
            let noise = noise_for(epsilon, delta, sampling, steps)?;
            (Asked::Noise(noise), SampledGaussian { sampling, noise: noise.pld, steps })
        }
        (Some(noise), None, Some(epsilon)) => {
            let steps = steps_for(epsilon, delta, sampling, noise)?;
            if steps == 0 {
                bail!("one step alone costs more than epsilon {epsilon}: take more --noise or a larger --epsilon");
            }
            (Asked::Steps, SampledGaussian { sampling, noise, steps })
        }
        _ => bail!("give two of --noise, --steps and --epsilon: the third is computed"),
    };
    let SampledGaussian { steps, .. } = mechanism;
    let epsilon = mechanism.epsilon(delta)?;
    let smallest = || truncation::places(args.images, sampling, steps, epsilon.pld, truncation::SHARE * delta);
    let places = args.places.unwrap_or_else(smallest);
    let truncated = truncation::delta(args.images, sampling, places, steps, epsilon.pld);
    Ok(Answer { asked, mechanism, epsilon, places, truncated })
}

fn object(args: &Account, answer: &Answer) -> serde_json::Value {
    let Answer { asked, mechanism, epsilon, places, truncated } = answer;
    let by_rdp = if let Asked::Noise(noise) = asked { Some(noise.rdp) } else { None };
    json!({
        "images": args.images, "batch": args.batch, "sampling": mechanism.sampling, "adjacency": "add/remove",
        "noise": mechanism.noise, "noise_by_rdp": by_rdp, "steps": mechanism.steps, "delta": args.delta, "budget": args.epsilon,
        "epsilon": { "pld": epsilon.pld, "rdp": epsilon.rdp, "order": epsilon.order },
        "padding": { "places": places, "delta": truncated },
    })
}

fn table(args: &Account, answer: &Answer) -> String {
    let Answer { asked, mechanism, epsilon, places, truncated } = answer;
    let SampledGaussian { noise, steps, .. } = *mechanism;
    let given =
        format!("add/remove, q {}/{}, sigma {noise}, {steps} steps, delta {:e}", args.batch, args.images, args.delta);
    let mut lines = match asked {
        Asked::Epsilon => vec![],
        Asked::Noise(noise) => vec![format!("noise {} by PLD, {} by RDP; with the first:", noise.pld, noise.rdp)],
        Asked::Steps => vec![format!("{steps} steps by PLD; after them:")],
    };
    lines.push(format!("epsilon {} by PLD (privacy loss distribution by FFT): {given}", upwards(epsilon.pld)));
    lines.push(format!("epsilon {} by RDP (Rényi, order {}): {given}", upwards(epsilon.rdp), epsilon.order));
    lines.push(format!("padding of {places} places: truncating larger batches adds {truncated:.2e} to delta"));
    lines.join("\n")
}

/// Rounded up, to four digits behind the point or, of small ones, four in all: what is printed holds.
fn upwards(epsilon: f64) -> String {
    if epsilon == 0.0 || epsilon >= 0.1 {
        return format!("{:.4}", (epsilon * 1e4).ceil() / 1e4);
    }
    let unit = 10f64.powf(epsilon.log10().floor() - 3.0);
    format!("{:.3e}", (epsilon / unit).ceil() * unit)
}
