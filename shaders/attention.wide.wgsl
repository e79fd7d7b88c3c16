// Variant `wide`, for heads of many channels, see lib.subgroup.wgsl: a subgroup owns 4 tokens of one head (queries; keys in
// backward_key_value) and 8 LANES quads of channels of what it makes. It walks over the other tokens 4 LANES at a time: a lane
// makes the scores of 4 of them, which are then handed round by subgroupShuffle, so that S is made once for all of those channels.
// `forward` keeps the highest score so far and shrinks what it has summed where a higher one comes.

const QUADS = 8u;       // of channels that a lane sums

const TILE_TOKENS = 4u;
override TILE_QUADS = QUADS * LANES;
override OTHER_TOKENS = 4u * LANES;
override TURN_QUADS = LANES / 4u;

alias Products = array<mat4x4<f32>, QUADS>;

fn place_of_group(i: u32) -> Place {
    return place_of(i, block_count(), (params.channels4 + TILE_QUADS - 1u) / TILE_QUADS);
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

// The factors of 4 other tokens; those behind the last channel are loaded as the last.
fn queries_or_keys(rows: vec4<u32>, channel: u32) -> mat4x4<f32> {
    return load_part(rows, min(channel, params.channels4 - 1u));
}

fn gradient_or_value(is_gradient: bool, at: u32) -> vec4<f32> {
    if (is_gradient) {
        return load4(d_o[at]);
    }
    return load4(qkv[at]);
}

fn gradients_or_values(is_gradient: bool, rows: vec4<u32>, channel: u32) -> mat4x4<f32> {
    let c = min(channel, params.channels4 - 1u);
    if (is_gradient) {
        return load_d_o(rows, c);
    }
    return load_part(rows, c);
}

// S of 4 own tokens with a lane's 4 others: a column for each other one, a row for each own one.
fn query_key(own: vec4<u32>, others: vec4<u32>, lane: u32) -> mat4x4<f32> {
    var s = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += TURN_QUADS) {
        let share = load4(qkv[share_at(own, c, lane)]) * inside(c, lane);
        for (var i = 0u; i < TURN_QUADS; i++) {
            s = multiply_add4(s, own_quads(share, i), queries_or_keys(others, c + i));
        }
    }
    return params.scale * s;
}

