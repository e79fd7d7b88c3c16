//! The tuner: the fastest way that computes rightly wins, and is kept.

use std::path::Path;
use std::sync::Arc;

use diffuse::cpu::Call;
use diffuse::error::Result;
use diffuse::gpu::kernel::File;
use diffuse::gpu::{Candidate, Choices, Context, Device, Grid, Kernel, Precision, Recorder, Recording, Ways};
use diffuse::tune::{self, Mode};

const RIGHT: File = File { name: "double.wgsl", text: DOUBLE };
const DOUBLE: &str = "// y = 2 x
    struct Params { quads: u32 }
    @group(0) @binding(14) var<uniform> params: Params;
    @group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
    @group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
    override FACTOR = 2u;
    @compute @workgroup_size(64) fn double(@builtin(global_invocation_id) at: vec3<u32>) {
        if (at.x < params.quads) { y[at.x] = f32(FACTOR) * x[at.x]; }
    }";

fn twin(call: &mut Call) {
    let mut y = call.read("x").clone();
    y.data.iter_mut().for_each(|y| *y *= 2.0);
    call.write("y", y);
}

static PLAIN: Kernel = Kernel::variant("double", "register", &[], &[RIGHT], &[("double", twin)]);
static OTHER: Kernel = Kernel::variant("double", "other", &[], &[RIGHT], &[("double", twin)]);
static WIDE: Kernel = Kernel::variant("double", "wide", &[], &[RIGHT], &[("double", twin)]);

/// The first computes something else, the last is for GPUs.
static WAYS: Ways = Ways {
    kernel: "double",
    entry: "double",
    candidates: &[
        Candidate::new(&OTHER, &[("FACTOR", 3)]),
        Candidate::new(&OTHER, &[("FACTOR", 2)]),
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
    r.dispatch_candidate(
        candidate,
        "double",
        &[("quads", (quads as u32).into())],
        &[x, y],
        Grid::Invocations(quads),
        0,
    );
}

fn recording(choices: &Arc<Choices>) -> Result<Vec<Recording>> {
    let mut r = Recorder::new().with_choices(choices);
    [64, 4000].into_iter().for_each(|size| record(&mut r, &[size]));
    Ok(vec![r.finish()])
}

fn prepare(context: &mut Context, mode: Mode, directory: &Path) -> tune::Tuning {
    tune::prepare(context, mode, Some(directory), recording).expect("the device works")
}

#[test]
fn a_way_that_computes_wrongly_never_wins() {
    let mut context = Context::new(None).expect("GPU tests need an adapter");
    let place = tempfile::tempdir().unwrap();
    let tuning = prepare(&mut context, Mode::Cached, place.path());
    assert_eq!(tuning.measured.len(), 2);
    assert_eq!(tuning.wrong.iter().collect::<Vec<_>>(), ["double double, other FACTOR=3"]);
    for (key, _) in &tuning.measured {
        let way = context.choices.get(key).expect("a winner");
        assert!(["other FACTOR=2", "register", "wide"].contains(&way), "{way}");
    }
}

#[test]
fn what_is_for_gpus_is_measured_and_chosen_on_gpus_only() {
    let mut context = Context::new(None).expect("GPU tests need an adapter");
    let place = tempfile::tempdir().unwrap();
    for (_, timings) in prepare(&mut context, Mode::Full, place.path()).measured {
        let measured = timings.iter().any(|timing| timing.candidate.label() == "wide");
        assert_eq!(measured, !context.is_cpu());
    }
    let usual = |gpu| Choices::new(Device { gpu, ..Device::default() }).choose(&WAYS, &[8]).label();
    assert_eq!((usual(true).as_str(), usual(false).as_str()), ("wide", "other FACTOR=3"));
    let forced = Choices::forced(&Device::default(), Precision::F32, 3);
    assert_eq!(forced.choose(&WAYS, &[8]).label(), "wide");
}

#[test]
fn winners_are_kept_and_measured_again_on_demand() {
    let mut context = Context::new(None).expect("GPU tests need an adapter");
    let place = tempfile::tempdir().unwrap();
    let off = prepare(&mut context, Mode::Off, place.path());
    assert!(off.measured.is_empty() && std::fs::read_dir(place.path()).unwrap().next().is_none());
    let first = prepare(&mut context, Mode::Cached, place.path());
    let chosen = tune::chosen(&context.choices);
    assert_eq!((first.measured.len(), chosen.len()), (2, 2));
    assert!(prepare(&mut context, Mode::Cached, place.path()).measured.is_empty());
    assert_eq!(tune::chosen(&context.choices), chosen);
    assert_eq!(prepare(&mut context, Mode::Full, place.path()).measured.len(), 2);
    tune::restore(&mut context, chosen.clone());
    assert_eq!(tune::chosen(&context.choices), chosen);
}
