// What an adapter can do at most: the ceilings of the roofline (Williams, Waterman & Patterson, CACM 52(4), 2009).
//
//   copy_N      y[i] = x[i], N quads a lane                 bytes: x is read, y is written
//   multiply_N  y[i] = sum over j < N of s_j,  s_j = (j + 1) x[i],  then `rounds` times a block of steps
//               s_j = s_j a + b                             2 operations each on 4 numbers, nothing but registers
//
// x, y: [1, 1, 1, 4 quads]; a and b are one number each, the first and the second of `factors`, one quad for each lane
// of a workgroup, so that no compiler takes them for uniform and broadcasts them in the loop.
//
// The steps of one s_j wait for each other, those of different j do not: N of them hide the latency of one. Which N is
// best depends on the device: too few wait, too many spill. A block is long where N is small: loops cost, too. Blocks
// are written as nested calls because every compiler inlines those, and few unroll a loop this long. They go round all
// sums before the next step, so that a processor sees independent work whichever order it takes.

struct Params {
    quads: u32,     // vec4 in y
    rounds: u32,    // blocks
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> factors: array<vec4<f32>>;

@compute @workgroup_size(64)
fn copy_1(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i < params.quads) {
        y[i] = x[i];
    }
}

// Fewer and larger workgroups, whose start costs more than a copy on some drivers.
@compute @workgroup_size(256)
fn copy_8(invocation: Invocation) {
    let first = index_of(invocation, 2048u);
    let end = min(first + 2048u, params.quads);
    for (var i = first; i < end; i += 256u) {
        y[i] = x[i];
    }
}

struct Two {
    s0: vec4<f32>,
    s1: vec4<f32>,
}

fn two(s: Two, a: vec4<f32>, b: vec4<f32>) -> Two {
    return Two(fma(s.s0, a, b), fma(s.s1, a, b));
}

fn two_4(s: Two, a: vec4<f32>, b: vec4<f32>) -> Two {
    return two(two(two(two(s, a, b), a, b), a, b), a, b);
}

fn two_16(s: Two, a: vec4<f32>, b: vec4<f32>) -> Two {
    return two_4(two_4(two_4(two_4(s, a, b), a, b), a, b), a, b);
}

// 2 sums, blocks of 64 steps.
@compute @workgroup_size(64)
fn multiply_2(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let a = vec4<f32>(factors[invocation.lane].x);
    let b = vec4<f32>(factors[invocation.lane].y);
    var s = Two(x[i], 2.0 * x[i]);
    for (var round = 0u; round < params.rounds; round++) {
        s = two_16(two_16(two_16(two_16(s, a, b), a, b), a, b), a, b);
    }
    y[i] = s.s0 + s.s1;
}

struct Three {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
}

fn three(s: Three, a: vec4<f32>, b: vec4<f32>) -> Three {
    return Three(fma(s.s0, a, b), fma(s.s1, a, b), fma(s.s2, a, b));
}

fn three_4(s: Three, a: vec4<f32>, b: vec4<f32>) -> Three {
    return three(three(three(three(s, a, b), a, b), a, b), a, b);
}

fn three_16(s: Three, a: vec4<f32>, b: vec4<f32>) -> Three {
    return three_4(three_4(three_4(three_4(s, a, b), a, b), a, b), a, b);
}

fn three_64(s: Three, a: vec4<f32>, b: vec4<f32>) -> Three {
    return three_16(three_16(three_16(three_16(s, a, b), a, b), a, b), a, b);
}

// 3 sums, blocks of 128 steps.
@compute @workgroup_size(64)
fn multiply_3(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.quads) {
        return;
    }
    let a = vec4<f32>(factors[invocation.lane].x);
    let b = vec4<f32>(factors[invocation.lane].y);
    var s = Three(x[i], 2.0 * x[i], 3.0 * x[i]);
    for (var round = 0u; round < params.rounds; round++) {
        s = three_64(three_64(s, a, b), a, b);
    }
    y[i] = s.s0 + s.s1 + s.s2;
}

struct Eight {
    s0: vec4<f32>,
    s1: vec4<f32>,
    s2: vec4<f32>,
    s3: vec4<f32>,
    s4: vec4<f32>,
    s5: vec4<f32>,
    s6: vec4<f32>,
    s7: vec4<f32>,
}

fn eight(s: Eight, a: vec4<f32>, b: vec4<f32>) -> Eight {
    return Eight(
        fma(s.s0, a, b), fma(s.s1, a, b), fma(s.s2, a, b), fma(s.s3, a, b),
        fma(s.s4, a, b), fma(s.s5, a, b), fma(s.s6, a, b), fma(s.s7, a, b),
    );
}

// 8 sums, blocks of 4 steps.
@compute @workgroup_size(256)
fn multiply_8(invocation: Invocation) {
    let i = index_of(invocation, 256u);
    if (i >= params.quads) {
        return;
    }
    let a = vec4<f32>(factors[invocation.lane].x);
    let b = vec4<f32>(factors[invocation.lane].y);
    let v = x[i];
    var s = Eight(v, 2.0 * v, 3.0 * v, 4.0 * v, 5.0 * v, 6.0 * v, 7.0 * v, 8.0 * v);
    for (var round = 0u; round < params.rounds; round++) {
        s = eight(eight(eight(eight(s, a, b), a, b), a, b), a, b);
    }
    y[i] = s.s0 + s.s1 + s.s2 + s.s3 + s.s4 + s.s5 + s.s6 + s.s7;
}
