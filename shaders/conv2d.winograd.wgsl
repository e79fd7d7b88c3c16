// Variant `winograd`: a convolution of 3x3, stride 1 and padding 1 by F(2x2, 3x3) (Winograd 1980; Lavin & Gray 2016). The output is
// cut into tiles of 2x2; a tile meets 4x4 inputs X, and with
//
//         |1  0 -1  0|        | 1    0    0 |          |1  1  1  0|
//   B^T = |0  1  1  0|    G = |1/2  1/2  1/2|    A^T = |0  1 -1 -1|
//         |0 -1  1  0|        |1/2 -1/2  1/2|
//         |0  1  0 -1|        | 0    0    1 |
//
// the tile of the output is A^T [(G W G^T) (B^T X B)] A, both 4x4 matrices multiplied element by element: 16 multiplications, where
// 36 go directly. An element of these 4x4 matrices is a frequency f; for each f channels are summed as in a matrix product.
//
//   transform_weight    u[f][c,k] = G W[.,.,c,k] G^T
//   transform_flipped   u[f][k,c] = G W'[.,.,c,k] G^T   of the weight turned by half a turn, W'[r,s,c,k] = W[2-r,2-s,c,k]
//   transform_input     v[f][tile,c] = B^T X B          of x, or of dy in backward_data
//   forward             y = scale (A^T [sum over c of v u] A + bias + addend)
//   backward_data       dx = A^T [sum over k of v u] A: the convolution of dy with the weight that transform_flipped turned
//
// dW = sum over tiles of G^T [(B^T X B) (A dY A^T)] G, F(3x3, 2x2), because what the tile of the output is linear in, its gradient
// is, too:
//
//   transform_gradient  d[f][tile,k] = A dY A^T
//   backward_weight     sums[f][c,k] = before[f][c,k] + sum over tiles of v[f][tile,c] d[f][tile,k]
//   collect_weight      dweight = G^T sums G
//
//   x, dy, y, dx, weight, bias, addend, dweight: as in conv2d.wgsl
//   v, d: [blocks, f, quads of channels, tiles of a block]   u, sums, before: [f, quads in, quads out, 4 channels in]
//   (bound for reading they are read_v, read_d, read_u, read_sums)
//
// Tiles are counted over all images; a dispatch takes `blocks` blocks of TILE_ROWS tiles from block `first` on, so that v and d stay
// small. What lies outside of an image is 0, and so is a tile behind the last.

struct Params {
    n: u32,
    h: u32,
    w: u32,
    c4: u32,        // quads that are summed over or transformed; in backward_weight and collect_weight those of x
    k4: u32,        // quads that are made; in backward_weight and collect_weight those of dy
    first: u32,
    blocks: u32,
    addend: u32,    // NONE, PER_IMAGE or PER_ROW
    addend_stride4: u32,    // between the rows of images; the first quadruple in each
    addend_first4: u32,
    scale: f32,
}
@group(0) @binding(14) var<uniform> params: Params;

const NONE = 0u;
const PER_IMAGE = 1u;
const PER_ROW = 2u;

@group(0) @binding(0) var<storage, read> x: array<real4>;
@group(0) @binding(0) var<storage, read> weight: array<real4>;
@group(0) @binding(0) var<storage, read> read_v: array<vec4<f32>>;
@group(0) @binding(0) var<storage, read> read_sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> read_u: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> read_d: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> before: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> addend: array<real4>;

@group(0) @binding(1) var<storage, read_write> u: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> v: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> d: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> dweight: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dx: array<real4>;
@group(0) @binding(3) var<storage, read_write> sums: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> y: array<real4>;

const TILE_ROWS = 32u;          // tiles of a block
override TILE_QUADS = LANES;
const WEIGHT_TILE_C = TILE_ROWS / TURN_ROWS;
override WEIGHT_TILE_K = LANES;
const TURN_QUADS = 1u;
const TURN_ROWS = 4u;

const SIZE = 64u;               // invocations of a workgroup that transforms
const FREQUENCIES = 16u;
const MAX_SHARE = 8u;           // the quads that a lane loads for all, at the most
override SHARE = TILE_ROWS / LANES;

alias Share = array<vec4<f32>, MAX_SHARE>;
alias Sums = array<vec4<f32>, TILE_ROWS>;
// Of each of the 2x2 outputs of the tiles.
alias Outputs = array<Sums, 4>;

