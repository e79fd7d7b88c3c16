//! Which noise levels a sampler visits.

use super::error::Error;
use super::path::Level;
use super::schedule::{Schedule, karras};

/// Which of the schedule's T timesteps are visited when there are fewer steps (Lin et al. 2023, table 2; diffusers'
/// `timestep_spacing` with `steps_offset` 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spacing {
    /// Multiples of floor(T / steps), 0 included; diffusers' default. With few steps the first lies well below T - 1
    /// (1 step: at 0), where x_t isn't N(0, I) yet: the worst then.
    #[default]
    Leading,
    /// From T - 1 to 0, both included, evenly spaced and rounded. A single step is at 0.
    Linspace,
    /// Multiples of T / steps, rounded, less 1: T - 1 included.
    Trailing,
    /// From the noisiest timestep's kappa to the first one's, the 7th root of kappa evenly spaced (Karras et al. 2022,
    /// eq. 5); between timesteps, and any number of steps. A single step is at T - 1.
    Karras,
}

/// How diffusers' schedulers read the same spacing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grid {
    /// DDPM and DDIM: whole timesteps, the last of leading and linspace at 0.
    Whole,
    /// Euler and Heun: linspace is not rounded.
    Between,
    /// DPM-Solver++ and UniPC: leading and linspace are those of steps + 1, less the last, which would be 0.
    AboveZero,
}

impl Spacing {
    /// All of them.
    pub const ALL: [Spacing; 4] = [Spacing::Leading, Spacing::Linspace, Spacing::Trailing, Spacing::Karras];
    /// Those that are lists of whole timesteps.
    pub const WHOLE: [Spacing; 3] = [Spacing::Leading, Spacing::Linspace, Spacing::Trailing];

    /// The name of this spacing in diffusers' `timestep_spacing`; that of the last goes by `use_karras_sigmas` there.
    pub fn name(self) -> &'static str {
        match self {
            Spacing::Leading => "leading",
            Spacing::Linspace => "linspace",
            Spacing::Trailing => "trailing",
            Spacing::Karras => "karras",
        }
    }

    /// The `steps` visited timesteps out of 0..`total`, strictly descending. An error unless steps is in 1..=total.
    /// For [`Spacing::Karras`] the timesteps depend on the schedule; here they are linspace's, which it rearranges.
    pub fn timesteps(self, steps: usize, total: usize) -> Result<Vec<usize>, Error> {
        if steps == 0 || steps > total {
            return Err(Error::Steps { steps, timesteps: total });
        }
        // Operation for operation what numpy's arange and linspace compute, whose rounding decides the ties. (For
        // some steps that don't divide T, 61 of 1000 say, diffusers' trailing list has an entry too many: -1.)
        let (whole, ratio) = (total as f64, total as f64 / steps as f64);
        let trailing = |i: usize| (whole + i as f64 * ((whole - ratio) - whole)).round_ties_even() as usize - 1;
        let interval = if steps == 1 { 0.0 } else { (total - 1) as f64 / (steps - 1) as f64 };
        Ok(match self {
            Spacing::Leading => (0..steps).rev().map(|i| i * (total / steps)).collect(),
            Spacing::Linspace | Spacing::Karras => {
                (0..steps).rev().map(|i| (i as f64 * interval).round_ties_even() as usize).collect()
            }
            Spacing::Trailing => (0..steps).map(trailing).collect(),
        })
    }

    /// The levels of `steps` steps, the noisiest first. An error unless there is 1 or more, and with a spacing of whole
    /// timesteps at most T.
    pub(super) fn levels(self, steps: usize, grid: Grid, schedule: &Schedule) -> Result<Vec<Level>, Error> {
        let total = schedule.timesteps();
        if self == Spacing::Karras {
            return karras_levels(steps, schedule);
        }
        let drops = grid == Grid::AboveZero && self != Spacing::Trailing && steps < total;
        let timesteps = self.timesteps(steps + usize::from(drops), total)?;
        if (grid, self) == (Grid::Between, Spacing::Linspace) && steps > 1 {
            let interval = (total - 1) as f64 / (steps - 1) as f64;
            return Ok((0..steps).rev().map(|i| schedule.level_between(i as f64 * interval)).collect());
        }
        Ok(timesteps[..steps].iter().map(|timestep| schedule.level(*timestep)).collect())
    }
}

fn karras_levels(steps: usize, schedule: &Schedule) -> Result<Vec<Level>, Error> {
    if steps == 0 || steps > MOST {
        return Err(Error::Steps { steps, timesteps: MOST });
    }
    let (low, high) = schedule.kappas();
    let last = (steps - 1).max(1) as f64;
    Ok((0..steps).map(|i| schedule.level_of(karras(low, high, 1.0 - i as f64 / last))).collect())
}

/// Steps of a sampler that goes between timesteps.
const MOST: usize = 1 << 16;
