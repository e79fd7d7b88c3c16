//! Checkpoints that are written, and copies that are held in memory, while the device trains on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::curves::Curves;
use super::log;
use super::model::Model;
use super::private::{Ledger, PRIVACY, beside};
use super::report::Report;
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
    /// (step, loss) so far, and what the report shows of it.
    pub points: Vec<(u64, f32)>,
    pub curves: Curves,
    pub report: Arc<Report>,
    /// Of a private run, with all that is spent by then.
    pub ledger: Option<Ledger>,
}

/// What came of a checkpoint.
pub(super) struct Outcome {
    pub step: u64,
    pub learning_rate: f64,
    pub written: Result<()>,
    /// Of the metrics up to it, of the report and of the picture.
    pub beside: Result<()>,
}

/// A checkpoint in memory, for the case that the device is lost.
pub(super) struct Held {
    save: Box<Save>,
    numbers: BTreeMap<&'static str, Vec<f32>>,
}

/// What is done with a snapshot.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Purpose {
    Write,
    Hold,
}

enum Stage {
    Idle,
    /// Its numbers are on their way.
    Coming(Box<Save>, Purpose),
    Writing(JoinHandle<Outcome>),
    Holding(JoinHandle<Result<Held>>),
}

/// Takes one snapshot at a time.
pub(super) struct Saver {
    snapshot: Snapshot,
    stage: Stage,
    held: Option<Held>,
}

/// What a device trains.
const STATE: [&str; 5] = [EMA, WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, LOSS_SCALE];

impl Saver {
    /// With room for what `session` trains.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(session: &Session) -> Result<Saver> {
        let snapshot = Snapshot::new(session.context, session.memory(), &STATE)?;
        Ok(Saver { snapshot, stage: Stage::Idle, held: None })
    }

    /// Begins to write or hold what stands behind all that was submitted; the one before must have come to its end.
    pub fn begin(&mut self, session: &Session, save: Save, purpose: Purpose) {
        assert!(matches!(self.stage, Stage::Idle), "one at a time");
        self.snapshot.take(session.context);
        self.stage = Stage::Coming(Box::new(save), purpose);
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// The step whose numbers are here and with which nothing is done yet, for it may still turn out to be broken.
    pub fn here(&self) -> Option<u64> {
        match &self.stage {
            Stage::Coming(save, _) if self.snapshot.is_here() => Some(save.state.step),
            _ => None,
        }
    }

    /// Forgets what is not being written or held yet.
    pub fn forget(&mut self) {
        if let Stage::Coming(..) = self.stage {
            self.snapshot.release();
            self.stage = Stage::Idle;
        }
    }

    /// Gives up what was only to be held.
    pub fn hold_nothing_more(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Coming(_, Purpose::Hold) => self.snapshot.release(),
            Stage::Holding(thread) => self.keep(joined(thread)),
            other => self.stage = other,
        }
    }

    /// Lets a thread write what is here, with the [`TrainerState::mean_loss`] of its steps, or hold it, without: it may be of few.
    pub fn proceed(&mut self, mean_loss: Option<f64>) {
        let Stage::Coming(mut save, purpose) = std::mem::replace(&mut self.stage, Stage::Idle) else { return };
        let snapshot = self.snapshot.clone();
        self.stage = match purpose {
            Purpose::Write => Stage::Writing(thread::spawn(move || {
                save.state.mean_loss = mean_loss;
                let outcome = save.run(&|name| snapshot.read(name));
                snapshot.release();
                outcome
            })),
            Purpose::Hold => Stage::Holding(thread::spawn(move || {
                let numbers: Result<_> = STATE.iter().map(|name| Ok((*name, snapshot.read(name)?))).collect();
                snapshot.release();
                Ok(Held { save, numbers: numbers? })
            })),
        };
    }

    /// What came of the checkpoint that was written, if it is: at once, or `patiently`.
    pub fn outcome(&mut self, patiently: bool) -> Option<Outcome> {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Writing(thread) if patiently || thread.is_finished() => return Some(joined(thread)),
            Stage::Holding(thread) if patiently || thread.is_finished() => self.keep(joined(thread)),
            other => self.stage = other,
        }
        None
    }

    /// What can't be read is no loss: it would have been of use if the device was lost, and so it may be.
    fn keep(&mut self, held: Result<Held>) {
        self.held = held.ok().or(self.held.take());
    }

    /// Writes what is held, if it is of a later step than `saved`. The step that is newest then.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] if it can't be written.
    pub fn write_held(&mut self, saved: Option<u64>) -> Result<Option<u64>> {
        self.forget();
        let written = self.outcome(true).filter(|outcome| outcome.written.is_ok()).map(|outcome| outcome.step);
        let saved = written.or(saved);
        let Some(Held { save, numbers }) = self.held.take().filter(|held| saved < Some(held.save.state.step)) else {
            return Ok(saved);
        };
        let step = save.state.step;
        save.run(&|name| Ok(numbers[name].clone())).written.map(|()| Some(step))
    }
}

fn joined<T>(thread: JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Drop for Saver {
    fn drop(&mut self) {
        // The run's directory is locked until then.
        if let Stage::Writing(thread) = std::mem::replace(&mut self.stage, Stage::Idle) {
            let _ = thread.join();
        }
    }
}

/// The numbers of a buffer of the device, as they were.
type Numbers<'a> = &'a dyn Fn(&str) -> Result<Vec<f32>>;

impl Save {
    fn run(mut self, numbers: Numbers) -> Outcome {
        let (step, options) = (self.state.step, &self.state.options);
        let (keep, learning_rate) = (options.keep, options.learning_rate);
        // They are to reach as far as the checkpoint when the power fails behind it.
        let place = beside(&self.directory, options);
        let synced = log::sync(&place);
        let scale = numbers(LOSS_SCALE);
        let entered = self.ledger.as_ref().map_or(Ok(()), |ledger| ledger.enter(&self.directory));
        let written = entered.and(scale).and_then(|scale| {
            self.state.loss_scale = [scale[0], scale[1]];
            replace_checkpoint(&self.directory, step, keep, &self.made_on, |fresh| self.write(fresh, numbers))
        });
        let title = format!("training loss, {}", counted(step, "step"));
        let shown = match written {
            Ok(()) => {
                let report = self.report.write(step, &self.state.options, &self.curves);
                report.and(chart::write_loss_chart(&place.join(LOSS_CHART), &title, &self.points))
            }
            Err(_) => Ok(()),
        };
        Outcome { step, learning_rate, written, beside: synced.and(shown) }
    }

    fn write(&self, directory: &Path, numbers: Numbers) -> Result<()> {
        let TrainerState { options, classes, .. } = &self.state;
        self.model.save(directory, classes, &numbers(EMA)?, &options.scheduler())?;
        let mut stored = FileTensors::new();
        for name in [WEIGHTS, FIRST_MOMENT, SECOND_MOMENT] {
            let flat = numbers(name)?;
            stored.append(&mut checkpoint::unflatten(self.model.params(), &flat, &format!("{name}.")));
        }
        tensors::write(&directory.join(TRAINER), &stored)?;
        if let Some(ledger) = &self.ledger {
            let statement = ledger.statement(self.state.step, options.dp_epsilon)?;
            checkpoint::write_json(&directory.join(PRIVACY), &statement)?;
        }
        checkpoint::write_json(&directory.join(TRAINER_STATE), &self.state)
    }
}
