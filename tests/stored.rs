//! Recordings in their stored form: what another process reads runs to the same bits, and nothing that is wrong is run.

#[path = "common/runner.rs"]
mod runner;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use diffuse::error::Result;
use diffuse::gpu::recorder::Place;
use diffuse::gpu::stored::{self, Stored, Writer};
use diffuse::gpu::{
    Choices, Context, GRADIENTS, Memory, Plan, PlanOptions, Precision, Recorder, Recordings, Step, WEIGHTS,
};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ops::conv2d::{self, Geometry};
use diffuse::ops::{self, add};
use diffuse::random::Random;
use serde_json::{Value, json};

const SEED: u64 = 29;
/// Where the other process writes: the test that finds it does.
const PLACE: &str = "DIFFUSE_TEST_STORED_DIRECTORY";
const PRECISIONS: [(&str, Precision); 2] = [("f32", Precision::F32), ("f16", Precision::F16)];

/// 8x8, two levels with attention, classes.
fn network() -> UNet {
    let config: UNetConfig = serde_json::from_str(include_str!("common/tiny.json")).expect("a configuration");
    UNet::new(config).expect("one that can be built")
}

fn context() -> Context {
    Context::new(None).expect("GPU tests need an adapter")
}

/// A small U-Net forward, and forward and backward: recordings that share buffers.
fn step(network: &UNet, choices: &Arc<Choices>) -> Recordings {
    let record = |backward: bool| {
        let mut r = Recorder::for_model(network.params.elements, WEIGHTS).with_choices(choices);
        let x = r.persistent("x", [2, 8, 8, 1]);
        let timestep = r.persistent("timestep", [1, 1, 1, 2]);
        let labels = Some(r.persistent("labels", [1, 1, 1, 2]));
        let (y, saved) = network.forward(&mut r, x, timestep, labels);
        let out = r.persistent("out", y.shape);
        add::scale_into(&mut r, y, 1.0, out);
        if backward {
            let dy = r.persistent("dy", y.shape);
            network.backward(&mut r, saved, dy);
        }
        r.finish()
    };
    [("forward", record(false)), ("backward", record(true))].into_iter().collect()
}

/// Plans all parts, runs each once on the same numbers, and gives the bits of the output and of all gradients.
fn bits(context: &Context, network: &UNet, recordings: &Recordings) -> Vec<u32> {
    let mut memory = Memory::default();
    let plan = |recording| Plan::new(context, recording, &mut memory, PlanOptions::default()).expect("it fits");
    let plans: Vec<Plan> = recordings.iter().map(|(_, recording)| recording).map(plan).collect();
    let (backward, last) = (recordings.get("backward").expect("a part"), plans.last().expect("two"));
    memory.write(context, WEIGHTS, 0, &network.params.initialise(SEED));
    memory.write(context, "timestep", 0, &[17.0f32, 801.0, 0.0, 0.0]);
    memory.write(context, "labels", 0, &[1u32, 2, 0, 0]);
    let mut random = Random::new(SEED);
    for name in ["x", "dy"] {
        let tensor = backward.named(name).expect("a named buffer");
        let values = (0..tensor.elements()).map(|i| if i % 4 == 0 { random.normal() as f32 } else { 0.0 });
        last.write(context, tensor, &values.collect::<Vec<f32>>());
    }
    plans.iter().for_each(|plan| _ = plan.run(context, &Step::default()));
    let out = last.read(context, backward.named("out").expect("a named buffer")).expect("the device works");
    let gradients = memory.read(context, GRADIENTS).expect("the device works");
    let values = [out, gradients].concat();
    assert!(values.iter().all(|value| value.is_finite()));
    assert!(values.iter().filter(|value| **value != 0.0).count() > values.len() / 8, "hardly anything was computed");
    values.iter().map(|value| value.to_bits()).collect()
}

fn text(stored: &Stored) -> Vec<u8> {
    serde_json::to_vec(&stored.form).expect("plain data")
}

