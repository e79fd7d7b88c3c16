//! What images are like in large and in fine, against training images and without a network: whether their halves belong together,
//! how much there is of each length of waves, how far their patches are from real ones.

use nalgebra::{Cholesky, DMatrix, DVector};
use serde::Serialize;

use super::spectrum::Spectrum;
use super::statistics::{nearest, quantile};
use crate::picture::Images;
use crate::random::Random;

/// Figures of one set of images. Those of test images say what is as good as can be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Structure {
    /// Coherence: the share of the variance of right halves that a linear map of the left ones tells, which was learnt on training
    /// images. What is drawn without a whole in mind has halves that are right each by itself, and a low share.
    pub halves: f64,
    /// Energies of waves longer than 8 pixels, of 8 to 4 and of shorter ones, over those of training images; the mean training image is
    /// taken out before.
    pub energies: [f64; 3],
    /// Detail: median distance, root mean square of [-1, 1], from patches of 4x4 pixels with something on them to the nearest such
    /// patch of training images. None where no patch has anything on it.
    pub patches: Option<f64>,
}

/// Weight of the map's size beside its error, in units of the mean variance of a pixel.
const RIDGE: f64 = 0.1;
/// Patches that are compared, and with how many.
const PATCHES: (usize, usize) = (1000, 20_000);
const PATCH: usize = 4;
/// Standard deviation of a patch with something on it.
const TEXTURE: f64 = 0.1;

/// What training images say.
pub struct Reference {
    shape: [usize; 3],
    mean: Vec<f64>,
    /// Of centred left halves to centred right ones.
    map: DMatrix<f64>,
    spectrum: Spectrum,
    energies: [f64; 3],
    patches: Vec<Vec<f64>>,
}

/// The pixels of both halves of an image: a middle column belongs to the right one.
fn halves([height, width, channels]: [usize; 3]) -> [Vec<usize>; 2] {
    let row = width * channels;
    let middle = width / 2 * channels;
    [0..middle, middle..row]
        .map(|columns| (0..height).flat_map(|y| columns.clone().map(move |i| y * row + i)).collect())
}

/// Rows of some pixels of centred images.
fn centred(images: &Images, mean: &[f64], pixels: &[usize]) -> DMatrix<f64> {
    let rows = images.values.chunks_exact(mean.len());
    let values = rows.flat_map(|image| pixels.iter().map(|i| f64::from(image[*i]) - mean[*i]));
    DMatrix::from_row_iterator(images.count, pixels.len(), values)
}

impl Reference {
    /// Of training images; there must be one.
    pub fn new(images: &Images, seed: u64) -> Reference {
        let shape = [images.height, images.width, images.channels];
        let size: usize = shape.iter().product();
        let mut mean = vec![0.0; size];
        for image in images.values.chunks_exact(size) {
            mean.iter_mut().zip(image).for_each(|(mean, value)| *mean += f64::from(*value) / images.count as f64);
        }
        let [left, right] = halves(shape).map(|pixels| centred(images, &mean, &pixels));
        let mut square = left.tr_mul(&left);
        let ridge = RIDGE * (square.trace() + f64::MIN_POSITIVE) / square.nrows().max(1) as f64;
        square.set_diagonal(&(square.diagonal() + DVector::from_element(square.nrows(), ridge)));
        let map = Cholesky::new(square).map(|square| square.solve(&left.tr_mul(&right)));
        let map = map.unwrap_or_else(|| DMatrix::zeros(left.ncols(), right.ncols()));
        let spectrum = Spectrum::new(shape);
        let energies = energies(&spectrum, images, &mean);
        let patches = patches(images, PATCHES.1, seed);
        Reference { shape, mean, map, spectrum, energies, patches }
    }

    /// The figures of images of the same size.
    pub fn look(&self, images: &Images, seed: u64) -> Structure {
        let [left, right] = halves(self.shape).map(|pixels| centred(images, &self.mean, &pixels));
        let error = &right - left * &self.map;
        // Around their own mean: what all images share tells nothing about a half.
        let spread = |rows: &DMatrix<f64>| rows.column_iter().map(|column| column.variance()).sum::<f64>();
        let energies = energies(&self.spectrum, images, &self.mean);
        Structure {
            halves: 1.0 - spread(&error) / spread(&right).max(f64::MIN_POSITIVE),
            energies: std::array::from_fn(|band| energies[band] / self.energies[band].max(f64::MIN_POSITIVE)),
            patches: self.distance(&patches(images, PATCHES.0, seed)),
        }
    }

    fn distance(&self, patches: &[Vec<f64>]) -> Option<f64> {
        let nearest = |patch: &Vec<f64>| nearest(patch, &self.patches, None).1 / (patch.len() as f64).sqrt();
        let distances: Vec<f64> = patches.iter().map(nearest).collect();
        (!distances.is_empty() && !self.patches.is_empty()).then(|| quantile(&distances, 0.5))
    }
}

/// Mean energies of a pixel.
fn energies(spectrum: &Spectrum, images: &Images, mean: &[f64]) -> [f64; 3] {
    let mut total = [0.0; 3];
    for image in images.values.chunks_exact(mean.len()) {
        let centred: Vec<f64> = image.iter().zip(mean).map(|(value, mean)| f64::from(*value) - mean).collect();
        let energies = spectrum.energies(&centred);
        total.iter_mut().zip(energies).for_each(|(total, energy)| *total += energy);
    }
    total.map(|energy| energy / images.values.len() as f64)
}

