// Variant `register`: a lane owns 8 rows x 2 quads (8 channels x 2 quads of dW) in registers; no workgroup memory.

const ROWS = 8u;

@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks = (params.k4 + 1u) / 2u;
    let first = i / blocks * ROWS;
    if (first >= params.rows) {
        return;
    }
    let k = i % blocks * 2u;
    let both = k + 1u < params.k4;
    let second = select(0u, 1u, both);
    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < ROWS; j++) {
        sum[2u * j] = bias[k];
        sum[2u * j + 1u] = bias[k + second];
    }
    for (var c = 0u; c < params.c4; c++) {
        let at = 4u * c * params.k4 + k;
        let a = mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4]));
        let other = at + second;
        let b = mat4x4<f32>(load4(weight[other]), load4(weight[other + params.k4]), load4(weight[other + 2u * params.k4]), load4(weight[other + 3u * params.k4]));
        for (var j = 0u; j < ROWS; j++) {
            let v = load4(x[min(first + j, params.rows - 1u) * params.c4 + c]);
            sum[2u * j] = multiply_add(sum[2u * j], a, v);
            sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < params.rows) {
            let to = (first + j) * params.k4 + k;
            y[to] = finish(sum[2u * j], to);
            if (both) {
                y[to + 1u] = finish(sum[2u * j + 1u], to + 1u);
            }
        }
    }
}

@compute @workgroup_size(64)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks = (params.c4 + 1u) / 2u;
    let first = i / blocks * ROWS;
    if (first >= params.rows) {
        return;
    }
    let c = i % blocks * 2u;
    let both = c + 1u < params.c4;
    let second = select(0u, 4u * params.k4, both);
    var sum: array<vec4<f32>, 2u * ROWS>;
    for (var j = 0u; j < 2u * ROWS; j++) {
        sum[j] = vec4<f32>();
    }
    for (var k = 0u; k < params.k4; k++) {
        let at = 4u * c * params.k4 + k;
        let a = transpose(mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4])));
        let other = at + second;
        let b = transpose(mat4x4<f32>(load4(weight[other]), load4(weight[other + params.k4]), load4(weight[other + 2u * params.k4]), load4(weight[other + 3u * params.k4])));
        for (var j = 0u; j < ROWS; j++) {
            let v = load4(dy[min(first + j, params.rows - 1u) * params.k4 + k]);
            sum[2u * j] = multiply_add(sum[2u * j], a, v);
            sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < params.rows) {
            let to = (first + j) * params.c4 + c;
            dx[to] = store4(sum[2u * j]);
            if (both) {
                dx[to + 1u] = store4(sum[2u * j + 1u]);
            }
        }
    }
}

@compute @workgroup_size(64)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    let blocks_k = (params.k4 + 1u) / 2u;
    let blocks_c = (params.c4 + 1u) / 2u;
    let k = i % blocks_k * 2u;
    let c = i / blocks_k % blocks_c * 2u;
    let split = i / (blocks_k * blocks_c);
    if (split >= params.splits) {
        return;
    }
    let second_k = select(0u, 1u, k + 1u < params.k4);
    let second_c = select(0u, 1u, c + 1u < params.c4);
    var sum: array<vec4<f32>, 16>;
    for (var j = 0u; j < 16u; j++) {
        sum[j] = vec4<f32>();
    }
    let end = min((split + 1u) * params.split_rows, params.rows);
    for (var m = split * params.split_rows; m < end; m++) {
        let a = load4(x[m * params.c4 + c]);
        let b = load4(x[m * params.c4 + c + second_c]);
        let d = load4(gradient[m * params.k4 + k]);
        let e = load4(gradient[m * params.k4 + k + second_k]);
        for (var j = 0u; j < 4u; j++) {
            sum[j] += a[j] * d;
            sum[4u + j] += a[j] * e;
            sum[8u + j] += b[j] * d;
            sum[12u + j] += b[j] * e;
        }
    }
    let to = (split * params.c4 + c) * 4u * params.k4 + k;
    for (var j = 0u; j < 4u; j++) {
        let row = to + j * params.k4;
        partial[row] = sum[j];
        if (second_k == 1u) {
            partial[row + 1u] = sum[4u + j];
        }
        if (second_c == 1u) {
            partial[row + 4u * params.k4] = sum[8u + j];
            if (second_k == 1u) {
                partial[row + 4u * params.k4 + 1u] = sum[12u + j];
            }
        }
    }
}
