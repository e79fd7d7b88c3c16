// Variant `tiled`, for GPUs: a workgroup owns 32 tokens of one head (queries; keys in backward_key_value) and 4 QUADS CHANNEL_LANES
// channels of what it makes. It walks over the other tokens 32 at a time: their scores (and dP) with the own ones are made
// once, from q, k (v, dO) staged 16 channels a turn in workgroup memory, and shared there.
//
// A lane: 4 own tokens x QUADS quads, 16 QUADS sums (twice as many in backward_key_value), 4 x 32 / CHANNEL_LANES scores, as many
// values staged, 16 multiplied: benches/compilers.md has the registers. With 8 lanes for 64 channels some GPUs spill. Workgroup
// memory: 12 KiB, 16 KiB in backward_key_value. FLOP per byte: 16 of global memory (32 tokens share what is loaded), of workgroup memory 1.6
// for scores (16 multiply-adds on 5 vec4, 4 of which a wave shares) and 16 for sums, whose v, k, q, dO come from the cache.

// Where they hold fewer than all channels of a head, scores are made anew for every chunk of channels.
override CHANNEL_LANES = 32u;   // 16 or 32
override QUADS = 2u;            // of channels that a lane makes: 1 or 2

const BLOCK = 32u;              // tokens, own and others
const OWN_LANES = 8u;           // of 4 tokens each
const STEP = 4u;                // quads of channels in a turn
const MAX_SHARE = 2u;

const TILE_TOKENS = BLOCK;
override TILE_QUADS = QUADS * CHANNEL_LANES;
const OTHER_TOKENS = BLOCK;
const TURN_QUADS = STEP;

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

// Where share j of a lane comes from and goes to.
struct Share {
    side: u32,
    step: u32,
    row: u32,
}

fn share_of(lane: u32, j: u32) -> Share {
    let part = j * LANES_OF_BLOCK + lane;
    return Share(part / (STEP * BLOCK), part % STEP, part / STEP % BLOCK);
}

// Own rows are staged so that those of neighbouring lanes are neighbours: lane y has tokens 4 y to 4 y + 3.
fn slot_of_share(buffer: u32, share: Share) -> u32 {
    let own_row = share.row % 4u * OWN_LANES + share.row / 4u;
    return staged_slot(buffer, share.side, share.step, select(own_row, share.row, share.side == OTHER));
}

// Of 4 own tokens with each of a lane's other tokens: place.x + j CHANNEL_LANES of the block.
alias Scores = array<vec4<f32>, MAX_SHARE>;

// Of 4 own tokens, a quad of channels each.
alias Sums = array<vec4<f32>, 4>;

// What a lane makes: of 4 tokens of its workgroup's own, which begin at `first`, two quads of channels.
struct Own {
    place: Place,
    first: u32,
    block: u32,             // of 4 tokens
    channels: vec2<u32>,
    loaded: vec2<u32>,      // the same, or the last where there are none
}

fn own_of(i: u32, at: TiledInvocation) -> Own {
    let place = place_of(i, (params.tokens + BLOCK - 1u) / BLOCK, (params.channels4 + TILE_QUADS - 1u) / TILE_QUADS);
    let channels = TILE_QUADS * place.chunk + at.place.x + vec2<u32>(0u, CHANNEL_LANES);
    return Own(place, place.block * BLOCK, place.block * OWN_LANES + at.place.y, channels, min(channels, vec2<u32>(params.channels4 - 1u)));
}

// Quadruple of L of a lane's own queries.
fn statistic_of(own: Own) -> u32 {
    return own.place.image_head * block_count() + min(own.block, block_count() - 1u);
}

// What share j of a lane reads in a turn: a token of its own or of those from `other` on, and the channel behind that where
// the token begins; 0 behind the last channel.
struct Source {
    of_own: bool,
    token: u32,
    channel: u32,
    exists: bool,
}

fn source_of(own: Own, other: u32, turn: u32, j: u32, lane: u32) -> Source {
    let share = share_of(lane, j);
    let of_own = share.side == OWN;
    let c = STEP * turn + share.step;
    return Source(of_own, select(other, own.first, of_own) + share.row, min(c, params.channels4 - 1u), c < params.channels4);
}

fn turn_count() -> u32 {
    return (params.channels4 + STEP - 1u) / STEP;
}

