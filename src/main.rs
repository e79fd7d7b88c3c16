//! The `diffuse` binary.

// A print to a pipe that nobody reads any more panics: `cli::output` has the ways that don't.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod cli;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod glibc;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Kept by the caller's RUST_LOG; drivers and wgpu are quiet otherwise.
    let filter =
        env_logger::Env::default().default_filter_or("warn,wgpu_hal=off,wgpu_core=error,naga=error,gpu_allocator=off");
    env_logger::Builder::from_env(filter).format_timestamp(None).format_target(false).init();
    let ranks = match cli::ranks::join(cli::version()) {
        Ok(ranks) => ranks,
        Err(line) => {
            line.iter().for_each(|line| cli::output::say(format_args!("error: {line}")));
            return ExitCode::FAILURE;
        }
    };
    let mut cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Rank 0 says it, before any rank ends.
            if ranks.as_ref().is_none_or(|ranks| ranks.rank() == 0) {
                match cli::welcome(&error) {
                    Some(lines) => cli::output::say(lines),
                    None => _ = error.print(),
                }
            }
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    cli.adapter.ranks = ranks.clone();
    let is_sound = match ranks {
        Some(ranks) => cli.run_among(&*ranks),
        None => cli::ranks::is_sound(cli.run()),
    };
    if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
