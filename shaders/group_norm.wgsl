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
//   dx     = rstd (du a - G1 - xhat G2) + addends         the gradients that come around the norm, if there are any
//   dgamma = sum over n of (1 + scale) S2  dbeta  = sum over n of (1 + scale) S1
//   dscale = gamma S2 + beta S1            dshift = S1
//
//   x, y, dy, dx, addends: [N, rows, C]   gamma, beta, dgamma, dbeta: [C]   modulation, dmodulation: [N, ..], of whose rows 2 C
//   channels are read or written (scale, shift)
//   table: [N, 5, C] (mean, rstd, a, b, 1 + scale)   weight_sums, channel_weight_sums: [2, N, C] (dgamma, dbeta of each image)
//
// A group may be any number of channels, so that quads straddle groups; statistics are found per channel and joined.
//
// Where an image is small, a workgroup takes whole groups: group_norm.whole.wgsl. It can take x in two parts, whose channels
// come one behind the other, and leaves them joined; their gradients are dx and dskip then. It can sum dx over rows, too.
//
//   x: [N, rows, A], skip: [N, rows, B], joined: [N, rows, A + B = C]   dx, dskip likewise   dx_sums: [N, ..], as dmodulation
//
// Elsewhere a lane takes a chunk of rows:
//
//   moments: [N, chunks, 2, C] (mean and sum of squared deviations)
//   sums: [N, chunks, 2, C] (S1, S2)   totals: [N, 4, C] (S1, S2, G1, G2)

struct Params {
    images: u32,
    rows: u32,              // H W
    c4: u32,
    channels: u32,
    group_channels: u32,
    chunk: u32,             // rows in a chunk, the last one may have fewer
    chunks: u32,
    span: u32,              // quads of a workgroup that takes whole groups
    x4: u32,                // quads of the first of two parts
    silu: u32,
    added: u32,             // how many addends are read
    eps: f32,
    modulation_stride4: u32,    // of its rows: quadruples between them, and the first one in each; of those of dx_sums, too
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

// What channel c of an image is scaled and shifted by. Scale is 1 + that of the modulation.
fn write_table(image: u32, c: u32, statistics: vec2<f32>, scale: f32, shift: f32) -> vec2<f32> {
    let affine = vec2<f32>(gamma[c] * scale, beta[c] * scale + shift);
    let to = image * 20u * params.c4 + c;
    table[to] = statistics.x;
    table[to + 4u * params.c4] = statistics.y;
    table[to + 8u * params.c4] = affine.x;
    table[to + 12u * params.c4] = affine.y;
    table[to + 16u * params.c4] = scale;
    return affine;
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
        write_table(own.image, c, statistics, 1.0, 0.0);
    }
    write_padding(own);
}

// Scale and shift of channel c of an image; scale is 1 + that of the modulation.
fn modulation_of(image: u32, c: u32) -> vec2<f32> {
    let scale = load4(modulation[modulation_at(image, c / 4u)]);
    let shift = load4(modulation[modulation_at(image, params.c4 + c / 4u)]);
    return vec2<f32>(1.0 + scale[c % 4u], shift[c % 4u]);
}

@compute @workgroup_size(64)
fn affine_modulated(invocation: Invocation) {
    let own = group_of(invocation);
    if (!own.valid) {
        return;
    }
    let statistics = group_statistics(own);
    for (var c = own.first; c < own.first + params.group_channels; c++) {
        let modulated = modulation_of(own.image, c);
        write_table(own.image, c, statistics, modulated.x, modulated.y);
    }
    write_padding(own);
}

@group(0) @binding(1) var<storage, read> affine_table: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> y: array<real4>;

// What the table says of a share's channels.
struct Affine {
    at: u32,
    mean: vec4<f32>,
    rstd: vec4<f32>,
    a: vec4<f32>,
    b: vec4<f32>,
}

fn affine_of(image: u32, quad: u32) -> Affine {
    let at = image * 5u * params.c4 + quad;
    return Affine(at, affine_table[at], affine_table[at + params.c4], affine_table[at + 2u * params.c4], affine_table[at + 3u * params.c4]);
}

fn activated(u: vec4<f32>) -> vec4<f32> {
    return select(u, u * sigmoid4(u), params.silu == 1u);
}

