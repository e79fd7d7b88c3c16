//! Twins of `shaders/diffusion.wgsl`.

use super::lib::{normal4, philox, uniform_open};
use super::{Array, Call};

/// What a block of random numbers is for: the second word of the key. The first is the seed.
const SHUFFLE: u32 = 1;
const IMAGE: u32 = 2;
const EPS: u32 = 3;
const START: u32 = 4;
const DENOISE: u32 = 5;
const IMPUTE: u32 = 6;

/// Which image stands `position` images behind the beginning of `epoch`: in that epoch or one that follows.
pub fn image_at(position: u64, images: u64, seed: u32, epoch: u32) -> u64 {
    shuffle(position % images, images, seed, epoch.wrapping_add((position / images) as u32))
}

/// Which image stands at `position` of epoch `epoch`: a permutation of 0..images. A Feistel network over the smallest
/// power of four that isn't below `images` (nor below 4), applied until the result is an image.
pub fn shuffle(position: u64, images: u64, seed: u32, epoch: u32) -> u64 {
    let half = (1..).find(|half| 1 << (2 * half) >= images).expect("some power of four is large enough");
    let keys = philox([epoch, 0, 0, 0], [seed, SHUFFLE]);
    let round_key = |round: u32| keys[round as usize % 4].wrapping_add(round.wrapping_mul(0x9e37_79b9));
    let permute = |number: u64| {
        let halves = (number >> half, number % (1 << half));
        let (left, right) = (0..8).fold(halves, |(left, right), round| {
            (right, left ^ (scramble((right as u32).wrapping_add(round_key(round))) as u64 % (1 << half)))
        });
        (left << half) + right
    };
    let mut image = permute(position);
    while image >= images {
        image = permute(image);
    }
    image
}

/// The finalizer of MurmurHash3.
fn scramble(word: u32) -> u32 {
    let shifted = |h: u32, bits: u32| h ^ (h >> bits);
    shifted(shifted(shifted(word, 16).wrapping_mul(0x85eb_ca6b), 13).wrapping_mul(0xc2b2_ae35), 16)
}

/// The standard normal numbers of an image, in the padded layout of `shape` [.., H, W, C] and zero in the padding:
/// a block of `counter` with the quadruple's number before it serves four channels.
fn normals(shape: [usize; 4], counter: [u32; 3], key: [u32; 2]) -> Vec<f64> {
    let mut z = Array::zeros([1, shape[1], shape[2], shape[3]]);
    for (quad, four) in z.data.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&normal4(philox([quad as u32, counter[0], counter[1], counter[2]], key)));
    }
    for pixel in 0..z.rows() {
        z.row_mut(pixel)[shape[3]..].fill(0.0);
    }
    z.data
}

/// The data set as bytes.
struct Records<'a> {
    words: [&'a [f64]; 2],
}

impl Records<'_> {
    fn byte(&self, address: usize) -> u8 {
        let (word, [first, rest]) = (address / 4, self.words);
        let word = first.get(word).unwrap_or_else(|| &rest[word - first.len()]);
        (*word as u32).to_le_bytes()[address % 4]
    }
}

pub fn noise(call: &mut Call) {
    let [mut x, mut goal] = ["x", "goal"].map(|name| call.zeros(name));
    let [mut timestep, mut label, mut weight] = ["timestep", "label", "weight"].map(|name| call.zeros(name));
    let [_, height, width, channels] = x.shape;
    let schedule = call.read("schedule");
    let first = &call.read("records").data[..call.u("first_words")];
    let records = Records { words: [first, &call.read("more_records").data] };
    let images = call.u("images") as u64;
    let [seed, counter, epoch] = ["seed", "counter", "epoch"].map(|name| call.step(name) as u32);
    for n in 0..call.u("batch") {
        let [for_timestep, for_flip, for_label, _] = philox([n as u32, counter, 0, 0], [seed, IMAGE]);
        let position = call.step("cursor") as u64 + n as u64;
        let number = match call.flag("streamed") {
            true => call.step("record") as usize + n,
            false if call.flag("alone") => call.step("record") as usize,
            false => image_at(position, images, seed, epoch) as usize,
        };
        let record = number * (2 + height * width * channels);
        let scaled = for_timestep as u64 * call.u("timesteps") as u64;
        let column = (scaled >> 32) as usize;
        let [share, other] = [0, 1].map(|i| schedule.data[8 * call.u("timesteps") + 2 * column + i]);
        let t = if ((scaled as u32 >> 8) as f64) < share { column } else { other as usize };
        let [alpha, sigma, target_x0, target_eps, loss_weight, ..] = schedule.row(t) else { unreachable!() };
        let dropped = uniform_open(for_label) < call.f("class_dropout");
        let own_label = u16::from_le_bytes([records.byte(record), records.byte(record + 1)]) as f64;
        timestep.data[n] = t as f64;
        weight.data[n] = *loss_weight;
        label.data[n] = if dropped { call.f("classes") } else { own_label };
        let eps = Array {
            data: normals(x.shape, [n as u32, counter, 0], [seed, EPS]),
            ..Array::zeros([1, height, width, channels])
        };
        let mirrored = call.flag("flip") && for_flip >= 1 << 31;
        for (h, w, c) in positions(x.shape) {
            let from = if mirrored { width - 1 - w } else { w };
            let byte = records.byte(record + 2 + (h * width + from) * channels + c);
            let (x0, eps) = (byte as f64 / 127.5 - 1.0, eps.at(0, h, w, c));
            *x.at_mut(n, h, w, c) = alpha * x0 + sigma * eps;
            *goal.at_mut(n, h, w, c) = target_x0 * x0 + target_eps * eps;
        }
    }
    for (name, array) in [("x", x), ("goal", goal), ("timestep", timestep), ("label", label), ("weight", weight)] {
        call.write(name, array);
    }
}

