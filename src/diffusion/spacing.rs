//! Which noise levels a sampler visits.

use super::error::Error;
use super::path::Level;
use super::schedule::{Schedule, karras};

/// Which of the schedule's T timesteps are visited when there are fewer steps (Lin et al. 2023, table 2; diffusers'
/// `timestep_spacing`).
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

/// What diffusers' configurations say of the levels beside the spacing. The default says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Discretization {
    /// Added to the timesteps of [`Spacing::Leading`] (`steps_offset`).
    pub offset: usize,
    /// Only so many of the timesteps, the least noisy, are spaced out (`lambda_min_clipped`); all without.
    pub first: Option<usize>,
    /// Levels that are spaced in kappa, between the ends that the timesteps give.
    pub sigmas: Option<Sigmas>,
    /// Where the last step goes.
    pub end: End,
    /// DDIM: each step goes to t - floor(T / steps), wherever the next one begins.
    pub strides: bool,
    /// Noise to start from has the deviation sigma of the first level, and not 1.
    pub starts_at_sigma: bool,
}

/// Where the last step goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// To x0.
    #[default]
    Clean,
    /// To the level of timestep 0 (`set_alpha_to_one` false, `final_sigmas_type` sigma_min).
    First,
    /// To that kappa with the image as it is, x0 + kappa eps: what diffusers' Euler scheduler leaves then.
    FirstUnscaled,
    /// Nowhere: the last level that is visited (UniPC's with sigmas of its own).
    Last,
}

/// Levels that are spaced in kappa.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sigmas {
    pub run: Run,
    /// The last kappa and the first, instead of those that the timesteps give.
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// Which timestep the network is told between two.
    pub told: Told,
}

/// What a network is told between two timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The number between.
    Between,
    /// The nearer timestep.
    Rounded,
    /// The lower timestep, as diffusers' solvers cut off what it finds by logarithms in single precision. It may be T - 2 at
    /// the noisiest.
    Cut,
}

impl Told {
    fn timestep(self, level: Level, schedule: &Schedule) -> Result<f64, Error> {
        let last = schedule.level(schedule.timesteps() - 1);
        let is_noisiest = (level.kappa() / last.kappa() - 1.0).abs() < 1e-6 && last.timestep > 0.0;
        // Where a little less of kappa is another timestep.
        let timestep = match is_noisiest && (self == Told::Cut || schedule.ends_in_noise()) {
            true if schedule.timesteps() < LONG => return Err(Error::LastBit),
            true if is_below_itself(last, schedule.ends_in_noise())? => {
                schedule.level_of(last.kappa() * (1.0 - 1e-9)).timestep
            }
            true => last.timestep,
            false => level.timestep,
        };
        Ok(match self {
            Told::Between => timestep,
            Told::Rounded => timestep.round_ties_even(),
            Told::Cut => timestep.floor(),
        })
    }
}

/// Of shorter schedules some were found for which [`is_below_itself`] is wrong: numpy's logarithm in single precision is off by
/// more than half its last bit in 1 of 20 places. From here to 2000 timesteps none was, of four tables of betas.
const LONG: usize = 1000;

/// Whether the logarithm of the level's kappa, a number in single precision, grows when it is rounded to that: kappa then
/// lies below the level by its logarithm. An error if that hangs on the last bit of kappa, unless that is `exact`, or of the
/// logarithm: libraries differ there.
fn is_below_itself(level: Level, exact: bool) -> Result<bool, Error> {
    let alpha_bar = (level.alpha * level.alpha) as f32;
    let logarithm = (((1.0 - alpha_bar) / alpha_bar).sqrt() as f64).ln();
    let rounded = logarithm as f32;
    let off = (logarithm - rounded as f64) / (rounded.abs().next_up() - rounded.abs()) as f64;
    let least = if exact { 0.0 } else { 0.05 };
    if logarithm.abs() < 0.5 || !(least..=0.4).contains(&off.abs()) {
        return Err(Error::LastBit);
    }
    Ok(off < 0.0)
}

/// What of kappa is evenly spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// Its 7th root (Karras et al. 2022, eq. 5).
    Karras,
    /// Its logarithm (Lu et al. 2022b, section 6.1).
    Exponential,
    /// The share of the Beta(0.6, 0.6) distribution below it (Lee et al. 2024, section 3.2).
    Beta,
}

impl Run {
    /// The name of levels that are spaced so.
    pub fn name(self) -> &'static str {
        match self {
            Run::Karras => Spacing::Karras.name(),
            Run::Exponential => "exponential",
            Run::Beta => "beta",
        }
    }
}

