//! The tuner: the fastest way that computes rightly wins, is kept, and changes no bit.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{dataset, engine, options};
use diffuse::cpu::Call;
use diffuse::error::Result;
use diffuse::gpu::kernel::File;
use diffuse::gpu::tune::Timing;
use diffuse::gpu::{Candidate, Choices, Context, Device, Grid, Kernel, Precision, Recorder, Recording, WEIGHTS, Ways};
use diffuse::nn::UNet;
use diffuse::ops;
use diffuse::random::Random;
use diffuse::train::{TrainOptions, run};
use diffuse::tune::{self, Clock, Mode};

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

fn recording(choices: &Arc<Choices>) -> Result<Vec<Recording>> {
    let mut r = Recorder::new().with_choices(choices);
    [131_072, 4000].into_iter().for_each(|size| record(&mut r, &[size]));
    Ok(vec![r.finish()])
}

fn context(precision: Precision) -> Context {
    let mut context = common::context();
    context.choices = context.choices.at(precision);
    context
}

fn prepare(context: &mut Context, mode: Mode, directory: &Path) -> tune::Tuning {
    tune::prepare(context, mode, Some(directory), recording).expect("the device works")
}

#[test]
fn another_order_is_right_and_a_wrong_coefficient_is_not() {
    for precision in [Precision::F32, Precision::F16] {
        let mut context = context(precision);
        let place = tempfile::tempdir().unwrap();
        let tuning = tune::compare(&mut context, Some(place.path()), recording).expect("the device works");
        assert_eq!(tuning.measured.len(), 2);
        for (key, timings) in &tuning.measured {
            for timing in timings {
                let label = timing.candidate.label();
                assert_eq!(timing.error <= 1.0, label != "other PERCENT=1", "{precision:?} {key:?} {timing:?}");
            }
        }
        let wrong: Vec<_> = context.choices.wrong().iter().map(|way| way.way.as_str()).collect();
        let is_first = |timing: &&Timing| timing.candidate.label() == "other TERMS=4";
        let other_bits =
            tuning.measured.iter().flat_map(|(_, timings)| timings).filter(is_first).any(|t| !t.usual_bits);
        assert!(other_bits, "sums of four terms give other bits somewhere");
        assert_eq!(wrong, ["other PERCENT=1", "other TERMS=4"]);
    }
}

#[test]
fn the_clock_chooses_within_a_class_and_a_file_among_all() {
    let mut context = context(Precision::F32);
    let place = tempfile::tempdir().unwrap();
    let tuning = prepare(&mut context, Mode::Cached, place.path());
    for (key, _) in &tuning.measured {
        let way = context.choices.choose(&WAYS, &key.shape).label();
        assert!(["other TERMS=1", "register", "wide"].contains(&way.as_str()), "{way}");
    }
    // A cache that says otherwise is not heeded, a file is.
    let (key, _) = &tuning.measured[0];
    let mut choices = (*context.choices).clone();
    choices.set_timed(key.clone(), "other TERMS=8".into());
    assert_ne!(choices.choose(&WAYS, &key.shape).label(), "other TERMS=8");
    choices.set_explicit(key.clone(), "other TERMS=8".into());
    assert_eq!(choices.choose(&WAYS, &key.shape).label(), "other TERMS=8");
    let file = place.path().join("tuned.json");
    let tuning = tune::compare(&mut self::context(Precision::F32), None, recording).expect("the device works");
    tune::write(&context, &file, &tuning).unwrap();
    let chosen = tune::read(&context, &file).unwrap();
    tune::restore(&mut context, chosen.clone());
    assert_eq!(chosen.len(), 2);
    assert!(tune::chosen(&context.choices).iter().all(|way| chosen.contains(way)), "{chosen:?}");
    assert_eq!(tune::chosen(&context.choices).len(), 2);
    let text = std::fs::read_to_string(&file).unwrap().replace(&context.info.name, "another card");
    std::fs::write(&file, text).unwrap();
    let error = tune::read(&context, &file).unwrap_err().to_string();
    assert!(error.contains("tuned on another card") && error.contains("diffuse tune --out"), "{error}");
}

