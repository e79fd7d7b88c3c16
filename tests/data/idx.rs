//! IDX files: MNIST, embedded and on disk.

use super::*;

#[test]
fn embedded_digits_are_the_test_set_of_mnist() {
    let digits = load("digits", &AS_THEY_ARE).unwrap();
    assert_eq!((digits.name.as_str(), digits.len()), ("digits", 10_000));
    assert_eq!((digits.height, digits.width, digits.channels), (28, 28, 1));
    assert_eq!(digits.classes, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let mut histogram = [0; 10];
    digits.labels.iter().for_each(|&label| histogram[label as usize] += 1);
    assert_eq!(histogram, [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]);
    assert_eq!(digits.labels[..5], [7, 2, 1, 0, 4]);
    assert_eq!(digits.images.len(), 10_000 * 28 * 28);
    assert_eq!(digits.images.iter().map(|&byte| u64::from(byte)).sum::<u64>(), 264_923_200);
    assert!(digits.account.warnings().is_empty() && !digits.is_empty());
}

#[test]
fn smaller_digits_keep_their_brightness_and_place() {
    let (large, small) = (load("digits", &AS_THEY_ARE).unwrap(), load("digits", &want(16, 16, 3)).unwrap());
    assert_eq!((small.height, small.width, small.channels, small.len()), (16, 16, 3, 10_000));
    assert_eq!(small.labels, large.labels);
    assert!(small.images.chunks_exact(3).all(|rgb| rgb[0] == rgb[1] && rgb[0] == rgb[2]));
    for index in 0..200 {
        let of = |data: &Dataset| {
            let (side, bytes) = (data.width as usize, data.images.len() / data.len());
            let image = &data.images[index * bytes..][..bytes];
            let pixels = image.iter().step_by(data.channels as usize).enumerate();
            let (mut mass, mut x, mut y) = (0.0, 0.0, 0.0);
            for (at, &value) in pixels {
                let value = f64::from(value);
                mass += value;
                x += value * ((at % side) as f64 + 0.5) / side as f64;
                y += value * ((at / side) as f64 + 0.5) / side as f64;
            }
            (mass / (side * side) as f64, x / mass, y / mass)
        };
        let (before, after) = (of(&large), of(&small));
        assert!((before.0 - after.0).abs() < 0.15 * before.0, "brightness {index}: {before:?} {after:?}");
        assert!((before.1 - after.1).abs() < 0.01, "column of the centre {index}: {before:?} {after:?}");
        assert!((before.2 - after.2).abs() < 0.01, "row of the centre {index}: {before:?} {after:?}");
    }
}

#[test]
fn idx_files_are_read_plain_and_gzipped() {
    let (images, labels) = six();
    let plain = directory(&[("train-images-idx3-ubyte", &images), ("train-labels-idx1-ubyte", &labels)]);
    let (packed_images, packed_labels) = (gzip(&images), gzip(&labels));
    let packed =
        directory(&[("train-images-idx3-ubyte.gz", &packed_images), ("train-labels-idx1-ubyte.gz", &packed_labels)]);
    // A browser may unpack a file and leave it its name.
    let misnamed = directory(&[("x-images.idx3-ubyte.gz", &images), ("x-labels.idx1-ubyte", &packed_labels)]);
    for set in [plain, packed, misnamed] {
        let data = open(set.path(), &AS_THEY_ARE).unwrap();
        assert_eq!((data.len(), data.height, data.width, data.channels), (6, 3, 4, 1));
        assert_eq!(data.images, (0..72).collect::<Vec<u8>>());
        assert_eq!(data.labels, [2, 0, 1, 2, 0, 4]);
        assert_eq!(data.classes, ["0", "1", "2", "3", "4"]);
        assert_eq!(data.name, set.path().file_name().unwrap().to_str().unwrap());
        assert_eq!(data.account.warnings(), ["no image of class 3, of which nothing can be learnt"]);
    }
}

#[test]
fn the_training_pair_is_preferred_and_strange_pairs_must_be_alone() {
    let labels = idx(&[1], &[0]);
    let one = |value| idx(&[1, 1, 1], &[value]);
    let (train, test, other) = (one(1), one(2), one(3));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("other-images-idx3-ubyte", &other),
        ("t10k-images-idx3-ubyte", &test),
        ("t10k-labels-idx1-ubyte", &labels),
        ("train-images.idx3-ubyte", &train),
        ("train-labels-idx1-ubyte", &labels),
    ];
    assert_eq!(open(directory(&files).path(), &AS_THEY_ARE).unwrap().images, [1]);
    files.truncate(3);
    assert_eq!(open(directory(&files).path(), &AS_THEY_ARE).unwrap().images, [2]);
    files.truncate(1);
    assert_eq!(open(directory(&files).path(), &AS_THEY_ARE).unwrap().images, [3]);
    files.push(("more-images-idx3-ubyte.gz", &other));
    refused(directory(&files).path(), &AS_THEY_ARE, &["several sets", "more, other"]);
}

