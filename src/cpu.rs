//! The f64 twins: what each entry point of `shaders/` computes, written the plain way.
//!
//! Twins see tensors as the GPU does: N, H, W, C with channels padded to a multiple of 4. They share no code with the
//! shaders, so that an error in one shows against the other; `tests/grads.rs` checks their backward passes by
//! central differences.

pub mod adamw;
pub mod add;
pub mod attention;
pub mod ceiling;
pub mod concat;
pub mod conv2d;
pub mod cross_entropy;
pub mod diffusion;
pub mod embed;
pub mod group_norm;
pub mod lib;
pub mod linear;
pub mod pool;
pub mod private;
pub mod reduce;
pub mod resample;
pub mod silu;

/// The reference of one entry point.
pub type Twin = fn(&mut Call);

/// A tensor in f64, channels padded to a multiple of 4.
#[derive(Clone, Debug)]
pub struct Array {
    /// N, H, W, C without padding.
    pub shape: [usize; 4],
    /// Padded channels.
    pub stride: usize,
    pub data: Vec<f64>,
}

impl Array {
    pub fn zeros(shape: [usize; 4]) -> Array {
        let stride = shape[3].div_ceil(4) * 4;
        Array { shape, stride, data: vec![0.0; shape[0] * shape[1] * shape[2] * stride] }
    }

    /// N·H·W.
    pub fn rows(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    fn index(&self, n: usize, h: usize, w: usize, c: usize) -> usize {
        ((n * self.shape[1] + h) * self.shape[2] + w) * self.stride + c
    }

    pub fn at(&self, n: usize, h: usize, w: usize, c: usize) -> f64 {
        self.data[self.index(n, h, w, c)]
    }

    pub fn at_mut(&mut self, n: usize, h: usize, w: usize, c: usize) -> &mut f64 {
        let index = self.index(n, h, w, c);
        &mut self.data[index]
    }

    /// One position of N·H·W, padding included.
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.stride..][..self.stride]
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.stride..][..self.stride]
    }
}

/// One dispatch: parameters, the step's values, the bound tensors by their names in WGSL.
pub struct Call<'a> {
    pub params: &'a [(&'static str, f64)],
    pub step: &'a dyn Fn(&str) -> f64,
    pub arguments: Vec<(&'a str, Array)>,
}

impl Call<'_> {
    /// A u32 parameter.
    pub fn u(&self, name: &str) -> usize {
        self.f(name) as usize
    }

    /// A parameter that is 0 or 1.
    pub fn flag(&self, name: &str) -> bool {
        self.u(name) != 0
    }

    /// An f32 parameter.
    pub fn f(&self, name: &str) -> f64 {
        let found = self.params.iter().find(|(param, _)| *param == name);
        found.unwrap_or_else(|| panic!("no parameter {name}")).1
    }

    /// A field of the step's uniform.
    pub fn step(&self, name: &str) -> f64 {
        (self.step)(name)
    }

    /// A bound tensor.
    pub fn read(&self, name: &str) -> &Array {
        let found = self.arguments.iter().find(|(argument, _)| *argument == name);
        &found.unwrap_or_else(|| panic!("no binding {name}")).1
    }

    /// Zeros in the shape of a bound tensor.
    pub fn zeros(&self, name: &str) -> Array {
        Array::zeros(self.read(name).shape)
    }

    /// Overwrites a bound tensor.
    pub fn write(&mut self, name: &str, array: Array) {
        let found = self.arguments.iter_mut().find(|(argument, _)| *argument == name);
        let (_, slot) = found.unwrap_or_else(|| panic!("no binding {name}"));
        assert_eq!(slot.data.len(), array.data.len(), "{name}: another shape");
        *slot = array;
    }
}