#[test]
fn what_is_for_gpus_is_measured_and_chosen_on_gpus_only() {
    let mut context = context(Precision::F32);
    let place = tempfile::tempdir().unwrap();
    for (_, timings) in prepare(&mut context, Mode::Full, place.path()).measured {
        let measured = timings.iter().any(|timing| timing.candidate.label() == "wide");
        assert_eq!(measured, !context.is_cpu());
    }
    let usual = |gpu| Choices::new(Device { gpu, ..Device::default() }).choose(&WAYS, &[8]).label();
    assert_eq!((usual(true).as_str(), usual(false).as_str()), ("wide", "other PERCENT=1"));
    let forced = Choices::forced(&Device::default(), Precision::F32, 5);
    assert_eq!(forced.choose(&WAYS, &[8]).label(), "wide");
}

#[test]
fn winners_are_kept_and_measured_again_on_demand() {
    let mut context = context(Precision::F32);
    let place = tempfile::tempdir().unwrap();
    let off = prepare(&mut context, Mode::Off, place.path());
    assert!(off.measured.is_empty() && std::fs::read_dir(place.path()).unwrap().next().is_none());
    let first = prepare(&mut context, Mode::Cached, place.path());
    assert_eq!((first.measured.len(), context.choices.timed().len()), (2, 2));
    let mut second = self::context(Precision::F32);
    assert!(prepare(&mut second, Mode::Cached, place.path()).measured.is_empty());
    assert_eq!(second.choices.timed(), context.choices.timed());
    assert_eq!(second.choices.wrong(), context.choices.wrong());
    assert_eq!(prepare(&mut self::context(Precision::F32), Mode::Full, place.path()).measured.len(), 2);
    // What the clock chose changes no bit, and no run remembers it.
    assert!(tune::chosen(&context.choices).is_empty());
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
        let context = context(precision);
        let registers = |ways: &&&Ways| ways.candidates.iter().any(|candidate| candidate.is_register());
        for ways in ops::ALL.iter().flat_map(|op| op.ways).filter(registers) {
            let runs_here = |c: &&Candidate| c.runs_on(context.kind(), precision);
            let candidates: Vec<_> = ways.candidates.iter().filter(runs_here).collect();
            for shape in shapes(ways.kernel) {
                let runs = diffuse::gpu::tune::run(&context, ways, shape, &candidates).expect("the device works");
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
    fn time(
        &mut self,
        context: &Context,
        ways: &Ways,
        shape: &[u32],
        candidates: &[&'static Candidate],
    ) -> Result<Vec<Timing>> {
        let mut timings = diffuse::gpu::tune::time(context, ways, shape, candidates)?;
        timings.iter_mut().for_each(|timing| timing.seconds = self.0.uniform());
        Ok(timings)
    }

    fn is_over(&mut self) -> bool {
        self.0.uniform() < 0.1
    }
}

#[test]
fn whatever_the_clock_says_a_seed_gives_the_same_bits() {
    let data = dataset(9, 3);
    for precision in [Precision::F32, Precision::F16] {
        let options = TrainOptions { precision, ..options(4, 4, 1) };
        let unet = UNet::new(options.model.clone()).expect("a valid model");
        let (mut weights, mut ways) = (Vec::new(), Vec::new());
        for seed in 0..4 {
            let mut context = context(precision);
            let record = |choices: &_| run::recordings(&options, &data, choices);
            tune::prepare_by(&mut context, &mut RandomClock(Random::new(seed)), None, record)
                .expect("the device works");
            let mut engine = engine(&context, &unet, &data, &options);
            for step in 0..4 {
                engine.step(&context, step).expect("the device works");
            }
            engine.finish(&context).expect("the device works");
            let bits = engine.memory.read(&context, WEIGHTS).expect("the device works");
            weights.push(bits.into_iter().map(f32::to_bits).collect::<Vec<_>>());
            ways.push(context.choices.timed().clone());
        }
        assert!(weights.iter().all(|other| *other == weights[0]), "{precision:?}: weights differ");
        // Else nothing was shown.
        let alone =
            ops::ALL.iter().flat_map(|op| op.ways).all(|w| context(precision).choices.class(w, &[1; 10]).len() < 2);
        assert!(alone || ways.iter().any(|other| *other != ways[0]), "{precision:?}: random times chose alike");
    }
}
