//! A network that learns the variance of its reverse steps: loss, step and bound on the device against the host's
//! mathematics, and whether learning it pays.

mod common;

use common::{context, dataset, model, options, trainer};
use diffuse::cpu::lib::{normal4, philox};
use diffuse::diffusion::likelihood::{decoder_nats, reverse_kl};
use diffuse::diffusion::{BetaSchedule, LossWeight, Prediction, Sampler, SamplerKind, Schedule, Variance};
use diffuse::evaluate::likelihood::{BoundOptions, Setting, variational_bound};
use diffuse::gpu::{Memory, Plan, PlanOptions, Recorder, Step, Tensor, WEIGHTS};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ops::diffusion::{self, Batch};
use diffuse::random::Random;
use diffuse::run::{Denoiser, Session, TrainOptions, set_coefficients};

const PIXELS: usize = 40;
const CHANNELS: usize = 3;
const BOUND: f64 = 0.7;

/// A value for each element of `timesteps` images.
struct Pairs {
    x: Vec<f64>,
    x0: Vec<f64>,
    target: Vec<f64>,
    mean: Vec<f64>,
    v: Vec<f64>,
}

fn pairs(schedule: &Schedule, prediction: Prediction) -> Pairs {
    let mut random = Random::new(3);
    let mut pairs = Pairs { x: vec![], x0: vec![], target: vec![], mean: vec![], v: vec![] };
    for t in 0..schedule.timesteps() {
        let (alpha, sigma) = (schedule.alpha(t), schedule.sigma(t));
        let (a, b) = prediction.target(alpha, sigma);
        // An error of the output that is 0.3 of eps: the decoder gives nearly nothing to what is far off.
        let error = 0.3 / prediction.eps(alpha, sigma).1.abs();
        for i in 0..PIXELS * CHANNELS {
            // Every third at an end of the range, whose bins are open.
            let byte = if i % 3 == 0 { 255.0 * (i % 2) as f64 } else { (random.bits() % 256) as f64 };
            let (x0, eps) = (byte / 127.5 - 1.0, random.normal());
            pairs.x.push(alpha * x0 + sigma * eps);
            pairs.x0.push(x0);
            pairs.target.push(a * x0 + b * eps);
            pairs.mean.push(a * x0 + b * eps + error * random.normal());
            pairs.v.push(1.5 * random.normal());
        }
    }
    pairs
}

/// Rows of `channels` values from each list in turn, each row padded to a multiple of 4.
fn rows(lists: &[&[f64]], channels: usize) -> Vec<f32> {
    let width = (lists.len() * channels).next_multiple_of(4);
    let row = |i: usize| {
        let mut row: Vec<f32> =
            lists.iter().flat_map(|list| &list[i * channels..][..channels]).map(|x| *x as f32).collect();
        row.resize(width, 0.0);
        row
    };
    (0..lists[0].len() / channels).flat_map(row).collect()
}

