// Matrix units: a workgroup of four subgroups multiplies a tile of 4 SIDE rows by 4 SIDE channels, each subgroup 2 x 2 matrices
// of SIDE x SIDE; f16 in, f32 accumulated. The kernel stages STEP of the inner dimension at a time in workgroup memory: matrices
// are always whole. Where the inner dimension ends, the left side is zero; rows and channels that there are not repeat the last
// and are not stored.
//
//   left:  TILE x STEP in rows, or STEP x TILE      right: the same      result: one matrix of each subgroup
//
// With SIDE = 8: FLOPs to bytes staged 16 to 1; with SIDE = 16: 32 to 1. 8 KiB of workgroup memory at the most.

override LANES = 32u;   // of a subgroup

const TILE = 4u * SIDE;
const QUADS = SIDE;     // of channels in a tile
const STEP = 16u;
const SHARE = 8u;       // TILE / 8, the most quads that a lane stages of one side: LANES is at least 8
const MATRIX_QUADS = SIDE * SIDE / 4u;

struct MatrixInvocation {
    @builtin(local_invocation_index) lane: u32,
    @builtin(subgroup_id) unit: u32,
    @builtin(subgroup_invocation_id) own: u32,
}

var<workgroup> left: array<f16, TILE * STEP>;
var<workgroup> right: array<f16, TILE * STEP>;
var<workgroup> result: array<f32, 4u * SIDE * SIDE>;

// The 2 x 2 sums of a subgroup.
var<private> c00: Sum;
var<private> c01: Sum;
var<private> c10: Sum;
var<private> c11: Sum;

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

// Two matrices of each side, of which all four products are added.
var<private> a0: Left;
var<private> a1: Left;
var<private> b0: Right;
var<private> b1: Right;

// Row and column, in the tile, where the 2 x 2 matrices of a subgroup begin.
fn corner_of_unit(unit: u32) -> vec2<u32> {
    return vec2<u32>(unit / 2u, unit % 2u) * (2u * SIDE);
}

// Of the right side in lines of TILE, from line `inner` on.
fn load_right_lines(unit: u32, inner: u32) {
    let column = corner_of_unit(unit).y;
    b0 = coopLoadT<Right>(&right[inner * TILE + column], TILE);
    b1 = coopLoadT<Right>(&right[inner * TILE + column + SIDE], TILE);
}

// Puts matrix number `part` of a subgroup's 2 x 2 in `result`.
fn lay_out(part: u32, unit: u32) {
    workgroupBarrier();
    switch part {
        case 0u: { coopStoreT(c00, &result[unit * SIDE * SIDE], SIDE); }
        case 1u: { coopStoreT(c01, &result[unit * SIDE * SIDE], SIDE); }
        case 2u: { coopStoreT(c10, &result[unit * SIDE * SIDE], SIDE); }
        default: { coopStoreT(c11, &result[unit * SIDE * SIDE], SIDE); }
    }
    workgroupBarrier();
}

// Quadruple t of the matrix that stands there.
fn result4(unit: u32, t: u32) -> vec4<f32> {
    let at = unit * SIDE * SIDE + 4u * t;
    return vec4<f32>(result[at], result[at + 1u], result[at + 2u], result[at + 3u]);
}

// Row of the tile, and quad of its channels, of quadruple t of matrix `part`.
fn row_in_tile(part: u32, unit: u32, t: u32) -> u32 {
    return corner_of_unit(unit).x + part / 2u * SIDE + t / (SIDE / 4u);
}

fn quad_in_tile(part: u32, unit: u32, t: u32) -> u32 {
    return (corner_of_unit(unit).y + part % 2u * SIDE) / 4u + t % (SIDE / 4u);
}
