// Multi-head self-attention between its projections; no T x T matrix is ever stored.
//
// For each image and head, with queries, keys and values as rows of T tokens x d channels and s = 1 / sqrt(d):
//
//   forward                          backward, of a gradient dO
//     S = s Q K^T                      dV = P^T dO
//     L_i = log sum_j exp(S_ij)        dP = dO V^T
//     P_ij = exp(S_ij - L_i)           dS_ij = P_ij (dP_ij - D_i), D_i = sum_j P_ij dP_ij = dO_i . O_i
//     O = P V                          dQ = s dS K, dK = s dS^T Q
//
// P is a softmax over keys, hence dS_ij = P_ij (dP_ij - sum_j P_ij dP_ij); the sum is dO_i . sum_j P_ij V_j = dO_i . O_i.
// P is computed again from L wherever it is needed. Where tokens end within a block, loads repeat the last token, P is
// masked to 0 and stores are guarded.
//
//   entry               makes
//   forward             O and L
//   backward_query      dQ and D
//   backward_key_value  dK and dV
//
// qkv, d_qkv: [N, T, 3 heads, d], of a token all queries, then all keys, then all values, as one product makes them.
// o, d_o, o_out: [N, T, heads, d]; L is log_sums and log_sums_out, D is deltas and deltas_out: [N, heads, 1, T], so that 4
// queries are one quadruple.
//
// A variant declares what a lane or workgroup makes as constants, which the host reads: TILE_TOKENS by TILE_QUADS of channels,
// walking over OTHER_TOKENS at a time and over TURN_QUADS of channels in a turn.
//
// `forward` is that of Dao et al., "FlashAttention", 2022: it keeps the highest score so far and shrinks what it has summed where a
// higher one comes.
//
// This file is the prefix of the variants, which hold the entry points: attention.register.wgsl and its neighbours.

struct Params {
    places: u32,        // blocks of tokens x chunks of channels x images x heads, each for a lane or a workgroup
    tokens: u32,        // T
    heads: u32,
    channels4: u32,     // quadruples of d
    scale: f32,         // s
}
@group(0) @binding(14) var<uniform> params: Params;

@group(0) @binding(0) var<storage, read> qkv: array<real4>;
@group(0) @binding(1) var<storage, read> o: array<real4>;
@group(0) @binding(2) var<storage, read> d_o: array<real4>;
@group(0) @binding(3) var<storage, read> log_sums: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> deltas: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> o_out: array<real4>;
@group(0) @binding(6) var<storage, read_write> log_sums_out: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> deltas_out: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> d_qkv: array<real4>;

// Below every score, and no infinity: infinities may not survive a driver's fast arithmetic.
const LOWEST = vec4<f32>(-1e30);

// Which part of qkv.
const QUERY = 0u;
const KEY = 1u;
const VALUE = 2u;

// By how much a score must exceed the highest so far for some variants to heed it: exp(8) = 2981, far from any overflow.
const MARGIN = 8.0;

// What a lane, or a workgroup, works on.
struct Place {
    block: u32,         // of tokens
    chunk: u32,         // of channels
    image_head: u32,
    token: u32,         // number of token 0 of this image
    head: u32,          // quadruple of this head within a token of o
}

// Blocks vary fastest: neighbours share a head and with it all that the loops read.
fn place_of(i: u32, blocks: u32, chunks: u32) -> Place {
    let image_head = i / (blocks * chunks);
    let token = image_head / params.heads * params.tokens;
    return Place(i % blocks, i / blocks % chunks, image_head, token, image_head % params.heads * params.channels4);
}

// Blocks of 4 tokens.
fn block_count() -> u32 {
    return (params.tokens + 3u) / 4u;
}

fn tokens_of(block: u32) -> vec4<u32> {
    return 4u * block + vec4<u32>(0u, 1u, 2u, 3u);
}

fn exist(block: u32) -> vec4<bool> {
    return tokens_of(block) < vec4<u32>(params.tokens);
}

// Tokens of a block of 4, those behind the last repeat it.
fn loaded_tokens(block: u32) -> vec4<u32> {
    return min(tokens_of(block), vec4<u32>(params.tokens - 1u));
}

