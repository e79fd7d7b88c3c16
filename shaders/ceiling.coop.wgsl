// What matrix units do at most:
//
//   matrices   y[m, n] = rounds sum over p, q, k of A[m + p SIDE, k] B[k, n + q SIDE]    p and q are 0 and 1, k is below SIDE
//
// 4 independent sums, each `rounds` times a product of two matrices. Of `left` and `right` as they lie in memory number i is
// a (1 + i mod 5) and b (1 + i mod 3), a and b the first and the second number of `factors`.
//
// y: SIDE x SIDE numbers of each of the 4 subgroups of a workgroup

struct Params {
    quads: u32,     // vec4 in y
    rounds: u32,
    side: u32,      // SIDE, for the twin
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> factors: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(4u * LANES)
fn matrices(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32, @builtin(subgroup_invocation_id) own: u32) {
    for (var i = lane; i < TILE * STEP; i += 4u * LANES) {
        left[i] = f16(factors[0].x * f32(1u + i % 5u));
        right[i] = f16(factors[0].y * f32(1u + i % 3u));
    }
    workgroupBarrier();
    let a0 = coopLoadT<Left>(&left[0], STEP);
    let a1 = coopLoadT<Left>(&left[SIDE * STEP], STEP);
    let b0 = coopLoadT<Right>(&right[0], TILE);
    let b1 = coopLoadT<Right>(&right[SIDE], TILE);
    var c00 = Sum();
    var c01 = Sum();
    var c10 = Sum();
    var c11 = Sum();
    for (var round = 0u; round < params.rounds; round++) {
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
    }
    var total: array<vec4<f32>, 2>;
    coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    collect(&total, unit, own);
    workgroupBarrier();
    coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    collect(&total, unit, own);
    workgroupBarrier();
    coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    collect(&total, unit, own);
    workgroupBarrier();
    coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE);
    workgroupBarrier();
    collect(&total, unit, own);
    let first = (group_index(group, groups) * 4u + unit) * SIDE * SIDE / 4u;
    for (var j = 0u; j < 2u; j++) {
        let t = own + j * LANES;
        if (t < SIDE * SIDE / 4u && first + t < params.quads && params.side == SIDE) {
            y[first + t] = total[j];
        }
    }
}

// Adds a lane's quadruples of what stands in `result`.
fn collect(total: ptr<function, array<vec4<f32>, 2>>, unit: u32, own: u32) {
    for (var j = 0u; j < 2u; j++) {
        let t = min(own + j * LANES, SIDE * SIDE / 4u - 1u);
        (*total)[j] += result4(unit, t / (SIDE / 4u), t % (SIDE / 4u));
    }
}
