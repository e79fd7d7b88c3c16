// Convolution as implicit GEMM over rows m = (n, p, q) of the output, taps (r, s) and channels.
//
//   forward          y[n,p,q,k]  = scale (bias[k] + addend + sum over r,s,c of x[n, p stride + r - pad, q stride + s - pad, c] W[r,s,c,k])
//   backward_data    dx[n,h,w,c] = sum over r,s,k of dy[n, p, q, k] W[r,s,c,k]  with p stride = h + pad - r, q stride = w + pad - s
//   backward_weight  dW[r,s,c,k] = sum over n,p,q of x[n, p stride + r - pad, q stride + s - pad, c] dy[n,p,q,k]
//                    db[k]        = sum over n,p,q of dy[n,p,q,k]
//   (dy here is scale times the gradient of y; that of the addend is dy itself or its sum over each image: reduce.wgsl)
//
// Positions outside of x, or p, q that are no whole numbers in range, contribute nothing.
//
//   x, dx: [N, H, W, C]   weight: [R, S, C, K]   bias: [K]   y, dy: [N, P, Q, K]   partial: [splits, R, S, C, K]
//   partial_bias: [splits, K]
//   addend: [N, P, Q, K] (a residual), K channels of each image's row (an embedding), the product of rows [N, P, Q, D] and a
//   shortcut_weight [D, K] with its shortcut_bias [K] (the residual of a block whose channels change), or not read
//   C is padded to a multiple of 4 in weight too; the padding of x, dy, addend and weight is zero, so that of y, dx and dW is.
//
// backward_data visits the inputs parity by parity: those with the same (h mod stride, w mod stride) are reached by the same
// taps, every stride-th one, so that no tap is tried in vain.
//
// This file says how rows, taps and positions lie. What multiplies them it shares with the linear layer: lib.product.wgsl, and the
// variants behind it, which hold the entry points, lib.product.register.wgsl and its neighbours.

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
    addend: u32,        // NONE, PER_IMAGE, PER_ROW or PRODUCT
    addend_stride4: u32,    // quadruples of the row of an image, or of a product; the first quadruple in each
    addend_first4: u32,
    scale: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

const NONE = 0u;
const PER_IMAGE = 1u;
const PER_ROW = 2u;
const PRODUCT = 3u;

@group(0) @binding(3) var<storage, read> addend: array<real4>;
@group(0) @binding(5) var<storage, read> shortcut_weight: array<real4>;
@group(0) @binding(6) var<storage, read> shortcut_bias: array<vec4<f32>>;

// Rows of y.
fn output_rows() -> u32 {
    return params.n * params.p * params.q;
}

fn taps() -> vec2<u32> {
    return vec2<u32>(params.r, params.s);
}

// Where the quadruples of the weight begin, of a tap.
fn weight_tap(r: u32, s: u32) -> u32 {
    return (r * params.s + s) * 4u * params.c4 * params.k4;
}

fn stride() -> u32 {
    return params.stride;
}

// A row of y as image, row, column.
alias Position = vec3<u32>;

fn position(m: u32) -> Position {
    return vec3<u32>(m / (params.p * params.q), m / params.q % params.p, m % params.q);
}

// The position `by` rows further, `by` the position of a number of rows.
fn advance(at: Position, by: Position) -> Position {
    var next = at + by;
    let wide = next.z >= params.q;
    next.z -= select(0u, params.q, wide);
    next.y += select(0u, 1u, wide);
    let high = next.y >= params.p;
    next.y -= select(0u, params.p, high);
    next.x += select(0u, 1u, high);
    return next;
}

// Corner of the window of a row of y in x, and the quadruple that lies there, or would: a tap further is a constant further.
struct Corner {
    top: i32,
    left: i32,
    offset: i32,
}

fn corner_at(at: Position) -> Corner {
    let top = i32(at.y * params.stride) - i32(params.pad);
    let left = i32(at.z * params.stride) - i32(params.pad);
    return Corner(top, left, ((i32(at.x * params.h) + top) * i32(params.w) + left) * i32(params.c4));
}

// Where a tap of a window reads x: its first quadruple and 1, or 0 and 0 outside of x.
struct Tap {
    offset: u32,
    inside: f32,
}

