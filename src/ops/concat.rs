//! Concatenation over channels: `shaders/concat.wgsl`.

use super::case::{Corner, Draw};
use crate::cpu::concat as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel =
    Kernel::new("concat", &[wgsl!("concat.wgsl")], &[("concat", twin::concat), ("split", twin::split)]);

/// One dispatch over `parts` and what they are joined.
fn record(r: &mut Recorder, entry: &'static str, [a, b]: [Tensor; 2], whole: Tensor, io: &[Tensor], quads: u64) {
    assert!(a.shape[..3] == whole.shape[..3] && b.shape[..3] == whole.shape[..3]);
    assert_eq!(a.channels() + b.channels(), whole.channels());
    let params = [
        ("rows", whole.rows().into()),
        ("channels_a", a.channels().into()),
        ("channels_b", b.channels().into()),
        ("a4", a.channels4().into()),
        ("b4", b.channels4().into()),
        ("whole4", whole.channels4().into()),
    ];
    r.dispatch(&KERNEL, entry, &params, io, Grid::Invocations(quads), 0);
}

/// [N, H, W, A] and [N, H, W, B] to [N, H, W, A + B].
pub fn concat(r: &mut Recorder, a: Tensor, b: Tensor) -> Tensor {
    let [n, h, w, channels] = a.shape;
    let y = r.temp([n, h, w, channels + b.channels()]);
    record(r, "concat", [a, b], y, &[a, b, y], y.elements() / 4);
    y
}

/// The gradients of the two parts, the first of `channels` channels.
pub fn concat_backward(r: &mut Recorder, dy: Tensor, channels: u32) -> [Tensor; 2] {
    let [n, h, w, all] = dy.shape;
    let parts = [channels, all - channels].map(|channels| r.temp([n, h, w, channels]));
    let [da, db] = parts;
    record(r, "split", parts, dy, &[dy, da, db], (da.elements() + db.elements()) / 4);
    parts
}

/// A workgroup takes 64 quadruples.
pub const CORNERS: &[Corner] = &[
    Corner::new("one channel each", |draw| case_of(draw, [1, 1, 1], [1, 1])),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, [3, 8, 8], [8, 8])),
    Corner::new("parts within quadruples", |draw| case_of(draw, [3, 7, 5], [6, 7])),
    Corner::new("a part in one quadruple", |draw| case_of(draw, [1, 5, 7], [1, 2])),
    Corner::new("a part on whole quadruples", |draw| case_of(draw, [2, 5, 7], [8, 3])),
];

pub fn case(draw: &mut Draw) {
    let rows = [draw.range(1, 3), draw.range(1, 6), draw.range(1, 6)];
    let channels = [draw.choose(&[1, 3, 4, 6, 8, 10, 12]), draw.range(1, 17)];
    case_of(draw, rows, channels);
}

fn case_of(draw: &mut Draw, [n, h, w]: [u32; 3], [channels_a, channels_b]: [u32; 2]) {
    let a = draw.input("a", [n, h, w, channels_a]);
    let b = draw.input("b", [n, h, w, channels_b]);
    let dy = draw.input("dy", [n, h, w, channels_a + channels_b]);
    let y = concat(&mut draw.recorder, a, b);
    let [da, db] = concat_backward(&mut draw.recorder, dy, channels_a);
    draw.gradient(a, y, dy, da);
    draw.gradient(b, y, dy, db);
}
