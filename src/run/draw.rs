//! Draws a request: batch by batch, each a sampler's device that runs the generator's plans.

use super::classifier::coefficient;
use super::generator::Generator;
use super::request::{Frame, Request, SHARES, Start};
use super::session::Session;
use crate::diffusion::{Denoiser, Program, SLOTS, Step as Coefficients, Threshold};
use crate::error::{Error, Result};
use crate::gpu::{Plan, Step, Submission};
use crate::picture::Images;
use crate::ranks::Ranks;

/// What came of a request.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub images: Images,
    /// Evaluations of the network that a sample took, mean over the samples: an adaptive sampler takes as many as the batch
    /// needs. The two halves of a batch under classifier-free guidance are evaluated at once, and counted once.
    pub evaluations: f64,
}

/// How far a sampler is.
pub struct Progress<'a> {
    /// Steps done, over all batches; of an adaptive sampler, thousandths of the way.
    pub done: usize,
    pub of: usize,
    pub batch: u32,
    /// Steps done of this batch.
    pub step: usize,
    generator: &'a Generator,
    session: &'a Session<'a>,
}

impl Progress<'_> {
    /// The images of this batch as they are now.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub fn frame(&self) -> Result<Images> {
        self.generator.images(self.session)
    }
}

impl Generator {
    /// Draws all samples of the request, batch by batch. `watch` is called after every step; asking it for the frame reads
    /// the images back; if it says [`Error::Interrupted`], the batches that are done are what is drawn. Panics if the request needs another frame: see [`Request::check`] and [`Request::frame`].
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails, [`Error::Diverged`] if a sample is not finite, [`Error::Interrupted`] if no batch
    /// is done.
    pub fn run(
        &self,
        session: &Session,
        request: &Request,
        watch: impl FnMut(Progress) -> Result<()>,
    ) -> Result<Drawn> {
        self.run_share(session, request, [0, 1], watch)
    }

    /// As [`Generator::run`], of every `of`-th batch from number `first` on alone.
    ///
    /// # Errors
    /// As [`Generator::run`].
    pub fn run_share(
        &self,
        session: &Session,
        request: &Request,
        [first, of]: [u32; 2],
        mut watch: impl FnMut(Progress) -> Result<()>,
    ) -> Result<Drawn> {
        let Frame { batch, height, width, .. } = self.frame;
        assert_eq!(request.frame(batch, [height, width]), self.frame, "the frame that was planned");
        let channels = self.channels;
        self.write_known(session, request);
        let (height, width) = (height as usize, width as usize);
        let mut all = Images { values: Vec::new(), count: 0, height, width, channels };
        let mut evaluations = 0.0;
        for index in (first..request.count.div_ceil(batch)).step_by(of as usize) {
            let first = index * batch;
            self.write_labels(session, request, first as usize);
            self.begin(session, request, first)?;
            let mut running = Batch::new(self, session, request, index, &mut watch);
            let report = match request.program.run(&mut running) {
                Err(Error::Interrupted) if index > 0 && of == 1 => break,
                report => report?,
            };
            let images = self.images(session)?;
            let samples = (request.count - first).min(batch);
            all.values.extend_from_slice(&images.values[..samples as usize * self.size()]);
            all.count += samples as usize;
            evaluations += report.evaluations as f64 * samples as f64;
        }
        match all.values.iter().all(|value| value.is_finite()) {
            true => Ok(Drawn { evaluations: evaluations / all.count.max(1) as f64, images: all }),
            false => Err(Error::Diverged("the samples are not finite; is this checkpoint trained?".into())),
        }
    }

    /// As [`Generator::run`], each rank a share of the batches; rank 0 gets all images, the others none. Collective.
    ///
    /// # Errors
    /// As [`Generator::run`].
    pub fn run_among(
        &self,
        session: &Session,
        request: &Request,
        ranks: &dyn Ranks,
        watch: impl FnMut(Progress) -> Result<()>,
    ) -> Result<Option<Drawn>> {
        let (rank, count, batch) = (ranks.rank(), ranks.count(), self.frame.batch);
        let own = self.run_share(session, request, [rank, count], watch)?;
        let evaluations = own.evaluations * own.images.count as f64;
        let evaluations = ranks.gather(&evaluations.to_le_bytes());
        let (size, values) = (self.size(), own.images.values);
        if rank > 0 {
            ranks.exchange(&[(0, &values)], Vec::new());
            return Ok(None);
        }
        let batches = || {
            (0..request.count.div_ceil(batch)).map(|index| (index % count, (request.count - index * batch).min(batch)))
        };
        let of =
            |rank: u32| batches().filter(|(own, _)| *own == rank).map(|(_, samples)| samples as usize * size).sum();
        let mut shares: Vec<Vec<f32>> = (0..count).map(|rank| vec![0.0; of(rank)]).collect();
        shares[0] = values;
        ranks.exchange(&[], (1..count).zip(shares.iter_mut().skip(1).map(|share| &mut share[..])).collect());
        let mut rest: Vec<&[f32]> = shares.iter().map(|share| &share[..]).collect();
        let mut values = Vec::with_capacity(request.count as usize * size);
        for (rank, samples) in batches() {
            values.extend_from_slice(rest[rank as usize].split_off(..samples as usize * size).expect("its share"));
        }
        let all = |bytes: &Vec<u8>| f64::from_le_bytes(bytes[..].try_into().expect("a number of each"));
        let evaluations = evaluations.iter().map(all).sum::<f64>() / f64::from(request.count);
        let images = Images { values, count: request.count as usize, ..own.images };
        Ok(Some(Drawn { images, evaluations }))
    }
}

