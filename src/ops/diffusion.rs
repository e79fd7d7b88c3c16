//! Training pairs, the loss and the sampler's step: `shaders/diffusion.wgsl`.

use super::case::{Corner, Draw};
use super::{concat, reduce};
use crate::cpu::diffusion as twin;
pub use crate::cpu::diffusion::image_at;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new(
    "diffusion",
    &[wgsl!("diffusion.wgsl")],
    &[
        ("noise", twin::noise),
        ("loss", twin::loss),
        ("hybrid_loss", twin::hybrid_loss),
        ("levels", twin::levels),
        ("denoise", twin::denoise),
        ("start", twin::start),
        ("impute", twin::impute),
        ("broadcast_timestep", twin::broadcast_timestep),
    ],
);

/// Words that a binding of 128 MiB holds, which every device can bind.
const BINDING_WORDS: u64 = 1 << 25;

/// Bytes of a label in a record.
const LABEL_BYTES: usize = 2;

/// A data set as the GPU holds it, or what a step takes of it: a list of bytes, 4 to a word, in one or two bindings.
#[derive(Clone, Copy, Debug)]
pub struct Records {
    /// Of the data set.
    pub images: u32,
    /// Whether they are those of a step alone, in the order in which it takes them.
    pub are_streamed: bool,
    pub height: u32,
    pub width: u32,
    pub channels: u32,
    /// [1, 1, 1, words] of u32: the beginning and the rest.
    pub words: [Tensor; 2],
}

impl Records {
    /// The words to upload: for each image its label in two bytes, then its bytes `[H, W, C]`. Panics if a label is
    /// above 65,535.
    pub fn pack(images: &[u8], labels: &[u32]) -> Vec<u32> {
        let each = images.len() / labels.len();
        let mut words = vec![0; Records::words_of(labels.len(), each)];
        Records::pack_into(images.chunks_exact(each).zip(labels.iter().copied()), &mut words);
        words
    }

    /// How many words hold `count` images of `each` bytes.
    pub fn words_of(count: usize, each: usize) -> usize {
        (count * (each + LABEL_BYTES)).next_multiple_of(256) / 4
    }

    /// As [`Records::pack`], into words that there are.
    pub fn pack_into<'a>(images: impl Iterator<Item = (&'a [u8], u32)>, words: &mut [u32]) {
        let mut rest: &mut [u8] = bytemuck::cast_slice_mut(&mut *words);
        for (image, label) in images {
            let (record, behind) = rest.split_at_mut(LABEL_BYTES + image.len());
            let (own_label, bytes) = record.split_at_mut(LABEL_BYTES);
            own_label.copy_from_slice(&u16::try_from(label).expect("at most 65,536 classes").to_le_bytes());
            bytes.copy_from_slice(image);
            rest = behind;
        }
        words.iter_mut().for_each(|word| *word = u32::from_le(*word));
    }

    /// Binds the named buffer `name`, which is to hold [`Records::pack`] of all images. Up to 256 MiB every device can bind; beyond
    /// that the halves are larger. Panics beyond 4 GiB, which is what a u32 can address.
    pub fn bind(r: &mut Recorder, name: &str, images: u32, shape: [u32; 3]) -> Records {
        Records { images, are_streamed: false, ..Records::bind_streamed(r, name, images, images, shape) }
    }

    /// The same for the images of a step, `held` of the data set's `images`.
    pub fn bind_streamed(r: &mut Recorder, name: &str, images: u32, held: u32, shape: [u32; 3]) -> Records {
        let bytes = bytes_of(held as u64, shape);
        let [height, width, channels] = shape;
        assert!(bytes < 1 << 32, "{held} images of {height}x{width}x{channels} are more than 4 GiB");
        let total = bytes.next_multiple_of(256) / 4;
        let first = total.min(BINDING_WORDS.max(total.div_ceil(128) * 64));
        // Where nothing is left for the second binding, it gets the beginning again, and isn't read.
        let (offset, rest) = if first < total { (first, total - first) } else { (0, 64) };
        let words = [(0, first), (offset, rest)];
        let words = words.map(|(offset, count)| r.range(name, total, offset, [1, 1, 1, count as u32]));
        Records { images, are_streamed: true, height, width, channels, words }
    }
}

