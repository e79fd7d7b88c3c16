//! Curves as SVG within an HTML page, whose style sheet says the colours: a chart is light and dark as the page is.

use std::fmt::Write as _;

use plotters::coord::ranged1d::{BoldPoints, Ranged, ValueFormatter};

use super::axes::{LossAxis, StepAxis};

/// Units of the picture; on a page it is as wide as there is room.
const WIDTH: i32 = 480;
const HEIGHT: i32 = 260;
const LEFT: i32 = 58;
const RIGHT: i32 = 28;
const TOP: i32 = 10;
const BOTTOM: i32 = 30;
/// Points of a path are told to a tenth of a unit.
const TENTHS: i32 = 10;

/// One curve.
pub struct Line {
    /// Of the style sheet.
    pub class: String,
    /// Finite, from left to right.
    pub points: Vec<(u64, f64)>,
}

/// What distances upwards mean.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    Linear,
    /// Ratios, where all values are positive and span more than a decade, as [`super::write_curves`] has it.
    AsValuesAre,
}

/// What is drawn, and whether up it is logarithmic. With no point it is empty axes. `label` is for those who don't see it, and holds
/// nothing that would need to be escaped.
pub fn svg(label: &str, lines: &[Line], scale: Scale) -> (String, bool) {
    let points = || lines.iter().flat_map(|line| &line.points);
    let steps = points().map(|point| point.0);
    let values = || points().map(|point| point.1);
    let across = StepAxis::new(steps.clone().min().zip(steps.max()));
    let range = values().min_by(f64::total_cmp).zip(values().max_by(f64::total_cmp));
    let up = match (scale, range) {
        (Scale::Linear, Some(range)) => LossAxis::linear(range),
        _ => LossAxis::new(range),
    };
    let mut svg = format!(r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">"#);
    write_axes(&mut svg, &across, &up);
    lines.iter().for_each(|line| write_line(&mut svg, line, &across, &up));
    svg.push_str("</svg>");
    (svg, up.logarithmic)
}

fn x(axis: &StepAxis, step: u64) -> f64 {
    f64::from(axis.map(&step, (TENTHS * LEFT, TENTHS * (WIDTH - RIGHT)))) / f64::from(TENTHS)
}

fn y(axis: &LossAxis, value: f64) -> f64 {
    f64::from(axis.map(&value, (TENTHS * (HEIGHT - BOTTOM), TENTHS * TOP))) / f64::from(TENTHS)
}

fn write_axes(svg: &mut String, across: &StepAxis, up: &LossAxis) {
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for tick in up.key_points(BoldPoints(0)) {
        let (y, label) = (y(up, tick), up.format_ext(&tick));
        _ = write!(svg, r#"<path class="rule" d="M{LEFT} {y}H{right}"/>"#);
        _ = write!(svg, r#"<text x="{}" y="{}" text-anchor="end">{label}</text>"#, LEFT - 7, y + 4.5);
    }
    for tick in across.key_points(BoldPoints(0)) {
        let (x, label) = (x(across, tick), across.format_ext(&tick));
        _ = write!(svg, r#"<path class="rule" d="M{x} {bottom}v4"/>"#);
        _ = write!(svg, r#"<text x="{x}" y="{}" text-anchor="middle">{label}</text>"#, bottom + 19);
    }
    _ = write!(svg, r#"<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>"#);
}

fn write_line(svg: &mut String, line: &Line, across: &StepAxis, up: &LossAxis) {
    let Line { class, points } = line;
    let places = || points.iter().map(|(step, value)| (x(across, *step), y(up, *value)));
    if let [_] = points[..] {
        places().for_each(|(x, y)| _ = write!(svg, r#"<circle class="{class}" cx="{x}" cy="{y}" r="4"/>"#));
        return;
    }
    if points.is_empty() {
        return;
    }
    _ = write!(svg, r#"<path class="line {class}" d=""#);
    for (index, (x, y)) in places().enumerate() {
        _ = write!(svg, "{}{x} {y}", if index == 0 { 'M' } else { 'L' });
    }
    svg.push_str(r#""/>"#);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_axes_and_ends_at_their_ends() {
        let line = |points: &[(u64, f64)]| Line { class: "mean".into(), points: points.to_vec() };
        let (drawn, is_logarithmic) = svg("loss", &[line(&[(0, 1.0), (50, 0.1), (100, 0.01)])], Scale::AsValuesAre);
        assert!(!svg("rate", &[line(&[(0, 1.0), (100, 0.01)])], Scale::Linear).1);
        assert!(is_logarithmic);
        let path = drawn.split(r#"<path class="line mean" d=""#).nth(1).expect("a path");
        let path = &path[..path.find('"').expect("its end")];
        let places: Vec<(f64, f64)> = path[1..]
            .split('L')
            .map(|place| place.split_once(' ').expect("two numbers"))
            .map(|(x, y)| (x.parse().expect("x"), y.parse().expect("y")))
            .collect();
        assert_eq!((places[0].0, places[2].0), (58.0, 452.0));
        assert!(places.windows(2).all(|pair| pair[0].1 < pair[1].1), "downwards: {places:?}");
        // On a logarithmic axis the middle one is in the middle.
        assert!((places[0].1 + places[2].1 - 2.0 * places[1].1).abs() < 0.3, "{places:?}");
        assert!(places.iter().all(|(_, y)| (10.0..=230.0).contains(y)), "{places:?}");
        assert!(drawn.contains(">100</text>") && drawn.contains(">0.1</text>"), "{drawn}");
    }

    #[test]
    fn one_point_is_a_dot_and_none_are_empty_axes() {
        let line = |points: &[(u64, f64)]| Line { class: "mean".into(), points: points.to_vec() };
        let (dot, _) = svg("loss", &[line(&[(1, 0.5)])], Scale::AsValuesAre);
        assert!(dot.contains("<circle") && !dot.contains("NaN"), "{dot}");
        let (empty, _) = svg("loss", &[line(&[])], Scale::Linear);
        assert!(!empty.contains("<circle") && !empty.contains("line mean") && !empty.contains("NaN"), "{empty}");
    }
}
