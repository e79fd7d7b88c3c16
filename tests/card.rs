//! `benches/card.sh` with a `diffuse` that answers at once: the report is whole, whatever one part does.
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Notes each call in `calls`. What a line `PART OF A COMMAND:STATEMENT` in `trouble` names does that statement instead.
const DIFFUSE: &str = r#"#!/usr/bin/env bash
here="$(dirname "$0")"
typed="$*"
case "$typed" in *--json=*) json="${typed#*--json=}" json="${json%% *}" ;; esac
out="${typed##*--out }"
echo "$typed" >>"$here/calls"
while IFS=: read -r part statement; do
    case "$typed" in *"$part"*) eval "$statement" ;; esac
done <"$here/trouble"
case "$1" in
    --version) echo "diffuse 0.1.0 (abc1234)" ;;
    devices)
        echo "0: Test Card (R) 9000"
        echo '{"adapter":"Test Card (R) \"9000\"","adapters":[{"driver":"other"}],"driver":"driver 1.0","type":"DiscreteGpu"}' >"$json"
        ;;
    verify) echo "silu.forward  0.0062  ok" && echo '{"kernels":{"silu.forward":{"error":6.2e-3}}}' >"$json" ;;
    profile)
        echo "step 10.500 ms" && echo "read /home/somebody/secret/model.json"
        echo '{"step_ms":10.5,"images_per_s":1523.81,"profiled_ms":null,"dispatches":658,"flops":21000000000,"kernels":[{"step_ms":1}]}' >"$json"
        ;;
    tune)
        echo "[WARN ] Test Card computes conv2d forward, coop8 wrongly (3.0 times what rounding allows): not used" >&2
        echo "conv2d.forward 1x1 register" && echo '{"shapes":[]}' >"$json"
        ;;
    train)
        mkdir -p "$out/checkpoint"
        echo "${weights:-same}" >"$out/checkpoint/diffusion_pytorch_model.safetensors"
        printf '{\n  "choices": [%s]\n}\n' "${choices:-}" >"$out/checkpoint/trainer.json"
        echo step,loss,grad_norm,lr,images_per_s >"$out/metrics.csv"
        seq 200 | awk -v speed="$$" '{ print $1 "," 1 / $1 ",1,1e-3," speed }' >>"$out/metrics.csv"
        echo '{"done":true}'
        ;;
    sample) [[ "$typed" == *--json* ]] && echo "a picture" >"$out" && echo '{"count":40}' ;;
esac
"#;

/// An interpreter with PyTorch: says that there is a GPU, then what unet.py would print.
const PYTHON: &str = r#"#!/usr/bin/env bash
[ "$1" = -c ] && echo gpu && exit
for mode in ${5//,/ }; do
    echo "{\"model\": \"base\", \"batch\": 16, \"mode\": \"$mode\", \"peer\": \"PyTorch\", \"hardware\": \"card\", \"step_ms\": 8.0, \"first_ms\": 90.0}"
    echo "{\"model\": \"mnist\", \"batch\": 16, \"mode\": \"$mode\", \"error\": \"OutOfMemoryError: too small\"}"
done
echo warning
"#;

/// Parts of a report.
const PARTS: usize = 21;

/// A place with a `diffuse`, what it stumbles over, and the reports.
struct Place(TempDir);

impl Place {
    fn new(trouble: &str) -> Place {
        let place = Place(tempfile::tempdir().expect("a place for files"));
        place.write("diffuse", DIFFUSE);
        place.write("python", PYTHON);
        place.write("trouble", trouble);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start(&self, flags: &[&str]) -> Child {
        let mut command = Command::new("bash");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/card.sh"));
        command.args(["--minutes", "6", "--out"]).arg(self.path("out")).args(flags).current_dir(self.0.path());
        command.env("DIFFUSE", "./diffuse").env("PYTHON", self.path("python")).stderr(Stdio::null());
        command.spawn().expect("there is bash")
    }

    /// Runs the script to its end; its exit status.
    fn run(&self, flags: &[&str]) -> Option<i32> {
        let _ = fs::remove_file(self.path("calls"));
        self.start(flags).wait().unwrap().code()
    }

    /// Commands that were typed since the last start, without those that only ask.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let asks = |line: &&str| line.starts_with("devices") || line.starts_with("--version");
        calls.lines().filter(|line| !asks(line)).map(String::from).collect()
    }

    fn report(&self, name: &str) -> (String, Value) {
        let read = |kind| fs::read_to_string(self.path("out").join(format!("{name}.{kind}"))).expect("a report");
        (read("md"), serde_json::from_str(&read("json")).expect("the report is JSON"))
    }
}

const CARD: &str = "Test-Card-R-9000";

fn part<'a>(report: &'a Value, name: &str) -> &'a Value {
    let parts = report["parts"].as_array().expect("a list of parts");
    assert_eq!(parts.len(), PARTS);
    parts.iter().find(|part| part["name"] == name).unwrap_or_else(|| panic!("no part {name}"))
}

