//! What a run directory keeps from one process to the next.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::log;
use crate::checkpoint;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::run::TrainOptions;
use crate::tune::Chosen;

pub(super) const TRAINER_STATE: &str = "trainer.json";
const CHECKPOINT: &str = "checkpoint";
pub(super) const SAMPLES: &str = "samples";

/// Where a run stands: all that resumption needs beside the tensors. Which images and which noise come next follows from
/// it. (Older checkpoints hold that, too, and it is passed over.)
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct TrainerState {
    /// Optimizer steps done.
    pub step: u64,
    /// How many images there are to train on.
    pub images: u64,
    /// What they are, see [`digest`]; older checkpoints don't say.
    #[serde(default)]
    pub digest: Option<String>,
    /// The names of their classes; none in checkpoints of old.
    #[serde(default)]
    pub classes: Vec<String>,
    pub options: TrainOptions,
    /// The variants it runs.
    #[serde(default)]
    pub choices: Vec<Chosen>,
    /// The loss's scale, and steps since it last changed.
    #[serde(default = "unscaled")]
    pub loss_scale: [f32; 2],
}

/// Images and labels in 16 digits, by which the same data are known at another place (FNV-1a; Fowler, Noll & Vo 1991).
pub(super) fn digest(data: &Dataset) -> String {
    let labels = data.labels.iter().flat_map(|label| label.to_le_bytes());
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let hash = data.images.iter().copied().chain(labels).fold(0xcbf2_9ce4_8422_2325, add);
    format!("{hash:016x}")
}

fn unscaled() -> [f32; 2] {
    [1.0, 0.0]
}

/// A run to go on with. Its directory is locked as long as this is there.
pub struct Stored {
    pub(super) directory: PathBuf,
    pub(super) checkpoint: PathBuf,
    pub(super) state: TrainerState,
    pub(super) lock: Lock,
}

impl Stored {
    /// Locks `directory`, then looks where the run in it stands; none if it ended before its first checkpoint.
    ///
    /// # Errors
    /// [`Error::File`] if another process trains there, or it holds something else than a run.
    pub fn find(directory: &Path) -> Result<Option<Stored>> {
        if !directory.is_dir() {
            return Ok(None);
        }
        let lock = claim(directory)?;
        let Some(checkpoint) = checkpoint_of(directory) else {
            return match directory.join(TRAINER_STATE).is_file() {
                true => {
                    Err(Error::file(directory, "a checkpoint; --out takes the directory of the run, which holds it"))
                }
                false => Ok(None),
            };
        };
        let state = checkpoint::read_json(&checkpoint.join(TRAINER_STATE))?;
        Ok(Some(Stored { directory: directory.to_path_buf(), checkpoint, state, lock }))
    }

    /// As [`Stored::find`].
    ///
    /// # Errors
    /// [`Error::File`] if another process trains there, or there is no run.
    pub fn open(directory: &Path) -> Result<Stored> {
        let none = || Error::file(directory, "no run to go on with: there is no checkpoint/trainer.json");
        Stored::find(directory)?.ok_or_else(none)
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// What the run was started with.
    pub fn options(&self) -> &TrainOptions {
        &self.state.options
    }
}

/// Locks `directory` and removes what killed processes left there.
pub(super) fn claim(directory: &Path) -> Result<Lock> {
    let lock = Lock::take(directory)?;
    files::remove_abandoned(directory);
    files::remove_abandoned(&directory.join(SAMPLES));
    Ok(lock)
}

/// What may stand where a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// No run.
    Nothing,
    /// One that ended before its first checkpoint.
    Unfinished,
    /// Any.
    All,
}

/// A run that was saved is somebody's work; of one that was not, only the metrics would be lost.
pub(super) fn refuse_used(directory: &Path, over: Over) -> Result<()> {
    let problem = if over == Over::All {
        return Ok(());
    } else if checkpoint_of(directory).is_some() {
        "holds a run already; --resume goes on with it, --out takes another place"
    } else if over == Over::Nothing && directory.join(log::FILE).exists() {
        "holds a run that is under way or ended before its first checkpoint; --resume starts it anew, --out takes another \
         place"
    } else {
        return Ok(());
    };
    Err(Error::file(directory, problem))
}

/// The checkpoint of the run in `directory`.
fn checkpoint_of(directory: &Path) -> Option<PathBuf> {
    let places = [directory.join(CHECKPOINT), directory.join("checkpoint.old")];
    places.into_iter().find(|place| place.join(TRAINER_STATE).is_file())
}

/// Makes what `write` writes into a new directory the checkpoint of the run in `directory`, whole or not at all.
pub(super) fn replace_checkpoint(directory: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let fresh = directory.join("checkpoint.new");
    let swapped = remove(&fresh).and_then(|()| write(&fresh)).and_then(|()| swap(directory, &fresh));
    if swapped.is_err() {
        // The error that led here is the one to report; the old checkpoint stands.
        let _ = fs::remove_dir_all(&fresh);
    }
    swapped
}

/// The old checkpoint makes way only when the new one is whole; between the two renames [`checkpoint::Place::find`] takes
/// `checkpoint.old`.
fn swap(directory: &Path, fresh: &Path) -> Result<()> {
    let (current, old) = (directory.join(CHECKPOINT), directory.join("checkpoint.old"));
    if current.exists() {
        remove(&old)?;
        fs::rename(&current, &old).map_err(|error| Error::file(&current, error))?;
    }
    fs::rename(fresh, &current).map_err(|error| Error::file(&current, error))?;
    remove(&old)
}

fn remove(directory: &Path) -> Result<()> {
    match directory.exists() {
        true => fs::remove_dir_all(directory).map_err(|error| Error::file(directory, error)),
        false => Ok(()),
    }
}
