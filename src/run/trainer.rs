//! One training step as plans: batch, forward, loss, backward; then clip, AdamW and average.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::audit::{Audit, Audited, Finding};
use super::exchange::{self, Crossing, Exchange, Exchanged};
use super::feed::{Feed, Position};
use super::fit;
pub use super::flat::METRICS;
use super::flat::{self, BY_LEVEL, LEVEL_NUMBERS, SQUARE_SUM, SQUARES, loss_of_batch};
use super::lottery::Lottery;
use super::objective::Objective;
use super::options::{OnDiffer, OnNan, TrainOptions};
use super::private::{self, Mechanism, SUM};
use super::session::Session;
use super::shards::{Addition, Goes, Shards};
use crate::data::Dataset;
use crate::error::{Error, Result, counted, list_names};
use crate::gpu::context::mebibytes;
use crate::gpu::fault::Fault;
use crate::gpu::look::{self, Look, Wrong};
use crate::gpu::snapshot::Snapshot;
use crate::gpu::{
    Buffer, Choices, Context, EMA, GRADIENTS, Memory, Plan, Precision, Recorder, Recording, Recordings, Ring, Step,
    Tensor, WEIGHTS, Work,
};
use crate::ops::diffusion::{self, LEVELS, Noise, Records};
use crate::ops::{adamw, add};
use crate::ranks::members::Members;
use crate::ranks::{self, Order, Ranks};
use crate::secret::Secret;

/// First and second moments: flat buffers as the weights.
pub const FIRST_MOMENT: &str = "m";
pub const SECOND_MOMENT: &str = "v";
/// The loss's scale, and steps since it last changed.
pub const LOSS_SCALE: &str = adamw::LOSS_SCALE;
/// The sums of gradients that wait for their neighbour at a level of the tree: flat buffers as the gradients.
fn waiting(level: u32) -> String {
    format!("sum {level}")
}
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
    /// Mean losses of the images of the first batch whose timestep lies in each eighth of all, the least noise first; none where there
    /// were none, or of a step that is private or classifies.
    pub by_level: [Option<f32>; LEVELS],
}

/// What the ring brings of a step: the losses of its passes, what [`METRICS`] has behind that of the last one up to the gradient's
/// norm, and the losses by level of the first.
fn ring_values(passes: u32) -> u64 {
    u64::from(passes) + SQUARE_SUM + LEVEL_NUMBERS
}

