//! `diffuse sample`.

use super::*;
use diffuse::tensors::{self, FileTensor};
use image::AnimationDecoder;

/// The tensor that `sample run` with `flags` stores.
fn samples(place: &Path, flags: &str) -> FileTensor {
    accepted(place, &format!("sample run --steps 4 --out s.png --tensor s.safetensors {flags}"));
    tensors::read(&place.join("s.safetensors")).unwrap().remove("samples").expect("tensor `samples`")
}

#[test]
fn pictures_film_and_tensor_are_written() {
    let place = place_with_run();
    let line = "sample run --count 12 --steps 5 --seed 9 --out new/s.png --gif s.gif --tensor s.safetensors --json";
    let report = json(&accepted(place.path(), line));
    assert_eq!((&report["count"], &report["steps"], &report["seed"]), (&12.into(), &5.into(), &9.into()));
    assert_eq!((&report["sampler"], &report["evaluations_per_sample"]), (&"ddpm".into(), &5.0.into()));
    assert_eq!((&report["guidance"], &report["seeds"]), (&2.0.into(), &serde_json::json!([9])));
    assert_eq!(report["class_of_each"], serde_json::json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]));
    assert_eq!(report["classes"].as_array().map(Vec::len), Some(10));
    assert_eq!(report["files"], serde_json::json!(["new/s.png", "s.gif", "s.safetensors"]));
    assert_eq!(accepted(place.path(), &format!("{line}=new/s.json")).out, "");
    assert_eq!(fs::read_to_string(place.path().join("new/s.json")).unwrap(), format!("{report}\n"));
    let picture = image::open(place.path().join("new/s.png")).unwrap();
    // Ten columns, a class each, so two rows.
    assert!(picture.width() >= 80 && picture.height() >= 16 && picture.width() > 4 * picture.height());
    let film = std::io::BufReader::new(fs::File::open(place.path().join("s.gif")).unwrap());
    let frames = image::codecs::gif::GifDecoder::new(film).unwrap().into_frames().collect_frames().unwrap();
    assert_eq!(frames.len(), 5);
    let FileTensor { shape, values } = tensors::read(&place.path().join("s.safetensors")).unwrap()["samples"].clone();
    assert_eq!(shape, [12, 1, 8, 8]);
    assert!(values.iter().all(|value| (-1.0..=1.0).contains(value)));
    assert!(values.iter().any(|value| *value != values[0]));
}

#[test]
fn samples_follow_from_seed_class_and_weights_alone() {
    let place = place_with_run();
    let place = place.path();
    let first = samples(place, "--count 5 --seed 2");
    let file = fs::read(place.join("s.safetensors")).unwrap();
    let picture = fs::read(place.join("s.png")).unwrap();
    assert_eq!(samples(place, "--count 5 --seed 2"), first);
    assert!(
        fs::read(place.join("s.safetensors")).unwrap() == file && fs::read(place.join("s.png")).unwrap() == picture
    );
    assert_eq!(samples(place, "--count 5 --seed 2 --batch 2"), first);
    assert_eq!(samples(place, "--count 3 --seed 2").values, first.values[..3 * 64]);
    let others = [
        "--seed 3",
        "--seed 2 --raw",
        "--seed 2 --class 7",
        "--seed 2 --guidance 3",
        "--seed 2 --sampler ddim",
        "--seed 2 --variance fixed-large",
    ];
    for flags in others {
        assert_ne!(samples(place, &format!("--count 5 {flags}")), first, "{flags}");
    }
    // The checkpoint says so anyway.
    assert_eq!(samples(place, "--count 5 --seed 2 --variance fixed-small"), first);
    let deterministic = samples(place, "--count 5 --seed 2 --sampler ddim");
    assert_eq!(samples(place, "--count 5 --seed 2 --sampler ddim --batch 3"), deterministic);
    let class = samples(place, "--count 8 --seed 2 --class 1");
    // Number 1 of the first batch was of class 1 too.
    assert_eq!(class.values[64..128], first.values[64..128]);
}

