//! What a network is trained for: forward, loss and backward of a batch.

use super::flat::losses_by_level;
use crate::diffusion::HYBRID;
use crate::gpu::{Recorder, Tensor};
use crate::nn::{Classifier, Params, UNet, UNetConfig};
use crate::ops::diffusion::{self, Batch};
use crate::ops::{adamw, cross_entropy};

/// A network and what it is trained for.
pub trait Objective {
    /// Its learnt tensors.
    fn params(&self) -> &Params;

    /// The U-Net that it is, or is a half of.
    fn config(&self) -> &UNetConfig;

    /// Records forward, loss and backward of a batch. The loss, a mean over the batch, goes to `loss`, [1, 1, 1, 1].
    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor);
}

/// The denoiser: weighted mean square of the error (Ho et al. 2020, eq. 14); with a learned variance L_hybrid (Nichol &
/// Dhariwal 2021, eq. 16).
impl Objective for UNet {
    fn params(&self) -> &Params {
        &self.params
    }

    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor) {
        let labels = self.is_conditional().then_some(batch.label);
        let (out, saved) = self.forward(r, batch.x, batch.timestep, labels);
        let scale = adamw::loss_scale(r, r.precision());
        let gradient = r.scope("loss", |r| {
            let parts = match self.config.learns_variance() {
                true => {
                    let bound = HYBRID * f64::from(batch.timesteps);
                    diffusion::hybrid_loss(r, out, batch, bound as f32, scale)
                }
                false => diffusion::loss(r, out, batch.target, batch.weight, scale),
            };
            let by_level = losses_by_level(r);
            parts.levels(r, batch.timestep, batch.timesteps, loss, by_level);
            parts.gradient
        });
        self.backward(r, saved, gradient);
    }
}

/// The classifier of noisy images: cross-entropy (Dhariwal & Nichol 2021, section 4.1).
impl Objective for Classifier {
    fn params(&self) -> &Params {
        &self.params
    }

    fn config(&self) -> &UNetConfig {
        &self.config.unet
    }

    fn record(&self, r: &mut Recorder, batch: &Batch, loss: Tensor) {
        let (verdict, saved) = self.forward(r, batch.x, batch.timestep);
        let mean = 1.0 / batch.x.n() as f32;
        let dlogits = r.scope("loss", |r| cross_entropy::loss(r, verdict.logits, batch.label, mean, loss));
        self.backward(r, saved, dlogits);
    }
}
