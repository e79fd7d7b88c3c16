//! Bits per dimension of a data set: the variational bound, and the density along the probability flow.

use serde::Serialize;

use super::statistics::mean_and_error;
use crate::data::Dataset;
use crate::diffusion::likelihood::{self as math, Flow, HALF_BIN, bits_per_dimension};
use crate::diffusion::{Level, Prediction, Schedule, Variance};
use crate::error::{Error, Result};
use crate::random::Random;
use crate::run::Denoiser;

/// What the model's checkpoint says.
pub struct Setting<'a> {
    pub schedule: &'a Schedule,
    pub prediction: Prediction,
    /// The variance of the reverse steps.
    pub variance: Variance,
    /// Range of the estimate of x0, if it is clamped.
    pub clip: Option<f64>,
}

impl Setting<'_> {
    /// The noisiest level, and the standard deviation of what samplers start from there.
    fn prior(&self) -> (Level, f64) {
        let last = self.schedule.level(self.schedule.timesteps() - 1);
        (last, self.schedule.path().deviation(last.alpha, last.sigma))
    }
}

/// Refuses what a network says that was never trained, or whose weights are beyond help.
pub(super) fn check_finite(figure: f64) -> Result<()> {
    match figure.is_finite() {
        true => Ok(()),
        false => Err(Error::Diverged("the network's output is not finite; is this checkpoint trained?".into())),
    }
}

/// Mean with its standard error over images, and over what else there are only some of.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    pub mean: f64,
    /// None of a single image.
    pub standard_error: Option<f64>,
}

impl From<&[f64]> for Estimate {
    fn from(values: &[f64]) -> Estimate {
        let (mean, standard_error) = mean_and_error(values);
        Estimate { mean, standard_error: (values.len() > 1).then_some(standard_error) }
    }
}

/// The variational bound of some images, in bits per dimension.
#[derive(Clone, Debug, Serialize)]
pub struct VariationalBound {
    pub images: usize,
    /// L_T.
    pub prior: f64,
    /// The timesteps of `reverse`: 1 to T - 1, or some of them.
    pub timesteps: Vec<usize>,
    /// L_{t-1} of these timesteps, in this order: of all they are the paper's L_1 to L_{T-1}.
    pub reverse: Vec<f64>,
    /// What all L_{t-1} add up to, estimated if `reverse` are some.
    pub between: f64,
    /// How far `between` may be off for want of the others; none if there are no others.
    pub sampling_error: Option<f64>,
    /// L_0.
    pub decoder: f64,
    pub total: Estimate,
}

/// x0 of some images of a data set, in [-1, 1].
pub(super) fn values(data: &Dataset, images: &std::ops::Range<usize>) -> Vec<f64> {
    let bytes = data.images.len() / data.len();
    data.images[images.start * bytes..images.end * bytes].iter().map(|byte| *byte as f64 / 127.5 - 1.0).collect()
}

/// What a network says at one timestep of images with noise.
pub(super) struct Answer {
    pub x: Vec<f64>,
    pub out: Vec<f64>,
    /// `out` without its target.
    pub wrong: Vec<f64>,
}

/// That of images `x0` with the noise `eps`, at most a batch of them.
pub(super) fn answer(
    network: &Denoiser,
    (schedule, prediction): (&Schedule, Prediction),
    timestep: usize,
    x0: &[f64],
    eps: &[f64],
) -> Result<Answer> {
    let (alpha, sigma) = (schedule.alpha(timestep), schedule.sigma(timestep));
    let (target_x0, target_eps) = prediction.target(alpha, sigma);
    let x: Vec<f64> = x0.iter().zip(eps).map(|(x0, eps)| alpha * x0 + sigma * eps).collect();
    let out = network.run(&x, timestep as f64)?;
    let terms = out.iter().zip(x0.iter().zip(eps));
    let wrong = terms.map(|(out, (x0, eps))| out - target_x0 * x0 - target_eps * eps).collect();
    Ok(Answer { x, out, wrong })
}

/// The first `count` images in parts of at most `batch`.
pub(super) fn parts(count: usize, batch: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..count.div_ceil(batch)).map(move |part| part * batch..count.min((part + 1) * batch))
}

/// Which terms of the bound are looked at, and how often each counts.
struct Terms {
    timesteps: Vec<usize>,
    /// As many as there are at the beginning, one by one: most of the bound lies at little noise.
    exact: usize,
    /// What each of the others stands for.
    weight: f64,
}

