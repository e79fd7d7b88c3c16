//! Steps of a trainer, replayed with and without images.

use diffuse::diffusion::{Prediction, ScheduleKind, TimestepDraw};
use diffuse::gpu::{Context, CpuState, GRADIENTS, Memory, Plan, PlanOptions, Precision, Recorder, Step, WEIGHTS};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ops::diffusion::Records;
use diffuse::ops::{adamw, private as kernel, reduce};
use diffuse::random::Random;
use diffuse::run::lottery::{Lottery, Place, draw_places, learnt};
use diffuse::run::private::{Mechanism, SUM};
use diffuse::run::trainer::{DATA, DataShape, METRICS, record, step_values};
use diffuse::run::{Session, TrainOptions, Trainer};
use diffuse::secret::Secret;

use super::common::{context, dataset, trainer};
use super::{model, params, private};

/// Images with keys of their own in the first of `places` places.
fn places(images: &[u32], places: u32) -> Vec<Place> {
    let place = |index: usize| match images.get(index) {
        Some(image) => Place { image: *image, is_taken: true, key: [77 + image, 1000 * image + 3] },
        None => Place { image: 0, is_taken: false, key: [5, index as u32] },
    };
    (0..places as usize).map(place).collect()
}

/// A trainer that is brought back to its first weights for each sum.
struct Bench<'a> {
    trainer: Trainer<'a>,
    weights: Vec<f32>,
    places: u32,
    radius: f64,
}

