//! What a run shows below its bar where it is asked to: a small form of `watch`, out of what it knows itself.

use std::time::{Duration, Instant};

use super::curve::{Point, RunningMean, number, sparkline};
use diffuse::run::{LEVELS, Metrics};

/// What a running mean remembers a step.
const MEMORY: f64 = 0.98;
/// Points that are kept of a history: more than a terminal is wide, however long a run is.
const MOST_POINTS: usize = 1024;
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// The running mean of a number, and what it was.
#[derive(Default)]
struct History {
    mean: RunningMean,
    points: Vec<Point>,
    /// Of so many steps one is kept, two to this power, and how many came since.
    halvings: u32,
    skipped: u64,
}

impl History {
    fn add(&mut self, step: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        let mean = self.mean.add(value, MEMORY);
        self.skipped += 1;
        if self.skipped < 1 << self.halvings {
            return;
        }
        self.skipped = 0;
        self.points.push((step as f64, mean));
        if self.points.len() == MOST_POINTS {
            let mut is_kept = true;
            self.points.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.halvings += 1;
        }
    }

    fn mean(&self) -> String {
        self.mean.value().map_or("-".into(), number)
    }
}

/// The histories of a run since it began here.
#[derive(Default)]
pub struct Live {
    loss: History,
    pace: History,
    by_level: [History; LEVELS],
    text: String,
    drawn: Option<Instant>,
}

impl Live {
    pub fn add(&mut self, metrics: &Metrics, images_per_second: f64) {
        self.loss.add(metrics.step, metrics.loss.into());
        self.pace.add(metrics.step, images_per_second);
        for (history, loss) in self.by_level.iter_mut().zip(metrics.by_level) {
            loss.iter().for_each(|loss| history.add(metrics.step, f64::from(*loss)));
        }
    }

    /// Its lines, which change a few times a second and are no longer than `width`.
    pub fn text(&mut self, width: usize) -> String {
        if self.drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW_EVERY) {
            self.drawn = Some(Instant::now());
            self.text = self.lines(width).join("\n");
        }
        self.text.clone()
    }

    fn lines(&self, width: usize) -> Vec<String> {
        let traced = |name: &str, history: &History| {
            let head = format!("{name:10} {:>8} ", history.mean());
            let room = width.saturating_sub(head.chars().count() + 1);
            format!("{head}{}", sparkline(&history.points, room))
        };
        let mut lines = vec![traced("loss", &self.loss), traced("images/s", &self.pace)];
        if self.by_level.iter().any(|history| history.mean.value().is_some()) {
            let means: Vec<String> = self.by_level.iter().map(History::mean).collect();
            lines.push(format!("by noise  {}, least first", means.join(" ")));
        }
        lines.iter().map(|line| line.chars().take(width.saturating_sub(1)).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(step: u64) -> Metrics {
        let mut by_level = [None; LEVELS];
        by_level[2] = Some(0.25);
        Metrics { step, loss: 1.0 / step as f32, gradient_norm: 1.0, learning_rate: 1e-3, by_level }
    }

    #[test]
    fn a_long_run_is_a_few_short_lines() {
        let mut live = Live::default();
        (1..=5000).for_each(|step| live.add(&metrics(step), 100.0));
        assert!(live.loss.points.len() < MOST_POINTS && live.loss.points[0].0 < 10.0);
        assert_eq!(live.loss.points.last().map(|point| point.0), Some(5000.0 - 5000.0 % 8.0));
        let lines = live.lines(60);
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("loss ") && lines[0].contains('█') && lines[0].ends_with('▁'), "{lines:?}");
        assert!(lines[1].contains(" 100.0 ▄▄▄"), "{lines:?}");
        assert!(lines[2].contains("- - 0.2500 - -"), "{lines:?}");
        assert!(live.lines(20).iter().all(|line| line.chars().count() < 20));
    }

    #[test]
    fn a_run_without_levels_has_no_line_of_them() {
        let mut live = Live::default();
        live.add(&Metrics { by_level: [None; LEVELS], ..metrics(1) }, f64::NAN);
        assert_eq!(live.lines(80).len(), 2);
    }
}
