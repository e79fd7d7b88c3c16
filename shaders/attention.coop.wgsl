// Variant `coop`: matrix units, see lib.coop.wgsl. A workgroup owns TILE tokens of one head (queries; keys in backward_key_value) and
// TILE channels of what it makes; heads with more channels make their scores anew for every TILE of them. It walks over the other
// tokens OTHERS at a time: their scores (and dP) with the own ones, TILE x OTHERS, each subgroup 2 x 1 matrices of SIDE x SIDE, reach lanes
// through workgroup memory, P, or dS, comes back there as f16, and is multiplied by v (k, q, dO), each subgroup 2 x 2 matrices.
// P of a forward pass is counted from a score that stands until another exceeds it by MARGIN: what was summed is seldom shrunk.
//
// FLOPs to bytes of matrices loaded: 11 to 1 for scores, 16 to 1 for sums with SIDE = 16; half of that with SIDE = 8. Workgroup
// memory: 15 KiB with SIDE = 16, 13 of them in backward passes; 5 with SIDE = 8. Workgroups beyond the grid compute what they do not
// store.

const TILE_TOKENS = TILE;
const TILE_QUADS = QUADS;
const OTHER_TOKENS = OTHERS;
const TURN_QUADS = STEP / 4u;

const OTHERS = 2u * SIDE;
const OTHER_QUADS = OTHERS / 4u;
const QUADS_PITCH = OTHER_QUADS + 1u;    // so that rows begin in other banks
const MAX_SHARE = 4u;           // quads of the scores that a lane has at the most: LANES is at least SIDE * SIDE / 8

// P, or dS, in rows of own tokens.
var<workgroup> weights: array<f16, TILE * OTHERS>;
// Of each quad of scores: the highest, then the sum of exponentials.
var<workgroup> of_quads: array<f32, TILE * QUADS_PITCH>;
// Of each own token: from what its exponentials are counted, L in backward_query; their sum, D in backward_query; by how much to shrink.
var<workgroup> reference: array<f32, TILE>;
var<workgroup> total: array<f32, TILE>;
var<workgroup> shrink: array<f32, TILE>;
// Whether a reference was raised.
var<workgroup> is_raised: bool;

// What a subgroup sums over all other tokens: 2 x 2 matrices of O, dQ or dK, and of dV.
var<private> o00: Sum;
var<private> o01: Sum;
var<private> o10: Sum;
var<private> o11: Sum;
var<private> v00: Sum;
var<private> v01: Sum;
var<private> v10: Sum;
var<private> v11: Sum;

// A lane's quads of the scores: those of matrix 0, then of matrix 1.
alias Scores = array<vec4<f32>, MAX_SHARE>;
override SCORE_SHARE = (MATRIX_QUADS + LANES - 1u) / LANES;

struct Own {
    place: Place,
    first: u32,     // token
    exists: bool,
}

fn own_of(i: u32) -> Own {
    let blocks = (params.tokens + TILE - 1u) / TILE;
    let place = place_of(min(i, params.places - 1u), blocks, (params.channels4 + QUADS - 1u) / QUADS);
    return Own(place, TILE * place.block, i < params.places);
}

// Number j of a lane's quads of a matrix; behind the last there is none.
fn quad_of(at: MatrixInvocation, j: u32) -> u32 {
    return at.own + j * LANES;
}

// Own token, and quad of other ones, of quad t of matrix `below`, 0 or 1, of a subgroup's scores.
fn score_row(unit: u32, below: u32, t: u32) -> u32 {
    return row_in_tile(2u * below, unit, t);
}

fn score_quad(unit: u32, t: u32) -> u32 {
    return unit % 2u * (SIDE / 4u) + t % (SIDE / 4u);
}

fn multiply_scores(unit: u32) {
    workgroupBarrier();
    let row = corner_of_unit(unit).x;
    let column = unit % 2u * SIDE;
    for (var inner = 0u; inner < STEP; inner += SIDE) {
        let b = coopLoad<Right>(&right[column * STEP + inner], STEP);
        c00 = coopMultiplyAdd(coopLoadT<Left>(&left[row * STEP + inner], STEP), b, c00);
        c10 = coopMultiplyAdd(coopLoadT<Left>(&left[(row + SIDE) * STEP + inner], STEP), b, c10);
    }
    workgroupBarrier();
}

