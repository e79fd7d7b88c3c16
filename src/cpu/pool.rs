//! Twins of `shaders/pool.wgsl`.

use super::Call;

pub fn tokens(call: &mut Call) {
    let (x, p) = (call.read("x"), call.read("p"));
    let mut y = call.zeros("y");
    let [images, height, width, channels] = x.shape;
    let positions = height * width;
    for n in 0..images {
        for c in 0..channels {
            let at = |i: usize| x.row(n * positions + i)[c];
            *y.at_mut(n, 0, 0, c) = p.row(0)[c] + (0..positions).map(at).sum::<f64>() / positions as f64;
            for i in 0..positions {
                *y.at_mut(n, 1 + i, 0, c) = p.row(1 + i)[c] + at(i);
            }
        }
    }
    call.write("y", y);
}

pub fn tokens_backward(call: &mut Call) {
    let (dy, mut dx) = (call.read("dy"), call.zeros("dx"));
    let [images, height, width, channels] = dx.shape;
    let positions = height * width;
    for n in 0..images {
        for i in 0..positions {
            for c in 0..channels {
                let through_mean = dy.at(n, 0, 0, c) / positions as f64;
                dx.row_mut(n * positions + i)[c] = dy.at(n, 1 + i, 0, c) + through_mean;
            }
        }
    }
    call.write("dx", dx);
}

pub fn first(call: &mut Call) {
    let (x, mut y) = (call.read("x"), call.zeros("y"));
    let [images, _, heads, _] = y.shape;
    for n in 0..images {
        for head in 0..heads {
            y.row_mut(n * heads + head).copy_from_slice(x.row(n * x.shape[1] * heads + head));
        }
    }
    call.write("y", y);
}

pub fn first_backward(call: &mut Call) {
    let (dy, mut dx) = (call.read("dy"), call.zeros("dx"));
    let [images, tokens, heads, _] = dx.shape;
    for n in 0..images {
        for head in 0..heads {
            dx.row_mut(n * tokens * heads + head).copy_from_slice(dy.row(n * heads + head));
        }
    }
    call.write("dx", dx);
}
