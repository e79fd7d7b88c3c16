//! Twins of `shaders/add.wgsl`.

use super::Call;

pub fn add(call: &mut Call) {
    let (a, b, scale) = (call.read("a"), call.read("b"), call.f("scale"));
    let mut y = a.clone();
    for (y, b) in y.data.iter_mut().zip(&b.data) {
        *y = scale * (*y + b);
    }
    call.write("y", y);
}

pub fn scale(call: &mut Call) {
    let mut y = call.read("a").clone();
    for y in &mut y.data {
        *y *= call.f("scale");
    }
    call.write("y", y);
}

pub fn add_per_image(call: &mut Call) {
    let (a, b) = (call.read("a"), call.read("b"));
    let mut y = a.clone();
    let rows_per_image = a.shape[1] * a.shape[2];
    for row in 0..a.rows() {
        for (y, b) in y.row_mut(row).iter_mut().zip(b.row(row / rows_per_image)) {
            *y += b;
        }
    }
    call.write("y", y);
}

pub fn add_guidance(call: &mut Call) {
    let (b, mut y) = (call.read("b"), call.read("a").clone());
    for (y, b) in y.data.iter_mut().zip(b.data.iter().cycle()) {
        *y += call.step("classifier") * b;
    }
    call.write("y", y);
}

pub fn accumulate(call: &mut Call) {
    let mut total = call.read("total").clone();
    for (total, part) in total.data.iter_mut().zip(&call.read("part").data) {
        *total += part;
    }
    call.write("total", total);
}

pub fn narrow(call: &mut Call) {
    let part = call.read("part").clone();
    call.write("narrowed", part);
}

pub fn widen(call: &mut Call) {
    let a = call.read("a").clone();
    call.write("total", a);
}
