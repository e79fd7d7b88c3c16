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
//   x, y, dy, dx, addend: [N, rows, C]   gamma, beta, dgamma, dbeta: [C]   modulation, dmodulation: [N, ..], of whose rows 2 C
//   channels are read or written (scale, shift)
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
    modulation_stride4: u32,    // of its rows: quadruples between them, and the first one in each
    modulation_first4: u32,
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
@group(0) @binding(4) var<storage, read> modulation: array<real4>;

// Quadruple q of an image's row of the modulation: scales, then shifts.
fn modulation_at(image: u32, q: u32) -> u32 {
    return image * params.modulation_stride4 + params.modulation_first4 + q;
}

// A lane's group: of one image, the channels from `first` on.
struct Group {
    valid: bool,
    image: u32,
    first: u32,
}

fn group_of(invocation: Invocation) -> Group {
    let channel = index_of(invocation, 64u) * params.group_channels;
    let image = channel / params.channels;
    return Group(image < params.images, image, channel % params.channels);
}

// Mean and rstd of a group: the chunks' moments joined as Chan, Golub & LeVeque (1979) do.
fn group_statistics(own: Group) -> vec2<f32> {
    let stride = 4u * params.c4;
    var mean = 0.0;
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let count = f32(min(params.chunk, params.rows - chunk * params.chunk));
        for (var c = own.first; c < own.first + params.group_channels; c++) {
            mean += count * chunk_table[(own.image * params.chunks + chunk) * 2u * stride + c];
        }
    }
    let size = f32(params.rows) * f32(params.group_channels);
    mean /= size;
    var squares = 0.0;
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let count = f32(min(params.chunk, params.rows - chunk * params.chunk));
        for (var c = own.first; c < own.first + params.group_channels; c++) {
            let at = (own.image * params.chunks + chunk) * 2u * stride + c;
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

// The padding of the last quad, which belongs to no group: an image's first one writes it.
fn write_padding(own: Group) {
    if (own.first > 0u) {
        return;
    }
    for (var c = params.channels; c < 4u * params.c4; c++) {
        write_table(own.image, c, vec2<f32>(), 0.0, 0.0);
    }
}

@compute @workgroup_size(64)
fn affine(invocation: Invocation) {
    let own = group_of(invocation);
    if (!own.valid) {
        return;
    }
    let statistics = group_statistics(own);
    for (var c = own.first; c < own.first + params.group_channels; c++) {
        write_table(own.image, c, statistics, gamma[c], beta[c]);
    }
    write_padding(own);
}

@compute @workgroup_size(64)
fn affine_modulated(invocation: Invocation) {
    let own = group_of(invocation);
    if (!own.valid) {
        return;
    }
    let statistics = group_statistics(own);
    for (var c = own.first; c < own.first + params.group_channels; c++) {
        let scale = 1.0 + load4(modulation[modulation_at(own.image, c / 4u)])[c % 4u];
        let shift = load4(modulation[modulation_at(own.image, params.c4 + c / 4u)])[c % 4u];
        write_table(own.image, c, statistics, gamma[c] * scale, beta[c] * scale + shift);
    }
    write_padding(own);
}

@group(0) @binding(1) var<storage, read> affine_table: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;

// What the table says of a share's channels.
struct Affine {
    at: u32,
    mean: vec4<f32>,
    rstd: vec4<f32>,
    a: vec4<f32>,
    b: vec4<f32>,
}

fn affine_of(share: Share) -> Affine {
    let at = share.image * 4u * params.c4 + share.quad;
    return Affine(at, affine_table[at], affine_table[at + params.c4], affine_table[at + 2u * params.c4], affine_table[at + 3u * params.c4]);
}

@compute @workgroup_size(64)
fn apply(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let own = affine_of(share);
    let slope = own.rstd * own.a;
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let u = (load4(x[i]) - own.mean) * slope + own.b;
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
    let own = affine_of(share);
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let xhat = (load4(x[i]) - own.mean) * own.rstd;
        let du = before_activation(load4(dy[i]), xhat * own.a + own.b);
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
    let own = group_of(invocation);
    if (!own.valid) {
        return;
    }
    let stride = 4u * params.c4;
    var g = vec2<f32>();
    for (var c = own.first; c < own.first + params.group_channels; c++) {
        var s = vec2<f32>();
        for (var chunk = 0u; chunk < params.chunks; chunk++) {
            let at = (own.image * params.chunks + chunk) * 2u * stride + c;
            s += vec2<f32>(chunk_table[at], chunk_table[at + stride]);
        }
        totals[own.image * 4u * stride + c] = s.x;
        totals[own.image * 4u * stride + stride + c] = s.y;
        g += slopes[own.image * 4u * stride + 2u * stride + c] * s;
    }
    g /= f32(params.rows) * f32(params.group_channels);
    for (var c = own.first; c < own.first + params.group_channels; c++) {
        totals[own.image * 4u * stride + 2u * stride + c] = g.x;
        totals[own.image * 4u * stride + 3u * stride + c] = g.y;
    }
    if (own.first == 0u) {
        for (var c = params.channels; c < stride; c++) {
            for (var row = 0u; row < 4u; row++) {
                totals[(own.image * 4u + row) * stride + c] = 0.0;
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
    let own = affine_of(share);
    let g1 = total_table[own.at + 2u * params.c4];
    let g2 = total_table[own.at + 3u * params.c4];
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        let xhat = (load4(x[i]) - own.mean) * own.rstd;
        let du = before_activation(load4(dy[i]), xhat * own.a + own.b);
        var value = own.rstd * (du * own.a - g1 - xhat * g2);
        if (params.added == 1u) {
            value += load4(addend[i]);
        }
        dx[i] = store4(value);
    }
}

@group(0) @binding(0) var<storage, read> sum_table: array<vec4<f32>>;      // totals
@group(0) @binding(1) var<storage, read_write> dgamma: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dbeta: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> scales: array<real4>;             // modulation

// S1 and S2 of an image, over all of its rows.
fn totals_of(image: u32, quad: u32) -> mat2x4<f32> {
    let at = image * 4u * params.c4 + quad;
    return mat2x4<f32>(sum_table[at], sum_table[at + params.c4]);
}

fn store_weight(quad: u32, sums: mat2x4<f32>) {
    dgamma[quad] = sums[1];
    dbeta[quad] = sums[0];
}

@compute @workgroup_size(64)
fn backward_weight(invocation: Invocation) {
    let quad = index_of(invocation, 64u);
    if (quad >= params.c4) {
        return;
    }
    var sums = mat2x4<f32>();
    for (var image = 0u; image < params.images; image++) {
        sums += totals_of(image, quad);
    }
    store_weight(quad, sums);
}

@compute @workgroup_size(64)
fn backward_weight_modulated(invocation: Invocation) {
    let quad = index_of(invocation, 64u);
    if (quad >= params.c4) {
        return;
    }
    var sums = mat2x4<f32>();
    for (var image = 0u; image < params.images; image++) {
        let s = totals_of(image, quad);
        let scale = 1.0 + load4(scales[modulation_at(image, quad)]);
        sums += mat2x4<f32>(scale * s[0], scale * s[1]);
    }
    store_weight(quad, sums);
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
    let s = totals_of(image, quad);
    dmodulation[modulation_at(image, quad)] = store4(gamma4[quad] * s[1] + beta4[quad] * s[0]);
    dmodulation[modulation_at(image, params.c4 + quad)] = store4(s[0]);
}
