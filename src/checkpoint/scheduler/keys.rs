//! The keys of diffusers' schedulers: which class has which, with which default, and what is refused.
//!
//! `defaults.json` holds the constructors' defaults of diffusers 0.42.1, written by `tests/schedulers/make_defaults.py`.
//! docs/schedulers.md says key by key what is done with each.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

type Object = Map<String, Value>;

static DEFAULTS: LazyLock<Map<String, Value>> =
    LazyLock::new(|| serde_json::from_str(include_str!("defaults.json")).expect("an object"));

/// The class of a file that names none.
pub(super) const DEFAULT_CLASS: &str = "DDPMScheduler";

/// Keys of this program's own, and old ones of diffusers that change nothing.
const OTHERS: [&str; 7] =
    ["schedule", "beta_min", "beta_max", "sigma_data", "predict_epsilon", "tensor_format", "num_inference_steps"];

fn is_known(key: &str) -> bool {
    let of_class = |defaults: &Value| defaults.get(key).is_some();
    key.starts_with('_') || OTHERS.contains(&key) || DEFAULTS.values().any(of_class)
}

/// A value that says nothing.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Values that would draw something else than is drawn here: class (all without), key, value, why.
const REFUSED: [(Option<&str>, &str, &str, &str); 6] = [
    (None, "use_flow_sigmas", "true", "it has its own levels and another time"),
    (None, "use_dynamic_shifting", "true", "it has its own levels and another time"),
    (None, "interpolation_type", "\"log_linear\"", "linear is"),
    (Some("DPMSolverMultistepScheduler"), "algorithm_type", "\"dpmsolver\"", "dpmsolver++ is"),
    (Some("DPMSolverMultistepScheduler"), "algorithm_type", "\"sde-dpmsolver\"", "sde-dpmsolver++ is"),
    (Some("UniPCMultistepScheduler"), "predict_x0", "false", "true is"),
];

/// What [`super::super::read_json`] makes of numbers that JSON hasn't.
const NOT_IN_JSON: [&str; 3] = ["Infinity", "-Infinity", "NaN"];

/// Values that the code here knows, where a key has a choice of words.
const WORDS: [(&str, &[&str]); 6] = [
    ("timestep_spacing", &["leading", "linspace", "trailing"]),
    ("final_sigmas_type", &["zero", "sigma_min"]),
    ("interpolation_type", &["linear", "log_linear"]),
    ("timestep_type", &["discrete", "continuous"]),
    ("solver_type", &["midpoint", "heun", "logrho", "bh1", "bh2"]),
    ("algorithm_type", &["dpmsolver++", "sde-dpmsolver++", "deis", "dpmsolver", "sde-dpmsolver"]),
];

/// The schedules of betas that diffusers' `class` builds.
pub(super) fn beta_schedules(class: &str) -> &'static [&'static str] {
    match class {
        "DDPMScheduler" => &["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"],
        "HeunDiscreteScheduler" => &["linear", "scaled_linear", "squaredcos_cap_v2", "exp"],
        _ => &["linear", "scaled_linear", "squaredcos_cap_v2"],
    }
}

/// What a file says, and behind it the defaults of its class.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    class: String,
    /// All keys of the file; none where there was no file.
    given: Object,
    /// None of a class that isn't diffusers', or not read here.
    defaults: Option<&'static Object>,
    /// A schedule of this program's own, which is no table of betas.
    own: bool,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys::of(Object::new())
    }
}

impl Keys {
    /// Of the keys in a file.
    pub(super) fn of(given: Object) -> Keys {
        let class = given.get("_class_name").and_then(Value::as_str).unwrap_or(DEFAULT_CLASS).to_string();
        let own = given.get("schedule").is_some_and(|schedule| !schedule.is_null());
        let defaults = DEFAULTS.get(&class).and_then(Value::as_object).filter(|_| !own);
        Keys { class, given, defaults, own }
    }

