//! What samplers and guidance cost beside the U-Net: a part of `diffuse profile --infer`.
//!
//! An evaluation is the U-Net and one `denoise` dispatch. Samplers differ in that dispatch: in the slots of the past that
//! it reads, and in whether it draws noise. One of them updates x without the network now and then, and waits for an
//! error. All of it is timed in rounds, the U-Net in each, and stated as a share of the U-Net's time in the same round:
//! a machine that slows down does so on both sides.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::measure::time_replays;
use super::report::{median, rate};
use super::workload::{Options, Workload, size};
use crate::diffusion::{
    BetaSchedule, Denoiser, SLOTS, Sampler, SamplerKind, Schedule, Step as Coefficients, Threshold,
};
use crate::error::{Error, Result};
use crate::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Recording, Step};
use crate::nn::{UNet, UNetConfig};
use crate::ops::diffusion;
use crate::random::Random;
use crate::run::{Session, set_coefficients};

const X: &str = "x";
const OUT: &str = "out";
const PREVIOUS: &str = "previous";
const KNOWN: &str = "known";
const MASK: &str = "mask";

/// Classes that a model without any is given, so that it can be guided: ten and the null class.
const CLASSES: u32 = 11;

/// Dispatches in one submission, so that its own cost doesn't count.
const REPEATS: usize = 64;

/// A time is that of so many replays that they take this long: the wait and the clock don't count.
const LONG_ENOUGH: Duration = Duration::from_millis(10);

/// Steps of each sampler's way; one of them is timed.
const STEPS: usize = 20;

/// What a sampler does beside the U-Net.
#[derive(Clone, Debug, Serialize)]
pub struct SamplerCost {
    pub name: &'static str,
    /// Slots of the past that `denoise` goes through.
    pub slots: usize,
    /// Whether any step draws noise.
    pub noise: bool,
    /// Dispatches without the network, to one evaluation.
    pub updates: f64,
    /// Times that the host reads x back, to one evaluation.
    pub waits: f64,
    /// Time of all dispatches but the U-Net's, to one evaluation.
    pub own_us: f64,
    /// That as a share of the U-Net's time, 0 to 1.
    pub own_share: f64,
    /// The same of the time that the host takes to read x back and add it up, to one evaluation.
    pub wait_share: f64,
}

/// What classifier-free guidance costs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GuidanceCost {
    /// An evaluation of a batch of 2 N to one of N, median over the rounds.
    pub ratio: f64,
    pub ratio_min: f64,
    pub ratio_max: f64,
    /// The fastest of 2 N to the fastest of N: what to trust where others use the machine.
    pub fastest: f64,
}

/// All figures; the fields are the keys of `samplers` in `--json`.
#[derive(Clone, Debug, Serialize)]
pub struct Costs {
    /// Images of an evaluation.
    pub batch: u32,
    /// All figures are medians over so many.
    pub rounds: usize,
    /// The model knows no classes and was given some.
    pub classes_added: bool,
    /// The U-Net alone.
    pub unet_ms: f64,
    /// None if a batch of 2 N doesn't fit.
    pub guidance: Option<GuidanceCost>,
    /// Those of [`SamplerKind::ALL`], in this order.
    pub samplers: Vec<SamplerCost>,
    /// What a mask adds to any sampler (Song et al. 2021, appendix I.2), as a share of the U-Net's time.
    pub mask_share: f64,
}

/// A device that only writes down what it is told.
#[derive(Default)]
struct Script {
    evaluations: Vec<Coefficients>,
    updates: Vec<Coefficients>,
    waits: usize,
}

impl Denoiser for Script {
    type Error = Error;

    fn evaluate(&mut self, step: &Coefficients) -> Result<()> {
        self.evaluations.push(*step);
        Ok(())
    }

    fn update(&mut self, step: &Coefficients) -> Result<()> {
        self.updates.push(*step);
        Ok(())
    }

    fn threshold(&mut self, _: Threshold, _: usize, _: usize) -> Result<()> {
        self.waits += 1;
        Ok(())
    }

