//! The tuner: the fastest way that computes rightly wins, is kept, and changes no bit.

#[allow(dead_code)]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{context, dataset, options};
use diffuse::cpu::Call;
use diffuse::error::Result;
use diffuse::gpu::choices::IN_ORDER;
use diffuse::gpu::kernel::{File, Need};
use diffuse::gpu::tune::{Contest, Timing};
use diffuse::gpu::{Candidate, Choices, Context, Device, Grid, Kernel, Precision, Recorder, Recordings, WEIGHTS, Ways};
use diffuse::nn::UNet;
use diffuse::ops;
use diffuse::random::Random;
use diffuse::run::trainer::{DataShape, record as record_step};
use diffuse::run::{Session, TrainOptions, Trainer};
use diffuse::tune::{self, Chosen, Clock, Mode, Policy, Settled};

const SUMS: File = File { name: "sums.wgsl", text: SUMS_TEXT };
/// Sums of 576 products, as a 3x3 convolution of 64 channels has them, and nearly as many halves as its tests had.
const SUMS_TEXT: &str = "// y_i = sum over j < 576 of (1 + j / 576) x_{i + 7 j}
    struct Params { quads: u32 }
    @group(0) @binding(14) var<uniform> params: Params;
    @group(0) @binding(0) var<storage, read> x: array<real4>;
    @group(0) @binding(1) var<storage, read_write> y: array<real4>;
    override TERMS = 1u;        // that are summed apart, then added to the rest
    override PERCENT = 0u;      // what the first of nine taps has too much
    @compute @workgroup_size(64) fn sums(@builtin(global_invocation_id) at: vec3<u32>) {
        if (at.x >= params.quads) {
            return;
        }
        var sum = vec4<f32>();
        for (var j = 0u; j < 576u; j += TERMS) {
            var part = vec4<f32>();
            for (var i = j; i < j + TERMS; i++) {
                let tap = select(1.0, 1.0 + f32(PERCENT) / 100.0, i < 64u);
                part += tap * (1.0 + f32(i) / 576.0) * load4(x[(at.x + 7u * i) % params.quads]);
            }
            sum += part;
        }
        y[at.x] = store4(sum);
    }";

fn twin(call: &mut Call) {
    let x = call.read("x").data.clone();
    let mut y = call.zeros("y");
    for (i, y) in y.data.iter_mut().enumerate() {
        *y = (0..576).map(|j| (1.0 + j as f64 / 576.0) * x[(i + 28 * j) % x.len()]).sum();
    }
    call.write("y", y);
}

static PLAIN: Kernel = Kernel::variant("sums", "register", &[], &[SUMS], &[("sums", twin)]);
static OTHER: Kernel = Kernel::variant("sums", "other", &[], &[SUMS], &[("sums", twin)]);
static WIDE: Kernel = Kernel::variant("sums", "wide", &[], &[SUMS], &[("sums", twin)]);

/// One has a wrong coefficient, one sums in another order than it promises, one in an order that it declares, one is for GPUs.
static WAYS: Ways = Ways {
    kernel: "sums",
    entry: "sums",
    candidates: &[
        Candidate::new(&OTHER, &[("PERCENT", 1)]),
        Candidate::new(&OTHER, &[("TERMS", 1)]),
        Candidate::new(&OTHER, &[("TERMS", 4)]),
        Candidate::new(&OTHER, &[("TERMS", 8)]).of_class("by eights"),
        Candidate::new(&PLAIN, &[]),
        Candidate::for_gpus(&WIDE, &[]),
    ],
    record: |r, shape| record_as(r, &WAYS, shape),
    trials: &[&[4000]],
};

/// Of two that are not trusted unseen, one has a wrong coefficient.
static DOUBTED: Ways = Ways {
    kernel: "doubted sums",
    entry: "sums",
    candidates: &[
        Candidate::new(&OTHER, &[("PERCENT", 1)]).of_class("wrong").when_checked(),
        Candidate::new(&OTHER, &[("TERMS", 8)]).of_class("by eights").when_checked(),
        Candidate::new(&PLAIN, &[]),
        Candidate::new(&WIDE, &[("TERMS", 4)]).of_class("by fours").when_checked(),
    ],
    record: |r, shape| record_as(r, &DOUBTED, shape),
    trials: &[&[4000], &[36]],
};