    /// The defaults with what the file says instead. What is null there and in the constructor is left out, and so is a clamp
    /// if the class has none.
    pub(super) fn merged(&self) -> Object {
        let mut all = self.defaults.cloned().unwrap_or_default();
        all.extend(self.given.clone());
        if let Some(defaults) = self.defaults {
            all.retain(|key, value| !value.is_null() || defaults.get(key).is_some_and(|default| !default.is_null()));
            if !defaults.contains_key("clip_sample") {
                all.insert("clip_sample".into(), false.into());
            }
        }
        all
    }

    /// All keys of the file. A number that JSON hasn't is left out where the class has it by default.
    ///
    /// # Errors
    /// [`Error::Config`] names the key of another such number.
    pub(super) fn as_in_the_file(&self) -> Result<Object> {
        let is_in_words = |value: &Value| value.as_str().is_some_and(|word| NOT_IN_JSON.contains(&word));
        let default = |key: &str| self.defaults.and_then(|defaults| defaults.get(key));
        let mut all = self.given.clone();
        all.retain(|key, value| !is_in_words(value) || default(key) != Some(value));
        match all.iter().find(|(_, value)| is_in_words(value)) {
            Some((key, value)) => Err(wrong(key, value, "a number that JSON has")),
            None => Ok(all),
        }
    }

    /// Whether there was a file.
    pub(super) fn are_of_a_file(&self) -> bool {
        !self.given.is_empty()
    }

    /// Whether the configuration is this program's own: a schedule that is no table of betas.
    pub(super) fn are_own(&self) -> bool {
        self.own
    }

    /// What the file says of a key that its class has, or the class's default; none where the class hasn't the key.
    pub(super) fn key(&self, key: &str) -> Option<&Value> {
        let default = self.defaults?.get(key)?;
        Some(self.given.get(key).unwrap_or(default))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool> {
        match self.key(key) {
            None | Some(Value::Null) => Ok(false),
            Some(value) => value.as_bool().ok_or_else(|| wrong(key, value, "true or false")),
        }
    }

    pub(super) fn count(&self, key: &str, otherwise: usize) -> Result<usize> {
        let Some(value) = self.key(key) else { return Ok(otherwise) };
        value.as_u64().map(|count| count as usize).ok_or_else(|| wrong(key, value, "a whole number, 0 or more"))
    }

    /// A list of numbers below 64 as bits.
    pub(super) fn bits(&self, key: &str) -> Result<u64> {
        let Some(value) = self.key(key) else { return Ok(0) };
        let bit = |number: &Value| number.as_u64().filter(|number| *number < 64).map(|number| 1 << number);
        let bits = value.as_array().and_then(|list| list.iter().try_fold(0, |bits, number| Some(bits | bit(number)?)));
        bits.ok_or_else(|| wrong(key, value, "a list of whole numbers below 64"))
    }

    /// A number that the file may give to any class, as diffusers looks for it.
    pub(super) fn any_number(&self, key: &str) -> Result<Option<f64>> {
        match self.given.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => number(key, value).map(Some),
        }
    }

    pub(super) fn number(&self, key: &str, otherwise: f64) -> Result<f64> {
        self.key(key).map_or(Ok(otherwise), |value| number(key, value))
    }

    /// A word, that is one of [`WORDS`] where those are listed.
    pub(super) fn word(&self, key: &str) -> Option<&str> {
        self.key(key).and_then(Value::as_str)
    }

