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
    part: Part,
    init: Init,
}

/// Which of equal parts, whose outputs stand side by side in one tensor in memory.
#[derive(Clone, Copy, Debug)]
struct Part {
    index: usize,
    count: usize,
}

impl Part {
    /// Where the part begins in memory, and how wide all are, of outputs that take `extent` each.
    fn of(self, extent: usize) -> (usize, usize) {
        (self.index * padded(extent), self.count * padded(extent))
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
        let weight = self.reserve(&name, shape, layout, 1);
        self.push(name, shape, layout, init, weight, Part { index: 0, count: 1 });
        weight
    }

    /// Adds, for each of `names`, the matrix NAME.weight and the vector NAME.bias of a linear layer of `shape` [O, I]. In memory
    /// they are one matrix and one vector: the outputs of the first, then those of the second.
    pub fn add_joined(
        &mut self,
        names: &[String],
        shape: [usize; 2],
        [matrix, vector]: [Layout; 2],
        init: Init,
    ) -> [Weight; 2] {
        let count = names.len();
        let weight = self.reserve(&names[0], &shape, matrix, count);
        let bias = self.reserve(&names[0], &shape[..1], vector, count);
        for (index, name) in names.iter().enumerate() {
            let part = Part { index, count };
            self.push(format!("{name}.weight"), &shape, matrix, init, weight, part);
            self.push(format!("{name}.bias"), &shape[..1], vector, init, bias, part);
        }
        [weight, bias]
    }

    /// Room for `count` tensors of `shape`, their outputs side by side.
    fn reserve(&mut self, name: &str, shape: &[usize], layout: Layout, count: usize) -> Weight {
        let side_by_side = |extent: usize| if count == 1 { extent } else { count * padded(extent) };
        let in_memory = match (layout, shape) {
            (Layout::Vector { segments }, [c]) => [1, 1, 1, side_by_side(extent_in_memory(*c, segments))],
            (Layout::Conv, [o, i, r, s]) => [*r, *s, padded(*i), side_by_side(*o)],
            (Layout::Linear { outputs, inputs }, [o, i]) => {
                [1, 1, padded(extent_in_memory(*i, inputs)), side_by_side(extent_in_memory(*o, outputs))]
            }
            (Layout::Table, [rows, c]) => [1, 1, *rows, side_by_side(*c)],
            _ => panic!("{name}: {shape:?} has no layout {layout:?}"),
        };
        let weight = Weight { offset: self.elements, shape: in_memory.map(|extent| extent as u32) };
        // 256 bytes in half precision too.
        self.elements += padded_elements(weight.shape).next_multiple_of(128);
        weight
    }

    fn push(&mut self, name: String, shape: &[usize], layout: Layout, init: Init, weight: Weight, part: Part) {
        self.all.push(Parameter { name, shape: shape.to_vec(), weight, layout, part, init });
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
        let within = match (self.layout, &self.shape[..]) {
            (Layout::Vector { segments }, [c]) => {
                self.part.of(extent_in_memory(*c, segments)).0 + position(index, *c, segments)
            }
            (Layout::Conv, [o, i, r, s]) => {
                let (output, input) = (index / (i * r * s), index / (r * s) % i);
                let (first, width) = self.part.of(*o);
                ((index % (r * s)) * padded(*i) + input) * width + first + output
            }
            (Layout::Linear { outputs, inputs }, [o, i]) => {
                let (first, width) = self.part.of(extent_in_memory(*o, outputs));
                position(index % i, *i, inputs) * width + first + position(index / i, *o, outputs)
            }
            (Layout::Table, [_, c]) => {
                let (first, width) = self.part.of(*c);
                index / c * width + first + index % c
            }
            _ => unreachable!("checked when it was added"),
        };
        self.weight.offset as usize + within
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
