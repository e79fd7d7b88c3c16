//! `diffuse train`: the run directory, interruption, resumption, a full disk.

use std::process::{Child, Stdio};
use std::time::Instant;

use super::*;
use diffuse::tensors;
use serde_json::Value;

const STORED: [&str; 3] = ["diffusion_pytorch_model.safetensors", "trainer.safetensors", "trainer.json"];

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(String::from).collect()
}

#[track_caller]
pub fn assert_same_bits(one: &Path, other: &Path) {
    for file in STORED {
        let read = |run: &Path| fs::read(run.join("checkpoint").join(file)).unwrap();
        assert!(read(one) == read(other), "{file} differs");
    }
    // One column is a time.
    let timeless = |line: &String| -> Vec<String> {
        let columns = line.split(',').enumerate().filter(|(column, _)| *column != 4);
        columns.map(|(_, field)| field.to_string()).collect()
    };
    let rows = |run: &Path| -> Vec<Vec<String>> { lines(&run.join("metrics.csv")).iter().map(timeless).collect() };
    assert_eq!(rows(one), rows(other));
}

#[test]
fn a_run_is_written_whole() {
    let (place, said) = trained();
    let run = place.join("run");
    let report = json(said);
    assert_eq!((&report["step"], &report["done"]), (&12.into(), &true.into()));
    let checkpoint =
        ["config.json", STORED[0], "manifest.json", "scheduler_config.json", "trainer.json", "trainer.safetensors"];
    // The newest, and the two before it.
    let checkpoints = ["checkpoint", "checkpoints/step_000005", "checkpoints/step_000010"];
    let files_of = |place: &&str| checkpoint.map(|name| format!("{place}/{name}"));
    let mut expected: Vec<String> = checkpoints.iter().flat_map(files_of).collect();
    let others = ["config.json", "data.json", "loss.png", "metrics.csv", "report.html"];
    expected.extend(others.map(String::from));
    let others = ["samples/step_000006.png", "samples/step_000012.png"];
    expected.extend(others.map(String::from));
    assert_eq!(files(&run), expected);
    let metrics = lines(&run.join("metrics.csv"));
    let levels: String = (0..8).map(|level| format!(",loss_{level}")).collect();
    assert_eq!(metrics[0], format!("step,loss,grad_norm,lr,images_per_s{levels}"));
    assert_eq!(metrics.len(), 13);
    for (step, line) in metrics[1..].iter().enumerate() {
        assert_eq!(line.split(',').count(), 13, "{line}");
        // A batch of four images has none of most levels.
        let numbers = line.split(',').enumerate().filter(|(column, field)| *column < 5 || !field.is_empty());
        let numbers: Vec<f64> = numbers.map(|(_, field)| field.parse().unwrap()).collect();
        assert!(numbers.len() > 5 && numbers[0] == step as f64 + 1.0, "{line}");
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
    let said = accepted(place.path(), "train --resume --out run");
    assert!(said.err.contains("trained 12 steps already: run; --steps takes more"), "{}", said.err);
    let json = json(&accepted(place.path(), "train --resume --out run --json"));
    assert_eq!((&json["step"], &json["steps"], &json["done"]), (&12.into(), &12.into(), &true.into()));
    assert_eq!(json["checkpoint"], "run/checkpoint");
    let less = run(typed(place.path(), "train --resume --out run --steps 3"));
    assert_refused("--steps 3", &less, &["step 12 is done already"]);
    assert!(!less.err.contains("from here on"), "{}", less.err);
    // Data are looked at if they are named, though nothing is left to learn from them.
    refused(place.path(), "train --resume --out run --data nowhere", &["nowhere: no such file"]);
    write_photos(&place.path().join("run/samples/photos"), 2);
    refused(place.path(), "train --resume --out run --data run/samples/photos", &["this is not the same run"]);
    fs::remove_dir_all(place.path().join("run/samples/photos")).unwrap();
    // What was typed is what holds already.
    for same in ["--flip false", "--data digits", "--model tiny.json"] {
        accepted(place.path(), &format!("train --resume --out run {same}"));
    }
    for flag in ["--batch 8", "--seed 1", "--noise-schedule ve", "--flip true"] {
        let name = flag.split(' ').next().unwrap().replace("noise-", "");
        let problem = format!("{name} can't change in a resumed run");
        refused(place.path(), &format!("train --resume --out run --steps 14 {flag}"), &[&problem, "another --out"]);
    }
    fs::write(place.path().join("other.json"), TINY.replace("12]", "16]")).unwrap();
    for flag in ["--precision f16", "--winograd off", "--learned-variance", "--preset mnist", "--model other.json"] {
        let problem = format!("{} can't change in a resumed run", flag.split(' ').next().unwrap());
        refused(place.path(), &format!("train --resume --out run {flag}"), &[&problem]);
    }
    fs::remove_file(place.path().join("other.json")).unwrap();
    refused(place.path(), "train-classifier --resume --out run", &["run: this run trains a U-Net: train --resume"]);
    refused(place.path(), "train --resume --out run/checkpoint --steps 20", &["run/checkpoint: a checkpoint", "--out"]);
    refused(place.path(), "train --resume --out nowhere", &["nowhere: no run to go on with", "--data"]);
    assert_eq!(files(place.path()), before);
    // The one before it is gone on with, the first is nowhere.
    fs::remove_dir_all(place.path().join("run/checkpoint")).unwrap();
    let said = accepted(place.path(), "train --resume --out run --sample-every 0").err;
    assert!(said.contains("checkpoint: is missing; this goes on from run/checkpoints/step_000010 (step 10)"), "{said}");
    for name in ["checkpoint", "checkpoints"] {
        fs::remove_dir_all(place.path().join("run").join(name)).unwrap();
    }
    refused(place.path(), "train --resume --out run", &["run: no run to go on with"]);
    refused(place.path(), again, &["run: holds a run", "before its first checkpoint", "--resume"]);
}

/// As a cluster does it that restarts what it killed.
#[test]
fn the_same_line_again_and_again_ends_with_a_finished_run() {
    let place = place();
    let line = format!("{} --resume --out run", TRAINING.replace(" --json", ""));
    fs::create_dir(place.path().join("run")).unwrap();
    fs::write(place.path().join("run/metrics.csv"), "step,loss\n1,").unwrap();
    accepted(place.path(), &line);
    assert_same_bits(&place.path().join("run"), &trained().0.join("run"));
    let before = files(place.path());
    assert!(accepted(place.path(), &line).err.contains("trained 12 steps already"));
    assert_eq!(files(place.path()), before);
    let said = accepted(place.path(), &line.replace("--steps 12", "--steps 14"));
    assert!(
        said.err.contains("steps: 14 from here on, 12 before\n") && said.err.contains("from step 12"),
        "{}",
        said.err
    );
}

#[test]
fn what_may_change_in_a_run_changes_and_is_said() {
    let place = place_with_run();
    let flags = "--steps 14 --lr 1e-3 --warmup 0 --lr-schedule constant --sample-every 0 --checkpoint-every 0";
    let said = accepted(place.path(), &format!("train --resume --out run {flags}"));
    for line in ["lr: 0.001 from here on, 0.004 before", "lr-schedule: \"constant\" from here on", "sample-every: 0"] {
        assert!(said.err.contains(line), "{line}: {}", said.err);
    }
    let metrics = lines(&place.path().join("run/metrics.csv"));
    let rate = |line: &str| line.split(',').nth(3).unwrap().parse::<f64>().unwrap();
    assert!((rate(&metrics[13]) - 1e-3).abs() < 1e-9 && (rate(&metrics[14]) - 1e-3).abs() < 1e-9, "{metrics:?}");
}

fn write_photos(directory: &Path, count: u8) {
    fs::create_dir_all(directory).unwrap();
    for index in 0..count {
        let picture = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([(x * 30) as u8, (y * 30) as u8, index * 40]));
        picture.save(directory.join(format!("{index}.png"))).unwrap();
    }
}

