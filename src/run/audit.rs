//! What notices a device that computes wrongly: one step in N is computed twice, and one dispatch of it is held to its twin.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::session::Session;
use crate::error::{Error, Result, counted};
use crate::gpu::look::{Look, Wrong, is_visible};
use crate::gpu::recorder::Dispatch;
use crate::gpu::snapshot::Snapshot;
use crate::gpu::{Context, Recording};
use crate::nn::params::Params;

/// What was found to be wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// Two computations of a step differed and a third agreed with one of them, which goes on.
    Passing { step: u64, place: String },
    /// Three differed.
    NotDeterministic { step: u64, place: String },
    /// A dispatch is further from its twin than it may be.
    Lasting { step: u64, wrong: Wrong },
    /// Ranks whose weights differed from those of most, of which the run goes on without.
    LeftOut { step: u64, whose: String },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Passing { step, place } => write!(
                f,
                "step {step}: computed twice, the gradient of {place} differed; a third time agreed with one of the two, which \
                 goes on: a passing fault of the device (heat, an overclock, memory)"
            ),
            Finding::NotDeterministic { step, place } => write!(
                f,
                "step {step}: computed three times, the gradient of {place} was another each time: this driver's results can't be \
                 repeated"
            ),
            Finding::LeftOut { step, whose } => write!(
                f,
                "step {step}: {whose}: a device computes wrongly (`diffuse verify` tries it); the run goes on without it, on the others"
            ),
            Finding::Lasting { step, wrong } => {
                write!(f, "step {step}: {wrong}: a lasting fault of this driver; `diffuse verify` shows more")
            }
        }
    }
}

/// What all audits of a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Audited {
    /// Steps computed twice.
    pub steps: u64,
    /// Those whose results differed.
    pub differed: u64,
    /// Dispatches held to their twins.
    pub dispatches: u64,
    /// Dispatches of a step: so many audits hold each to its twin once.
    pub of: u64,
    /// Those that were wrong.
    pub wrong: u64,
    /// The largest error over what its bound allows.
    pub worst: f64,
}

impl fmt::Display for Audited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Audited { steps, differed, dispatches, of, wrong, .. } = self;
        let steps = counted(*steps, "step");
        write!(
            f,
            "{steps} computed twice, {differed} differed; dispatches held to their twins: {dispatches} (a step has {of}), {wrong} wrong"
        )
    }
}

/// What a twin makes of a dispatch, on its way.
type Judged = JoinHandle<(f64, Option<Wrong>)>;

/// Audits of a run.
pub struct Audit {
    every: u64,
    /// Each dispatch of a step as its part and its number there, one of each pipeline first.
    order: Vec<(usize, usize)>,
    /// How many had their turn; as many as audits that a run had before this process.
    turns: Option<u64>,
    /// First element and name of each parameter.
    parameters: Vec<(u64, String)>,
    /// Of the gradients; none where nothing is audited.
    gradients: Option<Snapshot>,
    source: &'static str,
    judged: Option<(u64, Judged)>,
    findings: Vec<Finding>,
    audited: Audited,
}

impl Audit {
    /// Of every so many steps, of which `parts` are what is dispatched; 0 audits none. The gradients of `params` are in the
    /// buffer `source`.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no memory for a copy of them.
    pub fn new<'r>(
        every: u64,
        parts: impl Iterator<Item = &'r Arc<Recording>>,
        params: &Params,
        (session, source): (&Session, &'static str),
    ) -> Result<Audit> {
        let (mut first, mut others, mut met) = (Vec::new(), Vec::new(), Vec::new());
        for (part, recording) in parts.enumerate() {
            for (index, dispatch) in recording.dispatches.iter().enumerate().filter(|(_, d)| is_visible(recording, d)) {
                let Dispatch { kernel, entry, constants, .. } = *dispatch;
                let pipeline = (kernel.name, kernel.variant, entry, constants);
                let list = if met.contains(&pipeline) { &mut others } else { &mut first };
                met.push(pipeline);
                list.push((part, index));
            }
        }
        let order = [first, others].concat();
        let gradients = (every > 0).then(|| Snapshot::new(session.context, session.memory(), &[source]));
        Ok(Audit {
            every,
            gradients: gradients.transpose()?,
            source,
            audited: Audited { of: order.len() as u64, ..Audited::default() },
            order,
            turns: None,
            // In the order of their places.
            parameters: params.all.iter().map(|parameter| (parameter.weight.offset, parameter.name.clone())).collect(),
            judged: None,
            findings: Vec::new(),
        })
    }

