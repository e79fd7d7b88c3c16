//! `scheduler_config.json`: what a model was trained with, under diffusers' keys where those exist.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::diffusion::{BetaSchedule, DATA_DEVIATION, Prediction, Schedule, ScheduleKind};
use crate::error::{Error, Result};

/// diffusers' scheduler configuration: the keys that say what a model was trained with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    #[serde(rename = "_class_name")]
    pub class_name: String,
    pub num_train_timesteps: usize,
    pub beta_schedule: String,
    pub beta_start: f64,
    pub beta_end: f64,
    pub prediction_type: String,
    pub variance_type: String,
    pub clip_sample: bool,
    pub clip_sample_range: f64,
    /// A schedule that is no table of betas: `vp`, `sub_vp`, `ve`, `edm` or `flow`. diffusers says it by the class; its
    /// own classes of those names tell the network another time, so that their checkpoints aren't read here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Of `vp` and `sub_vp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_max: Option<f64>,
    /// Of `ve` and `edm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// Of `edm`: always 1/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_data: Option<f64>,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            class_name: "DDPMScheduler".into(),
            num_train_timesteps: 1000,
            beta_schedule: "linear".into(),
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction_type: "epsilon".into(),
            variance_type: "fixed_small".into(),
            clip_sample: true,
            clip_sample_range: 1.0,
            schedule: None,
            beta_min: None,
            beta_max: None,
            sigma_min: None,
            sigma_max: None,
            sigma_data: None,
        }
    }
}

/// Keys of a table of betas, which say nothing of other schedules.
const BETA_KEYS: [&str; 3] = ["beta_schedule", "beta_start", "beta_end"];

impl SchedulerConfig {
    /// The configuration that says this.
    pub fn new(kind: ScheduleKind, timesteps: usize, prediction: Prediction) -> SchedulerConfig {
        let mut config = SchedulerConfig {
            num_train_timesteps: timesteps,
            prediction_type: prediction.name().into(),
            ..SchedulerConfig::default()
        };
        let mut other = |class: &str, name: &str| {
            config.class_name = class.into();
            config.schedule = Some(name.into());
        };
        match kind {
            ScheduleKind::Ddpm(betas) => {
                config.beta_schedule = betas.name().into();
                if let Some((start, end)) = betas.ends() {
                    (config.beta_start, config.beta_end) = (start, end);
                }
            }
            ScheduleKind::Vp { beta_min, beta_max } => {
                other("ScoreSdeVpScheduler", "vp");
                (config.beta_min, config.beta_max) = (Some(beta_min), Some(beta_max));
            }
            ScheduleKind::SubVp { beta_min, beta_max } => {
                other("ScoreSdeSubVpScheduler", "sub_vp");
                (config.beta_min, config.beta_max) = (Some(beta_min), Some(beta_max));
            }
            ScheduleKind::Ve { sigma_min, sigma_max } => {
                other("ScoreSdeVeScheduler", "ve");
                (config.sigma_min, config.sigma_max) = (Some(sigma_min), Some(sigma_max));
            }
            ScheduleKind::Edm { sigma_min, sigma_max } => {
                other("EDMEulerScheduler", "edm");
                (config.sigma_min, config.sigma_max) = (Some(sigma_min), Some(sigma_max));
                config.sigma_data = Some(DATA_DEVIATION);
            }
            ScheduleKind::Flow => other("FlowMatchEulerDiscreteScheduler", "flow"),
        }
        config
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// [`Error::Config`] for a schedule that is not built here.
    pub fn schedule(&self) -> Result<Schedule> {
        let kind = match &self.schedule {
            Some(name) => self.other_kind(name)?,
            None => ScheduleKind::Ddpm(self.betas()?),
        };
        Schedule::new(kind, self.num_train_timesteps).map_err(|error| Error::Config(error.to_string()))
    }

    fn betas(&self) -> Result<BetaSchedule> {
        if ["ScoreSde", "EDM", "FlowMatch"].iter().any(|class| self.class_name.starts_with(class)) {
            let class = &self.class_name;
            return Err(Error::Config(format!(
                "{class} is not read here: it tells the network the time in its own way"
            )));
        }
        let (start, end) = (self.beta_start, self.beta_end);
        match self.beta_schedule.as_str() {
            "linear" => Ok(BetaSchedule::Linear { start, end }),
            "scaled_linear" => Ok(BetaSchedule::ScaledLinear { start, end }),
            "squaredcos_cap_v2" | "cosine" => Ok(BetaSchedule::Cosine),
            "sigmoid" => Ok(BetaSchedule::Sigmoid { start, end }),
            other => {
                let known = "linear, scaled_linear, squaredcos_cap_v2 (cosine) and sigmoid";
                Err(Error::Config(format!("beta_schedule {other:?} is not built here; {known} are")))
            }
        }
    }

    fn other_kind(&self, name: &str) -> Result<ScheduleKind> {
        let number = |key: &str, value: Option<f64>| {
            value.ok_or_else(|| Error::Config(format!("the schedule {name} needs {key} in scheduler_config.json")))
        };
        let betas = || Ok::<_, Error>((number("beta_min", self.beta_min)?, number("beta_max", self.beta_max)?));
        let sigmas = || Ok::<_, Error>((number("sigma_min", self.sigma_min)?, number("sigma_max", self.sigma_max)?));
        match name {
            "vp" => betas().map(|(beta_min, beta_max)| ScheduleKind::Vp { beta_min, beta_max }),
            "sub_vp" => betas().map(|(beta_min, beta_max)| ScheduleKind::SubVp { beta_min, beta_max }),
            "ve" => sigmas().map(|(sigma_min, sigma_max)| ScheduleKind::Ve { sigma_min, sigma_max }),
            "edm" if self.sigma_data.is_some_and(|sigma_data| sigma_data != DATA_DEVIATION) => {
                Err(Error::Config(format!("sigma_data must be {DATA_DEVIATION}")))
            }
            "edm" => sigmas().map(|(sigma_min, sigma_max)| ScheduleKind::Edm { sigma_min, sigma_max }),
            "flow" => Ok(ScheduleKind::Flow),
            other => Err(Error::Config(format!(
                "schedule {other:?} is not built here; vp, sub_vp, ve, edm and flow are, and tables of betas"
            ))),
        }
    }

    /// What the network's output is.
    ///
    /// # Errors
    /// [`Error::Config`] for a prediction type that is unknown.
    pub fn prediction(&self) -> Result<Prediction> {
        let found = Prediction::ALL.iter().copied().find(|prediction| prediction.name() == self.prediction_type);
        found.ok_or_else(|| Error::Config(format!("prediction_type {:?} is unknown", self.prediction_type)))
    }

    /// What the file holds: without a table of betas where there is none.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut object = match serde_json::to_value(self) {
            Ok(Value::Object(object)) => object,
            _ => unreachable!("strings and numbers under string keys"),
        };
        if self.schedule.is_some() {
            BETA_KEYS.iter().for_each(|key| drop(object.remove(*key)));
        }
        object
    }
}
