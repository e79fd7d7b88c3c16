//! Twins of `shaders/embed.wgsl`.

use super::Call;

pub fn timestep(call: &mut Call) {
    let (t, mut y) = (call.read("t"), call.zeros("y"));
    let half = y.shape[3] / 2;
    let (sines, cosines) = if call.flag("flip") { (half, 0) } else { (0, half) };
    for n in 0..y.shape[0] {
        for i in 0..half {
            let exponent = -(10000f64.ln()) * i as f64 / (half as f64 - call.f("freq_shift"));
            let angle = t.at(0, 0, 0, n) * exponent.exp();
            *y.at_mut(n, 0, 0, sines + i) = angle.sin();
            *y.at_mut(n, 0, 0, cosines + i) = angle.cos();
        }
    }
    call.write("y", y);
}

pub fn gather(call: &mut Call) {
    let (table, labels, mut y) = (call.read("table"), call.read("labels"), call.zeros("y"));
    for n in 0..y.rows() {
        y.row_mut(n).copy_from_slice(table.row(labels.data[n] as usize));
    }
    call.write("y", y);
}

pub fn gather_backward(call: &mut Call) {
    let (labels, dy, mut d_table) = (call.read("labels"), call.read("dy"), call.zeros("d_table"));
    for n in 0..dy.rows() {
        for (sum, dy) in d_table.row_mut(labels.data[n] as usize).iter_mut().zip(dy.row(n)) {
            *sum += dy;
        }
    }
    call.write("d_table", d_table);
}
