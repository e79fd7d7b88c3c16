//! Which sampler, with which settings: the flags that `sample` takes, and the list of samplers.

use anyhow::{Result, bail};
use clap::builder::{PossibleValuesParser, ValueParser};
use clap::{Arg, value_parser};
use serde_json::{Value, json};

use super::flags::Typed;
use diffuse::checkpoint::SchedulerConfig;
use diffuse::diffusion::{Sampler, SamplerKind, Spacing, Variance};
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

/// A setting of a sampler.
pub enum Setting<'a> {
    Number(&'a mut f64),
    Count(&'a mut usize),
    Variance(&'a mut Variance),
}

impl Setting<'_> {
    /// What it is set to.
    pub fn value(&self) -> Value {
        match self {
            Setting::Number(number) => json!(number),
            Setting::Count(count) => json!(count),
            Setting::Variance(variance) => variance.name().into(),
        }
    }

    /// Sets it as was typed; a variance is a matter of the checkpoint, too.
    fn put(self, id: &str, typed: &Typed) {
        match self {
            Setting::Number(number) => *number = typed.get(id).unwrap_or(*number),
            Setting::Count(count) => *count = typed.get(id).unwrap_or(*count),
            Setting::Variance(_) => {}
        }
    }
}

/// The settings of a sampler, each under the name of its flag.
pub fn settings(kind: &mut SamplerKind) -> Vec<(&'static str, Setting<'_>)> {
    use Setting::{Count, Number};
    match kind {
        SamplerKind::Ddpm { variance } => vec![("variance", Setting::Variance(variance))],
        SamplerKind::Ddim { eta } | SamplerKind::EulerAncestral { eta } => vec![("eta", Number(eta))],
        SamplerKind::Heun { churn } => vec![("churn", Number(&mut churn.amount))],
        SamplerKind::Rk45 { tolerance } => vec![("tolerance", Number(tolerance))],
        SamplerKind::PredictorCorrector { snr, corrections } => {
            vec![("snr", Number(snr)), ("corrections", Count(corrections))]
        }
        SamplerKind::Langevin { size, repeats, temperature } => {
            vec![("step-size", Number(size)), ("repeats", Count(repeats)), ("temperature", Number(temperature))]
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
    let of = |kind: &mut SamplerKind| settings(kind).iter().find(|(own, _)| *own == id).map(|(_, own)| own.value());
    SamplerKind::ALL.into_iter().filter_map(|mut kind| Some((kind.name(), of(&mut kind)?))).collect()
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

/// Flags of a sampler. Each setting belongs to some samplers.
#[derive(clap::Args)]
#[group(id = "sampling")]
#[command(args = setting_flags())]
pub struct Flags {
    #[command(flatten)]
    typed: Typed,
    /// Sampler; `list` prints them all
    #[arg(long, value_parser = names(), default_value = "ddpm", value_name = "NAME")]
    pub sampler: String,
    /// Sampler steps [default: 50]
    #[arg(long)]
    pub steps: Option<usize>,
    /// Which timesteps are visited [default: leading]
    #[arg(long, value_parser = spacings(), value_name = "NAME")]
    pub spacing: Option<String>,
}

impl Flags {
    /// The sampler for a model that was trained as `config` says.
    ///
    /// # Errors
    /// One line that names a flag of another sampler, or the configuration's fault.
    pub fn sampler(&self, config: &SchedulerConfig, variance: &VarianceFlag) -> Result<Sampler> {
        let found = SamplerKind::ALL.into_iter().find(|kind| kind.name() == self.sampler);
        let mut kind = found.expect("clap takes no other name");
        if let SamplerKind::Ddpm { variance: own } = &mut kind {
            *own = variance.of(config)?;
        }
        for (id, setting) in settings(&mut kind) {
            setting.put(id, &self.typed);
        }
        self.refuse_others(kind)?;
        let steps = self.steps.unwrap_or(config.num_train_timesteps.min(50));
        let spacing = Spacing::ALL.into_iter().find(|spacing| Some(spacing.name()) == self.spacing.as_deref());
        Ok(Sampler {
            prediction: config.prediction()?,
            clip: config.clip_sample.then_some(config.clip_sample_range),
            spacing: spacing.unwrap_or_default(),
            ..Sampler::new(kind, steps)
        })
    }

    /// A setting goes with the samplers that have it.
    fn refuse_others(&self, kind: SamplerKind) -> Result<()> {
        for id in SETTINGS.map(|(id, _)| id).into_iter().chain(["variance"]).filter(|id| self.typed.is_given(id)) {
            let takers: Vec<_> = takers(id).into_iter().map(|(name, _)| name).collect();
            if !takers.contains(&kind.name()) {
                bail!("--{} goes with --sampler {}", id, takers.join(" and "));
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
