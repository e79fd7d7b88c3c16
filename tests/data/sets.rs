//! Sets that NumPy, pyarrow, Pillow and tarfile wrote (`sets/make.py`), and what these say is in them.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn sets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sets")
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

/// What its writer says of the set `name`, which these are.
fn compare(name: &str, expected: &Value, train: &Dataset, test: Option<&Dataset>) {
    let [count, height, width, channels] = numbers(&expected["shape"])[..] else { panic!("{name}: four sides") };
    assert_eq!(
        [train.len() as u32, train.height, train.width, train.channels],
        [count, height, width, channels],
        "{name}"
    );
    assert_eq!(train.images, hex(&expected["images"]), "{name}: images");
    let labels = if expected["labels"].is_null() { vec![0; count as usize] } else { numbers(&expected["labels"]) };
    assert_eq!((&train.labels, train.account.is_labelled), (&labels, !expected["labels"].is_null()), "{name}");
    if let Some(classes) = expected["classes"].as_array() {
        assert_eq!(train.classes, classes.iter().map(|class| class.as_str().unwrap()).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(test.is_some(), expected.get("test_images").is_some(), "{name}: test images");
    if let Some(test) = test {
        assert_eq!(test.images, hex(&expected["test_images"]), "{name}: test images");
        assert_eq!(test.labels, numbers(&expected["test_labels"]), "{name}: test labels");
    }
}

#[test]
fn what_others_wrote_is_read_to_the_byte() {
    let expected: Value = serde_json::from_slice(&fs::read(sets().join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 15);
    for (name, expected) in expected {
        let (train, test) = load_parts(sets().join(name).to_str().unwrap(), &AS_THEY_ARE).unwrap();
        compare(name, expected, &train, test.unwrap().as_ref());
    }
}

#[test]
fn arrays_that_are_no_images_or_labels_get_a_line() {
    let cases = [
        ("pickled", "images: pickled Python objects"),
        ("pickled_labels", "labels: pickled Python objects"),
        ("one_hot", "labels of shape [6, 6]: if these are one-hot, save y.argmax(1)"),
        ("float_labels", "labels are floats"),
        ("text_labels", "an array of text"),
        ("negative", "label -1 is none of 0 to 65535"),
        ("flat", "rows of 20 values: save images, x.reshape(-1, height, width)"),
        ("four_channels", "images have 1 (grey) or 3 (RGB) channels"),
        ("either_order", "is [N, H, W, C] as well as [N, C, H, W]"),
        ("standardised", "floats from -1."),
        ("dim_floats", "floats from 0 to 0.255"),
        ("nan", "infinite or not a number"),
        ("wide", "values from 1 to 256: pixels are 0 to 255"),
        ("complex", "values of type \"<c8\""),
        ("fields", "values of several fields"),
        ("fewer_labels", "6 images, but"),
        ("empty", "holds no pixels"),
        ("one_image", "is that of one image"),
        ("no_images", "arrays mean, labels, none called as images are"),
        ("two_images", "images and data can't both be meant"),
    ];
    for (name, part) in cases {
        let file = format!("{name}.npz");
        refused(&sets().join("refused").join(&file), &AS_THEY_ARE, &[&file, part]);
    }
}

#[test]
fn parts_and_unknown_arrays_are_said() {
    let data = open(&sets().join("medmnist.npz"), &AS_THEY_ARE).unwrap();
    let warnings = data.account.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("val_images: a further part of the set"), "{warnings:?}");
    assert_eq!((data.account.format, data.account.part.as_deref()), ("NumPy arrays", Some("train")));
    let both = directory(&[
        ("a.npz", &fs::read(sets().join("bool.npz")).unwrap()),
        ("b.npz", &fs::read(sets().join("bool.npz")).unwrap()),
    ]);
    refused(both.path(), &AS_THEY_ARE, &["2 sets of arrays: name one, as", "a.npz"]);
    let alone = directory(&[("a.npz", &fs::read(sets().join("bool.npz")).unwrap()), ("notes.txt", b"")]);
    assert_eq!(open(alone.path(), &AS_THEY_ARE).unwrap().len(), 6);
    let beside = directory(&[("a.npz", &fs::read(sets().join("bool.npz")).unwrap()), ("0.png", &grey(1))]);
    let data = open(beside.path(), &AS_THEY_ARE).unwrap();
    assert_eq!((data.len(), data.account.format), (1, "folder"));
    assert!(
        data.account.warnings()[0].contains("a.npz: a set of its own beside images"),
        "{:?}",
        data.account.warnings()
    );
}

/// The file cut at each of `lengths` is refused with one line that names it.
fn cut(name: &str, lengths: impl Iterator<Item = usize>) {
    let bytes = fs::read(sets().join(name)).unwrap();
    for length in lengths.take_while(|length| *length < bytes.len()) {
        let set = directory(&[(name, &bytes[..length])]);
        refused(&set.path().join(name), &AS_THEY_ARE, &[name]);
    }
}

#[test]
fn arrays_that_end_early_are_named() {
    cut("bool.npz", 0..);
    cut("version2.npy", 0..);
}

#[test]
fn declared_sizes_are_bounded_before_anything_is_unpacked() {
    let mut array = b"\x93NUMPY\x01\x00\x70\x00".to_vec();
    let text = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 60000, 60000), }";
    array.extend(format!("{text:<111}\n").bytes());
    let set = directory(&[("x.npy", &array)]);
    refused(&set.path().join("x.npy"), &AS_THEY_ARE, &["x.npy", "declares 3352761.3 GiB", "--memory-limit", "1.0 GiB"]);
    // What unpacks to more than the limit, though its file is small.
    let limited = Want { memory_limit: Some(100), ..AS_THEY_ARE };
    refused(&sets().join("keras.npz"), &limited, &["x_train", "declares 120 bytes", "100 bytes"]);
    let limited = Want { memory_limit: Some(120), ..AS_THEY_ARE };
    assert_eq!(open(&sets().join("keras.npz"), &limited).unwrap().len(), 6);
}
