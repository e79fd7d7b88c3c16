//! Files and directories, and what is said of them.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The error is what is wrong with a file.
pub(super) type Parsed<T> = std::result::Result<T, String>;

/// What systems and their tools leave beside people's files.
const SYSTEM: [&str; 10] = [
    "__MACOSX",
    "@eaDir",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "__pycache__",
    "Thumbs.db",
    "desktop.ini",
    "Icon\r",
];

/// The files and directories of `directory`, sorted, without those that are hidden or a system's own.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(listed(directory)?.into_iter().map(|(path, _)| path).collect())
}

/// As [`entries`], and whether each is a directory: of many files that is known before they are looked at one by one.
pub(super) fn listed(directory: &Path) -> Result<Vec<(PathBuf, bool)>> {
    let unreadable = |error| Error::file(directory, format!("can't be listed: {}", reason(&error)));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !is_hidden(&name) {
            let (path, kind) = (entry.path(), entry.file_type());
            let is_directory = match kind {
                Ok(kind) if !kind.is_symlink() => kind.is_dir(),
                _ => path.is_dir(),
            };
            paths.push((path, is_directory));
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file or directory of that name is hidden, or what systems leave.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || SYSTEM.iter().any(|system| name.eq_ignore_ascii_case(system))
}

/// What to say when reading stops within a file.
pub(super) fn damaged(error: &io::Error) -> String {
    format!("truncated or damaged ({}): get it again", reason(error))
}

/// The file at `path`, which is no pipe, where a read may wait for ever, not empty and not the pointer of Git LFS.
pub(super) fn open(path: &Path) -> Result<File> {
    let failed = |error| Error::file(path, reason(&error));
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(Error::file(path, "not a file"));
    }
    let mut file = File::open(path).map_err(failed)?;
    let mut start = Vec::new();
    (&mut file).take(64).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    match files::lfs_pointer(&start) {
        Some(problem) => Err(Error::file(path, problem)),
        None if start.is_empty() => Err(Error::file(path, "an empty file: get it again")),
        None => Ok(file),
    }
}

/// The last component of `path`, also for `.` and `..`.
pub(super) fn name_of(path: &Path) -> String {
    let own = |path: &Path| Some(path.file_name()?.to_string_lossy().into_owned());
    own(path).or_else(|| own(&path.canonicalize().ok()?)).unwrap_or_else(|| "data".into())
}

/// What orders classes of these names, sorted already, as folders are: whole numbers first, by their value, so that 2 comes before 10.
pub(super) fn natural(name: &str) -> u64 {
    name.parse().unwrap_or(u64::MAX)
}

/// A file's name without its ending, of `x.tar.gz` without both.
pub(super) fn stem(path: &Path) -> String {
    let stem = path.file_stem().map_or_else(|| name_of(path), |stem| stem.to_string_lossy().into_owned());
    stem.strip_suffix(".tar").map(String::from).unwrap_or(stem)
}

/// What a file's name ends with, in small letters and without the dot.
pub(super) fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// An I/O error in few words, those of the commonest the same on every system.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string().to_lowercase(),
    }
}
