// Group norm (Wu & He 2018), with an optional scale and shift of each image's channels (modulation) and optional SiLU.
//
//   xhat = (x - mean) rstd              mean, rstd = 1 / sqrt(variance + eps) over height, width, channels of the group
//   u    = xhat a + b                   a = gamma (1 + scale), b = beta (1 + scale) + shift; without modulation gamma, beta
//   y    = u, or silu(u)
//
// Backward. du = dy silu'(u) (or dy). With S1 = sum over h,w of du, S2 = sum over h,w of du xhat, for each image and channel,
// and M = height width (channels in a group):
//
//   G1 = sum over the group of a S1 / M,   G2 = sum over the group of a S2 / M
//   dx     = rstd (du a - G1 - xhat G2) + addend          the gradient that comes around the norm, if there is one
//   dgamma = sum over n of (1 + scale) S2  dbeta  = sum over n of (1 + scale) S1
//   dscale = gamma S2 + beta S1            dshift = S1
//
//   x, y, dy, dx, addend: [N, rows, C]   gamma, beta, dgamma, dbeta: [C]   modulation, dmodulation: [N, 2, C] (scale, shift)
//   moments: [N, chunks, 2, C] (mean and sum of squared deviations of a chunk of rows)
//   table: [N, 4, C] (mean, rstd, a, b)   sums: [N, chunks, 2, C] (S1, S2 of a chunk)   totals: [N, 4, C] (S1, S2, G1, G2)
//
// A group may be any number of channels, so that quads straddle groups; statistics are found per channel and joined.

struct Params {
    images: u32,
    rows: u32,              // H W
    c4: u32,
    channels: u32,
    group_channels: u32,
    chunk: u32,             // rows in a chunk, the last one may have fewer
    chunks: u32,
    silu: u32,
    added: u32,             // 1: the addend is read
    eps: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read_write> moments: array<vec4<f32>>;

// A lane's share of a tensor of rows: one quad of channels over one chunk of rows of one image.
struct Share {
    valid: bool,
    index: u32,     // image, chunk, quad as one number
    image: u32,
    quad: u32,
    first: u32,     // element of the first row
    count: u32,     // rows
}

fn share_of(invocation: Invocation) -> Share {
    let i = index_of(invocation, 64u);
    let chunk = i / params.c4 % params.chunks;
    let image = i / (params.c4 * params.chunks);
    let first = (image * params.rows + chunk * params.chunk) * params.c4 + i % params.c4;
    let count = min(params.chunk, params.rows - chunk * params.chunk);
    return Share(image < params.images, i, image, i % params.c4, first, count);
}

@compute @workgroup_size(64)
fn chunk_moments(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    // Deviations from the first row, which is as near to the mean as any: no cancellation where the mean is far from 0.
    let origin = load4(x[share.first]);
    var sum = vec4<f32>();
    var squares = vec4<f32>();
    for (var row = 1u; row < share.count; row++) {
        let deviation = load4(x[share.first + row * params.c4]) - origin;
        sum += deviation;
        squares += deviation * deviation;
    }
    let mean = sum / f32(share.count);
    let to = share.index / params.c4 * 2u * params.c4 + share.quad;
    moments[to] = origin + mean;
    moments[to + params.c4] = max(squares - sum * mean, vec4<f32>());
}

@group(0) @binding(0) var<storage, read> chunk_table: array<f32>;   // moments, or sums
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read> beta: array<f32>;
@group(0) @binding(3) var<storage, read_write> table: array<f32>;
@group(0) @binding(4) var<storage, read> modulation: array<f32>;

// Mean and rstd of a group: the chunks' moments joined as Chan, Golub & LeVeque (1979) do.
fn group_statistics(image: u32, first: u32) -> vec2<f32> {
    let stride = 4u * params.c4;
    var mean = 0.0;
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let count = f32(min(params.chunk, params.rows - chunk * params.chunk));
        for (var c = first; c < first + params.group_channels; c++) {
            mean += count * chunk_table[(image * params.chunks + chunk) * 2u * stride + c];
        }
    }
    let size = f32(params.rows) * f32(params.group_channels);
    mean /= size;
    var squares = 0.0;
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let count = f32(min(params.chunk, params.rows - chunk * params.chunk));
        for (var c = first; c < first + params.group_channels; c++) {
            let at = (image * params.chunks + chunk) * 2u * stride + c;
            let deviation = chunk_table[at] - mean;
            squares += chunk_table[at + stride] + count * deviation * deviation;
        }
    }
    return vec2<f32>(mean, 1.0 / sqrt(squares / size + params.eps));
}

