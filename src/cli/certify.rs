//! `diffuse certify`.

use anyhow::{Result, bail};
use serde_json::json;

use super::output::Json;
use super::progress::Progress;
use diffuse::certify::{Certifier, Check, Subject, subjects};
use diffuse::diffusion::SamplerKind;

/// Check every sampler on distributions whose score is known
///
/// Its order of convergence, and the distance of its samples to the truth.
#[derive(clap::Args)]
pub struct Args {
    /// Only this sampler; may be given several times
    #[arg(long, value_name = "NAME")]
    sampler: Vec<String>,
    #[command(flatten)]
    json: Json,
}

fn chosen(names: &[String]) -> Result<Vec<Subject>> {
    if let Some(name) = names.iter().find(|name| SamplerKind::called(name).is_none()) {
        let known = SamplerKind::ALL.map(SamplerKind::name).join(", ");
        bail!("no sampler {name}; there are {known}");
    }
    let called = |name: &String| SamplerKind::called(name).map(SamplerKind::name);
    let wanted =
        |subject: &Subject| names.is_empty() || names.iter().any(|name| called(name) == Some(subject.kind.name()));
    Ok(subjects().into_iter().filter(wanted).collect())
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.json.check()?;
    let subjects = chosen(&args.sampler)?;
    let certifier = Certifier::default();
    let mut progress = Progress::new("certifying", 0, subjects.len() as u64);
    let mut checks = Vec::new();
    for (done, subject) in subjects.iter().enumerate() {
        checks.extend(certifier.certify(subject));
        progress.set(done as u64 + 1, || subject.name.clone());
    }
    progress.finish();
    let bad = checks.iter().filter(|check| !check.passed()).count();
    let all = || checks.iter().map(object).collect::<Vec<_>>();
    args.json.print(|| Ok(json!({ "checks": all(), "failed": bad })), || Ok(table(&checks)))?;
    if bad > 0 {
        bail!("{bad} of {} checks failed", checks.len());
    }
    Ok(())
}

fn object(check: &Check) -> serde_json::Value {
    let (low, high) = check.allowed;
    let Check { sampler, what, measured, .. } = check;
    json!({ "sampler": sampler, "what": what, "measured": measured, "from": low, "to": high, "passed": check.passed() })
}

fn table(checks: &[Check]) -> String {
    let number =
        |value: f64| if value != 0.0 && value.abs() < 1e-3 { format!("{value:.1e}") } else { format!("{value:.3}") };
    let mut lines = vec![format!("{:26} {:68} {:>10}   {}", "sampler", "what", "measured", "allowed")];
    lines.extend(checks.iter().map(|check| {
        let (low, high) = check.allowed;
        let verdict = if check.passed() { "ok" } else { "WRONG" };
        let allowed = format!("{low} to {high}");
        format!("{:26} {:68} {:>10}   {allowed:16} {verdict}", check.sampler, check.what, number(check.measured))
    }));
    lines.join("\n")
}
