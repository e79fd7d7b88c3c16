//! One case of a kernel: the same recording serves tests, `verify` and the gradient check of the twins.

use std::sync::Arc;

use crate::gpu::{Choices, CpuState, Recorder, Recording, Slice, Step, Tensor};
use crate::random::Random;

/// A hard case of a kernel: a shape where one of its variants comes to an edge.
#[derive(Clone, Copy, Debug)]
pub struct Corner {
    /// At most [`Corner::WIDTH`] characters.
    pub name: &'static str,
    /// Records it; what it draws are values, not shapes.
    pub draw: fn(&mut Draw),
    /// See [`Corner::full`].
    pub(super) is_full: bool,
}

impl Corner {
    /// Characters of a name, so that reports keep to a line.
    pub const WIDTH: usize = 32;

    pub const fn new(name: &'static str, draw: fn(&mut Draw)) -> Corner {
        Corner { name, draw, is_full: false }
    }

    /// One that fills workgroups to the last lane: what a wrong count leaves out, those of a folded grid that have nothing
    /// to do would make, so its grids stay in one row.
    pub const fn full(name: &'static str, draw: fn(&mut Draw)) -> Corner {
        Corner { name, draw, is_full: true }
    }
}

/// Which case of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Number so-and-so of its corners.
    Corner(usize),
    /// The one that a seed draws.
    Random(u64),
}

impl Which {
    /// Of the values, and of the shapes where they are drawn.
    fn seed(self) -> u64 {
        match self {
            Which::Corner(index) => !(index as u64),
            Which::Random(seed) => seed,
        }
    }
}

/// Values of an input, padded layout.
#[derive(Clone, Debug)]
pub enum Values {
    F32(Vec<f32>),
    U32(Vec<u32>),
}

/// `gradient` must be the derivative of <y, dy> with respect to `input`.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    pub input: Tensor,
    pub y: Tensor,
    pub dy: Tensor,
    pub gradient: Tensor,
}

/// A recording with values for its inputs.
pub struct Case {
    pub recording: Recording,
    pub inputs: Vec<(Tensor, Values)>,
    pub gradients: Vec<Gradient>,
    pub step: Step,
}

/// Draws a case: shapes, values, and what is recorded over them.
pub struct Draw {
    pub recorder: Recorder,
    pub step: Step,
    inputs: Vec<(Tensor, Values)>,
    gradients: Vec<Gradient>,
    random: Random,
}

impl Case {
    /// The state that the twins start from.
    pub fn state(&self) -> CpuState {
        let mut state = CpuState::default();
        for (tensor, values) in &self.inputs {
            let values = match values {
                Values::F32(values) => values.iter().map(|value| *value as f64).collect(),
                Values::U32(values) => values.iter().map(|value| *value as f64).collect(),
            };
            state.write(&self.recording, *tensor, values);
        }
        state
    }

    /// What `record` draws as case `which`, in the variants that `choices` names, its grids in two rows if `folded`.
    pub(super) fn drawn(record: fn(&mut Draw), which: Which, folded: bool, choices: &Arc<Choices>) -> Case {
        let mut draw = Draw {
            recorder: Recorder::new().with_choices(choices),
            step: Step::default(),
            inputs: Vec::new(),
            gradients: Vec::new(),
            random: Random::new(which.seed()),
        };
        record(&mut draw);
        let mut recording = draw.recorder.finish();
        if folded {
            fold(&mut recording);
        }
        Case { recording, inputs: draw.inputs, gradients: draw.gradients, step: draw.step }
    }
}

/// Grids in two rows of workgroups, as those beyond 65,535 are folded; one or two in the last have nothing to do.
fn fold(recording: &mut Recording) {
    for dispatch in recording.dispatches.iter_mut().filter(|dispatch| dispatch.grid[0] > 1 && dispatch.grid[1] == 1) {
        dispatch.grid = [dispatch.grid[0] / 2 + 1, 2, 1];
    }
}

impl Draw {
    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.random.bits()
    }

    /// A whole number in low..=high.
    pub fn range(&mut self, low: u32, high: u32) -> u32 {
        low + (self.random.bits() % (high - low + 1) as u64) as u32
    }

    /// One of `choices`.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.range(0, choices.len() as u32 - 1) as usize]
    }

    /// A coin.
    pub fn flip(&mut self) -> bool {
        self.random.bits() & 1 == 1
    }

    /// Uniform in (0, 1).
    pub fn uniform(&mut self) -> f64 {
        self.random.uniform()
    }

    /// Standard normal.
    pub fn normal(&mut self) -> f64 {
        self.random.normal()
    }

    /// An input of standard normal values, zero in the padding.
    pub fn input(&mut self, name: &str, shape: [u32; 4]) -> Tensor {
        self.input_by(name, shape, Draw::normal)
    }

    /// An input whose values `value` draws, zero in the padding.
    pub fn input_by(&mut self, name: &str, shape: [u32; 4], mut value: impl FnMut(&mut Draw) -> f64) -> Tensor {
        let tensor = self.recorder.persistent(name, shape);
        let channels = shape[3] as u64;
        let stride = tensor.channels4() as u64 * 4;
        let values = (0..tensor.elements()).map(|i| if i % stride < channels { value(self) as f32 } else { 0.0 });
        let values = values.collect();
        self.inputs.push((tensor, Values::F32(values)));
        tensor
    }

    /// A weight whose third axis (input channels, `channels` of them) is padded to a multiple of 4 with zeros:
    /// [R, S, C, K].
    pub fn weight(&mut self, name: &str, [r, s, channels, k]: [u32; 4]) -> Tensor {
        let padded = channels.div_ceil(4) * 4;
        let tensor = self.input(name, [r, s, padded, k]);
        let stride = tensor.channels4() as usize * 4;
        let Some((_, Values::F32(values))) = self.inputs.last_mut() else { unreachable!() };
        for (row, values) in values.chunks_exact_mut(stride).enumerate() {
            if row as u32 % padded >= channels {
                values.fill(0.0);
            }
        }
        tensor
    }

    /// An input that is a part of each of `rows` rows: `channels` of them, others before and behind.
    pub fn slice(&mut self, name: &str, rows: u32, channels: u32) -> Slice {
        let first = 4 * self.range(0, 2);
        let behind = self.range(0, 5);
        let width = first + channels.next_multiple_of(4) + behind;
        Slice { tensor: self.input(name, [rows, 1, 1, width]), first, channels }
    }

    /// An input of integers, bound as `array<u32>`, shape [1, 1, 1, count].
    pub fn integers(&mut self, name: &str, count: u32, mut value: impl FnMut(&mut Draw) -> u32) -> Tensor {
        let tensor = self.recorder.persistent(name, [1, 1, 1, count]);
        let values = (0..tensor.elements() as u32).map(|i| if i < count { value(self) } else { 0 }).collect();
        self.inputs.push((tensor, Values::U32(values)));
        tensor
    }

    /// States that `gradient` is the derivative of <y, dy> with respect to `input`.
    pub fn gradient(&mut self, input: Tensor, y: Tensor, dy: Tensor, gradient: Tensor) {
        self.gradients.push(Gradient { input, y, dy, gradient });
    }
}