fn write_table(image: u32, c: u32, statistics: vec2<f32>, a: f32, b: f32) {
    let to = image * 16u * params.c4 + c;
    table[to] = statistics.x;
    table[to + 4u * params.c4] = statistics.y;
    table[to + 8u * params.c4] = a;
    table[to + 12u * params.c4] = b;
}

// The padding of the last quad, which belongs to no group.
fn write_padding(image: u32) {
    for (var c = params.channels; c < 4u * params.c4; c++) {
        write_table(image, c, vec2<f32>(), 0.0, 0.0);
    }
}

@compute @workgroup_size(64)
fn affine(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let image = i * params.group_channels / params.channels;
    let first = i * params.group_channels % params.channels;
    if (image >= params.images) {
        return;
    }
    let statistics = group_statistics(image, first);
    for (var c = first; c < first + params.group_channels; c++) {
        write_table(image, c, statistics, gamma[c], beta[c]);
    }
    if (first == 0u) {
        write_padding(image);
    }
}

@compute @workgroup_size(64)
fn affine_modulated(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let image = i * params.group_channels / params.channels;
    let first = i * params.group_channels % params.channels;
    if (image >= params.images) {
        return;
    }
    let statistics = group_statistics(image, first);
    for (var c = first; c < first + params.group_channels; c++) {
        let scale = 1.0 + modulation[image * 8u * params.c4 + c];
        let shift = modulation[image * 8u * params.c4 + 4u * params.c4 + c];
        write_table(image, c, statistics, gamma[c] * scale, beta[c] * scale + shift);
    }
    if (first == 0u) {
        write_padding(image);
    }
}

@group(0) @binding(1) var<storage, read> affine_table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn apply(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let at = share.image * 4u * params.c4 + share.quad;
    let mean = affine_table[at];
    let slope = affine_table[at + params.c4] * affine_table[at + 2u * params.c4];
    let b = affine_table[at + 3u * params.c4];
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let u = (load4(x[i]) - mean) * slope + b;
        y[i] = store4(select(u, u * sigmoid4(u), params.silu == 1u));
    }
}

@group(0) @binding(2) var<storage, read> dy: array<real4>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;

// dy after the activation's slope.
fn before_activation(dy: vec4<f32>, u: vec4<f32>) -> vec4<f32> {
    return select(dy, dy * silu_slope4(u), params.silu == 1u);
}

@compute @workgroup_size(64)
fn backward_sums(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let at = share.image * 4u * params.c4 + share.quad;
    let mean = affine_table[at];
    let rstd = affine_table[at + params.c4];
    let a = affine_table[at + 2u * params.c4];
    let b = affine_table[at + 3u * params.c4];
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let xhat = (load4(x[i]) - mean) * rstd;
        let du = before_activation(load4(dy[i]), xhat * a + b);
        s1 += du;
        s2 += du * xhat;
    }
    let to = share.index / params.c4 * 2u * params.c4 + share.quad;
    sums[to] = s1;
    sums[to + params.c4] = s2;
}

@group(0) @binding(1) var<storage, read> slopes: array<f32>;       // table
@group(0) @binding(2) var<storage, read_write> totals: array<f32>;

