//! Folders of images.

use image::{Rgba, RgbaImage};

use super::*;

#[test]
fn sub_folders_are_classes_in_order_of_their_names() {
    let set = directory(&[
        ("zebra/b.png", &grey(4)),
        ("zebra/a.jpg", &grey(3)),
        ("ant/deep/er/no-extension", &grey(2)),
        ("ant/1.png", &grey(1)),
        ("ant/.1.png.part", b"hidden"),
        ("ant/1.txt", b"a caption"),
        ("moth/readme.md", b"no picture here"),
        ("stray.png", &grey(9)),
    ]);
    let data = open(set.path(), &want(1, 1, 1)).unwrap();
    assert_eq!(data.images, [1, 2, 3, 4]);
    assert_eq!(data.labels, [0, 0, 1, 1]);
    assert_eq!(data.classes, ["ant", "zebra"]);
    let expected = [
        "stray.png: beside the folders",
        "1.txt: no PNG, JPEG, GIF, WebP, BMP or TIFF image (2 such)",
        "moth: no images, so no class",
    ];
    assert_eq!(data.account.warnings().len(), expected.len(), "{:?}", data.account.warnings());
    for (warning, part) in data.account.warnings().iter().zip(expected) {
        assert!(warning.contains(part) && !warning.contains('\n'), "{warning}");
    }
}

#[test]
fn a_flat_folder_is_one_class_of_rgb_squares() {
    let wide = encode(RgbImage::from_pixel(9, 5, Rgb([10, 20, 30])), ImageFormat::Png);
    let set = directory(&[("flat/a.png", &wide), ("flat/b.png", &grey(7)), ("flat/empty/x.txt", b"")]);
    let data = open(&set.path().join("flat"), &AS_THEY_ARE).unwrap();
    assert_eq!((data.height, data.width, data.channels), (5, 5, 3));
    assert_eq!((data.name.as_str(), data.classes), ("flat", vec!["flat".to_string()]));
    assert_eq!(data.images, [[10, 20, 30].repeat(25), vec![7; 75]].concat());
    assert_eq!(data.labels, [0, 0]);
    let sides = [(Some(3), None), (None, Some(3))];
    for (height, width) in sides {
        let one_side = Want { height, width, ..AS_THEY_ARE };
        let data = open(&set.path().join("flat/."), &one_side).unwrap();
        assert_eq!((data.height, data.width, data.images.len()), (3, 3, 2 * 3 * 3 * 3));
    }
}

#[test]
fn a_corrupt_image_is_named_and_the_others_go_on() {
    let good: Vec<Vec<u8>> = (0..40).map(grey).collect();
    let names: Vec<String> = (0..40).map(|index| format!("{}/{index:02}.png", ["a", "b"][index / 20])).collect();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().zip(&good).map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    files[3].1 = &good[3][..good[3].len() / 2];
    files[21].1 = b"";
    files[39].1 = b"\xff\xd8\xff\xe0";
    files.push(("c/only.gif", b"GIF89a"));
    let set = directory(&files);
    for _ in 0..3 {
        let data = open(set.path(), &want(1, 1, 1)).unwrap();
        let kept: Vec<u8> = (0..39).filter(|index| ![3, 21].contains(index)).collect();
        assert_eq!(data.labels, kept.iter().map(|&index| u32::from(index / 20)).collect::<Vec<_>>());
        assert_eq!(data.images, kept);
        assert_eq!(data.classes, ["a", "b"]);
        let bad = [
            "03.png: corrupt image: unexpected end of file",
            "21.png: an empty file",
            "39.png: corrupt image: truncated JPEG",
            "only.gif: corrupt image",
            "c: no images",
        ];
        assert_eq!(data.account.warnings().len(), bad.len(), "{:?}", data.account.warnings());
        data.account
            .warnings()
            .iter()
            .zip(bad)
            .for_each(|(warning, part)| assert!(warning.contains(part), "{warning}"));
    }
    let all_bad = directory(&[("x/a.png", b"no"), ("y/b.jpg", b"no")]);
    refused(all_bad.path(), &want(1, 1, 1), &["no image can be read", "2 tried", "a.png"]);
    refused(all_bad.path(), &AS_THEY_ARE, &["no image can be read"]);
}

