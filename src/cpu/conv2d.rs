//! Twins of `shaders/conv2d.wgsl`.

pub mod winograd;

use super::{Array, Call};

/// Calls `visit(output row, tap, input row)` for each pair of an output position and an input position that a tap joins.
fn for_each_pair(call: &Call, mut visit: impl FnMut(usize, usize, usize)) {
    let (n, h, w, p, q) = (call.u("n"), call.u("h"), call.u("w"), call.u("p"), call.u("q"));
    let (taps_h, taps_w, stride, pad) = (call.u("r"), call.u("s"), call.u("stride"), call.u("pad"));
    for image in 0..n {
        for row in 0..p {
            for column in 0..q {
                for r in 0..taps_h {
                    for s in 0..taps_w {
                        let (y, x) = ((row * stride + r).checked_sub(pad), (column * stride + s).checked_sub(pad));
                        if let (Some(y), Some(x)) = (y.filter(|y| *y < h), x.filter(|x| *x < w)) {
                            visit((image * p + row) * q + column, r * taps_w + s, (image * h + y) * w + x);
                        }
                    }
                }
            }
        }
    }
}

pub fn forward(call: &mut Call) {
    let (x, weight, bias) = (call.read("x"), call.read("weight"), call.read("bias"));
    let mut y = call.zeros("y");
    for row in 0..y.rows() {
        y.row_mut(row).copy_from_slice(bias.row(0));
    }
    for_each_pair(call, |to, tap, from| {
        for (c, x) in x.row(from).iter().enumerate() {
            for (y, weight) in y.row_mut(to).iter_mut().zip(weight.row(tap * x_stride(call) + c)) {
                *y += x * weight;
            }
        }
    });
    let product = (call.u("addend") == 3).then(|| shortcut(call));
    let (addend, per_image) = (product.as_ref().unwrap_or(call.read("addend")), y.rows() / call.u("n"));
    for row in 0..y.rows() {
        let added = match call.u("addend") {
            0 => None,
            1 => Some(&addend.row(row / per_image)[4 * call.u("addend_first4")..]),
            _ => Some(addend.row(row)),
        };
        for (c, y) in y.row_mut(row).iter_mut().enumerate() {
            *y = call.f("scale") * (*y + added.map_or(0.0, |added| added[c]));
        }
    }
    call.write("y", y);
}

/// The product that is added, with its bias.
fn shortcut(call: &Call) -> Array {
    let (x, weight, bias) = (call.read("addend"), call.read("shortcut_weight"), call.read("shortcut_bias"));
    let mut product = call.zeros("y");
    for row in 0..product.rows() {
        let sums = product.row_mut(row);
        sums.copy_from_slice(bias.row(0));
        for (c, x) in x.row(row).iter().enumerate() {
            sums.iter_mut().zip(weight.row(c)).for_each(|(sum, weight)| *sum += x * weight);
        }
    }
    product
}

/// Padded input channels.
fn x_stride(call: &Call) -> usize {
    call.u("c4") * 4
}

pub fn backward_data(call: &mut Call) {
    let (dy, weight) = (call.read("dy"), call.read("weight"));
    let mut dx = call.zeros("dx");
    for_each_pair(call, |from, tap, to| {
        for (c, dx) in dx.row_mut(to).iter_mut().enumerate() {
            let weights = weight.row(tap * x_stride(call) + c);
            *dx += dy.row(from).iter().zip(weights).map(|(dy, weight)| dy * weight).sum::<f64>();
        }
    });
    call.write("dx", dx);
}

pub fn backward_weight(call: &mut Call) {
    let (x, dy) = (call.read("x"), call.read("gradient"));
    let mut partial: Array = call.zeros("partial");
    let mut bias: Array = call.zeros("partial_bias");
    for (m, dy) in dy.data.chunks_exact(4 * call.u("k4")).enumerate() {
        bias.row_mut(m / call.u("split_rows")).iter_mut().zip(dy).for_each(|(sum, dy)| *sum += dy);
    }
    let taps = call.u("r") * call.u("s");
    for_each_pair(call, |output, tap, input| {
        let split = output / call.u("split_rows");
        for (c, x) in x.row(input).iter().enumerate() {
            let to = (split * taps + tap) * x_stride(call) + c;
            for (sum, dy) in partial.row_mut(to).iter_mut().zip(dy.row(output)) {
                *sum += x * dy;
            }
        }
    });
    call.write("partial", partial);
    call.write("partial_bias", bias);
}
