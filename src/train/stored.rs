//! What a run directory keeps from one process to the next.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::lock::Lock;
use super::log;
use super::private::{Ledger, PRIVATE};
use super::tensorboard::EVENTS;
use crate::checkpoint::manifest::{MadeOn, Wrong};
use crate::checkpoint::{self, CHECKPOINT, KEPT, OLD, manifest};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::files;
use crate::run::TrainOptions;
use crate::tune::Chosen;

pub const TRAINER_STATE: &str = "trainer.json";
/// The checkpoint that is being written.
const FRESH: &str = "checkpoint.new";
/// What is left of one that was not as it was saved.
const ROTTEN: &str = "checkpoint.rotten";
/// What the run trains on.
pub const DATA: &str = "data.json";
pub(super) const LOSS_CHART: &str = "loss.png";
pub(super) const REPORT: &str = "report.html";
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
    /// Digests of the data that the initial weights were trained on, the first data first; null where nobody knows. None if
    /// the run began with weights of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub initial_data: Vec<Option<String>>,
    pub options: TrainOptions,
    /// The variants it runs.
    #[serde(default)]
    pub choices: Vec<Chosen>,
    /// The loss's scale, and steps since it last changed.
    #[serde(default = "unscaled")]
    pub loss_scale: [f32; 2],
    /// Of the steps since the save before, not counting one where the run was stopped: another that went on to here has the same. None
    /// in checkpoints of old, or where it isn't finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_loss: Option<f64>,
}

impl TrainerState {
    /// See [`Stored::is_of_old`].
    pub fn is_of_old(&self) -> bool {
        self.classes.is_empty()
    }
}

/// Bytes in 16 digits (FNV-1a; Fowler, Noll & Vo 1991).
pub(super) fn checksum(bytes: impl Iterator<Item = u8>) -> String {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    format!("{:016x}", bytes.fold(0xcbf2_9ce4_8422_2325, add))
}

/// Images and labels in 16 digits, by which the same data are known at another place.
pub(super) fn digest(data: &Dataset) -> String {
    let labels = data.labels.iter().flat_map(|label| label.to_le_bytes());
    checksum(data.images.iter().copied().chain(labels))
}

fn unscaled() -> [f32; 2] {
    [1.0, 0.0]
}

/// What the weights in `checkpoint` were trained on, as [`TrainerState::initial_data`] says it of weights to begin with.
pub(super) fn data_behind(checkpoint: &Path) -> Vec<Option<String>> {
    let state = checkpoint::read_json::<TrainerState>(&checkpoint.join(TRAINER_STATE));
    // Without some of its images a data set has another digest.
    let own = |state: &TrainerState| state.digest.clone().filter(|_| state.options.canaries.is_none());
    let digests = |state: TrainerState| [state.initial_data.clone(), vec![own(&state)]].concat();
    let mut digests = state.map_or_else(|_| vec![None], digests);
    digests.dedup();
    digests
}

/// Whether the weights in `checkpoint` have seen no data but those of the run that they are of, as far as that is known.
pub fn saw_one_data_set(checkpoint: &Path) -> bool {
    let state = checkpoint::read_json::<TrainerState>(&checkpoint.join(TRAINER_STATE));
    let same = |state: &TrainerState| state.initial_data.iter().all(|then| then.is_some() && *then == state.digest);
    state.is_ok_and(|state| same(&state))
}

/// Where the run in `directory` stands at one of its checkpoints, and its ledger if it is private.
pub(super) fn read_state(directory: &Path, checkpoint: &Path) -> Result<(TrainerState, Option<Ledger>)> {
    let mut state: TrainerState = checkpoint::read_json(&checkpoint.join(TRAINER_STATE))?;
    let ledger = || Ledger::open(directory, checkpoint, &state.options, state.step);
    let ledger = state.options.is_private().then(ledger).transpose()?;
    state.digest = ledger.as_ref().map(|ledger| ledger.digest.clone()).or(state.digest);
    Ok((state, ledger))
}

