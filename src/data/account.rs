//! What came of a source: what was read, what was passed over, what was changed. Said in a line, and stored beside a run.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::one_line;

/// Formats of which images are looked for in a directory.
pub(super) const FOLDER: &str = "folder";
pub(super) const ARRAYS: &str = "NumPy arrays";
pub(super) const PARQUET: &str = "Parquet files";
pub(super) const WEBDATASET: &str = "WebDataset";

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Files that are left out for one reason. A few bytes of an archive can be a million files: of however many, the first is kept.
#[derive(Default)]
pub(super) struct LeftOut {
    count: usize,
    pub first: Option<PathBuf>,
}

impl LeftOut {
    pub fn add(&mut self, file: PathBuf) {
        self.count += 1;
        self.first.get_or_insert(file);
    }
}

/// Files that could not be read, by what is wrong with them.
#[derive(Default)]
pub(super) struct Unread {
    reasons: Vec<(String, LeftOut)>,
    further: LeftOut,
    pub count: usize,
}

impl Unread {
    pub fn add(&mut self, file: PathBuf, problem: String) {
        const MOST_REASONS: usize = 5;
        self.count += 1;
        let place = match self.reasons.iter().position(|(reason, _)| *reason == problem) {
            None if self.reasons.len() == MOST_REASONS => return self.further.add(file),
            None => {
                self.reasons.push((problem, LeftOut::default()));
                self.reasons.len() - 1
            }
            Some(place) => place,
        };
        self.reasons[place].1.add(file);
    }

    /// The first of them and its problem.
    pub fn first(&self) -> Option<(&Path, &str)> {
        let (problem, files) = self.reasons.first()?;
        Some((files.first.as_deref()?, problem))
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

    /// As [`Account::skip`].
    pub(super) fn skip_left(&mut self, left: LeftOut, why: impl Into<String>) {
        if let Some(first) = left.first {
            self.skipped.push(Skipped { count: left.count, first, why: why.into() });
        }
    }

    /// Notes the files that could not be read, those of one reason together.
    pub(super) fn skip_unread(&mut self, unread: Unread) {
        unread.reasons.into_iter().for_each(|(reason, files)| self.skip_left(files, reason));
        self.skip_left(unread.further, "can't be read for other reasons");
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
        self.skipped.iter().map(Skipped::said).chain(self.notes.iter().cloned()).map(one_line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_counted_by_its_reason() {
        let mut unread = Unread::default();
        assert_eq!(unread.first(), None);
        for index in 0..1000 {
            unread.add(
                format!("{index}").into(),
                if index < 500 { "none".into() } else { format!("reason {}", index % 9) },
            );
        }
        assert_eq!((unread.first(), unread.count), (Some((Path::new("0"), "none")), 1000));
        let mut account = Account::default();
        account.skip_unread(unread);
        let lines = account.warnings();
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[0], "0: none (500 such); skipped");
        assert_eq!(account.skipped.iter().map(|skipped| skipped.count).sum::<usize>(), 1000);
        assert_eq!(lines[5].split(" (").next(), Some("504: can't be read for other reasons"));
    }
}
