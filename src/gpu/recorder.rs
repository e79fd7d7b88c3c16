//! Records dispatches over symbolic tensors. Needs no GPU.

use std::sync::Arc;

use super::agreement::Bound;
use super::choices::{Candidate, Choices, Key};
use super::kernel::{Access, Binding, Kernel, Precision};

/// The ways to run one entry point.
pub type Ways = super::choices::Ways<Recorder>;

/// A symbolic tensor: N, H, W, C. In memory channels are padded to a multiple of 4, the padding is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tensor {
    pub(crate) id: u32,
    pub shape: [u32; 4],
}

impl Tensor {
    /// Images (or rows of any kind).
    pub fn n(self) -> u32 {
        self.shape[0]
    }

    pub fn height(self) -> u32 {
        self.shape[1]
    }

    pub fn width(self) -> u32 {
        self.shape[2]
    }

    pub fn channels(self) -> u32 {
        self.shape[3]
    }

    /// Quadruples of channels, padding included.
    pub fn channels4(self) -> u32 {
        self.shape[3].div_ceil(4)
    }

    /// N·H·W.
    pub fn rows(self) -> u32 {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// Values without padding.
    pub fn count(self) -> u64 {
        self.rows() as u64 * self.shape[3] as u64
    }

    /// Elements in memory, padding included.
    pub fn elements(self) -> u64 {
        let rows: u64 = self.shape[..3].iter().map(|extent| *extent as u64).product();
        rows * self.channels4() as u64 * 4
    }
}

/// Channels of each row of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    pub tensor: Tensor,
    /// A multiple of 4.
    pub first: u32,
    pub channels: u32,
}

impl Slice {
    /// All channels.
    pub fn whole(tensor: Tensor) -> Slice {
        Slice { tensor, first: 0, channels: tensor.channels() }
    }
}

/// The four-aligned number of elements that `shape` takes in memory.
pub fn padded_elements(shape: [u32; 4]) -> u64 {
    Tensor { id: 0, shape }.elements()
}

/// A learnt tensor: where it lies in each of the flat buffers of weights, gradients, moments and averages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// First element, a multiple of 128.
    pub offset: u64,
    pub shape: [u32; 4],
}

/// The flat buffers of a model, each of all its parameters.
pub const WEIGHTS: &str = "weights";
pub const GRADIENTS: &str = "gradients";
pub const EMA: &str = "ema";
/// The weights in half precision.
const HALF_WEIGHTS: &str = "half weights";

/// Where a tensor lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// An activation; its life is what the recording shows.
    Temporary,
    /// The bytes from `offset` on of the temporary `whole`: [`Recorder::join`].
    Part { whole: u32, offset: u64 },
    /// A range of a named buffer, which outlives the recording.
    Buffer { buffer: usize, offset: u64 },
}

/// A buffer that outlives the recording and may be shared by several.
#[derive(Clone, Debug)]
pub struct NamedBuffer {
    pub name: String,
    pub bytes: u64,
    /// What it holds when it is first allocated; zeros if empty.
    pub contents: Vec<u32>,
}

/// A parameter of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    U32(u32),
    F32(f32),
}

impl From<u32> for Value {
    fn from(value: u32) -> Value {
        Value::U32(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::U32(value as u32)
    }
}

impl From<f32> for Value {
    fn from(value: f32) -> Value {
        Value::F32(value)
    }
}

/// How much to launch.
#[derive(Clone, Copy, Debug)]
pub enum Grid {
    /// At least this many invocations; the kernel bounds them itself.
    Invocations(u64),
    /// This many workgroups; beyond 65,535 they are folded into two dimensions, the kernel skips the surplus.
    Workgroups(u64),
}

/// One recorded dispatch.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub kernel: &'static Kernel,
    pub entry: &'static str,
    /// Values of the kernel's `override` constants.
    pub constants: &'static [(&'static str, u32)],
    pub params: Vec<(&'static str, Value)>,
    pub io: Vec<u32>,
    pub grid: [u32; 3],
    pub flops: u64,
    pub scope: usize,
    /// What its results are held to.
    pub bound: Bound,
}

