// Variant `tiled`, for GPUs: a workgroup owns a tile of 8 ROW_LANES rows x
// 8 CHANNEL_LANES channels (of dW: channels of x by channels of dy), a lane 8 rows x 2 quads of it in registers. Each turn
// stages 8 values of the summed axis in workgroup memory; the loads of a turn are under way while the one before is
// multiplied, one barrier a turn. The loads gather what the taps meet.
//
// A lane: 64 sums, 32 weights, 4 to 16 values staged, addresses: about 130 registers. A turn is 512 multiply-adds of a lane on
// 32 vec4 of workgroup memory: 2 FLOP/byte before broadcasts, as many as a wave's lanes share most of what they read.
//   tile of lanes   workgroup memory   FLOP per byte of global memory   resident on a NVIDIA SM (64 Ki registers)
//   8 x 8           8 KiB              16                               7 workgroups of 64 lanes
//   16 x 8          12 KiB             21                               3 workgroups of 128 lanes
//   16 x 16         16 KiB             32                               1 workgroup of 256 lanes
// Lines are padded so that neither storing nor reading meets a bank twice, where that fits; what a lane reads of a turn is then at
// constant distances from one place.

override ROW_LANES = 16u;       // 8 or 16
override CHANNEL_LANES = 8u;    // 8 or 16

override ROWS = 8u;             // of a lane: 8 or 4
const MAX_ROWS = 8u;
const STEP = 2u;                // quads of the summed axis in a turn
const MAX_SHARE = 2u;           // of quads that a lane stages in a turn

override TILE_ROWS = ROWS * ROW_LANES;
override TILE_QUADS = 2u * CHANNEL_LANES;
override LANE_QUADS_C = ROWS / 4u;     // of channels of x that a lane multiplies in backward_weight
override WEIGHT_TILE_C = LANE_QUADS_C * ROW_LANES;
override WEIGHT_TILE_K = TILE_QUADS;
const TURN_QUADS = STEP;
const TURN_ROWS = 4u * STEP;

override LANES_OF_TILE = ROW_LANES * CHANNEL_LANES;
override ROW_SHARE = ROWS * STEP / CHANNEL_LANES;
override CHANNEL_SHARE = 8u * STEP / ROW_LANES;

override PAD = 1u;           // 0: not, where workgroup memory is full
override ROW_LINE = TILE_ROWS + 4u * PAD;
override CHANNEL_LINE = TILE_QUADS + PAD;

// Two buffers each: one is read while the other is written.
var<workgroup> staged_rows: array<vec4<f32>, 2u * STEP * ROW_LINE>;
var<workgroup> staged_channels: array<vec4<f32>, 8u * STEP * CHANNEL_LINE>;

// What a lane has loaded of a turn, and the one quad of sums that it has of each of its rows. What is to count as 0 is known when
// it is loaded and made 0 when it is staged, so that nobody waits for a load before a turn is multiplied.
alias Share = array<vec4<f32>, MAX_SHARE>;
alias Inside = array<f32, MAX_SHARE>;
alias Sums = array<vec4<f32>, MAX_ROWS>;

// Which of the quads of a turn share j of a lane is.
fn part_of(j: u32, lane: u32) -> u32 {
    return j * LANES_OF_TILE + lane;
}

// Quad `step` of the summed axis, of one row.
fn row_slot(buffer: u32, step: u32, row: u32) -> u32 {
    return (buffer * STEP + step) * ROW_LINE + row;
}

// Line `line` of 4 STEP, quad `quad` of it.
fn channel_slot(buffer: u32, line: u32, quad: u32) -> u32 {
    return (buffer * 4u * STEP + line) * CHANNEL_LINE + quad;
}

// The rows of a turn: each lane has a quad of the summed axis, lane mod STEP.
fn stage_rows(turn: u32, share: ptr<function, Share>, inside: ptr<function, Inside>, lane: u32) {
    for (var j = 0u; j < ROW_SHARE; j++) {
        staged_rows[row_slot(turn % 2u, lane % STEP, part_of(j, lane) / STEP)] = (*share)[j] * (*inside)[j];
    }
}

