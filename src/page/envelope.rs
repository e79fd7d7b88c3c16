//! What a page says of its model, as JSON has it; docs/recordings.md says what the keys mean.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::gpu::Precision;
use crate::gpu::stored::form::{Form, Head};

/// What tells it from other objects, and its version.
pub const FORMAT: &str = "diffuse page";
pub const VERSION: u64 = 1;

#[derive(Serialize)]
pub struct Envelope {
    #[serde(flatten)]
    pub head: Head,
    pub title: String,
    pub made_by: String,
    pub image: Image,
    pub classes: Option<Vec<String>>,
    pub null_class: Option<u32>,
    pub buffers: Buffers,
    pub weights: Weights,
    pub limits: Limits,
    pub defaults: Defaults,
    pub frames: Vec<Frame>,
    pub samplers: Vec<Sampler>,
    pub recordings: Form,
}

#[derive(Serialize)]
pub struct Image {
    pub height: u32,
    pub width: u32,
    pub channels: u32,
}

/// The names of the buffers that the page fills and reads.
#[derive(Serialize)]
pub struct Buffers {
    pub images: &'static str,
    pub labels: Option<&'static str>,
    pub weights: &'static str,
}

#[derive(Serialize)]
pub struct Weights {
    /// Of the flat buffer, padding included.
    pub elements: u64,
    /// Learnt numbers among them.
    pub parameters: u64,
    pub precision: Precision,
}

/// What a device must have, by WebGPU's names.
#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    pub max_buffer_size: u64,
    pub max_storage_buffer_binding_size: u64,
}

#[derive(Serialize)]
pub struct Defaults {
    pub sampler: String,
    pub steps: usize,
    pub guidance: f64,
    pub seed: u32,
    pub count: u32,
}

/// A set of recordings, and who can run it.
#[derive(Serialize)]
pub struct Frame {
    pub set: usize,
    pub batch: u32,
    pub guided: bool,
    /// `gpu` or `cpu`.
    pub device: &'static str,
    pub subgroup: u32,
}

#[derive(Serialize)]
pub struct Sampler {
    pub name: &'static str,
    pub label: String,
    pub programs: Vec<Program>,
}

/// A sampler with a number of steps: what the step's uniform holds, evaluation by evaluation.
#[derive(Serialize)]
pub struct Program {
    pub steps: usize,
    pub evaluations: usize,
    pub initial_scale: f32,
    pub same: BTreeMap<String, Number>,
    pub each: BTreeMap<String, Vec<Number>>,
}

/// A number as the uniform has it: JSON of an f32 is shorter than that of its f64.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Number {
    U32(u32),
    F32(f32),
}
