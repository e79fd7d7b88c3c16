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
    let dy = call.read("dy");
    let (mut da, mut db) = (call.zeros("da"), call.zeros("db"));
    let (channels_a, channels_b) = (da.shape[3], db.shape[3]);
    for row in 0..dy.rows() {
        let from = dy.row(row);
        da.row_mut(row)[..channels_a].copy_from_slice(&from[..channels_a]);
        db.row_mut(row)[..channels_b].copy_from_slice(&from[channels_a..][..channels_b]);
    }
    call.write("da", da);
    call.write("db", db);
}
