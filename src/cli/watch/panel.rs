//! One run on the screen: as many of its panels as there is room for.

use image::Rgb;
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, LineGauge, Paragraph, Wrap};

use super::summary;
use super::view::{Smoothing, View};
use crate::cli::curve::{Point, bounds, extremes, means, number, points, smoothed, sparkline};
use crate::cli::half_blocks::{self, Colors, Mosaic};
use diffuse::train::{Row, Standing};

/// How all runs are shown.
#[derive(Clone, Copy)]
pub struct Look {
    pub smoothing: Smoothing,
    pub colors: Colors,
}

/// Sizes from which on a run has a column beside its losses, and charts of what else is measured.
const TWO_COLUMNS: u16 = 64;
const CHARTS: [u16; 2] = [100, 40];

const CURVE: Color = Color::Cyan;
const CLOUD: Color = Color::DarkGray;

/// The rows and columns of a run, before its panels are drawn.
struct Places {
    head: Rect,
    loss: Rect,
    traces: Rect,
    events: Rect,
    levels: Rect,
    grid: Rect,
}

/// `height` if there are as many rows as `from`, else nothing.
fn rows_from(there: u16, from: u16, height: u16) -> u16 {
    if there >= from { height } else { 0 }
}

/// What is beside or below the losses: losses by level, if there are some, and the grid, if there is one.
fn places(area: Rect, has_levels: bool, has_grid: bool) -> Places {
    let [head, body] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    let has_column = area.width >= TWO_COLUMNS && (has_levels || has_grid);
    let wide = (area.width * 2 / 5).clamp(28, 100);
    let [main, column] =
        Layout::horizontal([Constraint::Fill(1), Constraint::Length(if has_column { wide } else { 0 })])
            .spacing(u16::from(has_column))
            .areas(body);
    let traces = match area {
        Rect { width, height, .. } if width >= CHARTS[0] && height >= CHARTS[1] => 9,
        Rect { height, .. } => rows_from(height, 16, 3),
    };
    let events = rows_from(area.height, 10, 1) + rows_from(area.height, 20, 2) + rows_from(area.height, 40, 2);
    let below = if has_column { 0 } else { rows_from(area.height, 26, 9) * u16::from(has_levels) };
    let under = if has_column { 0 } else { rows_from(area.height, 38, 12) * u16::from(has_grid) };
    let [loss, levels, grid, traces, events] = Layout::vertical(
        [Constraint::Fill(1)].into_iter().chain([below, under, traces, events].map(Constraint::Length)),
    )
    .areas(main);
    if !has_column {
        return Places { head, loss, traces, events, levels, grid };
    }
    let high = if has_levels { 9.min(column.height) } else { 0 };
    let [levels, grid] = Layout::vertical([Constraint::Length(high), Constraint::Fill(1)]).areas(column);
    Places { head, loss, traces, events, levels, grid }
}

/// Draws a run in `area`; it is the one that keys are for if it `has_focus`.
pub fn draw(frame: &mut Frame, area: Rect, view: &View, look: Look, has_focus: bool) {
    let monitor = &view.monitor;
    let name = monitor.directory().display().to_string();
    let style = if has_focus { Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED) } else { Style::new() };
    let state = summary::standing(monitor);
    // The end of a path says most.
    let room = usize::from(area.width).saturating_sub(state.chars().count() + 6);
    let skipped = name.chars().count().saturating_sub(room);
    let name: String = name.chars().skip(skipped).collect();
    let block = Block::new()
        .borders(Borders::TOP)
        .title(Span::styled(format!(" {name} "), style))
        .title(Line::from(format!(" {state} ")).alignment(Alignment::Right));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    if monitor.rows().is_empty() {
        let waiting = match monitor.standing() {
            Standing::Missing => format!("waiting for {}: no run is there yet", monitor.directory().display()),
            _ => "waiting for the first steps of this run".into(),
        };
        frame.render_widget(Paragraph::new(waiting).wrap(Wrap { trim: true }), inner);
        return;
    }
    let levels = summary::levels(monitor, look.smoothing);
    let places = places(inner, !levels.is_empty(), !view.images.is_empty());
    head(frame, places.head, view, look);
    let loss = points(monitor.rows(), |row| Some(row.metrics.loss.into()));
    chart(frame, places.loss, "loss", &loss, look);
    traces(frame, places.traces, monitor.rows(), look);
    let newest: Vec<Line> = monitor.events().rev().take(places.events.height.into()).map(Line::from).collect();
    frame.render_widget(Paragraph::new(newest.into_iter().rev().collect::<Vec<_>>()), places.events);
    by_level(frame, places.levels, &levels);
    grid(frame, places.grid, view, look.colors);
}

/// Steps done, and the numbers of the last one: as many as there is room for.
fn head(frame: &mut Frame, area: Rect, view: &View, look: Look) {
    let [bar, line] = Layout::vertical([Constraint::Length(1); 2]).areas(area);
    let monitor = &view.monitor;
    let left = summary::left(monitor).map(|left| format!("  {left}")).unwrap_or_default();
    let label = format!("{}{left}", summary::progress(monitor));
    let gauge = LineGauge::default().ratio(summary::share(monitor)).label(label);
    let gauge = gauge.filled_symbol("━").unfilled_symbol("─").filled_style(Style::new().fg(CURVE));
    frame.render_widget(gauge, bar);
    let mut text = String::new();
    for part in summary::numbers(monitor, look.smoothing) {
        let gap = if text.is_empty() { "" } else { "   " };
        if (text.chars().count() + gap.len() + part.chars().count()) <= usize::from(line.width) {
            text += gap;
            text += &part;
        }
    }
    frame.render_widget(Paragraph::new(text), line);
}

