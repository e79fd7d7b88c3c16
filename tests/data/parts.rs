//! Folders as people have them: divided into parts, numbered, with what systems and tools leave in them.

use super::*;

#[track_caller]
fn warned(data: &Dataset, parts: &[&str]) {
    let warnings = data.account.warnings();
    assert_eq!(warnings.len(), parts.len(), "{warnings:?}");
    for (warning, part) in warnings.iter().zip(parts) {
        assert!(warning.contains(part) && !warning.contains('\n'), "no {part:?} in {warning}");
    }
}

#[test]
fn numbered_folders_come_in_the_order_of_numbers() {
    let names = ["0", "1", "10", "11", "2", "03", "a2", "a10"];
    let images: Vec<Vec<u8>> = [0, 1, 10, 11, 2, 3, 101, 100].map(grey).into();
    let files: Vec<String> = names.iter().map(|name| format!("{name}/x.png")).collect();
    let files: Vec<(&str, &[u8])> =
        files.iter().zip(&images).map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let data = open(directory(&files).path(), &want(1, 1, 1)).unwrap();
    assert_eq!(data.classes, ["0", "1", "2", "03", "10", "11", "a10", "a2"]);
    assert_eq!(data.images, [0, 1, 2, 3, 10, 11, 100, 101]);
    assert_eq!(data.labels, (0..8).collect::<Vec<_>>());
}

#[test]
fn training_and_test_folders_are_no_classes() {
    let images: Vec<Vec<u8>> = (0..6).map(grey).collect();
    let set = directory(&[
        ("train/a/0.png", &images[0]),
        ("train/b/0.png", &images[1]),
        ("train/c/0.png", &images[2]),
        ("Validation/c/0.png", &images[3]),
        ("test/c/0.png", &images[4]),
        ("test/b/0.png", &images[5]),
        ("notes/readme.txt", b"no picture"),
    ]);
    let source = set.path().to_str().unwrap();
    let Split { train, test, held_out } = load_split(source, &want(1, 1, 1)).unwrap();
    assert_eq!((train.images.to_vec(), train.classes.len(), held_out), (vec![0, 1, 2], 3, false));
    // By their names, though one class is missing.
    assert_eq!((test.images.to_vec(), test.labels, test.classes), (vec![5, 4], vec![1, 2], train.classes));
    let data = open(set.path(), &want(1, 1, 1)).unwrap();
    assert!(data.summary().contains("(train): 3 grey images of 1x1 from 8x8 (scaled), 3 classes of 1 each: a, b, c"));
    warned(&data, &["Validation: a further part of the set, which is not read"]);

    let other = directory(&[("train/a/0.png", &images[0]), ("train/b/0.png", &images[0]), ("val/d/0.png", &images[1])]);
    let error = load_split(other.path().to_str().unwrap(), &want(1, 1, 1)).unwrap_err().to_string();
    assert!(error.contains("test images: class d is none of those that were learnt (a, b)"), "{error}");

    let alone = directory(&[("training/a/0.png", &images[0]), ("training/b/0.png", &images[1])]);
    assert_eq!(open(alone.path(), &want(1, 1, 1)).unwrap().classes, ["a", "b"]);
    let flat = directory(&[("train/0.png", &images[0]), ("test/0.png", &images[1])]);
    let Split { train, test, .. } = load_split(flat.path().to_str().unwrap(), &want(1, 1, 1)).unwrap();
    assert_eq!((train.images.to_vec(), test.images.to_vec(), train.classes.clone()), (vec![0], vec![1], test.classes));
    assert_eq!(train.classes, [train.name]);
    // As competitions hand them out: what is to be told is not told.
    let untold = directory(&[("train/a/0.png", &images[0]), ("train/b/0.png", &images[1]), ("test/0.png", &images[2])]);
    let (train, test) = load_parts(untold.path().to_str().unwrap(), &want(1, 1, 1)).unwrap();
    assert!(test.unwrap().is_none());
    warned(&train, &["the images of test are of no classes"]);
    let neither = directory(&[("test/0.png", &images[0]), ("val/0.png", &images[1])]);
    refused(neither.path(), &want(1, 1, 1), &["test and val but no train"]);
    let odd = directory(&[("train/0.png", &images[0]), ("val/0.png", &images[1]), ("more/0.png", &images[2])]);
    warned(&open(odd.path(), &want(1, 1, 1)).unwrap(), &["more: images beside the parts"]);
}

