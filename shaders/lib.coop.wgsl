// Matrix units: a workgroup of four subgroups multiplies a tile of 4 SIDE rows by 4 SIDE channels, each subgroup 2 x 2 matrices
// of SIDE x SIDE; f16 in, f32 accumulated. The kernel stages STEP of the inner dimension at a time in workgroup memory: matrices
// are always whole. Where the inner dimension ends, the left side is zero; rows and channels that there are not repeat the last
// and are not stored.
//
//   left:  TILE x STEP in rows, or STEP x TILE      right: the same      result: one matrix of each subgroup
//
// With SIDE = 8: FLOPs to bytes staged 16 to 1; with SIDE = 16: 32 to 1. 10 KiB of workgroup memory at the most.

override LANES = 32u;   // of a subgroup

const TILE = 4u * SIDE;
const QUADS = SIDE;     // of channels in a tile
const STEP = 16u;
const SHARE = 8u;       // TILE / 8, the most quads that a lane stages of one side: LANES is at least 8

var<workgroup> left: array<f16, TILE * STEP>;
var<workgroup> right: array<f16, TILE * STEP>;
var<workgroup> result: array<f32, 4u * SIDE * SIDE>;

fn stage_left(to: u32, value: vec4<f32>) {
    left[to] = f16(value.x);
    left[to + 1u] = f16(value.y);
    left[to + 2u] = f16(value.z);
    left[to + 3u] = f16(value.w);
}

fn stage_right(to: u32, value: vec4<f32>) {
    right[to] = f16(value.x);
    right[to + 1u] = f16(value.y);
    right[to + 2u] = f16(value.z);
    right[to + 3u] = f16(value.w);
}

// Quadruple `quad` of row `row` of the matrix of subgroup `unit` that stands in `result`.
fn result4(unit: u32, row: u32, quad: u32) -> vec4<f32> {
    let at = (unit * SIDE + row) * SIDE + 4u * quad;
    return vec4<f32>(result[at], result[at + 1u], result[at + 2u], result[at + 3u]);
}
