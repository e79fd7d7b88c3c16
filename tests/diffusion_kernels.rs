//! What the random kernels draw, on the device: distributions, the shuffle, flips, class dropout; and the sampler's step
//! against the host's mathematics. Bounds are at least five standard deviations of what they bound; the seeds are fixed.

use diffuse::cpu::lib::{normal4, philox};
use diffuse::diffusion::{BetaSchedule, Churn, Prediction, SLOTS, Sampler, SamplerKind, Schedule};
use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Step, Tensor};
use diffuse::ops::diffusion::{self, Batch, Noise, Records};
use diffuse::run::set_coefficients;

/// A data set on the device with what makes batches of it.
struct Loader {
    context: Context,
    plan: Plan,
    batch: Batch,
    step: Step,
}

/// Rows of the schedule: alpha, sigma, target_x0, target_eps.
type Level = [f32; 4];

const ONLY_IMAGE: Level = [1.0, 0.0, 1.0, 0.0];
const ONLY_NOISE: Level = [0.0, 1.0, 0.0, 1.0];

/// Image `i` of 0..images has label i, so that it is known again.
fn loader(
    images: u32,
    shape: [u32; 3],
    batch: u32,
    level: Level,
    timesteps: u32,
    change: impl Fn(&mut Noise),
) -> Loader {
    let context = Context::new(None).expect("GPU tests need an adapter");
    let bytes = shape.iter().product::<u32>();
    let pixels: Vec<u8> = (0..images * bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let labels: Vec<u32> = (0..images).collect();
    let words = Records::pack(&pixels, &labels);
    let mut r = Recorder::new();
    let records = Records::bind(&mut r, "records", images, shape);
    let schedule = r.persistent("schedule", [diffusion::schedule_rows(timesteps), 1, 1, 8]);
    let mut noise =
        Noise { batch, alone: false, timesteps, schedule, flip: false, classes: 60_000, class_dropout: 0.0 };
    change(&mut noise);
    let batch = diffusion::noise(&mut r, &records, &noise);
    let mut memory = Memory::default();
    let plan = Plan::new(&context, &r.finish(), &mut memory, PlanOptions { reuse: false, guard: 256 }).expect("a plan");
    memory.write(&context, "records", 0, &words);
    let [alpha, sigma, target_x0, target_eps] = level;
    let mut rows = [alpha, sigma, target_x0, target_eps, 1.0, 0.0, 0.0, 0.0].repeat(timesteps as usize);
    rows.extend([(1 << 24) as f32, 0.0].repeat(timesteps.next_multiple_of(4) as usize));
    plan.write(&context, schedule, &rows);
    let mut step = Step::default();
    step.set("seed", 11.0);
    Loader { context, plan, batch, step }
}

impl Loader {
    /// Runs the step and reads `tensor` without its padding.
    fn read(&self, tensor: Tensor) -> Vec<f64> {
        let values = self.plan.read(&self.context, tensor).expect("the device works");
        let stride = tensor.channels4() as usize * 4;
        let rows = values.chunks_exact(stride).flat_map(|row| &row[..tensor.channels() as usize]);
        rows.map(|value| *value as f64).collect()
    }

    fn run(&self) {
        self.plan.run(&self.context, &self.step);
    }

    fn labels(&self) -> Vec<u32> {
        let values = self.plan.read(&self.context, self.batch.label).expect("the device works");
        values.iter().take(self.batch.label.channels() as usize).map(|value| value.to_bits()).collect()
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// Mean of x[i] x[i + distance].
fn correlation(x: &[f64], distance: usize) -> f64 {
    mean(x.iter().zip(&x[distance..]).map(|(a, b)| a * b))
}

#[test]
fn noise_is_standard_normal_and_independent() {
    let mut loader = loader(3, [32, 32, 3], 64, ONLY_NOISE, 10, |_| ());
    loader.run();
    let eps = loader.read(loader.batch.x);
    let count = eps.len() as f64;
    // Standard deviation of a mean of `count` values of variance `variance`.
    let bound = |variance: f64| 5.0 * (variance / count).sqrt();
    let moment = |power: i32| mean(eps.iter().map(|e| e.powi(power)));
    assert!(moment(1).abs() < bound(1.0), "mean {}", moment(1));
    assert!((moment(2) - 1.0).abs() < bound(2.0), "variance {}", moment(2));
    assert!(moment(3).abs() < bound(15.0), "third moment {}", moment(3));
    assert!((moment(4) - 3.0).abs() < bound(96.0), "fourth moment {}", moment(4));
    for (limit, expected) in [(0.1, 0.920_344), (1.0, 0.317_311), (2.0, 0.045_500), (3.0, 0.002_700), (4.0, 6.334e-5)] {
        let tail = eps.iter().filter(|e| e.abs() > limit).count() as f64 / count;
        assert!((tail - expected).abs() < bound(expected * (1.0 - expected)), "beyond {limit}: {tail}");
    }
    assert!(eps.iter().all(|e| e.abs() < 6.0));
    // Neighbours, the same channel of neighbours, rows, images.
    for distance in [1, 2, 3, 4, 6, 96, 3072, 2 * 3072, 32 * 3072] {
        let found = correlation(&eps, distance);
        assert!(found.abs() < 5.0 / (count - distance as f64).sqrt(), "distance {distance}: {found}");
    }
    for (name, value) in [("counter", 1.0), ("counter", 2.0), ("seed", 12.0)] {
        loader.step.set(name, value);
        loader.run();
        let other = loader.read(loader.batch.x);
        let found = mean(eps.iter().zip(&other).map(|(a, b)| a * b));
        assert!(found.abs() < bound(1.0), "after {name} = {value}: {found}");
    }
}

#[test]
fn normal_numbers_are_exact_to_f32() {
    let loader = loader(3, [32, 32, 4], 64, ONLY_NOISE, 10, |_| ());
    loader.run();
    let eps = loader.read(loader.batch.x);
    let mut worst = 0.0f64;
    for (quad, computed) in eps.chunks_exact(4).enumerate() {
        // 1024 quadruples an image; EPS is purpose 3.
        let expected = normal4(philox([quad as u32 % 1024, quad as u32 / 1024, 0, 0], [11, 3]));
        for (computed, expected) in computed.iter().zip(expected) {
            worst = worst.max((computed - expected).abs());
        }
    }
    // 5e-7 where square root and division are exact.
    assert!(worst < 1e-6, "{worst:e}");
}

#[test]
fn timesteps_are_uniform() {
    for timesteps in [10, 1000] {
        let mut loader = loader(3, [1, 1, 1], 4096, ONLY_NOISE, timesteps, |_| ());
        let mut counts = vec![0.0f64; timesteps as usize];
        let mut previous = Vec::new();
        for counter in 0..10 {
            loader.step.set("counter", counter as f64);
            loader.run();
            let drawn = loader.read(loader.batch.timestep);
            drawn.iter().for_each(|t| counts[*t as usize] += 1.0);
            assert_ne!(drawn, previous);
            previous = drawn;
        }
        let expected = 40_960.0 / timesteps as f64;
        let chi_square: f64 = counts.iter().map(|count| (count - expected).powi(2) / expected).sum();
        let freedom = timesteps as f64 - 1.0;
        let deviations = (chi_square - freedom) / (2.0 * freedom).sqrt();
        assert!(deviations.abs() < 5.0, "T = {timesteps}: {deviations} standard deviations");
    }
}

#[test]
fn each_image_comes_once_an_epoch() {
    for (images, batch) in [(1, 3), (10, 4), (37, 37), (300, 64), (1000, 128)] {
        let mut loader = loader(images, [1, 2, 1], batch, ONLY_IMAGE, 1, |_| ());
        let mut seen = Vec::new();
        while seen.len() < 3 * images as usize {
            let position = seen.len() as u32;
            loader.step.set("epoch", (position / images) as f64).set("cursor", (position % images) as f64);
            loader.run();
            seen.extend(loader.labels());
        }
        let epochs: Vec<&[u32]> = seen.chunks_exact(images as usize).collect();
        for epoch in &epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..images).collect::<Vec<_>>());
        }
        if images >= 10 {
            assert_ne!(epochs[0], epochs[1]);
            assert_ne!(epochs[1], epochs[2]);
        }
        loader.step.set("seed", 12.0).set("epoch", 0.0).set("cursor", 0.0);
        loader.run();
        assert!(images < 10 || loader.labels()[..] != seen[..batch as usize]);
    }
}

