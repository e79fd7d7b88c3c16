//! How ranks add the gradients of their shards: the same sum, in the same order, as one process adds.
//!
//! The gradients are cut into buckets, by when they are final; what is final leaves while the rest is still computed. Of a bucket each
//! rank adds one slice: it receives the roots of all subtrees (see [`super::shards`]) for that, and all ranks gather the sums. So each
//! number crosses twice, as it must (Rabenseifner 2004), whatever the tree.

mod arithmetic;
mod halves;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::flat::METRICS;
use super::options::SentAs;
use super::session::Session;
use super::shards::{Node, Shards, additions};
use crate::error::Result;
use crate::gpu::recorder::Place;
use crate::gpu::{GRADIENTS, Recording, Staging, Submission, Work};
use crate::ops::reduce;
use crate::ranks::Ranks;
use crate::ranks::members::Members;
use arithmetic::Arithmetic;
use halves::Halves;

/// Fewest numbers of a bucket: a megabyte.
pub const BUCKET: u64 = 1 << 18;
/// Most buckets.
pub const BUCKETS: u64 = 8;
/// Slices begin at multiples of this.
const ALIGNED: usize = 64;

/// Where the time of steps went that are shared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Exchanged {
    pub steps: u64,
    /// Waiting for this rank's device.
    pub device: Duration,
    /// Waiting for other ranks, and adding what they sent.
    pub exchange: Duration,
    /// Of that, as long as this rank's device had still to compute what is sent next.
    pub hidden: Duration,
}

/// How gradients go to other ranks.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Crossing {
    /// Whether some leave while others are computed.
    pub overlaps: bool,
    /// How much longer each bucket takes, each of the two times that it crosses: a slower network, to see what hides it.
    pub delay: Duration,
}

impl Default for Crossing {
    fn default() -> Crossing {
        Crossing { overlaps: true, delay: Duration::ZERO }
    }
}

/// A wait for the device that is shorter found it done.
const BUSY: Duration = Duration::from_millis(1);

/// What ranks exchange in a step.
pub(super) struct Exchange<'a> {
    pub ranks: Members<'a>,
    crossing: Crossing,
    /// What crosses in half precision.
    halves: Option<Halves>,
    shards: Shards,
    buckets: Vec<Bucket>,
    /// Roots of each rank, and how all of them are added.
    roots: Vec<usize>,
    additions: Vec<(usize, usize)>,
    arithmetic: Arithmetic,
    /// Room for the roots of a slice, and for the sum of a bucket.
    received: Vec<f32>,
    sum: Vec<f32>,
    /// Of the step under way: what this rank tells, whether it was asked to end and its losses; the losses of all shards; and whether
    /// any rank was asked to end.
    told: Vec<f32>,
    losses: Vec<f32>,
    pub must_stop: bool,
    pub times: Exchanged,
}

/// Numbers that are final at once.
struct Bucket {
    /// Dispatches of the gradients' recording after which they are.
    end: usize,
    /// Where they stand among the gradients.
    ranges: Vec<Range<u64>>,
    count: u64,
    /// What each rank adds of them.
    slices: Vec<Range<usize>>,
    /// The roots of one's own subtrees, one behind the other; in the last bucket the losses behind them.
    staging: Staging,
    /// What copies them there.
    sent: Option<Submission>,
}