// The lines of a turn.
fn stage_lines(turn: u32, share: ptr<function, Share>, lane: u32) {
    for (var j = 0u; j < CHANNEL_SHARE; j++) {
        let part = part_of(j, lane);
        staged_channels[channel_slot(turn % 2u, part / TILE_QUADS, part % TILE_QUADS)] = (*share)[j];
    }
}

// Four lines of a quad, as a column each.
fn staged_weights(buffer: u32, step: u32, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        staged_channels[channel_slot(buffer, 4u * step, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 1u, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 2u, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 3u, quad)],
    );
}

// Adds a lane's rows by its two quads, over one turn. Lines are channels of the summed axis or, transposed, of what is made.
fn multiply(left: ptr<function, Sums>, right: ptr<function, Sums>, turn: u32, at: TiledInvocation, transposed: bool) {
    let buffer = turn % 2u;
    for (var step = 0u; step < STEP; step++) {
        var w_left = staged_weights(buffer, step, at.place.x);
        var w_right = staged_weights(buffer, step, at.place.x + CHANNEL_LANES);
        if (transposed) {
            w_left = transpose(w_left);
            w_right = transpose(w_right);
        }
        for (var j = 0u; j < ROWS; j++) {
            let v = staged_rows[row_slot(buffer, step, at.place.y + j * ROW_LANES)];
            (*left)[j] = multiply_add((*left)[j], w_left, v);
            (*right)[j] = multiply_add((*right)[j], w_right, v);
        }
    }
}

// A tap and the quad of the summed axis where a turn begins.
struct Walk {
    r: u32,
    s: u32,
    quad: u32,
}

// The turn behind it, of `quads` quads at each tap from `first` on.
fn next_of(walk: Walk, quads: u32, first: vec2<u32>, stride: u32) -> Walk {
    var next = Walk(walk.r, walk.s, walk.quad + STEP);
    if (next.quad >= quads) {
        next.quad = 0u;
        next.s += stride;
    }
    if (next.s >= taps().y) {
        next.s = first.y;
        next.r += stride;
    }
    // Behind the last turn one is loaded that nobody reads.
    if (next.r >= taps().x) {
        next.r = first.x;
    }
    return next;
}

// Turns of a walk over `count` taps.
fn turns_of(count: u32, quads: u32) -> u32 {
    return count * ((quads + STEP - 1u) / STEP);
}

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn forward(workgroup: Workgroup, at: TiledInvocation) {
    let tile = tile_of(group_index(workgroup), params.k4);
    let first = tile.row * TILE_ROWS;
    let rows = output_rows();
    if (first >= rows) {
        return;
    }
    let own = tile.quad + at.place.x;

    var corner: array<Corner, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        corner[j] = corner_at(position(min(first + part_of(j, at.lane) / STEP, rows - 1u)));
    }
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < ROWS; j++) {
        left[j] = biases(min(own, params.k4 - 1u));
        right[j] = biases(min(own + CHANNEL_LANES, params.k4 - 1u));
    }
    var from_weight: array<u32, MAX_SHARE>;
    for (var j = 0u; j < CHANNEL_SHARE; j++) {
        let part = part_of(j, at.lane);
        from_weight[j] = part / TILE_QUADS * params.k4 + min(tile.quad + part % TILE_QUADS, params.k4 - 1u);
    }
    let last = tap_count() * 4u * params.c4 * params.k4 - 1u;
    let turns = turns_of(tap_count(), params.c4);
    var walk: Walk;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: Share;
        var inside: Inside;
        var channel_share: Share;
        let c = walk.quad + at.lane % STEP;
        for (var j = 0u; j < ROW_SHARE; j++) {
            let source = tap_of(corner[j], walk.r, walk.s);
            row_share[j] = load4(x[source.offset + min(c, params.c4 - 1u)]);
            inside[j] = select(0.0, source.inside, c < params.c4);
        }
        let lines = weight_tap(walk.r, walk.s) + 4u * walk.quad * params.k4;
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            channel_share[j] = load4(weight[min(lines + from_weight[j], last)]);
        }
        if (turn > 0u) {
            multiply(&left, &right, turn - 1u, at, false);
        }
        stage_rows(turn, &row_share, &inside, at.lane);
        stage_lines(turn, &channel_share, at.lane);
        walk = next_of(walk, params.c4, vec2<u32>(), 1u);
        workgroupBarrier();
    }
    let quads = shortcut_quads();
    for (var turn = 0u; turn <= turns_of(1u, quads) && quads > 0u; turn++) {
        var row_share: Share;
        var inside: Inside;
        var channel_share: Share;
        let quad = turn * STEP + at.lane % STEP;
        for (var j = 0u; j < ROW_SHARE; j++) {
            row_share[j] = load_shortcut(min(first + part_of(j, at.lane) / STEP, rows - 1u), min(quad, quads - 1u));
            inside[j] = select(0.0, 1.0, quad < quads);
        }
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            let line = 4u * turn * STEP * params.k4 + from_weight[j];
            channel_share[j] = load_shortcut_line(min(line, 4u * quads * params.k4 - 1u));
        }
        if (turn > 0u) {
            multiply(&left, &right, turn - 1u, at, false);
        }
        stage_rows(turn, &row_share, &inside, at.lane);
        stage_lines(turn, &channel_share, at.lane);
        workgroupBarrier();
    }
    for (var j = 0u; j < ROWS; j++) {
        let row = first + at.place.y + j * ROW_LANES;
        store_output(left[j], row, own);
        store_output(right[j], row, own + CHANNEL_LANES);
    }
}

