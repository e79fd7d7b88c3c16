//! Images that lie in memory as bytes already, all of one size: those of IDX files, of CIFAR's and of NumPy's arrays.

use image::{DynamicImage, GrayImage, RgbImage};

use super::account::{Account, Changes};
use super::dataset::{Dataset, Shape, Want};
use super::decode::Decoded;
use super::fill::fit_images;
use super::room::Room;
use super::watch::Watched;
use crate::error::{Result, list_names};

/// Labels have two bytes.
pub(super) const LARGEST_LABEL: u32 = u16::MAX as u32;

/// Images of one shape, `[N, H, W, C]`, of which there is at least one.
pub(super) struct Pixels {
    pub count: usize,
    pub shape: Shape,
    pub bytes: Room,
}

/// What is said of which class images are.
pub(super) enum Labels {
    /// Nothing: all are one class.
    None,
    /// Numbers, which are the names of their classes, too.
    Numbers(Vec<u32>),
    /// Indices into names, all of them below their number.
    Named(Vec<u32>, Vec<String>),
}

/// Fits the images to what is wanted; as they are, they keep their size and channels.
///
/// # Errors
/// The images are too large to hold.
pub(super) fn dataset(
    name: String,
    format: &'static str,
    pixels: Pixels,
    labels: Labels,
    want: &Want,
) -> Result<Dataset> {
    let (own, count) = (pixels.shape, pixels.count);
    let shape = Shape {
        height: want.height.unwrap_or(own.height),
        width: want.width.unwrap_or(own.width),
        channels: want.channels.unwrap_or(own.channels),
    };
    let mut account = Account { format, ..Account::default() };
    let images = fit_all(pixels, shape, want, &mut account.changes)?;
    account.note_lost_colour(count);
    let (labels, classes) = classify(labels, count, &name, &mut account);
    let Shape { height, width, channels } = shape;
    let mut data = Dataset { name, height, width, channels, images: images.into(), labels, classes, account };
    note_empty_classes(&mut data);
    Ok(data)
}

/// Labels as indices, and the names of all classes.
pub(super) fn classify(labels: Labels, count: usize, name: &str, account: &mut Account) -> (Vec<u32>, Vec<String>) {
    account.is_labelled = !matches!(labels, Labels::None);
    match labels {
        Labels::None => (vec![0; count], vec![name.to_string()]),
        Labels::Named(labels, names) => (labels, names),
        Labels::Numbers(labels) => number(labels, &mut account.notes),
    }
}

/// Labels as indices; the classes are all numbers from the least label to the largest.
fn number(mut labels: Vec<u32>, notes: &mut Vec<String>) -> (Vec<u32>, Vec<String>) {
    let (least, largest) = (labels.iter().min().copied().unwrap_or(0), labels.iter().max().copied().unwrap_or(0));
    if least > 0 {
        notes.push(format!("labels begin at {least}: class {least} is number 0 of the model, and so on"));
        labels.iter_mut().for_each(|label| *label -= least);
    }
    (labels, (least..=largest).map(|class| class.to_string()).collect())
}

pub(super) fn note_empty_classes(data: &mut Dataset) {
    let classes = data.classes.iter().zip(data.counts());
    let empty: Vec<String> = classes.filter(|(_, count)| *count == 0).map(|(name, _)| name.clone()).collect();
    if !empty.is_empty() {
        let problem = format!("no image of class {}, of which nothing can be learnt", list_names(&empty));
        data.account.notes.push(problem);
    }
}

/// Fits every image into the wanted shape.
fn fit_all(pixels: Pixels, shape: Shape, want: &Want, changes: &mut Changes) -> Result<Room> {
    let Pixels { count, shape: own, bytes } = pixels;
    if shape == own {
        let size = [own.height, own.width];
        *changes = Changes { smallest: size, largest: size, ..Changes::default() };
        return Ok(bytes);
    }
    let (from, mut fitted) = (own.bytes(1)?, Room::default());
    let decoded = |index: usize| {
        let image = image_of(own, bytes[index * from..][..from].to_vec()).ok_or("no image")?;
        Ok(Decoded { image, is_animation: false })
    };
    let mut watched = Watched::new(want.watch);
    watched.expect(count, 1.0);
    *changes = fit_images(&mut fitted, 0, count, shape, &watched, decoded)?.changes;
    Ok(fitted)
}

fn image_of(shape: Shape, bytes: Vec<u8>) -> Option<DynamicImage> {
    let Shape { height, width, channels } = shape;
    match channels {
        1 => GrayImage::from_raw(width, height, bytes).map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(width, height, bytes).map(DynamicImage::ImageRgb8),
    }
}