// Tiles of an image.
fn tiles_of_image() -> vec2<u32> {
    return (vec2<u32>(params.h, params.w) + 1u) / 2u;
}

// A tile as image, row, column among the tiles.
fn tile_at(m: u32) -> vec3<u32> {
    let tiles = tiles_of_image();
    return vec3<u32>(m / (tiles.x * tiles.y), m / tiles.y % tiles.x, m % tiles.y);
}

fn next_tile(at: vec3<u32>) -> vec3<u32> {
    let tiles = tiles_of_image();
    var next = at + vec3<u32>(0u, 0u, 1u);
    let wide = next.z == tiles.y;
    next.z = select(next.z, 0u, wide);
    next.y += select(0u, 1u, wide);
    let high = next.y == tiles.x;
    next.y = select(next.y, 0u, high);
    next.x += select(0u, 1u, high);
    return next;
}

// Where quadruple c of channels of a tile of a block lies at frequency f in what has `quads` of them.
fn place(block: u32, f: u32, quads: u32, c: u32, tile: u32) -> u32 {
    return ((block * FREQUENCIES + f) * quads + c) * TILE_ROWS + tile;
}

// A quad of channels in by one of channels out at a frequency.
fn matrix_place(f: u32, c: u32, k: u32) -> u32 {
    return ((f * params.c4 + c) * params.k4 + k) * 4u;
}

// A tap of the weight, a quad of channels in by one out: a column for each channel in.
fn tap(r: u32, s: u32, c: u32, k: u32) -> mat4x4<f32> {
    let at = ((r * 3u + s) * params.c4 + c) * 4u * params.k4 + k;
    return mat4x4<f32>(load4(weight[at]), load4(weight[at + params.k4]), load4(weight[at + 2u * params.k4]), load4(weight[at + 3u * params.k4]));
}

// The same of the weight turned by half a turn, whose channels out are those that come in here.
fn flipped_tap(r: u32, s: u32, c: u32, k: u32) -> mat4x4<f32> {
    let at = (((2u - r) * 3u + 2u - s) * params.k4 + k) * 4u * params.c4 + c;
    return transpose(mat4x4<f32>(load4(weight[at]), load4(weight[at + params.c4]), load4(weight[at + 2u * params.c4]), load4(weight[at + 3u * params.c4])));
}

fn store_u(value: mat4x4<f32>, f: u32, c: u32, k: u32) {
    let to = matrix_place(f, c, k);
    u[to] = value[0];
    u[to + 1u] = value[1];
    u[to + 2u] = value[2];
    u[to + 3u] = value[3];
}

// u = G taps G^T.
fn store_weight(taps: ptr<function, array<mat4x4<f32>, 9>>, c: u32, k: u32) {
    var rows: array<mat4x4<f32>, 12>;
    for (var s = 0u; s < 3u; s++) {
        let ends = (*taps)[s] + (*taps)[6u + s];
        rows[s] = (*taps)[s];
        rows[3u + s] = 0.5 * (ends + (*taps)[3u + s]);
        rows[6u + s] = 0.5 * (ends - (*taps)[3u + s]);
        rows[9u + s] = (*taps)[6u + s];
    }
    for (var i = 0u; i < 4u; i++) {
        let ends = rows[3u * i] + rows[3u * i + 2u];
        store_u(rows[3u * i], 4u * i, c, k);
        store_u(0.5 * (ends + rows[3u * i + 1u]), 4u * i + 1u, c, k);
        store_u(0.5 * (ends - rows[3u * i + 1u]), 4u * i + 2u, c, k);
        store_u(rows[3u * i + 2u], 4u * i + 3u, c, k);
    }
}

@compute @workgroup_size(SIZE)
fn transform_weight(at: Invocation) {
    let i = index_of(at, SIZE);
    let c = i / params.k4;
    let k = i % params.k4;
    if (c >= params.c4) {
        return;
    }
    var taps: array<mat4x4<f32>, 9>;
    for (var j = 0u; j < 9u; j++) {
        taps[j] = tap(j / 3u, j % 3u, c, k);
    }
    store_weight(&taps, c, k);
}

@compute @workgroup_size(SIZE)
fn transform_flipped(at: Invocation) {
    let i = index_of(at, SIZE);
    let c = i / params.k4;
    let k = i % params.k4;
    if (c >= params.c4) {
        return;
    }
    var taps: array<mat4x4<f32>, 9>;
    for (var j = 0u; j < 9u; j++) {
        taps[j] = flipped_tap(j / 3u, j % 3u, c, k);
    }
    store_weight(&taps, c, k);
}

