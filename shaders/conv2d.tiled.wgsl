// Variant `tiled`, for GPUs: tiles staged in workgroup memory, see lib.tiled.wgsl; the loads of a turn gather what the taps meet.

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.k4 + TILE_QUADS - 1u) / TILE_QUADS;
    let first = i / blocks * TILE_ROWS;
    let rows = params.n * params.p * params.q;
    if (first >= rows) {
        return;
    }
    let k = i % blocks * TILE_QUADS;
    let quad = lane % STEP;

    var corner: array<vec3<i32>, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        corner[j] = corner_of(min(first + (j * LANES_OF_TILE + lane) / STEP, rows - 1u));
    }
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < ROWS; j++) {
        left[j] = bias[min(k + at.x, params.k4 - 1u)];
        right[j] = bias[min(k + at.x + CHANNEL_LANES, params.k4 - 1u)];
    }
    let turns = params.r * params.s * ((params.c4 + STEP - 1u) / STEP);
    var tap: array<Tap, MAX_SHARE>;
    var r = 0u;
    var s = 0u;
    var c = 0u;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: array<vec4<f32>, MAX_SHARE>;
        var channel_share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turns) {
            for (var j = 0u; j < ROW_SHARE; j++) {
                if (c == 0u) {
                    tap[j] = tap_of(corner[j], r, s);
                }
                let inside = select(0.0, tap[j].inside, c + quad < params.c4);
                row_share[j] = load4(x[tap[j].offset + min(c + quad, params.c4 - 1u)]) * inside;
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let part = j * LANES_OF_TILE + lane;
                let channel = min(4u * c + part / TILE_QUADS, 4u * params.c4 - 1u);
                let from_weight = ((r * params.s + s) * params.c4 * 4u + channel) * params.k4;
                channel_share[j] = load4(weight[from_weight + min(k + part % TILE_QUADS, params.k4 - 1u)]);
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
            c += STEP;
            if (c >= params.c4) {
                c = 0u;
                s += 1u;
            }
            if (s == params.s) {
                s = 0u;
                r += 1u;
            }
        }
        workgroupBarrier();
    }
    let own = k + at.x;
    for (var j = 0u; j < ROWS; j++) {
        let row = first + at.y + j * ROW_LANES;
        if (row < rows && own < params.k4) {
            y[row * params.k4 + own] = finish(left[j], row, own);
        }
        if (row < rows && own + CHANNEL_LANES < params.k4) {
            y[row * params.k4 + own + CHANNEL_LANES] = finish(right[j], row, own + CHANNEL_LANES);
        }
    }
}

// The taps of a parity: every stride-th from `first` on.
fn taps_from(first: u32, taps: u32) -> u32 {
    return (max(first, taps) - first + params.stride - 1u) / params.stride;
}

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.c4 + TILE_QUADS - 1u) / TILE_QUADS;
    let parity = parity_of(i / blocks, TILE_ROWS);
    if (!parity.exists) {
        return;
    }
    let first = parity.tile * TILE_ROWS;
    let rows = params.n * parity.extent.x * parity.extent.y;
    let c = i % blocks * TILE_QUADS;
    let quad = lane % STEP;

    var input: array<vec3<u32>, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        input[j] = input_of(parity, min(first + (j * LANES_OF_TILE + lane) / STEP, rows - 1u));
    }
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < ROWS; j++) {
        left[j] = vec4<f32>();
        right[j] = vec4<f32>();
    }
    let first_tap = (parity.first + params.pad) % params.stride;
    let turns = taps_from(first_tap.x, params.r) * taps_from(first_tap.y, params.s) * ((params.k4 + STEP - 1u) / STEP);
    var tap: array<Tap, MAX_SHARE>;
    var r = first_tap.x;
    var s = first_tap.y;
    var k = 0u;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: array<vec4<f32>, MAX_SHARE>;
        var channel_share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turns) {
            for (var j = 0u; j < ROW_SHARE; j++) {
                if (k == 0u) {
                    tap[j] = output_of(input[j], r, s);
                }
                let inside = select(0.0, tap[j].inside, k + quad < params.k4);
                row_share[j] = load4(dy[tap[j].offset + min(k + quad, params.k4 - 1u)]) * inside;
            }
            for (var j = 0u; j < CHANNEL_SHARE; j++) {
                let channel = min(4u * c + (j * LANES_OF_TILE + lane) / STEP, 4u * params.c4 - 1u);
                let from_weight = ((r * params.s + s) * params.c4 * 4u + channel) * params.k4;
                channel_share[j] = load4(weight[from_weight + min(k + quad, params.k4 - 1u)]);
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
            k += STEP;
            if (k >= params.k4) {
                k = 0u;
                s += params.stride;
            }
            if (s >= params.s) {
                s = first_tap.y;
                r += params.stride;
            }
        }
        workgroupBarrier();
    }
    let own = c + at.x;
    for (var j = 0u; j < ROWS; j++) {
        let row = first + at.y + j * ROW_LANES;
        let to = input_of(parity, row);
        let pixel = (to.x * params.h + to.y) * params.w + to.z;
        if (row < rows && own < params.c4) {
            dx[pixel * params.c4 + own] = store4(left[j]);
        }
        if (row < rows && own + CHANNEL_LANES < params.c4) {
            dx[pixel * params.c4 + own + CHANNEL_LANES] = store4(right[j]);
        }
    }
}

// Rows of dy in a turn of backward_weight.
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

// A tile is 2 ROW_LANES quads of x by 2 CHANNEL_LANES quads of dy, at one tap.
@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups);
    let quads_c = 2u * ROW_LANES;
    let blocks_k = (params.k4 + TILE_QUADS - 1u) / TILE_QUADS;
    let blocks_c = (params.c4 + quads_c - 1u) / quads_c;
    let k = i % blocks_k * TILE_QUADS;
    let c = i / blocks_k % blocks_c * quads_c;
    let tap = i / (blocks_k * blocks_c) % (params.r * params.s);
    let split = i / (blocks_k * blocks_c * params.r * params.s);
    if (split >= params.splits) {
        return;
    }
    let start = split * params.split_rows;
    let end = min(start + params.split_rows, params.n * params.p * params.q);

    // The row of dy that each share of x belongs to as image, row, column; counted on, because divisions are dear.
    var place: array<vec3<u32>, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        place[j] = position(start + (j * LANES_OF_TILE + lane) / quads_c);
    }
    let turn_length = position(TURN);
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
                let corner = vec3<i32>(place[j] * vec3<u32>(1u, params.stride, params.stride)) - vec3<i32>(0, i32(params.pad), i32(params.pad));
                let source = tap_of(corner, tap / params.s, tap % params.s);
                let inside = select(0.0, source.inside, m + part / quads_c < end);
                row_share[j] = load4(x[select(0u, source.offset, inside == 1.0) + min(c + part % quads_c, params.c4 - 1u)]) * inside;
                place[j] = advance(place[j], turn_length);
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
    let first = (split * params.r * params.s + tap) * params.c4 * 4u;
    store_partial(sum_00, first, c + at.y, k + at.x);
    store_partial(sum_01, first, c + at.y, k + at.x + CHANNEL_LANES);
    store_partial(sum_10, first, c + at.y + ROW_LANES, k + at.x);
    store_partial(sum_11, first, c + at.y + ROW_LANES, k + at.x + CHANNEL_LANES);
}
