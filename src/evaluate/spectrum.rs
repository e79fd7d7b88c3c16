//! Images by the length of their waves: long ones are coherence of the whole, short ones detail.

use std::f64::consts::PI;

/// Bands are split at waves of so many pixels.
const WAVES: [f64; 2] = [8.0, 4.0];

/// Splits images of one size by the length of waves: the orthonormal cosine transform (DCT-II; Ahmed, Natarajan & Rao
/// 1974), so that the squares of all coefficients add up to those of all pixels.
pub struct Spectrum {
    shape: [usize; 3],
    /// Row k is the k-th cosine.
    down: Vec<Vec<f64>>,
    across: Vec<Vec<f64>>,
}

fn cosines(length: usize) -> Vec<Vec<f64>> {
    let scale = |k: usize| (if k == 0 { 1.0 } else { 2.0 } / length as f64).sqrt();
    let cosine = |k: usize, i: usize| scale(k) * (PI * (i as f64 + 0.5) * k as f64 / length as f64).cos();
    (0..length).map(|k| (0..length).map(|i| cosine(k, i)).collect()).collect()
}

impl Spectrum {
    /// For images [H, W, C].
    pub fn new(shape: [usize; 3]) -> Spectrum {
        Spectrum { shape, down: cosines(shape[0]), across: cosines(shape[1]) }
    }

    /// The squares of an image's coefficients, summed over waves longer than 8 pixels, of 8 to 4 pixels, and over shorter ones.
    pub fn energies(&self, image: &[f64]) -> [f64; 3] {
        let [height, width, channels] = self.shape;
        let mut energies = [0.0; 3];
        for channel in 0..channels {
            let pixel = |y: usize, x: usize| image[(y * width + x) * channels + channel];
            // Rows first, then columns.
            let rows: Vec<Vec<f64>> = (0..height)
                .map(|y| self.across.iter().map(|wave| (0..width).map(|x| wave[x] * pixel(y, x)).sum()).collect())
                .collect();
            for (v, wave) in self.down.iter().enumerate() {
                for u in 0..width {
                    let coefficient: f64 = wave.iter().zip(&rows).map(|(wave, row)| wave * row[u]).sum();
                    // The k-th cosine has k/2 periods.
                    let frequency = (v as f64 / (2 * height) as f64).hypot(u as f64 / (2 * width) as f64);
                    let band = WAVES.iter().filter(|wave| frequency * **wave >= 1.0).count();
                    energies[band] += coefficient * coefficient;
                }
            }
        }
        energies
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn energy_is_neither_lost_nor_made() {
        let mut random = Random::new(1);
        let image: Vec<f64> = (0..12 * 20 * 3).map(|_| random.normal()).collect();
        let energies = Spectrum::new([12, 20, 3]).energies(&image);
        let squares: f64 = image.iter().map(|value| value * value).sum();
        assert!((energies.iter().sum::<f64>() - squares).abs() < 1e-9 * squares);
        // Of white noise each coefficient has as much: bands are rings of a quarter of a disk, of radius 1/4 and 1/2 of the square's side.
        let [low, middle, _] = energies.map(|energy| energy / squares);
        assert!((0.02..0.1).contains(&low) && (0.1..0.2).contains(&middle), "{low} {middle}");
    }

    #[test]
    fn waves_fall_on_their_side() {
        let spectrum = Spectrum::new([16, 16, 1]);
        let wave = |period: f64| -> Vec<f64> {
            (0..256).map(|i| (2.0 * PI * ((i % 16) as f64 + 0.5) / period).cos()).collect()
        };
        let shares = |period: f64| {
            let energies = spectrum.energies(&wave(period));
            energies.map(|energy| energy / energies.iter().sum::<f64>())
        };
        assert!(shares(32.0)[0] > 0.999_999 && shares(16.0)[0] > 0.999_999);
        assert!(shares(16.0 / 3.0)[1] > 0.999_999, "{:?}", shares(16.0 / 3.0));
        assert!(shares(3.2)[2] > 0.999_999 && shares(2.5)[2] > 0.8);
        assert_eq!(spectrum.energies(&[1.0; 256]).map(f64::round), [256.0, 0.0, 0.0]);
    }
}