/// Every (h, w, c) of `shape`.
fn positions([_, height, width, channels]: [usize; 4]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..height * width * channels).map(move |i| (i / channels / width, i / channels % width, i % channels))
}

/// The shader's lane `lane` of group `group` sums quadruples 1024 group + lane, + 64, + 128, ...: 16 of them.
pub fn loss(call: &mut Call) {
    let (out, goal, weight) = (call.read("out"), call.read("goal"), call.read("weight"));
    let scale = call.read("loss_scale").data[0];
    let [mut d_out, mut partials] = ["d_out", "partials"].map(|name| call.zeros(name));
    let [images, height, width, channels] = out.shape;
    let count = (images * height * width * channels) as f64;
    let per_image = out.data.len() / images;
    for (i, (out, goal)) in out.data.iter().zip(&goal.data).enumerate() {
        let weight = weight.data[i / per_image];
        d_out.data[i] = scale * 2.0 * weight * (out - goal) / count;
        partials.data[partial(i / per_image, i % per_image / 4, per_image / 4)] +=
            weight * (out - goal).powi(2) / count;
    }
    call.write("d_out", d_out);
    call.write("partials", partials);
}

/// Where quadruple `quad` of an image, of `quads`, is summed: a lane takes 16, 64 apart.
fn partial(image: usize, quad: usize, quads: usize) -> usize {
    image * quads.div_ceil(1024) * 64 + quad / 1024 * 64 + quad % 64
}

/// Losses by eighths of the timesteps, and their sum.
pub fn levels(call: &mut Call) {
    let (partials, timestep) = (call.read("partial_losses").clone(), call.read("timestep").clone());
    let [mut total, mut by_level] = ["total_loss", "by_level"].map(|name| call.zeros(name));
    let (images, each) = (call.u("images"), call.u("partials_per_image"));
    for n in 0..images {
        let loss: f64 = partials.data[n * each..][..each].iter().sum();
        let level = timestep.data[n] as usize * 8 / call.u("timesteps");
        total.data[0] += loss;
        by_level.data[level] += images as f64 * loss;
        by_level.data[8 + level] += 1.0;
    }
    call.write("total_loss", total);
    call.write("by_level", by_level);
}

/// The first half of the channels of `out` is the mean m, the second says the variance.
pub fn hybrid_loss(call: &mut Call) {
    let [schedule, x, goal, timestep, out] =
        ["schedule", "x", "goal", "timestep", "out"].map(|name| call.read(name).clone());
    let scale = call.read("loss_scale").data[0];
    let [mut d_out, mut partials] = ["d_out", "partials"].map(|name| call.zeros(name));
    let [images, height, width, channels] = goal.shape;
    let count = (images * height * width * channels) as f64;
    let quads = out.stride / 4;
    for n in 0..images {
        let t = timestep.data[n] as usize;
        for (h, w, c) in positions(goal.shape) {
            let (mean, wanted) = (out.at(n, h, w, c), goal.at(n, h, w, c));
            let v = out.at(n, h, w, channels + c);
            let (bound, slope) = bound_term(schedule.row(t), t, x.at(n, h, w, c), [mean, wanted], v);
            let terms = [
                (c, schedule.row(t)[4] * (mean - wanted).powi(2), schedule.row(t)[4] * 2.0 * (mean - wanted)),
                (channels + c, call.f("bound") * bound, call.f("bound") * slope),
            ];
            for (channel, loss, gradient) in terms {
                *d_out.at_mut(n, h, w, channel) = scale * gradient / count;
                let quad = (h * width + w) * quads + channel / 4;
                partials.data[partial(n, quad, height * width * quads)] += loss / count;
            }
        }
    }
    call.write("d_out", d_out);
    call.write("partials", partials);
}

