//! How long dispatches take: guessed at first, then measured, a submission at a time.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What one submission may take: systems that watch the GPU kill one that takes seconds.
pub const MOST: Duration = Duration::from_millis(250);
/// What it may take where others use the device, too: a picture of theirs.
pub const POLITE: Duration = Duration::from_millis(16);
/// The share of it that is filled: the next time may be twice as long as the last, where others compute as well.
pub(super) const FILLED: f32 = 0.5;

/// FLOPs that go with a byte that a dispatch binds, and how many of both a second a device does at the least.
const FLOPS_OF_A_BYTE: u64 = 10;
const LEAST_OF_A_CPU: f32 = 2e9;
const LEAST_OF_A_GPU: f32 = 2e10;

/// The seconds of one dispatch, as far as they are known.
pub(crate) struct Cost(AtomicU32);

impl Cost {
    /// What `flops` and `bytes` take on a slow device.
    pub fn guess(flops: u64, bytes: u64, on_cpu: bool) -> Cost {
        let rate = if on_cpu { LEAST_OF_A_CPU } else { LEAST_OF_A_GPU };
        Cost(AtomicU32::new(((flops + FLOPS_OF_A_BYTE * bytes + 1) as f32 / rate).to_bits()))
    }

    pub fn seconds(&self) -> f32 {
        f32::from_bits(self.0.load(Relaxed))
    }
}

/// Gives `costs`, of a submission that took `seconds`, these as their sum, each its share.
pub(super) fn learn<'a>(costs: impl Iterator<Item = &'a Cost> + Clone, seconds: f32) {
    let factor = seconds / costs.clone().map(Cost::seconds).sum::<f32>();
    costs.for_each(|cost| cost.0.store((cost.seconds() * factor).max(f32::MIN_POSITIVE).to_bits(), Relaxed));
}

/// Which runs of a plan are measured. Each of their submissions is waited for.
pub(crate) struct Runs {
    /// Whether it may take longer than a submission; guesses are of a slow device.
    are_long: bool,
    done: AtomicU64,
}

impl Runs {
    /// Of a plan of these costs, as they are guessed.
    pub fn of<'a>(costs: impl Iterator<Item = &'a Cost>) -> Runs {
        let seconds = costs.map(Cost::seconds).sum::<f32>();
        Runs { are_long: seconds > FILLED * MOST.as_secs_f32(), done: AtomicU64::new(0) }
    }

    /// Counts one. Of long ones the first ones are measured, of which the very first may compile, then one of very many: what else the
    /// device does changes.
    pub fn begin(&self) -> bool {
        let before = self.done.fetch_add(1, Relaxed);
        self.are_long && (before < 3 || before.is_multiple_of(256))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_sum_is_shared_as_it_was_guessed() {
        let costs = [Cost::guess(100, 0, true), Cost::guess(0, 30, true)];
        learn(costs.iter(), 8.0);
        let [one, other] = costs.each_ref().map(Cost::seconds);
        assert!((one + other - 8.0).abs() < 1e-5 && (other / one - 301.0 / 101.0).abs() < 1e-4, "{one} {other}");
    }

    #[test]
    fn the_first_runs_are_measured_and_few_of_the_others() {
        let measured = |flops| {
            let runs = Runs::of([Cost::guess(flops, 0, false)].iter());
            (0..600).filter(|_| runs.begin()).collect::<Vec<usize>>()
        };
        assert_eq!(measured(10_000_000_000), [0, 1, 2, 256, 512]);
        assert!(measured(1_000_000).is_empty(), "what can't be long is not waited for");
    }
}
