//! What a diffusion model says of the likelihood of an image, in two ways.
//!
//! The variational bound (Ho et al. 2020, eq. 5) is a sum of terms, each a mean over noise:
//!
//! ```text
//! -log p(x0) <= L_T + sum over t > 1 of L_{t-1} + L_0
//! L_T     = KL(q(x_T | x0) || p(x_T))                       p(x_T): what samplers start from, in DDPM N(0, I)
//! L_{t-1} = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t))
//! L_0     = -log p(x0 | x_1)                                a discretised Gaussian, eq. 13
//! ```
//!
//! The probability flow gives the density itself (Song et al. 2021, eq. 13 and 39). With x = alpha x0 + sigma eps, the
//! ratio kappa = sigma / alpha and y = x / alpha, its equation is dy/dkappa = eps(y, kappa) (Song, Meng & Ermon 2020, eq.
//! 14), and the density changes along it by the divergence:
//!
//! ```text
//! log p(y at kappa_0) = log p(y at kappa_T) + integral over kappa of div eps
//! ```
//!
//! Results are in nats, of one element unless said otherwise; [`bits_per_dimension`] converts.

use super::path::{Level, Transition};
use std::f64::consts::{LN_2, PI, SQRT_2};

/// Half the distance of two of the 256 values that a pixel can have, for images scaled to [-1, 1].
pub const HALF_BIN: f64 = 1.0 / 255.0;

/// Nats of `dimensions` elements as bits of one.
pub fn bits_per_dimension(nats: f64, dimensions: usize) -> f64 {
    nats / (dimensions as f64 * LN_2)
}

/// KL(N(m_q, variance_q) || N(m_p, variance_p)) of one element, `difference` = m_q - m_p.
pub fn gaussian_kl(difference: f64, variance_q: f64, variance_p: f64) -> f64 {
    0.5 * ((variance_p / variance_q).ln() + (variance_q + difference * difference) / variance_p - 1.0)
}

/// An element of L_T: KL(N(alpha x0, sigma²) || N(0, deviation²)), the deviation being that of the noise which samplers
/// start from, [`super::Path::deviation`].
pub fn prior_kl(x0: f64, last: Level, deviation: f64) -> f64 {
    gaussian_kl(last.alpha * x0, last.sigma * last.sigma, deviation * deviation)
}

/// An element of L_{t-1}, given the estimate of x0 and the variance of the reverse step: the means differ by c_x0 times
/// the error of the estimate (Ho et al. 2020, eq. 7 and 8).
pub fn reverse_kl(transition: &Transition, variance: f64, x0: f64, x0_hat: f64) -> f64 {
    let (c_x0, _) = transition.posterior_mean();
    gaussian_kl(c_x0 * (x0 - x0_hat), transition.posterior_variance(), variance)
}

/// An element of L_0: -log of what N(mean, deviation²) gives to the bin of x0, one of 256 values in [-1, 1]; the outer
/// bins are open (Ho et al. 2020, eq. 13).
pub fn decoder_nats(x0: f64, mean: f64, deviation: f64) -> f64 {
    let edge = |edge: f64| (edge - mean) / deviation;
    let low = if x0 < -1.0 + HALF_BIN { f64::NEG_INFINITY } else { edge(x0 - HALF_BIN) };
    let high = if x0 > 1.0 - HALF_BIN { f64::INFINITY } else { edge(x0 + HALF_BIN) };
    // Both from the same tail: the difference of two numbers near 1 would be all rounding.
    let mass = if low > 0.0 { upper_tail(low) - upper_tail(high) } else { upper_tail(-high) - upper_tail(-low) };
    -mass.max(f64::MIN_POSITIVE).ln()
}

/// The share of a standard normal distribution above x.
fn upper_tail(x: f64) -> f64 {
    0.5 * erfc(x / SQRT_2)
}

/// The complementary error function, to a few units of the last place: Taylor's series of erf (Abramowitz & Stegun 1964,
/// 7.1.6) near zero, the continued fraction (7.1.14) outside.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x > 27.0 {
        return 0.0;
    }
    let scale = (-x * x).exp() / PI.sqrt();
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (2.0 * x, 0.0, 0.0);
        while term > 1e-17 * sum {
            sum += term;
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
        }
        return 1.0 - scale * sum;
    }
    // 1 / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...)))), from the far end.
    let fraction = (1..120).rev().fold(x, |tail, n| x + 0.5 * n as f64 / tail);
    scale / fraction
}

