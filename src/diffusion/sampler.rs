//! Samplers: from noise to x0, as a list of linear steps or as a rule that finds them.

use super::error::Error;
use super::multistep::{Churn, Solver};
use super::parameterization::Prediction;
use super::path::{Level, Path, Transition};
use super::program::Program;
use super::runge_kutta::{Control, RungeKutta};
use super::schedule::Schedule;
use super::spacing::{Discretization, End, Grid, Spacing};
use super::step::{Estimate, NO_CLIP, Step, Threshold};
use super::variance::Variance;
use super::{ancestral, multistep, stochastic};

/// Which sampler, with what is its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020, Algorithm 2).
    Ddpm { variance: Variance },
    /// Song, Meng & Ermon 2020, eq. 12. `eta` (eq. 16) scales the noise: 0 is deterministic, 1 as noisy as DDPM.
    Ddim { eta: f64 },
    /// Euler's rule on the probability-flow ODE in kappa (Karras et al. 2022, eq. 4).
    Euler,
    /// Euler's rule and noise (Song et al. 2021, appendix F); `eta` as of DDIM.
    EulerAncestral { eta: f64 },
    /// Heun's rule, with noise if `churn` says so (Karras et al. 2022, Algorithm 2).
    Heun { churn: Churn },
    /// DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2).
    DpmSolver,
    /// SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 6).
    DpmSolverSde,
    /// UniPC-2, B(h) = e^h - 1 (Zhao et al. 2023).
    UniPc,
    /// Dormand & Prince's adaptive pair on the probability-flow ODE (Song et al. 2021, appendix D.4).
    Rk45 { tolerance: f64 },
    /// Euler and Maruyama's rule on the reverse SDE (Song et al. 2021, appendix E).
    ReverseSde,
    /// The same with Langevin corrections of signal-to-noise ratio `snr` (Song et al. 2021, Algorithm 1).
    PredictorCorrector { snr: f64, corrections: usize },
    /// Annealed Langevin dynamics (Song & Ermon 2019, Algorithm 1): `repeats` steps a level of `size` times sigma² / 2,
    /// the noise's variance multiplied by `temperature`: 0 is annealed gradient ascent.
    Langevin { size: f64, repeats: usize, temperature: f64 },
}

impl SamplerKind {
    /// The default settings of each.
    pub const ALL: [SamplerKind; 12] = [
        SamplerKind::Ddpm { variance: Variance::FixedSmall },
        SamplerKind::Ddim { eta: 0.0 },
        SamplerKind::Euler,
        SamplerKind::EulerAncestral { eta: 1.0 },
        SamplerKind::Heun { churn: Churn { amount: 0.0, min: 0.0, max: f64::INFINITY, noise: 1.0 } },
        SamplerKind::DpmSolver,
        SamplerKind::DpmSolverSde,
        SamplerKind::UniPc,
        SamplerKind::Rk45 { tolerance: 1e-3 },
        SamplerKind::ReverseSde,
        SamplerKind::PredictorCorrector { snr: 0.16, corrections: 1 },
        SamplerKind::Langevin { size: 0.2, repeats: 5, temperature: 1.0 },
    ];