/// What the other process does: records, stores, and runs what it recorded.
fn write(place: &Path) {
    let (context, network) = (context(), network());
    for (name, precision) in PRECISIONS {
        let choices = Arc::new(Choices::new(context.kind(), precision));
        let recordings = step(&network, &choices);
        let mut writer = Writer::default();
        writer.add("another", &Recordings::default());
        writer.add("step", &recordings);
        let stored = writer.finish();
        let bits: Vec<u8> = bits(&context, &network, &recordings).iter().flat_map(|word| word.to_le_bytes()).collect();
        for (ending, bytes) in [("json", text(&stored)), ("bin", stored.binary), ("bits", bits)] {
            fs::write(place.join(format!("{name}.{ending}")), bytes).expect("room for a file");
        }
    }
}

#[test]
fn what_another_process_recorded_runs_to_the_same_bits() {
    if let Some(place) = std::env::var_os(PLACE) {
        return write(Path::new(&place));
    }
    let place = tempfile::tempdir().expect("a place for files");
    let own = "what_another_process_recorded_runs_to_the_same_bits";
    // Under a runner the system may take another file for the program.
    let program = std::env::args().next().expect("this program");
    let words: Vec<String> = runner::words().into_iter().chain([program]).collect();
    let mut other = Command::new(&words[0]);
    let output = other.args(&words[1..]).args(["--exact", own]).env(PLACE, place.path()).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let (context, network) = (context(), network());
    for (name, _) in PRECISIONS {
        let file = |ending| fs::read(place.path().join(format!("{name}.{ending}"))).expect("the other wrote it");
        let mut sets = stored::read(&file("json"), &file("bin"), ops::find).expect("what this version wrote");
        assert_eq!(sets.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["another", "step"]);
        let (_, recordings) = sets.remove(1);
        let found: Vec<u8> = bits(&context, &network, &recordings).iter().flat_map(|word| word.to_le_bytes()).collect();
        assert!(found == file("bits"), "{name}: other bits");
    }
}

/// Of what is read back everything is as it was recorded, but what there was to choose from.
#[test]
fn what_is_read_is_what_was_recorded() {
    let network = network();
    for (_, precision) in PRECISIONS {
        let recordings = step(&network, &Arc::new(Choices::new(&Default::default(), precision)));
        let mut writer = Writer::default();
        writer.add("step", &recordings);
        let stored = writer.finish();
        let (_, read) = stored::read(&text(&stored), &stored.binary, ops::find).expect("it can be read").remove(0);
        for ((name, recording), (own_name, own)) in recordings.iter().zip(read.iter()) {
            assert_eq!(name, own_name);
            assert_eq!((&recording.scopes, recording.precision), (&own.scopes, own.precision));
            assert_eq!(format!("{:?}", recording.dispatches), format!("{:?}", own.dispatches));
            assert_eq!(format!("{:?}", recording.buffers), format!("{:?}", own.buffers));
            let tensors = |recording: &diffuse::gpu::Recording| {
                let half = |id: usize| recording.is_half(id as u32);
                let all = recording.tensors.iter().enumerate();
                all.map(|(id, tensor)| (tensor.shape, tensor.place, half(id))).collect::<Vec<_>>()
            };
            assert_eq!(tensors(recording), tensors(own));
        }
        // What a page runs: no packing of its own, and parts within their wholes.
        for (stored, (_, recording)) in stored.form.sets[0].recordings.iter().zip(recordings.iter()) {
            let slots = recording.slots(true);
            assert_eq!(stored.slots, slots.bytes);
            for (id, tensor) in stored.tensors.iter().enumerate() {
                let (whole, offset) = match recording.tensors[id].place {
                    Place::Part { whole, offset } => (whole as usize, offset),
                    _ => (id, 0),
                };
                assert_eq!(tensor.slot, slots.slot_of[whole].map(|slot| [slot as u64, offset]), "tensor {id}");
                assert!(tensor.slot.is_none_or(|[slot, offset]| offset + tensor.bytes <= stored.slots[slot as usize]));
            }
        }
    }
}

