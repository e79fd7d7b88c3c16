//! A kernel of one's own, softsign, with its f64 twin: recorded, run, and held to the twin in corners and random cases.
//!
//! `cargo run --release --example own_kernel`

use diffuse::cpu::Call;
use diffuse::gpu::kernel::File;
use diffuse::gpu::{Context, Grid, Kernel, Recorder, Tensor};
use diffuse::ops::{Corner, Draw, Op};
use diffuse::verify::{Report, check, trials};

/// lib.wgsl stands before it and brings `Invocation`, `index_of`, and `real4` with what loads and stores it. Bindings, access and
/// parameters are read out of this text.
const WGSL: File = File {
    name: "softsign.wgsl",
    text: "
// Softsign, elementwise.
//
//   forward   y  = x / (1 + |x|)
//   backward  dx = dy / (1 + |x|)^2

struct Params {
    quads: u32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn forward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        let v = load4(x[i]);
        y[i] = store4(v / (1.0 + abs(v)));
    }
}

@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

@compute @workgroup_size(64)
fn backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        let slope = 1.0 + abs(load4(x[i]));
        dx[i] = store4(load4(dy[i]) / (slope * slope));
    }
}
",
};

static KERNEL: Kernel = Kernel::new("softsign", &[WGSL], &[("forward", forward_twin), ("backward", backward_twin)]);

fn forward_twin(call: &mut Call) {
    let mut y = call.read("x").clone();
    y.data.iter_mut().for_each(|y| *y /= 1.0 + y.abs());
    call.write("y", y);
}

fn backward_twin(call: &mut Call) {
    let mut dx = call.read("dy").clone();
    for (dx, x) in dx.data.iter_mut().zip(&call.read("x").data) {
        *dx /= (1.0 + x.abs()).powi(2);
    }
    call.write("dx", dx);
}

/// Records one entry point: `io` are the bindings in their order, the last one is written.
fn record(r: &mut Recorder, entry: &'static str, inputs: &[Tensor]) -> Tensor {
    let out = r.temp(inputs[0].shape);
    let quads = out.elements() / 4;
    let io = [inputs, &[out]].concat();
    r.dispatch(&KERNEL, entry, &[("quads", (quads as u32).into())], &io, Grid::Invocations(quads), 3 * out.count());
    out
}

fn case_of(draw: &mut Draw, shape: [u32; 4]) {
    let (x, dy) = (draw.input("x", shape), draw.input("dy", shape));
    let y = record(&mut draw.recorder, "forward", &[x]);
    let dx = record(&mut draw.recorder, "backward", &[x, dy]);
    draw.gradient(x, y, dy, dx);
}

/// A workgroup takes 64 quadruples.
const CORNERS: &[Corner] = &[
    Corner::new("one element", |draw| case_of(draw, [1, 1, 1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [3, 8, 8, 8])),
    Corner::new("one lane in the last workgroup", |draw| case_of(draw, [1, 3, 43, 3])),
];

const SOFTSIGN: Op = Op {
    kernel: &KERNEL,
    ways: &[],
    corners: CORNERS,
    case: |draw| {
        let shape = [draw.range(1, 3), draw.range(1, 7), draw.range(1, 7), draw.range(1, 13)];
        case_of(draw, shape);
    },
};

pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = Context::new(None)?;
    let mut report = Report::default();
    for (which, choices) in trials(&SOFTSIGN, context.kind(), 0, 20) {
        check(&context, &SOFTSIGN, which, &choices, &mut report)?;
    }
    for (entry, worst) in &report.entries {
        println!("{entry}: {:.3} of what rounding may do", worst.error);
    }
    if !report.agrees() {
        return Err("the kernel is not its twin".into());
    }
    println!("softsign agrees with its twin on {}", context.info.name);
    Ok(())
}
