//! Devices that err: what a run notices, what it says, and where it goes on.

mod common;
#[path = "common/runs.rs"]
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use common::{context, dataset, model, options, trainer};
use diffuse::error::Error;
use diffuse::gpu::fault::Fault;
use diffuse::gpu::recorder::Place;
use diffuse::gpu::{Context, GRADIENTS, Precision, Recording};
use diffuse::nn::UNet;
use diffuse::nn::config::Size;
use diffuse::ops::adamw::LOSS_SCALE;
use diffuse::run::{Finding, Metrics, OnNan, TrainOptions, Trainer};
use diffuse::train::{Over, Run, Stored, Watch, run};
use diffuse::tune::Policy;
use runs::{assert_same_run, stand};

/// The first binding that a dispatch writes numbers to.
fn written(recording: &Recording, dispatch: usize) -> Option<usize> {
    recording.dispatches[dispatch].bindings().position(|(_, binding)| binding.writable && !binding.integer)
}

/// Steps until one is known to have broken; what is said of it.
fn broken(trainer: &mut Trainer, steps: std::ops::Range<u64>) -> (u64, String) {
    let error = steps.map(|step| trainer.step(step)).find_map(Result::err).or_else(|| trainer.finish().err());
    (trainer.broken_step().unwrap_or(u64::MAX), error.map_or_else(|| "nothing broke".into(), |error| error.to_string()))
}