fn record_as(r: &mut Recorder, ways: &'static Ways, shape: &[u32]) {
    let x = r.persistent(&format!("x {shape:?}"), [1, 1, 1, shape[0]]);
    let y = r.temp(x.shape);
    let candidate = r.choose(ways, shape);
    let quads = x.elements() / 4;
    let params = [("quads", (quads as u32).into())];
    r.dispatch_candidate(candidate, "sums", &params, &[x, y], Grid::Invocations(quads), 0);
}

fn recordings(choices: &Arc<Choices>) -> Result<Recordings> {
    let mut r = Recorder::new().with_choices(choices);
    [131_072, 4000].into_iter().for_each(|size| record_as(&mut r, &WAYS, &[size]));
    Ok(Recordings::from_iter([("sums", r.finish())]))
}

fn policy(mode: Mode, directory: &Path) -> Policy {
    Policy { mode, directory: Some(directory.into()), ..Policy::default() }
}

/// What a fresh process would run.
fn settle(context: &Context, policy: &Policy) -> Settled {
    tune::settle(context, policy, &policy.known(context, Precision::F32), recordings).expect("the device works")
}

fn compare(context: &Context, precision: Precision) -> (Arc<Choices>, tune::Tuning) {
    let choices = Arc::new(Choices::new(context.kind(), precision));
    let recordings = recordings(&choices).unwrap();
    tune::compare(context, &Policy::default(), &choices, &recordings).expect("the device works")
}

#[test]
fn another_order_is_right_and_a_wrong_coefficient_is_not() {
    for precision in [Precision::F32, Precision::F16] {
        let (choices, tuning) = compare(&context(), precision);
        assert_eq!(tuning.measured.len(), 2);
        for (key, timings) in &tuning.measured {
            for timing in timings {
                let label = timing.candidate.label();
                assert_eq!(timing.error <= 1.0, label != "other PERCENT=1", "{precision:?} {key:?} {timing:?}");
            }
        }
        let wrong: Vec<_> = choices.wrong().iter().map(|way| way.way.as_str()).collect();
        let is_first = |timing: &&Timing| timing.candidate.label() == "other TERMS=4";
        let other_bits =
            tuning.measured.iter().flat_map(|(_, timings)| timings).filter(is_first).any(|t| !t.usual_bits);
        assert!(other_bits, "sums of four terms give other bits somewhere");
        assert_eq!(wrong, ["other PERCENT=1", "other TERMS=4"]);
    }
}

/// Two dispatches whose outputs nobody reads: the second one's could lie where the first one's did.
static TWICE: Ways = Ways {
    kernel: "sums",
    entry: "sums",
    candidates: &[Candidate::new(&PLAIN, &[])],
    record: |r, shape| shape.iter().for_each(|size| record_as(r, &TWICE, &[*size])),
    trials: &[],
};

#[test]
fn every_output_is_as_its_dispatch_left_it() {
    let outputs = |shape: &[u32]| {
        let runs = diffuse::gpu::tune::run(&context(), Precision::F32, &TWICE, shape, &[&TWICE.candidates[0]]);
        runs.expect("the device works").remove(0).outputs
    };
    assert_eq!(outputs(&[4000, 3996])[0], outputs(&[4000])[0]);
}

/// What it reads is in the recording.
static TABLE: Ways = Ways {
    kernel: "sums",
    entry: "sums",
    candidates: &[Candidate::new(&PLAIN, &[])],
    record: |r, _| {
        let ones = r.constant("ones", [1, 1, 1, 8], &[1.0; 8]);
        let y = r.temp([1, 1, 1, 8]);
        let params = [("quads", 2u32.into())];
        r.dispatch_candidate(&TABLE.candidates[0], "sums", &params, &[ones, y], Grid::Invocations(2), 0);
    },
    trials: &[],
};