/// Two dispatches with parameters, one on a part of a temporary, and a buffer of fixed contents.
fn small() -> (Value, Vec<u8>) {
    let mut r = Recorder::new();
    let x = r.persistent("x", [1, 4, 4, 4]);
    let weight = r.constant("weight", [3, 3, 4, 4], &[0.5; 144]);
    let bias = r.persistent("bias", [1, 1, 1, 4]);
    let y = r.scope("first", |r| conv2d::forward(r, x, weight, bias, Geometry::same(3)));
    let (whole, _) = r.join(&[y]);
    let out = r.persistent("out", whole.shape);
    add::accumulate(&mut r, out, whole);
    let mut writer = Writer::default();
    writer.add("small", &[("only", r.finish())].into_iter().collect());
    let stored = writer.finish();
    (serde_json::to_value(&stored.form).expect("plain data"), stored.binary)
}

fn read(form: &Value, binary: &[u8]) -> Result<Vec<(String, Recordings)>> {
    stored::read(form.to_string().as_bytes(), binary, ops::find)
}

#[test]
fn what_is_wrong_is_refused_in_a_line() {
    let (form, binary) = small();
    assert!(read(&form, &binary).is_ok());
    let first = "/sets/0/recordings/0";
    let cases = [
        (
            "/format".into(),
            json!("diffuse page"),
            "their format is \"diffuse page\", and must be \"diffuse recordings\"",
        ),
        ("/version".into(), json!(2), "they are of version 2, this program reads 1: read them with the diffuse that"),
        ("/version".into(), json!(-1), "they can't be read: invalid value"),
        ("/step/bytes".into(), json!(4), "their step has another layout"),
        ("/kernels/0/label".into(), json!("conv2d.other"), "this program has no kernel conv2d.other"),
        ("/kernels/0/files/0".into(), json!(99), "there is no file 99"),
        ("/files/0/text".into(), json!("fn other() {}"), "the source of conv2d.register is another one here"),
        ("/pipelines/0/kernel".into(), json!(7), "there is no kernel 7, they are 2"),
        ("/pipelines/0/entry".into(), json!("sideways"), "has no entry point sideways"),
        ("/pipelines/0/constants/LANES".into(), json!(3), "no kernel conv2d.register with the constants"),
        ("/pipelines/0/bindings/0".into(), json!(9), "conv2d.register.forward has other bindings here"),
        ("/pipelines/0/params/bytes".into(), json!(4), "conv2d.register.forward has other bindings here"),
        ("/sets/0/buffers/1/contents/0".into(), json!(u64::MAX), "are not in the binary"),
        ("/sets/0/buffers/1/contents/1".into(), json!(4), "has contents of another size"),
        ("/sets/0/buffers/0/name".into(), json!("out"), "buffer \"out\" is there twice"),
        ("/sets/0/buffers/0/bytes".into(), json!(u64::MAX), "is no size"),
        (
            "/sets/0/buffers/0/bytes".into(),
            json!(128),
            "small: only: tensor 0 begins at 0 of 128 bytes, where it can't",
        ),
        (format!("{first}/tensors/0/shape"), json!([1, 4, 4, 0]), "of which there is none"),
        (format!("{first}/tensors/0/shape"), json!(vec![u32::MAX; 4]), "of which there is none"),
        (format!("{first}/tensors/0/bytes"), json!(260), "[1, 4, 4, 4] takes 256 bytes, not 260"),
        (format!("{first}/tensors/0/buffer/0"), json!(9), "tensor 0 is in buffer 9, which there is not"),
        (format!("{first}/tensors/0/buffer/1"), json!(16), "tensor 0 begins at 16 of 256 bytes"),
        (format!("{first}/tensors/0/half"), json!(true), "takes 128 bytes, not 256"),
        (format!("{first}/tensors/3/part/0"), json!(0), "tensor 3 is a part of 0, which is no whole temporary"),
        (format!("{first}/tensors/3/part/1"), json!(512), "tensor 3 begins at 512"),
        (format!("{first}/tensors/3/buffer"), json!([0, 0]), "is in a buffer and a part of a temporary at once"),
        (format!("{first}/dispatches/0/pipeline"), json!(9), "dispatch 0 runs pipeline 9, which there is not"),
        (format!("{first}/dispatches/0/io"), json!([0]), "dispatch 0 binds [0], and is to bind"),
        (format!("{first}/dispatches/0/io/0"), json!(99), "dispatch 0 binds [99"),
        (format!("{first}/dispatches/0/io/0"), json!(3), "share a buffer"),
        (format!("{first}/dispatches/0/grid/1"), json!(65_536), "has a grid of [1, 65536, 1]"),
        (format!("{first}/dispatches/0/grid/1"), json!(0), "has a grid of [1, 0, 1]"),
        (format!("{first}/dispatches/0/params/0"), json!(binary.len()), "are not in the binary"),
        (format!("{first}/dispatches/0/params/1"), json!(4), "has 4 bytes of parameters, which is not what it takes"),
        (format!("{first}/dispatches/0/scope"), json!(9), "no scope"),
        (format!("{first}/dispatches/0/flops"), json!(u64::MAX), "too much to compute"),
        (format!("{first}/dispatches"), json!([form.pointer(&format!("{first}/dispatches/1"))]), "which nothing wrote"),
        (format!("{first}/precision"), json!("f16"), "another precision than its recording"),
    ];
    for (place, value, problem) in cases {
        let mut changed = form.clone();
        let (parent, key) = place.rsplit_once('/').expect("a path");
        match changed.pointer_mut(parent).expect("a place") {
            Value::Object(object) => _ = object.insert(key.into(), value),
            Value::Array(array) => array[key.parse::<usize>().expect("a number")] = value,
            other => panic!("{place} is in {other}"),
        }
        let message = read(&changed, &binary).err().unwrap_or_else(|| panic!("{place}: taken")).to_string();
        assert!(message.contains(problem) && !message.contains('\n'), "{place}: {message}");
        assert!(message.starts_with("stored recordings: "), "{message}");
    }
}

