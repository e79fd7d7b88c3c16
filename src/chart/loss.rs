//! The loss of a training run.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axes::{LossAxis, StepAxis};
use super::canvas::{Area, Drawn, OVERSAMPLING, draw, draw_axes, on_axes, pieces, pixels, text};
use super::ticks::{significant, whole};
use crate::error::{Error, Result};
use crate::picture::write_png;

/// Points along a curve, about one for each pixel of the width: more could not be told apart.
const MOST_POINTS: usize = 640;
/// The smoothed curve is the mean over one part in so many of the run.
const SMOOTHING_PARTS: usize = 20;
const RAW: RGBColor = RGBColor(165, 193, 240);
const SMOOTHED: RGBColor = RGBColor(29, 78, 216);

/// Draws loss against step as a PNG of 800 x 500 pixels: a thin line for each step's loss, a bold one for their mean
/// over a twentieth of the run.
///
/// `points` are (step, loss), in any order; those whose loss is not finite are left out. The axis of the loss is
/// logarithmic if all losses are positive and span more than a decade. If no point is left, the chart says so.
///
/// # Errors
///
/// [`Error::File`], naming `path`, if the place can't be written.
pub fn write_loss_chart(path: &Path, title: &str, points: &[(u64, f32)]) -> Result<()> {
    let run = Run::new(points);
    let picture = draw(|area| draw_chart(area, title, &run)).map_err(|error| Error::file(path, error))?;
    write_png(path, &picture)
}

fn draw_chart<'a>(area: &Area<'a>, title: &str, run: &Run) -> Drawn<()> {
    let losses = LossAxis::new(run.loss_range());
    let loss_title = if losses.logarithmic { "loss (log scale)" } else { "loss" };
    let smoothed = run.smoothed();
    let legend = match run.points.as_slice() {
        [] => Vec::new(),
        [only] => vec![(summary("loss", only), bold())],
        _ => {
            let last = smoothed.last().map_or(String::new(), |last| summary("smoothed", last));
            vec![("each step".into(), thin()), (last, bold())]
        }
    };
    let mut chart = on_axes(area, title, &legend, (StepAxis::new(run.step_range()), losses))?;
    draw_axes(&mut chart, ["step", loss_title])?;
    match run.points.as_slice() {
        [] => {
            let style = text(17).pos(Pos::new(HPos::Center, VPos::Center));
            chart.draw_series([Text::new("no finite loss", (0, 0.5), style)])?;
        }
        [only] => {
            chart.draw_series([Circle::new(*only, pixels(4), SMOOTHED.filled())])?;
        }
        _ => {
            chart.draw_series(pieces(&run.thinned(), thin()))?;
            chart.draw_series(pieces(&smoothed, bold()))?;
            // Rounds the corners between the pieces of so thick a line.
            let dot = |&at: &(u64, f64)| Circle::new(at, bold().stroke_width / 2, bold().filled());
            chart.draw_series(smoothed.iter().map(dot))?;
        }
    }
    Ok(())
}

fn summary(name: &str, &(step, loss): &(u64, f64)) -> String {
    format!("{name}: {} at step {}", significant(loss, 3), whole(step))
}

fn thin() -> ShapeStyle {
    RAW.stroke_width(OVERSAMPLING)
}

fn bold() -> ShapeStyle {
    SMOOTHED.stroke_width(5 * OVERSAMPLING / 2)
}

/// The finite losses of a run by step.
struct Run {
    points: Vec<(u64, f64)>,
}

impl Run {
    fn new(points: &[(u64, f32)]) -> Run {
        let finite = points.iter().filter(|(_, loss)| loss.is_finite());
        let mut points: Vec<_> = finite.map(|&(step, loss)| (step, f64::from(loss))).collect();
        points.sort_by_key(|&(step, _)| step);
        Run { points }
    }

    /// The curve with what lies between the extremes of each pixel's width left out.
    fn thinned(&self) -> Vec<(u64, f64)> {
        if self.points.len() <= 2 * MOST_POINTS {
            return self.points.clone();
        }
        let mut kept = Vec::with_capacity(2 * MOST_POINTS);
        for bucket in self.points.chunks(self.points.len().div_ceil(MOST_POINTS)) {
            let loss = |&index: &usize| bucket[index].1;
            let compare = |a: &usize, b: &usize| loss(a).total_cmp(&loss(b));
            let lowest = (0..bucket.len()).min_by(compare).unwrap_or(0);
            let highest = (0..bucket.len()).max_by(compare).unwrap_or(0);
            kept.push(bucket[lowest.min(highest)]);
            if lowest != highest {
                kept.push(bucket[lowest.max(highest)]);
            }
        }
        kept
    }

    /// The mean around evenly spread points. At the start the window is as short as the past is, so that the curve
    /// follows the first fall of the loss; at the end it is one-sided.
    fn smoothed(&self) -> Vec<(u64, f64)> {
        let count = self.points.len();
        let radius = count / SMOOTHING_PARTS / 2;
        let kept = count.min(MOST_POINTS);
        let spread = (0..kept).map(|index| index * (count - 1) / (kept - 1).max(1));
        let mean = |at: usize| {
            let reach = radius.min(at);
            let window = &self.points[at - reach..(at + reach + 1).min(count)];
            let sum: f64 = window.iter().map(|&(_, loss)| loss).sum();
            (self.points[at].0, sum / window.len() as f64)
        };
        spread.map(mean).collect()
    }

    fn step_range(&self) -> Option<(u64, u64)> {
        Some((self.points.first()?.0, self.points.last()?.0))
    }

    fn loss_range(&self) -> Option<(f64, f64)> {
        let losses = || self.points.iter().map(|&(_, loss)| loss);
        Some((losses().min_by(f64::total_cmp)?, losses().max_by(f64::total_cmp)?))
    }
}
