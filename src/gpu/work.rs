//! Commands on their way to the device: in one submission, unless that would be more than a device takes at once.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::context::{Context, Submission};
use super::fault::Injected;
use super::pace::{FILLED, learn};
use super::plan::{Plan, Prepared};
use super::step::Step;

/// Plans and copies, one behind the other.
pub struct Work<'a> {
    context: &'a Context,
    /// Seconds of a submission.
    most: f32,
    encoder: Option<wgpu::CommandEncoder>,
    /// What this submission takes, as far as that is known.
    seconds: f32,
    /// The plans of this submission, by their addresses: a second run of one writes its uniform anew, and that comes before
    /// the whole submission.
    plans: Vec<usize>,
    last: Option<Submission>,
}

impl<'a> Work<'a> {
    /// Nothing yet.
    pub fn new(context: &'a Context) -> Work<'a> {
        Work::of_at_most(context, context.most_at_once())
    }

    /// The same, with another bound for a submission.
    pub fn of_at_most(context: &'a Context, most: Duration) -> Work<'a> {
        let most = FILLED * most.as_secs_f32();
        Work { context, most, encoder: None, seconds: 0.0, plans: Vec::new(), last: None }
    }

    /// Runs a whole recording once. A dispatch that is longer than a submission may be is one by itself.
    pub fn run(&mut self, plan: &Plan, step: &Step) {
        self.run_part(plan, step, 0..plan.prepared.len());
    }

    /// Runs the dispatches `part` of a recording once.
    pub fn run_part(&mut self, plan: &Plan, step: &Step, part: Range<usize>) {
        let address = std::ptr::from_ref(plan) as usize;
        if self.plans.contains(&address) {
            self.submit();
        }
        plan.write_step(self.context, step);
        self.plans.push(address);
        let is_measured = plan.runs.begin() || self.context.is_polite();
        if is_measured {
            self.pause();
        }
        let fault = plan.fault_within(&part);
        let sound = fault.map_or(part.end, |fault| fault.dispatch() + 1);
        self.encode(&plan.prepared[part.start..sound], is_measured);
        if let Some((words, to, offset)) = fault.map(Injected::error) {
            self.copy(words, 0, to, offset, words.size());
        }
        self.encode(&plan.prepared[sound..part.end], is_measured);
    }

    fn encode(&mut self, mut rest: &[Prepared], is_measured: bool) {
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.fitting(rest));
            let mut pass = self.encoder().begin_compute_pass(&Default::default());
            now.iter().for_each(|prepared| prepared.record(&mut pass));
            drop(pass);
            rest = later;
            if is_measured {
                let took = self.pause();
                learn(now.iter().map(|prepared| &prepared.cost), took.as_secs_f32());
                log::trace!("{} dispatches in {:.3} ms", now.len(), 1e3 * took.as_secs_f64());
            } else if !rest.is_empty() {
                self.submit();
            }
        }
    }

    /// Copies `bytes` of a buffer.
    pub fn copy(&mut self, from: &wgpu::Buffer, offset: u64, to: &wgpu::Buffer, to_offset: u64, bytes: u64) {
        self.encoder().copy_buffer_to_buffer(from, offset, to, to_offset, bytes);
    }

    /// Sets a buffer to zeros.
    pub fn clear(&mut self, buffer: &wgpu::Buffer) {
        self.encoder().clear_buffer(buffer, 0, None);
    }

    /// Hands over what is there, and goes on in another submission.
    pub fn hand_over(&mut self) -> Submission {
        self.submit();
        self.last.clone().expect("it was just submitted")
    }

    /// Hands over what is left; the last submission.
    pub fn finish(mut self) -> Submission {
        if self.encoder.is_some() || self.last.is_none() {
            self.submit();
        }
        self.last.expect("it was just submitted")
    }

    /// How many of these dispatches still go into this submission; at least one into an empty one.
    fn fitting(&mut self, dispatches: &[Prepared]) -> usize {
        let mut count = 0;
        for seconds in dispatches.iter().map(|prepared| prepared.cost.seconds()) {
            if self.seconds > 0.0 && self.seconds + seconds > self.most {
                break;
            }
            self.seconds += seconds;
            count += 1;
        }
        count
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| self.context.device.create_command_encoder(&Default::default()))
    }

    fn submit(&mut self) {
        let commands = self.encoder.take().map(wgpu::CommandEncoder::finish);
        self.last = Some(self.context.submit_work(commands, self.seconds));
        self.seconds = 0.0;
        self.plans.clear();
    }

    /// Hands over what is there and waits until the device has done all of it. How long that took.
    fn pause(&mut self) -> Duration {
        let start = Instant::now();
        self.submit();
        // An error stays, and whoever waits next hears of it.
        let _ = self.context.wait();
        start.elapsed()
    }
}

impl Plan {
    /// Sets all temporaries to zeros.
    pub fn clear(&self, context: &Context) {
        let mut work = Work::new(context);
        self.slots.iter().for_each(|slot| work.clear(slot));
        work.finish();
    }

    /// Runs the whole recording once. Returns at once; the device works on.
    pub fn run(&self, context: &Context, step: &Step) -> Submission {
        self.run_part(context, step, 0..self.prepared.len())
    }

    /// Runs the dispatches `part` of the recording once. Returns at once.
    pub fn run_part(&self, context: &Context, step: &Step, part: Range<usize>) -> Submission {
        let mut work = Work::new(context);
        work.run_part(self, step, part);
        work.finish()
    }
}
