//! The sampler that a scheduler's configuration asks for, as diffusers draws with it.

use super::SchedulerConfig;
use super::keys::refuse;
use crate::diffusion::{
    Churn, Discretization, End, Run, Sampler, SamplerKind, Schedule, Sigmas, Solver, Spacing, Threshold, Told, Variance,
};
use crate::error::Result;

fn is_dpm(kind: SamplerKind) -> bool {
    matches!(kind, SamplerKind::DpmSolver | SamplerKind::DpmSolverSde)
}

impl SchedulerConfig {
    /// The sampler of the configuration's class, where there is one here. ddpm's has `variance` if it is given, else the
    /// configuration's.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] names what is refused.
    pub fn kind(&self, variance: Option<Variance>) -> Result<Option<SamplerKind>> {
        self.keys.check()?;
        Ok(match self.kind_of_class() {
            Some(SamplerKind::Ddpm { .. }) => {
                Some(SamplerKind::Ddpm { variance: variance.map_or_else(|| self.variance(), Ok)? })
            }
            kind => kind,
        })
    }

    fn kind_of_class(&self) -> Option<SamplerKind> {
        if self.keys.are_own() {
            return None;
        }
        match (self.class_name.as_str(), self.keys.word("algorithm_type")) {
            ("DDPMScheduler", _) => Some(SamplerKind::Ddpm { variance: Variance::default() }),
            ("DDIMScheduler", _) => Some(SamplerKind::Ddim { eta: 0.0 }),
            ("EulerDiscreteScheduler", _) => Some(SamplerKind::Euler),
            ("EulerAncestralDiscreteScheduler", _) => Some(SamplerKind::EulerAncestral { eta: 1.0 }),
            ("HeunDiscreteScheduler", _) => Some(SamplerKind::Heun { churn: Churn::default() }),
            ("DPMSolverMultistepScheduler", Some("sde-dpmsolver++")) => Some(SamplerKind::DpmSolverSde),
            ("DPMSolverMultistepScheduler", _) => Some(SamplerKind::DpmSolver),
            ("UniPCMultistepScheduler", _) => Some(SamplerKind::UniPc),
            _ => None,
        }
    }

    /// Whether the class steps as no sampler here does, so that another one draws on its schedule.
    pub fn has_no_sampler(&self) -> bool {
        !self.keys.are_own() && self.kind_of_class().is_none()
    }

    /// The variance of ddpm's steps.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] if there is no such variance here.
    pub fn variance(&self) -> Result<Variance> {
        // Its standard deviation is computed by the logarithm: the same number.
        let name = if self.variance_type == "fixed_small_log" { "fixed_small" } else { &self.variance_type };
        match Variance::ALL.into_iter().find(|variance| variance.name() == name) {
            Some(variance) => Ok(variance),
            None => {
                let known = Variance::ALL.map(Variance::name).join(", ");
                refuse(format!("variance_type {name:?} is not built here; {known} are"))
            }
        }
    }

    /// A sampler of `kind` with `steps` steps for a model that was trained so. Of its own class it draws what diffusers
    /// draws; another takes schedule, prediction, spacing, clamp and final level from the configuration, and its steps from
    /// here. `spacing` stands for the configuration's.
    ///
    /// # Errors
    /// [`crate::error::Error::Config`] names what is refused.
    pub fn sampler(&self, kind: SamplerKind, steps: usize, spacing: Option<Spacing>) -> Result<Sampler> {
        let schedule = self.schedule()?;
        let ignored = self.keys.ignored();
        if !ignored.is_empty() {
            log::warn!("scheduler_config.json: ignored, for this program does not know them: {}", ignored.join(", "));
        }
        let (own_spacing, is_ddim) = (self.spacing(), matches!(kind, SamplerKind::Ddim { .. }));
        let own = self.kind_of_class().is_some_and(|own| own.name() == kind.name());
        let threshold = match self.keys.flag("thresholding")? {
            true => {
                let ratio = self.keys.number("dynamic_thresholding_ratio", 0.995)?;
                Some(Threshold { ratio, most: self.keys.number("sample_max_value", 1.0)? })
            }
            false => None,
        };
        let spacing_or_own = spacing.unwrap_or(own_spacing);
        if spacing_or_own.has_surplus(steps, schedule.timesteps()) {
            log::warn!("{steps} trailing steps: diffusers visits a timestep too many, -1; left out");
        }
        Ok(Sampler {
            prediction: self.prediction()?,
            clip: self.clip_sample.then_some(self.clip_sample_range),
            spacing: spacing_or_own,
            threshold,
            noisy_end: own && matches!(kind, SamplerKind::Ddpm { .. }),
            use_clipped_model_output: !(own && is_ddim),
            solver: if own { self.solver(kind)? } else { Solver::default() },
            discretization: Discretization {
                strides: own && is_ddim,
                ..self.discretization(kind, spacing, &schedule)?
            },
            ..Sampler::new(kind, steps)
        })
    }

