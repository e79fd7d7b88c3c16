//! Data and configurations that training takes or refuses.

use super::*;
use image::{Rgb, RgbImage};

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(values);
    bytes
}

/// `place/data` with three images of 10x10 and `labels` labels, each file cut by `change`.
fn idx_directory(place: &Path, labels: u8, change: impl Fn(&str, Vec<u8>) -> Vec<u8>) {
    let data = place.join("data");
    fs::create_dir_all(&data).unwrap();
    let images = idx(&[3, 10, 10], &(0..300).map(|i| i as u8).collect::<Vec<_>>());
    let labels = idx(&[labels as u32], &(0..labels).collect::<Vec<_>>());
    for (name, bytes) in [("train-images-idx3-ubyte", images), ("train-labels-idx1-ubyte", labels)] {
        fs::write(data.join(name), change(name, bytes)).unwrap();
    }
}

const STEP: &str = "train --data data --model plain.json --out run --steps 1 --batch 2 --sample-every 0";

#[track_caller]
fn step_refused(place: &Path, parts: &[&str]) {
    refused(place, STEP, parts);
    assert!(!place.join("run").exists(), "a run was begun");
}

#[test]
fn bad_idx_files_are_refused() {
    let place = place();
    let cut = |which: &'static str, end: usize| {
        move |name: &str, mut bytes: Vec<u8>| {
            if name.contains(which) {
                bytes.truncate(end);
            }
            bytes
        }
    };
    idx_directory(place.path(), 3, cut("images", 200));
    step_refused(place.path(), &["train-images-idx3-ubyte", "truncated"]);
    idx_directory(place.path(), 3, cut("labels", 5));
    step_refused(place.path(), &["train-labels-idx1-ubyte", "truncated"]);
    idx_directory(place.path(), 3, cut("images", 0));
    step_refused(place.path(), &["train-images-idx3-ubyte", "empty"]);
    idx_directory(place.path(), 3, |_, _| b"<html>not found</html>".to_vec());
    step_refused(place.path(), &["train-images-idx3-ubyte", "not an IDX file"]);
    idx_directory(place.path(), 2, |_, bytes| bytes);
    step_refused(place.path(), &["3 images", "2 labels"]);
}

#[test]
fn bad_folders_are_refused() {
    let place = place();
    let data = place.path().join("data");
    step_refused(place.path(), &["data", "no such file or directory", "digits"]);
    fs::write(&data, "a file").unwrap();
    step_refused(place.path(), &["data", "not a directory"]);
    fs::remove_file(&data).unwrap();
    fs::create_dir(&data).unwrap();
    step_refused(place.path(), &["data", "empty folder"]);
    fs::write(data.join("notes.txt"), "no image").unwrap();
    step_refused(place.path(), &["data", "no images"]);
    fs::write(data.join("broken.png"), "no image").unwrap();
    step_refused(place.path(), &["data", "broken.png"]);
}

#[test]
fn idx_files_train_a_step() {
    let place = place();
    idx_directory(place.path(), 3, |_, bytes| bytes);
    accepted(place.path(), STEP);
    assert!(place.path().join("run/checkpoint/trainer.json").is_file());
}

#[test]
fn a_folder_trains_a_step_without_its_corrupt_image() {
    let place = place();
    for (name, shade) in [("cats/one.png", 10), ("cats/two.png", 90), ("dogs/one.png", 200)] {
        let path = place.path().join("data").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(12, 9, Rgb([shade, 50, 255 - shade])).save(path).unwrap();
    }
    let good = fs::read(place.path().join("data/cats/one.png")).unwrap();
    fs::write(place.path().join("data/dogs/broken.png"), &good[..good.len() / 2]).unwrap();
    // In colour, and with the classes that the folder has.
    let colour = TINY.replace(r#"channels": 1"#, r#"channels": 3"#).replace("11", "3");
    fs::write(place.path().join("plain.json"), colour).unwrap();
    let said = accepted(place.path(), STEP);
    let warnings: Vec<&str> = said.err.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("broken.png"), "{}", said.err);
    assert!(place.path().join("run/checkpoint/trainer.json").is_file());
}

#[test]
fn bad_models_are_refused() {
    let place = place();
    let cases = [
        (r#""norm_num_groups": 4"#, r#""norm_num_groups": 5"#, "norm_num_groups 5 does not divide 8"),
        (r#""sample_size": 8"#, r#""sample_size": 7"#, "7x7 images can't be halved"),
        (r#""num_class_embeds": 11"#, r#""num_class_embeds": 5"#, "10 classes: num_class_embeds must be 11"),
        (r#""in_channels": 1"#, r#""in_channels": 4"#, "4 channels in"),
        (r#""attention_head_dim": 4"#, r#""attention_head_dim": 0"#, "attention_head_dim"),
        (r#"["AttnUpBlock2D", "UpBlock2D"]"#, r#"["AttnUpBlock2D"]"#, "one each a level"),
        ("AttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        ("[8, 12]", r#""wide""#, "bad.json"),
        ("{", "[", "no JSON object"),
        ("}", "", "no JSON object"),
    ];
    for (from, to, part) in cases {
        fs::write(place.path().join("bad.json"), TINY.replacen(from, to, 1)).unwrap();
        refused(place.path(), "train --data digits --model bad.json --out run", &[part]);
    }
    refused(place.path(), "train --data digits --model missing.json --out run", &["missing.json"]);
    assert!(!place.path().join("run").exists());
}

#[test]
fn options_and_models_are_told_apart() {
    let place = place_with_run();
    let line = "train --data digits --model run/config.json --out other";
    refused(place.path(), line, &["run/config.json", "--config"]);
    refused(place.path(), "train --config tiny.json --out other", &["tiny.json", "--model"]);
    // The directory of a run names the model of its checkpoint.
    accepted(place.path(), "train --data digits --model run --steps 1 --batch 2 --sample-every 0 --out alike");
    let model = |run: &str| fs::read(place.path().join(run).join("checkpoint/config.json")).unwrap();
    assert!(model("run") == model("alike"));
    fs::write(place.path().join("list.json"), "[]").unwrap();
    refused(place.path(), "train --config list.json --out other", &["list.json", "no JSON object"]);
    fs::write(place.path().join("typo.json"), r#"{"data": "digits", "stepz": 3}"#).unwrap();
    refused(place.path(), "train --config typo.json --out other", &["typo.json", "stepz"]);
    assert!(!place.path().join("other").exists());
}

#[test]
fn files_of_many_images_are_sources_by_their_path() {
    let place = place();
    let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sets");
    fs::copy(sets.join("keras.npz"), place.path().join("mnist.npz")).unwrap();
    let said = accepted(place.path(), "data mnist.npz --model plain.json");
    assert!(
        said.out.contains("mnist.npz (train): 6 grey images of 8x8 from 4x5 (scaled, cropped), 3 classes of 2 each"),
        "{}",
        said.out
    );
    assert!(said.out.contains("mnist.npz (test): 2 grey images"), "{}", said.out);
    accepted(place.path(), &STEP.replace("--data data", "--data mnist.npz"));
    let limited =
        STEP.replace("--data data", "--data mnist.npz --memory-limit 100").replace("--out run", "--out other");
    refused(
        place.path(),
        &limited,
        &["mnist.npz/x_train: its header declares 120 bytes", "--memory-limit allows (100 bytes)"],
    );
    refused(place.path(), "data mnist.npz --out mnist.npz", &["no format of pictures"]);
}
