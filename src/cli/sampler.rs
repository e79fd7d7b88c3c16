//! Which sampler, with which settings: the flags that `sample` takes, and the list of samplers.

use anyhow::{Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, ValueParser};
use clap::{Arg, value_parser};
use serde_json::{Value, json};

use super::flags::Typed;
use diffuse::checkpoint::SchedulerConfig;
use diffuse::diffusion::{Sampler, SamplerKind, Spacing, Variance};
use diffuse::run::choice;

/// What stands for the list instead of a sampler.
pub const LIST: &str = "list";

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
        Ok(self.variance.map_or_else(|| config.variance(), Ok)?)
    }
}

/// The settings of a sampler, each under the name of its flag; `typed` sets them.
pub fn settings(kind: &mut SamplerKind, typed: Option<&Typed>) -> Vec<(&'static str, Value)> {
    let number = |id, number: &mut f64| {
        *number = typed.and_then(|typed| typed.get(id)).unwrap_or(*number);
        (id, json!(number))
    };
    let count = |id, count: &mut usize| {
        *count = typed.and_then(|typed| typed.get(id)).unwrap_or(*count);
        (id, json!(count))
    };
    match kind {
        SamplerKind::Ddpm { variance } => vec![("variance", variance.name().into())],
        SamplerKind::Ddim { eta } | SamplerKind::EulerAncestral { eta } => vec![number("eta", eta)],
        SamplerKind::Heun { churn } => vec![number("churn", &mut churn.amount)],
        SamplerKind::Rk45 { tolerance } => vec![number("tolerance", tolerance)],
        SamplerKind::PredictorCorrector { snr, corrections } => {
            vec![number("snr", snr), count("corrections", corrections)]
        }
        SamplerKind::Langevin { size, repeats, temperature } => {
            vec![number("step-size", size), count("repeats", repeats), number("temperature", temperature)]
        }
        SamplerKind::Euler
        | SamplerKind::DpmSolver
        | SamplerKind::DpmSolverSde
        | SamplerKind::UniPc
        | SamplerKind::ReverseSde => Vec::new(),
    }
}

/// What the flags of settings say.
const SETTINGS: [(&str, &str); 8] = [
    ("eta", "Noise of ddim and euler-ancestral: 0 is deterministic, 1 is ddpm's"),
    ("churn", "Noise that heun adds: S_churn of Karras et al. (2022)"),
    ("tolerance", "Error of a step that rk45 lets pass"),
    ("snr", "Signal-to-noise ratio of pc's corrections"),
    ("corrections", "Corrections of pc at each level"),
    ("step-size", "Step of langevin as a multiple of sigma squared"),
    ("repeats", "Steps of langevin at each level"),
    ("temperature", "Temperature of langevin: 0 is annealed gradient ascent"),
];

/// Samplers that have a setting, and its default there.
fn takers(id: &str) -> Vec<(&'static str, Value)> {
    let default = |mut kind| settings(&mut kind, None).into_iter().find(|(own, _)| *own == id);
    SamplerKind::ALL.into_iter().filter_map(|kind| Some((kind.name(), default(kind)?.1))).collect()
}

fn setting_flags() -> impl Iterator<Item = Arg> {
    SETTINGS.into_iter().map(|(id, help)| {
        let takers = takers(id);
        let first = &takers[0].1;
        let others: String = takers[1..].iter().map(|(name, value)| format!("; {name}: {value}")).collect();
        let parser: ValueParser = if first.is_u64() { value_parser!(usize).into() } else { value_parser!(f64).into() };
        let arg = Arg::new(id).long(id).value_name("X").value_parser(parser).group("sampling");
        arg.help(format!("{help} [default: {first}{others}]")).allow_negative_numbers(!first.is_u64())
    })
}

fn names() -> impl Iterator<Item = PossibleValue> {
    let named = |kind: SamplerKind| PossibleValue::new(kind.name()).aliases(kind.aliases());
    SamplerKind::ALL.into_iter().map(named).chain([PossibleValue::new(LIST)])
}

