//! The profiler: what it counts adds up, what it writes parses, what it can't measure is refused in one line.

#[path = "common/binary.rs"]
mod binary;

use std::path::Path;

use assert_cmd::Command;
use diffuse::diffusion::SamplerKind;
use diffuse::gpu::Context;
use diffuse::nn::UNetConfig;
use diffuse::nn::config::Size;
use diffuse::profile::ceilings::Ceilings;
use diffuse::profile::compare::compare;
use diffuse::profile::samplers::{self, Costs};
use diffuse::profile::{self, Options, Profile, shapes};
use diffuse::run::Session;
use serde_json::Value;

/// Two levels, attention, classes, two channels: what no preset has.
fn small() -> UNetConfig {
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    UNetConfig {
        sample_size: Some(Size::Sides([8, 4])),
        in_channels: 2,
        out_channels: 2,
        down_block_types: names(&["DownBlock2D", "AttnDownBlock2D"]),
        up_block_types: names(&["AttnUpBlock2D", "UpBlock2D"]),
        block_out_channels: vec![8, 12],
        layers_per_block: 1,
        norm_num_groups: 4,
        attention_head_dim: Some(4),
        num_class_embeds: Some(3),
        ..UNetConfig::default()
    }
}

fn open() -> Context {
    Context::new(None).expect("these tests need an adapter")
}

fn measure(context: &Context, config: &UNetConfig, infer: bool) -> Profile {
    let options = Options { batch: 3, steps: 2, infer, recompute: false };
    profile::profile(&Session::new(context), config, &options).expect("a small model can be profiled")
}

/// The program, as cargo was told to run it.
fn command() -> Command {
    Command::from_std(binary::command())
}

#[test]
fn counts_add_up() {
    let context = open();
    if !context.has_timestamps() {
        println!("skipped: {} has no timestamp queries", context.info.name);
        return;
    }
    for infer in [false, true] {
        let Profile { report, dispatches, .. } = measure(&context, &small(), infer);
        assert_eq!(dispatches.len() as u64, report.dispatches);
        let bytes: u64 = dispatches.iter().map(|dispatch| dispatch.bytes).sum();
        for rows in [&report.kernels, &report.layers] {
            assert_eq!(rows.iter().map(|row| row.calls).sum::<u64>(), report.dispatches);
            assert_eq!(rows.iter().map(|row| row.flops).sum::<u64>(), report.flops);
            assert_eq!(rows.iter().map(|row| row.bytes).sum::<u64>(), bytes);
            assert!((rows.iter().map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(rows.is_sorted_by(|a, b| a.lost_ms >= b.lost_ms));
            for row in rows {
                assert!(row.floor_ms > 0.0 && (row.floor_ms + row.lost_ms - row.ms).abs() < 1e-9, "{row:?}");
                assert!(row.ms == 0.0 || (row.of_ceiling - row.floor_ms / row.ms).abs() < 1e-9, "{row:?}");
            }
        }
        for dispatch in &dispatches {
            let rows = |rows: &[profile::Row], name: &str| rows.iter().filter(|row| row.name == name).count();
            assert_eq!(rows(&report.kernels, &dispatch.kernel), 1);
            assert_eq!(rows(&report.layers, dispatch.layer()), 1);
            assert!(dispatch.layer().matches('/').count() < 2 && dispatch.scope.starts_with(layer_of(dispatch)));
            assert!(dispatch.duration >= 0.0 && dispatch.start >= 0.0);
        }
        let sum = dispatches.iter().map(|dispatch| dispatch.duration).sum::<f64>() * 1e-3;
        assert!((report.profiled_ms.expect("it was profiled") - sum).abs() < 1e-9);
    }
}

fn layer_of(dispatch: &profile::Timed) -> &str {
    if dispatch.scope.is_empty() { "" } else { dispatch.layer() }
}

#[test]
fn memory_is_what_was_planned() {
    let context = open();
    for infer in [false, true] {
        let report = measure(&context, &small(), infer).report;
        assert_eq!(report.allocated_bytes, report.peak_bytes);
        assert!(report.temporary_bytes < report.temporary_bytes_without_reuse);
        assert!(report.temporary_bytes < report.peak_bytes);
        assert!(report.live_bytes <= report.temporary_bytes);
        assert!(report.persistent_bytes + report.temporary_bytes <= report.peak_bytes);
        let born: u64 = report.layer_memory.iter().map(|layer| layer.born_bytes).sum();
        let live: u64 = report.layer_memory.iter().map(|layer| layer.live_at_peak_bytes).sum();
        assert_eq!((born, live), (report.temporary_bytes_without_reuse, report.live_bytes));
        assert!(report.step_ms_min <= report.step_ms && report.step_ms <= report.step_ms_max);
        assert_eq!(report.steps, 2);
    }
}

/// A configuration without weights, as a directory and as a file.
fn write_config(directory: &Path) -> std::path::PathBuf {
    let path = directory.join("config.json");
    std::fs::write(&path, serde_json::to_string(&small()).expect("a configuration is JSON"))
        .expect("it can be written");
    path
}

#[test]
fn the_binary_prints_one_object_and_writes_a_trace() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    write_config(directory.path());
    let trace = directory.path().join("new/trace.json");
    let mut command = command();
    command.args(["profile", "--batch", "2", "--steps", "1", "--json", "--model"]).arg(directory.path());
    let timestamps = open().has_timestamps();
    let picture = directory.path().join("new/roofline.png");
    if timestamps {
        command.arg("--trace").arg(&trace).arg("--png").arg(&picture);
    }
    let output = command.assert().success().get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).expect("stdout is one JSON object");
    for key in ["step_ms", "step_ms_min", "step_ms_max", "images_per_s", "encode_ms", "dispatches", "peak_bytes"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {}", report[key]);
    }
    for key in ["allocated_bytes", "parameters", "batch", "flops"] {
        assert!(report[key].as_u64().is_some_and(|value| value > 0), "{key}: {}", report[key]);
    }
    assert!(report["adapter"].is_string() && report["driver"].is_string() && report["layers"].is_array());
    if !timestamps {
        println!("skipped: no timestamp queries, so that there is no trace");
        return;
    }
    let row = &report["kernels"][0];
    assert!(row["name"].is_string());
    for key in ["calls", "ms", "gflops", "gbytes_per_s", "flops", "bytes"] {
        assert!(row[key].is_number(), "{key}: {}", row[key]);
    }
    assert!(std::fs::read(picture).expect("the picture was written").starts_with(b"\x89PNG"));
    let text = std::fs::read_to_string(trace).expect("the trace was written");
    check_trace(&serde_json::from_str::<Value>(&text).expect("the trace is JSON"), &report);
}

