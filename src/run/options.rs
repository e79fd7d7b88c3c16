//! Everything that decides how a run goes: one list for flags, `--config` files and resumption.

use serde::{Deserialize, Serialize};

use super::choice;
use crate::checkpoint::SchedulerConfig;
use crate::data::{MEMORY_LIMIT, parse_bytes};
use crate::diffusion::{BetaSchedule, LossWeight, Prediction, Sampler, SamplerKind, ScheduleKind, Variance};
use crate::error::{Error, Result};
use crate::gpu::Precision;
use crate::nn::{self, UNetConfig};
use crate::ops::adamw::AdamW;
use crate::tune::Winograd;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    Constant,
    Cosine,
}

/// What a run learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To take noise away: a U-Net.
    #[default]
    Denoise,
    /// To name the class of a noisy image: the U-Net's encoder half.
    Classify,
}

/// What a run does where a loss or a gradient is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnNan {
    /// Name the first kernel whose result is not, and end
    Stop,
    /// Name it, leave weights, moments and average as they are, and go on with the next step
    Skip,
    /// In half precision: leave them as well, and scale the loss half as much from then on
    LowerScale,
}

/// All that is set in a training run: each a key of its files, and a flag of `diffuse train` unless it is skipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct TrainOptions {
    #[arg(skip)]
    pub task: Task,
    /// `digits`, or the path of a data set.
    #[arg(skip)]
    pub data: String,
    /// Most bytes that one array, one file of an archive or one page of a table may unpack to, such as 500M or 4GiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: u64,
    #[arg(skip)]
    pub model: UNetConfig,
    /// Optimizer steps
    #[arg(long)]
    pub steps: u64,
    /// Images in a batch; with --micro-batch, those of a step
    #[arg(long)]
    pub batch: u32,
    /// Batches whose gradients make one step
    #[arg(long)]
    pub accumulate: u32,
    /// Learning rate
    #[arg(long = "lr", alias = "learning-rate")]
    pub learning_rate: f64,
    /// Steps over which the learning rate rises
    #[arg(long)]
    pub warmup: u64,
    /// What the learning rate does after that
    #[arg(long = "lr-schedule")]
    pub learning_rate_schedule: LearningRateSchedule,
    #[arg(skip)]
    pub beta1: f64,
    #[arg(skip)]
    pub beta2: f64,
    #[arg(skip)]
    pub adam_eps: f64,
    /// Decoupled weight decay
    #[arg(long)]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 doesn't clip
    #[arg(long)]
    pub max_norm: f64,
    /// Decay of the average of the weights; it warms up as (1 + step) / (10 + step)
    #[arg(long)]
    pub ema_decay: f64,
    /// How often the class is hidden, for guidance
    #[arg(long)]
    pub class_dropout: f64,
    /// Whether to show half of the images flipped left to right [default: false, for letters and digits would be learnt mirrored]
    #[arg(long)]
    pub flip: Option<bool>,
    /// Noise schedule
    #[arg(long = "schedule", alias = "noise-schedule", value_parser = choice::parser::<ScheduleKind>())]
    #[serde(with = "choice")]
    pub noise_schedule: ScheduleKind,
    /// Least noise of the schedules ve and edm [default: the papers']
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// Most noise of the schedules ve and edm [default: the papers']
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// What the network learns to put out
    #[arg(long, value_parser = choice::parser::<Prediction>())]
    #[serde(with = "choice")]
    pub target: Prediction,
    /// What each timestep counts in the loss
    #[arg(long, value_parser = choice::parser::<LossWeight>())]
    #[serde(with = "choice")]
    pub loss_weight: LossWeight,
    /// Timesteps of the noise schedule: levels of the ladder
    #[arg(long)]
    pub timesteps: usize,
    /// Seed of weights, batches and noise
    #[arg(long)]
    pub seed: u64,
    /// How activations and copies of weights are stored; the flag knows `auto`, too.
    #[arg(skip)]
    pub precision: Precision,
    /// Of the flag --winograd, which all commands have.
    #[arg(skip)]
    pub winograd: Winograd,
    /// Less memory, a little more time: compute outputs of norms and activations once more in the backward pass
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub recompute: bool,
    /// Whether images are read as they come instead of being held on the device, with the same bits [default: where they don't fit]
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub stream: Option<bool>,
    /// Steps between sample grids; 0 draws none
    #[arg(long)]
    pub sample_every: u64,
    /// Sampler steps of those grids.
    #[arg(skip)]
    pub sample_steps: usize,
    /// Steps between checkpoints; 0 saves at the end alone
    #[arg(long)]
    pub checkpoint_every: u64,
    /// Checkpoints kept beside the newest, and the best: of the least mean training loss since the save before; 0: none
    #[arg(long, value_name = "N")]
    pub keep: usize,
    /// What to do when a loss or a gradient is not finite [default: stop; lower-scale in half precision]
    #[arg(long, value_enum)]
    pub on_nan: Option<OnNan>,
    /// Steps between those that are computed twice and compared, and of which one dispatch is held to its f64 twin; 0: none
    #[arg(long)]
    pub audit_every: u64,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        let AdamW { beta1, beta2, eps, weight_decay, max_norm } = AdamW::default();
        TrainOptions {
            task: Task::Denoise,
            data: "digits".into(),
            memory_limit: MEMORY_LIMIT,
            model: nn::digits(),
            steps: 2000,
            batch: 64,
            accumulate: 1,
            learning_rate: 1e-3,
            warmup: 100,
            learning_rate_schedule: LearningRateSchedule::Cosine,
            beta1,
            beta2,
            adam_eps: eps,
            weight_decay,
            max_norm,
            ema_decay: 0.999,
            class_dropout: 0.1,
            flip: None,
            noise_schedule: BetaSchedule::HO.into(),
            sigma_min: None,
            sigma_max: None,
            target: Prediction::Eps,
            loss_weight: LossWeight::Simple,
            timesteps: 1000,
            seed: 0,
            precision: Precision::F32,
            winograd: Winograd::default(),
            recompute: false,
            stream: None,
            sample_every: 1000,
            sample_steps: 50,
            checkpoint_every: 1000,
            keep: 2,
            on_nan: None,
            audit_every: 1000,
        }
    }
}

