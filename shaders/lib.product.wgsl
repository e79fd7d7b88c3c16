// What the variants of convolution and linear layer share: both are products of a matrix of rows, gathered tap by tap, and the
// weight. conv2d.wgsl and linear.wgsl, which stand before this file, say how rows, taps and positions lie.
//
// A variant declares its tiles as constants, which the host reads:
//
//   TILE_ROWS x TILE_QUADS       of a lane or workgroup in forward and backward_data: rows by quads of channels
//   WEIGHT_TILE_C, _K            in backward_weight: quads of channels of x and of dy, at one tap
//   TURN_QUADS, TURN_ROWS        what one turn of the loop sums: quads of channels; rows of dy in backward_weight

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(1) var<storage, read> weight: array<real4>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<real4>;

@group(0) @binding(0) var<storage, read> dy: array<real4>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;

@group(0) @binding(1) var<storage, read> gradient: array<real4>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> partial_bias: array<vec4<f32>>;

fn tap_count() -> u32 {
    return taps().x * taps().y;
}

// Where the quadruples of the weight begin, of a tap and one channel of x.
fn weight_row(r: u32, s: u32, channel: u32) -> u32 {
    return weight_tap(r, s) + channel * params.k4;
}

// A quad of channels of x by one of y, whose first quadruple is at `at`: a column for each channel of x.
fn load_weight(at: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4]));
}

// The same of the weight of a product that is added.
fn load_shortcut_weight(quad: u32, k: u32) -> mat4x4<f32> {
    let at = 4u * quad * params.k4 + k;
    return mat4x4<f32>(load_shortcut_line(at), load_shortcut_line(at + params.k4), load_shortcut_line(at + 2u * params.k4), load_shortcut_line(at + 3u * params.k4));
}

// Where the tile of a workgroup, or of a lane, begins: its row, or number among the tiles of rows, and its first quad of `quads`.
struct Tile {
    row: u32,
    quad: u32,
}

fn tile_of(i: u32, quads: u32) -> Tile {
    let blocks = (quads + TILE_QUADS - 1u) / TILE_QUADS;
    return Tile(i / blocks, i % blocks * TILE_QUADS);
}

// Stores a quadruple of y, if there is one, of which `sum` is the product with its bias.
fn store_output(sum: vec4<f32>, m: u32, k: u32) {
    if (m < output_rows() && k < params.k4) {
        y[m * params.k4 + k] = finish(sum, m, k);
    }
}

// Stores a quadruple of dx, if there is one.
fn store_input(sum: vec4<f32>, inputs: Inputs, m: u32, c: u32) {
    let to = pixel_of(input_of(inputs, m)) * params.c4 + c;
    if (m < inputs.rows && c < params.c4) {
        dx[to] = store4(sum);
    }
}

// A tile of a weight's gradient: its first quads of x and dy, its tap, and the rows of dy that its split sums. One of those that
// share quads of dy sums these for the bias, too.
struct WeightTile {
    c: u32,
    k: u32,
    tap: vec2<u32>,
    first: u32,         // row of `partial`
    split: u32,
    start: u32,
    end: u32,
    exists: bool,
    sums_bias: bool,
}

fn weight_tile(i: u32) -> WeightTile {
    let blocks_k = (params.k4 + WEIGHT_TILE_K - 1u) / WEIGHT_TILE_K;
    let blocks_c = (params.c4 + WEIGHT_TILE_C - 1u) / WEIGHT_TILE_C;
    let matrix = i / (blocks_k * blocks_c);
    let tap = matrix % tap_count();
    let split = matrix / tap_count();
    let start = split * params.split_rows;
    let block_c = i / blocks_k % blocks_c;
    return WeightTile(
        block_c * WEIGHT_TILE_C,
        i % blocks_k * WEIGHT_TILE_K,
        vec2<u32>(tap / taps().y, tap % taps().y),
        matrix * 4u * params.c4,
        split,
        start,
        min(start + params.split_rows, output_rows()),
        split < params.splits,
        tap == 0u && block_c == 0u,
    );
}

// Row m of dy from a split, or its last.
fn load_gradient(tile: WeightTile, m: u32, k: u32) -> vec4<f32> {
    return load4(gradient[min(m, tile.end - 1u) * params.k4 + min(k, params.k4 - 1u)]);
}

// Which quadruple of x row m of dy meets, of quads c: none behind the rows of a split.
fn met(tile: WeightTile, at: Position, m: u32, c: u32) -> Tap {
    let source = tap_of(corner_at(at), tile.tap.x, tile.tap.y);
    let inside = select(0.0, source.inside, m < tile.end);
    return Tap(select(0u, source.offset, inside == 1.0) + min(c, params.c4 - 1u), inside);
}

fn load_met(tile: WeightTile, at: Position, m: u32, c: u32) -> vec4<f32> {
    let source = met(tile, at, m, c);
    return load4(x[source.offset]) * source.inside;
}

// Stores a quad of channels of x by one of dy, a column for each channel of x, if there is one.
fn store_weight(sum: mat4x4<f32>, tile: WeightTile, c: u32, k: u32) {
    if (c < params.c4 && k < params.k4) {
        let to = (tile.first + 4u * c) * params.k4 + k;
        partial[to] = sum[0];
        partial[to + params.k4] = sum[1];
        partial[to + 2u * params.k4] = sum[2];
        partial[to + 3u * params.k4] = sum[3];
    }
}

// Sums a quad of channels of the bias's gradient, once the weight's is done and its registers are free.
fn sum_bias(tile: WeightTile, k: u32) {
    var sum = vec4<f32>();
    for (var m = tile.start; m < tile.end; m++) {
        sum += load_gradient(tile, m, k);
    }
    store_bias(sum, tile, k);
}

// Stores a quad of channels of the bias's gradient, if there is one.
fn store_bias(sum: vec4<f32>, tile: WeightTile, k: u32) {
    if (k < params.k4) {
        partial_bias[tile.split * params.k4 + k] = sum;
    }
}
