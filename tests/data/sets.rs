//! Sets that NumPy, pyarrow, Pillow and tarfile wrote (`sets/make.py`), and what these say is in them.

use std::path::PathBuf;

use serde_json::Value;

use super::*;

fn sets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sets")
}

/// Bytes as the script says them: in hexadecimal, or of many the checksum.
fn said(bytes: &[u8]) -> String {
    if bytes.len() < 1024 {
        return bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    }
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    format!("crc {}", crc.sum())
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
    assert_eq!(said(&train.images), expected["images"], "{name}: images");
    let labels = if expected["labels"].is_null() { vec![0; count as usize] } else { numbers(&expected["labels"]) };
    assert_eq!((&train.labels, train.account.is_labelled), (&labels, !expected["labels"].is_null()), "{name}");
    if let Some(classes) = expected["classes"].as_array() {
        assert_eq!(train.classes, classes.iter().map(|class| class.as_str().unwrap()).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(test.is_some(), expected.get("test_images").is_some(), "{name}: test images");
    if let Some(test) = test {
        assert_eq!(said(&test.images), expected["test_images"], "{name}: test images");
        assert_eq!(test.labels, numbers(&expected["test_labels"]), "{name}: test labels");
    }
}

#[test]
fn what_others_wrote_is_read_to_the_byte() {
    let expected: Value = serde_json::from_slice(&fs::read(sets().join("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.len() >= 45);
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

#[test]
fn tables_that_hold_no_set_get_a_line() {
    let cases = [
        ("zstd", "packed with Zstandard: read are Snappy, gzip and plain"),
        ("delta", "column label: encoding 5: read are plain values and dictionaries"),
        ("nested", "the column images.list.element.bytes is nested"),
        ("nested_label", "the column label.list.element is nested"),
        ("text_label", "the column label holds no whole numbers"),
        ("path_only", "row 1: no bytes in the column image.bytes"),
        ("no_images", "no column of images among text, label"),
        ("two_images", "several columns of images (left, right): call the one to read `image`"),
        ("some_labels", "row 1: no label, though"),
        ("beyond_names", "label 3, but there are 3 names of classes"),
        ("no_rows", "a table without rows"),
    ];
    for (name, part) in cases {
        let file = format!("{name}.parquet");
        refused(&sets().join("refused").join(&file), &AS_THEY_ARE, &[&file, part]);
    }
}

#[test]
fn archives_that_hold_no_set_get_a_line() {
    let cases = [
        ("upward", "\"../../000000.png\" leads out of the archive"),
        ("inner_upward", "\"set/../../000000.png\" leads out of the archive"),
        ("absolute", "\"/etc/000000.png\" leads out of the archive"),
        ("links", "an archive without images (but"),
        ("classes", "images in folders ("),
        ("text_class", "0.cls: \"ant\" is no label"),
        ("some_labels", "1.png: no label, though"),
        ("no_images", "an archive without images (but"),
        ("python", "CIFAR for Python is not read"),
        ("broken", "no image can be read (1 tried, first"),
        ("large_label", "label 70000 is none of 0 to 65535"),
    ];
    for (name, part) in cases {
        let file = format!("{name}.tar.gz");
        refused(&sets().join("refused").join(&file), &AS_THEY_ARE, &[&file, part]);
    }
}

#[test]
fn many_rows_come_in_their_order() {
    let data = open(&sets().join("tables/many.parquet"), &AS_THEY_ARE).unwrap();
    assert_eq!((data.len(), data.images.len()), (3000, 3000 * 25));
    assert_eq!(data.labels, (0..3000).map(|row| row % 3).collect::<Vec<_>>());
    let images: Vec<&[u8]> = data.images.chunks(25).collect();
    assert!(images[0] != images[1] && (0..3000).all(|row| images[row] == images[row % 2]));
}

#[test]
fn what_is_passed_over_in_an_archive_is_said() {
    let data = open(&sets().join("shards/with_link.tar.gz"), &AS_THEY_ARE).unwrap();
    let warnings = data.account.warnings();
    assert_eq!((data.len(), warnings.len()), (6, 2));
    assert!(warnings[0].contains("000009.png: a link or a device in the archive, not followed"), "{warnings:?}");
    assert!(warnings[1].contains("000002.txt: neither an image nor a label"), "{warnings:?}");
}

/// The file cut at each of `lengths` is refused with one line that names it.
fn cut(name: &str, lengths: impl Iterator<Item = usize>) {
    let bytes = fs::read(sets().join(name)).unwrap();
    for length in lengths.take_while(|length| *length < bytes.len()) {
        let name = name.rsplit('/').next().unwrap();
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
fn tables_that_end_early_are_named() {
    cut("tables/img.parquet", 0..);
    cut("tables/newer_pages_plain.parquet", (0..).step_by(3));
}

#[test]
fn archives_that_end_early_are_named() {
    // Six pairs of two blocks each; behind them zeros, of which one block is enough.
    cut("shards/pax.tar", (0..=12 * 1024).step_by(37));
    cut("cifar/cifar-10-binary.tar.gz", (0..).step_by(11));
    cut("shards/packed.tgz", 0..);
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
