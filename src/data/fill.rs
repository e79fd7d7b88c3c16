//! Fills images on all processors.

use std::sync::Mutex;

use super::account::Changes;
use super::dataset::Shape;
use super::decode::Decoded;
use super::place::Parsed;
use super::resize;
use super::room::Room;
use super::watch::Watched;
use crate::error::Result;

/// What became of images that were to be decoded and fitted.
pub(super) struct Fitted {
    pub changes: Changes,
    /// Numbers of those that could not be decoded, ascending, and why.
    pub failures: Vec<(usize, String)>,
}

/// Whether image `index` is among the `failures`.
pub(super) fn has_failed(failures: &[(usize, String)], index: usize) -> bool {
    failures.binary_search_by_key(&index, |(failed, _)| *failed).is_ok()
}

/// Decodes `count` images and fits them into `images` behind the first `before` of them, in their order; those that can't be decoded
/// leave no gap. `watched` expects as many.
///
/// # Errors
/// The images are too large to hold.
pub(super) fn fit_images(
    images: &mut Room,
    before: usize,
    count: usize,
    shape: Shape,
    watched: &Watched,
    decoded: impl Fn(usize) -> Parsed<Decoded> + Sync,
) -> Result<Fitted> {
    let bytes = shape.bytes(1)?;
    shape.grow(images, before + count)?;
    let changes = Mutex::new(Changes::default());
    let failures = fill_images(&mut images[before * bytes..], bytes, |index, slot| {
        let fitted = decoded(index).map(|decoded| resize::fit_counted(decoded, shape, slot, &changes));
        watched.count();
        fitted
    });
    close_gaps(images, bytes, before, &failures);
    Ok(Fitted { changes: changes.into_inner().unwrap_or_default(), failures })
}

/// Closes the gaps that `failures` left among the images behind the first `before`.
fn close_gaps(images: &mut Room, bytes: usize, before: usize, failures: &[(usize, String)]) {
    let Some((first, _)) = failures.first() else { return };
    let mut end = before + first;
    for index in (before + first..images.len() / bytes).filter(|index| !has_failed(failures, index - before)) {
        images.copy_within(index * bytes..(index + 1) * bytes, end * bytes);
        end += 1;
    }
    images.truncate(end * bytes);
}

/// Runs `fill(index, slot)` for every image of `bytes` bytes in `images`, over all processors.
///
/// Returns the failures in the order of the images, whatever thread met them.
fn fill_images<E: Send>(
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