// q . k of the tiles that begin at own.first and `other`, in c00 and c10.
fn query_key(own: Own, other: u32, own_part: u32, other_part: u32, at: MatrixInvocation) {
    c00 = Sum();
    c10 = Sum();
    for (var c = 0u; c < params.channels4; c += TURN_QUADS) {
        for (var t = at.lane; t < TILE * TURN_QUADS; t += 4u * LANES) {
            let channel = c + t % TURN_QUADS;
            let from_own = part_of(own.place, own.first + t / TURN_QUADS, own_part) + min(channel, params.channels4 - 1u);
            stage_left(4u * t, select(vec4<f32>(), load4(qkv[from_own]), channel < params.channels4));
            if (t < OTHERS * TURN_QUADS) {
                let from_other = part_of(own.place, other + t / TURN_QUADS, other_part) + min(channel, params.channels4 - 1u);
                stage_right(4u * t, load4(qkv[from_other]));
            }
        }
        multiply_scores(at.unit);
    }
}

fn gradient_or_value(is_gradient: bool, place: Place, token: u32, channel: u32) -> vec4<f32> {
    if (is_gradient) {
        return load4(d_o[row_of(place, token) + channel]);
    }
    return load4(qkv[part_of(place, token, VALUE) + channel]);
}

// dO . v.
fn gradient_value(own: Own, other: u32, own_is_query: bool, at: MatrixInvocation) {
    c00 = Sum();
    c10 = Sum();
    for (var c = 0u; c < params.channels4; c += TURN_QUADS) {
        for (var t = at.lane; t < TILE * TURN_QUADS; t += 4u * LANES) {
            let channel = c + t % TURN_QUADS;
            let loaded = min(channel, params.channels4 - 1u);
            let token = t / TURN_QUADS;
            let from_own = gradient_or_value(own_is_query, own.place, own.first + token, loaded);
            stage_left(4u * t, select(vec4<f32>(), from_own, channel < params.channels4));
            if (t < OTHERS * TURN_QUADS) {
                stage_right(4u * t, gradient_or_value(!own_is_query, own.place, other + token, loaded));
            }
        }
        multiply_scores(at.unit);
    }
}

// A lane's share of c00 and c10.
fn lanes_scores(at: MatrixInvocation) -> Scores {
    var scores: Scores;
    for (var below = 0u; below < 2u; below++) {
        lay_out(2u * below, at.unit);
        for (var j = 0u; j < SCORE_SHARE; j++) {
            if (quad_of(at, j) < MATRIX_QUADS) {
                scores[below * SCORE_SHARE + j] = result4(at.unit, quad_of(at, j));
            }
        }
    }
    return scores;
}

// Which of a quad of other tokens there are.
fn others_exist(other: u32, quad: u32) -> vec4<bool> {
    return other + 4u * quad + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.tokens);
}

fn store_weights(row: u32, quad: u32, value: vec4<f32>) {
    let to = row * OTHERS + 4u * quad;
    weights[to] = f16(value.x);
    weights[to + 1u] = f16(value.y);
    weights[to + 2u] = f16(value.z);
    weights[to + 3u] = f16(value.w);
}

// Of other tokens from `first` on of the tile.
fn load_weights(unit: u32, first: u32) {
    let row = corner_of_unit(unit).x;
    a0 = coopLoadT<Left>(&weights[row * OTHERS + first], OTHERS);
    a1 = coopLoadT<Left>(&weights[(row + SIDE) * OTHERS + first], OTHERS);
}

// Channel of quad t of STEP rows of TILE channels, or the last.
fn staged_channel(own: Own, t: u32) -> u32 {
    return min(QUADS * own.place.chunk + t % QUADS, params.channels4 - 1u);
}

// Adds to a subgroup's sums the weights of other tokens from `turn` on, times their rows, which are staged.
fn add_staged(s00: ptr<private, Sum>, s01: ptr<private, Sum>, s10: ptr<private, Sum>, s11: ptr<private, Sum>, turn: u32, unit: u32) {
    workgroupBarrier();
    for (var inner = 0u; inner < STEP; inner += SIDE) {
        load_weights(unit, turn + inner);
        load_right_lines(unit, inner);
        *s00 = coopMultiplyAdd(a0, b0, *s00);
        *s01 = coopMultiplyAdd(a0, b1, *s01);
        *s10 = coopMultiplyAdd(a1, b0, *s10);
        *s11 = coopMultiplyAdd(a1, b1, *s11);
    }
    workgroupBarrier();
}

// Adds to o the weights times rows of qkv.
fn add_rows(own: Own, other: u32, part: u32, at: MatrixInvocation) {
    for (var turn = 0u; turn < OTHERS; turn += STEP) {
        for (var t = at.lane; t < STEP * QUADS; t += 4u * LANES) {
            let from_row = part_of(own.place, other + turn + t / QUADS, part);
            stage_right(4u * t, load4(qkv[from_row + staged_channel(own, t)]));
        }
        add_staged(&o00, &o01, &o10, &o11, turn, at.unit);
    }
}

