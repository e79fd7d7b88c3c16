//! Reads recordings in their stored form back: what it gives runs as if it had just been recorded.

use std::collections::BTreeMap;

use super::form::{
    Buffer, FORMAT, Form, Head, Params, Pipeline, Set, StoredDispatch, StoredKernel, StoredRecording, StoredTensor,
    VERSION, step_layout,
};
use crate::error::{Error, Result};
use crate::gpu::agreement::Bound;
use crate::gpu::choices::Candidate;
use crate::gpu::kernel::{EntryPoint, Precision, Uniform};
use crate::gpu::recorder::{
    Dispatch, MAX_GROUPS, NamedBuffer, Place, Recording, TensorInfo, Value, check_aliases, padded_elements,
};
use crate::gpu::recordings::Recordings;

/// Finds the way to run a kernel by the kernel's label and the values of its constants.
pub type Find = fn(&str, &BTreeMap<String, u32>) -> Option<Candidate>;

/// Something, or what is wrong with it: who reads it knows where.
type Checked<T> = std::result::Result<T, String>;

/// No buffer is larger: sums of sizes stay far below what a u64 holds.
const MOST_BYTES: u64 = 1 << 40;
/// No dispatch computes more, for the same reason.
const MOST_FLOPS: u64 = 1 << 50;
/// Ranges of a buffer are bound from a multiple of this on.
const ALIGNMENT: u64 = 256;

/// The sets of recordings in the JSON `form` and the `binary` beside it, by their names; kernels are those that `find` knows.
///
/// Shapes, places and the order of reads and writes are checked. Whether the parameters of a dispatch suit its shapes can't be: run
/// recordings of strangers with bounds checks, on [`crate::gpu::Context::checked`].
///
/// # Errors
/// [`Error::Config`] says in a line what is newer than this program, unknown to it, or contradicts itself.
pub fn read(form: &[u8], binary: &[u8], find: Find) -> Result<Vec<(String, Recordings)>> {
    let unreadable = |error: serde_json::Error| wrong(format!("they can't be read: {error}"));
    let head: Head = serde_json::from_slice(form).map_err(unreadable)?;
    if head.format != FORMAT {
        return Err(wrong(format!("their format is {:?}, and must be {FORMAT:?}", head.format)));
    }
    if head.version != VERSION {
        let advice = "read them with the diffuse that wrote them, or a newer one";
        return Err(wrong(format!("they are of version {}, this program reads {VERSION}: {advice}", head.version)));
    }
    let form: Form = serde_json::from_slice(form).map_err(unreadable)?;
    if form.step != step_layout() {
        return Err(wrong("their step has another layout than this program's: write them again".into()));
    }
    let pipelines = form.pipelines.iter().map(|pipeline| Known::of(pipeline, &form, find));
    let reader = Reader { pipelines: pipelines.collect::<Result<_>>()?, binary };
    form.sets.iter().map(|set| Ok((set.name.clone(), reader.set(set)?))).collect()
}

fn wrong(problem: String) -> Error {
    Error::Config(format!("stored recordings: {problem}"))
}

/// `list[index]`, or the line that says that there is none.
fn at<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T> {
    list.get(index).ok_or_else(|| wrong(format!("there is no {what} {index}, they are {}", list.len())))
}

/// A pipeline of the form among this program's own.
struct Known {
    candidate: Candidate,
    precision: Precision,
    entry: &'static EntryPoint,
}

impl Known {
    fn of(pipeline: &Pipeline, form: &Form, find: Find) -> Result<Known> {
        let StoredKernel { label, precision, files, .. } = at(&form.kernels, pipeline.kernel, "kernel")?;
        let Pipeline { entry, constants, .. } = pipeline;
        let Some(candidate) = find(label, constants) else {
            return Err(wrong(format!("this program has no kernel {label} with the constants {constants:?}")));
        };
        let texts = files.iter().map(|index| Ok(at(&form.files, *index, "file")?.text.as_str()));
        let texts: Vec<&str> = texts.collect::<Result<_>>()?;
        let own = candidate.kernel.files(*precision);
        if !own.iter().map(|file| file.text).eq(texts) {
            let advice = "write them again with this program, or read them with the one that wrote them";
            return Err(wrong(format!("the source of {label} is another one here: {advice}")));
        }
        let Some(own) = candidate.kernel.entry_points().iter().find(|own| own.name == *entry) else {
            return Err(wrong(format!("{label} has no entry point {entry}")));
        };
        let params = own.params.as_ref().map(|uniform| Params { binding: uniform.index, bytes: uniform.bytes });
        let step = own.step.as_ref().map(|uniform| uniform.index);
        let binds = own.storage.iter().map(|binding| binding.index).eq(pipeline.bindings.iter().copied());
        match binds && params == pipeline.params && step == pipeline.step {
            true => Ok(Known { candidate, precision: *precision, entry: own }),
            false => Err(wrong(format!("{label}.{entry} has other bindings here"))),
        }
    }
}

