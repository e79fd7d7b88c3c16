//! How far the decoding of images is, for whoever asked to be told.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// How far the images of a set, or of a part of one, are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decoding {
    /// Images so far, also those that could not be decoded.
    pub images: u64,
    /// Of all there is to read, 0 to 1.
    pub share: f64,
}

/// What is told after each image, from any thread; none when that ends, whatever became of it.
#[derive(Clone, Copy)]
pub struct Watch(pub &'static (dyn Fn(Option<Decoding>) + Sync));

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Counts images that are decoded.
pub(super) struct Watched {
    watch: Option<Watch>,
    images: AtomicU64,
    /// Images and share before those that are decoded now, and behind them.
    before: (u64, f64),
    behind: (u64, f64),
}

impl Watched {
    pub fn new(watch: Option<Watch>) -> Watched {
        Watched { watch, images: AtomicU64::new(0), before: (0, 0.0), behind: (0, 0.0) }
    }

    /// Another `count` images are decoded next, and then `share` of all is.
    pub fn expect(&mut self, count: usize, share: f64) {
        self.before = self.behind;
        self.behind = (self.before.0 + count as u64, share);
    }

    /// One more is decoded, or can't be.
    pub fn count(&self) {
        let Some(Watch(watch)) = self.watch else { return };
        let images = self.images.fetch_add(1, Ordering::Relaxed) + 1;
        let (first, from) = self.before;
        let (last, to) = self.behind;
        let part = images.saturating_sub(first) as f64 / last.saturating_sub(first).max(1) as f64;
        watch(Some(Decoding { images, share: from + (to - from) * part }));
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(Watch(watch)) = self.watch {
            watch(None);
        }
    }
}

/// How much of several files was read, by their bytes.
pub(super) struct Files {
    all: u64,
    before: u64,
    /// Of the current one.
    length: u64,
}

impl Files {
    pub fn new<'a>(paths: impl Iterator<Item = &'a Path>) -> Files {
        Files { all: paths.map(length).sum(), before: 0, length: 0 }
    }

    /// The file at `path` is read next.
    pub fn begin(&mut self, path: &Path) {
        self.before += self.length;
        self.length = length(path);
    }

    /// The share of all, when that much of the current file is read.
    pub fn share(&self, of_current: f64) -> f64 {
        (self.before as f64 + self.length as f64 * of_current) / self.all.max(1) as f64
    }
}

fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |about| about.len())
}
