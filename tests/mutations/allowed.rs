//! Mutants that change no result, each with the reason.

use super::source::Mutant;

const LARGER_TILE: &str = "a larger tile or array only repeats work: the host counts lanes for the smaller one";
const SURPLUS: &str = "lanes without rows may run on: loads are clamped, stores are guarded";
const NOT_STORED: &str = "only what is read for a row or quad that is not stored changes";
const CLAMPED: &str = "the index, clamped to the array, hits an element that gets the same value";
const TIMES_ZERO: &str = "what is loaded there is multiplied by 0";
const ZEROED: &str = "variables begin as zero in WGSL: the loop says it again";
const FAST_PATH: &str = "the general path gives what the fast path gives";
const SAME_SUM: &str = "every lane holds the same sum behind the barrier";
const COPIED_TWICE: &str = "some of what it copies is copied by another lane, too";
const ENDLESS: &str = "never ends without the harness's bound: no test would pass";

const EVEN: &str = "modulo a stride of 1 or 2 plus is minus";
const MADE_TWICE: &str = "a surplus workgroup makes the first inputs of the images once more";
const OUTSIDE: &str = "a turn behind the last row, all of whose factors are 0";
const ONE_SHARE: &str = "the four rows of a quad are in one share, LANES being a multiple of 4";
const PERMUTED: &str = "stores and loads are permuted alike: only the banks that they meet are others";
const UNUSED_SHARE: &str = "a share that this many lanes do not hand round";

const NODE: &str = "a part in 1,000 of a node or weight changes a smooth integral by less than the tolerance";

/// Any change of the line.
const ANY: &str = "*";

/// `(file.function, text, text that replaces its first occurrence in the line, why)`. Where lines are alike, both texts go
/// on with the line behind.
type Rule = (&'static str, &'static str, &'static str, &'static str);

