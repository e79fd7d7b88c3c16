//! Draws images: the U-Net and one fused denoise dispatch a step, coefficients from the host.

use std::sync::Arc;

use super::classifier::{self, Source};
use super::fit;
use super::request::{Frame, Request, Start};
use super::session::{Session, labels_of};
use crate::error::Result;
use crate::gpu::{Choices, Plan, Plans, Precision, Recorder, Recordings, Step};
use crate::nn::{Classifier, UNet};
use crate::ops::diffusion;
use crate::picture::Images;

/// The images, as they are.
pub const X: &str = "x";
const PREVIOUS: &str = "previous";
/// Their classes, then the null class of guided ones.
pub const LABELS: &str = "sample labels";
/// Zeros, where the network is not asked.
const NO_OUTPUT: &str = "no output";
/// A picture of which a part is known, and where.
const KNOWN: &str = "known";
const MASK: &str = "mask";

/// What draws.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    pub unet: &'a UNet,
    /// The flat buffer that the U-Net's weights are read from.
    pub weights: &'static str,
    /// What steers; its weights are in [`classifier::WEIGHTS`].
    pub classifier: Option<&'a Classifier>,
}

/// Plans for batches of one frame.
pub struct Generator {
    start: Plan,
    pub(super) denoise: Plan,
    pub(super) update: Option<Plan>,
    pub(super) gradient: Option<Plan>,
    pub(super) frame: Frame,
    pub(super) channels: usize,
    null_class: u32,
}

/// Records what draws a frame: `start` (noise), `denoise` (a step of any sampler), `update` (a step without the network, if
/// the frame has such) and `gradient` (the classifier's, if one steers).
///
/// # Errors
/// [`crate::error::Error::Device`] if no kernel could index the batch.
pub fn record(networks: &Networks, frame: &Frame, choices: &Arc<Choices>) -> Result<Recordings> {
    let Frame { batch, height, width, guided, .. } = *frame;
    let Networks { unet, weights, classifier } = *networks;
    let rows = batch as u64 * if guided { 2 } else { 1 };
    fit::check_elements(&unet.config, rows, height, width)?;
    let channels = unet.config.in_channels;
    let single = [batch, height, width, channels];
    let network = [rows as u32, height, width, channels];
    let slots = [frame.slots * batch, height, width, channels];
    let mut recordings = Recordings::default();
    let r = &mut Recorder::new();
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, slots));
    diffusion::start(r, x, previous, guided);
    recordings.push("start", std::mem::take(r).finish());
    if let Some(classifier) = classifier {
        fit::check_elements(&classifier.config.unet, batch.into(), height, width)?;
        let source = Source { x: X, rows: rows as u32, shape: single };
        recordings.push("gradient", classifier::record_gradient(classifier, source, choices));
    }
    let r = &mut Recorder::for_model(unet.params.elements, weights).with_choices(choices);
    let (x, previous) = (r.persistent(X, network), r.persistent(PREVIOUS, slots));
    let labels = unet.is_conditional().then(|| r.persistent(LABELS, [1, 1, 1, rows as u32]));
    let timestep = diffusion::broadcast_timestep(r, rows as u32);
    let (out, _) = unet.forward(r, x, timestep, labels);
    let out = if classifier.is_some() { classifier::steer(r, out, single) } else { out };
    r.scope("denoise", |r| diffusion::denoise(r, x, out, previous, guided));
    if frame.masked {
        let [known, mask] = [KNOWN, MASK].map(|name| r.persistent(name, [1, height, width, channels]));
        r.scope("mask", |r| diffusion::impute(r, x, known, mask, guided));
    }
    recordings.push("denoise", std::mem::take(r).finish());
    if frame.updates {
        let r = &mut Recorder::new();
        let [x, none] = [X, NO_OUTPUT].map(|name| r.persistent(name, network));
        let previous = r.persistent(PREVIOUS, slots);
        diffusion::denoise(r, x, none, previous, guided);
        recordings.push("update", std::mem::take(r).finish());
    }
    Ok(recordings)
}

impl Generator {
    /// Plans a frame in the ways that are fastest; weights are zero until they are written.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the batch does not fit, with one that would.
    pub fn fit(session: &mut Session, networks: &Networks, frame: &Frame) -> Result<Generator> {
        let record = |batch, choices: &_| record(networks, &Frame { batch, ..*frame }, choices);
        let (_, plans) = session.fit(frame.batch, record)?;
        Ok(Generator::of(plans, networks, frame))
    }

    /// Plans a frame in the usual ways of single precision: nothing is measured.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if the batch does not fit.
    pub fn usual(session: &mut Session, networks: &Networks, frame: &Frame) -> Result<Generator> {
        let recordings = record(networks, frame, &session.choices().at(Precision::F32))?;
        Ok(Generator::of(session.plan(&recordings)?, networks, frame))
    }

    fn of(mut plans: Plans, networks: &Networks, frame: &Frame) -> Generator {
        let config = &networks.unet.config;
        let [start, denoise] = ["start", "denoise"].map(|name| plans.take(name).expect("recorded for every frame"));
        Generator {
            start,
            denoise,
            update: plans.take("update"),
            gradient: plans.take("gradient"),
            frame: *frame,
            channels: config.in_channels as usize,
            null_class: config.num_class_embeds.unwrap_or(1) - 1,
        }
    }

