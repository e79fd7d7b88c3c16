//! CIFAR's binary files.

use super::*;

/// Records of these labels, of which pixel i of the planes of record k is k + i, and 100 and 200 more.
fn records(labels: &[u8], fine: bool) -> Vec<u8> {
    let record = |(k, label): (usize, &u8)| {
        let planes = [0, 100, 200].into_iter().flat_map(move |plane| (0..1024).map(move |i| (k + i + plane) as u8));
        let labels = if fine { vec![7, *label] } else { vec![*label] };
        labels.into_iter().chain(planes).collect::<Vec<u8>>()
    };
    labels.iter().enumerate().flat_map(record).collect()
}

#[test]
fn batches_are_read_in_colour_and_under_their_names() {
    let (one, two, test) = (records(&[3, 9], false), records(&[0], false), records(&[9], false));
    let names = b"airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    let set = directory(&[
        ("data_batch_1.bin", &one),
        ("data_batch_2.bin", &two),
        ("test_batch.bin", &test),
        ("batches.meta.txt", names),
        ("readme.html", b""),
    ]);
    let Split { train, test, held_out } = load_split(set.path().to_str().unwrap(), &AS_THEY_ARE).unwrap();
    assert_eq!((train.height, train.width, train.channels, held_out), (32, 32, 3, false));
    assert_eq!((&train.labels, &test.labels, train.classes.len()), (&vec![3, 9, 0], &vec![9], 10));
    assert_eq!((train.classes[3].as_str(), train.classes[9].as_str()), ("cat", "truck"));
    assert_eq!(train.images[..6], [0, 100, 200, 1, 101, 201]);
    assert_eq!(train.images[3072..3075], [1, 101, 201]);
    assert_eq!(train.account.format, "CIFAR files");
    let small = open(set.path(), &want(16, 16, 1)).unwrap();
    assert_eq!((small.images.len(), small.account.changes.scaled), (3 * 256, 3));
}

#[test]
fn the_fine_labels_of_cifar_100_are_its_classes() {
    let set = directory(&[("train.bin", &records(&[42], true)), ("fine_label_names.txt", b"too few")]);
    let data = open(set.path(), &AS_THEY_ARE).unwrap();
    assert_eq!((data.labels, data.classes.len(), data.classes[42].as_str()), (vec![42], 100, "42"));
}

#[test]
fn cifar_100_without_its_names_has_numbers() {
    let set = directory(&[("train.bin", &records(&[3, 99], true))]);
    let data = open(set.path(), &AS_THEY_ARE).unwrap();
    assert_eq!((data.len(), data.classes.len(), data.labels), (2, 100, vec![3, 99]));
}

#[test]
fn damaged_batches_are_named() {
    let good = records(&[1], false);
    for (bytes, part) in [
        (&good[..good.len() - 1], "no whole records of 3073"),
        (&[][..], "no whole records"),
        (&records(&[10], false)[..], "record 0 has label 10 of 10 classes"),
    ] {
        let set = directory(&[("data_batch_1.bin", &good), ("data_batch_2.bin", bytes)]);
        refused(set.path(), &AS_THEY_ARE, &["data_batch_2.bin", part]);
    }
    let python = directory(&[("data_batch_1", b"pickle"), ("batches.meta", b"pickle")]);
    refused(python.path(), &AS_THEY_ARE, &["data_batch_1", "get the binary version"]);
}
