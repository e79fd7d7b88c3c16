//! Where a run stands, on the device and in its directory: what two runs are compared by.

use std::path::Path;

use diffuse::gpu::{EMA, WEIGHTS};
use diffuse::run::Trainer;

/// All that a step changes, bit for bit.
pub fn stand(trainer: &Trainer) -> Vec<Vec<u32>> {
    let bits = |name| trainer.session.read(name).expect("the device works").into_iter().map(f32::to_bits).collect();
    [WEIGHTS, EMA, "m", "v"].map(bits).into()
}

/// Holds these files of two checkpoints to equal bytes, and the metrics to equal lines but for their time. How many lines there are.
#[track_caller]
pub fn assert_same_run(one: &Path, other: &Path, files: &[&str]) -> usize {
    for file in files {
        let read = |run: &Path| std::fs::read(run.join("checkpoint").join(file)).expect("it was saved");
        assert!(read(one) == read(other), "{file} differs");
    }
    let metrics = |run: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(run.join("metrics.csv")).expect("it was written");
        text.lines().map(|line| line.split(',').take(4).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(metrics(one), metrics(other));
    metrics(one).len()
}
