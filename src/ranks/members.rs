//! The ranks that still take part: all of them, or those without whom a run goes on.
//!
//! Rank 0's orders reach all ranks always. What the others say to each other goes from rank to rank once one is left out.

use std::time::Duration;

use super::Ranks;

/// Those of all ranks that take part, numbered anew.
#[derive(Clone)]
pub struct Members<'a> {
    all: &'a dyn Ranks,
    /// Ascending.
    members: Vec<u32>,
    /// How much longer numbers take to cross: a slower network, to see what hides it.
    delay: Duration,
}

impl<'a> Members<'a> {
    /// Everyone.
    pub fn all(ranks: &'a dyn Ranks, delay: Duration) -> Members<'a> {
        Members { all: ranks, members: (0..ranks.count()).collect(), delay }
    }

    /// The others, once the members of these numbers are left out.
    pub fn without(&self, left: &[u32]) -> Members<'a> {
        let stay = (0..).zip(&self.members).filter(|(number, _)| !left.contains(number));
        Members { members: stay.map(|(_, rank)| *rank).collect(), ..self.clone() }
    }

    /// Whether this process is one.
    pub fn is_one(&self) -> bool {
        self.members.contains(&self.all.rank())
    }

    fn is_everyone(&self) -> bool {
        self.members.len() == self.all.count() as usize
    }

    fn send<'n>(&self, sent: &[(u32, &'n [f32])], received: Vec<(u32, &'n mut [f32])>) {
        let sent: Vec<(u32, &[f32])> =
            sent.iter().map(|(to, numbers)| (self.members[*to as usize], *numbers)).collect();
        let received = received.into_iter().map(|(from, numbers)| (self.members[from as usize], numbers)).collect();
        self.all.exchange(&sent, received);
    }

    /// As [`Ranks::gather_numbers`], from each member to each other.
    fn send_to_all(&self, own: &[f32], counts: &[usize], all: &mut [f32]) {
        let rank = self.rank();
        let others = (0..self.count()).filter(|other| *other != rank);
        let sent: Vec<(u32, &[f32])> = others.map(|other| (other, own)).collect();
        let (mut rest, mut received) = (all, Vec::new());
        for (from, count) in (0..).zip(counts) {
            let place = rest.split_off_mut(..*count).expect("room for all");
            match from == rank {
                true => place.copy_from_slice(own),
                false => received.push((from, place)),
            }
        }
        self.send(&sent, received);
    }
}

/// Bytes as numbers that carry them, four each.
fn carried(bytes: &[u8]) -> Vec<f32> {
    let word = |part: &[u8]| {
        let mut word = [0; 4];
        word[..part.len()].copy_from_slice(part);
        f32::from_ne_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

impl Ranks for Members<'_> {
    fn rank(&self) -> u32 {
        let own = self.members.iter().position(|rank| *rank == self.all.rank());
        own.expect("only members ask") as u32
    }

    fn count(&self) -> u32 {
        self.members.len() as u32
    }

    fn local(&self) -> u32 {
        self.all.local()
    }

    fn name(&self, rank: u32) -> String {
        self.all.name(self.members[rank as usize])
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        self.all.broadcast(bytes);
    }

    fn broadcast_on_machine(&self, bytes: &mut [u8]) {
        self.all.broadcast_on_machine(bytes);
    }

    fn gather(&self, own: &[u8]) -> Vec<Vec<u8>> {
        if self.is_everyone() {
            return self.all.gather(own);
        }
        let count = self.members.len();
        let mut lengths = vec![0.0; count];
        self.send_to_all(&[f32::from_bits(own.len() as u32)], &vec![1; count], &mut lengths);
        let lengths: Vec<usize> = lengths.iter().map(|length| length.to_bits() as usize).collect();
        let counts: Vec<usize> = lengths.iter().map(|length| length.div_ceil(4)).collect();
        let mut all = vec![0.0; counts.iter().sum()];
        self.send_to_all(&carried(own), &counts, &mut all);
        let mut rest: &[f32] = &all;
        let part = |(length, count): (&usize, &usize)| {
            let numbers = rest.split_off(..*count).expect("so many came");
            bytemuck::cast_slice::<f32, u8>(numbers)[..*length].to_vec()
        };
        lengths.iter().zip(&counts).map(part).collect()
    }

    fn gather_numbers(&self, own: &[f32], counts: &[usize], all: &mut [f32]) {
        std::thread::sleep(self.delay);
        match self.is_everyone() {
            true => self.all.gather_numbers(own, counts, all),
            false => self.send_to_all(own, counts, all),
        }
    }

    fn exchange<'n>(&self, sent: &[(u32, &'n [f32])], received: Vec<(u32, &'n mut [f32])>) {
        std::thread::sleep(self.delay);
        self.send(sent, received);
    }

    fn on_this_machine(&self) -> u32 {
        self.all.on_this_machine()
    }

    fn set_between_orders(&self, are_between: bool) {
        self.all.set_between_orders(are_between);
    }

    fn are_between_orders(&self) -> bool {
        self.all.are_between_orders()
    }

    fn abort(&self) -> ! {
        self.all.abort()
    }
}
