//! What passes of a model take on a card that is not at hand, counted as [`predict`] counts a step.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::predict::{self, Card};
use super::scale::Work;
use super::workload::{Options, record};
use crate::error::{Error, Result};
use crate::gpu::context::mebibytes;
use crate::gpu::{Choices, Precision, Recordings};
use crate::nn::UNet;
use crate::run::options::MOST_BATCH;

/// The parts of a training step of a model on a card.
pub struct Passes<'a> {
    unet: &'a UNet,
    card: &'a Card,
    choices: Arc<Choices>,
    /// Milliseconds by images: what is counted once is known.
    known: RefCell<BTreeMap<u32, f64>>,
}

impl<'a> Passes<'a> {
    pub fn new(unet: &'a UNet, card: &'a Card, precision: Precision) -> Passes<'a> {
        let choices = Arc::new(predict::choices(precision));
        Passes { unet, card, choices, known: RefCell::default() }
    }

    fn record(&self, images: u32) -> Result<Recordings> {
        let options = Options { batch: images, steps: 1, infer: false, recompute: false };
        record(self.unet, &options, &self.choices)
    }

    fn part_ms(&self, recordings: &mut Recordings, part: &str) -> f64 {
        let recordings = Recordings::from_iter(recordings.take(part).map(|recording| (part, recording)));
        predict::on(self.card, &recordings, 1).step_ms
    }

    /// Milliseconds of forward and backward on `images` images.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Device`] if no kernel takes as many.
    pub fn ms(&self, images: u32) -> Result<f64> {
        if let Some(ms) = self.known.borrow().get(&images) {
            return Ok(*ms);
        }
        let ms = self.part_ms(&mut self.record(images)?, "gradients");
        self.known.borrow_mut().insert(images, ms);
        Ok(ms)
    }

    /// What the card does of a step, `pass_ms` being [`Passes::ms`].
    ///
    /// # Errors
    /// [`Error::Config`] for a model that can't be trained, [`Error::Device`] if it is too large for the card.
    pub fn work(&self, pass_ms: &'a dyn Fn(u32) -> Result<f64>) -> Result<Work<'a>> {
        let gradients = self.unet.params.elements;
        // Two sides are read, one is written.
        let add_ms = (3 * 4 * gradients) as f64 / self.card.gbytes_per_s * 1e-6 + predict::LAUNCH_MICROSECONDS * 1e-3;
        let update_ms = self.part_ms(&mut self.record(1)?, "update");
        Ok(Work { pass_ms, most_images: self.most_images()?, gradients, add_ms, update_ms })
    }

    /// The largest power of two of images whose step the card holds and kernels can index.
    fn most_images(&self) -> Result<u32> {
        let memory = self.card.memory_gib << 30;
        let alone = self.record(1)?.peak_bytes();
        if alone > memory {
            let [alone, memory] = [alone, memory].map(mebibytes);
            return Err(Error::Device(format!("a step of one image takes {alone}, {} has {memory}", self.card.name)));
        }
        let holds = |images: &u32| self.record(*images).is_ok_and(|step| step.peak_bytes() <= memory);
        let doubled = std::iter::successors(Some(2_u32), |images| Some(images * 2));
        let larger = doubled.take_while(|images| *images <= MOST_BATCH).take_while(holds);
        Ok(larger.last().unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::preset;
    use crate::profile::record;

    #[test]
    fn the_parts_of_a_step_are_all_of_it() {
        let unet = UNet::new(preset("mnist").unwrap()).unwrap();
        let card = predict::card("4090").unwrap();
        let passes = Passes::new(&unet, &card, Precision::F32);
        let pass_ms = |images| passes.ms(images);
        let work = passes.work(&pass_ms).unwrap();
        let options = Options { batch: 16, steps: 1, infer: false, recompute: false };
        let step = record(&unet, &options, &Arc::new(predict::choices(Precision::F32))).unwrap();
        let whole = predict::on(&card, &step, 16).step_ms;
        assert!((passes.ms(16).unwrap() + work.update_ms - whole).abs() < 1e-9);
        assert!(work.most_images.is_power_of_two() && work.most_images >= 16, "{}", work.most_images);
        // A card of which a step needs twice as much takes half as many.
        let small = Card { memory_gib: card.memory_gib / 2, ..card };
        assert_eq!(Passes::new(&unet, &small, Precision::F32).most_images().unwrap(), work.most_images / 2);
    }
}