/// eps at every element of a batch, and the divergence of eps as a function of y for each image.
pub struct Flow {
    pub eps: Vec<f64>,
    pub divergence: Vec<f64>,
}

/// Takes `y`, a batch of `images` images, along the probability flow from one log kappa to another in `steps` steps of
/// the classical Runge-Kutta method of order 4; gives the integral of each image's divergence over kappa.
///
/// # Errors
/// Those of `field`, which is asked for (y, log kappa).
pub fn integrate<E>(
    y: &mut [f64],
    images: usize,
    (from, to): (f64, f64),
    steps: usize,
    mut field: impl FnMut(&[f64], f64) -> Result<Flow, E>,
) -> Result<Vec<f64>, E> {
    let mut total = vec![0.0; images];
    let h = (to - from) / steps as f64;
    for step in 0..steps {
        let start = from + step as f64 * h;
        let (mut slopes, mut point) = (Vec::new(), y.to_vec());
        for (part, weight) in [(0.0, 1.0), (0.5, 2.0), (0.5, 2.0), (1.0, 1.0)] {
            let log_kappa = start + part * h;
            let flow = field(&point, log_kappa)?;
            // dy / dlog kappa = kappa eps.
            let kappa = log_kappa.exp();
            let slope: Vec<f64> = flow.eps.iter().map(|eps| kappa * eps).collect();
            let next = if slopes.len() == 2 { 1.0 } else { 0.5 };
            for ((point, y), slope) in point.iter_mut().zip(y.iter()).zip(&slope) {
                *point = y + next * h * slope;
            }
            for (total, divergence) in total.iter_mut().zip(&flow.divergence) {
                *total += weight * h / 6.0 * kappa * divergence;
            }
            slopes.push((weight, slope));
        }
        for (weight, slope) in slopes {
            y.iter_mut().zip(&slope).for_each(|(y, slope)| *y += weight * h / 6.0 * slope);
        }
    }
    Ok(total)
}

/// log of N(x; 0, deviation²) as a density of y = x / alpha, over all elements of y.
pub fn prior_log_density(y: &[f64], alpha: f64, deviation: f64) -> f64 {
    let scale = alpha / deviation;
    let squares: f64 = y.iter().map(|y| (scale * y).powi(2)).sum();
    -0.5 * squares + y.len() as f64 * (scale.ln() - 0.5 * (2.0 * PI).ln())
}

#[cfg(test)]
mod tests {
    use super::super::{BetaSchedule, Path, Schedule};
    use super::*;