#[test]
fn tables_that_a_recording_brings_along_are_no_inputs() {
    let run = diffuse::gpu::tune::run(&context(), Precision::F32, &TABLE, &[], &[&TABLE.candidates[0]]);
    let outputs = run.expect("the device works").remove(0).outputs;
    // The sum of 1 + j / 576 over j < 576.
    assert!(outputs[0].iter().all(|y| (y - 863.5).abs() < 1e-2), "{outputs:?}");
}

#[test]
fn the_clock_chooses_within_a_class_and_a_file_among_all() {
    let context = context();
    let place = tempfile::tempdir().unwrap();
    let Settled { choices, tuning, .. } = settle(&context, &policy(Mode::Cached, place.path()));
    for (key, _) in &tuning.measured {
        let way = choices.choose(&WAYS, &key.shape).label();
        assert!(["other TERMS=1", "register", "wide"].contains(&way.as_str()), "{way}");
    }
    // A cache that says otherwise is not heeded, a file is.
    let (key, _) = &tuning.measured[0];
    let mut choices = (*choices).clone();
    choices.set_timed(key.clone(), "other TERMS=8".into());
    assert_ne!(choices.choose(&WAYS, &key.shape).label(), "other TERMS=8");
    choices.set_explicit(key.clone(), "other TERMS=8".into());
    assert_eq!(choices.choose(&WAYS, &key.shape).label(), "other TERMS=8");
    let file = place.path().join("tuned.json");
    tune::write(&context, &file, &compare(&context, Precision::F32).1).unwrap();
    let explicit = tune::read(&context, &file).unwrap();
    assert_eq!(explicit.len(), 2);
    let policy = Policy { explicit: explicit.clone(), ..Policy::default() };
    let ran = tune::chosen(&settle(&context, &policy).choices);
    assert!(ran.len() == 2 && ran.iter().all(|way| explicit.contains(way)), "{explicit:?}");
    // What can't be had is refused: something else would give other bits.
    let mut unknown = explicit;
    unknown[0].way = "tomorrow TERMS=3".into();
    let policy = Policy { explicit: unknown, ..Policy::default() };
    let settled = tune::settle(&context, &policy, &policy.known(&context, Precision::F32), recordings);
    let error = settled.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("sums.sums of [") && error.contains("\"tomorrow TERMS=3\""), "{error}");
    let text = std::fs::read_to_string(&file).unwrap().replace(&context.info.name, "another card");
    std::fs::write(&file, text).unwrap();
    let error = tune::read(&context, &file).unwrap_err().to_string();
    assert!(error.contains("tuned on another card") && error.contains("diffuse tune --out"), "{error}");
}

#[test]
fn what_is_for_gpus_is_measured_and_chosen_on_gpus_only() {
    let context = context();
    let place = tempfile::tempdir().unwrap();
    for (_, timings) in settle(&context, &policy(Mode::Full, place.path())).tuning.measured {
        let measured = timings.iter().any(|timing| timing.candidate.label() == "wide");
        assert_eq!(measured, !context.is_cpu());
    }
    let kind = |gpu| Device { gpu, ..Device::default() };
    let usual = |gpu| Choices::new(&kind(gpu), Precision::F32).choose(&WAYS, &[8]).label();
    assert_eq!((usual(true).as_str(), usual(false).as_str()), ("wide", "other PERCENT=1"));
    // What keeps more in registers than GPUs have is for drivers that compute on the CPU.
    let way = Candidate::for_cpus(&WIDE, &[]);
    assert_eq!([true, false].map(|gpu| way.suits(&kind(gpu), Precision::F32)), [false, true]);
    let device = |few_registers| Device { gpu: true, subgroup: 32, needs: vec![Need::Subgroups], few_registers };
    let all = |few| Choices::new(&device(few), Precision::F32).class(&ops::conv2d::FORWARD, &[16, 8, 8, 64, 64]);
    assert!([false, true].into_iter().flat_map(all).all(|own| own.kernel.variant != "subgroup"));
    assert_eq!((all(false).len(), all(true).len()), (6, 3));
    let forced = Choices::forced(&Device::default(), Precision::F32, 5);
    assert_eq!(forced.choose(&WAYS, &[8]).label(), "wide");
}

