//! The classifier of noisy images: its gradients against differences through the twins, on the GPU, and whether it learns.

mod common;

use std::sync::Arc;

use common::{context, dataset, model, options, trainer};
use diffuse::diffusion::{Level, Prediction};
use diffuse::evaluate::images_of;
use diffuse::gpu::{
    Choices, Context, CpuState, Device, GRADIENTS, Memory, Plan, PlanOptions, Precision, Recordings, Step, WEIGHTS,
};
use diffuse::nn::{Classifier, ClassifierConfig, UNetConfig};
use diffuse::ops::diffusion::Records;
use diffuse::random::Random;
use diffuse::run::classifier::{self as guidance, Source};
use diffuse::run::trainer::{DATA, DataShape, METRICS, record, step_values};
use diffuse::run::{Observer, Session, Task, TrainOptions};
use diffuse::{checkpoint, data};

const CLASSES: u32 = 3;
const SHAPE: [u32; 4] = [2, 8, 8, 1];

fn classifier(center: bool) -> Classifier {
    let unet = UNetConfig { num_class_embeds: None, center_input_sample: center, ..model(1) };
    Classifier::new(ClassifierConfig { unet, classes: CLASSES }).expect("a valid model")
}

/// Values of x for `rows` images of one channel, padded.
fn noise(rows: u32, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..rows * 64 * 4).map(|i| if i % 4 == 0 { random.normal() as f32 } else { 0.0 }).collect()
}

fn source(rows: u32) -> Source {
    Source { x: "x", rows, shape: SHAPE }
}

fn state(classifier: &Classifier, x: &[f32]) -> CpuState {
    let mut state = CpuState::default();
    state.set(guidance::WEIGHTS, classifier.params.initialise(4).into_iter().map(f64::from));
    state.set("x", x.iter().map(|value| *value as f64));
    state.set(guidance::LABELS, [2.0, 0.0, 0.0, 0.0]);
    state
}

fn at(timestep: f64) -> Step {
    let mut step = Step::default();
    step.set("timestep", timestep).set("classifier", 1.5);
    step
}

/// Central differences with Richardson's extrapolation.
fn derivative(f: impl Fn(f64) -> f64) -> f64 {
    let central = |h: f64| (f(h) - f(-h)) / (2.0 * h);
    (4.0 * central(5e-4) - central(1e-3)) / 3.0
}

#[test]
fn the_input_gradient_is_what_differences_show() {
    for center in [false, true] {
        let classifier = classifier(center);
        let x = noise(4, 1);
        let recording = guidance::record_gradient(&classifier, source(4), &Default::default());
        let log_probability = |x: Vec<f64>| -> f64 {
            let mut state = state(&classifier, &[]);
            state.set("x", x);
            recording.run_cpu(&mut state, &at(300.0));
            state.get(guidance::LOG_PROBABILITY)[0]
        };
        let mut state = state(&classifier, &x);
        recording.run_cpu(&mut state, &at(300.0));
        let gradient = state.get(guidance::GRADIENT).to_vec();
        let size: f64 = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(size > 1e-3, "the gradient is not nothing: {size}");
        assert!(state.get(guidance::LOG_PROBABILITY)[0] < 0.0);
        for seed in 2..6 {
            let direction = noise(2, seed);
            let moved = |h: f64| {
                let towards = |i: usize| direction.get(i).map_or(0.0, |d| h * *d as f64);
                log_probability(x.iter().enumerate().map(|(i, x)| *x as f64 + towards(i)).collect())
            };
            let claimed: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * *d as f64).sum();
            let found = derivative(moved);
            let error = (claimed - found).abs() / size;
            assert!(error < 1e-6, "center {center}: {claimed} against {found}");
        }
    }
}