#[test]
fn what_is_not_finite_is_traced_to_the_kernel_and_layer_that_made_it() {
    let context = context();
    let data = dataset(9, 3);
    for (precision, accumulate) in [(Precision::F32, 1), (Precision::F32, 2), (Precision::F16, 1)] {
        let options = TrainOptions { precision, on_nan: Some(OnNan::Stop), ..options(8, 4, accumulate) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let mut trainer = trainer(&context, &unet, &data, &options);
        trainer.find_scale().expect("the device works");
        let count = trainer.recording("gradients").dispatches.len();
        let mut met = BTreeSet::new();
        for trial in 0..20 {
            let recording = trainer.recording("gradients");
            let dispatch = (trial * count / 20..count).find(|d| written(recording, *d).is_some()).expect("one writes");
            let label = recording.label(&recording.dispatches[dispatch]);
            let binding = written(recording, dispatch).expect("it was asked");
            met.insert(label.clone());
            let before = stand(&trainer);
            let id = recording.dispatches[dispatch].io[binding];
            let bits = match (recording.is_half(id), trial % 2 == 0) {
                (false, true) => f32::NAN.to_bits(),
                (false, false) => f32::INFINITY.to_bits(),
                (true, true) => 0x7e00_7e00,
                (true, false) => 0x7c00_7c00,
            };
            // All of it: of a table of sums some layers use a part.
            let words = recording.tensor_bytes(id) / 4;
            let fault = Fault { dispatch, binding, word: 0, words, bits, after: accumulate, times: u32::MAX };
            trainer.inject("gradients", fault).expect("room");
            trainer.step(0).expect("the device works");
            let (step, said) = broken(&mut trainer, 1..4);
            assert_eq!(step, 1, "{label}: {said}");
            let wrong = trainer.replay_broken(step).expect("the device works");
            let wrong = wrong.unwrap_or_else(|| panic!("{label}: {dispatch} is not found; {said}"));
            assert_eq!(wrong.label, label);
            assert!(!wrong.found.is_finite() && wrong.expected.is_finite() && wrong.element.ends_with("[0, 0, 0, 0]"));
            trainer.inject("gradients", Fault { times: 0, ..fault }).expect("room");
            trainer.write_weights(&unet.params.initialise(options.seed));
            ["m", "v"].iter().for_each(|name| trainer.session.write(name, &vec![0.0f32; before[2].len()]));
        }
        assert_eq!(met.len(), 20, "{met:?}");
    }
}

/// No step is lost to it.
#[test]
fn half_precision_finds_its_scale_before_the_first_step() {
    let context = context();
    let data = dataset(9, 3);
    for accumulate in [1, 2] {
        let options = TrainOptions { precision: Precision::F16, ..options(4, 4, accumulate) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let mut trainer = trainer(&context, &unet, &data, &options);
        let scale = |trainer: &Trainer| trainer.session.read(LOSS_SCALE).expect("the device works")[0];
        trainer.session.write(LOSS_SCALE, &[2f32.powi(40), 0.0]);
        let before = stand(&trainer);
        trainer.find_scale().expect("the device works");
        let found = scale(&trainer);
        assert!((1.0..2f32.powi(40)).contains(&found) && found.log2().fract() == 0.0, "{found}");
        assert!(stand(&trainer) == before, "it moved something");
        trainer.step(0).expect("the device works");
        let metrics = trainer.finish().expect("all is finite");
        assert!(metrics[0].gradient_norm.is_finite() && scale(&trainer) == found, "{metrics:?}");
        // The largest that can be: twice as much overflows.
        trainer.session.write(LOSS_SCALE, &[2.0 * found, 0.0]);
        trainer.write_weights(&unet.params.initialise(options.seed));
        trainer.step(0).expect("the device works");
        assert!(!trainer.finish().expect("it is skipped")[0].gradient_norm.is_finite());
    }
}

/// Some drivers pack what halves can't hold to NaN, and change the other half of the word.
#[test]
fn an_overflow_that_a_driver_packs_to_nan_skips_the_step_as_infinity_does() {
    let context = context();
    let data = dataset(9, 3);
    let options = TrainOptions { precision: Precision::F16, ..options(4, 4, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    for bits in [0x7c00_3c00, 0x7e00_1234, 0x4321_fe01] {
        let mut trainer = trainer(&context, &unet, &data, &options);
        trainer.step(0).expect("the device works");
        trainer.finish().expect("all is finite");
        let before = stand(&trainer);
        let recording = trainer.recording("gradients");
        let is_half = |dispatch: &usize| {
            let io = &recording.dispatches[*dispatch].io;
            written(recording, *dispatch).is_some_and(|binding| recording.is_half(io[binding]))
        };
        let dispatch = (recording.dispatches.len() * 2 / 3..).find(is_half).expect("a gradient in halves");
        let binding = written(recording, dispatch).expect("it was asked");
        let fault = Fault { dispatch, binding, word: 0, words: 1, bits, after: 0, times: 1 };
        trainer.inject("gradients", fault).expect("room");
        let scale = trainer.session.read(LOSS_SCALE).expect("the device works")[0];
        trainer.step(1).expect("the device works");
        let metrics = trainer.finish().expect("it is skipped");
        assert!(metrics[0].loss.is_finite() && !metrics[0].gradient_norm.is_finite(), "{bits:x}: {metrics:?}");
        assert!(stand(&trainer) == before, "{bits:x}: something moved");
        assert_eq!(trainer.session.read(LOSS_SCALE).expect("the device works")[0], scale / 2.0);
    }
}

/// Of what is not finite right kernels make anything.
#[test]
fn an_overflow_in_an_audited_step_is_no_fault() {
    let context = context();
    let data = dataset(9, 3);
    let options = TrainOptions { precision: Precision::F16, audit_every: 1, ..options(400, 2, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    // The first turns are of the forward pass, the last of the backward pass and the optimizer.
    let all = trainer(&context, &unet, &data, &options).audited().of;
    for first in [0, all / 5, all / 4, all - 30] {
        let mut trainer = trainer(&context, &unet, &data, &options);
        for step in first..first + 10 {
            trainer.session.write(LOSS_SCALE, &[1e30f32, 0.0]);
            trainer.step(step).expect("the device works");
            trainer.end_audit();
            assert!(trainer.finish().expect("it is skipped").iter().all(|metrics| !metrics.gradient_norm.is_finite()));
        }
        assert_eq!(trainer.findings(), []);
        assert_eq!((trainer.audited().differed, trainer.audited().dispatches), (0, 10));
    }
}

/// What a run says.
#[derive(Default)]
struct Notes(Vec<String>);

impl Watch for Notes {
    fn note(&mut self, line: &str) {
        self.0.push(line.into());
    }
}

fn begun<'c>(context: &'c Context, place: &Path, options: &TrainOptions) -> Run<'c> {
    let mut options = options.clone();
    options.model.sample_size = Some(Size::Square(8));
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    Run::create(context, &Policy::default(), place, options, &data, (Over::Nothing, None)).expect("a run")
}

/// Trains 12 steps in `place` on a device of which `err` decides how it errs; the files of the checkpoint, and what was said.
fn trained(
    context: &Context,
    place: &Path,
    options: &TrainOptions,
    err: impl FnOnce(&mut Trainer),
) -> (diffuse::error::Result<bool>, Vec<String>) {
    let mut run = begun(context, place, options);
    err(run.trainer());
    let mut notes = Notes::default();
    (run.train(&mut notes), notes.0)
}

#[test]
fn a_step_that_broke_and_is_finite_when_it_is_computed_again_is_done_again() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let [sound, erring] = ["sound", "erring"].map(|name| place.path().join(name));
    let options = TrainOptions { model: model(10), checkpoint_every: 2, ..options(9, 4, 1) };
    trained(&context, &sound, &options, |_| {}).0.expect("nothing errs");
    let (ended, said) = trained(&context, &erring, &options, |trainer| {
        let dispatch = trainer.recording("gradients").dispatches.len() / 2;
        let binding = written(trainer.recording("gradients"), dispatch).expect("it writes");
        let fault = Fault { dispatch, binding, word: 0, words: 1, bits: f32::NAN.to_bits(), after: 5, times: 1 };
        trainer.inject("gradients", fault).expect("room");
    });
    assert!(ended.expect("it goes on"));
    assert!(said.len() == 1 && said[0].starts_with("warning: step 6: loss "), "{said:?}");
    assert!(said[0].contains("a passing fault of the device; the step is done again"), "{said:?}");
    assert_same_run(&sound, &erring, &["diffusion_pytorch_model.safetensors", "trainer.safetensors"]);
}

/// Takes the device away once the loss of a step is known.
struct Losing<'c> {
    context: &'c Context,
    step: u64,
}

impl Watch for Losing<'_> {
    fn step(&mut self, metrics: &Metrics, _: f64) {
        if metrics.step == self.step {
            self.context.device.destroy();
        }
    }
}

#[test]
fn a_run_whose_device_is_lost_goes_on_from_what_is_held_in_memory() {
    let (context, lost) = (context(), context());
    let place = tempfile::tempdir().expect("a place for runs");
    let [sound, losing] = ["sound", "losing"].map(|name| place.path().join(name));
    let options = TrainOptions { model: model(10), checkpoint_every: 0, ..options(12, 4, 1) };
    trained(&context, &sound, &options, |_| {}).0.expect("nothing errs");
    let mut run = begun(&lost, &losing, &options);
    run.hold_every(Duration::ZERO);
    let ended = run.train(&mut Losing { context: &lost, step: 7 });
    // A device that its own program takes away fails, and is not called lost.
    assert!(matches!(ended, Err(Error::Lost(_) | Error::Device(_))), "{ended:?}");
    assert!(!losing.join("checkpoint").exists());
    let held = run.write_held().expect("there is room").expect("it is held");
    assert!((1..12).contains(&held), "{held}");
    let options = run.options().clone();
    let stored = Stored::find_locked(&losing, run.into_lock()).expect("it is whole").expect("it is there");
    assert_eq!(stored.step(), held);
    let mut run = Run::resume(&context, &Policy::default(), stored, options, None).expect("it goes on");
    assert!(run.train(&mut Notes::default()).expect("nothing errs"));
    assert_same_run(&sound, &losing, &["diffusion_pytorch_model.safetensors", "trainer.safetensors"]);
}

#[test]
fn a_run_that_stops_says_which_kernel_was_the_first() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let options = TrainOptions { model: model(10), ..options(9, 4, 1) };
    let mut label = String::new();
    let (ended, said) = trained(&context, &place.path().join("run"), &options, |trainer| {
        let recording = trainer.recording("gradients");
        let dispatch = recording.dispatches.len() / 3;
        label = recording.label(&recording.dispatches[dispatch]);
        let binding = written(recording, dispatch).expect("it writes");
        let fault =
            Fault { dispatch, binding, word: 0, words: 1, bits: f32::INFINITY.to_bits(), after: 5, times: u32::MAX };
        trainer.inject("gradients", fault).expect("room");
    });
    let error = ended.expect_err("it can't go on").to_string();
    assert!(error.starts_with("step 6: loss ") && error.contains(&format!("; first not finite: {label}: ")), "{error}");
    assert!(error.contains(" is inf, the twin in f64 has "), "{error}");
    assert!(said.is_empty(), "{said:?}");
}

