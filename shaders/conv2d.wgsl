// Convolution as implicit GEMM over rows m = (n, p, q) of the output, taps (r, s) and channels.
//
//   forward          y[n,p,q,k]  = bias[k] + sum over r,s,c of x[n, p stride + r - pad, q stride + s - pad, c] W[r,s,c,k]
//   backward_data    dx[n,h,w,c] = sum over r,s,k of dy[n, p, q, k] W[r,s,c,k]  with p stride = h + pad - r, q stride = w + pad - s
//   backward_weight  dW[r,s,c,k] = sum over n,p,q of x[n, p stride + r - pad, q stride + s - pad, c] dy[n,p,q,k]
//   (the gradient of the bias is the sum of dy over rows: reduce.wgsl)
//
// Positions outside of x, or p, q that are no whole numbers in range, contribute nothing.
//
//   x, dx: [N, H, W, C]   weight: [R, S, C, K]   bias: [K]   y, dy: [N, P, Q, K]   partial: [splits, R, S, C, K]
//   C is padded to a multiple of 4 in weight too; the padding of x, dy and weight is zero, so that of y, dx and dW is.
//
// Variant `register`: a lane owns a tile of 16 rows x 2 quads of channels in registers (8 channels x 4 quads of dW);
// no workgroup memory, no barriers. Lanes run over channels first: a wave reads neighbouring weights and the same x.

struct Params {
    n: u32,
    h: u32,
    w: u32,
    c4: u32,
    p: u32,
    q: u32,
    k4: u32,
    r: u32,
    s: u32,
    stride: u32,
    pad: u32,
    split_rows: u32,    // rows of the output that one split of backward_weight sums
    splits: u32,
}
@group(0) @binding(14) var<uniform> params: Params;

