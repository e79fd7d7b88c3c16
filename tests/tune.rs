//! The tuner: the fastest way that computes rightly wins, is kept, and changes no bit.

#[allow(dead_code)]
mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{context, dataset, options};
use diffuse::cpu::Call;
use diffuse::error::Result;
use diffuse::gpu::kernel::{File, Need};
use diffuse::gpu::tune::{Contest, Timing};
use diffuse::gpu::{Candidate, Choices, Context, Device, Grid, Kernel, Precision, Recorder, Recordings, WEIGHTS, Ways};
use diffuse::nn::UNet;
use diffuse::ops;
use diffuse::random::Random;
use diffuse::run::trainer::{DataShape, record as record_step};
use diffuse::run::{Session, TrainOptions, Trainer};
use diffuse::tune::{self, Clock, Mode, Policy, Settled};

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
    record,
};

fn record(r: &mut Recorder, shape: &[u32]) {
    let x = r.persistent(&format!("x {shape:?}"), [1, 1, 1, shape[0]]);
    let y = r.temp(x.shape);
    let candidate = r.choose(&WAYS, shape);
    let quads = x.elements() / 4;
    let params = [("quads", (quads as u32).into())];
    r.dispatch_candidate(candidate, "sums", &params, &[x, y], Grid::Invocations(quads), 0);
}

fn recordings(choices: &Arc<Choices>) -> Result<Recordings> {
    let mut r = Recorder::new().with_choices(choices);
    [131_072, 4000].into_iter().for_each(|size| record(&mut r, &[size]));
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

/// Shapes of an operation's entry points, as it asks for them: odd ones, and such as need several tiles and splits.
fn shapes(kernel: &str) -> &'static [&'static [u32]] {
    match kernel {
        "conv2d" => &[
            &[3, 9, 11, 37, 19, 3, 3, 1, 1, 1],
            &[1, 13, 14, 134, 67, 3, 2, 2, 1, 1],
            &[2, 16, 16, 4, 32, 3, 3, 1, 1, 1],
            &[2, 17, 15, 12, 21, 3, 3, 2, 0, 1],
        ],
        "linear" => &[&[391, 36, 20], &[130, 136, 68], &[1030, 4, 32]],
        "attention" => &[&[2, 37, 2, 20], &[1, 65, 1, 70], &[1, 33, 1, 132]],
        _ => panic!("shapes of {kernel}, whose candidates are to be compared"),
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
            let candidates: Vec<_> = ways.candidates.iter().filter(runs_here).collect();
            for shape in shapes(ways.kernel) {
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