@compute @workgroup_size(64)
fn backward_totals(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let image = i * params.group_channels / params.channels;
    let first = i * params.group_channels % params.channels;
    if (image >= params.images) {
        return;
    }
    let stride = 4u * params.c4;
    var g = vec2<f32>();
    for (var c = first; c < first + params.group_channels; c++) {
        var s = vec2<f32>();
        for (var chunk = 0u; chunk < params.chunks; chunk++) {
            let at = (image * params.chunks + chunk) * 2u * stride + c;
            s += vec2<f32>(chunk_table[at], chunk_table[at + stride]);
        }
        totals[image * 4u * stride + c] = s.x;
        totals[image * 4u * stride + stride + c] = s.y;
        g += slopes[image * 4u * stride + 2u * stride + c] * s;
    }
    g /= f32(params.rows) * f32(params.group_channels);
    for (var c = first; c < first + params.group_channels; c++) {
        totals[image * 4u * stride + 2u * stride + c] = g.x;
        totals[image * 4u * stride + 3u * stride + c] = g.y;
    }
    if (first == 0u) {
        for (var c = params.channels; c < stride; c++) {
            for (var row = 0u; row < 4u; row++) {
                totals[(image * 4u + row) * stride + c] = 0.0;
            }
        }
    }
}

@group(0) @binding(3) var<storage, read> total_table: array<vec4<f32>>;    // totals
@group(0) @binding(4) var<storage, read_write> dx: array<real4>;
@group(0) @binding(5) var<storage, read> addend: array<real4>;

@compute @workgroup_size(64)
fn backward_data(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let at = share.image * 4u * params.c4 + share.quad;
    let mean = affine_table[at];
    let rstd = affine_table[at + params.c4];
    let a = affine_table[at + 2u * params.c4];
    let b = affine_table[at + 3u * params.c4];
    let g1 = total_table[at + 2u * params.c4];
    let g2 = total_table[at + 3u * params.c4];
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let xhat = (load4(x[i]) - mean) * rstd;
        let du = before_activation(load4(dy[i]), xhat * a + b);
        var value = rstd * (du * a - g1 - xhat * g2);
        if (params.added == 1u) {
            value += load4(addend[i]);
        }
        dx[i] = store4(value);
    }
}

@group(0) @binding(0) var<storage, read> sum_table: array<vec4<f32>>;      // totals
@group(0) @binding(1) var<storage, read_write> dgamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dbeta: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scales: array<vec4<f32>>;         // modulation

@compute @workgroup_size(64)
fn backward_weight(invocation: Invocation) {
    let quad = index_of(invocation, 64u);
    if (quad >= params.c4) {
        return;
    }
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    for (var image = 0u; image < params.images; image++) {
        s1 += sum_table[image * 4u * params.c4 + quad];
        s2 += sum_table[image * 4u * params.c4 + params.c4 + quad];
    }
    dgamma[quad] = s2;
    dbeta[quad] = s1;
}

@compute @workgroup_size(64)
fn backward_weight_modulated(invocation: Invocation) {
    let quad = index_of(invocation, 64u);
    if (quad >= params.c4) {
        return;
    }
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    for (var image = 0u; image < params.images; image++) {
        let scale = 1.0 + scales[image * 2u * params.c4 + quad];
        s1 += scale * sum_table[image * 4u * params.c4 + quad];
        s2 += scale * sum_table[image * 4u * params.c4 + params.c4 + quad];
    }
    dgamma[quad] = s2;
    dbeta[quad] = s1;
}

@group(0) @binding(1) var<storage, read> gamma4: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> beta4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> dmodulation: array<real4>;

@compute @workgroup_size(64)
fn backward_modulation(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let image = i / params.c4;
    let quad = i % params.c4;
    if (image >= params.images) {
        return;
    }
    let s1 = sum_table[image * 4u * params.c4 + quad];
    let s2 = sum_table[image * 4u * params.c4 + params.c4 + quad];
    dmodulation[image * 2u * params.c4 + quad] = store4(gamma4[quad] * s2 + beta4[quad] * s1);
    dmodulation[image * 2u * params.c4 + params.c4 + quad] = store4(s1);
}