impl<'a> Exchange<'a> {
    /// Of the gradients of `all` shards, which `gradients` computes. `ranks` are all that take part.
    ///
    /// # Errors
    /// [`crate::error::Error::Device`] if there is no memory, or if the device adds in a way that hosts don't.
    pub fn new(
        ranks: Members<'a>,
        all: u32,
        session: &Session,
        gradients: &Recording,
        (crossing, sent_as): (Crossing, SentAs),
    ) -> Result<Exchange<'a>> {
        let elements = session.memory().buffer(GRADIENTS).size() / 4;
        let shards = Shards::of(all, ranks.rank(), ranks.count());
        let nodes: Vec<Vec<Node>> =
            (0..ranks.count()).map(|rank| Shards::of(all, rank, ranks.count()).roots()).collect();
        let roots: Vec<usize> = nodes.iter().map(Vec::len).collect();
        let own = roots[ranks.rank() as usize] as u64;
        // Sums of several shards are final with the last one's.
        let most = if crossing.overlaps && ranks.count() == all { BUCKETS } else { 1 };
        let parts = final_at(gradients, elements, most);
        let last = parts.len() - 1;
        let bucket = |(index, (end, ranges)): (usize, (usize, Vec<Range<u64>>))| {
            let count: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let losses = if index == last { shards.own().len() as u64 } else { 0 };
            let staging = Staging::new(session.context, own * count + losses)?;
            let slice = (count as usize).div_ceil(ranks.count() as usize).next_multiple_of(ALIGNED);
            let place = |rank: u32| (rank as usize * slice).min(count as usize);
            let slices = (0..ranks.count()).map(|rank| place(rank)..place(rank + 1)).collect();
            Ok(Bucket { end, ranges, count, slices, staging, sent: None })
        };
        let buckets: Vec<Bucket> = parts.into_iter().enumerate().map(bucket).collect::<Result<_>>()?;
        let most = buckets.iter().map(|bucket| bucket.count as usize).max().unwrap_or(0);
        let slice = most.div_ceil(ranks.count() as usize).next_multiple_of(ALIGNED);
        let nodes = nodes.concat();
        let told = vec![0.0; all.div_ceil(ranks.count()) as usize + 1];
        Ok(Exchange {
            ranks,
            crossing,
            halves: (sent_as == SentAs::F16).then(Halves::default),
            shards,
            buckets,
            additions: additions(all, &nodes),
            arithmetic: Arithmetic::of(session)?,
            received: vec![0.0; nodes.len() * slice],
            sum: vec![0.0; most],
            told,
            losses: Vec::new(),
            must_stop: false,
            times: Exchanged::default(),
            roots,
        })
    }

    /// The same, once the members `left` take no part any more.
    ///
    /// # Errors
    /// As [`Exchange::new`].
    pub fn without(&self, left: &[u32], session: &Session, gradients: &Recording) -> Result<Exchange<'a>> {
        let sent_as = if self.halves.is_some() { SentAs::F16 } else { SentAs::F32 };
        let how = (self.crossing, sent_as);
        let new = Exchange::new(self.ranks.without(left), self.shards.all(), session, gradients, how)?;
        Ok(Exchange { losses: self.losses.clone(), must_stop: self.must_stop, times: self.times, ..new })
    }

    /// The shards of a step, and which are this rank's.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Where the dispatches of the gradients end that make the numbers of bucket after bucket final.
    pub fn ends(&self) -> impl Iterator<Item = usize> {
        self.buckets.iter().map(|bucket| bucket.end)
    }

    /// Sends off root `root` of one's own, or what of it bucket `bucket` has.
    pub fn copy_root(&self, session: &Session, work: &mut Work, root: usize, bucket: usize) {
        let Bucket { ranges, count, staging, .. } = &self.buckets[bucket];
        let mut to = root as u64 * count;
        for range in ranges {
            let length = range.end - range.start;
            staging.copy(work, session.memory().buffer(GRADIENTS), (range.start, length), to);
            to += length;
        }
    }

    /// Sends off the loss of one's own shard number `shard`, from 0.
    pub fn copy_loss(&self, session: &Session, work: &mut Work, shard: usize) {
        let Bucket { count, staging, .. } = self.buckets.last().expect("there is one");
        let to = self.roots[self.ranks.rank() as usize] as u64 * count + shard as u64;
        staging.copy(work, session.memory().buffer(METRICS), (0, 1), to);
    }

    /// Hears with what bucket `bucket` was handed over.
    pub fn sent(&mut self, bucket: usize, with: Submission) {
        self.buckets[bucket].sent = Some(with);
    }

    /// Adds the gradients of all shards, which every rank then has on its device, and gathers their losses. `wants_stop` says whether
    /// this rank was asked to end. Collective.
    ///
    /// # Errors
    /// [`Error::Device`] if the device failed.
    pub fn add(&mut self, session: &Session, wants_stop: bool) -> Result<()> {
        self.told.fill(0.0);
        self.told[0] = if wants_stop { 1.0 } else { 0.0 };
        self.buckets.iter().for_each(|bucket| bucket.staging.ask());
        let mut before = Duration::ZERO;
        for index in 0..self.buckets.len() {
            let begun = Instant::now();
            let arrived = self.receive(session, index)?;
            self.add_slice(session, index);
            let (waited, took) = (arrived - begun, arrived.elapsed());
            if waited > BUSY {
                self.times.hidden += before;
            }
            self.times.device += waited;
            self.times.exchange += took;
            before = took;
        }
        let begun = Instant::now();
        self.gather_losses();
        self.times.exchange += begun.elapsed();
        self.times.steps += 1;
        // A loss that isn't finite halts all ranks, whosever shard it is of.
        let halting = if self.losses.iter().all(|loss| loss.is_finite()) { 0.0 } else { f32::NAN };
        session.write(METRICS, &[halting]);
        Ok(())
    }

    /// Sends what other ranks add of a bucket, and receives the roots of what this one does. When the device had made its own.
    fn receive(&mut self, session: &Session, index: usize) -> Result<Instant> {
        let Exchange { ranks, halves, shards, buckets, roots, received, told, .. } = self;
        let (rank, is_last) = (ranks.rank() as usize, index + 1 == buckets.len());
        let Bucket { count, slices, staging, sent, .. } = &mut buckets[index];
        let (length, own) = (*count as usize, slices[rank].clone());
        let sent = sent.take().expect("it was handed over");
        staging.take(session.context, sent, |numbers| {
            let arrived = Instant::now();
            let root = |index: usize, part: &Range<usize>| &numbers[index * length..][part.clone()];
            let parts =
                (0..roots[rank]).flat_map(|index| slices.iter().enumerate().map(move |(to, part)| (index, to, part)));
            let others = parts.filter(|(_, to, _)| *to != rank);
            let sent: Vec<(u32, &[f32])> = others.map(|(index, to, part)| (to as u32, root(index, part))).collect();
            let mut places = received.chunks_mut(own.len().max(1)).map(|place| place.split_at_mut(own.len()).0);
            let mut coming = Vec::with_capacity(sent.len());
            for (from, of) in roots.iter().enumerate() {
                for index in 0..*of {
                    let place = places.next().expect("room for all roots");
                    match from == rank {
                        true => place.copy_from_slice(root(index, &own)),
                        false => coming.push((from as u32, place)),
                    }
                }
            }
            match halves {
                Some(halves) => halves.exchange(ranks, &sent, coming),
                None => ranks.exchange(&sent, coming),
            }
            if is_last {
                let losses = &numbers[roots[rank] * length..][..shards.own().len()];
                told[1..=losses.len()].copy_from_slice(losses);
            }
            arrived
        })
    }

    /// Adds what was received, and gathers the sums of all slices.
    fn add_slice(&mut self, session: &Session, index: usize) {
        let Exchange { ranks, halves, buckets, additions, arithmetic, received, sum, .. } = self;
        let Bucket { ranges, count, slices, .. } = &buckets[index];
        let own = slices[ranks.rank() as usize].len();
        for (to, from) in additions.iter() {
            let (front, back) = received.split_at_mut(from * own);
            arithmetic.add(&mut front[to * own..][..own], &back[..own]);
        }
        let counts: Vec<usize> = slices.iter().map(Range::len).collect();
        let mut sum = &mut sum[..*count as usize];
        match halves {
            Some(halves) => halves.gather(ranks, &received[..own], &counts, sum),
            None => ranks.gather_numbers(&received[..own], &counts, sum),
        }
        for range in ranges {
            let part = sum.split_off_mut(..(range.end - range.start) as usize).expect("the ranges are the bucket");
            session.memory().write(session.context, GRADIENTS, range.start, part);
        }
    }

    fn gather_losses(&mut self) {
        let Exchange { ranks, shards, told, losses, must_stop, .. } = self;
        let (count, each) = (ranks.count(), told.len());
        let mut all = vec![0.0; each * count as usize];
        ranks.gather_numbers(told, &vec![each; count as usize], &mut all);
        losses.clear();
        for (rank, told) in (0..).zip(all.chunks(each)) {
            *must_stop |= told[0] != 0.0;
            let shards = Shards::of(shards.all(), rank, count).own().len();
            losses.extend_from_slice(&told[1..=shards]);
        }
    }

    /// The losses of all shards of the last step.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }
}

