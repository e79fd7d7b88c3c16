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

    /// How much more often `timestep` is drawn than if all were alike, up to a factor that all have: the density of N(mean, deviation²)
    /// at ln kappa over that of the table's timesteps. Panics unless the timestep is below T.
    pub fn ratio(self, schedule: &Schedule, timestep: usize) -> f64 {
        let last = schedule.timesteps() - 1;
        let Self::LogNormal { mean, deviation } = self else { return 1.0 };
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
}

/// Of a timestep that comes up as often as any other: how often it stands, in units of 2^-24, and which takes its place otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Column {
    pub share: u32,
    pub other: usize,
}

/// All of a column.
const WHOLE: u32 = 1 << 24;

impl Schedule {
    /// T timesteps as the alias method draws them (Walker, "An efficient method for generating discrete random variables with general
    /// distributions", ACM TOMS 3(3), 1977): each as often as `draw` says, to 2^-24 / T.
    pub fn drawn_columns(&self, draw: TimestepDraw) -> Vec<Column> {
        let count = self.timesteps();
        let ratios: Vec<f64> = (0..count).map(|timestep| draw.ratio(self, timestep)).collect();
        let scale = count as f64 / ratios.iter().sum::<f64>();
        // What is left of each timestep's chance, in columns.
        let mut left: Vec<f64> = ratios.iter().map(|ratio| ratio * scale).collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..count).partition(|timestep| left[*timestep] < 1.0);
        let mut columns: Vec<Column> = (0..count).map(|timestep| Column { share: WHOLE, other: timestep }).collect();
        while let (Some(timestep), Some(other)) = (small.pop(), large.last().copied()) {
            columns[timestep] = Column { share: (left[timestep] * WHOLE as f64).round() as u32, other };
            left[other] -= 1.0 - left[timestep];
            if left[other] < 1.0 {
                small.extend(large.pop());
            }
        }
        columns
    }

    /// The same as the GPU takes it: four pairs of share and other to a row, zeros behind the last one.
    pub fn drawn_table(&self, draw: TimestepDraw) -> Vec<[f32; 8]> {
        let columns = self.drawn_columns(draw);
        let value = |column: &Column, i: usize| if i == 0 { column.share as f32 } else { column.other as f32 };
        let row = |part: &[Column]| std::array::from_fn(|i| part.get(i / 2).map_or(0.0, |column| value(column, i % 2)));
        columns.chunks(4).map(row).collect()
    }
}
