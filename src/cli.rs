//! The commands: what is typed, and what is said.

mod adapter;
pub mod certify;
pub mod completions;
mod curve;
pub mod data;
mod decoding;
pub mod demo;
pub mod devices;
mod draw;
mod edit;
pub mod evaluate;
pub mod export;
mod flags;
mod half_blocks;
mod interrupt;
mod live;
pub mod man;
pub mod output;
mod outputs;
pub mod plan;
pub mod privacy;
pub mod profile;
mod progress;
pub mod ranks;
mod runs;
pub mod sample;
mod sampler;
mod steering;
pub mod train;
pub mod train_classifier;
pub mod tune;
pub mod verify;
pub mod watch;

use std::sync::LazyLock;

use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand};

use adapter::Adapter;
use diffuse::ranks::Ranks;
use ranks::Sharing;

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
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("DIFFUSE_COMMIT").map(|commit| format!(" ({commit})"));
        format!("{}{}", env!("CARGO_PKG_VERSION"), commit.unwrap_or_default())
    });
    &VERSION
}

/// Each says what it does where its arguments are.
#[derive(Subcommand)]
pub enum Command {
    Demo(demo::Args),
    Train(Box<train::Args>),
    TrainClassifier(Box<train_classifier::Args>),
    Watch(watch::Args),
    Data(data::Args),
    Sample(Box<sample::Args>),
    Evaluate(Box<evaluate::Args>),
    Export(export::Args),
    Verify(verify::Args),
    Certify(certify::Args),
    Privacy(privacy::Args),
    Profile(profile::Args),
    Plan(plan::Args),
    Tune(tune::Args),
    Devices(devices::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// What was typed. A number below 0 is a number everywhere, not a flag that might be missing its `--`.
///
/// # Errors
/// What is wrong with it, or what was asked for: help, the version.
pub fn parse() -> Result<Cli, clap::Error> {
    Cli::from_arg_matches(&whole().try_get_matches()?)
}

/// All commands as they are typed, and as help, manual and completions have them.
fn whole() -> clap::Command {
    under_headings(with_numbers(Cli::command()))
}

/// What most people want, for those who typed no command.
const WELCOME: &str = "\
diffuse trains and samples diffusion U-Nets on any GPU. What most people want:

  diffuse demo                     learn to draw digits, in a few minutes
  diffuse train --data DIRECTORY   train on your own images
  diffuse sample RUN               draw images with what was trained

diffuse --help lists all commands, diffuse COMMAND --help has the flags of one.";

/// What is said where a command is missing; none if something else is wrong.
pub fn welcome(error: &clap::Error) -> Option<&'static str> {
    use clap::error::ErrorKind::{DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand};
    [DisplayHelpOnMissingArgumentOrSubcommand, MissingSubcommand].contains(&error.kind()).then_some(WELCOME)
}

fn with_numbers(command: clap::Command) -> clap::Command {
    let numbers = |arg: Arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg };
    command.mut_args(numbers).mut_subcommands(with_numbers)
}

/// The headings of flags, in the order in which help has them.
const HEADINGS: [&str; 7] = ["Data", "Model", "Diffusion", "Optimizer", "Privacy", "Run", "Device"];

/// The command with its flags in the order of their headings, and each below as well: clap prints a heading where its first flag is.
fn under_headings(command: clap::Command) -> clap::Command {
    let rank = |arg: &Arg| HEADINGS.iter().position(|heading| Some(*heading) == arg.get_help_heading());
    let mut args: Vec<_> = command.get_arguments().map(|arg| (rank(arg), arg.get_id().clone())).collect();
    args.sort_by_key(|(rank, _)| *rank);
    // What is changed is put behind the others.
    let sorted = args.into_iter().fold(command, |command, (_, id)| command.mut_arg(id, |arg| arg));
    sorted.mut_subcommands(under_headings)
}

impl Cli {
    /// Runs the command as one of several ranks. Whether that ended well.
    pub fn run_among(&self, among: &dyn Ranks) -> bool {
        let leads = among.rank() == 0;
        match self.sharing() {
            Sharing::Alone => !leads || ranks::is_sound(self.run()),
            Sharing::Orders if leads => ranks::lead(among, || self.run()),
            Sharing::Orders => train::follow(among, &self.adapter).unwrap_or_else(|error| ranks::abort(among, &error)),
            Sharing::Drawing => {
                if !leads {
                    output::be_quiet();
                }
                self.run().map_or_else(|error| ranks::end(among, error), |()| true)
            }
        }
    }

    fn sharing(&self) -> Sharing {
        match &self.command {
            Command::Train(_) | Command::TrainClassifier(_) => Sharing::Orders,
            Command::Profile(args) if args.is_shared() => Sharing::Orders,
            Command::Sample(args) if args.draws() => Sharing::Drawing,
            Command::Evaluate(args) if args.draws() => Sharing::Drawing,
            _ => Sharing::Alone,
        }
    }

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
            Command::Watch(args) => watch::run(args),
            Command::Data(args) => data::run(args),
            Command::Sample(args) => sample::run(args, adapter),
            Command::Evaluate(args) => evaluate::run(args, adapter),
            Command::Export(args) => export::run(args),
            Command::Verify(args) => verify::run(args, adapter),
            Command::Certify(args) => certify::run(args),
            Command::Privacy(args) => privacy::run(args, adapter),
            Command::Profile(args) => profile::run(args, adapter),
            Command::Plan(args) => plan::run(args),
            Command::Tune(args) => self::tune::run(args, adapter),
            Command::Devices(args) => devices::run(args, adapter),
            Command::Completions(args) => completions::run(args, whole()),
            Command::Man(args) => man::run(args, whole()),
        }
    }
}
