// Variant `coop`: matrix units, see lib.coop.wgsl. Workgroups beyond the grid compute what they do not store: a return
// would leave control flow that no compiler can see to be uniform. The rows and channels of each side are gathered while they are
// staged.

const TILE_ROWS = TILE;
const TILE_QUADS = QUADS;
const WEIGHT_TILE_C = QUADS;
const WEIGHT_TILE_K = QUADS;
const TURN_QUADS = STEP / 4u;
const TURN_ROWS = STEP;

fn accumulate() {
    c00 = coopMultiplyAdd(a0, b0, c00);
    c01 = coopMultiplyAdd(a0, b1, c01);
    c10 = coopMultiplyAdd(a1, b0, c10);
    c11 = coopMultiplyAdd(a1, b1, c11);
}

// Each side is staged in rows of STEP, or in lines of TILE. No condition says which: no compiler could see that it is uniform.
fn load_left_rows(unit: u32, inner: u32) {
    let row = corner_of_unit(unit).x;
    a0 = coopLoadT<Left>(&left[row * STEP + inner], STEP);
    a1 = coopLoadT<Left>(&left[(row + SIDE) * STEP + inner], STEP);
}

fn load_left_lines(unit: u32, inner: u32) {
    let row = corner_of_unit(unit).x;
    a0 = coopLoad<Left>(&left[inner * TILE + row], TILE);
    a1 = coopLoad<Left>(&left[inner * TILE + row + SIDE], TILE);
}

fn load_right_rows(unit: u32, inner: u32) {
    let column = corner_of_unit(unit).y;
    b0 = coopLoad<Right>(&right[column * STEP + inner], STEP);
    b1 = coopLoad<Right>(&right[(column + SIDE) * STEP + inner], STEP);
}

// Each waits until all is staged, and until all is read.
fn multiply_rows_by_lines(unit: u32) {
    workgroupBarrier();
    for (var inner = 0u; inner < STEP; inner += SIDE) {
        load_left_rows(unit, inner);
        load_right_lines(unit, inner);
        accumulate();
    }
    workgroupBarrier();
}

fn multiply_rows_by_rows(unit: u32) {
    workgroupBarrier();
    for (var inner = 0u; inner < STEP; inner += SIDE) {
        load_left_rows(unit, inner);
        load_right_rows(unit, inner);
        accumulate();
    }
    workgroupBarrier();
}

fn multiply_lines_by_lines(unit: u32) {
    workgroupBarrier();
    for (var inner = 0u; inner < STEP; inner += SIDE) {
        load_left_lines(unit, inner);
        load_right_lines(unit, inner);
        accumulate();
    }
    workgroupBarrier();
}

// Of a side in rows, a lane stages the same quad of the inner dimension of rows LANES apart.
fn row_of(j: u32, lane: u32) -> u32 {
    return j * LANES + lane / 4u;
}

fn row_slot(j: u32, lane: u32) -> u32 {
    return row_of(j, lane) * STEP + 4u * (lane % 4u);
}

// Of a side in lines, quad t.
fn line_slot(t: u32) -> u32 {
    return t / QUADS * TILE + 4u * (t % QUADS);
}