/// Up to `count` patches with something on them, from anywhere.
fn patches(images: &Images, count: usize, seed: u64) -> Vec<Vec<f64>> {
    let Images { height, width, channels, .. } = *images;
    if height < PATCH || width < PATCH {
        return Vec::new();
    }
    let mut random = Random::new(seed);
    let mut below = |count: usize| (random.bits() % count as u64) as usize;
    let mut patch = || -> Vec<f64> {
        let (image, top, left) = (below(images.count), below(height - PATCH + 1), below(width - PATCH + 1));
        let row = |y: usize| ((image * height + top + y) * width + left) * channels;
        let pixels = (0..PATCH).flat_map(|y| &images.values[row(y)..][..PATCH * channels]);
        pixels.map(|value| f64::from(*value)).collect()
    };
    // Images may be flat nearly everywhere.
    (0..20 * count).map(|_| patch()).filter(|patch| deviation(patch) >= TEXTURE).take(count).collect()
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / values.len() as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waves of random length and phase across both halves, and a little noise: [count, 8, 8, 1].
    fn waves(count: usize, seed: u64) -> Images {
        let mut random = Random::new(seed);
        let mut values = Vec::new();
        for _ in 0..count {
            let (amplitude, phase, tilt) = (random.normal(), 6.0 * random.uniform(), random.normal());
            for i in 0..64 {
                let (y, x) = ((i / 8) as f64, (i % 8) as f64);
                let value = 0.4 * amplitude * (0.5 * x + phase).sin() + 0.05 * tilt * y + 0.02 * random.normal();
                values.push(value as f32);
            }
        }
        Images { values, count, height: 8, width: 8, channels: 1 }
    }

    fn changed(images: &Images, change: impl Fn(usize, usize, usize) -> f32) -> Images {
        let values = (0..images.values.len()).map(|i| change(i / 64, i / 8 % 8, i % 8)).collect();
        Images { values, ..images.clone() }
    }

    /// [count, 12, 10, 1], each pixel mostly the one before it in its row.
    fn rows_of_likes(count: usize, first: u64) -> Images {
        let mut values = Vec::new();
        for i in 0..count as u64 * 120 {
            let at = first + i;
            let fresh = ((at * at * 7 + at * 31) % 251) as f64 / 125.5 - 1.0;
            let before = values.last().map_or(0.0, |before: &f32| f64::from(*before));
            values.push(if i % 10 == 0 { fresh } else { 0.9 * before + 0.1 * fresh } as f32);
        }
        Images { values, count, height: 12, width: 10, channels: 1 }
    }

    /// NumPy's solve and SciPy's dctn say so of the same images.
    #[test]
    fn halves_and_energies_are_those_of_numpy() {
        let found = Reference::new(&rows_of_likes(40, 0), 1).look(&rows_of_likes(15, 100_000), 2);
        assert!((found.halves - 0.871_756_1).abs() < 1e-5, "{found:?}");
        for (energy, expected) in found.energies.iter().zip([0.824_115_4, 1.243_680_9, 1.111_416_8]) {
            assert!((energy - expected).abs() < 1e-5, "{found:?}");
        }
    }

    #[test]
    fn images_of_one_kind_are_alike_in_large_and_in_fine() {
        let (train, test) = (waves(400, 1), waves(200, 2));
        let found = Reference::new(&train, 3).look(&test, 4);
        assert!(found.halves > 0.95, "{found:?}");
        assert!(found.energies.iter().all(|ratio| (0.8..1.25).contains(ratio)), "{found:?}");
        // Two patches are as far apart as their noise, 0.02 of each.
        assert!(found.patches.is_some_and(|distance| (0.01..0.04).contains(&distance)), "{found:?}");
    }

    #[test]
    fn halves_of_different_images_do_not_belong_together_but_their_details_are_real() {
        let (train, test) = (waves(400, 1), waves(200, 2));
        let reference = Reference::new(&train, 3);
        let pixel = |image: usize, y: usize, x: usize| test.values[image % 200 * 64 + y * 8 + x];
        let mixed = changed(&test, |image, y, x| pixel(if x < 4 { image } else { image + 1 }, y, x));
        let (whole, mixed) = (reference.look(&test, 4), reference.look(&mixed, 4));
        assert!(mixed.halves < 0.2, "{mixed:?}");
        assert!(mixed.energies[0] < 1.1 * whole.energies[0], "{whole:?} {mixed:?}");
    }

    #[test]
    fn detail_that_is_blurred_or_made_up_is_seen_in_fine_alone() {
        let (train, test) = (waves(400, 1), waves(200, 2));
        let reference = Reference::new(&train, 3);
        let pixel = |image: usize, y: usize, x: usize| test.values[image * 64 + y * 8 + x];
        let checked = changed(&test, |i, y, x| pixel(i, y, x) + if (x + y) % 2 == 0 { 0.1 } else { -0.1 });
        let (whole, checked) = (reference.look(&test, 4), reference.look(&checked, 4));
        assert!(checked.energies[2] > 5.0 * whole.energies[2], "{checked:?}");
        assert!((checked.energies[0] - whole.energies[0]).abs() < 0.01, "{checked:?}");
        assert!(checked.patches > whole.patches.map(|distance| 2.0 * distance), "{checked:?}");
        assert!((checked.halves - whole.halves).abs() < 0.01, "{checked:?}");
    }

    #[test]
    fn flat_images_and_small_ones_have_no_patches() {
        let flat = Images { values: vec![-1.0; 3 * 64], count: 3, height: 8, width: 8, channels: 1 };
        let found = Reference::new(&flat, 1).look(&flat, 2);
        assert_eq!(found.patches, None);
        assert!(found.halves.is_finite() && found.energies.iter().all(|ratio| ratio.is_finite()), "{found:?}");
        let small = Images { values: vec![0.0, 1.0, 1.0, 0.0], count: 2, height: 2, width: 1, channels: 1 };
        assert_eq!(Reference::new(&small, 1).look(&small, 2).patches, None);
    }
}
