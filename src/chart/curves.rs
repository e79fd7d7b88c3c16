//! Several curves in one chart.

use std::path::Path;

use plotters::prelude::*;

use super::axes::{LossAxis, StepAxis};
use super::canvas::{Area, Drawn, Entry, OVERSAMPLING, draw, draw_axes, on_axes, pieces};
use crate::error::{Error, Result};
use crate::picture::write_png;

/// Told apart by those who see red and green alike, too (Okabe & Ito 2008).
const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
];

/// A line of a chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    pub name: String,
    /// From left to right; values that are not finite are left out.
    pub points: Vec<(u64, f64)>,
}

impl Curve {
    pub fn new(name: &str, points: impl IntoIterator<Item = (u64, f64)>) -> Curve {
        let points = points.into_iter().filter(|(_, value)| value.is_finite()).collect();
        Curve { name: name.into(), points }
    }
}

/// Draws up to five curves as a PNG of 800 x 500 pixels. `axes` are what is across and what is up; the latter is
/// logarithmic if all values are positive and span more than a decade.
///
/// # Errors
/// [`Error::File`], naming `path`, if the place can't be written.
pub fn write_curves(path: &Path, title: &str, axes: [&str; 2], curves: &[Curve]) -> Result<()> {
    let picture = draw(|area| draw_curves(area, title, axes, curves)).map_err(|error| Error::file(path, error))?;
    write_png(path, &picture)
}

fn draw_curves(area: &Area, title: &str, [across, up]: [&str; 2], curves: &[Curve]) -> Drawn<()> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let ends = |values: Vec<f64>| -> Option<(f64, f64)> {
        let low = values.iter().copied().min_by(f64::total_cmp)?;
        Some((low, values.iter().copied().max_by(f64::total_cmp)?))
    };
    let steps = points().map(|point| point.0).min().zip(points().map(|point| point.0).max());
    let values = LossAxis::new(ends(points().map(|point| point.1).collect()));
    let up = if values.logarithmic { format!("{up} (log scale)") } else { up.into() };
    let styles = COLORS.map(|color| color.stroke_width(2 * OVERSAMPLING));
    let legend: Vec<Entry> = curves.iter().map(|curve| curve.name.clone()).zip(styles).collect();
    let mut chart = on_axes(area, title, &legend, (StepAxis::new(steps), values))?;
    draw_axes(&mut chart, [across, &up])?;
    for (curve, style) in curves.iter().zip(styles) {
        chart.draw_series(pieces(&curve.points, style))?;
        let dot = |&at: &(u64, f64)| Circle::new(at, style.stroke_width / 2, style.filled());
        chart.draw_series(curve.points.iter().map(dot))?;
    }
    Ok(())
}