#[test]
fn truncated_and_absurd_images_are_corrupt() {
    let picture = RgbImage::from_fn(60, 50, |x, y| Rgb([(x * 4) as u8, (y * 5) as u8, (x * y) as u8]));
    let mut claims_65535 = encode(RgbImage::new(1, 1), ImageFormat::Gif);
    claims_65535[6..10].fill(0xff);
    let mut claims_20000 = encode(picture.clone(), ImageFormat::Jpeg);
    let frame = claims_20000.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    claims_20000[frame + 5..frame + 9].copy_from_slice(&[0x4e, 0x20, 0x4e, 0x20]);
    let too_long = encode(GrayImage::new(40_000, 1), ImageFormat::Png);
    let mut cases = vec![claims_65535, claims_20000, too_long];
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif] {
        let bytes = encode(picture.clone(), format);
        let cuts = (4..bytes.len() - 8).step_by(41);
        cases.extend(cuts.map(|length| bytes[..length].to_vec()));
        if format == ImageFormat::Jpeg {
            // A thumbnail has an end marker of its own, long before the picture's.
            let with_thumbnail = insert_segment(&bytes, 0xe5, &bytes);
            cases.push(with_thumbnail[..with_thumbnail.len() - 9].to_vec());
            let whole = directory(&[("a.jpg", &with_thumbnail)]);
            assert!(open(whole.path(), &AS_THEY_ARE).unwrap().account.warnings().is_empty());
        }
    }
    assert!(cases.len() > 50);
    for bytes in cases {
        let set = directory(&[("bad.jpg", &bytes), ("good.png", &grey(5))]);
        let data = open(set.path(), &want(2, 2, 1)).unwrap();
        assert_eq!((data.len(), data.account.warnings().len()), (1, 1), "{} bytes were accepted", bytes.len());
        assert!(data.account.warnings()[0].contains("bad.jpg"), "{:?}", data.account.warnings());
    }
}

/// A JPEG with one more segment right after its start.
fn insert_segment(jpeg: &[u8], marker: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, marker], &length, content, &jpeg[2..]].concat()
}

#[test]
fn a_jpeg_that_lacks_its_end_marker_alone_is_read() {
    let picture = RgbImage::from_fn(40, 24, |x, y| Rgb([(x * 6) as u8, (y * 9) as u8, (x * y) as u8]));
    let bytes = encode(picture, ImageFormat::Jpeg);
    let read = |bytes: &[u8]| open(directory(&[("a.jpg", bytes)]).path(), &want(24, 40, 3));
    let whole = read(&bytes).unwrap();
    let open_ended = read(&bytes[..bytes.len() - 2]).unwrap();
    assert_eq!((whole.images, open_ended.account.warnings().len()), (open_ended.images, 0));
    assert!(read(&bytes[..bytes.len() - 8]).unwrap_err().contains("truncated JPEG"));
}

#[test]
fn the_centre_of_odd_shapes_is_kept() {
    let colours = [Rgb([255, 0, 0]), Rgb([0, 255, 0]), Rgb([0, 0, 255])];
    let wide = RgbImage::from_fn(90, 30, |x, _| colours[x as usize / 30]);
    let tall = image::imageops::rotate90(&wide);
    for picture in [wide.clone(), tall] {
        let set = directory(&[("a.png", &encode(picture, ImageFormat::Png))]);
        for side in [30, 7, 45] {
            let data = open(set.path(), &want(side, side, 3)).unwrap();
            assert_eq!(data.images, [0, 255, 0].repeat((side * side) as usize), "side {side}");
        }
    }
    // 10 rows of 20 columns out of 30 x 90 are columns 15 to 74: half red, two green, half blue.
    let set = directory(&[("a.png", &encode(wide, ImageFormat::Png))]);
    let data = open(set.path(), &want(10, 20, 3)).unwrap();
    let row: Vec<&[u8]> = data.images[..60].chunks_exact(3).collect();
    assert_eq!(
        (row[0], row[4 - 1][0] > 250, row[7], row[12]),
        (&[255, 0, 0][..], true, &[0, 255, 0][..], &[0, 255, 0][..])
    );
    assert_eq!((row[19], row[16][2] > 250), (&[0, 0, 255][..], true));
    // As many pixels long as a file can hold, one wide: its middle, with no giant on the way.
    let line = GrayImage::from_fn(30_001, 1, |x, _| Luma([if x == 15_000 { 200 } else { 10 }]));
    let set = directory(&[("a.png", &encode(line, ImageFormat::Png))]);
    assert_eq!(open(set.path(), &want(64, 64, 1)).unwrap().images, [200; 64 * 64]);
}