#[test]
fn ceilings_are_measured() {
    let ceilings = Ceilings::measure(&open()).expect("the device works");
    println!("{ceilings:?}");
    assert!(ceilings.gflops() > 0.1 && ceilings.gflops().is_finite());
    assert!(ceilings.copies.iter().all(|copy| copy.gbytes_per_s > 0.01 && copy.gbytes_per_s.is_finite()));
    assert!(ceilings.copies.is_sorted_by(|a, b| a.bytes < b.bytes));
}

#[test]
fn a_profile_is_compared_with_an_earlier_one() {
    let context = open();
    let new = measure(&context, &small(), false).report;
    let text = serde_json::to_string(&new).expect("a report is JSON");
    let mut old: profile::Report = serde_json::from_str(&text).expect("what was printed can be read");
    let same = compare(&old, &new);
    assert!(same.differences.is_empty() && same.step.ratio == Some(1.0));
    assert_eq!(same.kernels.len(), new.kernels.len());
    old.step_ms = new.step_ms / 2.0;
    old.batch = 7;
    old.kernels.iter_mut().take(1).for_each(|row| row.name = "gone".into());
    let other = compare(&old, &new);
    assert_eq!(other.differences, ["batch: 7 then, 3 now"]);
    assert!((other.step.ratio.expect("both ran") - 2.0).abs() < 1e-12);
    let without_ratio = other.kernels.iter().filter(|change| change.ratio.is_none() && change.old_ms != Some(0.0));
    assert!(new.kernels.is_empty() || without_ratio.count() == 2);
}

