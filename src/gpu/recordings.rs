//! What one step runs, part by part: first its recordings, then the plans that they become.

use std::collections::BTreeMap;

use super::plan::Plan;
use super::recorder::{Dispatch, Recording};

/// The parts of a step by their names, in the order in which they run.
#[derive(Clone, Debug)]
pub struct Parts<T>(Vec<(String, T)>);

/// Needs no device.
pub type Recordings = Parts<Recording>;
/// Ready to be replayed.
pub type Plans = Parts<Plan>;

impl<T> Default for Parts<T> {
    fn default() -> Parts<T> {
        Parts(Vec::new())
    }
}

impl<S: Into<String>, T> FromIterator<(S, T)> for Parts<T> {
    fn from_iter<I: IntoIterator<Item = (S, T)>>(parts: I) -> Parts<T> {
        Parts(parts.into_iter().map(|(name, part)| (name.into(), part)).collect())
    }
}

impl<T> IntoIterator for Parts<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T> Parts<T> {
    /// Adds a part behind the others.
    pub fn push(&mut self, name: impl Into<String>, part: T) {
        self.0.push((name.into(), part));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, part)| (name.as_str(), part))
    }

    /// The part of this name, if the step has it.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.iter().find(|(own, _)| *own == name).map(|(_, part)| part)
    }

    /// Takes the part of this name out, if the step has it.
    pub fn take(&mut self, name: &str) -> Option<T> {
        let index = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.remove(index).1)
    }
}

impl Recordings {
    /// All dispatches with their recordings, in the order in which they run.
    pub fn dispatches(&self) -> impl Iterator<Item = (&Recording, &Dispatch)> {
        self.iter().flat_map(|(_, recording)| recording.dispatches.iter().map(move |dispatch| (recording, dispatch)))
    }

    /// Bytes that planning all of it allocates: each plan's own buffers, shared ones once.
    pub fn peak_bytes(&self) -> u64 {
        let mut named = BTreeMap::new();
        let mut own = 0;
        for (_, recording) in self.iter() {
            own += recording.peak_bytes() - recording.buffers.iter().map(|buffer| buffer.bytes).sum::<u64>();
            named.extend(recording.buffers.iter().map(|buffer| (&buffer.name, buffer.bytes)));
        }
        own + named.values().sum::<u64>()
    }
}
