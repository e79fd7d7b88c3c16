// Variant `tiled`, for GPUs: tiles staged in workgroup memory, see lib.tiled.wgsl.

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.k4 + TILE_QUADS - 1u) / TILE_QUADS;
    let first = i / blocks * TILE_ROWS;
    if (first >= params.rows) {
        return;
    }
    let k = i % blocks * TILE_QUADS;
    let quad = lane % STEP;
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < ROWS; j++) {
        left[j] = bias[min(k + at.x, params.k4 - 1u)];
        right[j] = bias[min(k + at.x + CHANNEL_LANES, params.k4 - 1u)];
    }
    let turns = (params.c4 + STEP - 1u) / STEP;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: array<vec4<f32>, MAX_SHARE>;
        var channel_share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turns) {
            let c = turn * STEP;
            let inside = select(0.0, 1.0, c + quad < params.c4);
            for (var j = 0u; j < ROW_SHARE; j++) {
                let row = min(first + (j * LANES_OF_TILE + lane) / STEP, params.rows - 1u);
                row_share[j] = load4(x[row * params.c4 + min(c + quad, params.c4 - 1u)]) * inside;
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let part = j * LANES_OF_TILE + lane;
                let channel = min(4u * c + part / TILE_QUADS, 4u * params.c4 - 1u);
                channel_share[j] = load4(weight[channel * params.k4 + min(k + part % TILE_QUADS, params.k4 - 1u)]);
            }
        }
        if (turn > 0u) {
            let buffer = (turn - 1u) % 2u;
            for (var step = 0u; step < STEP; step++) {
                let w_left = staged_weights(buffer, step, at.x);
                let w_right = staged_weights(buffer, step, at.x + CHANNEL_LANES);
                multiply(&left, &right, buffer, step, at.y, w_left, w_right);
            }
        }
        if (turn < turns) {
            for (var j = 0u; j < ROW_SHARE; j++) {
                staged_rows[row_slot(turn % 2u, quad, (j * LANES_OF_TILE + lane) / STEP)] = row_share[j];
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let part = j * LANES_OF_TILE + lane;
                staged_channels[channel_slot(turn % 2u, part / TILE_QUADS, part % TILE_QUADS)] = channel_share[j];
            }
        }
        workgroupBarrier();
    }
    let own = k + at.x;
    for (var j = 0u; j < ROWS; j++) {
        let row = first + at.y + j * ROW_LANES;
        let to = row * params.k4 + own;
        if (row < params.rows && own < params.k4) {
            y[to] = finish(left[j], to);
        }
        if (row < params.rows && own + CHANNEL_LANES < params.k4) {
            y[to + CHANNEL_LANES] = finish(right[j], to + CHANNEL_LANES);
        }
    }
}

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.c4 + TILE_QUADS - 1u) / TILE_QUADS;
    let first = i / blocks * TILE_ROWS;
    if (first >= params.rows) {
        return;
    }
    let c = i % blocks * TILE_QUADS;
    let quad = lane % STEP;
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < ROWS; j++) {
        left[j] = vec4<f32>();
        right[j] = vec4<f32>();
    }
    let turns = (params.k4 + STEP - 1u) / STEP;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: array<vec4<f32>, MAX_SHARE>;
        var channel_share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turns) {
            let k = turn * STEP + quad;
            let inside = select(0.0, 1.0, k < params.k4);
            for (var j = 0u; j < ROW_SHARE; j++) {
                let row = min(first + (j * LANES_OF_TILE + lane) / STEP, params.rows - 1u);
                row_share[j] = load4(dy[row * params.k4 + min(k, params.k4 - 1u)]) * inside;
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let channel = min(4u * c + (j * LANES_OF_TILE + lane) / STEP, 4u * params.c4 - 1u);
                channel_share[j] = load4(weight[channel * params.k4 + min(k, params.k4 - 1u)]);
            }
        }
        if (turn > 0u) {
            let buffer = (turn - 1u) % 2u;
            for (var step = 0u; step < STEP; step++) {
                let w_left = transpose(staged_weights(buffer, step, at.x));
                let w_right = transpose(staged_weights(buffer, step, at.x + CHANNEL_LANES));
                multiply(&left, &right, buffer, step, at.y, w_left, w_right);
            }
        }
        if (turn < turns) {
            for (var j = 0u; j < ROW_SHARE; j++) {
                staged_rows[row_slot(turn % 2u, quad, (j * LANES_OF_TILE + lane) / STEP)] = row_share[j];
            }
            // A line is a channel of four, of which each lane reads a quad of lines: transposed, they are as in `forward`.
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let channel = (j * LANES_OF_TILE + lane) / STEP;
                staged_channels[channel_slot(turn % 2u, 4u * quad + channel % 4u, channel / 4u)] = channel_share[j];
            }
        }
        workgroupBarrier();
    }
    let own = c + at.x;
    for (var j = 0u; j < ROWS; j++) {
        let row = first + at.y + j * ROW_LANES;
        if (row < params.rows && own < params.c4) {
            dx[row * params.c4 + own] = store4(left[j]);
        }
        if (row < params.rows && own + CHANNEL_LANES < params.c4) {
            dx[row * params.c4 + own + CHANNEL_LANES] = store4(right[j]);
        }
    }
}

