//! Files and directories, and what is said of them.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The files and directories of `directory`, sorted, without the hidden ones.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |error| Error::file(directory, format!("can't be listed: {}", reason(&error)));
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The last component of `path`, also for `.` and `..`.
pub(super) fn name_of(path: &Path) -> String {
    let whole = path.canonicalize().ok();
    let name = path.file_name().or_else(|| whole.as_deref()?.file_name());
    name.map_or_else(|| "data".into(), |name| name.to_string_lossy().into_owned())
}

/// An I/O error in few words, those of the commonest the same on every system.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string().to_lowercase(),
    }
}