#[test]
fn predictions_need_no_gpu_and_say_what_they_are() {
    let output = command().args(["profile", "--predict", "--preset", "mnist"]).assert().success().get_output().clone();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("PREDICTION, nothing was measured"), "{text}");
    for vendor in ["NVIDIA", "AMD", "Apple", "Intel", "conv2d.forward"] {
        assert!(text.contains(vendor), "{text}");
    }
    let output = command().args(["profile", "--predict", "--json", "--infer"]).assert().success().get_output().clone();
    let object: Value = serde_json::from_slice(&output.stdout).expect("stdout is one JSON object");
    for prediction in object["predictions"].as_array().expect("a list") {
        let ms = |key: &str| prediction[key].as_f64().expect("a number");
        assert!((ms("step_ms") - ms("arithmetic_ms") - ms("memory_ms") - ms("launch_ms")).abs() < 1e-9);
        assert!(ms("arithmetic_ms") >= 0.0 && ms("memory_ms") > 0.0 && ms("launch_ms") > 0.0);
    }
}

#[test]
fn standing_shapes_are_whole_and_finite() {
    let all = shapes::standing("", &Default::default());
    for part in ["conv2d 3x3 N64 32x32 64->64 forward", "conv2d 3x3 N64 8x8 256->256 backward-data"] {
        assert_eq!(all.iter().filter(|(name, _)| *name == part).count(), 1, "{part}");
    }
    let context = open();
    let one = shapes::standing("adamw square_sum", &Default::default());
    let shape = one.iter().next().expect("a memory-bound shape");
    let ceilings = Ceilings::measure(&context).expect("the device works");
    let figure = shapes::measure(&context, shape, &ceilings, std::time::Duration::ZERO).expect("it runs");
    assert!(figure.ms > 0.0 && figure.of_ceiling > 0.0 && figure.gbytes_per_s > 0.0);
    assert_eq!(figure.flops, 2 << 22);
}

#[test]
fn every_sampler_has_its_cost() {
    let context = open();
    let options = Options { batch: 3, steps: 2, infer: true, recompute: false };
    let costs =
        |config: &UNetConfig| samplers::measure(&Session::new(&context), config, &options).expect("a small model");
    let Costs { samplers, guidance, classes_added, unet_ms, mask_share, .. } = costs(&small());
    assert!(samplers.iter().map(|cost| cost.name).eq(SamplerKind::ALL.map(SamplerKind::name)));
    assert!(!classes_added && unet_ms > 0.0 && mask_share > 0.0);
    let guidance = guidance.expect("a small batch fits");
    assert!(guidance.ratio_min <= guidance.ratio && guidance.ratio <= guidance.ratio_max, "{guidance:?}");
    assert!(guidance.ratio_min > 0.0 && guidance.ratio_max.is_finite() && guidance.fastest > 0.0, "{guidance:?}");
    for cost in &samplers {
        assert!(cost.own_us > 0.0 && cost.own_share > 0.0 && cost.own_share.is_finite(), "{cost:?}");
        assert_eq!((cost.waits > 0.0, cost.updates > 0.0), (cost.name == "rk45", cost.name == "rk45"), "{cost:?}");
        assert_eq!(cost.wait_share > 0.0, cost.waits > 0.0, "{cost:?}");
        let kind = SamplerKind::ALL.into_iter().find(|kind| kind.name() == cost.name).expect("one of them");
        // The last step draws none, and no other sampler says beforehand that it might.
        assert_eq!(cost.noise, !kind.is_deterministic(), "{cost:?}");
    }
    let slots = |name: &str| samplers.iter().find(|cost| cost.name == name).map(|cost| cost.slots);
    assert_eq!([slots("ddpm"), slots("unipc"), slots("rk45")], [Some(1), Some(2), Some(9)]);
    // A step of six evaluations begins with an update and ends with a wait.
    let rk45 = samplers.iter().find(|cost| cost.name == "rk45").expect("it was compared above");
    assert!((0.15..0.2).contains(&rk45.updates) && (0.15..0.2).contains(&rk45.waits), "{rk45:?}");
    let plain = costs(&UNetConfig { num_class_embeds: None, ..small() });
    assert!(plain.classes_added && plain.guidance.is_some());
}

#[test]
fn a_denoising_step_says_what_guidance_costs() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    write_config(directory.path());
    let run = |flags: &[&str]| {
        let mut command = command();
        command
            .args(["profile", "--infer", "--batch", "2", "--steps", "1", "--model"])
            .arg(directory.path())
            .args(flags);
        command.assert().success().get_output().stdout.clone()
    };
    let text = String::from_utf8(run(&[])).expect("text");
    assert!(text.contains("a guided evaluation takes") && text.contains("of the U-Net's time beside it"), "{text}");
    for kind in SamplerKind::ALL {
        assert_eq!(text.lines().filter(|line| line.split(' ').next() == Some(kind.name())).count(), 1, "{text}");
    }
    let object: Value = serde_json::from_slice(&run(&["--json"])).expect("stdout is one JSON object");
    assert!(object["samplers"]["guidance"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.0));
    assert_eq!(object["samplers"]["samplers"].as_array().map(Vec::len), Some(SamplerKind::ALL.len()));
}

