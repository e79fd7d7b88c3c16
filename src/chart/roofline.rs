//! The roofline: what each kernel reaches, under what the adapter allows (Williams, Waterman & Patterson, CACM 52(4),
//! 2009).

use std::path::Path;

use image::RgbImage;
use plotters::chart::ChartContext;
use plotters::element::PathElement;
use plotters::prelude::*;

use super::axes::LossAxis;
use super::canvas::{Area, Drawn, Entry, OVERSAMPLING, canvas, draw_axes, on_axes, pixels, text};
use super::ticks::significant;
use crate::error::{Error, Result};
use crate::picture;

/// A kernel in the chart.
#[derive(Clone, Debug)]
pub struct Point {
    pub name: String,
    /// FLOP a byte.
    pub intensity: f64,
    pub gflops: f64,
    /// Of the step's time, 0 to 1: the size of the dot.
    pub share: f64,
}

/// What to draw.
#[derive(Clone, Debug)]
pub struct Roofline {
    pub title: String,
    /// Arithmetic units and their GFLOP/s.
    pub peaks: Vec<(String, f64)>,
    /// Working sets and what a copy of each reaches in GB/s, the smallest first.
    pub bandwidths: Vec<(String, f64)>,
    pub points: Vec<Point>,
}

const SIZE: (u32, u32) = (1000, 640);
/// Of arithmetic units, one after the other.
const PEAKS: [RGBColor; 2] = [RGBColor(190, 24, 93), RGBColor(217, 119, 6)];
const MEMORY: [RGBColor; 2] = [RGBColor(4, 120, 87), RGBColor(110, 190, 160)];
const DOT: RGBColor = RGBColor(29, 78, 216);
/// Dots whose names are written at the most: those with most time.
const NAMES: usize = 24;

type Chart<'a> = ChartContext<'a, BitMapBackend<'a>, Cartesian2d<LossAxis, LossAxis>>;

/// Draws GFLOP/s against FLOP a byte, both logarithmic, as a PNG: the ceilings as lines, kernels as dots whose area is
/// their share of the time. Points without work are left out.
///
/// # Errors
///
/// [`Error::File`], naming `path`, if the place can't be written.
pub fn write_roofline(path: &Path, roofline: &Roofline) -> Result<()> {
    let picture = canvas(SIZE, |area| draw(area, roofline)).map_err(|error| Error::file(path, error))?;
    picture::write(path, &picture as &RgbImage)
}

fn draw(area: &Area, roofline: &Roofline) -> Drawn<()> {
    let positive = |point: &&Point| point.intensity > 0.0 && point.gflops > 0.0;
    let mut points: Vec<&Point> = roofline.points.iter().filter(positive).collect();
    points.sort_by(|a, b| b.share.total_cmp(&a.share));
    let peak = roofline.peaks.iter().map(|(_, gflops)| *gflops).fold(1e-3, f64::max);
    let slowest = roofline.bandwidths.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
    let extremes = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, 0f64), |(low, high), value| (low.min(value), high.max(value)))
    };
    // The ridge, where the slowest memory could feed the fastest unit, is in the picture.
    let (left, right) = extremes(&mut points.iter().map(|p| p.intensity).chain([0.5, 2.0 * peak / slowest.min(peak)]));
    let (bottom, top) = extremes(&mut points.iter().map(|p| p.gflops).chain([peak / 20.0, 1.5 * peak]));
    let (x, y) = ((left / 1.5, right * 1.5), (bottom / 2.0, top));
    let roofs = roofs(roofline, x, y.0);
    let legend: Vec<Entry> = roofs.iter().map(|(entry, _)| entry.clone()).collect();
    let mut chart = on_axes(area, &roofline.title, &legend, (LossAxis::new(Some(x)), LossAxis::new(Some(y))))?;
    draw_axes(&mut chart, ["FLOP a byte, if each tensor is moved once", "GFLOP/s"])?;
    for ((_, style), line) in roofs {
        chart.draw_series([PathElement::new(line, style)])?;
    }
    draw_points(area, &mut chart, &points)
}

