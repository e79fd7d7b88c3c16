//! Which sampler, with which settings: the flags that `sample` takes, and the list of samplers.

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};

use diffuse::checkpoint::SchedulerConfig;
use diffuse::diffusion::{Churn, Sampler, SamplerKind, Spacing, Variance};
use diffuse::train::choice;

/// What stands for the list instead of a sampler.
pub const LIST: &str = "list";

fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(SamplerKind::ALL.map(SamplerKind::name).into_iter().chain([LIST]))
}

fn spacings() -> PossibleValuesParser {
    PossibleValuesParser::new(Spacing::ALL.map(Spacing::name))
}

/// Of ddpm alone, and of its variational bound.
#[derive(clap::Args)]
#[group(id = "reverse_step")]
pub struct VarianceFlag {
    /// Variance of ddpm's steps [default: what the checkpoint's scheduler_config.json says]
    #[arg(long, value_parser = choice::parser::<Variance>())]
    variance: Option<Variance>,
}

impl VarianceFlag {
    /// Whether it is given.
    pub fn is_given(&self) -> bool {
        self.variance.is_some()
    }

    /// The variance of the reverse steps: as given, else as the configuration says.
    pub fn of(&self, config: &SchedulerConfig) -> Result<Variance> {
        self.variance.map_or_else(|| variance(config), Ok)
    }
}

/// Flags of a sampler. Each setting belongs to some samplers.
#[derive(clap::Args)]
#[group(id = "sampling")]
pub struct Flags {
    /// Sampler; `list` prints them all
    #[arg(long, value_parser = names(), default_value = "ddpm", value_name = "NAME")]
    pub sampler: String,
    /// Sampler steps [default: 50]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Which timesteps are visited [default: leading]
    #[arg(long, value_parser = spacings(), value_name = "NAME")]
    pub spacing: Option<String>,
    /// Noise of ddim and euler-ancestral: 0 is deterministic, 1 is ddpm's [default: 0; euler-ancestral: 1]
    #[arg(long, allow_negative_numbers = true)]
    pub eta: Option<f64>,
    /// Noise that heun adds: S_churn of Karras et al. (2022) [default: 0]
    #[arg(long, allow_negative_numbers = true)]
    pub churn: Option<f64>,
    /// Error of a step that rk45 lets pass [default: 0.001]
    #[arg(long, allow_negative_numbers = true)]
    pub tolerance: Option<f64>,
    /// Signal-to-noise ratio of pc's corrections [default: 0.16]
    #[arg(long, allow_negative_numbers = true)]
    pub snr: Option<f64>,
    /// Corrections of pc at each level [default: 1]
    #[arg(long)]
    pub corrections: Option<usize>,
    /// Step of langevin as a multiple of sigma squared [default: 0.2]
    #[arg(long, allow_negative_numbers = true)]
    pub step_size: Option<f64>,
    /// Steps of langevin at each level [default: 5]
    #[arg(long)]
    pub repeats: Option<usize>,
    /// Temperature of langevin: 0 is annealed gradient ascent [default: 1]
    #[arg(long, allow_negative_numbers = true)]
    pub temperature: Option<f64>,
}

impl Flags {
    /// The sampler for a model that was trained as `config` says.
    ///
    /// # Errors
    /// One line that names a flag of another sampler, or the configuration's fault.
    pub fn sampler(&self, config: &SchedulerConfig, variance: &VarianceFlag) -> Result<Sampler> {
        let found = SamplerKind::ALL.into_iter().find(|kind| kind.name() == self.sampler);
        let kind = self.settings(found.expect("clap takes no other name"), config, variance)?;
        self.refuse_others(kind, variance)?;
        let steps = self.steps.unwrap_or(config.num_train_timesteps.min(50));
        let spacing = Spacing::ALL.into_iter().find(|spacing| Some(spacing.name()) == self.spacing.as_deref());
        Ok(Sampler {
            prediction: config.prediction()?,
            clip: config.clip_sample.then_some(config.clip_sample_range),
            spacing: spacing.unwrap_or_default(),
            ..Sampler::new(kind, steps)
        })
    }