/// Weights, moments and average stand still, the learning rate and the images go on: as a run that never had the step.
#[test]
fn a_step_that_is_skipped_changes_nothing_and_counts() {
    let context = context();
    let data = dataset(9, 3);
    let options = TrainOptions { on_nan: Some(OnNan::Skip), ..options(8, 4, 1) };
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut expected = trainer(&context, &unet, &data, &options);
    for step in [0, 1, 2, 4, 5] {
        expected.step(step).expect("the device works");
    }
    let mut skipping = trainer(&context, &unet, &data, &options);
    let fault = Fault { dispatch: 40, binding: 0, word: 0, words: 1, bits: f32::NAN.to_bits(), after: 3, times: 2 };
    let binding = written(skipping.recording("gradients"), 40).expect("it writes");
    skipping.inject("gradients", Fault { binding, ..fault }).expect("room");
    for step in 0..4 {
        skipping.step(step).expect("nobody knows yet");
    }
    let (step, _) = broken(&mut skipping, 4..8);
    assert_eq!(step, 3);
    let _ = skipping.replay_broken(step).expect("the device works");
    for step in [4, 5] {
        skipping.step(step).expect("the device works");
    }
    skipping.finish().expect("all is finite");
    assert!(stand(&skipping) == stand(&expected));
}

