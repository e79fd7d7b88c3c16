// Group norm in one dispatch each way: a workgroup takes all rows of a run of quads of one image that holds whole groups, several
// narrow ones, so that rows are read 64 bytes at a time. Equations and shapes stand in group_norm.wgsl.

const LANES = 256u;
// Of the widest run: each of its channels has a lane.
const MOST_QUADS = 64u;

// What lanes found of their rows, two vectors each; once they are joined, of each quad of the run.
var<workgroup> found: array<vec4<f32>, 2u * LANES>;
// Of each channel of the run: mean, slope and offset, or G1 and G2.
var<workgroup> of_channels: array<f32, 12u * MOST_QUADS>;

// What a workgroup takes. All of it is uniform, which a lane's share is not.
struct Run {
    image: u32,
    first: u32,     // its first quad
    width: u32,     // its quads: fewer than params.span in an image's last run
    lanes: u32,     // that share a quad
}

// A lane's share: every so many rows of one quad of the run.
struct Place {
    lane: u32,
    image: u32,
    run: u32,       // its first quad
    width: u32,
    quad: u32,
    row: u32,       // the first one; behind the last where there is none
    stride: u32,    // rows from one to the next
    first: u32,     // element of row 0
}

fn run_of(workgroup: Workgroup) -> Run {
    let runs = (params.c4 + params.span - 1u) / params.span;
    let index = group_index(workgroup);
    let first = index % runs * params.span;
    let width = min(params.span, params.c4 - first);
    return Run(index / runs, first, width, LANES / width);
}

fn place_of(run: Run, lane: u32) -> Place {
    let quad = run.first + lane % run.width;
    let row = lane / run.width;
    let first = run.image * params.rows * params.c4 + quad;
    let start = select(params.rows, row, row < run.lanes);
    return Place(lane, run.image, run.first, run.width, quad, start, run.lanes, first);
}

// Adds up what the lanes of each quad found, four at a time.
fn join(run: Run, lane: u32) {
    workgroupBarrier();
    for (var count = min(run.lanes, params.rows); count > 1u;) {
        let kept = (count + 3u) / 4u;
        if (lane < kept * run.width) {
            for (var other = lane + kept * run.width; other < count * run.width; other += kept * run.width) {
                found[lane] += found[other];
                found[LANES + lane] += found[LANES + other];
            }
        }
        workgroupBarrier();
        count = kept;
    }
}

// Of sums of deviations from `origin` and of their squares: leaves each channel's mean and sum of squared deviations from it.
fn settle_moments(run: Run, place: Place, origin: vec4<f32>, sum: vec4<f32>, squares: vec4<f32>) {
    found[place.lane] = sum;
    found[LANES + place.lane] = squares;
    join(run, place.lane);
    if (place.lane < place.width) {
        let total = found[place.lane];
        let mean = total / f32(params.rows);
        found[place.lane] = origin + mean;
        found[LANES + place.lane] = max(found[LANES + place.lane] - total * mean, vec4<f32>());
    }
    workgroupBarrier();
}

// Deviations from a row, which is no further from the mean than rows are from each other: no cancellation where the mean is far
// from 0.
fn find_moments(run: Run, place: Place) {
    let origin = load4(x[place.first + params.rows / 2u * params.c4]);
    var sum = vec4<f32>();
    var squares = vec4<f32>();
    for (var row = place.row; row < params.rows; row += place.stride) {
        let deviation = load4(x[place.first + row * params.c4]) - origin;
        sum += deviation;
        squares += deviation * deviation;
    }
    settle_moments(run, place, origin, sum, squares);
}

