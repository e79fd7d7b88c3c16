//! What private training costs, against dp-accounting, against closed forms and quadrature of the hockey-stick divergence, and
//! against itself.

use std::f64::consts::{PI, SQRT_2};

use diffuse::privacy::audit::{Guesses, bounds, usual_numbers};
use diffuse::privacy::{PrivacyError, SampledGaussian, epsilon_of, noise_for, steps_for, truncation};

fn mechanism(sampling: f64, noise: f64, steps: u64) -> SampledGaussian {
    SampledGaussian { sampling, noise, steps }
}

#[track_caller]
fn pld(sampling: f64, noise: f64, steps: u64, delta: f64) -> f64 {
    mechanism(sampling, noise, steps).epsilon(delta).expect("numbers with sense").pld
}

#[track_caller]
fn assert_close(found: f64, right: f64, within: f64) {
    assert!((found - right).abs() <= within, "{found} instead of {right}");
}

/// Numbers that look random: Knuth's multiplier and increment for 64 bits.
struct Random(u64);

impl Random {
    /// Between both, evenly over logarithms.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = (self.0 >> 11) as f64 / (1_u64 << 53) as f64;
        low * (high / low).powf(share)
    }
}

/// The chance that a standard normal is above x.
fn above(x: f64) -> f64 {
    0.5 * libm::erfc(x / SQRT_2)
}

/// delta of one step at `epsilon`, the data set having the record or lacking it: both sides of the point where the loss is epsilon.
fn one_step(sampling: f64, noise: f64, epsilon: f64, has_record: bool) -> f64 {
    let ratio = if has_record { epsilon.exp() } else { (-epsilon).exp() };
    let inside = (ratio - (1.0 - sampling)) / sampling;
    let with = |tail: &dyn Fn(f64) -> f64| (1.0 - sampling) * tail(0.0) + sampling * tail(1.0);
    if inside <= 0.0 {
        return if has_record { -epsilon.exp_m1() } else { 0.0 };
    }
    let place = 0.5 + noise * noise * inside.ln();
    let right = |mean: f64| above((place - mean) / noise);
    let left = |mean: f64| above((mean - place) / noise);
    match has_record {
        true => with(&right) - epsilon.exp() * right(0.0),
        false => left(0.0) - epsilon.exp() * with(&left),
    }
}

/// log(P/Q) at y and the density of P there.
fn loss(sampling: f64, noise: f64, y: f64, has_record: bool) -> (f64, f64) {
    let bell = |mean: f64| (-0.5 * ((y - mean) / noise).powi(2)).exp() / ((2.0 * PI).sqrt() * noise);
    let ratio = (1.0 - sampling + sampling * ((y - 0.5) / (noise * noise)).exp()).ln();
    match has_record {
        true => (ratio, (1.0 - sampling) * bell(0.0) + sampling * bell(1.0)),
        false => (-ratio, bell(0.0)),
    }
}

/// delta of several steps, by the trapezoidal rule over all but the last.
fn few_steps(steps: &[(f64, f64)], epsilon: f64, has_record: bool) -> f64 {
    let (sampling, noise) = steps[0];
    if steps.len() == 1 {
        return one_step(sampling, noise, epsilon, has_record);
    }
    let (low, high, points) = (-9.0 * noise, 1.0 + 9.0 * noise, 600);
    let width = (high - low) / f64::from(points);
    let at = |y: f64| {
        let (loss, density) = loss(sampling, noise, y, has_record);
        density * few_steps(&steps[1..], epsilon - loss, has_record)
    };
    (0..=points).map(|point| at(low + width * f64::from(point))).sum::<f64>() * width
}

/// Holds an epsilon to a delta that is exact: never too small, and too large by `loose` of itself and what a hundredth of delta makes,
/// which is what rounding may add.
#[track_caller]
fn assert_bounds(epsilon: f64, delta: f64, loose: f64, truth: impl Fn(f64, bool) -> f64) {
    let worse = |epsilon: f64| truth(epsilon, true).max(truth(epsilon, false));
    assert!(worse(epsilon) <= delta * (1.0 + 1e-9), "at {epsilon} delta is {} instead of {delta}", worse(epsilon));
    let less = epsilon * (1.0 - loose);
    assert!(
        epsilon == 0.0 || worse(less) > 0.99 * delta,
        "already at {less} delta is {}, less than {delta}",
        worse(less)
    );
}

