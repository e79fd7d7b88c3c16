//! Ranks under `mpirun`, with the feature `mpi`: one result for any number of them, and nobody waits for the dead.

#[path = "common/binary.rs"]
mod binary;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// 8x8 digits, two levels with attention, as a user writes it.
const TINY: &str = include_str!("common/tiny.json");

const TRAIN: &str = "train --data digits --model tiny.json --batch 16 --sample-every 0 --checkpoint-every 4 --audit-every 3 \
    --lr-schedule constant --tune=off";

/// How long the living may wait for the dead.
const BOUND: Duration = Duration::from_secs(30);

fn place() -> TempDir {
    let place = tempfile::tempdir().expect("a place for files");
    fs::write(place.path().join("tiny.json"), TINY).expect("room");
    place
}

/// Each of `lines` on so many ranks.
fn mpirun(place: &Path, lines: &[(u32, &str)]) -> Command {
    mpirun_at(&lines.iter().map(|(ranks, line)| (*ranks, place, *line)).collect::<Vec<_>>())
}

/// Each line on so many ranks in this directory.
fn mpirun_at(lines: &[(u32, &Path, &str)]) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none"]).env_remove("RUST_LOG");
    // A container's only user.
    command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    for (index, (ranks, place, line)) in lines.iter().enumerate() {
        command.args(if index == 0 { &[][..] } else { &[":"] }).args(["-n", &ranks.to_string(), "-wdir"]).arg(place);
        command.args(binary::words()).args(line.split_whitespace());
    }
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The line on so many ranks; on none, without MPI.
fn run(place: &Path, ranks: u32, line: &str) -> Output {
    let mut command = match ranks {
        0 => {
            let mut command = binary::command();
            command.args(line.split_whitespace()).current_dir(place);
            command
        }
        ranks => mpirun(place, &[(ranks, line)]),
    };
    command.output().expect("OpenMPI is there")
}

fn done(place: &Path, ranks: u32, line: &str) {
    let output = run(place, ranks, line);
    assert!(output.status.success(), "{line} on {ranks} ranks: {}", said(&output));
}

/// All tensors of a run's checkpoint, weights, moments and average, and its losses and norms.
fn state(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut state = BTreeMap::new();
    let mut directories = vec![run.join("checkpoint")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a checkpoint").flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "safetensors") {
                let name = path.strip_prefix(run).expect("below").to_string_lossy().into_owned();
                state.insert(name, fs::read(path).expect("a file"));
            }
        }
    }
    assert!(state.len() >= 2, "{}: no state", run.display());
    let metrics = fs::read_to_string(run.join("metrics.csv")).expect("metrics");
    // Step, loss, norm, learning rate; what comes behind is time.
    let told = metrics.lines().map(|line| line.split(',').take(4).collect::<Vec<_>>().join(","));
    state.insert("metrics".into(), told.collect::<Vec<_>>().join("\n").into_bytes());
    state
}

fn assert_same(place: &Path, runs: &[&str]) {
    let [first, others @ ..] = runs else { panic!("no runs") };
    let expected = state(&place.join(first));
    for other in others {
        let found = state(&place.join(other));
        assert!(found.keys().eq(expected.keys()), "{other}: {:?}", found.keys());
        let differ: Vec<&String> =
            found.iter().filter(|(name, own)| expected[*name] != **own).map(|(name, _)| name).collect();
        assert!(differ.is_empty(), "{other} and {first} differ in {differ:?}");
    }
}

#[test]
fn any_number_of_ranks_has_the_bits_of_one_process() {
    let place = place();
    let place = place.path();
    for precision in ["f32", "f16"] {
        let line = |out: &str| format!("{TRAIN} --steps 6 --precision {precision} --shards 4 --out {precision}-{out}");
        let runs = ["alone", "two", "three", "four"];
        for (ranks, out) in [0, 2, 3, 4].into_iter().zip(runs) {
            done(place, ranks, &line(out));
        }
        let runs = runs.map(|out| format!("{precision}-{out}"));
        assert_same(place, &runs.each_ref().map(String::as_str));
    }
    // As many shards as ranks, where nobody says more, and other shards give other bits.
    done(place, 2, &format!("{TRAIN} --steps 6 --out usual"));
    done(place, 0, &format!("{TRAIN} --steps 6 --shards 2 --out usual-alone"));
    assert_same(place, &["usual", "usual-alone"]);
    assert_ne!(state(&place.join("usual")), state(&place.join("f32-alone")));
}

