//! Rényi differential privacy of the sampled Gaussian mechanism.

use std::f64::consts::{LN_2, PI, SQRT_2};

use super::mechanism::SampledGaussian;

/// Terms of a series at most, and how far the last ones lie below the sum, as logarithms: as dp-accounting has them.
const MOST_TERMS: u32 = 1000;
const SMALL: f64 = 30.0;
/// What a step's moment may have lost to rounding: without it the smallest would be 0, and so would epsilon.
const ROUNDING: f64 = 1e-14;

/// Orders that Opacus and dp-accounting try by default.
fn orders() -> impl Iterator<Item = f64> {
    let tenths = (11..110).map(|tenth| f64::from(tenth) / 10.0);
    tenths.chain((11..64).map(f64::from)).chain([128.0, 256.0, 512.0, 1024.0])
}

/// The least epsilon that the orders give for `delta`, and the order that gives it.
///
/// Canonne, Kamath & Steinke 2020, "The Discrete Gaussian for Differential Privacy", proposition 12: of order alpha and
/// divergence rho follows `epsilon = rho + log(1 - 1/alpha) - log(alpha delta) / (alpha - 1)`. Where already
/// `sqrt(1 - exp(-rho)) <= delta`, which bounds the total variation (Bretagnolle & Huber 1978), epsilon is 0.
pub fn epsilon(mechanisms: &[SampledGaussian], delta: f64) -> (f64, f64) {
    let each = orders().map(|order| {
        let steps = |each: &SampledGaussian| each.steps as f64 * (log_moment(each, order).max(0.0) + ROUNDING);
        let divergence: f64 = mechanisms.iter().map(steps).sum();
        let divergence = divergence / (order - 1.0);
        if delta * delta + (-divergence).exp_m1() > 0.0 {
            return (0.0, order);
        }
        (divergence + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0), order)
    });
    let (epsilon, order) = each.fold((f64::INFINITY, 0.0), |best, next| if next.0 < best.0 { next } else { best });
    (epsilon.max(0.0), order)
}

/// log E_nu (mu/nu)^alpha of one step, alpha - 1 times its Rényi divergence, from above.
///
/// Mironov, Talwar & Zhang 2019, "Rényi Differential Privacy of the Sampled Gaussian Mechanism": this direction is the worse of both
/// (theorem 5); a binomial sum for whole alpha, two alternating series for others (section 3.3).
fn log_moment(mechanism: &SampledGaussian, alpha: f64) -> f64 {
    let SampledGaussian { sampling, noise, .. } = *mechanism;
    if sampling == 1.0 {
        return alpha * (alpha - 1.0) / (2.0 * noise * noise);
    }
    if alpha.fract() == 0.0 { whole(sampling, noise, alpha as u32) } else { fractional(sampling, noise, alpha) }
}

/// log of the sum over k of `C(alpha, k) (1 - q)^(alpha - k) q^k exp((k^2 - k) / (2 sigma^2))`.
fn whole(sampling: f64, noise: f64, alpha: u32) -> f64 {
    let factorial = |n: u32| libm::lgamma(f64::from(n) + 1.0);
    let terms = (0..=alpha).map(|k| {
        let (chosen, others) = (f64::from(k), f64::from(alpha - k));
        let binomial = factorial(alpha) - factorial(k) - factorial(alpha - k);
        let chance = others * (-sampling).ln_1p() + chosen * sampling.ln();
        binomial + chance + chosen * (chosen - 1.0) / (2.0 * noise * noise)
    });
    log_sum(&terms.collect::<Vec<_>>())
}

/// The integral in two parts, left and right of where both terms of mu/nu are equal, each a binomial series in the lesser term. Absolute
/// values are added, as in dp-accounting: more than the alternating sum that Opacus takes, which loses digits, by up to some 1e-3 of
/// the epsilon. Infinite where it does not converge, which leaves the order out.
fn fractional(sampling: f64, noise: f64, alpha: f64) -> f64 {
    let (log_in, log_out) = (sampling.ln(), (-sampling).ln_1p());
    let turn = 0.5 + noise * noise * (log_out - log_in);
    let bell = |k: f64| k * (k - 1.0) / (2.0 * noise * noise);
    let half_tail = |x: f64| log_erfc(x / (SQRT_2 * noise)) - LN_2;
    let (mut total, mut before) = (f64::NEG_INFINITY, [f64::NEG_INFINITY; 2]);
    for k in 0..MOST_TERMS {
        let k = f64::from(k);
        let other = alpha - k;
        // lgamma is of the absolute value.
        let binomial = libm::lgamma(alpha + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(other + 1.0);
        let left = binomial + k * log_in + other * log_out + bell(k) + half_tail(k - turn);
        let right = binomial + other * log_in + k * log_out + bell(other) + half_tail(turn - other);
        total = log_sum(&[total, left, right]);
        if left < before[0] && right < before[1] && left.max(right) < total - SMALL {
            return total;
        }
        before = [left, right];
    }
    f64::INFINITY
}

/// log erfc(x): by its asymptotic series where erfc itself would underflow.
fn log_erfc(x: f64) -> f64 {
    if x < 20.0 {
        return libm::erfc(x).ln();
    }
    let r = 0.5 / (x * x);
    -x * x - (x * PI.sqrt()).ln() + (-r * (1.0 - 3.0 * r * (1.0 - 5.0 * r * (1.0 - 7.0 * r)))).ln_1p()
}

fn log_sum(logs: &[f64]) -> f64 {
    let top = logs.iter().copied().fold(f64::MIN, f64::max);
    top + logs.iter().map(|log| (log - top).exp()).sum::<f64>().ln()
}
