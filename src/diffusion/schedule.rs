//! Noise schedules: for every timestep t in 0..T the level (alpha, sigma) of x_t = alpha · x0 + sigma · eps.

use super::betas::{self, BetaSchedule};
use super::choice::Choice;
use super::error::Error;
use super::path::{Level, Path, Transition};
use super::variance::LearnedVariance;

/// rho of Karras et al. 2022, eq. 5.
const RHO: f64 = 7.0;

/// kappa at `share` (0 to 1) of the way from `low` to `high`, its 7th root running linearly (Karras et al. 2022, eq. 5).
pub(super) fn karras(low: f64, high: f64, share: f64) -> f64 {
    let (from, to) = (low.powf(1.0 / RHO), high.powf(1.0 / RHO));
    if share == 1.0 { high } else { (from + share * (to - from)).powf(RHO) }
}

/// Which schedule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleKind {
    /// DDPM with a table of beta_t.
    Ddpm(BetaSchedule),
    /// The VP SDE with beta(u) = beta_min + u (beta_max - beta_min) at u = (t + 1) / T: alpha is exp of
    /// -u²/4 (beta_max - beta_min) - u/2 beta_min (Song et al. 2021, eq. 33).
    Vp { beta_min: f64, beta_max: f64 },
    /// The sub-VP SDE with the same alpha (Song et al. 2021, eq. 29).
    SubVp { beta_min: f64, beta_max: f64 },
    /// The VE SDE, and NCSN's ladder: sigma geometric from `sigma_min` to `sigma_max` (Song & Ermon 2019, section 4;
    /// Song et al. 2021, eq. 30).
    Ve { sigma_min: f64, sigma_max: f64 },
    /// Karras et al. 2022, eq. 5 with rho = 7: kappa from `sigma_min` to `sigma_max`.
    Edm { sigma_min: f64, sigma_max: f64 },
    /// Rectified flow: sigma = (t + 1/2) / T (Liu et al. 2023, eq. 1), which keeps clear of both ends, where either x0 or
    /// eps is lost.
    Flow,
}

impl Choice for ScheduleKind {
    const NAMED: &'static [Self] = &Self::ALL;

    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Ddpm(BetaSchedule::Linear { .. }) => ("linear", "Ho et al. (2020): beta from 1e-4 to 0.02"),
            Self::Ddpm(BetaSchedule::ScaledLinear { .. }) => ("scaled-linear", "Rombach et al. (2022)"),
            Self::Ddpm(BetaSchedule::Cosine) => ("cosine", "Nichol & Dhariwal (2021)"),
            Self::Ddpm(BetaSchedule::Sigmoid { .. }) => {
                ("sigmoid", "Beta along a sigmoid from 1e-4 to 0.02 (Xu et al. 2022)")
            }
            Self::Ddpm(BetaSchedule::Laplace) => ("laplace", "Hang & Gu (2024)"),
            Self::Ddpm(BetaSchedule::Exponential) => ("exp", "alpha_bar falling exponentially"),
            Self::Ddpm(BetaSchedule::Trained) => ("trained-betas", "A table of its own"),
            Self::Vp { .. } => ("vp", "Variance-preserving SDE (Song et al. 2021)"),
            Self::SubVp { .. } => ("sub-vp", "Sub-variance-preserving SDE (Song et al. 2021)"),
            Self::Ve { .. } => ("ve", "Variance-exploding SDE, NCSN's geometric ladder (Song & Ermon 2019)"),
            Self::Edm { .. } => ("edm", "Karras et al. (2022)"),
            Self::Flow => ("flow", "Rectified flow (Liu et al. 2023)"),
        }
    }
}

impl ScheduleKind {
    /// The VP SDE of Song et al. 2021, appendix C.
    pub const VP: ScheduleKind = ScheduleKind::Vp { beta_min: 0.1, beta_max: 20.0 };
    /// The sub-VP SDE with the same betas.
    pub const SUB_VP: ScheduleKind = ScheduleKind::SubVp { beta_min: 0.1, beta_max: 20.0 };
    /// The VE SDE of Song et al. 2021, appendix C, for images of 32 x 32.
    pub const VE: ScheduleKind = ScheduleKind::Ve { sigma_min: 0.01, sigma_max: 50.0 };
    /// Karras et al. 2022, table 1.
    pub const EDM: ScheduleKind = ScheduleKind::Edm { sigma_min: 0.002, sigma_max: 80.0 };
    /// DDPM with the cosine schedule.
    pub const COSINE: ScheduleKind = ScheduleKind::Ddpm(BetaSchedule::Cosine);
    /// One of each kind, with the papers' settings.
    pub const ALL: [ScheduleKind; 8] = [
        ScheduleKind::Ddpm(BetaSchedule::HO),
        ScheduleKind::COSINE,
        ScheduleKind::Ddpm(BetaSchedule::Sigmoid { start: 1e-4, end: 0.02 }),
        ScheduleKind::VP,
        ScheduleKind::SUB_VP,
        ScheduleKind::VE,
        ScheduleKind::EDM,
        ScheduleKind::Flow,
    ];