    fn rms(&mut self) -> Result<f64> {
        self.waits += 1;
        Ok(0.0)
    }
}

impl Script {
    /// What a sampler does on the schedule of Ho et al. 2020, and the slots that it needs.
    fn of(kind: SamplerKind) -> Result<(Script, usize)> {
        let schedule = Schedule::new(BetaSchedule::HO, 1000).map_err(|error| Error::Config(error.to_string()))?;
        let sampler = Sampler::new(kind, STEPS);
        let program = match kind {
            SamplerKind::Rk45 { .. } => sampler.runge_kutta(&schedule),
            _ => sampler.program(&schedule),
        };
        let program = program.map_err(|error| Error::Config(error.to_string()))?;
        let mut script = Script::default();
        program.run(&mut script)?;
        Ok((script, program.slots()))
    }

    /// The evaluation that costs most: in the middle of those that draw noise, or of all.
    fn costliest(&self) -> &Coefficients {
        let noisy: Vec<_> = self.evaluations.iter().filter(|step| step.noise != 0.0).collect();
        match noisy.len() {
            0 => &self.evaluations[self.evaluations.len() / 2],
            count => noisy[count / 2],
        }
    }

    /// `count` to one evaluation.
    fn per_evaluation(&self, count: usize) -> f64 {
        count as f64 / self.evaluations.len() as f64
    }
}

/// Dispatches without the U-Net, ready to run.
struct Dispatches {
    memory: Memory,
    start: Plan,
    plan: Plan,
    values: Step,
    /// In the plan.
    count: usize,
}

/// [N, H, W, C].
type Shape = [u32; 4];

impl Dispatches {
    /// `count` times what `record` puts behind x, out and the slots.
    fn new(
        context: &Context,
        [n, height, width, channels]: Shape,
        slots: usize,
        (values, count): (Step, usize),
        record: impl Fn(&mut Recorder, [crate::gpu::Tensor; 3]),
    ) -> Result<Dispatches> {
        let mut memory = Memory::default();
        let mut plan = |recording: &Recording| Plan::new(context, recording, &mut memory, PlanOptions::default());
        let bind = |r: &mut Recorder| {
            let [x, out] = [X, OUT].map(|name| r.persistent(name, [n, height, width, channels]));
            [x, out, r.persistent(PREVIOUS, [slots as u32 * n, height, width, channels])]
        };
        let r = &mut Recorder::new();
        let [x, _, previous] = bind(r);
        diffusion::start(r, x, previous, false);
        let start = plan(&std::mem::take(r).finish())?;
        let tensors = bind(r);
        (0..count).for_each(|_| record(r, tensors));
        let plan = plan(&std::mem::take(r).finish())?;
        let mut random = Random::new(1);
        // Not zeros: numbers that fade out are slow on some processors.
        let noise: Vec<f32> = (0..memory.buffer(OUT).size() / 4).map(|_| random.normal() as f32).collect();
        memory.write(context, OUT, 0, &noise);
        Ok(Dispatches { memory, start, plan, values, count })
    }

    /// `count` `denoise` dispatches with these coefficients.
    fn denoise(context: &Context, shape: Shape, slots: usize, step: &Coefficients, count: usize) -> Result<Dispatches> {
        let mut values = Step::default();
        set_coefficients(&mut values, step);
        Dispatches::new(context, shape, slots, (values, count), |r, [x, out, previous]| {
            diffusion::denoise(r, x, out, previous, false);
        })
    }

    fn impute(context: &Context, shape: Shape) -> Result<Dispatches> {
        let mut values = Step::default();
        values.set("to_alpha", 0.5).set("to_sigma", 0.5);
        let single = [1, shape[1], shape[2], shape[3]];
        Dispatches::new(context, shape, 1, (values, REPEATS), |r, [x, ..]| {
            let [known, mask] = [KNOWN, MASK].map(|name| r.persistent(name, single));
            diffusion::impute(r, x, known, mask, false);
        })
    }