#[test]
fn a_truncated_idx_file_is_named_wherever_it_ends() {
    let (images, labels) = six();
    let cases = [(images.clone(), labels.clone(), ""), (gzip(&images), gzip(&labels), ".gz")];
    for (images, labels, ending) in cases {
        let names = [format!("train-images-idx3-ubyte{ending}"), format!("train-labels-idx1-ubyte{ending}")];
        for length in 0..images.len() {
            let set = directory(&[(&names[0], &images[..length]), (&names[1], &labels)]);
            refused(set.path(), &AS_THEY_ARE, &[&names[0], "get it again"]);
        }
        for length in 0..labels.len() {
            let set = directory(&[(&names[0], &images), (&names[1], &labels[..length])]);
            refused(set.path(), &AS_THEY_ARE, &[&names[1], "get it again"]);
        }
    }
}

#[test]
fn a_wrong_idx_header_is_refused_without_believing_it() {
    let (images, labels) = six();
    let mut longer = images.clone();
    longer.push(0);
    let mut floats = images.clone();
    floats[2] = 0x0d;
    let mut checksum = gzip(&images);
    let end = checksum.len();
    checksum[end - 6] ^= 1;
    let cases: [(Vec<u8>, &str); 11] = [
        (longer, "more than the 72 values"),
        (floats, "values of type 0x0d"),
        (labels.clone(), "swapped"),
        (b"<html>not found</html>".to_vec(), "not an IDX file"),
        (idx(&[u32::MAX; 3], &[1; 50]), "more than can be addressed"),
        (idx(&[65_536, 2, 32_767], &[1; 50]), "truncated: its header promises 4294836224 values, 50 follow"),
        (gzip(&idx(&[65_535, 2, 32_767], &[1; 50])), "promises 4.0 GiB, more than --memory-limit allows"),
        (idx(&[65_535, 2, 8_192], &[1; 50]), "promises 1073725440 values, 50 follow"),
        (gzip(&idx(&[65_535, 2, 8_192], &[1; 50])), "promises 1073725440 values, 50 follow"),
        (idx(&[0, 28, 28], &[]), "no pixels"),
        (checksum, "damaged"),
    ];
    for (bytes, problem) in cases {
        let set = directory(&[("train-images-idx3-ubyte", &bytes), ("train-labels-idx1-ubyte", &labels)]);
        refused(set.path(), &AS_THEY_ARE, &["train-images-idx3-ubyte", problem]);
    }
    // What unpacks to far more than its header promises is left alone after one byte more.
    let bomb = gzip(&idx(&[6, 3, 4], &vec![0; 64 << 20]));
    let set = directory(&[("train-images-idx3-ubyte.gz", &bomb), ("train-labels-idx1-ubyte", &labels)]);
    refused(set.path(), &AS_THEY_ARE, &["more than the 72 values"]);
}

#[test]
fn labels_must_be_as_many_as_images_and_may_be_absent() {
    let (images, _) = six();
    for count in [5_u32, 7] {
        let labels = idx(&[count], &vec![1; count as usize]);
        let set = directory(&[("t10k-images-idx3-ubyte", &images), ("t10k-labels-idx1-ubyte", &labels)]);
        let parts = ["t10k-images-idx3-ubyte: 6 images", "t10k-labels-idx1-ubyte has", &format!("{count} labels")];
        refused(set.path(), &AS_THEY_ARE, &parts);
    }
    let data = open(directory(&[("t10k-images-idx3-ubyte", &images)]).path(), &AS_THEY_ARE).unwrap();
    assert_eq!((data.labels, data.classes.len(), data.account.warnings().len()), (vec![0; 6], 1, 1));
    assert!(data.account.warnings()[0].contains("t10k-images-idx3-ubyte: no labels"), "{:?}", data.account.warnings());
}