// The taps of a parity along one axis: every stride-th from `first` on.
fn taps_from(first: u32, count: u32) -> u32 {
    return (max(first, count) - first + stride() - 1u) / stride();
}

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_data(workgroup: Workgroup, at: TiledInvocation) {
    let tile = tile_of(group_index(workgroup), params.c4);
    let inputs = inputs_of(tile.row);
    if (inputs.start >= inputs.rows) {
        return;
    }

    var reach: array<Reach, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        reach[j] = reach_of(input_of(inputs, min(inputs.start + part_of(j, at.lane) / STEP, inputs.rows - 1u)));
    }
    var left: Sums;
    var right: Sums;
    let first = first_tap(inputs);
    let turns = turns_of(taps_from(first.x, taps().x) * taps_from(first.y, taps().y), params.k4);
    var from_weight: array<u32, MAX_SHARE>;
    for (var j = 0u; j < CHANNEL_SHARE; j++) {
        from_weight[j] = min(4u * tile.quad + part_of(j, at.lane) / STEP, 4u * params.c4 - 1u) * params.k4;
    }
    var walk = Walk(first.x, first.y, 0u);
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: Share;
        var inside: Inside;
        var channel_share: Share;
        let k = walk.quad + at.lane % STEP;
        let loaded = min(k, params.k4 - 1u);
        for (var j = 0u; j < ROW_SHARE; j++) {
            let source = output_of(reach[j], walk.r, walk.s);
            row_share[j] = load4(dy[source.offset + loaded]);
            inside[j] = select(0.0, source.inside, k < params.k4);
        }
        let lines = weight_tap(walk.r, walk.s) + loaded;
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            channel_share[j] = load4(weight[lines + from_weight[j]]);
        }
        if (turn > 0u) {
            multiply(&left, &right, turn - 1u, at, true);
        }
        stage_rows(turn, &row_share, &inside, at.lane);
        // A line is a channel of four, of which each lane reads a quad of lines: transposed, they are as in `forward`.
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            let channel = part_of(j, at.lane) / STEP;
            staged_channels[channel_slot(turn % 2u, 4u * (at.lane % STEP) + channel % 4u, channel / 4u)] = channel_share[j];
        }
        walk = next_of(walk, params.k4, first, stride());
        workgroupBarrier();
    }
    // Found once more, so that nothing of it takes registers while the loop runs.
    let own_tile = tile_of(group_index(workgroup), params.c4);
    let own_inputs = inputs_of(own_tile.row);
    let own = own_tile.quad + at.place.x;
    for (var j = 0u; j < ROWS; j++) {
        let row = own_inputs.start + at.place.y + j * ROW_LANES;
        store_input(left[j], own_inputs, row, own);
        store_input(right[j], own_inputs, row, own + CHANNEL_LANES);
    }
}

