//! Training on the GPU: against the twins, bit for bit against itself, and whether it learns.

mod common;

use std::path::Path;

use common::{context, dataset, engine, model, options};
use diffuse::gpu::{Context, CpuState, EMA, Step, WEIGHTS};
use diffuse::nn::UNet;
use diffuse::nn::config::Size;
use diffuse::ops::diffusion::Records;
use diffuse::train::engine::{DATA, DataShape, METRICS, Recordings, record, step_values};
use diffuse::train::{Engine, Metrics, Run, TrainOptions, Watch, run};

fn train(context: &Context, engine: &mut Engine, steps: u64) -> Vec<Metrics> {
    let mut all = Vec::new();
    for step in 0..steps {
        all.extend(engine.step(context, step).expect("the device works").0);
    }
    all.extend(engine.finish(context).expect("the device works"));
    all
}

/// One step through the twins: (loss, gradient norm).
fn twin_step(
    recordings: &Recordings,
    state: &mut CpuState,
    options: &TrainOptions,
    images: u64,
    step: u64,
) -> (f64, f64) {
    let mut loss = 0.0;
    if recordings.accumulate.is_some() {
        let zeros = vec![0.0; state.get(WEIGHTS).len()];
        state.set("accumulated", zeros);
    }
    let values = |batch: u64| -> Step { step_values(options, images, step, batch) };
    for batch in 0..options.accumulate as u64 {
        recordings.gradients.run_cpu(state, &values(batch));
        loss += state.get(METRICS)[0];
        if let Some(accumulate) = &recordings.accumulate {
            accumulate.run_cpu(state, &values(batch));
        }
    }
    recordings.update.run_cpu(state, &values(0));
    (loss / options.accumulate as f64, state.get(METRICS)[64].sqrt() / options.accumulate as f64)
}

#[test]
fn ten_losses_agree_with_the_twins() {
    let context = context();
    let data = dataset(9, 3);
    for accumulate in [1, 3] {
        let options = options(10, 4, accumulate);
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let mut engine = engine(&context, &unet, &data, &options);
        let metrics = train(&context, &mut engine, 10);
        assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        let recordings = record(&unet, &options, &DataShape::of(&data), &context.choices).expect("a valid schedule");
        let mut state = CpuState::default();
        let weights: Vec<f64> = unet.params.initialise(options.seed).into_iter().map(f64::from).collect();
        state.set(WEIGHTS, weights.clone());
        state.set(EMA, weights);
        state.set(DATA, Records::pack(&data.images, &data.labels).into_iter().map(f64::from));
        for metrics in metrics {
            let (loss, norm) = twin_step(&recordings, &mut state, &options, data.len() as u64, metrics.step - 1);
            println!(
                "step {} loss {} twin {loss}, norm {} twin {norm}",
                metrics.step, metrics.loss, metrics.gradient_norm
            );
            assert!((metrics.loss as f64 - loss).abs() < 1e-4 * loss, "accumulate {accumulate}, step {}", metrics.step);
            assert!((metrics.gradient_norm as f64 - norm).abs() < 1e-3 * norm, "norm of step {}", metrics.step);
        }
        for name in [WEIGHTS, EMA, "m", "v"] {
            let values = engine.memory.read(&context, name).expect("the device works");
            let twin = state.get(name);
            let rms = (twin.iter().map(|v| v * v).sum::<f64>() / twin.len() as f64).sqrt();
            let worst = values.iter().zip(twin).map(|(v, t)| (*v as f64 - t).abs()).fold(0.0, f64::max);
            // AdamW divides by sqrt(v): where a gradient is all rounding, its sign decides a step of the learning rate.
            assert!(worst < 0.1 * rms, "{name}: {worst} of {rms}");
        }
    }
}

#[test]
fn two_runs_give_equal_bits() {
    let context = context();
    let data = dataset(9, 3);
    let options = options(6, 4, 1);
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let outcome = || {
        let mut engine = engine(&context, &unet, &data, &options);
        let losses: Vec<u32> = train(&context, &mut engine, 6).iter().map(|m| m.loss.to_bits()).collect();
        let weights = engine.memory.read(&context, WEIGHTS).expect("the device works");
        (losses, weights.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert_eq!(outcome(), outcome());
}

#[test]
fn it_overfits_one_image() {
    let context = context();
    let data = dataset(1, 1);
    let options = TrainOptions { model: model(1), learning_rate: 4e-3, warmup: 10, ..options(400, 8, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut engine = engine(&context, &unet, &data, &options);
    let metrics = train(&context, &mut engine, 400);
    let mean = |part: &[Metrics]| part.iter().map(|m| m.loss).sum::<f32>() / part.len() as f32;
    let (first, last) = (mean(&metrics[..10]), mean(&metrics[380..]));
    println!("loss {first} at first, {last} at last");
    assert!(first > 0.5, "an untrained network knows nothing of the noise: {first}");
    assert!(last < 0.1 * first, "{last} after 400 steps, {first} at first");
}

/// Stops a run after some steps.
struct StopAfter {
    steps: u64,
    seen: u64,
}

impl Watch for StopAfter {
    fn step(&mut self, metrics: &Metrics, _: f64) {
        self.seen = metrics.step;
    }

    fn note(&mut self, _: &str) {}

    fn stop(&self) -> bool {
        self.seen >= self.steps
    }
}

fn never() -> StopAfter {
    StopAfter { steps: u64::MAX, seen: 0 }
}

#[test]
fn stop_and_resume_give_equal_bits() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let mut options = TrainOptions { model: model(10), accumulate: 2, ..options(12, 3, 2) };
    options.model.sample_size = Some(Size::Square(8));
    let data = run::load_data(&mut options).expect("the embedded digits");
    let whole = place.path().join("whole");
    let done = Run::create(&context, &whole, options.clone(), &data, false).unwrap().train(&mut never());
    assert!(done.unwrap());
    let parts = place.path().join("parts");
    let mut watch = StopAfter { steps: 5, seen: 0 };
    let mut first = Run::create(&context, &parts, options, &data, false).unwrap();
    assert!(!first.train(&mut watch).unwrap(), "it was stopped");
    assert!((5..12).contains(&first.steps_done()));
    drop(first);
    let mut second = Run::resume(&context, &parts, None).unwrap();
    assert!(second.train(&mut never()).unwrap());
    for file in ["diffusion_pytorch_model.safetensors", "trainer.safetensors", "trainer.json"] {
        let read = |run: &Path| std::fs::read(run.join("checkpoint").join(file)).unwrap();
        assert!(read(&whole) == read(&parts), "{file} differs after a resumption");
    }
    let losses = |run: &Path| -> Vec<String> {
        let text = std::fs::read_to_string(run.join("metrics.csv")).unwrap();
        text.lines().map(|line| line.split(',').take(4).collect::<Vec<_>>().join(",")).collect()
    };
    assert_eq!(losses(&whole).len(), 13);
    assert_eq!(losses(&whole), losses(&parts));
}
