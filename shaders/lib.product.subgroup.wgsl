// Variant `subgroup`, see lib.subgroup.wgsl: a subgroup owns a tile of 32 rows x LANES quads of channels (of dW: 32 channels of x
// by LANES quads); a lane keeps one quad of each row in registers. What is handed round is of x, or of dy in backward_data.

const TILE_ROWS = 32u;
override TILE_QUADS = LANES;
const WEIGHT_TILE_C = TILE_ROWS / TURN_ROWS;
override WEIGHT_TILE_K = LANES;
const TURN_QUADS = 1u;
const TURN_ROWS = 4u;   // as many as a quad has channels, so that the tiles are those of `forward`

const MAX_SHARE = 8u;   // the quads that a lane loads for all, at the most
override SHARE = TILE_ROWS / LANES;

alias Share = array<vec4<f32>, MAX_SHARE>;
alias Sums = array<vec4<f32>, TILE_ROWS>;

// Adds the rows of which each lane holds its share, times w.
fn multiply(sum: ptr<function, Sums>, w: mat4x4<f32>, share: ptr<function, Share>) {
    for (var j = 0u; j < TILE_ROWS; j++) {
        let v = subgroupShuffle((*share)[j / LANES], j % LANES);
        (*sum)[j] = multiply_add((*sum)[j], w, v);
    }
}

@compute @workgroup_size(LANES)
fn forward(workgroup: Workgroup, at: SubgroupInvocation) {
    let tile = tile_of(group_index(workgroup), params.k4);
    let first = tile.row * TILE_ROWS;
    let rows = output_rows();
    if (first >= rows) {
        return;
    }
    let own = tile.quad + at.lane;
    let k = min(own, params.k4 - 1u);

    var corner: array<Corner, MAX_SHARE>;
    var sum: Sums;
    for (var j = 0u; j < SHARE; j++) {
        corner[j] = corner_at(position(min(first + j * LANES + at.lane, rows - 1u)));
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        sum[j] = bias[k];
    }
    for (var r = 0u; r < taps().x; r++) {
        for (var s = 0u; s < taps().y; s++) {
            var tap: array<Tap, MAX_SHARE>;
            for (var j = 0u; j < SHARE; j++) {
                tap[j] = tap_of(corner[j], r, s);
            }
            var from_weight = weight_row(r, s, 0u) + k;
            for (var c = 0u; c < params.c4; c++) {
                var share: Share;
                for (var j = 0u; j < SHARE; j++) {
                    share[j] = load4(x[tap[j].offset + c]) * tap[j].inside;
                }
                multiply(&sum, load_weight(from_weight), &share);
                from_weight += 4u * params.k4;
            }
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_output(sum[j], first + j, own);
    }
}

@compute @workgroup_size(LANES)
fn backward_data(workgroup: Workgroup, at: SubgroupInvocation) {
    let tile = tile_of(group_index(workgroup), params.c4);
    let inputs = inputs_of(tile.row);
    if (inputs.start >= inputs.rows) {
        return;
    }
    let own = tile.quad + at.lane;
    let c = min(own, params.c4 - 1u);

    var reach: array<Reach, MAX_SHARE>;
    var sum: Sums;
    for (var j = 0u; j < SHARE; j++) {
        reach[j] = reach_of(input_of(inputs, min(inputs.start + j * LANES + at.lane, inputs.rows - 1u)));
    }
    for (var r = first_tap(inputs).x; r < taps().x; r += stride()) {
        for (var s = first_tap(inputs).y; s < taps().y; s += stride()) {
            var tap: array<Tap, MAX_SHARE>;
            for (var j = 0u; j < SHARE; j++) {
                tap[j] = output_of(reach[j], r, s);
            }
            let from_weight = weight_row(r, s, 4u * c);
            for (var k = 0u; k < params.k4; k++) {
                var share: Share;
                for (var j = 0u; j < SHARE; j++) {
                    share[j] = load4(dy[tap[j].offset + k]) * tap[j].inside;
                }
                multiply(&sum, transpose(load_weight(from_weight + k)), &share);
            }
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_input(sum[j], inputs, inputs.start + j, own);
    }
}

// Quad i of x in row j of the turn is loaded by lane (4 i + j) mod LANES as its share (4 i + j) / LANES.
@compute @workgroup_size(LANES)
fn backward_weight(workgroup: Workgroup, at: SubgroupInvocation) {
    let tile = weight_tile(group_index(workgroup));
    if (!tile.exists) {
        return;
    }
    let own = tile.k + at.lane;

    // The row of dy that each share belongs to; counted on, because divisions cost more than the sums.
    var row: array<Position, MAX_SHARE>;
    var sum: array<mat4x4<f32>, WEIGHT_TILE_C>;
    var bias_sum = vec4<f32>();
    for (var j = 0u; j < SHARE; j++) {
        row[j] = position(tile.start + (j * LANES + at.lane) % TURN_ROWS);
    }
    let turn = position(TURN_ROWS);
    for (var m = tile.start; m < tile.end; m += TURN_ROWS) {
        var share: Share;
        for (var j = 0u; j < SHARE; j++) {
            let part = j * LANES + at.lane;
            share[j] = load_met(tile, row[j], m + part % TURN_ROWS, tile.c + part / TURN_ROWS);
            row[j] = advance(row[j], turn);
        }
        let d = mat4x4<f32>(load_gradient(tile, m, own), load_gradient(tile, m + 1u, own), load_gradient(tile, m + 2u, own), load_gradient(tile, m + 3u, own));
        for (var i = 0u; i < WEIGHT_TILE_C; i++) {
            for (var j = 0u; j < TURN_ROWS; j++) {
                let a = subgroupShuffle(share[(4u * i + j) / LANES], (4u * i + j) % LANES);
                sum[i] = outer_add(sum[i], a, d[j]);
            }
        }
        if (tile.sums_bias) {
            for (var j = 0u; j < min(TURN_ROWS, tile.end - m); j++) {
                bias_sum += d[j];
            }
        }
    }
    for (var i = 0u; i < WEIGHT_TILE_C; i++) {
        store_weight(sum[i], tile, tile.c + i, own);
    }
    if (tile.sums_bias) {
        store_bias(bias_sum, tile, own);
    }
}
