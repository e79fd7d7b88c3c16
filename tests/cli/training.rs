//! `diffuse train`: the run directory, interruption, resumption, a full disk.

use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;
use serde_json::Value;

const STORED: [&str; 3] = ["diffusion_pytorch_model.safetensors", "trainer.safetensors", "trainer.json"];

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(String::from).collect()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[track_caller]
fn assert_same_bits(one: &Path, other: &Path) {
    for file in STORED {
        let read = |run: &Path| fs::read(run.join("checkpoint").join(file)).unwrap();
        assert!(read(one) == read(other), "{file} differs");
    }
    // The last column is a time.
    let rows = |run: &Path| -> Vec<String> {
        let lines = lines(&run.join("metrics.csv"));
        lines.iter().map(|line| line.rsplit_once(',').unwrap().0.to_string()).collect()
    };
    assert_eq!(rows(one), rows(other));
}

#[test]
fn a_run_is_written_whole() {
    let (place, said) = trained();
    let run = place.join("run");
    let report = json(said);
    assert_eq!((&report["step"], &report["done"]), (&12.into(), &true.into()));
    let checkpoint = ["config.json", STORED[0], "scheduler_config.json", "trainer.json", "trainer.safetensors"];
    let mut expected: Vec<String> = checkpoint.iter().map(|name| format!("checkpoint/{name}")).collect();
    let others =
        ["config.json", "data.json", "loss.png", "metrics.csv", "samples/step_000006.png", "samples/step_000012.png"];
    expected.extend(others.map(String::from));
    assert_eq!(files(&run), expected);
    let metrics = lines(&run.join("metrics.csv"));
    assert_eq!(metrics[0], "step,loss,grad_norm,lr,images_per_s");
    assert_eq!(metrics.len(), 13);
    for (step, line) in metrics[1..].iter().enumerate() {
        let numbers: Vec<f64> = line.split(',').map(|field| field.parse().unwrap()).collect();
        assert!(numbers.len() == 5 && numbers[0] == step as f64 + 1.0, "{line}");
        assert!(numbers.iter().all(|number| *number >= 0.0 && number.is_finite()), "{line}");
    }
    for picture in ["loss.png", "samples/step_000006.png", "samples/step_000012.png"] {
        assert!(image::open(run.join(picture)).unwrap().width() > 30, "{picture}");
    }
    let options = read_json(&run.join("config.json"));
    assert_eq!((&options["steps"], &options["seed"], &options["batch"]), (&12.into(), &3.into(), &4.into()));
    assert_eq!(read_json(&run.join("checkpoint/trainer.json"))["step"], 12);
    // Not a terminal: plain lines on stderr, no control characters.
    assert!(said.err.contains("training 12/12  loss ") && !said.err.contains(['\x1b', '\r']), "{}", said.err);
}

#[test]
fn the_options_of_a_run_give_its_bits_again() {
    let place = place_with_run();
    let said = accepted(place.path(), "train --config run/config.json --out again");
    assert_eq!(said.out, "");
    assert_same_bits(&place.path().join("run"), &place.path().join("again"));
    assert!(
        fs::read(place.path().join("run/config.json")).unwrap()
            == fs::read(place.path().join("again/config.json")).unwrap()
    );
    // Flags go before the file.
    let flags = "--steps 1 --seed 4 --sample-every 0 --recompute --timesteps 7";
    accepted(place.path(), &format!("train --config run/config.json --out other {flags}"));
    let options = read_json(&place.path().join("other/config.json"));
    assert_eq!(
        (&options["recompute"], &options["timesteps"], &options["sample_steps"]),
        (&true.into(), &7.into(), &7.into())
    );
    accepted(place.path(), "train --config other/config.json --out whole --recompute=false");
    assert_eq!(read_json(&place.path().join("whole/config.json"))["recompute"], false);
    assert_eq!((&options["steps"], &options["seed"], &options["batch"]), (&1.into(), &4.into(), &4.into()));
}

#[test]
fn a_run_is_neither_overwritten_nor_resumed_in_vain() {
    let place = place_with_run();
    let before = files(place.path());
    let again = "train --data digits --model tiny.json --out run";
    refused(place.path(), again, &["run: holds a run already", "--resume"]);
    refused(place.path(), "train --resume --out run", &["run: step 12 is done already", "--steps"]);
    refused(place.path(), "train --resume --out run --steps 3", &["step 12 is done already"]);
    for flag in ["--batch 8", "--lr 1", "--noise-schedule ve", "--precision f16", "--learned-variance", "--flip true"] {
        let name = flag.split(' ').next().unwrap().replace("noise-", "");
        refused(place.path(), &format!("train --resume --out run {flag}"), &[&format!("{name} can't change")]);
        if flag.starts_with("--batch") {
            refused(place.path(), &format!("train-classifier --resume --out run {flag}"), &["--batch can't change"]);
        }
    }
    refused(place.path(), "train --resume --out run/checkpoint --steps 20", &["run/checkpoint: a checkpoint", "--out"]);
    refused(place.path(), "train --resume --out nowhere", &["nowhere: no run to go on with"]);
    assert_eq!(files(place.path()), before);
    fs::remove_dir_all(place.path().join("run/checkpoint")).unwrap();
    refused(place.path(), "train --resume --out run", &["run: no run to go on with"]);
    refused(place.path(), again, &["run: holds a run", "before its first checkpoint"]);
}

