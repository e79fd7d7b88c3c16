//! What the steps of a run came to, in bounded room.

use crate::chart::Thinned;
use crate::run::{LEVELS, Metrics};

/// The columns of `metrics.csv`, thinned.
#[derive(Clone, Default)]
pub(super) struct Curves {
    pub loss: Thinned,
    /// The least noise first.
    pub by_level: [Thinned; LEVELS],
    pub gradient_norm: Thinned,
    pub learning_rate: Thinned,
    pub images_per_second: Thinned,
}

impl Curves {
    /// Adds a step behind those that came.
    pub fn push(&mut self, metrics: &Metrics, images_per_second: f64) {
        let Metrics { step, loss, gradient_norm, learning_rate, by_level } = metrics;
        self.loss.push(*step, (*loss).into());
        for (curve, loss) in self.by_level.iter_mut().zip(by_level) {
            curve.push(*step, loss.map_or(f64::NAN, f64::from));
        }
        self.gradient_norm.push(*step, (*gradient_norm).into());
        self.learning_rate.push(*step, *learning_rate);
        self.images_per_second.push(*step, images_per_second);
    }
}
