//! The learnt tensors of a model: names and shapes as PyTorch has them, places in the flat buffers as kernels want them.

use crate::gpu::Weight;
use crate::gpu::recorder::padded_elements;
use crate::random::Random;

/// How a tensor's logical axes lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[C]`, in equal segments each padded to a multiple of 4 channels.
    Vector { segments: usize },
    /// [O, I, R, S] kept as [R, S, I, O].
    Conv,
    /// [O, I] kept as [I, O]; outputs and inputs (attention's heads, scale and shift) in equal padded segments.
    Linear { outputs: usize, inputs: usize },
    /// [rows, C] kept as it is.
    Table,
}

/// PyTorch's default initialisation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Uniform in ±1 / sqrt(fan_in): `kaiming_uniform_(a = sqrt(5))`, and the bias that goes with it.
    FanIn(usize),
    Constant(f32),
    /// Standard normal, of embeddings.
    Normal,
}

/// A learnt tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// diffusers' name: `down_blocks.0.resnets.0.conv1.weight`.
    pub name: String,
    /// PyTorch's shape.
    pub shape: Vec<usize>,
    /// The tensor in memory that holds it, maybe beside others.
    pub weight: Weight,
    layout: Layout,
    columns: Columns,
    init: Init,
}

/// Where the outputs of a tensor lie in memory: from the first on, of so many that stand side by side.
#[derive(Clone, Copy, Debug)]
struct Columns {
    first: usize,
    width: usize,
}

/// Linear layers that read the same input: one layer in memory, their outputs side by side in the order in which they came.
#[derive(Debug, Default)]
pub struct Joined {
    /// Their matrices in [`Params::all`]; behind each stands its vector.
    matrices: Vec<usize>,
    /// Extents in memory.
    inputs: usize,
    outputs: usize,
}

impl Joined {
    /// Adds NAME.weight, `shape` [O, I], and NAME.bias; gives the first of the layer's channels in memory.
    pub fn add(&mut self, params: &mut Params, name: &str, shape: [usize; 2], segments: usize, init: Init) -> u32 {
        let first = self.outputs;
        self.inputs = padded(shape[1]);
        self.outputs += padded(extent_in_memory(shape[0], segments));
        self.matrices.push(params.all.len());
        let nowhere = (Weight { offset: 0, shape: [0; 4] }, Columns { first, width: 0 });
        let layout = Layout::Linear { outputs: segments, inputs: 1 };
        params.push(format!("{name}.weight"), &shape, layout, init, nowhere);
        params.push(format!("{name}.bias"), &shape[..1], Layout::Vector { segments }, init, nowhere);
        first as u32
    }

    /// Gives the layer its room in memory: matrix and vector.
    pub fn place(self, params: &mut Params) -> [Weight; 2] {
        let width = self.outputs;
        let places = [params.reserve([1, 1, self.inputs, width]), params.reserve([1, 1, 1, width])];
        for matrix in self.matrices {
            for (parameter, place) in params.all[matrix..].iter_mut().zip(places) {
                (parameter.weight, parameter.columns.width) = (place, width);
            }
        }
        places
    }
}

/// All learnt tensors of a model.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pub all: Vec<Parameter>,
    /// Elements of each flat buffer: padding included, every tensor aligned to 128 elements.
    pub elements: u64,
}

fn padded(extent: usize) -> usize {
    extent.div_ceil(4) * 4
}

/// Position of `index` of `extent` channels in equal segments, each padded to a multiple of 4.
fn position(index: usize, extent: usize, segments: usize) -> usize {
    let segment = extent / segments;
    index / segment * padded(segment) + index % segment
}

/// Extent of such an axis in memory; the last padding is left to the tensor where there is one segment.
fn extent_in_memory(extent: usize, segments: usize) -> usize {
    if segments == 1 { extent } else { segments * padded(extent / segments) }
}

impl Params {
    /// Adds a tensor behind the others.
    pub fn add(&mut self, name: String, shape: &[usize], layout: Layout, init: Init) -> Weight {
        let in_memory = match (layout, shape) {
            (Layout::Vector { segments }, [c]) => [1, 1, 1, extent_in_memory(*c, segments)],
            (Layout::Conv, [o, i, r, s]) => [*r, *s, padded(*i), *o],
            (Layout::Linear { outputs, inputs }, [o, i]) => {
                [1, 1, padded(extent_in_memory(*i, inputs)), extent_in_memory(*o, outputs)]
            }
            (Layout::Table, [rows, c]) => [1, 1, *rows, *c],
            _ => panic!("{name}: {shape:?} has no layout {layout:?}"),
        };
        let weight = self.reserve(in_memory);
        self.push(name, shape, layout, init, (weight, Columns { first: 0, width: padded(in_memory[3]) }));
        weight
    }

    /// Room behind the other tensors.
    fn reserve(&mut self, in_memory: [usize; 4]) -> Weight {
        let weight = Weight { offset: self.elements, shape: in_memory.map(|extent| extent as u32) };
        // 256 bytes in half precision too.
        self.elements += padded_elements(weight.shape).next_multiple_of(128);
        weight
    }

    fn push(
        &mut self,
        name: String,
        shape: &[usize],
        layout: Layout,
        init: Init,
        (weight, columns): (Weight, Columns),
    ) {
        self.all.push(Parameter { name, shape: shape.to_vec(), weight, layout, columns, init });
    }

    /// Learnt numbers, padding left out.
    pub fn count(&self) -> u64 {
        self.all.iter().map(|parameter| parameter.len() as u64).sum()
    }

    /// The flat buffer of initial weights.
    pub fn initialise(&self, seed: u64) -> Vec<f32> {
        let mut random = Random::new(seed);
        let mut flat = vec![0.0; self.elements as usize];
        for parameter in &self.all {
            let values: Vec<f32> = (0..parameter.len()).map(|_| parameter.init.draw(&mut random)).collect();
            parameter.pack(&values, &mut flat);
        }
        flat
    }
}

impl Init {
    fn draw(self, random: &mut Random) -> f32 {
        match self {
            Init::FanIn(fan_in) => ((2.0 * random.uniform() - 1.0) / (fan_in as f64).sqrt()) as f32,
            Init::Constant(value) => value,
            Init::Normal => random.normal() as f32,
        }
    }
}

impl Parameter {
    /// Numbers in the tensor.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the number `index` of PyTorch's order lies in the flat buffer.
    fn place(&self, index: usize) -> usize {
        let Columns { first, width } = self.columns;
        let (row, column) = match (self.layout, &self.shape[..]) {
            (Layout::Vector { segments }, [c]) => (0, position(index, *c, segments)),
            (Layout::Conv, [_, i, r, s]) => (index % (r * s) * padded(*i) + index / (r * s) % i, index / (i * r * s)),
            (Layout::Linear { outputs, inputs }, [o, i]) => {
                (position(index % i, *i, inputs), position(index / i, *o, outputs))
            }
            (Layout::Table, [_, c]) => (index / c, index % c),
            _ => unreachable!("checked when it was added"),
        };
        self.weight.offset as usize + row * width + first + column
    }

    /// Writes `values` in PyTorch's order to their places in the flat buffer.
    pub fn pack(&self, values: &[f32], flat: &mut [f32]) {
        assert_eq!(values.len(), self.len(), "{}", self.name);
        values.iter().enumerate().for_each(|(index, value)| flat[self.place(index)] = *value);
    }

    /// The values in PyTorch's order out of a flat buffer.
    pub fn unpack<T: Copy>(&self, flat: &[T]) -> Vec<T> {
        (0..self.len()).map(|index| flat[self.place(index)]).collect()
    }
}
