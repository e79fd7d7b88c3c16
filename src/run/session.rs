//! A device with the buffers of some networks and the ways that it runs: the one place that plans them, that knows how
//! images, rows and labels of a network lie in a buffer, and what to do with a batch that doesn't fit.

use std::sync::Arc;

use super::fit;
use crate::error::{Error, Result};
use crate::gpu::context::mebibytes;
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Plans, Precision, Recordings, Step, Submission, Tensor};
use crate::ops;
use crate::tune::{self, Policy};

/// Named buffers on a device, and the ways in which kernels run there.
pub struct Session<'a> {
    pub context: &'a Context,
    memory: Memory,
    policy: Policy,
    choices: Arc<Choices>,
}

impl<'a> Session<'a> {
    /// Nothing yet, to run the usual ways in single precision.
    pub fn new(context: &'a Context) -> Session<'a> {
        Session::open(context, &Policy::default(), Precision::F32)
    }

    /// Nothing yet; ways are chosen by `policy`, activations stored at `precision`.
    pub fn open(context: &'a Context, policy: &Policy, precision: Precision) -> Session<'a> {
        Session { policy: policy.clone(), ..Session::with(context, policy.known(context, precision)) }
    }

    /// Nothing yet, to run what `choices` says and measure nothing.
    pub fn with(context: &'a Context, choices: Arc<Choices>) -> Session<'a> {
        Session { context, memory: Memory::default(), policy: Policy::default(), choices }
    }

    /// One that runs the same ways, with buffers of its own.
    pub fn another(&self) -> Session<'a> {
        Session { policy: self.policy.clone(), ..Session::with(self.context, self.choices.clone()) }
    }

    /// The ways that it runs.
    pub fn choices(&self) -> &Arc<Choices> {
        &self.choices
    }

    /// What `record` records in the ways that will run: see [`tune::settle`].
    ///
    /// # Errors
    /// As [`tune::settle`].
    pub fn settle(&mut self, record: impl Fn(&Arc<Choices>) -> Result<Recordings>) -> Result<Recordings> {
        let settled = tune::settle(self.context, &self.policy, &self.choices, record)?;
        self.choices = settled.choices;
        Ok(settled.recordings)
    }

    /// Puts all parts on the device.
    ///
    /// # Errors
    /// [`Error::Device`] if they don't fit: no buffer stays that was made for them.
    pub fn plan(&mut self, recordings: &Recordings) -> Result<Plans> {
        let before = self.memory.clone();
        let plan = |(name, recording)| {
            Ok((name, Plan::new(self.context, recording, &mut self.memory, PlanOptions::default())?))
        };
        let plans: Result<Plans> = recordings.iter().map(plan).collect();
        if plans.is_err() {
            self.memory = before;
        }
        plans
    }

    /// Settles and plans what `record` records for a batch. If that doesn't fit, the error says which smaller one does.
    ///
    /// # Errors
    /// As [`Session::settle`] and [`Session::plan`].
    pub fn fit(
        &mut self,
        batch: u32,
        record: impl Fn(u32, &Arc<Choices>) -> Result<Recordings>,
    ) -> Result<(Recordings, Plans)> {
        let settled = self.settle(|choices| record(batch, choices));
        let planned = settled.and_then(|recordings| self.plan(&recordings).map(|plans| (recordings, plans)));
        let Err(Error::Device(problem)) = planned else { return planned };
        let halves = std::iter::successors(Some(batch / 2), |batch| Some(batch / 2)).take_while(|batch| *batch > 0);
        for smaller in halves {
            let Ok(recordings) = record(smaller, &self.choices) else { continue };
            if self.fits(&recordings, |_| Ok(())) {
                let needs = mebibytes(recordings.peak_bytes());
                let problem = format!("batch {batch} does not fit ({problem}); --batch {smaller} does, with {needs}");
                return Err(Error::Device(problem));
            }
        }
        Err(Error::Device(problem))
    }

    /// Whether all parts fit on the device, with what `beside` makes there. Nothing of it stays.
    pub fn fits(&mut self, recordings: &Recordings, beside: impl FnOnce(&Session) -> Result<()>) -> bool {
        let before = self.memory.clone();
        let fits = fit::may_try(self.context, recordings.peak_bytes())
            && self.plan(recordings).is_ok_and(|_plans| beside(self).is_ok());
        self.memory = before;
        fits
    }

    /// Replays a plan once. Returns at once; the device works on.
    pub fn run(&self, plan: &Plan, step: &Step) -> Submission {
        plan.run(self.context, step)
    }

    /// The named buffers.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Overwrites a buffer from its beginning with what is laid out as the kernels have it.
    pub fn write<T: bytemuck::NoUninit>(&self, name: &str, values: &[T]) {
        self.memory.write(self.context, name, 0, values);
    }

    /// Reads a whole buffer as the kernels have it; waits for all work before it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        self.memory.read(self.context, name)
    }

    /// Overwrites a buffer of rows of `width` numbers: rows of `channels`, those of images from top to bottom, go to their
    /// heads; all else is 0.
    pub fn write_rows(&self, name: &str, values: &[f32], channels: usize, width: usize) {
        let mut all = padded(values, channels, width);
        all.resize(self.memory.buffer(name).size() as usize / 4, 0.0);
        self.write(name, &all);
    }

    /// Overwrites pixels of a buffer of images from pixel `first` on; what is behind them stays.
    pub fn write_rows_at(&self, name: &str, first: usize, values: &[f32], channels: usize) {
        let first = first * channels.next_multiple_of(4);
        self.memory.write(self.context, name, first as u64, &padded(values, channels, channels));
    }

    /// Reads `count` pixels of a buffer of images from pixel `first` on, without padding.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn read_rows_at(&self, name: &str, first: usize, count: usize, channels: usize) -> Result<Vec<f32>> {
        let [first, count] = [first, count].map(|pixels| (pixels * channels.next_multiple_of(4)) as u64);
        Ok(unpadded(&self.memory.read_at(self.context, name, first, count)?, 0..channels, channels))
    }