/// The ranges of the gradients that are final after so many dispatches, in at most `most` buckets that are worth to be sent.
fn final_at(gradients: &Recording, elements: u64, most: u64) -> Vec<(usize, Vec<Range<u64>>)> {
    // What is written, and after how many dispatches.
    let mut writes: Vec<(Range<u64>, usize)> = vec![(0..elements, 0)];
    for (index, dispatch) in gradients.dispatches.iter().enumerate() {
        for (id, _) in dispatch.bindings().filter(|(_, binding)| binding.writable) {
            if let Place::Buffer { buffer, offset } = gradients.tensors[id as usize].place
                && gradients.buffers[buffer].name == GRADIENTS
            {
                let first = offset / 4;
                let all = || std::iter::once(0..gradients.tensor(id).elements()).collect();
                let ranges = reduce::written(gradients, dispatch).unwrap_or_else(all);
                writes.extend(ranges.iter().map(|own| (first + own.start..first + own.end, index + 1)));
            }
        }
    }
    let bounds: BTreeSet<u64> = writes.iter().flat_map(|(range, _)| [range.start, range.end]).collect();
    let last_write = |at: &u64| writes.iter().filter(|(range, _)| range.contains(at)).map(|(_, index)| *index).max();
    let places = bounds.iter().zip(bounds.iter().skip(1));
    let mut places: Vec<(usize, Range<u64>)> =
        places.map(|(begin, end)| (last_write(begin).unwrap_or(0), *begin..*end)).collect();
    places.sort_by_key(|(end, range)| (*end, range.start));
    let least = if most > 1 { BUCKET.max(elements.div_ceil(most)) } else { elements };
    let mut buckets: Vec<(usize, Vec<Range<u64>>)> = Vec::new();
    let (mut ranges, mut count) = (Vec::new(), 0);
    for (end, range) in places {
        count += range.end - range.start;
        ranges.push(range);
        if count >= least {
            buckets.push((end, std::mem::take(&mut ranges)));
            count = 0;
        }
    }
    // The last one ends with all dispatches, which also make the loss.
    match buckets.last_mut() {
        Some((_, last)) if count < least / 2 => last.append(&mut ranges),
        _ => buckets.push((0, ranges)),
    }
    let last = buckets.last_mut().expect("there is one");
    last.0 = gradients.dispatches.len();
    for (_, ranges) in &mut buckets {
        join_neighbours(ranges);
    }
    buckets
}

