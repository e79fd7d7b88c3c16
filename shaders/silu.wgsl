// SiLU (Hendrycks & Gimpel 2016; Elfwing et al. 2017), elementwise.
//
//   forward   y  = x s,                       s = 1 / (1 + exp(-x))
//   backward  dx = dy s (1 + x (1 - s))
//
// x, y, dy, dx: one shape

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
        y[i] = store4(v * sigmoid4(v));
    }
}

@group(0) @binding(1) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

@compute @workgroup_size(64)
fn backward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        dx[i] = store4(load4(dy[i]) * silu_slope4(load4(x[i])));
    }
}