struct Reader<'a> {
    pipelines: Vec<Known>,
    binary: &'a [u8],
}

impl Reader<'_> {
    fn set(&self, set: &Set) -> Result<Recordings> {
        let mut buffers = Vec::new();
        for Buffer { name, bytes, contents } in &set.buffers {
            let is_new = !buffers.iter().any(|own: &NamedBuffer| own.name == *name);
            if !is_new || !bytes.is_multiple_of(4) || *bytes > MOST_BYTES {
                return Err(wrong(format!("{}: buffer {name:?} is there twice, or {bytes} is no size", set.name)));
            }
            let contents = contents.map_or(Ok(&[][..]), |range| self.range(range))?;
            if !contents.is_empty() && contents.len() as u64 != *bytes {
                return Err(wrong(format!("{}: buffer {name:?} has contents of another size", set.name)));
            }
            buffers.push(NamedBuffer { name: name.clone(), bytes: *bytes, contents: words(contents) });
        }
        let named = |recording: &StoredRecording| {
            let read = self.recording(recording, &buffers);
            let read = read.map_err(|problem| wrong(format!("{}: {}: {problem}", set.name, recording.name)))?;
            Ok((recording.name.clone(), read))
        };
        set.recordings.iter().map(named).collect()
    }

    fn range(&self, [offset, bytes]: [u64; 2]) -> Result<&[u8]> {
        let end = offset.checked_add(bytes).filter(|end| *end <= self.binary.len() as u64);
        match end {
            Some(end) => Ok(&self.binary[offset as usize..end as usize]),
            None => Err(wrong(format!("bytes {offset} and {bytes} more are not in the binary"))),
        }
    }

    fn recording(&self, stored: &StoredRecording, buffers: &[NamedBuffer]) -> Checked<Recording> {
        let StoredRecording { precision, scopes, tensors, dispatches, .. } = stored;
        let mut recording = Recording { precision: *precision, scopes: scopes.clone(), ..Recording::default() };
        let mut numbers = BTreeMap::new();
        for (id, tensor) in tensors.iter().enumerate() {
            check_shape(tensor).map_err(|problem| format!("tensor {id} {problem}"))?;
            let place = place(tensor, tensors, buffers).map_err(|problem| format!("tensor {id} {problem}"))?;
            let place = match place {
                Place::Buffer { buffer, offset } => {
                    let buffer = *numbers.entry(buffer).or_insert_with(|| {
                        recording.buffers.push(buffers[buffer].clone());
                        recording.buffers.len() - 1
                    });
                    Place::Buffer { buffer, offset }
                }
                place => place,
            };
            recording.tensors.push(TensorInfo { shape: tensor.shape, place, half: Some(tensor.half) });
        }
        let is_named = |tensor: &TensorInfo| matches!(tensor.place, Place::Buffer { .. });
        let mut written: Vec<bool> = recording.tensors.iter().map(is_named).collect();
        for (number, stored) in dispatches.iter().enumerate() {
            let dispatch = self.dispatch(stored, &recording);
            let checked = dispatch.and_then(|own| check_order(&recording, &own, &mut written).map(|()| own));
            recording.dispatches.push(checked.map_err(|problem| format!("dispatch {number} {problem}"))?);
        }
        Ok(recording)
    }

    fn dispatch(&self, stored: &StoredDispatch, recording: &Recording) -> Checked<Dispatch> {
        let StoredDispatch { io, grid, scope, flops, .. } = stored;
        let Some(Known { candidate, precision, entry }) = self.pipelines.get(stored.pipeline) else {
            return Err(format!("runs pipeline {}, which there is not", stored.pipeline));
        };
        if io.len() != entry.storage.len() || io.iter().any(|id| *id as usize >= recording.tensors.len()) {
            return Err(format!("binds {io:?}, and is to bind {} tensors that there are", entry.storage.len()));
        }
        if *precision != recording.precision || *scope >= recording.scopes.len() || *flops > MOST_FLOPS {
            return Err("has another precision than its recording, no scope, or too much to compute".into());
        }
        if !grid.iter().all(|groups| (1..=MAX_GROUPS).contains(&u64::from(*groups))) {
            return Err(format!("has a grid of {grid:?}, and each is to be 1 to {MAX_GROUPS}"));
        }
        for (id, binding) in io.iter().zip(&entry.storage) {
            if recording.is_half(*id) != (*precision == Precision::F16 && binding.real) {
                return Err(format!("binds tensor {id} in another precision than {}", binding.name));
            }
        }
        check_aliases(recording, io, &entry.storage)?;
        Ok(Dispatch {
            kernel: candidate.kernel,
            entry: &entry.name,
            constants: candidate.constants,
            params: self.params(entry.params.as_ref(), stored.params)?,
            io: io.clone(),
            grid: *grid,
            flops: *flops,
            scope: *scope,
            bound: Bound::of(*precision, candidate.bound),
        })
    }

    /// The values of the parameters that a uniform has, out of a range of the binary.
    fn params(
        &self,
        uniform: Option<&'static Uniform>,
        range: Option<[u64; 2]>,
    ) -> Checked<Vec<(&'static str, Value)>> {
        let bytes = range.map_or(Ok(&[][..]), |range| self.range(range)).map_err(|error| error.to_string())?;
        if bytes.len() as u32 != uniform.map_or(0, |uniform| uniform.bytes) {
            return Err(format!("has {} bytes of parameters, which is not what it takes", bytes.len()));
        }
        let words = words(bytes);
        let fields = uniform.map_or(&[][..], |uniform| &uniform.fields);
        let value = |word: u32, float| if float { Value::F32(f32::from_bits(word)) } else { Value::U32(word) };
        Ok(fields.iter().map(|own| (own.name.as_str(), value(words[own.offset as usize / 4], own.float))).collect())
    }
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

