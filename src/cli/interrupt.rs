//! Ctrl-C.

use super::output::say;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

static STOP: AtomicBool = AtomicBool::new(false);

/// From here on Ctrl-C asks the loop to end instead of ending the program; a second one ends it.
pub fn catch_interrupts() {
    set_handler(|| {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        say("\nfinishing this step, then saving; press Ctrl-C again to end at once");
    });
}

/// As [`catch_interrupts`], without a word: rank 0 speaks for all.
pub fn catch_quietly() {
    set_handler(|| STOP.store(true, Ordering::SeqCst));
}

/// How long a loop may take to end.
const GRACE: Duration = Duration::from_secs(3);

/// As [`catch_quietly`], for a loop that may wait where it never comes back from: `last` is done then, and the program ends.
pub fn catch_or_end(last: impl Fn() + Send + 'static) {
    set_handler(move || {
        STOP.store(true, Ordering::SeqCst);
        std::thread::sleep(GRACE);
        last();
        std::process::exit(1);
    });
}

fn set_handler(handler: impl Fn() + Send + 'static) {
    if let Err(error) = ctrlc::set_handler(handler) {
        log::warn!("Ctrl-C will end the program at once: {error}");
    }
}

/// Whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    STOP.load(Ordering::SeqCst)
}
