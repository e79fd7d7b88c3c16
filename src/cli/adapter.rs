//! The device that a command computes on, and how its ways are chosen.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;

use super::output::say;
use super::outputs::{Input, input};
use anyhow::Result;
use diffuse::error::counted;
use diffuse::files::cache_directory;
use diffuse::gpu::context::cards;
use diffuse::gpu::{Context, Precision};
use diffuse::ranks::Ranks;
use diffuse::run::Session;
use diffuse::tune::{Mode, Policy, Tuning, Winograd};

/// What to compute on, and which variants of the kernels run there.
#[derive(clap::Args)]
pub struct Adapter {
    /// Adapter to use: its number or a part of its name, as `diffuse devices` lists them
    #[arg(long, help_heading = "Device", global = true, value_name = "INDEX|NAME-PART")]
    device: Option<String>,
    /// Variants of kernels: `off` the usual ones, `cached` the fastest known ones (measured where none is known), `full` all
    /// measured again; none of these changes a result. Or a file that `diffuse tune --out FILE` wrote
    #[arg(long, help_heading = "Device", global = true, value_name = "off|cached|full|FILE", default_value = "cached")]
    tune: Tune,
    /// Whether drivers that compute on the CPU run 3x3 convolutions by Winograd's algorithm: up to 1.7 times as fast, with other
    /// bits. A run keeps what it was started with [default: 2]
    #[arg(long, help_heading = "Device", global = true)]
    winograd: Option<Winograd>,
    /// Leave room for others on this device, such as a desktop: work goes there in pieces of 16 ms at the most (250 without), each
    /// when the one before is done. A dispatch that alone takes longer stays one piece. With the same bits
    #[arg(long, help_heading = "Device", global = true)]
    polite: bool,
    /// Those of which this process is one.
    #[arg(skip)]
    pub ranks: Option<Rc<dyn Ranks>>,
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
    pub fn precision(self, context: &Context) -> Precision {
        match self {
            Storage::F16 => Precision::F16,
            Storage::Auto if !context.is_cpu() => Precision::F16,
            Storage::F32 | Storage::Auto => Precision::F32,
        }
    }
}

impl Adapter {
    /// What --device was given.
    pub fn wanted(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// What --winograd was given.
    pub fn winograd(&self) -> Option<Winograd> {
        self.winograd
    }

    /// The file of --tune, if it is one.
    pub fn file(&self) -> Option<Input<'_>> {
        match &self.tune {
            Tune::File(path) => input("--tune", Some(path)),
            Tune::By(_) => None,
        }
    }

    /// The ranks of which this process is one; none if it is alone.
    pub fn ranks(&self) -> Option<&dyn Ranks> {
        self.ranks.as_deref()
    }

    /// The adapter of this rank: of those that --device lists, or that it names, each has one of its own, as far as there are enough.
    fn open_own(&self, ranks: &dyn Ranks) -> Result<Context> {
        let listed: Vec<&str> = self.wanted().into_iter().flat_map(|list| list.split(',')).map(str::trim).collect();
        let (local, all) = (ranks.local() as usize, ranks.on_this_machine() as usize);
        let (wanted, cards) = match listed[..] {
            [] | [_] => {
                let wanted = listed.first().copied();
                let cards = cards(wanted)?;
                (cards[local % cards.len()].to_string(), cards.len())
            }
            _ => (listed[local % listed.len()].to_string(), listed.len()),
        };
        if ranks.rank() == 0 && all > cards {
            say(format_args!("{all} ranks on this machine share {}", counted(cards as u64, "device")));
        }
        Ok(Context::new(Some(&wanted))?)
    }

    /// Opens the adapter.
    pub fn open(&self) -> Result<Context> {
        let mut context = match self.ranks() {
            Some(ranks) => self.open_own(ranks)?,
            None => Context::new(self.wanted())?,
        };
        if self.polite {
            context.be_polite();
        }
        Ok(context)
    }

    /// A session on it, for activations stored as `storage` says.
    pub fn session<'a>(&self, context: &'a Context, storage: Storage) -> Result<Session<'a>> {
        Ok(Session::open(context, &self.policy(context)?, storage.precision(context)))
    }

    /// The same for `count` images, `batch` at a time. A batch that is not full may never come again, and is not worth to be
    /// measured for.
    pub fn session_for<'a>(&self, context: &'a Context, count: u32, batch: u32) -> Result<Session<'a>> {
        let mut policy = self.policy(context)?;
        if policy.mode == Mode::Cached && count < batch {
            policy.mode = Mode::Known;
        }
        Ok(Session::open(context, &policy, Precision::F32))
    }

    /// How the ways are chosen that kernels run in; what takes time is said in a line.
    pub fn policy(&self, context: &Context) -> Result<Policy> {
        let (mode, explicit) = match &self.tune {
            Tune::By(mode) => (*mode, Vec::new()),
            Tune::File(path) => (Mode::Cached, diffuse::tune::read(context, path)?),
        };
        let tell = |tuning: &_, adapter: &str| say(summary(tuning, adapter));
        let winograd = self.winograd.unwrap_or_default();
        Ok(Policy { mode, directory: cache_directory(), explicit, winograd, tell: Some(tell) })
    }
}

/// What was measured, in one line.
pub fn summary(tuning: &Tuning, adapter: &str) -> String {
    let seconds = tuning.time.as_secs_f64();
    let guessed = if tuning.guessed > 0 { format!(" ({} more guessed)", tuning.guessed) } else { String::new() };
    let kept = tuning.cache.as_ref().map(|path| format!(", kept in {}", path.display())).unwrap_or_default();
    format!("tuned {} shapes on {adapter} in {seconds:.1} s{guessed}{kept}", tuning.measured.len())
}