    #[test]
    fn erfc_gives_the_tabulated_values() {
        // C's erfc.
        let known = [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_1),
            (1.999_999, 0.004_677_755_648_073_953),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (6.0, 2.151_973_671_249_891_3e-17),
            (10.0, 2.088_487_583_762_545e-45),
        ];
        for (x, value) in known {
            assert!((erfc(x) - value).abs() < 1e-12 * value, "erfc({x}) = {} for {value}", erfc(x));
            assert!((erfc(-x) - (2.0 - value)).abs() < 1e-15, "erfc(-{x})");
        }
    }

    #[test]
    fn the_decoder_shares_out_all_of_the_probability() {
        for (mean, deviation) in [(0.0, 0.01), (0.3, 0.2), (-1.0, 0.005), (1.4, 0.5), (0.003, 1e-3)] {
            let mass = |byte: u32| (-decoder_nats(byte as f64 / 127.5 - 1.0, mean, deviation)).exp();
            let sum: f64 = (0..256).map(mass).sum();
            assert!((sum - 1.0).abs() < 1e-12, "mean {mean}, deviation {deviation}: {sum}");
        }
        // Deep in the tail it is the tail's own probability that counts: log Q(20 sigma) = -203.9172.
        let nats = decoder_nats(0.2 + HALF_BIN, 0.0, 0.01);
        assert!((nats - 203.917_155).abs() < 1e-3, "{nats}");
    }

    #[test]
    fn divergences_of_gaussians_are_the_known_ones() {
        assert_eq!(gaussian_kl(0.0, 0.3, 0.3), 0.0);
        // N(1, 1) from N(0, 4): ln 2 + (1 + 1) / 8 - 1 / 2.
        assert!((gaussian_kl(1.0, 1.0, 4.0) - (LN_2 - 0.25)).abs() < 1e-15);
        let last = Level { timestep: 9.0, alpha: 0.6, sigma: 0.8 };
        assert!((prior_kl(1.0, last, 1.0) - (0.5 * (0.36 + 0.64 - 1.0) - 0.8f64.ln())).abs() < 1e-15);
        assert!((prior_kl(1.0, last, 2.0) - (0.5 * (1.0 / 4.0 - 1.0) + (2.0 / 0.8f64).ln())).abs() < 1e-15);
        let schedule = Schedule::new(BetaSchedule::HO, 1000).unwrap();
        let transition = schedule.transition(500, Some(499));
        // Ho et al. 2020, eq. 12: beta² / (2 sigma_p² (1 - beta) (1 - alpha_bar)) times the square error of eps.
        let (variance, beta) = (transition.posterior_variance(), transition.beta());
        let (alpha, sigma) = (schedule.alpha(500), schedule.sigma(500));
        let weight = beta * beta / (2.0 * variance * (1.0 - beta) * sigma * sigma);
        let nats = reverse_kl(&transition, variance, 0.4, 0.4 + sigma / alpha * 0.3);
        assert!((nats - weight * 0.09).abs() < 1e-12 * nats, "{nats} for {}", weight * 0.09);
    }

    /// x0 ~ N(0, s²) has y ~ N(0, s² + kappa²) and eps = kappa y / (s² + kappa²): all is known.
    #[test]
    fn the_flow_of_a_gaussian_has_its_density() {
        let deviations = [0.3, 1.0, 2.5];
        let (low, high) = (0.01f64.ln(), 150f64.ln());
        let field = |y: &[f64], log_kappa: f64| -> Result<Flow, ()> {
            let kappa = log_kappa.exp();
            let slope = |i: usize| kappa / (f64::powi(deviations[i % 3], 2) + kappa * kappa);
            let eps = y.iter().enumerate().map(|(i, y)| slope(i) * y).collect();
            Ok(Flow { eps, divergence: vec![(0..3).map(slope).sum(); 2] })
        };
        let start = [0.2, -0.9, 1.7, -0.5, 0.1, 4.0];
        let density = |image: &[f64]| -> f64 {
            let log = |(y, s): (&f64, &f64)| {
                let variance = s * s + 1e-4;
                -0.5 * (y * y / variance + (2.0 * PI * variance).ln())
            };
            image.iter().zip(&deviations).map(log).sum()
        };
        let error = |steps: usize| -> f64 {
            let mut y = start;
            let change = integrate(&mut y, 2, (low, high), steps, field).unwrap();
            // Whatever the scale of x.
            let off = |path: Path| {
                let alpha = path.alpha(high.exp());
                let deviation = path.deviation(alpha, alpha * high.exp());
                let found = |image: usize| prior_log_density(&y[3 * image..][..3], alpha, deviation) + change[image];
                (0..2).map(|i| (found(i) - density(&start[3 * i..][..3])).abs()).fold(0.0, f64::max)
            };
            let paths = [Path::VariancePreserving, Path::VarianceExploding, Path::Edm, Path::Flow];
            paths.into_iter().map(off).fold(0.0, f64::max)
        };
        // What is left of x0 at kappa = 150 is 2.5² / 150² of the variance.
        assert!(error(40) < 5e-4, "{}", error(40));
    }

    /// Without the end's error: order 4.
    #[test]
    fn the_integrator_is_of_order_4() {
        let field = |y: &[f64], log_kappa: f64| -> Result<Flow, ()> {
            let kappa = log_kappa.exp();
            Ok(Flow { eps: vec![kappa * y[0] / (1.0 + kappa * kappa)], divergence: vec![1.0 / (1.0 + kappa)] })
        };
        let error = |steps: usize| -> f64 {
            let mut y = [1.0];
            let total = integrate(&mut y, 1, (0.1f64.ln(), 3f64.ln()), steps, field).unwrap()[0];
            let exact = (10.0f64 / 1.01).sqrt();
            (y[0] - exact).abs() + (total - (4.0f64 / 1.1).ln()).abs()
        };
        let order = (error(10) / error(20)).log2();
        assert!((3.7..4.3).contains(&order), "order {order}");
    }
}
