// Variant `coop`: matrix units, see lib.coop.wgsl. Workgroups beyond the grid compute what they do not store: a return
// would leave control flow that no compiler can see to be uniform. The rows and channels of each side are gathered while they are staged.

@compute @workgroup_size(4u * LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    let i = group_index(group, groups);
    let blocks = (params.k4 + QUADS - 1u) / QUADS;
    let first = i / blocks * TILE;
    let rows = params.n * params.p * params.q;
    let first_quad = i % blocks * QUADS;
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    // A lane stages the same quad of the inner dimension of rows LANES apart.
    var corner: array<vec3<i32>, SHARE>;
    for (var j = 0u; j < TILE / LANES; j++) {
        corner[j] = corner_of(min(first + j * LANES + lane / 4u, rows - 1u));
    }
    for (var tap = 0u; tap < params.r * params.s; tap++) {
        for (var c = 0u; c < params.c4; c += STEP / 4u) {
            let quad = c + lane % 4u;
            for (var j = 0u; j < TILE / LANES; j++) {
                let source = tap_of(corner[j], tap / params.s, tap % params.s);
                let inside = select(0.0, source.inside, quad < params.c4);
                stage_left((j * LANES + lane / 4u) * STEP + 4u * (lane % 4u), load4(x[source.offset + min(quad, params.c4 - 1u)]) * inside);
            }
            for (var t = lane; t < STEP * QUADS; t += 4u * LANES) {
                let channel = 4u * c + t / QUADS;
                let k = first_quad + t % QUADS;
                let at = (tap * 4u * params.c4 + min(channel, 4u * params.c4 - 1u)) * params.k4 + min(k, params.k4 - 1u);
                stage_right(t / QUADS * TILE + 4u * (t % QUADS), load4(weight[at]));
            }
            workgroupBarrier();
            for (var inner = 0u; inner < STEP; inner += SIDE) {
                let a0 = coopLoadT<Left>(&left[(row) * STEP + inner], STEP);
                let a1 = coopLoadT<Left>(&left[(row + SIDE) * STEP + inner], STEP);
                let b0 = coopLoadT<Right>(&right[inner * TILE + column], TILE);
                let b1 = coopLoadT<Right>(&right[inner * TILE + column + SIDE], TILE);
                c00 = coopMultiplyAdd(a0, b0, c00);
                c01 = coopMultiplyAdd(a0, b1, c01);
                c10 = coopMultiplyAdd(a1, b0, c10);
                c11 = coopMultiplyAdd(a1, b1, c11);
            }
            workgroupBarrier();
        }
    }
    coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_forward(own, unit, first + row, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_forward(own, unit, first + row, first_quad + (column + SIDE) / 4u);
    workgroupBarrier();
    coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_forward(own, unit, first + row + SIDE, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_forward(own, unit, first + row + SIDE, first_quad + (column + SIDE) / 4u);
}

fn store_forward(own: u32, unit: u32, first: u32, first_quad: u32) {
    let rows = params.n * params.p * params.q;
    for (var t = own; t < SIDE * SIDE / 4u; t += LANES) {
        let m = first + t / (SIDE / 4u);
        let k = first_quad + t % (SIDE / 4u);
        if (m < rows && k < params.k4) {
            y[m * params.k4 + k] = finish(bias[k] + result4(unit, t / (SIDE / 4u), t % (SIDE / 4u)), m, k);
        }
    }
}

@compute @workgroup_size(4u * LANES)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    let i = group_index(group, groups);
    let blocks = (params.c4 + QUADS - 1u) / QUADS;
    let parity = parity_of(i / blocks, TILE);
    let first = parity.tile * TILE;
    let rows = params.n * parity.extent.x * parity.extent.y;
    let first_quad = i % blocks * QUADS;
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    var input: array<vec3<u32>, SHARE>;
    for (var j = 0u; j < TILE / LANES; j++) {
        input[j] = input_of(parity, min(first + j * LANES + lane / 4u, rows - 1u));
    }
    for (var r = (parity.first.x + params.pad) % params.stride; r < params.r; r += params.stride) {
        for (var s = (parity.first.y + params.pad) % params.stride; s < params.s; s += params.stride) {
            for (var k = 0u; k < params.k4; k += STEP / 4u) {
                let quad = k + lane % 4u;
                for (var j = 0u; j < TILE / LANES; j++) {
                    let source = output_of(input[j], r, s);
                    let inside = select(0.0, source.inside, quad < params.k4);
                    let to = (j * LANES + lane / 4u) * STEP + 4u * (lane % 4u);
                    stage_left(to, load4(dy[source.offset + min(quad, params.k4 - 1u)]) * inside);
                    // Row (input channel) by row of the weight, as it lies in memory.
                    let channel = 4u * first_quad + j * LANES + lane / 4u;
                    let at = ((r * params.s + s) * 4u * params.c4 + min(channel, 4u * params.c4 - 1u)) * params.k4 + min(quad, params.k4 - 1u);
                    stage_right(to, load4(weight[at]));
                }
                workgroupBarrier();
                for (var inner = 0u; inner < STEP; inner += SIDE) {
                    let a0 = coopLoadT<Left>(&left[(row) * STEP + inner], STEP);
                    let a1 = coopLoadT<Left>(&left[(row + SIDE) * STEP + inner], STEP);
                    let b0 = coopLoad<Right>(&right[(column) * STEP + inner], STEP);
                    let b1 = coopLoad<Right>(&right[(column + SIDE) * STEP + inner], STEP);
                    c00 = coopMultiplyAdd(a0, b0, c00);
                    c01 = coopMultiplyAdd(a0, b1, c01);
                    c10 = coopMultiplyAdd(a1, b0, c10);
                    c11 = coopMultiplyAdd(a1, b1, c11);
                }
                workgroupBarrier();
            }
        }
    }
    coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, parity, first + row, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, parity, first + row, first_quad + (column + SIDE) / 4u);
    workgroupBarrier();
    coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, parity, first + row + SIDE, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, parity, first + row + SIDE, first_quad + (column + SIDE) / 4u);
}

