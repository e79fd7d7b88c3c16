//! The standing shapes: what `diffuse profile --shapes` and `cargo bench` measure, whatever model is trained.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ceilings::{Bound, Ceilings, Floors};
use super::measure;
use super::report::median;
use crate::error::Result;
use crate::gpu::{Choices, Context, Memory, Plan, PlanOptions, Recorder, Recording, Recordings, Step};
use crate::ops::adamw::{self, AdamW};
use crate::ops::conv2d::{self, Geometry};
use crate::ops::diffusion::{self, Noise, Records};
use crate::ops::group_norm::{self, Norm};
use crate::ops::{add, attention, linear, reduce};
use crate::random::Random;

/// A standing shape on a device, its inputs filled.
pub struct Prepared {
    pub plan: Plan,
    pub step: Step,
    _memory: Memory,
}

/// What was measured of one.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub dispatches: u64,
    /// Median.
    pub ms: f64,
    pub flops: u64,
    /// What must be moved at the least; the working set.
    pub bytes: u64,
    pub gflops: f64,
    pub gbytes_per_s: f64,
    /// The ceiling that binds.
    pub bound: Bound,
    /// Time at the ceilings to the time measured, 0 to 1.
    pub of_ceiling: f64,
}

const IMAGES: u32 = 64;
/// A batch of replays lasts this long.
const BATCH: Duration = Duration::from_millis(20);

/// Those whose name holds `part`, convolutions first: one kernel each, forward or backward. A name is that of the shape,
/// `conv2d 3x3 N64 32x32 64->64 forward`.
pub fn standing(part: &str, choices: &Arc<Choices>) -> Recordings {
    let mut shapes = Shapes { all: Recordings::default(), part, choices };
    for (taps, side, c, k) in [(3, 32, 64, 64), (3, 8, 256, 256), (3, 16, 384, 128)] {
        convolution(&mut shapes, taps, side, c, k);
    }
    linear(&mut shapes, 16, 384, 128);
    norm(&mut shapes, 32, 128);
    attention(&mut shapes, 256, 4, 64);
    memory_bound(&mut shapes);
    shapes.all
}

/// Shapes, which are wanted, and the variants that they are recorded with.
struct Shapes<'a> {
    all: Recordings,
    part: &'a str,
    choices: &'a Arc<Choices>,
}

fn push(shapes: &mut Shapes, name: String, record: impl FnOnce(&mut Recorder)) {
    if name.contains(shapes.part) {
        let r = &mut Recorder::new().with_choices(shapes.choices);
        record(r);
        shapes.all.push(name, std::mem::take(r).finish());
    }
}

fn convolution(shapes: &mut Shapes, taps: u32, side: u32, c: u32, k: u32) {
    let (x, y, geometry) = ([IMAGES, side, side, c], [IMAGES, side, side, k], Geometry::same(taps));
    let (weight, bias) = ([taps, taps, c, k], [1, 1, 1, k]);
    let name = |part: &str| format!("conv2d {taps}x{taps} N{IMAGES} {side}x{side} {c}->{k} {part}");
    push(shapes, name("forward"), |r| {
        let (x, weight, bias) = (r.persistent("x", x), r.persistent("weight", weight), r.persistent("bias", bias));
        conv2d::forward(r, x, weight, bias, geometry);
    });
    push(shapes, name("backward-data"), |r| {
        let (dy, weight) = (r.persistent("dy", y), r.persistent("weight", weight));
        conv2d::backward_data(r, dy, weight, x, geometry);
    });
    push(shapes, name("backward-weight"), |r| {
        let (x, dy) = (r.persistent("x", x), r.persistent("dy", y));
        let (dweight, dbias) = (r.temp(weight), r.temp(bias));
        conv2d::backward_weight(r, x, dy, geometry, dweight, dbias);
        reduce::sum_waiting(r);
    });
}

/// The 1x1 convolution, which is a matrix product over all pixels.
fn linear(shapes: &mut Shapes, side: u32, c: u32, k: u32) {
    let (x, y, weight, bias) = ([IMAGES, side, side, c], [IMAGES, side, side, k], [1, 1, c, k], [1, 1, 1, k]);
    let name = |part: &str| format!("linear 1x1 N{IMAGES} {side}x{side} {c}->{k} {part}");
    push(shapes, name("forward"), |r| {
        let (x, weight, bias) = (r.persistent("x", x), r.persistent("weight", weight), r.persistent("bias", bias));
        linear::forward(r, x, weight, bias, y);
    });
    push(shapes, name("backward-data"), |r| {
        let (dy, weight) = (r.persistent("dy", y), r.persistent("weight", weight));
        linear::backward_data(r, dy, weight, x);
    });
    push(shapes, name("backward-weight"), |r| {
        let (x, dy) = (r.persistent("x", x), r.persistent("dy", y));
        let (dweight, dbias) = (r.temp(weight), r.temp(bias));
        linear::backward_weight(r, x, dy, dweight, dbias);
        reduce::sum_waiting(r);
    });
}