// What an invocation transforms: a quadruple c of channels of a tile of a block, which lies at `at` among all tiles.
struct Part {
    block: u32,
    c: u32,
    tile: u32,
    at: vec3<u32>,
}

fn part_of(i: u32) -> Part {
    let block = i / TILE_ROWS / params.c4;
    let tile = i % TILE_ROWS;
    return Part(block, i / TILE_ROWS % params.c4, tile, tile_at((params.first + block) * TILE_ROWS + tile));
}

// Quadruple c of a pixel of x, 0 outside.
fn pixel(image: u32, row: u32, column: u32, c: u32) -> vec4<f32> {
    let inside = image < params.n && row < params.h && column < params.w;
    let offset = ((image * params.h + row) * params.w + column) * params.c4 + c;
    return load4(x[select(0u, offset, inside)]) * select(0.0, 1.0, inside);
}

@compute @workgroup_size(SIZE)
fn transform_input(at: Invocation) {
    let part = part_of(index_of(at, SIZE));
    if (part.block >= params.blocks) {
        return;
    }
    // A row or column before the first is a large number: outside, too.
    let corner = 2u * part.at.yz - 1u;
    var rows: array<vec4<f32>, FREQUENCIES>;
    for (var j = 0u; j < 4u; j++) {
        let x0 = pixel(part.at.x, corner.x, corner.y + j, part.c);
        let x1 = pixel(part.at.x, corner.x + 1u, corner.y + j, part.c);
        let x2 = pixel(part.at.x, corner.x + 2u, corner.y + j, part.c);
        let x3 = pixel(part.at.x, corner.x + 3u, corner.y + j, part.c);
        rows[j] = x0 - x2;
        rows[4u + j] = x1 + x2;
        rows[8u + j] = x2 - x1;
        rows[12u + j] = x1 - x3;
    }
    for (var i = 0u; i < 4u; i++) {
        let to = place(part.block, 4u * i, params.c4, part.c, part.tile);
        let step_f = params.c4 * TILE_ROWS;
        v[to] = rows[4u * i] - rows[4u * i + 2u];
        v[to + step_f] = rows[4u * i + 1u] + rows[4u * i + 2u];
        v[to + 2u * step_f] = rows[4u * i + 2u] - rows[4u * i + 1u];
        v[to + 3u * step_f] = rows[4u * i + 1u] - rows[4u * i + 3u];
    }
}

@compute @workgroup_size(SIZE)
fn transform_gradient(at: Invocation) {
    let part = part_of(index_of(at, SIZE));
    if (part.block >= params.blocks) {
        return;
    }
    let corner = 2u * part.at.yz;
    var rows: array<vec4<f32>, 8>;
    for (var j = 0u; j < 2u; j++) {
        let x0 = pixel(part.at.x, corner.x, corner.y + j, part.c);
        let x1 = pixel(part.at.x, corner.x + 1u, corner.y + j, part.c);
        rows[j] = x0;
        rows[2u + j] = x0 + x1;
        rows[4u + j] = x0 - x1;
        rows[6u + j] = -x1;
    }
    for (var i = 0u; i < 4u; i++) {
        let to = place(part.block, 4u * i, params.c4, part.c, part.tile);
        let step_f = params.c4 * TILE_ROWS;
        d[to] = rows[2u * i];
        d[to + step_f] = rows[2u * i] + rows[2u * i + 1u];
        d[to + 2u * step_f] = rows[2u * i] - rows[2u * i + 1u];
        d[to + 3u * step_f] = -rows[2u * i + 1u];
    }
}

// What a subgroup makes: a block of tiles by LANES quads from `quad` on, of which each lane has its own, maybe behind the last.
struct Product {
    block: u32,
    quad: u32,
    tiles: u32,     // of the block, those that there are
}

fn product_of(i: u32) -> Product {
    let groups = (params.k4 + TILE_QUADS - 1u) / TILE_QUADS;
    let tiles = params.n * tiles_of_image().x * tiles_of_image().y;
    let before = (params.first + i / groups) * TILE_ROWS;
    return Product(i / groups, i % groups * TILE_QUADS, min(tiles - min(before, tiles), TILE_ROWS));
}

