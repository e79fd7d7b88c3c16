//! What a page can run: batches of images, for devices of several kinds.

use std::sync::Arc;

use super::envelope::{self, Limits};
use crate::error::{Error, Result};
use crate::gpu::stored::{Stored, Writer};
use crate::gpu::{Choices, Device, Need, Precision, Recording, Recordings, WEIGHTS};
use crate::nn::UNet;
use crate::run::generator::record;
use crate::run::{Frame, Networks};

/// Lanes of subgroups of drivers that compute on the CPU: SwiftShader's, and Mesa's lavapipe on AVX.
const CPU_LANES: [u32; 2] = [4, 8];

/// Images at a time, where there are many: as many as fit.
const BATCHES: [u32; 3] = [8, 4, 2];

/// WebGPU's default limit: what every browser binds.
const MOST_BOUND: u64 = 128 << 20;

/// All that a page can run.
pub struct Frames {
    pub frames: Vec<envelope::Frame>,
    pub stored: Stored,
    pub limits: Limits,
}

/// A device as browsers have them, of which nothing is known but its kind.
fn device(lanes: Option<u32>) -> Device {
    match lanes {
        // What spills on Apple's GPUs is not worth it where nobody measures.
        None => Device { gpu: true, few_registers: true, ..Device::default() },
        Some(lanes) => Device { subgroup: lanes, needs: vec![Need::Subgroups], ..Device::default() },
    }
}

/// Records everything for a network; `one` is a frame of one image of the size that is drawn, `guides` whether there is a null
/// class to guide with.
///
/// # Errors
/// [`Error::Config`] if an image is larger than what browsers bind.
pub fn frames(unet: &UNet, one: &Frame, guides: bool) -> Result<Frames> {
    let batches = [many(unet, one, guides)?, Some(1)];
    let (mut writer, mut frames, mut limits) = (Writer::default(), Vec::new(), Limits::default());
    for lanes in [None].into_iter().chain(CPU_LANES.map(Some)) {
        for batch in batches.into_iter().flatten() {
            for guided in [false, true].into_iter().filter(|guided| guides || !guided) {
                let frame = Frame { batch, guided, ..*one };
                let recordings = recorded(unet, &frame, lanes)?;
                limits = limits.and(Limits::of(&recordings));
                let (device, subgroup) = (if lanes.is_some() { "cpu" } else { "gpu" }, lanes.unwrap_or(0));
                let set = writer.add(&name(&frame, lanes), &recordings);
                frames.push(envelope::Frame { set, batch, guided, device, subgroup });
            }
        }
    }
    Ok(Frames { frames, stored: writer.finish(), limits })
}

/// The largest batch that every browser binds, beside that of one image.
fn many(unet: &UNet, one: &Frame, guides: bool) -> Result<Option<u32>> {
    let bound = |batch| {
        let frame = Frame { batch, guided: guides, ..*one };
        Ok(Limits::of(&recorded(unet, &frame, None)?).max_storage_buffer_binding_size)
    };
    let single = bound(1)?;
    if single > MOST_BOUND {
        return Err(Error::Config(format!(
            "browsers bind {} MiB at most, an image of {}x{} takes {}: --size makes it smaller",
            MOST_BOUND >> 20,
            one.height,
            one.width,
            single.div_ceil(1 << 20)
        )));
    }
    // A batch that no kernel could index doesn't fit either.
    Ok(BATCHES.into_iter().find(|batch| bound(*batch).is_ok_and(|bytes: u64| bytes <= MOST_BOUND)))
}

fn recorded(unet: &UNet, frame: &Frame, lanes: Option<u32>) -> Result<Recordings> {
    let choices = Arc::new(Choices::new(&device(lanes), Precision::F32));
    record(&Networks { unet, weights: WEIGHTS, classifier: None }, frame, &choices)
}

fn name(frame: &Frame, lanes: Option<u32>) -> String {
    let device = lanes.map_or("gpu".into(), |lanes| format!("cpu of {lanes} lanes"));
    let images = crate::error::counted(frame.batch.into(), "image");
    format!("{device}, {images}{}", if frame.guided { ", guided" } else { "" })
}

impl Limits {
    /// What running all of it takes.
    fn of(recordings: &Recordings) -> Limits {
        let each = recordings.iter().map(|(_, recording)| Limits::of_recording(recording));
        each.fold(Limits::default(), Limits::and)
    }

    fn of_recording(recording: &Recording) -> Limits {
        let named = recording.buffers.iter().map(|buffer| buffer.bytes);
        let bound = recording.dispatches.iter().flat_map(|dispatch| &dispatch.io).map(|id| recording.tensor_bytes(*id));
        Limits {
            max_buffer_size: named.chain(recording.slots(true).bytes).max().unwrap_or(0),
            max_storage_buffer_binding_size: bound.max().unwrap_or(0),
        }
    }

    /// What both take.
    fn and(self, other: Limits) -> Limits {
        let Limits { max_buffer_size, max_storage_buffer_binding_size } = self;
        Limits {
            max_buffer_size: max_buffer_size.max(other.max_buffer_size),
            max_storage_buffer_binding_size: max_storage_buffer_binding_size.max(other.max_storage_buffer_binding_size),
        }
    }
}
