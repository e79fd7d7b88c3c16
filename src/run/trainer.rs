//! One training step as plans: batch, forward, loss, backward; then clip, AdamW and average.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audit::{Audit, Audited, Finding};
use super::feed::{Feed, Position};
use super::fit;
pub use super::flat::METRICS;
use super::flat::{self, SQUARE_SUM, SQUARES, loss_of_batch};
use super::lottery::Lottery;
use super::objective::Objective;
use super::options::{OnNan, TrainOptions};
use super::private::{self, Mechanism, SUM};
use super::session::Session;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::gpu::context::mebibytes;
use crate::gpu::fault::Fault;
use crate::gpu::look::{self, Look, Wrong};
use crate::gpu::snapshot::Snapshot;
use crate::gpu::{
    Choices, Context, EMA, GRADIENTS, Plan, Precision, Recorder, Recording, Recordings, Ring, Step, Tensor, WEIGHTS,
    Work,
};
use crate::ops::diffusion::{self, Noise, Records};
use crate::ops::{adamw, add};
use crate::secret::Secret;

/// First moments, second moments, and gradients added up over several batches: flat buffers as the weights.
pub const FIRST_MOMENT: &str = "m";
pub const SECOND_MOMENT: &str = "v";
/// The loss's scale, and steps since it last changed.
pub const LOSS_SCALE: &str = adamw::LOSS_SCALE;
const ACCUMULATED: &str = "accumulated";
/// The data set's buffer.
pub const DATA: &str = "data";
/// 0 as long as all is finite, not a number from the first step on whose loss, or gradient in single precision, is not.
const BROKEN: &str = "broken";

/// What the host hears of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metrics {
    /// From 1.
    pub step: u64,
    pub loss: f32,
    pub gradient_norm: f32,
    pub learning_rate: f64,
}

/// A part of a step: what was recorded, and what runs it.
struct Part {
    recording: Arc<Recording>,
    plan: Plan,
}

/// The plans of a training run and the session that holds their buffers.
pub struct Trainer<'a> {
    pub session: Session<'a>,
    gradients: Part,
    accumulate: Option<Part>,
    update: Part,
    audit: Audit,
    ring: Ring,
    /// Of the images, where the device doesn't hold them.
    feed: Option<Feed>,
    /// Of a private step.
    lottery: Option<Lottery>,
    options: TrainOptions,
    images: u64,
    /// Steps in a row whose gradient wasn't finite.
    skipped: u32,
    /// Steps done before the one that broke, and what is known of those before it and was not told.
    broken: Option<u64>,
    untold: Vec<Metrics>,
}

/// Such steps that half precision may take to find its scale, and that may be skipped in a row.
pub const MOST_SKIPPED: u32 = 24;

/// The scope of what the optimizer needs of all gradients; it comes before the optimizer.
const NORM: &str = "gradient norm";

/// Records a training step: `gradients` (batch, forward, loss, backward), `accumulate` if a step has several batches (adds
/// the gradients to those of the earlier ones; of a private step those of a place, clipped), and `update` (clip, AdamW, average).
///
/// # Errors
/// [`Error::Config`] if the schedule can't be built, [`Error::Device`] if no kernel could index the batch.
pub fn record(
    model: &dyn Objective,
    options: &TrainOptions,
    data: &DataShape,
    choices: &Arc<Choices>,
) -> Result<Recordings> {
    let is_private = options.is_private();
    let mechanism = is_private.then(|| Mechanism::new(options, data.images.into(), model.params())).transpose()?;
    fit::check_elements(model.config(), options.rows() as u64, data.shape[0], data.shape[1])?;
    let schedule = options.scheduler().schedule()?;
    let prediction = options.scheduler().prediction()?;
    let elements = model.params().elements;
    let r = &mut Recorder::for_model(elements, WEIGHTS).with_choices(choices).with_recompute(options.recompute);
    let mut table = schedule.training_table(prediction, options.loss_weight);
    table.extend(schedule.drawn_table(options.timestep_draw));
    let schedule = r.constant("schedule", [table.len() as u32, 1, 1, 8], table.as_flattened());
    let records = match data.are_streamed {
        true => Records::bind_streamed(r, DATA, data.images, options.batch * options.accumulate, data.shape),
        false => Records::bind(r, DATA, data.images, data.shape),
    };
    let noise = Noise {
        batch: options.rows(),
        alone: is_private,
        timesteps: options.timesteps as u32,
        schedule,
        flip: options.flip.unwrap_or(false),
        classes: data.classes,
        class_dropout: options.class_dropout as f32,
    };
    let batch = r.scope("batch", |r| diffusion::noise(r, &records, &noise));
    let loss = loss_of_batch(r);
    model.record(r, &batch, loss);
    let mut recordings = Recordings::default();
    recordings.push("gradients", std::mem::take(r).finish());
    match &mechanism {
        Some(mechanism) => {
            recordings.push("accumulate", private::record_contribution(mechanism, elements, options));
        }
        None if options.accumulate > 1 => recordings.push("accumulate", record_accumulate(elements)),
        None => {}
    }
    recordings.push("update", record_update(elements, options, mechanism.as_ref()));
    Ok(recordings)
}

