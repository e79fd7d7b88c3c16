//! How the binary is started.

use std::process::Command;

/// The words that start it, under the runner that cargo was told to use, if any: it brings a driver.
pub fn words() -> Vec<String> {
    let is_runner = |name: &str| name.starts_with("CARGO_TARGET_") && name.ends_with("_RUNNER");
    let runner = std::env::vars().find(|(name, _)| is_runner(name)).map(|(_, runner)| runner).unwrap_or_default();
    runner.split_whitespace().map(String::from).chain([env!("CARGO_BIN_EXE_diffuse").to_string()]).collect()
}

/// These words as a command.
pub fn command() -> Command {
    let words = words();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}