#[test]
fn pixels_come_normalized_and_half_of_them_flipped() {
    let (images, [height, width, channels], batch) = (50u32, [3u32, 4, 3], 4000u32);
    let flipping = loader(images, [height, width, channels], batch, ONLY_IMAGE, 5, |noise| noise.flip = true);
    flipping.run();
    let (x, labels) = (flipping.read(flipping.batch.x), flipping.labels());
    let size = (height * width * channels) as usize;
    let mut flipped = 0;
    for (image, label) in x.chunks_exact(size).zip(&labels) {
        let pixel = |h: u32, w: u32, c: u32| {
            let index = ((label * height + h) * width + w) * channels + c;
            (index.wrapping_mul(2_654_435_761) >> 13) as u8 as f64 / 127.5 - 1.0
        };
        let is = |mirror: bool| {
            let column = |w: u32| if mirror { width - 1 - w } else { w };
            image.iter().enumerate().all(|(i, value)| {
                let i = i as u32;
                let source = pixel(i / channels / width, column(i / channels % width), i % channels);
                (value - source).abs() < 1e-6
            })
        };
        assert!(is(true) != is(false), "image {label}");
        flipped += is(true) as u32;
    }
    let bound = 5.0 * (batch as f64 / 4.0).sqrt();
    assert!((flipped as f64 - batch as f64 / 2.0).abs() < bound, "{flipped} of {batch} flipped");
    assert_eq!(flipping.read(flipping.batch.target), x);
}

