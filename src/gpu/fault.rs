//! A device that errs, for tests of what notices it.

use std::sync::atomic::{AtomicU32, Ordering};

use super::context::Context;
use crate::error::Result;

/// Words that stand where they should not, behind one dispatch of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Number of the dispatch, and of its binding.
    pub dispatch: usize,
    pub binding: usize,
    /// The first of the bound tensor and how many, in words of 4 bytes: two halves in half precision.
    pub word: u64,
    pub words: u64,
    pub bits: u32,
    /// Runs of the dispatch before the first that errs, and how many err.
    pub after: u32,
    pub times: u32,
}

/// A fault on a device.
pub(crate) struct Injected {
    fault: Fault,
    words: wgpu::Buffer,
    to: wgpu::Buffer,
    offset: u64,
    runs: AtomicU32,
}

impl Injected {
    /// Into the tensor that begins at `offset` of `to`.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(context: &Context, fault: Fault, to: wgpu::Buffer, offset: u64) -> Result<Injected> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let words = context.create_buffer("fault", 4 * fault.words, usage)?;
        context.write(&words, 0, &fault.bits.to_le_bytes().repeat(fault.words as usize));
        Ok(Injected { fault, words, to, offset: offset + 4 * fault.word, runs: AtomicU32::new(0) })
    }

    pub fn dispatch(&self) -> usize {
        self.fault.dispatch
    }

    /// Whether this run of the dispatch errs; counts it.
    pub fn strikes(&self) -> bool {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        run >= self.fault.after && run - self.fault.after < self.fault.times
    }

    /// What stands where: the words, the buffer and the byte that they go to.
    pub fn error(&self) -> (&wgpu::Buffer, &wgpu::Buffer, u64) {
        (&self.words, &self.to, self.offset)
    }
}
