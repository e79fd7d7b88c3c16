//! Sets that NumPy, pyarrow, Pillow and tarfile wrote (`sets/make.py`), or the libraries of data sets (`sets/libraries.py`), and what
//! these say is in them.

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

/// Refuses each set of `refused/` that is named, by a line that has what stands beside its name.
fn all_refused(ending: &str, cases: &[(&str, &str)]) {
    for (name, part) in cases {
        let file = format!("{name}.{ending}");
        refused(&sets().join("refused").join(&file), &AS_THEY_ARE, &[&file, part]);
    }
}

#[test]
fn what_others_wrote_is_read_to_the_byte() {
    let [expected, of_libraries] = ["expected.json", "libraries.json"].map(|name| -> serde_json::Map<String, Value> {
        serde_json::from_slice(&fs::read(sets().join(name)).unwrap()).unwrap()
    });
    assert!(expected.len() >= 45 && of_libraries.len() >= 6);
    let expected = expected.iter().chain(&of_libraries);
    for (name, expected) in expected {
        let (train, test) = load_parts(sets().join(name).to_str().unwrap(), &AS_THEY_ARE).unwrap();
        compare(name, expected, &train, test.unwrap().as_ref());
        if let Some(grey) = expected.get("grey") {
            let want = want(train.height, train.width, 1);
            assert_eq!(said(&open(&sets().join(name), &want).unwrap().images), *grey, "{name}: grey");
        }
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
    all_refused("npz", &cases);
}

/// An `.npy` of these numbers, as 32-bit floats, in images of 64x64.
fn floats(numbers: &[f32]) -> Vec<u8> {
    let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, 64, 64), }}", numbers.len() / 4096);
    let mut array = b"\x93NUMPY\x01\x00\x70\x00".to_vec();
    array.extend(format!("{text:<111}\n").bytes());
    array.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    array
}

#[test]
fn what_floats_mean_is_decided_by_all_of_them() {
    let count = 16 * 4096;
    let ranges = [("levels", 0.0, 255.0), ("shares", 0.0, 1.0), ("signed", -1.0, 1.0)];
    // The first half looks like shares, whatever follows: black, or what is above the middle of a range with signs.
    for (first, part) in [(255, "white"), (128, "above the middle"), (0, "black")] {
        for (name, black, white) in ranges {
            let expected: Vec<u8> =
                (0..count).map(|at| if at < count / 2 { first } else { (at % 256) as u8 }).collect();
            let numbers: Vec<f32> =
                expected.iter().map(|level| black + (white - black) * f32::from(*level) / 255.0).collect();
            let set = directory(&[("x.npy", &floats(&numbers))]);
            let data = open(&set.path().join("x.npy"), &AS_THEY_ARE).unwrap();
            assert!(data.images == expected, "{name}, first {part}");
        }
    }
}

#[test]
fn a_part_of_a_value_is_noticed_wherever_it_is() {
    let whole = floats(&(0..4096).map(|at| (at % 256) as f32).collect::<Vec<_>>());
    let tail = [&whole[..], &[0]].concat();
    let many = [&floats(&[7.0; 32 * 4096])[..], &[0, 0, 0]].concat();
    for (bytes, part) in [
        (&whole[..whole.len() - 1], "promises 4096 values, 4095 follow"),
        (&tail, "more than the 4096 values"),
        (&many, "more than the 131072 values"),
    ] {
        refused(&directory(&[("x.npy", bytes)]).path().join("x.npy"), &AS_THEY_ARE, &["x.npy", part]);
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
        ("nested", "the column images.list.element.bytes is nested"),
        ("nested_label", "the column label.list.element is nested"),
        ("no_word", "row 2: label \"\" is no name, which is a line of UTF-8"),
        ("long_word", "a\" is no name, which is a line of UTF-8 of up to 255 bytes"),
        ("null_word", "row 2: no label, though"),
        ("bytes_label", "the column label holds neither whole numbers nor text"),
        ("float_label", "the column label holds neither whole numbers nor text"),
        ("path_only", "row 1: no bytes in the column image.bytes"),
        ("no_images", "no column of images among text, label"),
        ("two_images", "several columns of images (left, right): call the one to read `image`"),
        ("some_labels", "row 1: no label, though"),
        ("beyond_names", "label 3, but there are 3 names of classes"),
        ("no_rows", "a table without rows"),
    ];
    all_refused("parquet", &cases);
}