/// Bytes of the records of `images` images.
pub fn bytes_of(images: u64, [height, width, channels]: [u32; 3]) -> u64 {
    images * (LABEL_BYTES as u64 + height as u64 * width as u64 * channels as u64)
}

/// Rows of [`Noise::schedule`] for T timesteps.
pub fn schedule_rows(timesteps: u32) -> u32 {
    timesteps + timesteps.div_ceil(4)
}

/// How training pairs are made.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    pub batch: u32,
    /// Whether all are of one image, the step's `record`.
    pub alone: bool,
    /// T.
    pub timesteps: u32,
    /// `Schedule::training_table`, and `Schedule::drawn_table` behind it: [[`schedule_rows`], 1, 1, 8].
    pub schedule: Tensor,
    /// Show half of the images flipped left to right.
    pub flip: bool,
    /// The null class.
    pub classes: u32,
    /// How often the class is hidden.
    pub class_dropout: f32,
}

/// What the network gets and what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// x_t, [N, H, W, C].
    pub x: Tensor,
    /// What the network should put out, [N, H, W, C].
    pub target: Tensor,
    /// [1, 1, 1, N], whole numbers as f32.
    pub timestep: Tensor,
    /// T.
    pub timesteps: u32,
    /// That of [`Noise`], of which the T rows are enough.
    pub schedule: Tensor,
    /// [1, 1, 1, N] of u32.
    pub label: Tensor,
    /// The weight of each image in the loss, [1, 1, 1, N].
    pub weight: Tensor,
}

/// Makes a batch of training pairs out of the data set, all in one dispatch. The step's seed, counter, epoch and cursor
/// say which.
pub fn noise(r: &mut Recorder, records: &Records, noise: &Noise) -> Batch {
    let Records { images, are_streamed, height, width, channels, words: [first, rest] } = *records;
    let held = if are_streamed { noise.batch } else { images };
    let bytes = bytes_of(held as u64, [height, width, channels]);
    assert!(bytes < 1 << 32, "{held} images of {height}x{width}x{channels} are more than 4 GiB");
    assert!(bytes <= 4 * (first.count() + rest.count()), "the records are too few");
    assert!(!(are_streamed && noise.alone), "what is streamed is a batch");
    let Noise { timesteps, schedule, .. } = *noise;
    assert_eq!((schedule.rows(), schedule.channels()), (schedule_rows(timesteps), 8));
    let half_bits = (1..16).find(|half| 1u64 << (2 * half) >= images as u64).unwrap_or(16);
    let shape = [noise.batch, height, width, channels];
    let [x, target] = [shape, shape].map(|shape| r.temp(shape));
    let [timestep, label, weight] = [(); 3].map(|()| r.temp([1, 1, 1, noise.batch]));
    let params = [
        ("batch", noise.batch.into()),
        ("images", images.into()),
        ("streamed", are_streamed.into()),
        ("alone", noise.alone.into()),
        ("half_bits", half_bits.into()),
        ("first_words", first.channels().into()),
        ("height", height.into()),
        ("width", width.into()),
        ("channels", channels.into()),
        ("timesteps", timesteps.into()),
        ("flip", noise.flip.into()),
        ("classes", noise.classes.into()),
        ("class_dropout", noise.class_dropout.into()),
    ];
    let io = [first, rest, schedule, x, target, timestep, label, weight];
    let lanes = (x.elements() / 4).max(timestep.elements());
    r.dispatch(&KERNEL, "noise", &params, &io, Grid::Invocations(lanes), 32 * x.count());
    Batch { x, target, timestep, timesteps, schedule, label, weight }
}

/// A loss on its way: its gradient by the network's output, times the first element of a scale (see
/// [`super::adamw::loss_scale`]), and its parts, [N, 1, 1, P], whose sum it is.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub gradient: Tensor,
    parts: Tensor,
}

