//! Images of which secret coins decide whether a run trains on them, so that it can be measured how well that shows.
//!
//! Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run". All other images are trained on. What the coins said
//! stands in `private/canaries.json`, from before the first step on.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::private::{PRIVATE, prepare};
use super::stored::{checksum, digest};
use crate::checkpoint;
use crate::data::Dataset;
use crate::error::{Error, Result, counted};
use crate::run::TrainOptions;
use crate::secret::{Purpose, Secret};

/// Their file in the private directory of a run.
pub const CANARIES: &str = "canaries.json";

fn path(directory: &Path) -> PathBuf {
    directory.join(PRIVATE).join(CANARIES)
}

/// What to say where the images that are left out are not those of the run.
pub(super) fn of_another_run(directory: &Path) -> Error {
    Error::file(path(directory), "the canaries of another run: this one left other images out")
}

/// The canaries of a run, by their places in the whole data set, ascending.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Canaries {
    /// Digest of the whole data set.
    data: String,
    /// Those that are trained on.
    included: Vec<u32>,
    /// Those that are left out.
    excluded: Vec<u32>,
    /// Of all that stands before, so that a change is seen.
    check: String,
}

impl Canaries {
    /// Draws `count` of the images, and a coin for each, from the system's secret or `seed`.
    ///
    /// # Errors
    /// [`Error::Config`] if there are too few images, [`Error::Device`] if the system has no random numbers.
    pub fn draw(whole: &Dataset, count: u32, seed: Option<u64>) -> Result<Canaries> {
        let images = whole.len();
        if count as usize > images {
            let images = counted(images as u64, "image");
            return Err(Error::Config(format!("--canaries {count}: {} has {images}", whole.account.source)));
        }
        let secret = seed.map_or_else(Secret::of_system, |seed| Ok(Secret::of_seed(seed)))?;
        let mut random = secret.stream(Purpose::Canaries, 0, 0);
        let mut places: Vec<u32> = (0..images as u32).collect();
        random.choose(&mut places, count as usize);
        places.truncate(count as usize);
        places.sort_unstable();
        let (included, excluded) = places.into_iter().partition(|_| random.coin(0.5));
        let canaries = Canaries { data: digest(whole), included, excluded, check: String::new() };
        Ok(Canaries { check: canaries.checked(), ..canaries })
    }

    fn checked(&self) -> String {
        let places = [self.included.as_slice(), &[u32::MAX], &self.excluded].concat();
        checksum(self.data.bytes().chain(places.iter().flat_map(|place| place.to_le_bytes())))
    }

    /// Those of the run in `directory`, which was made with `options`.
    ///
    /// # Errors
    /// [`Error::File`] if they are missing, or not as they were written.
    pub fn open(directory: &Path, options: &TrainOptions) -> Result<Canaries> {
        let path = path(directory);
        if !path.is_file() {
            let problem = "missing: without it nobody knows which images this run leaves out";
            return Err(Error::file(path, problem));
        }
        let canaries: Canaries = checkpoint::read_json(&path)?;
        let count = canaries.included.len() + canaries.excluded.len();
        if canaries.check != canaries.checked() {
            return Err(Error::file(path, "changed since it was written: restore it from a copy"));
        }
        if options.canaries.is_none_or(|then| then as usize != count) {
            return Err(of_another_run(directory));
        }
        Ok(canaries)
    }

    /// Writes them into the run's directory.
    ///
    /// # Errors
    /// [`Error::File`] if they can't be written.
    pub fn write(&self, directory: &Path) -> Result<()> {
        checkpoint::write_json(&prepare(directory)?.join(CANARIES), self)
    }

    /// Whether they were drawn from these images.
    pub fn are_of(&self, whole: &Dataset) -> bool {
        let all = self.included.iter().chain(&self.excluded);
        self.data == digest(whole) && all.max().is_none_or(|last| (*last as usize) < whole.len())
    }

    /// How many they are, and where they stand, in a line.
    pub fn said(&self, directory: &Path) -> String {
        let (left, all) = (self.excluded.len(), self.included.len() + self.excluded.len());
        let images = counted(all as u64, "image");
        format!(
            "coins left {left} of {images} out: {} says which, and is not to be published",
            path(directory).display()
        )
    }

    /// What is trained on of the images that they were drawn from.
    ///
    /// # Errors
    /// [`Error::Config`] if nothing is left.
    pub fn rest(&self, whole: &Dataset) -> Result<Dataset> {
        let is_left = |place: &usize| self.excluded.binary_search(&(*place as u32)).is_err();
        let rest: Vec<usize> = (0..whole.len()).filter(is_left).collect();
        if rest.is_empty() {
            let problem = "every image is a canary, and all were left out: take fewer --canaries";
            return Err(Error::Config(problem.into()));
        }
        whole.part(&rest)
    }

    /// Their images in the order of the whole data set, which doesn't depend on the coins, and whether each is trained on.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no room for them.
    pub fn images(&self, whole: &Dataset) -> Result<(Dataset, Vec<bool>)> {
        let [ins, outs] = [(&self.included, true), (&self.excluded, false)]
            .map(|(places, is_in)| places.iter().map(move |place| (*place as usize, is_in)));
        let mut all: Vec<(usize, bool)> = ins.chain(outs).collect();
        all.sort_unstable();
        let (places, are_in): (Vec<usize>, Vec<bool>) = all.into_iter().unzip();
        Ok((whole.part(&places)?, are_in))
    }
}