/// Paths of all numbers, texts and lists.
fn places(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| places(value, format!("{path}/{key}"), found)),
        Value::Array(array) => {
            array.iter().enumerate().for_each(|(index, value)| places(value, format!("{path}/{index}"), found));
        }
        _ => {}
    }
    found.push(path);
}

/// Whatever stands in any place: a line or recordings that can be planned, and never a panic.
#[test]
fn nothing_that_is_read_makes_it_panic() {
    let (form, binary) = small();
    let mut all = Vec::new();
    places(&form, String::new(), &mut all);
    let values =
        [json!(0), json!(1), json!(u32::MAX), json!(u64::MAX), json!(-1), json!(1e300), json!([]), json!(null)];
    let mut refused = 0;
    for place in &all {
        for value in &values {
            let mut changed = form.clone();
            *changed.pointer_mut(place).expect("a place") = value.clone();
            match read(&changed, &binary) {
                Err(error) => {
                    refused += 1;
                    assert!(!error.to_string().contains('\n'), "{place}: {error}");
                }
                Ok(sets) => sets.iter().for_each(|(_, recordings)| _ = recordings.peak_bytes()),
            }
        }
    }
    assert!(refused > all.len() * values.len() / 2, "{refused} of {} were refused", all.len() * values.len());
    let whole = form.to_string();
    for length in (0..whole.len()).step_by(997) {
        assert!(stored::read(&whole.as_bytes()[..length], &binary, ops::find).is_err());
    }
    assert!(read(&form, &binary[..binary.len() - 1]).is_err());
}