#[test]
fn a_train_among_other_things_is_a_class() {
    let set = directory(&[("train/0.png", &grey(1)), ("car/0.png", &grey(2)), ("plane/0.png", &grey(3))]);
    assert_eq!(open(set.path(), &want(1, 1, 1)).unwrap().classes, ["car", "plane", "train"]);
}

#[test]
fn what_systems_leave_is_passed_over() {
    let set = directory(&[
        ("cats/0.png", &grey(1)),
        ("cats/Thumbs.db", b"x"),
        ("cats/desktop.ini", b"x"),
        ("dogs/0.png", &grey(2)),
        (".ipynb_checkpoints/0.png", &grey(3)),
        ("__MACOSX/cats/0.png", &grey(4)),
        ("@eaDir/0.jpg/SYNOPHOTO_THUMB_M.jpg", &grey(5)),
        ("$RECYCLE.BIN/0.png", &grey(6)),
        (".DS_Store", b"x"),
        ("labels.csv", b"x"),
    ]);
    let data = open(set.path(), &want(1, 1, 1)).unwrap();
    assert_eq!((&data.images.to_vec(), &data.classes), (&vec![1, 2], &vec!["cats".into(), "dogs".into()]));
    warned(&data, &["labels.csv: no PNG, JPEG, GIF, WebP, BMP or TIFF image; skipped"]);
    let flat = directory(&[("0.png", &grey(1)), ("@eaDir/0.png/thumb.jpg", &grey(5))]);
    assert_eq!(open(flat.path(), &want(1, 1, 1)).unwrap().images, [1]);
}

#[test]
fn a_folder_beside_most_of_the_images_is_asked_about() {
    let set = directory(&[("0.png", &grey(1)), ("1.png", &grey(2)), ("rejected/0.png", &grey(3))]);
    refused(
        set.path(),
        &want(1, 1, 1),
        &["2 images (first", "0.png) beside folders that hold 1", "folders are classes"],
    );
}

#[test]
fn images_beside_the_parts_are_none_or_asked_about() {
    for part in ["test", "train"] {
        let folder = format!("{part}/0.png");
        let stray = directory(&[(&folder, &grey(1)), ("a.png", &grey(2))]);
        refused(stray.path(), &want(1, 1, 1), &["1 images (first", "a.png) beside folders that hold 1", part]);
    }
    let set = directory(&[("train/0.png", &grey(1)), ("train/1.png", &grey(1)), ("a.png", &grey(2))]);
    warned(&open(set.path(), &want(1, 1, 1)).unwrap(), &["a.png: images beside the parts"]);
    let idx = directory(&[
        ("train-images-idx3-ubyte", &six().0),
        ("train-labels-idx1-ubyte", &six().1),
        ("a/0.png", &grey(2)),
    ]);
    warned(&open(idx.path(), &AS_THEY_ARE).unwrap(), &["a: images beside IDX files", "no image of class 3"]);
}

