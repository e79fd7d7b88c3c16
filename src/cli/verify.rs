//! `diffuse verify`.

mod saved;
mod soak;

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::Adapter;
use super::output::{Json, say};
use super::progress::Progress;
use diffuse::gpu::{Bound, Context, Precision};
use diffuse::ops::{self, Op};
use diffuse::verify::{self, Report, model};

/// Check every kernel, or a whole model, on this adapter; or the files of a run
#[derive(clap::Args)]
pub struct Args {
    /// Check files instead: those of a run's checkpoints, or of one, against the hashes that they were saved with
    #[arg(value_name = "RUN", conflicts_with_all = ["kernel", "cases", "seed", "model", "verbose"])]
    run: Option<PathBuf>,
    /// Only this kernel; may be given several times
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Random cases of each kernel beside its corners; 0 for the corners alone
    #[arg(long, default_value_t = 24)]
    cases: u64,
    /// Seed of the first case
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Check a whole U-Net instead: a diffusers checkpoint directory
    #[arg(long, value_name = "DIR", requires = "reference", conflicts_with = "kernel")]
    model: Option<PathBuf>,
    /// Output, loss and gradients that it must reproduce
    #[arg(long, value_name = "F.safetensors", requires = "model")]
    reference: Option<PathBuf>,
    /// Print the shape where each entry point was furthest off, not only of what is wrong
    #[arg(long, conflicts_with = "model")]
    verbose: bool,
    /// Burn the adapter in instead: training steps for so many minutes, each computed twice and one dispatch of it held to its twin
    #[arg(long, value_name = "MINUTES", value_parser = soak::parse_minutes, conflicts_with_all = ["run", "kernel", "cases", "seed", "model", "verbose"])]
    soak: Option<f64>,
    /// Model of those steps: a larger one loads a card better
    #[arg(long, value_name = "NAME", default_value = "digits", requires = "soak")]
    preset: String,
    /// Images in a batch of those steps
    #[arg(long, default_value_t = 64, requires = "soak", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    #[command(flatten)]
    json: Json,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    args.json.check()?;
    if let Some(run) = &args.run {
        return saved::verify(run, &args.json);
    }
    if let Some(minutes) = args.soak {
        return soak::verify(minutes, (&args.preset, args.batch), adapter, &args.json);
    }
    match (&args.model, &args.reference) {
        (Some(model), Some(reference)) => verify_model(args, adapter, model, reference),
        _ => verify_kernels(args, adapter),
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Op>> {
    let known = || ops::ALL.iter().map(|op| op.kernel.name).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| ops::ALL.iter().all(|op| op.kernel.name != name.as_str())) {
        bail!("no kernel {name}; there are {}", known());
    }
    Ok(ops::ALL.iter().filter(|op| names.is_empty() || names.iter().any(|name| name == op.kernel.name)).collect())
}

fn verify_kernels(args: &Args, adapter: &Adapter) -> Result<()> {
    let ops = chosen(&args.kernel)?;
    let context = adapter.open()?;
    say(format_args!(
        "{}, {}: the corners of each kernel and {} random cases",
        context.info.name,
        context.driver(),
        args.cases
    ));
    let trials = |op: &Op| verify::trials(op, context.kind(), args.seed, args.cases);
    let mut progress = Progress::new("verifying", 0, ops.iter().map(|op| trials(op).len() as u64).sum());
    let (mut report, mut done) = (Report::default(), 0);
    for op in ops {
        for (which, choices) in trials(op) {
            verify::check(&context, op, which, &choices, &mut report)?;
            done += 1;
            progress.set(done, || op.kernel.name.to_string());
        }
    }
    progress.finish();
    args.json.print(|| Ok(as_json(&context, &report)), || Ok(table(&report, args.verbose)))?;
    match (report.wrong().count(), report.torn.len()) {
        (0, 0) => Ok(()),
        (0, torn) => bail!("{torn} cases wrote behind the end of a tensor on {}", context.info.name),
        (wrong, _) => bail!("{wrong} of {} entry points are wrong on {}", report.entries.len(), context.info.name),
    }
}

/// An object of an entry point: what [`verify::Entry`] and [`verify::Worst`] hold, side by side.
#[derive(serde::Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a verify::Entry,
    #[serde(flatten)]
    worst: &'a verify::Worst,
}

