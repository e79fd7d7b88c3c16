//! Which values of an axis get a tick, and how a number reads.

use std::iter::successors;

/// Ticks that an axis of a chart has about.
const TICKS: f64 = 7.0;

/// Whole multiples of a round distance.
pub(super) fn step_ticks(first: u64, last: u64) -> Vec<u64> {
    let distance = (nice_distance((last - first) as f64) as u64).max(1);
    let start = first.div_ceil(distance).checked_mul(distance);
    let ticks = successors(start, |tick| tick.checked_add(distance));
    ticks.take_while(|&tick| tick <= last).collect()
}

/// Ticks, and the significant digits that tell them apart.
pub(super) fn linear_ticks(low: f64, high: f64) -> (Vec<f64>, usize) {
    let distance = nice_distance(high - low);
    let start = (low / distance).ceil();
    // Adding zero turns -0 into 0.
    let ticks = (0..=2 * TICKS as u32).map(|index| (start + f64::from(index)) * distance + 0.0);
    // From the first digit of the largest to that of the distance, a little more of which is no other power of ten.
    let digits = low.abs().max(high.abs()).log10().floor() - (1.000_001 * distance).log10().floor() + 1.0;
    (ticks.take_while(|&tick| tick <= high).collect(), digits.clamp(1.0, 17.0) as usize)
}

/// 1, 2 and 5 times the powers of ten between two logarithms; only the powers if there are many.
pub(super) fn logarithmic_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = high - low;
    let multiples: &[f64] = if decades <= 3.5 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (decades / TICKS).ceil().max(1.0) as usize;
    let exponents = (low.floor() as i32..=high.ceil() as i32).step_by(every);
    let ticks =
        exponents.flat_map(|exponent| multiples.iter().map(move |multiple| multiple * power(f64::from(exponent))));
    ticks.filter(|tick| (low..=high).contains(&tick.log10())).collect()
}

/// Ten to this power.
pub(super) fn power(exponent: f64) -> f64 {
    10f64.powf(exponent)
}

/// 1, 2 or 5 times a power of ten that divides the span into about [`TICKS`] parts, not more.
fn nice_distance(span: f64) -> f64 {
    let least = span / TICKS;
    let unit = power(least.log10().floor());
    let nice = [1.0, 2.0, 5.0].into_iter().find(|multiple| multiple * unit >= least);
    nice.unwrap_or(10.0) * unit
}

/// A number rounded to so many significant digits, in powers of ten if it is very large or small.
pub fn significant(value: f64, digits: usize) -> String {
    let rounded: f64 = format!("{value:.*e}", digits.saturating_sub(1)).parse().unwrap_or(value);
    if rounded == 0.0 || (1e-4..1e6).contains(&rounded.abs()) { rounded.to_string() } else { format!("{rounded:e}") }
}

/// A whole number with its digits in groups of three.
pub fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
