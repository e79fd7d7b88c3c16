//! Ranks on MPI, through `rsmpi`.
//!
//! A rank that waits looks again and again and sleeps in between: where ranks share cores, who waits must not take them. A thread of
//! each rank beats, and ends all when another's beat is missing, for a rank may die where no launcher sees it.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::request::Request;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Root, Source};

use super::Ranks;

/// How often a rank says that it lives, and how long another believes it.
const BEAT: Duration = Duration::from_millis(500);
const BELIEVED: Duration = Duration::from_secs(15);

/// What numbers and beats are sent as.
const NUMBERS: i32 = 1;
const BEATS: i32 = 2;

/// All ranks that were launched together.
pub struct Mpi {
    world: SimpleCommunicator,
    machine: SimpleCommunicator,
    hosts: Vec<String>,
    are_between: Cell<bool>,
    beats: Option<Beats>,
    /// Ends MPI when it is dropped.
    _universe: Universe,
}

/// The thread that beats, until it is told that this process ends.
struct Beats {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Mpi {
    /// Joins the others.
    ///
    /// # Errors
    /// One line, if this MPI can't be used from two threads.
    pub fn join() -> Result<Mpi, String> {
        let joined = mpi::initialize_with_threading(Threading::Multiple);
        let (universe, threading) = joined.ok_or("MPI was begun already")?;
        let world = universe.world();
        if threading != Threading::Multiple {
            return Err("this MPI was built without MPI_THREAD_MULTIPLE".into());
        }
        let machine = world.split_shared(world.rank());
        let (hosts, are_between) = (Vec::new(), true.into());
        let mut own = Mpi { hosts, are_between, beats: None, world, machine, _universe: universe };
        let host = mpi::environment::processor_name().unwrap_or_default();
        let hosts = own.gather(host.as_bytes()).iter().map(|host| String::from_utf8_lossy(host).into_owned()).collect();
        own.hosts = hosts;
        own.beats = own.watch();
        Ok(own)
    }

    /// Beats, and listens for the beats of others, for as long as MPI is there: rank 0 of all, the others of rank 0.
    fn watch(&self) -> Option<Beats> {
        let (rank, count) = (self.rank(), self.count());
        if count == 1 {
            return None;
        }
        let names: Vec<String> = (0..count).map(|rank| self.name(rank)).collect();
        let ends = Arc::new(AtomicBool::new(false));
        let must_end = ends.clone();
        let watch = move || beat(rank, &names, &must_end);
        // Without a thread a death is noticed by the launcher alone.
        let thread = std::thread::Builder::new().name("beat".into()).spawn(watch);
        let thread = thread.inspect_err(|error| log::warn!("no thread to watch other ranks: {error}")).ok()?;
        Some(Beats { ends, thread })
    }
}

impl Drop for Mpi {
    /// Nothing may speak when MPI ends.
    fn drop(&mut self) {
        let Some(Beats { ends, thread }) = self.beats.take() else { return };
        ends.store(true, Ordering::Release);
        thread.thread().unpark();
        // It panics nowhere; if it did, there is nothing to be done about it here.
        _ = thread.join();
    }
}

/// Beats as rank `rank` of those of these names, and ends all when one that is listened for is silent.
fn beat(rank: u32, names: &[String], must_end: &AtomicBool) {
    let world = SimpleCommunicator::world();
    let others = if rank == 0 { 1..names.len() } else { 0..1 };
    let mut heard: Vec<(usize, Instant)> = others.map(|other| (other, Instant::now())).collect();
    while !must_end.load(Ordering::Acquire) {
        for (other, at) in &mut heard {
            let other = world.process_at_rank(*other as i32);
            let mut beat = [0u8];
            while other.immediate_probe_with_tag(BEATS).is_some() {
                other.receive_into_with_tag(&mut beat, BEATS);
                *at = Instant::now();
            }
            mpi::request::scope(|scope| wait(other.immediate_send_with_tag(scope, &beat, BEATS)));
        }
        if let Some((silent, _)) = heard.iter().find(|(_, at)| at.elapsed() > BELIEVED) {
            // One is enough to say it.
            if rank <= 1 {
                say_silent(&names[*silent]);
            }
            world.abort(1);
        }
        std::thread::park_timeout(BEAT);
    }
}

fn say_silent(name: &str) {
    let seconds = BELIEVED.as_secs();
    let line = format!(
        "error: {name} has not been heard of for {seconds} s: it was killed or stopped, or its machine is cut off; the last \
         checkpoint stands, and --resume goes on from it"
    );
    // Nobody may read it any more.
    _ = writeln!(std::io::stderr(), "{line}");
}

/// Sleeps a little, the more the longer it is waited.
fn idle(turns: &Cell<u32>) {
    turns.set(turns.get() + 1);
    match turns.get() {
        0..50 => std::thread::yield_now(),
        turns => std::thread::sleep(Duration::from_micros(if turns < 1000 { 50 } else { 500 })),
    }
}

fn wait<'a, D: ?Sized, S: mpi::request::Scope<'a>>(mut request: Request<'a, D, S>) {
    let turns = Cell::new(0);
    while let Err(unfinished) = request.test() {
        request = unfinished;
        idle(&turns);
    }
}

fn broadcast(among: &SimpleCommunicator, bytes: &mut [u8]) {
    let first = among.process_at_rank(0);
    mpi::request::scope(|scope| wait(first.immediate_broadcast_into(scope, bytes)));
}

/// `counts` as MPI has them, and where each begins.
fn places(counts: &[usize]) -> (Vec<i32>, Vec<i32>) {
    let mut first = 0;
    let counts: Vec<i32> = counts.iter().map(|count| *count as i32).collect();
    let firsts = counts.iter().map(|count| (first, first += count).0).collect();
    (counts, firsts)
}

impl Ranks for Mpi {
    fn rank(&self) -> u32 {
        self.world.rank() as u32
    }