// Rows in a turn of backward_weight.
const TURN = 4u * STEP;

fn store_partial(sum: mat4x4<f32>, first: u32, c: u32, k: u32) {
    if (c < params.c4 && k < params.k4) {
        let to = (first + 4u * c) * params.k4 + k;
        partial[to] = sum[0];
        partial[to + params.k4] = sum[1];
        partial[to + 2u * params.k4] = sum[2];
        partial[to + 3u * params.k4] = sum[3];
    }
}

// A tile is 2 ROW_LANES quads of x by 2 CHANNEL_LANES quads of dy.
@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let quads_c = 2u * ROW_LANES;
    let blocks_k = (params.k4 + TILE_QUADS - 1u) / TILE_QUADS;
    let blocks_c = (params.c4 + quads_c - 1u) / quads_c;
    let k = i % blocks_k * TILE_QUADS;
    let c = i / blocks_k % blocks_c * quads_c;
    let split = i / (blocks_k * blocks_c);
    if (split >= params.splits) {
        return;
    }
    let start = split * params.split_rows;
    let end = min(start + params.split_rows, params.rows);
    var sum_00 = mat4x4<f32>();
    var sum_01 = mat4x4<f32>();
    var sum_10 = mat4x4<f32>();
    var sum_11 = mat4x4<f32>();
    let turns = (end - start + TURN - 1u) / TURN;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: array<vec4<f32>, MAX_SHARE>;
        var channel_share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turns) {
            let m = start + turn * TURN;
            for (var j = 0u; j < ROW_SHARE; j++) {
                let part = j * LANES_OF_TILE + lane;
                let row = m + part / quads_c;
                let inside = select(0.0, 1.0, row < end);
                row_share[j] = load4(x[min(row, end - 1u) * params.c4 + min(c + part % quads_c, params.c4 - 1u)]) * inside;
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let part = j * LANES_OF_TILE + lane;
                let row = min(m + part / TILE_QUADS, end - 1u);
                channel_share[j] = load4(gradient[row * params.k4 + min(k + part % TILE_QUADS, params.k4 - 1u)]);
            }
        }
        if (turn > 0u) {
            let buffer = (turn - 1u) % 2u * TURN;
            for (var m = 0u; m < TURN; m++) {
                let a0 = staged_rows[(buffer + m) * quads_c + at.y];
                let a1 = staged_rows[(buffer + m) * quads_c + at.y + ROW_LANES];
                let d0 = staged_channels[(buffer + m) * TILE_QUADS + at.x];
                let d1 = staged_channels[(buffer + m) * TILE_QUADS + at.x + CHANNEL_LANES];
                sum_00 = outer_add(sum_00, a0, d0);
                sum_01 = outer_add(sum_01, a0, d1);
                sum_10 = outer_add(sum_10, a1, d0);
                sum_11 = outer_add(sum_11, a1, d1);
            }
        }
        if (turn < turns) {
            let buffer = turn % 2u * TURN;
            for (var j = 0u; j < ROW_SHARE; j++) {
                staged_rows[buffer * quads_c + j * LANES_OF_TILE + lane] = row_share[j];
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                staged_channels[buffer * TILE_QUADS + j * LANES_OF_TILE + lane] = channel_share[j];
            }
        }
        workgroupBarrier();
    }
    let first = split * params.c4 * 4u;
    store_partial(sum_00, first, c + at.y, k + at.x);
    store_partial(sum_01, first, c + at.y, k + at.x + CHANNEL_LANES);
    store_partial(sum_10, first, c + at.y + ROW_LANES, k + at.x);
    store_partial(sum_11, first, c + at.y + ROW_LANES, k + at.x + CHANNEL_LANES);
}