// The quadruple where each token of a block of 4 begins in o, and where its query, key or value does.
fn rows_of(place: Place, block: u32) -> vec4<u32> {
    return (place.token + loaded_tokens(block)) * (params.heads * params.channels4) + place.head;
}

fn parts_of(place: Place, block: u32, part: u32) -> vec4<u32> {
    return (3u * (place.token + loaded_tokens(block)) + part) * (params.heads * params.channels4) + place.head;
}

// The same of one token; those behind the last repeat it.
fn row_of(place: Place, token: u32) -> u32 {
    return (place.token + min(token, params.tokens - 1u)) * (params.heads * params.channels4) + place.head;
}

fn part_of(place: Place, token: u32, part: u32) -> u32 {
    return (3u * (place.token + min(token, params.tokens - 1u)) + part) * (params.heads * params.channels4) + place.head;
}

// Of 4 tokens, in the columns; rows are 4 channels.
fn load_part(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(qkv[rows.x + c]), load4(qkv[rows.y + c]), load4(qkv[rows.z + c]), load4(qkv[rows.w + c]));
}

fn load_o(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(o[rows.x + c]), load4(o[rows.y + c]), load4(o[rows.z + c]), load4(o[rows.w + c]));
}

fn load_d_o(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(d_o[rows.x + c]), load4(d_o[rows.y + c]), load4(d_o[rows.z + c]), load4(d_o[rows.w + c]));
}

// Stores a quadruple of token j of a block of 4, if there is one.
fn store_o(place: Place, block: u32, j: u32, channel: u32, value: vec4<f32>) {
    if (channel < params.channels4 && 4u * block + j < params.tokens) {
        o_out[rows_of(place, block)[j] + channel] = store4(value);
    }
}

fn store_part(place: Place, block: u32, j: u32, part: u32, channel: u32, value: vec4<f32>) {
    if (channel < params.channels4 && 4u * block + j < params.tokens) {
        d_qkv[parts_of(place, block, part)[j] + channel] = store4(value);
    }
}

// Stores L of a block of 4 queries: the highest score, and the sum of the exponentials of how far each is below it.
fn store_log_sums(place: Place, block: u32, highest: vec4<f32>, sum: vec4<f32>) {
    log_sums_out[place.image_head * block_count() + block] = select(vec4<f32>(), highest + log(sum), exist(block));
}

// D of a block of 4 queries, dO_i . O_i, summed in the order of dP, so that dP_ij - D_i is 0 to the last bit where it should be:
// with one token.
fn delta_of(place: Place, block: u32) -> vec4<f32> {
    let rows = rows_of(place, block);
    var sum = vec4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        let a = transpose(load_d_o(rows, c));
        let b = transpose(load_o(rows, c));
        sum = sum + a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    }
    return sum;
}

fn store_deltas(place: Place, block: u32, d: vec4<f32>) {
    deltas_out[place.image_head * block_count() + block] = select(vec4<f32>(), d, exist(block));
}

// What was summed of 4 queries, in the columns, counted from another highest score.
fn shrunk(sum: mat4x4<f32>, shrink: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(shrink.x * sum[0], shrink.y * sum[1], shrink.z * sum[2], shrink.w * sum[3]);
}

// P = exp(S - L), L of the 4 queries in the rows.
fn exp_below(s: mat4x4<f32>, l: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(exp(s[0] - l), exp(s[1] - l), exp(s[2] - l), exp(s[3] - l));
}

// s dS, D of the 4 queries in the rows.
fn d_scores(p: mat4x4<f32>, d_p: mat4x4<f32>, d: vec4<f32>) -> mat4x4<f32> {
    return params.scale * mat4x4<f32>(p[0] * (d_p[0] - d), p[1] * (d_p[1] - d), p[2] * (d_p[2] - d), p[3] * (d_p[3] - d));
}

// sum + a b.
fn multiply_add4(sum: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(multiply_add(sum[0], a, b[0]), multiply_add(sum[1], a, b[1]), multiply_add(sum[2], a, b[2]), multiply_add(sum[3], a, b[3]));
}
