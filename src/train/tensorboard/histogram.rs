//! Histograms as TensorBoard has them.

use super::messages::Histogram;

/// Buckets of equal width between the extremes; of a step all parameters have one of weights and one of gradients.
const BUCKETS: usize = 40;

/// Of the numbers that are finite; none if there is none.
pub(super) fn histogram(values: impl Iterator<Item = f64> + Clone) -> Option<Histogram> {
    let values = values.filter(|value| value.is_finite());
    let min = values.clone().min_by(f64::total_cmp)?;
    let max = values.clone().max_by(f64::total_cmp)?;
    let (mut num, mut sum, mut sum_squares) = (0.0, 0.0, 0.0);
    let buckets = if min < max { BUCKETS } else { 1 };
    let mut bucket = vec![0.0; buckets];
    let width = (max - min) / buckets as f64;
    for value in values {
        num += 1.0;
        sum += value;
        sum_squares += value * value;
        // Where all are equal the width is 0: what is no number is 0 as an index.
        bucket[(((value - min) / width) as usize).min(buckets - 1)] += 1.0;
    }
    let limit = |index: usize| if index == buckets { max } else { min + width * index as f64 };
    let bucket_limit = (1..=buckets).map(limit).collect();
    Some(Histogram { min, max, num, sum, sum_squares, bucket_limit, bucket })
}
