//! Evaluation: the vector-Jacobian product against differences, the sums of the likelihoods, known sets of samples.

mod common;

use common::{context, dataset, model, options, trainer};
use diffuse::data::Split;
use diffuse::diffusion::{BetaSchedule, Prediction, Schedule, Variance};
use diffuse::evaluate::levels::level_errors;
use diffuse::evaluate::likelihood::{
    BoundOptions, Dequantization, FlowOptions, Setting, flow_likelihood, variational_bound,
};
use diffuse::evaluate::{images_of, quality};
use diffuse::gpu::{Context, CpuState, GRADIENTS, Step, WEIGHTS};
use diffuse::nn::{Classifier, ClassifierConfig, UNet, UNetConfig};
use diffuse::random::Random;
use diffuse::run::{Denoiser, Observer, Session, TrainOptions, denoiser};

const TIMESTEPS: usize = 60;
/// Images of a likelihood, in two batches.
const COUNT: usize = 9;
const SHAPE: [u32; 4] = [2, 8, 8, 1];

/// One channel of four holds numbers.
fn noise(seed: u64) -> Vec<f64> {
    let mut random = Random::new(seed);
    (0..2 * 64 * 4).map(|i| if i % 4 == 0 { random.normal() } else { 0.0 }).collect()
}

fn unet() -> UNet {
    UNet::new(model(3)).expect("a valid model")
}

#[test]
fn the_product_is_the_derivative_along_x() {
    let unet = unet();
    let recording = denoiser::record(&unet, SHAPE, true, &Default::default());
    assert!(recording.buffers.iter().all(|buffer| buffer.name != GRADIENTS));
    let (x, vector) = (noise(1), noise(2));
    let run = |x: Vec<f64>| -> CpuState {
        let mut state = CpuState::default();
        state.set(WEIGHTS, unet.params.initialise(4).into_iter().map(f64::from));
        state.set("x", x);
        state.set("labels", [2.0, 3.0, 0.0, 0.0]);
        state.set(denoiser::VECTOR, vector.clone());
        let mut step = Step::default();
        step.set("timestep", 321.5);
        recording.run_cpu(&mut state, &step);
        state
    };
    let product = run(x.clone()).get(denoiser::PRODUCT).to_vec();
    for seed in 3..6 {
        let direction = noise(seed);
        let moved = |h: f64| -> f64 {
            let state = run(x.iter().zip(&direction).map(|(x, d)| x + h * d).collect());
            state.get(denoiser::OUT).iter().zip(&vector).map(|(out, v)| out * v).sum()
        };
        let central = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
        let found = (4.0 * central(5e-4) - central(1e-3)) / 3.0;
        let claimed: f64 = product.iter().zip(&direction).map(|(p, d)| p * d).sum();
        let size: f64 = product.iter().map(|p| p * p).sum::<f64>().sqrt();
        assert!((claimed - found).abs() < 1e-6 * size, "{claimed} against {found}");
    }
}

#[test]
fn the_product_on_the_device_is_the_twins() {
    let context = context();
    let unet = unet();
    let weights = unet.params.initialise(4);
    let device = Denoiser::new(Session::new(&context), &unet, &weights, [2, 8, 8], true).expect("it fits");
    device.write_labels(&[2, 3]);
    let plain = |values: Vec<f64>| -> Vec<f64> { values.into_iter().step_by(4).collect() };
    let out = device.run(&plain(noise(1)), 321.5).expect("it works");
    let product = device.product(&plain(noise(1)), &plain(noise(2)), 321.5).expect("it works");
    let recording = denoiser::record(&unet, SHAPE, true, &Default::default());
    let mut state = CpuState::default();
    state.set(WEIGHTS, weights.into_iter().map(f64::from));
    // What the device got.
    state.set("x", noise(1).into_iter().map(|value| value as f32 as f64));
    state.set(denoiser::VECTOR, noise(2).into_iter().map(|value| value as f32 as f64));
    state.set("labels", [2.0, 3.0, 0.0, 0.0]);
    let mut step = Step::default();
    step.set("timestep", 321.5);
    recording.run_cpu(&mut state, &step);
    for (found, name) in [(out, denoiser::OUT), (product, denoiser::PRODUCT)] {
        let twin = plain(state.get(name).to_vec());
        let largest = twin.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let worst = found.iter().zip(&twin).map(|(f, t)| (f - t).abs()).fold(0.0, f64::max);
        assert!(found.len() == twin.len() && worst < 1e-4 * largest, "{name}: {worst} of {largest}");
    }
}

