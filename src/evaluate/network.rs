//! A denoiser on a device: noisy images in, its output out, and the output's vector-Jacobian product.

use std::sync::Arc;

use super::observer::padded;
use crate::error::{Error, Result};
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Precision, Recorder, Recording, Step, WEIGHTS};
use crate::nn::UNet;
use crate::ops::{add, diffusion};

const X: &str = "x";
const LABELS: &str = "labels";
/// The network's output, with the channels of a learned variance if it has them.
pub const OUT: &str = "out";
/// The vector v on the left of the Jacobian.
pub const VECTOR: &str = "vector";
/// v^T d out / d x.
pub const PRODUCT: &str = "product";

/// A denoiser on a device, for batches of one size.
pub struct Network<'a> {
    context: &'a Context,
    memory: Memory,
    output: Plan,
    product: Option<Plan>,
    shape: [usize; 4],
    outputs: usize,
    conditional: bool,
}

/// Records the output for x at the step's timestep; with `product` the vector-Jacobian product v^T d out / d x, too:
/// the network's own way back, to its input. shape: [N, H, W, C].
pub fn record(unet: &UNet, shape: [u32; 4], product: bool, choices: &Arc<Choices>) -> Recording {
    let r = &mut Recorder::for_model(unet.params.elements, WEIGHTS).with_choices(choices);
    let x = r.persistent(X, shape);
    let labels = unet.is_conditional().then(|| r.persistent(LABELS, [1, 1, 1, shape[0]]));
    let timestep = diffusion::broadcast_timestep(r, shape[0]);
    let (y, saved) = unet.forward(r, x, timestep, labels);
    let out = r.persistent(OUT, y.shape);
    add::scale_into(r, y, 1.0, out);
    let mut wanted = vec![out];
    if product {
        let vector = r.persistent(VECTOR, y.shape);
        let gradient = unet.backward_to_input(r, saved, vector);
        let dx = r.persistent(PRODUCT, shape);
        add::scale_into(r, gradient, 1.0, dx);
        wanted.push(dx);
    }
    std::mem::take(r).finish().only(&wanted)
}

impl<'a> Network<'a> {
    /// Plans the network with these weights for `batch` images of `height` x `width`.
    ///
    /// # Errors
    /// [`Error::Config`] if its output is no image like its input, [`Error::Device`] if it does not fit.
    pub fn new(
        context: &'a Context,
        unet: &UNet,
        weights: &[f32],
        [batch, height, width]: [u32; 3],
        product: bool,
    ) -> Result<Network<'a>> {
        let config = &unet.config;
        config.validate_size(height, width)?;
        config.validate_denoiser()?;
        crate::sample::check_elements(config, batch as u64, height, width)?;
        let shape = [batch, height, width, config.in_channels];
        let mut memory = Memory::default();
        let choices = context.choices.at(Precision::F32);
        let mut plan =
            |product| Plan::new(context, &record(unet, shape, product, &choices), &mut memory, PlanOptions::default());
        let (output, product) = (plan(false)?, product.then(|| plan(true)).transpose()?);
        memory.write(context, WEIGHTS, 0, weights);
        let conditional = unet.is_conditional();
        let (shape, outputs) = (shape.map(|extent| extent as usize), config.out_channels as usize);
        Ok(Network { context, memory, output, product, shape, outputs, conditional })
    }

    /// Images that it takes at a time.
    pub fn batch(&self) -> usize {
        self.shape[0]
    }

    /// Numbers of an image: H·W·C.
    pub fn dimensions(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// Tells the class of each image of a batch; of fewer images than a batch has, the last again.
    pub fn write_labels(&self, labels: &[u32]) {
        if self.conditional {
            let label = |i: usize| if i < self.shape[0] { labels[i.min(labels.len() - 1)] } else { 0 };
            let values: Vec<u32> = (0..self.shape[0].next_multiple_of(4)).map(label).collect();
            self.memory.write(self.context, LABELS, 0, &values);
        }
    }

    /// The output for up to a batch of images [n, H, W, C] at a timestep, in the same order.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn run(&self, x: &[f64], timestep: f64) -> Result<Vec<f64>> {
        self.write(X, x, self.shape[3]);
        self.output.run(self.context, &at(timestep));
        self.read(OUT, x.len(), 0, self.outputs)
    }

    /// As [`Network::run`], and what the network says of the variance.
    ///
    /// # Errors
    /// [`Error::Config`] if it says nothing, [`Error::Device`] if the device fails.
    pub fn run_with_variance(&self, x: &[f64], timestep: f64) -> Result<[Vec<f64>; 2]> {
        let channels = self.shape[3];
        if self.outputs == channels {
            return Err(Error::Config("this checkpoint has no learned variance".into()));
        }
        let out = self.run(x, timestep)?;
        Ok([out, self.read(OUT, x.len(), channels, self.outputs)?])
    }

    /// v^T d out / d x for v in the layout of x, which is a batch as [`Network::run`] takes it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails. Panics if the network was planned without.
    pub fn product(&self, x: &[f64], vector: &[f64], timestep: f64) -> Result<Vec<f64>> {
        let plan = self.product.as_ref().expect("a network with the product");
        self.write(X, x, self.shape[3]);
        self.write(VECTOR, vector, self.outputs);
        plan.run(self.context, &at(timestep));
        self.read(PRODUCT, x.len(), 0, self.shape[3])
    }

    /// Writes images to a tensor of `channels` channels, the others of which are 0.
    fn write(&self, name: &str, values: &[f64], channels: usize) {
        let [n, h, w, c] = self.shape;
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        self.memory.write(self.context, name, 0, &padded(&values, c, channels.next_multiple_of(4), n * h * w));
    }

    /// Reads the channels of images that begin at `first` of a tensor of `channels` channels.
    fn read(&self, name: &str, count: usize, first: usize, channels: usize) -> Result<Vec<f64>> {
        let own = self.shape[3];
        let values = self.memory.read(self.context, name)?;
        let rows = values.chunks_exact(channels.next_multiple_of(4)).take(count / own);
        Ok(rows.flat_map(|row| row[first..first + own].iter().map(|value| *value as f64)).collect())
    }
}

fn at(timestep: f64) -> Step {
    let mut step = Step::default();
    step.set("timestep", timestep);
    step
}
