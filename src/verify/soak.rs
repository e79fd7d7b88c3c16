//! A burn-in: training steps, each of which is computed twice and has one dispatch held to its twin.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::nn::UNet;
use crate::run::options::LearningRateSchedule;
use crate::run::{Audited, OnNan, Session, TrainOptions, Trainer};
use crate::tune::Policy;

/// What a burn-in came to.
#[derive(Clone, Debug, Serialize)]
pub struct Soaked {
    pub seconds: f64,
    #[serde(flatten)]
    pub audited: Audited,
    /// Steps whose loss or gradient was not finite.
    pub broken: u64,
    /// A line for each thing that was found.
    pub found: Vec<String>,
}

impl Soaked {
    /// Whether the device computed all as it should.
    pub fn is_sound(&self) -> bool {
        self.found.is_empty()
    }

    fn hear(&mut self, trainer: &mut Trainer, begun: Instant) {
        self.found.extend(trainer.findings().iter().map(ToString::to_string));
        self.audited = trainer.audited();
        self.seconds = begun.elapsed().as_secs_f64();
    }
}

/// Trains the model of `options` on `data` for `time`, or until `watch`, which hears of the steps done, says stop.
///
/// # Errors
/// [`Error::Config`] for options that can't be run, [`Error::Device`] if the device fails.
pub fn soak(
    context: &Context,
    policy: &Policy,
    data: &Dataset,
    options: TrainOptions,
    time: Duration,
    mut watch: impl FnMut(&Soaked) -> bool,
) -> Result<Soaked> {
    let options = TrainOptions {
        audit_every: 1,
        on_nan: Some(OnNan::Skip),
        learning_rate_schedule: LearningRateSchedule::Constant,
        ..options
    };
    options.validate()?;
    let unet = UNet::new(options.model.clone())?;
    let mut trainer = Trainer::new(Session::open(context, policy, options.precision), &unet, data, &options)?;
    trainer.write_weights(&unet.params.initialise(options.seed));
    trainer.find_scale()?;
    let mut soaked = Soaked { seconds: 0.0, audited: trainer.audited(), broken: 0, found: Vec::new() };
    let begun = Instant::now();
    let mut step = 0;
    while begun.elapsed() < time && step < options.steps && watch(&soaked) {
        match trainer.step(step) {
            Err(Error::Diverged(problem)) => {
                step = trainer.broken_step().expect("it diverged");
                soaked.broken += 1;
                soaked.found.push(match trainer.replay_broken(step)? {
                    Some(wrong) => format!("{problem}; first not finite: {wrong}"),
                    None => format!("{problem}, and finite numbers when it was computed again: a passing fault"),
                });
            }
            result => _ = result?,
        }
        step += 1;
        soaked.hear(&mut trainer, begun);
    }
    trainer.end_audit();
    soaked.hear(&mut trainer, begun);
    Ok(soaked)
}