#[test]
fn classes_are_dropped_as_often_as_asked() {
    for rate in [0.0, 0.1, 0.5, 1.0] {
        let loader = loader(50, [1, 1, 1], 8000, ONLY_IMAGE, 5, |noise| noise.class_dropout = rate);
        loader.run();
        let labels = loader.labels();
        let dropped = labels.iter().filter(|label| **label == 60_000).count() as f64;
        let (rate, count) = (rate as f64, labels.len() as f64);
        let bound = 5.0 * (rate * (1.0 - rate) * count).sqrt();
        assert!((dropped - rate * count).abs() <= bound, "{dropped} of {count} at {rate}");
    }
}

#[test]
fn timestep_flip_and_dropout_are_independent() {
    let loader = loader(2, [1, 2, 1], 20_000, ONLY_IMAGE, 1000, |noise| {
        noise.flip = true;
        noise.class_dropout = 0.5;
    });
    loader.run();
    let first = loader.read(loader.batch.x).chunks_exact(2).map(|pixels| pixels[0]).collect::<Vec<_>>();
    let t: Vec<f64> = loader.read(loader.batch.timestep).iter().map(|t| (t - 499.5) / 288.675).collect();
    let dropped: Vec<f64> = loader.labels().iter().map(|label| if *label == 60_000 { 1.0 } else { -1.0 }).collect();
    let middle = mean(first.iter().copied());
    let spread = mean(first.iter().map(|value| (value - middle).powi(2))).sqrt();
    let pixel: Vec<f64> = first.iter().map(|value| (value - middle) / spread).collect();
    for (a, b) in [(&t, &dropped), (&t, &pixel), (&dropped, &pixel)] {
        let found = mean(a.iter().zip(b).map(|(a, b)| a * b));
        assert!(found.abs() < 5.0 / (t.len() as f64).sqrt(), "{found}");
    }
}

/// A sampler on the device: x, the network's output and two slots of the past, without guidance.
struct Sampling {
    context: Context,
    plan: Plan,
    x: Tensor,
    out: Tensor,
    previous: Tensor,
}

fn sampling(samples: u32, begin: bool) -> Sampling {
    let context = Context::new(None).expect("GPU tests need an adapter");
    let mut r = Recorder::new();
    let [x, out] = ["x", "out"].map(|name| r.persistent(name, [samples, 3, 5, 5]));
    let previous = r.persistent("previous", [2 * samples, 3, 5, 5]);
    if begin {
        diffusion::start(&mut r, x, previous, false);
    } else {
        diffusion::denoise(&mut r, x, out, previous, false);
    }
    let plan = Plan::new(&context, &r.finish(), &mut Memory::default(), PlanOptions::default()).expect("a plan");
    Sampling { context, plan, x, out, previous }
}