#[test]
fn parts_have_other_common_names() {
    for (train, test) in
        [("training_set", "test_set"), ("train2017", "val2017"), ("seg_train", "seg_test"), ("Train", "dev")]
    {
        let files = [format!("{train}/a/0.png"), format!("{train}/b/0.png"), format!("{test}/b/0.png")];
        let set = directory(&[(&files[0], &grey(1)), (&files[1], &grey(2)), (&files[2], &grey(3))]);
        let Split { train, test, .. } = load_split(set.path().to_str().unwrap(), &want(1, 1, 1)).unwrap();
        assert_eq!(
            (train.classes, train.images.to_vec(), test.images.to_vec()),
            (vec!["a".into(), "b".into()], vec![1, 2], vec![3])
        );
    }
    let inner = directory(&[("train/train/a/0.png", &grey(1)), ("train/train/b/0.png", &grey(2))]);
    assert_eq!(open(inner.path(), &want(1, 1, 1)).unwrap().classes, ["a", "b"]);
    let vehicles = directory(&[("train/train/0.png", &grey(1)), ("train/car/0.png", &grey(2))]);
    assert_eq!(open(vehicles.path(), &want(1, 1, 1)).unwrap().classes, ["car", "train"]);
    let set = directory(&[("train_station/0.png", &grey(1)), ("test_tube/0.png", &grey(2))]);
    assert_eq!(open(set.path(), &want(1, 1, 1)).unwrap().classes, ["test_tube", "train_station"]);
}

#[test]
fn test_images_are_of_the_classes_that_are_learnt() {
    // One class is no less a class for bearing the name of the set.
    let set = directory(&[("cats/train/cats/0.png", &grey(1)), ("cats/test/dogs/0.png", &grey(2))]);
    let (train, test) = load_parts(set.path().join("cats").to_str().unwrap(), &want(1, 1, 1)).unwrap();
    let error = test.unwrap_err().to_string();
    assert_eq!(train.classes, ["cats"]);
    assert!(
        error.contains("class dogs is none of those that were learnt (cats)") && error.contains("cats/train names")
    );
}

#[test]
fn what_clones_and_hubs_leave_is_named() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n";
    refused(directory(&[("a/0.png", pointer)]).path(), &want(1, 1, 1), &["0.png", "git lfs pull"]);
    let idx = directory(&[("train-images-idx3-ubyte.gz", pointer)]);
    refused(idx.path(), &AS_THEY_ARE, &["train-images-idx3-ubyte.gz", "git lfs pull"]);
    let hub = directory(&[("README.md", b"#"), ("data/train-00000-of-00001.parquet", b"PAR1")]);
    refused(hub.path(), &AS_THEY_ARE, &["train-00000-of-00001.parquet", "truncated: it ends without its footer"]);
    let packed = directory(&[("images.zip", b"PK")]);
    refused(packed.path(), &AS_THEY_ARE, &["images.zip, an archive: unpack it"]);
    refused(&packed.path().join("images.zip"), &AS_THEY_ARE, &["images.zip: an archive"]);
    let error = load("https://example.org/set.zip", &AS_THEY_ARE).unwrap_err().to_string();
    assert!(error.contains("an address: download it first"), "{error}");
}

#[test]
fn each_reason_is_counted_by_itself() {
    let set = directory(&[("0.png", &grey(1)), ("1.png", b""), ("2.png", b"words"), ("3.png", b"more words")]);
    warned(
        &open(set.path(), &want(1, 1, 1)).unwrap(),
        &["1.png: an empty file; skipped", "2.png: not a PNG, JPEG, GIF, WebP, BMP or TIFF image (2 such)"],
    );
}

#[test]
fn a_folder_that_holds_the_classes_is_pointed_at() {
    let set = directory(&[("pets/cats/0.png", &grey(1)), ("pets/dogs/0.png", &grey(2)), ("empty/x.txt", b"")]);
    let data = open(set.path(), &want(1, 1, 1)).unwrap();
    assert_eq!(data.classes, ["pets"]);
    warned(&data, &["x.txt", "empty: no images, so no class", "(cats, dogs) are classes, give "]);
    // As archives unpack, twice below one folder.
    let set = directory(&[("pets/pets/cats/0.png", &grey(1)), ("pets/pets/dogs/0.png", &grey(2))]);
    warned(&open(set.path(), &want(1, 1, 1)).unwrap(), &["are classes, give "]);
    assert!(open(set.path(), &want(1, 1, 1)).unwrap().account.warnings()[0].ends_with("pets/pets"));
    let names = ["north/cat", "north/dog", "south/cat", "south/dog"].map(|name| format!("{name}/0.png"));
    let pictures: Vec<Vec<u8>> = (0..4).map(grey).collect();
    let files: Vec<(&str, &[u8])> =
        names.iter().zip(&pictures).map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    warned(&open(directory(&files).path(), &want(1, 1, 1)).unwrap(), &["of the same names (cat, dog)"]);
}

