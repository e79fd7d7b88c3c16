//! Classes: their names, the null class of those who have one, and `diffuse data`.

use super::*;
use diffuse::tensors;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

fn change_json(path: &Path, change: impl Fn(&mut serde_json::Map<String, Value>)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(value.as_object_mut().unwrap());
    fs::write(path, value.to_string()).unwrap();
}

/// Folders of two images each, one of one shade.
fn folders(place: &Path, names: &[&str]) {
    for (index, name) in names.iter().enumerate() {
        let folder = place.join("data").join(name);
        fs::create_dir_all(&folder).unwrap();
        for image in 0..2 {
            let shade = (index * 20 + image) as u8;
            RgbImage::from_pixel(8, 8, Rgb([shade; 3])).save(folder.join(format!("{image}.png"))).unwrap();
        }
    }
}

fn drawn(place: &Path, flags: &str) -> (Vec<f32>, String) {
    let said = accepted(place, &format!("sample {flags} --steps 3 --count 2 --out s.png --tensor s.safetensors"));
    (tensors::read(&place.join("s.safetensors")).unwrap()["samples"].values.clone(), said.err)
}

#[test]
fn a_model_without_a_null_class_draws_every_class() {
    let place = place();
    let place = place.path();
    untrained(place, "tiny.json", "whole");
    copy(&place.join("whole"), &place.join("cut"));
    // As diffusers' users train it: an embedding a class.
    let path = place.join("cut/diffusion_pytorch_model.safetensors");
    let mut file = tensors::read(&path).unwrap();
    let embedding = file.get_mut("class_embedding.weight").unwrap();
    let width = embedding.shape[1];
    (embedding.shape[0], _) = (10, embedding.values.truncate(10 * width));
    tensors::write(&path, &file).unwrap();
    let config = place.join("cut/config.json");
    change_json(&config, |config| drop(config.insert("num_class_embeds".into(), 10.into())));
    for stale in [true, false] {
        if !stale {
            change_json(&config, |config| drop(config.remove("_null_class")));
        }
        for class in [0, 9] {
            let (samples, said) = drawn(place, &format!("cut --class {class}"));
            assert_eq!(samples, drawn(place, &format!("whole --class {class} --guidance 1")).0, "class {class}");
            assert!(said.contains("10 classes: 0 to 9") && !said.contains("null"), "{said}");
        }
    }
    refused(place, "sample cut --class 10 --out no.png", &["no class 10 among 10 classes: 0 to 9"]);
    let (guided, said) = drawn(place, "cut --class 0 --guidance 2");
    assert!(said.contains("names no null class: guidance takes the last embedding, class 9, for it"), "{said}");
    assert_ne!(guided, drawn(place, "cut --class 0").0);
    // The run's own embedding for no class.
    assert!(fs::read_to_string(place.join("whole/config.json")).unwrap().contains("\"_null_class\": 10"));
    assert_ne!(drawn(place, "whole --class 0").0, drawn(place, "whole --class 0 --guidance 1").0);
    // A run of old doesn't say so, but is a run.
    change_json(&place.join("whole/config.json"), |config| drop(config.remove("_null_class")));
    refused(place, "sample whole --class 11 --out no.png", &["11 classes: 0 to 10"]);
    fs::write(place.join("whole/trainer.json"), "{}").unwrap();
    refused(place, "sample whole --class 10 --out no.png", &["10 classes: 0 to 9"]);
}

const TRAIN: &str = "train --data data --model named.json --steps 2 --batch 2 --sample-every 0";