impl Sampling {
    fn read(&self, tensor: Tensor) -> Vec<f32> {
        self.plan.read(&self.context, tensor).expect("the device works")
    }

    /// Overwrites a tensor with waves, zero in the padding.
    fn write(&self, tensor: Tensor, frequency: f32) -> Vec<f32> {
        let wave = |i: u64| if i % 8 < 5 { (i as f32 * frequency).sin() } else { 0.0 };
        let values: Vec<f32> = (0..tensor.elements()).map(wave).collect();
        self.plan.write(&self.context, tensor, &values);
        values
    }
}

#[test]
fn a_step_is_what_the_sampler_says() {
    let schedule = Schedule::new(BetaSchedule::Cosine, 1000).expect("a schedule");
    let device = sampling(2, false);
    let samplers = [
        Sampler::ddpm(20),
        Sampler::ddim(20, 0.7),
        Sampler { prediction: Prediction::V, ..Sampler::ddpm(20) },
        Sampler::new(SamplerKind::Heun { churn: Churn { amount: 3.0, ..Churn::default() } }, 10),
        Sampler::new(SamplerKind::UniPc, 20),
    ];
    for sampler in samplers {
        for (counter, plan) in sampler.plan(&schedule).expect("a plan").iter().enumerate() {
            let mut plan = *plan;
            if plan.previous == [0.0; SLOTS] {
                // No sampler of a single step uses them.
                (plan.previous[0], plan.previous[1]) = (0.3, -0.2);
                plan.keep_x = (counter % 2 == 0).then_some(1);
            }
            let [x, out, previous] = [(device.x, 0.7), (device.out, 1.3), (device.previous, 2.9)]
                .map(|(tensor, frequency)| device.write(tensor, frequency));
            let mut step = Step::default();
            set_coefficients(&mut step, &plan);
            step.set("seed", 5.0).set("counter", counter as f64).set("sample", 40.0);
            device.plan.run(&device.context, &step);
            let [next, kept] = [device.x, device.previous].map(|tensor| device.read(tensor));
            for i in (0..next.len()).filter(|i| i % 8 < 5) {
                // 30 quadruples a sample; DENOISE is purpose 5.
                let (quad, sample) = (i as u32 / 4 % 30, 40 + i as u32 / 120);
                let z = normal4(philox([quad, sample, counter as u32, 0], [5, 5]))[i % 4];
                let mut slots = [previous[i] as f64, previous[i + 240] as f64];
                let (expected, _) = plan.apply(x[i] as f64, out[i] as f64, &mut slots, z);
                // Multistep samplers take large multiples of what nearly cancels.
                let largest = plan.previous.iter().chain([&plan.x, &plan.x0]).fold(1.0, |a: f64, b| a.max(b.abs()));
                let error = (next[i] as f64 - expected).abs();
                assert!(error < 2e-5 * largest, "{sampler:?}, step {counter}: {} for {expected}", next[i]);
                for (slot, expected) in slots.iter().enumerate() {
                    let kept = kept[i + 240 * slot] as f64;
                    assert!((kept - expected).abs() < 2e-5, "{sampler:?}, step {counter}: {kept} for {expected}");
                }
            }
        }
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    for begin in [true, false] {
        let (four, two) = (sampling(4, begin), sampling(2, begin));
        let mut step = Step::default();
        step.set("seed", 3.0).set("counter", 6.0).set("noise", 1.0).set("sample", 8.0);
        four.plan.run(&four.context, &step);
        step.set("sample", 10.0);
        two.plan.run(&two.context, &step);
        let (all, last) = (four.read(four.x), two.read(two.x));
        assert_eq!(all[2 * 120..], last);
        assert_ne!(all[..2 * 120], last);
        assert_ne!(all[..120], all[120..240]);
    }
}

#[test]
fn a_broken_network_shows_in_the_samples() {
    let device = sampling(1, false);
    device.plan.write(&device.context, device.out, &[f32::NAN; 120]);
    let mut step = Step::default();
    step.set("x0", 1.0).set("x0_from_out", 1.0).set("clip", 1.0);
    device.plan.run(&device.context, &step);
    assert!(device.read(device.x).iter().all(|value| value.is_nan()));
}
