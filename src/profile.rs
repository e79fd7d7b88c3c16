//! Where the time of a step goes: `diffuse profile`.
//!
//! First this adapter's own ceilings ([`ceilings`]): all that follows is stated as a share of them. Then two measurements
//! that answer different questions. Unprofiled steps, run as training runs them, say how long a step
//! takes and what the host spends to replay it. One profiled run of the same plans, with a timestamp pair around each
//! dispatch, says how that time divides over kernels and layers; it keeps dispatches apart that might have overlapped,
//! so its sum is stated beside the unprofiled time and is not to be trusted alone.

pub mod ceilings;
pub mod compare;
pub mod compiled;
pub mod measure;
mod memory;
pub mod passes;
pub mod predict;
mod report;
pub mod samplers;
pub mod scale;
pub mod shapes;
mod trace;
mod workload;

use std::path::Path;
use std::time::{Duration, Instant};

use crate::chart::roofline;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::nn::{UNet, UNetConfig};
use crate::run::Session;

use ceilings::Ceilings;
pub use memory::LayerMemory;
use report::Times;
pub use report::{Report, Row};
pub use trace::Timed;
pub use workload::{Options, Workload, record};

/// What was measured.
pub struct Profile {
    pub report: Report,
    /// The profiled run, dispatch by dispatch; none where the device has no timestamps.
    pub dispatches: Vec<Timed>,
    host: Vec<trace::HostEvent>,
}

/// Steps whose replay is timed by itself, at the most.
const REPLAYS: usize = 5;

/// Measures a step of the model that `config` describes, on synthetic data and fresh weights, in a session like `session`.
///
/// # Errors
/// [`Error::Config`] for a model or a batch that can't be run, [`Error::Device`] if it does not fit or the device fails.
pub fn profile(session: &Session, config: &UNetConfig, options: &Options) -> Result<Profile> {
    if options.batch == 0 || options.steps == 0 || options.steps > 1 << 20 {
        return Err(Error::Config(format!("--batch must be at least 1 and --steps 1 to {}", 1 << 20)));
    }
    let unet = UNet::new(config.clone())?;
    let context = session.context;
    let workload = Workload::new(session.another(), &unet, options)?;
    let ceilings = Ceilings::measure(context)?;
    context.wait_for(Some(workload.run(0)))?;
    let steps = time_steps(context, &workload, options.steps)?;
    let (mut replays, mut encodes) = (Vec::new(), Vec::new());
    for _ in 0..REPLAYS.min(options.steps) {
        replays.push(time_replay(context, &workload)?);
        // A step has just run, so that the caches are as cold as they are in training.
        encodes.push(time_encoding(context, &workload));
    }
    let times = Times { steps, encodes, replays };
    let (dispatches, events) = match context.has_timestamps() {
        true => trace::record(context, &workload)?,
        false => (Vec::new(), Vec::new()),
    };
    let report = report::build(context, &unet, &workload, options, ceilings, &times, &dispatches);
    Ok(Profile { report, dispatches, host: events })
}

impl Profile {
    /// The profiled run as a JSON array that Perfetto and Chrome's tracing page open.
    ///
    /// # Errors
    /// [`Error::Device`] if there is none, for want of timestamps.
    pub fn trace_json(&self) -> Result<String> {
        if self.dispatches.is_empty() {
            return Err(Error::Device(format!("{} has no timestamp queries: no trace", self.report.adapter)));
        }
        let Report { mode, adapter, .. } = &self.report;
        Ok(trace::to_json(mode, adapter, &self.dispatches, &self.host))
    }

    /// Draws the kernels under the roofline as a PNG.
    ///
    /// # Errors
    /// [`Error::Device`] if no kernel was timed, for want of timestamps; [`Error::File`] if the place can't be written.
    pub fn write_roofline(&self, path: &Path) -> Result<()> {
        let report = &self.report;
        if report.kernels.is_empty() {
            return Err(Error::Device(format!("{} has no timestamp queries: no roofline", report.adapter)));
        }
        roofline::write_roofline(path, &report.roofline())
    }
}

/// Runs steps as training does: step n + 1 is encoded while step n runs.
fn time_steps(context: &Context, workload: &Workload, count: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut under_way = workload.run(1);
    let mut last = None;
    for step in 0..=count {
        let next = workload.run(step as u64 + 2);
        context.wait_for(Some(std::mem::replace(&mut under_way, next)))?;
        let now = Instant::now();
        // The end of the first step is where the clock starts.
        times.extend(last.replace(now).map(|before| now - before));
    }
    context.wait_for(Some(under_way))?;
    Ok(times)
}

/// Nothing is submitted, so that a driver that computes on the CPU does not compete for it.
fn time_encoding(context: &Context, workload: &Workload) -> Duration {
    workload.plans().map(|(_, plan)| plan.time_encoding(context)).sum()
}

/// Each plan is submitted to an idle device, because a driver may block a submission until the one before is done, which
/// is no work of the CPU (Mesa's lavapipe does, on the semaphores by which wgpu orders submissions). What a driver that
/// computes on the CPU takes from this thread, once it has work, is in the time all the same.
fn time_replay(context: &Context, workload: &Workload) -> Result<Duration> {
    let values = workload.values(0);
    let mut total = Duration::ZERO;
    for (_, plan) in workload.plans() {
        let start = Instant::now();
        plan.run(context, &values);
        total += start.elapsed();
        context.wait()?;
    }
    Ok(total)
}
