//! One process at a time trains in a directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::{Error, Result};

/// Held until it is dropped; the system takes it back when the process ends, however it ends.
pub struct Lock {
    directory: Option<File>,
}

impl Lock {
    /// Locks the directory itself, so that no file has to be left behind. Where a directory can't be opened as a file
    /// (Windows) or its file system knows no locks, nothing is locked, and that is said.
    ///
    /// # Errors
    /// [`Error::File`] if another process trains here.
    pub fn take(directory: &Path) -> Result<Lock> {
        let unlocked = |problem: io::Error| {
            log::warn!(
                "{}: can't be locked ({problem}): see to it that no other process trains here",
                directory.display()
            );
        };
        let opened = match File::open(directory) {
            Ok(opened) => opened,
            Err(problem) => {
                unlocked(problem);
                return Ok(Lock { directory: None });
            }
        };
        match opened.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let problem = "in use: another process trains here; wait for it or take another --out";
                return Err(Error::file(directory, problem));
            }
            Err(TryLockError::Error(problem)) => unlocked(problem),
            Ok(()) => {}
        }
        Ok(Lock { directory: Some(opened) })
    }

    /// Whether what was locked is still called `directory`, as far as that can be known.
    pub fn is_of(&self, directory: &Path) -> bool {
        match (fs::metadata(directory), &self.directory) {
            (Err(error), _) => error.kind() != ErrorKind::NotFound,
            (Ok(there), Some(locked)) => is_same(&there, locked),
            (Ok(_), None) => true,
        }
    }
}

#[cfg(unix)]
fn is_same(there: &fs::Metadata, locked: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    locked.metadata().is_ok_and(|ours| (ours.dev(), ours.ino()) == (there.dev(), there.ino()))
}

#[cfg(not(unix))]
fn is_same(_: &fs::Metadata, _: &File) -> bool {
    true
}
