//! One case of layers.safetensors on the device: PyTorch's layouts in, PyTorch's layouts out.

use std::path::Path;

use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Step, Tensor};
use diffuse::tensors::{self, FileTensor, FileTensors};

/// How a tensor of PyTorch lies in the kernels' [N, H, W, C], channels padded to a multiple of 4.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// [N, C, H, W].
    Image,
    /// [O, I, R, S] as [R, S, I, O], I padded too.
    Conv,
    /// [O, I] as [1, 1, I, O], I padded too.
    Linear,
    /// [N, C] as [N, 1, 1, C].
    Rows,
    /// [C].
    Vector,
    /// [N, T, heads, d] as it is.
    Tokens,
    /// The same, one of three parts of [N, T, 3 heads, d].
    Part(usize),
    /// [rows, C] as [1, 1, rows, C].
    Table,
}

impl Layout {
    /// Which of PyTorch's axes each axis of the kernels is.
    fn axes(self) -> [Option<usize>; 4] {
        match self {
            Layout::Image => [Some(0), Some(2), Some(3), Some(1)],
            Layout::Conv => [Some(2), Some(3), Some(1), Some(0)],
            Layout::Linear => [None, None, Some(1), Some(0)],
            Layout::Rows => [Some(0), None, None, Some(1)],
            Layout::Vector => [None, None, None, Some(0)],
            Layout::Tokens | Layout::Part(_) => [Some(0), Some(1), Some(2), Some(3)],
            Layout::Table => [None, None, Some(0), Some(1)],
        }
    }

    fn in_memory(self, shape: &[usize]) -> [u32; 4] {
        let mut extents = self.axes().map(|axis| axis.map_or(1, |axis| shape[axis] as u32));
        if matches!(self, Layout::Conv | Layout::Linear) {
            extents[2] = extents[2].next_multiple_of(4);
        }
        if let Layout::Part(_) = self {
            extents[2] *= 3;
        }
        extents
    }

    /// Where the number `index` of PyTorch's order lies in the kernels' memory.
    fn place(self, shape: &[usize], index: usize) -> usize {
        let mut position = vec![0; shape.len()];
        let mut rest = index;
        for axis in (0..shape.len()).rev() {
            position[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        let [_, height, width, channels] = self.in_memory(shape).map(|extent| extent as usize);
        let [n, y, mut x, c] = self.axes().map(|axis| axis.map_or(0, |axis| position[axis]));
        if let Layout::Part(part) = self {
            x += part * shape[2];
        }
        ((n * height + y) * width + x) * channels.next_multiple_of(4) + c
    }
}

/// Records layers over the inputs of one case and compares what they give.
pub struct Bench {
    pub recorder: Recorder,
    case: String,
    file: FileTensors,
    inputs: Vec<(Tensor, Vec<u32>)>,
    outputs: Vec<(String, Tensor, Layout)>,
}

impl Bench {
    pub fn new(case: &str) -> Bench {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/layers.safetensors");
        let file = tensors::read(&path).expect("a whole file");
        Bench { recorder: Recorder::new(), case: case.into(), file, inputs: Vec::new(), outputs: Vec::new() }
    }

    fn stored(&self, name: &str) -> &FileTensor {
        let name = format!("{}.{name}", self.case);
        self.file.get(&name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// The tensor `name` of the case.
    pub fn input(&mut self, name: &str, layout: Layout) -> Tensor {
        let FileTensor { shape, values } = self.stored(name).clone();
        let tensor = self.recorder.persistent(name, layout.in_memory(&shape));
        let mut memory = vec![0; tensor.elements() as usize];
        for (index, value) in values.iter().enumerate() {
            memory[layout.place(&shape, index)] = value.to_bits();
        }
        self.inputs.push((tensor, memory));
        tensor
    }

    /// The tensors `names` of the case as the parts of one.
    pub fn parts(&mut self, names: [&str; 3]) -> Tensor {
        let shape = self.stored(names[0]).shape.clone();
        let tensor = self.recorder.persistent("parts", Layout::Part(0).in_memory(&shape));
        let mut memory = vec![0; tensor.elements() as usize];
        for (part, name) in names.into_iter().enumerate() {
            for (index, value) in self.stored(name).values.iter().enumerate() {
                memory[Layout::Part(part).place(&shape, index)] = value.to_bits();
            }
        }
        self.inputs.push((tensor, memory));
        tensor
    }

    /// The integers `name` of the case, bound as u32.
    pub fn integers(&mut self, name: &str) -> Tensor {
        let mut memory: Vec<u32> = self.stored(name).values.iter().map(|value| *value as u32).collect();
        let tensor = self.recorder.persistent(name, [1, 1, 1, memory.len() as u32]);
        memory.resize(tensor.elements() as usize, 0);
        self.inputs.push((tensor, memory));
        tensor
    }

    /// States that `tensor` must be what the case calls `name`.
    pub fn output(&mut self, name: &str, tensor: Tensor, layout: Layout) {
        self.outputs.push((name.into(), tensor, layout));
    }

    /// Runs on the device; every output must agree within `bound` of its largest value.
    pub fn check(mut self, bound: f64) {
        let context = Context::new(None).expect("GPU tests need an adapter");
        let recording = std::mem::take(&mut self.recorder).finish();
        // Without reuse every tensor can be read after the run.
        let options = PlanOptions { reuse: false, ..PlanOptions::default() };
        let plan = Plan::new(&context, &recording, &mut Memory::default(), options).expect("a small plan");
        self.inputs.iter().for_each(|(tensor, values)| plan.write(&context, *tensor, values));
        plan.run(&context, &Step::default());
        for (name, tensor, layout) in &self.outputs {
            let FileTensor { shape, values } = self.stored(name);
            assert_eq!(tensor.shape, layout.in_memory(shape), "{}.{name}", self.case);
            let memory = plan.read(&context, *tensor).expect("the device works");
            let computed: Vec<f32> = (0..values.len()).map(|index| memory[layout.place(shape, index)]).collect();
            assert_close(&format!("{}.{name}", self.case), &computed, values, bound);
        }
    }
}

/// Largest difference over largest value.
pub fn assert_close(what: &str, computed: &[f32], expected: &[f32], bound: f64) {
    let largest = expected.iter().fold(0.0, |most: f64, value| most.max(value.abs() as f64));
    let differences = computed.iter().zip(expected).map(|(c, e)| (*c as f64 - *e as f64).abs());
    let error = differences.fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { most.max(d) }) / largest;
    println!("{what:32} {error:.2e}");
    assert!(computed.len() == expected.len() && error <= bound, "{what}: off by {error:.2e} of its largest value");
}