    /// The name that a user types.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// What others call it: diffusers, k-diffusion and what is built on them.
    pub fn aliases(self) -> &'static [&'static str] {
        match self {
            SamplerKind::EulerAncestral { .. } => &["euler_ancestral", "euler-a", "euler_a"],
            SamplerKind::DpmSolver => &["dpmpp", "dpmpp-2m", "dpmpp_2m", "dpm++-2m", "dpm++2m", "dpm-solver++"],
            SamplerKind::DpmSolverSde => &["dpmpp-sde", "dpmpp_sde", "dpmpp-2m-sde", "dpmpp_2m_sde", "dpm++-2m-sde"],
            SamplerKind::UniPc => &["uni-pc", "uni_pc"],
            SamplerKind::ReverseSde => &["reverse_sde"],
            SamplerKind::PredictorCorrector { .. } => &["predictor-corrector", "predictor_corrector"],
            _ => &[],
        }
    }

    /// The one of this name or alias, with the papers' settings.
    pub fn called(name: &str) -> Option<SamplerKind> {
        let name = name.to_lowercase();
        let name = name.as_str();
        SamplerKind::ALL.into_iter().find(|kind| kind.name() == name || kind.aliases().contains(&name))
    }

    /// Where it was published.
    pub fn paper(self) -> &'static str {
        self.words().1
    }

    fn words(self) -> (&'static str, &'static str) {
        match self {
            SamplerKind::Ddpm { .. } => ("ddpm", "Ho et al. 2020"),
            SamplerKind::Ddim { .. } => ("ddim", "Song, Meng & Ermon 2020"),
            SamplerKind::Euler => ("euler", "Karras et al. 2022"),
            SamplerKind::EulerAncestral { .. } => ("euler-ancestral", "Song et al. 2021"),
            SamplerKind::Heun { .. } => ("heun", "Karras et al. 2022"),
            SamplerKind::DpmSolver => ("dpm++", "Lu et al. 2022"),
            SamplerKind::DpmSolverSde => ("dpm++-sde", "Lu et al. 2022"),
            SamplerKind::UniPc => ("unipc", "Zhao et al. 2023"),
            SamplerKind::Rk45 { .. } => ("rk45", "Dormand & Prince 1980; Song et al. 2021"),
            SamplerKind::ReverseSde => ("reverse-sde", "Song et al. 2021"),
            SamplerKind::PredictorCorrector { .. } => ("pc", "Song et al. 2021"),
            SamplerKind::Langevin { .. } => ("langevin", "Song & Ermon 2019"),
        }
    }

    /// The order of convergence in the number of steps that theory gives: of each sample for a deterministic sampler, of
    /// the samples' distribution for a stochastic one, of the bias in the step's size for Langevin dynamics.
    pub fn order(self) -> u32 {
        match self {
            SamplerKind::Heun { .. } | SamplerKind::DpmSolver | SamplerKind::DpmSolverSde => 2,
            // UniP-2 is of second order; UniC raises it by one (Zhao et al. 2023, theorem 3.1).
            SamplerKind::UniPc => 3,
            SamplerKind::Rk45 { .. } => 5,
            _ => 1,
        }
    }

    /// Evaluations of the network a step; the last step may take fewer.
    pub fn evaluations(self) -> usize {
        match self {
            SamplerKind::Heun { .. } => 2,
            SamplerKind::Rk45 { .. } => 6,
            SamplerKind::PredictorCorrector { corrections, .. } => 1 + corrections,
            SamplerKind::Langevin { repeats, .. } => repeats,
            _ => 1,
        }
    }

    /// Whether samples follow from the noise that sampling starts from alone.
    pub fn is_deterministic(self) -> bool {
        match self {
            SamplerKind::Ddim { eta } | SamplerKind::EulerAncestral { eta } => eta == 0.0,
            SamplerKind::Heun { churn } => churn.amount == 0.0,
            SamplerKind::Euler | SamplerKind::DpmSolver | SamplerKind::UniPc | SamplerKind::Rk45 { .. } => true,
            SamplerKind::Langevin { temperature, .. } => temperature == 0.0,
            SamplerKind::Ddpm { .. }
            | SamplerKind::DpmSolverSde
            | SamplerKind::ReverseSde
            | SamplerKind::PredictorCorrector { .. } => false,
        }
    }

    fn grid(self) -> Grid {
        match self {
            SamplerKind::Euler | SamplerKind::EulerAncestral { .. } | SamplerKind::Heun { .. } => Grid::Between,
            SamplerKind::DpmSolver | SamplerKind::DpmSolverSde | SamplerKind::UniPc => Grid::AboveZero,
            _ => Grid::Whole,
        }
    }

    fn check(self) -> Result<(), Error> {
        let refuse = |name, value, range| Err(Error::Setting { name, value, range });
        let within = |value: f64, low: f64, high: f64| value >= low && value <= high;
        match self {
            SamplerKind::Ddim { eta } | SamplerKind::EulerAncestral { eta } if !within(eta, 0.0, 1.0) => {
                Err(Error::Eta(eta))
            }
            SamplerKind::Heun { churn } if !(within(churn.amount, 0.0, 1e6) && within(churn.noise, 0.0, 10.0)) => {
                refuse("churn", churn.amount, "0 or more, its noise from 0 to 10")
            }
            SamplerKind::Rk45 { tolerance } if !within(tolerance, 1e-12, 1.0) => {
                refuse("tolerance", tolerance, "from 1e-12 to 1")
            }
            SamplerKind::PredictorCorrector { snr, .. } if !within(snr, 0.0, 1.0) => refuse("snr", snr, "from 0 to 1"),
            SamplerKind::PredictorCorrector { corrections, .. } if corrections > 1000 => {
                refuse("corrections", corrections as f64, "at most 1000")
            }
            SamplerKind::Langevin { size, .. } if !(size > 0.0 && size <= 1.0) => {
                refuse("Langevin step size", size, "above 0 and at most 1")
            }
            SamplerKind::Langevin { repeats, .. } if !(1..=10_000).contains(&repeats) => {
                refuse("Langevin steps a level", repeats as f64, "from 1 to 10000")
            }
            SamplerKind::Langevin { temperature, .. } if !within(temperature, 0.0, 10.0) => {
                refuse("temperature", temperature, "from 0 to 10")
            }
            _ => Ok(()),
        }
    }
}