impl<'a> Bench<'a> {
    fn new(context: &'a Context, options: &TrainOptions) -> Bench<'a> {
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let trainer = trainer(context, &unet, &dataset(9, 3), options);
        let weights = unet.params.initialise(options.seed);
        let units = Mechanism::new(options, 9, &unet.params).expect("a mechanism").units;
        Bench { trainer, weights, places: options.passes(), radius: units.radius }
    }

    /// What a step with these places leaves in the sum, without noise.
    fn sum_of(&mut self, places: Vec<Place>) -> Vec<i64> {
        let elements = self.weights.len();
        self.trainer.write_weights(&self.weights);
        self.trainer.lottery().expect("it is private").force(0, places, vec![0; elements]);
        self.trainer.step(0).expect("the device works");
        self.trainer.finish().expect("the device works");
        words(&self.trainer.session.read(SUM).expect("the device works"))
    }

    fn sum(&mut self, images: &[u32]) -> Vec<i64> {
        self.sum_of(places(images, self.places))
    }
}

fn words(bits: &[f32]) -> Vec<i64> {
    bits.iter().map(|word| i64::from(word.to_bits() as i32)).collect()
}

fn difference(a: &[i64], b: &[i64]) -> Vec<i64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// Exactly.
fn square(values: &[i64]) -> i128 {
    values.iter().map(|value| i128::from(*value).pow(2)).sum()
}

fn norm(values: &[i64]) -> f64 {
    (square(values) as f64).sqrt()
}

/// The networks and targets that are trained: each has a loss and a backward pass of its own.
fn families() -> Vec<TrainOptions> {
    let of = |target, noise_schedule| TrainOptions { target, noise_schedule, ..TrainOptions::default() };
    vec![
        of(Prediction::Eps, ScheduleKind::COSINE),
        of(Prediction::V, ScheduleKind::COSINE),
        of(Prediction::X0, ScheduleKind::COSINE),
        of(Prediction::Edm, ScheduleKind::EDM),
        of(Prediction::Flow, ScheduleKind::Flow),
    ]
}

#[test]
fn one_image_changes_the_sum_by_at_most_the_clipping_norm() {
    let context = context();
    let usual = private(4, 2, 1e-3);
    let mut cases: Vec<TrainOptions> = Vec::new();
    for TrainOptions { target, noise_schedule, .. } in families() {
        cases.push(TrainOptions { target, noise_schedule, ..usual.clone() });
    }
    cases.push(private(4, 1, 1e-2));
    cases.push(TrainOptions { timestep_draw: TimestepDraw::HIGH, ..private(4, 8, 1e-3) });
    cases.push(TrainOptions { model: UNetConfig { out_channels: 2, ..model(3) }, ..usual.clone() });
    cases.push(TrainOptions { precision: Precision::F16, ..usual.clone() });
    cases.push(TrainOptions { recompute: true, ..usual });
    for (index, options) in cases.iter().enumerate() {
        let mut bench = Bench::new(&context, options);
        let what = format!("{:?} {:?} {}", options.target, options.precision, options.rows());
        // At the padding, the last image of the data among them; the first, and then the last, is left out.
        let images = [0, 3, 4, 8];
        let all = bench.sum(&images);
        for (image, others) in [(0, &images[1..]), (8, &images[..3])] {
            let change = difference(&all, &bench.sum(others));
            assert!(norm(&change) <= bench.radius, "{what}: {} of {}", norm(&change), bench.radius);
            // It was clipped, and what was clipped is no shorter than it must be.
            assert!(norm(&change) > 0.99 * bench.radius, "{what}: {} of {}", norm(&change), bench.radius);
            assert_eq!(change, bench.sum(&[image]), "{what}: not what image {image} adds alone");
        }
        if index == 0 {
            assert_eq!(square(&bench.sum(&[])), 0, "nobody joined");
            // Where an image stands is nothing: its key goes with it.
            assert_eq!(all, bench.sum(&[8, 4, 3, 0]));
        }
    }
}

#[test]
fn an_image_whose_gradient_is_not_finite_counts_for_nothing() {
    let context = context();
    let options = TrainOptions { class_dropout: 0.0, ..private(4, 2, 1e-3) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut bench = Bench::new(&context, &options);
    // Class 2 alone: images 2, 5, 8.
    let table = unet.params.all.iter().find(|parameter| parameter.name.starts_with("class_embedding")).expect("one");
    for bad in [f32::NAN, f32::INFINITY] {
        let mut values = table.unpack(&bench.weights);
        let width = values.len() / 4;
        values[2 * width..3 * width].fill(bad);
        table.pack(&values, &mut bench.weights);
        let with = bench.sum(&[1, 2, 3, 8]);
        assert!(square(&with) > 0);
        assert_eq!(with, bench.sum(&[1, 3]), "{bad}");
        // No step is stopped or skipped: what follows is finite.
        let metrics = bench.trainer.step(1).and_then(|_| bench.trainer.finish()).expect("nothing breaks");
        assert!(metrics.iter().all(|metrics| metrics.gradient_norm.is_finite()), "{metrics:?}");
    }
}

#[test]
fn gradients_of_one_image_are_those_of_the_twins() {
    let context = context();
    // So large a clipping norm that nothing is clipped.
    for (draws, outputs) in [(1, 1), (3, 2)] {
        let options =
            TrainOptions { model: UNetConfig { out_channels: outputs, ..model(3) }, ..private(2, draws, 1e3) };
        let mut bench = Bench::new(&context, &options);
        let data = dataset(9, 3);
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let choices = Session::new(&context).choices().clone();
        let recordings = record(&unet, &options, &DataShape::of(&data), &choices).expect("a valid schedule");
        for image in [0, 8] {
            let place = places(&[image], 2);
            let sum = bench.sum_of(place.clone());
            let mut state = CpuState::default();
            state.set(WEIGHTS, bench.weights.iter().map(|weight| f64::from(*weight)));
            state.set(DATA, Records::pack(&data.images, &data.labels).into_iter().map(f64::from));
            let mut step = step_values(&options, 9, 0, 0);
            step.set("record", image.into()).set("seed", place[0].key[0].into()).set("counter", place[0].key[1].into());
            step.set("taken", 1.0);
            recordings.get("gradients").expect("a step has it").run_cpu(&mut state, &step);
            recordings.get("accumulate").expect("a private step has it").run_cpu(&mut state, &step);
            let expected = state.get(METRICS)[64].sqrt();
            let scale = bench.radius / options.clip();
            // As the device has it: what it added, and what it took for the norm.
            let found = norm(&sum) / scale;
            assert!((found / expected - 1.0).abs() < 1e-5, "image {image}: norm {found}, the twin's is {expected}");
            let gradient = state.get(GRADIENTS);
            let rms = expected / (gradient.len() as f64).sqrt();
            let worst = sum.iter().zip(gradient).map(|(n, g)| (*n as f64 / scale - g).abs()).fold(0.0, f64::max);
            println!("image {image}: norm {found} of {expected}, worst element {:.1e} of {rms:.1e}", worst);
            assert!(worst < 1e-3 * rms + 1.0 / scale, "{worst} of {rms}");
        }
    }
}

/// The released gradient is the sum with the noise over a constant, whoever joined.
#[test]
fn what_is_released_is_the_noisy_sum_over_a_constant() {
    let context = context();
    let options = private(4, 2, 1e-3);
    let mut bench = Bench::new(&context, &options);
    for images in [&[][..], &[0, 1, 2, 3]] {
        let without = bench.sum(images);
        let before = bench.weights.clone();
        bench.trainer.write_weights(&before);
        let lottery = bench.trainer.lottery().expect("it is private");
        lottery.draw(1);
        let noise = lottery.noise().to_vec();
        lottery.force(0, places(images, 4), noise.clone());
        bench.trainer.step(0).expect("the device works");
        bench.trainer.finish().expect("the device works");
        let read = |name| bench.trainer.session.read(name).expect("the device works");
        let noisy = words(&read(SUM));
        let drawn: Vec<i64> = noise.iter().map(|word| i64::from(*word as i32)).collect();
        assert_eq!(difference(&noisy, &without), drawn);
        let scale = options.clip() / bench.radius / f64::from(options.batch);
        for (released, units) in read(GRADIENTS).iter().zip(&noisy) {
            assert!((f64::from(*released) - scale * *units as f64).abs() <= 1e-6 * scale * (*units as f64).abs());
        }
        // An empty batch takes its step as well.
        let moved = read(WEIGHTS).iter().zip(&before).filter(|(now, then)| now != then).count();
        assert_eq!(moved, learnt(&params(&options)).len(), "{} images", images.len());
    }
}

fn lottery(options: &TrainOptions, images: u64) -> Lottery {
    let params = params(options);
    let mechanism = Mechanism::new(options, images, &params).expect("a mechanism");
    Lottery::new(mechanism, Secret::of_seed(options.dp_seed.expect("a seed")), &params)
}

#[test]
fn images_join_by_coins_of_their_own_and_never_twice() {
    let options = TrainOptions { batch: 40, ..private(60, 1, 1.0) };
    let mechanism = Mechanism::new(&options, 1000, &params(&options)).expect("a mechanism");
    let secret = Secret::of_seed(4);
    let (mut joined, mut sizes) = (vec![0i32; 1000], Vec::new());
    for step in 0..2000 {
        let places = draw_places(&mechanism, &secret, step);
        assert_eq!(places.len(), 60);
        let mut images: Vec<u32> = places.iter().filter(|place| place.is_taken).map(|place| place.image).collect();
        sizes.push(images.len());
        images.sort();
        images.windows(2).for_each(|pair| assert!(pair[0] < pair[1], "image {} joins step {step} twice", pair[0]));
        images.iter().for_each(|image| joined[*image as usize] += 1);
        let mut keys: Vec<[u32; 2]> = places.iter().map(|place| place.key).collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 60, "keys of places are drawn for each");
    }
    // 80 on average, of variance 76.8.
    assert!(joined.iter().all(|count| (80 - 48..80 + 48).contains(count)), "{:?}", joined.iter().max());
    let mean = sizes.iter().sum::<usize>() as f64 / 2000.0;
    assert!((mean - 40.0).abs() < 5.0 * (38.4f64 / 2000.0).sqrt(), "{mean}");
    assert!(sizes.iter().any(|size| *size < 30) && sizes.iter().any(|size| *size > 50), "sizes vary");
    // Fewer places than join: a part stays, any image as likely as any other.
    let few = Mechanism { places: 20, ..mechanism };
    let mut stayed = vec![0i32; 1000];
    for step in 0..2000 {
        let places = draw_places(&few, &secret, step);
        let all: Vec<u32> = draw_places(&Mechanism { places: 1000, ..mechanism }, &secret, step)
            .iter()
            .filter(|place| place.is_taken)
            .map(|place| place.image)
            .collect();
        for place in places.iter().filter(|place| place.is_taken) {
            assert!(all.contains(&place.image));
            stayed[place.image as usize] += 1;
        }
    }
    let halves = [&stayed[..500], &stayed[500..]].map(|half| half.iter().sum::<i32>());
    assert!((halves[0] - halves[1]).abs() < 1000, "{halves:?}: the first in order are not preferred");
}

/// Places and noise of a step, by the seed of the run, the secret, and the step.
type Drawn<'a> = &'a dyn Fn(u64, u64, u64) -> (Vec<Place>, Vec<u32>);

fn draw(seed: u64, secret: u64, step: u64) -> (Vec<Place>, Vec<u32>) {
    let options = TrainOptions { seed, dp_seed: Some(secret), ..private(7, 2, 1.0) };
    let mut lottery = lottery(&options, 9);
    lottery.draw(step);
    (lottery.places().to_vec(), lottery.noise().to_vec())
}

/// Whether all of it follows from the secret, and nothing of it from the seed of the run.
fn check_secret(drawn: Drawn) -> Result<(), &'static str> {
    let (places, noise) = drawn(1, 5, 0);
    let differ =
        |other: &[u32]| noise.iter().zip(other).filter(|(a, b)| a == b && **a != 0).count() < noise.len() / 100;
    // Another secret, another step.
    for (other_places, other_noise) in [drawn(1, 6, 0), drawn(1, 5, 1)] {
        if other_places == places {
            return Err("coins don't follow from the secret");
        }
        if !differ(&other_noise) {
            return Err("noise doesn't follow from the secret");
        }
    }
    // Another seed of the run.
    let other = drawn(2, 5, 0);
    if other.0 == places && other.1 == noise { Ok(()) } else { Err("something follows from the seed of the run") }
}

