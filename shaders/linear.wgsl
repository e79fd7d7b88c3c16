// Linear layer over rows: a matrix product. A 1x1 convolution is the same thing over N H W rows.
//
//   forward          y[m,k]  = f(scale (bias[k] + addend[m,k] + sum over c of x[m,c] W[c,k])), f nothing or SiLU
//   backward_data    dx[m,c] = sum over k of dy[m,k] W[c,k]
//   backward_weight  dW[c,k] = sum over m of x[m,c] dy[m,k]
//                    db[k]   = sum over m of dy[m,k]
//   (dy here is scale times the gradient of y before f)
//
//   x, dx: [M, C]   weight: [C, K]   bias: [K]   y, dy, addend: [M, K]   partial: [splits, C, K]   partial_bias: [splits, K]
//   C is padded to a multiple of 4 in weight too; the padding of x, dy, addend and weight is zero, so that of y, dx and dW is.
//
// This file says how rows lie. What multiplies them it shares with the convolution: lib.product.wgsl, and the variants behind it,
// which hold the entry points, lib.product.register.wgsl and its neighbours.

struct Params {
    rows: u32,
    c4: u32,
    k4: u32,
    split_rows: u32,    // rows that one split of backward_weight sums
    splits: u32,
    addend: u32,        // 1: it is added
    scale: f32,
    silu: u32,          // 1: is f
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(3) var<storage, read> addend: array<real4>;

// What a convolution has, of one tap that meets the row itself: rows, positions and inputs are the same numbers.
alias Position = u32;
alias Corner = u32;
alias Input = u32;
alias Reach = u32;

fn output_rows() -> u32 {
    return params.rows;
}

fn taps() -> vec2<u32> {
    return vec2<u32>(1u);
}

fn weight_tap(r: u32, s: u32) -> u32 {
    return 0u;
}

fn stride() -> u32 {
    return 1u;
}

fn position(m: u32) -> Position {
    return m;
}

fn advance(at: Position, by: Position) -> Position {
    return at + by;
}

fn corner_at(at: Position) -> Corner {
    return at;
}

// Where the tap reads: its first quadruple, and 1.
struct Tap {
    offset: u32,
    inside: f32,
}

fn tap_of(corner: Corner, r: u32, s: u32) -> Tap {
    return Tap(corner * params.c4, 1.0);
}

fn biases(k: u32) -> vec4<f32> {
    return bias[k];
}

// A convolution alone adds another product.
fn shortcut_quads() -> u32 {
    return 0u;
}

fn load_shortcut(m: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn load_shortcut_line(at: u32) -> vec4<f32> {
    return vec4<f32>();
}

// What is stored of row m, quadruple k, of which `sum` is the product with its bias.
fn finish(sum: vec4<f32>, m: u32, k: u32) -> real4 {
    var value = sum;
    if (params.addend == 1u) {
        value += load4(addend[m * params.k4 + k]);
    }
    value *= params.scale;
    if (params.silu == 1u) {
        value *= sigmoid4(value);
    }
    return store4(value);
}

struct Inputs {
    rows: u32,
    start: u32,     // where a tile begins
}

fn inputs_of(tile: u32) -> Inputs {
    return Inputs(params.rows, tile * TILE_ROWS);
}

fn input_of(inputs: Inputs, m: u32) -> Input {
    return m;
}

fn pixel_of(at: Input) -> u32 {
    return at;
}

fn first_tap(inputs: Inputs) -> vec2<u32> {
    return vec2<u32>(0u);
}

fn reach_of(at: Input) -> Reach {
    return at;
}

fn output_of(at: Reach, r: u32, s: u32) -> Tap {
    return Tap(at * params.k4, 1.0);
}
