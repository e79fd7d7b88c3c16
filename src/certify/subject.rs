//! What is certified, and what comes of it.

use crate::diffusion::{Churn, SamplerKind, Variance};

/// A sampler with settings, as it is certified.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The sampler's name and what sets it apart from others of this name.
    pub name: String,
    pub kind: SamplerKind,
}

/// Something that was measured, and where it must lie.
#[derive(Clone, Debug)]
pub struct Check {
    /// The subject's name.
    pub sampler: String,
    pub what: String,
    pub measured: f64,
    /// The lowest and the highest value that pass.
    pub allowed: (f64, f64),
}

impl Check {
    /// Whether it is as it must be; what isn't a number is not.
    pub fn passed(&self) -> bool {
        (self.allowed.0..=self.allowed.1).contains(&self.measured)
    }
}

impl Subject {
    pub(super) fn check(&self, what: impl Into<String>, measured: f64, allowed: (f64, f64)) -> Check {
        Check { sampler: self.name.clone(), what: what.into(), measured, allowed }
    }
}

/// Every sampler with its default settings, and those with other settings that change coefficients.
pub fn subjects() -> Vec<Subject> {
    let plain = SamplerKind::ALL.into_iter().map(|kind| Subject { name: kind.name().into(), kind });
    let churn = Churn { amount: 40.0, ..Churn::default() };
    let settings = [
        ("variance beta", SamplerKind::Ddpm { variance: Variance::FixedLarge }),
        ("eta 0.5", SamplerKind::Ddim { eta: 0.5 }),
        ("eta 1", SamplerKind::Ddim { eta: 1.0 }),
        ("eta 0.5", SamplerKind::EulerAncestral { eta: 0.5 }),
        ("churn 40", SamplerKind::Heun { churn }),
        ("2 corrections", SamplerKind::PredictorCorrector { snr: 0.1, corrections: 2 }),
        ("temperature 0", SamplerKind::Langevin { size: 0.2, repeats: 5, temperature: 0.0 }),
    ];
    let other = settings.map(|(what, kind)| Subject { name: format!("{}, {what}", kind.name()), kind });
    plain.chain(other).collect()
}