#[test]
#[cfg(unix)]
fn folders_without_a_name_that_can_be_typed_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    for name in [&b"\xe4"[..], b"a\nb", b"\x1b[31m"] {
        let set = directory(&[]);
        let folder = set.path().join(std::ffi::OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("0.png"), grey(1)).unwrap();
        refused(set.path(), &want(1, 1, 1), &["the name of the folder", "rename it"]);
    }
}

#[test]
fn animations_count_as_their_first_frame() {
    let frame =
        |value: u8| image::Frame::new(image::RgbaImage::from_pixel(4, 4, image::Rgba([value, value, value, 255])));
    let mut gif = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut gif);
    encoder.encode_frames([frame(10), frame(200)]).unwrap();
    drop(encoder);
    let set = directory(&[("0.gif", &gif), ("1.png", &grey(4))]);
    let data = open(set.path(), &want(4, 4, 1)).unwrap();
    assert!(data.summary().contains("1 first frames or pages of several"), "{}", data.summary());
    assert_eq!(data.images[0], 10);
    // The directory of a TIFF's page ends with the place of the next.
    let mut tiff = encode(GrayImage::from_pixel(4, 4, Luma([7])), ImageFormat::Tiff);
    let number = |at: usize, bytes: &[u8]| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let first = number(4, &tiff);
    let next = first + 2 + 12 * usize::from(u16::from_le_bytes(tiff[first..first + 2].try_into().unwrap()));
    assert_eq!((&tiff[..4], number(next, &tiff)), (&b"II*\0"[..], 0));
    let pages =
        |tiff: &[u8]| open(directory(&[("0.tif", tiff)]).path(), &want(4, 4, 1)).unwrap().account.changes.first_frames;
    assert_eq!(pages(&tiff), 0);
    let page = tiff[first..next + 4].to_vec();
    let place = tiff.len() as u32;
    tiff[next..next + 4].copy_from_slice(&place.to_le_bytes());
    tiff.extend(page);
    assert_eq!(pages(&tiff), 1);
}

#[test]
fn files_in_a_folder_below_are_pointed_at() {
    let (images, labels) = six();
    let files = [("raw/train-images-idx3-ubyte.gz", &gzip(&images)[..]), ("raw/train-labels-idx1-ubyte", &labels)];
    refused(directory(&files).path(), &AS_THEY_ARE, &["its files are in ", "raw: give that"]);
    let record = [vec![3], vec![9; 3072]].concat();
    let cifar = directory(&[("a/cifar-10-batches-bin/data_batch_1.bin", &record)]);
    refused(cifar.path(), &AS_THEY_ARE, &["cifar-10-batches-bin: give that"]);
}

#[test]
fn a_part_that_is_taken_for_a_class_is_said() {
    let set = directory(&[("train/a/0.png", &grey(1)), ("stuff/0.png", &grey(2))]);
    warned(&open(set.path(), &want(1, 1, 1)).unwrap(), &["train: taken for a class"]);
}

#[test]
#[cfg(unix)]
fn links_to_folders_within_a_class_are_said() {
    let set = directory(&[("a/0.png", &grey(1)), ("more/0.png", &grey(2)), ("more/1.png", &grey(2))]);
    std::os::unix::fs::symlink(set.path().join("more"), set.path().join("a/more")).unwrap();
    warned(&open(set.path(), &want(1, 1, 1)).unwrap(), &["a/more: a link to a folder"]);
}

