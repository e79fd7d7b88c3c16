//! What a step takes that ranks share, one card each: data-parallel training, predicted from what a card computes and a network
//! moves. Nothing here was measured; docs/predictions.md says what is left out.
//!
//! A step of B images is cut into G shards. A rank computes its own one after the other, then the gradients of all are added as
//! reduce-scatter and all-gather (Rabenseifner 2004, Optimization of collective reduction operations), so that each number crosses
//! twice. A message of s bytes takes a + s / r, latency and rate of the link (Hockney 1994, The communication challenge for MPP). Gradients
//! go in K buckets of s bytes; with N ranks, each of which sends every other its slice of a bucket and passes sums on in a ring:
//!
//! ```text
//! wire    w   = 2 (N - 1) (a + s / (N r))
//! staging c   = s / p                          each way between card and host, p the rate of PCIe
//! ready   t_k = T - 2/3 t (1 - k / K)          k = 1 .. K, T the gradients' time, t that of the last pass
//! on host u_k = max(t_k, u_(k-1)) + c
//! summed  x_k = max(u_k, x_(k-1)) + w
//! back    y_k = max(x_k, y_(k-1)) + c
//! step        = y_K + update
//! ```
//!
//! The exchange is y_K with all t_k = 0, what of it is hidden is what does not lengthen the step: T + exchange - y_K.

use serde::Serialize;

use crate::error::Result;
use crate::run::{BUCKET, BUCKETS};

/// Most ranks.
pub const MOST_RANKS: u32 = 1024;
/// Bytes of a gradient.
const GRADIENT: u64 = 4;
/// The backward pass's share of a pass: gradients of inputs and of weights cost what the outputs do, each.
const BACKWARD: f64 = 2.0 / 3.0;
/// The efficiency from which communication is said to hide.
pub const EFFICIENT: f64 = 0.9;

/// What joins the ranks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Network {
    /// Of each rank, each way.
    pub link_gbit_per_s: f64,
    /// Of a message.
    pub latency_us: f64,
    /// Between a card and its host, each way.
    pub pcie_gbytes_per_s: f64,
}

/// What one card does of a step.
pub struct Work<'a> {
    /// Milliseconds of forward and backward on so many images.
    pub pass_ms: &'a dyn Fn(u32) -> Result<f64>,
    /// The most images of a pass.
    pub most_images: u32,
    pub gradients: u64,
    /// Of adding the gradients of a pass to those of passes before.
    pub add_ms: f64,
    /// Of the optimizer, which every rank runs whole.
    pub update_ms: f64,
}

/// Ranks and what joins them.
pub struct Cluster<'a> {
    pub work: Work<'a>,
    pub network: Network,
    /// Shards of a step; none: the next power of two of the ranks.
    pub shards: Option<u32>,
}

/// The step of so many ranks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Row {
    pub ranks: u32,
    pub shards: u32,
    /// Of a rank with the most.
    pub images_per_rank: u32,
    /// In which gradients leave.
    pub buckets: u64,
    /// Gradients and update, without other ranks.
    pub compute_ms: f64,
    /// Staging and wire, while nothing computes.
    pub exchange_ms: f64,
    /// What of that passes during the backward pass.
    pub hidden_ms: f64,
    pub step_ms: f64,
    pub images_per_s: f64,
    /// To one rank.
    pub speedup: f64,
    /// Speed-up by ranks.
    pub efficiency: f64,
}

/// The gradients of a rank with the most shards.
struct Gradients {
    images: u32,
    ms: f64,
    pass_ms: f64,
    passes: u32,
}

/// 1, 2, 4, ... and `ranks` itself.
fn counts(ranks: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(1_u32), |count| count.checked_mul(2))
        .take_while(move |count| *count < ranks)
        .chain([ranks])
}

