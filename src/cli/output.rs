//! What a command was asked for, on stdout or in a file.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use diffuse::files;

/// Whether what came of a command is wanted as JSON, and where.
#[derive(clap::Args, Default)]
pub struct Json {
    /// Print one JSON object on stdout instead of the table, if there is one, or write it to a file beside the table
    #[arg(long, value_name = "F.json", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
}

impl Json {
    /// Whether the file can be written, as far as that can be said before there is anything to write.
    pub fn check(&self) -> Result<()> {
        Ok(self.file().map_or(Ok(()), files::check_writable)?)
    }

    /// The file that it is written to.
    pub fn file(&self) -> Option<&Path> {
        self.json.as_deref().filter(|_| !self.is_alone())
    }

    /// Whether the object stands in the place of what people read.
    pub fn is_alone(&self) -> bool {
        self.json.as_deref() == Some(Path::new("-"))
    }

    /// Prints the table or the object, or prints the one and writes the other to the file.
    pub fn print(
        &self,
        object: impl FnOnce() -> Result<serde_json::Value>,
        table: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        match self.json.as_deref() {
            Some(path) if path == Path::new("-") => return print(&object()?.to_string()),
            Some(path) => files::write_atomic(path, format!("{}\n", object()?).as_bytes())?,
            None => (),
        }
        match table()?.trim_end() {
            "" => Ok(()),
            table => print(table),
        }
    }

    /// The same of a command that has no table.
    pub fn print_object(&self, object: impl FnOnce() -> serde_json::Value) -> Result<()> {
        self.print(|| Ok(object()), || Ok(String::new()))
    }
}

/// Whether another rank speaks for this one.
static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// From here on nothing is said, or brought to stdout: rank 0 speaks for all.
pub fn be_quiet() {
    IS_QUIET.store(true, Ordering::Relaxed);
}

/// A line on stderr. Nobody may read it any more (`| head`, a closed terminal): that is no reason to end.
pub fn say(line: impl std::fmt::Display) {
    if !IS_QUIET.load(Ordering::Relaxed) {
        say_anyway(line);
    }
}

/// An error in one line.
pub fn line(error: &anyhow::Error) -> String {
    format!("{error:#}").replace('\n', " ")
}

/// Says an error that ends the program.
pub fn say_error(error: &anyhow::Error) {
    say(format_args!("error: {}", line(error)));
}

/// As [`say`], of what befell this rank alone.
pub fn say_anyway(line: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Brings what a command was asked for to stdout. A reader that went away (`| head`) has seen enough.
pub fn print(text: &str) -> anyhow::Result<()> {
    if IS_QUIET.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}