// The frequencies one after the other, each straight into the outputs.
fn sum_frequencies(outputs: ptr<function, Outputs>, block: u32, k: u32, lane: u32) {
    for (var f = 0u; f < FREQUENCIES; f++) {
        var sum: Sums;
        for (var j = 0u; j < TILE_ROWS; j++) {
            sum[j] = vec4<f32>();
        }
        var from_v = place(block, f, params.c4, 0u, lane);
        var from_u = matrix_place(f, 0u, k);
        for (var c = 0u; c < params.c4; c++) {
            var share: Share;
            for (var j = 0u; j < SHARE; j++) {
                share[j] = read_v[from_v + j * LANES];
            }
            let m = mat4x4<f32>(read_u[from_u], read_u[from_u + 1u], read_u[from_u + 2u], read_u[from_u + 3u]);
            for (var j = 0u; j < TILE_ROWS; j++) {
                sum[j] = multiply_add(sum[j], m, subgroupShuffle(share[j / LANES], j % LANES));
            }
            from_v += TILE_ROWS;
            from_u += 4u * params.k4;
        }
        // Columns f / 4 and f mod 4 of A^T.
        let a = coefficients(f / 4u);
        let b = coefficients(f % 4u);
        for (var j = 0u; j < TILE_ROWS; j++) {
            (*outputs)[0][j] += a.x * b.x * sum[j];
            (*outputs)[1][j] += a.x * b.y * sum[j];
            (*outputs)[2][j] += a.y * b.x * sum[j];
            (*outputs)[3][j] += a.y * b.y * sum[j];
        }
    }
}

// Column i of A^T.
fn coefficients(i: u32) -> vec2<f32> {
    return vec2<f32>(select(1.0, 0.0, i == 3u), select(select(1.0, -1.0, i > 1u), 0.0, i == 0u));
}

// The row of y where row i of the 2x2 outputs of a tile begins.
fn row_of(tile: vec3<u32>, i: u32) -> u32 {
    return (tile.x * params.h + 2u * tile.y + i) * params.w + 2u * tile.z;
}

// Rows of 2x2 outputs: an image of one row has no second. That the driver can't know it keeps it from unrolling the loop over them,
// whose stores are what takes longest to compile.
fn rows_of_tile() -> u32 {
    return min(params.h, 2u);
}

fn store_output(sum: vec4<f32>, m: u32, k: u32) {
    var value = sum + bias[k];
    if (params.addend == PER_ROW) {
        value += load4(addend[m * params.k4 + k]);
    } else if (params.addend == PER_IMAGE) {
        value += load4(addend[m / (params.h * params.w) * params.addend_stride4 + params.addend_first4 + k]);
    }
    y[m * params.k4 + k] = store4(params.scale * value);
}

@compute @workgroup_size(LANES)
fn forward(workgroup: Workgroup, at: SubgroupInvocation) {
    let product = product_of(group_index(workgroup));
    if (product.block >= params.blocks) {
        return;
    }
    let own = product.quad + at.lane;
    var outputs: Outputs;
    sum_frequencies(&outputs, product.block, min(own, params.k4 - 1u), at.lane);
    for (var i = 0u; i < rows_of_tile(); i++) {
        var tile = tile_at((params.first + product.block) * TILE_ROWS);
        for (var j = 0u; j < TILE_ROWS; j++) {
            let row = row_of(tile, i);
            if (j < product.tiles && own < params.k4 && 2u * tile.y + i < params.h) {
                store_output(select(outputs[0][j], outputs[2][j], i == 1u), row, own);
                if (2u * tile.z + 1u < params.w) {
                    store_output(select(outputs[1][j], outputs[3][j], i == 1u), row + 1u, own);
                }
            }
            tile = next_tile(tile);
        }
    }
}

@compute @workgroup_size(LANES)
fn backward_data(workgroup: Workgroup, at: SubgroupInvocation) {
    let product = product_of(group_index(workgroup));
    if (product.block >= params.blocks) {
        return;
    }
    let own = product.quad + at.lane;
    var outputs: Outputs;
    sum_frequencies(&outputs, product.block, min(own, params.k4 - 1u), at.lane);
    for (var i = 0u; i < rows_of_tile(); i++) {
        var tile = tile_at((params.first + product.block) * TILE_ROWS);
        for (var j = 0u; j < TILE_ROWS; j++) {
            let row = row_of(tile, i);
            if (j < product.tiles && own < params.k4 && 2u * tile.y + i < params.h) {
                dx[row * params.k4 + own] = store4(select(outputs[0][j], outputs[2][j], i == 1u));
                if (2u * tile.z + 1u < params.w) {
                    dx[(row + 1u) * params.k4 + own] = store4(select(outputs[1][j], outputs[3][j], i == 1u));
                }
            }
            tile = next_tile(tile);
        }
    }
}