#[test]
fn nothing_in_secret_is_drawn_from_the_seed_of_the_run() {
    assert_eq!(check_secret(&draw), Ok(()));
    let coins: Drawn = &|seed, secret, step| (draw(seed, seed, step).0, draw(seed, secret, step).1);
    assert_eq!(check_secret(coins), Err("coins don't follow from the secret"));
    let noise: Drawn = &|seed, secret, step| (draw(seed, secret, step).0, draw(seed, seed, step).1);
    assert_eq!(check_secret(noise), Err("noise doesn't follow from the secret"));
    let both: Drawn = &|seed, secret, step| draw(seed, seed + secret, step);
    assert_eq!(check_secret(both), Err("something follows from the seed of the run"));
}

#[test]
fn noise_has_the_deviation_that_is_accounted_and_leaves_padding_alone() {
    let options = private(7, 2, 1.0);
    let params = params(&options);
    let mut lottery = lottery(&options, 9);
    let units = lottery.mechanism().units;
    // sigma C in units.
    assert!((units.radius * 1.5 / 2f64.powi(units.exponent as i32) - 1.0).abs() < 1e-12);
    let own = learnt(&params);
    assert_eq!(own.len() as u64, params.count());
    let (mut sum, mut count) = (0.0, 0.0);
    for step in 0..20 {
        lottery.draw(step);
        let noise = lottery.noise();
        let all: i128 = noise.iter().map(|word| i128::from(*word as i32).pow(2)).sum();
        let of_learnt: i128 = own.iter().map(|at| i128::from(noise[*at as usize] as i32).pow(2)).sum();
        assert_eq!(all, of_learnt, "padding has no noise");
        sum += of_learnt as f64;
        count += own.len() as f64;
    }
    let variance = sum / count / 4f64.powi(units.exponent as i32);
    assert!((variance - 1.0).abs() < 5.0 * (2.0 / count).sqrt(), "{variance} of {count} draws");
}

