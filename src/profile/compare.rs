//! Two profiles side by side: ratios new to old.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::report::{Report, Row};
use crate::error::{Error, Result};

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    pub name: String,
    /// Milliseconds; none where it did not run.
    pub old_ms: Option<f64>,
    pub new_ms: Option<f64>,
    /// New to old: below 1 is faster.
    pub ratio: Option<f64>,
}

/// All figures of both.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What makes the two not comparable: another adapter, model or batch.
    pub differences: Vec<String>,
    pub step: Change,
    /// By the change, slower ones first.
    pub kernels: Vec<Change>,
}

/// Reads what an earlier `--json` printed.
///
/// # Errors
/// [`Error::File`], naming `path`, if it can't be read or is no profile.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    serde_json::from_str(&text).map_err(|error| Error::file(path, format!("no output of profile --json: {error}")))
}

/// Compares a profile with an earlier one.
pub fn compare(old: &Report, new: &Report) -> Comparison {
    let facts = [
        ("adapter", old.adapter.clone(), new.adapter.clone()),
        ("driver", old.driver.clone(), new.driver.clone()),
        ("step", old.mode.clone(), new.mode.clone()),
        ("parameters", old.parameters.to_string(), new.parameters.to_string()),
        ("batch", old.batch.to_string(), new.batch.to_string()),
    ];
    let differences = facts.iter().filter(|(_, old, new)| old != new);
    let differences = differences.map(|(name, old, new)| format!("{name}: {old} then, {new} now")).collect();
    let mut names: BTreeMap<&str, [Option<f64>; 2]> = BTreeMap::new();
    for (side, rows) in [&old.kernels, &new.kernels].into_iter().enumerate() {
        rows.iter().for_each(|Row { name, ms, .. }| names.entry(name).or_default()[side] = Some(*ms));
    }
    let mut kernels: Vec<Change> = names.into_iter().map(|(name, [old, new])| change(name, old, new)).collect();
    let gain = |change: &Change| change.old_ms.unwrap_or(0.0) - change.new_ms.unwrap_or(0.0);
    kernels.sort_by(|a, b| gain(a).total_cmp(&gain(b)));
    Comparison { differences, step: change("step", Some(old.step_ms), Some(new.step_ms)), kernels }
}

fn change(name: &str, old_ms: Option<f64>, new_ms: Option<f64>) -> Change {
    let ratio = old_ms.zip(new_ms).filter(|(old, _)| *old > 0.0).map(|(old, new)| new / old);
    Change { name: name.to_string(), old_ms, new_ms, ratio }
}
