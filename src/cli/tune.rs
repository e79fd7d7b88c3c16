//! `diffuse tune`.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::{Adapter, Storage};
use super::flags::ModelFlags;
use super::output::{Json, say};
use super::outputs::{check_apart, file};
use diffuse::files;
use diffuse::gpu::Choices;
use diffuse::gpu::choices::Key;
use diffuse::gpu::tune::Timing;
use diffuse::nn::{UNet, digits};
use diffuse::profile;
use diffuse::tune::{self, Policy, Tuning};

/// Measure which variants of the kernels are fastest here
///
/// For a training step of a model. What other commands choose by the clock gives the same bits, whatever they choose. `tune` also compares ways that sum
/// in other orders; `--out FILE` keeps the fastest of all, and `--tune FILE` runs them.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Images in a batch
    #[arg(long, default_value_t = 16)]
    batch: u32,
    /// How activations and copies of weights are stored; sums and master weights are f32 always
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    precision: Storage,
    /// Write the fastest ways of all to this file, which `--tune` of other commands takes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    args.json.check()?;
    args.out.iter().try_for_each(|path| files::check_writable(path))?;
    let outputs = [file("--out", args.out.as_deref()), file("--json", args.json.file())];
    check_apart(&outputs.into_iter().flatten().collect::<Vec<_>>(), args.model.file().as_slice())?;
    if args.batch == 0 {
        bail!("--batch must be at least 1");
    }
    let config = args.model.config(digits())?;
    let context = adapter.open()?;
    let options = profile::Options { batch: args.batch, steps: 1, infer: false, recompute: false };
    let policy = Policy { directory: diffuse::files::cache_directory(), ..Policy::default() };
    let choices = policy.known(&context, args.precision.precision(&context));
    let recordings = profile::record(&UNet::new(config)?, &options, &choices)?;
    let (choices, tuning) = tune::compare(&context, &policy, &choices, &recordings)?;
    say(super::adapter::summary(&tuning, &context.info.name));
    if let Some(path) = &args.out {
        tune::write(&context, path, &tuning)?;
        say(format_args!("wrote {}; run these ways with: --tune {}", path.display(), path.display()));
    }
    args.json.print(|| Ok(as_json(&tuning)), || Ok(table(&tuning, &choices)?))
}

fn shape(key: &Key) -> String {
    key.shape.iter().map(u32::to_string).collect::<Vec<_>>().join("x")
}

fn table(tuning: &Tuning, choices: &Choices) -> Result<String, std::fmt::Error> {
    let out = &mut String::new();
    writeln!(out, "{:24} {:32} {:22} {:>9}  others, slower by", "kernel.entry", "shape", "fastest", "ms")?;
    for (key, timings) in &tuning.measured {
        let Some(best) = tune::winner(timings) else { continue };
        let chosen = choices.timed().get(key);
        let mark = |timing: &Timing| if Some(&timing.candidate.label()) == chosen { "*" } else { "" };
        let entry = format!("{}.{}", key.kernel, key.entry);
        let name = format!("{}{}", best.candidate.label(), mark(best));
        write!(out, "{entry:24} {:32} {name:22} {:9.3} ", shape(key), best.seconds * 1e3)?;
        for other in timings.iter().filter(|other| !std::ptr::eq(*other, best)) {
            let wrong = if other.is_right() { "" } else { " WRONG" };
            write!(out, " {}{} {:.2}{wrong}", other.candidate.label(), mark(other), other.seconds / best.seconds)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "* runs without --tune FILE: the fastest of those that give the same bits")?;
    Ok(std::mem::take(out))
}

fn as_json(tuning: &Tuning) -> serde_json::Value {
    let way = |timing: &Timing| json!({ "way": timing.candidate.label(), "seconds": timing.seconds, "class": timing.candidate.class, "error": timing.error, "usual_bits": timing.usual_bits });
    let shapes = tuning.measured.iter().map(|(key, timings)| {
        json!({ "kernel": key.kernel, "entry": key.entry, "shape": key.shape, "ways": timings.iter().map(way).collect::<Vec<_>>() })
    });
    json!({ "seconds": tuning.time.as_secs_f64(), "cache": tuning.cache, "shapes": shapes.collect::<Vec<_>>() })
}