#[test]
fn archives_that_hold_no_set_get_a_line() {
    let cases = [
        ("upward", "\"../../000000.png\" leads out of the archive"),
        ("inner_upward", "\"set/../../000000.png\" leads out of the archive"),
        ("absolute", "\"/etc/000000.png\" leads out of the archive"),
        ("links", "an archive without images (but"),
        ("tests_alone", "test and val but no train: name the one to train on"),
        ("beside_classes", "beside_classes.tar.gz/set/1.png) beside folders that hold 1 (first"),
        ("classes_and_labels", "bee/1.png: no label, though"),
        ("text_class", "0.cls: \"ant\" is no label"),
        ("some_labels", "1.png: no label, though"),
        ("no_images", "an archive without images (but"),
        ("python", "get the binary version, cifar-10-binary.tar.gz or cifar-100-binary.tar.gz, which lie beside it at"),
        ("broken", "no image can be read (1 tried, first"),
        ("large_label", "label 70000 is none of 0 to 65535"),
    ];
    all_refused("tar.gz", &cases);
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
fn differences_are_added_up_over_blocks_and_pages() {
    let data = open(&sets().join("tables/many_deltas.parquet"), &AS_THEY_ARE).unwrap();
    let expected = (0..700_u32).map(|i| if i % 3 > 0 { i * i * 7 % 65536 } else { i % 2 });
    assert_eq!(data.labels, expected.collect::<Vec<_>>());
    assert!(data.images.chunks(25).all(|image| image == &data.images[..25]));
}

#[test]
fn labels_are_text_in_all_files_or_in_none() {
    let [words, numbers] = ["word_parts/train", "tables/img"].map(|name| {
        let file = sets().join(name).with_extension("parquet");
        fs::read(file).unwrap()
    });
    let both = directory(&[("a.parquet", &words), ("b.parquet", &numbers)]);
    refused(both.path(), &AS_THEY_ARE, &["b.parquet: its labels are numbers, those of", "a.parquet text"]);
}

/// Images by their class and their pixels, whatever their order.
fn sorted(data: &Dataset) -> Vec<(String, Vec<u8>)> {
    let of_class =
        |class: u32| if data.account.is_labelled { data.classes[class as usize].clone() } else { String::new() };
    let images = data.images.chunks((data.images.len() / data.len().max(1)).max(1));
    let mut all: Vec<_> = images.zip(&data.labels).map(|(image, label)| (of_class(*label), image.to_vec())).collect();
    all.sort();
    all
}

#[test]
fn folders_in_an_archive_are_read_as_they_would_be_unpacked() {
    let trees: [(&str, &[&str]); 10] = [
        ("", &["train/ant/0.png", "test/bee/1.png", "train/bee/2.png", "val/ant/3.png", "test/ant/4.png"]),
        ("some/set", &["some/set/train/10/0.png", "some/set/train/2/x/1.png", "some/set/valid/2/2.png"]),
        ("", &["train/0.png", "test/1.png", "train/2.png"]),
        ("", &["training_set/a/0.png", "training_set/b/1.png", "test_set/a/2.png", "0.png", "more/3.png"]),
        ("", &["seg_train/seg_train/a/0.png", "seg_train/seg_train/b/1.png", "seg_test/seg_test/b/2.png"]),
        ("", &["car/0.png", "train/1.png", "bus/2.png"]),
        ("", &["train/a/0.png", "train/b/1.png"]),
        ("", &["2/0.png", "10/1.png", "a/deep/2.png", "beside.png"]),
        ("", &["test/a/0.png", "train/a/1.png", "train/2.png", "train/a/3.png", "test/b/4.png", "train/b/5.png"]),
        ("", &["test/a/0.png", "val/a/1.png"]),
    ];
    for (root, names) in trees {
        let files: Vec<(&str, Vec<u8>)> = names.iter().zip(1..).map(|(name, value)| (*name, grey(value))).collect();
        let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect();
        let (unpacked, packed) = (directory(&files), directory(&[("set.tar", &tar(&files))]));
        let read = |path: &Path| load_parts(path.to_str().unwrap(), &want(2, 2, 1)).map_err(|error| error.to_string());
        match (read(&unpacked.path().join(root)), read(&packed.path().join("set.tar"))) {
            (Ok((train, test)), Ok((own, own_test))) => {
                let parts = |train: &Dataset, test: &Dataset| (sorted(train), sorted(test), train.classes.len());
                let count = |data: &Dataset| data.account.skipped.iter().map(|skipped| skipped.count).sum::<usize>();
                let [test, own_test] = [(&train, test), (&own, own_test)].map(|(train, test)| {
                    test.unwrap().unwrap_or_else(|| Dataset { images: vec![].into(), labels: vec![], ..train.clone() })
                });
                assert_eq!(parts(&train, &test), parts(&own, &own_test), "{names:?}");
                let part = |data: &Dataset| data.account.part.clone();
                assert_eq!([part(&own), part(&own_test)], [part(&train), part(&test)]);
                // A part that is not read is a folder there, and images here.
                assert_eq!(own.account.skipped.is_empty(), train.account.skipped.is_empty(), "{names:?}");
                assert!(count(&own) <= 2, "{:?}", own.account.skipped);
            }
            (Err(unpacked), Err(packed)) => {
                let problem = |line: &str| line.split_once(": ").map(|(_, problem)| problem.to_string());
                assert_eq!(problem(&unpacked), problem(&packed));
            }
            (unpacked, packed) => panic!("{names:?}: {:?}, {:?}", unpacked.map(|_| ()), packed.map(|_| ())),
        }
    }
}

#[test]
fn what_systems_leave_in_archives_is_none_of_the_set() {
    let image = grey(7);
    let names = ["./train/./a/0.png", "test//a/0.png", "__MACOSX/train/a/._0.png", "train/.x/0.png", "train/Thumbs.db"];
    let set = directory(&[("set.tar", &tar(&names.map(|name| (name, &image[..]))))]);
    let (train, test) = load_parts(set.path().join("set.tar").to_str().unwrap(), &AS_THEY_ARE).unwrap();
    let test = test.unwrap().unwrap();
    assert_eq!((train.len(), test.len(), train.account.skipped.len()), (1, 1, 0));
    assert_eq!(train.classes, ["a"]);
}

#[test]
fn parts_of_an_archive_without_images_are_named() {
    let (image, broken) = (grey(7), b"none");
    let files = |train, test| tar(&[("train/a/0.png", train), ("test/a/1.png", test)]);
    let set = directory(&[("train.tar", &files(broken, &image)), ("test.tar", &files(&image, broken))]);
    refused(&set.path().join("train.tar"), &AS_THEY_ARE, &["train.tar: no image can be read (1 tried, first"]);
    let (_, test) = load_parts(set.path().join("test.tar").to_str().unwrap(), &AS_THEY_ARE).unwrap();
    assert!(test.unwrap_err().to_string().ends_with("test.tar/test: no image can be read"));
}

#[test]
fn pickled_sets_are_named_wherever_they_lie() {
    let set = directory(&[("cifar-100-python/train", b"x"), ("ten/cifar-10-batches-py/data_batch_1", b"x")]);
    for below in ["", "cifar-100-python", "ten", "ten/cifar-10-batches-py"] {
        refused(&set.path().join(below), &AS_THEY_ARE, &["CIFAR for Python", "get the binary version"]);
    }
}

#[test]
fn what_is_done_to_images_is_counted_for_each_part() {
    let pictures = [8, 8, 16].map(|side| encode(GrayImage::new(side, side), ImageFormat::Png));
    let [a, b, c] = &pictures;
    let set = directory(&[("set.tar", &tar(&[("train/x/0.png", a), ("test/x/1.png", c), ("train/x/2.png", b)]))]);
    let path = set.path().join("set.tar");
    let (train, test) = load_parts(path.to_str().unwrap(), &want(8, 8, 1)).unwrap();
    assert_eq!((train.account.changes.scaled, train.account.changes.largest), (0, [8, 8]));
    let test = test.unwrap().unwrap();
    assert_eq!((test.len(), test.account.changes.scaled, test.account.changes.smallest), (1, 1, [16, 16]));
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

#[test]
fn pages_and_entries_are_bounded() {
    let limited = |memory_limit| Want { memory_limit: Some(memory_limit), ..AS_THEY_ARE };
    refused(&sets().join("tables/img.parquet"), &limited(64), &["img.parquet", "--memory-limit"]);
    let table = sets().join("tables/repeated_files.parquet");
    let sizes: Vec<u64> = (1..60).map(|i| i * 50).filter(|limit| open(&table, &limited(*limit)).is_ok()).collect();
    assert!(sizes.len() > 1 && sizes[0] > 500, "{sizes:?}");
    refused(&sets().join("shards/pax.tar"), &limited(40), &["000000.png", "--memory-limit"]);
    refused(
        &sets().join("cifar/cifar-10-binary.tar.gz"),
        &limited(4000),
        &["cifar-10-binary.tar.gz", "the batches in it"],
    );
}

#[test]
fn a_picture_that_claims_to_be_huge_is_not_decoded() {
    let mut huge = encode(GrayImage::new(4, 4), ImageFormat::Png);
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let mut crc = flate2::Crc::new();
    crc.update(&huge[12..29]);
    huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
    let set = directory(&[("set.tar", &tar(&[("0.png", &huge)])), ("folder/0.png", &huge)]);
    let line = "larger than 32768 pixels a side or 300 MiB of them: scale it down";
    refused(&set.path().join("set.tar"), &AS_THEY_ARE, &["set.tar/0.png", line]);
    refused(&set.path().join("folder"), &AS_THEY_ARE, &["0.png", line]);
}

#[test]
fn no_damage_to_a_file_of_many_images_makes_it_panic() {
    let seed = 0x51ed_270b_u64;
    println!("seed {seed}");
    let mut random = random_numbers(seed);
    let tables = [
        "snappy",
        "plain",
        "gzip",
        "zstd",
        "zstd_newer_pages",
        "newer_pages",
        "small_pages",
        "repeated_files",
        "required",
        "lz4",
        "lz4_framed",
        "brotli",
        "lengths",
        "prefixes",
        "split",
        "words",
    ];
    let tables = tables.map(|name| format!("tables/{name}.parquet"));
    let others = [
        "unit.npz",
        "bool.npz",
        "version2.npy",
        "fortran_nchw.npz",
        "shards/pax.tar",
        "shards/gnu.tar",
        "shards/packed.tgz",
        "shards/parts_of_classes.tar.gz",
    ];
    for name in tables.into_iter().chain(others.map(String::from)) {
        let bytes = fs::read(sets().join(&name)).unwrap();
        for _ in 0..200 {
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                damaged[at] = if random(2) == 0 { damaged[at] ^ 1 << random(8) } else { [0, 0x7f, 0xff][random(3)] };
            }
            let file = name.rsplit('/').next().unwrap();
            let set = directory(&[(file, &damaged)]);
            match open(&set.path().join(file), &want(5, 6, 3)) {
                Ok(data) => {
                    assert_eq!(data.images.len(), data.len() * 5 * 6 * 3);
                    assert!(data.labels.iter().all(|&label| (label as usize) < data.classes.len()));
                }
                Err(error) => assert!(!error.contains('\n') && error.contains(file), "{error}"),
            }
        }
    }
}

#[test]
fn pointers_in_the_place_of_files_are_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n";
    for name in ["train.parquet", "x.npz", "images.npy", "set.tar", "set.tar.gz"] {
        let set = directory(&[(name, pointer)]);
        refused(&set.path().join(name), &AS_THEY_ARE, &[name, "git lfs pull"]);
        refused(set.path(), &AS_THEY_ARE, &[name, "git lfs pull"]);
    }
}

