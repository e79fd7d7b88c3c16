// What the variants `tiled` of convolution and linear layer share, for GPUs: a workgroup owns a tile of 8 ROW_LANES rows x
// 8 CHANNEL_LANES channels (of dW: channels of x by channels of dy), a lane 8 rows x 2 quads of it in registers. Each turn
// stages 8 values of the summed axis in workgroup memory; the loads of a turn are under way while the one before is
// multiplied, one barrier a turn.
//
// A lane: 64 sums, 32 weights, 4 to 16 values staged, addresses: about 130 registers. A turn is 512 multiply-adds of a lane on
// 32 vec4 of workgroup memory: 2 FLOP/byte before broadcasts, as many as a wave's lanes share most of what they read.
//   tile of lanes   workgroup memory   FLOP per byte of global memory   resident on a NVIDIA SM (64 Ki registers)
//   8 x 8           8 KiB              16                               7 workgroups of 64 lanes
//   16 x 8          12 KiB             21                               3 workgroups of 128 lanes
//   16 x 16         16 KiB             32                               1 workgroup of 256 lanes
// Slots are permuted by exclusive or, so that neither storing nor reading meets a bank twice.

override ROW_LANES = 16u;       // 8 or 16
override CHANNEL_LANES = 8u;    // 8 or 16

const ROWS = 8u;                // of a lane
const STEP = 2u;                // quads of the summed axis in a turn
const MAX_SHARE = 2u;           // of quads that a lane stages in a turn

override TILE_ROWS = ROWS * ROW_LANES;
override TILE_QUADS = 2u * CHANNEL_LANES;
override LANES_OF_TILE = ROW_LANES * CHANNEL_LANES;
override ROW_SHARE = ROWS * STEP / CHANNEL_LANES;
override CHANNEL_SHARE = 8u * STEP / ROW_LANES;

// Two buffers each: one is read while the other is written.
var<workgroup> staged_rows: array<vec4<f32>, 2u * STEP * TILE_ROWS>;
var<workgroup> staged_channels: array<vec4<f32>, 8u * STEP * TILE_QUADS>;

// Quad `step` of the summed axis, of one row.
fn row_slot(buffer: u32, step: u32, row: u32) -> u32 {
    return (buffer * STEP + step) * TILE_ROWS + (row ^ (8u / STEP * step));
}

// Line `line` of 4 STEP, quad `quad` of it.
fn channel_slot(buffer: u32, line: u32, quad: u32) -> u32 {
    return (buffer * 4u * STEP + line) * TILE_QUADS + (quad ^ line);
}

// Four lines of a quad.
fn staged_weights(buffer: u32, step: u32, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        staged_channels[channel_slot(buffer, 4u * step, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 1u, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 2u, quad)],
        staged_channels[channel_slot(buffer, 4u * step + 3u, quad)],
    );
}

alias Sums = array<vec4<f32>, ROWS>;

// Adds one step of the lane's rows by its two quads.
fn multiply(left: ptr<function, Sums>, right: ptr<function, Sums>, buffer: u32, step: u32, row: u32, w_left: mat4x4<f32>, w_right: mat4x4<f32>) {
    for (var j = 0u; j < ROWS; j++) {
        let v = staged_rows[row_slot(buffer, step, row + j * ROW_LANES)];
        (*left)[j] = multiply_add((*left)[j], w_left, v);
        (*right)[j] = multiply_add((*right)[j], w_right, v);
    }
}