#[test]
fn a_run_goes_on_with_other_ranks_and_with_streamed_images() {
    let place = place();
    let place = place.path();
    done(place, 0, &format!("{TRAIN} --steps 9 --shards 4 --out whole"));
    done(place, 4, &format!("{TRAIN} --steps 3 --out parts"));
    done(place, 2, &format!("{TRAIN} --resume --steps 6 --stream --out parts"));
    done(place, 0, "train --resume --steps 9 --stream=false --tune=off --out parts");
    assert_same(place, &["whole", "parts"]);
}

#[test]
fn the_first_rank_on_a_machine_reads_for_all() {
    let (place, elsewhere) = (place(), place());
    let place = place.path();
    let mut images =
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (40, 8, 8), }".to_vec();
    images.resize(127, b' ');
    images.push(b'\n');
    images.extend((0..40 * 64_u32).map(|index| (index * 37 % 251) as u8));
    fs::write(place.join("images.npy"), images).expect("room");
    fs::write(place.join("tiny.json"), TINY.replace("11", "null")).expect("room");
    let line = |out: &str| format!("{TRAIN} --steps 4 --out {out}").replace("digits", "images.npy");
    done(place, 0, &format!("{} --shards 2", line("alone")));
    // Where the second one is, there are none.
    let line = line("run");
    let lines = [(1, place, &line[..]), (1, elsewhere.path(), &line[..])];
    let output = mpirun_at(&lines).output().expect("OpenMPI is there");
    assert!(output.status.success(), "{}", said(&output));
    assert_same(place, &["alone", "run"]);
}

#[test]
fn ranks_judge_the_images_of_one_process() {
    let place = place();
    let place = place.path();
    done(place, 0, &format!("{TRAIN} --steps 2 --out run"));
    done(place, 0, "train-classifier --data digits --size 8 --batch 16 --steps 2 --tune=off --out judge");
    let line = "evaluate run --data digits --quality --judge judge --count 22 --batch 4 --steps 4 --tune=off";
    let judged = |ranks| {
        let output = run(place, ranks, line);
        assert!(output.status.success(), "{ranks} ranks: {}", said(&output));
        output.stdout
    };
    let alone = judged(0);
    assert!(!alone.is_empty());
    assert!(judged(2) == alone && judged(3) == alone);
}

#[test]
fn ranks_draw_the_images_of_one_process() {
    let place = place();
    let place = place.path();
    done(place, 0, &format!("{TRAIN} --steps 2 --out run"));
    let line = |out: &str| {
        format!("sample run --count 11 --batch 3 --steps 4 --tune=off --out {out}.png --tensor {out}.safetensors")
    };
    for (ranks, out) in [(0, "alone"), (2, "two"), (3, "three")] {
        done(place, ranks, &line(out));
        for file in [format!("{out}.png"), format!("{out}.safetensors")] {
            let of_one = fs::read(place.join(file.replace(out, "alone"))).expect("it was drawn");
            assert!(fs::read(place.join(&file)).expect("it was drawn") == of_one, "{file}");
        }
    }
}

