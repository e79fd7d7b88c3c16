//! Takes out of a recording what nobody asks for.

use std::collections::BTreeSet;

use super::recorder::{Place, Recording, Tensor};

/// Where a tensor's values are: in itself, or in a named buffer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Store {
    Temporary(u32),
    Buffer(usize),
}

impl Recording {
    /// Leaves the dispatches that one of `wanted` depends on and the named buffers that these bind: of a backward pass
    /// to the input, no gradient of a parameter, and of the choices those of kept entry points. A named
    /// buffer counts as one thing. Tensors keep their handles.
    pub fn only(mut self, wanted: &[Tensor]) -> Recording {
        let mut needed: BTreeSet<Store> = wanted.iter().map(|tensor| self.store(tensor.id)).collect();
        let mut kept = Vec::new();
        for dispatch in std::mem::take(&mut self.dispatches).into_iter().rev() {
            let bound = || dispatch.bindings().map(|(id, binding)| (self.store(id), binding));
            if bound().any(|(store, binding)| binding.access.writes() && needed.contains(&store)) {
                let read = bound().filter(|(_, binding)| binding.access.reads());
                needed.extend(read.map(|(store, _)| store));
                // What it writes beside must have a place, too.
                needed.extend(bound().map(|(store, _)| store).filter(|store| matches!(store, Store::Buffer(_))));
                kept.push(dispatch);
            }
        }
        kept.reverse();
        self.dispatches = kept;
        let (dispatches, asked) = (&self.dispatches, &mut self.asked);
        asked.retain(|(key, _)| dispatches.iter().any(|d| d.kernel.name == key.kernel && d.entry == key.entry));
        self.drop_buffers(&needed);
        self
    }

    fn store(&self, id: u32) -> Store {
        match self.tensors[id as usize].place {
            Place::Temporary => Store::Temporary(id),
            Place::Part { whole, .. } => Store::Temporary(whole),
            Place::Buffer { buffer, .. } => Store::Buffer(buffer),
        }
    }

    /// Drops the named buffers that are not `needed`. Their tensors, which nothing binds, become temporaries: those take
    /// no memory then.
    fn drop_buffers(&mut self, needed: &BTreeSet<Store>) {
        let old = std::mem::take(&mut self.buffers);
        let mut new_index = vec![None; old.len()];
        for (index, buffer) in old.into_iter().enumerate().filter(|(index, _)| needed.contains(&Store::Buffer(*index)))
        {
            new_index[index] = Some(self.buffers.len());
            self.buffers.push(buffer);
        }
        for tensor in &mut self.tensors {
            if let Place::Buffer { buffer, offset } = tensor.place {
                tensor.place = match new_index[buffer] {
                    Some(buffer) => Place::Buffer { buffer, offset },
                    None => Place::Temporary,
                };
            }
        }
    }
}
