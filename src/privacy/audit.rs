//! A lower bound on epsilon out of one run: who can tell which of its canaries were trained on learns more than an epsilon allows.

use super::error::PrivacyError;

/// Guesses, of some canaries, whether each was trained on. Each was by a fair coin of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// All of them, also those of which nothing was guessed: m.
    pub canaries: u64,
    /// r.
    pub guessed: u64,
    /// v.
    pub right: u64,
}

/// No epsilon is told apart from one that is larger still.
const MOST_EPSILON: f64 = 64.0;

impl Guesses {
    /// Of canaries in the order of their losses, each of which was trained on or wasn't: the half of `guessed` with the lowest losses is
    /// taken for trained on (one more if that is odd), the half with the highest for left out. Of those between nothing is said.
    pub fn by_threshold(were_in: &[bool], guessed: usize) -> Guesses {
        let guessed = guessed.min(were_in.len());
        let out = guessed / 2;
        let lowest = were_in[..guessed - out].iter().filter(|was_in| **was_in).count();
        let highest = were_in[were_in.len() - out..].iter().filter(|was_in| !**was_in).count();
        Guesses { canaries: were_in.len() as u64, guessed: guessed as u64, right: (lowest + highest) as u64 }
    }

    /// The chance of so many right guesses, or more, at the most, if training is (epsilon, delta)-private: Steinke, Nasr & Jagielski 2023,
    /// "Privacy Auditing with One (1) Training Run", theorem 5.2. With f(v) = P[W >= v], W ~ Binomial(r, e^epsilon / (1 + e^epsilon)), it is
    ///
    /// f(v) + c max_i (f(v - i) - f(v)) / i = max_i (1 - c/i) f(v) + c/i f(v - i), c = 2 m delta.
    ///
    /// The share of f(v) is taken to be 0 where it is below: that is no less, and grows with epsilon whatever c is.
    pub fn chance(&self, epsilon: f64, delta: f64) -> f64 {
        let Guesses { canaries, guessed, right } = *self;
        let all = guessed as f64;
        let log_right = -(-epsilon).exp().ln_1p();
        let log_wrong = log_right - epsilon;
        let factorial = |n: f64| libm::lgamma(n + 1.0);
        let mass = |count: u64| {
            let (hits, misses) = (count as f64, (guessed - count) as f64);
            let ways = factorial(all) - factorial(hits) - factorial(misses);
            (ways + hits * log_right + misses * log_wrong).exp()
        };
        let tail: f64 = (right..=guessed).map(mass).sum();
        let slope = 2.0 * canaries as f64 * delta;
        let (mut longer, mut largest) = (tail, tail);
        let terms = if slope > 0.0 { right } else { 0 };
        for more in 1..=terms {
            longer += mass(right - more);
            let share = slope / more as f64;
            largest = largest.max((1.0 - share).max(0.0) * tail + share * longer);
        }
        largest.min(1.0)
    }

    /// The largest epsilon that these guesses refute: with chance `confidence` at least, training with this delta is not private with any
    /// that is smaller. 0 if none is refuted.
    ///
    /// # Errors
    /// [`PrivacyError`] names a confidence or a delta that is no chance.
    pub fn epsilon_at_least(&self, delta: f64, confidence: f64) -> Result<f64, PrivacyError> {
        if !(confidence > 0.0 && confidence < 1.0) {
            return Err(PrivacyError::Confidence(confidence));
        }
        if !(0.0..1.0).contains(&delta) {
            return Err(PrivacyError::Delta(delta));
        }
        let is_refuted = |epsilon| self.chance(epsilon, delta) < 1.0 - confidence;
        if !is_refuted(0.0) {
            return Ok(0.0);
        }
        let (mut low, mut high) = (0.0, MOST_EPSILON);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if is_refuted(middle) { low = middle } else { high = middle }
        }
        Ok(low)
    }
}

/// The numbers of guesses that are tried where none was fixed beforehand: about all canaries, a half, a quarter and an eighth of them.
pub fn usual_numbers(canaries: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = [1, 2, 4, 8].iter().map(|part| (canaries / part).max(1)).collect();
    numbers.dedup();
    numbers
}

/// What each of `numbers` of guesses comes to, as [`Guesses::by_threshold`] and [`Guesses::epsilon_at_least`] have it. All bounds
/// hold together with chance `confidence` (Bonferroni), so that the largest may be taken.
///
/// # Errors
/// As [`Guesses::epsilon_at_least`].
pub fn bounds(
    were_in: &[bool],
    numbers: &[usize],
    delta: f64,
    confidence: f64,
) -> Result<Vec<(Guesses, f64)>, PrivacyError> {
    let each = 1.0 - (1.0 - confidence) / numbers.len() as f64;
    let bound = |number: &usize| {
        let guesses = Guesses::by_threshold(were_in, *number);
        Ok((guesses, guesses.epsilon_at_least(delta, each)?))
    };
    numbers.iter().map(bound).collect()
}