#[test]
fn what_ranks_disagree_on_is_one_line_and_nobody_hangs() {
    let place = place();
    let place = place.path();
    let good = format!("{TRAIN} --steps 2 --out run");
    let other = |from: &str, to: &str| good.replace(from, to);
    done(place, 0, &format!("{TRAIN} --steps 2 --shards 2 --out two"));
    let cases: &[(&[(u32, &str)], &str)] = &[
        (&[(1, &good), (1, &other("--batch 16", "--batch 32"))], "rank 1 on "),
        (&[(2, &other("--batch 16", "--batch 15"))], "error: --batch 15 can't be cut into 2 shards"),
        (&[(2, &format!("{good} --shards 3"))], "error: --shards 3: takes a power of two"),
        (&[(2, &format!("{good} --dp --dp-epsilon 8 --dp-delta 1e-5"))], "error: --dp is for one process"),
        (&[(2, &format!("{good} --canaries 8"))], "error: --canaries is for one process"),
        (
            &[(3, "train --resume --steps 4 --tune=off --out two")],
            "error: 3 ranks, and a step of this run has 2 shards",
        ),
        (&[(2, "train --data nowhere --tune=off --out run")], "error: nowhere: "),
        (&[(2, "sample nowhere --tune=off")], "error: nowhere: "),
        (&[(2, "train --nonsense")], "error: unexpected argument '--nonsense'"),
    ];
    for (lines, expected) in cases {
        let begun = Instant::now();
        let output = mpirun(place, lines).output().expect("OpenMPI is there");
        let said = said(&output);
        assert!(!output.status.success() && begun.elapsed() < BOUND, "{lines:?}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && said.contains(expected), "{lines:?}: {said}");
        assert!(!place.join("run").exists(), "{lines:?}: something was written");
    }
}

/// The processes of `diffuse` that `mpirun` started, by rank.
fn processes(mpirun: &Child) -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc").expect("Linux").flatten() {
        let (Some(pid), path) = (entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()), entry.path())
        else {
            continue;
        };
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<u32>().ok());
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        let rank = environment.split('\0').find_map(|word| word.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok());
        if let (Some(rank), true) = (rank, parent == Some(mpirun.id())) {
            found.insert(rank, pid);
        }
    }
    found
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(sent.expect("kill is there").success());
}

/// Waits until `what` holds.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn steps_of(run: &Path) -> usize {
    fs::read_to_string(run.join("metrics.csv")).map_or(0, |metrics| metrics.lines().count().saturating_sub(1))
}

/// Waits for its end; how long that took, and what it said.
fn end(child: Child) -> (Duration, Output) {
    let begun = Instant::now();
    let output = child.wait_with_output().expect("it ends");
    (begun.elapsed(), output)
}

#[test]
fn a_rank_that_dies_or_stops_ends_all_and_the_run_goes_on_with_the_same_bits() {
    let place = place();
    let place = place.path();
    done(place, 0, &format!("{TRAIN} --steps 60 --shards 2 --out whole"));
    // The last one is stopped, not killed: no launcher sees that.
    for (index, (rank, name, after)) in [(1, "KILL", 5), (0, "KILL", 17), (1, "STOP", 30)].into_iter().enumerate() {
        let line = match index {
            0 => format!("{TRAIN} --steps 60 --out run"),
            _ => "train --resume --tune=off --out run".into(),
        };
        let child = mpirun(place, &[(2, &line)]).stderr(Stdio::piped()).spawn().expect("OpenMPI is there");
        wait_until("so many steps", || steps_of(&place.join("run")) >= after && processes(&child).len() == 2);
        let victim = processes(&child)[&rank];
        signal(name, victim);
        let (took, output) = end(child);
        let said = said(&output);
        assert!(took < BOUND && !output.status.success(), "{name} {rank}: {took:?}, {said}");
        match name {
            "STOP" => assert!(said.contains("error: rank 1 on ") && said.contains("has not been heard of"), "{said}"),
            _ => assert!(said.contains(&format!("process rank {rank} ")) && said.contains("signal 9"), "{said}"),
        }
        if name == "STOP" {
            // It may have outlived its launcher.
            _ = Command::new("kill").args(["-KILL", &victim.to_string()]).stderr(Stdio::null()).status();
        }
    }
    done(place, 2, "train --resume --tune=off --out run");
    assert_same(place, &["whole", "run"]);
}

#[test]
fn a_rank_that_is_asked_to_end_ends_all_and_one_saves() {
    let place = place();
    let place = place.path();
    done(place, 0, &format!("{TRAIN} --steps 40 --shards 2 --out whole"));
    let line = format!("{TRAIN} --steps 40 --checkpoint-every 0 --out run").replace("--checkpoint-every 4 ", "");
    let child = mpirun(place, &[(2, &line)]).stderr(Stdio::piped()).spawn().expect("OpenMPI is there");
    wait_until("some steps", || steps_of(&place.join("run")) >= 3 && processes(&child).len() == 2);
    signal("TERM", processes(&child)[&1]);
    let (_, output) = end(child);
    assert!(output.status.success() && said(&output).contains("stopped at step "), "{}", said(&output));
    done(place, 2, "train --resume --tune=off --out run");
    assert_same(place, &["whole", "run"]);
}