    /// What a user calls it.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// The same between other noise levels, where the schedule has such ends.
    pub fn between(mut self, low: Option<f64>, high: Option<f64>) -> ScheduleKind {
        if let ScheduleKind::Ve { sigma_min, sigma_max } | ScheduleKind::Edm { sigma_min, sigma_max } = &mut self {
            (*sigma_min, *sigma_max) = (low.unwrap_or(*sigma_min), high.unwrap_or(*sigma_max));
        }
        self
    }

    /// How the schedule scales its images.
    pub fn path(self) -> Path {
        match self {
            ScheduleKind::Ddpm(_) | ScheduleKind::Vp { .. } => Path::VariancePreserving,
            ScheduleKind::SubVp { .. } => Path::SubVariancePreserving,
            ScheduleKind::Ve { .. } => Path::VarianceExploding,
            ScheduleKind::Edm { .. } => Path::Edm,
            ScheduleKind::Flow => Path::Flow,
        }
    }

    fn check(self) -> Result<(), Error> {
        // A beta that f64 can't tell from 0 would leave alpha_bar at 1, and sigma at 0.
        let inside = |beta: f64| beta > f64::EPSILON && beta < 1.0;
        let ordered = |low: f64, high: f64| low > 0.0 && low <= high && high <= 1e4;
        match self {
            ScheduleKind::Ddpm(BetaSchedule::Trained) => Err(Error::NoTable),
            ScheduleKind::Ddpm(betas) => match betas.ends() {
                Some((start, end)) if !(inside(start) && inside(end)) => Err(Error::Betas { start, end }),
                _ => Ok(()),
            },
            ScheduleKind::Vp { beta_min: low, beta_max: high }
            | ScheduleKind::SubVp { beta_min: low, beta_max: high }
            | ScheduleKind::Ve { sigma_min: low, sigma_max: high }
            | ScheduleKind::Edm { sigma_min: low, sigma_max: high }
                if !ordered(low, high) =>
            {
                Err(Error::Range { low, high })
            }
            _ => Ok(()),
        }
    }

    /// (alpha, sigma²) of each of `timesteps` timesteps.
    fn table(self, timesteps: usize) -> Vec<(f64, f64)> {
        let (count, last) = (timesteps as f64, (timesteps - 1).max(1) as f64);
        // alpha_bar = exp(-exponent), of the VP SDE.
        let exponent = |t: usize, low: f64, high: f64| {
            let u = (t + 1) as f64 / count;
            0.5 * u * u * (high - low) + u * low
        };
        let at = |t: usize| match self {
            ScheduleKind::Ddpm(_) => unreachable!("a running product"),
            ScheduleKind::Vp { beta_min, beta_max } => {
                let exponent = exponent(t, beta_min, beta_max);
                ((-0.5 * exponent).exp(), -(-exponent).exp_m1())
            }
            ScheduleKind::SubVp { beta_min, beta_max } => {
                let exponent = exponent(t, beta_min, beta_max);
                ((-0.5 * exponent).exp(), (-exponent).exp_m1().powi(2))
            }
            ScheduleKind::Ve { sigma_min, sigma_max } => {
                (1.0, (sigma_min * (sigma_max / sigma_min).powf(t as f64 / last)).powi(2))
            }
            ScheduleKind::Edm { sigma_min, sigma_max } => {
                let kappa = karras(sigma_min, sigma_max, t as f64 / last);
                let alpha = Path::Edm.alpha(kappa);
                (alpha, (alpha * kappa).powi(2))
            }
            ScheduleKind::Flow => {
                let sigma = (t as f64 + 0.5) / count;
                (1.0 - sigma, sigma * sigma)
            }
        };
        match self {
            ScheduleKind::Ddpm(betas) => products(&betas.betas(timesteps)),
            _ => (0..timesteps).map(at).collect(),
        }
    }
}

