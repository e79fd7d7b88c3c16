//! The time of a replay on the device, without timestamps: several replays, one wait at the end.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::gpu::{Context, Plan, Step};

/// Submits `count` replays of `plan`, then waits; gives the time of all.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn time_replays(context: &Context, plan: &Plan, step: &Step, count: u64) -> Result<Duration> {
    context.wait()?;
    let start = Instant::now();
    let mut last = None;
    for _ in 0..count {
        last = Some(plan.run(context, step));
    }
    context.wait_for(last)?;
    Ok(start.elapsed())
}

/// Seconds of one replay in each of several batches that last `batch` or longer (so that the wait and the clock do not
/// count), the shortest first. Ends when `budget` is used up, after at least three batches.
///
/// # Errors
/// As [`time_replays`].
pub fn sample(context: &Context, plan: &Plan, step: &Step, batch: Duration, budget: Duration) -> Result<Vec<f64>> {
    let start = Instant::now();
    // The first run compiles on some drivers, and touches memory for the first time.
    time_replays(context, plan, step, 1)?;
    let single = time_replays(context, plan, step, 1)?.max(Duration::from_micros(1));
    let count = (batch.as_secs_f64() / single.as_secs_f64()).ceil().clamp(1.0, 1000.0) as u64;
    let mut seconds = Vec::new();
    while seconds.len() < 3 || (seconds.len() < 100 && start.elapsed() < budget) {
        seconds.push(time_replays(context, plan, step, count)?.as_secs_f64() / count as f64);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}
