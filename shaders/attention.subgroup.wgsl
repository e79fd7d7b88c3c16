// Variant `subgroup`: a subgroup owns 4 tokens of one head (queries; keys in backward_key_value) and 8 LANES quads of channels of
// what it makes. It walks over the other tokens 4 LANES at a time: a lane makes the scores of 4 of them, which are then handed
// round by subgroupShuffle, so that S is made once for all of those channels. `forward` keeps the highest score so far and
// shrinks what it has summed where a higher one comes, and makes L, in log_sums_out, beside o_out; the others write d_q, or
// d_k and d_v. No workgroup memory, no barriers; see conv2d.subgroup.wgsl.

override LANES = 8u;    // in a workgroup, which is one subgroup or a part of one: 4, 8, 16 or 32

const QUADS = 8u;       // of channels that a lane sums

fn chunk_count() -> u32 {
    return (params.channels4 + QUADS * LANES - 1u) / (QUADS * LANES);
}

// Quad i of channels of the 4 own tokens, each token's loaded by one lane: a row for each token.
fn own_quads(share: vec4<f32>, i: u32) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(subgroupShuffle(share, 4u * i), subgroupShuffle(share, 4u * i + 1u), subgroupShuffle(share, 4u * i + 2u), subgroupShuffle(share, 4u * i + 3u)));
}

// The quad of channels behind c that a lane loads for all; behind the last channel comes 0.
fn share_at(rows: vec4<u32>, c: u32, lane: u32) -> u32 {
    return rows[lane % 4u] + min(c + lane / 4u, params.channels4 - 1u);
}

fn inside(c: u32, lane: u32) -> f32 {
    return select(0.0, 1.0, c + lane / 4u < params.channels4);
}

// Scores of 4 own tokens with a lane's 4 others: a column for each other one, a row for each own one. Here q is own, k other.
fn query_key(own: vec4<u32>, others: vec4<u32>, lane: u32) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += LANES / 4u) {
        let share = load4(q[share_at(own, c, lane)]) * inside(c, lane);
        for (var i = 0u; i < LANES / 4u; i++) {
            s = multiply_add4(s, own_quads(share, i), load_k(others, min(c + i, params.channels4 - 1u)));
        }
    }
    return params.scale * s;
}

fn key_query(own: vec4<u32>, others: vec4<u32>, lane: u32) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += LANES / 4u) {
        let share = load4(k[share_at(own, c, lane)]) * inside(c, lane);
        for (var i = 0u; i < LANES / 4u; i++) {
            s = multiply_add4(s, own_quads(share, i), load_q(others, min(c + i, params.channels4 - 1u)));
        }
    }
    return params.scale * s;
}

// dP in the same shapes.
fn gradient_value(own: vec4<u32>, others: vec4<u32>, lane: u32) -> mat4x4<f32> {
    var d_p = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += LANES / 4u) {
        let share = load4(d_o[share_at(own, c, lane)]) * inside(c, lane);
        for (var i = 0u; i < LANES / 4u; i++) {
            d_p = multiply_add4(d_p, own_quads(share, i), load_v(others, min(c + i, params.channels4 - 1u)));
        }
    }
    return d_p;
}

fn value_gradient(own: vec4<u32>, others: vec4<u32>, lane: u32) -> mat4x4<f32> {
    var d_p = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += LANES / 4u) {
        let share = load4(v[share_at(own, c, lane)]) * inside(c, lane);
        for (var i = 0u; i < LANES / 4u; i++) {
            d_p = multiply_add4(d_p, own_quads(share, i), load_d_o(others, min(c + i, params.channels4 - 1u)));
        }
    }
    return d_p;
}

// What lane `holder` holds, a row for each of its 4 tokens.
fn handed_round(p: mat4x4<f32>, holder: u32) -> mat4x4<f32> {
    return transpose(mat4x4<f32>(subgroupShuffle(p[0], holder), subgroupShuffle(p[1], holder), subgroupShuffle(p[2], holder), subgroupShuffle(p[3], holder)));
}

// `other` in the columns of tokens that do not exist.
fn mask(p: mat4x4<f32>, tokens: vec4<bool>, other: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(select(other, p[0], tokens.x), select(other, p[1], tokens.y), select(other, p[2], tokens.z), select(other, p[3], tokens.w));
}

// Quad c of a lane; those behind the last channel are not stored, and where all lanes have none, nothing is summed.
fn channel_of(place: Place, c: u32, lane: u32) -> u32 {
    return (place.chunk * QUADS + c) * LANES + lane;
}

fn has_channels(place: Place, c: u32) -> bool {
    return channel_of(place, c, 0u) < params.channels4;
}