#[test]
fn the_gradients_of_the_parameters_are_what_differences_show() {
    let classifier = classifier(false);
    let data = dataset(5, CLASSES);
    let options = TrainOptions { task: Task::Classify, class_dropout: 0.0, ..options(1, 4, 1) };
    let recordings =
        record(&classifier, &options, &DataShape::of(&data), &Default::default()).expect("a valid schedule");
    let weights: Vec<f64> = classifier.params.initialise(4).into_iter().map(f64::from).collect();
    let run = |weights: Vec<f64>| -> CpuState {
        let mut state = CpuState::default();
        state.set(WEIGHTS, weights);
        state.set(DATA, Records::pack(&data.images, &data.labels).into_iter().map(f64::from));
        recordings
            .get("gradients")
            .expect("a step has it")
            .run_cpu(&mut state, &step_values(&options, data.len() as u64, 0, 0));
        state
    };
    let gradients = run(weights.clone()).get(GRADIENTS).to_vec();
    let mut random = Random::new(9);
    for parameter in &classifier.params.all {
        // Each tensor alone: an error in a small one is not drowned by the others.
        let mut direction = vec![0.0; weights.len()];
        let values: Vec<f32> = (0..parameter.len()).map(|_| random.normal() as f32).collect();
        let mut packed = vec![0.0; weights.len()];
        parameter.pack(&values, &mut packed);
        direction.iter_mut().zip(&packed).for_each(|(d, p)| *d = *p as f64);
        let moved = |h: f64| run(weights.iter().zip(&direction).map(|(w, d)| w + h * d).collect()).get(METRICS)[0];
        let claimed: f64 = gradients.iter().zip(&direction).map(|(g, d)| g * d).sum();
        let size: f64 = gradients.iter().zip(&direction).map(|(g, d)| (g * d).abs()).sum();
        let found = derivative(moved);
        assert!((claimed - found).abs() < 1e-6 * (size + 1e-3), "{}: {claimed} against {found}", parameter.name);
    }
}

/// Every weight that a matrix product reads was narrowed, and nothing is bound in two ways.
#[test]
fn half_precision_gives_nearly_the_same() {
    let classifier = classifier(true);
    let [single, half] = [Precision::F32, Precision::F16].map(|precision| {
        let choices = Arc::new(Choices::new(&Device::default(), precision));
        let mut state = state(&classifier, &noise(4, 1));
        guidance::record_gradient(&classifier, source(4), &choices).run_cpu(&mut state, &at(300.0));
        state.get(guidance::GRADIENT).to_vec()
    });
    let largest = single.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let worst = single.iter().zip(&half).map(|(s, h)| (s - h).abs()).fold(0.0, f64::max);
    assert!(worst > 0.0 && worst < 0.02 * largest, "{worst} of {largest}");
}

#[test]
fn what_nobody_asks_for_is_left_out() {
    let classifier = classifier(false);
    let recording = guidance::record_gradient(&classifier, source(2), &Default::default());
    assert!(recording.buffers.iter().all(|buffer| buffer.name != GRADIENTS));
    let written: Vec<&str> = recording.dispatches.iter().map(|dispatch| dispatch.entry).collect();
    assert!(written.contains(&"backward_data") && !written.contains(&"backward_weight"), "{written:?}");
    // Again, nothing is left to take.
    let count = recording.dispatches.len();
    let tensor = |name: &str| recording.named(name).expect("a buffer");
    let (gradient, log_probability) = (tensor(guidance::GRADIENT), tensor(guidance::LOG_PROBABILITY));
    assert_eq!(recording.clone().only(&[gradient, log_probability]).dispatches.len(), count);
    // The value alone needs no backward pass.
    let forward = recording.clone().only(&[log_probability]);
    assert!(forward.dispatches.len() < count && forward.dispatches.iter().all(|d| !d.entry.starts_with("backward")));
    assert!(forward.buffers.iter().all(|buffer| buffer.name != guidance::GRADIENT));
    assert!(recording.only(&[]).buffers.is_empty());
}

#[test]
fn the_gradient_on_the_device_is_the_twins() {
    let context = context();
    let classifier = classifier(true);
    let x = noise(4, 1);
    let weights = classifier.params.initialise(4);
    let mut session = Session::new(&context);
    let recording = guidance::record_gradient(&classifier, source(4), session.choices());
    let plan = session.plan(&Recordings::from_iter([("gradient", recording)])).expect("it fits").take("gradient");
    session.write(guidance::WEIGHTS, &weights);
    session.write("x", &x);
    session.write_labels(guidance::LABELS, [2, 0].into_iter());
    session.run(&plan.expect("it was recorded"), &at(300.0));
    let found = session.read(guidance::GRADIENT).expect("the device works");
    let mut state = state(&classifier, &x);
    guidance::record_gradient(&classifier, source(4), &Default::default()).run_cpu(&mut state, &at(300.0));
    let twin = state.get(guidance::GRADIENT);
    let largest = twin.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    let worst = found.iter().zip(twin).map(|(f, t)| (*f as f64 - t).abs()).fold(0.0, f64::max);
    assert!(worst < 1e-4 * largest, "{worst} of {largest}");
}