    fn settings(&self, kind: SamplerKind, config: &SchedulerConfig, variance: &VarianceFlag) -> Result<SamplerKind> {
        Ok(match kind {
            SamplerKind::Ddpm { .. } => SamplerKind::Ddpm { variance: variance.of(config)? },
            SamplerKind::Ddim { eta } => SamplerKind::Ddim { eta: self.eta.unwrap_or(eta) },
            SamplerKind::EulerAncestral { eta } => SamplerKind::EulerAncestral { eta: self.eta.unwrap_or(eta) },
            SamplerKind::Heun { churn } => {
                SamplerKind::Heun { churn: Churn { amount: self.churn.unwrap_or(churn.amount), ..churn } }
            }
            SamplerKind::Rk45 { tolerance } => SamplerKind::Rk45 { tolerance: self.tolerance.unwrap_or(tolerance) },
            SamplerKind::PredictorCorrector { snr, corrections } => SamplerKind::PredictorCorrector {
                snr: self.snr.unwrap_or(snr),
                corrections: self.corrections.unwrap_or(corrections),
            },
            SamplerKind::Langevin { size, repeats, temperature } => SamplerKind::Langevin {
                size: self.step_size.unwrap_or(size),
                repeats: self.repeats.unwrap_or(repeats),
                temperature: self.temperature.unwrap_or(temperature),
            },
            kind => kind,
        })
    }

    /// Each flag with the samplers that take it.
    fn refuse_others(&self, kind: SamplerKind, variance: &VarianceFlag) -> Result<()> {
        let flags: [(&str, bool, &[&str]); 9] = [
            ("--variance", variance.is_given(), &["ddpm"]),
            ("--eta", self.eta.is_some(), &["ddim", "euler-ancestral"]),
            ("--churn", self.churn.is_some(), &["heun"]),
            ("--tolerance", self.tolerance.is_some(), &["rk45"]),
            ("--snr", self.snr.is_some(), &["pc"]),
            ("--corrections", self.corrections.is_some(), &["pc"]),
            ("--step-size", self.step_size.is_some(), &["langevin"]),
            ("--repeats", self.repeats.is_some(), &["langevin"]),
            ("--temperature", self.temperature.is_some(), &["langevin"]),
        ];
        for (flag, given, takers) in flags {
            if given && !takers.contains(&kind.name()) {
                bail!("{flag} goes with --sampler {}", takers.join(" and "));
            }
        }
        if matches!(kind, SamplerKind::Rk45 { .. }) && (self.steps.is_some() || self.spacing.is_some()) {
            bail!("rk45 finds its own steps: --tolerance says how many, not --steps or --spacing");
        }
        Ok(())
    }
}

/// The variance of the reverse steps that the configuration names.
fn variance(config: &SchedulerConfig) -> Result<Variance> {
    let known = |variance: &Variance| variance.name() == config.variance_type;
    match Variance::ALL.into_iter().find(known) {
        Some(variance) => Ok(variance),
        None => bail!(
            "variance_type {:?} is not built here; fixed_small, fixed_large and learned_range are",
            config.variance_type
        ),
    }
}

/// The settings of a sampler, each under the name of its flag.
pub fn settings(kind: SamplerKind) -> Vec<(&'static str, Value)> {
    match kind {
        SamplerKind::Ddpm { variance } => vec![("variance", variance.name().into())],
        SamplerKind::Ddim { eta } | SamplerKind::EulerAncestral { eta } => vec![("eta", json!(eta))],
        SamplerKind::Heun { churn } => vec![("churn", json!(churn.amount))],
        SamplerKind::Rk45 { tolerance } => vec![("tolerance", json!(tolerance))],
        SamplerKind::PredictorCorrector { snr, corrections } => {
            vec![("snr", json!(snr)), ("corrections", json!(corrections))]
        }
        SamplerKind::Langevin { size, repeats, temperature } => {
            vec![("step_size", json!(size)), ("repeats", json!(repeats)), ("temperature", json!(temperature))]
        }
        SamplerKind::Euler
        | SamplerKind::DpmSolver
        | SamplerKind::DpmSolverSde
        | SamplerKind::UniPc
        | SamplerKind::ReverseSde => Vec::new(),
    }
}

/// What there is to know of each sampler, a line each.
pub fn list() -> String {
    let row = |name: &str, order: &str, evaluations: &str, kind: &str, paper: &str| {
        format!("{name:16} {order:>5} {evaluations:>17}  {kind:13} {paper}")
    };
    let mut lines = vec![row("sampler", "order", "evaluations/step", "kind", "paper")];
    lines.extend(SamplerKind::ALL.into_iter().map(|kind| {
        let (order, evaluations) = (kind.order().to_string(), kind.evaluations().to_string());
        let noise = if kind.is_deterministic() { "deterministic" } else { "stochastic" };
        row(kind.name(), &order, &evaluations, noise, kind.paper())
    }));
    lines.push(
        "order: in the number of steps, of samples if deterministic, else of their distribution; as certified".into(),
    );
    lines.join("\n")
}