fn as_json(context: &Context, report: &Report) -> serde_json::Value {
    let lines: Vec<Line> = report.entries.iter().map(|(entry, worst)| Line { entry, worst }).collect();
    json!({
        "adapter": context.info.name,
        "driver": context.driver(),
        "entries": lines,
        "wrong": report.wrong().count(),
        "behind_the_end": report.torn,
    })
}

/// Of a line, in characters.
const WIDTH: usize = 120;

/// A line for each entry point; what is wrong, or all if `verbose`, with its shape.
fn table(report: &Report, verbose: bool) -> String {
    let mut lines = vec!["of bound worst |d|        entry point: where it was furthest off".to_string()];
    for (entry, worst) in &report.entries {
        let verdict = if worst.wrong.is_some() { "WRONG" } else { "ok" };
        let (error, absolute) = (worst.error, worst.absolute);
        let case = worst.case.strip_prefix(&format!("{}, ", entry.kernel)).unwrap_or(&worst.case);
        let error = if error < 1e4 { format!("{error:.3}") } else { format!("{error:.1e}") };
        let line = format!("{error:>8} {absolute:9.1e} {verdict:5}  {entry}:");
        // A long name of a way leaves no room for that of another kernel's case.
        match line.chars().count() + 1 + case.len() > WIDTH {
            true => lines.extend([line, format!("    {case}")]),
            false => lines.push(format!("{line} {case}")),
        }
        if let Some(wrong) = &worst.wrong {
            let verify::Wrong { element, found, expected } = wrong;
            lines.push(format!("    {element} is {found:.6e}, the twin has {expected:.6e}"));
        }
        if verbose || worst.wrong.is_some() {
            lines.extend(wrapped(&worst.shape));
        }
    }
    lines.extend(report.torn.iter().map(|torn| format!("WRONG  written behind the end of a tensor, {torn}")));
    let [single, half] = [Precision::F32, Precision::F16].map(|precision| Bound::of(precision, None));
    lines.push(format!("bound: |gpu - twin| <= {single}, the twin in f64; f16: {half}"));
    lines.join("\n")
}

/// Indented lines of at most 116 characters.
fn wrapped(words: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let last = lines.len() - 1;
        if lines[last].len() + word.len() > 110 {
            lines.push(format!("    {word}"));
        } else {
            lines[last] =
                if lines[last].is_empty() { format!("    {word}") } else { format!("{} {word}", lines[last]) };
        }
    }
    lines
}

fn verify_model(
    args: &Args,
    adapter: &Adapter,
    directory: &std::path::Path,
    reference: &std::path::Path,
) -> Result<()> {
    let context = adapter.open()?;
    let errors = model::verify_model(&context, directory, reference)?;
    let bad = errors.iter().filter(|tensor| tensor.error > model::TOLERANCE).count();
    let object = || {
        let (adapter, driver) = (&context.info.name, context.driver());
        Ok(json!({ "adapter": adapter, "driver": driver, "tensors": errors, "out_of_tolerance": bad }))
    };
    let table = || {
        let lines = errors.iter().map(|tensor| {
            let verdict = if tensor.error > model::TOLERANCE { "WRONG" } else { "ok" };
            format!("{:64} {:10.2e}  {verdict}", tensor.name, tensor.error)
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    };
    args.json.print(object, table)?;
    if bad > 0 {
        bail!("{bad} of {} tensors are further than {} from the reference", errors.len(), model::TOLERANCE);
    }
    Ok(())
}
