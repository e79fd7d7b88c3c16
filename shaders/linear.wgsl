// Linear layer over rows: a matrix product. A 1x1 convolution is the same thing over N H W rows.
//
//   forward          y[m,k]  = scale (bias[k] + addend[m,k] + sum over c of x[m,c] W[c,k])
//   backward_data    dx[m,c] = sum over k of dy[m,k] W[c,k]
//   backward_weight  dW[c,k] = sum over m of x[m,c] dy[m,k]
//   (dy here is scale times the gradient of y; that of the bias is the sum of dy over rows: reduce.wgsl)
//
//   x, dx: [M, C]   weight: [C, K]   bias: [K]   y, dy, addend: [M, K]   partial: [splits, C, K]
//   C is padded to a multiple of 4 in weight too; the padding of x, dy, addend and weight is zero, so that of y, dx and dW is.
//
// This file is the prefix of the variants, which hold the entry points: linear.register.wgsl and its neighbours.

struct Params {
    rows: u32,
    c4: u32,
    k4: u32,
    split_rows: u32,    // rows that one split of backward_weight sums
    splits: u32,
    addend: u32,        // 1: it is added
    scale: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read> weight: array<real4>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> addend: array<real4>;
@group(0) @binding(4) var<storage, read_write> y: array<real4>;

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

@group(0) @binding(1) var<storage, read> gradient: array<real4>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec4<f32>>;

// What is stored at quadruple `to` of y, of which `sum` is the product with its bias.
fn finish(sum: vec4<f32>, to: u32) -> real4 {
    var value = sum;
    if (params.addend == 1u) {
        value += load4(addend[to]);
    }
    return store4(params.scale * value);
}
