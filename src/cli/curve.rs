//! Numbers over steps, as few as a terminal shows.

use diffuse::train::Row;

/// (step, value).
pub type Point = (f64, f64);

/// Of every step the value that `of` takes, where it is there and finite.
pub fn points(rows: &[Row], of: impl Fn(&Row) -> Option<f64>) -> Vec<Point> {
    let point = |row: &Row| Some((row.metrics.step as f64, of(row).filter(|value| value.is_finite())?));
    rows.iter().filter_map(point).collect()
}

/// A mean that forgets by a `memory` (0 to 1) a step; it is that of what there was, not drawn to 0 by a beginning.
#[derive(Default)]
pub struct RunningMean {
    sum: f64,
    weight: f64,
}

impl RunningMean {
    /// The mean with one value more.
    pub fn add(&mut self, value: f64, memory: f64) -> f64 {
        (self.sum, self.weight) = (self.sum * memory + value, self.weight * memory + 1.0);
        self.sum / self.weight
    }

    /// The mean of what came, if anything did.
    pub fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// The running mean, step by step.
pub fn smoothed(points: &[Point], memory: f64) -> Vec<Point> {
    let mut mean = RunningMean::default();
    points.iter().map(|(step, value)| (*step, mean.add(*value, memory))).collect()
}

/// The points in so many runs of equal length; fewer where there are fewer points.
fn runs(points: &[Point], columns: usize) -> impl Iterator<Item = &[Point]> {
    let count = columns.clamp(1, points.len().max(1));
    let end = move |column: usize| column * points.len() / count;
    (0..count).map(move |column| &points[end(column)..end(column + 1)]).filter(|run| !run.is_empty())
}

/// Their means in so many columns.
pub fn means(points: &[Point], columns: usize) -> Vec<Point> {
    let mean = |run: &[Point], of: fn(&Point) -> f64| run.iter().map(of).sum::<f64>() / run.len() as f64;
    runs(points, columns).map(|run| (mean(run, |point| point.0), mean(run, |point| point.1))).collect()
}

/// The least and the largest of each column: what is left of a cloud of points that a terminal can't tell from all of it.
pub fn extremes(points: &[Point], columns: usize) -> Vec<Point> {
    if points.len() <= 2 * columns {
        return points.to_vec();
    }
    let ends = |run: &[Point]| {
        let by_value = |one: &&Point, other: &&Point| one.1.total_cmp(&other.1);
        [run.iter().min_by(by_value), run.iter().max_by(by_value)].into_iter().flatten().copied().collect::<Vec<_>>()
    };
    runs(points, columns).flat_map(ends).collect()
}

const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The values in a line of text, `width` characters at the most, from the least to the largest of them.
pub fn sparkline(points: &[Point], width: usize) -> String {
    if width == 0 || points.is_empty() {
        return String::new();
    }
    let means = means(points, width);
    let (least, most) = bounds(&means);
    // What differs by rounding alone is level.
    let is_level = most - least <= 1e-6 * most.abs().max(least.abs());
    let height = |value: f64| match is_level {
        true => HEIGHTS[3],
        false => HEIGHTS[((value - least) / (most - least) * 7.0).round() as usize],
    };
    means.iter().map(|(_, value)| height(*value)).collect()
}

/// The least and the largest value.
pub fn bounds(points: &[Point]) -> Point {
    let values = points.iter().map(|(_, value)| *value);
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
}

/// A value in about four digits.
pub fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => value.to_string(),
        0.0 => "0".into(),
        size if !(1e-3..1e5).contains(&size) => format!("{value:.2e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(values: &[f64]) -> Vec<Point> {
        values.iter().enumerate().map(|(step, value)| (step as f64, *value)).collect()
    }

    #[test]
    fn a_running_mean_begins_at_its_first_value() {
        let values = steps(&[4.0, 4.0, 1.0]);
        assert_eq!(smoothed(&values, 0.0), values);
        let mean = smoothed(&values, 0.5);
        assert_eq!((mean[0].1, mean[1].1), (4.0, 4.0));
        assert!((mean[2].1 - (0.25 * 4.0 + 0.5 * 4.0 + 1.0) / 1.75).abs() < 1e-12, "{mean:?}");
    }

    #[test]
    fn many_points_fit_few_columns_and_lose_no_extreme() {
        let mut values = vec![1.0; 1000];
        values[517] = 9.0;
        let points = steps(&values);
        assert_eq!(means(&points, 10).len(), 10);
        let few = extremes(&points, 10);
        assert_eq!((few.len(), bounds(&few)), (20, (1.0, 9.0)));
        assert_eq!(extremes(&points[..3], 10).len(), 3);
        assert!(means(&[], 10).is_empty() && extremes(&[], 0).is_empty());
    }

    #[test]
    fn a_sparkline_is_no_wider_than_its_place() {
        assert_eq!(sparkline(&steps(&[0.0, 1.0, 7.0]), 10), "▁▂█");
        assert_eq!(sparkline(&steps(&[2.0; 50]), 4), "▄▄▄▄");
        assert_eq!(sparkline(&smoothed(&steps(&[0.3; 50]), 0.98), 4), "▄▄▄▄", "but for rounding");
        assert_eq!(sparkline(&steps(&[1.0]), 0) + &sparkline(&[], 5), "");
    }

    #[test]
    fn numbers_are_short() {
        let said: Vec<String> = [0.0, 0.08708841, 1.5, 12.34, 137.06, 6.042574e-8, 2.5e6].map(number).into();
        assert_eq!(said, ["0", "0.0871", "1.50", "12.3", "137", "6.04e-8", "2.50e6"]);
        assert_eq!(number(f64::NAN), "NaN");
    }
}