#[test]
fn bad_flags_are_refused() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    untrained(place.path(), "plain.json", "plain");
    let cases = [
        ("run --count 0", "--count"),
        ("run --count 2000000", "--count"),
        ("run --batch 0", "--batch"),
        ("run --steps 0", "1 to 1000"),
        ("run --steps 1001", "1 to 1000"),
        ("run --class 10", "no class 10 among 10 classes: 0 to 9"),
        ("run --class 4000000000", "no class 4000000000"),
        ("run --guidance NaN", "--guidance"),
        ("run --guidance inf", "--guidance"),
        ("run --sampler ddim --eta NaN", "eta"),
        ("run --sampler ddim --eta -1", "eta"),
        ("run --sampler ddim --eta 1.5", "eta"),
        ("run --sampler ddpm --eta 0.5", "--eta goes with --sampler ddim"),
        ("run --sampler ddim --variance fixed-large", "--variance goes with --sampler ddpm"),
        ("run --raw", "no raw weights"),
        ("plain --class 3", "no classes"),
        ("plain --guidance 2", "no classes"),
    ];
    for (flags, part) in cases {
        refused(place.path(), &format!("sample {flags} --out s.png"), &[part]);
    }
    assert!(!place.path().join("s.png").exists());
    accepted(place.path(), "sample plain --count 2 --steps 1 --out s.png");
}

#[test]
fn a_batch_that_does_not_fit_says_which_would() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    let line = "sample run --count 1048576 --batch 1048576 --steps 1 --out s.png";
    refused(place.path(), line, &["batch 1048576 does not fit", "--batch", "does"]);
    assert!(!place.path().join("s.png").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn places_that_cannot_be_written_are_named() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    let line = "sample run --count 1 --steps 1 --out";
    refused(place.path(), &format!("{line} /dev/full"), &["/dev/full: the disk is full"]);
    refused(place.path(), &format!("{line} run"), &["run: this is a directory"]);
    refused(place.path(), &format!("{line} plain.json/s.png"), &["plain.json/s.png", "not a directory"]);
    accepted(place.path(), &format!("{line} new/place/s.png"));
}

#[test]
fn pictures_are_written_by_their_ending_and_one_by_one() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    let line = "sample run --count 3 --steps 1";
    accepted(place.path(), &format!("{line} --out s.jpg --images each"));
    let bytes = fs::read(place.path().join("s.jpg")).unwrap();
    assert!(image::guess_format(&bytes).is_ok_and(|format| format == image::ImageFormat::Jpeg));
    assert_eq!(files(&place.path().join("each")), ["00000.png", "00001.png", "00002.png"]);
    let one = image::open(place.path().join("each/00001.png")).unwrap();
    assert_eq!((one.width(), one.height()), (8, 8));
    image::GrayImage::new(8, 8).save(place.path().join("half.png")).unwrap();
    let before = files(place.path());
    for (flags, parts) in [
        ("--out s.webp", ["s.webp: no format of pictures", ".png, .jpg"]),
        ("--out s", ["s: no format of pictures", ".png"]),
        ("--out a.png --gif a.png", ["a.png: what is written there is a .gif file", "name it so"]),
        ("--out a.png --tensor a.npy", ["a.npy: what is written there is a .safetensors file", "name it so"]),
        ("--out a.png --json=./a.png", ["a.png: two outputs can't be one file", "--out"]),
        ("--tensor t.st --json=b/../t.st", ["t.st: two outputs can't be one file", "--tensor"]),
        ("--out im/00001.png --images im", ["im/00001.png: two outputs can't be one file", "--images"]),
        ("--json=im/00002.png --images im", ["im/00002.png: two outputs can't be one file", "--json"]),
        ("--out a.png --images a.png", ["a.png: two outputs can't be one file", "--images"]),
        ("--out half.png --from half.png", ["--out would replace half.png", "--from reads"]),
        (
            "--tensor run/diffusion_pytorch_model.safetensors",
            ["--tensor would replace run/diffusion_pytorch_model.safetensors", "the checkpoint"],
        ),
        ("--json=run/config.json", ["--json would replace run/config.json", "the checkpoint"]),
        ("--json=run/scheduler_config.json", ["--json would replace run/scheduler_config.json", "the checkpoint"]),
        ("--out a.png --tensor plain.json/t.st", ["plain.json/t.st", "not a directory"]),
        ("--out a.png --images plain.json", ["plain.json", "not a directory"]),
    ] {
        refused(place.path(), &format!("{line} {flags}"), &parts);
    }
    assert_eq!(files(place.path()), before);
    // What was written beside a model before is no part of it.
    for _ in 0..2 {
        let beside = "--out run/s.png --tensor run/s.safetensors --json=run/drawn.json --images run/each";
        accepted(place.path(), &format!("{line} {beside}"));
    }
    // Files beside those that --images writes, and devices, which take anything.
    accepted(place.path(), &format!("{line} --images each --out each/all.png --json=each/all.json"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("s.jpg", place.path().join("link.jpg")).unwrap();
        let parts = ["link.jpg: two outputs can't be one file"];
        refused(place.path(), &format!("{line} --out s.jpg --json=link.jpg"), &parts);
        accepted(place.path(), &format!("{line} --out /dev/null --json=/dev/null"));
    }
}

