// Variant `subgroup`: a subgroup owns a tile of 32 rows x LANES quads of channels (of dW: 32 channels of x by LANES quads); a
// lane keeps one quad of each row in registers. What all lanes need of x or dy is loaded once, a share by each lane, and
// handed round by subgroupShuffle. No workgroup memory, no barriers. Drivers that compute on the CPU spend most of their
// time on loads, so there are few of them.
//
// Loops over rows run exactly to the lengths of the arrays that they index: drivers then unroll them into registers.

override LANES = 8u;    // in a workgroup, which is one subgroup or a part of one: 4, 8, 16 or 32

const ROWS = 32u;
const MAX_SHARE = 8u;   // ROWS / LANES, the quads of x or dy that a lane loads for all, at the most

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.k4 + LANES - 1u) / LANES;
    let first = i / blocks * ROWS;
    let rows = params.n * params.p * params.q;
    if (first >= rows) {
        return;
    }
    let own = i % blocks * LANES + lane;
    let k = min(own, params.k4 - 1u);

    var corner: array<vec3<i32>, MAX_SHARE>;
    var sum: array<vec4<f32>, ROWS>;
    for (var j = 0u; j < ROWS / LANES; j++) {
        corner[j] = corner_of(min(first + j * LANES + lane, rows - 1u));
    }
    for (var j = 0u; j < ROWS; j++) {
        sum[j] = bias[k];
    }
    for (var r = 0u; r < params.r; r++) {
        for (var s = 0u; s < params.s; s++) {
            var tap: array<Tap, MAX_SHARE>;
            for (var j = 0u; j < ROWS / LANES; j++) {
                tap[j] = tap_of(corner[j], r, s);
            }
            var at = (r * params.s + s) * params.c4 * 4u * params.k4 + k;
            for (var c = 0u; c < params.c4; c++) {
                var share: array<vec4<f32>, MAX_SHARE>;
                for (var j = 0u; j < ROWS / LANES; j++) {
                    share[j] = load4(x[tap[j].offset + c]) * tap[j].inside;
                }
                let w = mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4]));
                at += 4u * params.k4;
                for (var j = 0u; j < ROWS; j++) {
                    let v = subgroupShuffle(share[j / LANES], j % LANES);
                    sum[j] = multiply_add(sum[j], w, v);
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows && own < params.k4) {
            y[(first + j) * params.k4 + own] = finish(sum[j], first + j, own);
        }
    }
}

@compute @workgroup_size(LANES)
fn backward_data(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    let blocks = (params.c4 + LANES - 1u) / LANES;
    let parity = parity_of(i / blocks, ROWS);
    if (!parity.exists) {
        return;
    }
    let first = parity.tile * ROWS;
    let rows = params.n * parity.extent.x * parity.extent.y;
    let own = i % blocks * LANES + lane;
    let c = min(own, params.c4 - 1u);

    var input: array<vec3<u32>, MAX_SHARE>;
    var sum: array<vec4<f32>, ROWS>;
    for (var j = 0u; j < ROWS / LANES; j++) {
        input[j] = input_of(parity, min(first + j * LANES + lane, rows - 1u));
    }
    for (var j = 0u; j < ROWS; j++) {
        sum[j] = vec4<f32>();
    }
    for (var r = (parity.first.x + params.pad) % params.stride; r < params.r; r += params.stride) {
        for (var s = (parity.first.y + params.pad) % params.stride; s < params.s; s += params.stride) {
            var tap: array<Tap, MAX_SHARE>;
            for (var j = 0u; j < ROWS / LANES; j++) {
                tap[j] = output_of(input[j], r, s);
            }
            let at = ((r * params.s + s) * params.c4 + c) * 4u * params.k4;
            for (var k = 0u; k < params.k4; k++) {
                var share: array<vec4<f32>, MAX_SHARE>;
                for (var j = 0u; j < ROWS / LANES; j++) {
                    share[j] = load4(dy[tap[j].offset + k]) * tap[j].inside;
                }
                let w = transpose(mat4x4<f32>(load4(weight[at + k]), load4(weight[at + k + params.k4]), load4(weight[at + k + 2u * params.k4]), load4(weight[at + k + 3u * params.k4])));
                for (var j = 0u; j < ROWS; j++) {
                    let v = subgroupShuffle(share[j / LANES], j % LANES);
                    sum[j] = multiply_add(sum[j], w, v);
                }
            }
        }
    }
    for (var j = 0u; j < ROWS; j++) {
        if (first + j < rows && own < params.c4) {
            let at = input_of(parity, first + j);
            dx[((at.x * params.h + at.y) * params.w + at.z) * params.c4 + own] = store4(sum[j]);
        }
    }
}