/// Flags of a sampler. Each setting belongs to some samplers.
#[derive(clap::Args)]
#[group(id = "sampling")]
#[command(args = setting_flags())]
pub struct Flags {
    #[command(flatten)]
    typed: Typed,
    /// Sampler; `list` prints them all [default: that of scheduler_config.json, else ddpm]
    #[arg(long, group = "sampling", value_name = "NAME",
          value_parser = PossibleValuesParser::new(names()), ignore_case = true)]
    pub sampler: Option<String>,
    /// Sampler steps [default: 50]
    #[arg(long, group = "sampling")]
    pub steps: Option<usize>,
    /// Which timesteps are visited [default: what scheduler_config.json says]
    #[arg(long, group = "sampling", value_name = "NAME",
          value_parser = PossibleValuesParser::new(Spacing::ALL.map(Spacing::name)))]
    pub spacing: Option<String>,
    /// ddim: whether eps is what the clamped estimate of x0 implies, or the network's [default: false where
    /// scheduler_config.json is a DDIMScheduler's, as diffusers' DDIMPipeline has it by default; else true]
    #[arg(long, group = "sampling", value_name = "true|false")]
    pub use_clipped_model_output: Option<bool>,
}

impl Flags {
    /// The sampler for a model that was trained as `config` says.
    ///
    /// # Errors
    /// One line that names a flag of another sampler, or the configuration's fault.
    pub fn sampler(&self, config: &SchedulerConfig, variance: &VarianceFlag) -> Result<Sampler> {
        let mut kind = self.kind(config, variance)?;
        if let SamplerKind::Ddpm { variance: own } = &mut kind {
            *own = variance.of(config)?;
        }
        settings(&mut kind, Some(&self.typed));
        self.refuse_others(kind)?;
        let steps = self.steps.unwrap_or(config.num_train_timesteps.min(50));
        let spacing = Spacing::ALL.into_iter().find(|spacing| Some(spacing.name()) == self.spacing.as_deref());
        let mut sampler = config.sampler(kind, steps, spacing)?;
        sampler.use_clipped_model_output = self.use_clipped_model_output.unwrap_or(sampler.use_clipped_model_output);
        let is_too_long = ["linspace", "trailing"].contains(&sampler.spacing_name());
        if matches!(kind, SamplerKind::Heun { .. }) && is_too_long {
            log::warn!(
                "heun's first steps are too long with {} spacing, and noise may remain: --spacing karras",
                sampler.spacing.name()
            );
        }
        Ok(sampler)
    }

    /// Whether the list is asked for, and no sampler.
    pub fn is_list(&self) -> bool {
        self.sampler.as_deref() == Some(LIST)
    }

    /// The sampler that is asked for, else that of the configuration, else ddpm.
    fn kind(&self, config: &SchedulerConfig, variance: &VarianceFlag) -> Result<SamplerKind> {
        if let Some(name) = &self.sampler {
            return Ok(SamplerKind::called(name).expect("clap takes no other name"));
        }
        let (ddpm, own) = (SamplerKind::ALL[0], config.kind(variance.variance)?);
        if config.has_no_sampler() {
            log::warn!("{} has no sampler here: {} draws on its schedule (--sampler)", config.class_name, ddpm.name());
        }
        Ok(own.unwrap_or(ddpm))
    }

    /// A setting goes with the samplers that have it.
    fn refuse_others(&self, kind: SamplerKind) -> Result<()> {
        for id in SETTINGS.map(|(id, _)| id).into_iter().chain(["variance"]).filter(|id| self.typed.is_given(id)) {
            let takers: Vec<_> = takers(id).into_iter().map(|(name, _)| name).collect();
            if !takers.contains(&kind.name()) {
                bail!("--{id} goes with --sampler {}", takers.join(" and "));
            }
        }
        if self.use_clipped_model_output.is_some() && !matches!(kind, SamplerKind::Ddim { .. }) {
            bail!("--use-clipped-model-output goes with --sampler ddim");
        }
        if matches!(kind, SamplerKind::Rk45 { .. }) && (self.steps.is_some() || self.spacing.is_some()) {
            bail!("rk45 finds its own steps: --tolerance says how many, not --steps or --spacing");
        }
        Ok(())
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
    lines.push("order: in the number of steps, of samples if deterministic, else of their distribution".into());
    lines.push(
        "`diffuse certify` measures orders and identities, with karras spacing; the others are diffusers'".into(),
    );
    lines.join("\n")
}