#[test]
fn a_run_that_skips_goes_on_and_tells_each_step() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let out = place.path().join("run");
    let options = TrainOptions { model: model(10), on_nan: Some(OnNan::Skip), ..options(9, 4, 1) };
    let (ended, said) = trained(&context, &out, &options, |trainer| {
        // In step 6, in the two behind it that are under way, and when it is replayed.
        let fault = Fault { dispatch: 40, binding: 0, word: 0, words: 1, bits: f32::NAN.to_bits(), after: 5, times: 4 };
        let binding = written(trainer.recording("gradients"), 40).expect("it writes");
        trainer.inject("gradients", Fault { binding, ..fault }).expect("room");
    });
    assert!(ended.expect("it goes on"));
    assert!(
        said.len() == 1 && said[0].starts_with("warning: step 6: loss ") && said[0].ends_with("; skipped"),
        "{said:?}"
    );
    let metrics = std::fs::read_to_string(out.join("metrics.csv")).expect("it was written");
    let steps: Vec<Vec<&str>> = metrics.lines().skip(1).map(|line| line.split(',').take(2).collect()).collect();
    assert_eq!(steps.iter().map(|step| step[0]).collect::<Vec<_>>(), ["1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(steps.iter().all(|step| (step[1] == "NaN") == (step[0] == "6")), "{metrics}");
}

#[test]
fn a_flipped_bit_of_a_gradient_is_found_and_named_and_does_no_harm() {
    let context = context();
    let data = dataset(9, 3);
    for accumulate in [1, 2] {
        let options = TrainOptions { audit_every: 2, ..options(2, 4, accumulate) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let mut sound = trainer(&context, &unet, &data, &options);
        sound.step(0).expect("the device works");
        let gradients = {
            sound.step(1).expect("the device works");
            assert!(sound.findings().is_empty());
            sound.session.read(GRADIENTS).expect("the device works")
        };
        let expected = stand(&sound);
        // Each range of the gradients: its last writer, and where it begins.
        let recording = sound.recording("gradients");
        let mut writers = BTreeMap::new();
        for (index, dispatch) in recording.dispatches.iter().enumerate() {
            for (binding, (id, _)) in dispatch.bindings().enumerate().filter(|(_, (_, binding))| binding.writable) {
                let place = recording.tensors[id as usize].place;
                if let Place::Buffer { buffer, offset } = place
                    && recording.buffers[buffer].name == GRADIENTS
                {
                    writers.insert(offset / 4, (index, binding));
                }
            }
        }
        for trial in 0..20 {
            let mut trainer = trainer(&context, &unet, &data, &options);
            let (first, (dispatch, binding)) = writers.iter().nth(trial * writers.len() / 20).expect("there are more");
            let (dispatch, binding) = (*dispatch, *binding);
            let parameter = unet.params.all.iter().find(|parameter| parameter.weight.offset == *first);
            let parameter = parameter.expect("a parameter begins there");
            let flipped = gradients[*first as usize].to_bits() ^ 1 << (trial % 23);
            // In the last batch of the first computation, or in the first batch of the second.
            let second = trial as u32 % 2;
            let fault = Fault { dispatch, binding, word: 0, words: 1, bits: flipped, after: 0, times: 1 };
            let after = accumulate + accumulate - 1 + second;
            trainer.inject("gradients", Fault { after, ..fault }).expect("room");
            trainer.step(0).expect("the device works");
            trainer.step(1).expect("the device works");
            let found = trainer.findings();
            println!("{found:?}");
            let is_it = |finding: &Finding| {
                matches!(finding, Finding::Passing { step: 2, place }
                if place.contains(&parameter.name) && place.ends_with("element 0"))
            };
            assert!(found.len() == 1 && is_it(&found[0]), "{}: {found:?}", parameter.name);
            assert!(stand(&trainer) == expected, "{}: the majority did not go on", parameter.name);
        }
    }
}

/// The first turns meet each way of each kernel once; later ones each dispatch.
#[test]
fn a_kernel_that_is_wrong_every_time_is_named_once_its_turn_comes_and_no_other() {
    let context = context();
    let data = dataset(9, 3);
    for precision in [Precision::F32, Precision::F16] {
        let options = TrainOptions { audit_every: 1, precision, ..options(1000, 2, 1) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let mut trainer = trainer(&context, &unet, &data, &options);
        trainer.find_scale().expect("the device works");
        // In half precision the first of each way alone: a third of all.
        let all = trainer.audited().of;
        let turns = if precision == Precision::F32 { all } else { all / 3 };
        let recording = trainer.recording("gradients");
        let wrong = recording.dispatches.len() * 2 / 3;
        let label = recording.label(&recording.dispatches[wrong]);
        for step in 0..turns {
            trainer.step(step).expect("the device works");
            trainer.end_audit();
        }
        let sound = trainer.audited();
        assert_eq!(trainer.findings(), []);
        println!("{sound:?}");
        assert_eq!((sound.steps, sound.differed, sound.dispatches, sound.wrong), (turns, 0, turns, 0));
        let binding = written(trainer.recording("gradients"), wrong).expect("it writes");
        let bits = if precision == Precision::F32 { 3.5f32.to_bits() } else { 0x4300_4300 };
        let fault = Fault { dispatch: wrong, binding, word: 0, words: 1, bits, after: 0, times: u32::MAX };
        trainer.inject("gradients", fault).expect("room");
        let mut next = |step| {
            trainer.step(step).expect("the device works");
            trainer.end_audit();
            Some(trainer.findings()).filter(|found| !found.is_empty())
        };
        let found = (turns..turns + all).find_map(&mut next).unwrap_or_default();
        println!("{found:?}");
        assert!(!found.is_empty(), "{label}");
        assert!(found.iter().all(|finding| matches!(finding, Finding::Lasting { wrong, .. } if wrong.label == label)));
    }
}
