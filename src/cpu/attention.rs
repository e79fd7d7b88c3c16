//! Twins of `shaders/attention.wgsl`.

use super::{Array, Call};

/// The sizes of [N, T, heads, d].
struct Sizes {
    images: usize,
    tokens: usize,
    heads: usize,
    channels: usize,
}

impl Sizes {
    fn of(call: &Call, name: &str) -> Sizes {
        let [images, tokens, heads, channels] = call.read(name).shape;
        Sizes { images, tokens, heads, channels }
    }

    /// Every (image, head).
    fn heads(&self) -> impl Iterator<Item = (usize, usize)> {
        let heads = self.heads;
        (0..self.images).flat_map(move |n| (0..heads).map(move |head| (n, head)))
    }
}

/// a_i . b_j of one head.
fn dot(a: &Array, b: &Array, (n, head): (usize, usize), i: usize, j: usize) -> f64 {
    (0..a.shape[3]).map(|c| a.at(n, i, head, c) * b.at(n, j, head, c)).sum()
}

/// S_ij = q_i . k_j / sqrt(d).
fn score(call: &Call, head: (usize, usize), i: usize, j: usize) -> f64 {
    let q = call.read("q");
    dot(q, call.read("k"), head, i, j) / (q.shape[3] as f64).sqrt()
}

/// P_ij = exp(S_ij - L_i), L in the tensor `log_sums`.
fn probability(call: &Call, log_sums: &str, (n, head): (usize, usize), i: usize, j: usize) -> f64 {
    (score(call, (n, head), i, j) - call.read(log_sums).at(n, head, 0, i)).exp()
}

/// dS_ij = P_ij (dO_i . V_j - D_i).
fn d_score(call: &Call, (n, head): (usize, usize), i: usize, j: usize) -> f64 {
    let d_p = dot(call.read("d_o"), call.read("v"), (n, head), i, j);
    probability(call, "log_sums", (n, head), i, j) * (d_p - call.read("deltas").at(n, head, 0, i))
}

/// target_i += factor source_j of one head.
fn add(target: &mut Array, i: usize, factor: f64, source: &Array, j: usize, (n, head): (usize, usize)) {
    for c in 0..source.shape[3] {
        *target.at_mut(n, i, head, c) += factor * source.at(n, j, head, c);
    }
}

pub fn log_sum_exp(call: &mut Call) {
    let sizes = Sizes::of(call, "q");
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

/// O from L in the tensor `log_sums`.
fn output(call: &mut Call, log_sums: &str) {
    let sizes = Sizes::of(call, "q");
    let mut o = call.zeros("o_out");
    for head in sizes.heads() {
        for i in 0..sizes.tokens {
            for j in 0..sizes.tokens {
                add(&mut o, i, probability(call, log_sums, head, i, j), call.read("v"), j, head);
            }
        }
    }
    call.write("o_out", o);
}

pub fn forward(call: &mut Call) {
    output(call, "log_sums");
}

/// L and O at once.
pub fn forward_with_log_sums(call: &mut Call) {
    log_sum_exp(call);
    output(call, "log_sums_out");
}

pub fn delta(call: &mut Call) {
    let sizes = Sizes::of(call, "o");
    let mut d = call.zeros("deltas_out");
    for (n, head) in sizes.heads() {
        for i in 0..sizes.tokens {
            *d.at_mut(n, head, 0, i) = dot(call.read("d_o"), call.read("o"), (n, head), i, i);
        }
    }
    call.write("deltas_out", d);
}

pub fn backward_query(call: &mut Call) {
    let sizes = Sizes::of(call, "q");
    let scale = 1.0 / (sizes.channels as f64).sqrt();
    let mut d_q = call.zeros("d_q");
    for head in sizes.heads() {
        for i in 0..sizes.tokens {
            for j in 0..sizes.tokens {
                add(&mut d_q, i, scale * d_score(call, head, i, j), call.read("k"), j, head);
            }
        }
    }
    call.write("d_q", d_q);
}

pub fn backward_key_value(call: &mut Call) {
    let sizes = Sizes::of(call, "q");
    let scale = 1.0 / (sizes.channels as f64).sqrt();
    let (mut d_k, mut d_v) = (call.zeros("d_k"), call.zeros("d_v"));
    for head in sizes.heads() {
        for i in 0..sizes.tokens {
            for j in 0..sizes.tokens {
                add(&mut d_k, j, scale * d_score(call, head, i, j), call.read("q"), i, head);
                add(&mut d_v, j, probability(call, "log_sums", head, i, j), call.read("d_o"), i, head);
            }
        }
    }
    call.write("d_k", d_k);
    call.write("d_v", d_v);
}