#[test]
fn pictures_are_not_written_into_the_data() {
    let set = directory(&[("a/0.png", &grey(1)), ("b/0.png", &grey(2))]);
    let data = open(set.path(), &want(1, 1, 1)).unwrap();
    for inside in ["sheet.png", "runs/train", "a/../x/y"] {
        let error = data.check_outside(&set.path().join(inside)).unwrap_err().to_string();
        assert!(error.contains("read as images"), "{error}");
    }
    assert!(data.check_outside(&set.path().join("../sheet.png")).is_ok());
    let digits = load("digits", &want(1, 1, 1)).unwrap();
    assert!(digits.check_outside(Path::new("digits/sheet.png")).is_ok());
}

#[test]
fn further_formats_are_read_to_the_pixel() {
    let picture = RgbImage::from_fn(6, 5, |x, y| Rgb([x as u8 * 40, y as u8 * 50, (x * y) as u8]));
    let want = want(5, 6, 3);
    for format in [ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff] {
        let bytes = encode(picture.clone(), format);
        let whole = open(directory(&[("0", &bytes)]).path(), &want).unwrap();
        assert_eq!(whole.images, *picture.as_raw(), "{format:?}");
        for length in (16..bytes.len()).step_by(9) {
            let set = directory(&[("0", &bytes[..length]), ("good.png", &grey(1))]);
            let _ = open(set.path(), &want).map(|data| assert!(data.len() <= 2));
        }
    }
}

#[test]
fn colour_and_transparency_that_are_lost_are_counted() {
    let colour = encode(RgbImage::from_pixel(8, 8, Rgb([200, 10, 10])), ImageFormat::Png);
    let neutral = encode(RgbImage::from_pixel(8, 8, Rgb([200, 200, 200])), ImageFormat::Png);
    let clear = encode(image::RgbaImage::from_pixel(16, 8, image::Rgba([9, 9, 9, 0])), ImageFormat::Png);
    let set = directory(&[("0.png", &colour), ("1.png", &neutral), ("2.png", &clear), ("3.png", &grey(4))]);
    let data = open(set.path(), &want(8, 8, 1)).unwrap();
    let said = "4 grey images of 8x8 from 8x8 to 8x16 (1 cropped, 1 made grey, 1 laid over white), one class";
    assert!(data.summary().ends_with(said), "{}", data.summary());
    warned(&data, &["1 of 4 images are in colour and the model is of grey ones"]);
    let data = open(set.path(), &want(8, 8, 3)).unwrap();
    assert_eq!((data.account.changes.made_grey, data.account.warnings().len()), (0, 0));
}

#[test]
fn pictures_of_other_formats_are_to_be_converted() {
    // A raw photo begins as TIFF does.
    let set = directory(&[("0.heic", b"\0\0\0\x18ftypheic"), ("1.DNG", b"II*\0\x08\0\0\0"), ("notes.txt", b"x")]);
    refused(set.path(), &want(1, 1, 1), &["0.heic", "convert them to PNG"]);
}

#[test]
fn an_account_of_the_data_can_be_stored() {
    let set = directory(&[("a/0.png", &grey(1)), ("a/1.png", b"bad"), ("b/0.png", &grey(2)), ("b/1.png", &grey(2))]);
    let data = open(set.path(), &want(4, 4, 3)).unwrap();
    let account = data.description(Some(true));
    assert_eq!(account["classes"], serde_json::json!([{"name": "a", "images": 1}, {"name": "b", "images": 2}]));
    assert_eq!((&account["images"], &account["height"], &account["channels"]), (&3.into(), &4.into(), &3.into()));
    assert_eq!((&account["changes"]["scaled"], &account["mirrored"]), (&3.into(), &true.into()));
    assert_eq!(account["skipped"][0]["count"], 1);
    assert!(account["skipped"][0]["first"].as_str().unwrap().ends_with("a/1.png"));
}
