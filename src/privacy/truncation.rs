//! What it costs that a batch has only so many places.

/// The share of delta that a padding may add unless somebody says how large it is.
pub const SHARE: f64 = 0.01;

/// What a padding of `places` adds to delta over `steps` steps at `epsilon`, images joining with chance `sampling`: an upper bound.
///
/// Chua et al. 2024, "Scalable DP-SGD: Shuffling vs. Poisson Subsampling", have `delta + steps (1 + e^epsilon) tail`, where tail is the
/// chance that more than `places` of `images` join. Derivation: let M be the mechanism without padding and M' the same that drops what
/// is beyond it. Run with the same coins and noise they agree unless some batch overflows, so that for every event E
/// `|P[M(D) in E] - P[M'(D) in E]| <= steps tail(D)`. Hence, M being (epsilon, delta)-private,
/// `P[M'(D) in E] <= P[M(D) in E] + steps tail(D) <= e^epsilon P[M(D') in E] + delta + steps tail(D)
/// <= e^epsilon P[M'(D') in E] + delta + steps (tail(D) + e^epsilon tail(D'))`. The tail grows with the data set: with `images` of
/// the larger neighbour it bounds both.
pub fn delta(images: u64, sampling: f64, places: u64, steps: u64, epsilon: f64) -> f64 {
    let tail = tail(images, sampling, places);
    if tail == 0.0 { 0.0 } else { (steps as f64 * (1.0 + epsilon.exp()) * tail).min(1.0) }
}

/// The smallest padding that adds at most `delta_share` to delta.
pub fn places(images: u64, sampling: f64, steps: u64, epsilon: f64, delta_share: f64) -> u64 {
    let (mut low, mut high) = (0, images);
    while low < high {
        let middle = low + (high - low) / 2;
        if delta(images, sampling, middle, steps, epsilon) <= delta_share { high = middle } else { low = middle + 1 }
    }
    high
}

/// The chance that more than `places` of `images` join, bounded from above: 1 where as many are expected.
fn tail(images: u64, sampling: f64, places: u64) -> f64 {
    if places >= images {
        return 0.0;
    }
    let (all, first) = (images as f64, places as f64 + 1.0);
    if sampling >= 1.0 || first <= all * sampling {
        return 1.0;
    }
    let factorial = |n: f64| libm::lgamma(n + 1.0);
    let log = factorial(all) - factorial(first) - factorial(all - first)
        + first * sampling.ln()
        + (all - first) * (-sampling).ln_1p();
    // The rounding of these logarithms, which are as large as that of all!.
    let slack = 16.0 * f64::EPSILON * (factorial(all) + 1.0);
    let odds = sampling / (1.0 - sampling);
    let (mut sum, mut term, mut count) = (1.0, 1.0, first);
    loop {
        let ratio = (all - count) / (count + 1.0) * odds;
        // Ratios fall from term to term: a geometric series bounds the rest.
        let rest = term * ratio / (1.0 - ratio);
        if rest < 1e-12 * sum || count >= all {
            return ((sum + rest.max(0.0)) * (log + slack).exp()).min(1.0);
        }
        term *= ratio;
        sum += term;
        count += 1.0;
    }
}