@compute @workgroup_size(LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = rows_of(place, place.block);
    var highest = LOWEST;
    var sum = vec4<f32>();      // over the lane's own keys
    var product = array<mat4x4<f32>, QUADS>();
    for (var first = 0u; first < block_count(); first += LANES) {
        let s = mask(query_key(queries, rows_of(place, first + lane), lane), exist(first + lane), LOWEST);
        let higher = max(highest, subgroupMax(max(max(s[0], s[1]), max(s[2], s[3]))));
        let p = mat4x4<f32>(exp(s[0] - higher), exp(s[1] - higher), exp(s[2] - higher), exp(s[3] - higher));
        let shrink = exp(highest - higher);
        highest = higher;
        sum = sum * shrink + p[0] + p[1] + p[2] + p[3];
        for (var c = 0u; c < QUADS; c++) {
            let old = product[c];
            product[c] = mat4x4<f32>(shrink.x * old[0], shrink.y * old[1], shrink.z * old[2], shrink.w * old[3]);
        }
        for (var holder = 0u; holder < min(LANES, block_count() - first); holder++) {
            let keys = rows_of(place, first + holder);
            let weights = handed_round(p, holder);
            for (var c = 0u; c < QUADS; c++) {
                if (has_channels(place, c)) {
                    product[c] = multiply_add4(product[c], load_v(keys, min(channel_of(place, c, lane), params.channels4 - 1u)), weights);
                }
            }
        }
    }
    sum = subgroupAdd(sum);
    let stored = exist(place.block);
    for (var c = 0u; c < QUADS; c++) {
        let channel = channel_of(place, c, lane);
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4 && stored[j]) {
                o_out[queries[j] + channel] = store4(product[c][j] / sum[j]);
            }
        }
    }
    if (place.chunk == 0u && lane == 0u) {
        log_sums_out[place.image_head * block_count() + place.block] = select(vec4<f32>(), highest + log(sum), stored);
    }
}

// dQ = s dS K.
@compute @workgroup_size(LANES)
fn backward_query(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = rows_of(place, place.block);
    let l = log_sums[place.image_head * block_count() + place.block];
    let d = deltas[place.image_head * block_count() + place.block];
    var product = array<mat4x4<f32>, QUADS>();
    for (var first = 0u; first < block_count(); first += LANES) {
        let others = rows_of(place, first + lane);
        let s = query_key(queries, others, lane);
        let d_p = gradient_value(queries, others, lane);
        let p = mat4x4<f32>(exp(s[0] - l), exp(s[1] - l), exp(s[2] - l), exp(s[3] - l));
        let d_s = params.scale * mat4x4<f32>(p[0] * (d_p[0] - d), p[1] * (d_p[1] - d), p[2] * (d_p[2] - d), p[3] * (d_p[3] - d));
        let masked = mask(d_s, exist(first + lane), vec4<f32>());
        for (var holder = 0u; holder < min(LANES, block_count() - first); holder++) {
            let keys = rows_of(place, first + holder);
            let weights = handed_round(masked, holder);
            for (var c = 0u; c < QUADS; c++) {
                if (has_channels(place, c)) {
                    product[c] = multiply_add4(product[c], load_k(keys, min(channel_of(place, c, lane), params.channels4 - 1u)), weights);
                }
            }
        }
    }
    let stored = exist(place.block);
    for (var c = 0u; c < QUADS; c++) {
        let channel = channel_of(place, c, lane);
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4 && stored[j]) {
                d_q[queries[j] + channel] = store4(product[c][j]);
            }
        }
    }
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(LANES)
fn backward_key_value(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(subgroup_invocation_id) lane: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let keys = rows_of(place, place.block);
    var product_k = array<mat4x4<f32>, QUADS>();
    var product_v = array<mat4x4<f32>, QUADS>();
    for (var first = 0u; first < block_count(); first += LANES) {
        let others = rows_of(place, first + lane);
        let s = key_query(keys, others, lane);
        let d_p = value_gradient(keys, others, lane);
        let statistic = place.image_head * block_count() + min(first + lane, block_count() - 1u);
        let l = log_sums[statistic];
        let d = deltas[statistic];
        let p = mask(mat4x4<f32>(exp(s[0] - l.x), exp(s[1] - l.y), exp(s[2] - l.z), exp(s[3] - l.w)), exist(first + lane), vec4<f32>());
        let d_s = params.scale * mat4x4<f32>(p[0] * (d_p[0] - d.x), p[1] * (d_p[1] - d.y), p[2] * (d_p[2] - d.z), p[3] * (d_p[3] - d.w));
        for (var holder = 0u; holder < min(LANES, block_count() - first); holder++) {
            let queries = rows_of(place, first + holder);
            let weights_p = handed_round(p, holder);
            let weights_s = handed_round(d_s, holder);
            for (var c = 0u; c < QUADS; c++) {
                if (has_channels(place, c)) {
                    let channel = min(channel_of(place, c, lane), params.channels4 - 1u);
                    product_k[c] = multiply_add4(product_k[c], load_q(queries, channel), weights_s);
                    product_v[c] = multiply_add4(product_v[c], load_d_o(queries, channel), weights_p);
                }
            }
        }
    }
    let stored = exist(place.block);
    for (var c = 0u; c < QUADS; c++) {
        let channel = channel_of(place, c, lane);
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4 && stored[j]) {
                d_k[keys[j] + channel] = store4(product_k[c][j]);
                d_v[keys[j] + channel] = store4(product_v[c][j]);
            }
        }
    }
}
