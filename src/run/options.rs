//! Everything that decides how a run goes: one list for flags, `--config` files and resumption.

use serde::{Deserialize, Serialize};

use crate::checkpoint::SchedulerConfig;
use crate::diffusion::{BetaSchedule, LossWeight, Prediction, Sampler, SamplerKind, ScheduleKind, Variance};
use crate::error::{Error, Result};
use crate::gpu::Precision;
use crate::nn::UNetConfig;
use crate::nn::config::Size;
use crate::ops::adamw::AdamW;

/// How the learning rate goes on after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LearningRateSchedule {
    Constant,
    Cosine,
}

/// The noise schedule to train on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum NoiseSchedule {
    /// Ho et al. (2020): beta from 1e-4 to 0.02.
    Linear,
    /// Nichol & Dhariwal (2021).
    Cosine,
    /// Beta along a sigmoid from 1e-4 to 0.02 (Xu et al. 2022).
    Sigmoid,
    /// Variance-preserving SDE (Song et al. 2021).
    Vp,
    /// Sub-variance-preserving SDE (Song et al. 2021).
    SubVp,
    /// Variance-exploding SDE, NCSN's geometric ladder (Song & Ermon 2019).
    Ve,
    /// Karras et al. (2022).
    Edm,
    /// Rectified flow (Liu et al. 2023).
    Flow,
}

/// What the network learns to put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The noise.
    #[value(alias = "eps")]
    Epsilon,
    /// The image.
    #[value(alias = "sample")]
    X0,
    /// alpha eps - sigma x0 (Salimans & Ho 2022).
    V,
    /// -eps / sigma (Song & Ermon 2019).
    Score,
    /// F of the preconditioned denoiser (Karras et al. 2022).
    Edm,
    /// eps - x0 (Liu et al. 2023).
    Flow,
}

impl Target {
    /// The same for the mathematics.
    pub fn prediction(self) -> Prediction {
        match self {
            Target::Epsilon => Prediction::Eps,
            Target::X0 => Prediction::X0,
            Target::V => Prediction::V,
            Target::Score => Prediction::Score,
            Target::Edm => Prediction::Edm,
            Target::Flow => Prediction::Flow,
        }
    }
}

/// What each timestep counts in the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// 1 on the target (Ho et al. 2020).
    Simple,
    /// The variational bound's, L_{t-1} (Ho et al. 2020; Kingma et al. 2021).
    Variational,
    /// sigma squared on the score, denoising score matching's (Song & Ermon 2019).
    Sigma2,
    /// min(SNR, 5) on the image (Hang et al. 2023).
    MinSnr,
    /// 1 / (1 + SNR) on the noise (Choi et al. 2022).
    P2,
    /// Karras et al. (2022), with their distribution of noise levels.
    Edm,
}

impl Weighting {
    /// The same for the mathematics.
    pub fn loss_weight(self) -> LossWeight {
        match self {
            Weighting::Simple => LossWeight::Simple,
            Weighting::Variational => LossWeight::Variational,
            Weighting::Sigma2 => LossWeight::SigmaSquared,
            Weighting::MinSnr => LossWeight::MIN_SNR,
            Weighting::P2 => LossWeight::P2,
            Weighting::Edm => LossWeight::EDM,
        }
    }
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

/// All flags of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    pub task: Task,
    /// `digits`, or a directory of IDX files or of images.
    pub data: String,
    pub model: UNetConfig,
    /// Optimizer steps.
    pub steps: u64,
    /// Images in a batch.
    pub batch: u32,
    /// Batches whose gradients are added up for one step.
    pub accumulate: u32,
    pub learning_rate: f64,
    /// Steps over which the learning rate rises.
    pub warmup: u64,
    pub learning_rate_schedule: LearningRateSchedule,
    pub beta1: f64,
    pub beta2: f64,
    pub adam_eps: f64,
    pub weight_decay: f64,
    /// Largest norm of the gradient; 0 doesn't clip.
    pub max_norm: f64,
    /// Decay of the average of the weights; it warms up as (1 + step) / (10 + step).
    pub ema_decay: f64,
    /// How often the class is hidden, so that guidance works.
    pub class_dropout: f64,
    /// Show images flipped left to right; left out, the data decide.
    pub flip: Option<bool>,
    pub noise_schedule: NoiseSchedule,
    /// Ends of the schedules `ve` and `edm` [default: the papers'].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigma_max: Option<f64>,
    /// What the network learns to put out.
    pub target: Target,
    /// What each timestep counts.
    pub loss_weight: Weighting,
    /// T.
    pub timesteps: usize,
    pub seed: u64,
    /// How activations and copies of weights are stored.
    #[serde(default)]
    pub precision: Precision,
    /// Compute outputs of norms and activations once more in the backward pass instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
    /// Steps between sample grids; 0 draws none.
    pub sample_every: u64,
    /// Sampler steps of those grids.
    pub sample_steps: usize,
    /// Steps between checkpoints; 0 saves at the end alone.
    pub checkpoint_every: u64,
}