#[test]
fn convolutions_run_by_winograd_where_it_is_fast_and_nobody_objects() {
    let needs = vec![Need::Subgroups];
    let device = |gpu| Device { gpu, subgroup: 8, needs: needs.clone(), few_registers: false };
    let shape = |[h, c, k, taps, stride]: [u32; 5]| [2, h, h, c, k, taps, taps, stride, taps / 2, taps / 2];
    let class = |choices: &Choices, of| choices.choose(&ops::conv2d::FORWARD, &shape(of)).class;
    let wide = [28, 64, 32, 3, 1];
    for precision in [Precision::F32, Precision::F16] {
        let choices = Choices::new(&device(false), precision);
        assert_eq!(class(&choices, wide), ops::conv2d::WINOGRAD);
        for other in [[28, 64, 16, 3, 1], [4, 64, 64, 3, 1], [28, 64, 64, 3, 2], [28, 64, 64, 1, 1]] {
            assert_eq!(class(&choices, other), IN_ORDER, "{other:?}");
        }
        assert_ne!(class(&Choices::new(&device(true), precision), wide), ops::conv2d::WINOGRAD, "on GPUs");
        let mut choices = choices;
        choices.avoid(ops::conv2d::WINOGRAD);
        assert_eq!(class(&choices, wide), IN_ORDER);
        let other = if precision == Precision::F32 { Precision::F16 } else { Precision::F32 };
        assert_eq!(class(&Arc::new(choices).at(other), wide), IN_ORDER, "at another precision");
    }
    // A shape that it can't run is left to the usual way, even if someone forces it.
    let index = ops::conv2d::FORWARD.candidates.iter().position(|c| c.class == ops::conv2d::WINOGRAD);
    let forced = Choices::forced(&device(false), Precision::F32, index.expect("a candidate"));
    assert_eq!(class(&forced, [4, 8, 8, 3, 1]), ops::conv2d::WINOGRAD);
    assert_eq!(class(&forced, [28, 64, 64, 3, 2]), IN_ORDER);
}

#[test]
fn winners_are_kept_and_measured_again_on_demand() {
    let context = context();
    let place = tempfile::tempdir().unwrap();
    let at = |mode| settle(&context, &policy(mode, place.path()));
    assert!(at(Mode::Off).tuning.measured.is_empty() && std::fs::read_dir(place.path()).unwrap().next().is_none());
    let first = at(Mode::Cached);
    assert_eq!((first.tuning.measured.len(), first.choices.timed().len()), (2, 2));
    let second = at(Mode::Cached);
    assert!(second.tuning.measured.is_empty());
    assert_eq!(second.choices.timed(), first.choices.timed());
    assert_eq!(second.choices.wrong(), first.choices.wrong());
    assert_eq!(at(Mode::Full).tuning.measured.len(), 2);
    // What the clock chose changes no bit, and no run remembers it.
    assert!(tune::chosen(&first.choices).is_empty());
}

/// The warnings that were given.
struct Warnings(Mutex<Vec<String>>);

static WARNINGS: Warnings = Warnings(Mutex::new(Vec::new()));

impl Warnings {
    fn about(&self, what: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|line| line.contains(what)).cloned().collect()
    }
}

