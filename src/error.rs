//! What can go wrong at the boundaries of the program: files, flags, configurations, the device.
//!
//! Each message is one line that says what, where and what to do. A wrong shape inside the code is not an error of
//! this kind: it panics while a step is recorded, before anything runs.

use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory that can't be read or written, or does not hold what it should.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    /// A configuration or a combination of flags that can't be built.
    #[error("{0}")]
    Config(String),
    /// No adapter, a device that can't run this, or one that failed.
    #[error("{0}")]
    Device(String),
    /// A run whose numbers stopped being finite.
    #[error("{0}")]
    Diverged(String),
}

impl Error {
    /// An error about the file or directory at `path`.
    pub fn file(path: impl AsRef<Path>, problem: impl ToString) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), problem: problem.to_string() }
    }
}

/// Names with commas between them, the first twenty of very many: a line lists no thousand classes.
pub fn list_names(names: &[String]) -> String {
    const LISTED: usize = 20;
    match names.get(..LISTED) {
        Some(first) if names.len() > LISTED + 1 => format!("{} and {} more", first.join(", "), names.len() - LISTED),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn very_many_names_are_cut() {
        let named = |count: usize| (0..count).map(|i| format!("n{i}")).collect::<Vec<_>>();
        assert!(list_names(&named(21)).ends_with("n19, n20"));
        assert!(list_names(&named(100)).ends_with("n19 and 80 more"));
    }
}
