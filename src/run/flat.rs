//! The flat buffers of a training step, in ranges that can be bound, and the norm over one of them.

use crate::gpu::{Recorder, Tensor};
use crate::ops::diffusion::LEVELS;
use crate::ops::{adamw, reduce};

/// Loss at element 0, squared norm of the gradient at element 64, losses by noise level at element 128.
pub const METRICS: &str = "metrics";
pub(super) const SQUARE_SUM: u64 = 64;
pub(super) const BY_LEVEL: u64 = 128;
/// Numbers of these: see [`Loss::levels`].
pub(super) const LEVEL_NUMBERS: u64 = 2 * LEVELS as u64;
const METRICS_ELEMENTS: u64 = 192;
/// Partial sums of the squared norm.
pub(super) const SQUARES: &str = "squares";

/// Elements of a flat buffer that one dispatch of the optimizer takes: a binding of 64 MiB.
const RANGE: u64 = 1 << 24;

/// The ranges of a flat buffer of `elements`: offset and count.
pub(super) fn ranges(elements: u64) -> impl Iterator<Item = (u64, u32)> {
    (0..elements.div_ceil(RANGE)).map(move |i| (i * RANGE, RANGE.min(elements - i * RANGE) as u32))
}

/// A range of the flat buffer `name`.
pub(super) fn range(r: &mut Recorder, name: &str, elements: u64, (offset, count): (u64, u32)) -> Tensor {
    r.range(name, elements, offset, [1, 1, 1, count])
}

/// Where the loss of a batch goes.
pub(super) fn loss_of_batch(r: &mut Recorder) -> Tensor {
    r.range(METRICS, METRICS_ELEMENTS, 0, [1, 1, 1, 1])
}

/// Where the losses of a batch go, by noise level.
pub(super) fn losses_by_level(r: &mut Recorder) -> Tensor {
    r.range(METRICS, METRICS_ELEMENTS, BY_LEVEL, [1, 1, 1, LEVEL_NUMBERS as u32])
}

/// Partial sums of the squares of `elements`.
pub(super) fn partial_sums(elements: u64) -> u64 {
    ranges(elements).map(|(_, count)| u64::from(adamw::partial_count(count.into()))).sum()
}

/// Records the squared norm of the flat buffer `name`, the loss's scale taken out, into its place in the metrics.
pub(super) fn square_sum(r: &mut Recorder, name: &str, elements: u64, loss_scale: Tensor) -> Tensor {
    let partials = partial_sums(elements);
    let total = r.range(METRICS, METRICS_ELEMENTS, SQUARE_SUM, [1, 1, 1, 1]);
    let mut offset = 0;
    for own in ranges(elements) {
        let count = adamw::partial_count(own.1.into());
        let part = r.range(SQUARES, partials, offset, [1, 1, 1, count]);
        let gradient = range(r, name, elements, own);
        adamw::square_sum(r, gradient, part, loss_scale);
        offset += u64::from(count);
    }
    let all = r.range(SQUARES, partials, 0, [1, 1, 1, partials as u32]);
    reduce::total(r, all, total);
    total
}
