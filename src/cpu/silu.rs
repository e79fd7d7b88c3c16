//! Twins of `shaders/silu.wgsl`.

use super::Call;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// x sigmoid(x).
pub fn value(x: f64) -> f64 {
    x * sigmoid(x)
}

/// The derivative of [`value`].
pub fn slope(x: f64) -> f64 {
    sigmoid(x) + x * sigmoid(x) * sigmoid(-x)
}

pub fn forward(call: &mut Call) {
    let mut y = call.read("x").clone();
    y.data.iter_mut().for_each(|y| *y = value(*y));
    call.write("y", y);
}

pub fn backward(call: &mut Call) {
    let mut dx = call.read("dy").clone();
    for (dx, x) in dx.data.iter_mut().zip(&call.read("x").data) {
        *dx *= slope(*x);
    }
    call.write("dx", dx);
}