@compute @workgroup_size(64)
fn apply(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let own = affine_of(share.image, share.quad);
    let slope = own.rstd * own.a;
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        y[i] = store4(activated((load4(x[i]) - own.mean) * slope + own.b));
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
    let own = affine_of(share.image, share.quad);
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
@group(0) @binding(3) var<storage, read_write> channel_weight_sums: array<f32>;

// S1 and S2 of a channel, over all chunks.
fn sums_of(image: u32, c: u32) -> vec2<f32> {
    let stride = 4u * params.c4;
    var s = vec2<f32>();
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        let at = (image * params.chunks + chunk) * 2u * stride + c;
        s += vec2<f32>(chunk_table[at], chunk_table[at + stride]);
    }
    return s;
}

fn write_sums(image: u32, c: u32, s: vec2<f32>, scale: f32) {
    let stride = 4u * params.c4;
    totals[image * 4u * stride + c] = s.x;
    totals[image * 4u * stride + stride + c] = s.y;
    channel_weight_sums[image * stride + c] = scale * s.y;
    channel_weight_sums[(params.images + image) * stride + c] = scale * s.x;
}

fn write_gradients(image: u32, c: u32, g: vec2<f32>) {
    let stride = 4u * params.c4;
    totals[image * 4u * stride + 2u * stride + c] = g.x;
    totals[image * 4u * stride + 3u * stride + c] = g.y;
}

@compute @workgroup_size(64)
fn backward_totals(invocation: Invocation) {
    let own = group_of(invocation);
    if (!own.valid) {
        return;
    }
    let stride = 4u * params.c4;
    let end = own.first + params.group_channels;
    var g = vec2<f32>();
    for (var c = own.first; c < end; c++) {
        let s = sums_of(own.image, c);
        let slope = own.image * 5u * stride + 2u * stride + c;
        write_sums(own.image, c, s, slopes[slope + 2u * stride]);
        g += slopes[slope] * s;
    }
    g /= f32(params.rows) * f32(params.group_channels);
    for (var c = own.first; c < end; c++) {
        write_gradients(own.image, c, g);
    }
    if (own.first == 0u) {
        for (var c = params.channels; c < stride; c++) {
            write_sums(own.image, c, vec2<f32>(), 0.0);
            write_gradients(own.image, c, vec2<f32>());
        }
    }
}

@group(0) @binding(3) var<storage, read> total_table: array<vec4<f32>>;    // totals
@group(0) @binding(4) var<storage, read_write> dx: array<real4>;
@group(0) @binding(5) var<storage, read> addend: array<real4>;
@group(0) @binding(6) var<storage, read> second_addend: array<real4>;

// dx of an element without addends.
fn gradient_of(i: u32, own: Affine, g1: vec4<f32>, g2: vec4<f32>) -> vec4<f32> {
    let xhat = (load4(x[i]) - own.mean) * own.rstd;
    let du = before_activation(load4(dy[i]), xhat * own.a + own.b);
    return own.rstd * (du * own.a - g1 - xhat * g2);
}

// What comes around the norm.
fn addends_of(i: u32) -> vec4<f32> {
    var sum = vec4<f32>();
    if (params.added > 0u) {
        sum = load4(addend[i]);
    }
    if (params.added > 1u) {
        sum += load4(second_addend[i]);
    }
    return sum;
}

@compute @workgroup_size(64)
fn backward_data(invocation: Invocation) {
    let share = share_of(invocation);
    if (!share.valid) {
        return;
    }
    let own = affine_of(share.image, share.quad);
    let at = share.image * 4u * params.c4 + share.quad;
    let g1 = total_table[at + 2u * params.c4];
    let g2 = total_table[at + 3u * params.c4];
    for (var row = 0u; row < share.count; row++) {
        let i = share.first + row * params.c4;
        dx[i] = store4(gradient_of(i, own, g1, g2) + addends_of(i));
    }
}

@group(0) @binding(5) var<storage, read> gamma4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> beta4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> dmodulation: array<real4>;

fn write_modulation(image: u32, quad: u32, s1: vec4<f32>, s2: vec4<f32>) {
    dmodulation[modulation_at(image, quad)] = store4(gamma4[quad] * s2 + beta4[quad] * s1);
    dmodulation[modulation_at(image, params.c4 + quad)] = store4(s1);
}

@compute @workgroup_size(64)
fn backward_modulation(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let image = i / params.c4;
    let quad = i % params.c4;
    if (image >= params.images) {
        return;
    }
    let at = image * 4u * params.c4 + quad;
    write_modulation(image, quad, total_table[at], total_table[at + params.c4]);
}
