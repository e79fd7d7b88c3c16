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
    let side = call.f("side");
    y.data.fill(4.0 * call.f("rounds") * side * a * b);
    call.write("y", y);
}
