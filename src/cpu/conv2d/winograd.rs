//! Twins of `shaders/conv2d.winograd.wgsl`.

use crate::cpu::{Array, Call};

/// Of F(2x2, 3x3): B^T, G and A^T.
const INPUT: [[f64; 4]; 4] =
    [[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0, 1.0, 0.0, -1.0]];
const WEIGHT: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
const OUTPUT: [[f64; 4]; 2] = [[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, -1.0, -1.0]];

/// Tiles of a block.
const BLOCK: usize = 32;

fn transposed<const R: usize, const C: usize>(m: [[f64; C]; R]) -> [[f64; R]; C] {
    std::array::from_fn(|i| std::array::from_fn(|j| m[j][i]))
}

/// L X L^T, X given by its elements.
fn both_sides<const R: usize, const C: usize>(l: [[f64; C]; R], x: impl Fn(usize, usize) -> f64) -> [[f64; R]; R] {
    let product = |i: usize, j: usize| -> f64 {
        (0..C).flat_map(|a| (0..C).map(move |b| (a, b))).map(|(a, b)| l[i][a] * l[j][b] * x(a, b)).sum()
    };
    std::array::from_fn(|i| std::array::from_fn(|j| product(i, j)))
}

/// Calls `visit(block of this dispatch, tile of the block, image, first row, first column)` for each tile that there is.
fn for_each_tile(call: &Call, mut visit: impl FnMut(usize, usize, [usize; 3])) {
    let (high, wide) = (call.u("h").div_ceil(2), call.u("w").div_ceil(2));
    let first = call.u("first") * BLOCK;
    for tile in first..(first + call.u("blocks") * BLOCK).min(call.u("n") * high * wide) {
        let own = tile - first;
        visit(own / BLOCK, own % BLOCK, [tile / (high * wide), 2 * (tile / wide % high), 2 * (tile % wide)]);
    }
}

/// v or d: `by` on both sides of the window of each tile, which begins `before` rows and columns before it.
fn transform_tiles<const C: usize>(call: &mut Call, name: &str, by: [[f64; C]; 4], before: usize) {
    let x = call.read("x");
    let mut made = call.zeros(name);
    let (h, w) = (call.u("h"), call.u("w"));
    for_each_tile(call, |block, tile, [image, row, column]| {
        for channel in 0..4 * call.u("c4") {
            let at = |i: usize, j: usize| {
                let [row, column] = [row + i, column + j].map(|at| at.checked_sub(before));
                match (row.filter(|row| *row < h), column.filter(|column| *column < w)) {
                    (Some(row), Some(column)) => x.at(image, row, column, channel),
                    _ => 0.0,
                }
            };
            let frequencies = both_sides(by, at);
            for (f, value) in frequencies.as_flattened().iter().enumerate() {
                *made.at_mut(block, f, channel / 4, 4 * tile + channel % 4) = *value;
            }
        }
    });
    call.write(name, made);
}

pub fn transform_input(call: &mut Call) {
    transform_tiles(call, "v", INPUT, 1);
}

pub fn transform_gradient(call: &mut Call) {
    transform_tiles(call, "d", transposed(OUTPUT), 0);
}

/// u of the weight W[r, s, channel in, channel out].
fn transform(call: &mut Call, w: impl Fn(&Array, usize, usize, usize, usize) -> f64) {
    let weight = call.read("weight");
    let mut u = call.zeros("u");
    for c in 0..4 * call.u("c4") {
        for k in 0..4 * call.u("k4") {
            let frequencies = both_sides(WEIGHT, |r, s| w(weight, r, s, c, k));
            for (f, value) in frequencies.as_flattened().iter().enumerate() {
                *u.at_mut(f, c / 4, k / 4, c % 4 * 4 + k % 4) = *value;
            }
        }
    }
    call.write("u", u);
}

pub fn transform_weight(call: &mut Call) {
    transform(call, |weight, r, s, c, k| weight.at(r, s, c, k));
}

pub fn transform_flipped(call: &mut Call) {
    transform(call, |weight, r, s, c, k| weight.at(2 - r, 2 - s, k, c));
}

/// Adds A^T [sum of v u] A to the rows of `to` that the tiles of this dispatch cover, which are zero first.
fn product(call: &Call, to: &mut Array) {
    let (v, u) = (call.read("read_v"), call.read("read_u"));
    let (h, w) = (call.u("h"), call.u("w"));
    for_each_tile(call, |block, tile, [image, row, column]| {
        for k in 0..4 * call.u("k4") {
            let sum = |f: usize| -> f64 {
                let term =
                    |c: usize| v.at(block, f, c / 4, 4 * tile + c % 4) * u.at(f, c / 4, k / 4, c % 4 * 4 + k % 4);
                (0..4 * call.u("c4")).map(term).sum()
            };
            let sums: [f64; 16] = std::array::from_fn(sum);
            for (i, values) in both_sides(OUTPUT, |a, b| sums[4 * a + b]).iter().enumerate() {
                for (j, value) in values.iter().enumerate().filter(|(j, _)| row + i < h && column + j < w) {
                    *to.at_mut(image, row + i, column + j, k) = *value;
                }
            }
        }
    });
}

pub fn forward(call: &mut Call) {
    let mut y = call.read("y").clone();
    product(call, &mut y);
    let (bias, addend) = (call.read("bias"), call.read("addend"));
    let (h, w) = (call.u("h"), call.u("w"));
    for_each_tile(call, |_, _, [image, row, column]| {
        for (row, column) in [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)] {
            if row >= h || column >= w {
                continue;
            }
            for k in 0..4 * call.u("k4") {
                let added = match call.u("addend") {
                    0 => 0.0,
                    1 => addend.row(image)[4 * call.u("addend_first4") + k],
                    _ => addend.at(image, row, column, k),
                };
                let y = y.at_mut(image, row, column, k);
                *y = call.f("scale") * (*y + bias.at(0, 0, 0, k) + added);
            }
        }
    });
    call.write("y", y);
}

pub fn backward_data(call: &mut Call) {
    let mut dx = call.read("dx").clone();
    product(call, &mut dx);
    call.write("dx", dx);
}

pub fn backward_weight(call: &mut Call) {
    let (v, d) = (call.read("read_v"), call.read("read_d"));
    let mut sums = if call.u("first") > 0 { call.read("before").clone() } else { call.zeros("sums") };
    for_each_tile(call, |block, tile, _| {
        for f in 0..16 {
            for c in 0..4 * call.u("c4") {
                let v = v.at(block, f, c / 4, 4 * tile + c % 4);
                for k in 0..4 * call.u("k4") {
                    *sums.at_mut(f, c / 4, k / 4, c % 4 * 4 + k % 4) += v * d.at(block, f, k / 4, 4 * tile + k % 4);
                }
            }
        }
    });
    call.write("sums", sums);
}

pub fn collect_weight(call: &mut Call) {
    let sums = call.read("read_sums");
    let mut dweight = call.zeros("dweight");
    for c in 0..4 * call.u("c4") {
        for k in 0..4 * call.u("k4") {
            let gradient = both_sides(transposed(WEIGHT), |a, b| sums.at(4 * a + b, c / 4, k / 4, c % 4 * 4 + k % 4));
            for (r, values) in gradient.iter().enumerate() {
                for (s, value) in values.iter().enumerate() {
                    *dweight.at_mut(r, s, c, k) = *value;
                }
            }
        }
    }
    call.write("dweight", dweight);
}
