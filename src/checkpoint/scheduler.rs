//! `scheduler_config.json`: what a model was trained with, under diffusers' keys where those exist.

mod keys;
mod sampler;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::diffusion::{BetaSchedule, Choice, DATA_DEVIATION, Prediction, Schedule, ScheduleKind};
use crate::error::{Error, Result};
use keys::{DEFAULT_CLASS, Keys};

/// diffusers' scheduler configuration: the keys that say what a model was trained with, and those of the file. Keys that it
/// lacks are as its class's constructor has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, remote = "Self")]
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
    /// All keys of the file, if it was one.
    #[serde(skip)]
    pub keys: Keys,
}

impl Serialize for SchedulerConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for SchedulerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<SchedulerConfig, D::Error> {
        let keys = Keys::of(Map::deserialize(deserializer)?);
        let config = Self::deserialize(Value::Object(keys.merged())).map_err(de::Error::custom)?;
        Ok(SchedulerConfig { keys, ..config })
    }
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            class_name: DEFAULT_CLASS.into(),
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
            keys: Keys::default(),
        }
    }
}

/// A table of them must fit in memory.
const MOST_TIMESTEPS: usize = 1 << 20;

/// Keys of a table of betas, which say nothing of other schedules.
const BETA_KEYS: [&str; 3] = ["beta_schedule", "beta_start", "beta_end"];

impl SchedulerConfig {
    /// The configuration that says this.
    pub fn new(kind: ScheduleKind, timesteps: usize, prediction: Prediction) -> SchedulerConfig {
        let mut config = SchedulerConfig {
            num_train_timesteps: timesteps,
            prediction_type: prediction.name().into(),
            schedule: (!matches!(kind, ScheduleKind::Ddpm(_))).then(|| kind.key()),
            ..SchedulerConfig::default()
        };
        let class = match kind {
            ScheduleKind::Ddpm(betas) => {
                config.beta_schedule = betas.name().into();
                (config.beta_start, config.beta_end) = betas.ends().unwrap_or((config.beta_start, config.beta_end));
                "DDPMScheduler"
            }
            ScheduleKind::Vp { .. } => "ScoreSdeVpScheduler",
            ScheduleKind::SubVp { .. } => "ScoreSdeSubVpScheduler",
            ScheduleKind::Ve { .. } => "ScoreSdeVeScheduler",
            ScheduleKind::Edm { .. } => {
                config.sigma_data = Some(DATA_DEVIATION);
                "EDMEulerScheduler"
            }
            ScheduleKind::Flow => "FlowMatchEulerDiscreteScheduler",
        };
        config.class_name = class.into();
        match kind {
            ScheduleKind::Vp { beta_min, beta_max } | ScheduleKind::SubVp { beta_min, beta_max } => {
                (config.beta_min, config.beta_max) = (Some(beta_min), Some(beta_max));
            }
            ScheduleKind::Ve { sigma_min, sigma_max } | ScheduleKind::Edm { sigma_min, sigma_max } => {
                (config.sigma_min, config.sigma_max) = (Some(sigma_min), Some(sigma_max));
            }
            ScheduleKind::Ddpm(_) | ScheduleKind::Flow => {}
        }
        config
    }

    /// The noise schedule.
    ///
    /// # Errors
    /// [`Error::Config`] for a schedule that is not built here, or anything else that would be drawn otherwise than diffusers
    /// does it.
    pub fn schedule(&self) -> Result<Schedule> {
        self.keys.check()?;
        let count = self.num_train_timesteps;
        if count > MOST_TIMESTEPS {
            return Err(Error::Config(format!("num_train_timesteps {count}: at most {MOST_TIMESTEPS} are built")));
        }
        let schedule = match &self.schedule {
            Some(name) => Schedule::new(self.other_kind(name)?, count),
            // What this program is about to train with.
            None if !self.keys.are_of_a_file() => Schedule::new(self.betas()?, count),
            None => {
                let (trained, ends_in_noise) = (self.keys.trained_betas()?, self.keys.flag("rescale_betas_zero_snr")?);
                Schedule::in_single_precision(self.betas()?, trained.as_deref(), count, ends_in_noise)
            }
        };
        schedule.map_err(|error| Error::Config(error.to_string()))
    }

