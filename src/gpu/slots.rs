//! Packs temporaries into reused buffers by their lifetimes.

use super::recorder::Recording;

/// Which slot each temporary takes, and how large the slots are.
pub struct Slots {
    /// By tensor id; `None` for tensors of named buffers, parts, and temporaries that no dispatch uses.
    pub slot_of: Vec<Option<usize>>,
    /// Bytes of each slot.
    pub bytes: Vec<u64>,
}

/// First and last dispatch that touch a temporary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub first: usize,
    pub last: usize,
}

impl Life {
    /// A tensor that dies in a dispatch can't give its buffer to one born there: both are bound.
    pub fn overlaps(self, other: Life) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl Recording {
    /// The life of each temporary, by tensor id; that of a part is its whole's.
    pub fn lives(&self) -> Vec<Option<Life>> {
        let mut lives: Vec<Option<Life>> = vec![None; self.tensors.len()];
        for (index, dispatch) in self.dispatches.iter().enumerate() {
            for id in &dispatch.io {
                if let Some(id) = self.temporary(*id) {
                    lives[id as usize].get_or_insert(Life { first: index, last: index }).last = index;
                }
            }
        }
        lives
    }

    /// Temporaries by size, largest first, each into the first slot where no tensor lives at the same time: whole
    /// buffers, because one buffer can't be bound for reading and for writing in one dispatch, even at disjoint ranges.
    pub fn slots(&self, reuse: bool) -> Slots {
        let lives = self.lives();
        let mut order: Vec<usize> = (0..lives.len()).filter(|id| lives[*id].is_some()).collect();
        order.sort_by_key(|id| std::cmp::Reverse(self.tensor_bytes(*id as u32)));
        let mut slots = Slots { slot_of: vec![None; lives.len()], bytes: Vec::new() };
        let mut tenants: Vec<Vec<Life>> = Vec::new();
        for id in order {
            let life = lives[id].expect("filtered above");
            let free = tenants.iter().position(|lives| reuse && lives.iter().all(|other| !other.overlaps(life)));
            let slot = free.unwrap_or_else(|| {
                tenants.push(Vec::new());
                slots.bytes.push(self.tensor_bytes(id as u32));
                tenants.len() - 1
            });
            tenants[slot].push(life);
            slots.slot_of[id] = Some(slot);
        }
        slots
    }

    /// Bytes of the parameters of all dispatches, one 256-byte line each.
    pub fn params_bytes(&self) -> u64 {
        (self.dispatches.len().max(1) as u64) * 256
    }

    /// Bytes that running this allocates: named buffers, slots, parameters and the step's uniform.
    pub fn peak_bytes(&self) -> u64 {
        let named: u64 = self.buffers.iter().map(|buffer| buffer.bytes).sum();
        let slots: u64 = self.slots(true).bytes.iter().sum();
        named + slots + self.params_bytes() + super::step::layout().bytes as u64
    }

    /// Bytes of all temporaries if none shared a buffer.
    pub fn sum_bytes(&self) -> u64 {
        let lives = self.lives();
        (0..self.tensors.len()).filter(|id| lives[*id].is_some()).map(|id| self.tensor_bytes(id as u32)).sum()
    }
}
