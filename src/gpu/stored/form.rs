//! The stored form as JSON has it; docs/recordings.md says what its keys mean.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gpu::kernel::{Need, Precision};

/// What tells this form from others, and its version.
pub const FORMAT: &str = "diffuse recordings";
pub const VERSION: u64 = 1;

/// The first thing to read.
#[derive(Serialize, Deserialize)]
pub struct Head {
    pub format: String,
    pub version: u64,
}

#[derive(Serialize, Deserialize)]
pub struct Form {
    #[serde(flatten)]
    pub head: Head,
    pub step: StepLayout,
    pub files: Vec<File>,
    pub kernels: Vec<StoredKernel>,
    pub pipelines: Vec<Pipeline>,
    pub sets: Vec<Set>,
}

/// The uniform that is written before each step.
#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct StepLayout {
    pub bytes: u32,
    pub fields: Vec<Field>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub offset: u32,
    pub float: bool,
}

/// A part of one kernel's WGSL or of several.
#[derive(Serialize, Deserialize)]
pub struct File {
    pub name: String,
    pub text: String,
}

#[derive(Serialize, Deserialize)]
pub struct StoredKernel {
    pub label: String,
    pub precision: Precision,
    pub needs: Vec<Need>,
    pub files: Vec<usize>,
}

#[derive(Serialize, Deserialize)]
pub struct Pipeline {
    pub kernel: usize,
    pub entry: String,
    pub constants: BTreeMap<String, u32>,
    pub bindings: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Params>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
}

#[derive(Serialize, Deserialize, PartialEq, Eq)]
pub struct Params {
    pub binding: u32,
    pub bytes: u32,
}

/// Recordings that share buffers.
#[derive(Serialize, Deserialize)]
pub struct Set {
    pub name: String,
    pub buffers: Vec<Buffer>,
    pub recordings: Vec<StoredRecording>,
}

#[derive(Serialize, Deserialize)]
pub struct Buffer {
    pub name: String,
    pub bytes: u64,
    /// A range of the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<[u64; 2]>,
}

#[derive(Serialize, Deserialize)]
pub struct StoredRecording {
    pub name: String,
    pub precision: Precision,
    pub scopes: Vec<String>,
    pub slots: Vec<u64>,
    pub tensors: Vec<StoredTensor>,
    pub dispatches: Vec<StoredDispatch>,
}

#[derive(Serialize, Deserialize)]
pub struct StoredTensor {
    pub shape: [u32; 4],
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<[u64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buffer: Option<[u64; 2]>,
    /// Of which temporary it is a part, and from where on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<[u64; 2]>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half: bool,
}

#[derive(Serialize, Deserialize)]
pub struct StoredDispatch {
    pub pipeline: usize,
    pub io: Vec<u32>,
    pub grid: [u32; 3],
    /// A range of the binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<[u64; 2]>,
    pub scope: usize,
    pub flops: u64,
}

/// The layout of the step's uniform as this version has it.
pub fn step_layout() -> StepLayout {
    let layout = crate::gpu::step::layout();
    let field = |field: &crate::gpu::kernel::Field| {
        let (name, offset, float) = (field.name.clone(), field.offset, field.float);
        Field { name, offset, float }
    };
    StepLayout { bytes: layout.bytes, fields: layout.fields.iter().map(field).collect() }
}
