// Cross-entropy of a softmax over classes, and its gradient.
//
// For image n with K logits z[n] and the class y[n]:
//
//   L[n]  = log sum_k exp(z[n,k])
//   -log p(y[n] | n)        = L[n] - z[n,y[n]]
//   d(-log p(y[n] | n)) / dz[n,k] = exp(z[n,k] - L[n]) - [k = y[n]]
//
// for dL[n]/dz[n,k] = exp(z[n,k]) / sum_j exp(z[n,j]). Both results are multiplied by `factor`: 1/N makes the mean of
// a batch, -1 makes log p and its gradient.
//
// losses[n] = factor (L[n] - z[n,y[n]]);  dz[n,k] = factor (softmax_k - [k = y[n]])
//
// The highest logit m is taken out first, L = m + log sum_k exp(z_k - m): no exponent is positive, so nothing overflows.
//
// z, dz: [N, 1, 1, K]; labels: u32 [N], each below K; losses: f32 [N]. A lane makes one image.

struct Params {
    images: u32,        // N
    classes: u32,       // K
    factor: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> z: array<real4>;
@group(0) @binding(1) var<storage, read> labels: array<u32>;
@group(0) @binding(2) var<storage, read_write> dz: array<real4>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;

// Below every logit, and no infinity: infinities may not survive a driver's fast arithmetic.
const LOWEST = vec4<f32>(-1e30);

fn classes_of(quad: u32) -> vec4<u32> {
    return 4u * quad + vec4<u32>(0u, 1u, 2u, 3u);
}

// Logits of a quadruple; behind the last class the lowest, whose exponential is 0.
fn logits(row: u32, quad: u32) -> vec4<f32> {
    return select(LOWEST, load4(z[row + quad]), classes_of(quad) < vec4<u32>(params.classes));
}

// 1 at the class, 0 elsewhere.
fn one_hot(quad: u32, label: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), vec4<f32>(1.0), classes_of(quad) == vec4<u32>(label));
}

@compute @workgroup_size(64)
fn loss(invocation: Invocation) {
    let n = index_of(invocation, 64u);
    if (n >= params.images) {
        if (n < (params.images + 3u) / 4u * 4u) {
            losses[n] = 0.0;
        }
        return;
    }
    let quads = (params.classes + 3u) / 4u;
    let row = n * quads;
    let label = labels[n];
    var top = LOWEST;
    for (var q = 0u; q < quads; q++) {
        top = max(top, logits(row, q));
    }
    let highest = max(max(top.x, top.y), max(top.z, top.w));
    var sums = vec4<f32>();
    for (var q = 0u; q < quads; q++) {
        sums += exp(logits(row, q) - highest);
    }
    let sum = dot(sums, vec4<f32>(1.0));
    losses[n] = params.factor * (log(sum) - (load4(z[row + label / 4u])[label % 4u] - highest));
    for (var q = 0u; q < quads; q++) {
        dz[row + q] = store4(params.factor * (exp(logits(row, q) - highest) / sum - one_hot(q, label)));
    }
}
