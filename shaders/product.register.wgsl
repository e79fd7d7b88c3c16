// Variant `register`: a lane owns a tile of LANE_ROWS rows x 2 quads of channels in registers (8 channels x LANE_QUADS quads of
// dW); no workgroup memory, no barriers. Lanes run over channels first: a wave reads neighbouring weights and the same x.

const TILE_ROWS = LANE_ROWS;
const TILE_QUADS = 2u;
const WEIGHT_TILE_C = 2u;
const WEIGHT_TILE_K = LANE_QUADS;
const TURN_QUADS = 1u;
const TURN_ROWS = 1u;

@compute @workgroup_size(64)
fn forward(invocation: Invocation) {
    let tile = tile_of(index_of(invocation, 64u), params.k4);
    let first = tile.row * TILE_ROWS;
    let rows = output_rows();
    if (first >= rows) {
        return;
    }
    let k = tile.quad;
    let second = select(0u, 1u, k + 1u < params.k4);

    var corner: array<Corner, TILE_ROWS>;
    var sum: array<vec4<f32>, 2u * TILE_ROWS>;
    for (var j = 0u; j < TILE_ROWS; j++) {
        corner[j] = corner_at(position(min(first + j, rows - 1u)));
        sum[2u * j] = bias[k];
        sum[2u * j + 1u] = bias[k + second];
    }
    for (var r = 0u; r < taps().x; r++) {
        for (var s = 0u; s < taps().y; s++) {
            var tap: array<Tap, TILE_ROWS>;
            for (var j = 0u; j < TILE_ROWS; j++) {
                tap[j] = tap_of(corner[j], r, s);
            }
            var from_weight = weight_row(r, s, 0u) + k;
            for (var c = 0u; c < params.c4; c++) {
                let a = load_weight(from_weight);
                let b = load_weight(from_weight + second);
                from_weight += 4u * params.k4;
                for (var j = 0u; j < TILE_ROWS; j++) {
                    let v = load4(x[tap[j].offset + c]) * tap[j].inside;
                    sum[2u * j] = multiply_add(sum[2u * j], a, v);
                    sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
                }
            }
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_output(sum[2u * j], first + j, k);
        store_output(sum[2u * j + 1u], first + j, k + 1u);
    }
}

@compute @workgroup_size(64)
fn backward_data(invocation: Invocation) {
    let tile = tile_of(index_of(invocation, 64u), params.c4);
    let inputs = inputs_of(tile.row);
    if (inputs.start >= inputs.rows) {
        return;
    }
    let c = tile.quad;
    let second = select(0u, 4u * params.k4, c + 1u < params.c4);

    var sum: array<vec4<f32>, 2u * TILE_ROWS>;
    for (var r = first_tap(inputs).x; r < taps().x; r += stride()) {
        for (var s = first_tap(inputs).y; s < taps().y; s += stride()) {
            var tap: array<Tap, TILE_ROWS>;
            for (var j = 0u; j < TILE_ROWS; j++) {
                tap[j] = output_of(input_of(inputs, min(inputs.start + j, inputs.rows - 1u)), r, s);
            }
            let from_weight = weight_row(r, s, 4u * c);
            for (var k = 0u; k < params.k4; k++) {
                let a = transpose(load_weight(from_weight + k));
                let b = transpose(load_weight(from_weight + k + second));
                for (var j = 0u; j < TILE_ROWS; j++) {
                    let v = load4(dy[tap[j].offset + k]) * tap[j].inside;
                    sum[2u * j] = multiply_add(sum[2u * j], a, v);
                    sum[2u * j + 1u] = multiply_add(sum[2u * j + 1u], b, v);
                }
            }
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_input(sum[2u * j], inputs, inputs.start + j, c);
        store_input(sum[2u * j + 1u], inputs, inputs.start + j, c + 1u);
    }
}

@compute @workgroup_size(64)
fn backward_weight(invocation: Invocation) {
    let tile = weight_tile(index_of(invocation, 64u));
    if (!tile.exists) {
        return;
    }
    var sum: array<vec4<f32>, 8u * WEIGHT_TILE_K>;
    var row = position(tile.start);     // counted on, because divisions are dear
    for (var m = tile.start; m < tile.end; m++) {
        let a = load_met(tile, row, m, tile.c);
        let b = load_met(tile, row, m, tile.c + 1u);
        for (var j = 0u; j < WEIGHT_TILE_K; j++) {
            let d = load_gradient(tile, m, tile.k + j);
            for (var channel = 0u; channel < 4u; channel++) {
                sum[channel * WEIGHT_TILE_K + j] += a[channel] * d;
                sum[(channel + 4u) * WEIGHT_TILE_K + j] += b[channel] * d;
            }
        }
        row = advance(row, position(1u));
    }
    for (var channel = 0u; channel < 8u; channel++) {
        for (var j = 0u; j < WEIGHT_TILE_K; j++) {
            store_weight(sum[channel * WEIGHT_TILE_K + j], tile, 4u * tile.c + channel, tile.k + j);
        }
    }
}