/// The slopes of the largest and of the fastest copy up to the highest peak, and a level line for each peak.
fn roofs(roofline: &Roofline, (left, right): (f64, f64), bottom: f64) -> Vec<(Entry, [(f64, f64); 2])> {
    let peak = roofline.peaks.iter().map(|(_, gflops)| *gflops).fold(1e-3, f64::max);
    let fastest = roofline.bandwidths.iter().max_by(|a, b| a.1.total_cmp(&b.1));
    let slopes = [roofline.bandwidths.last(), fastest];
    let same = roofline.bandwidths.last().map(|copy| &copy.0) == fastest.map(|copy| &copy.0);
    let slopes = slopes.into_iter().flatten().zip(MEMORY).take(if same { 1 } else { 2 });
    let slope = |((size, rate), color): (&(String, f64), RGBColor)| {
        let (from, to) = (left.max(bottom / rate), peak / rate);
        let label = format!("copy of {size}: {} GB/s", significant(*rate, 3));
        ((label, color.stroke_width(2 * OVERSAMPLING)), [(from, from * rate), (to, peak)])
    };
    let start = peak / fastest.map_or(peak, |(_, rate)| *rate);
    let level = |((unit, gflops), color): (&(String, f64), &RGBColor)| {
        let label = format!("{unit} arithmetic: {} GFLOP/s", significant(*gflops, 3));
        let line = [(start * gflops / peak, *gflops), (right, *gflops)];
        ((label, color.stroke_width(2 * OVERSAMPLING)), line)
    };
    slopes.map(slope).chain(roofline.peaks.iter().zip(PEAKS.iter().cycle()).map(level)).collect()
}

/// Pixels: left, top, right, bottom.
type Place = [i32; 4];

fn overlap(a: &Place, b: &Place) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// Dots first, then the names of those with most time, each where it hides neither a dot nor another name.
fn draw_points(area: &Area, chart: &mut Chart, points: &[&Point]) -> Drawn<()> {
    let radius = |point: &Point| pixels(4) + (f64::from(pixels(16)) * point.share.max(0.0).sqrt()) as i32;
    let mut taken: Vec<Place> = Vec::new();
    for point in points {
        let at = (point.intensity, point.gflops);
        chart.draw_series([Circle::new(at, radius(point), DOT.mix(0.55).filled())])?;
        let (x, y) = chart.backend_coord(&at);
        let half = radius(point) * 7 / 10;
        taken.push([x - half, y - half, x + half, y + half]);
    }
    let style = text(14);
    let (width, height) = area.dim_in_pixel();
    for point in points.iter().take(NAMES) {
        let (x, y) = chart.backend_coord(&(point.intensity, point.gflops));
        let (w, h) = area.estimate_text_size(&point.name, &style)?;
        let (w, h, r) = (w as i32, h as i32, radius(point) + pixels(2));
        let places = [(x + r, y - h / 2), (x - r - w, y - h / 2), (x - w / 2, y - r - h), (x - w / 2, y + r)];
        let corners = [(x + r, y - r - h / 2), (x + r, y + r / 2), (x - r - w, y - r - h / 2), (x - r - w, y + r / 2)];
        let inside = |[left, top, right, bottom]: &Place| {
            *left > pixels(80)
                && *top > pixels(50)
                && *right < width as i32 - pixels(30)
                && *bottom < height as i32 - pixels(65)
        };
        let rectangles = places.into_iter().chain(corners).map(|(x, y)| [x, y, x + w, y + h]);
        let free = |place: &Place| inside(place) && !taken.iter().any(|other| overlap(place, other));
        if let Some(place) = rectangles.into_iter().find(free) {
            // Lines behind a name would make it hard to read.
            let paper = Rectangle::new([(place[0], place[1]), (place[2], place[3])], WHITE.mix(0.8).filled());
            area.draw(&paper)?;
            area.draw(&Text::new(point.name.clone(), (place[0], place[1]), style.clone()))?;
            taken.push(place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_kernels_can_be_drawn() {
        let directory = std::env::temp_dir().join(format!("diffuse-roofline-{}", std::process::id()));
        let point = |intensity, gflops| Point { name: "x".into(), intensity, gflops, share: 0.5 };
        for points in [vec![], vec![point(1.0, 3.0)], vec![point(0.0, 3.0), point(1e-4, 1e5), point(1e6, f64::NAN)]] {
            for bandwidths in [vec![("1 MiB".into(), 7.0)], vec![("1 MiB".into(), 70.0), ("2 MiB".into(), 7e3)]] {
                let roofline = Roofline {
                    title: "The title".into(),
                    peaks: vec![("f32".into(), 50.0)],
                    bandwidths,
                    points: points.clone(),
                };
                let path = directory.join("roofline.png");
                write_roofline(&path, &roofline).expect("it can be drawn");
                let picture = image::open(&path).expect("it is a picture").to_rgb8();
                assert_eq!(picture.dimensions(), SIZE);
                assert!(picture.rows().take(3).flatten().all(|pixel| pixel.0 == [255; 3]), "the title is cut off");
                assert!(picture.pixels().any(|pixel| pixel[0] > 150 && pixel[1] < 60), "the peak's line is there");
            }
        }
        std::fs::remove_dir_all(directory).expect("it was made above");
    }
}