fn tap_of(corner: Corner, r: u32, s: u32) -> Tap {
    let valid = u32(corner.top + i32(r)) < params.h && u32(corner.left + i32(s)) < params.w;
    let offset = u32(corner.offset + i32((r * params.w + s) * params.c4));
    return Tap(select(0u, offset, valid), select(0.0, 1.0, valid));
}

// What the sums of quadruple k begin with.
fn biases(k: u32) -> vec4<f32> {
    if (params.addend == PRODUCT) {
        return bias[k] + shortcut_bias[k];
    }
    return bias[k];
}

// A product that is added is summed behind the taps: its quadruples of channels, none without it.
fn shortcut_quads() -> u32 {
    return select(0u, params.addend_stride4, params.addend == PRODUCT);
}

fn load_shortcut(m: u32, quad: u32) -> vec4<f32> {
    return load4(addend[m * params.addend_stride4 + quad]);
}

fn load_shortcut_line(at: u32) -> vec4<f32> {
    return load4(shortcut_weight[at]);
}

// What is stored of output row m, quadruple k, of which `sum` is the convolution with its bias.
fn finish(sum: vec4<f32>, m: u32, k: u32) -> real4 {
    var value = sum;
    if (params.addend == PER_ROW) {
        value += load4(addend[m * params.k4 + k]);
    } else if (params.addend == PER_IMAGE) {
        value += load4(addend[m / (params.p * params.q) * params.addend_stride4 + params.addend_first4 + k]);
    }
    return store4(params.scale * value);
}

// Inputs of one parity: those at h mod stride = first.x, w mod stride = first.y.
struct Inputs {
    first: vec2<u32>,
    extent: vec2<u32>,  // of its grid of inputs
    rows: u32,          // inputs of all images
    start: u32,         // where a tile begins; a surplus one begins behind the last
}

// Of a tile of TILE_ROWS inputs, counted over all parities.
fn inputs_of(tile: u32) -> Inputs {
    var rest = tile;
    for (var i = 0u; i < params.stride * params.stride; i++) {
        let first = vec2<u32>(i / params.stride, i % params.stride);
        let extent = (vec2<u32>(params.h, params.w) + params.stride - 1u - first) / params.stride;
        let rows = params.n * extent.x * extent.y;
        let tiles = (rows + TILE_ROWS - 1u) / TILE_ROWS;
        if (rest < tiles) {
            return Inputs(first, extent, rows, rest * TILE_ROWS);
        }
        rest -= tiles;
    }
    return Inputs(vec2<u32>(), vec2<u32>(1u), params.n, params.n);
}

// An input as image, row, column.
alias Input = vec3<u32>;

// Input number m of one parity.
fn input_of(inputs: Inputs, m: u32) -> Input {
    let at = vec2<u32>(m / inputs.extent.y % inputs.extent.x, m % inputs.extent.y);
    return vec3<u32>(m / (inputs.extent.x * inputs.extent.y), inputs.first + params.stride * at);
}

fn pixel_of(at: Input) -> u32 {
    return (at.x * params.h + at.y) * params.w + at.z;
}

// The first tap that reaches a parity; every stride-th behind it does, too.
fn first_tap(inputs: Inputs) -> vec2<u32> {
    return (inputs.first + params.pad) % params.stride;
}

// What the first tap of all would read for an input, were it of its parity: row and column of dy, and the quadruple that lies
// there, or would.
alias Reach = Corner;

fn reach_of(at: Input) -> Reach {
    let p = i32((at.y + params.pad) >> (params.stride - 1u));
    let q = i32((at.z + params.pad) >> (params.stride - 1u));
    return Reach(p, q, ((i32(at.x * params.p) + p) * i32(params.q) + q) * i32(params.k4));
}

// Where a tap of this parity reads dy for an input.
fn output_of(reach: Reach, r: u32, s: u32) -> Tap {
    let up = i32(r >> (params.stride - 1u));
    let back = i32(s >> (params.stride - 1u));
    let valid = u32(reach.top - up) < params.p && u32(reach.left - back) < params.q;
    let offset = u32(reach.offset - (up * i32(params.q) + back) * i32(params.k4));
    return Tap(select(0u, offset, valid), select(0.0, 1.0, valid));
}