@compute @workgroup_size(4u * LANES)
fn forward(workgroup: Workgroup, at: MatrixInvocation) {
    let tile = tile_of(group_index(workgroup), params.k4);
    let first = tile.row * TILE_ROWS;
    var corner: array<Corner, SHARE>;
    for (var j = 0u; j < TILE / LANES; j++) {
        corner[j] = corner_at(position(min(first + row_of(j, at.lane), output_rows() - 1u)));
    }
    for (var tap = 0u; tap < tap_count(); tap++) {
        let r = tap / taps().y;
        let s = tap % taps().y;
        for (var c = 0u; c < params.c4; c += TURN_QUADS) {
            let quad = c + at.lane % 4u;
            for (var j = 0u; j < TILE / LANES; j++) {
                let source = tap_of(corner[j], r, s);
                let inside = select(0.0, source.inside, quad < params.c4);
                stage_left(row_slot(j, at.lane), load4(x[source.offset + min(quad, params.c4 - 1u)]) * inside);
            }
            for (var t = at.lane; t < STEP * QUADS; t += 4u * LANES) {
                let channel = min(4u * c + t / QUADS, 4u * params.c4 - 1u);
                stage_right(line_slot(t), load4(weight[weight_row(r, s, channel) + min(tile.quad + t % QUADS, params.k4 - 1u)]));
            }
            multiply_rows_by_lines(at.unit);
        }
    }
    for (var part = 0u; part < 4u; part++) {
        lay_out(part, at.unit);
        for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
            let k = tile.quad + quad_in_tile(part, at.unit, t);
            store_output(bias[min(k, params.k4 - 1u)] + result4(at.unit, t), first + row_in_tile(part, at.unit, t), k);
        }
    }
}

@compute @workgroup_size(4u * LANES)
fn backward_data(workgroup: Workgroup, at: MatrixInvocation) {
    let tile = tile_of(group_index(workgroup), params.c4);
    let inputs = inputs_of(tile.row);
    var reach: array<Reach, SHARE>;
    for (var j = 0u; j < TILE / LANES; j++) {
        reach[j] = reach_of(input_of(inputs, min(inputs.start + row_of(j, at.lane), inputs.rows - 1u)));
    }
    for (var r = first_tap(inputs).x; r < taps().x; r += stride()) {
        for (var s = first_tap(inputs).y; s < taps().y; s += stride()) {
            for (var k = 0u; k < params.k4; k += TURN_QUADS) {
                let quad = k + at.lane % 4u;
                let loaded = min(quad, params.k4 - 1u);
                for (var j = 0u; j < TILE / LANES; j++) {
                    let source = output_of(reach[j], r, s);
                    let inside = select(0.0, source.inside, quad < params.k4);
                    stage_left(row_slot(j, at.lane), load4(dy[source.offset + loaded]) * inside);
                    // Row (input channel) by row of the weight, as it lies in memory.
                    let channel = min(4u * tile.quad + row_of(j, at.lane), 4u * params.c4 - 1u);
                    stage_right(row_slot(j, at.lane), load4(weight[weight_row(r, s, channel) + loaded]));
                }
                multiply_rows_by_rows(at.unit);
            }
        }
    }
    for (var part = 0u; part < 4u; part++) {
        lay_out(part, at.unit);
        for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
            let row = inputs.start + row_in_tile(part, at.unit, t);
            store_input(result4(at.unit, t), inputs, row, tile.quad + quad_in_tile(part, at.unit, t));
        }
    }
}

@compute @workgroup_size(4u * LANES)
fn backward_weight(workgroup: Workgroup, at: MatrixInvocation) {
    let tile = weight_tile(group_index(workgroup));
    for (var m = tile.start; m < tile.end; m += TURN_ROWS) {
        for (var t = at.lane; t < STEP * QUADS; t += 4u * LANES) {
            let row = m + t / QUADS;
            stage_left(line_slot(t), load_met(tile, position(row), row, tile.c + t % QUADS));
            stage_right(line_slot(t), load_gradient(tile, row, tile.k + t % QUADS));
        }
        multiply_lines_by_lines(at.unit);
    }
    for (var part = 0u; part < 4u; part++) {
        lay_out(part, at.unit);
        for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
            let channel = 4u * tile.c + row_in_tile(part, at.unit, t);
            let k = tile.k + quad_in_tile(part, at.unit, t);
            if (tile.exists && channel < 4u * params.c4 && k < params.k4) {
                partial[(tile.first + channel) * params.k4 + k] = result4(at.unit, t);
            }
        }
    }
    if (tile.exists && tile.sums_bias && at.lane < QUADS) {
        sum_bias(tile, tile.k + at.lane);
    }
}