impl TrainOptions {
    /// Whether the numbers make sense.
    ///
    /// # Errors
    /// [`Error::Config`] names the flag.
    pub fn validate(&self) -> Result<()> {
        let refuse = |problem: &str| Err(Error::Config(problem.into()));
        let unit = |value: f64| (0.0..1.0).contains(&value);
        if self.steps == 0 || self.batch == 0 || self.accumulate == 0 {
            return refuse("steps, batch and accumulate must be at least 1");
        }
        if self.batch > 65_536 || self.accumulate > 4096 || self.steps > u32::MAX as u64 / self.accumulate as u64 {
            return refuse("batch is at most 65536, accumulate 4096, steps times accumulate 2^32");
        }
        if !(self.learning_rate > 0.0 && self.learning_rate <= 10.0) {
            return refuse("the learning rate must be above 0 and at most 10");
        }
        if !(unit(self.beta1) && unit(self.beta2) && unit(self.ema_decay) && self.adam_eps > 0.0) {
            return refuse("beta1, beta2 and ema_decay must be in [0, 1), adam_eps above 0");
        }
        if !(self.weight_decay >= 0.0
            && self.weight_decay.is_finite()
            && (0.0..f32::MAX as f64).contains(&self.max_norm))
        {
            return refuse("weight_decay and max_norm must be 0 or more");
        }
        // The kernels' generator is keyed by 32 bits: a larger seed would draw what another draws.
        if self.seed > u32::MAX as u64 {
            return refuse("seed must be below 2^32");
        }
        if !(0.0..=1.0).contains(&self.class_dropout) {
            return refuse("class_dropout must be in [0, 1]");
        }
        if self.timesteps == 0
            || self.timesteps > 1 << 16
            || self.sample_steps == 0
            || self.sample_steps > self.timesteps
        {
            return refuse("timesteps must be 1 to 65536, sample_steps at most as many");
        }
        let has_sigmas = matches!(self.noise_schedule, ScheduleKind::Ve { .. } | ScheduleKind::Edm { .. });
        if !has_sigmas && (self.sigma_min.is_some() || self.sigma_max.is_some()) {
            return refuse("sigma_min and sigma_max go with the schedules ve and edm");
        }
        self.scheduler().schedule()?;
        if self.task == Task::Classify && (self.class_dropout != 0.0 || self.sample_every != 0) {
            return refuse("a classifier takes class_dropout 0 and sample_every 0: it is never told the class");
        }
        // Its loss is not scaled.
        if self.task == Task::Classify && self.precision != Precision::F32 {
            return refuse("a classifier takes precision f32");
        }
        self.model.validate()
    }

