//! Twins of `shaders/attention.wgsl`.

use super::{Array, Call};

/// Which part of [N, T, 3 heads, d].
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// The sizes of [N, T, heads, d].
struct Sizes {
    images: usize,
    tokens: usize,
    heads: usize,
    channels: usize,
}

impl Sizes {
    fn of(call: &Call) -> Sizes {
        let [images, tokens, heads, channels] = call.read("qkv").shape;
        Sizes { images, tokens, heads: heads / 3, channels }
    }

    /// Every (image, head).
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let heads = self.heads;
        (0..self.images).flat_map(move |n| (0..heads).map(move |head| (n, head)))
    }

    /// 1 / sqrt(d).
    fn scale(&self) -> f64 {
        1.0 / (self.channels as f64).sqrt()
    }
}

/// The tokens of one head: of a part of qkv, or of a tensor that has but one.
#[derive(Clone, Copy)]
struct Rows<'a> {
    array: &'a Array,
    image: usize,
    head: usize,
}

impl Rows<'_> {
    fn dot(self, i: usize, other: Rows, j: usize) -> f64 {
        let at = |rows: Rows, token, c| rows.array.at(rows.image, token, rows.head, c);
        (0..self.array.shape[3]).map(|c| at(self, i, c) * at(other, j, c)).sum()
    }
}

fn part<'a>(call: &'a Call, part: usize, (image, head): (usize, usize)) -> Rows<'a> {
    let array = call.read("qkv");
    Rows { array, image, head: array.shape[2] / 3 * part + head }
}

fn whole<'a>(call: &'a Call, name: &str, (image, head): (usize, usize)) -> Rows<'a> {
    Rows { array: call.read(name), image, head }
}

/// S_ij = q_i . k_j / sqrt(d).
fn score(call: &Call, head: (usize, usize), i: usize, j: usize) -> f64 {
    part(call, QUERY, head).dot(i, part(call, KEY, head), j) * Sizes::of(call).scale()
}

/// P_ij = exp(S_ij - L_i), L in the tensor `log_sums`.
fn probability(call: &Call, log_sums: &str, (n, head): (usize, usize), i: usize, j: usize) -> f64 {
    (score(call, (n, head), i, j) - call.read(log_sums).at(n, head, 0, i)).exp()
}

/// D_i = dO_i . O_i.
fn delta_of(call: &Call, head: (usize, usize), i: usize) -> f64 {
    whole(call, "d_o", head).dot(i, whole(call, "o", head), i)
}

/// dS_ij = P_ij (dO_i . V_j - D_i).
fn d_score(call: &Call, head: (usize, usize), i: usize, j: usize, delta: f64) -> f64 {
    let d_p = whole(call, "d_o", head).dot(i, part(call, VALUE, head), j);
    probability(call, "log_sums", head, i, j) * (d_p - delta)
}

/// target_i += factor source_j, where row i of `target` is of `target_head`.
fn add(target: &mut Array, target_head: usize, i: usize, factor: f64, source: Rows, j: usize) {
    let image = source.image;
    for c in 0..source.array.shape[3] {
        *target.at_mut(image, i, target_head, c) += factor * source.array.at(image, j, source.head, c);
    }
}

/// `d_qkv` as it is, but zeros in the parts that a dispatch makes.
fn cleared(call: &Call, parts: &[usize]) -> Array {
    let mut d = call.read("d_qkv").clone();
    let [images, tokens, heads, _] = d.shape;
    let stride = d.stride;
    for row in 0..images * tokens * heads {
        if parts.contains(&(row % heads / (heads / 3))) {
            d.row_mut(row)[..stride].fill(0.0);
        }
    }
    d
}

fn log_sum_exp(call: &mut Call) {
    let sizes = Sizes::of(call);
    let mut l = call.zeros("log_sums_out");
    for (n, head) in sizes.heads() {
        for i in 0..sizes.tokens {
            let scores: Vec<f64> = (0..sizes.tokens).map(|j| score(call, (n, head), i, j)).collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
            *l.at_mut(n, head, 0, i) = highest + sum.ln();
        }
    }
    call.write("log_sums_out", l);
}

pub fn forward(call: &mut Call) {
    log_sum_exp(call);
    let sizes = Sizes::of(call);
    let mut o = call.zeros("o_out");
    for head in sizes.heads() {
        for i in 0..sizes.tokens {
            for j in 0..sizes.tokens {
                let p = probability(call, "log_sums_out", head, i, j);
                add(&mut o, head.1, i, p, part(call, VALUE, head), j);
            }
        }
    }
    call.write("o_out", o);
}

pub fn backward_query(call: &mut Call) {
    let sizes = Sizes::of(call);
    let (mut d, mut deltas) = (cleared(call, &[QUERY]), call.zeros("deltas_out"));
    for head in sizes.heads() {
        for i in 0..sizes.tokens {
            let delta = delta_of(call, head, i);
            *deltas.at_mut(head.0, head.1, 0, i) = delta;
            for j in 0..sizes.tokens {
                let factor = sizes.scale() * d_score(call, head, i, j, delta);
                add(&mut d, head.1, i, factor, part(call, KEY, head), j);
            }
        }
    }
    call.write("deltas_out", deltas);
    call.write("d_qkv", d);
}

pub fn backward_key_value(call: &mut Call) {
    let sizes = Sizes::of(call);
    let mut d = cleared(call, &[KEY, VALUE]);
    for (n, head) in sizes.heads() {
        let [key_head, value_head] = [KEY, VALUE].map(|part| sizes.heads * part + head);
        for i in 0..sizes.tokens {
            let delta = call.read("deltas").at(n, head, 0, i);
            for j in 0..sizes.tokens {
                let factor = sizes.scale() * d_score(call, (n, head), i, j, delta);
                add(&mut d, key_head, j, factor, part(call, QUERY, (n, head)), i);
                let p = probability(call, "log_sums", (n, head), i, j);
                add(&mut d, value_head, j, p, whole(call, "d_o", (n, head)), i);
            }
        }
    }
    call.write("d_qkv", d);
}
