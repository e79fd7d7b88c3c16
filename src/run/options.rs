//! Everything that decides how a run goes: one list for flags, `--config` files and resumption.

use serde::{Deserialize, Serialize};

use super::choice;
use crate::checkpoint::SchedulerConfig;
use crate::data::{MEMORY_LIMIT, parse_bytes};
use crate::diffusion::{
    BetaSchedule, LossWeight, Prediction, Sampler, SamplerKind, ScheduleKind, TimestepDraw, Variance,
};
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

/// What ranks send each other of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SentAs {
    /// All of it: the bits of one process, on any number of ranks
    #[default]
    F32,
    /// Half as much, rounded to 11 bits, with other bits on each number of ranks
    F16,
}

/// What ranks do when the weights of one differ from those of most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnDiffer {
    /// Name it, and end
    #[default]
    Stop,
    /// Name it, and go on without it: the others share its shards. Ends where it is rank 0, or where no more than half are alike
    Leave,
}

/// All that is set in a training run: each a key of its files, and a flag of `diffuse train` unless it is skipped, under the heading
/// that it has in the help.
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
    #[arg(help_heading = "Data", long, value_name = "BYTES", value_parser = parse_bytes)]
    pub memory_limit: u64,
    #[arg(skip)]
    pub model: UNetConfig,
    /// Optimizer steps
    #[arg(help_heading = "Optimizer", long)]
    pub steps: u64,
    /// Images in a batch; with --micro-batch, those of a step; with --dp, those of a step on average
    #[arg(help_heading = "Optimizer", long)]
    pub batch: u32,
    /// Batches whose gradients make one step
    #[arg(help_heading = "Optimizer", long)]
    pub accumulate: u32,
    /// Learning rate
    #[arg(help_heading = "Optimizer", long = "lr", alias = "learning-rate")]
    pub learning_rate: f64,
    /// Steps over which the learning rate rises
    #[arg(help_heading = "Optimizer", long)]
    pub warmup: u64,
    /// What the learning rate does after that
    #[arg(help_heading = "Optimizer", long = "lr-schedule")]
    pub learning_rate_schedule: LearningRateSchedule,
    #[arg(skip)]
    pub beta1: f64,
    #[arg(skip)]
    pub beta2: f64,
    #[arg(skip)]
    pub adam_eps: f64,
    /// Decoupled weight decay
    #[arg(help_heading = "Optimizer", long)]
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 doesn't clip
    #[arg(help_heading = "Optimizer", long)]
    pub max_norm: f64,
    /// Decay of the average of the weights; it warms up as (1 + step) / (10 + step)
    #[arg(help_heading = "Optimizer", long)]
    pub ema_decay: f64,
    /// How often the class is hidden, for guidance
    #[arg(help_heading = "Diffusion", long)]
    pub class_dropout: f64,
    /// Whether to show half of the images flipped left to right [default: false, for letters and digits would be learnt mirrored]
    #[arg(help_heading = "Data", long)]
    pub flip: Option<bool>,
    /// Noise schedule
    #[arg(help_heading = "Diffusion", long = "schedule", alias = "noise-schedule", value_parser = choice::parser::<ScheduleKind>())]
    #[serde(with = "choice")]
    pub noise_schedule: ScheduleKind,
    /// Least noise of the schedules ve and edm [default: the papers']
    #[arg(help_heading = "Diffusion", long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    /// Most noise of the schedules ve and edm [default: the papers']
    #[arg(help_heading = "Diffusion", long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// What the network learns to put out
    #[arg(help_heading = "Diffusion", long, value_parser = choice::parser::<Prediction>())]
    #[serde(with = "choice")]
    pub target: Prediction,
    /// What each timestep counts in the loss
    #[arg(help_heading = "Diffusion", long, value_parser = choice::parser::<LossWeight>())]
    #[serde(with = "choice")]
    pub loss_weight: LossWeight,
    /// How often each timestep is drawn
    #[arg(help_heading = "Diffusion", long, value_parser = choice::parser::<TimestepDraw>())]
    #[serde(with = "choice")]
    pub timestep_draw: TimestepDraw,
    /// Timesteps of the noise schedule: levels of the ladder
    #[arg(help_heading = "Diffusion", long)]
    pub timesteps: usize,
    /// Seed of weights, batches and noise
    #[arg(help_heading = "Run", long)]
    pub seed: u64,
    /// How activations and copies of weights are stored; the flag knows `auto`, too.
    #[arg(skip)]
    pub precision: Precision,
    /// Of the flag --winograd, which all commands have.
    #[arg(skip)]
    pub winograd: Winograd,
    /// Less memory, a little more time: compute outputs of norms and activations once more in the backward pass
    #[arg(help_heading = "Model", long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub recompute: bool,
    /// Whether images are read as they come instead of being held on the device, with the same bits [default: where they don't fit]
    #[arg(help_heading = "Data", long, num_args = 0..=1, default_missing_value = "true")]
    pub stream: Option<bool>,
    /// Steps between sample grids; 0 draws none
    #[arg(help_heading = "Run", long)]
    pub sample_every: u64,
    /// Sampler steps of those grids.
    #[arg(skip)]
    pub sample_steps: usize,
    /// Steps between checkpoints; 0 saves at the end alone
    #[arg(help_heading = "Run", long)]
    pub checkpoint_every: u64,
    /// Checkpoints kept beside the newest, and the best: of the least mean training loss since the save before; 0: none
    #[arg(help_heading = "Run", long, value_name = "N")]
    pub keep: usize,
    /// Write what TensorBoard shows, an event file beside metrics.csv: scalars of each step, and sample grids
    #[arg(help_heading = "Run", long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tensorboard: bool,
    /// Steps between histograms of weights and gradients in it, for which a step waits; 0 writes none
    #[arg(help_heading = "Run", long, value_name = "N")]
    pub histograms_every: u64,
    /// What to do when a loss or a gradient is not finite [default: stop; lower-scale in half precision]
    #[arg(help_heading = "Run", long, value_enum)]
    pub on_nan: Option<OnNan>,
    /// Steps between those that are computed twice and compared, and of which one dispatch is held to its f64 twin; 0: none
    #[arg(help_heading = "Run", long)]
    pub audit_every: u64,
    /// What ranks send each other of gradients
    #[arg(help_heading = "Run", long, value_enum)]
    #[serde(skip_serializing_if = "is_usual")]
    pub exchange: SentAs,
    /// What to do when ranks compare weights, behind audited steps, and those of one differ
    #[arg(help_heading = "Run", long, value_enum)]
    #[serde(skip_serializing_if = "is_usual")]
    pub on_differ: OnDiffer,
    /// Train under differential privacy: images join a step by secret coins, the gradient of each is clipped, and noise is added (DP-SGD)
    #[arg(help_heading = "Privacy", long, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dp: bool,
    /// The privacy budget, epsilon, of all steps: the noise is found for it
    #[arg(help_heading = "Privacy", long, value_name = "E")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_epsilon: Option<f64>,
    /// The delta that goes with it: at most 1 over the number of images
    #[arg(help_heading = "Privacy", long, value_name = "D")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_delta: Option<f64>,
    /// Standard deviation of the noise over the clipping norm [default: found for --dp-epsilon]
    #[arg(help_heading = "Privacy", long, value_name = "SIGMA")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_noise: Option<f64>,
    /// Largest norm of an image's gradient, the clipping norm [default: 1, as Dockhorn et al. 2023 have it]
    #[arg(help_heading = "Privacy", long, value_name = "C")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_clip: Option<f64>,
    /// Draws of timestep and noise of which the gradient of an image is the mean; they cost no privacy [default: 8]
    #[arg(help_heading = "Privacy", long, value_name = "K")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_draws: Option<u32>,
    /// Places of a step: what more images join it are left out, which counts in delta [default: so many that it hardly counts]
    #[arg(help_heading = "Privacy", long, value_name = "P")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_places: Option<u32>,
    /// Draw coins and noise from this number instead of the system's secret: repeatable, for tests, and not private at all
    #[arg(help_heading = "Privacy", long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dp_seed: Option<u64>,
    /// Images, drawn at random, of which secret coins leave about half out of training: `privacy audit` measures how well it shows which
    #[arg(help_heading = "Privacy", long, value_name = "M")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canaries: Option<u32>,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
            timestep_draw: TimestepDraw::Even,
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
            tensorboard: false,
            histograms_every: 0,
            on_nan: None,
            audit_every: 1000,
            exchange: SentAs::F32,
            on_differ: OnDiffer::Stop,
            dp: false,
            dp_epsilon: None,
            dp_delta: None,
            dp_noise: None,
            dp_clip: None,
            dp_draws: None,
            dp_places: None,
            dp_seed: None,
            canaries: None,
        }
    }
}

