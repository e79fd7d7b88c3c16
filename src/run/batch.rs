//! A batch of samples as a sampler's device: it runs plans.

use super::classifier::coefficient;
use super::generator::{Generator, Progress};
use super::request::{Request, SHARES};
use super::session::Session;
use crate::diffusion::{Denoiser, Program, SLOTS, Step as Coefficients};
use crate::error::{Error, Result};
use crate::gpu::profile::Submission;
use crate::gpu::{Plan, Step};

/// A batch under way, as its sampler sees it.
pub struct Batch<'a, W> {
    generator: &'a Generator,
    session: &'a Session<'a>,
    request: &'a Request,
    index: u32,
    /// Dispatches so far.
    number: usize,
    last: Option<Submission>,
    watch: &'a mut W,
}

impl<'a, W: FnMut(Progress) -> Result<()>> Batch<'a, W> {
    /// Batch number `index` of `request`, whose x is at the first level.
    pub fn new(
        generator: &'a Generator,
        session: &'a Session<'a>,
        request: &'a Request,
        index: u32,
        watch: &'a mut W,
    ) -> Batch<'a, W> {
        Batch { generator, session, request, index, number: 0, last: None, watch }
    }

    fn values(&self, step: &Coefficients) -> Step {
        let Batch { generator, request, .. } = *self;
        let mut values = generator.values(request, self.index * generator.frame.batch, self.number);
        set_coefficients(&mut values, step);
        values
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
        let done = match &self.request.program {
            Program::Steps(_) => self.number,
            Program::Adaptive(runge_kutta) => (runge_kutta.share(step.to) * (SHARES - 1) as f64) as usize,
        };
        self.tell(done)
    }

    fn update(&mut self, step: &Coefficients) -> Result<()> {
        let update = self.generator.update.as_ref().expect("recorded for every program that updates");
        let values = self.values(step);
        self.run(update, &values)?;
        if step.to.sigma == 0.0 { self.tell(SHARES) } else { Ok(()) }
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
