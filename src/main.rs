//! The `diffuse` binary.

mod cli;
#[cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]
mod glibc;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Kept by the caller's RUST_LOG; drivers and wgpu are quiet otherwise.
    let filter = env_logger::Env::default().default_filter_or("warn,wgpu_hal=off,wgpu_core=error,naga=error");
    env_logger::Builder::from_env(filter).format_timestamp(None).format_target(false).init();
    match cli::Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