    /// Whether what is to be done with numbers that are not finite goes with the precision: as [`TrainOptions::validate`], once it is
    /// known what the device can do.
    ///
    /// # Errors
    /// [`Error::Config`] names the flag.
    pub fn check_on_nan(&self) -> Result<()> {
        match self.on_nan == Some(OnNan::LowerScale) && self.precision != Precision::F16 {
            true => Err(Error::Config(
                "--on-nan lower-scale goes with --precision f16: in single precision the loss is not scaled".into(),
            )),
            false => Ok(()),
        }
    }

    /// What it does where a loss or a gradient is not finite.
    pub fn on_nan(&self) -> OnNan {
        let usual = if self.precision == Precision::F16 { OnNan::LowerScale } else { OnNan::Stop };
        self.on_nan.unwrap_or(usual)
    }

    /// Images whose gradients make one step.
    pub fn images_of_a_step(&self) -> u32 {
        self.batch.saturating_mul(self.accumulate)
    }

    /// The noise schedule to train on.
    pub fn schedule_kind(&self) -> ScheduleKind {
        self.noise_schedule.between(self.sigma_min, self.sigma_max)
    }

    /// diffusers' configuration of the scheduler that samples what this trains.
    pub fn scheduler(&self) -> SchedulerConfig {
        let config = SchedulerConfig::new(self.schedule_kind(), self.timesteps, self.target);
        SchedulerConfig { variance_type: self.variance().name().into(), ..config }
    }

    /// The sampler of the grids that a run draws.
    pub fn sampler(&self) -> Sampler {
        let kind = SamplerKind::Ddpm { variance: self.variance() };
        Sampler { kind, prediction: self.target, ..Sampler::ddpm(self.sample_steps) }
    }

    fn variance(&self) -> Variance {
        if self.model.learns_variance() { Variance::Learned } else { Variance::FixedSmall }
    }

    /// The learning rate of step `step` (from 0): a linear rise, then constant or half a cosine down to 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let rise = if step < self.warmup { (step + 1) as f64 / self.warmup as f64 } else { 1.0 };
        let fall = match self.learning_rate_schedule {
            LearningRateSchedule::Constant => 1.0,
            LearningRateSchedule::Cosine => {
                let length = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = step.saturating_sub(self.warmup) as f64 / length;
                0.5 + 0.5 * (std::f64::consts::PI * done.min(1.0)).cos()
            }
        };
        self.learning_rate * rise * fall
    }

    /// The decay of the average of the weights at step `step`: short at first, so that it forgets the initial weights.
    pub fn ema_decay_at(&self, step: u64) -> f64 {
        self.ema_decay.min((1 + step) as f64 / (10 + step) as f64)
    }

    /// The optimizer's settings.
    pub fn adamw(&self) -> AdamW {
        AdamW {
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.adam_eps,
            weight_decay: self.weight_decay,
            max_norm: self.max_norm,
        }
    }
}