const ROWS = 16u;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<real4>;

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks = (params.k4 + 1u) / 2u;
    let first = i / blocks * ROWS;
    let rows = params.n * params.p * params.q;
    if (first >= rows) {
        return;
    }
    let k = i % blocks * 2u;
    let both = k + 1u < params.k4;
    let second = select(0u, 1u, both);

    // Corner of the window of each row in x: image, top, left.
    var corner: array<vec3<i32>, ROWS>;
    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < ROWS; j++) {
        let m = min(first + j, rows - 1u);
        let p = m / params.q % params.p;
        let q = m % params.q;
        corner[j] = vec3<i32>(vec3<u32>(m / (params.p * params.q), p * params.stride, q * params.stride)) - vec3<i32>(0, i32(params.pad), i32(params.pad));
        sum[2u * j] = bias[k];
        sum[2u * j + 1u] = bias[k + second];
    }
    for (var r = 0u; r < params.r; r++) {
        for (var s = 0u; s < params.s; s++) {
            var offset: array<u32, ROWS>;
            var inside: array<f32, ROWS>;
            for (var j = 0u; j < ROWS; j++) {
                let h = corner[j].y + i32(r);
                let w = corner[j].z + i32(s);
                let valid = h >= 0 && h < i32(params.h) && w >= 0 && w < i32(params.w);
                offset[j] = select(0u, u32((corner[j].x * i32(params.h) + h) * i32(params.w) + w) * params.c4, valid);
                inside[j] = select(0.0, 1.0, valid);
            }
            var at = (r * params.s + s) * params.c4 * 4u * params.k4 + k;
            for (var c = 0u; c < params.c4; c++) {
                let a0 = weight[at];
                let b0 = weight[at + second];
                let a1 = weight[at + params.k4];
                let b1 = weight[at + params.k4 + second];
                let a2 = weight[at + 2u * params.k4];
                let b2 = weight[at + 2u * params.k4 + second];
                let a3 = weight[at + 3u * params.k4];
                let b3 = weight[at + 3u * params.k4 + second];
                at += 4u * params.k4;
                for (var j = 0u; j < ROWS; j++) {
                    let v = load4(x[offset[j] + c]) * inside[j];
                    sum[2u * j] += v.x * a0 + v.y * a1 + v.z * a2 + v.w * a3;
                    sum[2u * j + 1u] += v.x * b0 + v.y * b1 + v.z * b2 + v.w * b3;
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows) {
            let to = (first + j) * params.k4 + k;
            y[to] = store4(sum[2u * j]);
            if (both) {
                y[to + 1u] = store4(sum[2u * j + 1u]);
            }
        }
    }
}

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

// The position of the output whose tap reaches the input, or -1: `shifted` = at + pad - tap over the stride (1 or 2), if
// that is whole and in range. A shift, because divisions cost more than the whole inner loop on some devices.
fn output_position(shifted: i32, extent: u32) -> i32 {
    let position = shifted >> (params.stride - 1u);
    let whole = (shifted & i32(params.stride - 1u)) == 0;
    return select(-1, position, shifted >= 0 && whole && position < i32(extent));
}

@compute @workgroup_size(64)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks = (params.c4 + 1u) / 2u;
    let first = i / blocks * ROWS;
    let rows = params.n * params.h * params.w;
    if (first >= rows) {
        return;
    }
    let c = i % blocks * 2u;
    let both = c + 1u < params.c4;
    let second = select(0u, 4u * params.k4, both);

    // Image, row + pad, column + pad of each row.
    var at: array<vec3<i32>, ROWS>;
    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < ROWS; j++) {
        let m = min(first + j, rows - 1u);
        at[j] = vec3<i32>(vec3<u32>(m / (params.h * params.w), m / params.w % params.h + params.pad, m % params.w + params.pad));
        sum[2u * j] = vec4<f32>();
        sum[2u * j + 1u] = vec4<f32>();
    }
    for (var r = 0u; r < params.r; r++) {
        for (var s = 0u; s < params.s; s++) {
            var offset: array<u32, ROWS>;
            var inside: array<f32, ROWS>;
            for (var j = 0u; j < ROWS; j++) {
                let p = output_position(at[j].y - i32(r), params.p);
                let q = output_position(at[j].z - i32(s), params.q);
                let valid = p >= 0 && q >= 0;
                offset[j] = select(0u, u32((at[j].x * i32(params.p) + p) * i32(params.q) + q) * params.k4, valid);
                inside[j] = select(0.0, 1.0, valid);
            }
            let tap = ((r * params.s + s) * params.c4 + c) * 4u * params.k4;
            for (var k = 0u; k < params.k4; k++) {
                let a0 = weight[tap + k];
                let a1 = weight[tap + k + params.k4];
                let a2 = weight[tap + k + 2u * params.k4];
                let a3 = weight[tap + k + 3u * params.k4];
                let b0 = weight[tap + k + second];
                let b1 = weight[tap + k + second + params.k4];
                let b2 = weight[tap + k + second + 2u * params.k4];
                let b3 = weight[tap + k + second + 3u * params.k4];
                for (var j = 0u; j < ROWS; j++) {
                    let v = load4(dy[offset[j] + k]) * inside[j];
                    sum[2u * j] += vec4<f32>(dot(v, a0), dot(v, a1), dot(v, a2), dot(v, a3));
                    sum[2u * j + 1u] += vec4<f32>(dot(v, b0), dot(v, b1), dot(v, b2), dot(v, b3));
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows) {
            let to = (first + j) * params.c4 + c;
            dx[to] = store4(sum[2u * j]);
            if (both) {
                dx[to + 1u] = store4(sum[2u * j + 1u]);
            }
        }
    }
}

@group(0) @binding(1) var<storage, read> gradient: array<real4>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec4<f32>>;

const QUADS = 4u;       // of output channels in a tile of backward_weight
const CHANNELS = 8u;    // input channels there

@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks_k = (params.k4 + QUADS - 1u) / QUADS;
    let blocks_c = (params.c4 + 1u) / 2u;
    let k = i % blocks_k * QUADS;
    let c = i / blocks_k % blocks_c * 2u;
    let tap = i / (blocks_k * blocks_c) % (params.r * params.s);
    let split = i / (blocks_k * blocks_c * params.r * params.s);
    if (split >= params.splits) {
        return;
    }
    let r = i32(tap / params.s) - i32(params.pad);
    let s = i32(tap % params.s) - i32(params.pad);
    let second = select(0u, 1u, c + 1u < params.c4);

    var sum: array<vec4<f32>, CHANNELS * QUADS>;
    for (var j = 0u; j < CHANNELS * QUADS; j++) {
        sum[j] = vec4<f32>();
    }
    let start = split * params.split_rows;
    let end = min(start + params.split_rows, params.n * params.p * params.q);
    // Position in x of the tap at row m, counted on from row to row.
    var image = i32(start / (params.p * params.q));
    var h = i32(start / params.q % params.p * params.stride) + r;
    var w = i32(start % params.q * params.stride) + s;
    for (var m = start; m < end; m++) {
        let valid = h >= 0 && h < i32(params.h) && w >= 0 && w < i32(params.w);
        let from_x = select(0u, u32((image * i32(params.h) + h) * i32(params.w) + w) * params.c4, valid) + c;
        let inside = select(0.0, 1.0, valid);
        let a = load4(x[from_x]) * inside;
        let b = load4(x[from_x + second]) * inside;
        for (var j = 0u; j < QUADS; j++) {
            let d = load4(gradient[m * params.k4 + min(k + j, params.k4 - 1u)]);
            sum[j] += a.x * d;
            sum[QUADS + j] += a.y * d;
            sum[2u * QUADS + j] += a.z * d;
            sum[3u * QUADS + j] += a.w * d;
            sum[4u * QUADS + j] += b.x * d;
            sum[5u * QUADS + j] += b.y * d;
            sum[6u * QUADS + j] += b.z * d;
            sum[7u * QUADS + j] += b.w * d;
        }
        w += i32(params.stride);
        if (w == i32(params.q * params.stride) + s) {
            w = s;
            h += i32(params.stride);
        }
        if (h == i32(params.p * params.stride) + r) {
            h = r;
            image += 1;
        }
    }
    let channels = select(4u, 8u, second == 1u);
    let to = ((split * params.r * params.s + tap) * params.c4 + c) * 4u * params.k4;
    for (var channel = 0u; channel < CHANNELS; channel++) {
        for (var j = 0u; j < QUADS; j++) {
            if (channel < channels && k + j < params.k4) {
                partial[to + channel * params.k4 + k + j] = sum[channel * QUADS + j];
            }
        }
    }
}