#[test]
fn what_is_known_and_not_read_is_told_how_to_convert() {
    let cases = [
        ("set.h5", "HDF5: read it in Python and np.savez"),
        ("train_32x32.mat", "scipy.io.loadmat"),
        ("data.pkl", "a pickle, which could run any code"),
        ("train.tfrecord-00000-of-00002", "records of TensorFlow: write each image"),
        ("data.mdb", "a data base: write each image"),
        ("set.arrow", "to_parquet"),
        ("set.zip", "an archive: unpack it"),
        ("set.tar.zst", "a packed file: unpack it"),
    ];
    for (name, part) in cases {
        let set = directory(&[("a.csv", b"x"), (name, b"x")]);
        refused(&set.path().join(name), &AS_THEY_ARE, &[name, part]);
        refused(set.path(), &AS_THEY_ARE, &["no images, but", name, part]);
    }
    let set = directory(&[("labels_only.npy", b"x")]);
    refused(set.path(), &AS_THEY_ARE, &["labels_only.npy, an array that isn't called as images are"]);
}

#[test]
fn several_sets_in_a_directory_are_asked_about() {
    let table = fs::read(sets().join("tables/img.parquet")).unwrap();
    let two = directory(&[("small/train.parquet", &table), ("large/train.parquet", &table)]);
    refused(two.path(), &AS_THEY_ARE, &["several sets, in", "large", "small: name one"]);
    let parts = directory(&[("default/train/0000.parquet", &table), ("default/test/0000.parquet", &table)]);
    let (train, test) = load_parts(parts.path().to_str().unwrap(), &AS_THEY_ARE).unwrap();
    assert_eq!((train.len(), train.account.part.as_deref(), test.unwrap().unwrap().len()), (6, Some("train"), 6));
    let data = open(&sets().join("hub"), &AS_THEY_ARE).unwrap();
    let warnings = data.account.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("validation-00000-of-00001.parquet: a further part"),
        "{warnings:?}"
    );
    assert!(data.check_outside(&sets().join("hub/sheet.png")).is_err());
}