/// A run to go on with. Its directory is locked as long as this is there.
pub struct Stored {
    pub(super) directory: PathBuf,
    pub(super) checkpoint: PathBuf,
    pub(super) state: TrainerState,
    /// What is wrong with the checkpoints after it.
    pub(super) wrong: Vec<Wrong>,
    /// Of a private run.
    pub(super) ledger: Option<Ledger>,
    pub(super) lock: Lock,
}

impl Stored {
    /// Locks `directory`, then looks where the run in it stands: at its newest checkpoint that is as it was saved; none if it
    /// ended before its first.
    ///
    /// # Errors
    /// [`Error::File`] if another process trains there, it holds something else than a run, or no checkpoint is as it was saved.
    pub fn find(directory: &Path) -> Result<Option<Stored>> {
        check_entries(directory)?;
        if !directory.is_dir() {
            return Ok(None);
        }
        Stored::find_locked(directory, claim(directory)?)
    }

    /// As [`Stored::find`], in a directory that is locked already; it is no longer if there is no checkpoint.
    ///
    /// # Errors
    /// As [`Stored::find`].
    pub fn find_locked(directory: &Path, lock: Lock) -> Result<Option<Stored>> {
        let places = checkpoints_of(directory);
        if places.is_empty() {
            return Ok(None);
        }
        let (checkpoint, wrong) = manifest::first_whole(places, |_| true)?;
        let (state, ledger) = read_state(directory, &checkpoint)?;
        Ok(Some(Stored { directory: directory.to_path_buf(), checkpoint, state, wrong, ledger, lock }))
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

    /// Moves what is not as it was saved out of the way of the next checkpoint. A line for each that was passed over.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be moved.
    pub(super) fn set_wrong_aside(&self) -> Result<Vec<String>> {
        let goes_on = format!("this goes on from {} (step {})", self.checkpoint.display(), self.step());
        let said = |Wrong { file, problem }: &Wrong| format!("{}: {problem}; {goes_on}", file.display());
        let mut lines: Vec<String> = self.wrong.iter().map(said).collect();
        let newest = self.directory.join(CHECKPOINT);
        if !newest.exists() && self.checkpoint.starts_with(self.directory.join(KEPT)) {
            lines.push(format!("{}: is missing; {goes_on}", newest.display()));
        }
        let rotten = self.directory.join(ROTTEN);
        for name in [OLD, CHECKPOINT].map(|name| self.directory.join(name)) {
            if self.wrong.iter().any(|wrong| wrong.file.starts_with(&name)) {
                files::remove_directory(&rotten)?;
                rename(&name, &rotten)?;
                lines.push(format!("what is left of {} is in {}", name.display(), rotten.display()));
            }
        }
        Ok(lines)
    }

    /// The directory stays locked for whoever reads in it what the run made.
    pub fn into_lock(self) -> Lock {
        self.lock
    }

    /// Whether what was not said of mirroring means none: runs of old mirrored images of folders unless they were told not to.
    pub(super) fn is_of_old(&self) -> bool {
        self.state.is_of_old()
    }

    /// `now` in the words of the run where both say the same: a default that was typed is no change.
    pub fn in_its_words(&self, mut now: TrainOptions) -> TrainOptions {
        let then = self.options();
        if !self.is_of_old() && now.flip.unwrap_or(false) == then.flip.unwrap_or(false) {
            now.flip = then.flip;
        }
        if now.schedule_kind() == then.schedule_kind() {
            (now.sigma_min, now.sigma_max) = (then.sigma_min, then.sigma_max);
        }
        now
    }
}

/// Whether a run can be kept in `directory`, as far as that can be said before there is anything to keep.
///
/// # Errors
/// [`Error::File`] if it can't be written, or something else is in the place of what a run writes.
pub fn check_place(directory: &Path) -> Result<()> {
    check_entries(directory)?;
    let named = |error| match error {
        // The file is nobody's but the check's.
        Error::File { problem, .. } => Error::file(directory, problem),
        error => error,
    };
    files::check_writable(&directory.join(log::METRICS)).map_err(named)
}

/// All files of a run beside its checkpoints, and all directories.
const FILES: [&str; 5] = [log::METRICS, LOSS_CHART, REPORT, DATA, checkpoint::CONFIG];
const DIRECTORIES: [&str; 7] = [SAMPLES, CHECKPOINT, FRESH, OLD, ROTTEN, KEPT, PRIVATE];

/// Whether a run keeps something under that name, relative to its directory.
pub fn is_of_a_run(name: &Path) -> bool {
    let is_of_events = name.to_str().is_some_and(|name| name.starts_with(EVENTS));
    is_of_events
        || FILES.iter().any(|file| name == Path::new(file))
        || DIRECTORIES.iter().any(|own| name.starts_with(own))
}

/// Refuses what could be written only when the work is done, or would be lost.
fn check_entries(directory: &Path) -> Result<()> {
    if directory.exists() && !directory.is_dir() {
        return Err(Error::file(directory, "this is a file; name a directory"));
    }
    if directory.join(TRAINER_STATE).is_file() {
        return Err(Error::file(directory, "a checkpoint; --out takes the directory of the run, which holds it"));
    }
    for place in DIRECTORIES.map(|name| directory.join(name)) {
        if place.symlink_metadata().is_ok() && !place.is_dir() {
            return Err(Error::file(place, "this is no directory, and a run keeps one here; move it away"));
        }
    }
    for file in FILES.map(|name| directory.join(name)) {
        if file.is_dir() {
            return Err(Error::file(file, "this is a directory, and a run writes a file here; move it away"));
        }
    }
    refuse_foreign(directory)
}

/// A checkpoint that no run can go on from would be replaced by the first one that is saved, or its `config.json` by the run's.
fn refuse_foreign(directory: &Path) -> Result<()> {
    let is_foreign = |place: &PathBuf| {
        let is_filled = fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some());
        is_filled && !is_saved(place)
    };
    let is_model = |place: &PathBuf| {
        let config = checkpoint::read_json::<serde_json::Value>(&place.join(checkpoint::CONFIG));
        config.is_ok_and(|config| config.get("_class_name").is_some()) || place.join(checkpoint::PIPELINE).is_file()
    };
    let (current, old) = (directory.join(CHECKPOINT), directory.join(OLD));
    // Of a checkpoint that made way for the current one, a process that was killed may have left a part.
    let others = if checkpoints_of(directory).is_empty() { vec![old, directory.to_path_buf()] } else { vec![] };
    let foreign = |place: &PathBuf| if place == directory { is_model(place) } else { is_foreign(place) };
    let Some(place) = [vec![current], others].concat().into_iter().find(foreign) else { return Ok(()) };
    let is_loadable = checkpoint::Place::find(&place).is_ok() || place.join(checkpoint::CLASSIFIER).is_file();
    let problem = match is_loadable {
        true => format!(
            "weights without the {TRAINER_STATE} of a run, so that none can go on; --init {} starts with them, in another --out",
            place.display()
        ),
        false => "files that are no checkpoint of a run; --out takes another place".into(),
    };
    Err(Error::file(place, problem))
}