    /// Seconds of one dispatch; x is noise at first.
    fn time(&self, context: &Context) -> Result<f64> {
        let mut noise = Step::default();
        noise.set("noise", 1.0);
        self.start.run(context, &noise);
        let run = |replays| time_replays(context, &self.plan, &self.values, replays);
        let count = replays(run(1)?);
        Ok(run(count)?.as_secs_f64() / (count as f64 * self.count as f64))
    }

    /// Seconds that the host takes for the root mean square of x: as the sampler's own.
    fn time_wait(&self, context: &Context) -> Result<f64> {
        context.wait()?;
        let start = Instant::now();
        let values = self.memory.read(context, X)?;
        std::hint::black_box(values.iter().map(|value| (*value as f64).powi(2)).sum::<f64>());
        Ok(start.elapsed().as_secs_f64())
    }
}

/// How often to replay what takes `single`.
fn replays(single: Duration) -> u64 {
    (LONG_ENOUGH.as_secs_f64() / single.as_secs_f64().max(1e-6)).ceil().clamp(1.0, 100.0) as u64
}

/// A sampler's dispatches.
struct Timed {
    kind: SamplerKind,
    script: Script,
    slots: usize,
    denoise: Dispatches,
    /// As it runs: submitted by itself.
    update: Option<Dispatches>,
    /// Of each round: own seconds an evaluation, and seconds waited.
    own: Vec<f64>,
    wait: Vec<f64>,
}

impl Timed {
    fn new(context: &Context, shape: Shape, kind: SamplerKind) -> Result<Timed> {
        let (script, slots) = Script::of(kind)?;
        let denoise = Dispatches::denoise(context, shape, slots, script.costliest(), REPEATS)?;
        let update = script.updates.first();
        let update = update.map(|step| Dispatches::denoise(context, shape, SLOTS, step, 1)).transpose()?;
        Ok(Timed { kind, script, slots, denoise, update, own: Vec::new(), wait: Vec::new() })
    }

    fn round(&mut self, context: &Context) -> Result<()> {
        let script = &self.script;
        let mut own = self.denoise.time(context)?;
        if let Some(update) = &self.update {
            own += script.per_evaluation(script.updates.len()) * update.time(context)?;
        }
        self.own.push(own);
        self.wait.push(match script.waits {
            0 => 0.0,
            waits => script.per_evaluation(waits) * self.denoise.time_wait(context)?,
        });
        Ok(())
    }

    fn cost(&self, unet: &[f64]) -> SamplerCost {
        let Script { evaluations, updates, waits } = &self.script;
        SamplerCost {
            name: self.kind.name(),
            slots: self.slots,
            noise: evaluations.iter().any(|step| step.noise != 0.0),
            updates: self.script.per_evaluation(updates.len()),
            waits: self.script.per_evaluation(*waits),
            own_us: 1e6 * middle(self.own.clone()),
            own_share: share(&self.own, unet),
            wait_share: share(&self.wait, unet),
        }
    }
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    median(&values)
}

/// The median of the rounds' quotients.
fn share(times: &[f64], of: &[f64]) -> f64 {
    middle(times.iter().zip(of).map(|(time, of)| rate(*time, *of)).collect())
}

/// Of at least one round.
fn guidance(singles: &[f64], guideds: &[f64]) -> GuidanceCost {
    let mut ratios: Vec<f64> = guideds.iter().zip(singles).map(|(guided, single)| rate(*guided, *single)).collect();
    ratios.sort_by(f64::total_cmp);
    let fastest = |times: &[f64]| times.iter().copied().fold(f64::INFINITY, f64::min);
    GuidanceCost {
        ratio: median(&ratios),
        ratio_min: ratios[0],
        ratio_max: ratios[ratios.len() - 1],
        fastest: rate(fastest(guideds), fastest(singles)),
    }
}

