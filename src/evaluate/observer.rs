//! A classifier on a device: images in, logits and features out.

use std::sync::Arc;

use crate::diffusion::Schedule;
use crate::error::{Error, Result};
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Precision, Recorder, Recording, Step, Tensor, WEIGHTS};
use crate::nn::Classifier;
use crate::nn::classifier::Verdict;
use crate::ops::diffusion;
use crate::picture::Images;
use crate::random::Random;

/// Images that go to the device at a time.
const BATCH: u32 = 64;
const X: &str = "x";

/// A classifier on a device.
pub struct Observer<'a> {
    context: &'a Context,
    memory: Memory,
    plan: Plan,
    verdict: Verdict,
    shape: [u32; 4],
}

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

/// Records the classifier's look at a batch, and where it leaves its verdict.
///
/// # Errors
/// [`Error::Config`] if the classifier has no size.
pub fn record(classifier: &Classifier, choices: &Arc<Choices>) -> Result<(Recording, Verdict)> {
    let (height, width) = classifier.config.sides()?;
    let r = &mut Recorder::for_model(classifier.params.elements, WEIGHTS).with_choices(choices);
    let x = r.persistent(X, [BATCH, height, width, classifier.config.unet.in_channels]);
    let timestep = diffusion::broadcast_timestep(r, BATCH);
    let (verdict, _) = classifier.forward(r, x, timestep);
    Ok((std::mem::take(r).finish(), verdict))
}

impl<'a> Observer<'a> {
    /// Plans the classifier with these weights.
    ///
    /// # Errors
    /// [`Error::Device`] if it does not fit.
    pub fn new(context: &'a Context, classifier: &Classifier, weights: &[f32]) -> Result<Observer<'a>> {
        let (height, width) = classifier.config.sides()?;
        let shape = [BATCH, height, width, classifier.config.unet.in_channels];
        let (recording, verdict) = record(classifier, &context.choices.at(Precision::F32))?;
        let mut memory = Memory::default();
        let plan = Plan::new(context, &recording, &mut memory, PlanOptions::default())?;
        memory.write(context, WEIGHTS, 0, weights);
        Ok(Observer { context, memory, plan, verdict, shape })
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
        let mut step = Step::default();
        step.set("timestep", timestep);
        let mut seen = Observations::default();
        for part in images.values.chunks(batch * height * width * channels) {
            let count = part.len() / (height * width * channels);
            self.memory.write(
                self.context,
                X,
                0,
                &padded(part, channels, channels.next_multiple_of(4), batch * height * width),
            );
            self.plan.run(self.context, &step);
            // Nothing is recorded behind them that could take their slots.
            seen.logits.extend(self.rows(self.verdict.logits)?.into_iter().take(count));
            seen.features.extend(self.rows(self.verdict.features)?.into_iter().take(count));
        }
        Ok(seen)
    }

    /// A row of numbers for each image, padding left out.
    fn rows(&self, tensor: Tensor) -> Result<Vec<Vec<f64>>> {
        let values = self.plan.read(self.context, tensor)?;
        let channels = tensor.channels() as usize;
        let of_image = values.chunks_exact(values.len() / tensor.n() as usize);
        let row = |image: &[f32]| -> Vec<f64> {
            let rows = image.chunks_exact(channels.next_multiple_of(4));
            rows.flat_map(|row| row[..channels].iter().map(|value| *value as f64)).collect()
        };
        Ok(of_image.map(row).collect())
    }
}

/// Rows of `channels` values at the head of rows of `stride`, `rows` of them; zeros elsewhere.
pub(super) fn padded(values: &[f32], channels: usize, stride: usize, rows: usize) -> Vec<f32> {
    let mut padded = vec![0.0; rows * stride];
    for (to, from) in padded.chunks_exact_mut(stride).zip(values.chunks_exact(channels)) {
        to[..channels].copy_from_slice(from);
    }
    padded
}

/// The accuracy at one noise level.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Accuracy {
    pub timestep: usize,
    /// alpha^2 / sigma^2.
    pub signal_to_noise: f64,
    pub accuracy: f64,
    pub count: usize,
}

/// How often the classifier is right about noisy `images`: at timestep 0 and at each tenth of the schedule.
///
/// # Errors
/// Those of [`Observer::look`].
pub fn accuracy_by_noise(
    observer: &Observer,
    images: &Images,
    labels: &[u32],
    schedule: &Schedule,
    seed: u64,
) -> Result<Vec<Accuracy>> {
    let last = schedule.timesteps() - 1;
    let mut random = Random::new(seed);
    let mut timesteps: Vec<usize> = (0..10).map(|tenth| tenth * last / 10).collect();
    timesteps.dedup();
    let at = |timestep: usize| {
        let (alpha, sigma) = (schedule.alpha(timestep), schedule.sigma(timestep));
        let mut noisy = images.clone();
        noisy.values.iter_mut().for_each(|value| *value = (alpha * *value as f64 + sigma * random.normal()) as f32);
        let accuracy = observer.look(&noisy, timestep as f64)?.accuracy(labels);
        Ok(Accuracy { timestep, signal_to_noise: (alpha / sigma).powi(2), accuracy, count: labels.len() })
    };
    timesteps.into_iter().map(at).collect()
}
