// Variant `register`: a lane makes 4 tokens x TILE_QUADS quads of channels of O, dQ, dK and dV. It walks over the other tokens 4 at
// a time with 4 x 4 tiles in registers: no workgroup memory, no barriers. S is computed anew for every TILE_QUADS quads of
// channels: with more than one, GPUs of few registers spill; drivers that compute on the CPU take four.

const TILE_TOKENS = 4u;
override TILE_QUADS = 1u;       // 4 at the most
const MAX_QUADS = 4u;
const OTHER_TOKENS = 4u;
const TURN_QUADS = 1u;

fn chunk_count() -> u32 {
    return (params.channels4 + TILE_QUADS - 1u) / TILE_QUADS;
}

// The quadruple c of a lane's chunk; those behind the last channel are not stored, and loaded as the last.
fn channel_of(place: Place, c: u32) -> u32 {
    return TILE_QUADS * place.chunk + c;
}

fn loaded(channel: u32) -> u32 {
    return min(channel, params.channels4 - 1u);
}

// S of 4 queries and 4 keys: a column for each key, a row for each query.
fn scores(queries: vec4<u32>, keys: vec4<u32>) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        s = multiply_add4(s, transpose(load_part(queries, c)), load_part(keys, c));
    }
    return params.scale * s;
}

// dP in the same shape.
fn d_probabilities(gradients: vec4<u32>, keys: vec4<u32>) -> mat4x4<f32> {
    let values = params.heads * params.channels4;   // from a key to its value
    var d_p = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        d_p = multiply_add4(d_p, transpose(load_d_o(gradients, c)), load_part(keys, values + c));
    }
    return d_p;
}

// `other` in the columns of keys that do not exist; the first of a block always does.
fn mask_keys(p: mat4x4<f32>, keys: vec4<bool>, other: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(p[0], select(other, p[1], keys.y), select(other, p[2], keys.z), select(other, p[3], keys.w));
}

// 0 in the rows of queries that do not exist.
fn mask_queries(p: mat4x4<f32>, queries: vec4<bool>) -> mat4x4<f32> {
    let zero = vec4<f32>();
    return mat4x4<f32>(select(zero, p[0], queries), select(zero, p[1], queries), select(zero, p[2], queries), select(zero, p[3], queries));
}

@compute @workgroup_size(64)
fn forward(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = parts_of(place, place.block, QUERY);
    var highest = LOWEST;
    var sum = vec4<f32>();
    var product = array<mat4x4<f32>, MAX_QUADS>();
    for (var block = 0u; block < block_count(); block++) {
        let s = mask_keys(scores(queries, parts_of(place, block, KEY)), exist(block), LOWEST);
        let higher = max(max(s[0], s[1]), max(s[2], s[3]));
        let exceeds = higher > highest + MARGIN;
        if (any(exceeds)) {
            let shrink = select(vec4<f32>(1.0), exp(highest - higher), exceeds);
            highest = select(highest, higher, exceeds);
            sum *= shrink;
            for (var c = 0u; c < TILE_QUADS; c++) {
                product[c] = shrunk(product[c], shrink);
            }
        }
        let p = exp_below(s, highest);
        sum = sum + p[0] + p[1] + p[2] + p[3];
        let p_transposed = transpose(p);
        let values = parts_of(place, block, VALUE);
        for (var c = 0u; c < TILE_QUADS; c++) {
            product[c] = multiply_add4(product[c], load_part(values, loaded(channel_of(place, c))), p_transposed);
        }
    }
    for (var c = 0u; c < TILE_QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_o(place, place.block, j, channel_of(place, c), product[c][j] / sum[j]);
        }
    }
    if (place.chunk == 0u) {
        store_log_sums(place, place.block, highest, sum);
    }
}

// dQ = s dS K.
@compute @workgroup_size(64)
fn backward_query(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = parts_of(place, place.block, QUERY);
    let gradients = rows_of(place, place.block);
    let l = log_sums[place.image_head * block_count() + place.block];
    let d = delta_of(place, place.block);
    var product = array<mat4x4<f32>, MAX_QUADS>();
    for (var block = 0u; block < block_count(); block++) {
        let keys = parts_of(place, block, KEY);
        let p = mask_keys(exp_below(scores(queries, keys), l), exist(block), vec4<f32>());
        let d_p = d_probabilities(gradients, keys);
        let d_s_transposed = transpose(d_scores(p, d_p, d));
        for (var c = 0u; c < TILE_QUADS; c++) {
            product[c] = multiply_add4(product[c], load_part(keys, loaded(channel_of(place, c))), d_s_transposed);
        }
    }
    for (var c = 0u; c < TILE_QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_part(place, place.block, j, QUERY, channel_of(place, c), product[c][j]);
        }
    }
    if (place.chunk == 0u) {
        store_deltas(place, place.block, d);
    }
}

// dK = s dS^T Q and dV = P^T dO, one behind the other: the sums of both are more registers than every GPU has.
@compute @workgroup_size(64)
fn backward_key_value(invocation: Invocation) {
    let i = index_of(invocation, 64u);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let keys = parts_of(place, place.block, KEY);
    var product = array<mat4x4<f32>, MAX_QUADS>();
    for (var block = 0u; block < block_count(); block++) {
        let p = probabilities(place, keys, block);
        let gradients = rows_of(place, block);
        for (var c = 0u; c < TILE_QUADS; c++) {
            product[c] = multiply_add4(product[c], load_d_o(gradients, loaded(channel_of(place, c))), p);
        }
    }
    for (var c = 0u; c < TILE_QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_part(place, place.block, j, VALUE, channel_of(place, c), product[c][j]);
        }
        product[c] = mat4x4<f32>();
    }
    for (var block = 0u; block < block_count(); block++) {
        let p = probabilities(place, keys, block);
        let d = deltas[place.image_head * block_count() + block];
        let d_s = d_scores(p, d_probabilities(rows_of(place, block), keys), d);
        let queries = parts_of(place, block, QUERY);
        for (var c = 0u; c < TILE_QUADS; c++) {
            product[c] = multiply_add4(product[c], load_part(queries, loaded(channel_of(place, c))), d_s);
        }
    }
    for (var c = 0u; c < TILE_QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_part(place, place.block, j, KEY, channel_of(place, c), product[c][j]);
        }
    }
}

// P of a block of 4 queries, in the rows; 0 of those that do not exist.
fn probabilities(place: Place, keys: vec4<u32>, block: u32) -> mat4x4<f32> {
    let l = log_sums[place.image_head * block_count() + block];
    return mask_queries(exp_below(scores(parts_of(place, block, QUERY), keys), l), exist(block));
}
