//! A run in a few words.

use std::time::Duration;

use diffuse::error::counted;
use diffuse::train::{Monitor, Standing};

use super::view::Smoothing;
use crate::cli::curve::{number, points, smoothed};

/// Steps done of how many, and how that stands.
pub fn progress(monitor: &Monitor) -> String {
    let step = monitor.step();
    match monitor.steps() {
        Some(steps) => format!("step {step} of {steps} ({:.0} %)", 100.0 * share(monitor)),
        None => counted(step, "step"),
    }
}

/// The part of all steps that is done, 0 to 1.
pub fn share(monitor: &Monitor) -> f64 {
    let steps = monitor.steps().unwrap_or(0).max(1);
    (monitor.step() as f64 / steps as f64).min(1.0)
}

/// How a run stands.
pub fn standing(monitor: &Monitor) -> String {
    match (monitor.standing(), monitor.silent_for()) {
        (Standing::Missing, _) => "no run there yet".into(),
        (Standing::Beginning, _) => "no step done yet".into(),
        (Standing::Done, _) => "done".into(),
        // Metrics come every two seconds, unless steps take longer.
        (Standing::UnderWay, Some(silence)) if silence > Duration::from_secs(15) => {
            format!("silent for {}", time(silence))
        }
        (Standing::UnderWay, _) => "under way".into(),
    }
}

/// How long the rest takes, of a run that is under way.
pub fn left(monitor: &Monitor) -> Option<String> {
    let left = monitor.left().filter(|_| monitor.standing() == Standing::UnderWay)?;
    Some(format!("{} left", time(left)))
}

/// `7 s`, `1:05`, `2:03:04`, `3 days`.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match hours {
        48.. => format!("{} days", hours / 24),
        1.. => format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60),
        0 if minutes > 0 => format!("{minutes}:{:02}", seconds % 60),
        0 => format!("{seconds} s"),
    }
}

/// The numbers of the last step, each with its name: the most wanted first.
pub fn numbers(monitor: &Monitor, smoothing: Smoothing) -> Vec<String> {
    let Some(last) = monitor.rows().last() else { return Vec::new() };
    let metrics = &last.metrics;
    let loss = points(monitor.rows(), |row| Some(row.metrics.loss.into()));
    let mean = smoothed(&loss, smoothing.over(loss.len())).last().map_or(f64::NAN, |point| point.1);
    let pace = monitor.pace().map(|pace| format!("{pace:.1} images/s"));
    let named = [
        format!("loss {}, smoothed {}", number(metrics.loss.into()), number(mean)),
        pace.unwrap_or_default(),
        format!("gradient norm {}", number(metrics.gradient_norm.into())),
        format!("learning rate {}", number(metrics.learning_rate)),
    ];
    named.into_iter().filter(|part| !part.is_empty()).collect()
}

/// Smoothed losses by noise level, the least noise first; none where the run says none.
pub fn levels(monitor: &Monitor, smoothing: Smoothing) -> Vec<Vec<(f64, f64)>> {
    let rows = monitor.rows();
    let count = rows.last().map_or(0, |row| row.metrics.by_level.len());
    let of = |level: usize| points(rows, |row| row.metrics.by_level[level].map(f64::from));
    let mean = |all: Vec<(f64, f64)>| smoothed(&all, smoothing.over(all.len()));
    let all: Vec<_> = (0..count).map(|level| mean(of(level))).collect();
    if all.iter().all(Vec::is_empty) { Vec::new() } else { all }
}

/// All of it, for where there is no terminal.
pub fn text(monitor: &Monitor) -> String {
    let smoothing = Smoothing::default();
    let place = monitor.directory().display();
    if monitor.rows().is_empty() {
        return format!("{place}: {}", standing(monitor));
    }
    let left = left(monitor).map(|left| format!(", {left}")).unwrap_or_default();
    let mut lines = vec![
        format!("{place}: {}, {}{left}", progress(monitor), standing(monitor)),
        format!("  {}", numbers(monitor, smoothing).join("; ")),
    ];
    let levels = levels(monitor, smoothing);
    if !levels.is_empty() {
        let ends = levels.iter().map(|level| level.last().map_or("-".into(), |point| number(point.1)));
        lines.push(format!("  loss by noise level, least first: {}", ends.collect::<Vec<_>>().join(" ")));
    }
    lines.extend(monitor.events().map(|event| format!("  {event}")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_at_a_glance() {
        let said: Vec<String> =
            [0, 59, 65, 3600, 7384, 86_400 * 3 + 5].map(|seconds| time(Duration::from_secs(seconds))).into();
        assert_eq!(said, ["0 s", "59 s", "1:05", "1:00:00", "2:03:04", "3 days"]);
    }
}
