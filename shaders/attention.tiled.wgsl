// Variant `tiled`, for GPUs: a workgroup owns 32 tokens of one head (queries; keys in backward_key_value) and 8 CHANNEL_LANES
// channels of what it makes. It walks over the other tokens 32 at a time: their scores (and dP) with the own ones are made
// once, from q, k (v, dO) staged 16 channels a turn in workgroup memory, and shared there. `forward` is that of Dao et al.,
// "FlashAttention", 2022: it keeps the highest score so far and shrinks what it has summed where a higher one comes,
// and makes L, in log_sums_out, beside o_out; the others write d_q, or d_k and d_v.
//
// A lane: 4 own tokens x 2 quads, 32 sums (64 in backward_key_value), 4 x 32 / CHANNEL_LANES scores, 16 values staged and as
// many multiplied: 90 to 140 registers. Workgroup memory: 12 KiB, 16 KiB in backward_key_value; 2 or 3 workgroups of 256 lanes
// fit a NVIDIA SM, 8 or more of 64. FLOP per byte: 16 of global memory (32 tokens share what is loaded), of workgroup memory 1.6
// for scores (16 multiply-adds on 5 vec4, 4 of which a wave shares) and 16 for sums, whose v, k, q, dO come from the cache.

// As many as 8 of them hold the channels of a head: with fewer, scores are made anew for every chunk of channels.
override CHANNEL_LANES = 32u;   // 8, 16 or 32

const BLOCK = 32u;              // tokens, own and others
const OWN_LANES = 8u;           // of 4 tokens each
const STEP = 4u;                // quads of channels in a turn
const MAX_SHARE = 4u;

// Other tokens whose scores a lane makes; quads that it stages in a turn, of 2 x 32 tokens.
override SHARE = BLOCK / CHANNEL_LANES;
override LANES_OF_BLOCK = OWN_LANES * CHANNEL_LANES;

const OWN = 0u;
const OTHER = 1u;

// Two buffers: one is read while the other is written.
var<workgroup> staged: array<vec4<f32>, 4u * STEP * BLOCK>;
// P, or s dS, of each other token: quads of 4 own ones.
var<workgroup> tile: array<vec4<f32>, OWN_LANES * BLOCK>;
var<workgroup> tile_p: array<vec4<f32>, OWN_LANES * BLOCK>;

// Permuted by exclusive or, so that neither storing nor reading meets a bank twice.
fn staged_slot(buffer: u32, side: u32, step: u32, row: u32) -> u32 {
    return ((2u * buffer + side) * STEP + step) * BLOCK + (row ^ (2u * step));
}

fn tile_slot(own_lane: u32, other: u32) -> u32 {
    return own_lane * BLOCK + (other ^ own_lane);
}

// Lane numbers: `at.x` of CHANNEL_LANES, `at.y` of OWN_LANES, `index` of both.
struct Lane {
    at: vec2<u32>,
    index: u32,
}

// Where share j of a lane comes from and goes to.
struct Share {
    side: u32,
    step: u32,
    row: u32,
}

fn share_of(lane: Lane, j: u32) -> Share {
    let part = j * LANES_OF_BLOCK + lane.index;
    return Share(part / (STEP * BLOCK), part % STEP, part / STEP % BLOCK);
}

// Own rows are staged so that those of neighbouring lanes are neighbours: lane y has tokens 4 y to 4 y + 3.
fn slot_of_share(buffer: u32, share: Share) -> u32 {
    let own_row = share.row % 4u * OWN_LANES + share.row / 4u;
    return staged_slot(buffer, share.side, share.step, select(own_row, share.row, share.side == OTHER));
}

// The quadruple where a token begins; those behind the last repeat it.
fn row_of(place: Place, token: u32) -> u32 {
    return place.first + min(token, params.tokens - 1u) * (params.heads * params.channels4);
}

// The quadruple that a share reads in a turn, whose channels begin at c; 0 where there are none is for the caller.
fn source_of(place: Place, own: u32, other: u32, share: Share, c: u32) -> u32 {
    return row_of(place, select(own, other, share.side == OTHER) + share.row) + min(c + share.step, params.channels4 - 1u);
}

fn load_query_or_key(is_query: bool, at: u32) -> vec4<f32> {
    if (is_query) {
        return load4(q[at]);
    }
    return load4(k[at]);
}

fn load_gradient_or_value(is_gradient: bool, at: u32) -> vec4<f32> {
    if (is_gradient) {
        return load4(d_o[at]);
    }
    return load4(v[at]);
}

// Of 4 own tokens with each of a lane's other tokens: at.x + j CHANNEL_LANES of the block.
alias Scores = array<vec4<f32>, MAX_SHARE>;

// Of 4 own tokens, a quad of channels each.
alias Sums = array<vec4<f32>, 4>;

