//! `diffuse man`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap_mangen::Man;

use super::output::say;
use diffuse::error::counted;
use diffuse::files::write_atomic;

/// Write manual pages: diffuse.1, and one for each command
///
/// Such as: diffuse man ~/.local/share/man/man1
#[derive(clap::Args)]
pub struct Args {
    /// Directory for the pages
    directory: PathBuf,
}

/// Runs the command, of all that `whole` is.
pub fn run(args: &Args, mut whole: clap::Command) -> Result<()> {
    whole.build();
    let count = write(&whole, &args.directory)?;
    say(format_args!("{}: {}", counted(count, "page"), args.directory.display()));
    Ok(())
}

/// Writes the page of a command and those of the commands below it; how many.
fn write(command: &clap::Command, directory: &Path) -> Result<u64> {
    let man = Man::new(command.clone());
    let path = directory.join(man.get_filename());
    let mut page = Vec::new();
    man.render(&mut page).with_context(|| path.display().to_string())?;
    write_atomic(&path, &page)?;
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below.map(|below| write(below, directory)).sum::<Result<u64>>().map(|count| count + 1)
}
