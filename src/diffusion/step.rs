//! One step of any sampler: the coefficients of one `denoise` dispatch.

use super::error::Error;
use super::parameterization::Prediction;
use super::path::Level;
use super::variance::LearnedVariance;
use std::ops::{Add, Mul, Sub};

/// The clip range that means "no clip": finite, so that it survives as f32 in a uniform buffer (WGSL promises nothing
/// about infinities), and as large as an f32 gets.
pub const NO_CLIP: f64 = f32::MAX as f64;

/// Tensors of the past that a step can use: what the adaptive Runge-Kutta pair needs.
pub const SLOTS: usize = 9;

/// Dynamic thresholding (Saharia et al. 2022, section 2.3): an image's estimate of x0 is clamped to [-s, s] and divided by s,
/// s being the quantile `ratio` of its elements' magnitudes, kept within [1, `most`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// 0 to 1 (`dynamic_thresholding_ratio`).
    pub ratio: f64,
    /// At least 1 (`sample_max_value`).
    pub most: f64,
}

impl Threshold {
    /// Applies it to the elements of one image. NaN stays.
    pub fn apply(&self, image: &mut [f64]) {
        let mut magnitudes: Vec<f64> = image.iter().map(|value| value.abs()).collect();
        magnitudes.sort_by(f64::total_cmp);
        let place = self.ratio * (magnitudes.len() - 1) as f64;
        let (below, share) = (place as usize, place.fract());
        let [low, high] = [below, below + 1].map(|i| magnitudes[i.min(magnitudes.len() - 1)]);
        let range = (low + share * (high - low)).max(1.0).min(self.most);
        image.iter_mut().for_each(|value| *value = clamp(*value, range) / range);
    }

    /// What must hold of it.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.ratio) {
            return Err(Error::Setting { name: "dynamic_thresholding_ratio", value: self.ratio, range: "from 0 to 1" });
        }
        match self.most {
            most if (1.0..=1e6).contains(&most) => Ok(()),
            value => Err(Error::Setting { name: "sample_max_value", value, range: "from 1 to 1e6" }),
        }
    }
}

/// The coefficients of one `denoise` dispatch, elementwise over a batch of images:
///
/// ```text
/// x0_hat = clamp(x0_from_x · x_t + x0_from_out · out_t, -clip, clip)
/// x'     = x · x_t + out · out_t + x0 · x0_hat + Σ previous[s] · slot[s] + noise · spread(v_t) · z
/// slot[keep_x] = x_t, slot[keep] = x0_hat
/// ```
///
/// out_t is the network's output at (x_t, `at`), v_t its output for the variance, if it has one, and z ~ N(0, I). All coefficients are finite as f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// The level of x_t, at which the network is asked.
    pub at: Level,
    /// The level of x'.
    pub to: Level,
    /// Coefficient of x_t.
    pub x: f64,
    /// Coefficient of the network's output.
    pub out: f64,
    /// Coefficient of the clamped estimate of x0.
    pub x0: f64,
    /// Coefficient of x_t in the estimate of x0.
    pub x0_from_x: f64,
    /// Coefficient of the network's output in the estimate of x0.
    pub x0_from_out: f64,
    /// The estimate of x0 is clamped to [-clip, clip]; [`NO_CLIP`] leaves it as it is.
    pub clip: f64,
    /// Instead of the clamp: a range that each image's estimate gives, see [`Threshold`]. What the dispatch can't do alone:
    /// [`super::Program::run`] takes such a step in two.
    pub threshold: Option<Threshold>,
    /// Coefficients of what earlier steps kept, as it is before this one keeps anything.
    pub previous: [f64; SLOTS],
    /// Standard deviation of the noise that is added: exactly 0 where none is drawn.
    pub noise: f64,
    /// Multiplies the noise by [`Step::spread`] of what the network says of its variance.
    pub learned: Option<LearnedVariance>,
    /// The slot that gets the clamped estimate of x0, if any.
    pub keep: Option<usize>,
    /// The slot that gets x_t, if any.
    pub keep_x: Option<usize>,
}

impl Step {
    /// One element of the dispatch in f64: (x', x0_hat), given x_t, the network's output, the slots (any finite numbers
    /// in the first step) and z. The slots are updated. With a learned variance z is to be N(0, [`Step::spread`]²).
    pub fn apply(&self, x: f64, out: f64, slots: &mut [f64], z: f64) -> (f64, f64) {
        let x0 = clamp(self.x0_from_x * x + self.x0_from_out * out, self.clip);
        let past: f64 = self.previous.iter().zip(slots.iter()).map(|(coefficient, slot)| coefficient * slot).sum();
        let next = self.x * x + self.out * out + self.x0 * x0 + past + self.noise * z;
        for (slot, value) in [(self.keep_x, x), (self.keep, x0)] {
            if let Some(slot) = slot {
                slots[slot] = value;
            }
        }
        (next, x0)
    }

