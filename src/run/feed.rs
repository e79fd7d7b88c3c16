//! Streams a data set that the device doesn't hold: a thread gathers the images of the next steps while one is computed.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::options::TrainOptions;
use crate::data::{Dataset, ImageBytes};
use crate::error::{Error, Result};
use crate::ops::diffusion::{Records, image_at};

/// Where a batch begins.
pub(super) struct Position {
    pub epoch: u32,
    /// Images of the epoch that are used up.
    pub cursor: u64,
}

impl Position {
    /// Of batch number `counter`, of `batch` images each, of a data set of `images`.
    pub fn of(images: u64, counter: u64, batch: u64) -> Position {
        let before = counter * batch;
        Position { epoch: (before / images) as u32, cursor: before % images }
    }
}

/// Steps that are gathered ahead of the one that is asked for.
const AHEAD: usize = 2;

/// The images of each step, in the order in which the step takes them.
pub struct Feed {
    gather: Gather,
    gathered: Option<Gathered>,
    waited: Duration,
}

/// Steps as a thread gathers them.
struct Gathered {
    next: u64,
    ready: Receiver<Vec<u32>>,
    /// Gives the room of a step back.
    used: Sender<Vec<u32>>,
    thread: JoinHandle<()>,
}

/// What says which images come.
#[derive(Clone)]
struct Gather {
    images: ImageBytes,
    labels: std::sync::Arc<[u32]>,
    seed: u32,
    batch: u64,
    accumulate: u64,
}

impl Feed {
    /// Of `data`, for steps as `options` have them.
    pub fn new(data: &Dataset, options: &TrainOptions) -> Feed {
        let gather = Gather {
            images: data.images.clone(),
            labels: data.labels.as_slice().into(),
            seed: options.seed as u32,
            batch: options.batch as u64,
            accumulate: options.accumulate as u64,
        };
        Feed { gather, gathered: None, waited: Duration::ZERO }
    }

    /// Bytes of all records.
    pub fn whole_bytes(&self) -> u64 {
        Records::words_of(self.gather.labels.len(), self.gather.each()) as u64 * 4
    }

    /// Bytes in memory, all steps that are gathered at once.
    pub fn bytes(&self) -> u64 {
        (AHEAD as u64 + 2) * self.gather.words() as u64 * 4
    }

    /// Gives `take` the records of step `step`, those of all its batches one behind the other.
    ///
    /// # Errors
    /// [`Error::Device`] if no thread can be had.
    pub fn step(&mut self, step: u64, take: impl FnOnce(&[u32])) -> Result<()> {
        if self.gathered.as_ref().is_none_or(|gathered| gathered.next != step) {
            self.stop();
            self.gathered = Some(self.gather.start(step)?);
        }
        let gathered = self.gathered.as_mut().expect("just started");
        let start = Instant::now();
        let records = gathered.ready.recv().map_err(|_| Error::Device("the thread that reads images ended".into()))?;
        self.waited += start.elapsed();
        take(&records);
        gathered.next = step + 1;
        // The thread may have ended, of which the next step hears.
        _ = gathered.used.send(records);
        Ok(())
    }

    /// How long steps have waited for their images.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn stop(&mut self) {
        let Some(Gathered { ready, used, thread, .. }) = self.gathered.take() else { return };
        drop((ready, used));
        // It panics nowhere; if it did, there is nothing to be done about it here.
        _ = thread.join();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gather {
    /// Bytes of an image.
    fn each(&self) -> usize {
        self.images.len() / self.labels.len()
    }

    /// Of a step.
    fn words(&self) -> usize {
        Records::words_of((self.batch * self.accumulate) as usize, self.each())
    }

    /// Starts a thread that gathers from step `first` on.
    fn start(&self, first: u64) -> Result<Gathered> {
        let (send, ready) = sync_channel(AHEAD);
        let (used, unused) = channel();
        // One more than wait: that which is being gathered.
        for _ in 0..=AHEAD {
            _ = used.send(vec![0; self.words()]);
        }
        let own = self.clone();
        let thread = thread::Builder::new().name("images".into()).spawn(move || own.gather_all(first, &send, &unused));
        let thread = thread.map_err(|error| Error::Device(format!("no thread to read images: {error}")))?;
        Ok(Gathered { next: first, ready, used, thread })
    }

    /// Until nobody wants more.
    fn gather_all(&self, first: u64, ready: &SyncSender<Vec<u32>>, unused: &Receiver<Vec<u32>>) {
        for step in first.. {
            let Ok(mut records) = unused.recv() else { return };
            self.gather(step, &mut records);
            if ready.send(records).is_err() {
                return;
            }
        }
    }

    fn gather(&self, step: u64, records: &mut [u32]) {
        let (images, each) = (self.labels.len() as u64, self.each());
        let image_of = |n: u64| {
            let place = Position::of(images, step * self.accumulate + n / self.batch, self.batch);
            image_at(place.cursor + n % self.batch, images, self.seed, place.epoch) as usize
        };
        let chosen = (0..self.accumulate * self.batch).map(image_of);
        Records::pack_into(chosen.map(|image| (&self.images[image * each..][..each], self.labels[image])), records);
    }
}