/// An element of the bound in nats, and its derivative by v.
fn bound_term(row: &[f64], t: usize, x: f64, [mean, wanted]: [f64; 2], v: f64) -> (f64, f64) {
    let [alpha, sigma, a, b, _, log_small, log_ratio, mean_error] = row else { unreachable!() };
    let log_variance_ratio = (v + 1.0) / 2.0 * log_ratio;
    if t > 0 {
        let spread = (1.0 + mean_error * (mean - wanted).powi(2)) / log_variance_ratio.exp();
        return ((log_variance_ratio - 1.0 + spread) / 2.0, (1.0 - spread) / 2.0 * log_ratio / 2.0);
    }
    let x0 = |output: f64| (b * x - sigma * output) / (alpha * b - sigma * a);
    let deviation = ((log_small + log_variance_ratio) / 2.0).exp();
    let edge = |edge: f64| (edge - x0(mean)) / deviation;
    let (truth, half) = (x0(wanted), 1.0 / 255.0);
    // An open bin ends where nothing is left.
    let low = if truth < -1.0 + half { edge(truth + half).min(0.0) - 12.0 } else { edge(truth - half) };
    let high = if truth > 1.0 - half { edge(truth - half).max(0.0) + 12.0 } else { edge(truth + half) };
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let mass = integral(density, low, high);
    if mass < 1e-12 {
        return (-(1e-12f64.ln()), 0.0);
    }
    let by_log_variance = (high * density(high) - low * density(low)) / (2.0 * mass);
    (-mass.ln(), by_log_variance * log_ratio / 2.0)
}