/// The figures that the literature's tools give: q, sigma, steps, delta, RDP (dp-accounting 0.6), PLD (its grid 2e-5).
#[test]
fn listed_runs_cost_what_other_tools_say() {
    for (sampling, noise, steps, delta, by_rdp, by_pld) in [
        (0.04, 1.5, 2250, 1e-5, 7.329_334_7, 6.768_780_7),
        (256.0 / 60_000.0, 1.1, 14_062, 1e-5, 2.596_555_87, 2.381_600_5),
        (0.01, 1.0, 1000, 1e-5, 2.101_366_53, 1.828_236_9),
        (4096.0 / 60_000.0, 2.0, 4394, 1e-5, 13.664_117_13, 12.714_744_3),
        (0.001, 0.8, 10_000, 1e-6, 1.703_625_29, 0.947_200_8),
    ] {
        let epsilon = mechanism(sampling, noise, steps).epsilon(delta).unwrap();
        assert_close(epsilon.rdp, by_rdp, 1e-7);
        assert_close(epsilon.pld, by_pld, 2e-5 * by_pld);
    }
    let noise = noise_for(10.0, 1e-5, 4096.0 / 60_000.0, 4394).unwrap();
    assert_eq!((noise.pld, noise.rdp), (2.381, 2.515));
}

/// tests/privacy/compare.py wrote them.
#[test]
fn random_runs_cost_what_dp_accounting_says() {
    for line in include_str!("privacy/dp_accounting.csv").lines().skip(1) {
        let fields: Vec<f64> = line.split(',').map(|field| field.parse().expect("a number")).collect();
        let [images, batch, noise, steps, delta, by_rdp, by_pld] = fields[..] else { panic!("{line}") };
        let epsilon = mechanism(batch / images, noise, steps as u64).epsilon(delta).unwrap();
        assert!((epsilon.rdp - by_rdp).abs() <= 1e-6 * by_rdp, "{line}: {}", epsilon.rdp);
        // Theirs has a coarser grid.
        let (above, below) = (3e-5 * by_pld, 1e-3 * by_pld);
        assert!(epsilon.pld <= by_pld + above && epsilon.pld >= by_pld - below, "{line}: {}", epsilon.pld);
        assert!(epsilon.pld <= epsilon.rdp, "{line}");
    }
}

#[test]
fn one_step_costs_its_hockey_stick_divergence() {
    let mut random = Random(1);
    for _ in 0..300 {
        let (sampling, noise) = (random.between(1e-6, 1.0), random.between(0.3, 100.0));
        let delta = sampling * random.between(1e-9, 0.3);
        let epsilon = pld(sampling, noise, 1, delta);
        assert_bounds(epsilon, delta, 1e-4, |epsilon, has| one_step(sampling, noise, epsilon, has));
    }
}

#[test]
fn few_steps_cost_their_hockey_stick_divergence() {
    let mut random = Random(2);
    for count in [2, 2, 2, 2, 2, 2, 2, 2, 3, 3] {
        let steps: Vec<_> = (0..count).map(|_| (random.between(1e-3, 1.0), random.between(0.5, 5.0))).collect();
        let delta = random.between(1e-7, 1e-3);
        let parts: Vec<_> = steps.iter().map(|(sampling, noise)| mechanism(*sampling, *noise, 1)).collect();
        let epsilon = epsilon_of(&parts, delta).unwrap().pld;
        assert_bounds(epsilon, delta, 1e-4, |epsilon, has| few_steps(&steps, epsilon, has));
    }
}