fn multiply_staged(scores: ptr<function, Scores>, buffer: u32, lane: Lane) {
    for (var step = 0u; step < STEP; step++) {
        let own = transpose(mat4x4<f32>(
            staged[staged_slot(buffer, OWN, step, lane.at.y)],
            staged[staged_slot(buffer, OWN, step, lane.at.y + OWN_LANES)],
            staged[staged_slot(buffer, OWN, step, lane.at.y + 2u * OWN_LANES)],
            staged[staged_slot(buffer, OWN, step, lane.at.y + 3u * OWN_LANES)],
        ));
        for (var j = 0u; j < SHARE; j++) {
            let other = staged[staged_slot(buffer, OTHER, step, lane.at.x + j * CHANNEL_LANES)];
            (*scores)[j] = multiply_add((*scores)[j], own, other);
        }
    }
}

fn turn_count() -> u32 {
    return (params.channels4 + STEP - 1u) / STEP;
}

// q . k of the blocks that begin at `own` and `other`. Ends with a barrier.
fn query_key(place: Place, own: u32, other: u32, own_is_query: bool, lane: Lane) -> Scores {
    var scores: Scores;
    for (var turn = 0u; turn <= turn_count(); turn++) {
        var share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turn_count()) {
            for (var j = 0u; j < SHARE; j++) {
                let part = share_of(lane, j);
                let value = load_query_or_key((part.side == OWN) == own_is_query, source_of(place, own, other, part, STEP * turn));
                share[j] = select(vec4<f32>(), value, STEP * turn + part.step < params.channels4);
            }
        }
        if (turn > 0u) {
            multiply_staged(&scores, (turn - 1u) % 2u, lane);
        }
        if (turn < turn_count()) {
            for (var j = 0u; j < SHARE; j++) {
                staged[slot_of_share(turn % 2u, share_of(lane, j))] = share[j];
            }
        }
        workgroupBarrier();
    }
    return scores;
}

// dO . v, in the same way.
fn gradient_value(place: Place, own: u32, other: u32, own_is_query: bool, lane: Lane) -> Scores {
    var scores: Scores;
    for (var turn = 0u; turn <= turn_count(); turn++) {
        var share: array<vec4<f32>, MAX_SHARE>;
        if (turn < turn_count()) {
            for (var j = 0u; j < SHARE; j++) {
                let part = share_of(lane, j);
                let value = load_gradient_or_value((part.side == OWN) == own_is_query, source_of(place, own, other, part, STEP * turn));
                share[j] = select(vec4<f32>(), value, STEP * turn + part.step < params.channels4);
            }
        }
        if (turn > 0u) {
            multiply_staged(&scores, (turn - 1u) % 2u, lane);
        }
        if (turn < turn_count()) {
            for (var j = 0u; j < SHARE; j++) {
                staged[slot_of_share(turn % 2u, share_of(lane, j))] = share[j];
            }
        }
        workgroupBarrier();
    }
    return scores;
}

// Adds p times a row's quad, for each own token.
fn add_row(sums: ptr<function, Sums>, p: vec4<f32>, value: vec4<f32>) {
    (*sums)[0] += p.x * value;
    (*sums)[1] += p.y * value;
    (*sums)[2] += p.z * value;
    (*sums)[3] += p.w * value;
}

fn place_of_group(i: u32) -> Place {
    let chunk = 2u * CHANNEL_LANES;
    return place_of(i, (params.tokens + BLOCK - 1u) / BLOCK, (params.channels4 + chunk - 1u) / chunk);
}

// The two quads of channels that a lane sums.
fn channels_of(place: Place, lane: Lane) -> vec2<u32> {
    return 2u * CHANNEL_LANES * place.chunk + lane.at.x + vec2<u32>(0u, CHANNEL_LANES);
}

// Quadruple of L or D of a lane's own queries.
fn statistic_of(place: Place, lane: Lane) -> u32 {
    return place.image_head * block_count() + min(place.block * OWN_LANES + lane.at.y, block_count() - 1u);
}

@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn forward(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let lane = Lane(at.xy, index);
    let place = place_of_group(i);
    let own = place.block * BLOCK;
    let channels = channels_of(place, lane);
    let stored = channels < vec2<u32>(params.channels4);
    let loaded = min(channels, vec2<u32>(params.channels4 - 1u));
    var highest = LOWEST;
    var sum = vec4<f32>();      // over the lane's own share of keys
    var left: Sums;
    var right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        var s = query_key(place, own, other, true, lane);
        var higher = LOWEST;
        for (var j = 0u; j < SHARE; j++) {
            s[j] = select(LOWEST, params.scale * s[j], other + at.x + j * CHANNEL_LANES < params.tokens);
            higher = max(higher, s[j]);
        }
        tile[tile_slot(at.y, at.x)] = higher;
        workgroupBarrier();
        higher = highest;
        for (var x = 0u; x < CHANNEL_LANES; x++) {
            higher = max(higher, tile[tile_slot(at.y, x)]);
        }
        workgroupBarrier();
        let shrink = exp(highest - higher);
        highest = higher;
        sum *= shrink;
        for (var j = 0u; j < 4u; j++) {
            left[j] *= shrink[j];
            right[j] *= shrink[j];
        }
        for (var j = 0u; j < SHARE; j++) {
            let p = exp(s[j] - highest);
            sum += p;
            tile[tile_slot(at.y, at.x + j * CHANNEL_LANES)] = p;
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let p = tile[tile_slot(at.y, t)];
            let row = row_of(place, other + t);
            add_row(&left, p, load4(v[row + loaded.x]));
            add_row(&right, p, load4(v[row + loaded.y]));
        }
    }
    workgroupBarrier();
    tile[tile_slot(at.y, at.x)] = sum;
    workgroupBarrier();
    sum = vec4<f32>();
    for (var x = 0u; x < CHANNEL_LANES; x++) {
        sum += tile[tile_slot(at.y, x)];
    }
    for (var j = 0u; j < 4u; j++) {
        let token = own + 4u * at.y + j;
        if (token < params.tokens && stored.x) {
            o_out[row_of(place, token) + channels.x] = store4(left[j] / sum[j]);
        }
        if (token < params.tokens && stored.y) {
            o_out[row_of(place, token) + channels.y] = store4(right[j] / sum[j]);
        }
    }
    let block = place.block * OWN_LANES + at.y;
    if (place.chunk == 0u && at.x == 0u && block < block_count()) {
        log_sums_out[place.image_head * block_count() + block] = select(vec4<f32>(), highest + log(sum), exist(block));
    }
}