/// When the last bucket is back, of which each is copied, sent, and copied again.
fn last_back(ready: impl Iterator<Item = f64>, copy_ms: f64, wire_ms: f64) -> f64 {
    let (mut copied, mut sent, mut back) = (0.0_f64, 0.0_f64, 0.0_f64);
    for ready in ready {
        copied = copied.max(ready) + copy_ms;
        sent = sent.max(copied) + wire_ms;
        back = back.max(sent) + copy_ms;
    }
    back
}

impl Network {
    /// Milliseconds of a bucket on the wire.
    fn wire_ms(&self, bytes: f64, ranks: u32) -> f64 {
        let (ranks, bytes_per_ms) = (f64::from(ranks), self.link_gbit_per_s / 8.0 * 1e6);
        2.0 * (ranks - 1.0) * (self.latency_us * 1e-3 + bytes / ranks / bytes_per_ms)
    }

    /// Milliseconds of a bucket between card and host.
    fn copy_ms(&self, bytes: f64) -> f64 {
        bytes / (self.pcie_gbytes_per_s * 1e6)
    }
}

impl Cluster<'_> {
    /// Shards of a step of so many ranks.
    pub fn shards(&self, ranks: u32) -> u32 {
        self.shards.unwrap_or(ranks.next_power_of_two())
    }

    /// Steps of `batch` images on 1, 2, 4, ... and `ranks` ranks.
    ///
    /// # Errors
    /// Those of counting a pass.
    pub fn rows(&self, ranks: u32, batch: u32) -> Result<Vec<Row>> {
        counts(ranks).map(|ranks| self.row(ranks, batch)).collect()
    }

    /// The smallest batch, of a power of two of images a shard, at which `ranks` ranks are [`EFFICIENT`]; none if no shard that a
    /// pass takes is large enough.
    ///
    /// # Errors
    /// Those of counting a pass.
    pub fn least_batch(&self, ranks: u32) -> Result<Option<u32>> {
        let images = std::iter::successors(Some(1_u32), |images| images.checked_mul(2));
        for images in images.take_while(|images| *images <= self.work.most_images) {
            let Some(batch) = images.checked_mul(self.shards(ranks)) else { break };
            if self.row(ranks, batch)?.efficiency >= EFFICIENT {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    fn row(&self, ranks: u32, batch: u32) -> Result<Row> {
        let alone = self.gradients(1, batch)?.ms + self.work.update_ms;
        let gradients = self.gradients(ranks, batch)?;
        let buckets = self.buckets(ranks, &gradients);
        let (exchange_ms, back_ms) = self.exchange(ranks, buckets, &gradients);
        let step_ms = back_ms + self.work.update_ms;
        let speedup = alone / step_ms;
        Ok(Row {
            ranks,
            shards: self.shards(ranks),
            images_per_rank: gradients.images,
            buckets,
            compute_ms: gradients.ms + self.work.update_ms,
            exchange_ms,
            // What rounding leaves below 0 is none.
            hidden_ms: (gradients.ms + exchange_ms - back_ms).clamp(0.0, exchange_ms),
            step_ms,
            images_per_s: f64::from(batch) * 1e3 / step_ms,
            speedup,
            efficiency: speedup / f64::from(ranks),
        })
    }

    fn gradients(&self, ranks: u32, batch: u32) -> Result<Gradients> {
        let shards = self.shards(ranks);
        let (images, own) = (batch.div_ceil(shards), shards.div_ceil(ranks));
        // What no pass takes is computed in several, as equal as they can be.
        let in_shard = images.div_ceil(self.work.most_images);
        let pass_ms = (self.work.pass_ms)(images.div_ceil(in_shard))?;
        let passes = in_shard * own;
        let ms = f64::from(passes) * pass_ms + f64::from(passes - 1) * self.work.add_ms;
        Ok(Gradients { images: images * own, ms, pass_ms, passes })
    }

    /// Gradients leave early where no later pass adds to them.
    fn buckets(&self, ranks: u32, gradients: &Gradients) -> u64 {
        let is_early = ranks > 1 && ranks == self.shards(ranks) && gradients.passes == 1;
        if is_early { (self.work.gradients / BUCKET).clamp(1, BUCKETS) } else { 1 }
    }

    /// Milliseconds of the exchange by itself, and after how many all gradients are back on the card.
    fn exchange(&self, ranks: u32, buckets: u64, gradients: &Gradients) -> (f64, f64) {
        if ranks == 1 {
            return (0.0, gradients.ms);
        }
        let bytes = (self.work.gradients * GRADIENT) as f64 / buckets as f64;
        let (copy_ms, wire_ms) = (self.network.copy_ms(bytes), self.network.wire_ms(bytes, ranks));
        let left = |bucket: u64| BACKWARD * gradients.pass_ms * (1.0 - bucket as f64 / buckets as f64);
        let ready = (1..=buckets).map(|bucket| gradients.ms - left(bucket));
        (last_back((1..=buckets).map(|_| 0.0), copy_ms, wire_ms), last_back(ready, copy_ms, wire_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image takes 1 ms. 4 MiB of gradients, so 4 buckets of 1 MiB; a link of 1 MiB/ms and PCIe of 4 MiB/ms; a message waits 1 ms.
    fn cluster(shards: Option<u32>) -> Cluster<'static> {
        let pass_ms = &|images: u32| Ok(f64::from(images));
        let work = Work { pass_ms, most_images: 64, gradients: 1 << 20, add_ms: 0.5, update_ms: 2.0 };
        let network = Network { link_gbit_per_s: 8.388608, latency_us: 1000.0, pcie_gbytes_per_s: 4.194304 };
        Cluster { work, network, shards }
    }

    #[track_caller]
    fn assert_near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}");
    }

    #[test]
    fn the_exchange_of_two_ranks_hides_in_part() {
        let row = cluster(None).row(2, 24).unwrap();
        assert_eq!((row.shards, row.images_per_rank, row.buckets), (2, 12, 4));
        // 12 images take 12 ms, the last 8 of them backward: buckets are ready at 6, 8, 10, 12, and on the host 1/4 ms later. Each
        // takes 2 (1 + 1/2) = 3 ms on the wire, from 6.25 on without a pause to 18.25; 1/4 ms back, 2 of the update.
        assert_near(row.step_ms, 20.5);
        assert_near(row.compute_ms, 14.0);
        // By itself 1/4 + 4 * 3 + 1/4; of that 18.5 - 12 = 6.5 are left.
        assert_near(row.exchange_ms, 12.5);
        assert_near(row.hidden_ms, 6.0);
        // One rank takes 24 + 2.
        assert_near(row.speedup, 26.0 / 20.5);
        assert_near(row.efficiency, 13.0 / 20.5);
        assert_near(row.images_per_s, 24.0 / 20.5e-3);
    }

    #[test]
    fn latency_counts_for_each_message_of_each_bucket() {
        let mut cluster = cluster(None);
        let before = cluster.row(2, 24).unwrap();
        cluster.network.latency_us *= 2.0;
        let after = cluster.row(2, 24).unwrap();
        // The wire never pauses: 4 buckets by 2 (2 - 1) messages by 1 ms.
        assert_near(after.step_ms - before.step_ms, 8.0);
        assert_near(after.exchange_ms - before.exchange_ms, 8.0);
        assert_near(after.hidden_ms, before.hidden_ms);
    }

    #[test]
    fn several_shards_a_rank_hide_nothing() {
        let row = cluster(Some(4)).row(2, 24).unwrap();
        // Two shards of 6 ms and an addition; then 1 ms to the host, 2 (1 + 4/2) = 6 on the wire, 1 ms back; 2 of the update.
        assert_eq!((row.images_per_rank, row.buckets, row.hidden_ms), (12, 1, 0.0));
        assert_near(row.exchange_ms, 8.0);
        assert_near(row.step_ms, 12.5 + 8.0 + 2.0);
        // One rank has all four: 24 ms and three additions.
        assert_near(row.speedup, 27.5 / 22.5);
        // Of three ranks one has two shards of four: 1 + 2 * 2 (1 + 4/3) + 1.
        let row = cluster(None).row(3, 24).unwrap();
        assert_eq!((row.shards, row.images_per_rank, row.hidden_ms), (4, 12, 0.0));
        assert_near(row.step_ms, 12.5 + 2.0 + 28.0 / 3.0 + 2.0);
    }

    #[test]
    fn one_rank_exchanges_nothing() {
        let row = cluster(None).row(1, 24).unwrap();
        assert_eq!((row.exchange_ms, row.hidden_ms, row.speedup, row.efficiency), (0.0, 0.0, 1.0, 1.0));
        assert_near(row.step_ms, 26.0);
        // Four passes of 64 and three additions.
        assert_near(cluster(None).row(1, 256).unwrap().step_ms, 256.0 + 1.5 + 2.0);
        // As equal as they can be: 100 images are two passes of 50.
        assert_near(cluster(None).row(1, 100).unwrap().step_ms, 100.0 + 0.5 + 2.0);
    }

    #[test]
    fn a_network_without_limits_leaves_what_is_computed() {
        let mut cluster = cluster(None);
        cluster.network = Network { link_gbit_per_s: f64::INFINITY, latency_us: 0.0, pcie_gbytes_per_s: f64::INFINITY };
        for row in cluster.rows(8, 64).unwrap() {
            assert_near(row.exchange_ms, 0.0);
            assert_near(row.step_ms, 64.0 / f64::from(row.ranks) + 2.0);
            assert_near(row.efficiency, 66.0 / (64.0 + 2.0 * f64::from(row.ranks)));
        }
    }

    #[test]
    fn steps_are_never_shorter_than_what_they_compute() {
        for (ranks, shards, images) in
            [(1024, None, 1), (1024, None, 64), (1000, None, 8), (5, Some(7), 3), (7, Some(70), 100)]
        {
            let mut cluster = cluster(shards);
            for latency_us in [0.0, 0.01, 5.0, 1e5] {
                cluster.network.latency_us = latency_us;
                for row in cluster.rows(ranks, images * cluster.shards(ranks)).unwrap() {
                    assert!(row.hidden_ms >= 0.0 && row.hidden_ms <= row.exchange_ms, "{row:?}");
                    assert!(row.step_ms >= row.compute_ms && row.efficiency <= 1.0 + 1e-12, "{row:?}");
                    assert_near((row.compute_ms + row.exchange_ms - row.hidden_ms) / row.step_ms, 1.0);
                }
            }
        }
    }

    #[test]
    fn the_least_batch_is_efficient_and_half_of_it_is_not() {
        let cluster = cluster(None);
        // 128 images: one rank takes two passes, an addition and the update, 130.5 ms. Two take 64 and are left with the last bucket,
        // 3.5 ms: 69.5, and 130.5 / 139 = 0.94. 64 images: 66 to 2 * 37.5, 0.88.
        assert_eq!(cluster.least_batch(2).unwrap(), Some(128));
        assert_near(cluster.row(2, 128).unwrap().efficiency, 130.5 / 139.0);
        assert_near(cluster.row(2, 64).unwrap().efficiency, 0.88);
        // Three ranks with four shards wait for one that has two.
        assert_eq!(cluster.least_batch(3).unwrap(), None);
    }

    #[test]
    fn ranks_double_up_to_those_asked_for() {
        assert_eq!(counts(1).collect::<Vec<_>>(), [1]);
        assert_eq!(counts(4).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(counts(6).collect::<Vec<_>>(), [1, 2, 4, 6]);
    }

    #[test]
    fn small_models_leave_in_one_bucket_and_large_ones_in_eight() {
        let mut cluster = cluster(None);
        for (gradients, buckets) in [(1, 1), (1 << 19, 2), (1 << 30, 8)] {
            cluster.work.gradients = gradients;
            assert_eq!(cluster.row(2, 2).unwrap().buckets, buckets);
        }
    }
}