    /// What [`Session::write_rows`] wrote, or a kernel: of rows of `width` numbers those of the channels `own`.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn read_rows(&self, name: &str, own: std::ops::Range<usize>, width: usize) -> Result<Vec<f32>> {
        Ok(unpadded(&self.read(name)?, own, width))
    }

    /// What a plan left in a tensor, without padding.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn read_tensor(&self, plan: &Plan, tensor: Tensor) -> Result<Vec<f32>> {
        let channels = tensor.channels() as usize;
        Ok(unpadded(&plan.read(self.context, tensor)?, 0..channels, channels))
    }

    /// Writes the classes of a batch, [1, 1, 1, N].
    pub fn write_labels(&self, name: &str, labels: impl Iterator<Item = u32>) {
        let mut labels: Vec<u32> = labels.collect();
        labels.resize(labels.len().next_multiple_of(4), 0);
        self.write(name, &labels);
    }
}

/// All kernels, as [`ops::digest`] says it.
pub fn kernels() -> String {
    ops::digest()
}

/// The labels of `count` images from number `first` on; surplus places repeat the last.
pub fn labels_of(labels: &[u32], first: usize, count: usize) -> impl Iterator<Item = u32> {
    (first..first + count).map(|i| labels[i.min(labels.len() - 1)])
}

/// Rows of `channels` numbers at the heads of rows of `width`, the rest 0.
fn padded(values: &[f32], channels: usize, width: usize) -> Vec<f32> {
    let width = width.next_multiple_of(4);
    let mut padded = vec![0.0; values.len() / channels * width];
    for (to, from) in padded.chunks_exact_mut(width).zip(values.chunks_exact(channels)) {
        to[..channels].copy_from_slice(from);
    }
    padded
}

/// The channels `own` of each row of `width` numbers.
fn unpadded(values: &[f32], own: std::ops::Range<usize>, width: usize) -> Vec<f32> {
    let rows = values.chunks_exact(width.next_multiple_of(4));
    rows.flat_map(|row| row[own.clone()].iter().copied()).collect()
}
