//! What the roofline predicts for GPUs that are not at hand: from the counted arithmetic and bytes of each dispatch and
//! the published peaks of the card. A bound that no implementation reaches, not a measurement.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::{Choices, Device, Need, Precision, Recordings};

/// A card and its published peaks.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Card {
    pub name: &'static str,
    /// f32, without matrix units; a multiply and an add are two.
    pub tflops: f64,
    /// Of its memory.
    pub gbytes_per_s: f64,
    /// How much of it there is; of cards that come with more or less, the least.
    pub memory_gib: u64,
    /// Where the vendor says so.
    pub source: &'static str,
}

/// Some of each vendor; of three, others have published what comparable kernels reach (docs/predictions.md).
pub const CARDS: [Card; 7] = [
    Card {
        name: "NVIDIA GeForce RTX 4090",
        tflops: 82.6,
        gbytes_per_s: 1008.0,
        memory_gib: 24,
        source: "NVIDIA Ada GPU Architecture whitepaper V2.01, appendix A: peak FP32 TFLOPS (non-tensor), bandwidth",
    },
    Card {
        name: "NVIDIA GeForce RTX 3090",
        tflops: 35.6,
        gbytes_per_s: 936.0,
        memory_gib: 24,
        source: "NVIDIA Ampere GA102 GPU Architecture whitepaper, appendix A: peak FP32 TFLOPS (non-tensor), bandwidth",
    },
    Card {
        name: "AMD Radeon RX 9070 XT",
        tflops: 48.7,
        gbytes_per_s: 640.0,
        memory_gib: 16,
        source: "amd.com, specifications of the RX 9070 XT: peak single precision 48.7 TFLOPs, up to 640 GB/s",
    },
    Card {
        name: "AMD Radeon RX 7900 XTX",
        tflops: 61.0,
        gbytes_per_s: 960.0,
        memory_gib: 24,
        source: "amd.com, specifications of the RX 7900 XTX: peak single precision 61 TFLOPs, up to 960 GB/s",
    },
    Card {
        name: "Apple M1 Max, 32 cores",
        tflops: 10.4,
        gbytes_per_s: 400.0,
        memory_gib: 32,
        source: "Apple, presentation of M1 Max, 18 October 2021: 10.4 teraflops, 400 GB/s",
    },
    Card {
        name: "Apple M4 Max, 40 cores",
        tflops: 18.4,
        gbytes_per_s: 546.0,
        memory_gib: 48,
        source: "Apple, presentation of M4 Max, 30 October 2024: 40 cores, 546 GB/s; 128 lanes a core at about 1.8 GHz are others' measurements",
    },
    Card {
        name: "Intel Arc A770, 16 GB",
        tflops: 17.2,
        gbytes_per_s: 560.0,
        memory_gib: 16,
        source: "Intel, specifications of the A770: 32 Xe cores (256 f32 operations a clock each), 2.1 GHz, 560 GB/s",
    },
];

/// What a dispatch costs beside its work: start, drain and the barrier before the next one. An assumption; measured
/// figures of today's GPUs and drivers lie between 2 and 10.
pub const LAUNCH_MICROSECONDS: f64 = 5.0;

/// The predicted step on one card.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    pub card: Card,
    pub step_ms: f64,
    /// Of the dispatches that arithmetic binds.
    pub arithmetic_ms: f64,
    /// Of those that memory binds.
    pub memory_ms: f64,
    /// Of starting all of them.
    pub launch_ms: f64,
    pub images_per_s: f64,
}

/// Dispatches of one kernel in a step, and its work.
#[derive(Clone, Debug, Serialize)]
pub struct Count {
    pub name: String,
    pub calls: u64,
    pub flops: u64,
    pub bytes: u64,
}

/// The one card of the list of whose name `part` is a part, in any case.
///
/// # Errors
/// [`Error::Config`] names the cards that there are, or those that it may be.
pub fn card(part: &str) -> Result<Card> {
    let part = part.trim().to_lowercase();
    let found: Vec<&Card> = CARDS.iter().filter(|card| card.name.to_lowercase().contains(&part)).collect();
    let names = |cards: &[&Card]| cards.iter().map(|card| card.name).collect::<Vec<_>>().join("; ");
    match found[..] {
        [card] => Ok(*card),
        [] => Err(Error::Config(format!("no card {part:?}; there are {}", names(&CARDS.each_ref())))),
        _ => Err(Error::Config(format!("card {part:?} may be one of {}", names(&found)))),
    }
}

/// What a GPU runs that nothing is known of but its kind: that is what is counted.
pub fn choices(precision: Precision) -> Choices {
    let device = Device { gpu: true, subgroup: 32, needs: vec![Need::Subgroups], few_registers: false };
    Choices::new(&device, precision)
}

/// Predicts a step of `batch` images on every card.
pub fn predict(recordings: &Recordings, batch: u32) -> Vec<Prediction> {
    CARDS.iter().map(|card| on(card, recordings, batch)).collect()
}

