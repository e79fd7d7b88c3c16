//! How good samples are, on features of the classifier at no noise, and how new.

use serde::Serialize;

use super::images_of;
use super::likelihood::check_finite;
use super::statistics::{self, Features, Measured, Whitening, coverage, frechet, kernel_distance, nearest, quantile};
use super::structure::{Reference, Structure};
use crate::data::{Dataset, Split};
use crate::error::{Error, Result};
use crate::picture::Images;
use crate::run::Observer;

/// Figures of one set of images against the training images, on the classifier's features in coordinates in which those of
/// the training images have mean 0 and covariance 1. They are comparable among models that are judged by one classifier;
/// none of them is Inception's.
#[derive(Clone, Debug, Serialize)]
pub struct Quality {
    pub images: usize,
    /// Training images that they are compared with.
    pub reference_images: usize,
    pub frechet_distance: Measured,
    pub kernel_distance: Measured,
    pub precision: Measured,
    pub recall: Measured,
    /// The share whose class the classifier names; none without labels.
    pub accuracy: Option<f64>,
}

/// Distances in pixels, root mean square over an image in [-1, 1], to the nearest training image.
#[derive(Clone, Debug, Serialize)]
pub struct Nearest {
    pub images: usize,
    /// 5 %, 50 % and 95 % of the distances are below these.
    pub quantiles: [f64; 3],
    /// The share that is nearer to a training image than 95 % of the test images are: 5 % if nothing is memorised.
    pub share_below_yardstick: f64,
    #[serde(skip)]
    pub neighbours: Vec<(usize, f64)>,
}

/// What `evaluate --quality` finds.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub samples: Quality,
    /// Test images in the place of samples: as good as can be, but for the number of images.
    pub floor: Quality,
    pub nearest: Nearest,
    /// The test images' own distances to the training images: what memorisation is measured by.
    pub yardstick: Nearest,
    /// Coherence and detail of the samples, and of the test images.
    pub structure: [Structure; 2],
    /// Images of each kind below which the two distances are mostly noise: twice as many as the features have dimensions,
    /// so that a covariance can be told from its estimate.
    pub enough_images: usize,
}

/// Training images that halves, waves and patches are learnt from: more would take memory and say the same.
const MOST_STRUCTURED: usize = 10_000;

/// Whether there are as many samples and test images as the figures need.
///
/// # Errors
/// [`Error::Config`] if there aren't.
pub fn check_counts(samples: usize, split: &Split) -> Result<()> {
    let (least, tests) = (statistics::NEIGHBOURS + 1, split.test.len());
    if samples < least || tests < least {
        let problem = format!("{samples} samples and {tests} test images: it takes at least {least} of each");
        return Err(Error::Config(problem));
    }
    Ok(())
}

/// Judges samples of classes `labels`.
///
/// # Errors
/// [`Error::Config`] if there are too few images, or of another size; [`Error::Device`] if the device fails.
pub fn judge(
    observer: &Observer,
    samples: &Images,
    labels: Option<&[u32]>,
    split: &Split,
    seed: u64,
) -> Result<Report> {
    check_counts(samples.count, split)?;
    // As many of all three, so that what hangs on the number of images is the same in samples and floor.
    let count = samples.count.min(split.test.len()).min(split.train.len());
    let reference = observer.look(&spread(&split.train, count), 0.0)?.features;
    let whitening = Whitening::of(&reference);
    let reference = whitening.apply(&reference);
    let quality = |images: &Images, labels: Option<&[u32]>| -> Result<Quality> {
        let seen = observer.look(images, 0.0)?;
        let accuracy = labels.map(|labels| seen.accuracy(labels));
        let features = whitening.apply(&seen.features[..seen.features.len().min(count)]);
        Ok(compare(&features, &reference, accuracy, seed))
    };
    let tests = images_of(&split.test, count);
    let whole = Reference::new(&spread(&split.train, split.train.len().min(MOST_STRUCTURED)), seed);
    let structure = [samples, &tests].map(|images| whole.look(images, seed.wrapping_add(1)));
    let train = rows(&images_of(&split.train, split.train.len()));
    let yardstick = nearest_images(&rows(&tests), &train, None);
    let (ours, floor) = (quality(samples, labels)?, quality(&tests, Some(&split.test.labels[..count]))?);
    [&ours, &floor]
        .into_iter()
        .try_for_each(|one| check_finite(one.frechet_distance.value + one.kernel_distance.value))?;
    Ok(Report {
        samples: ours,
        floor,
        nearest: nearest_images(&rows(samples), &train, Some(&yardstick)),
        yardstick,
        structure,
        enough_images: 10 * reference.first().map_or(0, Vec::len),
    })
}

/// `count` images spread over the whole data set, whose order may be that of the classes.
fn spread(data: &Dataset, count: usize) -> Images {
    let all = images_of(data, data.len());
    let size = all.height * all.width * all.channels;
    let from = |i: usize| i * data.len() / count;
    let values = (0..count).flat_map(|i| &all.values[from(i) * size..][..size]).copied().collect();
    Images { values, count, ..all }
}

fn compare(seen: &Features, reference: &Features, accuracy: Option<f64>, seed: u64) -> Quality {
    Quality {
        images: seen.len(),
        reference_images: reference.len(),
        frechet_distance: frechet(seen, reference, seed),
        kernel_distance: kernel_distance(seen, reference, seed),
        precision: coverage(seen, reference, seed),
        recall: coverage(reference, seen, seed),
        accuracy,
    }
}

/// An image a row, scaled so that distances are root mean squares.
fn rows(images: &Images) -> Vec<Vec<f64>> {
    let size = images.height * images.width * images.channels;
    let scale = 1.0 / (size as f64).sqrt();
    images.values.chunks_exact(size).map(|image| image.iter().map(|value| scale * *value as f64).collect()).collect()
}

fn nearest_images(images: &Features, train: &Features, yardstick: Option<&Nearest>) -> Nearest {
    let neighbours: Vec<(usize, f64)> = images.iter().map(|image| nearest(image, train, None)).collect();
    let distances: Vec<f64> = neighbours.iter().map(|(_, distance)| *distance).collect();
    let quantiles = [0.05, 0.5, 0.95].map(|share| quantile(&distances, share));
    let limit = yardstick.map_or(quantiles[0], |yardstick| yardstick.quantiles[0]);
    let below = distances.iter().filter(|distance| **distance < limit).count();
    Nearest { images: images.len(), quantiles, share_below_yardstick: below as f64 / images.len() as f64, neighbours }
}

/// The samples that are nearest to a training image, up to `count`, each before its neighbour.
pub fn nearest_pairs(samples: &Images, train: &Dataset, nearest: &Nearest, count: usize) -> Images {
    let mut order: Vec<usize> = (0..samples.count).collect();
    order.sort_by(|a, b| nearest.neighbours[*a].1.total_cmp(&nearest.neighbours[*b].1));
    order.truncate(count);
    let size = samples.height * samples.width * samples.channels;
    let all = images_of(train, train.len());
    let pair = |index: &usize| {
        let neighbour = nearest.neighbours[*index].0;
        samples.values[index * size..][..size].iter().chain(&all.values[neighbour * size..][..size]).copied()
    };
    let Images { height, width, channels, .. } = *samples;
    Images { values: order.iter().flat_map(pair).collect(), count: 2 * order.len(), height, width, channels }
}
