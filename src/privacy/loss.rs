//! The privacy loss of one step: log(P/Q) under P, for the pair of output distributions that dominates all neighbours.
//!
//! In units of the clip the dominating pair is mu = (1 - q) N(0, sigma^2) + q N(1, sigma^2) against nu = N(0, sigma^2), in one of two
//! directions (Zhu, Dong & Wang 2022, theorem 11). Their ratio mu/nu at y is `1 - q + q exp((y - 1/2) / sigma^2)`, increasing in y.

use std::f64::consts::PI;

/// Which of the two data sets has the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// P = mu, Q = nu: what is published was computed with the record.
    Remove,
    /// P = nu, Q = mu: it was computed without.
    Add,
}

/// Above this exponent `exp` is kept from overflowing.
const LARGE: f64 = 500.0;

/// The pair of distributions of one step.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    sampling: f64,
    noise: f64,
    direction: Direction,
    /// Where both parts of mu/nu are equal.
    turn: f64,
}

impl Loss {
    pub fn new(sampling: f64, noise: f64, direction: Direction) -> Loss {
        let turn = 0.5 + noise * noise * ((1.0 - sampling) / sampling).ln();
        Loss { sampling, noise, direction, turn }
    }

    fn sign(&self) -> f64 {
        if self.direction == Direction::Remove { 1.0 } else { -1.0 }
    }

    /// log(mu/nu) at y.
    pub fn ratio(&self, y: f64) -> f64 {
        let (q, t) = (self.sampling, (y - 0.5) / (self.noise * self.noise));
        match () {
            () if q == 1.0 => t,
            () if t > LARGE => t + (q + (1.0 - q) * (-t).exp()).ln(),
            // Small losses keep their digits so, those near log(1 - q) otherwise.
            () if q * t.exp_m1() > -0.5 => (q * t.exp_m1()).ln_1p(),
            () => (1.0 - q + q * t.exp()).ln(),
        }
    }

    /// log(P/Q) at y.
    pub fn at(&self, y: f64) -> f64 {
        self.sign() * self.ratio(y)
    }

    /// Where log(P/Q) is `loss`: infinite where it is never so low or so high.
    pub fn place(&self, loss: f64) -> f64 {
        let (q, ratio) = (self.sampling, self.sign() * loss);
        let t = match () {
            () if q == 1.0 => ratio,
            () if ratio > LARGE => ratio - q.ln() + (-(1.0 - q) * (-ratio).exp()).ln_1p(),
            () => (ratio.exp_m1() / q).max(-1.0).ln_1p(),
        };
        0.5 + self.noise * self.noise * t
    }

    /// The density of P.
    pub fn density(&self, y: f64) -> f64 {
        let normal = |x: f64| (-0.5 * x * x).exp() / ((2.0 * PI).sqrt() * self.noise);
        match self.direction {
            Direction::Add => normal(y / self.noise),
            Direction::Remove => {
                (1.0 - self.sampling) * normal(y / self.noise) + self.sampling * normal((y - 1.0) / self.noise)
            }
        }
    }

    /// The part of the line outside of which P has at most [`tail`]`(z)`.
    pub fn range(&self, z: f64) -> (f64, f64) {
        let last = if self.direction == Direction::Remove { 1.0 } else { 0.0 };
        (-z * self.noise, last + z * self.noise)
    }

    /// How wide a panel at y may be for 8 Gauss-Legendre points to keep 14 digits of what the density and smooth functions of the
    /// loss integrate to.
    pub fn width(&self, y: f64) -> f64 {
        let slope = y.abs().max((y - 1.0).abs()) / self.noise;
        (self.noise / 4.0).min(2.0 * self.noise / (1.0 + slope)).min(0.5 * self.branch(y))
    }

    /// How far y is from where the logarithm of mu/nu is not analytic: its branch points lie `pi sigma^2` above and below the turn.
    pub fn branch(&self, y: f64) -> f64 {
        (y - self.turn).hypot(PI * self.noise * self.noise)
    }
}

/// The chance that a standard normal is further than `z` from 0.
pub fn tail(z: f64) -> f64 {
    libm::erfc(z * std::f64::consts::FRAC_1_SQRT_2)
}
