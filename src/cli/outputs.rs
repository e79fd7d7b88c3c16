//! Where a command writes: where it can, nothing twice, and nothing over what it reads.

use std::path::Path;

use anyhow::{Result, bail};
use diffuse::files::{self, resolved};
use diffuse::{checkpoint, train};

/// A place that a command fills.
pub enum Place<'a> {
    File(&'a Path),
    /// A directory, of which it takes these relative names.
    Directory(&'a Path, fn(&Path) -> bool),
}

impl Place<'_> {
    fn path(&self) -> &Path {
        match self {
            Place::File(path) | Place::Directory(path, _) => path,
        }
    }

    /// Whether writing here would replace what is at `other`.
    fn replaces(&self, other: &Path) -> bool {
        let (own, other) = (resolved(self.path()), resolved(other));
        match self {
            // A device takes everything.
            _ if other.starts_with("/dev") => false,
            Place::File(_) => own == other,
            Place::Directory(_, takes) => other.strip_prefix(&own).is_ok_and(takes),
        }
    }

    /// Whether no file can be written to `other`, for it is replaced here, or has to be a directory.
    fn excludes(&self, other: &Path) -> bool {
        let is_within = || resolved(self.path()).starts_with(resolved(other));
        self.replaces(other) || matches!(self, Place::Directory(..)) && is_within()
    }
}

/// The output of a flag.
pub type Output<'a> = (&'a str, Place<'a>);

/// The file of a flag, if it was given.
pub fn file<'a>(flag: &'a str, path: Option<&'a Path>) -> Option<Output<'a>> {
    path.map(|path| (flag, Place::File(path)))
}

/// What a command reads: a file, or a directory with what is in it.
pub enum Source<'a> {
    /// A model's directory, or a run's.
    Model(&'a Path),
    /// Of which any file may be read.
    Data(&'a Path),
}

/// What the flag says that a command reads.
pub type Input<'a> = (&'a str, Source<'a>);

/// The file or model of a flag, if it was given.
pub fn input<'a>(flag: &'a str, path: Option<&'a Path>) -> Option<Input<'a>> {
    path.map(|path| (flag, Source::Model(path)))
}

impl Source<'_> {
    fn path(&self) -> &Path {
        match self {
            Source::Model(path) | Source::Data(path) => path,
        }
    }

    /// Whether it holds `file`, so that writing there would replace a part of it.
    fn holds(&self, file: &Path) -> bool {
        let (file, own) = (resolved(file), resolved(self.path()));
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let is_read = match self {
            Source::Model(_) => is_of_a_model(&name),
            // A JSON file there that is nobody's is one that was written before.
            Source::Data(_) => is_of_a_model(&name) || !name.ends_with(".json"),
        };
        file == own || own.is_dir() && file.starts_with(&own) && file.is_file() && is_read
    }
}

fn is_of_a_model(name: &str) -> bool {
    let of_model = [checkpoint::CONFIG, checkpoint::SCHEDULER, checkpoint::PIPELINE, checkpoint::CLASSIFIER];
    let of_run = [train::TRAINER, train::TRAINER_STATE, train::DATA, train::METRICS, train::PRIVACY, train::CANARIES];
    of_model.contains(&name)
        || of_run.contains(&name)
        || name == checkpoint::manifest::MANIFEST
        || name.starts_with(checkpoint::STEM)
}

/// Refuses two outputs in one place, and an output over one of the inputs `reads`, before there is anything to write.
pub fn check_apart(writes: &[Output], reads: &[Input]) -> Result<()> {
    for (index, (flag, place)) in writes.iter().enumerate() {
        for (other, source) in reads {
            let replaced = match place {
                Place::File(file) => source.holds(file).then_some(*file),
                Place::Directory(..) => place.replaces(source.path()).then_some(source.path()),
            };
            if let Some(path) = replaced {
                bail!("{flag} would replace {}, which {other} reads", path.display());
            }
        }
        for (other, file) in writes.iter().enumerate().filter(|(own, _)| *own != index).map(|(_, output)| output) {
            if matches!(file, Place::File(_)) && place.excludes(file.path()) {
                let path = file.path().display();
                bail!("{path}: two outputs can't be one file, that of {other} and one of {flag}");
            }
        }
    }
    Ok(())
}

/// Whether a file can be written there, and its name ends as its format's do.
pub fn check_file(path: &Path, endings: &[&str]) -> Result<()> {
    files::check_writable(path)?;
    let own = path.extension().map(|own| own.to_string_lossy().to_lowercase()).unwrap_or_default();
    if !endings.contains(&own.as_str()) && !path.starts_with("/dev") {
        bail!("{}: what is written there is a .{} file: name it so", path.display(), endings[0]);
    }
    Ok(())
}