impl Default for TrainOptions {
    fn default() -> TrainOptions {
        let AdamW { beta1, beta2, eps, weight_decay, max_norm } = AdamW::default();
        TrainOptions {
            task: Task::Denoise,
            data: "digits".into(),
            model: preset("digits").expect("there is such a preset"),
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
            noise_schedule: NoiseSchedule::Linear,
            sigma_min: None,
            sigma_max: None,
            target: Target::Epsilon,
            loss_weight: Weighting::Simple,
            timesteps: 1000,
            seed: 0,
            precision: Precision::F32,
            recompute: false,
            sample_every: 1000,
            sample_steps: 50,
            checkpoint_every: 1000,
        }
    }
}

/// Names of the models that come with the program.
pub const PRESETS: [&str; 4] = ["digits", "mnist", "base", "cifar10"];

/// The model called `name`.
///
/// # Errors
/// [`Error::Config`] lists the presets.
pub fn preset(name: &str) -> Result<UNetConfig> {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let grey = UNetConfig {
        in_channels: 1,
        out_channels: 1,
        layers_per_block: 1,
        norm_num_groups: 8,
        down_block_types: names(&["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: names(&["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]),
        ..UNetConfig::default()
    };
    let colour = UNetConfig {
        sample_size: Some(Size::Square(32)),
        down_block_types: names(&["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
        up_block_types: names(&["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]),
        ..UNetConfig::default()
    };
    Ok(match name {
        // Ten classes and the null class of guidance.
        "digits" => UNetConfig {
            sample_size: Some(Size::Square(16)),
            block_out_channels: vec![16, 32, 32],
            num_class_embeds: Some(11),
            ..grey
        },
        "mnist" => UNetConfig { sample_size: Some(Size::Square(28)), block_out_channels: vec![32, 64, 64], ..grey },
        "base" => UNetConfig { block_out_channels: vec![64, 128, 128, 128], ..colour },
        // google/ddpm-cifar10-32.
        "cifar10" => UNetConfig {
            block_out_channels: vec![128, 256, 256, 256],
            flip_sin_to_cos: false,
            freq_shift: 1.0,
            norm_eps: 1e-6,
            attention_head_dim: None,
            downsample_padding: 0,
            ..colour
        },
        _ => return Err(Error::Config(format!("no preset {name}; there are {}", PRESETS.join(", ")))),
    })
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
        let has_sigmas = matches!(self.noise_schedule, NoiseSchedule::Ve | NoiseSchedule::Edm);
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

    /// The noise schedule to train on.
    pub fn schedule_kind(&self) -> ScheduleKind {
        let between = |low: f64, high: f64| (self.sigma_min.unwrap_or(low), self.sigma_max.unwrap_or(high));
        match self.noise_schedule {
            NoiseSchedule::Linear => BetaSchedule::HO.into(),
            NoiseSchedule::Cosine => BetaSchedule::Cosine.into(),
            NoiseSchedule::Sigmoid => BetaSchedule::Sigmoid { start: 1e-4, end: 0.02 }.into(),
            NoiseSchedule::Vp => ScheduleKind::VP,
            NoiseSchedule::SubVp => ScheduleKind::SUB_VP,
            NoiseSchedule::Ve => {
                let (sigma_min, sigma_max) = between(0.01, 50.0);
                ScheduleKind::Ve { sigma_min, sigma_max }
            }
            NoiseSchedule::Edm => {
                let (sigma_min, sigma_max) = between(0.002, 80.0);
                ScheduleKind::Edm { sigma_min, sigma_max }
            }
            NoiseSchedule::Flow => ScheduleKind::Flow,
        }
    }

    /// diffusers' configuration of the scheduler that samples what this trains.
    pub fn scheduler(&self) -> SchedulerConfig {
        let config = SchedulerConfig::new(self.schedule_kind(), self.timesteps, self.target.prediction());
        SchedulerConfig { variance_type: self.variance().name().into(), ..config }
    }

    /// The sampler of the grids that a run draws.
    pub fn sampler(&self) -> Sampler {
        let kind = SamplerKind::Ddpm { variance: self.variance() };
        Sampler { kind, prediction: self.target.prediction(), ..Sampler::ddpm(self.sample_steps) }
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