/// A sampler with its settings. Start from [`Sampler::ddpm`], [`Sampler::ddim`] or [`Sampler::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// Which sampler.
    pub kind: SamplerKind,
    /// Number of steps: 1 to T, or more with [`Spacing::Karras`]. The adaptive one finds its own.
    pub steps: usize,
    /// What the network's output is.
    pub prediction: Prediction,
    /// Clamp every estimate of x0 to [-clip, clip]: Some(1) for images in [-1, 1].
    pub clip: Option<f64>,
    /// Which timesteps are visited.
    pub spacing: Spacing,
    /// DDIM: whether eps is what the clamped estimate of x0 implies (diffusers' name; all the others imply it too), or
    /// what the output says. The second keeps errors that the clamp has just shown: of digits drawn in 50 steps with
    /// eta = 0 by one model (550 training steps) a classifier recognised 22 % so, and 80 % with the first.
    pub use_clipped_model_output: bool,
    /// Share of the steps that are taken, the last ones: 1 begins with noise, less with a noisy image (Meng et al. 2022,
    /// SDEdit, section 3).
    pub strength: f64,
    /// Instead of the clamp.
    pub threshold: Option<Threshold>,
    /// DDPM: the last step adds noise, too, if it doesn't start at timestep 0. diffusers' does; beta-tilde is 0 there.
    pub noisy_end: bool,
    /// Of DPM-Solver++ and UniPC.
    pub solver: Solver,
    /// What a configuration says of the levels beside the spacing.
    pub discretization: Discretization,
}

