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
//   log_sum_exp         L; in the variants whose `forward` does not make it
//   forward             O
//   delta               D; the variant `register` alone
//   backward_query      dQ
//   backward_key_value  dK and dV
//
// q, k, v, o, d_o, o_out, d_q, d_k, d_v: [N, T, heads, d]; L is log_sums and log_sums_out, D is deltas and deltas_out:
// [N, heads, 1, T], so that 4 queries are one quadruple.
//
// A variant declares what a lane or workgroup makes as constants, which the host reads: TILE_TOKENS by TILE_QUADS of channels,
// walking over OTHER_TOKENS at a time and over TURN_QUADS of channels in a turn.
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

@group(0) @binding(0) var<storage, read> q: array<real4>;
@group(0) @binding(1) var<storage, read> k: array<real4>;
@group(0) @binding(2) var<storage, read> v: array<real4>;
@group(0) @binding(3) var<storage, read> o: array<real4>;
@group(0) @binding(4) var<storage, read> d_o: array<real4>;
@group(0) @binding(5) var<storage, read> log_sums: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> deltas: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> o_out: array<real4>;
@group(0) @binding(8) var<storage, read_write> log_sums_out: array<vec4<f32>>;
@group(0) @binding(9) var<storage, read_write> deltas_out: array<vec4<f32>>;
@group(0) @binding(10) var<storage, read_write> d_q: array<real4>;
@group(0) @binding(11) var<storage, read_write> d_k: array<real4>;
@group(0) @binding(12) var<storage, read_write> d_v: array<real4>;

// Below every score, and no infinity: infinities may not survive a driver's fast arithmetic.
const LOWEST = vec4<f32>(-1e30);

// What a lane, or a workgroup, works on.
struct Place {
    block: u32,         // of tokens
    chunk: u32,         // of channels
    image_head: u32,
    first: u32,         // quadruple of token 0, channel 0 of this head
}

// Blocks vary fastest: neighbours share a head and with it all that the loops read.
fn place_of(i: u32, blocks: u32, chunks: u32) -> Place {
    let image_head = i / (blocks * chunks);
    let row = image_head / params.heads * params.tokens * params.heads + image_head % params.heads;
    return Place(i % blocks, i / blocks % chunks, image_head, row * params.channels4);
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

// The quadruple where each token of a block of 4 begins.
fn rows_of(place: Place, block: u32) -> vec4<u32> {
    let tokens = min(tokens_of(block), vec4<u32>(params.tokens - 1u));
    return place.first + tokens * (params.heads * params.channels4);
}

// A quadruple of either factor of S = Q K^T, and of dP = dO V^T.
fn query_or_key(is_query: bool, at: u32) -> vec4<f32> {
    if (is_query) {
        return load4(q[at]);
    }
    return load4(k[at]);
}

fn gradient_or_value(is_gradient: bool, at: u32) -> vec4<f32> {
    if (is_gradient) {
        return load4(d_o[at]);
    }
    return load4(v[at]);
}

// Of 4 tokens, in the columns; rows are 4 channels.
fn load_q(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(q[rows.x + c]), load4(q[rows.y + c]), load4(q[rows.z + c]), load4(q[rows.w + c]));
}

fn load_k(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(k[rows.x + c]), load4(k[rows.y + c]), load4(k[rows.z + c]), load4(k[rows.w + c]));
}

fn load_v(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(v[rows.x + c]), load4(v[rows.y + c]), load4(v[rows.z + c]), load4(v[rows.w + c]));
}

fn load_o(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(o[rows.x + c]), load4(o[rows.y + c]), load4(o[rows.z + c]), load4(o[rows.w + c]));
}

fn load_d_o(rows: vec4<u32>, c: u32) -> mat4x4<f32> {
    return mat4x4<f32>(load4(d_o[rows.x + c]), load4(d_o[rows.y + c]), load4(d_o[rows.z + c]), load4(d_o[rows.w + c]));
}

// Where a quadruple of what is made is stored, if it exists.
struct Target {
    at: u32,
    exists: bool,
}

// Of token j of a block of 4.
fn target_of(place: Place, block: u32, j: u32, channel: u32) -> Target {
    return Target(rows_of(place, block)[j] + channel, channel < params.channels4 && 4u * block + j < params.tokens);
}

fn store_o(to: Target, value: vec4<f32>) {
    if (to.exists) {
        o_out[to.at] = store4(value);
    }
}

fn store_d_q(to: Target, value: vec4<f32>) {
    if (to.exists) {
        d_q[to.at] = store4(value);
    }
}

fn store_d_k(to: Target, value: vec4<f32>) {
    if (to.exists) {
        d_k[to.at] = store4(value);
    }
}

fn store_d_v(to: Target, value: vec4<f32>) {
    if (to.exists) {
        d_v[to.at] = store4(value);
    }
}

// Stores L of a block of 4 queries: the highest score, and the sum of the exponentials of how far each is below it.
fn store_log_sums(place: Place, block: u32, highest: vec4<f32>, sum: vec4<f32>) {
    log_sums_out[place.image_head * block_count() + block] = select(vec4<f32>(), highest + log(sum), exist(block));
}

// P = exp(S - L), L of the 4 queries in the rows.
fn exp_below(s: mat4x4<f32>, l: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(exp(s[0] - l), exp(s[1] - l), exp(s[2] - l), exp(s[3] - l));
}

// s dS, D of the 4 queries in the rows.
fn d_scores(p: mat4x4<f32>, d_p: mat4x4<f32>, d: vec4<f32>) -> mat4x4<f32> {
    return params.scale * mat4x4<f32>(p[0] * (d_p[0] - d), p[1] * (d_p[1] - d), p[2] * (d_p[2] - d), p[3] * (d_p[3] - d));
}

// sum + a b. D is summed in the same order, so that dP_ij - D_i is 0 to the last bit where it should be: with one token.
fn multiply_add4(sum: mat4x4<f32>, a: mat4x4<f32>, b: mat4x4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(multiply_add(sum[0], a, b[0]), multiply_add(sum[1], a, b[1]), multiply_add(sum[2], a, b[2]), multiply_add(sum[3], a, b[3]));
}