@compute @workgroup_size(CHANNEL_LANES, ROW_LANES)
fn backward_weight(workgroup: Workgroup, at: TiledInvocation) {
    let tile = weight_tile(group_index(workgroup));
    if (!tile.exists) {
        return;
    }

    // The row of dy that each share of x belongs to; counted on, because divisions are dear.
    var row: array<Position, MAX_SHARE>;
    for (var j = 0u; j < ROW_SHARE; j++) {
        row[j] = position(tile.start + part_of(j, at.lane) / WEIGHT_TILE_C);
    }
    let turn_length = position(TURN_ROWS);
    var sum_00 = mat4x4<f32>();
    var sum_01 = mat4x4<f32>();
    var sum_10 = mat4x4<f32>();
    var sum_11 = mat4x4<f32>();
    let turns = (tile.end - tile.start + TURN_ROWS - 1u) / TURN_ROWS;
    for (var turn = 0u; turn <= turns; turn++) {
        var row_share: Share;
        var inside: Inside;
        var channel_share: Share;
        let first = tile.start + turn * TURN_ROWS;
        for (var j = 0u; j < ROW_SHARE; j++) {
            let part = part_of(j, at.lane);
            let source = met(tile, row[j], first + part / WEIGHT_TILE_C, tile.c + part % WEIGHT_TILE_C);
            row_share[j] = load4(x[source.offset]);
            inside[j] = source.inside;
            row[j] = advance(row[j], turn_length);
        }
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            let part = part_of(j, at.lane);
            channel_share[j] = load_gradient(tile, first + part / WEIGHT_TILE_K, tile.k + part % WEIGHT_TILE_K);
        }
        if (turn > 0u) {
            let buffer = (turn - 1u) % 2u * TURN_ROWS;
            for (var m = 0u; m < TURN_ROWS; m++) {
                let a0 = staged_rows[(buffer + m) * WEIGHT_TILE_C + at.place.y];
                let d0 = staged_channels[(buffer + m) * WEIGHT_TILE_K + at.place.x];
                let d1 = staged_channels[(buffer + m) * WEIGHT_TILE_K + at.place.x + CHANNEL_LANES];
                sum_00 = outer_add(sum_00, a0, d0);
                sum_01 = outer_add(sum_01, a0, d1);
                if (LANE_QUADS_C == 2u) {
                    let a1 = staged_rows[(buffer + m) * WEIGHT_TILE_C + at.place.y + ROW_LANES];
                    sum_10 = outer_add(sum_10, a1, d0);
                    sum_11 = outer_add(sum_11, a1, d1);
                }
            }
        }
        let buffer = turn % 2u * TURN_ROWS;
        for (var j = 0u; j < ROW_SHARE; j++) {
            staged_rows[buffer * WEIGHT_TILE_C + part_of(j, at.lane)] = row_share[j] * inside[j];
        }
        for (var j = 0u; j < CHANNEL_SHARE; j++) {
            staged_channels[buffer * WEIGHT_TILE_K + part_of(j, at.lane)] = channel_share[j];
        }
        workgroupBarrier();
    }
    let c = tile.c + at.place.y;
    let k = tile.k + at.place.x;
    store_weight(sum_00, tile, c, k);
    store_weight(sum_01, tile, c, k + CHANNEL_LANES);
    if (LANE_QUADS_C == 2u) {
        store_weight(sum_10, tile, c + ROW_LANES, k);
        store_weight(sum_11, tile, c + ROW_LANES, k + CHANNEL_LANES);
    }
    if (tile.sums_bias && at.lane < WEIGHT_TILE_K) {
        sum_bias(tile, tile.k + at.lane);
    }
}
