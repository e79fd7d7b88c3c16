//! The picture that every chart is drawn on: axes, text, legend.

use std::sync::Once;

use image::{RgbImage, imageops};
use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

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

/// A line of the legend.
pub(super) type Entry = (String, ShapeStyle);

/// Rows of the legend are so high.
const ROW: i32 = 22;

/// A chart under its title and its legend, which so hides nothing.
pub(super) fn on_axes<'a, X: Ranged, Y: Ranged>(
    area: &Area<'a>,
    title: &str,
    legend: &[Entry],
    (x, y): (X, Y),
) -> Drawn<ChartContext<'a, BitMapBackend<'a>, Cartesian2d<X, Y>>> {
    // `titled` sets the capitals' tops on the first row, or above it.
    let area = area.margin(pixels(8), 0, 0, 0).titled(&one_line(title), text(23))?;
    let rows = rows(&area, legend)?;
    let height = pixels(ROW) * rows.last().map_or(0, |(_, row, _)| row + 1);
    let (above, below) = area.split_vertically(height);
    for (left, row, (label, style)) in rows {
        let y = pixels(ROW) * row + pixels(ROW) / 2;
        above.draw(&PathElement::new([(left, y), (left + pixels(22), y)], *style))?;
        let at = (left + pixels(28), y);
        above.draw(&Text::new(label.clone(), at, text(15).pos(Pos::new(HPos::Left, VPos::Center))))?;
    }
    let chart = ChartBuilder::on(&below)
        .margin(pixels(12))
        .margin_right(pixels(38))
        .x_label_area_size(pixels(46))
        .y_label_area_size(pixels(66))
        .build_cartesian_2d(x, y)?;
    Ok(chart)
}

/// Where each entry stands: its left end, and its row.
fn rows<'e>(area: &Area, legend: &'e [Entry]) -> Drawn<Vec<(i32, i32, &'e Entry)>> {
    let (first, right) = (pixels(78), area.dim_in_pixel().0 as i32 - pixels(12));
    let (mut left, mut row) = (first, 0);
    let mut places = Vec::new();
    for entry in legend {
        let width = pixels(28 + 24) + area.estimate_text_size(&entry.0, &text(15))?.0 as i32;
        if left > first && left + width > right {
            (left, row) = (first, row + 1);
        }
        places.push((left, row, entry));
        left += width;
    }
    Ok(places)
}

/// A curve, piece by piece: where the backend joins a line at a sharp angle, it draws a spike across the picture.
pub(super) fn pieces(points: &[(u64, f64)], style: ShapeStyle) -> impl Iterator<Item = PathElement<(u64, f64)>> {
    points.windows(2).map(move |ends| PathElement::new(ends, style))
}

pub(super) fn draw_axes<X, Y>(
    chart: &mut ChartContext<'_, BitMapBackend<'_>, Cartesian2d<X, Y>>,
    [across, up]: [&str; 2],
) -> Drawn<()>
where
    X: Ranged + ValueFormatter<X::ValueType>,
    Y: Ranged + ValueFormatter<Y::ValueType>,
{
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

pub(super) fn pixels(count: i32) -> i32 {
    count * OVERSAMPLING as i32
}

pub(super) fn text(height: i32) -> TextStyle<'static> {
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
