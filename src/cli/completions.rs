//! `diffuse completions`.

use anyhow::Result;
use clap_complete::{Shell, generate};

/// Print what completes commands and flags in a shell
///
/// Such as: diffuse completions bash > ~/.local/share/bash-completion/completions/diffuse
#[derive(clap::Args)]
pub struct Args {
    shell: Shell,
}

/// Runs the command, of all that `whole` is.
pub fn run(args: &Args, mut whole: clap::Command) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut whole, "diffuse", &mut script);
    super::output::print(String::from_utf8_lossy(&script).trim_end())
}
