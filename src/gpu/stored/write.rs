//! Writes recordings in their stored form.

use std::collections::{BTreeMap, HashMap};

use super::form::{
    Buffer, FORMAT, File, Form, Head, Params, Pipeline, Set, StoredDispatch, StoredKernel, StoredRecording,
    StoredTensor, VERSION, step_layout,
};
use crate::gpu::kernel::{Kernel, Precision};
use crate::gpu::recorder::{Dispatch, NamedBuffer, Place, Recording, TensorInfo};
use crate::gpu::recordings::Recordings;
use crate::gpu::slots::Slots;

/// Recordings as they are stored.
pub struct Stored {
    pub form: Form,
    /// What the form's ranges are of.
    pub binary: Vec<u8>,
}

/// Collects sets of recordings: what they have in common is written once.
pub struct Writer {
    form: Form,
    binary: Vec<u8>,
    /// Where what the binary holds already begins.
    ranges: HashMap<Vec<u8>, u64>,
    pipelines: HashMap<PipelineKey, usize>,
    kernels: HashMap<KernelKey, usize>,
    files: HashMap<&'static str, usize>,
}

/// A kernel, by its address: it is as lasting as the program.
type KernelKey = (usize, Precision);
type PipelineKey = (KernelKey, &'static str, &'static [(&'static str, u32)]);

impl Default for Writer {
    fn default() -> Writer {
        let head = Head { format: FORMAT.into(), version: VERSION };
        let (files, kernels, pipelines, sets) = Default::default();
        Writer {
            form: Form { head, step: step_layout(), files, kernels, pipelines, sets },
            binary: Vec::new(),
            ranges: HashMap::new(),
            pipelines: HashMap::new(),
            kernels: HashMap::new(),
            files: HashMap::new(),
        }
    }
}

impl Writer {
    /// Adds recordings that share their named buffers. Gives the number of their set.
    pub fn add(&mut self, name: &str, recordings: &Recordings) -> usize {
        let mut buffers = Vec::new();
        let stored = recordings.iter().map(|(name, recording)| {
            let named = recording.buffers.iter().map(|buffer| self.buffer(&mut buffers, buffer)).collect::<Vec<_>>();
            self.recording(name, recording, &named)
        });
        let recordings = stored.collect();
        self.form.sets.push(Set { name: name.into(), buffers, recordings });
        self.form.sets.len() - 1
    }

    /// All that was added.
    pub fn finish(self) -> Stored {
        Stored { form: self.form, binary: self.binary }
    }

    /// The number of a buffer among those of the set.
    fn buffer(&mut self, buffers: &mut Vec<Buffer>, buffer: &NamedBuffer) -> usize {
        let NamedBuffer { name, bytes, .. } = buffer;
        let index = buffers.iter().position(|own| own.name == *name).unwrap_or_else(|| {
            buffers.push(Buffer { name: name.clone(), bytes: *bytes, contents: None });
            buffers.len() - 1
        });
        assert_eq!(buffers[index].bytes, *bytes, "{name}: two sizes");
        if !buffer.contents.is_empty() {
            let words = buffer.contents.iter().flat_map(|word| word.to_le_bytes()).collect();
            buffers[index].contents.get_or_insert(self.range(words));
        }
        index
    }

    /// Where the binary holds `bytes`.
    fn range(&mut self, bytes: Vec<u8>) -> [u64; 2] {
        let length = bytes.len() as u64;
        let binary = &mut self.binary;
        let first = *self.ranges.entry(bytes).or_insert_with_key(|bytes| {
            binary.extend_from_slice(bytes);
            binary.len() as u64 - length
        });
        [first, length]
    }

    fn recording(&mut self, name: &str, recording: &Recording, buffers: &[usize]) -> StoredRecording {
        let slots = recording.slots(true);
        let tensors = recording.tensors.iter().enumerate();
        StoredRecording {
            name: name.into(),
            precision: recording.precision,
            scopes: recording.scopes.clone(),
            tensors: tensors.map(|(id, tensor)| stored_tensor(recording, &slots, buffers, id, tensor)).collect(),
            dispatches: recording.dispatches.iter().map(|own| self.dispatch(own, recording.precision)).collect(),
            slots: slots.bytes,
        }
    }

    fn dispatch(&mut self, dispatch: &Dispatch, precision: Precision) -> StoredDispatch {
        let Dispatch { grid, flops, scope, .. } = *dispatch;
        let params = dispatch.params_bytes();
        StoredDispatch {
            pipeline: self.pipeline(dispatch, precision),
            io: dispatch.io.clone(),
            grid,
            params: (!params.is_empty()).then(|| self.range(params)),
            scope,
            flops,
        }
    }

    fn pipeline(&mut self, dispatch: &Dispatch, precision: Precision) -> usize {
        let Dispatch { kernel, entry, constants, .. } = *dispatch;
        let key = ((std::ptr::from_ref(kernel) as usize, precision), entry, constants);
        if let Some(index) = self.pipelines.get(&key) {
            return *index;
        }
        let declared = kernel.entry_point(entry);
        let params = declared.params.as_ref();
        let pipeline = Pipeline {
            kernel: self.kernel(kernel, precision),
            entry: entry.into(),
            constants: constants.iter().map(|(name, value)| (name.to_string(), *value)).collect::<BTreeMap<_, _>>(),
            bindings: declared.storage.iter().map(|binding| binding.index).collect(),
            params: params.map(|uniform| Params { binding: uniform.index, bytes: uniform.bytes }),
            step: declared.step.as_ref().map(|uniform| uniform.index),
        };
        self.form.pipelines.push(pipeline);
        self.pipelines.insert(key, self.form.pipelines.len() - 1);
        self.form.pipelines.len() - 1
    }

    fn kernel(&mut self, kernel: &'static Kernel, precision: Precision) -> usize {
        let key = (std::ptr::from_ref(kernel) as usize, precision);
        if let Some(index) = self.kernels.get(&key) {
            return *index;
        }
        let files = kernel.files(precision);
        let mut file = |name: &str, text: &'static str| {
            *self.files.entry(text).or_insert_with(|| {
                self.form.files.push(File { name: name.into(), text: text.into() });
                self.form.files.len() - 1
            })
        };
        let files = files.iter().map(|own| file(own.name, own.text)).collect();
        self.form.kernels.push(StoredKernel { label: kernel.label(), precision, needs: kernel.needs.to_vec(), files });
        self.kernels.insert(key, self.form.kernels.len() - 1);
        self.form.kernels.len() - 1
    }
}

fn stored_tensor(
    recording: &Recording,
    slots: &Slots,
    buffers: &[usize],
    id: usize,
    tensor: &TensorInfo,
) -> StoredTensor {
    let slot = |id: usize, offset: u64| slots.slot_of[id].map(|slot| [slot as u64, offset]);
    let (slot, buffer, part) = match tensor.place {
        Place::Temporary => (slot(id, 0), None, None),
        Place::Part { whole, offset } => (slot(whole as usize, offset), None, Some([whole.into(), offset])),
        Place::Buffer { buffer, offset } => (None, Some([buffers[buffer] as u64, offset]), None),
    };
    let bytes = recording.tensor_bytes(id as u32);
    StoredTensor { shape: tensor.shape, bytes, slot, buffer, part, half: tensor.half == Some(true) }
}