// dQ = s dS K.
@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn backward_query(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let lane = Lane(at.xy, index);
    let place = place_of_group(i);
    let own = place.block * BLOCK;
    let channels = channels_of(place, lane);
    let stored = channels < vec2<u32>(params.channels4);
    let loaded = min(channels, vec2<u32>(params.channels4 - 1u));
    let l = log_sums[statistic_of(place, lane)];
    let d = deltas[statistic_of(place, lane)];
    var left: Sums;
    var right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        let s = query_key(place, own, other, true, lane);
        let d_p = gradient_value(place, own, other, true, lane);
        for (var j = 0u; j < SHARE; j++) {
            let t = at.x + j * CHANNEL_LANES;
            let d_s = params.scale * (exp(params.scale * s[j] - l) * (d_p[j] - d));
            tile[tile_slot(at.y, t)] = select(vec4<f32>(), d_s, other + t < params.tokens);
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let d_s = tile[tile_slot(at.y, t)];
            let row = row_of(place, other + t);
            add_row(&left, d_s, load4(k[row + loaded.x]));
            add_row(&right, d_s, load4(k[row + loaded.y]));
        }
    }
    for (var j = 0u; j < 4u; j++) {
        let token = own + 4u * at.y + j;
        if (token < params.tokens && stored.x) {
            d_q[row_of(place, token) + channels.x] = store4(left[j]);
        }
        if (token < params.tokens && stored.y) {
            d_q[row_of(place, token) + channels.y] = store4(right[j]);
        }
    }
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn backward_key_value(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>, @builtin(local_invocation_id) at: vec3<u32>, @builtin(local_invocation_index) index: u32) {
    let i = group_index(group, groups);
    if (i >= params.places) {
        return;
    }
    let lane = Lane(at.xy, index);
    let place = place_of_group(i);
    let own = place.block * BLOCK;
    let channels = channels_of(place, lane);
    let stored = channels < vec2<u32>(params.channels4);
    let loaded = min(channels, vec2<u32>(params.channels4 - 1u));
    let statistics = place.image_head * block_count();
    var k_left: Sums;
    var k_right: Sums;
    var v_left: Sums;
    var v_right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        let s = query_key(place, own, other, false, lane);
        let d_p = gradient_value(place, own, other, false, lane);
        for (var j = 0u; j < SHARE; j++) {
            let t = at.x + j * CHANNEL_LANES;
            let query = min(other + t, params.tokens - 1u);
            let l = log_sums[statistics + query / 4u][query % 4u];
            let d = deltas[statistics + query / 4u][query % 4u];
            let p = select(vec4<f32>(), exp(params.scale * s[j] - l), other + t < params.tokens);
            tile_p[tile_slot(at.y, t)] = p;
            tile[tile_slot(at.y, t)] = params.scale * (p * (d_p[j] - d));
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let p = tile_p[tile_slot(at.y, t)];
            let d_s = tile[tile_slot(at.y, t)];
            let row = row_of(place, other + t);
            add_row(&k_left, d_s, load4(q[row + loaded.x]));
            add_row(&k_right, d_s, load4(q[row + loaded.y]));
            add_row(&v_left, p, load4(d_o[row + loaded.x]));
            add_row(&v_right, p, load4(d_o[row + loaded.y]));
        }
    }
    for (var j = 0u; j < 4u; j++) {
        let token = own + 4u * at.y + j;
        if (token < params.tokens && stored.x) {
            d_k[row_of(place, token) + channels.x] = store4(k_left[j]);
            d_v[row_of(place, token) + channels.x] = store4(v_left[j]);
        }
        if (token < params.tokens && stored.y) {
            d_k[row_of(place, token) + channels.y] = store4(k_right[j]);
            d_v[row_of(place, token) + channels.y] = store4(v_right[j]);
        }
    }
}