/// The quantile of Beta(0.6, 0.6).
fn beta_quantile(share: f64) -> f64 {
    const SHAPE: f64 = 0.6;
    if share > 0.5 {
        return 1.0 - beta_quantile(1.0 - share);
    }
    // x^a Σ (1 - a)(2 - a)...(n - a) / (n! (a + n)) x^n, of which the whole is twice the half.
    let below = |x: f64| {
        let next = |(product, n): (f64, f64)| (product * (n + 1.0 - SHAPE) / (n + 1.0) * x, n + 1.0);
        let terms = std::iter::successors(Some((1.0, 0.0)), |term| Some(next(*term))).take(80);
        x.powf(SHAPE) * terms.map(|(product, n)| product / (SHAPE + n)).sum::<f64>()
    };
    let wanted = share * 2.0 * below(0.5);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if below(middle) < wanted { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

impl Sigmas {
    /// kappa at `share` of the way from `high` to `low`.
    fn at(&self, low: f64, high: f64, share: f64) -> f64 {
        let (low, high) = (self.min.unwrap_or(low), self.max.unwrap_or(high));
        match self.run {
            Run::Karras => karras(low, high, 1.0 - share),
            Run::Beta => low + beta_quantile(1.0 - share) * (high - low),
            Run::Exponential => (high.ln() + share * (low.ln() - high.ln())).exp(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let ends = [("sigma_min", self.min), ("sigma_max", self.max)];
        match ends.into_iter().find(|(_, end)| end.is_some_and(|kappa| !(kappa > 0.0 && kappa <= 1e6))) {
            Some((name, end)) => {
                Err(Error::Setting { name, value: end.unwrap_or(f64::NAN), range: "above 0 and at most 1e6" })
            }
            None => Ok(()),
        }
    }
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
        // Operation for operation what numpy's arange and linspace compute, whose rounding decides the ties.
        let interval = if steps == 1 { 0.0 } else { (total - 1) as f64 / (steps - 1) as f64 };
        Ok(match self {
            Spacing::Leading => (0..steps).rev().map(|i| i * (total / steps)).collect(),
            Spacing::Linspace | Spacing::Karras => {
                (0..steps).rev().map(|i| (i as f64 * interval).round_ties_even() as usize).collect()
            }
            Spacing::Trailing => trailing(steps, total, total),
        })
    }

    /// Whether diffusers' list of trailing timesteps has an entry too many, -1, by rounding: 61 steps of 1000, say. Ours has
    /// not.
    pub fn has_surplus(self, steps: usize, total: usize) -> bool {
        let ratio = total as f64 / steps as f64;
        self == Spacing::Trailing && (total as f64 / ratio).ceil() as usize > steps
    }

    /// The levels of `steps` steps, the noisiest first. An error unless there is 1 or more, and with a spacing of whole
    /// timesteps at most T.
    pub(super) fn levels(
        self,
        steps: usize,
        grid: Grid,
        own: &Discretization,
        schedule: &Schedule,
    ) -> Result<Vec<Level>, Error> {
        let Some(sigmas) = own.sigmas else {
            let run = Sigmas { run: Run::Karras, min: None, max: None, told: Told::Between };
            return match self {
                Spacing::Karras => between(schedule.kappas(), steps, &run, schedule),
                _ => self.spaced(steps, grid, own, schedule),
            };
        };
        sigmas.check()?;
        let ends = match grid {
            Grid::AboveZero => schedule.kappas(),
            _ => {
                let levels = self.spaced(steps, grid, own, schedule)?;
                (levels[levels.len() - 1].kappa(), levels[0].kappa())
            }
        };
        between(ends, steps, &sigmas, schedule)
    }

    /// The levels of timesteps.
    fn spaced(self, steps: usize, grid: Grid, own: &Discretization, schedule: &Schedule) -> Result<Vec<Level>, Error> {
        let total = schedule.timesteps();
        let first = own.first.unwrap_or(total);
        if steps == 0 || steps > first {
            return Err(Error::Steps { steps, timesteps: first });
        }
        let drops = grid == Grid::AboveZero && self != Spacing::Trailing && steps < first;
        let timesteps: Vec<f64> = match (grid, self) {
            (Grid::Between, Spacing::Linspace) if steps > 1 => {
                let interval = (first - 1) as f64 / (steps - 1) as f64;
                (0..steps).rev().map(|i| i as f64 * interval).collect()
            }
            (_, Spacing::Trailing) => trailing(steps, first, total).into_iter().map(|t| t as f64).collect(),
            _ => {
                let offset = if self == Spacing::Leading { own.offset } else { 0 };
                let list = self.timesteps(steps + usize::from(drops), first)?;
                list[..steps].iter().map(|t| t.saturating_add(offset) as f64).collect()
            }
        };
        match timesteps.iter().find(|t| **t > (total - 1) as f64) {
            Some(timestep) => Err(Error::Beyond { timestep: *timestep, timesteps: total }),
            None => Ok(timesteps.into_iter().map(|t| schedule.level_between(t)).collect()),
        }
    }
}

/// Multiples of `total` / `steps` below `first`, counted from there down, rounded, less 1: `steps` of them if it is `total`.
fn trailing(steps: usize, first: usize, total: usize) -> Vec<usize> {
    let (from, ratio) = (first as f64, total as f64 / steps as f64);
    let count = if first == total { steps } else { (from / ratio).ceil() as usize };
    let at = |i: usize| (from + i as f64 * ((from - ratio) - from)).round_ties_even() as usize;
    (0..count).map(|i| at(i).saturating_sub(1)).collect()
}

/// The levels of `steps` kappas from the higher of the ends (low, high) to the lower.
fn between((low, high): (f64, f64), steps: usize, sigmas: &Sigmas, schedule: &Schedule) -> Result<Vec<Level>, Error> {
    let (least, most) = (sigmas.min.unwrap_or(low), sigmas.max.unwrap_or(high));
    if least > most {
        return Err(Error::Setting { name: "sigma_min", value: least, range: "at most sigma_max" });
    }
    if steps == 0 || steps > MOST {
        return Err(Error::Steps { steps, timesteps: MOST });
    }
    let last = (steps - 1).max(1) as f64;
    let level = |i: usize| {
        let level = schedule.level_of(sigmas.at(low, high, i as f64 / last));
        Ok(Level { timestep: sigmas.told.timestep(level, schedule)?, ..level })
    };
    (0..steps).map(level).collect()
}

/// Steps of a sampler that goes between timesteps.
const MOST: usize = 1 << 16;