/// Locks `directory` and removes what killed processes left there.
pub(super) fn claim(directory: &Path) -> Result<Lock> {
    let lock = Lock::take(directory)?;
    [directory.to_path_buf(), directory.join(SAMPLES), directory.join(KEPT)]
        .iter()
        .for_each(|place| files::remove_abandoned(place));
    Ok(lock)
}

/// What may stand where a run starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// No run.
    Nothing,
    /// One that ended before its first checkpoint.
    Unfinished,
}

/// A run that was saved is somebody's work; of one that was not, only the metrics would be lost.
pub(super) fn refuse_used(directory: &Path, over: Over) -> Result<()> {
    let problem = if !checkpoints_of(directory).is_empty() {
        "holds a run already; --resume goes on with it, --out takes another place"
    } else if over == Over::Nothing && log::is_there(directory) {
        "holds a run that is under way or ended before its first checkpoint; --resume starts it anew, --out takes another \
         place"
    } else {
        return Ok(());
    };
    Err(Error::file(directory, problem))
}

/// The checkpoints of the run in `directory`, the newest first.
fn checkpoints_of(directory: &Path) -> Vec<PathBuf> {
    checkpoint::of_run(directory).into_iter().filter(|place| is_saved(place)).collect()
}

/// Whether a run was saved in this directory, be it whole or not.
fn is_saved(place: &Path) -> bool {
    place.join(TRAINER_STATE).is_file() || manifest::lists(place, TRAINER_STATE)
}