/// Without sampling all steps are one Gaussian mechanism: Balle & Wang 2018, "Improving the Gaussian Mechanism for Differential
/// Privacy", theorem 8.
#[test]
fn steps_of_all_records_are_one_gaussian() {
    let gaussian = |noise: f64, epsilon: f64| {
        let (half, shift) = (0.5 / noise, epsilon * noise);
        above(shift - half) - epsilon.exp() * above(shift + half)
    };
    for (noise, steps, delta) in [
        (1.0, 1, 1e-5),
        (0.3, 1, 1e-12),
        (0.03, 1, 1e-5),
        (100.0, 1000, 1e-5),
        (2.0, 100, 1e-6),
        (1000.0, 1_000_000, 1e-9),
        (5000.0, 100_000_000, 1e-5),
        (30.0, 700, 0.3),
        (5.0, 30, 1e-60),
        (5.0, 30, 1e-190),
    ] {
        let whole = noise / f64::sqrt(steps as f64);
        // From some 1e7 steps on the grid can't be as fine.
        let loose = if steps < 10_000_000 { 1e-4 } else { 1e-3 };
        assert_bounds(pld(1.0, noise, steps, delta), delta, loose, |epsilon, _| gaussian(whole, epsilon));
    }
}

#[test]
fn runs_in_parts_cost_what_they_cost_in_one() {
    let whole = mechanism(0.02, 1.2, 900).epsilon(1e-6).unwrap();
    let parts = [mechanism(0.02, 1.2, 500), mechanism(0.5, 3.0, 0), mechanism(0.02, 1.2, 400)];
    let of_parts = epsilon_of(&parts, 1e-6).unwrap();
    assert_close(of_parts.pld, whole.pld, 1e-9);
    assert_close(of_parts.rdp, whole.rdp, 1e-9);
    let more = epsilon_of(&[parts[0], mechanism(0.1, 4.0, 300), parts[2]], 1e-6).unwrap();
    assert!(more.pld > whole.pld && more.rdp > whole.rdp && more.pld < more.rdp);
    assert_eq!(epsilon_of(&[], 1e-6).unwrap().pld, 0.0);
}

#[test]
fn more_of_what_costs_costs_more() {
    let mut random = Random(3);
    for _ in 0..16 {
        let (sampling, noise) = (random.between(1e-4, 0.5), random.between(0.5, 10.0));
        let (steps, delta) = (random.between(1.0, 3e4) as u64, random.between(1e-9, 1e-4));
        let more = 1.0 + random.between(1e-3, 1.0);
        let base = mechanism(sampling, noise, steps);
        let cost = |mechanism: SampledGaussian, delta: f64| mechanism.epsilon(delta).unwrap();
        let least = cost(base, delta);
        let other = SampledGaussian { sampling: (sampling * more).min(1.0), ..base };
        let stronger = SampledGaussian { noise: noise / more, ..base };
        let longer = SampledGaussian { steps: (steps as f64 * more).ceil() as u64, ..base };
        for most in [cost(other, delta), cost(stronger, delta), cost(longer, delta), cost(base, delta / more)] {
            assert!(
                most.pld >= least.pld && most.rdp >= least.rdp,
                "{base:?} {delta} {more}: {least:?}, then {most:?}"
            );
        }
    }
}

#[test]
fn tiny_samples_over_many_steps_are_told_soon_and_tightly() {
    // Rényi's bound is a hundred times as large; dp-accounting's PLD says 0.0036836 and 2.0436e-5 on grids fine enough.
    let epsilon = mechanism(1e-6, 1.0, 1_000_000).epsilon(1e-6).unwrap();
    assert!(epsilon.pld < 0.0037 && epsilon.rdp > 0.3, "{epsilon:?}");
    assert_eq!(pld(1e-6, 1.0, 1, 1e-5), 0.0);
}

