// Prefix of every shader: storage type, the step's uniform, index helpers, Philox, accurate sine and logarithm.
//
// Tensors are N, H, W, C with channels padded to a multiple of 4 and bound as arrays of vec4 over channels; the padding
// is zero and every kernel keeps it so. Names that end in 4 count such quadruples.

// Activations are stored as `real4`, four channels at a time: `load4(x[i])` and `x[i] = store4(value)`. Arithmetic, sums,
// statistics, softmax and losses are f32 always. What real4 is says lib.f32.wgsl or lib.f16.wgsl, one of which follows.

// sum + m v, and sum + d a^T: one multiply-add behind the other. Variants of a product that sum in this order, the summed
// index ascending, give the same bits.
fn multiply_add(sum: vec4<f32>, m: mat4x4<f32>, v: vec4<f32>) -> vec4<f32> {
    return sum + m[0] * v.x + m[1] * v.y + m[2] * v.z + m[3] * v.w;
}

fn outer_add(sum: mat4x4<f32>, a: vec4<f32>, d: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(sum[0] + a.x * d, sum[1] + a.y * d, sum[2] + a.z * d, sum[3] + a.w * d);
}

// Written by the host before every step; everything else is fixed when a dispatch is recorded.
struct Step {
    seed: u32,              // key of Philox, with the purpose of the draw
    counter: u32,           // forward passes so far (training), or steps of this sampler
    epoch: u32,             // which shuffle of the data
    cursor: u32,            // images of this epoch that are used up
    record: u32,            // of the first image of this batch, where records are streamed
    taken: u32,             // whether this place of a private step is an image's
    sample: u32,            // index of the first image of this batch among all samples
    learning_rate: f32,
    bias_correction1: f32,  // 1 - beta1^t
    bias_correction2: f32,  // 1 - beta2^t
    ema_decay: f32,
    timestep: f32,          // at which the network is asked
    x: f32,                 // coefficients of one denoise step, see diffusion.wgsl
    out: f32,
    x0: f32,
    x0_from_x: f32,
    x0_from_out: f32,
    clip: f32,
    previous0: f32,         // of what the slots hold
    previous1: f32,
    previous2: f32,
    previous3: f32,
    previous4: f32,
    previous5: f32,
    previous6: f32,
    previous7: f32,
    previous8: f32,
    noise: f32,
    log_small: f32,         // ends of a learned variance's logarithm
    log_large: f32,
    keep: u32,              // slot that gets the estimate of x0; a number without a slot: none
    keep_x: u32,            // slot that gets x, likewise
    guidance: f32,
    to_alpha: f32,          // the noise level that this step reaches
    to_sigma: f32,
    classifier: f32,        // of the classifier's gradient in the network's output
}
@group(0) @binding(15) var<uniform> step: Step;

// Where an invocation of an entry point stands.
struct Invocation {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
}

// The same in two parts, for entry points with barriers or subgroup operations: of a structure compilers see that control flow is
// uniform only if all its members are.
struct Workgroup {
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
}

struct TiledInvocation {
    @builtin(local_invocation_index) lane: u32,
    @builtin(local_invocation_id) place: vec3<u32>,
}

// Large grids are folded into two dimensions; the surplus of the last row is for the kernel to skip.
fn group_index(workgroup: Workgroup) -> u32 {
    return workgroup.group.y * workgroup.groups.x + workgroup.group.x;
}

// The number of an invocation among all, where each of a workgroup's ones has a turn in `size` of them.
fn index_of(invocation: Invocation, size: u32) -> u32 {
    return group_index(Workgroup(invocation.group, invocation.groups)) * size + invocation.lane;
}

fn sigmoid4(x: vec4<f32>) -> vec4<f32> {
    return 1.0 / (1.0 + exp(-x));
}

// The derivative of x sigmoid(x).
fn silu_slope4(x: vec4<f32>) -> vec4<f32> {
    let s = sigmoid4(x);
    return s * (1.0 + x * (1.0 - s));
}

fn is_finite(x: f32) -> bool {
    return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u;
}

// The 64-bit product of two 32-bit words as (low, high), by 16-bit halves.
fn multiply_wide(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low = a0 * b0;
    let middle = a1 * b0 + (low >> 16u);
    let carry = a0 * b1 + (middle & 0xffffu);
    return vec2<u32>((carry << 16u) | (low & 0xffffu), a1 * b1 + (middle >> 16u) + (carry >> 16u));
}

// Philox-4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
fn philox(counter: vec4<u32>, key: vec2<u32>) -> vec4<u32> {
    var c = counter;
    var k = key;
    for (var round = 0u; round < 10u; round++) {
        let p0 = multiply_wide(0xd2511f53u, c.x);
        let p1 = multiply_wide(0xcd9e8d57u, c.z);
        c = vec4<u32>(p1.y ^ c.y ^ k.x, p1.x, p0.y ^ c.w ^ k.y, p0.x);
        k += vec2<u32>(0x9e3779b9u, 0xbb67ae85u);
    }
    return c;
}

// The top 23 bits as a number in (0, 1), exact in f32.
fn uniform_open(bits: u32) -> f32 {
    return (f32(bits >> 9u) + 0.5) * 0x1p-23;
}

// (sin, cos) of 2 pi u for u >= -1/8, the same on every device to a few units of the last place: the angle is folded
// to at most an eighth of a turn, where Taylor's series ends below 1e-8. Built-in sine is only good to 2^-11.
fn sin_cos_turns(u: f32) -> vec2<f32> {
    let quarter = u32(4.0 * u + 0.5);
    let angle = 6.28318530718 * (u - 0.25 * f32(quarter));
    let square = angle * angle;
    let sine = angle * (1.0 + square * (-1.0 / 6.0 + square * (1.0 / 120.0 + square * (-1.0 / 5040.0 + square / 362880.0))));
    let cosine = 1.0 + square * (-0.5 + square * (1.0 / 24.0 + square * (-1.0 / 720.0 + square * (1.0 / 40320.0 - square / 3628800.0))));
    switch quarter & 3u {
        case 0u: { return vec2<f32>(sine, cosine); }
        case 1u: { return vec2<f32>(cosine, -sine); }
        case 2u: { return vec2<f32>(-sine, -cosine); }
        default: { return vec2<f32>(-cosine, sine); }
    }
}

// Natural logarithm of x in (0, 1), accurate to the last places near 1 too, where the built-in one is not:
// x = m 2^e with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh(s), s = (m - 1) / (m + 1).
fn log_accurate(x: f32) -> f32 {
    let bits = bitcast<u32>(x);
    var exponent = i32(bits >> 23u) - 127;
    var mantissa = bitcast<f32>((bits & 0x007fffffu) | 0x3f800000u);
    if (mantissa > 1.41421356) {
        mantissa *= 0.5;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = 2.0 * s * (1.0 + square * (1.0 / 3.0 + square * (0.2 + square * (1.0 / 7.0 + square * (1.0 / 9.0 + square / 11.0)))));
    return f32(exponent) * 0.69314718056 + series;
}

// Four standard normal numbers from one Philox block by Box and Muller (1958).
fn normal4(bits: vec4<u32>) -> vec4<f32> {
    let radius = sqrt(-2.0 * vec2<f32>(log_accurate(uniform_open(bits.x)), log_accurate(uniform_open(bits.z))));
    let first = sin_cos_turns(uniform_open(bits.y));
    let second = sin_cos_turns(uniform_open(bits.w));
    return vec4<f32>(radius.x * first.yx, radius.y * second.yx);
}