/// What a recording must know of the data.
#[derive(Clone, Copy, Debug)]
pub struct DataShape {
    pub images: u32,
    pub shape: [u32; 3],
    pub classes: u32,
    /// Whether the device holds those of a step alone.
    pub are_streamed: bool,
}

impl DataShape {
    /// Of data that the device holds.
    pub fn of(data: &Dataset) -> DataShape {
        DataShape {
            are_streamed: false,
            images: data.len() as u32,
            shape: [data.height, data.width, data.channels],
            classes: data.classes.len() as u32,
        }
    }
}

fn record_accumulate(elements: u64) -> Recording {
    let r = &mut Recorder::new();
    r.scope("accumulate", |r| {
        for own in flat::ranges(elements) {
            let [total, gradient] = [ACCUMULATED, GRADIENTS].map(|name| flat::range(r, name, elements, own));
            add::accumulate(r, total, gradient);
        }
        let loss = loss_of_batch(r);
        let nothing = add::scale(r, loss, 0.0);
        let broken = r.persistent(BROKEN, [1, 1, 1, 1]);
        add::accumulate(r, broken, nothing);
    });
    std::mem::take(r).finish()
}

/// Makes `square_sum`, and by it the optimizer's step, not finite from the first broken step on: two more are under way
/// before the host hears of it, and these must change nothing. 0 times what is not finite is not a number, and neither is
/// a sum with that. Where the loss's scale is to be lowered, an infinite gradient breaks nothing: it was scaled too far.
fn halt_if_broken(r: &mut Recorder, square_sum: Tensor, on_nan: OnNan) {
    let loss = loss_of_batch(r);
    let nothing = match on_nan {
        OnNan::Stop | OnNan::Skip => add::add_scaled(r, loss, square_sum, 0.0),
        OnNan::LowerScale => add::scale(r, loss, 0.0),
    };
    let broken = r.persistent(BROKEN, [1, 1, 1, 1]);
    add::accumulate(r, broken, nothing);
    add::accumulate(r, square_sum, broken);
}

/// Of a step that is private, of its noisy sum.
fn record_update(elements: u64, options: &TrainOptions, mechanism: Option<&Mechanism>) -> Recording {
    let r = &mut Recorder::new();
    let (loss_scale, source, scale) = match mechanism {
        Some(mechanism) => (r.scope("release", |r| private::record_release(r, mechanism, elements)), GRADIENTS, 1.0),
        None => (adamw::loss_scale(r, options.precision), source(options), 1.0 / options.accumulate as f32),
    };
    let square_sum = r.scope(NORM, |r| {
        let square_sum = flat::square_sum(r, source, elements, loss_scale);
        // What the data do may stop no private step.
        if mechanism.is_none() {
            halt_if_broken(r, square_sum, options.on_nan());
        }
        square_sum
    });
    r.scope("optimizer", |r| {
        for own in flat::ranges(elements) {
            let [weights, gradient, m, v, ema] =
                [WEIGHTS, source, FIRST_MOMENT, SECOND_MOMENT, EMA].map(|name| flat::range(r, name, elements, own));
            let state = adamw::State { weights, gradient, m, v, ema, loss_scale };
            adamw::update(r, &options.adamw(), scale, state, square_sum);
        }
        if mechanism.is_none() && options.on_nan() == OnNan::LowerScale {
            adamw::keep_scale(r, square_sum, loss_scale);
        }
    });
    std::mem::take(r).finish()
}

/// The buffer with the gradient of a whole step.
fn source(options: &TrainOptions) -> &'static str {
    match options.is_private() {
        true => SUM,
        false if options.accumulate > 1 => ACCUMULATED,
        false => GRADIENTS,
    }
}

