//! Data sets as a user has them on disk: good ones read exactly, bad ones get one line that names the file.

#[path = "data/cifar.rs"]
mod cifar;
#[path = "data/folder.rs"]
mod folder;
#[path = "data/hostile.rs"]
mod hostile;
#[path = "data/idx.rs"]
mod idx;
#[path = "data/parts.rs"]
mod parts;
#[path = "data/picture.rs"]
mod picture;
#[path = "data/sets.rs"]
mod sets;

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;

use diffuse::data::{Dataset, Decoding, Split, Want, Watch, load, load_parts, load_split};
use flate2::{Compression, write::GzEncoder};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use tempfile::TempDir;

const AS_THEY_ARE: Want = Want { height: None, width: None, channels: None, memory_limit: None, watch: None };

fn want(height: u32, width: u32, channels: u32) -> Want {
    Want { height: Some(height), width: Some(width), channels: Some(channels), ..AS_THEY_ARE }
}

fn open(directory: &Path, want: &Want) -> Result<Dataset, String> {
    load(directory.to_str().unwrap(), want).map_err(|error| error.to_string())
}

/// The error of a load, which must be one line that holds all of `parts`.
#[track_caller]
fn refused(directory: &Path, want: &Want, parts: &[&str]) {
    let error = open(directory, want).expect_err("bad data were accepted");
    assert!(!error.contains('\n'), "more than one line: {error}");
    parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in: {error}"));
}

fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, dimensions.len() as u8];
    dimensions.iter().for_each(|side| bytes.extend(side.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Six images of 3 rows and 4 columns with distinct pixels, and their labels.
fn six() -> (Vec<u8>, Vec<u8>) {
    (idx(&[6, 3, 4], &(0..72).collect::<Vec<u8>>()), idx(&[6], &[2, 0, 1, 2, 0, 4]))
}

/// An archive of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, bytes) in files {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", bytes.len()).as_bytes());
        header[156] = b'0';
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header[155] = b' ';
        all.extend(header);
        all.extend(*bytes);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    [all, vec![0; 1024]].concat()
}

fn directory(files: &[(&str, &[u8])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    directory
}

fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG of one grey value.
fn grey(value: u8) -> Vec<u8> {
    encode(GrayImage::from_pixel(8, 8, Luma([value])), ImageFormat::Png)
}

#[test]
fn what_no_data_can_give_is_refused() {
    let set = directory(&[("a.png", &grey(1))]);
    refused(set.path(), &want(0, 8, 1), &["size of 0"]);
    refused(set.path(), &want(8, 8, 4), &["4 image channels"]);
    refused(set.path(), &want(u32::MAX, u32::MAX, 3), &["too large to hold"]);
    refused(set.path(), &want(100_000, 100_000, 3), &["too large to hold"]);
    refused(&set.path().join("nowhere"), &AS_THEY_ARE, &["nowhere", "no such file", "`digits`", "IDX", "PNG"]);
    refused(&set.path().join("a.png"), &AS_THEY_ARE, &["a.png", "not a directory", "folder of"]);
    refused(directory(&[]).path(), &AS_THEY_ARE, &["an empty folder", "PNG"]);
    refused(directory(&[(".hidden.png", &grey(1))]).path(), &AS_THEY_ARE, &["an empty folder"]);
    refused(directory(&[("a.txt", b"words")]).path(), &AS_THEY_ARE, &["no images", "a.txt"]);
}

/// Numbers below what is asked for, by xorshift.
fn random_numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    }
}

#[test]
fn no_damage_makes_it_panic() {
    let seed = 0x9e37_79b9_u64;
    println!("seed {seed}");
    let mut random = random_numbers(seed);
    let (images, labels) = six();
    let picture = RgbImage::from_fn(20, 10, |x, y| Rgb([x as u8 * 9, y as u8 * 9, 7]));
    let mut files = vec![("train-images-idx3-ubyte", images.clone()), ("train-images-idx3-ubyte", gzip(&images))];
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    for format in [Png, Jpeg, Gif, WebP, Bmp, Tiff] {
        files.push(("picture", encode(picture.clone(), format)));
    }
    for (name, bytes) in files {
        for _ in 0..150 {
            let mut damaged = bytes.clone();
            for _ in 0..=random(3) {
                let at = random(damaged.len());
                damaged[at] ^= 1 << random(8);
            }
            let set = directory(&[(name, &damaged), ("train-labels-idx1-ubyte", &labels)]);
            if let Ok(data) = open(set.path(), &want(5, 6, 3)) {
                assert_eq!(data.images.len(), data.len() * 5 * 6 * 3);
                assert!(data.labels.iter().all(|&label| (label as usize) < data.classes.len()));
            }
        }
    }
}