impl Loss {
    /// Parts of the loss of images of `out`: a sum for each 16 quadruples.
    fn parts(r: &mut Recorder, out: Tensor) -> (u32, Tensor) {
        let quads_per_image = (out.elements() / u64::from(4 * out.n())) as u32;
        (quads_per_image, r.temp([out.n(), 1, 1, quads_per_image.div_ceil(16 * 64) * 64]))
    }

    /// Records its sum into `total`, [1, 1, 1, 1].
    pub fn total(self, r: &mut Recorder, total: Tensor) {
        reduce::total(r, self.parts, total);
    }

    /// As [`Loss::total`]; and into `by_level`, [1, 1, 1, 2 [`LEVELS`]], the sum of the losses of those images whose timestep lies in
    /// each part of the `timesteps`, the least noise first, then how many they are. timestep: [1, 1, 1, N].
    pub fn levels(self, r: &mut Recorder, timestep: Tensor, timesteps: u32, total: Tensor, by_level: Tensor) {
        let params = [
            ("images", self.parts.n().into()),
            ("partials_per_image", self.parts.channels().into()),
            ("timesteps", timesteps.into()),
        ];
        let io = [self.parts, total, by_level, timestep];
        r.dispatch(&KERNEL, "levels", &params, &io, Grid::Workgroups(1), self.parts.count());
    }
}

/// Parts of the timesteps whose losses are told apart.
pub const LEVELS: usize = 8;

/// Mean of `weight[n] (out - target)^2` over all elements.
pub fn loss(r: &mut Recorder, out: Tensor, target: Tensor, weight: Tensor, scale: Tensor) -> Loss {
    assert_eq!(out.shape, target.shape);
    assert_eq!(weight.shape, [1, 1, 1, out.n()]);
    let gradient = r.temp(out.shape);
    let (quads_per_image, parts) = Loss::parts(r, out);
    let params = [
        ("images", out.n().into()),
        ("quads_per_image", quads_per_image.into()),
        ("partials_per_image", parts.channels().into()),
        ("factor", (1.0 / out.count() as f32).into()),
    ];
    let io = [target, weight, out, gradient, parts, scale];
    r.dispatch(&KERNEL, "loss", &params, &io, Grid::Invocations(parts.count()), 6 * out.count());
    Loss { gradient, parts }
}

/// The loss of a network that learns the variance of its reverse steps (Nichol & Dhariwal 2021, eq. 16): the mean over all elements
/// of `weight (m - target)^2 + bound L`, where `out`, [N, H, W, 2 C], holds m and what says the variance, and L is an element of
/// the variational bound at the batch's timesteps, whose gradient stops at m.
pub fn hybrid_loss(r: &mut Recorder, out: Tensor, batch: &Batch, bound: f32, scale: Tensor) -> Loss {
    let [n, height, width, channels] = batch.x.shape;
    assert_eq!(out.shape, [n, height, width, 2 * channels]);
    let gradient = r.temp(out.shape);
    let (quads_per_image, parts) = Loss::parts(r, out);
    let params = [
        ("images", n.into()),
        ("quads_per_image", quads_per_image.into()),
        ("partials_per_image", parts.channels().into()),
        ("channels", channels.into()),
        ("factor", (1.0 / batch.x.count() as f32).into()),
        ("bound", bound.into()),
    ];
    let io = [batch.schedule, batch.x, batch.target, batch.timestep, out, gradient, parts, scale];
    r.dispatch(&KERNEL, "hybrid_loss", &params, &io, Grid::Invocations(parts.count()), 32 * out.count());
    Loss { gradient, parts }
}

/// How many slots `previous` has, each of as many images as there are samples.
fn slots(x: Tensor, previous: Tensor, guided: bool) -> u32 {
    let samples = x.n() / if guided { 2 } else { 1 };
    let slots = previous.n() / samples;
    assert_eq!([slots * samples, x.shape[1], x.shape[2], x.shape[3]], previous.shape, "slots of as many images as x");
    assert!(slots as usize <= SLOTS, "the step has coefficients for {SLOTS} slots");
    slots
}

