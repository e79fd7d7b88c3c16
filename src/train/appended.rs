//! A file that grows by a piece a step. Pieces wait in memory, so that a step waits for no disk, and where there is no room.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Pieces come to the file at least this often, for those who watch it.
const INTERVAL: Duration = Duration::from_secs(2);

/// The file, and what is not in it yet.
pub(super) struct Appended {
    path: PathBuf,
    pub(super) file: File,
    waiting: Vec<u8>,
    flushed: Instant,
}

impl Appended {
    /// Behind what stands in a file that is there.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be written.
    pub fn open(path: PathBuf) -> Result<Appended> {
        let file = OpenOptions::new().append(true).open(&path).map_err(|error| Error::file(&path, error))?;
        Ok(Appended { path, file, waiting: Vec::new(), flushed: Instant::now() })
    }

    /// Adds what `write` puts behind what waits.
    ///
    /// # Errors
    /// As [`Appended::flush`].
    pub fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        write(&mut self.waiting);
        if self.flushed.elapsed() >= INTERVAL { self.flush() } else { Ok(()) }
    }

    /// Brings all that waits to the file.
    ///
    /// # Errors
    /// [`Error::File`] if the disk is full; what is not in the file waits for the next time.
    pub fn flush(&mut self) -> Result<()> {
        self.flushed = Instant::now();
        while !self.waiting.is_empty() {
            match self.file.write(&self.waiting) {
                Ok(written) => drop(self.waiting.drain(..written)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::file(&self.path, error)),
            }
        }
        Ok(())
    }

    /// Goes on in the file of `fresh`; what waits goes there.
    pub fn go_on_in(&mut self, mut fresh: Appended) {
        std::mem::swap(&mut self.file, &mut fresh.file);
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        // A run that breaks leaves all that it knew; where there is no room, that was said.
        let _ = self.flush();
    }
}
