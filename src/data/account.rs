//! What came of a source: what was read, what was passed over, what was changed. Said in a line, and stored beside a run.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// The format of a folder of images.
pub(super) const FOLDER: &str = "folder";
/// Those of files of many images.
pub(super) const ARRAYS: &str = "NumPy arrays";
pub(super) const TABLES: &str = "Parquet files";
pub(super) const SHARDS: &str = "WebDataset";

/// What became of the files of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    /// What was typed.
    pub source: String,
    /// `digits`, `IDX files`, `CIFAR files`, `NumPy arrays`, `Parquet files`, `WebDataset`, `folder`.
    pub format: &'static str,
    /// Whether it says of which class each image is.
    pub is_labelled: bool,
    /// The part of the source that was read, such as `train`.
    pub part: Option<String>,
    pub changes: Changes,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// What else is worth a line.
    pub notes: Vec<String>,
    /// Images that were taken out of these, for want of test images.
    pub held_out: usize,
}

/// Files that were left out for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub count: usize,
    pub first: PathBuf,
    pub why: String,
}

/// How images differ from their files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Height and width of the smallest and the largest file, by area.
    pub smallest: [u32; 2],
    pub largest: [u32; 2],
    pub scaled: usize,
    /// Whose edges were cut off, for another ratio of the sides.
    pub cropped: usize,
    /// Whose colours were dropped.
    pub made_grey: usize,
    /// That had transparent parts, which are white now.
    pub made_opaque: usize,
    /// Animations and files of several pages, of which the first frame stands here.
    pub first_frames: usize,
}

impl Changes {
    /// Adds what became of other images.
    pub(super) fn add(&mut self, other: &Changes) {
        let area = |[height, width]: [u32; 2]| u64::from(height) * u64::from(width);
        if area(self.smallest) == 0 || area(other.smallest) < area(self.smallest) {
            self.smallest = other.smallest;
        }
        if area(other.largest) > area(self.largest) {
            self.largest = other.largest;
        }
        self.scaled += other.scaled;
        self.cropped += other.cropped;
        self.made_grey += other.made_grey;
        self.made_opaque += other.made_opaque;
        self.first_frames += other.first_frames;
    }

    /// ` from 30x40 (scaled, cropped)`, with numbers where it is not all of `count`.
    pub fn said(&self, count: usize) -> String {
        let of = |number: usize, what: &str| match number {
            0 => None,
            number if number == count => Some(what.to_string()),
            number => Some(format!("{number} {what}")),
        };
        let [made_grey, made_opaque] = [of(self.made_grey, "made grey"), of(self.made_opaque, "laid over white")];
        let first_frames = of(self.first_frames, "first frames or pages of several");
        let done = [of(self.scaled, "scaled"), of(self.cropped, "cropped"), made_grey, made_opaque, first_frames];
        let done: Vec<String> = done.into_iter().flatten().collect();
        let size = |[height, width]: [u32; 2]| format!("{height}x{width}");
        let from = match self.smallest == self.largest {
            true => size(self.smallest),
            false => format!("{} to {}", size(self.smallest), size(self.largest)),
        };
        if done.is_empty() { String::new() } else { format!(" from {from} ({})", done.join(", ")) }
    }
}

impl Skipped {
    /// One or many, in a line.
    fn said(&self) -> String {
        let (first, why) = (self.first.display(), &self.why);
        match self.count {
            1 => format!("{first}: {why}; skipped"),
            count => format!("{first}: {why} ({count} such); skipped"),
        }
    }
}

impl Account {
    /// Notes that files were left out, if there are any.
    pub(super) fn skip(&mut self, files: &[impl AsRef<Path>], why: impl Into<String>) {
        if let Some(first) = files.first() {
            self.skipped.push(Skipped { count: files.len(), first: first.as_ref().into(), why: why.into() });
        }
    }

    /// Notes the files that could not be read, each with what is wrong with it; those of one reason together.
    pub(super) fn skip_each(&mut self, unread: &[(PathBuf, String)]) {
        const MOST_REASONS: usize = 5;
        let (mut reasons, mut further): (Vec<(&str, Vec<&PathBuf>)>, _) = (Vec::new(), Vec::new());
        for (file, problem) in unread {
            match reasons.iter().position(|(reason, _)| reason == problem) {
                Some(at) => reasons[at].1.push(file),
                None if reasons.len() < MOST_REASONS => reasons.push((problem, vec![file])),
                None => further.push(file),
            }
        }
        reasons.push(("can't be read for other reasons", further));
        reasons.into_iter().for_each(|(reason, files)| self.skip(&files, reason));
    }

    /// Colour that a model of grey images can't learn is worth more than a word in the summary.
    pub(super) fn note_lost_colour(&mut self, count: usize) {
        let coloured = self.changes.made_grey;
        if coloured > 0 {
            self.notes.push(format!(
                "{coloured} of {count} images are in colour and the model is of grey ones: it learns them grey; a model of 3 \
                 channels (--preset base, cifar10) keeps their colours"
            ));
        }
    }

    /// One line for each thing that was left out or is odd.
    pub fn warnings(&self) -> Vec<String> {
        self.skipped.iter().map(Skipped::said).chain(self.notes.iter().cloned()).collect()
    }
}