/// What was told of decoding.
static TOLD: std::sync::Mutex<Vec<Option<Decoding>>> = std::sync::Mutex::new(Vec::new());

#[test]
fn who_asks_is_told_of_every_image_and_of_the_end() {
    let watched = AS_THEY_ARE.watched(Some(Watch(&|decoding| TOLD.lock().unwrap().push(decoding))));
    let folder = directory(&[("0/a.png", &grey(1)), ("0/b.png", b"none"), ("1/c.png", &grey(2))]);
    let cases = [
        ("tables/many.parquet", 3000, true),
        ("hub", 6, true),
        ("parts", 6, true),
        ("shards/packed.tgz", 6, true),
        ("refused/broken.tar.gz", 0, false),
    ];
    let cases = cases.map(|(name, images, is_read)| (sets().join(name), images, is_read));
    for (path, images, is_read) in [(folder.path().to_path_buf(), 3, true)].into_iter().chain(cases) {
        assert_eq!(open(&path, &watched).is_ok(), is_read, "{}", path.display());
        let mut told = std::mem::take(&mut *TOLD.lock().unwrap());
        assert_eq!(told.pop(), Some(None), "{}", path.display());
        // Threads may tell in another order than they count.
        let mut told: Vec<Decoding> = told.into_iter().flatten().collect();
        told.sort_by_key(|decoding| decoding.images);
        assert!(told.iter().map(|decoding| decoding.images).eq(1..=images), "{}: {told:?}", path.display());
        let shares: Vec<f64> = told.iter().map(|decoding| decoding.share).collect();
        assert!(shares.is_sorted() && shares.iter().all(|share| (0.0..=1.0).contains(share)), "{shares:?}");
        assert!(images == 0 || shares.last() == Some(&1.0), "{}: {shares:?}", path.display());
    }
}