fn with_classes(config: &UNetConfig) -> Result<UNet> {
    let num_class_embeds = Some(config.num_class_embeds.unwrap_or(CLASSES));
    UNet::new(UNetConfig { num_class_embeds, ..config.clone() })
}

/// Seconds of evaluations of N and of 2 N images, round by round.
struct Evaluations<'a> {
    single: Workload<'a>,
    /// None if it doesn't fit.
    guided: Option<Workload<'a>>,
    replays: u64,
}

impl<'a> Evaluations<'a> {
    fn new(session: &Session<'a>, unet: &UNet, batch: u32) -> Result<Evaluations<'a>> {
        let context = session.context;
        let plan = |guided| {
            let workload = Workload::denoising(session.another(), unet, batch, guided)?;
            // The first run compiles on some drivers, and touches memory for the first time.
            time_evaluations(context, &workload, 1)?;
            Ok::<_, Error>(workload)
        };
        let (single, guided) = (plan(false)?, plan(true).ok());
        let replays = replays(Duration::from_secs_f64(time_evaluations(context, &single, 1)?));
        Ok(Evaluations { single, guided, replays })
    }

    /// One after the other, the first of a round last in the next.
    fn round(&self, context: &Context, round: usize) -> Result<(f64, f64)> {
        let time = |workload: &Workload| time_evaluations(context, workload, self.replays);
        let guided = |guided: &Option<Workload>| guided.as_ref().map_or(Ok(0.0), time);
        if round.is_multiple_of(2) {
            let single = time(&self.single)?;
            return Ok((single, guided(&self.guided)?));
        }
        let guided = guided(&self.guided)?;
        Ok((time(&self.single)?, guided))
    }
}

/// Seconds of one.
fn time_evaluations(context: &Context, workload: &Workload, count: u64) -> Result<f64> {
    let mut sum = Duration::ZERO;
    for (_, plan) in workload.plans() {
        sum += time_replays(context, plan, &workload.values(0), count)?;
    }
    Ok(sum.as_secs_f64() / count as f64)
}

/// Times every sampler's own arithmetic and guidance beside the U-Net that `config` describes, in `options.steps` rounds,
/// in sessions like `session`.
///
/// # Errors
/// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if it does not fit or the device fails.
pub fn measure(session: &Session, config: &UNetConfig, options: &Options) -> Result<Costs> {
    if options.batch == 0 || options.steps == 0 {
        return Err(Error::Config("--batch and --steps must be at least 1".into()));
    }
    let (context, unet) = (session.context, with_classes(config)?);
    let evaluations = Evaluations::new(session, &unet, options.batch)?;
    let (height, width) = size(&unet.config)?;
    let shape = [options.batch, height, width, unet.config.in_channels];
    let all = SamplerKind::ALL.into_iter().map(|kind| Timed::new(context, shape, kind));
    let mut samplers: Vec<Timed> = all.collect::<Result<_>>()?;
    let mask = Dispatches::impute(context, shape)?;
    let (mut unets, mut masks) = (Vec::new(), Vec::new());
    let (mut singles, mut guideds) = (Vec::new(), Vec::new());
    for round in 0..options.steps {
        let (single, guided) = evaluations.round(context, round)?;
        samplers.iter_mut().try_for_each(|sampler| sampler.round(context))?;
        masks.push(mask.time(context)?);
        // The evaluation that was timed has the dispatch of the cheapest sampler in it.
        let denoise = samplers.iter().filter_map(|sampler| sampler.own.last().copied()).fold(f64::INFINITY, f64::min);
        unets.push((single - denoise).max(0.0));
        singles.push(single);
        guideds.push(guided);
    }
    Ok(Costs {
        batch: options.batch,
        rounds: options.steps,
        classes_added: config.num_class_embeds.is_none(),
        unet_ms: 1e3 * middle(unets.clone()),
        guidance: evaluations.guided.is_some().then(|| guidance(&singles, &guideds)),
        samplers: samplers.iter().map(|sampler| sampler.cost(&unets)).collect(),
        mask_share: share(&masks, &unets),
    })
}