fn norm(shapes: &mut Shapes, side: u32, c: u32) {
    let norm = Norm { groups: 32, eps: 1e-5, silu: true };
    let record = |r: &mut Recorder, backward: bool| {
        let x = r.persistent("x", [IMAGES, side, side, c]);
        let [gamma, beta] = ["gamma", "beta"].map(|name| r.persistent(name, [1, 1, 1, c]));
        let (_, saved) = group_norm::forward(r, x, gamma, beta, None, norm);
        if backward {
            let dy = r.persistent("dy", x.shape);
            let [dgamma, dbeta] = [(); 2].map(|()| r.temp(gamma.shape));
            group_norm::backward(r, saved, dy, &[], dgamma, dbeta, None);
            reduce::sum_waiting(r);
        }
    };
    let name = format!("group_norm and SiLU N{IMAGES} {side}x{side} {c}");
    push(shapes, format!("{name} forward"), |r| record(r, false));
    push(shapes, format!("{name} forward and backward"), |r| record(r, true));
}

fn attention(shapes: &mut Shapes, tokens: u32, heads: u32, d: u32) {
    let record = |r: &mut Recorder, backward: bool| {
        let shape = [IMAGES, tokens, heads, d];
        let qkv = r.persistent("qkv", [IMAGES, tokens, 3 * heads, d]);
        let (_, saved) = attention::forward(r, qkv);
        if backward {
            let d_o = r.persistent("d_o", shape);
            attention::backward(r, saved, d_o);
        }
    };
    let name = format!("attention N{IMAGES} {heads} heads T{tokens} d{d}");
    push(shapes, format!("{name} forward"), |r| record(r, false));
    push(shapes, format!("{name} forward and backward"), |r| record(r, true));
}

/// Parameters of the optimizer's shape: a third of `base`.
const PARAMETERS: u32 = 1 << 22;

fn memory_bound(shapes: &mut Shapes) {
    let shape = [IMAGES, 32, 32, 128];
    push(shapes, format!("add N{IMAGES} 32x32 128"), |r| {
        let [a, b] = ["a", "b"].map(|name| r.persistent(name, shape));
        add::add(r, a, b);
    });
    push(shapes, format!("adamw {} Mi parameters", PARAMETERS >> 20), |r| {
        let mut flat = |name: &str| r.persistent(name, [1, 1, 1, PARAMETERS]);
        let [weights, gradient, m, v, ema] = ["weights", "gradient", "m", "v", "ema"].map(&mut flat);
        let square_sum = r.persistent("square sum", [1, 1, 1, 1]);
        let loss_scale = adamw::loss_scale(r, r.precision());
        let state = adamw::State { weights, gradient, m, v, ema, loss_scale };
        adamw::update(r, &AdamW::default(), 1.0, state, square_sum);
    });
    push(shapes, format!("adamw square_sum {} Mi parameters", PARAMETERS >> 20), |r| {
        let gradient = r.persistent("gradient", [1, 1, 1, PARAMETERS]);
        let partials = r.temp([1, 1, 1, adamw::partial_count(PARAMETERS as u64)]);
        let loss_scale = adamw::loss_scale(r, r.precision());
        adamw::square_sum(r, gradient, partials, loss_scale);
    });
    push(shapes, format!("diffusion noise N{IMAGES} 32x32 3"), |r| {
        let records = Records::bind(r, "data", IMAGES, [32, 32, 3]);
        let timesteps = 1000;
        let schedule = r.persistent("schedule", [diffusion::schedule_rows(timesteps), 1, 1, 8]);
        let (batch, classes, class_dropout) = (IMAGES, 10, 0.1);
        let noise = Noise { batch, alone: false, timesteps, schedule, flip: true, classes, class_dropout };
        diffusion::noise(r, &records, &noise);
    });
}

/// Times the standing shape `name`.
///
/// # Errors
/// As [`prepare`].
pub fn measure(
    context: &Context,
    (name, recording): (&str, &Recording),
    ceilings: &Ceilings,
    budget: Duration,
) -> Result<Figure> {
    let prepared = prepare(context, recording)?;
    let seconds = measure::sample(context, &prepared.plan, &prepared.step, BATCH, budget)?;
    let ms = median(&seconds) * 1e3;
    let (flops, bytes) = (recording.flops(), recording.moved_bytes());
    let mut floors = Floors::default();
    for dispatch in &recording.dispatches {
        floors.add(ceilings.floor(dispatch.flops, recording.bytes(dispatch)));
    }
    Ok(Figure {
        name: name.into(),
        dispatches: recording.dispatches.len() as u64,
        ms,
        flops,
        bytes,
        gflops: flops as f64 * 1e-6 / ms,
        gbytes_per_s: bytes as f64 * 1e-6 / ms,
        bound: floors.bound(),
        of_ceiling: floors.ms / ms,
    })
}

/// Plans `recording` with its own buffers, those without contents drawn from (0, 1): as slow as real ones, and nothing that
/// isn't finite.
///
/// # Errors
/// [`crate::error::Error::Device`] if it does not fit.
pub fn prepare(context: &Context, recording: &Recording) -> Result<Prepared> {
    let mut memory = Memory::default();
    let plan = Plan::new(context, recording, &mut memory, PlanOptions::default())?;
    let mut random = Random::new(1);
    for (index, buffer) in recording.buffers.iter().enumerate().filter(|(_, buffer)| buffer.contents.is_empty()) {
        // Drawn numbers repeat: to draw all of them would take longer than the kernels.
        let some: Vec<f32> = (0..4093).map(|_| random.uniform() as f32).collect();
        let values: Vec<f32> = some.iter().copied().cycle().take(buffer.bytes as usize / 4).collect();
        memory.fill(context, recording, index, &values);
    }
    let mut step = Step::default();
    step.set("learning_rate", 1e-4).set("bias_correction1", 0.1).set("bias_correction2", 0.1).set("ema_decay", 0.9);
    Ok(Prepared { plan, step, _memory: memory })
}
