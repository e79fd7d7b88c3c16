//! `diffuse profile`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{Adapter, Storage};
use diffuse::checkpoint;
use diffuse::files;
use diffuse::gpu::context::mebibytes;
use diffuse::nn::UNetConfig;
use diffuse::profile::{self, Options, Profile, Report, Row};
use diffuse::train::options::preset;

/// Time one training or denoising step, kernel by kernel and layer by layer
#[derive(clap::Args)]
pub struct Args {
    /// Model that comes with the program: digits, mnist, base, cifar10 [default: digits]
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    preset: Option<String>,
    /// Model of a checkpoint directory or a diffusers `config.json`; the weights are not read
    #[arg(long, value_name = "DIR|CONFIG.json")]
    model: Option<PathBuf>,
    /// Images in a batch
    #[arg(long, default_value_t = 16)]
    batch: u32,
    /// Unprofiled steps to time
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// A denoising step instead of a training step
    #[arg(long)]
    infer: bool,
    /// How activations and copies of weights are stored; sums and master weights are f32 always
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    precision: Storage,
    /// Print one JSON object on stdout
    #[arg(long)]
    json: bool,
    /// Trace of the profiled step, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "F.json")]
    trace: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.batch == 0 || args.steps == 0 {
        bail!("--batch and --steps must be at least 1");
    }
    let config = model_config(args.preset.as_deref(), args.model.as_deref())?;
    let mut context = adapter.open_at(args.precision)?;
    let options = Options { batch: args.batch, steps: args.steps, infer: args.infer };
    adapter.tune(&mut context, |choices| profile::recordings(&config, &options, choices))?;
    let profile = profile::profile(&context, &config, &options)?;
    let report = &profile.report;
    match args.json {
        true => super::print(&serde_json::to_string(report)?)?,
        false => super::print(table(report, context.is_cpu())?.trim_end())?,
    }
    if let Some(path) = &args.trace {
        write_trace(path, &profile)?;
    }
    if report.allocated_bytes != report.peak_bytes {
        bail!("{} bytes are allocated, {} were planned: that is a bug", report.allocated_bytes, report.peak_bytes);
    }
    Ok(())
}

/// The model that --preset or --model names.
pub fn model_config(name: Option<&str>, model: Option<&Path>) -> Result<UNetConfig> {
    let Some(path) = model else { return Ok(preset(name.unwrap_or("digits"))?) };
    if path.is_file() {
        return Ok(checkpoint::read_config(path)?);
    }
    match checkpoint::find(path) {
        Ok(directory) => Ok(checkpoint::read_config(&directory.join(checkpoint::CONFIG))?),
        Err(error) => match bare_config(path) {
            Some(config) => Ok(checkpoint::read_config(&config)?),
            None => Err(error.into()),
        },
    }
}

/// A directory without weights will do, unless its `config.json` is that of a run, which says what to train.
fn bare_config(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(checkpoint::CONFIG);
    let value: serde_json::Value = checkpoint::read_json(&path).ok()?;
    value.get("_class_name").map(|_| path)
}

fn write_trace(path: &Path, profile: &Profile) -> Result<()> {
    files::write_atomic(path, profile.trace_json()?.as_bytes())?;
    eprintln!("{} dispatches: {} (open in ui.perfetto.dev)", profile.dispatches.len(), path.display());
    Ok(())
}

/// The tables.
fn table(report: &Report, on_cpu: bool) -> Result<String, std::fmt::Error> {
    let out = &mut String::new();
    write_step(out, report, on_cpu)?;
    let (Some(profiled), Some(ratio)) = (report.profiled_ms, report.unprofiled_to_profiled) else {
        writeln!(out, "\nthis adapter has no timestamp queries: no times of kernels and layers")?;
        return Ok(std::mem::take(out));
    };
    writeln!(out, "\nprofiled   {profiled:.3} ms are the sum over all dispatches, each timed alone;")?;
    writeln!(out, "           an unprofiled step takes {ratio:.2} times that, so trust shares more than milliseconds")?;
    write_rows(out, "kernel", &report.kernels)?;
    write_rows(out, "layer, forward and backward", &report.layers)?;
    Ok(std::mem::take(out))
}

fn write_step(out: &mut String, report: &Report, on_cpu: bool) -> std::fmt::Result {
    writeln!(out, "adapter    {}", report.adapter)?;
    writeln!(out, "driver     {}", report.driver)?;
    writeln!(out, "model      {} parameters, batch {}, {}", report.parameters, report.batch, report.mode)?;
    writeln!(
        out,
        "step       {:.3} ms median of {} ({:.3} to {:.3}), {:.1} images/s",
        report.step_ms, report.steps, report.step_ms_min, report.step_ms_max, report.images_per_s
    )?;
    writeln!(out, "dispatches {}", report.dispatches)?;
    let (encode, replay) = (report.encode_us_per_dispatch, report.replay_us_per_dispatch);
    let rivals = if on_cpu { " (the driver computes on the same cores meanwhile)" } else { "" };
    writeln!(out, "encode     {:.3} ms, {encode:.2} µs a dispatch, to record the commands", report.encode_ms)?;
    writeln!(
        out,
        "replay     {:.3} ms, {replay:.2} µs a dispatch, to record and submit them{rivals}",
        report.replay_ms
    )?;
    writeln!(
        out,
        "memory     {} planned, {} allocated",
        mebibytes(report.peak_bytes),
        mebibytes(report.allocated_bytes)
    )?;
    writeln!(
        out,
        "           temporaries {}, without reuse {}",
        mebibytes(report.temporary_bytes),
        mebibytes(report.temporary_bytes_without_reuse)
    )?;
    writeln!(
        out,
        "work       {:.3} GFLOP, {:.2} GFLOP/s",
        report.flops as f64 * 1e-9,
        report.flops as f64 * 1e-6 / report.step_ms
    )
}

fn write_rows(out: &mut String, title: &str, rows: &[Row]) -> std::fmt::Result {
    writeln!(out, "\n{title:32} {:>6} {:>11} {:>7} {:>10} {:>9}", "calls", "ms", "share", "GFLOP/s", "GB/s")?;
    for row in rows {
        let Row { name, calls, ms, share, gflops, gbytes_per_s, .. } = row;
        writeln!(out, "{name:32} {calls:6} {ms:11.3} {:6.1}% {gflops:10.2} {gbytes_per_s:9.2}", share * 100.0)?;
    }
    Ok(())
}