// Rows of dy that one turn of the loop sums: as many as a quad has channels, so that the tiles are those of `forward`.
const TURN = 4u;
const QUADS = 8u;      // of x in a tile

fn load_gradient(m: u32, end: u32, k: u32) -> vec4<f32> {
    return load4(gradient[min(m, end - 1u) * params.k4 + k]);
}

// A tile is ROWS channels of x, 8 quads, by LANES quads of dy: quad i of x in row j of the turn is loaded by lane
// (4 i + j) mod LANES as its share (4 i + j) / LANES.
@compute @workgroup_size(LANES)
fn backward_weight(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    let blocks_k = (params.k4 + LANES - 1u) / LANES;
    let blocks_c = (params.c4 + QUADS - 1u) / QUADS;
    let own = i % blocks_k * LANES + lane;
    let k = min(own, params.k4 - 1u);
    let c = i / blocks_k % blocks_c * QUADS;
    let tap = i / (blocks_k * blocks_c) % (params.r * params.s);
    let split = i / (blocks_k * blocks_c * params.r * params.s);
    if (split >= params.splits) {
        return;
    }
    let r = tap / params.s;
    let s = tap % params.s;

    var sum: array<mat4x4<f32>, QUADS>;
    for (var i = 0u; i < QUADS; i++) {
        sum[i] = mat4x4<f32>();
    }
    let start = split * params.split_rows;
    let end = min(start + params.split_rows, params.n * params.p * params.q);
    // The row of dy that each share belongs to as image, row, column; counted on, because divisions cost more than the sums.
    var at: array<vec3<u32>, MAX_SHARE>;
    for (var j = 0u; j < ROWS / LANES; j++) {
        at[j] = position(start + (j * LANES + lane) % TURN);
    }
    let turn = position(TURN);
    for (var m = start; m < end; m += TURN) {
        var share: array<vec4<f32>, MAX_SHARE>;
        for (var j = 0u; j < ROWS / LANES; j++) {
            let part = j * LANES + lane;
            let corner = vec3<i32>(at[j] * vec3<u32>(1u, params.stride, params.stride)) - vec3<i32>(0, i32(params.pad), i32(params.pad));
            let source = tap_of(corner, r, s);
            let inside = select(0.0, source.inside, m + part % TURN < end);
            share[j] = load4(x[select(0u, source.offset, inside == 1.0) + min(c + part / TURN, params.c4 - 1u)]) * inside;
            at[j] = advance(at[j], turn);
        }
        let d = mat4x4<f32>(load_gradient(m, end, k), load_gradient(m + 1u, end, k), load_gradient(m + 2u, end, k), load_gradient(m + 3u, end, k));
        for (var i = 0u; i < QUADS; i++) {
            let a = subgroupShuffle(share[4u * i / LANES], 4u * i % LANES);
            let b = subgroupShuffle(share[(4u * i + 1u) / LANES], (4u * i + 1u) % LANES);
            let e = subgroupShuffle(share[(4u * i + 2u) / LANES], (4u * i + 2u) % LANES);
            let f = subgroupShuffle(share[(4u * i + 3u) / LANES], (4u * i + 3u) % LANES);
            sum[i] = outer_add(outer_add(outer_add(outer_add(sum[i], a, d[0]), b, d[1]), e, d[2]), f, d[3]);
        }
    }
    let to = ((split * params.r * params.s + tap) * params.c4 + c) * 4u * params.k4;
    for (var i = 0u; i < QUADS; i++) {
        for (var j = 0u; j < 4u; j++) {
            if (c + i < params.c4 && own < params.k4) {
                partial[to + (4u * i + j) * params.k4 + own] = sum[i][j];
            }
        }
    }
}
