//! Room on the host for parts of buffers, which a step sends off while the device works on.

use super::context::{Context, Submission};
use super::memory::with_mapped;
use super::work::Work;
use crate::error::Result;

/// Numbers on their way to the host.
pub struct Staging {
    buffer: wgpu::Buffer,
}

impl Staging {
    /// Room for so many f32.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(context: &Context, count: u64) -> Result<Staging> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        Ok(Staging { buffer: context.create_buffer("staging", count * 4, usage)? })
    }

    /// Has the device copy `count` f32 of `from`, from number `first` on, to place `to`.
    pub fn copy(&self, work: &mut Work, from: &wgpu::Buffer, (first, count): (u64, u64), to: u64) {
        work.copy(from, first * 4, &self.buffer, to * 4, count * 4);
    }

    /// Asks for what was handed over to be copied.
    pub fn ask(&self) {
        self.buffer.map_async(wgpu::MapMode::Read, .., |_| {});
    }

    /// Gives `take` the numbers, once `last`, which copies them, is done; then the room is free again.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device failed.
    pub fn take<T>(&self, context: &Context, last: Submission, take: impl FnOnce(&[f32]) -> T) -> Result<T> {
        context.wait_for(Some(last))?;
        let taken = with_mapped(&self.buffer, take)?;
        self.buffer.unmap();
        Ok(taken)
    }
}
