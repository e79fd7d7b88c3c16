//! A classifier of noisy images on a device: what it sees, and where it would have a sampler go.
//!
//! Bayes' rule splits the score of the images of class c, grad log p(x_t | c) = grad log p(x_t) + grad log p(c | x_t)
//! (Song et al. 2021, eq. 14). As the score is -eps / sigma, a scale s on the second term is
//!
//! ```text
//! eps' = eps - s · sigma · grad log p(c | x_t)          (Dhariwal & Nichol 2021, algorithm 2, line 4)
//! ```
//!
//! [`record_gradient`] reads the sampler's x and the step's timestep, and leaves the gradient in a buffer. The sampler's own
//! recording adds it to the network's output by [`steer`], times [`coefficient`].

use std::sync::Arc;

use super::denoiser::at;
use super::session::Session;
use crate::diffusion::Level;
use crate::error::{Error, Result};
use crate::gpu::{self, Choices, Plan, Recorder, Recording, Recordings, Tensor};
use crate::nn::Classifier;
use crate::ops::{add, concat, cross_entropy, diffusion};
use crate::picture::Images;

/// Images that go to the device at a time.
const BATCH: u32 = 64;
const X: &str = "x";
const LOGITS: &str = "logits";
const FEATURES: &str = "features";

/// What it sees in some images.
#[derive(Clone, Debug, Default)]
pub struct Observations {
    /// K numbers an image.
    pub logits: Vec<Vec<f64>>,
    /// What the pooling token gathered.
    pub features: Vec<Vec<f64>>,
}

impl Observations {
    /// The likeliest class of each image.
    pub fn classes(&self) -> Vec<u32> {
        let likeliest = |logits: &Vec<f64>| (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        self.logits.iter().map(|logits| likeliest(logits).unwrap_or(0) as u32).collect()
    }

    /// The share of images whose likeliest class is their label; 0 of none.
    pub fn accuracy(&self, labels: &[u32]) -> f64 {
        let hits = self.classes().iter().zip(labels).filter(|(class, label)| class == label).count();
        hits as f64 / labels.len().max(1) as f64
    }
}

/// A classifier on a device, to look at images.
pub struct Observer<'a> {
    session: Session<'a>,
    plan: Plan,
    logits: Tensor,
    features: Tensor,
    shape: [u32; 4],
}

/// Records the look at a batch [N, H, W, C].
fn record_look(classifier: &Classifier, shape: [u32; 4], choices: &Arc<Choices>) -> Recordings {
    let r = &mut Recorder::for_model(classifier.params.elements, gpu::WEIGHTS).with_choices(choices);
    let x = r.persistent(X, shape);
    let timestep = diffusion::broadcast_timestep(r, shape[0]);
    let (verdict, _) = classifier.forward(r, x, timestep);
    for (name, said) in [(LOGITS, verdict.logits), (FEATURES, verdict.features)] {
        let kept = r.persistent(name, said.shape);
        add::scale_into(r, said, 1.0, kept);
    }
    Recordings::from_iter([("look", std::mem::take(r).finish())])
}

impl<'a> Observer<'a> {
    /// Plans the classifier with these weights.
    ///
    /// # Errors
    /// [`Error::Config`] if the classifier has no size, [`Error::Device`] if it does not fit.
    pub fn new(mut session: Session<'a>, classifier: &Classifier, weights: &[f32]) -> Result<Observer<'a>> {
        let (height, width) = classifier.config.sides()?;
        let shape = [BATCH, height, width, classifier.config.unet.in_channels];
        let mut recordings = session.settle(|choices| Ok(record_look(classifier, shape, choices)))?;
        let plan = session.plan(&recordings)?.take("look").expect("it was recorded");
        let recording = recordings.take("look").expect("it was recorded");
        let [logits, features] = [LOGITS, FEATURES].map(|name| recording.named(name).expect("it was recorded"));
        session.write(gpu::WEIGHTS, weights);
        Ok(Observer { session, plan, logits, features, shape })
    }

    /// Looks at images that the classifier takes to be at `timestep`.
    ///
    /// # Errors
    /// [`Error::Config`] if they are of another size, [`Error::Device`] if the device fails.
    pub fn look(&self, images: &Images, timestep: f64) -> Result<Observations> {
        let [batch, height, width, channels] = self.shape.map(|extent| extent as usize);
        if [images.height, images.width, images.channels] != [height, width, channels] {
            let problem = format!(
                "images of {}x{}x{}, and a classifier of {height}x{width}x{channels}",
                images.height, images.width, images.channels
            );
            return Err(Error::Config(problem));
        }
        let mut seen = Observations::default();
        for part in images.values.chunks(batch * height * width * channels) {
            let count = part.len() / (height * width * channels);
            self.session.write_rows(X, part, channels, channels);
            self.session.run(&self.plan, &at(timestep));
            seen.logits.extend(self.rows(self.logits)?.into_iter().take(count));
            seen.features.extend(self.rows(self.features)?.into_iter().take(count));
        }
        Ok(seen)
    }

    /// The numbers of each image.
    fn rows(&self, tensor: Tensor) -> Result<Vec<Vec<f64>>> {
        let values = self.session.read_tensor(&self.plan, tensor)?;
        let images = values.chunks_exact(values.len() / tensor.n() as usize);
        Ok(images.map(|image| image.iter().map(|value| *value as f64).collect()).collect())
    }
}

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
pub fn record_gradient(classifier: &Classifier, source: Source, choices: &Arc<Choices>) -> Recording {
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

/// The network's output as the step's coefficient and the gradient of N images move it; of 2 N outputs both halves alike,
/// so that classifier-free guidance, which takes S of one and 1 - S of the other, is moved by as much.
///
/// A learned variance, which the second half of the channels says, stays as it is.
pub fn steer(r: &mut Recorder, out: Tensor, shape: [u32; 4]) -> Tensor {
    let gradient = r.persistent(GRADIENT, shape);
    r.scope("classifier guidance", |r| match out.channels() == shape[3] {
        true => add::add_guidance(r, out, gradient),
        false => {
            let [mean, variance] = concat::concat_backward(r, out, shape[3]);
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
