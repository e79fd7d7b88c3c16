//! The flags of `diffuse evaluate`.

use std::path::PathBuf;

use crate::cli::output::Json;
use crate::cli::{sampler, steering};
use diffuse::evaluate::likelihood::Dequantization;

/// The ways to a likelihood.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub enum Likelihood {
    /// The variational bound, term by term (Ho et al. 2020)
    Vlb,
    /// The probability-flow ODE (Song et al. 2021)
    Ode,
}

/// Say what a trained U-Net is worth: likelihood, quality of samples, errors by noise level
#[derive(clap::Args)]
// These flags say how samples are drawn.
#[command(
    mut_group("sampling", |group| group.requires("quality")),
    mut_group("steering", |group| group.requires("quality"))
)]
pub struct Args {
    /// Checkpoint directory, run directory, or diffusers pipeline
    pub checkpoint: PathBuf,
    /// `digits` (embedded), or the path of a data set, as training takes it; of test images where it has some
    #[arg(long)]
    pub data: String,
    #[command(flatten)]
    pub memory: super::super::flags::MemoryFlag,
    /// Bits per dimension of the test images
    #[arg(long, value_enum)]
    pub likelihood: Option<Likelihood>,
    /// With --likelihood vlb: look at so many of its terms, 8 or more, and estimate the sum of all [default: all]
    #[arg(long, value_name = "N")]
    pub terms: Option<usize>,
    /// Samples against training images on the features of --judge, and how new they are
    #[arg(long, requires = "judge")]
    pub quality: bool,
    /// The classifier on whose features they are judged, as `train-classifier` made it
    #[arg(long, value_name = "DIR", requires = "quality")]
    pub judge: Option<PathBuf>,
    /// Samples to judge, as `sample --tensor` stores them, each class in turn [default: draws some]
    #[arg(long, value_name = "F.safetensors", requires = "quality",
          conflicts_with_all = ["sampling", "reverse_step", "guidance", "steering"])]
    pub samples: Option<PathBuf>,
    /// Errors at noise levels from the lowest to the highest
    #[arg(long)]
    pub levels: bool,
    /// Images to look at [default: 64; with --quality 1000]
    #[arg(long)]
    pub count: Option<usize>,
    /// Images at a time
    #[arg(long, default_value_t = 64)]
    pub batch: u32,
    /// Runge-Kutta steps of the ODE, of 4 evaluations each [default: 40]
    #[arg(long)]
    pub ode_steps: Option<usize>,
    /// How bytes become real numbers for the ODE [default: uniform]
    #[arg(long, value_enum)]
    pub dequantize: Option<Dequantization>,
    #[command(flatten)]
    pub sampler: sampler::Flags,
    #[command(flatten)]
    pub variance: sampler::VarianceFlag,
    /// Scale of classifier-free guidance of samples that are drawn to be judged [default: 1, which is none]
    #[arg(long, value_name = "W", requires = "quality")]
    pub guidance: Option<f64>,
    #[command(flatten)]
    pub steering: steering::Args,
    #[arg(long, default_value_t = 0)]
    pub seed: u32,
    /// Directory for pictures
    #[arg(long, default_value = "evaluation")]
    pub out: PathBuf,
    #[command(flatten)]
    pub json: Json,
}

impl Args {
    /// Whether it draws samples to judge them.
    pub fn draws(&self) -> bool {
        self.quality && self.samples.is_none() && !self.sampler.is_list()
    }
}
