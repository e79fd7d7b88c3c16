//! Charts: the loss of a training run, and in [`roofline`] what kernels reach.

use std::path::Path;
use std::sync::Once;

use image::{RgbImage, imageops};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use self::axes::{LossAxis, StepAxis};
use self::ticks::{significant, whole};
use crate::error::{Error, Result};
use crate::picture::write_png;

mod axes;
mod curves;
pub mod roofline;
mod ticks;

pub use curves::{Curve, write_curves};

/// Pixels of the finished picture.
const WIDTH: u32 = 800;
const HEIGHT: u32 = 500;
/// All is drawn this much larger, then averaged down: the backend's lines and letters are rough at their own size.
const OVERSAMPLING: u32 = 2;
/// Points along a curve, about one for each pixel of the width: more could not be told apart.
const MOST_POINTS: usize = 640;
/// The smoothed curve is the mean over one part in so many of the run.
const SMOOTHING_PARTS: usize = 20;
/// Characters of a title that fit the width.
const LONGEST_TITLE: usize = 72;

const FONT: &str = "diffuse chart";
const INK: RGBColor = RGBColor(55, 65, 81);
const RULE: RGBColor = RGBColor(225, 229, 235);
const RAW: RGBColor = RGBColor(165, 193, 240);
const SMOOTHED: RGBColor = RGBColor(29, 78, 216);

type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, BitMapBackend<'a>, Cartesian2d<StepAxis, LossAxis>>;

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
    let picture = draw(|area| draw_chart(area, &one_line(title), &run)).map_err(|error| Error::file(path, error))?;
    write_png(path, &picture)
}

/// A picture of the usual size of what `chart` draws.
fn draw(chart: impl FnOnce(&Area) -> Drawn<()>) -> Drawn<RgbImage> {
    canvas((WIDTH, HEIGHT), chart)
}

/// A white picture of `width` x `height` pixels on which `draw` draws, on an area that is larger.
fn canvas((width, height): (u32, u32), draw: impl FnOnce(&Area) -> Drawn<()>) -> Drawn<RgbImage> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let bytes = include_bytes!("../assets/font/Inter-Regular.ttf");
        // If the font were refused, the first text to be drawn would be an error that says so.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
    let mut large = RgbImage::new(width * OVERSAMPLING, height * OVERSAMPLING);
    let size = large.dimensions();
    {
        let area = BitMapBackend::with_buffer(&mut large, size).into_drawing_area();
        area.fill(&WHITE)?;
        draw(&area)?;
        area.present()?;
    }
    Ok(imageops::thumbnail(&large, width, height))
}

fn draw_chart<'a>(area: &Area<'a>, title: &str, run: &Run) -> Drawn<()> {
    let losses = LossAxis::new(run.loss_range());
    let loss_title = if losses.logarithmic { "loss (log scale)" } else { "loss" };
    let mut chart = on_axes(area, title, StepAxis::new(run.step_range()), losses)?;
    draw_axes(&mut chart, ["step", loss_title])?;
    match run.points.as_slice() {
        [] => {
            let style = text(17).pos(Pos::new(HPos::Center, VPos::Center));
            chart.draw_series([Text::new("no finite loss", (0, 0.5), style)])?;
            Ok(())
        }
        [only] => {
            let dot = Circle::new(*only, pixels(4), SMOOTHED.filled());
            chart.draw_series([dot])?.label(summary("loss", only)).legend(|at| key(at, bold()));
            draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
        }
        _ => {
            let smoothed = run.smoothed();
            let last = smoothed.last().map_or(String::new(), |last| summary("smoothed", last));
            chart.draw_series(pieces(&run.thinned(), thin()))?.label("each step").legend(|at| key(at, thin()));
            chart.draw_series(pieces(&smoothed, bold()))?.label(last).legend(|at| key(at, bold()));
            // Rounds the corners between the pieces of so thick a line.
            let dot = |&at: &(u64, f64)| Circle::new(at, bold().stroke_width / 2, bold().filled());
            chart.draw_series(smoothed.iter().map(dot))?;
            draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
        }
    }
}

fn on_axes<'a>(area: &Area<'a>, title: &str, steps: StepAxis, losses: LossAxis) -> Drawn<Chart<'a>> {
    let chart = ChartBuilder::on(area)
        .caption(title, text(23))
        .margin(pixels(12))
        .margin_right(pixels(38))
        .x_label_area_size(pixels(46))
        .y_label_area_size(pixels(66))
        .build_cartesian_2d(steps, losses)?;
    Ok(chart)
}

/// A curve, piece by piece: where the backend joins a line at a sharp angle, it draws a spike across the picture.
fn pieces(points: &[(u64, f64)], style: ShapeStyle) -> impl Iterator<Item = PathElement<(u64, f64)>> {
    points.windows(2).map(move |ends| PathElement::new(ends, style))
}

fn draw_axes(chart: &mut Chart, [across, up]: [&str; 2]) -> Drawn<()> {
    chart
        .configure_mesh()
        .bold_line_style(RULE.stroke_width(OVERSAMPLING))
        .light_line_style(TRANSPARENT)
        .axis_style(INK.mix(0.5).stroke_width(OVERSAMPLING))
        .label_style(text(15))
        .axis_desc_style(text(16))
        .x_desc(across)
        .y_desc(up)
        .draw()?;
    Ok(())
}

fn draw_legend<'a, X: Ranged, Y: Ranged>(
    chart: &mut ChartContext<'a, BitMapBackend<'a>, Cartesian2d<X, Y>>,
    position: SeriesLabelPosition,
) -> Drawn<()> {
    chart
        .configure_series_labels()
        .position(position)
        .margin(pixels(6))
        .legend_area_size(pixels(30))
        .background_style(WHITE.mix(0.85))
        .border_style(TRANSPARENT)
        .label_font(text(15))
        .draw()?;
    Ok(())
}

fn summary(name: &str, &(step, loss): &(u64, f64)) -> String {
    format!("{name}: {} at step {}", significant(loss, 3), whole(step))
}

/// A piece of line that stands for a curve in the legend.
fn key((x, y): (i32, i32), style: ShapeStyle) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + pixels(22), y)], style)
}

fn thin() -> ShapeStyle {
    RAW.stroke_width(OVERSAMPLING)
}

fn bold() -> ShapeStyle {
    SMOOTHED.stroke_width(5 * OVERSAMPLING / 2)
}

fn pixels(count: i32) -> i32 {
    count * OVERSAMPLING as i32
}

fn text(height: i32) -> TextStyle<'static> {
    (FONT, pixels(height)).into_font().color(&INK)
}

/// The title without line breaks, cut where it would leave the picture.
fn one_line(title: &str) -> String {
    let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match title.char_indices().nth(LONGEST_TITLE) {
        Some((end, _)) => format!("{}…", title[..end].trim_end()),
        None => title,
    }
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