// Mean and rstd of the group of the run's channel c, joined as in group_statistics.
fn statistics_of(c: u32) -> vec2<f32> {
    let first = c / params.group_channels * params.group_channels;
    let end = first + params.group_channels;
    var mean = 0.0;
    for (var k = first; k < end; k++) {
        mean += found[k / 4u][k % 4u];
    }
    mean /= f32(params.group_channels);
    var squares = 0.0;
    for (var k = first; k < end; k++) {
        let deviation = found[k / 4u][k % 4u] - mean;
        squares += found[LANES + k / 4u][k % 4u] + f32(params.rows) * deviation * deviation;
    }
    return vec2<f32>(mean, 1.0 / sqrt(squares / (f32(params.rows) * f32(params.group_channels)) + params.eps));
}

// What scales and shifts the lane's own channel of the run; the padding behind the last channel becomes 0.
fn settle_affine(place: Place, scale: f32, shift: f32) {
    let c = place.lane;
    let channel = 4u * place.run + c;
    var statistics = vec2<f32>();
    var affine = vec2<f32>();
    if (channel < params.channels) {
        statistics = statistics_of(c);
        affine = write_table(place.image, channel, statistics, scale, shift);
    } else {
        write_table(place.image, channel, statistics, 0.0, 0.0);
    }
    of_channels[c] = statistics.x;
    of_channels[4u * MOST_QUADS + c] = statistics.y * affine.x;
    of_channels[8u * MOST_QUADS + c] = affine.y;
}

// A lane's four channels of a row of `of_channels`.
fn channels_of(place: Place, row: u32) -> vec4<f32> {
    let at = 4u * (row * MOST_QUADS + place.quad - place.run);
    return vec4<f32>(of_channels[at], of_channels[at + 1u], of_channels[at + 2u], of_channels[at + 3u]);
}

fn apply_whole(place: Place) {
    workgroupBarrier();
    let mean = channels_of(place, 0u);
    let slope = channels_of(place, 1u);
    let offset = channels_of(place, 2u);
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        y[i] = store4(activated((load4(x[i]) - mean) * slope + offset));
    }
}

@compute @workgroup_size(LANES)
fn forward(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    find_moments(run, place);
    if (place.lane < 4u * place.width) {
        settle_affine(place, 1.0, 0.0);
    }
    apply_whole(place);
}

@compute @workgroup_size(LANES)
fn forward_modulated(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    find_moments(run, place);
    if (place.lane < 4u * place.width) {
        let modulated = modulation_of(place.image, 4u * place.run + place.lane);
        settle_affine(place, modulated.x, modulated.y);
    }
    apply_whole(place);
}

@group(0) @binding(6) var<storage, read> skip: array<real4>;
@group(0) @binding(7) var<storage, read_write> joined: array<real4>;

// A lane's quad of a row of x and skip, joined.
fn load_joined(place: Place, row: u32) -> vec4<f32> {
    let at = place.image * params.rows + row;
    if (place.quad < params.x4) {
        return load4(x[at * params.x4 + place.quad]);
    }
    return load4(skip[at * (params.c4 - params.x4) + place.quad - params.x4]);
}

@compute @workgroup_size(LANES)
fn forward_joined(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    let origin = load_joined(place, params.rows / 2u);
    var sum = vec4<f32>();
    var squares = vec4<f32>();
    for (var row = place.row; row < params.rows; row += place.stride) {
        let deviation = load_joined(place, row) - origin;
        sum += deviation;
        squares += deviation * deviation;
    }
    settle_moments(run, place, origin, sum, squares);
    if (place.lane < 4u * place.width) {
        settle_affine(place, 1.0, 0.0);
    }
    workgroupBarrier();
    let mean = channels_of(place, 0u);
    let slope = channels_of(place, 1u);
    let offset = channels_of(place, 2u);
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        let value = load_joined(place, row);
        joined[i] = store4(value);
        y[i] = store4(activated((value - mean) * slope + offset));
    }
}

@group(0) @binding(3) var<storage, read_write> weight_sums: array<vec4<f32>>;

// Leaves S1 and S2 of each quad of the run.
fn find_sums(run: Run, place: Place, own: Affine) {
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        let xhat = (load4(x[i]) - own.mean) * own.rstd;
        let du = before_activation(load4(dy[i]), xhat * own.a + own.b);
        s1 += du;
        s2 += du * xhat;
    }
    found[place.lane] = s1;
    found[LANES + place.lane] = s2;
    join(run, place.lane);
}

