// Variant `register`: a lane owns a tile of 16 rows x 2 quads of channels in registers (8 channels x 4 quads of dW); no
// workgroup memory, no barriers. Lanes run over channels first: a wave reads neighbouring weights and the same x.

const ROWS = 16u;

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

    var corner: array<vec3<i32>, ROWS>;
    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < ROWS; j++) {
        corner[j] = corner_of(min(first + j, rows - 1u));
        sum[2u * j] = bias[k];
        sum[2u * j + 1u] = bias[k + second];
    }
    for (var r = 0u; r < params.r; r++) {
        for (var s = 0u; s < params.s; s++) {
            var tap: array<Tap, ROWS>;
            for (var j = 0u; j < ROWS; j++) {
                tap[j] = tap_of(corner[j], r, s);
            }
            var at = (r * params.s + s) * params.c4 * 4u * params.k4 + k;
            for (var c = 0u; c < params.c4; c++) {
                let a = mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4]));
                let other = at + second;
                let b = mat4x4<f32>(load4(weight[other]), load4(weight[other + params.k4]), load4(weight[other + 2u * params.k4]), load4(weight[other + 3u * params.k4]));
                at += 4u * params.k4;
                for (var j = 0u; j < ROWS; j++) {
                    let v = load4(x[tap[j].offset + c]) * tap[j].inside;
                    sum[2u * j] = multiply_add(sum[2u * j], a, v);
                    sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows) {
            let to = (first + j) * params.k4 + k;
            y[to] = finish(sum[2u * j], first + j, k);
            if (both) {
                y[to + 1u] = finish(sum[2u * j + 1u], first + j, k + 1u);
            }
        }
    }
}

@compute @workgroup_size(64)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks = (params.c4 + 1u) / 2u;
    let parity = parity_of(i / blocks, ROWS);
    if (!parity.exists) {
        return;
    }
    let first = parity.tile * ROWS;
    let rows = params.n * parity.extent.x * parity.extent.y;
    let c = i % blocks * 2u;
    let both = c + 1u < params.c4;
    let second = select(0u, 4u * params.k4, both);

    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < 2u * ROWS; j++) {
        sum[j] = vec4<f32>();
    }
    for (var r = (parity.first.x + params.pad) % params.stride; r < params.r; r += params.stride) {
        for (var s = (parity.first.y + params.pad) % params.stride; s < params.s; s += params.stride) {
            var tap: array<Tap, ROWS>;
            for (var j = 0u; j < ROWS; j++) {
                tap[j] = output_of(input_of(parity, min(first + j, rows - 1u)), r, s);
            }
            let at = ((r * params.s + s) * params.c4 + c) * 4u * params.k4;
            for (var k = 0u; k < params.k4; k++) {
                let a = transpose(mat4x4<f32>(load4(weight[at + k]), load4(weight[at + k + params.k4]), load4(weight[at + k + 2u * params.k4]), load4(weight[at + k + 3u * params.k4])));
                let other = at + k + second;
                let b = transpose(mat4x4<f32>(load4(weight[other]), load4(weight[other + params.k4]), load4(weight[other + 2u * params.k4]), load4(weight[other + 3u * params.k4])));
                for (var j = 0u; j < ROWS; j++) {
                    let v = load4(dy[tap[j].offset + k]) * tap[j].inside;
                    sum[2u * j] = multiply_add(sum[2u * j], a, v);
                    sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows) {
            let at = input_of(parity, first + j);
            let to = ((at.x * params.h + at.y) * params.w + at.z) * params.c4 + c;
            dx[to] = store4(sum[2u * j]);
            if (both) {
                dx[to + 1u] = store4(sum[2u * j + 1u]);
            }
        }
    }
}

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