#[rustfmt::skip]
const ALLOWED: &[Rule] = &[
    ("adamw.square_sum", "first + 4096u", "first + 4095u", "lanes step by 64: the last round begins at 4032"),
    ("lib.is_finite", "x) & 0x7f800000u", "x) & 0x7f800001u", "a NaN that a device makes has no lowest bit"),
    ("attention.LOWEST", "-1e30", "-1.001e30", "any value below all scores"),
    ("ceiling.copy_8", "first + 2048u", "first + 2047u", "lanes step by 256: the last round begins at 1792"),
    ("ceiling.copy_8", "first + 2048u", "first + 2049u", COPIED_TWICE),
    ("ceiling.copy_8", "first + 2048u", "first - 2048u", COPIED_TWICE),
    ("ceiling.copy_8", "* 2048u", "* 2047u", COPIED_TWICE),
    ("ceiling.copy_8", "i += 256u", "i += 255u", COPIED_TWICE),
    ("ceiling.multiply_8", "2.0 * v", "2.002 * v", "a part in 18,000 of the sum of eight: within the tolerance"),
    ("add.SHARE", "4u", "5u", COPIED_TWICE),
    ("add.add", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.add", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.add", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.add", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.add", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("add.scale", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.scale", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.scale", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.scale", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.scale", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("add.add_per_image", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.add_per_image", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.add_per_image", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.add_per_image", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.add_per_image", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("add.add_guidance", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.add_guidance", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.add_guidance", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.add_guidance", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.add_guidance", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("add.narrow", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.narrow", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.narrow", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.narrow", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.narrow", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("add.widen", "first + 256u", "first + 255u", "lanes step by 256: the last round begins at 768"),
    ("add.widen", "first + 256u", "first + 257u", COPIED_TWICE),
    ("add.widen", "first + 256u", "first - 256u", COPIED_TWICE),
    ("add.widen", "i += 256u", "i += 255u", COPIED_TWICE),
    ("add.widen", "* 256u * SHARE + lane", "* 255u * SHARE + lane", COPIED_TWICE),
    ("conv2d.parity_of", "vec2<u32>(1u), 0u, false", "vec2<u32>(2u), 0u, false", "what does not exist is not looked at"),
    ("concat.concat", "return;", "", FAST_PATH),
    ("concat.split", "return;", "", FAST_PATH),
    ("concat.split", "4u * quad + 4u <=", "5u * quad + 4u <=", FAST_PATH),
    ("concat.split", "quad + 4u <=", "quad + 5u <=", FAST_PATH),
    ("concat.split", "quad + 4u <=", "quad + 4u <", FAST_PATH),
    ("conv2d.register.ROWS", "16u", "17u", LARGER_TILE),
    ("conv2d.register.QUADS", "4u", "5u", LARGER_TILE),
    ("conv2d.register.CHANNELS", "8u", "9u", LARGER_TILE),
    ("conv2d.register.forward", "first >= rows", "first > rows", SURPLUS),
    ("conv2d.register.forward", "return;", "", SURPLUS),
    ("conv2d.register.forward", "select(0u, 1u, both)", "select(1u, 1u, both)", NOT_STORED),
    ("conv2d.register.forward", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("conv2d.register.forward", "rows - 1u)", "rows + 1u)", NOT_STORED),
    ("conv2d.register.forward", "rows - 1u)", "rows - 0u)", NOT_STORED),
    ("conv2d.register.forward", "sum[2u * j + 1u] = bias", "sum[2u * j - 1u] = bias", CLAMPED),
    ("conv2d.register.forward", "j < ROWS", "j <= ROWS", CLAMPED),
    ("conv2d.register.backward_data", "return;", "", SURPLUS),
    ("conv2d.register.backward_data", "select(0u, 4u", "select(1u, 4u", NOT_STORED),
    ("conv2d.register.backward_data", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("conv2d.register.backward_data", "rows - 1u)", "rows + 1u)", NOT_STORED),
    ("conv2d.register.backward_data", "rows - 1u)", "rows - 0u)", NOT_STORED),
    ("conv2d.register.backward_data", "j < ROWS", "j <= ROWS", CLAMPED),
    ("conv2d.register.backward_weight", "for (var j = 0u; j < CHANNELS * QUADS; j++)", ANY, ZEROED),
    ("conv2d.register.backward_weight", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("conv2d.register.backward_weight", "= select(0u, u32(", "= select(1u, u32(", TIMES_ZERO),
    ("conv2d.register.backward_weight", "params.k4 - 1u)", "params.k4 + 1u)", NOT_STORED),
    ("conv2d.register.backward_weight", "params.k4 - 1u)", "params.k4 - 0u)", NOT_STORED),
    ("conv2d.register.backward_weight", "select(4u, 8u", "select(4u, 9u", "there is no ninth channel to guard"),
    ("conv2d.register.backward_weight", "channel < CHANNELS", "channel <= CHANNELS", "the guard in the loop stops the ninth"),
    ("cross_entropy.LOWEST", "-1e30", "-1.001e30", "any value below all logits"),
    ("cross_entropy.loss", "q < quads", "q <= quads", "behind the last class logits are the lowest"),
    ("diffusion.keep_within", "value > range", "value >= range", "equal is equal"),
    ("diffusion.keep_within", "value < -range", "value <= -range", "equal is equal"),
    ("diffusion.loss", "first + 1024u", "first + 1023u", "lanes step by 64: the last round begins at 960"),
    ("diffusion.hybrid_loss", "first + 1024u", "first + 1023u", "lanes step by 64: the last round begins at 960"),
    ("diffusion.lower_tail", "x > 0.0", "x >= 0.0", "both halves have a half"),
    ("diffusion.between", "high - low < 0.5", "high + low < 0.5", "either rule is within the tolerance for most bins of the cases"),
    ("diffusion.between", "high - low < 0.5", "high - low <= 0.5", "both rules are good there"),
    ("diffusion.between", "high - low < 0.5", "high - low < 0.5005", "both rules are good there"),
    ("diffusion.between", "high + low) + half", "high + low) - half", "the nodes are symmetric"),
    ("diffusion.between", "-0.86113631159", "-0.8619974", NODE),
    ("diffusion.between", "-0.33998104358", "-0.340321", NODE),
    ("diffusion.between", ", 0.33998104358", ", 0.340321", NODE),
    ("diffusion.between", ", 0.86113631159", ", 0.8619974", NODE),
    ("diffusion.between", "(0.34785484514", "(0.3482027", NODE),
    ("diffusion.between", ", 0.34785484514", ", 0.3482027", NODE),
    ("diffusion.between", "low > 0.0", "low >= 0.0", "equal is equal"),
    ("diffusion.between", "low > 0.0", "low > 1.0", "what a difference from 1 loses there is within the tolerance"),
    ("diffusion.decoder", "x0 < -1.0 + HALF_BIN", "x0 <= -1.0 + HALF_BIN", "x0 is in the middle of a bin"),
    ("diffusion.decoder", "x0 > 1.0 - HALF_BIN", "x0 >= 1.0 - HALF_BIN", "x0 is in the middle of a bin"),
    ("diffusion.decoder", "integrals.x < 1e-12", "integrals.x <= 1e-12", "equal is equal"),
    ("diffusion.decoder", "integrals.x < 1e-12", "integrals.x < 1.001e-12", "no case has a mass in between"),
    ("diffusion.variance_output", "samples.outputs - channel", "samples.outputs + channel", "of no channel, whose noise is 0"),
    ("diffusion.denoise", "step.noise != 0.0", "step.log_small != 0.0", FAST_PATH),
    ("diffusion.write_image", "< training.class_dropout", "<= training.class_dropout", "draws are odd multiples of 2^-24"),
    ("diffusion.record_byte", "var word = 0u", "var word = 1u", "overwritten in both branches"),
    ("embed.turns_of", "floor(time)", "ceil(time)", "any whole number near the time will do, the rest may be negative"),
    ("linear.register.ROWS", "8u", "9u", LARGER_TILE),
    ("linear.register.forward", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.register.forward", "return;", "", SURPLUS),
    ("linear.register.forward", "select(0u, 1u, both)", "select(1u, 1u, both)", NOT_STORED),
    ("linear.register.forward", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("linear.register.forward", "j < ROWS", "j <= ROWS", CLAMPED),
    ("linear.register.forward", "sum[2u * j + 1u] = bias", "sum[2u * j - 1u] = bias", CLAMPED),
    ("linear.register.forward", "params.rows - 1u)", "params.rows + 1u)", NOT_STORED),
    ("linear.register.forward", "params.rows - 1u)", "params.rows - 0u)", NOT_STORED),
    ("linear.register.backward_data", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.register.backward_data", "return;", "", SURPLUS),
    ("linear.register.backward_data", "select(0u, 4u", "select(1u, 4u", NOT_STORED),
    ("linear.register.backward_data", "array<vec4<f32>, 2u *", "array<vec4<f32>, 3u *", LARGER_TILE),
    ("linear.register.backward_data", "for (var j = 0u; j < 2u * ROWS; j++)", ANY, ZEROED),
    ("linear.register.backward_data", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("linear.register.backward_data", "params.rows - 1u)", "params.rows + 1u)", NOT_STORED),
    ("linear.register.backward_data", "params.rows - 1u)", "params.rows - 0u)", NOT_STORED),
    ("linear.register.backward_weight", "array<vec4<f32>, 16>", "array<vec4<f32>, 17>", LARGER_TILE),
    ("linear.register.backward_weight", "for (var j = 0u; j < 16u; j++)", ANY, ZEROED),
    ("linear.register.backward_weight", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("conv2d.subgroup.MAX_SHARE", "8u", "9u", LARGER_TILE),
    ("conv2d.subgroup.forward", "first >= rows", "first > rows", SURPLUS),
    ("conv2d.subgroup.forward", "return;", "", SURPLUS),
    ("conv2d.subgroup.forward", "min(own, params.k4 - 1u)", "min(own, params.k4 + 1u)", NOT_STORED),
    ("conv2d.subgroup.forward", "lane, rows - 1u)", "lane, rows + 1u)", NOT_STORED),
    ("conv2d.subgroup.forward", "min(own, params.k4 - 1u)", "min(own, params.k4 - 0u)", NOT_STORED),
    ("conv2d.subgroup.forward", "lane, rows - 1u)", "lane, rows - 0u)", NOT_STORED),
    ("conv2d.subgroup.forward", "j < ROWS; j++) {\nsum[j] = bias[k];", "j <= ROWS; j++) {\nsum[j] = bias[k];", CLAMPED),
    ("conv2d.subgroup.forward", "j < ROWS / LANES; j++) {\ntap[j]", "j <= ROWS / LANES; j++) {\ntap[j]", CLAMPED),
    ("conv2d.subgroup.forward", "j < ROWS / LANES; j++) {\nshare[j]", "j <= ROWS / LANES; j++) {\nshare[j]", CLAMPED),
    ("conv2d.subgroup.forward", "j < ROWS / LANES; j++) {\ntap[j]", "j < ROWS * LANES; j++) {\ntap[j]", CLAMPED),
    ("conv2d.subgroup.backward_data", "return;", "", MADE_TWICE),
    ("conv2d.subgroup.backward_data", "min(own, params.c4 - 1u)", "min(own, params.c4 + 1u)", NOT_STORED),
    ("conv2d.subgroup.backward_data", "lane, rows - 1u)", "lane, rows + 1u)", NOT_STORED),
    ("conv2d.subgroup.backward_data", "min(own, params.c4 - 1u)", "min(own, params.c4 - 0u)", NOT_STORED),
    ("conv2d.subgroup.backward_data", "lane, rows - 1u)", "lane, rows - 0u)", NOT_STORED),
    ("conv2d.subgroup.backward_data", "j++) {\nsum[j] = vec4<f32>();", ANY, ZEROED),
    ("conv2d.subgroup.backward_data", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\ntap[j]", "j <= ROWS / LANES; j++) {\ntap[j]", CLAMPED),
    ("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\nshare[j]", "j <= ROWS / LANES; j++) {\nshare[j]", CLAMPED),
    ("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\ntap[j]", "j < ROWS * LANES; j++) {\ntap[j]", CLAMPED),
    ("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\nshare[j]", "j < ROWS * LANES; j++) {\nshare[j]", CLAMPED),
    ("conv2d.subgroup.backward_data", "parity.first.x + params.pad", "parity.first.x - params.pad", EVEN),
    ("conv2d.subgroup.backward_data", "parity.first.y + params.pad", "parity.first.y - params.pad", EVEN),
    ("conv2d.subgroup.backward_weight", "min(own, params.k4 - 1u)", "min(own, params.k4 + 1u)", NOT_STORED),
    ("conv2d.subgroup.backward_weight", "min(own, params.k4 - 1u)", "min(own, params.k4 - 0u)", NOT_STORED),
    ("conv2d.subgroup.backward_weight", "i++) {\nsum[i] = mat4x4<f32>();", ANY, ZEROED),
    ("conv2d.subgroup.backward_weight", "sum[i] = mat4x4<f32>();", ANY, ZEROED),
    ("conv2d.subgroup.backward_weight", "m < end; m += TURN", "m <= end; m += TURN", OUTSIDE),
    ("conv2d.subgroup.backward_weight", "j < ROWS / LANES; j++) {\nat[j]", "j <= ROWS / LANES; j++) {\nat[j]", CLAMPED),
    ("conv2d.subgroup.backward_weight", "j < ROWS / LANES; j++) {\nat[j]", "j < ROWS * LANES; j++) {\nat[j]", CLAMPED),
    ("linear.subgroup.MAX_SHARE", "8u", "9u", LARGER_TILE),
    ("linear.subgroup.forward", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.subgroup.forward", "return;", "", SURPLUS),
    ("linear.subgroup.forward", "min(own, params.k4 - 1u)", "min(own, params.k4 + 1u)", NOT_STORED),
    ("linear.subgroup.forward", "lane, params.rows - 1u)", "lane, params.rows + 1u)", NOT_STORED),
    ("linear.subgroup.forward", "min(own, params.k4 - 1u)", "min(own, params.k4 - 0u)", NOT_STORED),
    ("linear.subgroup.forward", "lane, params.rows - 1u)", "lane, params.rows - 0u)", NOT_STORED),
    ("linear.subgroup.forward", "min(own, params.k4 - 1u)", "min(own, params.split_rows - 1u)", NOT_STORED),
    ("linear.subgroup.forward", "j < ROWS; j++) {\nsum[j] = bias[k];", "j <= ROWS; j++) {\nsum[j] = bias[k];", CLAMPED),
    ("linear.subgroup.backward_data", "first >= params.rows", "first > params.rows", SURPLUS),
    ("linear.subgroup.backward_data", "return;", "", SURPLUS),
    ("linear.subgroup.backward_data", "min(own, params.c4 - 1u)", "min(own, params.c4 + 1u)", NOT_STORED),
    ("linear.subgroup.backward_data", "lane, params.rows - 1u)", "lane, params.rows + 1u)", NOT_STORED),
    ("linear.subgroup.backward_data", "min(own, params.c4 - 1u)", "min(own, params.c4 - 0u)", NOT_STORED),
    ("linear.subgroup.backward_data", "lane, params.rows - 1u)", "lane, params.rows - 0u)", NOT_STORED),
    ("linear.subgroup.backward_data", "j++) {\nsum[j] = vec4<f32>();", ANY, ZEROED),
    ("linear.subgroup.backward_data", "sum[j] = vec4<f32>();", ANY, ZEROED),
    ("linear.subgroup.backward_weight", "min(own, params.k4 - 1u)", "min(own, params.k4 + 1u)", NOT_STORED),
    ("linear.subgroup.backward_weight", "min(own, params.k4 - 1u)", "min(own, params.k4 - 0u)", NOT_STORED),
    ("linear.subgroup.backward_weight", "i++) {\nsum[i] = mat4x4<f32>();", ANY, ZEROED),
    ("linear.subgroup.backward_weight", "sum[i] = mat4x4<f32>();", ANY, ZEROED),
    ("linear.subgroup.backward_weight", "m < end; m += TURN", "m <= end; m += TURN", OUTSIDE),
    ("lib.coop.SHARE", "8u", "7u", "no candidate stages more than 4 at once"),
    ("lib.coop.SHARE", "8u", "9u", LARGER_TILE),
    ("lib.coop.result", "4u", "5u", LARGER_TILE),
    ("conv2d.subgroup.backward_weight", "/ TURN, params.c4 - 1u)", "/ TURN, params.c4 + 1u)", NOT_STORED),
    ("conv2d.subgroup.backward_weight", "/ TURN, params.c4 - 1u)", "/ TURN, params.c4 - 0u)", NOT_STORED),
    ("conv2d.subgroup.backward_weight", "i + 1u) / LANES]", "i + 0u) / LANES]", ONE_SHARE),
    ("conv2d.subgroup.backward_weight", "i + 1u) / LANES]", "i + 2u) / LANES]", ONE_SHARE),
    ("conv2d.subgroup.backward_weight", "i + 2u) / LANES]", "i + 1u) / LANES]", ONE_SHARE),
    ("conv2d.subgroup.backward_weight", "i + 2u) / LANES]", "i + 3u) / LANES]", ONE_SHARE),
    ("conv2d.subgroup.backward_weight", "i + 3u) / LANES]", "i + 2u) / LANES]", ONE_SHARE),
    ("linear.subgroup.backward_weight", "/ TURN, params.c4 - 1u)", "/ TURN, params.c4 + 1u)", NOT_STORED),
    ("linear.subgroup.backward_weight", "/ TURN, params.c4 - 1u)", "/ TURN, params.c4 - 0u)", NOT_STORED),
    ("linear.subgroup.backward_weight", "i + 1u) / LANES]", "i + 0u) / LANES]", ONE_SHARE),
    ("linear.subgroup.backward_weight", "i + 1u) / LANES]", "i + 2u) / LANES]", ONE_SHARE),
    ("linear.subgroup.backward_weight", "i + 2u) / LANES]", "i + 1u) / LANES]", ONE_SHARE),
    ("linear.subgroup.backward_weight", "i + 2u) / LANES]", "i + 3u) / LANES]", ONE_SHARE),
    ("linear.subgroup.backward_weight", "i + 3u) / LANES]", "i + 2u) / LANES]", ONE_SHARE),
    ("conv2d.coop.forward", "lane / 4u, rows - 1u)", "lane / 4u, rows + 1u)", NOT_STORED),
    ("conv2d.coop.forward", "lane / 4u, rows - 1u)", "lane / 4u, rows - 0u)", NOT_STORED),
    ("lib.tiled.MAX_SHARE", "2u", "3u", LARGER_TILE),
    ("lib.tiled.CHANNEL_SHARE", "8u", "9u", "whole numbers: 18 by 16 or 8 is what 16 is"),
    ("lib.tiled.staged_rows", "2u", "3u", LARGER_TILE),
    ("lib.tiled.staged_channels", "8u", "9u", LARGER_TILE),
    ("lib.tiled.row_slot", "8u / STEP", "7u / STEP", PERMUTED),
    ("lib.tiled.row_slot", "8u / STEP", "9u / STEP", PERMUTED),
    ("lib.tiled.row_slot", "8u / STEP", "8u * STEP", PERMUTED),
    ("lib.tiled.row_slot", "STEP * step", "STEP / step", PERMUTED),
    ("lib.tiled.row_slot", "STEP * step", "STEP + step", PERMUTED),
    ("reduce.total", "half > 0u", "half >= 0u", ENDLESS),
    ("reduce.total", "lane < half", "lane <= half", "adds to a sum that is used up, a race that no driver here shows"),
    ("reduce.total", "lane == 0u", "lane != 0u", SAME_SUM),
    ("reduce.total", "lane == 0u", "lane == 1u", SAME_SUM),
];

/// Those that show in some ways to run the file alone, as ALLOWED with a part of the labels of these ways: where none of them
/// is here, the reason holds.
#[rustfmt::skip]
const ELSEWHERE: &[(Rule, &str)] = &[
    (("conv2d.subgroup.backward_weight", "(4u * i + 2u) % LANES", "(4u * i - 2u) % LANES", "modulo 4 plus 2 is minus 2"), "conv2d.subgroup LANES=8"),
    (("linear.subgroup.backward_weight", "(4u * i + 2u) % LANES", "(4u * i - 2u) % LANES", "modulo 4 plus 2 is minus 2"), "linear.subgroup LANES=8"),
    (("conv2d.subgroup.forward", "j < ROWS / LANES; j++) {\ncorner[j]", "j <= ROWS / LANES; j++) {\ncorner[j]", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.forward", "j < ROWS / LANES; j++) {\ncorner[j]", "j < ROWS * LANES; j++) {\ncorner[j]", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.forward", "j < ROWS; j++) {\nlet v", "j <= ROWS; j++) {\nlet v", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\ninput[j]", "j <= ROWS / LANES; j++) {\ninput[j]", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.backward_data", "j < ROWS / LANES; j++) {\ninput[j]", "j < ROWS * LANES; j++) {\ninput[j]", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.backward_data", "j < ROWS; j++) {\nlet v", "j <= ROWS; j++) {\nlet v", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.backward_weight", "j < ROWS / LANES; j++) {\nlet part", "j <= ROWS / LANES; j++) {\nlet part", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("conv2d.subgroup.backward_weight", "i < QUADS; i++) {\nlet a", "i <= QUADS; i++) {\nlet a", UNUSED_SHARE), "conv2d.subgroup LANES=4"),
    (("linear.subgroup.forward", "j < ROWS / LANES; j++) {\nshare[j]", "j <= ROWS / LANES; j++) {\nshare[j]", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.forward", "j < ROWS / LANES; j++) {\nshare[j]", "j < ROWS * LANES; j++) {\nshare[j]", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.forward", "j < ROWS; j++) {\nlet v", "j <= ROWS; j++) {\nlet v", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.backward_data", "j < ROWS / LANES; j++) {\nshare[j]", "j <= ROWS / LANES; j++) {\nshare[j]", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.backward_data", "j < ROWS / LANES; j++) {\nshare[j]", "j < ROWS * LANES; j++) {\nshare[j]", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.backward_data", "j < ROWS; j++) {\nlet v", "j <= ROWS; j++) {\nlet v", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.backward_weight", "j < ROWS / LANES; j++) {\nlet part", "j <= ROWS / LANES; j++) {\nlet part", UNUSED_SHARE), "linear.subgroup LANES=4"),
    (("linear.subgroup.backward_weight", "i < QUADS; i++) {\nlet a", "i <= QUADS; i++) {\nlet a", UNUSED_SHARE), "linear.subgroup LANES=4"),
];

/// Why no case can notice `mutant`, in the ways of these labels.
pub fn reason(file: &str, mutant: &Mutant, ways: &[String]) -> Option<&'static str> {
    let elsewhere = ELSEWHERE.iter().filter(|(_, part)| !ways.iter().any(|way| way.contains(part)));
    let rules = ALLOWED.iter().chain(elsewhere.map(|(rule, _)| rule));
    rules.into_iter().find(|rule| matches(rule, file, mutant)).map(|rule| rule.3)
}

fn matches((place, from, to, _): &Rule, file: &str, mutant: &Mutant) -> bool {
    let with_next = |line: &str| format!("{line}\n{}", mutant.next);
    let (before, after) = (with_next(&mutant.line), with_next(&mutant.changed));
    let changed = || *to == ANY || before.replacen(from, to, 1).trim() == after.trim();
    *place == format!("{file}.{}", mutant.function) && before.contains(from) && changed()
}

/// Entries that no mutant matches: the shader has changed.
pub fn stale(all: &[(&'static str, Mutant)]) -> Vec<String> {
    let rules = ALLOWED.iter().chain(ELSEWHERE.iter().map(|(rule, _)| rule));
    let unused = rules.filter(|rule| !all.iter().any(|(file, mutant)| matches(rule, file, mutant)));
    unused.map(|(place, from, to, _)| format!("{place}: {from} -> {to}")).collect()
}