/// A network that learnt waves, and the schedule that it learnt on.
fn trained(context: &Context) -> (UNet, Vec<f32>, Schedule) {
    let unet = unet();
    let options = TrainOptions { timesteps: TIMESTEPS, ..options(150, 16, 1) };
    let mut trainer = trainer(context, &unet, &dataset(60, 3), &options);
    for step in 0..150 {
        trainer.step(step).expect("the device works");
    }
    trainer.finish().expect("the device works");
    let weights = trainer.session.read(WEIGHTS).expect("the device works");
    (unet, weights, Schedule::new(BetaSchedule::Cosine, TIMESTEPS).expect("a schedule"))
}

#[test]
fn likelihoods_add_up_and_agree() {
    let context = context();
    let (unet, weights, schedule) = trained(&context);
    let data = dataset(12, 3);
    let network = Denoiser::new(Session::new(&context), &unet, &weights, [7, 8, 8], true).expect("it fits");
    let setting = |variance| Setting { schedule: &schedule, prediction: Prediction::Eps, variance, clip: Some(1.0) };
    let bound = |variance, seed, terms| {
        let options = BoundOptions { terms, seed };
        variational_bound(&network, &data, COUNT, &setting(variance), &options, |_, _| {}).unwrap()
    };
    let small = bound(Variance::FixedSmall, 1, None);
    println!("bound {:?}, L_T {}, L_0 {}", small.total, small.prior, small.decoder);
    assert_eq!((small.images, small.reverse.len()), (COUNT, TIMESTEPS - 1));
    let sum = small.prior + small.decoder + small.reverse.iter().sum::<f64>();
    assert!((sum - small.total.mean).abs() < 1e-9, "{sum} and {}", small.total.mean);
    assert!(small.reverse.iter().all(|term| *term > 0.0) && small.prior > 0.0 && small.decoder > 0.0);
    assert_eq!(bound(Variance::FixedSmall, 1, None).total.mean, small.total.mean);
    assert_ne!(bound(Variance::FixedSmall, 2, None).total.mean, small.total.mean);
    let large = bound(Variance::FixedLarge, 1, None);
    assert!(large.prior == small.prior && large.decoder != small.decoder && large.reverse[0] != small.reverse[0]);
    // Some of the terms say what all of them say, as nearly as they claim.
    let some = bound(Variance::FixedSmall, 1, Some(20));
    let error = some.sampling_error.expect("there are others");
    println!("20 of {} terms: {} +- {error}", TIMESTEPS - 1, some.total.mean);
    assert!(some.reverse.len() == 20 && some.timesteps[..10] == (1..=10).collect::<Vec<_>>());
    assert!(error > 0.0 && (some.total.mean - small.total.mean).abs() < 4.0 * error + 0.05 * small.total.mean);
    assert_eq!(bound(Variance::FixedSmall, 1, Some(TIMESTEPS)).total.mean, small.total.mean);
    let flow = |steps, dequantization| {
        let options = FlowOptions { steps, dequantization, seed: 3 };
        let mut count = 0;
        let found = flow_likelihood(&network, &data, COUNT, &setting(Variance::FixedSmall), &options, |_, of| {
            count += 1;
            assert_eq!(of, 2 * 4 * steps as u64);
        });
        assert_eq!(count, 2 * 4 * steps);
        found.expect("the device works").total.mean
    };
    let (coarse, fine) = (flow(12, Dequantization::Gaussian), flow(24, Dequantization::Gaussian));
    println!("flow {coarse} in 12 steps, {fine} in 24, {} uniform", flow(12, Dequantization::Uniform));
    assert!((coarse - fine).abs() < 0.1, "{coarse} in 12 steps, {fine} in 24");
    assert!(fine < small.total.mean, "the flow's {fine} is below the bound {}", small.total.mean);
}