#[test]
fn classes_keep_their_names() {
    let place = place();
    let place = place.path();
    folders(place, &["10", "2", "ant", "bee"]);
    fs::write(place.join("named.json"), TINY.replace("11", "5")).unwrap();
    let said = accepted(place, &format!("{TRAIN} --out run"));
    let summary = "data: 8 grey images of 8x8, 4 classes of 2 each: 2, 10, ant, bee; none shown mirrored";
    assert!(said.err.contains(summary), "{}", said.err);
    let stored: Value = serde_json::from_slice(&fs::read(place.join("run/data.json")).unwrap()).unwrap();
    assert_eq!(stored["classes"][1], json!({"name": "10", "images": 2}));
    assert_eq!((&stored["source"], &stored["mirrored"]), (&json!("data"), &json!(false)));
    let line = "sample run --steps 2 --count 3 --out s.png";
    let said = accepted(place, line);
    assert!(said.err.contains("4 classes: 2, 10, ant, bee; from left to right 2, 10, ant"), "{}", said.err);
    assert_eq!(json(&accepted(place, &format!("{line} --json")))["classes"], json!(["2", "10", "ant", "bee"]));
    // A name goes before a number: 2 is the first.
    assert_eq!(drawn(place, "run --class 2").0, drawn(place, "run --class 0").0);
    assert_eq!(drawn(place, "run --class bee").0, drawn(place, "run --class 3").0);
    assert!(drawn(place, "run --class 3").1.contains("all images are of bee"));
    assert_ne!(drawn(place, "run --class bee").0, drawn(place, "run --class ant").0);
    refused(place, "sample run --class wasp --out no.png", &["no class wasp among 4 classes: 2, 10, ant, bee"]);

    let resume = "train --resume --out run --steps 3";
    fs::rename(place.join("data/bee"), place.join("data/wasp")).unwrap();
    refused(place, resume, &["class 3 is wasp now and was bee", "not the same run"]);
    let levels = "evaluate run --data data --levels --count 2 --out e";
    refused(place, levels, &["class wasp is none of those that were learnt (2, 10, ant, bee)"]);
    fs::rename(place.join("data/wasp"), place.join("data/bee")).unwrap();
    folders(place, &["10", "2", "ant", "bee", "cat"]);
    refused(place, resume, &["5 classes now (2, 10, ant, bee, cat), 4 then (2, 10, ant, bee)"]);
    fs::remove_dir_all(place.join("data/cat")).unwrap();
    folders(place, &["10", "2", "ant", "bee"]);
    let said = accepted(place, resume);
    assert!(said.err.contains(summary), "{}", said.err);
    let said = accepted(place, levels);
    assert!(said.err.contains("data: 4 grey images of 8x8, 4 more held out as test images, 4 classes"), "{}", said.err);
    // A test set may lack a class.
    fs::remove_dir_all(place.join("data/2")).unwrap();
    accepted(place, levels);
}

#[test]
fn runs_of_old_go_on_as_they_were() {
    let place = place();
    let place = place.path();
    folders(place, &["ant", "bee"]);
    let line = "train --data data --model plain.json --steps 1 --batch 2 --sample-every 0 --out run";
    accepted(place, &format!("{line} --flip true"));
    let age = || {
        forget_manifest(&place.join("run/checkpoint"));
        change_json(&place.join("run/checkpoint/trainer.json"), |state| {
            state.remove("classes");
            state.remove("digest");
            state["options"]["flip"] = Value::Null;
        });
    };
    age();
    // Folders were mirrored then.
    let said = accepted(place, "train --resume --out run --steps 2");
    assert!(said.err.contains("half of them shown mirrored"), "{}", said.err);
    age();
    fs::rename(place.join("data/ant"), place.join("data/10")).unwrap();
    fs::rename(place.join("data/bee"), place.join("data/2")).unwrap();
    refused(place, "train --resume --out run --steps 3", &["come in the order of numbers now", "a letter before each"]);
    for name in ["10", "2"] {
        fs::rename(place.join("data").join(name), place.join(format!("data/c{name}"))).unwrap();
    }
    accepted(place, "train --resume --out run --steps 3");
}

#[test]
fn labels_and_mirrors_that_are_not_used_are_said() {
    let place = place();
    folders(place.path(), &["a", "b"]);
    let line = "train --data data --model plain.json --steps 1 --batch 2 --sample-every 0";
    let said = accepted(place.path(), &format!("{line} --out plain"));
    assert!(said.err.contains("the model is told no classes"), "{}", said.err);
    let said = accepted(place.path(), &format!("{line} --flip true --out flipped"));
    assert!(said.err.contains("half of them shown mirrored"), "{}", said.err);
    let stored: Value = serde_json::from_slice(&fs::read(place.path().join("flipped/data.json")).unwrap()).unwrap();
    assert_eq!(stored["mirrored"], true);
}