/// Where sums have 4,096 terms, f32 would lose what one of them changes.
#[test]
fn of_4096_images_each_changes_the_sum_by_what_it_adds_alone() {
    let context = context();
    let (count, at_once, images) = (1023u32, 64, 4096);
    let options = TrainOptions { batch: 3800, ..private(images as u32, 1, 0.7) };
    let units = Mechanism::new(&options, 8000, &params(&options)).expect("a mechanism").units;
    let mut r = Recorder::new();
    let sum = r.persistent("sum", [1, 1, 1, count]);
    let loss_scale = adamw::loss_scale(&mut r, Precision::F32);
    let gradients: Vec<_> = (0..at_once).map(|i| r.persistent(&format!("gradient {i}"), [1, 1, 1, count])).collect();
    for gradient in &gradients {
        let partials = r.temp([1, 1, 1, adamw::partial_count(count.into())]);
        adamw::square_sum(&mut r, *gradient, partials, loss_scale);
        let total = r.temp([1, 1, 1, 1]);
        reduce::total(&mut r, partials, total);
        let factor = kernel::clip(&mut r, total, loss_scale, units.scale, units.limit);
        kernel::add(&mut r, factor, *gradient, sum);
    }
    let (recording, mut memory) = (r.finish(), Memory::default());
    let plan = Plan::new(&context, &recording, &mut memory, PlanOptions::default()).expect("it fits");
    let mut step = Step::default();
    step.set("taken", 1.0);
    let read = |memory: &Memory| words(&memory.read(&context, "sum").expect("the device works"));
    let mut random = Random::new(11);
    let (mut total, mut alone) = (vec![0i64; count as usize], 0);
    for _ in 0..images / at_once {
        for gradient in &gradients {
            // From far below the clipping norm to far above it.
            let size = (12.0 * random.uniform() - 8.0).exp();
            let values: Vec<f32> = (0..gradient.elements())
                .map(|i| if i < count.into() { (size * random.normal()) as f32 } else { 0.0 })
                .collect();
            plan.write(&context, *gradient, &values);
            // The twin: clipped in f64, rounded as whole numbers are.
            let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            let factor = f64::from(units.scale).min(f64::from(units.limit) / length);
            total
                .iter_mut()
                .zip(&values)
                .for_each(|(total, value)| *total += (factor * f64::from(*value)).round() as i64);
        }
        let before = read(&memory);
        plan.run(&context, &step);
        let change = difference(&read(&memory)[..count as usize], &before);
        // What 64 of them add; then one of them is left out.
        assert!(norm(&change) <= at_once as f64 * units.radius);
        if alone < 4 {
            memory.write(&context, "sum", 0, &before.iter().map(|word| *word as u32).collect::<Vec<_>>());
            let left_out = random.bits() as usize % at_once;
            plan.write(&context, gradients[left_out], &vec![0.0f32; gradients[left_out].elements() as usize]);
            plan.run(&context, &step);
            let others = difference(&read(&memory)[..count as usize], &before);
            let own = difference(&change, &others);
            assert!(norm(&own) <= units.radius && norm(&own) > 0.0, "{} of {}", norm(&own), units.radius);
            memory.write(
                &context,
                "sum",
                0,
                &before.iter().zip(&change).map(|(word, change)| (word + change) as u32).collect::<Vec<_>>(),
            );
            alone += 1;
        }
    }
    let found = read(&memory);
    // Products in f32 are rounded by 2^-24 of themselves, and the factor by a few times that.
    let bound = images as f64 * (0.5 + 8.0 * 2f64.powi(-24) * units.radius);
    let worst = found.iter().zip(&total).map(|(found, total)| (found - total).abs()).max().expect("numbers");
    println!("worst {worst} units of {bound:.0} allowed, C is {:.0}", units.radius);
    assert!((worst as f64) < bound);
}