/// L_hybrid of every timestep at once: the sum of both parts, and the gradients by mean and variance.
#[test]
fn the_loss_is_the_weighted_error_and_the_bound() {
    let context = context();
    let cases = [
        (BetaSchedule::HO, 9, Prediction::Eps, LossWeight::Simple),
        (BetaSchedule::HO, 1000, Prediction::X0, LossWeight::MIN_SNR),
        (BetaSchedule::Cosine, 9, Prediction::V, LossWeight::Simple),
        (BetaSchedule::Cosine, 1, Prediction::Eps, LossWeight::Simple),
    ];
    for (betas, timesteps, prediction, weight) in cases {
        let schedule = Schedule::new(betas, timesteps).expect("a schedule");
        let pairs = pairs(&schedule, prediction);
        let table: Vec<f32> = schedule.training_table(prediction, weight).into_iter().flatten().collect();
        let (n, size) = (timesteps as u32, PIXELS * CHANNELS);
        let shape = |channels: usize| [n, 5, 8, channels as u32];
        let mut r = Recorder::new();
        let [x, target, out] =
            [("x", 1), ("target", 1), ("out", 2)].map(|(name, times)| r.persistent(name, shape(times * CHANNELS)));
        let levels = r.persistent("schedule", [n, 1, 1, 8]);
        let times = r.persistent("timestep", [1, 1, 1, n]);
        let scale = r.persistent("scale", [1, 1, 1, 1]);
        let total = r.persistent("total", [1, 1, 1, 1]);
        let batch = Batch { x, target, timestep: times, timesteps: n, schedule: levels, label: times, weight: times };
        let loss = diffusion::hybrid_loss(&mut r, out, &batch, BOUND as f32, scale);
        loss.total(&mut r, total);
        let d_out = loss.gradient;
        let mut memory = Memory::default();
        let options = PlanOptions { reuse: false, guard: 256 };
        let plan = Plan::new(&context, &r.finish(), &mut memory, options).expect("a plan");
        let write = |tensor: Tensor, values: &[f32]| plan.write(&context, tensor, values);
        write(x, &rows(&[&pairs.x], CHANNELS));
        write(target, &rows(&[&pairs.target], CHANNELS));
        write(out, &rows(&[&pairs.mean, &pairs.v], CHANNELS));
        write(levels, &table);
        let mut numbers: Vec<f32> = (0..n).map(|t| t as f32).collect();
        numbers.resize(times.elements() as usize, 0.0);
        write(times, &numbers);
        write(scale, &[1.0, 0.0, 0.0, 0.0]);
        plan.run(&context, &Step::default());
        let read = |tensor: Tensor| plan.read(&context, tensor).expect("the device works");
        let (found, gradient) = (read(total)[0] as f64, read(d_out));
        let count = (timesteps * size) as f64;
        let mut wanted = 0.0;
        for t in 0..timesteps {
            let level = schedule.level(t);
            let transition = schedule.transition(t, t.checked_sub(1));
            let (p, q) = prediction.x0(level.alpha, level.sigma);
            for i in t * size..(t + 1) * size {
                let x0_hat = p * pairs.x[i] + q * pairs.mean[i];
                let bound = |v: f64| {
                    let variance = schedule.learned_variance(t).log_variance(v).exp();
                    match t {
                        0 => decoder_nats(pairs.x0[i], x0_hat, variance.sqrt() / level.alpha),
                        _ => reverse_kl(&transition, variance, pairs.x0[i], x0_hat),
                    }
                };
                let (row, c) = (i / CHANNELS, i % CHANNELS);
                let error = pairs.mean[i] - pairs.target[i];
                let weight = weight.at(&schedule, prediction, t);
                wanted += (weight * error * error + BOUND * bound(pairs.v[i])) / count;
                let by_mean = 2.0 * weight * error / count;
                let by_v = BOUND * (bound(pairs.v[i] + 1e-5) - bound(pairs.v[i] - 1e-5)) / 2e-5 / count;
                for (channel, wanted) in [(c, by_mean), (CHANNELS + c, by_v)] {
                    let found = gradient[row * 8 + channel] as f64;
                    let close = (found - wanted).abs() < 1e-3 * wanted.abs() + 1e-4 / count;
                    assert!(close, "{betas:?} of {timesteps}, t = {t}, element {i}: {found} for {wanted}");
                }
            }
        }
        assert!((found - wanted).abs() < 1e-5 * wanted, "{betas:?} of {timesteps}: {found} for {wanted}");
    }
}

