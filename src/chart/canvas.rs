//! The picture that every chart is drawn on: axes, text, legend.

use std::sync::Once;

use image::{RgbImage, imageops};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use super::axes::{LossAxis, StepAxis};

/// Pixels of the finished picture.
pub(super) const WIDTH: u32 = 800;
pub(super) const HEIGHT: u32 = 500;
/// All is drawn this much larger, then averaged down: the backend's lines and letters are rough at their own size.
pub(super) const OVERSAMPLING: u32 = 2;
/// Characters of a title that fit the width.
pub(super) const LONGEST_TITLE: usize = 72;

pub(super) const FONT: &str = "diffuse chart";
pub(super) const INK: RGBColor = RGBColor(55, 65, 81);
pub(super) const RULE: RGBColor = RGBColor(225, 229, 235);

pub(super) type Drawn<T> = std::result::Result<T, Box<dyn std::error::Error>>;
pub(super) type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;
pub(super) type Chart<'a> = ChartContext<'a, BitMapBackend<'a>, Cartesian2d<StepAxis, LossAxis>>;

/// A picture of the usual size of what `chart` draws.
pub(super) fn draw(chart: impl FnOnce(&Area) -> Drawn<()>) -> Drawn<RgbImage> {
    canvas((WIDTH, HEIGHT), chart)
}

/// A white picture of `width` x `height` pixels on which `draw` draws, on an area that is larger.
pub(super) fn canvas((width, height): (u32, u32), draw: impl FnOnce(&Area) -> Drawn<()>) -> Drawn<RgbImage> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let bytes = include_bytes!("../../assets/font/Inter-Regular.ttf");
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

pub(super) fn on_axes<'a>(area: &Area<'a>, title: &str, steps: StepAxis, losses: LossAxis) -> Drawn<Chart<'a>> {
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
pub(super) fn pieces(points: &[(u64, f64)], style: ShapeStyle) -> impl Iterator<Item = PathElement<(u64, f64)>> {
    points.windows(2).map(move |ends| PathElement::new(ends, style))
}

pub(super) fn draw_axes(chart: &mut Chart, [across, up]: [&str; 2]) -> Drawn<()> {
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

pub(super) fn draw_legend<'a, X: Ranged, Y: Ranged>(
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

/// A piece of line that stands for a curve in the legend.
pub(super) fn key((x, y): (i32, i32), style: ShapeStyle) -> PathElement<(i32, i32)> {
    PathElement::new([(x, y), (x + pixels(22), y)], style)
}

pub(super) fn pixels(count: i32) -> i32 {
    count * OVERSAMPLING as i32
}

pub(super) fn text(height: i32) -> TextStyle<'static> {
    (FONT, pixels(height)).into_font().color(&INK)
}

/// The title without line breaks, cut where it would leave the picture.
pub(super) fn one_line(title: &str) -> String {
    let title: String = title.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match title.char_indices().nth(LONGEST_TITLE) {
        Some((end, _)) => format!("{}…", title[..end].trim_end()),
        None => title,
    }
}