// G1 and G2 of a lane's four channels.
struct GroupGradients {
    g1: vec4<f32>,
    g2: vec4<f32>,
}

// Writes the image's dgamma and dbeta.
fn settle_sums(place: Place, own: Affine) -> GroupGradients {
    if (place.lane < place.width) {
        let scale = affine_table[own.at + 4u * params.c4];
        let to = place.image * params.c4 + place.quad;
        weight_sums[to] = scale * found[LANES + place.lane];
        weight_sums[params.images * params.c4 + to] = scale * found[place.lane];
        found[place.lane] *= own.a;
        found[LANES + place.lane] *= own.a;
    }
    workgroupBarrier();
    if (place.lane < 4u * place.width) {
        let g = group_gradients(place.lane);
        of_channels[place.lane] = g.x;
        of_channels[4u * MOST_QUADS + place.lane] = g.y;
    }
    workgroupBarrier();
    return GroupGradients(channels_of(place, 0u), channels_of(place, 1u));
}

// G1 and G2 of the group of the run's channel c; in the padding, whose rstd is 0, any number.
fn group_gradients(c: u32) -> vec2<f32> {
    let first = c / params.group_channels * params.group_channels;
    var g = vec2<f32>();
    for (var k = first; k < first + params.group_channels; k++) {
        g += vec2<f32>(found[k / 4u][k % 4u], found[LANES + k / 4u][k % 4u]);
    }
    return g / (f32(params.rows) * f32(params.group_channels));
}

@compute @workgroup_size(LANES)
fn backward(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    let own = affine_of(place.image, place.quad);
    find_sums(run, place, own);
    let group = settle_sums(place, own);
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        dx[i] = store4(gradient_of(i, own, group.g1, group.g2) + addends_of(i));
    }
}

@compute @workgroup_size(LANES)
fn backward_modulated(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    let own = affine_of(place.image, place.quad);
    find_sums(run, place, own);
    if (place.lane < place.width) {
        write_modulation(place.image, place.quad, found[place.lane], found[LANES + place.lane]);
    }
    let group = settle_sums(place, own);
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        dx[i] = store4(gradient_of(i, own, group.g1, group.g2));
    }
}

@group(0) @binding(5) var<storage, read_write> dx_sums: array<real4>;

@compute @workgroup_size(LANES)
fn backward_with_sums(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    let own = affine_of(place.image, place.quad);
    find_sums(run, place, own);
    let group = settle_sums(place, own);
    var sum = vec4<f32>();
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        let value = gradient_of(i, own, group.g1, group.g2);
        dx[i] = store4(value);
        sum += value;
    }
    found[place.lane] = sum;
    join(run, place.lane);
    if (place.lane < place.width) {
        dx_sums[modulation_at(place.image, place.quad)] = store4(found[place.lane]);
    }
}

@group(0) @binding(6) var<storage, read_write> dskip: array<real4>;

@compute @workgroup_size(LANES)
fn backward_joined(workgroup: Workgroup, @builtin(local_invocation_index) lane: u32) {
    let run = run_of(workgroup);
    let place = place_of(run, lane);
    if (run.image >= params.images) {
        return;
    }
    let own = affine_of(place.image, place.quad);
    find_sums(run, place, own);
    let group = settle_sums(place, own);
    let skip4 = params.c4 - params.x4;
    for (var row = place.row; row < params.rows; row += place.stride) {
        let i = place.first + row * params.c4;
        let value = store4(gradient_of(i, own, group.g1, group.g2) + load4(addend[i]));
        let at = place.image * params.rows + row;
        if (place.quad < params.x4) {
            dx[at * params.x4 + place.quad] = value;
        } else {
            dskip[at * skip4 + place.quad - params.x4] = value;
        }
    }
}
