//! Sampling from something else than noise, and with a part of the picture fixed.

use super::{Generator, Request, X};
use crate::error::{Error, Result};
use crate::gpu::Memory;

/// Where samples start.
#[derive(Clone, Debug, Default)]
pub enum Start {
    /// In noise.
    #[default]
    Noise,
    /// In the image `[H, W, C]`, times `scale`, and noise (Meng et al. 2022, SDEdit, Algorithm 1).
    Image { image: Vec<f32>, scale: f64 },
    /// Along the great circle from the noise of one seed's first sample to that of another's (Song, Meng & Ermon 2020,
    /// section 5.3, appendix D.5).
    Between { seeds: [u64; 2] },
}

/// A part of the picture that is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// `[H, W, C]` in [-1, 1].
    pub image: Vec<f32>,
    /// `[H, W, C]`: 1 where the image stays, 0 where the network paints.
    pub mask: Vec<f32>,
}

impl Generator<'_> {
    /// Runs `start` for the batch that begins with sample `first`, and puts into x what the request says.
    pub(super) fn begin(&self, memory: &Memory, request: &Request, first: u32) -> Result<()> {
        let noise = |seed: u64, sample: u32| {
            let mut values = self.values(request, sample, 0);
            values.set("seed", (seed as u32) as f64);
            self.start.run(self.context, &values);
        };
        let mut x = match &request.start {
            Start::Noise => {
                noise(request.seed, first);
                return Ok(());
            }
            Start::Image { image, scale } => {
                noise(request.seed, first);
                let mut x = self.images(memory)?.values;
                for (x, pixel) in x.iter_mut().zip(image.iter().cycle()) {
                    *x += (scale * *pixel as f64) as f32;
                }
                x
            }
            Start::Between { seeds } => {
                let size = self.size();
                let mut ends = Vec::new();
                for seed in seeds {
                    noise(*seed, 0);
                    ends.push(self.images(memory)?.values[..size].to_vec());
                }
                let share = |n: u32| (first + n).min(request.count - 1) as f64 / (request.count - 1).max(1) as f64;
                (0..self.batch).flat_map(|n| great_circle(&ends[0], &ends[1], share(n))).collect()
            }
        };
        if self.guided {
            x.extend_from_within(..);
        }
        memory.write(self.context, X, 0, &self.padded(&x));
        Ok(())
    }

    /// Elements of an image.
    fn size(&self) -> usize {
        self.shape[1..].iter().map(|extent| *extent as usize).product()
    }

    /// Images with their channels padded to a multiple of 4.
    pub(super) fn padded(&self, values: &[f32]) -> Vec<f32> {
        let channels = self.shape[3] as usize;
        let row = |row: &[f32]| {
            let mut row = row.to_vec();
            row.resize(channels.next_multiple_of(4), 0.0);
            row
        };
        values.chunks_exact(channels).flat_map(row).collect()
    }
}

/// sin((1 - s) angle) / sin(angle) a + sin(s angle) / sin(angle) b (Song, Meng & Ermon 2020, eq. 67).
fn great_circle(a: &[f32], b: &[f32], share: f64) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
    let angle = (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).clamp(-1.0, 1.0).acos();
    let of = |share: f64| if angle.sin() > 1e-6 { (share * angle).sin() / angle.sin() } else { share };
    let (of_a, of_b) = (of(1.0 - share), of(share));
    a.iter().zip(b).map(|(a, b)| (of_a * *a as f64 + of_b * *b as f64) as f32).collect()
}

/// Whether the request's images have the size that it says, and its sampler does what they need.
///
/// # Errors
/// [`Error::Config`] names what doesn't fit.
pub(super) fn check(request: &Request, channels: u32) -> Result<()> {
    let size = request.height as usize * request.width as usize * channels as usize;
    let refuse = |problem: &str| Err(Error::Config(problem.into()));
    match &request.start {
        Start::Image { image, .. } if image.len() != size => {
            return refuse("the image has another size than the model's");
        }
        Start::Between { .. } if !request.program.is_deterministic() => {
            return refuse("interpolation needs a deterministic sampler: ddim, euler, heun, dpm++, unipc or rk45");
        }
        _ => {}
    }
    match &request.known {
        Some(known) if known.image.len() != size || known.mask.len() != size => {
            refuse("the mask or its image has another size than the model's")
        }
        Some(_) if matches!(request.program, crate::diffusion::Program::Adaptive(_)) => {
            refuse("a mask needs a sampler of known steps: any but rk45")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_great_circle_keeps_the_length() {
        let (a, b) = ([3.0, 0.0, 4.0], [0.0, 5.0, 0.0]);
        assert_eq!(great_circle(&a, &b, 0.0), a);
        let middle = great_circle(&a, &b, 0.5);
        let length = middle.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert!((length - 5.0).abs() < 1e-5, "{middle:?}");
        assert_eq!(great_circle(&a, &a, 0.3), a);
    }
}
