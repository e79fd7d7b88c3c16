//! How often each timestep is drawn in training.

use super::choice::Choice;
use super::schedule::Schedule;

/// The distribution of timesteps in training: what a timestep counts there is this times its [`super::LossWeight`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum TimestepDraw {
    /// Each as often as any other (Ho et al. 2020, algorithm 1).
    #[default]
    Even,
    /// ln kappa ~ N(mean, deviation²) (Karras et al. 2022, section 5, table 1).
    LogNormal { mean: f64, deviation: f64 },
}

impl Choice for TimestepDraw {
    const NAMED: &'static [Self] = &[Self::Even, Self::EDM, Self::HIGH];

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Even => ("even", "All alike (Ho et al. 2020)"),
            Self::HIGH => ("high", "Those of much noise: ln sigma ~ N(0.7, 1.6²) (Blattmann et al. 2023)"),
            Self::LogNormal { .. } => ("edm", "ln sigma ~ N(-1.2, 1.2²) (Karras et al. 2022)"),
        }
    }
}

impl TimestepDraw {
    /// That of Karras et al. 2022, table 1.
    pub const EDM: TimestepDraw = TimestepDraw::LogNormal { mean: -1.2, deviation: 1.2 };
    /// That of Blattmann et al. 2023, appendix D: on much noise, where an image's layout is decided.
    pub const HIGH: TimestepDraw = TimestepDraw::LogNormal { mean: 0.7, deviation: 1.6 };

    /// How much more often `timestep` is drawn than if all were alike, up to a factor that all timesteps share. Panics unless it is
    /// below T.
    pub fn ratio(self, schedule: &Schedule, timestep: usize) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::LogNormal { mean, deviation } => density_ratio(schedule, timestep, mean, deviation),
        }
    }
}

/// The density of N(mean, deviation²) at ln kappa over that of the table's timesteps.
pub(super) fn density_ratio(schedule: &Schedule, timestep: usize, mean: f64, deviation: f64) -> f64 {
    let last = schedule.timesteps() - 1;
    if last == 0 {
        return 1.0;
    }
    let log_kappa = |t: usize| schedule.level(t).kappa().ln();
    let (below, above) = (timestep.saturating_sub(1), (timestep + 1).min(last));
    let spacing = (log_kappa(above) - log_kappa(below)) / (above - below) as f64;
    let z = (log_kappa(timestep) - mean) / deviation;
    let density = (-0.5 * z * z).exp() / (deviation * (2.0 * std::f64::consts::PI).sqrt());
    density * spacing * schedule.timesteps() as f64
}

impl Schedule {
    /// T timesteps, each drawn as often as any other of them, that together are drawn as `draw` says: its quantiles at (i + 1/2) / T.
    pub fn drawn_timesteps(&self, draw: TimestepDraw) -> Vec<usize> {
        let count = self.timesteps();
        if draw == TimestepDraw::Even {
            return (0..count).collect();
        }
        let ratios: Vec<f64> = (0..count).map(|timestep| draw.ratio(self, timestep)).collect();
        let total: f64 = ratios.iter().sum();
        let (mut timestep, mut below) = (0, ratios[0]);
        let mut next = |i: usize| {
            let wanted = total * (i as f64 + 0.5) / count as f64;
            while below < wanted && timestep + 1 < count {
                timestep += 1;
                below += ratios[timestep];
            }
            timestep
        };
        (0..count).map(&mut next).collect()
    }

    /// The same as the GPU takes it: eight to a row, zeros behind the last one.
    pub fn drawn_table(&self, draw: TimestepDraw) -> Vec<[f32; 8]> {
        let row = |drawn: &[usize]| std::array::from_fn(|i| drawn.get(i).map_or(0.0, |timestep| *timestep as f32));
        self.drawn_timesteps(draw).chunks(8).map(row).collect()
    }
}
