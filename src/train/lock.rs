//! One process at a time trains in a directory.

use std::fs::{File, TryLockError};
use std::path::Path;

use crate::error::{Error, Result};

/// Held until it is dropped; the system takes it back when the process ends, however it ends.
pub struct Lock {
    _directory: Option<File>,
}

impl Lock {
    /// Locks the directory itself, so that no file has to be left behind. Where a directory can't be opened as a file
    /// (Windows) or its file system knows no locks, nothing is locked.
    ///
    /// # Errors
    /// [`Error::File`] if another process trains here.
    pub fn take(directory: &Path) -> Result<Lock> {
        let Ok(opened) = File::open(directory) else { return Ok(Lock { _directory: None }) };
        match opened.try_lock() {
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(directory, "in use: another process trains here; wait for it or take another --out"))
            }
            _ => Ok(Lock { _directory: Some(opened) }),
        }
    }
}