fn multiply_staged(scores: ptr<function, Scores>, buffer: u32, at: TiledInvocation) {
    for (var step = 0u; step < STEP; step++) {
        let own = transpose(mat4x4<f32>(
            staged[staged_slot(buffer, OWN, step, at.place.y)],
            staged[staged_slot(buffer, OWN, step, at.place.y + OWN_LANES)],
            staged[staged_slot(buffer, OWN, step, at.place.y + 2u * OWN_LANES)],
            staged[staged_slot(buffer, OWN, step, at.place.y + 3u * OWN_LANES)],
        ));
        for (var j = 0u; j < SHARE; j++) {
            let other = staged[staged_slot(buffer, OTHER, step, at.place.x + j * CHANNEL_LANES)];
            (*scores)[j] = multiply_add((*scores)[j], own, other);
        }
    }
}

// Multiplies what the turn before has staged, and stages what was loaded for this one. Ends with a barrier.
fn pass_turn(scores: ptr<function, Scores>, loaded: ptr<function, Scores>, turn: u32, at: TiledInvocation) {
    if (turn > 0u) {
        multiply_staged(scores, (turn - 1u) % 2u, at);
    }
    if (turn < turn_count()) {
        for (var j = 0u; j < SHARE; j++) {
            staged[slot_of_share(turn % 2u, share_of(at.lane, j))] = (*loaded)[j];
        }
    }
    workgroupBarrier();
}

fn load_queries_and_keys(loaded: ptr<function, Scores>, own: Own, other: u32, own_is_query: bool, turn: u32, lane: u32) {
    for (var j = 0u; j < SHARE; j++) {
        let source = source_of(own, other, turn, j, lane);
        let at = part_of(own.place, source.token, select(KEY, QUERY, source.of_own == own_is_query)) + source.channel;
        (*loaded)[j] = select(vec4<f32>(), load4(qkv[at]), source.exists);
    }
}

fn gradient_or_value(is_gradient: bool, place: Place, token: u32, channel: u32) -> vec4<f32> {
    if (is_gradient) {
        return load4(d_o[row_of(place, token) + channel]);
    }
    return load4(qkv[part_of(place, token, VALUE) + channel]);
}

fn load_gradients_and_values(loaded: ptr<function, Scores>, own: Own, other: u32, own_is_query: bool, turn: u32, lane: u32) {
    for (var j = 0u; j < SHARE; j++) {
        let source = source_of(own, other, turn, j, lane);
        let quad = gradient_or_value(source.of_own == own_is_query, own.place, source.token, source.channel);
        (*loaded)[j] = select(vec4<f32>(), quad, source.exists);
    }
}

// q . k of the blocks that begin at own.first and `other`, and dO . v.
fn query_key(own: Own, other: u32, own_is_query: bool, at: TiledInvocation) -> Scores {
    var scores: Scores;
    for (var turn = 0u; turn <= turn_count(); turn++) {
        var loaded: Scores;
        if (turn < turn_count()) {
            load_queries_and_keys(&loaded, own, other, own_is_query, turn, at.lane);
        }
        pass_turn(&scores, &loaded, turn, at);
    }
    return scores;
}

fn gradient_value(own: Own, other: u32, own_is_query: bool, at: TiledInvocation) -> Scores {
    var d_p: Scores;
    for (var turn = 0u; turn <= turn_count(); turn++) {
        var loaded: Scores;
        if (turn < turn_count()) {
            load_gradients_and_values(&loaded, own, other, own_is_query, turn, at.lane);
        }
        pass_turn(&d_p, &loaded, turn, at);
    }
    return d_p;
}

// Adds p times a row's quad, for each own token.
fn add_row(sums: ptr<function, Sums>, p: vec4<f32>, value: vec4<f32>) {
    (*sums)[0] += p.x * value;
    (*sums)[1] += p.y * value;
    (*sums)[2] += p.z * value;
    (*sums)[3] += p.w * value;
}

@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn forward(workgroup: Workgroup, at: TiledInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let own = own_of(i, at);
    let x = at.place.x;
    let y = at.place.y;
    var highest = LOWEST;
    var sum = vec4<f32>();      // over the lane's own share of keys
    var left: Sums;
    var right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        var s = query_key(own, other, true, at);
        var higher = LOWEST;
        for (var j = 0u; j < SHARE; j++) {
            s[j] = select(LOWEST, params.scale * s[j], other + x + j * CHANNEL_LANES < params.tokens);
            higher = max(higher, s[j]);
        }
        tile[tile_slot(y, x)] = higher;
        workgroupBarrier();
        higher = highest;
        for (var lane = 0u; lane < CHANNEL_LANES; lane++) {
            higher = max(higher, tile[tile_slot(y, lane)]);
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
            tile[tile_slot(y, x + j * CHANNEL_LANES)] = p;
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let p = tile[tile_slot(y, t)];
            let value = part_of(own.place, other + t, VALUE);
            add_row(&left, p, load4(qkv[value + own.loaded.x]));
            if (QUADS == 2u) {
                add_row(&right, p, load4(qkv[value + own.loaded.y]));
            }
        }
    }
    workgroupBarrier();
    tile[tile_slot(y, x)] = sum;
    workgroupBarrier();
    sum = vec4<f32>();
    for (var lane = 0u; lane < CHANNEL_LANES; lane++) {
        sum += tile[tile_slot(y, lane)];
    }
    for (var j = 0u; j < 4u; j++) {
        store_o(own.place, own.block, j, own.channels.x, left[j] / sum[j]);
        if (QUADS == 2u) {
            store_o(own.place, own.block, j, own.channels.y, right[j] / sum[j]);
        }
    }
    if (own.place.chunk == 0u && x == 0u && own.block < block_count()) {
        store_log_sums(own.place, own.block, highest, sum);
    }
}

