//! A curve of any length in bounded room: what lies between the extremes of a bucket of steps could not be seen in a chart.

/// Buckets at the most, of two points each: about as many as a chart has pixels.
const MOST: usize = 500;
/// The smoothed curve is the mean over one part in so many of the steps.
const SMOOTHING_PARTS: usize = 20;

/// What is known of some steps in a row.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    low: (u64, f64),
    high: (u64, f64),
    first: u64,
    last: u64,
    sum: f64,
    count: u64,
}

impl Bucket {
    fn new(step: u64, value: f64) -> Bucket {
        let point = (step, value);
        Bucket { low: point, high: point, first: step, last: step, sum: value, count: 1 }
    }

    fn add(&mut self, later: &Bucket) {
        self.low = if later.low.1 < self.low.1 { later.low } else { self.low };
        self.high = if later.high.1 > self.high.1 { later.high } else { self.high };
        self.last = later.last;
        self.sum += later.sum;
        self.count += later.count;
    }

    /// The extremes in the order in which they came.
    fn points(&self) -> impl Iterator<Item = (u64, f64)> {
        let (one, other) = if self.low.0 <= self.high.0 { (self.low, self.high) } else { (self.high, self.low) };
        std::iter::once(one).chain((one != other).then_some(other))
    }
}

/// A curve that grows by a step at a time and never holds more than 500 buckets, whose width doubles as it gets longer.
#[derive(Clone, Debug)]
pub struct Thinned {
    /// Steps of a bucket.
    width: u64,
    buckets: Vec<Bucket>,
    last: Option<(u64, f64)>,
}

impl Default for Thinned {
    fn default() -> Thinned {
        Thinned { width: 1, buckets: Vec::new(), last: None }
    }
}

impl Thinned {
    /// Adds the value of a step behind those that came; one that is not finite is left out.
    pub fn push(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.last = Some((step, value));
        self.add(Bucket::new(step, value));
        while self.buckets.len() > MOST {
            self.width *= 2;
            std::mem::take(&mut self.buckets).into_iter().for_each(|bucket| self.add(bucket));
        }
    }

    fn add(&mut self, bucket: Bucket) {
        match self.buckets.last_mut() {
            Some(last) if last.first / self.width == bucket.first / self.width => last.add(&bucket),
            _ => self.buckets.push(bucket),
        }
    }

    /// The newest point.
    pub fn last(&self) -> Option<(u64, f64)> {
        self.last
    }

    /// Least and greatest of each bucket.
    pub fn points(&self) -> Vec<(u64, f64)> {
        self.buckets.iter().flat_map(Bucket::points).collect()
    }

    /// The mean over a twentieth of the steps around each bucket. At the start the window is as short as the past is, so that the
    /// curve follows the first fall of a loss; at the end it is one-sided.
    pub fn smoothed(&self) -> Vec<(u64, f64)> {
        let radius = self.buckets.len() / SMOOTHING_PARTS / 2;
        let mean = |(at, bucket): (usize, &Bucket)| {
            let reach = radius.min(at);
            let window = &self.buckets[at - reach..(at + reach + 1).min(self.buckets.len())];
            let sum: f64 = window.iter().map(|bucket| bucket.sum).sum();
            let count: u64 = window.iter().map(|bucket| bucket.count).sum();
            (bucket.first.midpoint(bucket.last), sum / count as f64)
        };
        self.buckets.iter().enumerate().map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(steps: u64, value: impl Fn(u64) -> f64) -> Thinned {
        let mut curve = Thinned::default();
        (1..=steps).for_each(|step| curve.push(step, value(step)));
        curve
    }

    #[test]
    fn a_short_curve_is_kept_as_it_is() {
        let curve = curve(500, |step| step as f64);
        let expected: Vec<(u64, f64)> = (1..=500).map(|step| (step, step as f64)).collect();
        assert_eq!(curve.points(), expected);
    }

    #[test]
    fn a_long_curve_keeps_its_extremes_and_its_mean_in_bounded_room() {
        // Two steps among many that nobody may lose, and one that is no number.
        let value = |step| match step {
            123_456 => 1e6,
            654_321 => -1e6,
            7 => f64::NAN,
            step => (step % 10) as f64,
        };
        let curve = curve(1_000_000, value);
        let points = curve.points();
        assert!((500..=1000).contains(&points.len()), "{}", points.len());
        assert!(points.contains(&(123_456, 1e6)) && points.contains(&(654_321, -1e6)));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(curve.last(), Some((1_000_000, 0.0)));
        let smoothed = curve.smoothed();
        let (step, mean) = smoothed[smoothed.len() / 2];
        assert!((450_000..550_000).contains(&step) && (mean - 4.5).abs() < 0.01, "{step} {mean}");
    }
}
