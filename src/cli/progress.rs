//! A bar on a terminal, plain lines elsewhere; always on stderr.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::live::Live;
use super::output::say;
use diffuse::run::Metrics;
use diffuse::train::Watch;

/// Lines on something that is no terminal come this far apart.
const INTERVAL: Duration = Duration::from_secs(10);

/// Progress of `length` steps.
pub struct Progress {
    bar: ProgressBar,
    plain: bool,
    last: Instant,
    length: u64,
    start: Instant,
    first: u64,
    /// What stands below the bar.
    live: Option<Live>,
}

/// What stands in a line of a bar before its message, and with nothing behind it.
const BAR: &str = "{prefix} {bar:30} {pos}/{len}";
const TIME: &str = "{elapsed} + {eta} left";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are fixed").progress_chars("━╸─")
}

impl Progress {
    /// `what` is done `length` times, `first` of them already.
    pub fn new(what: &str, first: u64, length: u64) -> Progress {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length), target);
        bar.set_style(style(&format!("{BAR}  {{msg}}  {TIME}")));
        bar.set_prefix(what.to_string());
        bar.set_position(first);
        bar.reset_eta();
        let now = Instant::now();
        Progress { bar, plain, last: now, length, start: now, first, live: None }
    }

    /// With more of the run in lines below the bar, where there is a terminal.
    pub fn live(self) -> Progress {
        if self.plain {
            return self;
        }
        self.bar.set_style(style(&format!("{BAR}  {TIME}\n{{msg}}")));
        Progress { live: Some(Live::default()), ..self }
    }

    /// `done` of all are done; `message` says how it goes.
    pub fn set(&mut self, done: u64, message: impl FnOnce() -> String) {
        if !self.plain {
            self.bar.set_position(done);
            self.bar.set_message(message());
            return;
        }
        if self.last.elapsed() >= INTERVAL || done == self.length {
            self.last = Instant::now();
            let each = self.start.elapsed().as_secs_f64() / (done - self.first).max(1) as f64;
            let left = each * (self.length - done) as f64;
            let message = message();
            let gap = if message.is_empty() { "" } else { "  " };
            say(format_args!("{} {done}/{}  {message}{gap}{left:.0} s left", self.bar.prefix(), self.length));
        }
    }

    /// The same of work that says only now, `of`, how long it is, and may be followed by other work.
    pub fn set_of(&mut self, done: u64, of: u64) {
        if of != self.length {
            self.finish();
            *self = Progress::new(&self.bar.prefix(), 0, of);
        }
        self.set(done, String::new);
    }

    /// A line above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Watch for Progress {
    fn step(&mut self, metrics: &Metrics, images_per_second: f64) {
        let Metrics { step, loss, .. } = *metrics;
        if let Some(live) = &mut self.live {
            live.add(metrics, images_per_second);
            let width = ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| columns.into());
            let text = live.text(width);
            return self.set(step, || text);
        }
        self.set(step, || format!("loss {loss:.4}  {images_per_second:.1} images/s"));
    }

    fn note(&mut self, line: &str) {
        self.say(line);
    }

    fn drawing(&mut self, done: u64, of: u64) {
        let message = format!("drawing samples {done}/{of}");
        if !self.plain {
            self.bar.set_message(message);
        } else if self.last.elapsed() >= INTERVAL {
            self.last = Instant::now();
            say(message);
        }
    }

    fn stop(&self) -> bool {
        super::interrupt::interrupted()
    }
}
