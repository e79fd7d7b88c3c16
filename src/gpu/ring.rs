//! Brings a few numbers of each step back without waiting for the step.

use std::collections::VecDeque;

use super::context::{Context, Submission};
use super::memory::mapped_values;
use super::work::Work;
use crate::error::Result;

/// Steps that may be under way: enough to keep the device busy, few enough for Ctrl-C.
const SLOTS: usize = 3;

/// A ring of mapped buffers.
pub struct Ring {
    free: Vec<wgpu::Buffer>,
    filling: Option<wgpu::Buffer>,
    under_way: VecDeque<(u64, wgpu::Buffer, Submission)>,
}

impl Ring {
    /// A ring that brings `values` f32 of each step.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(context: &Context, values: u64) -> Result<Ring> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = |_| context.create_buffer("loss", values * 4, usage);
        let free = (0..SLOTS).map(buffer).collect::<Result<_>>()?;
        Ok(Ring { free, filling: None, under_way: VecDeque::new() })
    }

    /// Waits for the oldest step if all buffers are under way; gives its values.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device failed.
    pub fn make_room(&mut self, context: &Context) -> Result<Option<(u64, Vec<f32>)>> {
        if self.filling.is_some() {
            // Of a step that was not taken.
            return Ok(None);
        }
        let oldest = if self.free.is_empty() { self.take_oldest(context)? } else { None };
        self.filling = self.free.pop();
        Ok(oldest)
    }

    /// Steps whose values are not known yet.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Copies `count` f32 of `from`, from number `first` on, to place `to` of this step's values.
    pub fn copy(&self, work: &mut Work, from: &wgpu::Buffer, (first, count): (u64, u64), to: u64) {
        let buffer = self.filling.as_ref().expect("make_room comes first");
        work.copy(from, first * 4, buffer, to * 4, count * 4);
    }

    /// Asks for the values of `step`, which was submitted as `last`.
    pub fn ask(&mut self, step: u64, last: Submission) {
        let buffer = self.filling.take().expect("make_room comes first");
        buffer.map_async(wgpu::MapMode::Read, .., |_| {});
        self.under_way.push_back((step, buffer, last));
    }

    /// Waits for all steps under way.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device failed.
    pub fn drain(&mut self, context: &Context) -> Result<Vec<(u64, Vec<f32>)>> {
        let mut all = Vec::new();
        while let Some(oldest) = self.take_oldest(context)? {
            all.push(oldest);
        }
        Ok(all)
    }

    fn take_oldest(&mut self, context: &Context) -> Result<Option<(u64, Vec<f32>)>> {
        let Some((step, buffer, submission)) = self.under_way.pop_front() else { return Ok(None) };
        context.wait_for(Some(submission))?;
        let values = mapped_values(&buffer)?;
        buffer.unmap();
        self.free.push(buffer);
        Ok(Some((step, values)))
    }
}
