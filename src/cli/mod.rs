//! The commands: what is typed, and what is said.

pub mod certify;
pub mod demo;
pub mod devices;
mod draw;
mod edit;
pub mod evaluate;
mod flags;
pub mod profile;
mod progress;
pub mod sample;
mod sampler;
mod steering;
pub mod train;
pub mod train_classifier;
pub mod tune;
pub mod verify;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use diffuse::files;
use diffuse::gpu::{Choices, Context, Precision, Recording};
use diffuse::tune::{Mode, cache_directory};

/// Trains and samples diffusion U-Nets on any GPU, with hand-written kernels that check themselves.
#[derive(Parser)]
#[command(version = version(), about, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub adapter: Adapter,
    #[command(subcommand)]
    pub command: Command,
}

/// The package's version, with the commit where the build was told it.
fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("DIFFUSE_COMMIT").map(|commit| format!(" ({commit})"));
        format!("{}{}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default())
    });
    &VERSION
}

/// What to compute on, and which variants of the kernels run there.
#[derive(clap::Args)]
pub struct Adapter {
    /// Adapter to use: its number or a part of its name, as `diffuse devices` lists them
    #[arg(long, global = true, value_name = "INDEX|NAME-PART")]
    device: Option<String>,
    /// Variants of kernels: `off` the usual ones, `cached` the fastest known ones (measured where none is known), `full` all
    /// measured again; none of these changes a result. Or a file that `diffuse tune --out FILE` wrote
    #[arg(long, global = true, value_name = "off|cached|full|FILE", default_value = "cached")]
    tune: Tune,
}

/// When the tuner measures, and what someone chose.
#[derive(Clone)]
enum Tune {
    By(Mode),
    File(PathBuf),
}

impl FromStr for Tune {
    type Err = String;

    fn from_str(text: &str) -> Result<Tune, String> {
        match text {
            "off" => Ok(Tune::By(Mode::Off)),
            "cached" => Ok(Tune::By(Mode::Cached)),
            "full" => Ok(Tune::By(Mode::Full)),
            path if Path::new(path).is_file() => Ok(Tune::File(path.into())),
            path => Err(format!("neither off, cached, full nor a file: {path}")),
        }
    }
}

/// How activations are stored.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Storage {
    F32,
    F16,
    /// f16 on a GPU, f32 on a driver that computes on the CPU
    Auto,
}

impl Storage {
    fn precision(self, context: &Context) -> Precision {
        match self {
            Storage::F16 => Precision::F16,
            Storage::Auto if !context.is_cpu() => Precision::F16,
            Storage::F32 | Storage::Auto => Precision::F32,
        }
    }
}

impl Adapter {
    /// What --device was given.
    fn wanted(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Opens the adapter.
    fn open(&self) -> Result<Context> {
        Ok(Context::new(self.wanted())?)
    }

    /// Opens the adapter, for activations stored as `storage` says.
    fn open_at(&self, storage: Storage) -> Result<Context> {
        let mut context = self.open()?;
        context.choices = context.choices.at(storage.precision(&context));
        Ok(context)
    }

    /// Puts what the cache knows into `context`, for a run that goes on with the variants that were chosen for it.
    fn recall(&self, context: &mut Context) -> Result<()> {
        match &self.tune {
            Tune::File(path) => bail!("--tune {} can't change in a resumed run", path.display()),
            Tune::By(Mode::Off) => {}
            Tune::By(_) => diffuse::tune::recall(context, cache_directory().as_deref()),
        }
        Ok(())
    }

    /// Puts the fastest variants for what `record` records into `context`; says so in a line where it takes time.
    fn tune(
        &self,
        context: &mut Context,
        record: impl FnOnce(&Arc<Choices>) -> diffuse::error::Result<Vec<Recording>>,
    ) -> Result<()> {
        let mode = match &self.tune {
            Tune::By(mode) => *mode,
            Tune::File(path) => {
                let chosen = diffuse::tune::read(context, path)?;
                diffuse::tune::restore(context, chosen);
                Mode::Cached
            }
        };
        let tuning = diffuse::tune::prepare(context, mode, cache_directory().as_deref(), record)?;
        if !tuning.measured.is_empty() {
            eprintln!("{}", self::tune::summary(&tuning, &context.info.name));
        }
        Ok(())
    }
}

/// Each says what it does where its arguments are.
#[derive(Subcommand)]
pub enum Command {
    Demo(demo::Args),
    Train(Box<train::Args>),
    TrainClassifier(Box<train_classifier::Args>),
    Sample(Box<sample::Args>),
    Evaluate(Box<evaluate::Args>),
    Verify(verify::Args),
    Certify(certify::Args),
    Profile(profile::Args),
    Tune(tune::Args),
    Devices(devices::Args),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What the command says, in one line.
    pub fn run(&self) -> anyhow::Result<()> {
        let adapter = &self.adapter;
        match &self.command {
            Command::Demo(args) => demo::run(args, adapter),
            Command::Train(args) => train::run(args, adapter),
            Command::TrainClassifier(args) => train_classifier::run(args, adapter),
            Command::Sample(args) => sample::run(args, adapter),
            Command::Evaluate(args) => evaluate::run(args, adapter),
            Command::Verify(args) => verify::run(args, adapter),
            Command::Certify(args) => certify::run(args),
            Command::Profile(args) => profile::run(args, adapter),
            Command::Tune(args) => self::tune::run(args, adapter),
            Command::Devices(args) => devices::run(args, adapter),
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

/// Whether what came of a command is wanted as JSON, and where.
#[derive(clap::Args, Default)]
pub struct Json {
    /// Print one JSON object on stdout instead of the table, if there is one, or write it to a file beside the table
    #[arg(long, value_name = "F.json", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    json: Option<PathBuf>,
}

impl Json {
    /// Prints the table or the object, or prints the one and writes the other to the file.
    fn print(
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
    fn print_object(&self, object: impl FnOnce() -> serde_json::Value) -> Result<()> {
        self.print(|| Ok(object()), || Ok(String::new()))
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