    fn count(&self) -> u32 {
        self.world.size() as u32
    }

    fn local(&self) -> u32 {
        self.machine.rank() as u32
    }

    fn name(&self, rank: u32) -> String {
        format!("rank {rank} on {}", self.hosts[rank as usize])
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        broadcast(&self.world, bytes);
    }

    fn broadcast_on_machine(&self, bytes: &mut [u8]) {
        broadcast(&self.machine, bytes);
    }

    fn gather(&self, own: &[u8]) -> Vec<Vec<u8>> {
        // With a byte behind it: the address of an empty slice may be the one that means MPI_IN_PLACE.
        let own = [own, &[0]].concat();
        let (length, mut lengths) = ([own.len() as u64], vec![0u64; self.world.size() as usize]);
        mpi::request::scope(|scope| wait(self.world.immediate_all_gather_into(scope, &length, &mut lengths[..])));
        let lengths: Vec<usize> = lengths.iter().map(|length| *length as usize).collect();
        let (counts, firsts) = places(&lengths);
        let mut all = vec![0u8; lengths.iter().sum()];
        let mut parts = PartitionMut::new(&mut all[..], counts, &firsts[..]);
        mpi::request::scope(|scope| wait(self.world.immediate_all_gather_varcount_into(scope, &own[..], &mut parts)));
        let mut rest = &all[..];
        let part = |length: &usize| rest.split_off(..*length).expect("so many came")[..length - 1].to_vec();
        lengths.iter().map(part).collect()
    }

    fn gather_numbers(&self, own: &[f32], counts: &[usize], all: &mut [f32]) {
        let (counts, firsts) = places(counts);
        let mut parts = PartitionMut::new(all, counts, &firsts[..]);
        mpi::request::scope(|scope| wait(self.world.immediate_all_gather_varcount_into(scope, own, &mut parts)));
    }

    fn exchange<'a>(&self, sent: &[(u32, &'a [f32])], received: Vec<(u32, &'a mut [f32])>) {
        mpi::request::multiple_scope(sent.len() + received.len(), |scope, requests| {
            for (from, numbers) in received {
                let from = self.world.process_at_rank(from as i32);
                requests.add(from.immediate_receive_into_with_tag(scope, numbers, NUMBERS));
            }
            for (to, numbers) in sent {
                let to = self.world.process_at_rank(*to as i32);
                requests.add(to.immediate_send_with_tag(scope, *numbers, NUMBERS));
            }
            let (turns, mut done) = (Cell::new(0), Vec::new());
            while !requests.test_all(&mut done) {
                idle(&turns);
            }
        });
    }

    fn on_this_machine(&self) -> u32 {
        self.machine.size() as u32
    }

    fn set_between_orders(&self, are_between: bool) {
        self.are_between.set(are_between);
    }

    fn are_between_orders(&self) -> bool {
        self.are_between.get()
    }

    fn abort(&self) -> ! {
        self.world.abort(1)
    }
}
