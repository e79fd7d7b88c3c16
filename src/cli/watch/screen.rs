//! All runs on the screen, and what keys do to it.

use ratatui::Frame;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::text::Line;

use super::panel::{self, Look};
use super::view::View;

/// Narrower runs are not put side by side.
const NARROWEST: u16 = 38;

/// What is shown of the runs, and how.
pub struct Screen {
    pub views: Vec<View>,
    look: Look,
    /// The run that keys are for.
    focus: usize,
    /// Whether it has all of the screen.
    is_alone: bool,
}

impl Screen {
    pub fn new(views: Vec<View>, look: Look) -> Screen {
        Screen { views, look, focus: 0, is_alone: false }
    }

    /// Does what a key says; whether it says to go on.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let count = self.views.len();
        match key.code {
            _ if key.kind == KeyEventKind::Release => {}
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if control => return false,
            KeyCode::Tab => self.focus = (self.focus + 1) % count,
            KeyCode::BackTab => self.focus = (self.focus + count - 1) % count,
            KeyCode::Enter => self.is_alone = !self.is_alone,
            KeyCode::Char('s') => self.look.smoothing = self.look.smoothing.more(),
            KeyCode::Char('S') => self.look.smoothing = self.look.smoothing.less(),
            _ => {}
        }
        true
    }

    /// Which runs are side by side where there are so many columns.
    fn shown(&self, width: u16) -> std::ops::Range<usize> {
        let most = if self.is_alone { 1 } else { usize::from((width / NARROWEST).max(1)).min(self.views.len()) };
        let first = self.focus - self.focus % most;
        let first = first.min(self.views.len() - most);
        first..first + most
    }

    pub fn draw(&self, frame: &mut Frame) {
        let [all, footer] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
        let shown = self.shown(all.width);
        let places = Layout::horizontal(vec![Constraint::Fill(1); shown.len()]).spacing(2).split(all);
        for (index, place) in shown.zip(places.iter()) {
            let has_focus = self.views.len() > 1 && index == self.focus;
            panel::draw(frame, *place, &self.views[index], self.look, has_focus);
        }
        frame.render_widget(Line::from(self.keys(footer.width)), footer);
    }

    /// What the keys do, the most wanted first.
    fn keys(&self, width: u16) -> String {
        let memory = self.look.smoothing.memory();
        let runs = (self.views.len() > 1).then(|| "Tab: next run   Enter: one or all".to_string());
        let parts = [Some("q: end".into()), runs, Some(format!("s/S: smoothing more/less ({memory})"))];
        let mut text = String::new();
        for part in parts.into_iter().flatten() {
            if text.len() + part.len() + 3 <= usize::from(width) {
                text += &format!("{}{part}", if text.is_empty() { "" } else { "   " });
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use image::{Rgb, RgbImage};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;
    use ratatui::style::Color;

    use super::*;
    use crate::cli::half_blocks::Colors;
    use crate::cli::watch::view::Smoothing;

    /// A run of 300 steps of 400, with losses by level and a grid of six red images, of 8 x 8 pixels.
    fn write_run(run: &Path) {
        let header = "step,loss,grad_norm,lr,images_per_s,loss_0,loss_1,loss_2,loss_3,loss_4,loss_5,loss_6,loss_7\n";
        let line = |step: u32| {
            let loss = 1.0 / f64::from(step);
            format!("{step},{loss},1.25,2.5e-4,100.0,{loss},,0.2,0.3,0.4,0.5,0.6,0.7\n")
        };
        fs::create_dir_all(run.join("samples")).unwrap();
        fs::create_dir_all(run.join("checkpoint")).unwrap();
        let config = r#"{"steps": 400, "batch": 50, "model": {"sample_size": 8}}"#;
        fs::write(run.join("config.json"), config).unwrap();
        fs::write(run.join("metrics.csv"), header.to_string() + &(1..=300).map(line).collect::<String>()).unwrap();
        fs::write(run.join("checkpoint/trainer.json"), r#"{"step": 250, "mean_loss": 0.5}"#).unwrap();
        let grid = RgbImage::from_pixel(3 * 66 - 2, 2 * 66 - 2, Rgb([250, 0, 0]));
        diffuse::picture::write_png(&run.join("samples/step_000200.png"), &grid).unwrap();
    }

    fn screen(runs: &[&Path], colors: Colors) -> Screen {
        let mut views: Vec<View> = runs.iter().map(|run| View::new(run).expect("no file")).collect();
        views.iter_mut().for_each(|view| _ = view.look());
        Screen::new(views, Look { smoothing: Smoothing::default(), colors })
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    fn lines(buffer: &Buffer) -> Vec<String> {
        let line = |y: u16| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..buffer.area.height).map(line).collect()
    }

    fn text(screen: &Screen, width: u16, height: u16) -> String {
        lines(&drawn(screen, width, height)).join("\n")
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn a_usual_terminal_shows_everything() {
        let place = tempfile::tempdir().expect("a place");
        write_run(place.path());
        let screen = screen(&[place.path()], Colors::True);
        let buffer = drawn(&screen, 80, 24);
        let lines = lines(&buffer);
        let all = lines.join("\n");
        // 100 steps of 50 images, 100 a second.
        assert!(lines[1].contains("step 300 of 400 (75 %)  50 s left ━━━") && lines[1].contains("━─"), "{all}");
        assert!(lines[2].contains("loss 0.0033, smoothed 0.0") && lines[2].contains("100.0 images/s"), "{all}");
        for part in [
            "loss by noise level, least first",
            "step_000200.png",
            "gradient norm     1.25 ▄▄",
            "learning rate  2.50e-4 ▄▄",
            "images/s           100 ▄▄",
            "checkpoint of step 250, mean loss 0.5000",
            "drew samples/step_000200.png",
            "1        -",
            "7   0.7000 ▄▄",
            "0.0033│",
            "under way",
            "q: end   s/S: smoothing more/less (0.98)",
        ] {
            assert!(all.contains(part), "no {part:?} in\n{all}");
        }
        let level = lines.iter().find(|line| line.contains(" 0   0.")).unwrap_or_else(|| panic!("{all}"));
        assert!(level.trim_end().ends_with('▁') && level.contains('█'), "a loss that falls: {level}");
        let is_red = |color: Color| color == Color::Rgb(250, 0, 0);
        let red = buffer.content.iter().filter(|cell| cell.symbol() == "▀" && is_red(cell.fg) && is_red(cell.bg));
        assert_eq!(red.count(), 6 * 8 * 4, "six images, in half blocks:\n{all}");
        let braille =
            |cell: &&ratatui::buffer::Cell| ('\u{2801}'..='\u{28ff}').contains(&cell.symbol().chars().next().unwrap());
        let of = |color: Color| buffer.content.iter().filter(braille).filter(|cell| cell.fg == color).count();
        assert!(of(Color::Cyan) > 30 && of(Color::DarkGray) > 10, "a curve and a cloud:\n{all}");
    }

    #[test]
    fn without_colors_pictures_are_grey_and_the_curve_has_dots_of_its_own() {
        let place = tempfile::tempdir().expect("a place");
        write_run(place.path());
        let buffer = drawn(&screen(&[place.path()], Colors::Shades), 80, 24);
        let all = lines(&buffer).join("\n");
        assert_eq!(all.matches('░').count(), 6 * 8 * 4, "{all}");
        assert!(all.matches('•').count() > 20 && !all.contains('▀'), "{all}");
        let indexed = drawn(&screen(&[place.path()], Colors::Indexed), 80, 24);
        assert!(indexed.content.iter().any(|cell| cell.fg == Color::Indexed(196)));
    }

    #[test]
    fn panels_are_dropped_where_there_is_no_room_and_grow_where_there_is() {
        let place = tempfile::tempdir().expect("a place");
        write_run(place.path());
        let screen = screen(&[place.path()], Colors::True);
        let small = text(&screen, 40, 12);
        assert!(small.contains("step 300 of 400") && small.contains("0.0033│"), "{small}");
        assert!(!small.contains("noise level") && !small.contains("gradient norm"), "{small}");
        assert!(small.contains("drew samples"), "the last line of events:\n{small}");
        let large = text(&screen, 200, 60);
        assert!(large.contains("noise level") && large.contains("learning rate") && large.contains("step_000200.png"));
        assert!(large.matches('│').count() > 40 && !large.contains("gradient norm     1.25"), "four charts:\n{large}");
        // A column of a wide terminal has the panels below each other.
        let tall = text(&screen, 50, 60);
        assert!(tall.contains("noise level") && tall.contains("step_000200.png") && tall.contains('▀'), "{tall}");
        for (width, height) in [(1, 1), (2, 3), (5, 24), (12, 5), (300, 4), (11, 80), (29, 9)] {
            drawn(&screen, width, height);
        }
    }

    #[test]
    fn a_run_of_old_has_no_levels_and_one_that_is_not_there_is_waited_for() {
        let place = tempfile::tempdir().expect("a place");
        let (old, none) = (place.path().join("old"), place.path().join("none"));
        fs::create_dir(&old).unwrap();
        fs::write(old.join("metrics.csv"), "step,loss,grad_norm,lr,images_per_s\n1,0.5,1,1e-3,10\n2,nan,1,1e-3,10\n")
            .unwrap();
        let one = text(&screen(&[&old], Colors::True), 80, 24);
        assert!(
            one.contains("2 steps") && one.contains("loss NaN, smoothed 0.5000") && !one.contains("noise level"),
            "{one}"
        );
        let waiting = text(&screen(&[&none], Colors::True), 80, 24);
        assert!(waiting.contains("no run is there yet"), "{waiting}");
        fs::create_dir(&none).unwrap();
        fs::write(none.join("config.json"), r#"{"steps": 9}"#).unwrap();
        let begun = text(&screen(&[&none], Colors::True), 80, 24);
        assert!(begun.contains("waiting for the first steps"), "{begun}");
    }

    #[test]
    fn runs_stand_side_by_side_and_keys_choose_one() {
        let place = tempfile::tempdir().expect("a place");
        let runs = ["one", "two", "three"].map(|name| place.path().join(name));
        runs.iter().for_each(|run| write_run(run));
        let mut screen = screen(&runs.each_ref().map(|run| run.as_path()), Colors::True);
        let titles = |screen: &Screen, width: u16| {
            let first = lines(&drawn(screen, width, 24)).swap_remove(0);
            ["/one ", "/two ", "/three "].map(|name| first.contains(name))
        };
        assert_eq!(titles(&screen, 120), [true; 3]);
        assert_eq!(titles(&screen, 80), [true, true, false]);
        assert_eq!(titles(&screen, 60), [true, false, false]);
        let focused = |screen: &Screen| {
            let buffer = drawn(screen, 120, 24);
            let marked = (0..120).filter(|x| buffer[(*x, 0)].modifier.contains(ratatui::style::Modifier::REVERSED));
            marked.map(|x| buffer[(x, 0)].symbol()).collect::<String>().trim().rsplit('/').next().unwrap().to_string()
        };
        assert_eq!(focused(&screen), "one");
        assert!(screen.press(key(KeyCode::Tab)) && screen.press(key(KeyCode::Tab)));
        assert_eq!((focused(&screen).as_str(), titles(&screen, 80)), ("three", [false, true, true]));
        screen.press(key(KeyCode::Enter));
        assert_eq!(titles(&screen, 120), [false, false, true]);
        screen.press(key(KeyCode::BackTab));
        assert_eq!(titles(&screen, 120), [false, true, false]);
        screen.press(key(KeyCode::Tab));
        screen.press(key(KeyCode::Tab));
        assert_eq!(titles(&screen, 120), [true, false, false]);
    }

    #[test]
    fn keys_smooth_and_end() {
        let place = tempfile::tempdir().expect("a place");
        write_run(place.path());
        let mut screen = screen(&[place.path()], Colors::True);
        let before = text(&screen, 80, 24);
        assert!(screen.press(key(KeyCode::Char('s'))));
        let more = text(&screen, 80, 24);
        assert!(more.contains("(0.99)") && more != before);
        (0..9).for_each(|_| _ = screen.press(key(KeyCode::Char('S'))));
        assert!(
            text(&screen, 80, 24).contains("(0)") && text(&screen, 80, 24).contains("loss 0.0033, smoothed 0.0033")
        );
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!screen.press(key(KeyCode::Char('q'))) && !screen.press(key(KeyCode::Esc)) && !screen.press(control_c));
        assert!(screen.press(key(KeyCode::Char('c'))) && screen.press(key(KeyCode::F(5))));
    }
}