impl log::Log for Warnings {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

#[test]
fn what_is_doubtful_runs_only_once_it_was_seen_to_be_right() {
    log::set_logger(&WARNINGS).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let context = context();
    let place = tempfile::tempdir().unwrap();
    let record = |choices: &Arc<Choices>| {
        let mut r = Recorder::new().with_choices(choices);
        record_as(&mut r, &DOUBTED, &[512]);
        Ok(Recordings::from_iter([("sums", r.finish())]))
    };
    let settled = |policy: &Policy, known: &Arc<Choices>| tune::settle(&context, policy, known, record);
    for precision in [Precision::F32, Precision::F16] {
        // Whoever doesn't tune has the check, too.
        let policy = policy(Mode::Off, place.path());
        let unknown = policy.known(&context, precision);
        assert_eq!(unknown.choose(&DOUBTED, &[512]).label(), "register");
        let before = WARNINGS.about("doubted sums").len();
        let first = settled(&policy, &unknown).expect("the device works").choices;
        let verdicts: Vec<_> = first.verdicts().iter().map(|(way, right)| (way.way.as_str(), *right)).collect();
        let expected = [("other PERCENT=1", false), ("other TERMS=8", true), ("wide TERMS=4", true)];
        assert!(expected.iter().all(|own| verdicts.contains(own)), "{verdicts:?}");
        let used = if context.is_cpu() { "other TERMS=8" } else { "wide TERMS=4" };
        assert_eq!(first.choose(&DOUBTED, &[512]).label(), used);
        let lines = WARNINGS.about("doubted sums")[before..].to_vec();
        assert!(lines.len() == 1 && lines[0].contains("other PERCENT=1 wrongly"), "{lines:?}");
        // The verdict is read, and nothing checked again.
        for mode in [Mode::Off, Mode::Known, Mode::Cached] {
            let policy = Policy { mode, ..policy.clone() };
            let known = policy.known(&context, precision);
            assert_eq!(known.verdicts(), first.verdicts());
            let again = settled(&policy, &known).expect("the device works").choices;
            assert_eq!((again.choose(&DOUBTED, &[512]).label().as_str(), again.verdicts()), (used, first.verdicts()));
        }
        assert_eq!(WARNINGS.about("doubted sums").len(), before + 1);
        // Nobody can have what is wrong.
        let (key, way) = (unknown.key(&DOUBTED, &[512]), "other PERCENT=1".into());
        let policy = Policy { explicit: vec![Chosen { key, way }], ..policy };
        let error = settled(&policy, &policy.known(&context, precision)).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("other PERCENT=1") && error.contains("computes wrongly"), "{error}");
    }
}

#[test]
fn matrix_units_are_doubtful_and_those_of_this_device_are_right() {
    let context = context();
    for ways in ops::ALL.iter().flat_map(|op| op.ways).filter(|ways| ways.kernel != "ceiling") {
        for candidate in ways.candidates {
            assert_eq!(candidate.doubtful, candidate.kernel.needs.iter().any(|need| need.is_matrices()));
        }
        assert!(!ways.trials.is_empty(), "{}.{}", ways.kernel, ways.entry);
        let doubtful = |c: &&Candidate| c.doubtful && c.runs_on(context.kind(), Precision::F16);
        let candidates: Vec<_> = ways.candidates.iter().filter(doubtful).collect();
        let start = std::time::Instant::now();
        let errors = diffuse::gpu::trial::check(&context, Precision::F16, ways, &candidates).expect("the device works");
        println!("{}.{}: {errors:?} in {:?}", ways.kernel, ways.entry, start.elapsed());
        assert!(errors.iter().all(|error| *error <= 1.0), "{}.{}: {errors:?}", ways.kernel, ways.entry);
    }
}

/// A recording is made once where all is known, and once more where something was chosen.
#[test]
fn nothing_is_recorded_three_times() {
    let context = context();
    let place = tempfile::tempdir().unwrap();
    for expected in [2, 1] {
        let count = std::cell::Cell::new(0);
        let record = |choices: &_| {
            count.set(count.get() + 1);
            recordings(choices)
        };
        let policy = policy(Mode::Cached, place.path());
        let settled = tune::settle(&context, &policy, &policy.known(&context, Precision::F32), record);
        let settled = settled.expect("the device works");
        assert_eq!(count.get(), expected);
        for dispatch in &settled.recordings.get("sums").unwrap().dispatches {
            let quads = settled.recordings.get("sums").unwrap().tensor(dispatch.io[0]).elements() as u32;
            let chosen = settled.choices.choose(&WAYS, &[quads]);
            assert!(std::ptr::eq(dispatch.kernel, chosen.kernel) && dispatch.constants == chosen.constants);
        }
    }
}

