//! The commands: what is typed, and what is said.

pub mod demo;
pub mod devices;
pub mod evaluate;
pub mod profile;
mod progress;
pub mod sample;
mod steering;
pub mod train;
pub mod train_classifier;
pub mod verify;

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Trains and samples diffusion U-Nets on any GPU, with hand-written kernels that check themselves.
#[derive(Parser)]
#[command(version, about, max_term_width = 110)]
pub struct Cli {
    /// Adapter to use: its number or a part of its name, as `diffuse devices` lists them
    #[arg(long, global = true, value_name = "INDEX|NAME-PART")]
    pub device: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Learn to draw handwritten digits from the embedded set, then draw them
    Demo(demo::Args),
    /// Train a U-Net
    Train(Box<train::Args>),
    /// Train a classifier of noisy images, which guides sampling and judges samples
    TrainClassifier(Box<train_classifier::Args>),
    /// Draw images with a trained U-Net
    Sample(sample::Args),
    /// Say what a trained U-Net is worth: likelihood, quality of samples, errors by noise level
    Evaluate(evaluate::Args),
    /// Check every kernel, or a whole model, on this adapter
    Verify(verify::Args),
    /// Time one training or denoising step, kernel by kernel and layer by layer
    Profile(profile::Args),
    /// List adapters, drivers, limits and features
    Devices(devices::Args),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the command says, in one line.
    pub fn run(&self) -> anyhow::Result<()> {
        let device = self.device.as_deref();
        match &self.command {
            Command::Demo(args) => demo::run(args, device),
            Command::Train(args) => train::run(args, device),
            Command::TrainClassifier(args) => train_classifier::run(args, device),
            Command::Sample(args) => sample::run(args, device),
            Command::Evaluate(args) => evaluate::run(args, device),
            Command::Verify(args) => verify::run(args, device),
            Command::Profile(args) => profile::run(args, device),
            Command::Devices(args) => devices::run(args),
        }
    }
}

static STOP: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C asks the loop to end instead of ending the program; a second one ends it.
fn catch_interrupts() {
    let handler = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("\nfinishing this step, then saving; press Ctrl-C again to end at once");
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        log::warn!("Ctrl-C will end the program at once: {error}");
    }
}

/// Brings what a command was asked for to stdout. A reader that went away (`| head`) has seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("standard output"),
    }
}

/// Whether Ctrl-C was pressed.
fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst)
}
