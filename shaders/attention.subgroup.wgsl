// Variant `subgroup`, see lib.subgroup.wgsl: a lane owns 4 tokens of one head (queries; keys in backward_key_value) and keeps QUADS
// quads of channels of them and of what it makes. Of the other tokens each lane loads one, and hands it round by subgroupShuffle:
// what is loaded once meets 4 LANES tokens, and no score leaves its lane. A head of more channels is cut into chunks of QUADS,
// which are loaded anew for each score: right, but slow.
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

fn chunk_count() -> u32 {
    return (params.channels4 + QUADS - 1u) / QUADS;
}

fn place_of_group(i: u32) -> Place {
    return place_of(i, (params.tokens + TILE_TOKENS - 1u) / TILE_TOKENS, chunk_count());
}

// The block of 4 tokens that a lane owns; there may be none.
fn own_block(place: Place, lane: u32) -> u32 {
    return place.block * LANES + lane;
}

// Quadruple of L or D of a block, or of the last.
fn statistic_of(place: Place, block: u32) -> u32 {
    return place.image_head * block_count() + min(block, block_count() - 1u);
}

// Quad c of a chunk, or the last of all channels.
fn channel_of(chunk: u32, c: u32) -> u32 {
    return min(chunk * QUADS + c, params.channels4 - 1u);
}

// Own tokens, which begin at `rows`: behind the last channel comes 0.
fn inside(chunk: u32, c: u32) -> f32 {
    return select(0.0, 1.0, chunk * QUADS + c < params.channels4);
}

fn own_parts(rows: vec4<u32>, chunk: u32) -> Own {
    var own: Own;
    for (var c = 0u; c < QUADS; c++) {
        own[c] = inside(chunk, c) * transpose(load_part(rows, channel_of(chunk, c)));
    }
    return own;
}

fn own_gradients(rows: vec4<u32>, chunk: u32) -> Own {
    var own: Own;
    for (var c = 0u; c < QUADS; c++) {
        own[c] = inside(chunk, c) * transpose(load_d_o(rows, channel_of(chunk, c)));
    }
    return own;
}

// An other token, which begins at `row`: behind the last channel it comes again, to meet 0 or what is not stored.
fn other_part(row: u32, chunk: u32) -> Other {
    var other: Other;
    for (var c = 0u; c < QUADS; c++) {
        other[c] = load4(qkv[row + channel_of(chunk, c)]);
    }
    return other;
}

fn other_gradient(row: u32, chunk: u32) -> Other {
    var other: Other;
    for (var c = 0u; c < QUADS; c++) {
        other[c] = load4(d_o[row + channel_of(chunk, c)]);
    }
    return other;
}

// Adds the products of one chunk with the tokens that lanes from j on loaded.
fn add_products(sum: ptr<function, Scores>, own: ptr<function, Own>, other: ptr<function, Other>, j: u32) {
    for (var c = 0u; c < QUADS; c++) {
        for (var t = 0u; t < AT_ONCE; t++) {
            (*sum)[t] = multiply_add((*sum)[t], (*own)[c], subgroupShuffle((*other)[c], j + t));
        }
    }
}

// q . k over all channels, which are loaded if they are one chunk; dO . v below.
fn query_key(own: ptr<function, Own>, other: ptr<function, Other>, rows: vec4<u32>, row: u32, j: u32) -> Scores {
    var sum: Scores;
    if (chunk_count() == 1u) {
        add_products(&sum, own, other, j);
    } else {
        for (var chunk = 0u; chunk < chunk_count(); chunk++) {
            var own_chunk = own_parts(rows, chunk);
            var other_chunk = other_part(row, chunk);
            add_products(&sum, &own_chunk, &other_chunk, j);
        }
    }
    return sum;
}

fn gradient_value(own: ptr<function, Own>, other: ptr<function, Other>, rows: vec4<u32>, row: u32, own_is_query: bool, j: u32) -> Scores {
    var sum: Scores;
    if (chunk_count() == 1u) {
        add_products(&sum, own, other, j);
    } else {
        for (var chunk = 0u; chunk < chunk_count(); chunk++) {
            var own_chunk: Own;
            var other_chunk: Other;
            if (own_is_query) {
                own_chunk = own_gradients(rows, chunk);
                other_chunk = other_part(row, chunk);
            } else {
                own_chunk = own_parts(rows, chunk);
                other_chunk = other_gradient(row, chunk);
            }
            add_products(&sum, &own_chunk, &other_chunk, j);
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
            store_part(place, block, j, part, place.chunk * QUADS + c, (*sums)[c][j]);
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
    let queries = parts_of(place, block, QUERY);
    var q = own_parts(queries, 0u);
    var highest = LOWEST;
    var sum = vec4<f32>();
    var products_v: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        let key = part_of(place, first + at.lane, KEY);
        var k = other_part(key, 0u);
        var v = other_part(part_of(place, first + at.lane, VALUE), place.chunk);
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var s = query_key(&q, &k, queries, key, j);
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
            store_o(place, block, j, place.chunk * QUADS + c, products_v[c][j] / sum[j]);
        }
    }
    if (place.chunk == 0u && block < block_count()) {
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
    let queries = parts_of(place, block, QUERY);
    let gradients = rows_of(place, block);
    let l = log_sums[statistic_of(place, block)];
    let d = delta_of(place, block);
    var q = own_parts(queries, 0u);
    var g = own_gradients(gradients, 0u);
    var products_k: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        let key = part_of(place, first + at.lane, KEY);
        let value = part_of(place, first + at.lane, VALUE);
        var k = other_part(key, place.chunk);
        var v = other_part(value, 0u);
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var s = query_key(&q, &k, queries, key, j);
            let d_p = gradient_value(&g, &v, gradients, value, true, j);
            for (var t = 0u; t < AT_ONCE; t++) {
                let d_s = params.scale * (exp(params.scale * s[t] - l) * (d_p[t] - d));
                s[t] = select(vec4<f32>(), d_s, first + j + t < params.tokens);
            }
            add_others(&products_k, &s, &k, j);
        }
    }
    store_parts(place, block, QUERY, &products_k);
    if (place.chunk == 0u && block < block_count()) {
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
    let keys = parts_of(place, block, KEY);
    let values = parts_of(place, block, VALUE);
    var k = own_parts(keys, 0u);
    var v = own_parts(values, 0u);
    var products_q: Sums;
    var products_g: Sums;
    for (var first = 0u; first < params.tokens; first += LANES) {
        let token = first + at.lane;
        let query = part_of(place, token, QUERY);
        let gradient = row_of(place, token);
        let l = log_sums[statistic_of(place, token / 4u)][token % 4u];
        let d = deltas[statistic_of(place, token / 4u)][token % 4u];
        var q = other_part(query, place.chunk);
        var g = other_gradient(gradient, place.chunk);
        for (var j = 0u; j < LANES; j += AT_ONCE) {
            var p = query_key(&k, &q, keys, query, j);
            var d_s = gradient_value(&v, &g, values, gradient, false, j);
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