/// Makes what `write` writes into a new directory the checkpoint of the run in `directory` after `step` steps, whole or not at
/// all, and keeps the `keep` before it, and the best of all.
pub(super) fn replace_checkpoint(
    directory: &Path,
    step: u64,
    keep: usize,
    made_on: &MadeOn,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let fresh = directory.join(FRESH);
    let written = files::remove_directory(&fresh).and_then(|()| write(&fresh));
    let written = written.and_then(|()| manifest::write(&fresh, made_on));
    let swapped = written.and_then(|()| swap(directory, &fresh, keep));
    if swapped.is_err() {
        // The error that led here is the one to report; the old checkpoint stands.
        let _ = fs::remove_dir_all(&fresh);
    }
    swapped?;
    retire(directory, keep)?;
    remove_oldest(directory, step, keep)
}

/// The old checkpoint makes way only when the new one is whole; between the two renames [`checkpoint::Place::find`] takes
/// `checkpoint.old`.
fn swap(directory: &Path, fresh: &Path, keep: usize) -> Result<()> {
    let (current, old) = (directory.join(CHECKPOINT), directory.join(OLD));
    if current.exists() {
        // Of a process that was killed right behind this. Without a manifest it may be a part, as older programs left it.
        if old.join(manifest::MANIFEST).is_file() {
            retire(directory, keep)?
        } else {
            files::remove_directory(&old)?
        }
        rename(&current, &old)?;
    }
    rename(fresh, &current)
}

/// Puts the checkpoint that made way among those that are kept, unless the newest is of the same step.
fn retire(directory: &Path, keep: usize) -> Result<()> {
    let old = directory.join(OLD);
    let step_of = |checkpoint: &Path| {
        let state = checkpoint::read_json::<serde_json::Value>(&checkpoint.join(TRAINER_STATE)).ok()?;
        state["step"].as_u64()
    };
    let Some(step) = step_of(&old).filter(|step| keep > 0 && step_of(&directory.join(CHECKPOINT)) != Some(*step))
    else {
        return files::remove_directory(&old);
    };
    let place = checkpoint::kept_place(directory, step);
    let kept = directory.join(KEPT);
    files::create_directory(&kept).map_err(|error| Error::file(&kept, error))?;
    files::remove_directory(&place)?;
    rename(&old, &place)
}

/// Removes checkpoints of before `step` but for the last `keep`, and the best if any are kept. Later ones are of somebody who went
/// back.
fn remove_oldest(directory: &Path, step: u64, keep: usize) -> Result<()> {
    let mut before: Vec<(u64, PathBuf)> = checkpoint::kept(directory);
    before.retain(|(then, _)| *then < step);
    let oldest_first = before.iter().map(|(_, place)| place.clone()).chain([directory.join(CHECKPOINT)]);
    let best = best(&oldest_first.rev().collect::<Vec<_>>()).filter(|_| keep > 0);
    before.truncate(before.len().saturating_sub(keep));
    before.retain(|(_, place)| best.as_ref().is_none_or(|(best, _)| best != place));
    before.iter().try_for_each(|(_, place)| files::remove_directory(place))
}

/// The checkpoint among `newest_first` whose steps since the save before had the least mean loss, and that loss; of equals the
/// newest. None if none says.
pub fn best(newest_first: &[PathBuf]) -> Option<(PathBuf, f64)> {
    let loss = |place: &PathBuf| {
        let state = checkpoint::read_json::<serde_json::Value>(&place.join(TRAINER_STATE)).ok()?;
        state["mean_loss"].as_f64()
    };
    let known = newest_first.iter().filter_map(|place| Some((place.clone(), loss(place)?)));
    known.min_by(|one, other| one.1.total_cmp(&other.1))
}

/// A rename that lasts when the power fails behind it.
fn rename(from: &Path, to: &Path) -> Result<()> {
    files::rename(from, to).map_err(|error| Error::file(to, error))
}