fn join_neighbours(ranges: &mut Vec<Range<u64>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, before| {
        let touches = before.end == next.start;
        if touches {
            before.end = next.end;
        }
        touches
    });
}

/// Writes rank 0's numbers into the buffers `names` of all ranks. Collective.
pub(super) fn share(ranks: &dyn Ranks, session: &Session, names: &[&str]) -> Result<()> {
    for name in names {
        let mut numbers = session.read(name)?;
        ranks.broadcast(bytemuck::cast_slice_mut(&mut numbers));
        if ranks.rank() > 0 {
            session.write(name, &numbers);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::gpu::{Choices, Device, Precision};
    use crate::nn::UNet;
    use crate::nn::preset;
    use crate::run::TrainOptions;
    use crate::run::trainer::{DataShape, record};

    /// The share of a step's arithmetic behind which the numbers of each bucket are final, and of the gradients in it.
    fn shares(name: &str, gpu: bool) -> Vec<[f64; 2]> {
        let model = preset(name).unwrap();
        let (height, width) = model.sample_size.unwrap().sides();
        let data =
            DataShape { images: 64, shape: [height, width, model.in_channels], classes: 10, are_streamed: false };
        let unet = UNet::new(model.clone()).unwrap();
        let device = Device { gpu, ..Device::default() };
        let choices = Arc::new(Choices::new(&device, Precision::F32));
        let options = TrainOptions { model, batch: 16, accumulate: 2, ..TrainOptions::default() };
        let recordings = record(&unet, &options, &data, &choices).unwrap();
        let gradients = recordings.get("gradients").unwrap();
        let before = |end: usize| gradients.dispatches[..end].iter().map(|dispatch| dispatch.flops).sum::<u64>() as f64;
        let all = before(gradients.dispatches.len());
        let elements = unet.params.elements;
        let buckets = final_at(gradients, elements, BUCKETS);
        let count = |ranges: &[Range<u64>]| ranges.iter().map(|range| range.end - range.start).sum::<u64>() as f64;
        buckets.iter().map(|(end, ranges)| [before(*end) / all, count(ranges) / elements as f64]).collect()
    }

    #[test]
    fn most_gradients_leave_while_others_are_computed() {
        // Levels of few pixels have most weights and come first, those of many pixels most of the arithmetic.
        for (name, gpu) in [("mnist", false), ("base", true)] {
            let shares = shares(name, gpu);
            let (Some([last, late]), [[first, _], ..]) = (shares.last(), &shares[..]) else { panic!("no buckets") };
            assert!(shares.len() > 3 && *first < 0.8 && *last == 1.0 && *late < 0.35, "{name}: {shares:.2?}");
            assert!((shares.iter().map(|[_, part]| part).sum::<f64>() - 1.0).abs() < 1e-9, "{name}: {shares:.2?}");
        }
    }
}
