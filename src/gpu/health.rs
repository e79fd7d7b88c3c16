//! What a device said of its failures, and how a panic of wgpu becomes one.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, Once};

use crate::error::{Error, Result};

/// Whether a device works, as far as that is known. A clone is of the same device.
#[derive(Clone, Default)]
pub(crate) struct Health(Arc<Mutex<Option<Failure>>>);

struct Failure {
    is_loss: bool,
    message: String,
}

impl Health {
    /// Something went wrong; the device may work on. The first such word stands.
    pub fn fail(&self, message: impl ToString) {
        self.remember(Failure { is_loss: false, message: message.to_string() });
    }

    /// The device will never work again. That says more than any failure before.
    pub fn lose(&self, message: impl ToString) {
        self.remember(Failure { is_loss: true, message: message.to_string() });
    }

    fn remember(&self, failure: Failure) {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*known {
            Some(before) if before.is_loss || !failure.is_loss => {}
            _ => *known = Some(failure),
        }
    }

    /// # Errors
    /// [`Error::Lost`] if the device is lost, [`Error::Device`] if something else went wrong.
    pub fn check(&self) -> Result<()> {
        match &*self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some(Failure { is_loss: true, message }) => Err(Error::Lost(message.clone())),
            Some(Failure { message, .. }) => Err(Error::Device(message.clone())),
            None => Ok(()),
        }
    }

    /// What `call` gives. wgpu 30 panics where a driver fails while it is polled (and where its own command buffers can't be begun):
    /// then the device is lost, and there is nothing to give.
    pub fn guard<T>(&self, call: impl FnOnce() -> T) -> Option<T> {
        hush_guarded();
        let was = GUARDED.replace(true);
        let given = panic::catch_unwind(AssertUnwindSafe(call));
        GUARDED.set(was);
        if let Err(panic) = &given {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("wgpu gave up");
            self.lose(words.lines().next().unwrap_or_default());
        }
        given.ok()
    }
}

thread_local! {
    /// Whether a panic of this thread is caught and becomes an error.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic that becomes an error is not printed as well.
fn hush_guarded() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                usual(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stands_until_the_device_is_lost() {
        let health = Health::default();
        health.check().unwrap();
        health.fail("one");
        health.fail("two");
        assert!(matches!(health.check(), Err(Error::Device(message)) if message == "one"));
        health.lose("three");
        health.lose("four");
        health.fail("five");
        assert!(matches!(health.clone().check(), Err(Error::Lost(message)) if message == "three"));
    }

    #[test]
    fn a_guarded_panic_is_a_loss() {
        let health = Health::default();
        assert_eq!(health.guard(|| 3), Some(3));
        health.check().unwrap();
        assert_eq!(health.guard(|| -> u32 { panic!("of {}\nlines", "two") }), None);
        assert!(matches!(health.check(), Err(Error::Lost(message)) if message == "of two"));
    }
}
