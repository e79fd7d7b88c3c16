//! A bar on a terminal while images are decoded, if that takes a while.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use diffuse::data::{Decoding, Watch};
use diffuse::error::counted;

/// What takes less is done before anyone has read it.
const PATIENCE: Duration = Duration::from_millis(500);
/// The bar moves this often at the most.
const INTERVAL: Duration = Duration::from_millis(50);
/// Steps of the bar.
const LENGTH: u64 = 10_000;

/// Decoding under way.
struct Bar {
    bar: ProgressBar,
    begun: Instant,
    last: Option<Instant>,
}

/// What draws the bar; none where stderr is no terminal.
pub fn watch() -> Option<Watch> {
    let bar: Mutex<Option<Bar>> = Mutex::default();
    // A command asks once or twice, and any thread may be told until it ends.
    let draw = || -> Watch { Watch(Box::leak(Box::new(move |decoding| show(&bar, decoding)))) };
    std::io::stderr().is_terminal().then(draw)
}

fn show(bar: &Mutex<Option<Bar>>, decoding: Option<Decoding>) {
    let Some(decoding) = decoding else { return finish(bar) };
    // A thread that finds another one drawing goes on with its work.
    let Ok(mut bar) = bar.try_lock() else { return };
    bar.get_or_insert_with(Bar::new).set(decoding);
}

fn finish(bar: &Mutex<Option<Bar>>) {
    if let Ok(mut bar) = bar.lock()
        && let Some(Bar { bar, .. }) = bar.take()
    {
        bar.finish_and_clear();
    }
}

impl Bar {
    fn new() -> Bar {
        let bar = ProgressBar::with_draw_target(Some(LENGTH), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("reading {bar:30} {percent}%  {msg}  {elapsed} + {eta} left");
        bar.set_style(style.expect("the template is fixed").progress_chars("━╸─"));
        Bar { bar, begun: Instant::now(), last: None }
    }

    fn set(&mut self, Decoding { images, share }: Decoding) {
        let since = self.last.unwrap_or(self.begun).elapsed();
        if since < if self.last.is_none() { PATIENCE } else { INTERVAL } {
            return;
        }
        if self.last.is_none() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.last = Some(Instant::now());
        self.bar.set_message(counted(images, "image"));
        self.bar.set_position((share * LENGTH as f64) as u64);
    }
}
