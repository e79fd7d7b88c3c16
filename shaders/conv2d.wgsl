// Convolution as implicit GEMM over rows m = (n, p, q) of the output, taps (r, s) and channels.
//
//   forward          y[n,p,q,k]  = scale (bias[k] + addend + sum over r,s,c of x[n, p stride + r - pad, q stride + s - pad, c] W[r,s,c,k])
//   backward_data    dx[n,h,w,c] = sum over r,s,k of dy[n, p, q, k] W[r,s,c,k]  with p stride = h + pad - r, q stride = w + pad - s
//   backward_weight  dW[r,s,c,k] = sum over n,p,q of x[n, p stride + r - pad, q stride + s - pad, c] dy[n,p,q,k]
//   (dy here is scale times the gradient of y; that of the bias is the sum of dy over rows, that of the addend dy itself
//   or its sum over each image: reduce.wgsl)
//
// Positions outside of x, or p, q that are no whole numbers in range, contribute nothing.
//
//   x, dx: [N, H, W, C]   weight: [R, S, C, K]   bias: [K]   y, dy: [N, P, Q, K]   partial: [splits, R, S, C, K]
//   addend: [N, P, Q, K] (a residual), [N, K] (an embedding), or not read
//   C is padded to a multiple of 4 in weight too; the padding of x, dy, addend and weight is zero, so that of y, dx and dW is.
//
// backward_data visits the inputs parity by parity: those with the same (h mod stride, w mod stride) are reached by the same
// taps, every stride-th one, so that no tap is tried in vain.
//
// This file is the prefix of the variants, which hold the entry points: conv2d.register.wgsl and its neighbours.

struct Params {
    n: u32,
    h: u32,
    w: u32,
    c4: u32,
    p: u32,
    q: u32,
    k4: u32,
    r: u32,
    s: u32,
    stride: u32,
    pad: u32,
    split_rows: u32,    // rows of the output that one split of backward_weight sums
    splits: u32,
    addend: u32,        // NONE, PER_IMAGE or PER_ROW
    scale: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

const NONE = 0u;
const PER_IMAGE = 1u;
const PER_ROW = 2u;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read> weight: array<real4>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> addend: array<real4>;
@group(0) @binding(4) var<storage, read_write> y: array<real4>;

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

@group(0) @binding(1) var<storage, read> gradient: array<real4>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec4<f32>>;

// Corner of the window of output row m in x: image, top, left.
fn corner_of(m: u32) -> vec3<i32> {
    let at = vec3<u32>(m / (params.p * params.q), m / params.q % params.p * params.stride, m % params.q * params.stride);
    return vec3<i32>(at) - vec3<i32>(0, i32(params.pad), i32(params.pad));
}

// Where a tap of a window reads x: its first quadruple and 1, or 0 and 0 outside of x.
struct Tap {
    offset: u32,
    inside: f32,
}

fn tap_of(corner: vec3<i32>, r: u32, s: u32) -> Tap {
    let h = corner.y + i32(r);
    let w = corner.z + i32(s);
    let valid = h >= 0 && h < i32(params.h) && w >= 0 && w < i32(params.w);
    let offset = u32((corner.x * i32(params.h) + h) * i32(params.w) + w) * params.c4;
    return Tap(select(0u, offset, valid), select(0.0, 1.0, valid));
}

// What is stored of output row m, quadruple k, of which `sum` is the convolution with its bias.
fn finish(sum: vec4<f32>, m: u32, k: u32) -> real4 {
    var value = sum;
    if (params.addend == PER_ROW) {
        value += load4(addend[m * params.k4 + k]);
    } else if (params.addend == PER_IMAGE) {
        value += load4(addend[m / (params.p * params.q) * params.k4 + k]);
    }
    return store4(params.scale * value);
}

// Inputs of one parity: those at h mod stride = first.x, w mod stride = first.y.
struct Parity {
    first: vec2<u32>,
    extent: vec2<u32>,  // of its grid of inputs
    tile: u32,          // which of its tiles of `rows` inputs
    exists: bool,
}

fn parity_of(tile: u32, rows: u32) -> Parity {
    var rest = tile;
    for (var i = 0u; i < params.stride * params.stride; i++) {
        let first = vec2<u32>(i / params.stride, i % params.stride);
        let extent = (vec2<u32>(params.h, params.w) + params.stride - 1u - first) / params.stride;
        let tiles = (params.n * extent.x * extent.y + rows - 1u) / rows;
        if (rest < tiles) {
            return Parity(first, extent, rest, true);
        }
        rest -= tiles;
    }
    return Parity(vec2<u32>(), vec2<u32>(1u), 0u, false);
}

// Input number m of one parity: image, row, column.
fn input_of(parity: Parity, m: u32) -> vec3<u32> {
    let at = vec2<u32>(m / parity.extent.y % parity.extent.x, m % parity.extent.y);
    return vec3<u32>(m / (parity.extent.x * parity.extent.y), parity.first + params.stride * at);
}

// Where a tap of this parity reads dy for an input.
fn output_of(at: vec3<u32>, r: u32, s: u32) -> Tap {
    let p = (i32(at.y + params.pad) - i32(r)) >> (params.stride - 1u);
    let q = (i32(at.z + params.pad) - i32(s)) >> (params.stride - 1u);
    let valid = p >= 0 && p < i32(params.p) && q >= 0 && q < i32(params.q);
    let offset = u32((i32(at.x) * i32(params.p) + p) * i32(params.q) + q) * params.k4;
    return Tap(select(0u, offset, valid), select(0.0, 1.0, valid));
}

// Row m of dy as image, row, column.
fn position(m: u32) -> vec3<u32> {
    return vec3<u32>(m / (params.p * params.q), m / params.q % params.p, m % params.q);
}

// The position `by` rows further, `by` the position of a number of rows.
fn advance(at: vec3<u32>, by: vec3<u32>) -> vec3<u32> {
    var next = at + by;
    let wide = next.z >= params.q;
    next.z -= select(0u, params.q, wide);
    next.y += select(0u, 1u, wide);
    let high = next.y >= params.p;
    next.y -= select(0u, params.p, high);
    next.x += select(0u, 1u, high);
    return next;
}