    /// Whether step `step` (from 0) is one of those that are computed twice.
    pub fn is_due(&self, step: u64) -> bool {
        self.every > 0 && (step + 1).is_multiple_of(self.every)
    }

    /// The dispatch whose turn it is in step `step`, by its part and its number there; none while a twin is at work.
    pub fn turn(&mut self, step: u64) -> Option<(usize, usize)> {
        self.hear();
        if self.judged.is_some() {
            return None;
        }
        let turn = self.turns.get_or_insert(step / self.every);
        *turn += 1;
        Some(self.order[(*turn - 1) as usize % self.order.len()])
    }

    /// Holds what was seen to its twin, in a thread of its own.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no thread to be had.
    pub fn judge(&mut self, step: u64, look: Look) -> Result<()> {
        let thread = thread::Builder::new().name("twin".into()).spawn(move || look.check());
        let thread = thread.map_err(|error| Error::Device(format!("no thread for a twin: {error}")))?;
        self.judged = Some((step, thread));
        Ok(())
    }

    /// The bits of all gradients as they stand; waits for the device.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn gradients(&mut self, context: &Context) -> Result<Vec<u32>> {
        let gradients = self.gradients.as_mut().expect("there is room where anything is audited");
        gradients.take(context);
        context.wait()?;
        let values = gradients.read(self.source)?;
        gradients.release();
        Ok(values.into_iter().map(f32::to_bits).collect())
    }

    /// Hears the gradients of computing step `step` twice, and where these differ, of a third time.
    pub fn compare(&mut self, step: u64, [first, second]: [&Vec<u32>; 2], third: Option<&Vec<u32>>) {
        self.audited.steps += 1;
        let differing = first.iter().zip(second).position(|(a, b)| a != b);
        let Some((index, third)) = differing.zip(third) else { return };
        let (step, place) = (step + 1, self.place(index as u64));
        self.audited.differed += 1;
        self.findings.push(match third == first || third == second {
            true => Finding::Passing { step, place },
            false => Finding::NotDeterministic { step, place },
        });
    }

    /// The parameter that element `index` is of, and which of its numbers: the projections of attention are one matrix.
    fn place(&self, index: u64) -> String {
        let Some((first, _)) = self.parameters.iter().rfind(|(first, _)| *first <= index) else {
            return format!("element {index}");
        };
        let names: Vec<&str> =
            self.parameters.iter().filter(|(own, _)| own == first).map(|(_, name)| name.as_str()).collect();
        format!("{}, element {}", names.join(" or "), index - first)
    }

    /// Keeps what was found elsewhere.
    pub fn tell(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// What is known by now of twins at work.
    fn hear(&mut self) {
        if self.judged.as_ref().is_some_and(|(_, thread)| thread.is_finished()) {
            self.wait();
        }
    }

    /// Waits for the twin at work.
    pub fn wait(&mut self) {
        let Some((step, thread)) = self.judged.take() else { return };
        let (error, wrong) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        self.audited.dispatches += 1;
        self.audited.worst = self.audited.worst.max(error);
        self.audited.wrong += u64::from(wrong.is_some());
        self.findings.extend(wrong.map(|wrong| Finding::Lasting { step: step + 1, wrong }));
    }

    /// What was found since this was asked last.
    pub fn findings(&mut self) -> Vec<Finding> {
        self.hear();
        std::mem::take(&mut self.findings)
    }

    /// What all came to so far.
    pub fn audited(&self) -> Audited {
        self.audited
    }
}
