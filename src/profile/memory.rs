//! Whose memory it is: the temporaries of a step by layer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::trace::layer_of;
use crate::gpu::Recordings;

/// A layer's temporaries.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct LayerMemory {
    pub name: String,
    /// Of all temporaries that its dispatches are the first to write.
    pub born_bytes: u64,
    /// Of those among them that are alive at the dispatch where most bytes are: what to recompute or to store smaller.
    pub live_at_peak_bytes: u64,
}

/// The bytes that are alive at once, summed over the recordings, which keep their slots side by side; and each layer's
/// part of them, the largest first.
pub fn layers(recordings: &Recordings) -> (u64, Vec<LayerMemory>) {
    let (mut total, mut layers) = (0, BTreeMap::<&str, LayerMemory>::new());
    for (_, recording) in recordings.iter() {
        let lives = recording.lives();
        let living = |at: usize| {
            let alive =
                lives.iter().enumerate().filter(move |(_, life)| life.is_some_and(|l| l.first <= at && at <= l.last));
            alive.map(|(id, _)| recording.tensor_bytes(id as u32)).sum::<u64>()
        };
        let peak = (0..recording.dispatches.len()).max_by_key(|at| living(*at)).unwrap_or(0);
        total += living(peak);
        for (id, life) in lives.iter().enumerate().filter_map(|(id, life)| Some((id, (*life)?))) {
            let name = layer_of(&recording.scopes[recording.dispatches[life.first].scope]);
            let layer = layers.entry(name).or_insert_with(|| LayerMemory { name: name.into(), ..Default::default() });
            let bytes = recording.tensor_bytes(id as u32);
            layer.born_bytes += bytes;
            layer.live_at_peak_bytes += if life.first <= peak && peak <= life.last { bytes } else { 0 };
        }
    }
    let mut layers: Vec<LayerMemory> = layers.into_values().collect();
    layers.sort_by_key(|layer| std::cmp::Reverse((layer.live_at_peak_bytes, layer.born_bytes)));
    (total, layers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Recorder;
    use crate::ops::add;

    #[test]
    fn the_peak_is_where_most_lives() {
        let mut r = Recorder::new();
        let x = r.persistent("x", [1, 1, 1, 64]);
        let a = r.scope("a", |r| add::scale(r, x, 2.0));
        let b = r.scope("b/deep/er", |r| add::scale(r, a, 2.0));
        let c = r.scope("b/deep", |r| add::add(r, a, b));
        r.scope("c", |r| add::scale(r, c, 2.0));
        let (total, layers) = layers(&Recordings::from_iter([("step", r.finish())]));
        assert_eq!(total, 3 * 256);
        let expected = [("b/deep", 512, 512), ("a", 256, 256), ("c", 256, 0)];
        let expected = expected.map(|(name, born_bytes, live_at_peak_bytes)| LayerMemory {
            name: name.into(),
            born_bytes,
            live_at_peak_bytes,
        });
        assert_eq!(layers, expected);
    }
}