// Adds to v the weights times rows of dO.
fn add_gradients(own: Own, other: u32, at: MatrixInvocation) {
    for (var turn = 0u; turn < OTHERS; turn += STEP) {
        for (var t = at.lane; t < STEP * QUADS; t += 4u * LANES) {
            let from_row = row_of(own.place, other + turn + t / QUADS);
            stage_right(4u * t, load4(d_o[from_row + staged_channel(own, t)]));
        }
        add_staged(&v00, &v01, &v10, &v11, turn, at.unit);
    }
}

fn take_o() {
    c00 = o00;
    c01 = o01;
    c10 = o10;
    c11 = o11;
}

fn take_v() {
    c00 = v00;
    c01 = v01;
    c10 = v10;
    c11 = v11;
}

// Matrix `part` of c, counted from the raised references, in `result`.
fn lay_out_shrunk(part: u32, at: MatrixInvocation) {
    lay_out(part, at.unit);
    for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
        let by = shrink[row_in_tile(part, at.unit, t)];
        let first = at.unit * SIDE * SIDE + 4u * t;
        for (var j = 0u; j < 4u; j++) {
            result[first + j] *= by;
        }
    }
    workgroupBarrier();
}

// Without a loop: sums have names, not numbers, and naga sees no switch as uniform.
fn shrink_sums(at: MatrixInvocation) {
    let first = at.unit * SIDE * SIDE;
    take_o();
    lay_out_shrunk(0u, at);
    o00 = coopLoadT<Sum>(&result[first], SIDE);
    lay_out_shrunk(1u, at);
    o01 = coopLoadT<Sum>(&result[first], SIDE);
    lay_out_shrunk(2u, at);
    o10 = coopLoadT<Sum>(&result[first], SIDE);
    lay_out_shrunk(3u, at);
    o11 = coopLoadT<Sum>(&result[first], SIDE);
}

// Stores what a subgroup has summed in c, times `factor`, as a part of d_qkv.
fn store_sums(own: Own, part: u32, factor: f32, at: MatrixInvocation) {
    for (var matrix = 0u; matrix < 4u; matrix++) {
        lay_out(matrix, at.unit);
        for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
            let token = own.first + row_in_tile(matrix, at.unit, t);
            let channel = QUADS * own.place.chunk + quad_in_tile(matrix, at.unit, t);
            if (own.exists && token < params.tokens && channel < params.channels4) {
                d_qkv[part_of(own.place, token, part) + channel] = store4(factor * result4(at.unit, t));
            }
        }
    }
}

// dS without its factor s, which f16 has no room for: sums are multiplied by it. One token has none, whatever dP and D, which are summed
// in different orders, say.
fn masked_d_scores(d_s: vec4<f32>, other: u32, quad: u32) -> vec4<f32> {
    return select(vec4<f32>(), select(vec4<f32>(), d_s, others_exist(other, quad)), params.tokens > 1u);
}

// Raises the reference of a row if a score exceeds it by MARGIN, and says whether.
fn raise(row: u32) -> bool {
    var higher = of_quads[row * QUADS_PITCH];
    for (var quad = 1u; quad < OTHER_QUADS; quad++) {
        higher = max(higher, of_quads[row * QUADS_PITCH + quad]);
    }
    let rises = higher > reference[row] + MARGIN;
    let to = select(reference[row], higher, rises);
    shrink[row] = exp(reference[row] - to);
    total[row] *= shrink[row];
    reference[row] = to;
    return rises;
}

@compute @workgroup_size(4u * LANES)
fn forward(workgroup: Workgroup, at: MatrixInvocation) {
    let own = own_of(group_index(workgroup));
    if (at.lane < TILE) {
        reference[at.lane] = LOWEST.x;
        total[at.lane] = 0.0;
    }
    for (var other = 0u; other < params.tokens; other += OTHERS) {
        query_key(own, other, QUERY, KEY, at);
        var s = lanes_scores(at);
        for (var j = 0u; j < 2u * SCORE_SHARE; j++) {
            let t = quad_of(at, j % SCORE_SHARE);
            if (t < MATRIX_QUADS) {
                let quad = score_quad(at.unit, t);
                s[j] = select(LOWEST, params.scale * s[j], others_exist(other, quad));
                of_quads[score_row(at.unit, j / SCORE_SHARE, t) * QUADS_PITCH + quad] = max(max(s[j].x, s[j].y), max(s[j].z, s[j].w));
            }
        }
        if (at.lane == 0u) {
            is_raised = false;
        }
        workgroupBarrier();
        // Nothing is summed before the first.
        if (at.lane < TILE && raise(at.lane) && other > 0u) {
            is_raised = true;
        }
        if (workgroupUniformLoad(&is_raised)) {
            shrink_sums(at);
        }
        for (var j = 0u; j < 2u * SCORE_SHARE; j++) {
            let t = quad_of(at, j % SCORE_SHARE);
            if (t < MATRIX_QUADS) {
                let row = score_row(at.unit, j / SCORE_SHARE, t);
                let quad = score_quad(at.unit, t);
                let p = exp(s[j] - reference[row]);
                of_quads[row * QUADS_PITCH + quad] = p.x + p.y + p.z + p.w;
                store_weights(row, quad, p);
            }
        }
        add_rows(own, other, VALUE, at);
        if (at.lane < TILE) {
            for (var quad = 0u; quad < OTHER_QUADS; quad++) {
                total[at.lane] += of_quads[at.lane * QUADS_PITCH + quad];
            }
        }
    }
    take_o();
    for (var matrix = 0u; matrix < 4u; matrix++) {
        lay_out(matrix, at.unit);
        for (var t = at.own; t < MATRIX_QUADS; t += LANES) {
            let row = row_in_tile(matrix, at.unit, t);
            let channel = QUADS * own.place.chunk + quad_in_tile(matrix, at.unit, t);
            if (own.exists && own.first + row < params.tokens && channel < params.channels4) {
                o_out[row_of(own.place, own.first + row) + channel] = store4(result4(at.unit, t) / total[row]);
            }
        }
    }
    let block = own.first / 4u + at.lane;
    if (own.exists && own.place.chunk == 0u && at.lane < TILE / 4u && block < block_count()) {
        var highest: vec4<f32>;
        var sum: vec4<f32>;
        for (var j = 0u; j < 4u; j++) {
            highest[j] = reference[4u * at.lane + j];
            sum[j] = total[4u * at.lane + j];
        }
        store_log_sums(own.place, block, highest, sum);
    }
}

