//! The axes of the chart: where a step and a loss lie.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::ticks::{linear_ticks, logarithmic_ticks, power, significant, step_ticks, whole};

/// The axis of the steps.
pub(super) struct StepAxis {
    first: u64,
    last: u64,
    ticks: Vec<u64>,
}

impl StepAxis {
    /// For steps from the first to the last of `range`, without ticks if there are none.
    pub(super) fn new(range: Option<(u64, u64)>) -> StepAxis {
        let Some((first, last)) = range else {
            return StepAxis { first: 0, last: 0, ticks: Vec::new() };
        };
        // A run that began near zero is shown from zero.
        let first = if first <= last / 10 { 0 } else { first };
        StepAxis { first, last, ticks: step_ticks(first, last) }
    }
}

impl Ranged for StepAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = u64;

    fn map(&self, step: &u64, limits: (i32, i32)) -> i32 {
        let part = step.saturating_sub(self.first) as f64 / (self.last - self.first) as f64;
        // A single step lies in the middle.
        between(limits, if self.first == self.last { 0.5 } else { part })
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<u64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<u64> {
        self.first..self.last
    }
}

impl ValueFormatter<u64> for StepAxis {
    fn format_ext(&self, step: &u64) -> String {
        whole(*step)
    }
}

/// The axis of the losses.
pub(super) struct LossAxis {
    /// Whether distances are those of the logarithms.
    pub(super) logarithmic: bool,
    /// The ends of the axis: losses, or their decimal logarithms.
    low: f64,
    high: f64,
    ticks: Vec<f64>,
    /// Significant digits that tell one tick from the next.
    digits: usize,
    /// Decimals of all ticks, where they are evenly spaced and none is in powers of ten.
    decimals: Option<usize>,
}

impl LossAxis {
    /// For losses between the two of `range`, without ticks if there are none.
    pub(super) fn new(range: Option<(f64, f64)>) -> LossAxis {
        let Some((low, high)) = range else {
            let (logarithmic, ticks) = (false, Vec::new());
            return LossAxis { logarithmic, low: 0.0, high: 1.0, ticks, digits: 1, decimals: None };
        };
        if low > 0.0 && high > 10.0 * low {
            let (low, high) = with_margin(low.log10(), high.log10());
            let ticks = logarithmic_ticks(low, high);
            return LossAxis { logarithmic: true, low, high, ticks, digits: 1, decimals: None };
        }
        LossAxis::linear((low, high))
    }

    /// For values between the two, however far they are apart.
    pub(super) fn linear((low, high): (f64, f64)) -> LossAxis {
        let (padded, high) = with_margin(low, high);
        // The margin must not suggest that a loss could be negative.
        let low = if low >= 0.0 { padded.max(0.0) } else { padded };
        let (ticks, digits) = linear_ticks(low, high);
        let decimals = decimals(&ticks, digits);
        LossAxis { logarithmic: false, low, high, ticks, digits, decimals }
    }
}

impl Ranged for LossAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, loss: &f64, limits: (i32, i32)) -> i32 {
        let coordinate = if self.logarithmic { loss.log10() } else { *loss };
        between(limits, (coordinate - self.low) / (self.high - self.low))
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        if self.logarithmic { power(self.low)..power(self.high) } else { self.low..self.high }
    }
}

impl ValueFormatter<f64> for LossAxis {
    fn format_ext(&self, loss: &f64) -> String {
        match self.decimals {
            Some(decimals) => format!("{loss:.decimals$}"),
            None => significant(*loss, self.digits),
        }
    }
}

/// The most decimals that a tick needs; none if one reads as a power of ten.
fn decimals(ticks: &[f64], digits: usize) -> Option<usize> {
    let needed = ticks.iter().map(|tick| {
        let label = significant(*tick, digits);
        (!label.contains('e')).then(|| label.split_once('.').map_or(0, |(_, decimals)| decimals.len()))
    });
    needed.collect::<Option<Vec<usize>>>()?.into_iter().max()
}

/// The pixel that lies at this part of the way between two.
fn between((from, to): (i32, i32), part: f64) -> i32 {
    from + (part * f64::from(to - from)).round() as i32
}

/// A little room on both sides, and a range where there was none.
fn with_margin(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    let margin = if high - low > 1e-6 * size {
        0.04 * (high - low)
    } else if size > 0.0 {
        0.1 * size
    } else {
        1.0
    };
    (low - margin, high + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<Value>(axis: &impl ValueFormatter<Value>, ticks: &[Value]) -> String {
        let labels: Vec<_> = ticks.iter().map(|tick| axis.format_ext(tick)).collect();
        labels.join(" ")
    }

    fn step_labels(first: u64, last: u64) -> String {
        let axis = StepAxis::new(Some((first, last)));
        labels(&axis, &axis.ticks)
    }

    fn loss_labels(low: f64, high: f64) -> String {
        let axis = LossAxis::new(Some((low, high)));
        labels(&axis, &axis.ticks)
    }

    #[test]
    fn steps_get_round_ticks() {
        assert_eq!(step_labels(1, 550), "0 100 200 300 400 500");
        assert_eq!(step_labels(1, 100_000), "0 20,000 40,000 60,000 80,000 100,000");
        assert_eq!(step_labels(9_000, 10_000), "9,000 9,200 9,400 9,600 9,800 10,000");
        assert_eq!(step_labels(3, 5), "3 4 5");
        assert_eq!(step_labels(1_000, 1_000), "1,000");
        assert_eq!(step_labels(u64::MAX, u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn losses_get_round_ticks() {
        assert_eq!(loss_labels(0.025, 1.1), "0.05 0.1 0.2 0.5 1");
        assert_eq!(loss_labels(1e-5, 1.0), "1e-5 0.0001 0.001 0.01 0.1 1");
        assert_eq!(loss_labels(0.02, 0.055), "0.02 0.03 0.04 0.05");
        assert_eq!(loss_labels(0.0, 1.0), "0.0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(loss_labels(-1.0, 1.0), "-1.0 -0.5 0.0 0.5 1.0");
        assert_eq!(loss_labels(0.95, 3.6), "1.0 1.5 2.0 2.5 3.0 3.5");
        assert_eq!(loss_labels(0.98, 1.25), "1.00 1.05 1.10 1.15 1.20 1.25");
        assert_eq!(loss_labels(95.0, 131.0), "100 110 120 130");
        assert_eq!(loss_labels(0.5001, 0.5003), "0.50010 0.50015 0.50020 0.50025 0.50030");
    }

    #[test]
    fn only_positive_losses_of_more_than_a_decade_are_logarithmic() {
        let logarithmic = |low, high| LossAxis::new(Some((low, high))).logarithmic;
        assert!(logarithmic(0.01, 0.101));
        assert!(!logarithmic(0.01, 0.1));
        assert!(!logarithmic(0.0, 1.0));
        assert!(!logarithmic(-1.0, 100.0));
    }

    #[test]
    fn values_lie_between_the_ends() {
        let steps = StepAxis::new(Some((1, 100)));
        assert_eq!([0, 25, 100].map(|step| steps.map(&step, (40, 240))), [40, 90, 240]);
        let losses = LossAxis { logarithmic: true, low: -2.0, high: 0.0, ticks: vec![], digits: 1, decimals: None };
        assert_eq!([0.01, 0.1, 1.0].map(|loss| losses.map(&loss, (400, 0))), [400, 200, 0]);
    }
}
