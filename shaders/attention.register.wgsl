// Variant `register`: a lane makes L or D of 4 queries, or 4 tokens x 4 quads of channels of O, dQ, dK and dV. It walks over the
// other tokens 4 at a time with 4 x 4 tiles in registers: no workgroup memory, no barriers. S is computed anew for every
// 16 channels.

fn chunk_count() -> u32 {
    return (params.channels4 + 3u) / 4u;
}

// The quadruple c of a lane's chunk; those behind the last channel repeat it, and are not stored.
fn channel_of(place: Place, c: u32) -> u32 {
    return min(4u * place.chunk + c, params.channels4 - 1u);
}

// S of 4 queries and 4 keys: a column for each key, a row for each query.
fn scores(queries: vec4<u32>, keys: vec4<u32>) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        s = multiply_add4(s, transpose(load_q(queries, c)), load_k(keys, c));
    }
    return params.scale * s;
}

// P in the same shape, L of the 4 queries given.
fn probabilities(queries: vec4<u32>, keys: vec4<u32>, l: vec4<f32>) -> mat4x4<f32> {
    let s = scores(queries, keys);
    return mat4x4<f32>(exp(s[0] - l), exp(s[1] - l), exp(s[2] - l), exp(s[3] - l));
}

// dP in the same shape.
fn d_probabilities(queries: vec4<u32>, keys: vec4<u32>) -> mat4x4<f32> {
    var d_p = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        d_p = multiply_add4(d_p, transpose(load_d_o(queries, c)), load_v(keys, c));
    }
    return d_p;
}

// s dS in the same shape, D of the 4 queries given.
fn d_scores(p: mat4x4<f32>, d_p: mat4x4<f32>, d: vec4<f32>) -> mat4x4<f32> {
    return params.scale * mat4x4<f32>(p[0] * (d_p[0] - d), p[1] * (d_p[1] - d), p[2] * (d_p[2] - d), p[3] * (d_p[3] - d));
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

// L_i = m_i + log sum_j exp(S_ij - m_i), m_i the highest score so far: nothing overflows.
@compute @workgroup_size(64)
fn log_sum_exp(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), 1u);
    let queries = rows_of(place, place.block);
    var highest = LOWEST;
    var sum = vec4<f32>();
    for (var block = 0u; block < block_count(); block++) {
        let s = mask_keys(scores(queries, rows_of(place, block)), exist(block), LOWEST);
        let higher = max(highest, max(max(s[0], s[1]), max(s[2], s[3])));
        let terms = exp(s[0] - higher) + exp(s[1] - higher) + exp(s[2] - higher) + exp(s[3] - higher);
        sum = sum * exp(highest - higher) + terms;
        highest = higher;
    }
    log_sums_out[place.image_head * block_count() + place.block] = select(vec4<f32>(), highest + log(sum), exist(place.block));
}

// O, divided by the sum of P, which is 1 but for the rounding of L.
@compute @workgroup_size(64)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = rows_of(place, place.block);
    let l = log_sums[place.image_head * block_count() + place.block];
    var sum = vec4<f32>();
    var product = array<mat4x4<f32>, 4>();
    for (var block = 0u; block < block_count(); block++) {
        let keys = rows_of(place, block);
        let p = mask_keys(probabilities(queries, keys, l), exist(block), vec4<f32>());
        sum += p[0] + p[1] + p[2] + p[3];
        let p_transposed = transpose(p);
        for (var c = 0u; c < 4u; c++) {
            product[c] = multiply_add4(product[c], load_v(keys, channel_of(place, c)), p_transposed);
        }
    }
    let stored = exist(place.block);
    for (var c = 0u; c < 4u; c++) {
        let channel = 4u * place.chunk + c;
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4 && stored[j]) {
                o_out[queries[j] + channel] = store4(product[c][j] / sum[j]);
            }
        }
    }
}

// D_i = dO_i . O_i.
@compute @workgroup_size(64)
fn delta(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), 1u);
    let queries = rows_of(place, place.block);
    var sum = vec4<f32>();
    for (var c = 0u; c < params.channels4; c++) {
        let a = transpose(load_d_o(queries, c));
        let b = transpose(load_o(queries, c));
        sum = sum + a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
    }
    deltas_out[place.image_head * block_count() + place.block] = select(vec4<f32>(), sum, exist(place.block));
}

// dQ = s dS K.
@compute @workgroup_size(64)
fn backward_query(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let queries = rows_of(place, place.block);
    let l = log_sums[place.image_head * block_count() + place.block];
    let d = deltas[place.image_head * block_count() + place.block];
    var product = array<mat4x4<f32>, 4>();
    for (var block = 0u; block < block_count(); block++) {
        let keys = rows_of(place, block);
        let p = mask_keys(probabilities(queries, keys, l), exist(block), vec4<f32>());
        let d_s_transposed = transpose(d_scores(p, d_probabilities(queries, keys), d));
        for (var c = 0u; c < 4u; c++) {
            product[c] = multiply_add4(product[c], load_k(keys, channel_of(place, c)), d_s_transposed);
        }
    }
    let stored = exist(place.block);
    for (var c = 0u; c < 4u; c++) {
        let channel = 4u * place.chunk + c;
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4 && stored[j]) {
                d_q[queries[j] + channel] = store4(product[c][j]);
            }
        }
    }
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(64)
fn backward_key_value(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = group_index(group, groups) * 64u + lane;
    if (i >= params.places) {
        return;
    }
    let place = place_of(i, block_count(), chunk_count());
    let keys = rows_of(place, place.block);
    var product_k = array<mat4x4<f32>, 4>();
    var product_v = array<mat4x4<f32>, 4>();
    for (var block = 0u; block < block_count(); block++) {
        let queries = rows_of(place, block);
        let l = log_sums[place.image_head * block_count() + block];
        let d = deltas[place.image_head * block_count() + block];
        let p = mask_queries(probabilities(queries, keys, l), exist(block));
        let d_s = d_scores(p, d_probabilities(queries, keys), d);
        for (var c = 0u; c < 4u; c++) {
            let channel = channel_of(place, c);
            product_k[c] = multiply_add4(product_k[c], load_q(queries, channel), d_s);
            product_v[c] = multiply_add4(product_v[c], load_d_o(queries, channel), p);
        }
    }
    // A key that repeats the last one stores the same values again.
    for (var c = 0u; c < 4u; c++) {
        let channel = 4u * place.chunk + c;
        for (var j = 0u; j < 4u; j++) {
            if (channel < params.channels4) {
                d_k[keys[j] + channel] = store4(product_k[c][j]);
                d_v[keys[j] + channel] = store4(product_v[c][j]);
            }
        }
    }
}