// dQ = s dS K.
@compute @workgroup_size(4u * LANES)
fn backward_query(workgroup: Workgroup, at: MatrixInvocation) {
    let own = own_of(group_index(workgroup));
    let block = min(own.first / 4u + at.lane, block_count() - 1u);
    if (at.lane < TILE / 4u) {
        let l = log_sums[own.place.image_head * block_count() + block];
        let d = delta_of(own.place, block);
        for (var j = 0u; j < 4u; j++) {
            reference[4u * at.lane + j] = l[j];
            total[4u * at.lane + j] = d[j];
        }
        if (own.exists && own.place.chunk == 0u && own.first / 4u + at.lane < block_count()) {
            store_deltas(own.place, block, d);
        }
    }
    for (var other = 0u; other < params.tokens; other += OTHERS) {
        query_key(own, other, QUERY, KEY, at);
        let s = lanes_scores(at);
        gradient_value(own, other, true, at);
        let d_p = lanes_scores(at);
        for (var j = 0u; j < 2u * SCORE_SHARE; j++) {
            let t = quad_of(at, j % SCORE_SHARE);
            if (t < MATRIX_QUADS) {
                let row = score_row(at.unit, j / SCORE_SHARE, t);
                let quad = score_quad(at.unit, t);
                let d_s = exp(params.scale * s[j] - reference[row]) * (d_p[j] - total[row]);
                store_weights(row, quad, masked_d_scores(d_s, other, quad));
            }
        }
        add_rows(own, other, KEY, at);
    }
    take_o();
    store_sums(own, QUERY, params.scale, at);
}

// dK = s dS^T Q and dV = P^T dO.
@compute @workgroup_size(4u * LANES)
fn backward_key_value(workgroup: Workgroup, at: MatrixInvocation) {
    let own = own_of(group_index(workgroup));
    let statistics = own.place.image_head * block_count();
    for (var other = 0u; other < params.tokens; other += OTHERS) {
        query_key(own, other, KEY, QUERY, at);
        var p = lanes_scores(at);
        for (var j = 0u; j < 2u * SCORE_SHARE; j++) {
            let t = quad_of(at, j % SCORE_SHARE);
            if (t < MATRIX_QUADS) {
                let quad = score_quad(at.unit, t);
                let l = log_sums[statistics + min(other / 4u + quad, block_count() - 1u)];
                p[j] = select(vec4<f32>(), exp(params.scale * p[j] - l), others_exist(other, quad));
                store_weights(score_row(at.unit, j / SCORE_SHARE, t), quad, p[j]);
            }
        }
        add_gradients(own, other, at);
        gradient_value(own, other, false, at);
        let d_p = lanes_scores(at);
        for (var j = 0u; j < 2u * SCORE_SHARE; j++) {
            let t = quad_of(at, j % SCORE_SHARE);
            if (t < MATRIX_QUADS) {
                let quad = score_quad(at.unit, t);
                let d = deltas[statistics + min(other / 4u + quad, block_count() - 1u)];
                store_weights(score_row(at.unit, j / SCORE_SHARE, t), quad, masked_d_scores(p[j] * (d_p[j] - d), other, quad));
            }
        }
        add_rows(own, other, QUERY, at);
    }
    take_o();
    store_sums(own, KEY, params.scale, at);
    take_v();
    store_sums(own, VALUE, 1.0, at);
}
