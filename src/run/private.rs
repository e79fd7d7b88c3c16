//! A step of training under differential privacy: its numbers, the units in which gradients are added up, and what is recorded of it.
//! docs/privacy.md has the derivations.

use super::flat;
use super::options::TrainOptions;
use crate::error::{Error, Result, counted};
use crate::gpu::{GRADIENTS, Recorder, Recording, Tensor};
use crate::nn::Params;
use crate::ops::{adamw, private};

/// The sum over the images of a step, in units of the fixed point, and the noise: a flat buffer of words.
pub const SUM: &str = "private sum";

/// DP-SGD (Abadi et al. 2016) with the noise multiplicity of Dockhorn et al. 2023, of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mechanism {
    /// Images of the data set.
    pub images: u64,
    /// How many join a step on average.
    pub expected: u32,
    /// How many can: a step has so many places, taken or not.
    pub places: u32,
    /// Draws of timestep and noise of which the gradient of an image is the mean.
    pub draws: u32,
    /// Largest norm of an image's gradient, C.
    pub clip: f64,
    /// Standard deviation of the noise over C.
    pub noise: f64,
    pub units: Units,
}

/// The fixed point in which gradients are added up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Units {
    /// The noise has a standard deviation of 2^exponent units.
    pub exponent: u32,
    /// C in units: no image changes the sum by more.
    pub radius: f64,
    /// What the device clips at, in units: rounding to whole numbers and f32's errors fill the rest.
    pub limit: f32,
    /// Units in 1.
    pub scale: f32,
}

/// Deviations of the noise that the sum has room for, beside all places.
const ROOM: f64 = 16.0;

/// The share of the clipping norm that rounding may take.
const MOST_ROUNDED: f64 = 0.1;

impl Units {
    /// For gradients of a model.
    ///
    /// # Errors
    /// [`Error::Config`] if so many places leave no digits for the gradient of one.
    pub fn new(places: u32, noise: f64, clip: f64, params: &Params) -> Result<Units> {
        let (parameters, elements) = (params.count(), params.elements);
        // All places and the noise stay within 2^31 units.
        let exponent = (2f64.powi(31) / (f64::from(places) / noise + ROOM)).log2().floor().clamp(0.0, 31.0);
        let radius = exponent.exp2() / noise;
        // Each number is rounded by at most 1/2.
        let rounded = (parameters as f64).sqrt() / 2.0;
        if rounded > MOST_ROUNDED * radius {
            return Err(Error::Config(format!(
                "--dp-noise {noise} with {} of a step leaves sums of {} too few digits: fewer images a step, or more noise",
                counted(places.into(), "place"),
                counted(parameters, "number")
            )));
        }
        let limit = (radius - rounded) / (1.0 + norm_error(elements));
        Ok(Units { exponent: exponent as u32, radius, limit: below(limit), scale: below(radius / clip) })
    }
}

/// How much larger the norm of what was clipped may be than f32 says, as a share: a bound. The squares are added in chains, of which
/// each addition errs by at most 2^-24 (Higham 2002, section 3.1, for sums of what isn't negative); root, quotients and products by
/// less than 64 times that together.
fn norm_error(elements: u64) -> f64 {
    let additions = flat::partial_sums(elements) / 1024 + 128;
    (additions + 64) as f64 * 2f64.powi(-24)
}

/// The largest f32 that isn't above `value`, which is positive.
fn below(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest) > value { nearest.next_down() } else { nearest }
}

impl Mechanism {
    /// Of a run that is private, on a data set of `images`.
    ///
    /// # Errors
    /// [`Error::Config`] if the numbers make no mechanism.
    pub fn new(options: &TrainOptions, images: u64, params: &Params) -> Result<Mechanism> {
        let (Some(noise), Some(places)) = (options.dp_noise, options.dp_places) else {
            return Err(Error::Config("--dp needs --dp-epsilon, or --dp-noise".into()));
        };
        Mechanism::check_batch(options, images)?;
        let clip = options.clip();
        let units = Units::new(places, noise, clip, params)?;
        Ok(Mechanism { images, expected: options.batch, places, draws: options.rows(), clip, noise, units })
    }

    /// Refuses steps that more images would join on average than there are.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check_batch(options: &TrainOptions, images: u64) -> Result<()> {
        if u64::from(options.batch) <= images {
            return Ok(());
        }
        let problem = format!("--batch {}: with --dp a step takes {images} images at the most, all", options.batch);
        Err(Error::Config(problem))
    }

    /// q, with which each image joins a step.
    pub fn sampling(&self) -> f64 {
        f64::from(self.expected) / self.images as f64
    }
}

/// What a place adds to the sum: its gradient, clipped, in whole units.
pub(super) fn record_contribution(mechanism: &Mechanism, elements: u64, options: &TrainOptions) -> Recording {
    let r = &mut Recorder::new();
    r.scope("clip", |r| {
        let loss_scale = adamw::loss_scale(r, options.precision);
        let square_sum = flat::square_sum(r, GRADIENTS, elements, loss_scale);
        let Units { scale, limit, .. } = mechanism.units;
        let factor = private::clip(r, square_sum, loss_scale, scale, limit);
        for own in flat::ranges(elements) {
            let [gradient, sum] = [GRADIENTS, SUM].map(|name| flat::range(r, name, elements, own));
            private::add(r, factor, gradient, sum);
        }
    });
    std::mem::take(r).finish()
}

/// Records the gradient that a step goes on with: the noisy sum divided by the number of images that is expected. Gives a tensor that
/// says that no loss is scaled any more.
pub(super) fn record_release(r: &mut Recorder, mechanism: &Mechanism, elements: u64) -> Tensor {
    let scale = mechanism.clip / mechanism.units.radius / f64::from(mechanism.expected);
    for own in flat::ranges(elements) {
        let [sum, gradient] = [SUM, GRADIENTS].map(|name| flat::range(r, name, elements, own));
        private::release(r, sum, gradient, scale as f32);
    }
    r.constant("unscaled", [1, 1, 1, 2], &[1.0, 0.0, 0.0, 0.0])
}
