// Variant `subgroup`, see lib.subgroup.wgsl: a lane owns 4 tokens of one head (queries; keys in backward_key_value) and keeps QUADS
// quads of channels of them and of what it makes. Of the other tokens each lane loads one, and hands it round by subgroupShuffle:
// what is loaded once meets 4 LANES tokens, and no score leaves its lane. Heads have QUADS quads of channels at the most.
//
// `forward` takes AT_ONCE keys in a turn. It counts exponents from the highest score so far, but heeds a higher one only if it is
// so by more than MARGIN, because what was summed must then shrink. Each query decides for itself: what it becomes depends on
// AT_ONCE alone.

override QUADS = 16u;           // of channels: 2, 8 or 16
override AT_ONCE = 1u;          // others whose scores are made in a turn: 1, or 4 where they take few registers

const MAX_QUADS = 16u;
const MAX_AT_ONCE = 4u;

override TILE_TOKENS = 4u * LANES;
override TILE_QUADS = QUADS;
override OTHER_TOKENS = LANES;
override TURN_QUADS = QUADS;

// Of 4 own tokens, quad by quad: a channel in each column.
alias Own = array<mat4x4<f32>, MAX_QUADS>;
// Of the other token that the lane loaded.
alias Other = array<vec4<f32>, MAX_QUADS>;
// Of each other token in a turn with the 4 own ones.
alias Scores = array<vec4<f32>, MAX_AT_ONCE>;
// What becomes of 4 own tokens, quad by quad: a token in each column.
alias Sums = array<mat4x4<f32>, MAX_QUADS>;

fn place_of_group(i: u32) -> Place {
    return place_of(i, (params.tokens + TILE_TOKENS - 1u) / TILE_TOKENS, 1u);
}

// The block of 4 tokens that a lane owns; there may be none.
fn own_block(place: Place, lane: u32) -> u32 {
    return place.block * LANES + lane;
}

// Quadruple of L or D of a block, or of the last.
fn statistic_of(place: Place, block: u32) -> u32 {
    return place.image_head * block_count() + min(block, block_count() - 1u);
}

// Quad c of the channels, or the last.
fn channel_of(c: u32) -> u32 {
    return min(c, params.channels4 - 1u);
}

// Own tokens, which begin at `rows`: behind the last channel comes 0.
fn inside(c: u32) -> f32 {
    return select(0.0, 1.0, c < params.channels4);
}

fn own_parts(own: ptr<function, Own>, rows: vec4<u32>) {
    for (var c = 0u; c < QUADS; c++) {
        (*own)[c] = inside(c) * transpose(load_part(rows, channel_of(c)));
    }
}

fn own_gradients(own: ptr<function, Own>, rows: vec4<u32>) {
    for (var c = 0u; c < QUADS; c++) {
        (*own)[c] = inside(c) * transpose(load_d_o(rows, channel_of(c)));
    }
}

// An other token, which begins at `row`: behind the last channel it comes again, to meet 0 or what is not stored.
fn other_part(other: ptr<function, Other>, row: u32) {
    for (var c = 0u; c < QUADS; c++) {
        (*other)[c] = load4(qkv[row + channel_of(c)]);
    }
}

fn other_gradient(other: ptr<function, Other>, row: u32) {
    for (var c = 0u; c < QUADS; c++) {
        (*other)[c] = load4(d_o[row + channel_of(c)]);
    }
}

// The products of the own tokens with those that lanes from j on loaded, over all channels: q . k, or dO . v.
fn products(own: ptr<function, Own>, other: ptr<function, Other>, j: u32) -> Scores {
    var sum: Scores;
    for (var c = 0u; c < QUADS; c++) {
        for (var t = 0u; t < AT_ONCE; t++) {
            sum[t] = multiply_add(sum[t], (*own)[c], subgroupShuffle((*other)[c], j + t));
        }
    }
    return sum;
}

// Adds what lanes from j on loaded, times p.
fn add_others(sums: ptr<function, Sums>, p: ptr<function, Scores>, other: ptr<function, Other>, j: u32) {
    for (var c = 0u; c < QUADS; c++) {
        for (var t = 0u; t < AT_ONCE; t++) {
            (*sums)[c] = outer_add((*sums)[c], (*p)[t], subgroupShuffle((*other)[c], j + t));
        }
    }
}

