//! Copies of named buffers that come to the host while the device works on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::context::Context;
use super::health::Health;
use super::memory::{Memory, mapped_values};
use crate::error::Result;

/// Room for one copy of each. A clone is the same room, which another thread may read.
#[derive(Clone)]
pub struct Snapshot {
    copies: Arc<[Staged]>,
    health: Health,
    /// How many have come.
    here: Arc<AtomicUsize>,
}

struct Staged {
    name: &'static str,
    of: wgpu::Buffer,
    copy: wgpu::Buffer,
}

impl Snapshot {
    /// Room for the buffers of these names.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory.
    pub fn new(context: &Context, memory: &Memory, names: &[&'static str]) -> Result<Snapshot> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let room = |name: &&'static str| {
            let of = memory.buffer(name).clone();
            Ok(Staged { name, copy: context.create_buffer("snapshot", of.size(), usage)?, of })
        };
        let copies = names.iter().map(room).collect::<Result<_>>()?;
        Ok(Snapshot { copies, health: context.health.clone(), here: Arc::default() })
    }

    /// Copies all as they stand behind what was submitted before, and asks for the copies. Returns at once.
    pub fn take(&mut self, context: &Context) {
        // Of its own each time: maps that are given up may count late.
        self.here = Arc::default();
        let mut encoder = context.device.create_command_encoder(&Default::default());
        for Staged { of, copy, .. } in self.copies.iter() {
            encoder.copy_buffer_to_buffer(of, 0, copy, 0, of.size());
        }
        context.submit(Some(encoder.finish()));
        for Staged { copy, .. } in self.copies.iter() {
            let here = self.here.clone();
            // What can't be mapped is found when it is read.
            copy.map_async(wgpu::MapMode::Read, .., move |_| {
                here.fetch_add(1, Ordering::AcqRel);
            });
        }
    }

    /// Whether all copies have come, as far as the device was asked since.
    pub fn is_here(&self) -> bool {
        self.here.load(Ordering::Acquire) == self.copies.len()
    }

    /// The numbers of one; all must have come.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the device failed.
    pub fn read(&self, name: &str) -> Result<Vec<f32>> {
        let found = self.copies.iter().find(|copy| copy.name == name);
        let values = mapped_values(&found.unwrap_or_else(|| panic!("no copy of {name}")).copy)?;
        // What a lost device left in mapped memory is undefined (Vulkan, "Lost Device").
        self.health.check()?;
        Ok(values)
    }

    /// Gives the room back for the next time.
    pub fn release(&self) {
        self.copies.iter().for_each(|copy| copy.copy.unmap());
    }
}