// Quad i of v in tile j of the turn is loaded by lane (4 i + j) mod LANES as its share (4 i + j) / LANES.
@compute @workgroup_size(LANES)
fn backward_weight(workgroup: Workgroup, at: SubgroupInvocation) {
    let i = group_index(workgroup);
    let blocks_c = (params.c4 + WEIGHT_TILE_C - 1u) / WEIGHT_TILE_C;
    let blocks_k = (params.k4 + WEIGHT_TILE_K - 1u) / WEIGHT_TILE_K;
    let f = i / (blocks_c * blocks_k);
    if (f >= FREQUENCIES) {
        return;
    }
    let first_c = i / blocks_k % blocks_c * WEIGHT_TILE_C;
    let own = i % blocks_k * WEIGHT_TILE_K + at.lane;
    let k = min(own, params.k4 - 1u);

    var sum: array<mat4x4<f32>, WEIGHT_TILE_C>;
    for (var j = 0u; j < WEIGHT_TILE_C; j++) {
        let start = matrix_place(f, min(first_c + j, params.c4 - 1u), k);
        if (params.first > 0u) {
            sum[j] = mat4x4<f32>(before[start], before[start + 1u], before[start + 2u], before[start + 3u]);
        }
    }
    for (var block = 0u; block < params.blocks; block++) {
        for (var tile = 0u; tile < TILE_ROWS; tile += TURN_ROWS) {
            var share: Share;
            for (var j = 0u; j < SHARE; j++) {
                let part = j * LANES + at.lane;
                let c = min(first_c + part / TURN_ROWS, params.c4 - 1u);
                share[j] = read_v[place(block, f, params.c4, c, tile + part % TURN_ROWS)];
            }
            let start = place(block, f, params.k4, k, tile);
            let g = mat4x4<f32>(read_d[start], read_d[start + 1u], read_d[start + 2u], read_d[start + 3u]);
            for (var i = 0u; i < WEIGHT_TILE_C; i++) {
                for (var j = 0u; j < TURN_ROWS; j++) {
                    let a = subgroupShuffle(share[(4u * i + j) / LANES], (4u * i + j) % LANES);
                    sum[i] = outer_add(sum[i], a, g[j]);
                }
            }
        }
    }
    for (var j = 0u; j < WEIGHT_TILE_C; j++) {
        if (first_c + j < params.c4 && own < params.k4) {
            let to = matrix_place(f, first_c + j, own);
            sums[to] = sum[j][0];
            sums[to + 1u] = sum[j][1];
            sums[to + 2u] = sum[j][2];
            sums[to + 3u] = sum[j][3];
        }
    }
}

// One channel of x by a quad of dy.
@compute @workgroup_size(SIZE)
fn collect_weight(at: Invocation) {
    let i = index_of(at, SIZE);
    let channel = i / params.k4;
    let k = i % params.k4;
    if (channel >= 4u * params.c4) {
        return;
    }
    var rows: array<vec4<f32>, 12>;
    for (var j = 0u; j < 4u; j++) {
        let s0 = read_sums[matrix_place(j, channel / 4u, k) + channel % 4u];
        let s1 = read_sums[matrix_place(4u + j, channel / 4u, k) + channel % 4u];
        let s2 = read_sums[matrix_place(8u + j, channel / 4u, k) + channel % 4u];
        let s3 = read_sums[matrix_place(12u + j, channel / 4u, k) + channel % 4u];
        rows[j] = s0 + 0.5 * (s1 + s2);
        rows[4u + j] = 0.5 * (s1 - s2);
        rows[8u + j] = 0.5 * (s1 + s2) + s3;
    }
    for (var r = 0u; r < 3u; r++) {
        let to = (r * 12u * params.c4 + channel) * params.k4 + k;
        let step_s = 4u * params.c4 * params.k4;
        dweight[to] = rows[4u * r] + 0.5 * (rows[4u * r + 1u] + rows[4u * r + 2u]);
        dweight[to + step_s] = 0.5 * (rows[4u * r + 1u] - rows[4u * r + 2u]);
        dweight[to + 2u * step_s] = 0.5 * (rows[4u * r + 1u] + rows[4u * r + 2u]) + rows[4u * r + 3u];
    }
}