#[test]
fn a_classifier_knows_names_and_must_know_the_same() {
    let place = place();
    let place = place.path();
    folders(place, &["ant", "bee"]);
    fs::write(place.join("named.json"), TINY.replace("11", "3")).unwrap();
    accepted(place, &format!("{TRAIN} --out run"));
    let line = "train-classifier --data data --model named.json --steps 1 --batch 2";
    accepted(place, &format!("{line} --out judge"));
    let flags = "sample run --steps 2 --count 2 --out s.png";
    accepted(place, &format!("{flags} --class bee --classifier judge"));
    fs::rename(place.join("data/bee"), place.join("data/cat")).unwrap();
    accepted(place, &format!("{line} --out other"));
    let parts = ["other: it tells apart 2 classes: ant, cat; the checkpoint draws 2 classes: ant, bee"];
    refused(place, &format!("{flags} --classifier other"), &parts);
    // By itself it names the classes of a model that is told none.
    untrained(place, "plain.json", "plain");
    let said = accepted(place, "sample plain --classifier judge --class bee --steps 2 --count 2 --out s.png");
    assert!(said.err.contains("2 classes: ant, bee; all images are of bee"), "{}", said.err);
}

#[test]
fn data_are_summed_up_and_drawn() {
    let place = place();
    let place = place.path();
    folders(place, &["10", "2", "ant"]);
    fs::write(place.join("data/notes.txt"), "x").unwrap();
    let said = accepted(place, "data data --model tiny.json --out new/sheet.png");
    let expected = "data: 6 grey images of 8x8, 3 classes of 2 each: 2, 10, ant\nnumber   images  class\n     \
                    0        2  2\n     1        2  10\n     2        2  ant\n";
    assert_eq!(said.out, expected);
    assert!(said.err.contains("notes.txt: no PNG, JPEG, GIF, WebP, BMP or TIFF image; skipped"), "{}", said.err);
    let sheet = image::open(place.join("new/sheet.png")).unwrap().to_rgb8();
    // Three rows of two images of 64 pixels, names to their left; 2 is the second folder that was made.
    assert_eq!((sheet.width(), sheet.height()), (150 + 2 * 64 + 2 + 6, 6 + 3 * 70));
    for (x, y, value) in [(150, 6, 20), (150 + 66, 6, 21), (150, 76, 0), (150, 146, 40), (150 + 66, 146, 41)] {
        assert_eq!(sheet.get_pixel(x + 30, y + 30).0, [value; 3], "{x}, {y}");
    }
    assert!((0..150).any(|x| (6..26).any(|y| sheet.get_pixel(x, y)[0] < 128)), "no name");
    let report = json(&accepted(place, "data data --preset mnist --count 1 --out s.png --json"));
    assert_eq!((&report["height"], &report["channels"], &report["test"]), (&28.into(), &1.into(), &Value::Null));
    assert_eq!((&report["classes"][2]["name"], &report["files"]), (&json!("ant"), &json!(["s.png"])));
    // What training reads if no model is named, either.
    let said = accepted(place, "data digits --out digits.jpg");
    assert!(fs::read(place.join("digits.jpg")).unwrap().starts_with(b"\xff\xd8"));
    assert!(
        said.out.starts_with("digits: 10000 grey images of 16x16 from 28x28 (scaled), 10 classes: 0 (980), 1 (1135)"),
        "{}",
        said.out
    );
    refused(place, "data data --out sheet.webp", &["sheet.webp", "there are .png, .jpg"]);
    refused(place, "data data --json=data/2/0.png", &["--json would replace data/2/0.png, which the command reads"]);
    refused(place, "data data --out data/sheet.png", &["data/sheet.png", "lies in data", "--out takes another place"]);
    refused(place, "train --data data --out data/run --steps 1 --batch 2", &["data/run", "lies in data"]);
    // Test images of other classes are no reason to say nothing of the training images.
    fs::create_dir_all(place.join("parted/test/else")).unwrap();
    fs::rename(place.join("data"), place.join("parted/train")).unwrap();
    fs::copy(place.join("parted/train/2/0.png"), place.join("parted/test/else/0.png")).unwrap();
    let said = accepted(place, "data parted --out s.png");
    assert!(
        said.out.starts_with("parted (train): 6 grey") && said.err.contains("class else is none of those"),
        "{}",
        said.err
    );
    refused(place, "data nowhere", &["nowhere", "no such file or directory"]);
    refused(place, "data digits --count 0", &["--count must be 1 to 1000"]);
}