/// Whether a tensor of this shape is as large as it says.
fn check_shape(tensor: &StoredTensor) -> Checked<()> {
    let StoredTensor { shape, bytes, half, .. } = tensor;
    let product = shape.iter().try_fold(1u64, |product, extent| product.checked_mul(u64::from(*extent)));
    // Padded to quadruples it has at most four times as many.
    if !product.is_some_and(|product| (1..1 << 32).contains(&product)) || padded_elements(*shape) >= 1 << 32 {
        return Err(format!("has the shape {shape:?}, of which there is none"));
    }
    let own = padded_elements(*shape) * if *half { 2 } else { 4 };
    if *bytes == own { Ok(()) } else { Err(format!("{shape:?} takes {own} bytes, not {bytes}")) }
}

/// Where a tensor lives, in a buffer among all of the set.
fn place(tensor: &StoredTensor, tensors: &[StoredTensor], buffers: &[NamedBuffer]) -> Checked<Place> {
    let within = |offset: u64, whole: u64| {
        let end = offset.checked_add(tensor.bytes);
        match offset.is_multiple_of(ALIGNMENT) && end.is_some_and(|end| end <= whole) {
            true => Ok(()),
            false => Err(format!("begins at {offset} of {whole} bytes, where it can't")),
        }
    };
    match (tensor.buffer, tensor.part) {
        (None, None) => Ok(Place::Temporary),
        (Some([buffer, offset]), None) => {
            let own = buffers.get(buffer as usize).ok_or(format!("is in buffer {buffer}, which there is not"))?;
            within(offset, own.bytes)?;
            Ok(Place::Buffer { buffer: buffer as usize, offset })
        }
        (None, Some([whole, offset])) => {
            let own = tensors.get(whole as usize).filter(|own| own.buffer.is_none() && own.part.is_none());
            let own = own.ok_or(format!("is a part of {whole}, which is no whole temporary"))?;
            within(offset, own.bytes)?;
            match own.half == tensor.half {
                true => Ok(Place::Part { whole: whole as u32, offset }),
                false => Err("is stored in another precision than its whole".into()),
            }
        }
        (Some(_), Some(_)) => Err("is in a buffer and a part of a temporary at once".into()),
    }
}

/// Whether what a dispatch reads was written: all of a named buffer is, and a whole by its parts.
fn check_order(recording: &Recording, dispatch: &Dispatch, written: &mut [bool]) -> Checked<()> {
    for (id, binding) in dispatch.bindings() {
        if binding.access.reads() && !written[id as usize] {
            return Err(format!("reads tensor {id}, which nothing wrote"));
        }
        if binding.access.writes() {
            written[id as usize] = true;
            recording.temporary(id).into_iter().for_each(|whole| written[whole as usize] = true);
        }
    }
    Ok(())
}
