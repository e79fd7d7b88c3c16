//! Each way to get a step wrong, planted and noticed.

use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Recorder, Step};
use diffuse::ops::{adamw, add, private as kernel, reduce};
use diffuse::random::Random;
use diffuse::run::TrainOptions;
use diffuse::run::private::{Mechanism, Units};

use super::common::context;
use super::{params, private};

/// A way to get a private step wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The sum is divided by the number of images that joined.
    RealBatch,
    /// The norm is that of all gradients added up so far.
    NormOfSum,
    /// Clipped after the mean over images.
    ClippedMean,
    /// Noise for each image.
    NoiseOfEach,
    /// No step where nobody joined.
    SkippedEmpty,
    /// The last numbers, a bias, don't count in the norm.
    BiasLeftOut,
    /// What was clipped is still scaled as the loss.
    LossScaleLeft,
    /// The first image has two places.
    Duplicated,
}

/// A private step out of its kernels, on gradients that are given, right or with a fault.
struct Pieces<'a> {
    context: &'a Context,
    gradients: Vec<Vec<f32>>,
    noise: Vec<i64>,
    units: Units,
    expected: f64,
    /// Of the loss, already in the gradients.
    scale: f32,
}

impl Pieces<'_> {
    /// The gradient that is released where these images join; none if no step is taken.
    fn release(&self, images: &[usize], fault: Option<Fault>) -> Option<Vec<f64>> {
        let count = self.noise.len() as u32;
        let mut r = Recorder::new();
        let shape = [1, 1, 1, count];
        let [sum, mean, total] = ["sum", "mean", "so far"].map(|name| r.persistent(name, shape));
        let loss_scale = r.constant("own scale", [1, 1, 1, 2], &[self.scale, 0.0, 0.0, 0.0]);
        let unscaled = r.constant("no scale", [1, 1, 1, 2], &[1.0, 0.0, 0.0, 0.0]);
        let norm_of = |r: &mut Recorder, gradient, scale| {
            let partials = r.temp([1, 1, 1, adamw::partial_count(count.into())]);
            adamw::square_sum(r, gradient, partials, scale);
            let total = r.temp([1, 1, 1, 1]);
            reduce::total(r, partials, total);
            total
        };
        let mut joining = images.to_vec();
        if fault == Some(Fault::Duplicated) && images.first() == Some(&0) {
            joining.push(0);
        }
        let mut inputs = Vec::new();
        for image in &joining {
            let gradient = r.persistent(&format!("gradient {}", inputs.len()), shape);
            inputs.push((gradient, self.gradients[*image].clone()));
            if fault == Some(Fault::ClippedMean) {
                let part = add::scale(&mut r, gradient, 1.0 / joining.len() as f32);
                add::accumulate(&mut r, mean, part);
                continue;
            }
            let of = match fault {
                Some(Fault::NormOfSum) => {
                    add::accumulate(&mut r, total, gradient);
                    total
                }
                Some(Fault::BiasLeftOut) => {
                    let without = r.persistent(&format!("without {}", inputs.len()), shape);
                    let mut values = self.gradients[*image].clone();
                    values[count as usize - 8..].fill(0.0);
                    inputs.push((without, values));
                    without
                }
                _ => gradient,
            };
            let square = norm_of(&mut r, of, loss_scale);
            let scale = if fault == Some(Fault::LossScaleLeft) { unscaled } else { loss_scale };
            let factor = kernel::clip(&mut r, square, scale, self.units.scale, self.units.limit);
            kernel::add(&mut r, factor, gradient, sum);
        }
        if fault == Some(Fault::ClippedMean) && !joining.is_empty() {
            let square = norm_of(&mut r, mean, loss_scale);
            let factor = kernel::clip(&mut r, square, loss_scale, self.units.scale, self.units.limit);
            kernel::add(&mut r, factor, mean, sum);
        }
        if fault == Some(Fault::SkippedEmpty) && joining.is_empty() {
            return None;
        }
        let divisor = if fault == Some(Fault::RealBatch) { joining.len().max(1) as f64 } else { self.expected };
        let released = r.persistent("released", shape);
        kernel::release(&mut r, sum, released, (1.0 / self.units.radius / divisor) as f32);
        let (recording, mut memory) = (r.finish(), Memory::default());
        let plan = Plan::new(self.context, &recording, &mut memory, PlanOptions::default()).expect("it fits");
        for (gradient, values) in inputs {
            plan.write(self.context, gradient, &values);
        }
        let times = if fault == Some(Fault::NoiseOfEach) { joining.len() as i64 } else { 1 };
        let noise: Vec<u32> = self.noise.iter().map(|noise| (times * noise) as u32).collect();
        memory.write(self.context, "sum", 0, &noise);
        let mut step = Step::default();
        step.set("taken", 1.0);
        plan.run(self.context, &step);
        let released = plan.read(self.context, released).expect("the device works");
        Some(released.into_iter().map(f64::from).collect())
    }

    /// What is wrong with it, if anything is, by replay: with and without each image, and where nobody joins. C is 1.
    fn check(&self, fault: Option<Fault>) -> Result<(), String> {
        let all: Vec<usize> = (0..self.gradients.len()).collect();
        let distance = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        let empty = self.release(&[], fault).ok_or("no step where nobody joins")?;
        let unit = 1.0 / self.units.radius / self.expected;
        let noise: Vec<f64> = self.noise.iter().map(|noise| *noise as f64 * unit).collect();
        // Released in f32: 2^-24 of the noise.
        let rounding = 1e-6 * noise.iter().map(|noise| noise * noise).sum::<f64>().sqrt();
        if distance(&empty, &noise) > rounding {
            return Err("where nobody joins, something else than the noise".into());
        }
        let whole = self.release(&all, fault).ok_or("no step")?;
        for left_out in &all {
            let others: Vec<usize> = all.iter().copied().filter(|image| image != left_out).collect();
            let change = distance(&whole, &self.release(&others, fault).ok_or("no step")?) * self.expected;
            if change > 1.0 + rounding * self.expected * 2.0 {
                return Err(format!("image {left_out} changes the sum by {change} times C"));
            }
            // What isn't clipped is left as it is.
            let alone = self.release(&[*left_out], fault).ok_or("no step")?;
            let own: f64 =
                self.gradients[*left_out].iter().map(|g| f64::from(*g / self.scale).powi(2)).sum::<f64>().sqrt();
            let added = distance(&alone, &empty) * self.expected;
            if own < 0.9 && (added - own).abs() > 0.01 {
                return Err(format!("image {left_out} of norm {own} adds {added}"));
            }
        }
        Ok(())
    }
}