/// A batch under way, as its sampler sees it.
struct Batch<'a, W> {
    generator: &'a Generator,
    session: &'a Session<'a>,
    request: &'a Request,
    index: u32,
    /// Dispatches so far.
    number: usize,
    /// Steps so far, and those that added noise.
    steps: usize,
    noisy: usize,
    last: Option<Submission>,
    watch: &'a mut W,
}

impl<'a, W: FnMut(Progress) -> Result<()>> Batch<'a, W> {
    /// Batch number `index` of `request`, whose x is at the first level.
    fn new(
        generator: &'a Generator,
        session: &'a Session<'a>,
        request: &'a Request,
        index: u32,
        watch: &'a mut W,
    ) -> Batch<'a, W> {
        Batch { generator, session, request, index, number: 0, steps: 0, noisy: 0, last: None, watch }
    }

    fn values(&mut self, step: &Coefficients) -> Step {
        let Batch { generator, session, request, .. } = *self;
        let first = self.index * generator.frame.batch;
        let mut step = *step;
        if let (Start::Given(noise), Some(slot)) = (&request.start, request.noise_slot())
            && step.noise != 0.0
        {
            generator.write_slot(session, slot, &noise.steps[self.noisy], first);
            step.previous[slot] = std::mem::take(&mut step.noise);
            self.noisy += 1;
        }
        let mut values = generator.values(request, first, self.number);
        set_coefficients(&mut values, &step);
        values
    }

    /// A step of the list is done.
    fn done(&mut self) -> Result<()> {
        self.steps += 1;
        self.tell(self.steps)
    }

    fn run(&mut self, plan: &Plan, values: &Step) -> Result<()> {
        self.number += 1;
        let submitted = self.session.run(plan, values);
        // One step ahead of the device: progress is true, and nothing piles up.
        match self.last.replace(submitted) {
            Some(last) => self.session.context.wait_for(Some(last)),
            None => Ok(()),
        }
    }

    fn tell(&mut self, step: usize) -> Result<()> {
        let Batch { generator, session, request, .. } = *self;
        let length = request.length();
        let done = self.index as usize * length + step;
        let of = request.count.div_ceil(generator.frame.batch) as usize * length;
        (self.watch)(Progress { done, of, batch: self.index, step, generator, session })
    }
}

impl<W: FnMut(Progress) -> Result<()>> Denoiser for Batch<'_, W> {
    type Error = Error;

    fn evaluate(&mut self, step: &Coefficients) -> Result<()> {
        let mut values = self.values(step);
        if let (Some(gradient), Some(steering)) = (&self.generator.gradient, &self.request.steering) {
            values.set("classifier", coefficient(steering.scale, step.at, step.x0_from_out));
            self.session.run(gradient, &values);
        }
        self.run(&self.generator.denoise, &values)?;
        match &self.request.program {
            // The second half is to come.
            Program::Steps(_) if step.threshold.is_some() => Ok(()),
            Program::Steps(_) => self.done(),
            Program::Adaptive(runge_kutta) => self.tell((runge_kutta.share(step.to) * (SHARES - 1) as f64) as usize),
        }
    }

    fn update(&mut self, step: &Coefficients) -> Result<()> {
        let update = self.generator.update.as_ref().expect("recorded for every program that updates");
        let values = self.values(step);
        self.run(update, &values)?;
        match &self.request.program {
            Program::Steps(_) => self.done(),
            Program::Adaptive(_) if step.to.sigma == 0.0 => self.tell(SHARES),
            Program::Adaptive(_) => Ok(()),
        }
    }

    fn threshold(&mut self, threshold: Threshold, from: usize, to: usize) -> Result<()> {
        let Batch { generator, session, .. } = *self;
        let mut images: Vec<f64> = generator.slot(session, from)?.into_iter().map(f64::from).collect();
        images.chunks_exact_mut(generator.size()).for_each(|image| threshold.apply(image));
        let images: Vec<f32> = images.into_iter().map(|value| value as f32).collect();
        generator.write_slot(session, to, &images, 0);
        Ok(())
    }

    fn rms(&mut self) -> Result<f64> {
        let values = self.generator.images(self.session)?.values;
        let squares: f64 = values.iter().map(|value| (*value as f64).powi(2)).sum();
        Ok((squares / values.len() as f64).sqrt())
    }
}

/// What the `denoise` kernel reads of a sampler's step.
pub fn set_coefficients(values: &mut Step, step: &Coefficients) {
    values
        .set("timestep", step.at.timestep)
        .set("x", step.x)
        .set("out", step.out)
        .set("x0", step.x0)
        .set("x0_from_x", step.x0_from_x)
        .set("x0_from_out", step.x0_from_out)
        .set("clip", step.clip)
        .set("noise", step.noise)
        .set("log_small", step.learned.map_or(0.0, |learned| learned.log_small))
        .set("log_large", step.learned.map_or(0.0, |learned| learned.log_large))
        .set("to_alpha", step.to.alpha)
        .set("to_sigma", step.to.sigma)
        .set("keep", slot_number(step.keep))
        .set("keep_x", slot_number(step.keep_x));
    for (slot, coefficient) in step.previous.iter().enumerate() {
        values.set(PREVIOUS_FIELDS[slot], *coefficient);
    }
}

/// The step's fields for the slots.
const PREVIOUS_FIELDS: [&str; SLOTS] = [
    "previous0",
    "previous1",
    "previous2",
    "previous3",
    "previous4",
    "previous5",
    "previous6",
    "previous7",
    "previous8",
];

/// A slot that there is not stands for none.
fn slot_number(slot: Option<usize>) -> f64 {
    slot.map_or(u32::MAX as f64, |slot| slot as f64)
}