/// A cloud of points and its running mean; by its logarithms where it spans some.
fn chart(frame: &mut Frame, area: Rect, title: &str, all: &[Point], look: Look) {
    let Rect { width, height, .. } = area;
    if width < 12 || height < 4 || all.is_empty() {
        return;
    }
    // Two dots lie side by side in a character.
    let columns = 2 * usize::from(width);
    let mean = means(&smoothed(all, look.smoothing.over(all.len())), columns);
    let cloud = extremes(all, columns);
    let (least, most) = bounds(&cloud);
    let is_logarithmic = least > 0.0 && most > 3.0 * least;
    let scaled = |points: Vec<Point>| -> Vec<Point> {
        let scale = |value: f64| if is_logarithmic { value.log10() } else { value };
        points.into_iter().map(|(step, value)| (step, scale(value))).collect()
    };
    let unscaled = |value: f64| if is_logarithmic { 10f64.powf(value) } else { value };
    let (cloud, mean) = (scaled(cloud), scaled(mean));
    let (low, high) = match bounds(&cloud) {
        (low, high) if high > low => (low, high),
        (low, _) => (low - 0.5 * low.abs().max(1e-9), low + 0.5 * low.abs().max(1e-9)),
    };
    let (first, last) = (all[0].0, all[all.len() - 1].0.max(all[0].0 + 1.0));
    // Without colours the curve is told from the cloud by larger dots.
    let marker = if look.colors == Colors::Shades { Marker::Dot } else { Marker::Braille };
    let sets = vec![
        Dataset::default().marker(Marker::Braille).style(Style::new().fg(CLOUD)).data(&cloud),
        Dataset::default().marker(marker).graph_type(GraphType::Line).style(Style::new().fg(CURVE)).data(&mean),
    ];
    let ticks = if height < 8 { vec![low, high] } else { vec![low, 0.5 * (low + high), high] };
    let ticks: Vec<String> = ticks.into_iter().map(|value| number(unscaled(value))).collect();
    let chart = Chart::new(sets)
        .block(Block::new().title(title.to_string()))
        .x_axis(Axis::default().bounds([first, last]).labels([first, last].map(|step| format!("{step}"))))
        .y_axis(Axis::default().bounds([low, high]).labels(ticks))
        .legend_position(None);
    frame.render_widget(chart, area);
}

/// What else is known of a step, and whether it is measured, so that it is noisy.
type Trace = (&'static str, fn(&Row) -> Option<f64>, bool);
const TRACES: [Trace; 3] = [
    ("gradient norm", |row| Some(row.metrics.gradient_norm.into()), true),
    ("learning rate", |row| Some(row.metrics.learning_rate), false),
    ("images/s", |row| Some(row.images_per_second), true),
];

/// Charts side by side where they have the room, else a line each.
fn traces(frame: &mut Frame, area: Rect, rows: &[Row], look: Look) {
    if area.height > TRACES.len() as u16 {
        let columns = Layout::horizontal([Constraint::Fill(1); TRACES.len()]).spacing(2).split(area);
        for ((name, of, is_noisy), place) in TRACES.iter().zip(columns.iter()) {
            let smoothing = if *is_noisy { look.smoothing } else { Smoothing::NONE };
            chart(frame, *place, name, &points(rows, of), Look { smoothing, ..look });
        }
        return;
    }
    let lines = TRACES.iter().map(|(name, of, is_noisy)| {
        let all = points(rows, of);
        let memory = if *is_noisy { look.smoothing } else { Smoothing::NONE }.over(all.len());
        let last = all.last().map_or_else(String::new, |point| number(point.1));
        trace(&format!("{name:13} {last:>8}"), &smoothed(&all, memory), area.width)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), area);
}

/// A name, and its history in the rest of the line.
fn trace(name: &str, all: &[Point], width: u16) -> Line<'static> {
    let room = usize::from(width).saturating_sub(name.chars().count() + 2);
    Line::from(vec![Span::raw(format!("{name} ")), Span::styled(sparkline(all, room), Style::new().fg(CURVE))])
}

fn by_level(frame: &mut Frame, area: Rect, levels: &[Vec<Point>]) {
    let mut lines = vec![Line::from("loss by noise level, least first")];
    lines.extend(levels.iter().enumerate().map(|(level, all)| {
        let last = all.last().map_or_else(|| "-".into(), |point| number(point.1));
        trace(&format!("{level} {last:>8}"), all, area.width)
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

fn color(Rgb([red, green, blue]): Rgb<u8>, colors: Colors) -> Color {
    match colors {
        Colors::True => Color::Rgb(red, green, blue),
        _ => Color::Indexed(half_blocks::index(Rgb([red, green, blue]))),
    }
}

/// The newest images, below a line that says which they are.
fn grid(frame: &mut Frame, area: Rect, view: &View, colors: Colors) {
    let [title, place] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let mosaic = Mosaic::new(&view.images, [place.width, place.height]);
    let Some(path) = view.monitor.grid().and_then(|grid| grid.path.file_name()).filter(|_| mosaic.count > 0) else {
        return;
    };
    frame.render_widget(Paragraph::new(path.to_string_lossy().into_owned()), title);
    let lines = mosaic.lines.iter().map(|line| {
        Line::from_iter(line.iter().map(|cell| {
            let (character, [front, behind]) = half_blocks::ink(cell, colors);
            let [fg, bg] = [front, behind].map(|ink| ink.map(|ink| color(ink, colors)));
            Span::styled(character.to_string(), Style { fg, bg, ..Style::new() })
        }))
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), place);
}