/// What the device says of the losses by level.
fn by_level(numbers: &[f32]) -> [Option<f32>; LEVELS] {
    let (sums, counts) = numbers.split_at(LEVELS);
    std::array::from_fn(|level| (counts[level] > 0.0).then(|| sums[level] / counts[level]))
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
    /// Of each pass.
    after: Vec<After>,
    update: Part,
    audit: Audit,
    ring: Ring,
    /// Of the images, where the device doesn't hold them.
    feed: Option<Feed>,
    /// Of a private step.
    lottery: Option<Lottery>,
    /// What is added with other ranks.
    exchange: Option<Exchange<'a>>,
    /// Sums of the losses of steps under way, where other ranks have some of them.
    losses: VecDeque<(u64, f32)>,
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

/// Records a training step: `gradients` (batch, forward, loss, backward), `accumulate` if a step has several shards (what is added to
/// the gradients of one, level by level of their tree; of a private step those of a place, clipped), and `update` (clip, AdamW, average).
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
        None if options.accumulate > 1 => {
            recordings.push("accumulate", record_accumulate(elements, Shards::levels(options.accumulate)));
        }
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

/// What makes a loss that is not finite known, and for each level of the tree the sum that waits there added to the gradients.
fn record_accumulate(elements: u64, levels: u32) -> Recording {
    let r = &mut Recorder::new();
    r.scope("accumulate", |r| {
        let loss = loss_of_batch(r);
        let nothing = add::scale(r, loss, 0.0);
        let broken = r.persistent(BROKEN, [1, 1, 1, 1]);
        add::accumulate(r, broken, nothing);
        for (level, own) in (0..levels).flat_map(|level| flat::ranges(elements).map(move |own| (level, own))) {
            let gradient = flat::range(r, GRADIENTS, elements, own);
            let sum = flat::range(r, &waiting(level), elements, own);
            add::accumulate(r, gradient, sum);
        }
    });
    std::mem::take(r).finish()
}

/// What is done with the gradients of a pass once they are there.
struct After {
    /// The dispatches of `accumulate` that run, in this order.
    parts: Vec<Range<usize>>,
    /// Where the sum waits for its neighbour; none if it has no more of this process's.
    waits: Option<Buffer>,
}

/// Of each pass of a step that is not private: the shards' gradients are added as their tree says.
fn additions(shards: &Shards, accumulate: &Recording, elements: u64, memory: &Memory) -> Vec<After> {
    let (each, all) = (flat::ranges(elements).count(), accumulate.dispatches.len());
    let first = all - each * Shards::levels(shards.all()) as usize;
    let after = |shard| {
        let Addition { takes, goes } = shards.addition(shard);
        let level = |level: u32| first + level as usize * each..first + (level as usize + 1) * each;
        let parts = std::iter::once(0..first).chain(takes.into_iter().map(level)).collect();
        let waits = match goes {
            Goes::Waits(level) => Some(memory.buffer(&waiting(level)).clone()),
            Goes::Out(_) => None,
        };
        After { parts, waits }
    };
    shards.own().map(after).collect()
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
        None => (adamw::loss_scale(r, options.precision), GRADIENTS, 1.0 / options.accumulate as f32),
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
    if options.is_private() { SUM } else { GRADIENTS }
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

/// Whether a run can be shared among `ranks`.
///
/// # Errors
/// [`Error::Config`] says why not.
pub fn check_shared(options: &TrainOptions, ranks: &dyn Ranks) -> Result<()> {
    let refuse = |problem: String| Err(Error::Config(problem));
    if options.is_private() {
        return refuse(
            "--dp is for one process: its noise is one secret's, and several ranks are not built for that yet".into(),
        );
    }
    if options.canaries.is_some() {
        return refuse("--canaries is for one process: their coins lie in the run's directory".into());
    }
    if ranks.count() > options.accumulate {
        let (ranks, shards) = (ranks.count(), counted(options.accumulate.into(), "shard"));
        return refuse(format!("{ranks} ranks, and a step of this run has {shards}: start at most as many ranks"));
    }
    Ok(())
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
        let after = match &accumulate {
            Some(part) if !options.is_private() => {
                let shards = Shards::of(options.accumulate, 0, 1);
                additions(&shards, &part.recording, model.params().elements, session.memory())
            }
            part => {
                let whole = || part.iter().map(|part| 0..part.recording.dispatches.len()).collect();
                (0..options.passes()).map(|_| After { parts: whole(), waits: None }).collect()
            }
        };
        let [gradients, update] = ["gradients", "update"].map(|name| part(name).expect("recorded for every run"));
        let parts = [Some(&gradients), accumulate.as_ref(), Some(&update)].into_iter().flatten();
        let parts = parts.map(|part| &part.recording);
        let audit = Audit::new(options.audit_every, parts, model.params(), (&session, source(options)))?;
        Ok(Trainer {
            gradients,
            accumulate,
            after,
            update,
            audit,
            ring: Ring::new(session.context, ring_values(options.passes()))?,
            feed,
            lottery,
            exchange: None,
            losses: VecDeque::new(),
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
                let _ring = Ring::new(session.context, ring_values(accumulate))?;
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

    /// From here on computes its part of the shards of each step, and adds what other ranks compute; all begin with rank 0's weights,
    /// moments and average. Collective.
    ///
    /// # Errors
    /// [`Error::Config`] if the step can't be shared, [`Error::Device`] if there is no memory.
    pub fn join(&mut self, ranks: &'a dyn Ranks, crossing: Crossing) -> Result<()> {
        check_shared(&self.options, ranks)?;
        let TrainOptions { accumulate, exchange: sent_as, .. } = self.options;
        let (members, how) = (Members::all(ranks, crossing.delay), (crossing, sent_as));
        let exchange = Exchange::new(members, accumulate, &self.session, &self.gradients.recording, how)?;
        exchange::share(ranks, &self.session, &[WEIGHTS, FIRST_MOMENT, SECOND_MOMENT, EMA, LOSS_SCALE])?;
        self.share_by(exchange);
        Ok(())
    }

    /// From here on computes its part of the shards as `exchange` has them.
    fn share_by(&mut self, exchange: Exchange<'a>) {
        let elements = self.session.memory().buffer(GRADIENTS).size() / 4;
        let part = self.accumulate.as_ref().expect("several ranks have several shards");
        self.after = additions(exchange.shards(), &part.recording, elements, self.session.memory());
        self.exchange = Some(exchange);
    }

    /// Where the time went that was spent with other ranks, if there are some.
    pub fn exchanged(&self) -> Option<Exchanged> {
        self.exchange.as_ref().map(|exchange| exchange.times)
    }

    /// Whether another rank was asked to end.
    pub fn must_stop(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.must_stop)
    }

    /// Does what rank 0 ordered; `wants_stop` says whether this rank was asked to end. Collective.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn follow(&mut self, order: Order, wants_stop: bool) -> Result<()> {
        if self.exchange.as_ref().is_some_and(|exchange| !exchange.ranks.is_one()) {
            // It was left out.
            return Ok(());
        }
        match order {
            Order::Step(step) => {
                // What steps came to is rank 0's to know.
                self.ring.make_room(self.session.context)?;
                if self.audit.is_due(step) {
                    self.ring.drain(self.session.context)?;
                }
                self.take(step, wants_stop).map(|_| ())
            }
            Order::Replay(step) => self.trace_broken(step).map(|_| ()),
            Order::Begin | Order::End { .. } => Ok(()),
        }
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
        if let Some(exchange) = &self.exchange {
            exchange.ranks.set_between_orders(false);
            ranks::tell(&exchange.ranks, Order::Step(step));
        }
        let took = self.take(step, false)?;
        if let Some(exchange) = &self.exchange {
            exchange.ranks.set_between_orders(true);
            let sum = exchange.losses().iter().sum();
            self.losses.push_back((step, sum));
        }
        // While the device is at work.
        if step + 1 < self.options.steps {
            self.draw(step + 1);
        }
        Ok((known, took))
    }

    /// Encodes and submits step `step`, and what is exchanged of it with other ranks. How long that took.
    fn take(&mut self, step: u64, wants_stop: bool) -> Result<Duration> {
        self.bring_images(step)?;
        self.draw(step);
        let start = Instant::now();
        let (mut work, mut updated) = (Work::new(self.session.context), 0);
        if self.audit.is_due(step) {
            let turn = self.audit(step)?;
            self.add_shards(wants_stop)?;
            if let Some(index) = turn {
                self.look(step, self.parts().count() - 1, index)?;
                updated = index + 1;
            }
        } else {
            self.compute(&mut work, step);
            self.add_shards(wants_stop)?;
        }
        work.run_part(&self.update.plan, &self.values(step, 0), updated..self.update.recording.dispatches.len());
        // The last batch's loss and the squared norm.
        let metrics = self.session.memory().buffer(METRICS);
        self.ring.copy(&mut work, metrics, (0, SQUARE_SUM + 1), self.last_pass() as u64);
        let last = work.finish();
        self.ring.ask(step, last);
        if self.audit.is_due(step) {
            self.agree(step)?;
        }
        Ok(start.elapsed())
    }

    /// Adds what other ranks computed of the step that is submitted. Collective.
    fn add_shards(&mut self, wants_stop: bool) -> Result<()> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        exchange.add(&self.session, wants_stop)
    }

    /// Compares the weights of all ranks after step `step`, and goes on without those that differ, if that is asked for. Collective.
    fn agree(&mut self, step: u64) -> Result<()> {
        let Some(Exchange { ranks, .. }) = &self.exchange else { return Ok(()) };
        let weights = self.session.read(WEIGHTS)?;
        let digest = blake3::hash(bytemuck::cast_slice(&weights));
        let all = ranks.gather(digest.as_bytes());
        let alike = |digest: &Vec<u8>| all.iter().filter(|other| *other == digest).count();
        let most = all.iter().map(alike).max().unwrap_or(0);
        let others: Vec<u32> =
            (0..).zip(&all).filter(|(_, digest)| alike(digest) < most).map(|(rank, _)| rank).collect();
        let names: Vec<String> = others.iter().map(|rank| ranks.name(*rank)).collect();
        let whose = match others.is_empty() {
            true if most == all.len() => return Ok(()),
            true => "no two ranks have the same weights".into(),
            false => format!("the weights of {} differ from those of most", list_names(&names)),
        };
        let step = step + 1;
        let is_clear = 2 * most > all.len() && !others.is_empty() && !others.contains(&0);
        if is_clear && self.options.on_differ == OnDiffer::Leave {
            return self.leave_out(&others, Finding::LeftOut { step, whose });
        }
        Err(Error::Device(format!(
            "step {step}: {whose}: a device computes wrongly (`diffuse verify` tries it); --resume goes on from the last checkpoint, \
             without it"
        )))
    }

    /// Goes on without these ranks, which hear orders and do nothing from here on.
    fn leave_out(&mut self, others: &[u32], finding: Finding) -> Result<()> {
        let exchange = self.exchange.as_mut().expect("there are other ranks");
        let members = exchange.ranks.without(others);
        if !members.is_one() {
            exchange.ranks = members;
            return Ok(());
        }
        if members.rank() == 0 {
            self.audit.tell(finding);
        }
        let exchange = exchange.without(others, &self.session, &self.gradients.recording)?;
        self.share_by(exchange);
        Ok(())
    }

    /// The number of this process's first pass among all of a step.
    fn first_pass(&self) -> u64 {
        self.exchange.as_ref().map_or(0, |exchange| exchange.shards().own().start.into())
    }

    /// The last of a step's passes if all were this process's: where the ring has what is known behind it, whoever takes how many.
    fn last_pass(&self) -> usize {
        self.options.passes() as usize - 1
    }

    /// Passes of a step that are this process's.
    fn passes(&self) -> u64 {
        self.after.len() as u64
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

    /// The gradients of step `step`, and the losses of all its passes but the last.
    fn compute(&mut self, work: &mut Work, step: u64) {
        if let Some(lottery) = &self.lottery {
            // Whole numbers have the same sum in any order: the noise may come first.
            self.session.write(SUM, lottery.noise());
        }
        let (first, passes) = (self.first_pass(), self.passes());
        let (mut root, mut sent) = (0, Vec::new());
        for (pass, after) in (0..).zip(&self.after) {
            let values = self.values(step, first + pass);
            let (is_last, mut begun) = (pass + 1 == passes, 0);
            if let Some(exchange) = self.exchange.as_ref().filter(|_| is_last) {
                // What is final by then leaves while the rest is computed.
                let buckets = exchange.ends().count();
                for (bucket, end) in exchange.ends().enumerate().take(buckets - 1) {
                    work.run_part(&self.gradients.plan, &values, begun..end);
                    exchange.copy_root(&self.session, work, root, bucket);
                    sent.push(work.hand_over());
                    begun = end;
                }
            }
            work.run_part(&self.gradients.plan, &values, begun..self.gradients.recording.dispatches.len());
            if let Some(part) = &self.accumulate {
                after.parts.iter().for_each(|own| work.run_part(&part.plan, &values, own.clone()));
            }
            self.put_aside(work, after);
            if let Some(exchange) = &self.exchange {
                if after.waits.is_none() {
                    exchange.copy_root(&self.session, work, root, sent.len());
                    root += 1;
                }
                exchange.copy_loss(&self.session, work, pass as usize);
            }
            let metrics = self.session.memory().buffer(METRICS);
            if !is_last {
                self.ring.copy(work, metrics, (0, 1), pass);
            }
            if pass == 0 {
                self.ring.copy(work, metrics, (BY_LEVEL, LEVEL_NUMBERS), self.last_pass() as u64 + SQUARE_SUM + 1);
            }
        }
        if let Some(exchange) = &mut self.exchange {
            sent.push(work.hand_over());
            sent.into_iter().enumerate().for_each(|(bucket, with)| exchange.sent(bucket, with));
        }
    }

    fn put_aside(&self, work: &mut Work, after: &After) {
        if let Some(sum) = &after.waits {
            work.copy(self.session.memory().buffer(GRADIENTS), 0, sum, 0, sum.size());
        }
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.gradients), self.accumulate.as_ref(), Some(&self.update)].into_iter().flatten()
    }

    /// Computes the gradients of step `step` twice, or three times if they differ, and looks at the dispatch whose turn it is: one of
    /// the update's, whose number it gives, is to be looked at still.
    fn audit(&mut self, step: u64) -> Result<Option<usize>> {
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
        Ok(turn.filter(|(part, _)| *part == update).map(|(_, index)| index))
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
        let left = [GRADIENTS, METRICS, SQUARES].map(|name| self.session.memory().buffer(name)).into_iter();
        left.chain(self.after.iter().flat_map(|after| &after.waits)).for_each(|buffer| work.clear(buffer));
        work.finish();
        let found = self.first_not_finite(step)?;
        self.session.write(BROKEN, &[0.0f32]);
        Ok(found)
    }

    /// As [`Trainer::replay_broken`] of the shards of all ranks, in words. Collective.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn trace_broken(&mut self, step: u64) -> Result<Option<String>> {
        let together = self.exchange.as_ref().map(|exchange| exchange.ranks.clone());
        if let Some(ranks) = together.as_ref().filter(|ranks| ranks.rank() == 0) {
            ranks.set_between_orders(false);
            ranks::tell(ranks, Order::Replay(step));
        }
        self.losses.clear();
        let found = self.replay_broken(step)?.map(|wrong| wrong.to_string());
        let Some(ranks) = together else { return Ok(found) };
        let wrong = ranks::ready(&ranks, found.as_deref());
        ranks.set_between_orders(true);
        Ok(wrong.map(|(rank, wrong)| format!("{}, {wrong}", ranks.name(rank))))
    }

    /// Of all dispatches of step `step` before the optimizer's own.
    fn first_not_finite(&self, step: u64) -> Result<Option<Wrong>> {
        let context = self.session.context;
        let first = |Part { plan, recording }: &Part, batch, part| {
            look::first_not_finite(context, plan, recording, &self.values(step, batch), part)
        };
        for (batch, after) in (self.first_pass()..).zip(&self.after) {
            let part = &self.gradients;
            if let Some(wrong) = first(part, batch, 0..part.recording.dispatches.len())? {
                return Ok(Some(wrong));
            }
            for (part, own) in self.accumulate.iter().flat_map(|part| after.parts.iter().map(move |own| (part, own))) {
                if let Some(wrong) = first(part, batch, own.clone())? {
                    return Ok(Some(wrong));
                }
            }
            let mut work = Work::new(context);
            self.put_aside(&mut work, after);
            work.finish();
        }
        first(&self.update, 0, 0..self.norm())
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
        let square_sum = values[self.last_pass() + SQUARE_SUM as usize];
        if let Some(lottery) = &self.lottery {
            // Those of the places that were taken, which come first. Nothing depends on them.
            let losses = &values[..lottery.size(step) as usize];
            return Ok(Metrics {
                step: step + 1,
                loss: losses.iter().sum::<f32>() / losses.len() as f32,
                gradient_norm: square_sum.sqrt(),
                learning_rate: self.options.learning_rate_at(step),
                by_level: [None; LEVELS],
            });
        }
        let scale = 1.0 / self.options.accumulate as f32;
        self.losses.retain(|(of, _)| *of >= step);
        let sum = match self.losses.front() {
            Some((_, sum)) => *sum,
            None => values[..=self.last_pass()].iter().sum::<f32>(),
        };
        let metrics = Metrics {
            step: step + 1,
            loss: sum * scale,
            gradient_norm: square_sum.sqrt() * scale,
            learning_rate: self.options.learning_rate_at(step),
            by_level: by_level(&values[self.last_pass() + SQUARE_SUM as usize + 1..]),
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
        let by_level = [None; LEVELS];
        Metrics { step: step + 1, loss: f32::NAN, gradient_norm: f32::NAN, learning_rate, by_level }
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
