//! Training on the GPU: against the twins, bit for bit against itself, and whether it learns.

mod common;
#[path = "common/runs.rs"]
mod runs;
#[path = "train/shared.rs"]
mod shared;

use std::sync::Arc;

use clap::{Args, Command};
use common::{context, dataset, model, options, trainer};
use diffuse::diffusion::{Choice, LossWeight, Prediction, ScheduleKind};
use diffuse::gpu::{Choices, CpuState, Device, EMA, GRADIENTS, Precision, Recordings, Step, WEIGHTS, Ways};
use diffuse::nn::UNet;
use diffuse::nn::config::Size;
use diffuse::ops;
use diffuse::ops::adamw::LOSS_SCALE;
use diffuse::ops::diffusion::Records;
use diffuse::run::trainer::{DATA, DataShape, METRICS, record, step_values};
use diffuse::run::{LEVELS, Metrics, OnDiffer, SentAs, Session, TrainOptions, Trainer};
use diffuse::train::{Over, Run, Stored, Watch, run};
use diffuse::tune::Policy;
use runs::{assert_same_run, stand};

fn train(trainer: &mut Trainer, steps: u64) -> Vec<Metrics> {
    let mut all = Vec::new();
    for step in 0..steps {
        all.extend(trainer.step(step).expect("the device works").0);
    }
    all.extend(trainer.finish().expect("the device works"));
    all
}