#[test]
fn guidance_moves_eps_by_minus_s_sigma_times_the_gradient() {
    let (scale, alpha, sigma) = (2.5, 0.6, 0.8);
    let at = Level { timestep: 300.0, alpha, sigma };
    for prediction in Prediction::ALL {
        let (_, x0_from_out) = prediction.x0(alpha, sigma);
        let (_, eps_from_out) = prediction.eps(alpha, sigma);
        let moved = eps_from_out * guidance::coefficient(scale, at, x0_from_out);
        assert!((moved + scale * sigma).abs() < 1e-12, "{prediction:?}: {moved}");
    }
}

/// Both halves of 2 N outputs, on the device.
#[test]
fn both_halves_are_steered_alike() {
    let context = context();
    let r = &mut diffuse::gpu::Recorder::new();
    let out = r.persistent("out", [4, 8, 8, 1]);
    let steered = guidance::steer(r, out, SHAPE);
    let recording = std::mem::take(r).finish();
    let mut memory = Memory::default();
    let options = PlanOptions { reuse: false, guard: 0 };
    let plan = Plan::new(&context, &recording, &mut memory, options).expect("it fits");
    let (out, gradient) = (noise(4, 1), noise(2, 2));
    memory.write(&context, "out", 0, &out);
    memory.write(&context, guidance::GRADIENT, 0, &gradient);
    plan.run(&context, &at(0.0));
    let found = plan.read(&context, steered).expect("the device works");
    for (i, value) in found.iter().enumerate() {
        let expected = out[i] + 1.5 * gradient[i % gradient.len()];
        assert!((value - expected).abs() < 1e-5, "{i}: {value} for {expected}");
    }
}

fn learn(context: &Context, steps: u64) -> (Classifier, Vec<f32>, Vec<f32>) {
    let classifier = classifier(false);
    let data = dataset(30, CLASSES);
    let options =
        TrainOptions { task: Task::Classify, class_dropout: 0.0, learning_rate: 4e-3, ..options(steps, 16, 1) };
    let mut trainer = trainer(context, &classifier, &data, &options);
    let mut losses = Vec::new();
    for step in 0..steps {
        losses.extend(trainer.step(step).expect("the device works").0.iter().map(|metrics| metrics.loss));
    }
    losses.extend(trainer.finish().expect("the device works").iter().map(|metrics| metrics.loss));
    let weights = trainer.session.read(WEIGHTS).expect("the device works");
    (classifier, weights, losses)
}

#[test]
fn it_learns_is_stored_and_read_back() {
    let context = context();
    let (classifier, weights, losses) = learn(&context, 120);
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    let (first, last) = (mean(&losses[..5]), mean(&losses[110..]));
    println!("loss {first} at first, {last} at last");
    assert!(first > 0.8 && last < 0.6 * first, "{first} at first, {last} at last");
    let place = tempfile::tempdir().expect("a place for files");
    let scheduler = checkpoint::SchedulerConfig::default();
    checkpoint::classifier::save(place.path(), &classifier, &[], &weights, &scheduler).expect("room for files");
    let loaded = checkpoint::classifier::load(place.path()).expect("it is whole");
    assert_eq!(loaded.classifier.config.classes, CLASSES);
    let data = dataset(30, CLASSES);
    let images = images_of(&data, 30);
    let [own, read] = [(&classifier, &weights), (&loaded.classifier, &loaded.weights)].map(|(model, weights)| {
        let observer = Observer::new(Session::new(&context), model, weights).expect("it fits");
        observer.look(&images, 0.0).expect("the device works")
    });
    assert_eq!((own.logits, &own.features), (read.logits.clone(), &read.features));
    assert!(read.accuracy(&data.labels) > 0.9, "{}", read.accuracy(&data.labels));
    assert_eq!((read.features.len(), read.features[0].len()), (30, 12));
    let refused = checkpoint::load(place.path()).map(|_| ()).expect_err("no U-Net");
    assert!(refused.to_string().contains("a classifier: --classifier takes it"), "{refused}");
}

#[test]
fn test_images_are_none_of_the_training_images() {
    let split = data::load_split("digits", &data::Want::default()).expect("the embedded digits");
    assert!(split.held_out);
    assert_eq!((split.train.len(), split.test.len()), (9004, 996));
}