/// (alpha, sigma²) of alpha_bar_t = Π_{s <= t} (1 - beta_s) (Ho et al. 2020, eq. 4). 1 - alpha_bar is carried along by its
/// own sum: the difference would lose digits at the first timesteps.
fn products(betas: &[f64]) -> Vec<(f64, f64)> {
    let next = |(alpha_bar, variance): &mut (f64, f64), beta: &f64| {
        (*alpha_bar, *variance) = (*alpha_bar * (1.0 - beta), beta + (1.0 - beta) * *variance);
        Some((alpha_bar.sqrt(), *variance))
    };
    betas.iter().scan((1.0, 0.0), next).collect()
}

impl From<BetaSchedule> for ScheduleKind {
    fn from(betas: BetaSchedule) -> ScheduleKind {
        ScheduleKind::Ddpm(betas)
    }
}

/// The levels of T timesteps, the noisiest last.
///
/// Every alpha and sigma is finite and above 0, and so are their squares and quotients.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    path: Path,
    levels: Vec<Level>,
    /// Whether nothing of the image is left at the last timestep, whose level in the table stands for that.
    ends_in_noise: bool,
}

/// alpha_bar that diffusers' samplers in kappa have instead of 0, so that kappa is a number.
const LEAST_ALPHA_BAR: f32 = 1.0 / (1 << 24) as f32;

impl Schedule {
    /// The table of `kind` over T = `timesteps` timesteps. An error if there is none, if the kind's numbers make no
    /// sense, or if alpha² gets too small for the GPU's f32.
    pub fn new(kind: impl Into<ScheduleKind>, timesteps: usize) -> Result<Schedule, Error> {
        let kind = kind.into();
        if timesteps == 0 {
            return Err(Error::NoTimesteps);
        }
        kind.check()?;
        Schedule::of_table(kind, &kind.table(timesteps))
    }

    /// DDPM with the table that diffusers computes in single precision: of `betas` over T = `timesteps`, or of `trained`, one
    /// a timestep, if it is given. If it is to `end_in_noise` nothing of the image is left at the last timestep: the table has
    /// alpha_bar = 2^-24 there, as diffusers' samplers in kappa; ddpm and ddim read 0. Errors as of [`Schedule::new`], or if a
    /// beta isn't inside (0, 1).
    pub fn in_single_precision(
        betas: BetaSchedule,
        trained: Option<&[f64]>,
        timesteps: usize,
        end_in_noise: bool,
    ) -> Result<Schedule, Error> {
        let kind = if trained.is_some() { BetaSchedule::Trained } else { betas };
        let exact = match trained {
            Some(table) => table.to_vec(),
            None => {
                ScheduleKind::from(kind).check()?;
                kind.betas(timesteps)
            }
        };
        let is_inside = |beta: &f64| *beta > f64::EPSILON && *beta < 1.0;
        if exact.is_empty() {
            return Err(Error::NoTimesteps);
        }
        if let Some(timestep) = exact.iter().position(|beta| !is_inside(beta)) {
            return Err(Error::Beta { timestep, beta: exact[timestep] });
        }
        let mut table = kind.in_single_precision(&exact);
        if end_in_noise {
            if exact.len() < 2 {
                return Err(Error::Terminal);
            }
            table = betas::without_terminal_signal(&table);
        }
        let mut alpha_bars = betas::alpha_bars(&table);
        if end_in_noise && let Some(last) = alpha_bars.last_mut() {
            *last = LEAST_ALPHA_BAR;
        }
        let rows = alpha_bars.into_iter().map(|alpha_bar| ((alpha_bar as f64).sqrt(), 1.0 - alpha_bar as f64));
        let schedule = Schedule::of_table(kind.into(), &rows.collect::<Vec<_>>())?;
        Ok(Schedule { ends_in_noise: end_in_noise, ..schedule })
    }

    fn of_table(kind: ScheduleKind, table: &[(f64, f64)]) -> Result<Schedule, Error> {
        let level = |(t, (alpha, variance)): (usize, &(f64, f64))| Level {
            timestep: t as f64,
            alpha: *alpha,
            sigma: variance.sqrt(),
        };
        let levels: Vec<Level> = table.iter().enumerate().map(level).collect();
        match levels.iter().position(|level| level.alpha.powi(2) < f64::from(f32::MIN_POSITIVE)) {
            Some(timestep) => Err(Error::Vanishing { timestep }),
            None => Ok(Schedule { kind, path: kind.path(), levels, ends_in_noise: false }),
        }
    }

    /// Whether nothing of the image is left at the last timestep (Lin et al. 2023, Algorithm 1).
    pub fn ends_in_noise(&self) -> bool {
        self.ends_in_noise
    }

    /// What the table was made from.
    pub fn kind(&self) -> ScheduleKind {
        self.kind
    }