/// One step through the twins: loss, gradient norm, and the mean losses of the first batch by noise level.
fn twin_step(
    recordings: &Recordings,
    state: &mut CpuState,
    options: &TrainOptions,
    images: u64,
    step: u64,
) -> (f64, f64, Vec<Option<f64>>) {
    let part = |name| recordings.get(name);
    let mut loss = 0.0;
    let mut by_level = Vec::new();
    let mut gradients = Vec::new();
    let values = |batch: u64| -> Step { step_values(options, images, step, batch) };
    for batch in 0..options.accumulate as u64 {
        part("gradients").expect("a step has it").run_cpu(state, &values(batch));
        loss += state.get(METRICS)[0];
        if batch == 0 {
            let (sums, counts) = state.get(METRICS)[128..144].split_at(LEVELS);
            by_level = sums.iter().zip(counts).map(|(sum, count)| (*count > 0.0).then(|| sum / count)).collect();
        }
        gradients.push(state.get(GRADIENTS).to_vec());
    }
    let mut sum = vec![0.0; gradients[0].len()];
    gradients.iter().for_each(|part| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
    state.set(GRADIENTS, sum);
    part("update").expect("a step has it").run_cpu(state, &values(0));
    (loss / options.accumulate as f64, state.get(METRICS)[64].sqrt() / options.accumulate as f64, by_level)
}

#[test]
fn ten_losses_agree_with_the_twins() {
    let context = context();
    let data = dataset(9, 3);
    // The second with a learned variance, the last in the ways of a GPU.
    for (accumulate, outputs, gpu) in [(1, 1, false), (1, 2, false), (3, 1, false), (1, 1, true)] {
        let mut options = options(10, 4, accumulate);
        options.model.out_channels = outputs;
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let device = Device { gpu, ..context.kind().clone() };
        let choices = Arc::new(Choices::new(&device, options.precision));
        let session = Session::with(&context, choices.clone());
        let mut trainer = Trainer::new(session, &unet, &data, &options).expect("it fits");
        trainer.write_weights(&unet.params.initialise(options.seed));
        let metrics = train(&mut trainer, 10);
        assert_eq!(metrics.iter().map(|m| m.step).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        let recordings = record(&unet, &options, &DataShape::of(&data), &choices).expect("a valid schedule");
        let mut state = CpuState::default();
        let weights: Vec<f64> = unet.params.initialise(options.seed).into_iter().map(f64::from).collect();
        state.set(WEIGHTS, weights.clone());
        state.set(EMA, weights);
        state.set(DATA, Records::pack(&data.images, &data.labels).into_iter().map(f64::from));
        for metrics in metrics {
            let (loss, norm, by_level) =
                twin_step(&recordings, &mut state, &options, data.len() as u64, metrics.step - 1);
            println!(
                "step {} loss {} twin {loss}, norm {} twin {norm}",
                metrics.step, metrics.loss, metrics.gradient_norm
            );
            assert!((metrics.loss as f64 - loss).abs() < 1e-4 * loss, "accumulate {accumulate}, step {}", metrics.step);
            assert!((metrics.gradient_norm as f64 - norm).abs() < 1e-3 * norm, "norm of step {}", metrics.step);
            assert!(by_level.iter().any(Option::is_some));
            for (own, twin) in metrics.by_level.iter().zip(by_level) {
                let near = |own: f32, twin: f64| (f64::from(own) - twin).abs() < 1e-4 * twin;
                assert!(own.is_some() == twin.is_some(), "step {}: {:?}", metrics.step, metrics.by_level);
                assert!(own.zip(twin).is_none_or(|(own, twin)| near(own, twin)), "{own:?} and {twin:?}");
            }
        }
        for name in [WEIGHTS, EMA, "m", "v"] {
            let values = trainer.session.read(name).expect("the device works");
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
        let mut trainer = trainer(&context, &unet, &data, &options);
        let losses: Vec<u32> = train(&mut trainer, 6).iter().map(|m| m.loss.to_bits()).collect();
        let weights = trainer.session.read(WEIGHTS).expect("the device works");
        (losses, weights.into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    assert_eq!(outcome(), outcome());
}

#[test]
fn streamed_images_give_the_bits_of_those_that_the_device_holds() {
    let context = context();
    let data = dataset(9, 3);
    // Batches longer than an epoch, too, and a step that is asked for out of turn, as when a run goes on.
    for (batch, accumulate) in [(4, 1), (4, 3), (20, 2)] {
        let outcome = |stream, steps: &[u64]| {
            let options = TrainOptions { stream: Some(stream), flip: Some(true), ..options(6, batch, accumulate) };
            let unet = UNet::new(options.model.clone()).expect("a valid model");
            let mut trainer = trainer(&context, &unet, &data, &options);
            for step in steps {
                trainer.step(*step).expect("the device works");
            }
            trainer.finish().expect("the device works");
            assert_eq!(trainer.feed().is_some(), stream);
            trainer.session.read(WEIGHTS).expect("the device works").into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        for steps in [&[0, 1, 2, 3, 4, 5][..], &[3, 4, 0, 5]] {
            assert_eq!(outcome(true, steps), outcome(false, steps), "batches of {batch}, {accumulate} of them");
        }
        assert_ne!(outcome(true, &[0, 1]), outcome(true, &[1, 2]));
    }
}

#[test]
fn it_overfits_one_image() {
    let context = context();
    let data = dataset(1, 1);
    let options = TrainOptions { model: model(1), learning_rate: 4e-3, warmup: 10, ..options(400, 8, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, &options);
    let metrics = train(&mut trainer, 400);
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
    let mut options = TrainOptions { model: model(10), accumulate: 2, audit_every: 3, ..options(12, 3, 2) };
    options.model.sample_size = Some(Size::Square(8));
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    let whole = place.path().join("whole");
    let done = Run::create(&context, &Policy::default(), &whole, options.clone(), &data, (Over::Nothing, None))
        .unwrap()
        .train(&mut never());
    assert!(done.unwrap());
    let parts = place.path().join("parts");
    let mut watch = StopAfter { steps: 5, seen: 0 };
    let mut first = Run::create(&context, &Policy::default(), &parts, options, &data, (Over::Nothing, None)).unwrap();
    assert!(!first.train(&mut watch).unwrap(), "it was stopped");
    assert!((5..12).contains(&first.steps_done()));
    drop(first);
    let abandoned = parts.join(".diffuse-1-0.tmp");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    std::fs::File::create(&abandoned).unwrap().set_modified(long_ago).unwrap();
    let mut second = {
        let stored = Stored::open(&parts).unwrap();
        let options = stored.options().clone();
        Run::resume(&context, &Policy::default(), stored, options, None).unwrap()
    };
    assert!(!abandoned.exists());
    assert!(second.train(&mut never()).unwrap());
    let files = ["diffusion_pytorch_model.safetensors", "trainer.safetensors", "trainer.json"];
    assert_eq!(assert_same_run(&whole, &parts, &files), 13);
}

#[test]
fn as_many_images_are_taken_at_a_time_as_fit() {
    let mut context = context();
    let (data, whole) = (dataset(9, 3), options(4, 12, 1));
    let unet = UNet::new(whole.model.clone()).expect("a valid model");
    let of = |batch, accumulate| TrainOptions { batch, accumulate, ..whole.clone() };
    let choices = Session::new(&context).choices().clone();
    let bytes =
        |options| record(&unet, &options, &DataShape::of(&data), &choices).expect("it can be indexed").peak_bytes();
    // More passes take less for activations, and more for sums that wait: 4 of them with 12 passes, 2 with 4.
    assert!(bytes(of(4, 3)) < bytes(of(6, 2)) && bytes(of(3, 4)) < bytes(of(4, 3)));
    for (limit, passes) in [(u64::MAX, (12, 1)), (bytes(of(6, 2)) - 1, (4, 3)), (bytes(of(3, 4)), (3, 4))] {
        context.limit_memory(limit);
        let found = run::with_fewest_passes(&context, &Policy::default(), &whole, &data).expect("one image fits");
        assert_eq!((found.batch, found.accumulate), passes, "with {limit} bytes");
    }
    context.limit_memory(1000);
    let refused = run::with_fewest_passes(&context, &Policy::default(), &whole, &data).unwrap_err().to_string();
    assert!(refused.contains("not even one image"), "{refused}");
}

/// Mean loss of the last 20 of 60 steps.
fn end_loss(session: Session, options: &TrainOptions) -> f64 {
    let data = dataset(9, 3);
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = Trainer::new(session, &unet, &data, options).expect("it fits");
    trainer.write_weights(&unet.params.initialise(options.seed));
    let losses: Vec<f64> = train(&mut trainer, 60).iter().map(|metrics| metrics.loss as f64).collect();
    losses[40..].iter().sum::<f64>() / 20.0
}

/// Every second set of variants, from the first or the second on.
fn assert_that_variants_train_alike(is_even: bool) {
    let context = context();
    let single = options(60, 8, 1);
    let expected = end_loss(Session::new(&context), &single);
    let half = TrainOptions { precision: Precision::F16, ..single };
    let device = context.kind().clone();
    let count = ops::ALL.iter().flat_map(|op| op.ways).map(|ways| ways.candidates.len()).max().unwrap_or(0);
    let mut names = std::collections::BTreeSet::new();
    for index in 0..count {
        let choices = Choices::forced(&device, Precision::F16, index);
        let everywhere = |ways: &&&Ways| ways.candidates.iter().any(|candidate| candidate.is_register());
        let ways = ops::ALL.iter().flat_map(|op| op.ways).filter(everywhere);
        let name = ways.map(|ways| choices.choose(ways, &[1; 10]).label());
        if !names.insert(name.collect::<Vec<_>>()) || (names.len() % 2 == 0) != is_even {
            continue;
        }
        let loss = end_loss(Session::with(&context, choices.into()), &half);
        println!("{:?}: {loss}, in single precision {expected}", names.last());
        assert!((loss / expected - 1.0).abs() < 0.02, "candidate {index}: {loss}, in single precision {expected}");
    }
}

// Two tests, for two cores: old drivers compile for minutes.
#[test]
fn half_precision_and_every_other_variant_train_alike() {
    assert_that_variants_train_alike(false);
}

#[test]
fn half_precision_and_the_variants_between_train_alike() {
    assert_that_variants_train_alike(true);
}

#[test]
fn an_overflow_in_half_precision_skips_the_step_and_halves_the_scale() {
    let context = context();
    let data = dataset(9, 3);
    let options = TrainOptions { precision: Precision::F16, ..options(4, 4, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, &options);
    let before = trainer.session.read(WEIGHTS).expect("the device works");
    trainer.session.write(LOSS_SCALE, &[1e30f32, 0.0]);
    let metrics = train(&mut trainer, 1);
    assert!(metrics[0].loss.is_finite() && !metrics[0].gradient_norm.is_finite(), "{metrics:?}");
    assert_eq!(trainer.session.read(WEIGHTS).expect("the device works"), before);
    assert_eq!(trainer.session.read(LOSS_SCALE).expect("the device works")[..2], [5e29, 0.0]);
}

/// Takes three steps, then one that `break_step` breaks and `mend` doesn't, and more until the host notices: the device
/// must stand where it stood after three.
#[track_caller]
fn assert_halted(options: &TrainOptions, break_step: impl Fn(&Trainer), mend: impl Fn(&Trainer)) {
    let context = context();
    let data = dataset(9, 3);
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, options);
    train(&mut trainer, 3);
    let before = stand(&trainer);
    break_step(&trainer);
    trainer.step(3).expect("nobody knows yet");
    mend(&trainer);
    let error = (4..8).find_map(|step| trainer.step(step).err()).expect("it is noticed");
    println!("{error}");
    assert!(error.to_string().starts_with("step 4: loss "), "{error}");
    assert_eq!(trainer.broken_step(), Some(3));
    assert!(stand(&trainer) == before, "a step behind the broken one changed something");
}

#[test]
fn nothing_changes_from_a_gradient_on_that_is_not_finite() {
    for accumulate in [1, 2] {
        let scale = |value: f32| move |trainer: &Trainer| trainer.session.write(LOSS_SCALE, &[value, 0.0]);
        assert_halted(&options(8, 4, accumulate), scale(f32::INFINITY), scale(1.0));
    }
}

/// The loss overflows where its gradient, the root of it, doesn't.
#[test]
fn nothing_changes_from_a_loss_on_that_is_not_finite() {
    for (accumulate, precision) in [(1, Precision::F32), (2, Precision::F32), (1, Precision::F16)] {
        let options = TrainOptions { precision, ..options(8, 4, accumulate) };
        let kept = std::cell::RefCell::new(Vec::new());
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let bias = unet.params.all.iter().find(|parameter| parameter.name == "conv_out.bias").expect("it has one");
        let break_step = |trainer: &Trainer| {
            let [weights, schedule] =
                [WEIGHTS, "schedule"].map(|name| trainer.session.read(name).expect("the device works"));
            let (mut large, mut light) = (weights.clone(), schedule.clone());
            // Half precision ends at 65,504: there the weight in the loss makes it overflow.
            let (output, weight) = if precision == Precision::F32 { (2e25, 1e-12) } else { (3e4, 1e30) };
            bias.pack(&[output], &mut large);
            light.iter_mut().skip(4).step_by(8).for_each(|value| *value *= weight);
            trainer.session.write(WEIGHTS, &large);
            trainer.session.write("schedule", &light);
            *kept.borrow_mut() = vec![weights, schedule];
        };
        let mend = |trainer: &Trainer| {
            for (name, values) in [WEIGHTS, "schedule"].into_iter().zip(kept.borrow().iter()) {
                trainer.session.write(name, values);
            }
        };
        assert_halted(&options, break_step, mend);
    }
}

#[test]
fn no_step_follows_one_overflow_too_many_in_half_precision() {
    let context = context();
    let data = dataset(9, 3);
    let options = TrainOptions { precision: Precision::F16, ..options(40, 4, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, &options);
    let before = stand(&trainer);
    let error = (0..40).find_map(|step| {
        // From step 26 on it would fit.
        let scale = if step < 25 { 1e30f32 } else { 1024.0 };
        trainer.session.write(LOSS_SCALE, &[scale, 0.0]);
        trainer.step(step).err()
    });
    let error = error.expect("it is noticed").to_string();
    assert!(error.starts_with("step 25: loss "), "{error}");
    assert!(stand(&trainer) == before, "a step behind the last one changed something");
}

/// How far grids of samples are.
#[derive(Default)]
struct Drawing(Vec<(u64, u64)>);

/// Steps of the checkpoint that there is whenever a grid is begun.
struct Saved<'a>(&'a std::path::Path, Vec<u64>);

impl Watch for Saved<'_> {
    fn drawing(&mut self, done: u64, _: u64) {
        let state = std::fs::read_to_string(self.0.join("checkpoint/trainer.json")).expect("a checkpoint");
        let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
        self.1.extend((done == 1).then(|| state["step"].as_u64().expect("a number")));
    }
}

/// Whatever befalls the drawing, what was learnt is safe.
#[test]
fn a_checkpoint_is_saved_before_the_grid_of_its_step_is_drawn() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let every = TrainOptions { sample_every: 2, checkpoint_every: 2, sample_steps: 2, ..options(4, 2, 1) };
    let mut options = TrainOptions { model: model(10), ..every };
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    let mut watch = Saved(place.path(), Vec::new());
    let run = Run::create(&context, &Policy::default(), place.path(), options, &data, (Over::Nothing, None));
    assert!(run.unwrap().train(&mut watch).unwrap());
    assert_eq!(watch.1, [2, 4]);
}

impl Watch for Drawing {
    fn drawing(&mut self, done: u64, of: u64) {
        self.0.push((done, of));
    }
}

#[test]
fn the_grid_at_the_end_tells_how_far_it_is() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let mut options = TrainOptions { model: model(10), sample_every: 9, sample_steps: 3, ..options(1, 2, 1) };
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    let mut watch = Drawing::default();
    assert!(
        Run::create(&context, &Policy::default(), place.path(), options, &data, (Over::Nothing, None))
            .unwrap()
            .train(&mut watch)
            .unwrap()
    );
    assert_eq!(watch.0, [(1, 3), (2, 3), (3, 3)]);
}

#[test]
fn recomputing_gives_the_same_bits_in_less_memory() {
    let context = context();
    let data = dataset(9, 3);
    let plain = options(4, 4, 1);
    let unet = UNet::new(plain.model.clone()).expect("a valid model");
    let run = |options: &TrainOptions| {
        let mut trainer = trainer(&context, &unet, &data, options);
        train(&mut trainer, 4);
        let shape = DataShape::of(&data);
        let recordings = record(&unet, options, &shape, &Default::default()).expect("a valid schedule");
        (
            trainer.session.read(WEIGHTS).expect("the device works"),
            recordings.get("gradients").expect("a step has it").peak_bytes(),
        )
    };
    let (kept, recomputed) = (run(&plain), run(&TrainOptions { recompute: true, ..plain.clone() }));
    assert_eq!(kept.0, recomputed.0);
    assert!(recomputed.1 < kept.1, "{} bytes with, {} without", recomputed.1, kept.1);
}

/// Help shows the defaults of flags under the names of options, and a file of options must hold what flags say.
#[test]
fn flags_are_options_and_options_are_flags() {
    let ends = (Some(1.0), Some(2.0));
    let options = TrainOptions {
        sigma_min: ends.0,
        sigma_max: ends.1,
        dp: true,
        dp_epsilon: ends.0,
        dp_delta: ends.0,
        dp_noise: ends.0,
        dp_clip: ends.0,
        dp_draws: Some(1),
        dp_places: Some(1),
        dp_seed: Some(1),
        canaries: Some(1),
        exchange: SentAs::F16,
        on_differ: OnDiffer::Leave,
        ..TrainOptions::default()
    };
    let written = serde_json::to_value(options).unwrap();
    let command = TrainOptions::augment_args_for_update(Command::new("train"));
    let flags: Vec<&str> = command.get_arguments().map(|flag| flag.get_id().as_str()).collect();
    for flag in &flags {
        assert!(written.get(flag).is_some(), "{flag} is no option in files");
    }
    let others: Vec<&String> =
        written.as_object().unwrap().keys().filter(|key| !flags.contains(&key.as_str())).collect();
    // The command line says these in other ways, or not at all.
    assert_eq!(
        others,
        ["adam_eps", "beta1", "beta2", "data", "model", "precision", "sample_steps", "task", "winograd"]
    );
}

/// As runs of old hold them.
#[test]
fn files_name_schedules_targets_and_weights() {
    fn assert_named<T: Choice + std::fmt::Debug>(key: &str, of: fn(&TrainOptions) -> T, names: &str) {
        for (name, choice) in names.split(' ').zip(T::NAMED) {
            let text = format!(r#"{{"{key}": "{name}"}}"#);
            let options: TrainOptions = serde_json::from_str(&text).expect(&text);
            assert_eq!(of(&options), *choice);
            assert_eq!(serde_json::to_value(&options).unwrap()[key], *name);
        }
        assert_eq!(names.split(' ').count(), T::NAMED.len());
        let error =
            serde_json::from_str::<TrainOptions>(&format!(r#"{{"{key}": "nonsense"}}"#)).unwrap_err().to_string();
        assert!(names.split(' ').all(|name| error.contains(&format!("`{name}`"))), "{error}");
    }
    let schedules = "linear cosine sigmoid vp sub_vp ve edm flow";
    assert_named("noise_schedule", |options| options.noise_schedule, schedules);
    assert_named("target", |options| options.target, "epsilon x0 v score edm flow");
    assert_named("loss_weight", |options| options.loss_weight, "simple variational sigma2 min_snr p2 edm");
    assert_named("timestep_draw", |options| options.timestep_draw, "even edm high");
    // Read again, it would be another.
    let unnamed = TrainOptions { loss_weight: LossWeight::MinSnr { gamma: 4.0 }, ..TrainOptions::default() };
    assert!(serde_json::to_value(unnamed).unwrap_err().to_string().contains("min_snr"));
    let between = TrainOptions { noise_schedule: ScheduleKind::VE, sigma_max: Some(7.0), ..TrainOptions::default() };
    assert_eq!(between.schedule_kind(), ScheduleKind::Ve { sigma_min: 0.01, sigma_max: 7.0 });
    assert_eq!(TrainOptions { target: Prediction::V, ..between }.scheduler().prediction().unwrap(), Prediction::V);
}
