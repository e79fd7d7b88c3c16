//! Twins of `shaders/concat.wgsl`.

use super::Call;

pub fn concat(call: &mut Call) {
    let (a, b) = (call.read("a"), call.read("b"));
    let (channels_a, channels_b) = (a.shape[3], b.shape[3]);
    let mut y = call.zeros("y");
    for row in 0..y.rows() {
        let to = y.row_mut(row);
        to[..channels_a].copy_from_slice(&a.row(row)[..channels_a]);
        to[channels_a..][..channels_b].copy_from_slice(&b.row(row)[..channels_b]);
    }
    call.write("y", y);
}

pub fn split(call: &mut Call) {
    let whole = call.read("whole");
    let mut part = call.zeros("part");
    let channels = part.shape[3];
    for row in 0..part.rows() {
        part.row_mut(row)[..channels].copy_from_slice(&whole.row(row)[call.u("channels_a")..][..channels]);
    }
    call.write("part", part);
}
