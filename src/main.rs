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
    match cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::say(format_args!("error: {}", format!("{error:#}").replace('\n', " ")));
            ExitCode::FAILURE
        }
    }
}