impl Terms {
    /// `count` of the timesteps 1 to `last`: half of them the first ones, the others spread evenly from a random place on.
    fn some(count: usize, last: usize, random: &mut Random) -> Terms {
        let exact = count.div_ceil(2).min(last);
        let (rest, spread) = (last - exact, (count - exact).max(1));
        let weight = rest as f64 / spread as f64;
        let place = random.uniform();
        let others = (0..spread).map(|k| exact + 1 + ((k as f64 + place) * weight) as usize).filter(|t| *t <= last);
        Terms { timesteps: (1..=exact).chain(others).collect(), exact, weight }
    }

    fn all(last: usize) -> Terms {
        Terms { timesteps: (1..=last).collect(), exact: last, weight: 1.0 }
    }

    /// What term number `index` counts.
    fn weight(&self, index: usize) -> f64 {
        if index < self.exact { 1.0 } else { self.weight }
    }

    /// Half the difference of what every second of the spread terms says and what the others say.
    fn error(&self, reverse: &[f64]) -> Option<f64> {
        let spread = &reverse[self.exact..];
        let half = |first: usize| spread.iter().skip(first).step_by(2).sum::<f64>() * 2.0 * self.weight;
        (!spread.is_empty()).then(|| (half(0) - half(1)).abs() / 2.0)
    }
}

/// How the bound is looked at.
#[derive(Clone, Copy, Debug)]
pub struct BoundOptions {
    /// Terms L_{t-1}: so many of the T - 1, or all.
    pub terms: Option<usize>,
    pub seed: u64,
}

/// The bound of the first `count` images, one draw of noise for each image and term (Ho et al. 2020, eq. 5).
/// `watch(done, of)` counts evaluations of a batch.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn variational_bound(
    network: &Denoiser,
    data: &Dataset,
    count: usize,
    setting: &Setting,
    options: &BoundOptions,
    mut watch: impl FnMut(u64, u64),
) -> Result<VariationalBound> {
    let (dimensions, last) = (network.dimensions(), setting.schedule.timesteps() - 1);
    let mut random = Random::new(options.seed);
    let terms = match options.terms.filter(|terms| *terms < last) {
        Some(count) => Terms::some(count, last, &mut Random::new(!options.seed)),
        None => Terms::all(last),
    };
    let evaluations = terms.timesteps.len() + 1;
    let of = (parts(count, network.batch()).count() * evaluations) as u64;
    let (mut prior, mut decoder, mut reverse) = (0.0, 0.0, vec![0.0; terms.timesteps.len()]);
    let mut totals = Vec::new();
    for part in parts(count, network.batch()) {
        let x0 = values(data, &part);
        network.write_labels(&data.labels[part.clone()]);
        let mut nats = vec![0.0; part.len()];
        let mut add = |term: &mut f64, elements: &[f64], weight: f64| {
            for (nats, image) in nats.iter_mut().zip(elements.chunks_exact(dimensions)) {
                let sum: f64 = image.iter().sum();
                *nats += weight * sum;
                *term += bits_per_dimension(sum, dimensions) / count as f64;
            }
        };
        let done = part.start / network.batch() * evaluations;
        watch(done as u64 + 1, of);
        add(&mut decoder, &reverse_terms(network, &x0, setting, 0, &mut random)?, 1.0);
        for (index, (term, t)) in reverse.iter_mut().zip(&terms.timesteps).enumerate() {
            watch((done + index) as u64 + 2, of);
            add(term, &reverse_terms(network, &x0, setting, *t, &mut random)?, terms.weight(index));
        }
        let (noisiest, deviation) = setting.prior();
        let elements: Vec<f64> = x0.iter().map(|x0| math::prior_kl(*x0, noisiest, deviation)).collect();
        add(&mut prior, &elements, 1.0);
        totals.extend(nats.into_iter().map(|nats| bits_per_dimension(nats, dimensions)));
    }
    let between = reverse.iter().enumerate().map(|(index, term)| terms.weight(index) * term).sum();
    let sampling_error = terms.error(&reverse);
    let mut total: Estimate = totals.as_slice().into();
    // Of the images there are some, and of the terms.
    total.standard_error = total.standard_error.map(|error| error.hypot(sampling_error.unwrap_or(0.0)));
    check_finite(total.mean)?;
    let timesteps = terms.timesteps;
    Ok(VariationalBound { images: count, prior, timesteps, reverse, between, sampling_error, decoder, total })
}