impl Sampler {
    /// What the levels are spaced by: the spacing, or the sigmas that stand for it.
    pub fn spacing_name(&self) -> &'static str {
        self.discretization.sigmas.map_or(self.spacing.name(), |sigmas| sigmas.run.name())
    }

    /// DDPM as diffusers has it by default: beta-tilde_t, eps, x0 clamped to [-1, 1], leading.
    pub fn ddpm(steps: usize) -> Sampler {
        let kind = SamplerKind::Ddpm { variance: Variance::FixedSmall };
        let (prediction, spacing) = (Prediction::Eps, Spacing::Leading);
        Sampler {
            kind,
            steps,
            prediction,
            clip: Some(1.0),
            spacing,
            use_clipped_model_output: false,
            strength: 1.0,
            threshold: None,
            noisy_end: false,
            solver: Solver::default(),
            discretization: Discretization::default(),
        }
    }

    /// DDIM: eps, x0 clamped to [-1, 1] and eps with it, leading. diffusers' default does not clamp eps.
    pub fn ddim(steps: usize, eta: f64) -> Sampler {
        Sampler::new(SamplerKind::Ddim { eta }, steps)
    }

    /// Any sampler: eps, x0 clamped to [-1, 1] and eps with it, leading.
    pub fn new(kind: SamplerKind, steps: usize) -> Sampler {
        Sampler { kind, use_clipped_model_output: true, ..Sampler::ddpm(steps) }
    }

    /// The steps in the order in which they run, from the noisiest timestep to x0: those of [`Sampler::program`].
    ///
    /// # Errors
    /// Of [`Sampler::program`]; [`Error::Adaptive`] for a sampler that finds its steps while it runs.
    pub fn plan(&self, schedule: &Schedule) -> Result<Vec<Step>, Error> {
        match self.program(schedule)? {
            Program::Steps(steps) => Ok(steps),
            Program::Adaptive(_) => Err(Error::Adaptive),
        }
    }

    /// What the sampler does on `schedule`.
    ///
    /// Each step goes to the next level of the list, the last to x0 without noise. So do diffusers' schedulers but one:
    /// DDIMScheduler goes to t - floor(T / steps) instead ([`Discretization::strides`]), the same with [`Spacing::Leading`],
    /// and with [`Spacing::Trailing`] if steps divides T. Elsewhere that isn't the level at which the next step reads x, and more
    /// steps don't converge: on the mixture of tests/diffusion/gaussians.rs, 600 linspace steps of 1000 leave a mean error
    /// of 0.11, not 0.002.
    ///
    /// # Errors
    /// [`Error`] names the setting, or that sampler and schedule don't fit.
    pub fn program(&self, schedule: &Schedule) -> Result<Program, Error> {
        self.check(schedule)?;
        if let SamplerKind::Rk45 { tolerance } = self.kind {
            return Ok(self.adaptive(schedule, Control::Tolerance(tolerance), schedule.kappas().0));
        }
        let mut levels = self.levels(schedule)?;
        // At least the last step, which removes the noise that is left.
        let taken = (self.strength * levels.len() as f64).round().max(1.0) as usize;
        levels.drain(..levels.len() - taken);
        levels.push(self.end(schedule, levels[taken - 1]));
        self.check_beginning(levels[0])?;
        Ok(Program::Steps(self.steps_through(&levels, schedule)))
    }

    /// The levels that are visited, the noisiest first.
    fn levels(&self, schedule: &Schedule) -> Result<Vec<Level>, Error> {
        let mut levels = self.spacing.levels(self.steps, self.kind.grid(), &self.discretization, schedule)?;
        let last = (schedule.timesteps() - 1) as f64;
        if schedule.ends_in_noise() && matches!(self.kind, SamplerKind::Ddpm { .. } | SamplerKind::Ddim { .. }) {
            let noise = |level: &&mut Level| level.timestep == last;
            levels.iter_mut().filter(noise).for_each(|level| (level.alpha, level.sigma) = (0.0, 1.0));
        }
        Ok(levels)
    }

    /// Where the last step goes.
    fn end(&self, schedule: &Schedule, last: Level) -> Level {
        let first = schedule.level(0);
        match self.discretization.end {
            End::Clean => Level::CLEAN,
            End::First => first,
            End::FirstUnscaled => Level { alpha: 1.0, sigma: first.kappa(), ..first },
            End::Last => last,
        }
    }

    fn check_beginning(&self, first: Level) -> Result<(), Error> {
        let (from_x, from_out) = self.prediction.x0(first.alpha, first.sigma);
        if from_x.is_finite() && from_out.is_finite() { Ok(()) } else { Err(Error::NothingLeft) }
    }

    /// DDIM's steps: from each level to the next, or a stride down.
    fn transitions(&self, levels: &[Level], schedule: &Schedule) -> Vec<Transition> {
        let stride = schedule.timesteps() / self.steps.max(1);
        let end = levels[levels.len() - 1];
        let down = |from: Level| match (from.timestep as usize).checked_sub(stride) {
            Some(timestep) => schedule.level(timestep),
            None => end,
        };
        let strides = self.discretization.strides;
        let stride = |pair: Transition| if strides { Transition { to: down(pair.from), ..pair } } else { pair };
        ancestral::pairs(levels).map(stride).collect()
    }

    /// The ODE by the pair of [`SamplerKind::Rk45`] through the levels that the spacing gives, whatever the error: what
    /// its order is measured with.
    ///
    /// # Errors
    /// As [`Sampler::program`].
    pub fn runge_kutta(&self, schedule: &Schedule) -> Result<Program, Error> {
        self.check(schedule)?;
        let levels = self.levels(schedule)?;
        let last = levels[levels.len() - 1].kappa();
        Ok(self.adaptive(schedule, Control::Levels(levels), last))
    }

    fn adaptive(&self, schedule: &Schedule, control: Control, last: f64) -> Program {
        // The logarithm of kappa is what a strength is a share of where there is no list of steps.
        let (low, high) = (last, schedule.kappas().1);
        let from = schedule.level_of(if self.strength < 1.0 { low * (high / low).powf(self.strength) } else { high });
        let (estimate, schedule, to) = (self.estimate(), schedule.clone(), schedule.level_of(last));
        Program::Adaptive(Box::new(RungeKutta { estimate, schedule, from, to, control }))
    }

    fn estimate(&self) -> Estimate {
        // Thresholding stands for the clamp.
        let clip = self.clip.filter(|_| self.threshold.is_none()).unwrap_or(NO_CLIP);
        Estimate { prediction: self.prediction, clip, threshold: self.threshold }
    }

    fn steps_through(&self, levels: &[Level], schedule: &Schedule) -> Vec<Step> {
        let (estimate, path) = (self.estimate(), schedule.path());
        match self.kind {
            SamplerKind::Ddpm { variance } => ancestral::ddpm(estimate, levels, variance, self.noisy_end),
            SamplerKind::Ddim { eta } => {
                let transitions = self.transitions(levels, schedule).into_iter();
                ancestral::ddim(estimate, transitions, eta, self.use_clipped_model_output)
            }
            SamplerKind::Euler | SamplerKind::Rk45 { .. } => ancestral::euler(estimate, levels),
            SamplerKind::EulerAncestral { eta } => ancestral::euler_ancestral(estimate, levels, eta),
            SamplerKind::Heun { churn } => multistep::heun(estimate, levels, churn, schedule),
            SamplerKind::DpmSolver => multistep::dpm_solver(estimate, levels, self.solver, false),
            SamplerKind::DpmSolverSde => multistep::dpm_solver(estimate, levels, self.solver, true),
            SamplerKind::UniPc => multistep::unipc(estimate, levels, self.solver),
            SamplerKind::ReverseSde => stochastic::reverse_sde(estimate, levels, path),
            SamplerKind::PredictorCorrector { snr, corrections } => {
                stochastic::predictor_corrector(estimate, levels, path, snr, corrections)
            }
            SamplerKind::Langevin { size, repeats, temperature } => {
                stochastic::annealed(estimate, levels, size, repeats, temperature)
            }
        }
    }

    /// The standard deviation of the noise that sampling starts from: 1 for every schedule that preserves variance (Ho et
    /// al. 2020, Algorithm 2, line 1), else that of x at the first level.
    pub fn initial_scale(&self, schedule: &Schedule) -> f64 {
        let first = match self.program(schedule) {
            Ok(program) => program.start(),
            Err(_) => schedule.level(schedule.timesteps() - 1),
        };
        match self.discretization.starts_at_sigma {
            true => first.sigma,
            false => schedule.path().deviation(first.alpha, first.sigma),
        }
    }

    fn check(&self, schedule: &Schedule) -> Result<(), Error> {
        self.kind.check()?;
        let drifts = matches!(self.kind, SamplerKind::ReverseSde | SamplerKind::PredictorCorrector { .. });
        if drifts && schedule.path() == Path::Flow {
            // f = -1 / (1 - u): its integral over a step doesn't get small as steps are added.
            return Err(Error::Unfit { sampler: self.kind.name(), schedule: "rectified flow" });
        }
        if let Some(threshold) = self.threshold {
            threshold.check()?;
            if matches!(self.kind, SamplerKind::Rk45 { .. } | SamplerKind::Ddpm { variance: Variance::Learned }) {
                return Err(Error::NoThreshold(self.kind.name()));
            }
        }
        self.check_solver()?;
        match self.clip {
            Some(clip) if !(clip > 0.0 && clip <= NO_CLIP) => Err(Error::Clip(clip)),
            _ if !(self.strength > 0.0 && self.strength <= 1.0) => {
                Err(Error::Setting { name: "strength", value: self.strength, range: "above 0 and at most 1" })
            }
            _ => Ok(()),
        }
    }

    fn check_solver(&self) -> Result<(), Error> {
        let Solver { order, lower_at_end, .. } = self.solver;
        let range = match self.kind {
            _ if !(1..=3).contains(&order) => "from 1 to 3",
            SamplerKind::DpmSolverSde if order == 3 => "1 or 2 with noise",
            SamplerKind::UniPc if order > 1 && !lower_at_end && self.discretization.end == End::Clean => {
                "1 where the last step leads to x0 and isn't of lower order"
            }
            _ => return Ok(()),
        };
        Err(Error::Setting { name: "solver order", value: order as f64, range })
    }
}
