// Variant `register`: a lane owns a tile of TILE_ROWS rows x 2 quads of channels in registers (8 channels x WEIGHT_TILE_K quads of
// dW), as small as no GPU we know spills, larger for drivers that compute on the CPU; no workgroup memory, no barriers. Lanes run
// over channels first: a wave reads neighbouring weights and the same x.

override TILE_ROWS = 4u;        // 8 at the most
const TILE_QUADS = 2u;
const WEIGHT_TILE_C = 2u;
override WEIGHT_TILE_K = 2u;    // 4 at the most
const TURN_QUADS = 1u;
const TURN_ROWS = 1u;

const MAX_ROWS = 8u;
const MAX_QUADS = 4u;

// One quad of each row.
alias Sums = array<vec4<f32>, MAX_ROWS>;

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

    var corner: array<Corner, MAX_ROWS>;
    var left: Sums;
    var right: Sums;
    for (var j = 0u; j < TILE_ROWS; j++) {
        corner[j] = corner_at(position(min(first + j, rows - 1u)));
        left[j] = biases(k);
        right[j] = biases(k + second);
    }
    for (var r = 0u; r < taps().x; r++) {
        for (var s = 0u; s < taps().y; s++) {
            var tap: array<Tap, MAX_ROWS>;
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
                    left[j] = multiply_add(left[j], a, v);
                    right[j] = multiply_add(right[j], b, v);
                }
            }
        }
    }
    for (var quad = 0u; quad < shortcut_quads(); quad++) {
        let a = load_shortcut_weight(quad, k);
        let b = load_shortcut_weight(quad, k + second);
        for (var j = 0u; j < TILE_ROWS; j++) {
            let v = load_shortcut(min(first + j, rows - 1u), quad);
            left[j] = multiply_add(left[j], a, v);
            right[j] = multiply_add(right[j], b, v);
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_output(left[j], first + j, k);
        store_output(right[j], first + j, k + 1u);
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

    var left: Sums;
    var right: Sums;
    for (var r = first_tap(inputs).x; r < taps().x; r += stride()) {
        for (var s = first_tap(inputs).y; s < taps().y; s += stride()) {
            var tap: array<Tap, MAX_ROWS>;
            for (var j = 0u; j < TILE_ROWS; j++) {
                tap[j] = output_of(reach_of(input_of(inputs, min(inputs.start + j, inputs.rows - 1u))), r, s);
            }
            let from_weight = weight_row(r, s, 4u * c);
            for (var k = 0u; k < params.k4; k++) {
                let a = transpose(load_weight(from_weight + k));
                let b = transpose(load_weight(from_weight + k + second));
                for (var j = 0u; j < TILE_ROWS; j++) {
                    let v = load4(dy[tap[j].offset + k]) * tap[j].inside;
                    left[j] = multiply_add(left[j], a, v);
                    right[j] = multiply_add(right[j], b, v);
                }
            }
        }
    }
    for (var j = 0u; j < TILE_ROWS; j++) {
        store_input(left[j], inputs, inputs.start + j, c);
        store_input(right[j], inputs, inputs.start + j, c + 1u);
    }
}

@compute @workgroup_size(64)
fn backward_weight(invocation: Invocation) {
    let tile = weight_tile(index_of(invocation, 64u));
    if (!tile.exists) {
        return;
    }
    var upper: array<mat4x4<f32>, MAX_QUADS>;
    var lower: array<mat4x4<f32>, MAX_QUADS>;
    var row = position(tile.start);     // counted on, because divisions are dear
    for (var m = tile.start; m < tile.end; m++) {
        let a = load_met(tile, row, m, tile.c);
        let b = load_met(tile, row, m, tile.c + 1u);
        for (var j = 0u; j < WEIGHT_TILE_K; j++) {
            let d = load_gradient(tile, m, tile.k + j);
            upper[j] = outer_add(upper[j], a, d);
            lower[j] = outer_add(lower[j], b, d);
        }
        row = advance(row, position(1u));
    }
    for (var j = 0u; j < WEIGHT_TILE_K; j++) {
        store_weight(upper[j], tile, tile.c, tile.k + j);
        store_weight(lower[j], tile, tile.c + 1u, tile.k + j);
        if (tile.sums_bias) {
            sum_bias(tile, tile.k + j);
        }
    }
}