    /// The spacing of the timesteps.
    fn spacing(&self) -> Spacing {
        if self.class_name == "DPMSolverSinglestepScheduler" {
            return Spacing::Linspace;
        }
        let named = |spacing: &Spacing| Some(spacing.name()) == self.keys.word("timestep_spacing");
        Spacing::WHOLE.into_iter().find(named).unwrap_or_default()
    }

    fn solver(&self, kind: SamplerKind) -> Result<Solver> {
        if !is_dpm(kind) && kind != SamplerKind::UniPc {
            return Ok(Solver::default());
        }
        let word = self.keys.word("solver_type");
        Ok(Solver {
            order: self.keys.count("solver_order", 2)?,
            exact_weights: word == Some("heun"),
            linear_scale: word == Some("bh1"),
            lower_at_end: self.keys.flag("lower_order_final")?,
            euler_at_end: self.keys.flag("euler_at_final")?,
            uncorrected: self.keys.bits("disable_corrector")?,
        })
    }

    fn discretization(
        &self,
        kind: SamplerKind,
        spacing: Option<Spacing>,
        schedule: &Schedule,
    ) -> Result<Discretization> {
        let sigmas = if spacing.is_none() { self.sigmas(kind)? } else { None };
        if sigmas.is_some() && schedule.ends_in_noise() && self.beta_schedule == "squaredcos_cap_v2" {
            return refuse(
                "rescale_betas_zero_snr with beta_schedule squaredcos_cap_v2 and sigmas of their own (Karras, exponential, \
                 beta, lu) is not built here: their ends hang on the last bit of a square root in diffusers",
            );
        }
        let in_kappa =
            matches!(kind, SamplerKind::Euler | SamplerKind::EulerAncestral { .. } | SamplerKind::Heun { .. });
        let of_kappa = ["Euler", "Heun", "LMS", "KDPM2"].iter().any(|class| self.class_name.starts_with(class));
        let whole = spacing.filter(|spacing| *spacing != Spacing::Karras).unwrap_or(self.spacing());
        Ok(Discretization {
            offset: self.keys.count("steps_offset", 0)?,
            first: if is_dpm(kind) { self.first(schedule)? } else { None },
            sigmas,
            end: self.end(kind, sigmas.is_some()),
            strides: false,
            starts_at_sigma: in_kappa && of_kappa && !self.keys.are_own() && whole != Spacing::Leading,
        })
    }

    /// Timesteps that `lambda_min_clipped` leaves.
    fn first(&self, schedule: &Schedule) -> Result<Option<usize>> {
        let least = self.keys.number("lambda_min_clipped", f64::NEG_INFINITY)?;
        let is_left = |t: &usize| -schedule.level(*t).kappa().ln() >= least;
        let left = (0..schedule.timesteps()).filter(is_left).count();
        Ok((left < schedule.timesteps()).then_some(left))
    }

    fn end(&self, kind: SamplerKind, has_sigmas: bool) -> End {
        let to_first = self.keys.word("final_sigmas_type") == Some("sigma_min");
        match kind {
            SamplerKind::Ddim { .. } if self.keys.key("set_alpha_to_one").is_some_and(|one| one == false) => End::First,
            SamplerKind::Euler if to_first => End::FirstUnscaled,
            SamplerKind::UniPc if to_first && has_sigmas => End::Last,
            SamplerKind::DpmSolver | SamplerKind::DpmSolverSde | SamplerKind::UniPc if to_first => End::First,
            _ => End::Clean,
        }
    }

    /// Levels that are spaced in kappa, for samplers that have such.
    fn sigmas(&self, kind: SamplerKind) -> Result<Option<Sigmas>> {
        let multistep = is_dpm(kind) || kind == SamplerKind::UniPc;
        if !multistep && !matches!(kind, SamplerKind::Euler | SamplerKind::Heun { .. }) {
            return Ok(None);
        }
        let (min, max) = (self.keys.any_number("sigma_min")?, self.keys.any_number("sigma_max")?);
        // DPM-Solver's are rounded but for one schedule.
        let cuts = is_dpm(kind) && self.beta_schedule == "squaredcos_cap_v2";
        let rounded = if cuts { Told::Cut } else { Told::Rounded };
        let told = |told| if multistep { told } else { Told::Between };
        let sigmas = |run, told| Ok(Some(Sigmas { run, min, max, told }));
        if self.keys.flag("use_karras_sigmas")? {
            return sigmas(Run::Karras, told(rounded));
        }
        if is_dpm(kind) && self.keys.flag("use_lu_lambdas")? {
            if cuts || self.keys.flag("rescale_betas_zero_snr")? {
                return refuse(
                    "use_lu_lambdas with beta_schedule squaredcos_cap_v2 or rescale_betas_zero_snr is not built here: which \
                     timestep the network is told first hangs on the last bit of a logarithm in diffusers",
                );
            }
            return Ok(Some(Sigmas { run: Run::Exponential, min: None, max: None, told: Told::Rounded }));
        }
        if self.keys.flag("use_exponential_sigmas")? {
            return sigmas(Run::Exponential, told(Told::Cut));
        }
        if self.keys.flag("use_beta_sigmas")? {
            return sigmas(Run::Beta, told(Told::Cut));
        }
        Ok(None)
    }
}
