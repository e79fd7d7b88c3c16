// What training under differential privacy does with the gradient of one image, in fixed point: sums are exact whatever their order,
// and those with and without an image differ by exactly one image's whole numbers.
//
//   clip     norm   = sqrt(total)                                  of the image's gradient
//            factor = min(scale, limit / norm) / loss_scale        0 if the step's place is not taken, or the norm isn't finite
//
//   add      sum   += round(factor gradient)                       modulo 2^32; what isn't finite counts as 0
//
//   release  noisy  = scale sum                                    sum as i32: those of all places, and the noise
//
// DP-SGD: Abadi et al. 2016, Algorithm 1. docs/privacy.md derives scale and limit, and why what wraps around loses no privacy.
//
// gradient, noisy: [1, 1, 1, count]   sum: as many words, of two's complement   total, factor: one number   loss_scale: its first

struct Clip {
    scale: f32,             // units of the fixed point in 1
    limit: f32,             // the largest norm, in units
}
@group(0) @binding(14) var<uniform> clipping: Clip;

struct Sum {
    quads: u32,
}
@group(0) @binding(14) var<uniform> sums: Sum;

struct Release {
    quads: u32,
    scale: f32,             // what a unit is, divided by what the sum is divided by
}
@group(0) @binding(14) var<uniform> released: Release;

@group(0) @binding(0) var<storage, read> total: array<f32>;
@group(0) @binding(1) var<storage, read> loss_scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> factor: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> factors: array<f32>;
@group(0) @binding(3) var<storage, read> gradient: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sum: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> words: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> noisy: array<vec4<f32>>;

@compute @workgroup_size(1)
fn clip() {
    let norm = sqrt(total[0]);
    var scaled = clipping.scale;
    if (norm * clipping.scale > clipping.limit) {
        scaled = clipping.limit / norm;
    }
    if (step.taken == 0u || !is_finite(total[0])) {
        scaled = 0.0;
    }
    factor[0] = vec4<f32>(scaled / loss_scale[0], 0.0, 0.0, 0.0);
}

// Quadruples of a lane, 256 apart, as in add.wgsl.
const SHARE = 4u;

@compute @workgroup_size(256)
fn add(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, sums.quads); i += 256u) {
        let g = gradient[i];
        let is_finite4 = (bitcast<vec4<u32>>(g) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
        let whole = vec4<i32>(round(factors[0] * select(vec4<f32>(0.0), g, is_finite4)));
        sum[i] += bitcast<vec4<u32>>(whole);
    }
}

@compute @workgroup_size(256)
fn release(invocation: Invocation) {
    let first = index_of(invocation, 256u * SHARE);
    for (var i = first; i < min(first + 256u * SHARE, released.quads); i += 256u) {
        noisy[i] = released.scale * vec4<f32>(bitcast<vec4<i32>>(words[i]));
    }
}