    /// How images are scaled at a noise level.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The same noise levels, timestep by timestep, scaled as `path` has it: x / alpha stays what it is. A network of this
    /// schedule is one of that, once its input is scaled back: one checkpoint, seen from another side (Karras et al. 2022,
    /// section 2 and table 1; Song et al. 2021, section 3.4).
    pub fn along(&self, path: Path) -> Schedule {
        let mut view = Schedule { path, ..self.clone() };
        // Its own path keeps every digit.
        if path != self.path {
            view.levels = self.levels.iter().map(|level| view.scaled(level.timestep, level.kappa())).collect();
        }
        view
    }

    /// T, the number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.levels.len()
    }

    /// The level of timestep t. Panics unless t < T.
    pub fn level(&self, timestep: usize) -> Level {
        self.levels[timestep]
    }

    /// beta_t (Ho et al. 2020, eq. 2); see [`Transition::beta`]. Panics unless t < T.
    pub fn beta(&self, timestep: usize) -> f64 {
        self.transition_from(timestep).beta()
    }

    /// alpha_bar_t = alpha² (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn alpha_bar(&self, timestep: usize) -> f64 {
        self.level(timestep).alpha.powi(2)
    }

    /// The factor of x0 in x_t, sqrt(alpha_bar_t) (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn alpha(&self, timestep: usize) -> f64 {
        self.level(timestep).alpha
    }

    /// The factor of eps in x_t, in DDPM sqrt(1 - alpha_bar_t) (Ho et al. 2020, eq. 4). Panics unless t < T.
    pub fn sigma(&self, timestep: usize) -> f64 {
        self.level(timestep).sigma
    }

    /// The ratios sigma / alpha at the first and at the last timestep.
    pub fn kappas(&self) -> (f64, f64) {
        (self.levels[0].kappa(), self.levels[self.levels.len() - 1].kappa())
    }

    /// The level between two timesteps, kappa running linearly from one to the other, as diffusers' Euler and Heun
    /// schedulers have it. `timestep` is kept within 0..=T - 1.
    pub fn level_between(&self, timestep: f64) -> Level {
        let timestep = timestep.clamp(0.0, (self.timesteps() - 1) as f64);
        let below = self.level(timestep as usize);
        let share = timestep - below.timestep;
        if share == 0.0 {
            return below;
        }
        let above = self.level(timestep as usize + 1);
        self.scaled(timestep, below.kappa() + share * (above.kappa() - below.kappa()))
    }

    /// The level of the ratio `kappa`; its timestep is found between two of the table, log kappa running linearly, as
    /// diffusers' `_sigma_to_t` has it, and is one of the ends' beyond them.
    pub fn level_of(&self, kappa: f64) -> Level {
        let above = match self.ends_in_noise {
            // The level that stands for the last timestep may lie below those before it.
            true => self.levels.iter().rposition(|level| level.kappa() <= kappa).map_or(0, |below| below + 1),
            false => self.levels.partition_point(|level| level.kappa() < kappa),
        };
        let timestep = match above {
            0 => 0.0,
            _ if above == self.levels.len() => (above - 1) as f64,
            _ => {
                let (low, high) = (self.level(above - 1).kappa(), self.level(above).kappa());
                (above - 1) as f64 + (kappa / low).ln() / (high / low).ln()
            }
        };
        self.scaled(timestep, kappa)
    }

    fn scaled(&self, timestep: f64, kappa: f64) -> Level {
        let alpha = self.path().alpha(kappa);
        Level { timestep, alpha, sigma: kappa * alpha }
    }

    /// beta-tilde_t, the variance of x_{t-1} given x_t and x0 (Ho et al. 2020, eq. 7); 0 at t = 0. Panics unless t < T.
    pub fn posterior_variance(&self, timestep: usize) -> f64 {
        self.transition_from(timestep).posterior_variance()
    }

    /// The range of a learned variance of x_{t-1} given x_t. Panics unless t < T.
    pub fn learned_variance(&self, timestep: usize) -> LearnedVariance {
        let second = self.transition_from(1.min(self.timesteps() - 1));
        LearnedVariance::new(self.transition_from(timestep), second)
    }

    /// The reverse step from `timestep` to an earlier one; `None` stands for x0 itself. Panics unless both are < T.
    pub fn transition(&self, timestep: usize, previous: Option<usize>) -> Transition {
        Transition { from: self.level(timestep), to: previous.map_or(Level::CLEAN, |t| self.level(t)) }
    }

    pub(super) fn transition_from(&self, timestep: usize) -> Transition {
        self.transition(timestep, timestep.checked_sub(1))
    }
}
