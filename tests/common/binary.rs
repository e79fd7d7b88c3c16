//! How the binary is started.

#[path = "runner.rs"]
mod runner;

use std::process::Command;

/// The words that start it, under the runner.
pub fn words() -> Vec<String> {
    runner::words().into_iter().chain([env!("CARGO_BIN_EXE_diffuse").to_string()]).collect()
}

/// These words as a command.
pub fn command() -> Command {
    let words = words();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
