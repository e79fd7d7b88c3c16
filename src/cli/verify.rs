//! `diffuse verify`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::json;

use super::progress::Progress;
use super::{Adapter, Json};
use diffuse::ops::{self, Op};
use diffuse::verify::{self, Worst, model};

/// Check every kernel, or a whole model, on this adapter
#[derive(clap::Args)]
pub struct Args {
    /// Only this kernel; may be given several times
    #[arg(long, value_name = "NAME")]
    kernel: Vec<String>,
    /// Drawn cases of each kernel
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
    #[command(flatten)]
    json: Json,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
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
    if args.cases == 0 {
        bail!("--cases must be at least 1");
    }
    let context = adapter.open()?;
    eprintln!("{}, {}: {} cases of each kernel", context.info.name, context.driver(), args.cases);
    let mut worst: BTreeMap<String, Worst> = BTreeMap::new();
    let mut progress = Progress::new("verifying", 0, ops.len() as u64 * args.cases);
    let mut done = 0;
    for op in ops {
        for case in 0..args.cases {
            verify::check_case(&context, op, args.seed.wrapping_add(case), &mut worst)?;
            done += 1;
            progress.set(done, || op.kernel.name.to_string());
        }
    }
    progress.finish();
    let bad = worst.values().filter(|worst| worst.error > 1.0).count();
    let object = || {
        let (adapter, driver) = (&context.info.name, context.driver());
        Ok(json!({ "adapter": adapter, "driver": driver, "kernels": worst, "out_of_tolerance": bad }))
    };
    let table = || {
        let mut lines = vec![format!("{:40} {:>12} {:>12} {:>8}", "kernel.entry", "of tolerance", "worst |d|", "seed")];
        lines.extend(worst.iter().map(|(name, worst)| {
            let verdict = if worst.error > 1.0 { "WRONG" } else { "ok" };
            format!("{name:40} {:12.4} {:12.3e} {:8}  {verdict}", worst.error, worst.absolute, worst.seed)
        }));
        lines.push(
            "tolerance: |gpu - twin| <= 1e-5 rms + 1e-4 |twin|, the twin in f64; f16: 1e-3 rms + 2e-3 |twin|".into(),
        );
        Ok(lines.join("\n"))
    };
    args.json.print(object, table)?;
    if bad > 0 {
        bail!("{bad} of {} entry points are out of tolerance on {}", worst.len(), context.info.name);
    }
    Ok(())
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
