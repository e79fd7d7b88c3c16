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
fn matrices(workgroup: Workgroup, at: MatrixInvocation) {
    for (var i = at.lane; i < TILE * STEP; i += 4u * LANES) {
        left[i] = f16(factors[0].x * f32(1u + i % 5u));
        right[i] = f16(factors[0].y * f32(1u + i % 3u));
    }
    workgroupBarrier();
    let a0 = coopLoadT<Left>(&left[0], STEP);
    let a1 = coopLoadT<Left>(&left[SIDE * STEP], STEP);
    let b0 = coopLoadT<Right>(&right[0], TILE);
    let b1 = coopLoadT<Right>(&right[SIDE], TILE);
    for (var round = 0u; round < params.rounds; round++) {
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
    }
    var total: array<vec4<f32>, 2>;
    for (var part = 0u; part < 4u; part++) {
        lay_out(part, at.unit);
        for (var j = 0u; j < 2u; j++) {
            total[j] += result4(at.unit, min(at.own + j * LANES, MATRIX_QUADS - 1u));
        }
    }
    let first = (group_index(workgroup) * 4u + at.unit) * MATRIX_QUADS;
    for (var j = 0u; j < 2u; j++) {
        let t = at.own + j * LANES;
        if (t < MATRIX_QUADS && first + t < params.quads && params.side == SIDE) {
            y[first + t] = total[j];
        }
    }
}