/// Channels of x that fill a quadruple or not, with guidance and without; the first half's variance counts.
#[test]
fn the_step_draws_noise_as_wide_as_the_network_says() {
    let context = context();
    let schedule = Schedule::new(BetaSchedule::Cosine, 1000).expect("a schedule");
    let kind = SamplerKind::Ddpm { variance: Variance::Learned };
    let plan_of_sampler = Sampler { kind, ..Sampler::ddpm(10) }.plan(&schedule).expect("a plan");
    for (channels, guided) in [(1, false), (3, true), (4, false), (6, true)] {
        let (samples, rows_of_image) = (2, 6);
        let n = if guided { 2 * samples } else { samples };
        let mut r = Recorder::new();
        let x = r.persistent("x", [n as u32, 2, 3, channels as u32]);
        let out = r.persistent("out", [n as u32, 2, 3, 2 * channels as u32]);
        let previous = r.persistent("previous", [samples as u32, 2, 3, channels as u32]);
        diffusion::denoise(&mut r, x, out, previous, guided);
        let plan = Plan::new(&context, &r.finish(), &mut Memory::default(), PlanOptions::default()).expect("a plan");
        let mut random = Random::new(1);
        let mut values = |count: usize| -> Vec<f64> { (0..count * channels).map(|_| random.normal()).collect() };
        let count = samples * rows_of_image;
        let [start, mean, v] = [count, n * rows_of_image, n * rows_of_image].map(&mut values);
        let doubled = if guided { [start.clone(), start.clone()].concat() } else { start.clone() };
        for (counter, step) in plan_of_sampler.iter().enumerate() {
            plan.write(&context, x, &rows(&[&doubled], channels));
            plan.write(&context, out, &rows(&[&mean, &v], channels));
            let mut values = Step::default();
            values.set("seed", 5.0).set("counter", counter as f64).set("guidance", 1.5);
            set_coefficients(&mut values, step);
            plan.run(&context, &values);
            let found = plan.read(&context, x).expect("the device works");
            for i in 0..count * channels {
                let (row, c) = (i / channels, i % channels);
                let quads = channels.div_ceil(4);
                let quad = row % rows_of_image * quads + c / 4;
                // DENOISE is purpose 5.
                let z = normal4(philox([quad as u32, (row / rows_of_image) as u32, counter as u32, 0], [5, 5]))[c % 4];
                let half = if guided { mean[count * channels + i] } else { mean[i] };
                let o = half + 1.5 * (mean[i] - half);
                let (wanted, _) = step.apply(start[i], o, &mut [0.0], step.spread(v[i]) * z);
                let found = found[row * 4 * quads + c] as f64;
                assert!((found - wanted).abs() < 3e-5, "{channels} channels, step {counter}: {found} for {wanted}");
            }
        }
    }
}

/// The range's ends are the fixed variances, and where the network is to choose it learns to gain by it.
#[test]
fn a_learned_variance_gives_a_lower_bound_than_a_fixed_one() {
    let context = context();
    let config = UNetConfig { out_channels: 2, ..model(3) };
    let options = TrainOptions { timesteps: 60, model: config.clone(), ..options(150, 16, 1) };
    assert_eq!(options.scheduler().variance_type, "learned_range");
    let unet = UNet::new(config).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &dataset(60, 3), &options);
    for step in 0..150 {
        trainer.step(step).expect("the device works");
    }
    trainer.finish().expect("the device works");
    let weights = trainer.session.read(WEIGHTS).expect("the device works");
    let schedule = Schedule::new(BetaSchedule::Cosine, 60).expect("a schedule");
    let data = dataset(12, 3);
    let bound = |weights: &[f32], variance| {
        let network = Denoiser::new(Session::new(&context), &unet, weights, [12, 8, 8], false).expect("it fits");
        let setting = Setting { schedule: &schedule, prediction: Prediction::Eps, variance, clip: Some(1.0) };
        variational_bound(&network, &data, 12, &setting, &BoundOptions { terms: None, seed: 1 }, |_, _| {})
            .expect("the device works")
            .total
            .mean
    };
    let [small, large, learned] = Variance::ALL.map(|variance| bound(&weights, variance));
    println!("bits per dimension: {small} with beta-tilde, {large} with beta, {learned} learned");
    assert!(learned < small && learned < large);
    let offset = |name: &str| {
        let found = unet.params.all.iter().find(|parameter| parameter.name == name);
        found.expect("the last convolution").weight.offset as usize
    };
    let (kernel, bias) = (offset("conv_out.weight"), offset("conv_out.bias"));
    for (v, wanted) in [(-1.0, small), (1.0, large)] {
        let mut weights = weights.clone();
        // [R, S, C, K], K padded to 4: the second output gets nothing of the input.
        for row in weights[kernel..][..9 * 8 * 4].chunks_exact_mut(4) {
            row[1] = 0.0;
        }
        weights[bias + 1] = v;
        let found = bound(&weights, Variance::Learned);
        assert!((found - wanted).abs() < 1e-5, "{found} where v is {v}, {wanted} with the fixed variance");
    }
}
