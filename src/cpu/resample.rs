//! Twins of `shaders/resample.wgsl`.

use super::Call;

pub fn upsample(call: &mut Call) {
    let x = call.read("x");
    let mut y = call.zeros("y");
    let [n, height, width, channels] = y.shape;
    for image in 0..n {
        for (h, w) in (0..height).flat_map(|h| (0..width).map(move |w| (h, w))) {
            for c in 0..channels {
                *y.at_mut(image, h, w, c) = x.at(image, h / 2, w / 2, c);
            }
        }
    }
    call.write("y", y);
}

pub fn upsample_backward(call: &mut Call) {
    let dy = call.read("dy");
    let mut dx = call.zeros("dx");
    let [n, height, width, channels] = dy.shape;
    for image in 0..n {
        for (h, w) in (0..height).flat_map(|h| (0..width).map(move |w| (h, w))) {
            for c in 0..channels {
                *dx.at_mut(image, h / 2, w / 2, c) += dy.at(image, h, w, c);
            }
        }
    }
    call.write("dx", dx);
}
