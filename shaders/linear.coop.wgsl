// Variant `coop`: matrix units, see lib.coop.wgsl. Workgroups beyond the grid compute what they do not store: a return
// would leave control flow that no compiler can see to be uniform.

@compute @workgroup_size(4u * LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    let i = group_index(group, groups);
    let blocks = (params.k4 + QUADS - 1u) / QUADS;
    let first = i / blocks * TILE;
    let first_quad = i % blocks * QUADS;
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    for (var c = 0u; c < params.c4; c += STEP / 4u) {
        let quad = c + lane % 4u;
        for (var j = 0u; j < TILE / LANES; j++) {
            let m = first + j * LANES + lane / 4u;
            let inside = select(0.0, 1.0, quad < params.c4);
            stage_left((j * LANES + lane / 4u) * STEP + 4u * (lane % 4u), load4(x[min(m, params.rows - 1u) * params.c4 + min(quad, params.c4 - 1u)]) * inside);
        }
        for (var t = lane; t < STEP * QUADS; t += 4u * LANES) {
            let channel = 4u * c + t / QUADS;
            let k = first_quad + t % QUADS;
            stage_right(t / QUADS * TILE + 4u * (t % QUADS), load4(weight[min(channel, 4u * params.c4 - 1u) * params.k4 + min(k, params.k4 - 1u)]));
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
    for (var t = own; t < SIDE * SIDE / 4u; t += LANES) {
        let m = first + t / (SIDE / 4u);
        let k = first_quad + t % (SIDE / 4u);
        if (m < params.rows && k < params.k4) {
            let to = m * params.k4 + k;
            y[to] = finish(bias[k] + result4(unit, t / (SIDE / 4u), t % (SIDE / 4u)), to);
        }
    }
}

@compute @workgroup_size(4u * LANES)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    let i = group_index(group, groups);
    let blocks = (params.c4 + QUADS - 1u) / QUADS;
    let first = i / blocks * TILE;
    let first_quad = i % blocks * QUADS;
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    for (var k = 0u; k < params.k4; k += STEP / 4u) {
        let quad = k + lane % 4u;
        for (var j = 0u; j < TILE / LANES; j++) {
            let m = first + j * LANES + lane / 4u;
            let inside = select(0.0, 1.0, quad < params.k4);
            let to = (j * LANES + lane / 4u) * STEP + 4u * (lane % 4u);
            stage_left(to, load4(dy[min(m, params.rows - 1u) * params.k4 + min(quad, params.k4 - 1u)]) * inside);
            // Row (input channel) by row of the weight, as it lies in memory.
            let channel = 4u * first_quad + j * LANES + lane / 4u;
            stage_right(to, load4(weight[min(channel, 4u * params.c4 - 1u) * params.k4 + min(quad, params.k4 - 1u)]));
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
    coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, first + row, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, first + row, first_quad + (column + SIDE) / 4u);
    workgroupBarrier();
    coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, first + row + SIDE, first_quad + column / 4u);
    workgroupBarrier();
    coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    store_data(own, unit, first + row + SIDE, first_quad + (column + SIDE) / 4u);
}

fn store_data(own: u32, unit: u32, first: u32, first_quad: u32) {
    for (var t = own; t < SIDE * SIDE / 4u; t += LANES) {
        let m = first + t / (SIDE / 4u);
        let c = first_quad + t % (SIDE / 4u);
        if (m < params.rows && c < params.c4) {
            dx[m * params.c4 + c] = store4(result4(unit, t / (SIDE / 4u), t % (SIDE / 4u)));
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
    let split = i / (blocks_k * blocks_c);
    // The 2 x 2 matrices of this subgroup in the tile.
    let row = unit / 2u * 2u * SIDE;
    let column = unit % 2u * 2u * SIDE;
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    let end = min((split + 1u) * params.split_rows, params.rows);
    for (var m = split * params.split_rows; m < end; m += STEP) {
        for (var t = lane; t < STEP * QUADS; t += 4u * LANES) {
            let at = m + t / QUADS;
            let c = first_c + t % QUADS;
            let k = first_k + t % QUADS;
            let inside = select(0.0, 1.0, at < end);
            let to = t / QUADS * TILE + 4u * (t % QUADS);
            stage_left(to, load4(x[min(at, end - 1u) * params.c4 + min(c, params.c4 - 1u)]) * inside);
            stage_right(to, load4(gradient[min(at, end - 1u) * params.k4 + min(k, params.k4 - 1u)]));
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
    let to = split * 4u * params.c4;
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
