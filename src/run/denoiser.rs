//! A denoiser on a device: noisy images in, its output out, and the output's vector-Jacobian product.

use std::sync::Arc;

use super::fit;
use super::session::{Session, labels_of};
use crate::error::{Error, Result};
use crate::gpu::{Choices, Plan, Recorder, Recording, Recordings, Step, WEIGHTS};
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
pub struct Denoiser<'a> {
    session: Session<'a>,
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

impl<'a> Denoiser<'a> {
    /// Plans the network with these weights for `batch` images of `height` x `width`.
    ///
    /// # Errors
    /// [`Error::Config`] if its output is no image like its input, [`Error::Device`] if it does not fit.
    pub fn new(
        mut session: Session<'a>,
        unet: &UNet,
        weights: &[f32],
        [batch, height, width]: [u32; 3],
        product: bool,
    ) -> Result<Denoiser<'a>> {
        let config = &unet.config;
        config.validate_size(height, width)?;
        config.validate_denoiser()?;
        let (_, mut plans) = session.fit(batch, |batch, choices| {
            fit::check_elements(config, batch.into(), height, width)?;
            let record = |product| record(unet, [batch, height, width, config.in_channels], product, choices);
            let product = product.then(|| ("product", record(true)));
            Ok(std::iter::once(("output", record(false))).chain(product).collect::<Recordings>())
        })?;
        session.write(WEIGHTS, weights);
        Ok(Denoiser {
            output: plans.take("output").expect("it was recorded"),
            product: plans.take("product"),
            shape: [batch, height, width, config.in_channels].map(|extent| extent as usize),
            outputs: config.out_channels as usize,
            conditional: unet.is_conditional(),
            session,
        })
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
            self.session.write_labels(LABELS, labels_of(labels, 0, self.shape[0]));
        }
    }

    /// The output for up to a batch of images [n, H, W, C] at a timestep, in the same order.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn run(&self, x: &[f64], timestep: f64) -> Result<Vec<f64>> {
        self.write(X, x, self.shape[3]);
        self.session.run(&self.output, &at(timestep));
        self.read(OUT, x.len(), 0, self.outputs)
    }

    /// As [`Denoiser::run`], and what the network says of the variance.
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

    /// v^T d out / d x for v in the layout of x, which is a batch as [`Denoiser::run`] takes it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails. Panics if the network was planned without.
    pub fn product(&self, x: &[f64], vector: &[f64], timestep: f64) -> Result<Vec<f64>> {
        let plan = self.product.as_ref().expect("a network with the product");
        self.write(X, x, self.shape[3]);
        self.write(VECTOR, vector, self.outputs);
        self.session.run(plan, &at(timestep));
        self.read(PRODUCT, x.len(), 0, self.shape[3])
    }

    /// Writes images to a tensor of `channels` channels, the others of which are 0.
    fn write(&self, name: &str, values: &[f64], channels: usize) {
        let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
        self.session.write_rows(name, &values, self.shape[3], channels);
    }

    /// Reads `count` numbers of images whose channels begin at `first` of a tensor of `channels` channels.
    fn read(&self, name: &str, count: usize, first: usize, channels: usize) -> Result<Vec<f64>> {
        let values = self.session.read_rows(name, first..first + self.shape[3], channels)?;
        Ok(values[..count].iter().map(|value| *value as f64).collect())
    }
}

/// The step of an evaluation at a timestep.
pub(super) fn at(timestep: f64) -> Step {
    let mut step = Step::default();
    step.set("timestep", timestep);
    step
}