/// The step's uniform for batch number `batch` of step `step` (both from 0): all of it follows from these two numbers.
pub fn step_values(options: &TrainOptions, images: u64, step: u64, batch: u64) -> Step {
    let counter = step * options.accumulate as u64 + batch;
    let Position { epoch, cursor } = Position::of(images, counter, options.batch as u64);
    let mut values = Step::default();
    values
        .set("seed", (options.seed as u32) as f64)
        .set("counter", counter as f64)
        .set("epoch", epoch as f64)
        .set("cursor", cursor as f64)
        .set("record", (batch * options.batch as u64) as f64)
        .set("learning_rate", options.learning_rate_at(step))
        .set("bias_correction1", 1.0 - options.beta1.powf((step + 1) as f64))
        .set("bias_correction2", 1.0 - options.beta2.powf((step + 1) as f64))
        .set("ema_decay", options.ema_decay_at(step));
    values
}

/// What a private run of `model` on `data` draws.
fn lottery(options: &TrainOptions, data: &Dataset, model: &dyn Objective) -> Result<Lottery> {
    let secret = options.dp_seed.map_or_else(Secret::of_system, |seed| Ok(Secret::of_seed(seed)))?;
    let mechanism = Mechanism::new(options, data.len() as u64, model.params())?;
    Ok(Lottery::new(mechanism, secret, model.params()))
}

/// Bytes of data that a device holds unless it is told to hold more.
const MOST_HELD: u64 = 1 << 30;

/// Whether the device shall not hold the data, or can't.
fn must_stream(context: &Context, options: &TrainOptions, data: &Dataset) -> Result<bool> {
    let bytes = diffusion::bytes_of(data.len() as u64, [data.height, data.width, data.channels]);
    let most = context.most_in_halves().min(u32::MAX as u64);
    if options.is_private() {
        return match options.stream == Some(true) || bytes > most {
            true => Err(Error::Config("--dp needs the data on the device: --stream does not go with it yet".into())),
            false => Ok(false),
        };
    }
    match options.stream {
        Some(false) if bytes > most => {
            let [data, most] = [bytes, most].map(mebibytes);
            let problem = format!("the data have {data}, of which kernels here reach {most}: --stream true");
            Err(Error::Config(problem))
        }
        told => Ok(told.unwrap_or(bytes > most.min(MOST_HELD))),
    }
}