#[test]
fn transparency_depth_and_orientation_are_resolved() {
    let clear = RgbaImage::from_fn(4, 2, |x, _| Rgba([100, 0, 200, [0, 255, 51, 255][x as usize]]));
    let set = directory(&[("a.png", &encode(clear, ImageFormat::Png))]);
    let row = [255, 255, 255, 100, 0, 200, 224, 204, 244, 100, 0, 200];
    assert_eq!(open(set.path(), &want(2, 4, 3)).unwrap().images, row.repeat(2));

    let deep = image::ImageBuffer::<Luma<u16>, _>::from_fn(2, 2, |x, _| Luma([x as u16 * 65_535]));
    let set = directory(&[("a.png", &encode(deep, ImageFormat::Png))]);
    assert_eq!(open(set.path(), &want(2, 2, 1)).unwrap().images, [0, 255, 0, 255]);

    let moving = encode(RgbImage::from_pixel(3, 3, Rgb([255, 0, 0])), ImageFormat::Gif);
    assert_eq!(open(directory(&[("a", &moving)]).path(), &want(1, 1, 3)).unwrap().images, [255, 0, 0]);

    // EXIF orientation 6: the camera was held upright; turn by 90 degrees clockwise to see the picture so.
    let lying = GrayImage::from_fn(32, 16, |x, _| Luma([if x < 16 { 0 } else { 255 }]));
    let exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let upright = insert_segment(&encode(lying, ImageFormat::Jpeg), 0xe1, exif);
    let data = open(directory(&[("a.jpg", &upright)]).path(), &want(2, 1, 1)).unwrap();
    assert!(data.images[0] < 40 && data.images[1] > 215, "{:?}", data.images);
}

#[cfg(unix)]
#[test]
fn linked_folders_are_classes_and_loops_end() {
    let set = directory(&[("real/a.png", &grey(1)), ("data/b/b.png", &grey(2))]);
    let root = set.path().join("data");
    std::os::unix::fs::symlink("../real", root.join("a")).unwrap();
    std::os::unix::fs::symlink("..", root.join("b/loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("b/gone.png")).unwrap();
    let data = open(&root, &want(1, 1, 1)).unwrap();
    assert_eq!((data.images.to_vec(), data.classes), (vec![1, 2], vec!["a".to_string(), "b".to_string()]));
    let said = data.account.warnings();
    assert!(said.len() == 2 && said[0].contains("b/loop: a link") && said[1].contains("gone.png"), "{said:?}");
}

#[test]
fn every_second_image_may_be_corrupt() {
    let good: Vec<Vec<u8>> = (0..=255).map(grey).collect();
    let names: Vec<String> = (0..512).map(|index| format!("{index:03}.png")).collect();
    let content = |index: usize| {
        if index.is_multiple_of(2) { good[index / 2].as_slice() } else { b"bad" }
    };
    let files: Vec<(&str, &[u8])> =
        names.iter().enumerate().map(|(index, name)| (name.as_str(), content(index))).collect();
    let data = open(directory(&files).path(), &want(1, 1, 1)).unwrap();
    assert_eq!(data.images, (0..=255).collect::<Vec<u8>>());
    let warnings = data.account.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("001.png: not a PNG"), "{warnings:?}");
    assert!(warnings[0].contains("(256 such); skipped"), "{warnings:?}");
}