    /// The table of betas that the file holds.
    pub(super) fn trained_betas(&self) -> Result<Option<Vec<f64>>> {
        let betas = match self.key("trained_betas") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(betas)) => betas,
            Some(value) => return Err(wrong("trained_betas", value, "a list of numbers")),
        };
        let betas = betas.iter().map(|beta| number("trained_betas", beta)).collect::<Result<Vec<f64>>>()?;
        let (found, wanted) = (betas.len(), self.count("num_train_timesteps", betas.len())?);
        if found != wanted {
            return refuse(format!("trained_betas holds {found} betas, and num_train_timesteps is {wanted}"));
        }
        Ok(Some(betas))
    }

    /// Whether all of it is done here as diffusers does it.
    ///
    /// # Errors
    /// [`Error::Config`] names the class, or the key and its value.
    pub(super) fn check(&self) -> Result<()> {
        if self.defaults.is_none() && !self.own {
            let known: Vec<&str> = DEFAULTS.keys().map(String::as_str).collect();
            let class = if self.class.is_empty() { "a _class_name of no letters" } else { self.class.as_str() };
            return refuse(format!(
                "{class} is not read here: it tells the network the time in its own way, or steps in its own; read are {}",
                known.join(", ")
            ));
        }
        self.check_unknown()?;
        self.check_flags()?;
        for (key, words) in WORDS {
            if let Some(value) = self.key(key).filter(|value| !value.as_str().is_some_and(|word| words.contains(&word)))
            {
                return Err(wrong(key, value, &format!("one of {}", words.join(", "))));
            }
        }
        for (class, key, value, instead) in REFUSED {
            let of_class = class.is_none_or(|class| class == self.class);
            let own = self.key(key).map(Value::to_string);
            if of_class && own.as_deref() == Some(value) {
                return refuse(format!("{key} {value} is not built here: {instead}"));
            }
        }
        self.check_pairs()
    }

    /// Flags are true or false: Python takes anything for one of them, and each of its ways to draw has its own place to ask.
    fn check_flags(&self) -> Result<()> {
        if let Some(class) = self.given.get("_class_name").filter(|class| !class.is_string()) {
            return Err(wrong("_class_name", class, "a string"));
        }
        let is_flag = |key: &str| {
            key == "predict_epsilon" || self.defaults.is_some_and(|own| own.get(key).is_some_and(Value::is_boolean))
        };
        match self.given.iter().find(|(key, value)| is_flag(key) && !value.is_boolean()) {
            Some((key, value)) => Err(wrong(key, value, "true or false")),
            None => Ok(()),
        }
    }

    fn check_unknown(&self) -> Result<()> {
        for (key, value) in self.given.iter().filter(|(key, _)| !is_known(key)) {
            if !is_nothing(value) {
                return refuse(format!(
                    "scheduler_config.json: this program does not know {key}, which may change the images: \
                     remove it if it does not"
                ));
            }
        }
        Ok(())
    }

    /// What goes wrong only together, and keys that may only be empty.
    fn check_pairs(&self) -> Result<()> {
        let is_of = |prediction: &str| self.word("prediction_type") == Some(prediction);
        for key in ["solver_p", "shift_terminal"] {
            if let Some(value) = self.key(key).filter(|value| !is_nothing(value)) {
                return refuse(format!("{key} {value} is not built here"));
            }
        }
        if self.given.get("predict_epsilon") == Some(&Value::Bool(false)) && !is_of("sample") {
            return refuse(
                "predict_epsilon false is not read any more, by diffusers neither: say \"prediction_type\": \"sample\"",
            );
        }
        if self.word("timestep_type") == Some("continuous") && is_of("v_prediction") {
            return refuse(
                "timestep_type \"continuous\" is not built here: it tells the network the time in its own way",
            );
        }
        if is_of("flow_prediction") && self.class != DEFAULT_CLASS {
            return refuse(format!("prediction_type \"flow_prediction\" of {} is not built here", self.class));
        }
        let sigmas = ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"];
        let chosen = sigmas.into_iter().filter(|key| self.flag(key).unwrap_or(false)).collect::<Vec<_>>();
        if chosen.len() > 1 {
            return refuse(format!("{}: diffusers takes only one of them", chosen.join(" and ")));
        }
        Ok(())
    }

    /// Unknown keys that say nothing.
    pub(super) fn ignored(&self) -> Vec<&str> {
        self.given.keys().map(String::as_str).filter(|key| !is_known(key)).collect()
    }
}

pub(super) fn refuse<T>(problem: impl Into<String>) -> Result<T> {
    Err(Error::Config(problem.into()))
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Error {
    Error::Config(format!("scheduler_config.json: {key} is {value}, and must be {wanted}"))
}

/// A number, or what [`super::super::read_json`] makes of those that JSON hasn't.
fn number(key: &str, value: &Value) -> Result<f64> {
    let written = match value.as_str() {
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => None,
    };
    value.as_f64().or(written).ok_or_else(|| wrong(key, value, "a number"))
}