#[test]
fn a_batch_that_does_not_fit_says_which_would() {
    let place = place();
    // 8 GiB for the widest activation: more than any binding.
    fs::write(place.path().join("tiny.json"), TINY.replace(r#""sample_size": 8"#, r#""sample_size": 64"#)).unwrap();
    let start = Instant::now();
    let line = "train --data digits --model tiny.json --out run --batch 65536";
    refused(place.path(), line, &["batch 65536 does not fit", "--batch", "does"]);
    assert!(start.elapsed().as_secs() < 60, "it took {:?}", start.elapsed());
    assert!(!place.path().join("run").exists());
}

/// A command that runs on, its stderr kept for later.
#[cfg(unix)]
fn begin(place: &Path, line: &str) -> Child {
    let log = fs::File::create(place.join("stderr")).unwrap();
    typed(place, line).stdout(Stdio::null()).stderr(log).spawn().expect("it can be run")
}

#[cfg(unix)]
fn wait_for(path: &Path, child: &mut Child) {
    let start = Instant::now();
    while !path.exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {}", path.display());
        assert!(start.elapsed() < PATIENCE, "no {}", path.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(unix)]
#[test]
fn killed_and_resumed_gives_equal_bits() {
    let place = place();
    let run = place.path().join("run");
    let line = "train --data digits --model tiny.json --steps 100 --batch 2 --sample-every 0 --checkpoint-every 7";
    let mut child = begin(place.path(), &format!("{line} --out run"));
    wait_for(&run.join("checkpoint/trainer.json"), &mut child);
    child.kill().unwrap();
    child.wait().unwrap();
    let said = accepted(place.path(), "train --resume --out run");
    assert!(said.err.contains("from step "), "{}", said.err);
    accepted(place.path(), &format!("{line} --out whole"));
    assert_same_bits(&run, &place.path().join("whole"));
    let left = |name: &String| name.ends_with(".tmp");
    let files: Vec<String> = files(&run).into_iter().filter(|name| !left(name)).collect();
    assert_eq!(files.len(), 9, "{files:?}");
}

#[cfg(unix)]
#[test]
fn control_c_saves_and_says_how_to_go_on() {
    let place = place();
    let run = place.path().join("run");
    let line = "train --data digits --model tiny.json --steps 100000 --batch 2 --sample-every 0 --checkpoint-every 7";
    let mut child = begin(place.path(), &format!("{line} --out run"));
    wait_for(&run.join("checkpoint/trainer.json"), &mut child);
    refused(place.path(), "train --resume --out run", &["run: in use", "another process"]);
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(status.success() && child.wait().unwrap().success());
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    let step = read_json(&run.join("checkpoint/trainer.json"))["step"].as_u64().unwrap();
    let expected = format!("stopped at step {step} of 100000 and saved; go on with: diffuse train --resume --out run");
    assert_eq!(said.lines().last(), Some(expected.as_str()));
    assert_eq!(lines(&run.join("metrics.csv")).len() as u64, step + 1);
    let more = step + 2;
    accepted(place.path(), &format!("train --resume --out run --steps {more}"));
    assert_eq!(read_json(&run.join("checkpoint/trainer.json"))["step"], more);
    assert_eq!(read_json(&run.join("config.json"))["steps"], more);
}

#[cfg(unix)]
fn wait_until_said(place: &Path, what: &str, child: &mut Child) {
    let start = Instant::now();
    while !fs::read_to_string(place.join("stderr")).unwrap().contains(what) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it said {what:?}");
        assert!(start.elapsed() < PATIENCE, "never said: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Both find the directory empty; the other one is done while this one still plans.
#[cfg(unix)]
#[test]
fn a_run_that_came_first_is_not_overwritten() {
    let place = place();
    let run = place.path().join("run");
    let log = fs::File::create(place.path().join("stderr")).unwrap();
    let mut command = typed(place.path(), "train --data digits --preset mnist --batch 1 --out run --steps 1");
    let mut child = command.env("RUST_LOG", "info").stdout(Stdio::null()).stderr(log).spawn().expect("it can be run");
    wait_until_said(place.path(), "on the device", &mut child);
    copy(&trained().0.join("run"), &run);
    let before = files(place.path());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    assert!(said.lines().last().is_some_and(|line| line.starts_with("error: run: holds a run already")), "{said}");
    assert_eq!(files(place.path()), before);
    assert_same_bits(&run, &trained().0.join("run"));
}

/// What a classifier is worth is measured on its checkpoint, which nobody may replace meanwhile.
#[cfg(unix)]
#[test]
fn a_run_stays_locked_until_its_checkpoint_was_read() {
    let place = place();
    let mut child = begin(place.path(), "train-classifier --data digits --batch 2 --steps 1 --out run");
    wait_until_said(place.path(), "trained 1 steps", &mut child);
    refused(place.path(), "train-classifier --resume --steps 2 --out run", &["run: in use", "another process"]);
    assert!(child.wait().unwrap().success());
    accepted(place.path(), "train-classifier --resume --steps 2 --out run");
}

#[test]
fn a_run_that_breaks_leaves_what_was_there_before() {
    let place = place();
    let line = "train --data digits --model tiny.json --batch 4 --sample-every 0 --lr 10 --warmup 60 --max-norm 0 \
                --lr-schedule constant --precision f16 --checkpoint-every 0";
    let said = run(typed(place.path(), &format!("{line} --steps 200 --out broken")));
    let error = said.err.lines().last().unwrap();
    let step: u64 = error.strip_prefix("error: step ").unwrap().split(':').next().unwrap().parse().unwrap();
    let holds = format!("checkpoint/ holds step {}", step - 1);
    assert_refused(line, &said, &[&holds, "another --out", "smaller --lr"]);
    accepted(place.path(), &format!("{line} --steps {} --out whole", step - 1));
    let read = |run: &str, file: &str| fs::read(place.path().join(run).join("checkpoint").join(file)).unwrap();
    for file in &STORED[..2] {
        assert!(read("broken", file) == read("whole", file), "{file} differs");
    }
    assert_eq!(lines(&place.path().join("broken/metrics.csv")).len() as u64, step);
    // It goes on from there, and breaks where it broke; the checkpoint stands.
    let before = read("broken", STORED[1]);
    refused(place.path(), "train --resume --out broken", &[&format!("step {step}: loss"), &holds]);
    assert!(before == read("broken", STORED[1]));
}

#[test]
fn the_state_of_a_run_is_what_resumption_reads() {
    let place = place_with_run();
    let path = place.path().join("run/checkpoint/trainer.json");
    let mut state = read_json(&path);
    let mut keys: Vec<&String> = state.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["choices", "classes", "images", "loss_scale", "options", "step"]);
    accepted(place.path(), "train --resume --out run --steps 14");
    // A checkpoint of old said in other words, too, where it stands.
    let old = place_with_run();
    for (key, value) in [("counter", 12.into()), ("epoch", 0.into()), ("cursor", 48.into()), ("scheduler", Value::Null)]
    {
        state[key] = value;
    }
    fs::write(old.path().join("run/checkpoint/trainer.json"), state.to_string()).unwrap();
    accepted(old.path(), "train --resume --out run --steps 14");
    assert_same_bits(&place.path().join("run"), &old.path().join("run"));
}

/// A small disk, gone when it is dropped.
#[cfg(target_os = "linux")]
struct Disk(PathBuf);

#[cfg(target_os = "linux")]
impl Disk {
    fn new(path: PathBuf, size: &str) -> Option<Disk> {
        fs::create_dir(&path).unwrap();
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).output();
        output.is_ok_and(|output| output.status.success()).then_some(Disk(path))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_last_checkpoint() {
    let place = place();
    // Room for one checkpoint of 540 KiB, not for a second beside it.
    let Some(disk) = Disk::new(place.path().join("disk"), "900k") else {
        println!("skipped: no right to mount a small disk");
        return;
    };
    let line = "train --data digits --model tiny.json --steps 9 --batch 2 --sample-every 0 --checkpoint-every 3";
    refused(place.path(), &format!("{line} --out disk/run"), &["disk/run/checkpoint", "the disk is full"]);
    let left: Vec<String> = files(&disk.0).into_iter().filter(|name| name.contains("checkpoint")).collect();
    assert!(left.len() == 5 && left.iter().all(|name| name.starts_with("run/checkpoint/")), "{left:?}");
    assert_eq!(read_json(&disk.0.join("run/checkpoint/trainer.json"))["step"], 3);
    accepted(place.path(), "sample disk/run --count 1 --steps 1 --out s.png");
}
