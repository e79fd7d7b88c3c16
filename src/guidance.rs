//! Classifier guidance: the gradient of log p(c | x_t) with respect to x_t moves every step of any sampler.
//!
//! Bayes' rule splits the score of the images of class c, grad log p(x_t | c) = grad log p(x_t) + grad log p(c | x_t)
//! (Song et al. 2021, eq. 14). As the score is -eps / sigma, a scale s on the second term is
//!
//! ```text
//! eps' = eps - s · sigma · grad log p(c | x_t)          (Dhariwal & Nichol 2021, algorithm 2, line 4)
//! ```
//!
//! A [`Steering`] is one recorded plan: it reads the sampler's x and the step's timestep, and leaves the gradient in a
//! buffer. The sampler's own recording adds it to the network's output by [`steer`], times [`coefficient`].

use std::sync::Arc;

use crate::diffusion::Level;
use crate::error::Result;
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Precision, Recorder, Recording, Step, Tensor};
use crate::nn::Classifier;
use crate::ops::{add, concat, cross_entropy, diffusion};

/// The classifier's flat buffer, beside that of the network which it guides.
pub const WEIGHTS: &str = "classifier weights";
/// The class of each image: u32 [1, 1, 1, N].
pub const LABELS: &str = "guidance labels";
/// grad log p(c | x_t): [N, H, W, C].
pub const GRADIENT: &str = "classifier gradient";
/// Sum of log p over the batch.
pub const LOG_PROBABILITY: &str = "log probability";

/// Where a sampler holds its images.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// The named buffer.
    pub x: &'static str,
    /// Images in it; the first N are looked at. With classifier-free guidance it holds each of N twice.
    pub rows: u32,
    /// N, H, W, C.
    pub shape: [u32; 4],
}

/// Records log p(c | x_t) and its gradient with respect to x_t, for the step's timestep.
pub fn record(classifier: &Classifier, source: Source, choices: &Arc<Choices>) -> Recording {
    let [n, height, width, channels] = source.shape;
    let r = &mut Recorder::for_model(classifier.params.elements, WEIGHTS).with_choices(choices);
    let row = (height * width) as u64 * channels.next_multiple_of(4) as u64;
    let x = r.range(source.x, source.rows as u64 * row, 0, source.shape);
    let labels = r.persistent(LABELS, [1, 1, 1, n]);
    let log_probability = r.persistent(LOG_PROBABILITY, [1, 1, 1, 1]);
    let gradient = r.persistent(GRADIENT, source.shape);
    let timestep = diffusion::broadcast_timestep(r, n);
    let (verdict, saved) = classifier.forward(r, x, timestep);
    // -1 times the cross-entropy.
    let dlogits = cross_entropy::loss(r, verdict.logits, labels, -1.0, log_probability);
    let dx = classifier.backward_to_input(r, saved, dlogits);
    add::scale_into(r, dx, 1.0, gradient);
    std::mem::take(r).finish().only(&[gradient, log_probability])
}

/// The classifier of a sampler, on a device.
pub struct Steering {
    plan: Plan,
    batch: u32,
}

impl Steering {
    /// Plans the gradient for the images of `source`, and uploads the classifier's weights.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if it does not fit.
    pub fn new(
        context: &Context,
        memory: &mut Memory,
        classifier: &Classifier,
        weights: &[f32],
        source: Source,
    ) -> Result<Steering> {
        memory.forget(&[WEIGHTS, LABELS, GRADIENT, LOG_PROBABILITY]);
        let recording = record(classifier, source, &context.choices.at(Precision::F32));
        let plan = Plan::new(context, &recording, memory, PlanOptions::default())?;
        memory.write(context, WEIGHTS, 0, weights);
        Ok(Steering { plan, batch: source.shape[0] })
    }

    /// The classes to steer to, one an image.
    pub fn write_labels(&self, context: &Context, memory: &Memory, labels: &[u32]) {
        assert_eq!(labels.len(), self.batch as usize, "a label for each image");
        let mut labels = labels.to_vec();
        labels.resize(labels.len().next_multiple_of(4), 0);
        memory.write(context, LABELS, 0, &labels);
    }

    /// Computes the gradient where the sampler stands: at its x and the step's timestep. Comes before each evaluation.
    pub fn run(&self, context: &Context, step: &Step) {
        self.plan.run(context, step);
    }
}

/// The network's output as the step's coefficient and the gradient of N images move it; of 2 N outputs both halves alike,
/// so that classifier-free guidance, which takes S of one and 1 - S of the other, is moved by as much.
///
/// A learned variance, which the second half of the channels says, stays as it is.
pub fn steer(r: &mut Recorder, out: Tensor, shape: [u32; 4]) -> Tensor {
    let gradient = r.persistent(GRADIENT, shape);
    r.scope("classifier guidance", |r| match out.channels() == shape[3] {
        true => add::add_guidance(r, out, gradient),
        false => {
            let (mean, variance) = concat::concat_backward(r, out, shape[3]);
            let moved = add::add_guidance(r, mean, gradient);
            concat::concat(r, moved, variance)
        }
    })
}

/// What the gradient is multiplied by before it is added to the network's output, at scale s and the level (alpha, sigma)
/// of x_t, if the estimate of x0 is `x0_from_out` times the output plus a part of x_t.
///
/// eps moves by -s sigma g, thus x0 = (x_t - sigma eps) / alpha by s sigma² g / alpha, whatever is predicted.
pub fn coefficient(scale: f64, at: Level, x0_from_out: f64) -> f64 {
    scale * at.sigma * at.sigma / (at.alpha * x0_from_out)
}