#[test]
fn the_noise_found_is_the_least_and_the_steps_found_are_the_most() {
    for (epsilon, delta, sampling, steps) in
        [(1.0, 1e-5, 0.01, 1000), (8.0, 1e-6, 0.3, 200), (0.1, 1e-9, 1e-4, 100_000)]
    {
        let noise = noise_for(epsilon, delta, sampling, steps).unwrap();
        let cost = |noise: f64| mechanism(sampling, noise, steps).epsilon(delta).unwrap();
        assert!(cost(noise.pld).pld <= epsilon && cost(noise.pld - 0.001).pld > epsilon, "{noise:?}");
        assert!(cost(noise.rdp).rdp <= epsilon && cost(noise.rdp - 0.001).rdp > epsilon, "{noise:?}");
        let steps = steps_for(epsilon, delta, sampling, noise.pld).unwrap();
        assert!(
            pld(sampling, noise.pld, steps, delta) <= epsilon && pld(sampling, noise.pld, steps + 1, delta) > epsilon
        );
    }
    assert_eq!(steps_for(0.001, 1e-5, 0.5, 1.0), Ok(0));
    // So little that nothing has to be hidden.
    assert_eq!(noise_for(1.0, 1e-5, 1e-9, 10).unwrap().pld, 0.01);
}

/// The tail's right values are scipy's: `binom.sf(places, images, sampling)`.
#[test]
fn truncation_adds_the_chance_of_too_many() {
    for (images, sampling, places, right) in [
        (20, 0.25, 9, 0.013_864_416_943_8),
        (60_000, 4096.0 / 60_000.0, 4500, 5.441242554368e-11),
        (1_000_000, 1e-3, 1200, 3.805747069449e-10),
        (100_000_000, 0.5, 50_040_000, 6.215889120226e-16),
    ] {
        let found = truncation::delta(images, sampling, places, 7, 1.5);
        let right = 7.0 * (1.0 + 1.5_f64.exp()) * right;
        assert!(found >= right * (1.0 - 1e-9) && found <= right * (1.0 + 1e-4), "{found:e} instead of {right:e}");
    }
    assert_eq!(truncation::delta(100, 0.5, 100, 1000, 3000.0), 0.0);
    assert_eq!(truncation::delta(100, 0.5, 40, 1, 1.0), 1.0);
    for (images, sampling, steps, epsilon) in [(60_000, 0.07, 4394, 10.0), (10, 0.9, 1, 0.0), (1000, 1.0, 5, 1.0)] {
        let places = truncation::places(images, sampling, steps, epsilon, 1e-8);
        assert!(truncation::delta(images, sampling, places, steps, epsilon) <= 1e-8);
        assert!(truncation::delta(images, sampling, places - 1, steps, epsilon) > 1e-8);
    }
}

#[test]
fn numbers_without_sense_are_refused() {
    let epsilon = |sampling, noise, steps, delta| mechanism(sampling, noise, steps).epsilon(delta).unwrap_err();
    for wrong in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(epsilon(wrong, 1.0, 1, 1e-5), PrivacyError::Sampling(_)), "{wrong}");
        assert!(matches!(epsilon(0.1, 1.0, 1, wrong), PrivacyError::Delta(_)), "{wrong}");
    }
    for wrong in [0.0, -1.0, 0.001, 1e7, f64::NAN] {
        assert!(matches!(epsilon(0.1, wrong, 1, 1e-5), PrivacyError::Noise(_)), "{wrong}");
        assert!(matches!(steps_for(1.0, 1e-5, 0.1, wrong).unwrap_err(), PrivacyError::Noise(_)), "{wrong}");
    }
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(matches!(noise_for(wrong, 1e-5, 0.1, 1).unwrap_err(), PrivacyError::Epsilon(_)), "{wrong}");
    }
    assert!(matches!(epsilon(0.1, 1.0, u64::MAX, 1e-5), PrivacyError::Steps(_)));
    assert_eq!(epsilon(0.1, 1.0, 1, 1e-250), PrivacyError::Precision(1e-250));
    assert_eq!(noise_for(1.0, 1e-5, 1.0, 1 << 53).unwrap_err(), PrivacyError::NoNoise(1.0));
}

