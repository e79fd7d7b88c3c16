//! The cumulant function of a step's privacy loss, and of all steps.

use super::loss::Loss;
use super::quadrature::eight;

/// K(theta) = log E_P exp(theta loss) and its first two derivatives: mean and variance of the loss tilted by theta.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cumulants {
    pub log: f64,
    pub mean: f64,
    pub variance: f64,
}

/// The privacy loss of a step at the points of a quadrature.
pub struct Moments {
    /// Masses and losses.
    points: Vec<(f64, f64)>,
}

impl Moments {
    pub fn new(loss: &Loss, z: f64) -> Moments {
        let (low, high) = loss.range(z);
        let mut points = Vec::new();
        eight(low, high, |y| loss.width(y), |y, weight| points.push((weight * loss.density(y), loss.at(y))));
        // Between two narrow bells there may be nothing, which no tilt makes something.
        points.retain(|(mass, _)| *mass > 0.0);
        Moments { points }
    }

    pub fn cumulants(&self, theta: f64) -> Cumulants {
        let top = self.points.iter().map(|(_, loss)| theta * loss).fold(f64::MIN, f64::max);
        let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
        for (mass, loss) in &self.points {
            let tilted = mass * (theta * loss - top).exp();
            sum += tilted;
            first += tilted * loss;
            second += tilted * loss * loss;
        }
        let mean = first / sum;
        Cumulants { log: top + sum.ln(), mean, variance: (second / sum - mean * mean).max(0.0) }
    }
}

/// The minimum of a function with one valley over the logarithm of a positive number: where it is, and what it is.
pub fn valley(low: f64, high: f64, f: impl Fn(f64) -> f64) -> (f64, f64) {
    const GOLDEN: f64 = 0.618_033_988_749_894_8;
    let (mut a, mut b) = (low.ln(), high.ln());
    let value = |x: f64| f(x.exp());
    let (mut c, mut d) = (b - GOLDEN * (b - a), a + GOLDEN * (b - a));
    let (mut at_c, mut at_d) = (value(c), value(d));
    while b - a > 1e-3 {
        if at_c < at_d {
            (b, d, at_d) = (d, c, at_c);
            c = b - GOLDEN * (b - a);
            at_c = value(c);
        } else {
            (a, c, at_c) = (c, d, at_d);
            d = a + GOLDEN * (b - a);
            at_d = value(d);
        }
    }
    if at_c < at_d { (c.exp(), at_c) } else { (d.exp(), at_d) }
}
