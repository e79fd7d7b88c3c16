//! `diffuse verify --soak`: a burn-in of a card.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::json;

use super::super::adapter::Adapter;
use super::super::interrupt::{catch_interrupts, interrupted};
use super::super::output::{Json, say};
use diffuse::error::counted;
use diffuse::nn;
use diffuse::run::TrainOptions;
use diffuse::train::run::load_data;
use diffuse::verify::soak::{self, Soaked};

/// A line on how far it is comes this often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Minutes as they are typed.
pub fn parse_minutes(typed: &str) -> std::result::Result<f64, String> {
    let minutes: f64 = typed.parse().map_err(|_| "a number of minutes, such as 10 or 0.5".to_string())?;
    (minutes > 0.0 && minutes <= 100_000.0)
        .then_some(minutes)
        .ok_or_else(|| "above 0 and at most 100000 minutes".into())
}

/// Soaks the adapter for `minutes`.
pub fn verify(minutes: f64, (preset, batch): (&str, u32), adapter: &Adapter, json: &Json) -> Result<()> {
    catch_interrupts();
    let model = nn::preset(preset)?;
    let mut options = TrainOptions { model, batch, steps: u32::MAX as u64, sample_every: 0, ..TrainOptions::default() };
    let data = load_data(&mut options, None)?;
    let context = adapter.open()?;
    say(format_args!(
        "{}, {}: steps of {preset} on the digits in batches of {batch}, each computed twice, for {minutes} min",
        context.info.name,
        context.driver()
    ));
    let (mut told, mut found) = (Instant::now(), 0);
    let time = Duration::from_secs_f64(60.0 * minutes);
    let soaked = soak::soak(&context, &adapter.policy(&context)?, &data, options, time, |soaked| {
        soaked.found[found..].iter().for_each(say);
        found = soaked.found.len();
        if told.elapsed() >= INTERVAL {
            told = Instant::now();
            say(format_args!("{:.0} s: {}", soaked.seconds, summary(soaked)));
        }
        !interrupted()
    })?;
    soaked.found[found..].iter().for_each(say);
    let object = || {
        let own = serde_json::to_value(&soaked)?;
        Ok(json!({ "adapter": context.info.name, "driver": context.driver(), "soaked": own }))
    };
    json.print(object, || Ok(summary(&soaked)))?;
    if !soaked.is_sound() {
        bail!("{} on {}", counted(soaked.found.len() as u64, "fault"), context.info.name);
    }
    Ok(())
}

fn summary(soaked: &Soaked) -> String {
    let Soaked { audited, broken, .. } = soaked;
    format!("{audited}, the worst at {:.3} of its bound; {broken} steps not finite", audited.worst)
}