    /// The images as they are now.
    pub(super) fn images(&self, session: &Session) -> Result<Images> {
        let Frame { batch, height, width, .. } = self.frame;
        // Under guidance they are there twice.
        let values = session.read_rows_at(X, 0, self.pixels(), self.channels)?;
        let (height, width) = (height as usize, width as usize);
        Ok(Images { values, count: batch as usize, height, width, channels: self.channels })
    }

    /// The batch that begins with sample `first` out of all samples' `values`; surplus places repeat the last.
    fn rows(&self, values: &[f32], first: u32) -> Vec<f32> {
        let (size, last) = (self.size(), values.len() / self.size() - 1);
        let image = |n: u32| ((first + n) as usize).min(last) * size;
        (0..self.frame.batch).flat_map(|n| values[image(n)..][..size].iter().copied()).collect()
    }

    /// Writes the batch that begins with sample `first` out of all samples' `values` into a slot.
    pub(super) fn write_slot(&self, session: &Session, slot: usize, values: &[f32], first: u32) {
        session.write_rows_at(PREVIOUS, slot * self.pixels(), &self.rows(values, first), self.channels);
    }

    /// What a slot holds of this batch, image by image.
    pub(super) fn slot(&self, session: &Session, slot: usize) -> Result<Vec<f32>> {
        session.read_rows_at(PREVIOUS, slot * self.pixels(), self.pixels(), self.channels)
    }

    /// Elements of an image.
    pub(super) fn size(&self) -> usize {
        self.frame.height as usize * self.frame.width as usize * self.channels
    }

    /// Pixels of a batch.
    fn pixels(&self) -> usize {
        self.frame.batch as usize * self.size() / self.channels
    }

    pub(super) fn values(&self, request: &Request, first: u32, number: usize) -> Step {
        let mut values = Step::default();
        values.set("seed", (request.seed as u32) as f64).set("sample", first as f64);
        values.set("counter", number as f64).set("guidance", request.guidance);
        values
    }

    /// What is known of every sample.
    pub(super) fn write_known(&self, session: &Session, request: &Request) {
        if let Some(known) = &request.known {
            session.write_rows(KNOWN, &known.image, self.channels, self.channels);
            session.write_rows(MASK, &known.mask, self.channels, self.channels);
        }
    }

    /// The labels of a batch, then the null class for its unconditional half; and those that it is steered to.
    pub(super) fn write_labels(&self, session: &Session, request: &Request, first: usize) {
        let batch = self.frame.batch as usize;
        if let Some(labels) = &request.labels {
            let nulls = std::iter::repeat_n(self.null_class, if self.frame.guided { batch } else { 0 });
            session.write_labels(LABELS, labels_of(labels, first, batch).chain(nulls));
        }
        if let Some(steering) = request.steering.as_ref().filter(|_| self.gradient.is_some()) {
            session.write_labels(classifier::LABELS, labels_of(&steering.labels, first, batch));
        }
    }

    /// Runs `start` for the batch that begins with sample `first`, and puts into x what the request says.
    pub(super) fn begin(&self, session: &Session, request: &Request, first: u32) -> Result<()> {
        let noise = |seed: u64, sample: u32| {
            let mut values = self.values(request, sample, 0);
            values.set("seed", (seed as u32) as f64).set("noise", request.initial_scale);
            session.run(&self.start, &values);
        };
        let mut x = match &request.start {
            Start::Noise => {
                noise(request.seed, first);
                return Ok(());
            }
            Start::Given(given) => {
                // Sets all slots to 0.
                noise(request.seed, first);
                let scaled = |value: f32| (request.initial_scale * value as f64) as f32;
                self.rows(&given.start, first).into_iter().map(scaled).collect()
            }
            Start::Image { image, scale } => {
                noise(request.seed, first);
                let mut x = self.images(session)?.values;
                for (x, pixel) in x.iter_mut().zip(image.iter().cycle()) {
                    *x += (scale * *pixel as f64) as f32;
                }
                x
            }
            Start::Between { seeds } => {
                let mut ends = Vec::new();
                for seed in seeds {
                    noise(*seed, 0);
                    ends.push(self.images(session)?.values[..self.size()].to_vec());
                }
                let share = |n: u32| (first + n).min(request.count - 1) as f64 / (request.count - 1).max(1) as f64;
                (0..self.frame.batch).flat_map(|n| great_circle(&ends[0], &ends[1], share(n))).collect()
            }
        };
        if self.frame.guided {
            x.extend_from_within(..);
        }
        session.write_rows(X, &x, self.channels, self.channels);
        Ok(())
    }
}

/// sin((1 - s) angle) / sin(angle) a + sin(s angle) / sin(angle) b (Song, Meng & Ermon 2020, eq. 67).
fn great_circle(a: &[f32], b: &[f32], share: f64) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
    let of = |share: f64| if angle.sin() > 1e-6 { (share * angle).sin() / angle.sin() } else { share };
    let (of_a, of_b) = (of(1.0 - share), of(share));
    a.iter().zip(b).map(|(a, b)| (of_a * *a as f64 + of_b * *b as f64) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_great_circle_keeps_the_length() {
        let (a, b) = ([3.0, 0.0, 4.0], [0.0, 5.0, 0.0]);
        assert_eq!(great_circle(&a, &b, 0.0), a);
        let middle = great_circle(&a, &b, 0.5);
        let length = middle.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 5.0).abs() < 1e-5, "{middle:?}");
        assert_eq!(great_circle(&a, &a, 0.3), a);
    }
}