#[test]
fn sets_under_names_of_their_own_are_found() {
    let images = idx(&[3, 1, 1], &[1, 2, 3]);
    let tests = idx(&[3, 1, 1], &[4, 5, 6]);
    // As EMNIST's letters: from 1.
    let (labels, test_labels) = (idx(&[3], &[1, 26, 2]), idx(&[3], &[2, 3, 3]));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("emnist-letters-test-images-idx3-ubyte", &tests),
        ("emnist-letters-test-labels-idx1-ubyte", &test_labels),
        ("emnist-letters-train-images-idx3-ubyte", &images),
        ("emnist-letters-train-labels-idx1-ubyte", &labels),
    ];
    let set = directory(&files);
    let Split { train, test, held_out } = load_split(set.path().to_str().unwrap(), &AS_THEY_ARE).unwrap();
    assert_eq!((&train.images.to_vec(), &train.labels, train.classes.len()), (&vec![1, 2, 3], &vec![0, 25, 1], 26));
    assert_eq!((train.classes[0].as_str(), train.classes[25].as_str(), held_out), ("1", "26", false));
    // Its own labels begin at 2.
    assert_eq!((test.images.to_vec(), test.labels), (vec![4, 5, 6], vec![1, 2, 2]));
    let warnings = train.account.warnings();
    assert!(warnings.iter().any(|line| line.contains("labels begin at 1: class 1 is number 0")), "{warnings:?}");

    files.push(("emnist-digits-train-images-idx3-ubyte", &images));
    let set = directory(&files);
    refused(set.path(), &AS_THEY_ARE, &["several sets", "emnist-digits, emnist-letters", "name one, as "]);
    let data = open(&set.path().join("emnist-letters"), &AS_THEY_ARE).unwrap();
    assert_eq!((data.name.as_str(), data.classes.len()), ("emnist-letters", 26));
    refused(&set.path().join("emnist-balanced"), &AS_THEY_ARE, &["emnist-balanced", "no such file"]);
}

#[test]
fn labels_of_qmnist_are_the_first_column_of_its_ints() {
    let ints = |kind: u8, shape: &[u32], values: &[u8]| {
        let mut bytes = idx(shape, values);
        bytes[2] = kind;
        bytes
    };
    let images = idx(&[2, 1, 1], &[8, 9]);
    let columns: Vec<u8> = [5, 99, 98, 0, 1, 97].into_iter().flat_map(|value: u32| value.to_be_bytes()).collect();
    let qmnist = ints(0x0c, &[2, 3], &columns);
    let shorts = ints(0x0b, &[2], &[0, 1, 1, 0]);
    for (name, labels, expected) in [
        ("qmnist-train-labels-idx2-int.gz", gzip(&qmnist), vec![5, 0]),
        ("qmnist-train-labels-idx1-short", shorts, vec![1, 256]),
    ] {
        let set = directory(&[("qmnist-train-images-idx3-ubyte", &images), (name, &labels)]);
        let data = open(set.path(), &AS_THEY_ARE).unwrap();
        let named: Vec<u32> = data.labels.iter().map(|label| data.classes[*label as usize].parse().unwrap()).collect();
        assert_eq!((data.images.to_vec(), named), (vec![8, 9], expected));
    }
    for (labels, part) in [
        (ints(0x0c, &[2, 1], &[255; 8]), "label -1 is none of 0 to 65535"),
        (ints(0x0c, &[2, 2], &[0; 12]), "promises 4 values, 3 follow"),
        (ints(0x0d, &[2], &[0; 8]), "labels of type 0x0d"),
        (ints(0x0c, &[2, 0], &[]), "2 dimensions where 1 or 2"),
    ] {
        let set = directory(&[("qmnist-train-images-idx3-ubyte", &images), ("qmnist-train-labels-idx2-int", &labels)]);
        refused(set.path(), &AS_THEY_ARE, &["qmnist-train-labels-idx2-int", part]);
    }
}