#[test]
fn levels_split_the_error_of_the_estimate() {
    let context = context();
    let (unet, weights, schedule) = trained(&context);
    let data = dataset(12, 3);
    let network = Denoiser::new(Session::new(&context), &unet, &weights, [8, 8, 8], false).expect("it fits");
    let variance = Variance::FixedSmall;
    let setting = Setting { schedule: &schedule, prediction: Prediction::Eps, variance, clip: None };
    let levels = level_errors(&network, &data, 12, &setting, (6, 1), |_, _| {}).expect("the device works");
    assert_eq!(levels.iter().map(|level| level.timestep).collect::<Vec<_>>(), [0, 11, 23, 35, 47, 59]);
    for level in &levels {
        // x0_hat - x0 = -sigma / alpha (eps_hat - eps).
        let ratio = (schedule.sigma(level.timestep) / schedule.alpha(level.timestep)).powi(2);
        let error = level.low + level.middle + level.high;
        assert!((error - ratio * level.loss).abs() < 1e-4 * error, "{level:?}");
    }
    assert!(levels[0].loss > levels[4].loss, "little noise is hardest to see: {levels:?}");
}

fn classifier() -> (Classifier, Vec<f32>) {
    let unet = UNetConfig { num_class_embeds: None, ..model(1) };
    let classifier = Classifier::new(ClassifierConfig { unet, classes: 3 }).expect("a valid model");
    let weights = classifier.params.initialise(4);
    (classifier, weights)
}

#[test]
fn samples_are_judged() {
    let context = context();
    let (classifier, weights) = classifier();
    let observer = Observer::new(Session::new(&context), &classifier, &weights).expect("it fits");
    let (train, test) = (dataset(60, 3), dataset(90, 3));
    let mut late = test.clone();
    late.images = late.images[60 * 64..].to_vec().into();
    late.labels.drain(..60);
    let split = Split { train, test: late, held_out: false };
    let tests = images_of(&split.test, 30);
    // The test images are as good as the test images.
    let report = quality::judge(&observer, &tests, Some(&split.test.labels), &split, 1).expect("it works");
    let figures = |quality: &quality::Quality| {
        [quality.frechet_distance, quality.kernel_distance, quality.precision, quality.recall].map(|m| m.value)
    };
    assert_eq!(figures(&report.samples), figures(&report.floor));
    assert_eq!(report.samples.accuracy, report.floor.accuracy);
    assert_eq!(report.nearest.quantiles, report.yardstick.quantiles);
    // Training images are found out.
    let copies = images_of(&split.train, 30);
    let report = quality::judge(&observer, &copies, None, &split, 1).expect("it works");
    assert_eq!((report.nearest.quantiles, report.nearest.share_below_yardstick), ([0.0; 3], 1.0));
    assert!(report.nearest.neighbours.iter().enumerate().all(|(i, (neighbour, _))| i == *neighbour));
    let pairs = quality::nearest_pairs(&copies, &split.train, &report.nearest, 4);
    assert_eq!(pairs.count, 8);
    assert!(pairs.values.chunks_exact(128).all(|pair| pair[..64] == pair[64..]));
    // Noise is far from everything, and a copy of one image covers nothing else.
    let mut random = Random::new(1);
    let mut static_noise = tests.clone();
    static_noise.values.iter_mut().for_each(|value| *value = random.normal() as f32);
    let noisy = quality::judge(&observer, &static_noise, None, &split, 1).expect("it works");
    assert!(noisy.samples.frechet_distance.value > 3.0 * noisy.floor.frechet_distance.value, "{noisy:?}");
    assert!(noisy.samples.precision.value < 0.5 * noisy.floor.precision.value, "{noisy:?}");
    let mut one = tests.clone();
    one.values = tests.values[..64].repeat(30);
    let collapsed = quality::judge(&observer, &one, None, &split, 1).expect("it works");
    assert!(collapsed.samples.recall.value < 0.2, "{collapsed:?}");
    let few = images_of(&split.test, 3);
    assert!(
        quality::judge(&observer, &few, None, &split, 1).is_err_and(|error| error.to_string().contains("at least 4"))
    );
}
