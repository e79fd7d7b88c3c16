//! Mutants that change no result, each with the reason.

use super::source::Mutant;

const LARGER_TILE: &str = "a larger tile or array only repeats work: the host counts lanes for the smaller one";
const SURPLUS: &str = "lanes without rows may run on: loads are clamped, stores are guarded";
const NOT_STORED: &str = "only what is read for a row or quad that is not stored changes";
const CLAMPED: &str = "the index, clamped to the array, hits an element that gets the same value";
const ZEROED: &str = "variables begin as zero in WGSL: the loop says it again";
const FAST_PATH: &str = "the general path gives what the fast path gives";
const SAME_SUM: &str = "every lane holds the same sum behind the barrier";
const ENDLESS: &str = "never ends without the harness's bound: no test would pass";

/// Any change of the line.
const ANY: &str = "*";

/// `(file.function, text, text that replaces its first occurrence in the line, why)`.
#[rustfmt::skip]
const ALLOWED: &[(&str, &str, &str, &str)] = &[
    ("adamw.square_sum", "first + 4096u", "first + 4095u", "lanes step by 64: the last round begins at 4032"),
    ("attention.LOWEST", "-1e30", "-1.001e30", "any value below all scores"),
    ("concat.concat", "return;", "", FAST_PATH),
    ("concat.split", "return;", "", FAST_PATH),
    ("concat.split", "4u * quad + 4u <=", "5u * quad + 4u <=", FAST_PATH),
    ("concat.split", "quad + 4u <=", "quad + 5u <=", FAST_PATH),
    ("concat.split", "quad + 4u <=", "quad + 4u <", FAST_PATH),
    ("embed.turns_of", "floor(time)", "ceil(time)", "any whole number near the time will do, the rest may be negative"),
    ("linear.ROWS", "8u", "9u", LARGER_TILE),
    ("linear.forward", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.forward", "return;", "", SURPLUS),
    ("linear.forward", "select(0u, 1u, both)", "select(1u, 1u, both)", NOT_STORED),
    ("linear.forward", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("linear.forward", "j < ROWS", "j <= ROWS", CLAMPED),
    ("linear.forward", "sum[2u * j + 1u] = bias", "sum[2u * j - 1u] = bias", CLAMPED),
    ("linear.forward", "params.rows - 1u)", "params.rows + 1u)", NOT_STORED),
    ("linear.forward", "params.rows - 1u)", "params.rows - 0u)", NOT_STORED),
    ("linear.backward_data", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.backward_data", "return;", "", SURPLUS),
    ("linear.backward_data", "select(0u, 4u", "select(1u, 4u", NOT_STORED),
    ("linear.backward_data", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("linear.backward_data", "for (var j = 0u; j < 2u * ROWS; j++)", ANY, ZEROED),
    ("linear.backward_data", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("linear.backward_data", "params.rows - 1u)", "params.rows + 1u)", NOT_STORED),
    ("linear.backward_data", "params.rows - 1u)", "params.rows - 0u)", NOT_STORED),
    ("linear.backward_weight", "array<vec4<f32>, 16>", "array<vec4<f32>, 17>", LARGER_TILE),
    ("linear.backward_weight", "for (var j = 0u; j < 16u; j++)", ANY, ZEROED),
    ("linear.backward_weight", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("reduce.total", "half > 0u", "half >= 0u", ENDLESS),
    ("reduce.total", "lane < half", "lane <= half", "adds to a sum that is used up, a race that no driver here shows"),
    ("reduce.total", "lane == 0u", "lane != 0u", SAME_SUM),
    ("reduce.total", "lane == 0u", "lane == 1u", SAME_SUM),
];

/// Why no case can notice `mutant`.
pub fn reason(file: &str, mutant: &Mutant) -> Option<&'static str> {
    ALLOWED.iter().find(|rule| matches(rule, file, mutant)).map(|rule| rule.3)
}

fn matches((place, from, to, _): &(&str, &str, &str, &str), file: &str, mutant: &Mutant) -> bool {
    let here = *place == format!("{file}.{}", mutant.function);
    let changed = || *to == ANY || mutant.line.replacen(from, to, 1).trim() == mutant.changed;
    here && mutant.line.contains(from) && changed()
}

/// Entries that no mutant matches: the shader has changed.
pub fn stale(all: &[(&'static str, Mutant)]) -> Vec<String> {
    let unused = ALLOWED.iter().filter(|rule| !all.iter().any(|(file, mutant)| matches(rule, file, mutant)));
    unused.map(|(place, from, to, _)| format!("{place}: {from} -> {to}")).collect()
}