    fn betas(&self) -> Result<BetaSchedule> {
        // The one schedule that has another name, too.
        let name = if self.beta_schedule == "cosine" { BetaSchedule::Cosine.name() } else { &self.beta_schedule };
        let all = BetaSchedule::all(self.beta_start, self.beta_end);
        all.into_iter().find(|betas| betas.name() == name).ok_or_else(|| {
            let known = all.map(BetaSchedule::name).join(", ");
            Error::Config(format!("beta_schedule {name:?} is not built here; {known} are, and cosine"))
        })
    }

    fn other_kind(&self, name: &str) -> Result<ScheduleKind> {
        let number = |key: &str, value: Option<f64>| {
            value.ok_or_else(|| Error::Config(format!("the schedule {name} needs {key} in scheduler_config.json")))
        };
        let others = || ScheduleKind::ALL.into_iter().filter(|kind| !matches!(kind, ScheduleKind::Ddpm(_)));
        let Some(mut kind) = others().find(|kind| kind.key() == name) else {
            let known: Vec<String> = others().map(ScheduleKind::key).collect();
            let known = known.join(", ");
            return Err(Error::Config(format!(
                "schedule {name:?} is not built here; {known} are, and tables of betas"
            )));
        };
        match &mut kind {
            ScheduleKind::Vp { beta_min, beta_max } | ScheduleKind::SubVp { beta_min, beta_max } => {
                (*beta_min, *beta_max) = (number("beta_min", self.beta_min)?, number("beta_max", self.beta_max)?);
            }
            ScheduleKind::Edm { .. } if self.sigma_data.is_some_and(|own| own != DATA_DEVIATION) => {
                return Err(Error::Config(format!("sigma_data must be {DATA_DEVIATION}")));
            }
            ScheduleKind::Ve { sigma_min, sigma_max } | ScheduleKind::Edm { sigma_min, sigma_max } => {
                (*sigma_min, *sigma_max) = (number("sigma_min", self.sigma_min)?, number("sigma_max", self.sigma_max)?);
            }
            ScheduleKind::Ddpm(_) | ScheduleKind::Flow => {}
        }
        Ok(kind)
    }

    /// What the network's output is.
    ///
    /// # Errors
    /// [`Error::Config`] for a prediction type that is unknown.
    pub fn prediction(&self) -> Result<Prediction> {
        // diffusers' Euler scheduler has two words for it.
        let name = if self.prediction_type == "original_sample" { "sample" } else { &self.prediction_type };
        let found = Prediction::ALL.iter().copied().find(|prediction| prediction.name() == name);
        found.ok_or_else(|| Error::Config(format!("prediction_type {:?} is unknown", self.prediction_type)))
    }

    /// Whether the steps of ddpm take their variance from the network.
    pub fn learns_variance(&self) -> bool {
        self.variance_type == "learned_range"
    }

    /// The configuration of diffusers' class that draws the same: all keys of the file, or what this program trains with.
    ///
    /// # Errors
    /// [`Error::Config`] names what diffusers can't say.
    pub fn for_diffusers(&self) -> Result<Map<String, Value>> {
        let refuse = |what: String| Err(Error::Config(format!("diffusers' schedulers have no {what}")));
        if let Some(name) = &self.schedule {
            return refuse(format!(
                "schedule {name} whose network is told the time as here: they draw on tables of betas"
            ));
        }
        self.schedule()?;
        let prediction = self.prediction()?;
        if !matches!(prediction, Prediction::Eps | Prediction::X0 | Prediction::V) {
            let known = [Prediction::Eps, Prediction::X0, Prediction::V].map(Prediction::name).join(", ");
            return refuse(format!("prediction_type {}: they know {known}", prediction.name()));
        }
        let mut object = if self.keys.are_of_a_file() { self.keys.as_in_the_file()? } else { self.to_json() };
        object.insert("_class_name".into(), self.class_name.clone().into());
        if self.beta_schedule == "cosine" {
            object.insert("beta_schedule".into(), BetaSchedule::Cosine.name().into());
        }
        let known = keys::beta_schedules(&self.class_name);
        let betas = self.betas()?.name();
        if !known.contains(&betas) && self.keys.trained_betas()?.is_none() {
            return refuse(format!("beta_schedule {betas} in {}: it knows {}", self.class_name, known.join(", ")));
        }
        Ok(object)
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