/// Most images of a pass, and most passes of a step.
pub const MOST_BATCH: u32 = 65_536;
pub const MOST_ACCUMULATE: u32 = 4096;

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
        if self.batch > MOST_BATCH
            || self.accumulate > MOST_ACCUMULATE
            || self.steps > u32::MAX as u64 / self.accumulate as u64
        {
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
        if matches!(self.loss_weight, LossWeight::Edm { .. }) && self.timestep_draw != TimestepDraw::Even {
            return refuse(
                "--loss-weight edm has a distribution of its own, as a weight of even draws: with another --timestep-draw take \
                 --loss-weight simple, which with --target edm is what Karras et al. (2022) do",
            );
        }
        let schedule = self.scheduler().schedule()?;
        if (0..self.timesteps).all(|timestep| self.timestep_draw.ratio(&schedule, timestep) == 0.0) {
            return refuse("no timestep of this schedule has a noise level that --timestep-draw draws: take even");
        }
        if self.task == Task::Classify && (self.class_dropout != 0.0 || self.sample_every != 0) {
            return refuse("a classifier takes class_dropout 0 and sample_every 0: it is never told the class");
        }
        // Its loss is not scaled.
        if self.task == Task::Classify && self.precision != Precision::F32 {
            return refuse("a classifier takes precision f32");
        }
        if self.canaries == Some(0) {
            return refuse("canaries must be at least 1");
        }
        if self.task == Task::Classify && self.canaries.is_some() {
            return refuse("a classifier is trained without --canaries");
        }
        if self.histograms_every > 0 && !self.tensorboard {
            return refuse("--histograms-every goes with --tensorboard, whose file they are written to");
        }
        self.validate_private()?;
        self.model.validate()
    }

    /// As [`TrainOptions::validate`], of what privacy asks for.
    fn validate_private(&self) -> Result<()> {
        let refuse = |problem: &str| Err(Error::Config(problem.into()));
        let named = [
            ("delta", self.dp_delta.is_some()),
            ("clip", self.dp_clip.is_some()),
            ("draws", self.dp_draws.is_some()),
            ("places", self.dp_places.is_some()),
            ("seed", self.dp_seed.is_some()),
        ];
        if !self.is_private() {
            return match named.iter().find(|(_, is_given)| *is_given) {
                Some((name, _)) => refuse(&format!("--dp-{name} goes with --dp-epsilon or --dp-noise")),
                None => Ok(()),
            };
        }
        let positive = |value: Option<f64>| value.is_none_or(|value| value > 0.0 && value.is_finite());
        if self.dp_epsilon.is_none() && self.dp_noise.is_none() {
            return refuse("--dp needs a budget, --dp-epsilon, or the noise, --dp-noise");
        }
        if !positive(self.dp_epsilon) || !positive(self.dp_noise) || !positive(self.dp_clip) {
            return refuse("--dp-epsilon, --dp-noise and --dp-clip must be above 0");
        }
        if self.dp_noise.is_some_and(|noise| !(0.01..=1e4).contains(&noise)) {
            return refuse("--dp-noise must be 0.01 to 10000");
        }
        if self.dp_clip.is_some_and(|clip| !(1e-6..=1e6).contains(&clip)) {
            return refuse("--dp-clip must be 1e-6 to 1e6");
        }
        match self.dp_delta {
            None => return refuse("--dp needs --dp-delta: at most 1 over the number of images"),
            Some(delta) if !(delta > 0.0 && delta < 1.0) => return refuse("--dp-delta must be above 0 and below 1"),
            Some(_) => {}
        }
        if self.dp_draws.is_some_and(|draws| !(1..=4096).contains(&draws)) {
            return refuse("--dp-draws must be 1 to 4096");
        }
        if self.dp_places.is_some_and(|places| !(1..=65_536).contains(&places)) {
            return refuse("--dp-places must be 1 to 65536");
        }
        if self.accumulate != 1 {
            return refuse("--dp takes a step's images one at a time: without --accumulate and --micro-batch");
        }
        if self.on_nan.is_some() {
            return refuse("--on-nan does not go with --dp: what the data do may stop or skip no step");
        }
        if self.task == Task::Classify {
            return refuse("a classifier is not trained with --dp");
        }
        Ok(())
    }

    /// What a private run has where nothing is said, of a budget `epsilon`. DP-SGD as Dockhorn et al. 2023, sections 4 and 5, have it:
    /// EDM's preconditioning and noise levels; of small budgets the target v, and more of the levels of much noise. The
    /// learning rate stays as it is, nothing decays, and the average is that of 0.999.
    pub fn with_private_defaults(self, epsilon: Option<f64>) -> TrainOptions {
        let base = TrainOptions { batch: 256, weight_decay: 0.0, ..self };
        if epsilon.is_some_and(|epsilon| epsilon < 1.0) {
            let noise_schedule = BetaSchedule::Cosine.into();
            return TrainOptions { noise_schedule, target: Prediction::V, timestep_draw: TimestepDraw::HIGH, ..base };
        }
        let noise_schedule = ScheduleKind::EDM;
        TrainOptions { noise_schedule, target: Prediction::Edm, timestep_draw: TimestepDraw::EDM, ..base }
    }

    /// Whether it trains under differential privacy.
    pub fn is_private(&self) -> bool {
        self.dp || self.dp_epsilon.is_some() || self.dp_noise.is_some()
    }

    /// Largest norm of an image's gradient where training is private.
    pub fn clip(&self) -> f64 {
        self.dp_clip.unwrap_or(1.0)
    }

    /// Images that a device takes at a time: where training is private, so many draws of one.
    pub fn rows(&self) -> u32 {
        if self.is_private() { self.dp_draws.unwrap_or(8) } else { self.batch }
    }

    /// How often it takes so many in a step: where training is private, for each place.
    pub fn passes(&self) -> u32 {
        if self.is_private() { self.dp_places.unwrap_or(1) } else { self.accumulate }
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
