//! What fits: how large a tensor kernels can index, what is worth an attempt, and how many images a pass may take.

use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::nn::UNetConfig;

/// Whether to allocate `bytes` only to see whether they fit. A driver that computes on the CPU takes the machine's own
/// memory, and some touch all of it: the answer is not worth gigabytes.
pub fn may_try(context: &Context, bytes: u64) -> bool {
    let most = if context.is_cpu() { 1 << 30 } else { u64::MAX };
    bytes <= context.memory_limit().unwrap_or(most)
}

/// How a step of `images` images can be taken in passes of equal size: images of a pass and how many passes, the fewest first.
pub fn passes(images: u32) -> impl Iterator<Item = (u32, u32)> {
    (1..=images).filter(move |passes| images.is_multiple_of(*passes)).map(move |passes| (images / passes, passes))
}

/// Whether the widest activation of `images` images of `height` x `width` is one that kernels can index: a recording
/// takes that for granted.
///
/// # Errors
/// [`Error::Device`] if it is wider.
pub fn check_elements(config: &UNetConfig, images: u64, height: u32, width: u32) -> Result<()> {
    let channels = &config.block_out_channels;
    let padded = |c: u32| c.next_multiple_of(4) as u64;
    let widest = (0..channels.len()).map(|level| {
        // Where the way up joins the way down, each may be as wide as a neighbouring level; a head is padded alone, and attention has three tensors in one.
        let joined = 2 * channels[level.saturating_sub(1)..channels.len().min(level + 2)].iter().max().unwrap_or(&0);
        let head = config.head_dim(channels[level]).max(1);
        let attended = 3 * channels[level].div_ceil(head) as u64 * padded(head);
        (height as u64 * width as u64).div_ceil(1 << (2 * level)) * attended.max(padded(joined))
    });
    let outside = height as u64 * width as u64 * padded(config.in_channels.max(config.out_channels));
    let elements = widest.fold(outside, u64::max).saturating_mul(images);
    if elements > u32::MAX as u64 {
        let problem = format!("{images} images of {height}x{width} make a tensor of {elements} elements, at most 2^32");
        return Err(Error::Device(format!("{problem} can be indexed")));
    }
    Ok(())
}