/// Simpson's rule.
fn integral(f: impl Fn(f64) -> f64, low: f64, high: f64) -> f64 {
    let parts = 2 * (40.0 * (high - low)).ceil().max(10.0) as usize;
    let step = (high - low) / parts as f64;
    let weight = |i: usize| if i == 0 || i == parts { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
    (0..=parts).map(|i| weight(i) * f(low + i as f64 * step)).sum::<f64>() * step / 3.0
}

pub fn denoise(call: &mut Call) {
    let (out, deviation) = (guided(call, &means(call)), deviations(call));
    let [mut x, mut previous] = ["x", "previous"].map(|name| call.read(name).clone());
    let [from_x, from_out, clip] = ["x0_from_x", "x0_from_out", "clip"].map(|name| call.step(name));
    let [c_x, c_out, c_x0, c_noise] = ["x", "out", "x0", "noise"].map(|name| call.step(name));
    let [keep, keep_x] = ["keep", "keep_x"].map(|name| call.step(name) as usize);
    let slots = call.u("slots");
    let past: Vec<f64> = (0..slots).map(|slot| call.step(&format!("previous{slot}"))).collect();
    let z = sample_normals(call, one_slot(previous.shape, slots), call.step("counter") as u32, DENOISE);
    let size = z.len();
    for i in 0..size {
        let old = x.data[i];
        let x0_hat = (from_x * old + from_out * out[i]).min(clip).max(-clip);
        let kept: f64 = (0..slots).map(|slot| past[slot] * previous.data[slot * size + i]).sum();
        x.data[i] = c_x * old + c_out * out[i] + c_x0 * x0_hat + kept + c_noise * deviation[i] * z[i];
        for (slot, value) in [(keep_x, old), (keep, x0_hat)] {
            if slot < slots {
                previous.data[slot * size + i] = value;
            }
        }
    }
    double(&mut x.data, size);
    call.write("x", x);
    call.write("previous", previous);
}

/// The channels of the network's output that are those of x, in the layout of x.
fn means(call: &Call) -> Array {
    channels_from(call.read("out"), call.zeros("x"), 0)
}

/// What a learned variance multiplies the noise of N samples by: the standard deviation whose logarithm the second half of
/// the channels mixes from that of both ends. 1 where there are no such channels.
fn deviations(call: &Call) -> Vec<f64> {
    let x = call.read("x");
    let samples = x.data.len() / if call.flag("guided") { 2 } else { 1 };
    if call.u("outputs") == x.shape[3] {
        return vec![1.0; samples];
    }
    let v = channels_from(call.read("out"), call.zeros("x"), x.shape[3]);
    let [small, large] = ["log_small", "log_large"].map(|name| call.step(name));
    v.data[..samples].iter().map(|v| (((1.0 - v) / 2.0 * small + (1.0 + v) / 2.0 * large) / 2.0).exp()).collect()
}

/// `into` with the channels of `from` that begin at `first`.
fn channels_from(from: &Array, mut into: Array, first: usize) -> Array {
    let channels = into.shape[3];
    for row in 0..into.rows() {
        into.row_mut(row)[..channels].copy_from_slice(&from.row(row)[first..first + channels]);
    }
    into
}

/// The network's outputs for N samples: of the 2 N that there are with guidance, W times the first half and 1 - W times
/// the second.
fn guided(call: &Call, out: &Array) -> Vec<f64> {
    if !call.flag("guided") {
        return out.data.clone();
    }
    let (with_class, null_class) = out.data.split_at(out.data.len() / 2);
    let guidance = call.step("guidance");
    with_class.iter().zip(null_class).map(|(with, null)| null + guidance * (with - null)).collect()
}

/// The shape of one of the slots that lie behind each other in a tensor of `shape`.
fn one_slot([rows, height, width, channels]: [usize; 4], slots: usize) -> [usize; 4] {
    [rows / slots, height, width, channels]
}

/// z of the N samples of `shape`, one after the other.
fn sample_normals(call: &Call, shape: [usize; 4], counter: u32, purpose: u32) -> Vec<f64> {
    let (seed, first) = (call.step("seed") as u32, call.step("sample") as u32);
    let samples = (0..shape[0] as u32).map(|n| first + n);
    samples.flat_map(|sample| normals(shape, [sample, counter, 0], [seed, purpose])).collect()
}

/// Repeats the first `length` values to the end.
fn double(values: &mut [f64], length: usize) {
    let (first, rest) = values.split_at_mut(length);
    rest.chunks_mut(length).for_each(|rest| rest.copy_from_slice(first));
}

pub fn start(call: &mut Call) {
    let [mut x, previous] = ["x", "previous"].map(|name| call.zeros(name));
    let z = sample_normals(call, one_slot(previous.shape, call.u("slots")), 0, START);
    let scale = call.step("noise");
    for (x, z) in x.data.iter_mut().zip(&z) {
        *x = scale * z;
    }
    double(&mut x.data, z.len());
    call.write("x", x);
    call.write("previous", previous);
}

pub fn impute(call: &mut Call) {
    let mut x = call.read("x").clone();
    let (known, mask) = (call.read("known"), call.read("mask"));
    let [_, height, width, channels] = x.shape;
    let samples = x.shape[0] / if call.flag("guided") { 2 } else { 1 };
    let z = sample_normals(call, [samples, height, width, channels], call.step("counter") as u32, IMPUTE);
    let [alpha, sigma] = ["to_alpha", "to_sigma"].map(|name| call.step(name));
    for (i, z) in z.iter().enumerate() {
        let pixel = i % known.data.len();
        let wanted = alpha * known.data[pixel] + sigma * z;
        x.data[i] = (1.0 - mask.data[pixel]) * x.data[i] + mask.data[pixel] * wanted;
    }
    double(&mut x.data, z.len());
    call.write("x", x);
}

pub fn broadcast_timestep(call: &mut Call) {
    let mut timestep = call.zeros("timestep");
    let batch = timestep.shape[3];
    timestep.data[..batch].fill(call.step("timestep"));
    call.write("timestep", timestep);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_shows_each_image_once() {
        for images in (1..70).chain([255, 256, 257, 1023, 1025, 10_000]) {
            for epoch in 0..3 {
                let mut seen = vec![false; images];
                for position in 0..images {
                    let image = shuffle(position as u64, images as u64, 7, epoch) as usize;
                    assert!(!std::mem::replace(&mut seen[image], true), "{images} images, epoch {epoch}");
                }
            }
        }
    }

    /// Chi-square of the table (position, image) over epochs. With n images, epochs / n expected in each of n^2 cells,
    /// and (n - 1)^2 degrees of freedom, a fair shuffle stays within 5 standard deviations.
    #[test]
    fn every_image_comes_everywhere_equally_often() {
        for images in [3, 5, 10, 16, 60] {
            let epochs = 200 * images as u32;
            let mut counts = vec![0.0; images * images];
            for epoch in 0..epochs {
                for position in 0..images {
                    counts[position * images + shuffle(position as u64, images as u64, 1, epoch) as usize] += 1.0;
                }
            }
            let chi_square: f64 = counts.iter().map(|count| (count - 200.0f64).powi(2) / 200.0).sum();
            let freedom = (images as f64 - 1.0).powi(2);
            let deviations = (chi_square - freedom) / (2.0 * freedom).sqrt();
            assert!(deviations.abs() < 5.0, "{images} images: {deviations} standard deviations");
        }
    }
}