/// Parts that are not done, but for the one that is needed only where bits differ.
fn open_parts(report: &Value) -> Vec<&str> {
    let parts = report["parts"].as_array().unwrap().iter();
    let open = parts.filter(|part| part["status"] != "done" && part["name"] != "train-3");
    open.map(|part| part["name"].as_str().unwrap()).collect()
}

#[test]
fn a_report_is_whole_and_kept() {
    let place = Place::new("");
    assert_eq!(place.run(&[]), Some(0));
    let (text, report) = place.report(CARD);
    assert_eq!((&report["adapter"], &report["driver"]), (&"Test Card (R) \"9000\"".into(), &"driver 1.0".into()));
    assert_eq!(report["diffuse"], "diffuse 0.1.0 (abc1234)");
    assert_eq!((&report["equal_bits"], open_parts(&report)), (&true.into(), vec![]));
    assert_eq!(part(&report, "verify")["output"]["kernels"]["silu.forward"]["error"], 6.2e-3);
    assert_eq!(part(&report, "torch-eager")["output"].as_array().unwrap().len(), 4);
    assert_eq!(part(&report, "train-3")["status"], "skipped");
    for line in [
        "# Test Card (R) \"9000\"",
        "| adapter | Test Card (R) \"9000\" (Discrete GPU) |",
        "| kernels verified | yes",
        "| variants that the tuner refused | conv2d forward, coop8 |",
        "| equal bits | yes: two runs",
        "| loss on digits | 0.1799 over the first 20 steps, 0.0053 over the last 20 of 200 |",
        "| base, 16 | 1523.8 | 1523.8 | 2000.0 | 2000.0 | 2000.0 | 2000.0 |",
        "| mnist, 16 images, f32 | 10.50 | – | 658 | 2000.0 | – |",
        "silu.forward  0.0062  ok",
        "read model.json",
        "OutOfMemoryError",
        "(Test-Card-R-9000.png)",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    assert!(!text.contains("## Missing") && !text.contains("somebody"), "{text}");
    assert!(!text.contains(place.0.path().to_str().unwrap()), "{text}");
    assert_eq!(fs::read_to_string(place.path("out/Test-Card-R-9000.png")).unwrap(), "a picture\n");

    assert_eq!(place.run(&[]), Some(0));
    assert_eq!(place.calls(), Vec::<String>::new());
    assert_eq!(part(&place.report(CARD).1, "verify"), part(&report, "verify"));
    place.write("diffuse", &DIFFUSE.replace("0.0062", "0.0063"));
    assert_eq!(place.run(&[]), Some(0));
    assert!(place.calls().iter().any(|call| call.starts_with("verify")), "another binary is measured anew");
}

#[test]
fn what_fails_is_named_and_tried_again() {
    let trouble = "profile --preset base --batch 16 --precision f32:echo boom >&2; exit 7\n\
                   tune --preset base --batch 16 --precision f16:echo '{\"shapes\":[' >\"$json\"; exit 0\n\
                   sample train-1:head -c 3000 /dev/urandom; kill -SEGV $$\n\
                   verify:echo '{\"kernels\":{}}' >\"$json\"; echo 'error: 2 of 9 are out of tolerance' >&2; exit 1\n\
                   train-2:weights=other choices=1\n";
    let place = Place::new(trouble);
    assert_eq!(place.run(&[]), Some(1));
    let (text, report) = place.report(CARD);
    assert_eq!(open_parts(&report), ["profile-base-16-f32", "samples", "tune-f16"]);
    let failed = part(&report, "profile-base-16-f32");
    assert_eq!((&failed["status"], &failed["exit"]), (&"failed".into(), &7.into()));
    assert!(failed["last_lines"].as_str().unwrap().contains("boom"), "{failed}");
    assert_eq!(part(&report, "tune-f16")["output"], Value::Null);
    assert_eq!(part(&report, "samples")["exit"], 139);
    assert_eq!([&report["equal_bits"], &report["equal_bits_same_kernels"]], [&Value::from(false), &true.into()]);
    for line in [
        "- `profile-base-16-f32` (base, 16 images, f32): failed: exit status 7",
        "- `samples` (Samples): failed: exit status 139",
        "- `tune-f16` (Variants in f16): failed: exit status 0, but not the output",
        "| kernels verified | **no**: error: 2 of 9 are out of tolerance |",
        "| equal bits | yes with the same variants of kernels",
        "| base, 16 | failed | 1523.8 |",
        "boom",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }

    place.write("trouble", "");
    assert_eq!(place.run(&[]), Some(0));
    assert_eq!(place.calls().len(), 3, "{:?}", place.calls());
    let (text, report) = place.report(CARD);
    assert_eq!(open_parts(&report), Vec::<&str>::new());
    assert!(text.contains("| kernels verified | **no**"), "a wrong kernel is a finding, which is kept");
    assert_eq!(place.run(&["--again"]), Some(0));
    assert!(place.report(CARD).0.contains("| kernels verified | yes"));
}

#[test]
fn what_hangs_is_cut_and_a_killed_script_leaves_a_report() {
    let place = Place::new("profile --preset mnist --batch 16 --precision f32:echo asleep; sleep 100\n");
    let mut script = place.start(&["--minutes", "2"]);
    let patience = Instant::now() + Duration::from_secs(110);
    let cut = loop {
        std::thread::sleep(Duration::from_millis(200));
        let json = fs::read(place.path("out").join(format!("{CARD}.json"))).unwrap_or_default();
        let report: Value = serde_json::from_slice(&json).unwrap_or_default();
        if report["parts"].is_array() && open_parts(&report) == ["profile-mnist-16-f32"] {
            break report;
        }
        assert!(Instant::now() < patience, "the other parts are not done: {report}");
    };
    script.kill().unwrap();
    script.wait().unwrap();
    let hung = part(&cut, "profile-mnist-16-f32");
    assert_eq!((&hung["status"], &hung["limit_s"]), (&"cut".into(), &11.into()));
    assert_eq!(hung["last_lines"], "asleep");
    let text = place.report(CARD).0;
    assert!(text.contains("| mnist, 16 | over 11 s | 1523.8 |"), "{text}");
    assert!(text.contains("- `profile-mnist-16-f32` (mnist, 16 images, f32): cut off after 11 s"), "{text}");

    place.write("trouble", "");
    assert_eq!(place.run(&["--minutes", "2"]), Some(0));
    // The script that was killed may have begun with it again.
    let is_hung = |call: &String| call.starts_with("profile --preset mnist --batch 16 --precision f32 ");
    assert!(place.calls().iter().all(is_hung), "{:?}", place.calls());
    let (text, report) = place.report(CARD);
    assert_eq!(part(&report, "profile-mnist-16-f32")["limit_s"], 22, "twice what was too little");
    assert!(text.contains("| mnist, 16 | 1523.8 | 1523.8 |") && !text.contains("## Missing"), "{text}");
}

#[test]
fn without_an_adapter_there_is_a_report_that_says_so() {
    let place = Place::new(":echo 'error: no adapter' >&2; exit 1\n");
    assert_eq!(place.run(&[]), Some(1));
    let (text, report) = place.report("unknown-adapter");
    assert_eq!(open_parts(&report).len(), PARTS - 3, "PyTorch alone is there: {report}");
    assert!(text.contains("**No answer** (exit status 1):") && text.contains("error: no adapter"), "{text}");
}

#[test]
fn wrong_arguments_are_refused() {
    let place = Place::new("");
    for flags in [&["--minutes", "soon"][..], &["--nonsense"], &["--out"]] {
        assert_eq!(place.run(flags), Some(2), "{flags:?}");
    }
    assert!(!place.path("out").exists());
}