// dQ = s dS K.
@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn backward_query(workgroup: Workgroup, at: TiledInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let own = own_of(i, at);
    let l = log_sums[statistic_of(own)];
    let d = delta_of(own.place, own.block);
    var left: Sums;
    var right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        let s = query_key(own, other, true, at);
        let d_p = gradient_value(own, other, true, at);
        for (var j = 0u; j < SHARE; j++) {
            let t = at.place.x + j * CHANNEL_LANES;
            let d_s = params.scale * (exp(params.scale * s[j] - l) * (d_p[j] - d));
            tile[tile_slot(at.place.y, t)] = select(vec4<f32>(), d_s, other + t < params.tokens);
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let d_s = tile[tile_slot(at.place.y, t)];
            let key = part_of(own.place, other + t, KEY);
            add_row(&left, d_s, load4(qkv[key + own.loaded.x]));
            if (QUADS == 2u) {
                add_row(&right, d_s, load4(qkv[key + own.loaded.y]));
            }
        }
    }
    for (var j = 0u; j < 4u; j++) {
        store_part(own.place, own.block, j, QUERY, own.channels.x, left[j]);
        if (QUADS == 2u) {
            store_part(own.place, own.block, j, QUERY, own.channels.y, right[j]);
        }
    }
    if (own.place.chunk == 0u && at.place.x == 0u && own.block < block_count()) {
        store_deltas(own.place, own.block, d);
    }
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(CHANNEL_LANES, OWN_LANES)
fn backward_key_value(workgroup: Workgroup, at: TiledInvocation) {
    let i = group_index(workgroup);
    if (i >= params.places) {
        return;
    }
    let own = own_of(i, at);
    let statistics = own.place.image_head * block_count();
    var k_left: Sums;
    var k_right: Sums;
    var v_left: Sums;
    var v_right: Sums;
    for (var other = 0u; other < params.tokens; other += BLOCK) {
        let s = query_key(own, other, false, at);
        let d_p = gradient_value(own, other, false, at);
        for (var j = 0u; j < SHARE; j++) {
            let t = at.place.x + j * CHANNEL_LANES;
            let query = min(other + t, params.tokens - 1u);
            let l = log_sums[statistics + query / 4u][query % 4u];
            let d = deltas[statistics + query / 4u][query % 4u];
            let p = select(vec4<f32>(), exp(params.scale * s[j] - l), other + t < params.tokens);
            tile_p[tile_slot(at.place.y, t)] = p;
            tile[tile_slot(at.place.y, t)] = params.scale * (p * (d_p[j] - d));
        }
        workgroupBarrier();
        for (var t = 0u; t < BLOCK; t++) {
            let p = tile_p[tile_slot(at.place.y, t)];
            let d_s = tile[tile_slot(at.place.y, t)];
            let query = part_of(own.place, other + t, QUERY);
            let row = row_of(own.place, other + t);
            add_row(&k_left, d_s, load4(qkv[query + own.loaded.x]));
            add_row(&v_left, p, load4(d_o[row + own.loaded.x]));
            if (QUADS == 2u) {
                add_row(&k_right, d_s, load4(qkv[query + own.loaded.y]));
                add_row(&v_right, p, load4(d_o[row + own.loaded.y]));
            }
        }
    }
    for (var j = 0u; j < 4u; j++) {
        store_part(own.place, own.block, j, KEY, own.channels.x, k_left[j]);
        store_part(own.place, own.block, j, VALUE, own.channels.x, v_left[j]);
        if (QUADS == 2u) {
            store_part(own.place, own.block, j, KEY, own.channels.y, k_right[j]);
            store_part(own.place, own.block, j, VALUE, own.channels.y, v_right[j]);
        }
    }
}