/// The elements of L_{t-1} in the paper's count, t + 1 here, at one draw of x; of L_0 at timestep 0.
fn reverse_terms(network: &Denoiser, x0: &[f64], setting: &Setting, t: usize, random: &mut Random) -> Result<Vec<f64>> {
    let (alpha, sigma) = (setting.schedule.alpha(t), setting.schedule.sigma(t));
    let x: Vec<f64> = x0.iter().map(|x0| alpha * x0 + sigma * random.normal()).collect();
    reverse_terms_at(network, x0, &x, setting, t)
}

/// The same at `x`.
fn reverse_terms_at(network: &Denoiser, x0: &[f64], x: &[f64], setting: &Setting, t: usize) -> Result<Vec<f64>> {
    let (alpha, sigma) = (setting.schedule.alpha(t), setting.schedule.sigma(t));
    let (out, variances) = reverse_step(network, x, setting, t)?;
    let (from_x, from_out) = setting.prediction.x0(alpha, sigma);
    let clip = setting.clip.unwrap_or(f64::INFINITY);
    let x0_hat = x.iter().zip(&out).map(|(x, out)| (from_x * x + from_out * out).clamp(-clip, clip));
    let transition = setting.schedule.transition(t, t.checked_sub(1));
    let element = |((x0, x0_hat), variance): ((&f64, f64), f64)| match t {
        // The variance is that of x; x0 has another scale.
        0 => math::decoder_nats(*x0, x0_hat, variance.sqrt() / alpha),
        _ => math::reverse_kl(&transition, variance, *x0, x0_hat),
    };
    Ok(x0.iter().zip(x0_hat).zip(variances).map(element).collect())
}

/// The network's output at `x`, and the variance of each element of the reverse step: beta_t, beta-tilde_t, or what the
/// network says. beta-tilde is 0 in the last step, where that of the step before is taken, as Nichol & Dhariwal (2021) do.
fn reverse_step(network: &Denoiser, x: &[f64], setting: &Setting, t: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let range = setting.schedule.learned_variance(t);
    let log_variance = match setting.variance {
        Variance::FixedSmall => range.log_small,
        Variance::FixedLarge => range.log_large,
        Variance::Learned => {
            let [out, v] = network.run_with_variance(x, t as f64)?;
            return Ok((out, v.into_iter().map(|v| range.log_variance(v).exp()).collect()));
        }
    };
    Ok((network.run(x, t as f64)?, vec![log_variance.exp(); x.len()]))
}

/// How bytes become real numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Dequantization {
    /// Uniform noise as wide as a byte's bin (Song et al. 2021)
    ///
    /// Appendix D.2, at the lowest noise level.
    Uniform,
    /// The lowest noise level, and the decoder of the bound (Kingma et al. 2021)
    ///
    /// -log p(x0) <= E[L_0 - log p(z) + log q(z | x0)], z = alpha_0 x0 + sigma_0 eps (eq. 11; Song et al. 2021b, "Maximum
    /// Likelihood Training of Score-Based Diffusion Models", section 4.2). The bound's other terms stand for the same
    /// density of z.
    Gaussian,
}

/// Bits per dimension by the probability flow.
#[derive(Clone, Debug, Serialize)]
pub struct FlowLikelihood {
    pub images: usize,
    /// Runge-Kutta steps, of 4 evaluations each.
    pub steps: usize,
    pub dequantization: Dequantization,
    pub total: Estimate,
}

/// How the probability flow is solved.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    pub steps: usize,
    pub dequantization: Dequantization,
    pub seed: u64,
}