impl<'a> Trainer<'a> {
    /// Plans the step and uploads the data; weights, moments and average are zero until they are written.
    ///
    /// # Errors
    /// Those of [`record`]; [`Error::Device`] if it does not fit, with the batch that would.
    pub fn new(
        mut session: Session<'a>,
        model: &dyn Objective,
        data: &Dataset,
        options: &TrainOptions,
    ) -> Result<Trainer<'a>> {
        options.check_on_nan()?;
        let shape = DataShape { are_streamed: must_stream(session.context, options, data)?, ..DataShape::of(data) };
        let (mut recordings, mut plans) = match options.is_private() {
            true => {
                let recordings = session.settle(|choices| record(model, options, &shape, choices))?;
                let plans = session.plan(&recordings)?;
                (recordings, plans)
            }
            false => session.fit(options.batch, |batch, choices| {
                record(model, &TrainOptions { batch, ..options.clone() }, &shape, choices)
            })?,
        };
        log::info!("batch {}: {} on the device", options.rows(), mebibytes(recordings.peak_bytes()));
        let feed = shape.are_streamed.then(|| Feed::new(data, options));
        let lottery = options.is_private().then(|| lottery(options, data, model)).transpose()?;
        if feed.is_none() {
            session.write(DATA, &Records::pack(&data.images, &data.labels));
        }
        let mut part = |name| {
            let recording = recordings.take(name)?.into();
            Some(Part { recording, plan: plans.take(name).expect("what is recorded is planned") })
        };
        let accumulate = part("accumulate");
        let [gradients, update] = ["gradients", "update"].map(|name| part(name).expect("recorded for every run"));
        let parts = [Some(&gradients), accumulate.as_ref(), Some(&update)].into_iter().flatten();
        let parts = parts.map(|part| &part.recording);
        let audit = Audit::new(options.audit_every, parts, model.params(), (&session, source(options)))?;
        Ok(Trainer {
            gradients,
            accumulate,
            update,
            audit,
            ring: Ring::new(session.context, options.passes() as u64 + SQUARE_SUM)?,
            feed,
            lottery,
            session,
            options: options.clone(),
            images: data.len() as u64,
            skipped: 0,
            broken: None,
            untold: Vec::new(),
        })
    }

    /// `options` with the fewest passes a step that fit on the device with what `beside` makes there; none if not even passes of one
    /// image do.
    ///
    /// # Errors
    /// Those of [`record`] but for passes that are too large; [`Error::Lost`].
    pub fn with_fewest_passes(
        mut session: Session,
        model: &dyn Objective,
        data: &Dataset,
        options: &TrainOptions,
        beside: impl Fn(&Session) -> Result<()>,
    ) -> Result<Option<TrainOptions>> {
        let shape = DataShape { are_streamed: must_stream(session.context, options, data)?, ..DataShape::of(data) };
        for (batch, accumulate) in fit::passes(options.batch * options.accumulate) {
            let options = TrainOptions { batch, accumulate, ..options.clone() };
            let recordings = match record(model, &options, &shape, session.choices()) {
                Ok(recordings) => recordings,
                Err(Error::Device(_)) => continue,
                Err(error) => return Err(error),
            };
            let all_beside = |session: &Session| {
                let _ring = Ring::new(session.context, accumulate as u64 + SQUARE_SUM)?;
                let _gradients = Snapshot::new(session.context, session.memory(), &[GRADIENTS])?;
                beside(session)
            };
            if options.validate().is_ok() && session.fits(&recordings, all_beside) {
                return Ok(Some(options));
            }
            session.context.check()?;
        }
        Ok(None)
    }

    /// Overwrites weights and average: where a run begins.
    pub fn write_weights(&self, weights: &[f32]) {
        [WEIGHTS, EMA].iter().for_each(|name| self.session.write(name, weights));
    }

    /// Overwrites the loss's scale, and steps since it last changed.
    pub fn write_loss_scale(&self, scale: [f32; 2]) {
        self.session.write(LOSS_SCALE, &scale);
    }

    /// Encodes and submits step `step` (from 0). Gives what is known by now of earlier steps, without waiting for this
    /// one, and the time spent to encode.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed, [`Error::Diverged`] if an earlier step's loss or gradient is not finite:
    /// weights, moments and average stay as they were before it.
    pub fn step(&mut self, step: u64) -> Result<(Vec<Metrics>, Duration)> {
        let mut known = Vec::new();
        if let Some((step, values)) = self.ring.make_room(self.session.context)? {
            known.push(self.metrics(step, &values)?);
        }
        let is_audited = self.audit.is_due(step);
        // If those under way may be one skip too many, no step may follow them.
        if self.skipped as usize + self.ring.under_way() > MOST_SKIPPED as usize || is_audited {
            self.untold.append(&mut known);
            known = self.finish()?;
        }
        self.bring_images(step)?;
        self.draw(step);
        let start = Instant::now();
        let updated = if is_audited { self.audit(step)? } else { 0 };
        let mut work = Work::new(self.session.context);
        if !is_audited {
            self.compute(&mut work, step);
        }
        work.run_part(&self.update.plan, &self.values(step, 0), updated..self.update.recording.dispatches.len());
        // The last batch's loss and the squared norm.
        let (batches, metrics) = (self.options.passes() as u64, self.session.memory().buffer(METRICS));
        self.ring.copy(&mut work, metrics, SQUARE_SUM + 1, batches - 1);
        let last = work.finish();
        self.ring.ask(step, last);
        let took = start.elapsed();
        // While the device is at work.
        if step + 1 < self.options.steps {
            self.draw(step + 1);
        }
        Ok((known, took))
    }

    /// Draws what is drawn in secret of step `step`, unless it is drawn.
    fn draw(&mut self, step: u64) {
        if let Some(lottery) = &mut self.lottery {
            lottery.draw(step);
        }
    }

    /// What a private run draws.
    pub fn lottery(&mut self) -> Option<&mut Lottery> {
        self.lottery.as_mut()
    }

    /// See [`step_values`]; of a private step a batch is a place.
    fn values(&self, step: u64, batch: u64) -> Step {
        let mut values = step_values(&self.options, self.images, step, batch);
        if let Some(lottery) = &self.lottery {
            lottery.set_place(batch, &mut values);
        }
        values
    }

    /// The gradients of step `step`, and the losses of all its batches but the last.
    fn compute(&self, work: &mut Work, step: u64) {
        let (batches, metrics) = (self.options.passes() as u64, self.session.memory().buffer(METRICS));
        match &self.lottery {
            // Whole numbers have the same sum in any order: the noise may come first.
            Some(lottery) => self.session.write(SUM, lottery.noise()),
            None if self.accumulate.is_some() => work.clear(self.session.memory().buffer(ACCUMULATED)),
            None => {}
        }
        for batch in 0..batches {
            let values = self.values(step, batch);
            work.run(&self.gradients.plan, &values);
            if let Some(part) = &self.accumulate {
                work.run(&part.plan, &values);
            }
            if batch + 1 < batches {
                self.ring.copy(work, metrics, 1, batch);
            }
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.gradients), self.accumulate.as_ref(), Some(&self.update)].into_iter().flatten()
    }

    /// Computes the gradients of step `step` twice, or three times if they differ, and looks at the dispatch whose turn it is.
    /// How many dispatches of the update were run for that.
    fn audit(&mut self, step: u64) -> Result<usize> {
        let (turn, update) = (self.audit.turn(step), self.parts().count() - 1);
        if let Some((part, index)) = turn.filter(|(part, _)| *part < update) {
            for part in self.parts().take(part) {
                part.plan.run(self.session.context, &self.values(step, 0));
            }
            self.look(step, part, index)?;
        }
        let mut again = || {
            let mut work = Work::new(self.session.context);
            self.compute(&mut work, step);
            work.finish();
            self.audit.gradients(self.session.context)
        };
        let (first, second) = (again()?, again()?);
        let third = if first == second { None } else { Some(again()?) };
        self.audit.compare(step, [&first, &second], third.as_ref());
        match turn.filter(|(part, _)| *part == update) {
            None => Ok(0),
            Some((part, index)) => self.look(step, part, index).map(|()| index + 1),
        }
    }

    /// Runs a part up to its dispatch `index`, and holds that to its twin.
    fn look(&mut self, step: u64, part: usize, index: usize) -> Result<()> {
        let (context, values) = (self.session.context, self.values(step, 0));
        let Part { plan, recording } = self.parts().nth(part).expect("a part of the step");
        plan.run_part(context, &values, 0..index);
        let look = Look::at(context, plan, recording, index, &values)?;
        self.audit.judge(step, look)
    }

    /// What audits found since this was asked last.
    pub fn findings(&mut self) -> Vec<Finding> {
        self.audit.findings()
    }

    /// What audits came to so far.
    pub fn audited(&self) -> Audited {
        self.audit.audited()
    }

    /// Waits for the twin at work.
    pub fn end_audit(&mut self) {
        self.audit.wait();
    }

    /// In half precision, before the first step: the largest scale of the loss, from the first on downwards, with which the gradient
    /// of step 0 is finite. No step is lost to finding it.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn find_scale(&mut self) -> Result<()> {
        // Of private steps the scale may not depend on the data: it stays as it is.
        if self.options.precision != Precision::F16 || self.options.is_private() {
            return Ok(());
        }
        for _ in 0..MOST_SKIPPED {
            self.bring_images(0)?;
            let mut work = Work::new(self.session.context);
            self.ring.make_room(self.session.context)?;
            self.compute(&mut work, 0);
            work.run_part(&self.update.plan, &self.values(0, 0), 0..self.norm());
            work.finish();
            let memory = self.session.memory();
            let square_sum = memory.read_at(self.session.context, METRICS, SQUARE_SUM, 1)?[0];
            let scale = memory.read_at(self.session.context, LOSS_SCALE, 0, 1)?[0];
            if square_sum.is_finite() || scale <= 1.0 {
                break;
            }
            self.write_loss_scale([scale / 2.0, 0.0]);
        }
        Ok(())
    }

    /// Dispatches of the update before the optimizer's own.
    fn norm(&self) -> usize {
        let Recording { dispatches, scopes, .. } = &*self.update.recording;
        dispatches.iter().take_while(|dispatch| scopes[dispatch.scope] == NORM).count()
    }

    /// Computes the step that broke once more, dispatch by dispatch: the first that writes what is not finite. None if all is
    /// finite now: the device erred. Steps may follow.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn replay_broken(&mut self, step: u64) -> Result<Option<Wrong>> {
        let context = self.session.context;
        // What those under way say of a step that changed nothing.
        self.ring.drain(context)?;
        self.session.write(BROKEN, &[0.0f32]);
        (self.broken, self.skipped) = (None, 0);
        self.bring_images(step)?;
        let mut work = Work::new(context);
        // What the broken step left there is not to be taken for what the replay writes.
        let left = [GRADIENTS, METRICS, SQUARES].into_iter().chain(self.accumulate.as_ref().map(|_| ACCUMULATED));
        left.for_each(|name| work.clear(self.session.memory().buffer(name)));
        work.finish();
        let found = self.first_not_finite(step)?;
        self.session.write(BROKEN, &[0.0f32]);
        Ok(found)
    }

    /// Of all dispatches of step `step` before the optimizer's own.
    fn first_not_finite(&self, step: u64) -> Result<Option<Wrong>> {
        let first = |Part { plan, recording }: &Part, batch, count| {
            look::first_not_finite(self.session.context, plan, recording, &self.values(step, batch), count)
        };
        for batch in 0..self.options.passes() as u64 {
            for part in [Some(&self.gradients), self.accumulate.as_ref()].into_iter().flatten() {
                if let Some(wrong) = first(part, batch, part.recording.dispatches.len())? {
                    return Ok(Some(wrong));
                }
            }
        }
        first(&self.update, 0, self.norm())
    }

    /// For tests: lets the device err in the part of a step of this name, `gradients` or `update`.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no memory.
    pub fn inject(&mut self, name: &str, fault: Fault) -> Result<()> {
        let Part { plan, recording } = if name == "update" { &mut self.update } else { &mut self.gradients };
        plan.inject(self.session.context, recording, fault)
    }

    /// For tests: what is dispatched in the part of a step of this name.
    pub fn recording(&self, name: &str) -> &Recording {
        if name == "update" { &self.update.recording } else { &self.gradients.recording }
    }

    fn bring_images(&mut self, step: u64) -> Result<()> {
        match &mut self.feed {
            Some(feed) => feed.step(step, |records| self.session.write(DATA, records)),
            None => Ok(()),
        }
    }

    /// What is known of the steps under way; waits for them.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub fn finish(&mut self) -> Result<Vec<Metrics>> {
        for (step, values) in self.ring.drain(self.session.context)? {
            let metrics = self.metrics(step, &values)?;
            self.untold.push(metrics);
        }
        Ok(self.untold())
    }

    /// What was known when a step broke, of those before it.
    pub fn untold(&mut self) -> Vec<Metrics> {
        std::mem::take(&mut self.untold)
    }

    fn metrics(&mut self, step: u64, values: &[f32]) -> Result<Metrics> {
        let passes = self.options.passes() as usize;
        let square_sum = values[passes - 1 + SQUARE_SUM as usize];
        if let Some(lottery) = &self.lottery {
            // Those of the places that were taken, which come first. Nothing depends on them.
            let losses = &values[..lottery.size(step) as usize];
            return Ok(Metrics {
                step: step + 1,
                loss: losses.iter().sum::<f32>() / losses.len() as f32,
                gradient_norm: square_sum.sqrt(),
                learning_rate: self.options.learning_rate_at(step),
            });
        }
        let losses = &values[..passes];
        let scale = 1.0 / self.options.accumulate as f32;
        let metrics = Metrics {
            step: step + 1,
            loss: losses.iter().sum::<f32>() * scale,
            gradient_norm: square_sum.sqrt() * scale,
            learning_rate: self.options.learning_rate_at(step),
        };
        // In half precision a gradient may overflow: that step is skipped, and the loss is scaled less from then on.
        self.skipped = if metrics.gradient_norm.is_finite() { 0 } else { self.skipped + 1 };
        let most = if self.options.on_nan() == OnNan::LowerScale { MOST_SKIPPED } else { 0 };
        if !metrics.loss.is_finite() || self.skipped > most {
            self.broken.get_or_insert(step);
            let Metrics { step, loss, gradient_norm, .. } = metrics;
            return Err(Error::Diverged(format!("step {step}: loss {loss}, gradient norm {gradient_norm}")));
        }
        Ok(metrics)
    }

    /// What is told of step `step` (from 0) where it was skipped.
    pub fn metrics_of_skipped(&self, step: u64) -> Metrics {
        let learning_rate = self.options.learning_rate_at(step);
        Metrics { step: step + 1, loss: f32::NAN, gradient_norm: f32::NAN, learning_rate }
    }

    /// Steps done before the one that broke, if one did: where weights, moments and average stand.
    pub fn broken_step(&self) -> Option<u64> {
        self.broken
    }

    /// What brings the images, where the device doesn't hold them.
    pub fn feed(&self) -> Option<&Feed> {
        self.feed.as_ref()
    }

    /// Bytes allocated for the run.
    pub fn allocated_bytes(&self) -> u64 {
        self.session.memory().bytes() + self.parts().map(|part| part.plan.own_bytes()).sum::<u64>()
    }
}
