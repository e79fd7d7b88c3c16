//! The noise that a budget needs, and the steps that it allows.

use super::error::{MOST_STEPS, NOISE, PrivacyError};
use super::mechanism::{SampledGaussian, check_delta};
use super::{pld, rdp};

/// The noise multiplier for a wanted epsilon, as two accountants have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Noise {
    /// By the privacy loss distribution.
    pub pld: f64,
    /// By Rényi differential privacy.
    pub rdp: f64,
}

/// Noise is told in thousandths: what is printed is what was found, and keeps the budget when it is typed again.
const PARTS: f64 = 1000.0;

fn check_epsilon(epsilon: f64) -> Result<(), PrivacyError> {
    if epsilon > 0.0 && epsilon.is_finite() { Ok(()) } else { Err(PrivacyError::Epsilon(epsilon)) }
}

/// The smallest noise multipliers, in thousandths, with which `steps` steps cost at most `epsilon` at `delta`.
///
/// # Errors
/// Of numbers without sense, and where no noise is enough.
pub fn noise_for(epsilon: f64, delta: f64, sampling: f64, steps: u64) -> Result<Noise, PrivacyError> {
    check_epsilon(epsilon)?;
    check_delta(delta)?;
    let with = |part: u64| [SampledGaussian { sampling, noise: part as f64 / PARTS, steps }];
    let (least, most) = ((NOISE.0 * PARTS) as u64, (NOISE.1 * PARTS) as u64);
    with(least)[0].check()?;
    if steps == 0 {
        return Ok(Noise { pld: NOISE.0, rdp: NOISE.0 });
    }
    let smallest = |cost: &dyn Fn(u64) -> Result<f64, PrivacyError>| {
        let found = smallest(least, most, |part| Ok((cost(part)?.max(f64::MIN_POSITIVE) / epsilon).ln()))?;
        found.map(|part| part as f64 / PARTS).ok_or(PrivacyError::NoNoise(epsilon))
    };
    let rdp = smallest(&|part| Ok(rdp::epsilon(&with(part), delta).0))?;
    Ok(Noise { pld: smallest(&|part| pld::epsilon_beside(&with(part), delta, epsilon))?, rdp })
}

/// The smallest whole number from `least` to `most` for which `excess`, a falling function, is at most 0, if there is one.
fn smallest(
    least: u64,
    most: u64,
    excess: impl Fn(u64) -> Result<f64, PrivacyError>,
) -> Result<Option<u64>, PrivacyError> {
    // `low` is too small (or below all), `high` is enough.
    let (mut low, mut at_low) = (least - 1, f64::INFINITY);
    let mut high = 1000.clamp(least, most);
    let mut at_high = loop {
        let at = excess(high)?;
        if at <= 0.0 {
            break at;
        }
        if high == most {
            return Ok(None);
        }
        (low, at_low) = (high, at);
        high = (2 * high).min(most);
    };
    let mut turn = 0;
    while high - low > 1 {
        turn += 1;
        // A secant over logarithms, now and then a middle, so that both ends come closer.
        let (from, to) = ((low.max(1) as f64).ln(), (high as f64).ln());
        let share = at_low / (at_low - at_high);
        let share = if turn % 3 == 0 || !share.is_finite() { 0.5 } else { share };
        let guess = (from + share * (to - from)).exp();
        let guess = if turn % 3 == 1 { guess.ceil() } else { guess.floor() } as u64;
        let part = guess.clamp(low + 1, high - 1);
        let at = excess(part)?;
        if at > 0.0 { (low, at_low) = (part, at) } else { (high, at_high) = (part, at) }
    }
    Ok(Some(high))
}

/// The most steps that cost at most `epsilon` at `delta`, by the privacy loss distribution; 0 where one step costs more.
///
/// # Errors
/// Of numbers without sense.
pub fn steps_for(epsilon: f64, delta: f64, sampling: f64, noise: f64) -> Result<u64, PrivacyError> {
    check_epsilon(epsilon)?;
    check_delta(delta)?;
    let with = |steps: u64| [SampledGaussian { sampling, noise, steps }];
    with(1)[0].check()?;
    let excess = |steps: u64| {
        let cost = pld::epsilon_beside(&with(steps), delta, epsilon)?;
        Ok(if cost > epsilon { (epsilon / cost).ln() } else { (epsilon / cost).ln().clamp(1e-300, 1e300) })
    };
    Ok(smallest(1, MOST_STEPS, excess)?.map_or(MOST_STEPS, |steps| steps - 1))
}