#[cfg(unix)]
#[test]
fn what_is_drawn_is_kept_when_it_is_interrupted() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    let line = "sample run --count 100000 --batch 1 --steps 4 --out s.png --tensor s.safetensors";
    let log = fs::File::create(place.path().join("stderr")).unwrap();
    let mut child = typed(place.path(), line).stderr(log).spawn().expect("it can be run");
    std::thread::sleep(Duration::from_secs(3));
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is there");
    assert!(status.success() && child.wait().unwrap().success());
    let said = fs::read_to_string(place.path().join("stderr")).unwrap();
    let count = tensors::read(&place.path().join("s.safetensors")).unwrap()["samples"].shape[0];
    assert!(count > 0 && said.contains(&format!("interrupted: the first {count} of 100000 images")), "{said}");
}

/// Noise from a file, of `count` images of 8x8 and `steps` steps, other in each element.
fn write_noise(path: &Path, count: usize, steps: usize) {
    let tensor = |seed: usize| {
        let values = (0..count * 64).map(|i| ((i * 37 + seed * 11) as f32).sin() * 1.4).collect();
        FileTensor { shape: vec![count, 1, 8, 8], values }
    };
    let noise = (0..steps).map(|k| (format!("noise.{k}"), tensor(k + 1)));
    tensors::write(path, &noise.chain([("x_T".to_string(), tensor(0))]).collect()).unwrap();
}

#[test]
fn noise_of_a_file_stands_for_that_of_a_seed() {
    let place = place();
    let place = place.path();
    untrained(place, "plain.json", "run");
    write_noise(&place.join("n.safetensors"), 3, 3);
    let drawn = |flags: &str| samples(place, &format!("--count 3 --noise n.safetensors {flags}"));
    let first = drawn("");
    assert_eq!(drawn("--batch 2"), first);
    // The last step adds none, and a deterministic sampler needs x_T alone.
    write_noise(&place.join("n.safetensors"), 3, 9);
    assert_eq!(drawn(""), first);
    let deterministic = drawn("--sampler ddim");
    write_noise(&place.join("n.safetensors"), 3, 0);
    assert_eq!(drawn("--sampler ddim"), deterministic);
    let refuses = |flags: &str, part: &str| {
        refused(place, &format!("sample run --steps 4 --noise n.safetensors --out t.png {flags}"), &[part]);
    };
    refuses("--count 3", "noise.0 is missing: 3 steps");
    refuses("--count 2", "x_T is [3, 1, 8, 8] and must be [2, 1, 8, 8]; --count says the first");
    tensors::write(&place.join("n.safetensors"), &tensors::FileTensors::new()).unwrap();
    refuses("--count 3", "x_T is missing");
    assert!(!place.join("t.png").exists());
}

/// x_T that a network of zeros leaves alone but for its scale, and estimates of x0 beyond the range of thresholding.
#[test]
fn thresholding_keeps_images_within_the_range() {
    let place = place();
    let place = place.path();
    untrained(place, "plain.json", "run");
    write_noise(&place.join("n.safetensors"), 2, 0);
    let drawn = |config: &str| {
        fs::write(place.join("run/scheduler_config.json"), config).unwrap();
        samples(place, "--count 2 --noise n.safetensors").values
    };
    let most = |values: &[f32]| values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let free = drawn(r#"{"_class_name": "DPMSolverMultistepScheduler"}"#);
    assert!(most(&free) > 1.5);
    let kept = drawn(
        r#"{"_class_name": "DPMSolverMultistepScheduler", "thresholding": true, "dynamic_thresholding_ratio": 0.9,
            "sample_max_value": 100}"#,
    );
    assert!(most(&kept) <= 1.0 && most(&kept) > 0.99, "{}", most(&kept));
}
