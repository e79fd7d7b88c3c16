//! Twins of `shaders/linear.wgsl`. Rows are counted by the parameters: y may be shaped [N, T, heads, d].

use super::{Call, silu};

pub fn forward(call: &mut Call) {
    let (x, weight, bias) = (call.read("x"), call.read("weight"), call.read("bias"));
    let (c, k) = (call.u("c4") * 4, call.u("k4") * 4);
    let mut y = call.zeros("y");
    for (x, y) in x.data.chunks_exact(c).zip(y.data.chunks_exact_mut(k)) {
        y.copy_from_slice(&bias.data);
        for (x, weights) in x.iter().zip(weight.data.chunks_exact(k)) {
            y.iter_mut().zip(weights).for_each(|(y, weight)| *y += x * weight);
        }
    }
    let (added, scale, activated) = (call.flag("addend"), call.f("scale"), call.flag("silu"));
    let addend = &call.read("addend").data;
    for (i, y) in y.data.iter_mut().enumerate() {
        *y = scale * (*y + if added { addend[i] } else { 0.0 });
        if activated {
            *y = silu::value(*y);
        }
    }
    call.write("y", y);
}

pub fn backward_data(call: &mut Call) {
    let (dy, weight) = (call.read("dy"), call.read("weight"));
    let (c, k) = (call.u("c4") * 4, call.u("k4") * 4);
    let mut dx = call.zeros("dx");
    for (dx, dy) in dx.data.chunks_exact_mut(c).zip(dy.data.chunks_exact(k)) {
        for (dx, weights) in dx.iter_mut().zip(weight.data.chunks_exact(k)) {
            *dx = dy.iter().zip(weights).map(|(dy, weight)| dy * weight).sum();
        }
    }
    call.write("dx", dx);
}

pub fn backward_weight(call: &mut Call) {
    let (x, dy) = (call.read("x"), call.read("gradient"));
    let (c, k) = (call.u("c4") * 4, call.u("k4") * 4);
    let (mut partial, mut bias) = (call.zeros("partial"), call.zeros("partial_bias"));
    for (m, (x, dy)) in x.data.chunks_exact(c).zip(dy.data.chunks_exact(k)).enumerate() {
        let split = m / call.u("split_rows");
        for (x, sums) in x.iter().zip(partial.data[split * c * k..].chunks_exact_mut(k)) {
            sums.iter_mut().zip(dy).for_each(|(sum, dy)| *sum += x * dy);
        }
        bias.data[split * k..].iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    call.write("partial", partial);
    call.write("partial_bias", bias);
}