fn store_parts(place: Place, block: u32, part: u32, sums: ptr<function, Sums>) {
    for (var c = 0u; c < QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_part(place, block, j, part, c, (*sums)[c][j]);
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
    let block = own_block(place, at.lane);
    var q: Own;
    own_parts(&q, parts_of(place, block, QUERY));
    var highest = LOWEST;
    var sum = vec4<f32>();
    var products_v: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        var k: Other;
        other_part(&k, part_of(place, first + at.lane, KEY));
        var v: Other;
        other_part(&v, part_of(place, first + at.lane, VALUE));
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var s = products(&q, &k, j);
            var higher = LOWEST;
            for (var t = 0u; t < AT_ONCE; t++) {
                s[t] = select(LOWEST, params.scale * s[t], first + j + t < params.tokens);
                higher = max(higher, s[t]);
            }
            let exceeds = higher > highest + MARGIN;
            if (subgroupAny(any(exceeds))) {
                let shrink = select(vec4<f32>(1.0), exp(highest - higher), exceeds);
                highest = select(highest, higher, exceeds);
                sum *= shrink;
                for (var c = 0u; c < QUADS; c++) {
                    products_v[c] = shrunk(products_v[c], shrink);
                }
            }
            for (var t = 0u; t < AT_ONCE; t++) {
                s[t] = exp(s[t] - highest);
                sum += s[t];
            }
            add_others(&products_v, &s, &v, j);
        }
    }
    for (var c = 0u; c < QUADS; c++) {
        for (var j = 0u; j < 4u; j++) {
            store_o(place, block, j, c, products_v[c][j] / sum[j]);
        }
    }
    if (block < block_count()) {
        store_log_sums(place, block, highest, sum);
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
    let block = own_block(place, at.lane);
    let l = log_sums[statistic_of(place, block)];
    let d = delta_of(place, block);
    var q: Own;
    own_parts(&q, parts_of(place, block, QUERY));
    var g: Own;
    own_gradients(&g, rows_of(place, block));
    var products_k: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        var k: Other;
        other_part(&k, part_of(place, first + at.lane, KEY));
        var v: Other;
        other_part(&v, part_of(place, first + at.lane, VALUE));
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var s = products(&q, &k, j);
            let d_p = products(&g, &v, j);
            for (var t = 0u; t < AT_ONCE; t++) {
                let d_s = params.scale * (exp(params.scale * s[t] - l) * (d_p[t] - d));
                s[t] = select(vec4<f32>(), d_s, first + j + t < params.tokens);
            }
            add_others(&products_k, &s, &k, j);
        }
    }
    store_parts(place, block, QUERY, &products_k);
    if (block < block_count()) {
        store_deltas(place, block, d);
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
    let block = own_block(place, at.lane);
    var k: Own;
    own_parts(&k, parts_of(place, block, KEY));
    var v: Own;
    own_parts(&v, parts_of(place, block, VALUE));
    var products_q: Sums;
    var products_g: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        let token = first + at.lane;
        let l = log_sums[statistic_of(place, token / 4u)][token % 4u];
        let d = deltas[statistic_of(place, token / 4u)][token % 4u];
        var q: Other;
        other_part(&q, part_of(place, token, QUERY));
        var g: Other;
        other_gradient(&g, row_of(place, token));
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var p = products(&k, &q, j);
            var d_s = products(&v, &g, j);
            for (var t = 0u; t < AT_ONCE; t++) {
                p[t] = select(vec4<f32>(), exp(params.scale * p[t] - subgroupShuffle(l, j + t)), first + j + t < params.tokens);
                d_s[t] = params.scale * (p[t] * (d_s[t] - subgroupShuffle(d, j + t)));
            }
            add_others(&products_q, &d_s, &q, j);
            add_others(&products_g, &p, &g, j);
        }
    }
    store_parts(place, block, KEY, &products_q);
    store_parts(place, block, VALUE, &products_g);
}
