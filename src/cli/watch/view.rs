//! A run as it is shown: what is read of it, and the images of its newest grid.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;

use diffuse::picture;
use diffuse::train::{Grid, Monitor, News};

/// Steps that a running mean remembers, as it does: 0 is none.
const MEMORIES: [f64; 6] = [0.0, 0.8, 0.95, 0.98, 0.99, 0.997];

/// How much curves are smoothed.
#[derive(Clone, Copy)]
pub struct Smoothing(usize);

impl Default for Smoothing {
    fn default() -> Smoothing {
        Smoothing(3)
    }
}

impl Smoothing {
    pub const NONE: Smoothing = Smoothing(0);

    pub fn memory(self) -> f64 {
        MEMORIES[self.0]
    }

    /// The same over `count` values: of few it remembers about a tenth at the most.
    pub fn over(self, count: usize) -> f64 {
        self.memory().min(1.0 - 10.0 / count.max(10) as f64)
    }

    pub fn more(self) -> Smoothing {
        Smoothing((self.0 + 1).min(MEMORIES.len() - 1))
    }

    pub fn less(self) -> Smoothing {
        Smoothing(self.0.saturating_sub(1))
    }
}

/// A run.
pub struct View {
    pub monitor: Monitor,
    /// Of its newest grid that could be read.
    pub images: Vec<RgbImage>,
    shown: Option<Grid>,
}

impl View {
    pub fn new(directory: &Path) -> Result<View> {
        Ok(View { monitor: Monitor::new(directory)?, images: Vec::new(), shown: None })
    }

    /// Reads what is new.
    pub fn look(&mut self) -> News {
        let news = self.monitor.look();
        if self.shown.as_ref() != self.monitor.grid() {
            self.shown = self.monitor.grid().cloned();
            // One that is no picture leaves the one before.
            if let Some(picture) = self.shown.as_ref().and_then(|grid| picture::read(&grid.path).ok()) {
                self.images = self.parts(picture);
            }
        }
        news
    }

    /// Its images; of a picture that is no grid of the run, itself.
    fn parts(&self, picture: RgbImage) -> Vec<RgbImage> {
        let tiles =
            self.monitor.sides().and_then(|[height, width]| picture::tiles(&picture, height as usize, width as usize));
        tiles.unwrap_or_else(|| vec![picture])
    }
}
