//! What can't be.

use std::fmt;

/// A schedule or a sampler that can't be: what was asked for, and what would do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Error {
    /// A schedule of no timesteps.
    NoTimesteps,
    /// The ends of a table of betas aren't both inside (0, 1).
    Betas { start: f64, end: f64 },
    /// A table of betas has one that isn't inside (0, 1).
    Beta { timestep: usize, beta: f64 },
    /// A table of its own was named, and none given.
    NoTable,
    /// A schedule that can't be made to end in noise alone.
    Terminal,
    /// A timestep was asked for that the schedule has not: an offset that is too large.
    Beyond { timestep: f64, timesteps: usize },
    /// A sampler would begin where nothing of the image is left, and the network says only the noise.
    NothingLeft,
    /// The ends of an SDE's betas or sigmas aren't positive, or not in order.
    Range { low: f64, high: f64 },
    /// So much noise that from this timestep on alpha_bar is below the smallest normal f32.
    Vanishing { timestep: usize },
    /// More sampling steps than timesteps, or none.
    Steps { steps: usize, timesteps: usize },
    /// DDIM's eta outside [0, 1], or NaN.
    Eta(f64),
    /// A clip range that isn't a positive, finite number.
    Clip(f64),
    /// Another setting of a sampler that is out of its range.
    Setting { name: &'static str, value: f64, range: &'static str },
    /// A list of steps was asked of a sampler that finds them while it runs.
    Adaptive,
    /// Which timestep the network is told at the noisiest level hangs on the last bit of a logarithm.
    LastBit,
    /// A sampler whose estimates of x0 can't be thresholded.
    NoThreshold(&'static str),
    /// A sampler that does not converge on this schedule.
    Unfit { sampler: &'static str, schedule: &'static str },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoTimesteps => write!(f, "a noise schedule needs at least 1 timestep"),
            Error::Betas { start, end } => {
                write!(f, "betas from {start} to {end}: both must lie between 0 and 1, neither of them included")
            }
            Error::Beta { timestep, beta } => {
                write!(f, "beta {beta} of timestep {timestep}: must lie between 0 and 1, neither of them included")
            }
            Error::NoTable => write!(f, "trained betas: the table is missing"),
            Error::Terminal => {
                write!(f, "rescale_betas_zero_snr needs a table of betas over at least 2 timesteps")
            }
            Error::Beyond { timestep, timesteps } => write!(
                f,
                "timestep {timestep} is asked for, and there are {timesteps}, from 0: take fewer steps or a smaller steps_offset"
            ),
            Error::NothingLeft => write!(
                f,
                "at the last timestep nothing is left of the image (rescale_betas_zero_snr), and this network says the noise \
                 alone: take --spacing leading, or another sampler than ddpm and ddim"
            ),
            Error::Range { low, high } => {
                write!(
                    f,
                    "a noise schedule from {low} to {high}: both must be above 0 and at most 10000, in this order"
                )
            }
            Error::Vanishing { timestep } => write!(
                f,
                "the noise schedule leaves nothing of the image from timestep {timestep} on: \
                 use fewer timesteps or smaller betas"
            ),
            Error::Steps { steps, timesteps } => {
                write!(f, "{steps} sampling steps: this schedule allows 1 to {timesteps}")
            }
            Error::Eta(eta) => write!(f, "eta {eta}: takes 0 (deterministic) to 1 (as noisy as DDPM)"),
            Error::Clip(clip) => write!(f, "clip range {clip}: must be a positive number, or off"),
            Error::Setting { name, value, range } => write!(f, "{name} {value}: must be {range}"),
            Error::Adaptive => write!(f, "this sampler finds its steps while it runs: there is no list of them"),
            Error::LastBit => write!(
                f,
                "use_exponential_sigmas, use_beta_sigmas, or use_karras_sigmas with squaredcos_cap_v2: which timestep the network \
                 is told first hangs on the last bit of a logarithm in diffusers, on this schedule; set it to false"
            ),
            Error::NoThreshold(sampler) => {
                write!(
                    f,
                    "thresholding is not built for {sampler} (with a learned variance, if it is ddpm): take ddim or dpm++"
                )
            }
            Error::Unfit { sampler, schedule } => {
                write!(f, "sampler {sampler} does not converge on {schedule}: take ddim, euler, heun or dpm++")
            }
        }
    }
}

impl std::error::Error for Error {}