    /// What the noise is multiplied by where the network's variance channel puts out `v`.
    pub fn spread(&self, v: f64) -> f64 {
        self.learned.map_or(1.0, |learned| (0.5 * learned.log_variance(v)).exp())
    }

    /// The two halves of a step that thresholds: the first asks the network and puts its estimate of x0 into the slot `raw`,
    /// x stays; the second, which needs no network, finds the thresholded one in the slot behind it.
    pub(super) fn halves(&self, raw: usize) -> [Step; 2] {
        let nothing = Step { x: 0.0, out: 0.0, x0: 0.0, previous: [0.0; SLOTS], noise: 0.0, learned: None, ..*self };
        let first = Step { x: 1.0, to: self.at, clip: NO_CLIP, keep: Some(raw), keep_x: None, ..nothing };
        let mut previous = self.previous;
        // out = (estimate - x0_from_x x) / x0_from_out
        let out = if self.out == 0.0 { 0.0 } else { self.out / self.x0_from_out };
        previous[raw] += out;
        previous[raw + 1] += self.x0;
        let x = self.x - out * self.x0_from_x;
        let (x0, threshold, keep) = (0.0, None, None);
        [first, Step { x, out: 0.0, x0, previous, threshold, keep, ..*self }]
    }

    /// Slots that this step reads or writes: those below this number.
    pub fn slots(&self) -> usize {
        let read = self.previous.iter().rposition(|coefficient| *coefficient != 0.0);
        [read, self.keep, self.keep_x].into_iter().flatten().max().unwrap_or(0) + 1
    }
}

/// `value` kept within [-range, range]. NaN stays NaN, so that a broken network shows.
fn clamp(value: f64, range: f64) -> f64 {
    if value > range {
        range
    } else if value < -range {
        -range
    } else {
        value
    }
}

/// A sum of x_t, the estimate of x0 and the slots: what samplers are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Form {
    pub x: f64,
    pub x0: f64,
    pub previous: [f64; SLOTS],
}

impl Form {
    /// x_t.
    pub const X: Form = Form { x: 1.0, x0: 0.0, previous: [0.0; SLOTS] };
    /// The estimate of x0.
    pub const X0: Form = Form { x: 0.0, x0: 1.0, previous: [0.0; SLOTS] };

    /// What a slot holds.
    pub fn slot(slot: usize) -> Form {
        let mut previous = [0.0; SLOTS];
        previous[slot] = 1.0;
        Form { x: 0.0, x0: 0.0, previous }
    }

    /// The eps that the estimate of x0 implies: (x_t - alpha · x0) / sigma.
    pub fn eps(level: Level) -> Form {
        (Form::X - level.alpha * Form::X0) * (1.0 / level.sigma)
    }

    /// The score of x_t that the estimate of x0 implies: -eps / sigma.
    pub fn score(level: Level) -> Form {
        Form::eps(level) * (-1.0 / level.sigma)
    }

    fn map(self, other: Form, f: impl Fn(f64, f64) -> f64) -> Form {
        let previous = std::array::from_fn(|slot| f(self.previous[slot], other.previous[slot]));
        Form { x: f(self.x, other.x), x0: f(self.x0, other.x0), previous }
    }
}

impl Add for Form {
    type Output = Form;
    fn add(self, other: Form) -> Form {
        self.map(other, |a, b| a + b)
    }
}

impl Sub for Form {
    type Output = Form;
    fn sub(self, other: Form) -> Form {
        self.map(other, |a, b| a - b)
    }
}

impl Mul<f64> for Form {
    type Output = Form;
    fn mul(self, factor: f64) -> Form {
        self.map(self, |a, _| factor * a)
    }
}

impl Mul<Form> for f64 {
    type Output = Form;
    fn mul(self, form: Form) -> Form {
        form * self
    }
}

/// What all steps of a sampler share: how the output becomes an estimate of x0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub prediction: Prediction,
    pub clip: f64,
    pub threshold: Option<Threshold>,
}

impl Estimate {
    /// The step from `at` to `to` whose x' is `form` and `noise`; the estimate of x0 goes to slot 0.
    pub fn step(&self, at: Level, to: Level, form: Form, noise: f64) -> Step {
        let (x0_from_x, x0_from_out) = self.prediction.x0(at.alpha, at.sigma);
        let Form { x, x0, previous } = form;
        let Estimate { clip, threshold, .. } = *self;
        let (out, learned, keep, keep_x) = (0.0, None, Some(0), None);
        Step { at, to, x, out, x0, x0_from_x, x0_from_out, clip, threshold, previous, noise, learned, keep, keep_x }
    }

    /// The last step: x' is the estimate of x0.
    pub fn last(&self, at: Level) -> Step {
        self.step(at, Level::CLEAN, Form::X0, 0.0)
    }
}