/// tests/privacy/audit.py wrote them, by scipy.
#[test]
fn guesses_refute_the_epsilons_that_scipy_says() {
    let mut refuted = 0;
    for line in include_str!("privacy/audit.csv").lines().skip(1) {
        let fields: Vec<f64> = line.split(',').map(|field| field.parse().expect("a number")).collect();
        let [canaries, guessed, right, delta, confidence, expected] = fields[..] else { panic!("{line}") };
        let guesses = Guesses { canaries: canaries as u64, guessed: guessed as u64, right: right as u64 };
        assert_close(guesses.epsilon_at_least(delta, confidence).unwrap(), expected, 1e-8);
        refuted += usize::from(expected > 0.0);
    }
    assert!(refuted > 30, "{refuted}");
}

#[test]
fn guesses_that_are_all_right_have_a_closed_form_and_half_right_ones_refute_nothing() {
    for guessed in [1, 5, 30, 1000, 100_000] {
        for confidence in [0.5, 0.95, 0.999] {
            let all = Guesses { canaries: 2 * guessed, guessed, right: guessed };
            let share = (1.0_f64 - confidence).powf(1.0 / guessed as f64);
            let closed = (share / (1.0 - share)).ln().max(0.0);
            assert_close(all.epsilon_at_least(0.0, confidence).unwrap(), closed, 1e-8);
            let half = Guesses { right: guessed / 2, ..all };
            assert_eq!(half.epsilon_at_least(0.0, confidence).unwrap(), 0.0, "{half:?} at {confidence}");
        }
    }
}

#[test]
fn what_guesses_refute_grows_with_those_that_are_right_and_falls_with_delta_and_confidence() {
    let bound = |right, delta, confidence| {
        Guesses { canaries: 400, guessed: 100, right }.epsilon_at_least(delta, confidence).unwrap()
    };
    let increases = |bounds: &[f64]| bounds.is_sorted() && bounds[0] < bounds[bounds.len() - 1];
    assert!(increases(&(0..=100).map(|right| bound(right, 1e-4, 0.95)).collect::<Vec<_>>()));
    // The last ones are above what the theorem says: 2 m delta is above 1.
    let deltas = [1.0, 0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-9, 0.0];
    assert!(increases(&deltas[1..].iter().map(|delta| bound(95, *delta, 0.95)).collect::<Vec<_>>()));
    assert_eq!(bound(100, 0.5, 0.95), 0.0);
    assert!(increases(&[0.9999, 0.99, 0.95, 0.5].map(|confidence| bound(95, 1e-5, confidence))));
    for delta in deltas {
        for right in [0, 1, 50, 99, 100] {
            let guesses = Guesses { canaries: 400, guessed: 100, right };
            let chances: Vec<f64> = (0..200).map(|step| guesses.chance(0.1 * f64::from(step), delta)).collect();
            assert!(chances.is_sorted_by(|one, next| *next >= one * (1.0 - 1e-10)), "{guesses:?} at {delta}");
        }
    }
    let guesses = Guesses { canaries: 4, guessed: 4, right: 4 };
    assert_eq!(guesses.epsilon_at_least(1.5, 0.95), Err(PrivacyError::Delta(1.5)));
    assert_eq!(guesses.epsilon_at_least(0.0, 1.0), Err(PrivacyError::Confidence(1.0)));
}

#[test]
fn the_lowest_losses_are_taken_for_trained_on_and_each_number_of_guesses_costs_confidence() {
    let were_in = [true, true, false, true, false, true, false, false];
    let right = |guessed| Guesses::by_threshold(&were_in, guessed).right;
    assert_eq!([1, 2, 4, 5, 6, 8].map(right), [1, 2, 4, 4, 4, 6]);
    assert_eq!(usual_numbers(1000), [1000, 500, 250, 125]);
    assert_eq!((usual_numbers(1), usual_numbers(3)), (vec![1], vec![3, 1]));
    let were_in: Vec<bool> = (0..64).map(|place| place < 32).collect();
    let found = bounds(&were_in, &[64, 32], 0.0, 0.9).unwrap();
    for (guesses, epsilon) in found {
        assert_eq!(guesses.right, guesses.guessed);
        assert_close(epsilon, guesses.epsilon_at_least(0.0, 0.95).unwrap(), 1e-12);
    }
}
