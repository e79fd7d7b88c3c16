//! The curves of a run.

use std::fmt::Write as _;

use crate::chart::{Line, Scale, Thinned, significant, svg, whole};
use crate::train::curves::Curves;

/// Writes a chart of each.
pub(super) fn write(page: &mut String, curves: &Curves) {
    page.push_str("<section><h2>Curves</h2><div class=\"charts\">");
    let as_is = Scale::AsValuesAre;
    write_chart(page, ("Loss", as_is), &raw_and_smoothed(&curves.loss), &legend(&curves.loss));
    if curves.by_level.iter().any(|level| level.last().is_some()) {
        write_levels(page, &curves.by_level);
    }
    let norm = &curves.gradient_norm;
    write_chart(page, ("Gradient norm", as_is), &raw_and_smoothed(norm), &legend(norm));
    let rate = Line { class: "smoothed".into(), points: curves.learning_rate.points() };
    let now = curves.learning_rate.last().map_or(String::new(), |(_, rate)| format!("now {}", significant(rate, 3)));
    // It may fall to nearly nothing, which ratios would be all about.
    write_chart(page, ("Learning rate", Scale::Linear), &[rate], &now);
    let pace = &curves.images_per_second;
    write_chart(page, ("Images a second", Scale::Linear), &raw_and_smoothed(pace), &legend(pace));
    page.push_str("</div></section>");
}

/// `legend` is markup.
fn write_chart(page: &mut String, (title, scale): (&str, Scale), lines: &[Line], legend: &str) {
    let (drawn, is_logarithmic) = svg(title, lines, scale);
    let scale = if is_logarithmic { " <small>log scale</small>" } else { "" };
    let figure = format!("<figure><h3>{title}{scale}</h3>{drawn}<figcaption>{legend}</figcaption></figure>");
    page.push_str(&figure);
}

fn raw_and_smoothed(curve: &Thinned) -> [Line; 2] {
    let line = |class: &str, points| Line { class: class.into(), points };
    [line("raw", curve.points()), line("smoothed", curve.smoothed())]
}

fn key(class: &str, text: &str) -> String {
    format!("<span><i class=\"{class}\"></i>{text}</span>")
}

fn legend(curve: &Thinned) -> String {
    let smoothed = curve.smoothed();
    let Some((step, value)) = smoothed.last() else { return "no finite number".into() };
    let last = format!("smoothed: {} at step {}", significant(*value, 3), whole(*step));
    format!("{}{}", key("raw", "each step"), key("smoothed", &last))
}

/// The means alone: a step has few images of a level.
fn write_levels(page: &mut String, levels: &[Thinned]) {
    let classes = (0..levels.len()).map(|level| format!("level level{level}"));
    let lines: Vec<Line> = classes.zip(levels).map(|(class, level)| Line { class, points: level.smoothed() }).collect();
    let mut legend = String::new();
    for (index, Line { class, points }) in lines.iter().enumerate() {
        let last = points.last().map_or("none".into(), |(_, loss)| significant(*loss, 2));
        let name = match index {
            0 => format!("least noise {last}"),
            _ if index + 1 == lines.len() => format!("most noise {last}"),
            _ => last,
        };
        _ = write!(legend, "{}", key(class, &name));
    }
    write_chart(page, ("Loss by noise level, smoothed", Scale::AsValuesAre), &lines, &legend);
}