#[test]
fn each_way_to_get_a_step_wrong_is_noticed() {
    let context = context();
    let options = TrainOptions { batch: 4, ..private(8, 1, 1.0) };
    let units = Mechanism::new(&options, 9, &params(&options)).expect("a mechanism").units;
    let mut random = Random::new(3);
    let (count, scale) = (300, 1024.0);
    // Two that point against each other, one far shorter than C, one whose last numbers are large, and others.
    let direction: Vec<f64> = (0..count).map(|_| random.normal() / (count as f64).sqrt()).collect();
    let mut gradient = |length: f64, straight: f64, bias: f64| -> Vec<f32> {
        let value = |(i, d): (usize, &f64)| {
            let own = random.normal() / (count as f64).sqrt();
            let last = if i >= count - 8 { bias } else { 0.0 };
            (scale * (length * (straight * d + (1.0 - straight.abs()) * own) + last)) as f32
        };
        direction.iter().enumerate().map(value).collect()
    };
    let gradients = vec![
        gradient(8.0, 1.0, 0.0),
        gradient(15.0, -1.0, 0.0),
        gradient(0.1, 0.0, 0.0),
        gradient(0.3, 0.0, 2.0),
        gradient(2.0, 0.5, 0.0),
    ];
    let noise = (0..count).map(|_| (0.001 * 2f64.powi(units.exponent as i32) * random.normal()) as i64).collect();
    let pieces = Pieces { context: &context, gradients, noise, units, expected: 4.0, scale: scale as f32 };
    pieces.check(None).expect("it is right without a fault");
    use Fault::*;
    for fault in [RealBatch, NormOfSum, ClippedMean, NoiseOfEach, SkippedEmpty, BiasLeftOut, LossScaleLeft, Duplicated]
    {
        let noticed = pieces.check(Some(fault)).expect_err(&format!("{fault:?} goes unnoticed"));
        println!("{fault:?}: {noticed}");
    }
}
