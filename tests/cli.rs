//! What a user types, and what bad input gets: exit code, one line of error, nothing half-written.

#[path = "cli/arguments.rs"]
mod arguments;
#[path = "common/binary.rs"]
mod binary;
#[path = "cli/checkpoints.rs"]
mod checkpoints;
#[path = "cli/classes.rs"]
mod classes;
#[path = "cli/data.rs"]
mod data;
#[path = "cli/editing.rs"]
mod editing;
#[path = "cli/evaluating.rs"]
mod evaluating;
#[path = "cli/exporting.rs"]
mod exporting;
#[cfg(target_os = "linux")]
#[path = "cli/failing.rs"]
mod failing;
#[path = "cli/pipelines.rs"]
mod pipelines;
#[path = "cli/planning.rs"]
mod planning;
#[path = "cli/privacy.rs"]
mod privacy;
#[path = "cli/reports.rs"]
mod reports;
#[path = "cli/sampling.rs"]
mod sampling;
#[path = "cli/training.rs"]
mod training;
#[path = "cli/tuning.rs"]
mod tuning;
#[path = "cli/watching.rs"]
mod watching;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use diffuse::checkpoint::{self, SchedulerConfig};
use diffuse::nn::{UNet, UNetConfig};
use tempfile::TempDir;

/// 8x8 digits, two levels with attention, as a user writes it.
const TINY: &str = include_str!("common/tiny.json");

/// Nothing here may take longer, on a slow driver and a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A directory to type commands in, with `tiny.json`, and `plain.json`: the same without classes.
fn place() -> TempDir {
    let place = tempfile::tempdir().expect("a place for files");
    fs::write(place.path().join("tiny.json"), TINY).unwrap();
    fs::write(place.path().join("plain.json"), TINY.replace(r#", "num_class_embeds": 11"#, "")).unwrap();
    place
}

/// `diffuse` with the arguments of `line`, as typed in `place`.
fn typed(place: &Path, line: &str) -> Command {
    with_arguments(binary::command(), place, line)
}

fn with_arguments(mut command: Command, place: &Path, line: &str) -> Command {
    command.args(line.split_whitespace()).current_dir(place).env_remove("RUST_LOG");
    // Tiny models need no tuning, and nobody's cache is touched.
    if !line.contains("tune") {
        command.args(["--tune", "off"]);
    }
    command.env("DIFFUSE_CACHE_DIR", place.join("cache"));
    // Else the Vulkan loader looks for a desktop, and writes errors of its own where there is none.
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).env("NODEVICE_SELECT", "1");
    command
}

fn run(command: Command) -> Said {
    let output = assert_cmd::Command::from_std(command).timeout(PATIENCE).output().expect("it can be run");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let said = Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!said.err.contains("panicked") && !said.err.contains("backtrace"), "{}", said.err);
    said
}

/// Runs a command that must succeed.
#[track_caller]
fn accepted(place: &Path, line: &str) -> Said {
    let said = run(typed(place, line));
    assert_eq!(said.code, Some(0), "{line}: {}", said.err);
    assert!(!said.err.contains("error:"), "{line}: {}", said.err);
    said
}

/// Runs a command that must fail with one line of error, the last one, that holds all of `parts`.
#[track_caller]
fn refused(place: &Path, line: &str, parts: &[&str]) {
    let said = run(typed(place, line));
    assert_refused(line, &said, parts);
    assert_eq!(said.out, "", "{line}");
}

#[track_caller]
fn assert_refused(line: &str, said: &Said, parts: &[&str]) {
    assert_eq!(said.code, Some(1), "{line}: {}", said.err);
    let errors: Vec<&str> = said.err.lines().filter(|line| line.contains("error:")).collect();
    assert!(errors.len() == 1 && said.err.ends_with(&format!("{}\n", errors[0])), "{line}: {}", said.err);
    assert!(errors[0].starts_with("error: "), "{line}: {}", said.err);
    parts.iter().for_each(|part| assert!(errors[0].contains(part), "{line}: no {part:?} in {}", errors[0]));
}

/// The one JSON object on stdout.
#[track_caller]
fn json(said: &Said) -> serde_json::Value {
    assert_eq!(said.out.lines().count(), 1, "{}", said.out);
    let value: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert!(value.is_object());
    value
}

/// All files below `directory`, sorted.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match path.is_dir() {
            true => found.extend(files(&path).into_iter().map(|below| format!("{name}/{below}"))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let to = to.join(&file);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from.join(&file), to).unwrap();
    }
}

/// The training run that many tests look at.
const TRAINING: &str = "train --data digits --model tiny.json --steps 12 --batch 4 --lr 4e-3 --warmup 2 --seed 3 \
                        --sample-every 6 --checkpoint-every 5 --json";

/// Its place, where it is `run`, and what it said.
fn trained() -> (&'static Path, &'static Said) {
    static RUN: OnceLock<(PathBuf, Said)> = OnceLock::new();
    let (place, said) = RUN.get_or_init(|| {
        // A static is never dropped, so no temporary directory: it would stay.
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli");
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("tiny.json"), TINY).unwrap();
        let said = accepted(&place, &format!("{TRAINING} --out run"));
        (place, said)
    });
    (place, said)
}

/// A place with a copy of that run.
fn place_with_run() -> TempDir {
    let place = place();
    copy(&trained().0.join("run"), &place.path().join("run"));
    place
}

fn read_json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Takes the manifest away, so that files of a checkpoint may be changed: programs of old wrote none.
fn forget_manifest(checkpoint: &Path) {
    fs::remove_file(checkpoint.join("manifest.json")).expect("a checkpoint of a run");
}

/// Writes an untrained checkpoint of `model` to `place/name`.
fn untrained(place: &Path, model: &str, name: &str) {
    let config: UNetConfig = serde_json::from_slice(&fs::read(place.join(model)).unwrap()).unwrap();
    let unet = UNet::new(config).expect("a valid model");
    let weights = unet.params.initialise(1);
    checkpoint::save(&place.join(name), &unet, &[], &weights, &SchedulerConfig::default()).expect("room for files");
}

fn oracle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(name)
}