/// Bits per dimension of the first `count` images by the probability flow, the divergence by Hutchinson's estimate with
/// random signs (Song et al. 2021, eq. 39 and 40; Grathwohl et al. 2019, eq. 7). `watch(done, of)` counts evaluations of
/// a batch.
///
/// # Errors
/// [`crate::error::Error::Device`] if the device fails.
pub fn flow_likelihood(
    network: &Denoiser,
    data: &Dataset,
    count: usize,
    setting: &Setting,
    options: &FlowOptions,
    mut watch: impl FnMut(u64, u64),
) -> Result<FlowLikelihood> {
    let dimensions = network.dimensions();
    let (low, high) = setting.schedule.kappas();
    let (last, deviation) = setting.prior();
    let of = (parts(count, network.batch()).count() * options.steps * 4) as u64;
    let (mut random, mut done) = (Random::new(options.seed), 0);
    let mut totals = Vec::new();
    for part in parts(count, network.batch()) {
        network.write_labels(&data.labels[part.clone()]);
        let x0 = values(data, &part);
        let (mut y, nats) = dequantize(network, &x0, setting, options.dequantization, &mut random)?;
        let signs: Vec<f64> = y.iter().map(|_| if random.bits() >> 63 == 0 { 1.0 } else { -1.0 }).collect();
        let change = math::integrate(&mut y, part.len(), (low.ln(), high.ln()), options.steps, |y, log_kappa| {
            done += 1;
            watch(done, of);
            flow(network, setting, y, &signs, setting.schedule.level_of(log_kappa.exp()))
        })?;
        for (image, (change, nats)) in change.iter().zip(nats.chunks_exact(dimensions)).enumerate() {
            let prior = math::prior_log_density(&y[image * dimensions..][..dimensions], last.alpha, deviation);
            let nats = nats.iter().sum::<f64>() - prior - change;
            totals.push(bits_per_dimension(nats, dimensions));
        }
    }
    let FlowOptions { steps, dequantization, .. } = *options;
    let total: Estimate = totals.as_slice().into();
    check_finite(total.mean)?;
    Ok(FlowLikelihood { images: count, steps, dequantization, total })
}

/// eps and the estimate of its divergence by y: v^T (d eps / d y) v, where d / dy = alpha d / dx.
///
/// eps is what the estimate of x0 implies, (x - alpha x0_hat) / sigma, clamped as the bound's is: else bound and flow
/// would be those of two models. x0_hat = p x + q out, so with the vector v masked to m where x0_hat is inside the range
/// v^T d eps / dx = (v - alpha (p m + q m^T d out / dx)) / sigma.
fn flow(network: &Denoiser, setting: &Setting, y: &[f64], signs: &[f64], at: Level) -> Result<Flow> {
    let Level { timestep, alpha, sigma } = at;
    let x: Vec<f64> = y.iter().map(|y| alpha * y).collect();
    let out = network.run(&x, timestep)?;
    let (from_x, from_out) = setting.prediction.x0(alpha, sigma);
    let clip = setting.clip.unwrap_or(f64::INFINITY);
    let estimates: Vec<f64> = x.iter().zip(&out).map(|(x, out)| from_x * x + from_out * out).collect();
    let implied = |(x, x0): (&f64, &f64)| (x - alpha * x0.clamp(-clip, clip)) / sigma;
    let eps = x.iter().zip(&estimates).map(implied).collect();
    let inside = |(sign, x0): (&f64, &f64)| if x0.abs() < clip { *sign } else { 0.0 };
    let masked: Vec<f64> = signs.iter().zip(&estimates).map(inside).collect();
    let product = network.product(&x, &masked, timestep)?;
    let element = |i: usize| {
        let through_estimate = from_x * masked[i] + from_out * product[i];
        alpha / sigma * (signs[i] - alpha * through_estimate) * signs[i]
    };
    let dimensions = network.dimensions();
    let image = |image: usize| (image * dimensions..(image + 1) * dimensions).map(element).sum();
    Ok(Flow { eps, divergence: (0..y.len() / dimensions).map(image).collect() })
}

/// y at the lowest level, and the nats of each element that are to be added to -log p(y).
fn dequantize(
    network: &Denoiser,
    x0: &[f64],
    setting: &Setting,
    kind: Dequantization,
    random: &mut Random,
) -> Result<(Vec<f64>, Vec<f64>)> {
    match kind {
        // P(byte) is the mean of p over the bin, times its width.
        Dequantization::Uniform => {
            let y = x0.iter().map(|x0| x0 + HALF_BIN * (2.0 * random.uniform() - 1.0)).collect();
            Ok((y, vec![-(2.0 * HALF_BIN).ln(); x0.len()]))
        }
        Dequantization::Gaussian => {
            let lowest = setting.schedule.level(0);
            let kappa = lowest.kappa();
            let eps: Vec<f64> = x0.iter().map(|_| random.normal()).collect();
            let y: Vec<f64> = x0.iter().zip(&eps).map(|(x0, eps)| x0 + kappa * eps).collect();
            let x: Vec<f64> = y.iter().map(|y| lowest.alpha * y).collect();
            let decoder = reverse_terms_at(network, x0, &x, setting, 0)?;
            let log_q = |eps: &f64| -0.5 * eps * eps - kappa.ln() - 0.5 * (2.0 * std::f64::consts::PI).ln();
            let nats = decoder.iter().zip(&eps).map(|(decoder, eps)| decoder + log_q(eps)).collect();
            Ok((y, nats))
        }
    }
}