// dP in the same shape.
fn gradient_value(own: vec4<u32>, others: vec4<u32>, own_is_query: bool, lane: u32) -> mat4x4<f32> {
    var d_p = mat4x4<f32>();
    for (var c = 0u; c < params.channels4; c += TURN_QUADS) {
        let share = gradient_or_value(own_is_query, share_at(own, c, lane)) * inside(c, lane);
        for (var i = 0u; i < TURN_QUADS; i++) {
            d_p = multiply_add4(d_p, own_quads(share, i), gradients_or_values(!own_is_query, others, c + i));
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

// Blocks of 4 tokens from `first` on that lanes hold.
fn holders(first: u32) -> u32 {
    return min(LANES, block_count() - first);
}

// Adds the part of the tokens that lanes hold from block `first` on, times what they hold of p.
fn add_handed(products: ptr<function, Products>, p: mat4x4<f32>, place: Place, first: u32, part: u32, lane: u32) {
    for (var holder = 0u; holder < holders(first); holder++) {
        let rows = parts_of(place, first + holder, part);
        let weights = handed_round(p, holder);
        for (var c = 0u; c < QUADS; c++) {
            if (has_channels(place, c)) {
                let channel = min(channel_of(place, c, lane), params.channels4 - 1u);
                (*products)[c] = multiply_add4((*products)[c], load_part(rows, channel), weights);
            }
        }
    }
}

@compute @workgroup_size(LANES)
fn forward(workgroup: Workgroup, at: SubgroupInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let place = place_of_group(i);
    let queries = parts_of(place, place.block, QUERY);
    var highest = LOWEST;
    var sum = vec4<f32>();      // over the lane's own keys
    var products: Products;
    for (var first = 0u; first < block_count(); first += LANES) {
        let s = mask(query_key(queries, parts_of(place, first + at.lane, KEY), at.lane), exist(first + at.lane), LOWEST);
        let higher = max(highest, subgroupMax(max(max(s[0], s[1]), max(s[2], s[3]))));
        let p = exp_below(s, higher);
        let shrink = exp(highest - higher);
        highest = higher;
        sum = sum * shrink + p[0] + p[1] + p[2] + p[3];
        for (var c = 0u; c < QUADS; c++) {
            products[c] = shrunk(products[c], shrink);
        }
        add_handed(&products, p, place, first, VALUE, at.lane);
    }
    sum = subgroupAdd(sum);
    for (var c = 0u; c < QUADS; c++) {
        if (has_channels(place, c)) {
            for (var j = 0u; j < 4u; j++) {
                store_o(place, place.block, j, channel_of(place, c, at.lane), products[c][j] / sum[j]);
            }
        }
    }
    if (place.chunk == 0u && at.lane == 0u) {
        store_log_sums(place, place.block, highest, sum);
    }
}

// dQ = s dS K.
@compute @workgroup_size(LANES)
fn backward_query(workgroup: Workgroup, at: SubgroupInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let place = place_of_group(i);
    let queries = parts_of(place, place.block, QUERY);
    let gradients = rows_of(place, place.block);
    let l = log_sums[place.image_head * block_count() + place.block];
    let d = delta_of(place, place.block);
    var products: Products;
    for (var first = 0u; first < block_count(); first += LANES) {
        let s = query_key(queries, parts_of(place, first + at.lane, KEY), at.lane);
        let d_p = gradient_value(gradients, parts_of(place, first + at.lane, VALUE), true, at.lane);
        let d_s = d_scores(exp_below(s, l), d_p, d);
        add_handed(&products, mask(d_s, exist(first + at.lane), vec4<f32>()), place, first, KEY, at.lane);
    }
    for (var c = 0u; c < QUADS; c++) {
        if (has_channels(place, c)) {
            for (var j = 0u; j < 4u; j++) {
                store_part(place, place.block, j, QUERY, channel_of(place, c, at.lane), products[c][j]);
            }
        }
    }
    if (place.chunk == 0u && at.lane == 0u) {
        store_deltas(place, place.block, d);
    }
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(LANES)
fn backward_key_value(workgroup: Workgroup, at: SubgroupInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let place = place_of_group(i);
    let keys = parts_of(place, place.block, KEY);
    let values = parts_of(place, place.block, VALUE);
    var products_k: Products;
    var products_v: Products;
    for (var first = 0u; first < block_count(); first += LANES) {
        let s = query_key(keys, parts_of(place, first + at.lane, QUERY), at.lane);
        let d_p = gradient_value(values, rows_of(place, first + at.lane), false, at.lane);
        let statistic = place.image_head * block_count() + min(first + at.lane, block_count() - 1u);
        let l = log_sums[statistic];
        let d = deltas[statistic];
        let p = mask(mat4x4<f32>(exp(s[0] - l.x), exp(s[1] - l.y), exp(s[2] - l.z), exp(s[3] - l.w)), exist(first + at.lane), vec4<f32>());
        let d_s = params.scale * mat4x4<f32>(p[0] * (d_p[0] - d.x), p[1] * (d_p[1] - d.y), p[2] * (d_p[2] - d.z), p[3] * (d_p[3] - d.w));
        for (var holder = 0u; holder < holders(first); holder++) {
            let queries = parts_of(place, first + holder, QUERY);
            let gradients = rows_of(place, first + holder);
            let weights_p = handed_round(p, holder);
            let weights_s = handed_round(d_s, holder);
            for (var c = 0u; c < QUADS; c++) {
                if (has_channels(place, c)) {
                    let channel = min(channel_of(place, c, at.lane), params.channels4 - 1u);
                    products_k[c] = multiply_add4(products_k[c], load_part(queries, channel), weights_s);
                    products_v[c] = multiply_add4(products_v[c], load_d_o(gradients, channel), weights_p);
                }
            }
        }
    }
    for (var c = 0u; c < QUADS; c++) {
        if (has_channels(place, c)) {
            for (var j = 0u; j < 4u; j++) {
                store_part(place, place.block, j, KEY, channel_of(place, c, at.lane), products_k[c][j]);
                store_part(place, place.block, j, VALUE, channel_of(place, c, at.lane), products_v[c][j]);
            }
        }
    }
}