/// `io` begins with x; of `denoise` the network's output follows.
fn sampling(r: &mut Recorder, entry: &'static str, slots: u32, guided: bool, io: &[Tensor]) {
    let x = io[0];
    let samples = x.n() / if guided { 2 } else { 1 };
    assert_eq!(x.n(), samples * if guided { 2 } else { 1 }, "guided samples come in pairs");
    let quads_per_image = (x.elements() / 4) as u32 / x.n();
    let quads = quads_per_image * samples;
    let outputs = if entry == "denoise" { io[1].channels() } else { 0 };
    let params = [
        ("quads", quads.into()),
        ("quads_per_image", quads_per_image.into()),
        ("channels", x.channels().into()),
        ("outputs", outputs.into()),
        ("guided", guided.into()),
        ("slots", slots.into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Invocations(quads as u64), 32 * x.count());
}

/// Slots that the step's uniform has coefficients for.
const SLOTS: usize = 9;

/// One step of any sampler, in place: `x` from x_t to what the step's coefficients say. `previous` is [slots · N, H, W, C]
/// with 1 to 9 slots; the step says which of them get x_t and the estimate of x0. `guided`: `x` and `out` hold 2 N
/// images, the first half asked with a class, the second with the null class; both halves of `x` get the same. `out` has
/// the channels of `x`, or twice as many, the second half of which says the variance of the step's noise
/// ([`crate::diffusion::LearnedVariance`]).
pub fn denoise(r: &mut Recorder, x: Tensor, out: Tensor, previous: Tensor, guided: bool) {
    assert_eq!(x.shape[..3], out.shape[..3]);
    assert!([1, 2].contains(&(out.channels() / x.channels())) && out.channels().is_multiple_of(x.channels()));
    sampling(r, "denoise", slots(x, previous, guided), guided, &[x, out, previous]);
}

/// x_T, z times the step's noise, into `x`, into both halves if `guided`; zeros into all slots of `previous`.
pub fn start(r: &mut Recorder, x: Tensor, previous: Tensor, guided: bool) {
    sampling(r, "start", slots(x, previous, guided), guided, &[x, previous]);
}

/// What is known of every sample, brought to the noise level that the step reaches, into `x` where `mask` is 1 (Song et
/// al. 2021, appendix I.2). `known` and `mask` are one image, [1, H, W, C].
pub fn impute(r: &mut Recorder, x: Tensor, known: Tensor, mask: Tensor, guided: bool) {
    let [_, height, width, channels] = x.shape;
    assert_eq!((known.shape, mask.shape), ([1, height, width, channels], [1, height, width, channels]));
    sampling(r, "impute", 1, guided, &[x, known, mask]);
}

/// The step's timestep for each of `n` images, [1, 1, 1, n].
pub fn broadcast_timestep(r: &mut Recorder, n: u32) -> Tensor {
    let timestep = r.temp([1, 1, 1, n]);
    let lanes = Grid::Invocations(timestep.elements());
    r.dispatch(&KERNEL, "broadcast_timestep", &[("batch", n.into())], &[timestep], lanes, 0);
    timestep
}

/// A workgroup takes 64 quadruples, or 1,024 of which a lane sums 16.
pub const CORNERS: &[Corner] = &[
    Corner::new("one image of one byte", |draw| noise_of(draw, 1, [1, 1, 1], 1, 1)),
    Corner::new("a batch longer than an epoch", |draw| noise_of(draw, 3, [3, 5, 5], 8, 7)),
    Corner::full("noise without a lane idle", |draw| noise_of(draw, 17, [8, 8, 4], 2, 1000)),
    Corner::new("more labels than quadruples", |draw| noise_of(draw, 16, [1, 1, 2], 9, 2)),
    Corner::new("a loss of one element", |draw| loss_of(draw, [1, 1, 1, 1])),
    Corner::full("a loss without a lane idle", |draw| loss_of(draw, [2, 32, 32, 4])),
    Corner::new("a lane of loss with fewer terms", |draw| loss_of(draw, [3, 23, 21, 11])),
    Corner::new("losses of one timestep", |draw| levels_of(draw, 3, 1)),
    Corner::new("as many timesteps as levels", |draw| levels_of(draw, 256, 8)),
    Corner::new("more images than a turn", |draw| levels_of(draw, 300, 1000)),
    Corner::new("mean and variance in a quadruple", |draw| hybrid_loss_of(draw, [3, 20, 23, 3], 4, 1.0)),
    Corner::new("the last denoising step alone", |draw| hybrid_loss_of(draw, [2, 4, 5, 8], 1, 1.0)),
    Corner::new("a bound that counts nothing", |draw| hybrid_loss_of(draw, [1, 1, 1, 1], 2, 0.0)),
    Corner::full("samples without a lane idle", |draw| sampling_of(draw, [3, 8, 8, 8], true, SLOTS as u32, 2)),
    Corner::new("a sample of one element", |draw| sampling_of(draw, [1, 1, 1, 1], false, 1, 1)),
    Corner::new("guided, with a learned variance", |draw| sampling_of(draw, [3, 7, 7, 3], true, 3, 2)),
    Corner::new("a variance on whole quadruples", |draw| sampling_of(draw, [2, 5, 5, 4], false, 2, 2)),
];

pub fn case(draw: &mut Draw) {
    noise_case(draw);
    loss_case(draw);
    hybrid_loss_case(draw);
    sampling_case(draw);
}

fn draw_step(draw: &mut Draw) {
    for name in ["seed", "counter", "epoch"] {
        let value = draw.bits() as u32;
        draw.step.set(name, (value >> 1) as f64);
    }
    for name in [
        "x",
        "out",
        "x0",
        "x0_from_x",
        "x0_from_out",
        "noise",
        "guidance",
        "to_alpha",
        "to_sigma",
        "log_small",
        "log_large",
    ] {
        let value = draw.normal();
        draw.step.set(name, value);
    }
    for slot in 0..SLOTS {
        let value = draw.normal();
        draw.step.set(&format!("previous{slot}"), value);
    }
    // Often one more than there are.
    let slots = [(); 2].map(|()| draw.choose(&[0, 1, 2, 3, SLOTS as u32]));
    draw.step.set("keep", slots[0] as f64).set("keep_x", slots[1] as f64);
    let sample = draw.range(0, 1000);
    draw.step.set("sample", sample as f64);
    let clip = draw.choose(&[0.5, 1.0, f32::MAX as f64]);
    draw.step.set("clip", clip);
    let timestep = 999.0 * draw.uniform();
    draw.step.set("timestep", timestep);
}

fn noise_case(draw: &mut Draw) {
    let images = draw.choose(&[1, 2, 3, 4, 5, 16, 17, 37]);
    let size = [draw.range(1, 6), draw.range(1, 7), draw.choose(&[1, 2, 3, 4, 5, 6, 9])];
    let (batch, timesteps) = (draw.range(1, 9), draw.choose(&[1, 2, 7, 1000]));
    noise_of(draw, images, size, batch, timesteps);
}

fn noise_of(draw: &mut Draw, images: u32, [height, width, channels]: [u32; 3], batch: u32, timesteps: u32) {
    draw_step(draw);
    let cursor = draw.range(0, images - 1);
    draw.step.set("cursor", cursor as f64);
    let [are_streamed, alone] = draw.choose(&[[false; 2], [true, false], [false, true]]);
    let before = draw.range(0, if alone { images - 1 } else { 3 });
    draw.step.set("record", before as f64);
    let held = if are_streamed { before + batch } else { images };
    let words = (held * (2 + height * width * channels)).div_ceil(4);
    let first = draw.range(1, words);
    let words = [("records", first), ("more records", (words - first).max(1))];
    let words = words.map(|(name, count)| draw.integers(name, count, |draw| draw.bits() as u32));
    let (rows, mut values) = (schedule_rows(timesteps), 0u32);
    let schedule = draw.input_by("schedule", [rows, 1, 1, 8], |draw| {
        values += 1;
        match values.checked_sub(8 * timesteps + 1) {
            None => draw.normal(),
            Some(of_pair) if of_pair % 2 == 0 => draw.range(0, 1 << 24) as f64,
            Some(_) => draw.range(0, timesteps - 1) as f64,
        }
    });
    let pairs = Noise {
        batch,
        alone,
        timesteps,
        schedule,
        flip: draw.flip(),
        classes: 10,
        class_dropout: draw.choose(&[0.0, 0.5, 1.0]),
    };
    noise(&mut draw.recorder, &Records { images, are_streamed, height, width, channels, words }, &pairs);
}

fn draw_shape(draw: &mut Draw, side: u32) -> [u32; 4] {
    [draw.range(1, 4), draw.range(1, side), draw.range(1, side), draw.choose(&[1, 3, 4, 5, 6, 8, 11])]
}

fn loss_case(draw: &mut Draw) {
    // A lane's loop runs once, several times, and in several groups.
    let shape = match draw.range(0, 2) {
        0 => draw_shape(draw, 4),
        1 => draw_shape(draw, 12),
        _ => [draw.range(2, 4), draw.range(20, 25), draw.range(20, 25), draw.choose(&[5, 8, 11])],
    };
    loss_of(draw, shape);
}

fn loss_of(draw: &mut Draw, shape: [u32; 4]) {
    let [out, target] = ["out", "target"].map(|name| draw.input(name, shape));
    let weight = draw.input_by("weight", [1, 1, 1, shape[0]], |draw| draw.uniform() + 0.1);
    let factor = draw.choose(&[1.0, 1024.0]);
    let scale = draw.input_by("scale", [1, 1, 1, 1], |_| factor);
    let total = draw.recorder.temp([1, 1, 1, 1]);
    let Loss { gradient, .. } =
        loss_in_total(draw, "image levels", shape[0], total, |r| loss(r, out, target, weight, scale));
    draw.gradient(out, total, scale, gradient);
}

/// A loss of `images` images, and its sum in one of both ways.
fn loss_in_total(
    draw: &mut Draw,
    times: &str,
    images: u32,
    total: Tensor,
    record: impl FnOnce(&mut Recorder) -> Loss,
) -> Loss {
    let timesteps = draw.range(1, 1000);
    let timestep = draw.input_by(times, [1, 1, 1, images], |draw| draw.range(0, timesteps - 1) as f64);
    let has_levels = draw.flip();
    let r = &mut draw.recorder;
    let (by_level, loss) = (r.temp([1, 1, 1, 2 * LEVELS as u32]), record(r));
    match has_levels {
        true => loss.levels(r, timestep, timesteps, total, by_level),
        false => loss.total(r, total),
    }
    loss
}

/// Of one timestep, of as many as levels, and of more than a turn of 256 images.
fn levels_of(draw: &mut Draw, images: u32, timesteps: u32) {
    let [out, target] = ["out", "target"].map(|name| draw.input(name, [images, 1, 2, 3]));
    let weight = draw.input_by("weight", [1, 1, 1, images], |draw| draw.uniform() + 0.1);
    let scale = draw.input_by("scale", [1, 1, 1, 1], |_| 1.0);
    let timestep = draw.input_by("times of images", [1, 1, 1, images], |draw| draw.range(0, timesteps - 1) as f64);
    let r = &mut draw.recorder;
    let (total, by_level) = (r.temp([1, 1, 1, 1]), r.temp([1, 1, 1, 2 * LEVELS as u32]));
    loss(r, out, target, weight, scale).levels(r, timestep, timesteps, total, by_level);
}

fn hybrid_loss_case(draw: &mut Draw) {
    let shape = if draw.flip() {
        draw_shape(draw, 5)
    } else {
        [draw.range(2, 4), 20, draw.range(20, 25), draw.choose(&[1, 3, 8])]
    };
    let (timesteps, bound) = (draw.range(1, 4), draw.choose(&[0.0, 1.0]));
    hybrid_loss_of(draw, shape, timesteps, bound);
}

/// The bound's gradient stops at the mean: differences see it where the bound counts nothing, or at the variance alone.
fn hybrid_loss_of(draw: &mut Draw, shape: [u32; 4], timesteps: u32, bound: f32) {
    let mut column = 0;
    let schedule = draw.input_by("levels", [timesteps, 1, 1, 8], |draw| {
        // alpha, sigma, target_x0, target_eps, weight, log_small, log_ratio, mean_error: bins of 1/50 deviations to 3.
        let (low, high) =
            [(0.8, 1.2), (0.01, 0.1), (-0.5, 0.0), (0.8, 1.2), (0.5, 2.0), (-12.0, -4.0), (0.2, 2.0), (0.3, 1.3)]
                [column];
        column = (column + 1) % 8;
        low + (high - low) * draw.uniform()
    });
    let [x, target, mean, variance] = ["noisy", "wanted", "mean", "variance"].map(|name| draw.input(name, shape));
    let timestep = draw.input_by("times", [1, 1, 1, shape[0]], |draw| draw.range(0, timesteps - 1) as f64);
    let factor = draw.choose(&[1.0, 1024.0]);
    let scale = draw.input_by("hybrid scale", [1, 1, 1, 1], |_| factor);
    let out = concat::concat(&mut draw.recorder, mean, variance);
    let total = draw.recorder.temp([1, 1, 1, 1]);
    let batch = Batch { x, target, timestep, timesteps, schedule, label: timestep, weight: timestep };
    let Loss { gradient, .. } =
        loss_in_total(draw, "hybrid image levels", shape[0], total, |r| hybrid_loss(r, out, &batch, bound, scale));
    let [d_mean, d_variance] = concat::concat_backward(&mut draw.recorder, gradient, shape[3]);
    if bound == 0.0 {
        draw.gradient(mean, total, scale, d_mean);
    }
    draw.gradient(variance, total, scale, d_variance);
}

fn sampling_case(draw: &mut Draw) {
    let (shape, guided, slots) = (draw_shape(draw, 6), draw.flip(), draw.choose(&[1, 2, 3, SLOTS as u32]));
    let parts = draw.choose(&[1, 2]);
    sampling_of(draw, shape, guided, slots, parts);
}

/// Of a network's output with `parts` times the channels of x: the second half says the variance.
fn sampling_of(draw: &mut Draw, shape: [u32; 4], guided: bool, slots: u32, parts: u32) {
    draw_step(draw);
    let times = |count: u32| [count * shape[0], shape[1], shape[2], shape[3]];
    let previous = draw.input("previous", times(slots));
    let doubled = times(if guided { 2 } else { 1 });
    let [x, imputed] = ["x", "imputed"].map(|name| draw.input(name, doubled));
    let outputs = shape[3] * parts;
    let answer = draw.input("answer", [doubled[0], shape[1], shape[2], outputs]);
    let single = [1, shape[1], shape[2], shape[3]];
    let known = draw.input("known", single);
    let mask = draw.input_by("mask", single, |draw| draw.uniform());
    let of_last_batch = draw.input("of the last batch", times(slots));
    let [noise, guidance] = draw.choose(&[[0.0, 1.5], [1.0, 0.0], [0.7, -0.5], [1.3, 2.0]]);
    draw.step.set("noise", noise).set("guidance", guidance);
    let images = draw.choose(&[1, 4, 5, 384]);
    let r = &mut draw.recorder;
    denoise(r, x, answer, previous, guided);
    impute(r, imputed, known, mask, guided);
    let fresh = r.temp(doubled);
    start(r, fresh, of_last_batch, guided);
    broadcast_timestep(r, images);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_puts_each_label_before_its_image() {
        let words = Records::pack(&[1, 2, 3, 4, 5, 6], &[0x0a0b, 7]);
        assert_eq!(words[..3], [0x0201_0a0b, 0x0400_0703, 0x0000_0605][..]);
        assert_eq!(words.len(), 64);
    }

    #[test]
    fn large_data_are_bound_in_two_parts() {
        let shape = [32, 32, 3];
        for (images, parts) in
            [(1, [832, 64]), (43_633, [33_531_968, 64]), (50_000, [1 << 25, 4_870_592]), (200_000, [1, 1])]
        {
            let mut r = Recorder::new();
            let records = Records::bind(&mut r, "records", images, shape);
            let words = records.words.map(Tensor::channels);
            if images < 200_000 {
                assert_eq!(words, parts, "{images} images");
            } else {
                assert!(words[0].abs_diff(words[1]) <= 64);
            }
            assert!(words.iter().sum::<u32>() as u64 * 4 >= images as u64 * 3074);
        }
    }
}
