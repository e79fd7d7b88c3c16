// Sums: over rows in two passes (no float atomics: the same bits on every run), and of a list to one number.
//
//   columns   partial[g, chunk, c] = sum over the rows of the chunk of x[g, row, c]
//   partials  y[g, first + i] = sum over chunks of partial[g, chunk, i]
//   many      totals[to + i] = sum over n < count of parts[from + n stride + i], i < quads <= 64, for each run
//   total     sum_of_all = sum of all values, one workgroup: the first of 4 elements
//
// x: [groups, rows, C]   partial: [groups, chunks, C]   y: [groups, ..], of whose rows it is C channels
// runs: [runs, 8] (from, stride, count, to, quads, and three that aren't read), in quadruples

struct Params {
    groups: u32,        // or runs
    rows: u32,          // rows of x in a group
    chunk: u32,         // rows in a chunk, the last one may have fewer
    chunks: u32,
    quads: u32,         // vec4 in a row, or in one partial
    stride: u32,        // of y in partials, between rows; the first quadruple in each
    first: u32,
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read_write> partial: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn columns(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.groups * params.chunks * params.quads) {
        return;
    }
    let quad = i % params.quads;
    let chunk = i / params.quads % params.chunks;
    let first = i / (params.quads * params.chunks) * params.rows;
    let end = min((chunk + 1u) * params.chunk, params.rows);
    var sum = vec4<f32>();
    for (var row = chunk * params.chunk; row < end; row++) {
        sum += load4(x[(first + row) * params.quads + quad]);
    }
    partial[i] = sum;
}

@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;

@compute @workgroup_size(64)
fn partials(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.groups * params.quads) {
        return;
    }
    let first = i / params.quads * params.chunks;
    var sum = vec4<f32>();
    for (var chunk = 0u; chunk < params.chunks; chunk++) {
        sum += parts[(first + chunk) * params.quads + i % params.quads];
    }
    y[i / params.quads * params.stride + params.first + i % params.quads] = store4(sum);
}

@group(0) @binding(1) var<storage, read> runs: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> totals: array<vec4<f32>>;

@compute @workgroup_size(64)
fn many(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    let run = i / 64u;
    if (run >= params.groups) {
        return;
    }
    let source = vec4<u32>(runs[2u * run]);
    let quad = i % 64u;
    if (quad < u32(runs[2u * run + 1u].x)) {
        var sum = vec4<f32>();
        for (var n = 0u; n < source.z; n++) {
            sum += parts[source.x + n * source.y + quad];
        }
        totals[source.w + quad] = sum;
    }
}

@group(0) @binding(2) var<storage, read_write> sum_of_all: array<vec4<f32>>;

var<workgroup> sums: array<vec4<f32>, 256>;

@compute @workgroup_size(256)
fn total(invocation: Invocation) {
    let lane = invocation.lane;
    var sum = vec4<f32>();
    for (var i = lane; i < params.quads; i += 256u) {
        sum += parts[i];
    }
    sums[lane] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half >>= 1u) {
        if (lane < half) {
            sums[lane] += sums[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let all = sums[0];
        sum_of_all[0] = vec4<f32>(all.x + all.y + all.z + all.w, 0.0, 0.0, 0.0);
    }
}