#[test]
fn the_members_of_a_class_agree_bit_for_bit() {
    let mut compared = 0;
    for precision in [Precision::F32, Precision::F16] {
        let context = context();
        let registers = |ways: &&&Ways| ways.candidates.iter().any(|candidate| candidate.is_register());
        for ways in ops::ALL.iter().flat_map(|op| op.ways).filter(registers) {
            let runs_here = |c: &&Candidate| c.runs_on(context.kind(), precision);
            for shape in ways.trials {
                let takes = |c: &&Candidate| c.takes(shape);
                let candidates: Vec<_> = ways.candidates.iter().filter(runs_here).filter(takes).collect();
                let runs =
                    diffuse::gpu::tune::run(&context, precision, ways, shape, &candidates).expect("the device works");
                let mut classes: BTreeMap<&str, (String, Vec<Vec<f32>>)> = BTreeMap::new();
                for run in runs {
                    let label = run.candidate.label();
                    let Some((first, outputs)) = classes.get(run.candidate.class) else {
                        classes.insert(run.candidate.class, (label, run.outputs));
                        continue;
                    };
                    compared += 1;
                    let each = outputs.iter().flatten().zip(run.outputs.iter().flatten());
                    let differ = each.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                    let name = format!("{} {} {precision:?} {shape:?}", ways.kernel, ways.entry);
                    assert_eq!(differ, 0, "{name}: elements that {first} and {label} round differently");
                }
            }
        }
    }
    assert!(compared > 0, "this device runs one way of each class");
}

/// The device's own results, at random times, until a random moment.
struct RandomClock(Random);

impl Clock for RandomClock {
    fn time(&mut self, context: &Context, contest: &Contest) -> Result<Vec<Timing>> {
        let mut timings = diffuse::gpu::tune::time(context, contest)?;
        timings.iter_mut().for_each(|timing| timing.seconds = self.0.uniform());
        Ok(timings)
    }

    fn is_over(&mut self) -> bool {
        self.0.uniform() < 0.1
    }
}

#[test]
fn whatever_the_clock_says_a_seed_gives_the_same_bits() {
    let context = context();
    let data = dataset(9, 3);
    for precision in [Precision::F32, Precision::F16] {
        let options = TrainOptions { precision, ..options(4, 4, 1) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let (mut weights, mut ways) = (Vec::new(), Vec::new());
        for seed in 0..4 {
            let usual = Arc::new(Choices::new(context.kind(), precision));
            let record = |choices: &_| record_step(&unet, &options, &DataShape::of(&data), choices);
            let mut clock = RandomClock(Random::new(seed));
            let settled = tune::settle_by(&context, Some(&mut clock), None, &usual, record).expect("the device works");
            let session = Session::with(&context, settled.choices.clone());
            let mut trainer = Trainer::new(session, &unet, &data, &options).expect("it fits");
            trainer.write_weights(&unet.params.initialise(options.seed));
            for step in 0..4 {
                trainer.step(step).expect("the device works");
            }
            trainer.finish().expect("the device works");
            let bits = trainer.session.read(WEIGHTS).expect("the device works");
            weights.push(bits.into_iter().map(f32::to_bits).collect::<Vec<_>>());
            ways.push(settled.choices.timed().clone());
        }
        assert!(weights.iter().all(|other| *other == weights[0]), "{precision:?}: weights differ");
        // Else nothing was shown.
        let usual = Choices::new(context.kind(), precision);
        let alone = ops::ALL.iter().flat_map(|op| op.ways).all(|w| usual.class(w, &[1; 10]).len() < 2);
        assert!(alone || ways.iter().any(|other| *other != ways[0]), "{precision:?}: random times chose alike");
    }
}