fn store_data(own: u32, unit: u32, parity: Parity, first: u32, first_quad: u32) {
    let rows = params.n * parity.extent.x * parity.extent.y;
    for (var t = own; t < SIDE * SIDE / 4u; t += LANES) {
        let m = first + t / (SIDE / 4u);
        let c = first_quad + t % (SIDE / 4u);
        if (parity.exists && m < rows && c < params.c4) {
            let at = input_of(parity, m);
            dx[((at.x * params.h + at.y) * params.w + at.z) * params.c4 + c] = store4(result4(unit, t / (SIDE / 4u), t % (SIDE / 4u)));
        }
    }
}

@compute @workgroup_size(4u * LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    let i = group_index(group, groups);
    let blocks_k = (params.k4 + QUADS - 1u) / QUADS;
    let blocks_c = (params.c4 + QUADS - 1u) / QUADS;
    let first_k = i % blocks_k * QUADS;
    let first_c = i / blocks_k % blocks_c * QUADS;
    let tap = i / (blocks_k * blocks_c) % (params.r * params.s);
    let split = i / (blocks_k * blocks_c * params.r * params.s);
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    let end = min((split + 1u) * params.split_rows, params.n * params.p * params.q);
    for (var m = split * params.split_rows; m < end; m += STEP) {
        for (var t = lane; t < STEP * QUADS; t += 4u * LANES) {
            let output = m + t / QUADS;
            let source = tap_of(corner_of(min(output, end - 1u)), tap / params.s, tap % params.s);
            let c = first_c + t % QUADS;
            let k = first_k + t % QUADS;
            let inside = select(0.0, source.inside, output < end);
            let to = t / QUADS * TILE + 4u * (t % QUADS);
            stage_left(to, load4(x[source.offset + min(c, params.c4 - 1u)]) * inside);
            stage_right(to, load4(gradient[min(output, end - 1u) * params.k4 + min(k, params.k4 - 1u)]));
        }
        workgroupBarrier();
        for (var inner = 0u; inner < STEP; inner += SIDE) {
            let a0 = coopLoad<Left>(&left[inner * TILE + row], TILE);
            let a1 = coopLoad<Left>(&left[inner * TILE + row + SIDE], TILE);
            let b0 = coopLoadT<Right>(&right[inner * TILE + column], TILE);
            let b1 = coopLoadT<Right>(&right[inner * TILE + column + SIDE], TILE);
            c00 = coopMultiplyAdd(a0, b0, c00);
            c01 = coopMultiplyAdd(a0, b1, c01);
            c10 = coopMultiplyAdd(a1, b0, c10);
            c11 = coopMultiplyAdd(a1, b1, c11);
        }
        workgroupBarrier();
    }
    let to = (split * params.r * params.s + tap) * 4u * params.c4;
    coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_weight(split < params.splits, own, unit, to, 4u * first_c + row, first_k + column / 4u);
    workgroupBarrier();
    coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_weight(split < params.splits, own, unit, to, 4u * first_c + row, first_k + (column + SIDE) / 4u);
    workgroupBarrier();
    coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_weight(split < params.splits, own, unit, to, 4u * first_c + row + SIDE, first_k + column / 4u);
    workgroupBarrier();
    coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_weight(split < params.splits, own, unit, to, 4u * first_c + row + SIDE, first_k + (column + SIDE) / 4u);
}

fn store_weight(exists: bool, own: u32, unit: u32, to: u32, first: u32, first_quad: u32) {
    for (var t = own; t < SIDE * SIDE / 4u; t += LANES) {
        let c = first + t / (SIDE / 4u);
        let k = first_quad + t % (SIDE / 4u);
        if (exists && c < 4u * params.c4 && k < params.k4) {
            partial[(to + c) * params.k4 + k] = result4(unit, t / (SIDE / 4u), t % (SIDE / 4u));
        }
    }
}