impl Dispatch {
    /// The tensors that it binds, and what its code does with each.
    pub fn bindings(&self) -> impl Iterator<Item = (u32, &'static Binding)> {
        self.io.iter().copied().zip(&self.kernel.entry_point(self.entry).storage)
    }

    /// Its parameters as WGSL lays them out; nothing if it has none.
    pub fn params_bytes(&self) -> Vec<u8> {
        let Some(uniform) = &self.kernel.entry_point(self.entry).params else { return Vec::new() };
        let mut bytes = vec![0; uniform.bytes as usize];
        for field in &uniform.fields {
            let (_, value) = self.params.iter().find(|(name, _)| *name == field.name).expect("checked when recorded");
            let word = match value {
                Value::U32(value) => *value,
                Value::F32(value) => value.to_bits(),
            };
            bytes[field.offset as usize..][..4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// A recorded tensor.
#[derive(Clone, Copy, Debug)]
pub struct TensorInfo {
    pub shape: [u32; 4],
    pub place: Place,
    /// Bound as `real4` where activations are stored in half precision, so that it is too. Known from the first dispatch.
    pub half: Option<bool>,
}

/// What was recorded: shapes, dispatches, scopes.
#[derive(Clone, Default)]
pub struct Recording {
    pub tensors: Vec<TensorInfo>,
    pub buffers: Vec<NamedBuffer>,
    pub dispatches: Vec<Dispatch>,
    pub scopes: Vec<String>,
    pub precision: Precision,
    /// What there was a choice for.
    pub asked: Vec<(Key, &'static Ways)>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Records dispatches; [`Recorder::finish`] gives the [`Recording`].
#[derive(Default)]
pub struct Recorder {
    recording: Recording,
    written: Vec<bool>,
    scope: Vec<String>,
    /// Elements of each flat buffer, and the one that weights are read from.
    parameters: u64,
    weights: &'static str,
    choices: Arc<Choices>,
    recompute: bool,
    waiting: Vec<PartialSums>,
}

/// Partial results whose sum is still to be recorded: element i of `total` is the sum over n < `count` of element
/// `first` + n `stride` + i of `parts`, counted in quadruples.
#[derive(Clone, Copy, Debug)]
pub struct PartialSums {
    pub parts: Tensor,
    pub first: u32,
    pub stride: u32,
    pub count: u32,
    pub total: Tensor,
}

/// Widest dispatch in one dimension that every device takes.
pub(super) const MAX_GROUPS: u64 = 65_535;

impl Recorder {
    pub fn new() -> Recorder {
        let mut recorder = Recorder::default();
        recorder.recording.scopes.push(String::new());
        recorder
    }

    /// A recorder for a model of `parameters` elements whose weights are read from the flat buffer `weights`:
    /// [`WEIGHTS`] or [`EMA`].
    pub fn for_model(parameters: u64, weights: &'static str) -> Recorder {
        Recorder { parameters, weights, ..Recorder::new() }
    }

    /// The same, for the device and with the variants that `choices` names.
    pub fn with_choices(self, choices: &Arc<Choices>) -> Recorder {
        let recording = Recording { precision: choices.precision, ..self.recording };
        Recorder { choices: choices.clone(), recording, ..self }
    }

    /// The same, whose backward passes compute what is cheap once more instead of keeping it.
    pub fn with_recompute(self, recompute: bool) -> Recorder {
        Recorder { recompute, ..self }
    }

    /// Whether backward passes shall compute the outputs of norms and activations once more.
    pub fn recomputes(&self) -> bool {
        self.recompute
    }

    /// How activations are stored.
    pub fn precision(&self) -> Precision {
        self.recording.precision
    }

    /// The way in which an entry point runs a shape.
    pub fn choose(&mut self, ways: &'static Ways, shape: &[u32]) -> &'static Candidate {
        let key = self.choices.key(ways, shape);
        if !self.recording.asked.iter().any(|(asked, _)| *asked == key) {
            self.recording.asked.push((key, ways));
        }
        self.choices.choose(ways, shape)
    }

    /// A way to run an entry point that not every device can, if this one can.
    pub fn possible(&self, ways: &'static Ways) -> Option<&'static Candidate> {
        self.choices.possible(ways)
    }

    /// Whether the device is a GPU.
    pub fn is_gpu(&self) -> bool {
        self.choices.device.gpu
    }

    /// Lanes that fill the device.
    pub fn device_lanes(&self) -> u32 {
        self.choices.device.lanes()
    }

    /// A learnt tensor.
    pub fn weight(&mut self, weight: Weight) -> Tensor {
        let tensor = self.range(self.weights, self.parameters, weight.offset, weight.shape);
        self.single(tensor)
    }

    /// A learnt tensor as matrix products read it: in half precision a copy, of [`Recorder::half_weights`].
    pub fn matrix(&mut self, weight: Weight) -> Tensor {
        match self.precision() {
            Precision::F32 => self.weight(weight),
            Precision::F16 => self.half_range(weight.offset, weight.shape),
        }
    }

    /// All weights and their copies in half precision, in ranges of at most `most` elements: what must be narrowed before
    /// matrices are read. Nothing in single precision.
    pub fn half_weights(&mut self, most: u64) -> Vec<(Tensor, Tensor)> {
        if self.precision() == Precision::F32 {
            return Vec::new();
        }
        let starts = (0..self.parameters.div_ceil(most)).map(|i| i * most).collect::<Vec<_>>();
        let mut ranges = Vec::new();
        for offset in starts {
            let shape = [1, 1, 1, most.min(self.parameters - offset) as u32];
            ranges.push((self.range(self.weights, self.parameters, offset, shape), self.half_range(offset, shape)));
        }
        ranges
    }

    fn half_range(&mut self, offset: u64, shape: [u32; 4]) -> Tensor {
        assert!(offset.is_multiple_of(128), "a range starts at a multiple of 256 bytes");
        let buffer = self.buffer(HALF_WEIGHTS, self.parameters * 2);
        self.tensor(shape, Place::Buffer { buffer, offset: offset * 2 }, true)
    }

    /// Its gradient, which some dispatch overwrites.
    pub fn grad(&mut self, weight: Weight) -> Tensor {
        let tensor = self.range(GRADIENTS, self.parameters, weight.offset, weight.shape);
        self.single(tensor)
    }

    /// Says that a tensor is f32 whatever the precision.
    fn single(&mut self, tensor: Tensor) -> Tensor {
        self.recording.tensors[tensor.id as usize].half = Some(false);
        tensor
    }

    /// An activation. Its life is from the first dispatch that writes it to the last that reads it.
    pub fn temp(&mut self, shape: [u32; 4]) -> Tensor {
        self.tensor(shape, Place::Temporary, false)
    }

    /// Temporaries that were written and not read, in one that a dispatch can read as a whole: one behind the other, each from a
    /// multiple of 256 bytes on. Gives it, [1, 1, 1, elements], and the first element of each.
    pub fn join(&mut self, parts: &[Tensor]) -> (Tensor, Vec<u64>) {
        let half = self.recording.tensors[parts[0].id as usize].half;
        let mut elements = 0;
        let mut firsts = Vec::new();
        for part in parts {
            let info = &self.recording.tensors[part.id as usize];
            assert!(
                info.place == Place::Temporary && info.half == half,
                "parts of a tensor are temporaries stored alike"
            );
            assert!(
                self.written[part.id as usize] && !self.recording.reads(part.id),
                "a part is written and not yet read"
            );
            firsts.push(elements);
            elements += part.elements().next_multiple_of(128);
        }
        let elements = u32::try_from(elements).expect("a tensor's elements fit a u32");
        let whole = self.tensor([1, 1, 1, elements], Place::Temporary, true);
        self.recording.tensors[whole.id as usize].half = half;
        for (part, first) in parts.iter().zip(&firsts) {
            let offset = first * self.recording.element_bytes(part.id);
            self.recording.tensors[part.id as usize].place = Place::Part { whole: whole.id, offset };
        }
        (whole, firsts)
    }

    /// The whole of a named buffer of its own, kept between runs and shared by recordings that name it.
    pub fn persistent(&mut self, name: &str, shape: [u32; 4]) -> Tensor {
        self.range(name, padded_elements(shape), 0, shape)
    }

    /// Where a tensor lives.
    pub fn place(&self, tensor: Tensor) -> Place {
        self.recording.tensors[tensor.id as usize].place
    }

    /// A further range of the named buffer of `tensor`, f32, from element `offset` on.
    pub fn beside(&mut self, tensor: Tensor, offset: u64, shape: [u32; 4]) -> Tensor {
        let Place::Buffer { buffer, .. } = self.place(tensor) else { panic!("a range is of a named buffer") };
        let beside = self.tensor(shape, Place::Buffer { buffer, offset: offset * 4 }, true);
        self.single(beside)
    }

    /// A range of a named buffer of `elements` 4-byte elements, from element `offset` on (a multiple of 64, so that
    /// it can be bound).
    pub fn range(&mut self, name: &str, elements: u64, offset: u64, shape: [u32; 4]) -> Tensor {
        assert!(offset.is_multiple_of(64), "{name}: a range starts at a multiple of 256 bytes");
        assert!(offset + padded_elements(shape) <= elements, "{name}: the range ends behind the buffer");
        let buffer = self.buffer(name, elements * 4);
        self.tensor(shape, Place::Buffer { buffer, offset: offset * 4 }, true)
    }

    /// A tensor of fixed values, uploaded when the plan is made. `values` has the padded layout.
    pub fn constant(&mut self, name: &str, shape: [u32; 4], values: &[f32]) -> Tensor {
        assert_eq!(values.len() as u64, padded_elements(shape), "{name}: values and shape disagree");
        let tensor = self.persistent(name, shape);
        let Place::Buffer { buffer, .. } = self.recording.tensors[tensor.id as usize].place else { unreachable!() };
        self.recording.buffers[buffer].contents = values.iter().map(|value| value.to_bits()).collect();
        self.single(tensor)
    }

    /// Names all that `record` records: `down.0/resnet.1/conv1`.
    pub fn scope<R>(&mut self, name: &str, record: impl FnOnce(&mut Recorder) -> R) -> R {
        let outer = self.scope.join("/");
        self.scope.push(name.to_string());
        self.recording.scopes.push(self.scope.join("/"));
        let result = record(self);
        self.scope.pop();
        self.recording.scopes.push(outer);
        result
    }

    /// Records one dispatch. `io` are the storage bindings in the order of their indices, `flops` counts a multiply
    /// and an add as two. Panics where WGSL and the call disagree: binding count, parameter names and kinds, or a read
    /// of a temporary that nothing wrote.
    pub fn dispatch(
        &mut self,
        kernel: &'static Kernel,
        entry: &'static str,
        params: &[(&'static str, Value)],
        io: &[Tensor],
        grid: Grid,
        flops: u64,
    ) {
        self.dispatch_candidate(&Candidate::new(kernel, &[]), entry, params, io, grid, flops);
    }

    /// As [`Recorder::dispatch`], in the way that [`Recorder::choose`] gave.
    pub fn dispatch_candidate(
        &mut self,
        &Candidate { kernel, constants, bound, .. }: &Candidate,
        entry: &'static str,
        params: &[(&'static str, Value)],
        io: &[Tensor],
        grid: Grid,
        flops: u64,
    ) {
        let declared = kernel.entry_point(entry);
        let at = format!("{}.{entry}", kernel.name);
        let names: Vec<&str> = declared.storage.iter().map(|binding| binding.name.as_str()).collect();
        assert_eq!(io.len(), names.len(), "{at} binds {names:?}");
        check_params(&at, declared, params);
        for (tensor, binding) in io.iter().zip(&declared.storage) {
            self.check_access(&at, *tensor, &binding.name, binding.access);
            self.check_precision(&at, *tensor, binding);
        }
        let io: Vec<u32> = io.iter().map(|tensor| tensor.id).collect();
        check_aliases(&self.recording, &io, &declared.storage).unwrap_or_else(|problem| panic!("{at}: {problem}"));
        let [x, y, z] = declared.workgroup_size;
        let groups = match grid {
            Grid::Invocations(count) => count.div_ceil((x * y * z) as u64),
            Grid::Workgroups(count) => count,
        };
        self.recording.dispatches.push(Dispatch {
            kernel,
            entry,
            constants,
            params: params.to_vec(),
            io,
            grid: fold(groups),
            flops,
            scope: self.recording.scopes.len() - 1,
            bound: Bound::of(self.recording.precision, bound),
        });
    }

    /// The sums that wait for others, so that one dispatch makes many.
    pub fn waiting(&mut self) -> &mut Vec<PartialSums> {
        &mut self.waiting
    }

    /// What was recorded. Panics if sums still wait.
    pub fn finish(self) -> Recording {
        assert!(self.waiting.is_empty(), "sums that wait are recorded");
        self.recording
    }

    fn tensor(&mut self, shape: [u32; 4], place: Place, written: bool) -> Tensor {
        assert!(shape.iter().all(|extent| *extent > 0), "an extent of {shape:?} is 0");
        assert!(padded_elements(shape) < 1 << 32, "{shape:?} has more elements than a u32 can index");
        self.recording.tensors.push(TensorInfo { shape, place, half: None });
        self.written.push(written);
        Tensor { id: self.recording.tensors.len() as u32 - 1, shape }
    }

    fn buffer(&mut self, name: &str, bytes: u64) -> usize {
        if let Some(index) = self.recording.buffers.iter().position(|buffer| buffer.name == name) {
            assert_eq!(self.recording.buffers[index].bytes, bytes, "{name}: two sizes");
            return index;
        }
        self.recording.buffers.push(NamedBuffer { name: name.to_string(), bytes, contents: Vec::new() });
        self.recording.buffers.len() - 1
    }

    fn check_access(&mut self, at: &str, tensor: Tensor, name: &str, access: Access) {
        let written = &mut self.written[tensor.id as usize];
        assert!(*written || !access.reads(), "{at} reads {name} {:?}, which nothing wrote", tensor.shape);
        *written |= access.writes();
    }

    /// A tensor is stored in one way for good.
    fn check_precision(&mut self, at: &str, tensor: Tensor, binding: &Binding) {
        let half = self.recording.precision == Precision::F16 && binding.real;
        let stored = *self.recording.tensors[tensor.id as usize].half.get_or_insert(half);
        assert_eq!(stored, half, "{at}: whether {} {:?} is stored in half precision", binding.name, tensor.shape);
    }
}

fn check_params(at: &str, declared: &super::kernel::EntryPoint, params: &[(&'static str, Value)]) {
    let fields = declared.params.as_ref().map_or(&[][..], |uniform| &uniform.fields);
    assert_eq!(params.len(), fields.len(), "{at} has parameters {fields:?}");
    for (name, value) in params {
        let field = fields.iter().find(|field| field.name == *name);
        let field = field.unwrap_or_else(|| panic!("{at} has no parameter {name}"));
        assert_eq!(field.float, matches!(value, Value::F32(_)), "{at}: the kind of {name}");
    }
}

/// A buffer bound for writing may not be bound for reading in the same dispatch, nor written through overlapping ranges.
///
/// # Errors
/// Names the two bindings.
pub(super) fn check_aliases(recording: &Recording, io: &[u32], bindings: &[Binding]) -> Result<(), String> {
    for (i, a) in io.iter().enumerate() {
        for (j, b) in io.iter().enumerate().skip(i + 1) {
            let (first, second) = (bindings[i].access, bindings[j].access);
            if !first.writes() && !second.writes() {
                continue;
            }
            let both_write = first.writes() && second.writes();
            let fine = match (recording.tensors[*a as usize].place, recording.tensors[*b as usize].place) {
                (Place::Part { whole: x, .. }, Place::Part { whole: y, .. }) => x != y || both_write && a != b,
                (Place::Buffer { buffer: x, offset: p }, Place::Buffer { buffer: y, offset: q }) => {
                    let [own, other] = [a, b].map(|id| 4 * recording.tensor(*id).elements());
                    x != y || both_write && (p + own <= q || q + other <= p)
                }
                _ => recording.temporary(*a).is_none_or(|whole| recording.temporary(*b) != Some(whole)),
            };
            if !fine {
                return Err(format!("{} and {} share a buffer", bindings[i].name, bindings[j].name));
            }
        }
    }
    Ok(())
}

fn fold(groups: u64) -> [u32; 3] {
    let rows = groups.div_ceil(MAX_GROUPS).max(1);
    assert!(rows <= MAX_GROUPS, "{groups} workgroups are more than a grid holds");
    [groups.div_ceil(rows) as u32, rows as u32, 1]
}

impl Recording {
    /// Whether a dispatch reads the tensor.
    pub fn reads(&self, id: u32) -> bool {
        let reads = |(bound, binding): (u32, &Binding)| bound == id && binding.access.reads();
        self.dispatches.iter().any(|dispatch| dispatch.bindings().any(reads))
    }

    /// The temporary that holds a tensor, itself or what it is a part of; none if a named buffer does.
    pub fn temporary(&self, id: u32) -> Option<u32> {
        match self.tensors[id as usize].place {
            Place::Temporary => Some(id),
            Place::Part { whole, .. } => Some(whole),
            Place::Buffer { .. } => None,
        }
    }

    /// The tensor with this index as a handle.
    pub fn tensor(&self, id: u32) -> Tensor {
        Tensor { id, shape: self.tensors[id as usize].shape }
    }

    /// The first tensor of the named buffer `name`.
    pub fn named(&self, name: &str) -> Option<Tensor> {
        let index = self.buffers.iter().position(|buffer| buffer.name == name)?;
        let within = |tensor: &TensorInfo| matches!(tensor.place, Place::Buffer { buffer, .. } if buffer == index);
        self.tensors.iter().position(within).map(|id| self.tensor(id as u32))
    }

    /// Bytes of a tensor in memory, padding included.
    pub fn tensor_bytes(&self, id: u32) -> u64 {
        self.tensor(id).elements() * self.element_bytes(id)
    }

    /// Bytes of one element of a tensor.
    pub fn element_bytes(&self, id: u32) -> u64 {
        if self.is_half(id) { 2 } else { 4 }
    }

    /// Whether a tensor is stored in half precision.
    pub fn is_half(&self, id: u32) -> bool {
        self.tensors[id as usize].half == Some(true)
    }

    /// Whether what a named buffer holds is stored in half precision.
    pub fn is_half_buffer(&self, index: usize) -> bool {
        let within = |tensor: &TensorInfo| matches!(tensor.place, Place::Buffer { buffer, .. } if buffer == index);
        self.tensors.iter().any(|tensor| tensor.half == Some(true) && within(tensor))
    }

    /// `down.1/resnet.0/conv1 · conv2d.forward`.
    pub fn label(&self, dispatch: &Dispatch) -> String {
        let scope = &self.scopes[dispatch.scope];
        let kernel = format!("{}.{}", dispatch.kernel.label(), dispatch.entry);
        if scope.is_empty() { kernel } else { format!("{scope} · {kernel}") }
    }

    /// What a dispatch is of: `x 1x7x9x67 weight 3x2x68x134 ... stride=2`, its bindings and parameters by their names.
    pub fn shape(&self, dispatch: &Dispatch) -> String {
        let bindings = dispatch.bindings().map(|(id, binding)| {
            let [n, h, w, c] = self.tensor(id).shape;
            format!("{} {n}x{h}x{w}x{c}", binding.name)
        });
        let params = dispatch.params.iter().map(|(name, value)| match value {
            Value::U32(value) => format!("{name}={value}"),
            Value::F32(value) => format!("{name}={value}"),
        });
        bindings.chain(params).collect::<Vec<_>>().join(" ")
    }

    /// Bytes that `dispatch` must move at the least: each tensor once, however often it is bound, twice where it is read and written.
    pub fn bytes(&self, dispatch: &Dispatch) -> u64 {
        let first = dispatch.bindings().enumerate().filter(|(index, (id, _))| !dispatch.io[..*index].contains(id));
        let bytes = first
            .map(|(_, (id, binding))| self.tensor_bytes(id) * if binding.access == Access::ReadWrite { 2 } else { 1 });
        bytes.sum()
    }

    /// Bytes that the whole recording must move at the least.
    pub fn moved_bytes(&self) -> u64 {
        self.dispatches.iter().map(|dispatch| self.bytes(dispatch)).sum()
    }

    /// Arithmetic of the whole recording.
    pub fn flops(&self) -> u64 {
        self.dispatches.iter().map(|dispatch| dispatch.flops).sum()
    }
}
