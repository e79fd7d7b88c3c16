//! Twins of `shaders/ceiling.wgsl`.

use super::Call;

fn copy(call: &mut Call) {
    let x = call.read("x").clone();
    call.write("y", x);
}

pub fn copy_1(call: &mut Call) {
    copy(call);
}

pub fn copy_8(call: &mut Call) {
    copy(call);
}

/// The sum over `sums` chains of x -> a x + b, begun at 1, 2, 3.. times x, after `rounds` blocks of `steps`.
fn multiply(call: &mut Call, sums: usize, steps: usize, lanes: usize) {
    let (x, factors) = (call.read("x"), call.read("factors"));
    let mut y = call.zeros("y");
    for (i, (y, x)) in y.data.iter_mut().zip(&x.data).enumerate() {
        let quad = &factors.data[i / 4 % lanes * 4..][..4];
        for j in 0..sums {
            let mut s = (j + 1) as f64 * x;
            for _ in 0..call.u("rounds") * steps {
                s = s * quad[0] + quad[1];
            }
            *y += s;
        }
    }
    call.write("y", y);
}

pub fn multiply_2(call: &mut Call) {
    multiply(call, 2, 64, 64);
}

pub fn multiply_3(call: &mut Call) {
    multiply(call, 3, 128, 64);
}

pub fn multiply_8(call: &mut Call) {
    multiply(call, 8, 4, 256);
}

pub fn matrices(call: &mut Call) {
    let [a, b, ..] = call.read("factors").data[..] else { unreachable!("a quad") };
    let mut y = call.zeros("y");
    let (side, rounds) = (call.u("side"), call.f("rounds"));
    // Rows of 16 numbers, and of four matrices.
    let left = |m: usize, k: usize| a * (1 + (16 * m + k) % 5) as f64;
    let right = |k: usize, n: usize| b * (1 + (4 * side * k + n) % 3) as f64;
    let product = |m: usize, n: usize| (0..side).map(|k| left(m, k) * right(k, n)).sum::<f64>();
    for (i, y) in y.data.iter_mut().enumerate() {
        let (m, n) = (i / side % side, i % side);
        let parts = [(m, n), (m, n + side), (m + side, n), (m + side, n + side)];
        *y = rounds * parts.map(|(m, n)| product(m, n)).iter().sum::<f64>();
    }
    call.write("y", y);
}