fn check_trace(trace: &Value, report: &Value) {
    let events = trace.as_array().expect("an array of events");
    let of = |category: &'static str| events.iter().filter(move |event| event["cat"] == category);
    assert_eq!(of("gpu").count() as u64, report["dispatches"]);
    assert!(of("cpu").count() >= 2);
    for event in of("gpu").chain(of("cpu")) {
        assert_eq!(event["ph"], "X");
        assert!(event["ts"].as_f64().is_some_and(|start| start >= 0.0), "{event}");
        assert!(event["dur"].as_f64().is_some_and(|duration| duration >= 0.0), "{event}");
        let named =
            |name: &&Value| name["name"] == "thread_name" && name["tid"] == event["tid"] && name["pid"] == event["pid"];
        assert_eq!(events.iter().filter(named).count(), 1, "a name for the track of {event}");
    }
    // One row for each layer, and none for two.
    for event in of("gpu") {
        let row = events
            .iter()
            .find(|name| name["name"] == "thread_name" && name["tid"] == event["tid"] && name["pid"] == event["pid"]);
        let (row, layer) = (row.expect("it was counted above"), event["args"]["layer"].as_str().expect("a layer"));
        let label = row["args"]["name"].as_str().expect("a label");
        assert!(label == layer || label.starts_with(&format!("{layer}, overlapping")), "{label}: {event}");
    }
    let submitted = of("cpu").filter_map(|event| event["ts"].as_f64()).fold(f64::MAX, f64::min);
    assert!(of("gpu").all(|event| event["ts"].as_f64() >= Some(submitted)), "nothing runs before it is encoded");
}

/// Refused in one line on stderr, nothing on stdout.
fn refused(arguments: &[&str], problem: &str) {
    let output = command().arg("profile").args(arguments).assert().failure().get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(problem) && message.trim_end().lines().count() == 1, "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn bad_input_is_refused_in_one_line() {
    refused(&["--preset", "huge"], "no preset huge");
    refused(&["--model", "no/such/place"], "no/such/place: no such directory");
    refused(&["--batch", "0"], "--batch");
    refused(&["--steps", "0"], "--steps");
    refused(&["--batch", "4000000000"], "batch is at most 65536");
    refused(&["--batch", "4000000000", "--infer"], "elements, at most 2^32 can be indexed");
    refused(&["--device", "no such adapter"], "no such adapter");
    refused(&["--compare", "no/such.json"], "no/such.json");
    refused(&["--shapes", "--only", "conv4d"], "no standing shape has \"conv4d\"");
    let directory = tempfile::tempdir().expect("a directory for the test");
    let refused_config = |config: &UNetConfig, arguments: &[&str], problem: &str| {
        let path = directory.path().join("model.json");
        std::fs::write(&path, serde_json::to_string(config).expect("JSON")).expect("it can be written");
        refused(&[arguments, &["--model", path.to_str().expect("UTF-8")]].concat(), problem);
    };
    let other = directory.path().join("other.json");
    std::fs::write(&other, r#"{"adapter": "x"}"#).expect("it can be written");
    refused(&["--compare", other.to_str().expect("UTF-8")], "no output of profile --json");
    let wide = UNetConfig { out_channels: 6, ..small() };
    refused_config(&wide, &[], "2 channels in and 6 out");
    refused_config(&wide, &["--infer"], "2 channels in and 6 out");
    refused_config(&UNetConfig { sample_size: None, ..small() }, &[], "sample_size");
    refused_config(&UNetConfig { sample_size: Some(Size::Square(7)), ..small() }, &[], "7x7");
    let huge = UNetConfig { sample_size: Some(Size::Square(1 << 30)), ..small() };
    refused_config(&huge, &[], "elements, at most 2^32 can be indexed");
    // The configuration of a run says how to train; it is no model.
    let run = directory.path().join("config.json");
    std::fs::write(run, r#"{"data": "digits", "steps": 5}"#).expect("it can be written");
    refused(&["--model", directory.path().to_str().expect("UTF-8")], "config.json");
}
