//! Fills images on all processors.

use std::sync::Mutex;

/// Runs `fill(index, slot)` for every image of `bytes` bytes in `images`, over all processors.
///
/// Returns the failures in the order of the images, whatever thread met them.
pub(super) fn fill_images<E: Send>(
    images: &mut [u8],
    bytes: usize,
    fill: impl Fn(usize, &mut [u8]) -> std::result::Result<(), E> + Sync,
) -> Vec<(usize, E)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    fill_on(threads, images, bytes, fill)
}

/// `fill_images` on so many threads.
fn fill_on<E: Send>(
    threads: usize,
    images: &mut [u8],
    bytes: usize,
    fill: impl Fn(usize, &mut [u8]) -> std::result::Result<(), E> + Sync,
) -> Vec<(usize, E)> {
    // Images differ in cost, so each thread takes the next one instead of a fixed share.
    let queue = Mutex::new(images.chunks_exact_mut(bytes).enumerate());
    let next = || queue.lock().ok()?.next();
    let work = || {
        let mut failures = Vec::new();
        while let Some((index, slot)) = next() {
            if let Err(error) = fill(index, slot) {
                failures.push((index, error));
            }
        }
        failures
    };
    let mut failures: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.flat_map(|list| list.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    failures.sort_by_key(|(index, _)| *index);
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_in_order_whatever_thread_met_them() {
        // Neither thread goes on before the other has an image too, so both meet failures all along.
        let both = std::sync::Barrier::new(2);
        let mut images = [0; 16];
        let failures = fill_on(2, &mut images, 2, |index, slot| {
            both.wait();
            slot.fill(index as u8);
            Err(index)
        });
        assert_eq!(failures, (0..8).map(|index| (index, index)).collect::<Vec<_>>());
        assert_eq!(images, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
    }
}