/// Predicts a step of `batch` images on one card.
pub fn on(card: &Card, recordings: &Recordings, batch: u32) -> Prediction {
    let (mut arithmetic_ms, mut memory_ms, mut launch_ms) = (0.0, 0.0, 0.0);
    for (recording, dispatch) in recordings.dispatches() {
        let arithmetic = dispatch.flops as f64 / card.tflops * 1e-9;
        let memory = recording.bytes(dispatch) as f64 / card.gbytes_per_s * 1e-6;
        let sum = if arithmetic > memory { &mut arithmetic_ms } else { &mut memory_ms };
        *sum += arithmetic.max(memory);
        launch_ms += LAUNCH_MICROSECONDS * 1e-3;
    }
    let step_ms = arithmetic_ms + memory_ms + launch_ms;
    Prediction { card: *card, step_ms, arithmetic_ms, memory_ms, launch_ms, images_per_s: batch as f64 * 1e3 / step_ms }
}

/// How often each kernel runs in a step, the most work first.
pub fn counts(recordings: &Recordings) -> Vec<Count> {
    let mut counts = std::collections::BTreeMap::<String, Count>::new();
    for (recording, dispatch) in recordings.dispatches() {
        let name = format!("{}.{}", dispatch.kernel.name, dispatch.entry);
        let new = || Count { name: name.clone(), calls: 0, flops: 0, bytes: 0 };
        let count = counts.entry(name.clone()).or_insert_with(new);
        count.calls += 1;
        count.flops += dispatch.flops;
        count.bytes += recording.bytes(dispatch);
    }
    let mut counts: Vec<Count> = counts.into_values().collect();
    counts.sort_by_key(|count| std::cmp::Reverse((count.flops, count.bytes)));
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Recorder;
    use crate::ops::{add, conv2d, linear};

    type Record = fn(&mut Recorder);

    /// A card, the dispatch, and the TFLOP/s that others published for it; sources in docs/predictions.md.
    const PUBLISHED: [(&str, Record, f64); 4] = [
        ("NVIDIA GeForce RTX 3090", convolve, 15.41),
        ("NVIDIA GeForce RTX 3090", convolve, 16.12),
        ("AMD Radeon RX 9070 XT", convolve, 14.27),
        ("Apple M4 Max, 40 cores", multiply, 11.19),
    ];

    fn convolve(r: &mut Recorder) {
        let x = r.persistent("x", [16, 19, 19, 256]);
        let (weight, bias) = (r.persistent("weight", [4, 4, 256, 4096]), r.persistent("bias", [1, 1, 1, 4096]));
        conv2d::forward(r, x, weight, bias, conv2d::Geometry { stride: 1, pad: 0, pad_end: 0 });
    }

    fn multiply(r: &mut Recorder) {
        let x = r.persistent("x", [1, 1, 4096, 4096]);
        let (weight, bias) = (r.persistent("weight", [1, 1, 4096, 8192]), r.persistent("bias", [1, 1, 1, 8192]));
        linear::forward(r, x, weight, bias, [1, 1, 4096, 8192]);
    }

    /// What is predicted is a bound: good kernels take 1.6 to 3.5 times as long.
    #[test]
    fn no_published_kernel_is_faster_than_predicted() {
        for (name, record, tflops) in PUBLISHED {
            let mut r = Recorder::new();
            record(&mut r);
            let recordings = Recordings::from_iter([("step", r.finish())]);
            let card = CARDS.iter().find(|card| card.name == name).expect("a card of the list");
            let flops: u64 = recordings.dispatches().map(|(_, dispatch)| dispatch.flops).sum();
            let measured_ms = flops as f64 / tflops * 1e-9;
            let predicted = on(card, &recordings, 1);
            let times = measured_ms / predicted.step_ms;
            println!(
                "{name}: {:.1} GFLOP, {:.2} ms predicted, {measured_ms:.2} ms measured, {times:.2} times",
                flops as f64 * 1e-9,
                predicted.step_ms
            );
            assert!(predicted.memory_ms == 0.0 && (1.6..3.5).contains(&times), "{name}: {times}");
        }
    }

    #[test]
    fn a_card_is_named_by_a_part_that_only_it_has() {
        assert_eq!(card("rtx 4090").unwrap().name, "NVIDIA GeForce RTX 4090");
        let said = |part| card(part).unwrap_err().to_string();
        assert!(said("nonsense").contains("RTX 3090; AMD Radeon RX 9070 XT"), "{}", said("nonsense"));
        assert!(
            said("NVIDIA").ends_with("one of NVIDIA GeForce RTX 4090; NVIDIA GeForce RTX 3090"),
            "{}",
            said("NVIDIA")
        );
    }

    #[test]
    fn each_dispatch_takes_what_binds_it() {
        let mut r = Recorder::new();
        let x = r.persistent("x", [1, 1, 1, 1_000_000]);
        add::scale(&mut r, x, 2.0);
        let recordings = Recordings::from_iter([("step", r.finish())]);
        let card = |tflops, gbytes_per_s| Card { name: "", tflops, gbytes_per_s, memory_gib: 1, source: "" };
        // 2 MFLOP, 8 MB.
        let slow_memory = on(&card(1.0, 1000.0), &recordings, 10);
        assert!((slow_memory.memory_ms - 0.008).abs() < 1e-12 && slow_memory.arithmetic_ms == 0.0);
        assert!((slow_memory.step_ms - 0.013).abs() < 1e-12);
        let slow_arithmetic = on(&card(0.1, 1000.0), &recordings, 10);
        assert!((slow_arithmetic.arithmetic_ms - 0.02).abs() < 1e-12 && slow_arithmetic.memory_ms == 0.0);
        assert!((slow_arithmetic.images_per_s - 10.0 / 0.025e-3).abs() < 1e-3);
    }
}
