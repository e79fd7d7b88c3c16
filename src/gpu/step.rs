//! The one small uniform that the host writes before each step: seed, counters, optimizer and sampler coefficients.

use std::sync::OnceLock;

use super::kernel::{Field, File, Kernel, Uniform};

/// Values of the `Step` structure of `shaders/lib.wgsl` by field name; a field that is not set is 0.
///
/// u32 fields are held exactly, f32 fields are rounded to f32 when they are set, so that the twins see what the GPU sees.
#[derive(Clone, Debug)]
pub struct Step {
    values: Vec<f64>,
}

/// Something that uses the structure, so that it is there to be read.
const PROBE: File = File {
    name: "probe.wgsl",
    text: "@group(0) @binding(0) var<storage, read_write> probe: array<u32>;
            @compute @workgroup_size(1) fn main() { probe[0] = step.seed; }",
};

/// The structure as WGSL declares it.
pub fn layout() -> &'static Uniform {
    static LAYOUT: OnceLock<Uniform> = OnceLock::new();
    LAYOUT.get_or_init(|| {
        let kernel = Kernel::new("lib", &[PROBE], &[]);
        kernel.entry_point("main").step.clone().expect("the probe uses step")
    })
}

impl Default for Step {
    fn default() -> Step {
        Step { values: vec![0.0; layout().fields.len()] }
    }
}

impl Step {
    /// Sets one field; panics if `Step` has no such field.
    pub fn set(&mut self, name: &str, value: f64) -> &mut Step {
        let (index, field) = find(name);
        self.values[index] = if field.float { value as f32 as f64 } else { value as u32 as f64 };
        self
    }

    /// One field; panics if `Step` has no such field.
    pub fn get(&self, name: &str) -> f64 {
        self.values[find(name).0]
    }

    /// The bytes of the uniform buffer.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; layout().bytes as usize];
        for (value, field) in self.values.iter().zip(&layout().fields) {
            let word = if field.float { (*value as f32).to_bits() } else { *value as u32 };
            bytes[field.offset as usize..][..4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

fn find(name: &str) -> (usize, &'static Field) {
    let found = layout().fields.iter().enumerate().find(|(_, field)| field.name == name);
    found.unwrap_or_else(|| panic!("the Step structure of lib.wgsl has no field {name}"))
}