#[test]
fn data_may_move_but_not_change() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    fs::write(at("rgb.json"), TINY.replace("els\": 1", "els\": 3").replace(r#", "num_class_embeds": 11"#, "")).unwrap();
    write_photos(&at("photos"), 4);
    accepted(place.path(), "train --data photos --model rgb.json --steps 2 --batch 2 --sample-every 0 --out run");
    fs::rename(at("photos"), at("pictures")).unwrap();
    let line = "train --resume --out run --steps 3";
    refused(place.path(), line, &["photos: no such file", "--data"]);
    let said = accepted(place.path(), &format!("{line} --data pictures"));
    assert!(said.err.contains("data: \"pictures\" from here on, \"photos\" before"), "{}", said.err);
    let line = "train --resume --out run --steps 4";
    image::RgbImage::new(8, 8).save(at("pictures/1.png")).unwrap();
    refused(place.path(), line, &["pictures: other images or labels than the run had, of the same numbers"]);
    write_photos(&at("pictures"), 5);
    refused(place.path(), line, &["pictures: other numbers of images than the run had, of pictures (4 then, 5 now)"]);
}

#[test]
fn a_run_starts_with_the_weights_of_another() {
    let place = place_with_run();
    let line = "train --data digits --init run --batch 4 --sample-every 0 --lr 1e-9 --warmup 0 --steps 1";
    let said = accepted(place.path(), &format!("{line} --out fresh"));
    assert!(!said.err.contains("the checkpoint"), "{}", said.err);
    let weights = |run: &str| tensors::read(&place.path().join(run).join("checkpoint").join(STORED[0])).unwrap();
    let (then, now) = (weights("run"), weights("fresh"));
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(then.iter().all(|(name, tensor)| apart(&tensor.values, &now[name].values) < 1e-6));
    // A class more, and in another order: the rows go with their names.
    let folder = place.path().join("letters");
    for name in ["2", "ten", "0", "1", "3", "4", "5", "6", "7", "8", "9"] {
        fs::create_dir_all(folder.join(name)).unwrap();
        image::GrayImage::new(8, 8).save(folder.join(name).join("0.png")).unwrap();
    }
    let flags = "--target v --schedule cosine --out grown";
    let said = accepted(place.path(), &format!("{} {flags}", line.replace("digits", "letters")));
    for note in [
        "classes: 10 of the checkpoint's, 1 new\n",
        "target: v_prediction here, epsilon in the checkpoint\n",
        "schedule: squaredcos_cap_v2 of 1000 timesteps here, linear of 1000 timesteps in the checkpoint\n",
    ] {
        assert!(said.err.contains(note), "{note}: {}", said.err);
    }
    let grown = &weights("grown")["class_embedding.weight"];
    let (old, width) = (&then["class_embedding.weight"], grown.shape[1]);
    assert_eq!((grown.shape[0], old.shape[0]), (12, 11));
    assert!(apart(&grown.values[..10 * width], &old.values[..10 * width]) < 1e-6);
    assert!(apart(&grown.values[11 * width..], &old.values[10 * width..]) < 1e-6);
    fs::remove_dir_all(folder.join("7")).unwrap();
    let line = line.replace("digits", "letters");
    refused(place.path(), &format!("{line} --out other"), &["run: it knows the class 7, which the data have not"]);
    let line = line.replace("letters", "digits");
    refused(place.path(), &format!("{line} --preset mnist --out other"), &["run: tensor", "has shape"]);
    refused(
        place.path(),
        &format!("{line} --out other").replace("--init run", "--init nowhere"),
        &["nowhere: no such"],
    );
    assert!(!place.path().join("other").exists());
}

/// Whoever reads the messages goes away at once.
#[cfg(unix)]
#[test]
fn a_run_goes_on_when_nobody_reads_its_messages() {
    let place = place();
    let line = "train --data digits --model tiny.json --steps 30 --batch 2 --sample-every 10 --out run --json";
    let mut child =
        typed(place.path(), line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(read_json(&place.path().join("run/checkpoint/trainer.json"))["step"], 30);
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

#[test]
fn a_micro_batch_is_a_way_to_say_batch_and_accumulate() {
    let place = place();
    let line = "train --data digits --model tiny.json --steps 6 --sample-every 0";
    accepted(place.path(), &format!("{line} --batch 4 --accumulate 3 --out said"));
    accepted(place.path(), &format!("{line} --batch 12 --micro-batch 4 --out run"));
    assert_same_bits(&place.path().join("said"), &place.path().join("run"));
    let passes = |run: &str| {
        let config = read_json(&place.path().join(run).join("config.json"));
        (config["batch"].as_u64().unwrap(), config["accumulate"].as_u64().unwrap())
    };
    let said = accepted(place.path(), &format!("{line} --batch 12 --micro-batch auto --out auto"));
    assert!(said.err.contains("12 images of a step's 12 at a time"), "{}", said.err);
    assert_eq!(passes("auto"), (12, 1));
    // All twelve would fit now.
    let longer = line.replace("--steps 6", "--steps 8");
    accepted(place.path(), &format!("{longer} --batch 12 --micro-batch auto --resume --out run"));
    assert_eq!(passes("run"), (4, 3));
    let refusals = [
        ("--batch 12 --micro-batch 5 --out new", "--micro-batch 5 does not divide --batch 12"),
        ("--batch 24 --micro-batch auto --resume --out run", "--batch can't change in a resumed run (12 then, 24 now)"),
        (
            "--batch 12 --micro-batch 6 --resume --out run",
            "--micro-batch can't change in a resumed run (4 then, 6 now)",
        ),
    ];
    refusals.iter().for_each(|(flags, problem)| refused(place.path(), &format!("{line} {flags}"), &[problem]));
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
    let left = |name: &String| name.contains(".tmp");
    let files: Vec<String> = files(&run).into_iter().filter(|name| !left(name)).collect();
    // Five of the run, and three checkpoints of six.
    assert_eq!(files.len(), 23, "{files:?}");
}

/// What the checkpoints that were kept are called.
pub fn kept(run: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

#[test]
fn as_many_checkpoints_are_kept_as_asked() {
    let place = place_with_run();
    let run = place.path().join("run");
    let step = |name: &str| read_json(&run.join(name).join("trainer.json"))["step"].as_u64().unwrap();
    assert_eq!(kept(&run), ["step_000005", "step_000010"]);
    assert_eq!((step("checkpoints/step_000005"), step("checkpoints/step_000010"), step("checkpoint")), (5, 10, 12));
    accepted(place.path(), "sample run/checkpoints/step_000005 --count 1 --steps 1 --out s.png");
    let line = "train --resume --out run --sample-every 0 --checkpoint-every 1";
    accepted(place.path(), &format!("{line} --steps 15 --keep 3"));
    assert_eq!((kept(&run), step("checkpoint")), (["12", "13", "14"].map(|at| format!("step_0000{at}")).to_vec(), 15));
    accepted(place.path(), &format!("{line} --steps 16 --keep 1"));
    // The best is the one before.
    assert_eq!(kept(&run), ["step_000013", "step_000015"]);
    fs::remove_dir_all(run.join("checkpoints/step_000013")).unwrap();
    // Back to an older one: what comes later stays.
    fs::rename(run.join("checkpoint"), run.join("checkpoints/step_000016")).unwrap();
    fs::rename(run.join("checkpoints/step_000015"), run.join("checkpoint")).unwrap();
    accepted(place.path(), &format!("{line} --steps 16 --keep 1"));
    assert_eq!((kept(&run), step("checkpoint")), (vec!["step_000015".into(), "step_000016".into()], 16));
    accepted(place.path(), &format!("{line} --steps 17 --keep 0"));
    assert_eq!((kept(&run), step("checkpoint")), (vec![], 17));
    assert!(!run.join("private").exists() && !run.join("checkpoint.old").exists());
}

/// By the losses that the metrics say.
#[test]
fn the_best_checkpoint_is_kept() {
    let place = place();
    let run = place.path().join("run");
    let line =
        "train --data digits --model tiny.json --batch 2 --lr 0.1 --sample-every 0 --checkpoint-every 3 --out run";
    accepted(place.path(), &format!("{line} --steps 24 --keep 1"));
    let rows = lines(&run.join("metrics.csv"));
    let loss = |step: usize| rows[step].split(',').nth(1).unwrap().parse::<f64>().unwrap();
    let mean = |end: usize| (loss(end - 2) + loss(end - 1) + loss(end)) / 3.0;
    let best = (1..=8).map(|save| 3 * save).min_by(|one, other| mean(*one).total_cmp(&mean(*other))).unwrap();
    assert!(best < 21, "{rows:?}");
    let (path, name) = (format!("run/checkpoints/step_{best:06}"), format!("step_{best:06}"));
    assert_eq!(kept(&run), [name.as_str(), "step_000021"]);
    let said = read_json(&place.path().join(&path).join("trainer.json"))["mean_loss"].as_f64().unwrap();
    assert!((said - mean(best)).abs() < 1e-6, "{said}");
    let verified = |line: &str| accepted(place.path(), line).out;
    assert!(
        verified("verify run")
            .ends_with(&format!("best   {path}: the least mean training loss since the save before, {said:.6}\n"))
    );
    let report = || serde_json::from_str::<Value>(&verified("verify run --json")).unwrap();
    assert_eq!(report()["best"], path);
    // One without a number, as of old or of a loss that wasn't finite, is never the best.
    forget_manifest(&run.join("checkpoints").join(&name));
    let state = run.join("checkpoints").join(&name).join("trainer.json");
    let mut other = read_json(&state);
    other.as_object_mut().unwrap().remove("mean_loss");
    fs::write(&state, other.to_string()).unwrap();
    assert_ne!(report()["best"], path);
    accepted(place.path(), "train --resume --out run --steps 25 --keep 1");
    assert!(!kept(&run).contains(&name), "{:?}", kept(&run));
    accepted(place.path(), "train --resume --out run --steps 26 --keep 0");
    assert_eq!(kept(&run), [] as [&str; 0]);
}

/// Where a process may be killed while it puts a new checkpoint in the place of the old one.
#[test]
fn a_killed_save_loses_no_checkpoint() {
    let at_step = |run: &Path| read_json(&run.join("checkpoint/trainer.json"))["step"].as_u64().unwrap();
    let saves = |place: &TempDir, kept_then: &[&str]| {
        let run = place.path().join("run");
        accepted(place.path(), "sample run --count 1 --steps 1 --out s.png");
        accepted(place.path(), "train --resume --out run --steps 13 --sample-every 0");
        assert_eq!((kept(&run), at_step(&run)), (kept_then.iter().map(|name| name.to_string()).collect(), 13));
        assert!(!run.join("checkpoint.old").exists() && !run.join("checkpoint.new").exists());
    };
    // While it writes.
    let place = place_with_run();
    fs::create_dir(place.path().join("run/checkpoint.new")).unwrap();
    fs::write(place.path().join("run/checkpoint.new/config.json"), "half").unwrap();
    saves(&place, &["step_000010", "step_000012"]);
    // Between the renames.
    let place = place_with_run();
    copy(&place.path().join("run/checkpoint"), &place.path().join("run/checkpoint.new"));
    fs::rename(place.path().join("run/checkpoint"), place.path().join("run/checkpoint.old")).unwrap();
    saves(&place, &["step_000010", "step_000012"]);
    // Before the old one is with the others.
    let place = place_with_run();
    fs::rename(place.path().join("run/checkpoints/step_000010"), place.path().join("run/checkpoint.old")).unwrap();
    saves(&place, &["step_000010", "step_000012"]);
}

/// Every directory that a killed run leaves under a name that people read is whole.
#[test]
fn a_killed_run_leaves_whole_checkpoints() {
    let place = place();
    let run = place.path().join("run");
    let line = "--steps 100000 --sample-every 0 --checkpoint-every 1 --out run";
    for round in 0..4 {
        let start = if round == 0 { "train --data digits --model tiny.json --batch 2" } else { "train --resume" };
        let mut child = begin(place.path(), &format!("{start} {line}"));
        wait_for(&run.join(format!("checkpoints/step_{:06}", 1 + 7 * round)), &mut child);
        std::thread::sleep(Duration::from_millis(7 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let kept = kept(&run).into_iter().map(|name| run.join("checkpoints").join(name));
        let places: Vec<PathBuf> = kept.chain(["checkpoint", "checkpoint.old"].map(|name| run.join(name))).collect();
        let mut whole = 0;
        for place in places.iter().filter(|place| place.is_dir()) {
            assert!(place.join("manifest.json").is_file(), "{}", place.display());
            checkpoint::manifest::check(place, |_| true).unwrap();
            assert_eq!(files(place).len(), 6, "{:?}", files(place));
            whole += 1;
        }
        assert!((2..=5).contains(&whole), "{whole}");
    }
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
    interrupt(&mut child);
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

/// Of two that begin at once one is refused, before or while the other trains, and nothing of it is left.
#[cfg(unix)]
#[test]
fn of_two_that_start_at_once_one_trains() {
    let place = place();
    let line = "train --data digits --model tiny.json --steps 6 --batch 2 --sample-every 0 --checkpoint-every 2";
    accepted(place.path(), &format!("{line} --out alone"));
    for round in 0..4 {
        let start = |resume: &str| {
            let mut command = typed(place.path(), &format!("{line} {resume} --out run{round}"));
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it can be run")
        };
        let resume = if round % 2 == 0 { "" } else { "--resume" };
        let both = [start(resume), start(resume)].map(|child| child.wait_with_output().unwrap());
        let said = both.map(|output| (output.status.code(), String::from_utf8(output.stderr).unwrap()));
        let refused: Vec<&(Option<i32>, String)> = said.iter().filter(|(code, _)| *code != Some(0)).collect();
        // With --resume the second may find the first one done.
        assert!(refused.len() == 1 || round % 2 == 1 && refused.is_empty(), "{said:?}");
        for (code, said) in refused {
            let why = [": in use: another process trains here", ": holds a run "];
            let last = said.lines().last().unwrap_or_default();
            assert!(
                *code == Some(1) && why.iter().any(|why| last.starts_with("error: run") && last.contains(why)),
                "{said}"
            );
        }
        assert_same_bits(&place.path().join(format!("run{round}")), &place.path().join("alone"));
    }
}

/// Goes on with what it has in a new directory, from which it can be gone on with.
#[cfg(unix)]
#[test]
fn a_directory_that_is_removed_is_made_anew() {
    let place = place();
    let (run, moved) = (place.path().join("run"), place.path().join("moved"));
    let line = "train --data digits --model tiny.json --steps 100000 --batch 2 --sample-every 0 --checkpoint-every 5 --out run";
    let mut child = begin(place.path(), line);
    let said = || fs::read_to_string(place.path().join("stderr")).unwrap();
    let times = |count: usize, child: &mut Child| {
        while said().matches("warning: run: was removed or renamed; it is made anew").count() < count {
            assert!(child.try_wait().unwrap().is_none(), "{}", said());
            std::thread::sleep(Duration::from_millis(5));
        }
        wait_for(&run.join("checkpoint/trainer.json"), child);
    };
    wait_for(&run.join("checkpoint/trainer.json"), &mut child);
    fs::rename(&run, &moved).unwrap();
    times(1, &mut child);
    // As somebody removes it while something may be written.
    while run.exists() {
        let _ = fs::remove_dir_all(&run);
    }
    times(2, &mut child);
    interrupt(&mut child);
    let warnings: Vec<String> = said().lines().filter(|line| line.starts_with("warning: ")).map(String::from).collect();
    let others = warnings.iter().filter(|line| !line.contains("it is made anew")).count();
    // What was under way when it went.
    assert!(warnings.len() <= 2 + 2 && others <= 2, "{warnings:?}");
    let step = read_json(&run.join("checkpoint/trainer.json"))["step"].as_u64().unwrap();
    let mut names = files(&run);
    names.retain(|name| !name.contains('/'));
    assert_eq!(names, ["config.json", "data.json", "loss.png", "metrics.csv", "report.html"]);
    assert!(lines(&run.join("metrics.csv")).last().unwrap().starts_with(&format!("{step},")));
    accepted(place.path(), "verify run");
    accepted(place.path(), &format!("train --resume --out run --steps {}", step + 1));
    // What was moved is a run, too.
    accepted(place.path(), "verify moved");
    let step = read_json(&moved.join("checkpoint/trainer.json"))["step"].as_u64().unwrap();
    accepted(place.path(), &format!("train --resume --out moved --steps {}", step + 1));
}

/// Says so at each save, and saves again once it may.
#[cfg(unix)]
#[test]
fn a_directory_that_may_not_be_written_ends_no_run() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let place = place();
    let run = place.path().join("run");
    let allow = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let line = "train --data digits --model tiny.json --steps 100000 --batch 2 --sample-every 0 --checkpoint-every 5 --out run";
    let mut command = typed(place.path(), line);
    if fs::metadata(place.path()).unwrap().uid() == 0 {
        // Root may write anywhere; nobody may not.
        allow(place.path(), 0o777);
        command.uid(65534).gid(65534);
    }
    let log = fs::File::create(place.path().join("stderr")).unwrap();
    let Ok(mut child) = command.stdout(Stdio::null()).stderr(log).spawn() else {
        println!("skipped: nobody has no right to run this");
        return;
    };
    wait_for(&run.join("checkpoint/trainer.json"), &mut child);
    allow(&run, 0o555);
    wait_until_said(place.path(), "is not saved: run/checkpoint", &mut child);
    let then = checkpoint::manifest::check(&run.join("checkpoint"), |_| true);
    allow(&run, 0o755);
    then.unwrap();
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    let warnings = said.lines().filter(|line| line.starts_with("warning: "));
    // Or a picture was the first that could not be written.
    warnings.for_each(|line| assert!(line.contains("permission denied; name a place that you may write"), "{said}"));
    interrupt(&mut child);
    let step = read_json(&run.join("checkpoint/trainer.json"))["step"].as_u64().unwrap();
    assert!(fs::read_to_string(place.path().join("stderr")).unwrap().contains(&format!("stopped at step {step} of")));
    accepted(place.path(), &format!("train --resume --out run --steps {}", step + 1));
}

/// Nothing is written into a run that somebody else began where the directory was.
#[cfg(unix)]
#[test]
fn a_run_in_the_place_of_another_is_left_alone() {
    let place = place();
    let run = place.path().join("run");
    let line = "train --data digits --model tiny.json --steps 100000 --batch 2 --sample-every 0 --checkpoint-every 0 --out run";
    let mut child = begin(place.path(), line);
    wait_until_said(place.path(), "parameters on", &mut child);
    fs::rename(&run, place.path().join("moved")).unwrap();
    copy(&trained().0.join("run"), &run);
    let before = files(&run);
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("error: run: another run began here"), "{said}");
    assert_eq!(files(&run), before);
    assert_same_bits(&run, &trained().0.join("run"));
}

/// What a classifier is worth is measured on its checkpoint, which nobody may replace meanwhile.
#[cfg(unix)]
#[test]
fn a_run_stays_locked_until_its_checkpoint_was_read() {
    let place = place();
    let mut child = begin(place.path(), "train-classifier --data digits --batch 2 --steps 1 --out run");
    wait_until_said(place.path(), "trained 1 step in", &mut child);
    refused(place.path(), "train-classifier --resume --steps 2 --out run", &["run: in use", "another process"]);
    assert!(child.wait().unwrap().success());
    accepted(place.path(), "train-classifier --resume --steps 2 --out run");
    // Once more, for those who look for the figures only now.
    let report = json(&accepted(place.path(), "train-classifier --resume --steps 2 --out run --json"));
    assert_eq!((&report["step"], &report["checkpoint"]), (&2.into(), &"run/checkpoint".into()));
    assert!(report["accuracy"].as_array().is_some_and(|levels| !levels.is_empty()), "{report}");
    refused(place.path(), "train --config run/config.json --out other", &["run/config.json", "train-classifier"]);
}

/// What goes on is what was begun, at a place as a shell takes it.
#[cfg(unix)]
#[test]
fn an_interrupted_classifier_says_how_to_go_on() {
    let place = place();
    let log = fs::File::create(place.path().join("stderr")).unwrap();
    let mut command = typed(place.path(), "train-classifier --data digits --batch 2 --steps 100000");
    command.args(["--out", "my cat's run"]).stdout(Stdio::null()).stderr(log);
    let mut child = command.spawn().expect("it can be run");
    wait_until_said(place.path(), "parameters on", &mut child);
    interrupt(&mut child);
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    let again = r"go on with: diffuse train-classifier --resume --out 'my cat'\''s run'";
    assert!(said.lines().last().is_some_and(|line| line.ends_with(again)), "{said}");
}

/// Asks a command to end, which it must do well.
#[cfg(unix)]
fn interrupt(child: &mut Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(status.success() && child.wait().unwrap().success());
}

#[test]
fn a_run_that_breaks_says_what_can_help() {
    let place = place();
    let line = "train --data digits --model tiny.json --batch 4 --sample-every 0 --lr 10 --warmup 60 --max-norm 0 \
                --lr-schedule constant --precision f16 --steps 200";
    let said = run(typed(place.path(), &format!("{line} --checkpoint-every 0 --out broken")));
    let error = said.err.lines().last().unwrap();
    let step: u64 = error.strip_prefix("error: step ").unwrap().split(':').next().unwrap().parse().unwrap();
    assert_refused(
        line,
        &said,
        &[
            "; first not finite: ",
            ", more than halves hold (",
            "no checkpoint was written",
            "--resume",
            "smaller --lr (it was 10)",
        ],
    );
    // Weights from which no step can be taken are worth nothing.
    assert!(!place.path().join("broken/checkpoint").exists());
    assert!(step > 3, "the weights of step 1 are good, and those of step {} not", step - 1);
    let line = line.replace(" --steps 200", "");
    let early = format!("{line} --steps 200 --checkpoint-every {} --out early", step - 2);
    refused(place.path(), &early, &[&format!("checkpoint/ holds step {}: go on", step - 2), "a smaller --lr"]);
    let late = format!("{line} --steps 200 --checkpoint-every {} --out late", step - 1);
    let beyond = format!("the weights of step {} are beyond help: start anew in another --out", step - 1);
    refused(place.path(), &late, &[&beyond, "a smaller --lr"]);
    let stored = fs::read(place.path().join("late/checkpoint").join(STORED[1])).unwrap();
    refused(place.path(), "train --resume --out late --lr 1e-4", &[&format!("step {step}: loss"), &beyond]);
    assert!(stored == fs::read(place.path().join("late/checkpoint").join(STORED[1])).unwrap());
}

#[test]
fn what_follows_a_broken_step_goes_with_the_precision_and_may_change() {
    let place = place();
    let line = "train --data digits --model tiny.json --batch 2 --sample-every 0";
    for (run, flags) in
        [("a", "--on-nan skip"), ("b", "--precision f16 --on-nan lower-scale"), ("c", "--precision f16 --on-nan stop")]
    {
        accepted(place.path(), &format!("{line} --steps 1 --out {run} {flags}"));
    }
    let said = accepted(place.path(), "train --resume --out a --steps 2 --on-nan stop --audit-every 1");
    assert!(said.err.contains("on-nan: \"stop\" from here on, \"skip\" before"), "{}", said.err);
    assert!(
        said.err.contains("1 step computed twice, 0 differed; dispatches held to their twins: 1 (a step has "),
        "{}",
        said.err
    );
}

#[test]
fn initial_weights_that_give_no_number_are_to_blame() {
    let place = place();
    let unet = UNet::new(serde_json::from_str(TINY).unwrap()).expect("a valid model");
    let weights: Vec<f32> = unet.params.initialise(1).iter().map(|weight| weight * 1e30).collect();
    checkpoint::save(&place.path().join("huge"), &unet, &[], &weights, &SchedulerConfig::default()).unwrap();
    let line = "train --data digits --init huge --batch 4 --sample-every 0 --steps 9 --out run";
    refused(place.path(), line, &["step 1: loss", "the initial weights give that, which no --lr can help", "--init"]);
}

#[test]
fn weights_that_no_run_goes_on_with_are_not_replaced() {
    let place = place_with_run();
    fs::remove_dir_all(place.path().join("run/checkpoints")).unwrap();
    fs::remove_file(place.path().join("run/checkpoint/trainer.json")).unwrap();
    forget_manifest(&place.path().join("run/checkpoint"));
    untrained(place.path(), "tiny.json", "foreign");
    untrained(place.path(), "tiny.json", "pipeline/unet");
    fs::write(place.path().join("pipeline/model_index.json"), r#"{"unet": ["diffusers", "UNet2DModel"]}"#).unwrap();
    fs::create_dir_all(place.path().join("junk/checkpoint")).unwrap();
    fs::write(place.path().join("junk/checkpoint/notes.txt"), "mine").unwrap();
    let before = files(place.path());
    let config = fs::read(place.path().join("foreign/config.json")).unwrap();
    refused(place.path(), "train --resume --out run", &["run/checkpoint: weights without the trainer.json"]);
    for command in ["train --model tiny.json", "train --model tiny.json --resume", "train-classifier"] {
        let refuse = |out: &str, parts: &[&str]| {
            refused(place.path(), &format!("{command} --data digits --steps 1 --out {out}"), parts);
        };
        refuse("run", &["run/checkpoint: weights without the trainer.json", "--init run/checkpoint", "another --out"]);
        refuse("foreign", &["foreign: weights without", "--init foreign"]);
        refuse("pipeline", &["pipeline: weights without", "--init pipeline"]);
        refuse("junk", &["junk/checkpoint: files that are no checkpoint", "--out"]);
    }
    assert_eq!(files(place.path()), before);
    assert!(config == fs::read(place.path().join("foreign/config.json")).unwrap());
    // A run that goes on minds neither what a killed one left of its last checkpoint nor what was there when it began.
    let place = place_with_run();
    fs::create_dir(place.path().join("run/checkpoint.old")).unwrap();
    fs::write(place.path().join("run/checkpoint.old/config.json"), "{}").unwrap();
    fs::write(place.path().join("run/model_index.json"), "{}").unwrap();
    accepted(place.path(), "train --resume --out run --steps 13");
}

#[test]
fn what_is_in_the_way_of_a_run_is_found_before_it() {
    let place = place_with_run();
    let at = |name: &str| place.path().join(name);
    let line = "train --data digits --model tiny.json --steps 1 --out";
    for name in ["samples", "checkpoint", "checkpoint.new", "checkpoint.old", "checkpoints", "private"] {
        fs::create_dir(at(&format!("of-{name}"))).unwrap();
        fs::write(at(&format!("of-{name}/{name}")), "mine").unwrap();
        refused(place.path(), &format!("{line} of-{name}"), &[&format!("of-{name}/{name}: this is no directory")]);
    }
    for name in ["loss.png", "config.json", "data.json", "metrics.csv", "report.html"] {
        fs::create_dir_all(at(&format!("of-{name}/{name}"))).unwrap();
        refused(place.path(), &format!("{line} of-{name}"), &[&format!("of-{name}/{name}: this is a directory")]);
    }
    fs::remove_file(at("run/loss.png")).unwrap();
    fs::create_dir(at("run/loss.png")).unwrap();
    refused(place.path(), "train --resume --out run --steps 14", &["run/loss.png: this is a directory", "move it"]);
    for command in ["demo", "train --data digits", "train-classifier --data digits"] {
        for (out, problem) in [("tiny.json", "this is a file"), ("tiny.json/run", "a part of this path is a file")] {
            let said = run(typed(place.path(), &format!("{command} --out {out}")));
            assert_refused(command, &said, &[&format!("error: {out}: {problem}")]);
            assert!(!said.err.contains("learning"), "{}", said.err);
        }
    }
    assert_eq!(lines(&at("run/metrics.csv")).len(), 13);
}

/// As on a disk that has no room for pictures, or none that anybody may write.
#[test]
fn a_picture_that_fails_ends_no_run() {
    let place = place();
    let run = place.path().join("run");
    for step in [2, 4] {
        fs::create_dir_all(run.join(format!("samples/step_00000{step}.png"))).unwrap();
    }
    let line = "train --data digits --model tiny.json --steps 4 --batch 2 --sample-every 2 --checkpoint-every 2";
    let said = accepted(place.path(), &format!("{line} --out run"));
    let warnings: Vec<&str> = said.err.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("samples/step_000002.png"), "{}", said.err);
    assert_eq!(read_json(&run.join("checkpoint/trainer.json"))["step"], 4);
}

#[test]
fn the_demo_replaces_no_other_run() {
    let place = place_with_run();
    fs::create_dir(place.path().join("model")).unwrap();
    fs::copy(place.path().join("run/config.json"), place.path().join("model/config.json")).unwrap();
    let before = files(place.path());
    for out in ["run", "model"] {
        let problem = format!("{out}: holds a run already that is not the demo's; --out takes another place");
        refused(place.path(), &format!("demo --out {out}"), &[&problem]);
    }
    assert_eq!(files(place.path()), before);
    assert_same_bits(&place.path().join("run"), &trained().0.join("run"));
}

#[cfg(unix)]
#[test]
fn the_demo_goes_on_where_it_was_interrupted() {
    let place = place();
    let state = place.path().join("demo/checkpoint/trainer.json");
    let stop_when = |what: &str| {
        let mut child = begin(place.path(), "demo --out demo");
        wait_until_said(place.path(), what, &mut child);
        let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
        child.wait().unwrap();
        fs::read_to_string(place.path().join("stderr")).unwrap()
    };
    let said = stop_when("parameters on");
    let mut stored = read_json(&state);
    let again = format!("stopped at step {} of {}", stored["step"], stored["options"]["steps"]);
    let expected = format!("{again} and saved; go on with: diffuse demo --out demo");
    assert_eq!(said.lines().last(), Some(expected.as_str()));
    let steps = stored["options"]["steps"].as_u64().unwrap();
    stored["step"] = (steps - 1).into();
    forget_manifest(&place.path().join("demo/checkpoint"));
    fs::write(&state, stored.to_string()).unwrap();
    let said = stop_when("trained ");
    assert!(said.contains(&format!("from step {}\n", steps - 1)), "{said}");
    let done = fs::read(place.path().join("demo/checkpoint").join(STORED[1])).unwrap();
    assert!(stop_when("this draws again").contains(&format!("trained {steps} steps already: demo")));
    assert!(done == fs::read(place.path().join("demo/checkpoint").join(STORED[1])).unwrap());
}

/// Of a run, images that it did not train on are known; of weights that came from elsewhere, only if that saw the same.
#[test]
fn initial_weights_may_have_seen_the_test_images() {
    let place = place();
    for (index, data) in ["here", "there"].iter().enumerate() {
        for (part, count) in [("train", 3), ("test", 2)] {
            write_photos(&place.path().join(data).join(part), count + index as u8);
        }
    }
    fs::write(
        place.path().join("rgb.json"),
        TINY.replace("els\": 1", "els\": 3").replace(r#", "num_class_embeds": 11"#, ""),
    )
    .unwrap();
    untrained(place.path(), "rgb.json", "foreign");
    let train = |out: &str, rest: &str| {
        let line = "train --steps 1 --batch 2 --sample-every 0";
        accepted(place.path(), &format!("{line} --out {out} {rest}"));
        read_json(&place.path().join(out).join("checkpoint/trainer.json"))
    };
    let held_out = |run: &str, data: &str| {
        let line = format!("evaluate {run} --data {data} --likelihood vlb --terms 8 --count 1 --batch 1 --json");
        json(&accepted(place.path(), &line))["test_images_held_out"].clone()
    };
    let first = train("first", "--data here --model rgb.json");
    assert_eq!(first.get("initial_data"), None);
    assert_eq!(held_out("first", "here"), true);
    let same = train("same", "--data here --init first");
    assert_eq!(same["initial_data"], serde_json::json!([first["digest"]]));
    assert_eq!(held_out("same", "here"), true);
    let other = train("other", "--data there --init first");
    assert_eq!(held_out("other", "there"), "unknown");
    // What was begun with it saw all that it saw; going on forgets nothing.
    train("third", "--data there --init other");
    accepted(place.path(), "train --resume --out third --steps 2");
    let third = read_json(&place.path().join("third/checkpoint/trainer.json"));
    assert_eq!(third["initial_data"], serde_json::json!([first["digest"], other["digest"]]));
    assert_eq!(held_out("third", "there"), "unknown");
    assert_eq!(train("last", "--data here --init foreign")["initial_data"], serde_json::json!([null]));
    assert_eq!(held_out("last", "here"), "unknown");
}

#[test]
fn near_names_of_flags_and_targets_are_understood() {
    let place = place();
    let line = "train --data digits --model tiny.json --steps 1 --batch 2 --sample-every 0 --learning-rate 2e-3";
    for (index, (typed, target)) in
        [("v_prediction", "v"), ("noise", "epsilon"), ("eps", "epsilon"), ("sample", "x0")].iter().enumerate()
    {
        accepted(place.path(), &format!("{line} --target {typed} --out run{index}"));
        let options = read_json(&place.path().join(format!("run{index}/config.json")));
        assert_eq!((&options["target"], &options["learning_rate"]), (&(*target).into(), &0.002.into()));
    }
}

#[test]
fn the_state_of_a_run_is_what_resumption_reads() {
    let place = place_with_run();
    let path = place.path().join("run/checkpoint/trainer.json");
    let mut state = read_json(&path);
    let mut keys: Vec<&String> = state.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["choices", "classes", "digest", "images", "loss_scale", "mean_loss", "options", "step"]);
    accepted(place.path(), "train --resume --out run --steps 14");
    // A checkpoint of old said in other words, too, where it stands.
    let old = place_with_run();
    for (key, value) in [("counter", 12.into()), ("epoch", 0.into()), ("cursor", 48.into()), ("scheduler", Value::Null)]
    {
        state[key] = value;
    }
    forget_manifest(&old.path().join("run/checkpoint"));
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
    let said = run(typed(place.path(), &format!("{line} --out disk/run")));
    // It trains on, and ends with what can't be kept.
    assert_refused(line, &said, &["disk/run: ", "MiB are free on this disk and 0.5 are needed: free some"]);
    let warned =
        said.err.contains("warning: step 6 is not saved: disk/run: ") && said.err.contains("; training goes on");
    assert!(warned, "{}", said.err);
    let left: Vec<String> = files(&disk.0).into_iter().filter(|name| name.contains("checkpoint")).collect();
    assert!(left.len() == 6 && left.iter().all(|name| name.starts_with("run/checkpoint/")), "{left:?}");
    assert_eq!(read_json(&disk.0.join("run/checkpoint/trainer.json"))["step"], 3);
    accepted(place.path(), "sample disk/run --count 1 --steps 1 --out s.png");
    // With room again the same run goes on to the bits of one that had it always.
    let rest = place.path().join("rest");
    copy(&disk.0.join("run"), &rest);
    accepted(place.path(), "train --resume --out rest");
    accepted(place.path(), &format!("{line} --out always"));
    assert_same_bits(&rest, &place.path().join("always"));
    // Lines of metrics wait for room, too.
    assert_eq!(lines(&rest.join("metrics.csv")).len(), 10);
}

#[test]
fn a_run_without_a_place_is_named_by_the_time_and_the_model() {
    let place = place();
    refused(place.path(), "train --resume", &["--resume needs --out", "there is none in runs/"]);
    let line = "train --data digits --model tiny.json --steps 1 --batch 2 --sample-every 0 --json";
    let outs: Vec<String> = (0..2)
        .map(|_| {
            let said = accepted(place.path(), line);
            let out = json(&said)["out"].as_str().expect("a place").to_string();
            assert!(said.err.contains(&format!("diffuse watch {out} ")), "{}", said.err);
            let name = out.strip_prefix("runs/").expect("a place in runs/");
            let shape: String = name.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert!(shape.starts_with("0000-00-00_00-00_tiny"), "{name}");
            assert!(place.path().join(&out).join("checkpoint/trainer.json").is_file());
            out
        })
        .collect();
    assert_ne!(outs[0], outs[1]);
    let newest_first = format!("the newest first there are {}, {}", outs[1], outs[0]);
    refused(place.path(), "train --resume --steps 2", &["--resume needs --out", &newest_first]);
    refused(place.path(), "train-classifier --resume", &["there is none in runs/"]);
    accepted(place.path(), &format!("train --resume --steps 2 --out {}", outs[1]));
    assert_eq!(files(&place.path().join("runs")).iter().filter(|file| file.ends_with("metrics.csv")).count(), 2);
}
