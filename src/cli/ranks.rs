//! Where an MPI launched this program several times.

use std::rc::Rc;

use super::output::{line, say, say_anyway, say_error};
use diffuse::ranks::{Order, Ranks, ready, tell};

/// Rank and number of processes, as OpenMPI, MPICH and others (PMI), and Slurm tell them.
const TOLD: [[&str; 2]; 3] = [
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
    ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"],
];

/// Rank and number of processes that were launched together, if there are several.
fn launched() -> Option<(u32, u32)> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let told = TOLD.iter().find_map(|[rank, count]| Some((number(rank)?, number(count)?)))?;
    Some(told).filter(|(_, count)| *count > 1)
}

/// The ranks of which this process is one; none if it is alone. `version` is that of this program.
///
/// # Errors
/// One line for this process to say, or nothing if another says it.
pub fn join(version: &str) -> Result<Option<Rc<dyn Ranks>>, Option<String>> {
    let Some((rank, count)) = launched() else { return Ok(None) };
    let leads = rank == 0;
    connect(count, version).map_err(|line| line.filter(|_| leads))
}

#[cfg(not(feature = "mpi"))]
fn connect(count: u32, _: &str) -> Result<Option<Rc<dyn Ranks>>, Option<String>> {
    let problem = "launched several times at once, and this diffuse is built without MPI";
    Err(Some(format!("{problem} ({count} processes): cargo build --release --features mpi")))
}

#[cfg(feature = "mpi")]
fn connect(_: u32, version: &str) -> Result<Option<Rc<dyn Ranks>>, Option<String>> {
    let ranks = diffuse::ranks::mpi::Mpi::join()?;
    if ranks.count() == 1 {
        return Ok(None);
    }
    let version = format!("{version} with kernels {}", diffuse::run::session::kernels());
    let words: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let asked = [("diffuse", version), ("command line", words.join(" "))];
    let found = asked.iter().find_map(|(what, own)| Some((what, diffuse::ranks::difference(&ranks, own)?)));
    match found {
        Some((what, (rank, [theirs, first]))) => {
            if ranks.rank() == 0 {
                let name = ranks.name(rank);
                say(format_args!("error: {name} has another {what} than rank 0: {theirs} and {first}"));
            }
            // It was said before any rank ended, for then a launcher ends them all.
            Err(None)
        }
        None => Ok(Some(Rc::new(ranks))),
    }
}

/// How ranks share a command.
pub enum Sharing {
    /// Not at all: rank 0 does it.
    Alone,
    /// Rank 0 does it, and orders what others compute of it.
    Orders,
    /// All do the same up to where they draw, each a part of the images.
    Drawing,
}

/// What ends a command at a rank before it is done.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Rank 0 does the rest.
    #[error("rank 0 goes on alone")]
    Done,
    /// Another rank can't go on.
    #[error("{0}")]
    Elsewhere(String),
}

/// Waits until all ranks are ready to draw. Collective.
///
/// # Errors
/// [`Ended::Elsewhere`] if one of them is not.
pub fn begin_together(ranks: &dyn Ranks) -> Result<(), Ended> {
    match ready(ranks, None) {
        None => {
            ranks.set_between_orders(false);
            Ok(())
        }
        Some((rank, problem)) => Err(Ended::Elsewhere(format!("{}: {problem}", ranks.name(rank)))),
    }
}

/// Runs what rank 0 does, in which others follow its orders, and lets these end. Whether that ended well.
pub fn lead(ranks: &dyn Ranks, run: impl FnOnce() -> anyhow::Result<()>) -> bool {
    let is_sound = is_sound(run());
    if !ranks.are_between_orders() {
        // They wait for numbers that won't come.
        ranks.abort();
    }
    tell(ranks, Order::End { is_sound });
    is_sound
}

/// Whether what was run ended well; says an error.
pub fn is_sound(result: anyhow::Result<()>) -> bool {
    result.map_err(|error| say_error(&error)).is_ok()
}

/// What is to be done about an error where all ranks do the same. Whether it is none.
pub fn end(ranks: &dyn Ranks, error: anyhow::Error) -> bool {
    match error.downcast::<Ended>() {
        Ok(Ended::Done) => true,
        Ok(Ended::Elsewhere(line)) => {
            say(format_args!("error: {line}"));
            false
        }
        Err(error) if ranks.are_between_orders() => {
            let first = ready(ranks, Some(&format!("{error:#}")));
            if ranks.rank() == 0 || first.is_some_and(|(rank, _)| rank == ranks.rank()) {
                say_error(&error);
            }
            false
        }
        Err(error) => abort(ranks, &error),
    }
}

/// Says what befell this rank, which others wait for, and ends all.
pub fn abort(ranks: &dyn Ranks, error: &anyhow::Error) -> ! {
    say_anyway(format_args!("error: {}: {}", ranks.name(ranks.rank()), line(error)));
    ranks.abort()
}
