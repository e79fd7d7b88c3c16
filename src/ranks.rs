//! The processes that compute one run together, ranks as MPI calls them: what they say to each other.
//!
//! Rank 0 leads: it alone writes, talks and decides, and says before each step what comes. MPI's own words stay in `mpi`.

pub mod members;
#[cfg(feature = "mpi")]
pub mod mpi;

/// The ranks of which this process is one. What all must call, in the same order, is said to be collective.
pub trait Ranks {
    /// Of this process, from 0.
    fn rank(&self) -> u32;

    /// How many there are.
    fn count(&self) -> u32;

    /// Of this process among those on the same machine, from 0.
    fn local(&self) -> u32;

    /// `rank 2 on host`.
    fn name(&self, rank: u32) -> String;

    /// Rank 0's bytes, at all ranks. Collective.
    fn broadcast(&self, bytes: &mut [u8]);

    /// The bytes of the first rank on a machine, at all ranks there. Collective.
    fn broadcast_on_machine(&self, bytes: &mut [u8]);

    /// What each rank has to say, in their order. Collective.
    fn gather(&self, own: &[u8]) -> Vec<Vec<u8>>;

    /// As [`Ranks::gather`] of numbers of which each rank has `counts[rank]`, into `all`. Collective.
    fn gather_numbers(&self, own: &[f32], counts: &[usize], all: &mut [f32]);

    /// Sends numbers to ranks and receives what these send here: of each pair of ranks in the order in which it is sent. Collective.
    fn exchange<'a>(&self, sent: &[(u32, &'a [f32])], received: Vec<(u32, &'a mut [f32])>);

    /// Number of processes on the same machine.
    fn on_this_machine(&self) -> u32;

    /// Hears whether other ranks wait for rank 0's next order, as they do between steps.
    fn set_between_orders(&self, are_between: bool);

    /// What was heard last of that.
    fn are_between_orders(&self) -> bool;

    /// Ends all ranks at once, with a line that was said.
    fn abort(&self) -> !;
}

/// What rank 0 says before all do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A run begins, or goes on.
    Begin,
    /// This step, from 0.
    Step(u64),
    /// The first dispatch of this step that writes what is not finite is looked for.
    Replay(u64),
    /// There is no more to do.
    End { is_sound: bool },
}

impl Order {
    fn words(self) -> [u64; 2] {
        match self {
            Order::Begin => [0, 0],
            Order::Step(step) => [1, step],
            Order::Replay(step) => [2, step],
            Order::End { is_sound } => [3, is_sound.into()],
        }
    }

    fn of([order, what]: [u64; 2]) -> Order {
        match order {
            0 => Order::Begin,
            1 => Order::Step(what),
            2 => Order::Replay(what),
            _ => Order::End { is_sound: what == 1 },
        }
    }
}

/// Says `order` to all other ranks. Rank 0's half of [`hear`].
pub fn tell(ranks: &dyn Ranks, order: Order) {
    ranks.broadcast(bytemuck::bytes_of_mut(&mut order.words()));
}

/// What rank 0 says next.
pub fn hear(ranks: &dyn Ranks) -> Order {
    let mut words = [0u64; 2];
    ranks.broadcast(bytemuck::bytes_of_mut(&mut words));
    Order::of(words)
}

/// Rank 0's text, at all ranks. Collective.
pub fn share_text(ranks: &dyn Ranks, text: &str) -> String {
    text_through(|bytes| ranks.broadcast(bytes), text)
}

/// The text of the first rank on a machine, at all ranks there. Collective.
pub fn share_text_on_machine(ranks: &dyn Ranks, text: &str) -> String {
    text_through(|bytes| ranks.broadcast_on_machine(bytes), text)
}

/// What came of `text` where one process's bytes become those of all.
fn text_through(broadcast: impl Fn(&mut [u8]), text: &str) -> String {
    let mut length = text.len() as u64;
    broadcast(bytemuck::bytes_of_mut(&mut length));
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length as usize, 0);
    broadcast(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Tells all ranks why this one can't go on, if it can't. The first such rank, and its reason. Collective.
pub fn ready(ranks: &dyn Ranks, problem: Option<&str>) -> Option<(u32, String)> {
    let all = ranks.gather(problem.unwrap_or_default().as_bytes());
    let problem = (0..).zip(all).find(|(_, problem)| !problem.is_empty());
    problem.map(|(rank, problem)| (rank, String::from_utf8_lossy(&problem).into_owned()))
}

/// The first rank that answers otherwise than rank 0, and both answers; the same at all ranks. Collective.
pub fn difference(ranks: &dyn Ranks, own: &str) -> Option<(u32, [String; 2])> {
    let all = ranks.gather(own.as_bytes());
    let other = (0..).zip(&all).find(|(_, text)| **text != all[0])?;
    Some((other.0, [other.1, &all[0]].map(|text| String::from_utf8_lossy(text).into_owned())))
}
