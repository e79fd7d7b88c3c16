//! Checkpoints that are written while the device trains on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::log;
use super::model::Model;
use super::stored::{LOSS_CHART, TRAINER_STATE, TrainerState, replace_checkpoint};
use crate::checkpoint::manifest::MadeOn;
use crate::error::{Result, counted};
use crate::gpu::snapshot::Snapshot;
use crate::gpu::{EMA, WEIGHTS};
use crate::run::Session;
use crate::run::trainer::{FIRST_MOMENT, LOSS_SCALE, SECOND_MOMENT};
use crate::tensors::FileTensors;
use crate::{chart, checkpoint, tensors};

/// Raw weights and moments, under `weights.NAME`, `m.NAME`, `v.NAME`.
pub const TRAINER: &str = "trainer.safetensors";

/// All of a checkpoint but the numbers, which the device brings.
pub(super) struct Save {
    /// Of the run.
    pub directory: PathBuf,
    pub model: Arc<Model>,
    /// Its `loss_scale` is the device's to say, its `mean_loss` is known when the last step is.
    pub state: TrainerState,
    pub made_on: MadeOn,
    /// (step, loss) so far.
    pub points: Vec<(u64, f32)>,
}

/// What came of a checkpoint.
pub(super) struct Outcome {
    pub step: u64,
    pub learning_rate: f64,
    pub written: Result<()>,
    /// Of the metrics up to it, and of the picture.
    pub beside: Result<()>,
}

enum Stage {
    Idle,
    /// Its numbers are on their way.
    Coming(Box<Save>),
    Writing(JoinHandle<Outcome>),
}

/// Writes one checkpoint at a time.
pub(super) struct Saver {
    snapshot: Snapshot,
    stage: Stage,
}

impl Saver {
    /// With room for what `session` trains.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(session: &Session) -> Result<Saver> {
        let names = [EMA, WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, LOSS_SCALE];
        Ok(Saver { snapshot: Snapshot::new(session.context, session.memory(), &names)?, stage: Stage::Idle })
    }

    /// Begins to save what stands behind all that was submitted; the one before must have come to its end.
    pub fn begin(&mut self, session: &Session, save: Save) {
        assert!(matches!(self.stage, Stage::Idle), "one at a time");
        self.snapshot.take(session.context);
        self.stage = Stage::Coming(Box::new(save));
    }

    /// Whether nothing is being saved.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// The step whose numbers are here and which is not written yet, for it may still turn out to be broken.
    pub fn here(&self) -> Option<u64> {
        match &self.stage {
            Stage::Coming(save) if self.snapshot.is_here() => Some(save.state.step),
            _ => None,
        }
    }

    /// Forgets what is not being written yet.
    pub fn forget(&mut self) {
        if let Stage::Coming(_) = self.stage {
            self.snapshot.release();
            self.stage = Stage::Idle;
        }
    }

    /// Lets a thread write what is here, with the [`TrainerState::mean_loss`] of its steps.
    pub fn write(&mut self, mean_loss: Option<f64>) {
        let Stage::Coming(mut save) = std::mem::replace(&mut self.stage, Stage::Idle) else { return };
        save.state.mean_loss = mean_loss;
        let snapshot = self.snapshot.clone();
        self.stage = Stage::Writing(thread::spawn(move || {
            let outcome = save.run(&snapshot);
            snapshot.release();
            outcome
        }));
    }

    /// What came of the checkpoint that was written, if it is: at once, or `patiently`.
    pub fn outcome(&mut self, patiently: bool) -> Option<Outcome> {
        match &self.stage {
            Stage::Writing(thread) if patiently || thread.is_finished() => {}
            _ => return None,
        }
        let Stage::Writing(thread) = std::mem::replace(&mut self.stage, Stage::Idle) else { return None };
        Some(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // The run's directory is locked until then.
        if let Stage::Writing(thread) = std::mem::replace(&mut self.stage, Stage::Idle) {
            let _ = thread.join();
        }
    }
}

impl Save {
    fn run(mut self, snapshot: &Snapshot) -> Outcome {
        let (step, options) = (self.state.step, &self.state.options);
        let (keep, learning_rate) = (options.keep, options.learning_rate);
        // They are to reach as far as the checkpoint when the power fails behind it.
        let synced = log::sync(&self.directory);
        let scale = snapshot.read(LOSS_SCALE);
        let written = scale.and_then(|scale| {
            self.state.loss_scale = [scale[0], scale[1]];
            replace_checkpoint(&self.directory, step, keep, &self.made_on, |fresh| self.write(fresh, snapshot))
        });
        let title = format!("training loss, {}", counted(step, "step"));
        let chart = match written {
            Ok(()) => chart::write_loss_chart(&self.directory.join(LOSS_CHART), &title, &self.points),
            Err(_) => Ok(()),
        };
        Outcome { step, learning_rate, written, beside: synced.and(chart) }
    }

    fn write(&self, directory: &Path, snapshot: &Snapshot) -> Result<()> {
        let TrainerState { options, classes, .. } = &self.state;
        self.model.save(directory, classes, &snapshot.read(EMA)?, &options.scheduler())?;
        let mut stored = FileTensors::new();
        for name in [WEIGHTS, FIRST_MOMENT, SECOND_MOMENT] {
            let flat = snapshot.read(name)?;
            stored.append(&mut checkpoint::unflatten(self.model.params(), &flat, &format!("{name}.")));
        }
        tensors::write(&directory.join(TRAINER), &stored)?;
        checkpoint::write_json(&directory.join(TRAINER_STATE), &self.state)
    }
}
