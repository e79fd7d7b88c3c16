//! Cross-entropy over classes: `shaders/cross_entropy.wgsl`.

use super::case::{Corner, Draw};
use super::reduce;
use crate::cpu::cross_entropy as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Grid, Kernel, Recorder, Tensor};

pub static KERNEL: Kernel = Kernel::new("cross_entropy", &[wgsl!("cross_entropy.wgsl")], &[("loss", twin::loss)]);

/// factor times the sum over images of -log p(label | logits) into `total`, [1, 1, 1, 1]. Gives its gradient by the
/// logits. logits: [N, 1, 1, K]; labels: u32 [1, 1, 1, N], each below K. A factor of 1/N is the mean of a batch, one of
/// -1 the sum of log p.
pub fn loss(r: &mut Recorder, logits: Tensor, labels: Tensor, factor: f32, total: Tensor) -> Tensor {
    let [images, height, width, classes] = logits.shape;
    assert_eq!([height, width], [1, 1], "logits are [N, 1, 1, K]");
    assert_eq!(labels.shape, [1, 1, 1, images]);
    let (gradient, losses) = (r.temp(logits.shape), r.temp(labels.shape));
    let params = [("images", images.into()), ("classes", classes.into()), ("factor", factor.into())];
    let io = [logits, labels, gradient, losses];
    r.dispatch(&KERNEL, "loss", &params, &io, Grid::Invocations(losses.elements()), 12 * logits.count());
    reduce::total(r, losses, total);
    gradient
}

/// A workgroup takes 64 images. Softmaxes are nearly even, sure, of logits whose exponentials no f32 holds, nor those of their
/// differences.
pub const CORNERS: &[Corner] = &[
    Corner::new("one image of one class", |draw| case_of(draw, 1, 1, (1.0, 0.0))),
    Corner::full("workgroups without a lane idle", |draw| case_of(draw, 128, 8, (4.0, 0.0))),
    Corner::new("one lane in the last workgroup", |draw| case_of(draw, 65, 5, (1.0, 0.0))),
    Corner::new("a quadruple not full", |draw| case_of(draw, 130, 3, (1.0, 0.0))),
    Corner::new("logits below all exponentials", |draw| case_of(draw, 7, 10, (2.0, -300.0))),
    Corner::new("logits above all exponentials", |draw| case_of(draw, 6, 10, (2.0, 300.0))),
    Corner::new("logits far apart", |draw| case_of(draw, 5, 17, (200.0, 0.0))),
];

pub fn case(draw: &mut Draw) {
    let images = draw.choose(&[1, 3, 4, 5, 64, 65, 128, 130]);
    let classes = draw.choose(&[1, 2, 3, 4, 5, 10, 17]);
    let spread_and_offset = draw.choose(&[(1.0, 0.0), (4.0, 0.0), (2.0, -300.0), (2.0, 300.0), (200.0, 0.0)]);
    case_of(draw, images, classes, spread_and_offset);
}

fn case_of(draw: &mut Draw, images: u32, classes: u32, (spread, offset): (f64, f64)) {
    let shape = [images, 1, 1, classes];
    let logits = draw.input_by("logits", shape, |draw| offset + spread * draw.normal());
    let labels = draw.integers("labels", images, |draw| draw.range(0, classes - 1));
    let one = draw.input_by("one", [1, 1, 1, 1], |_| 1.0);
    let factor = draw.choose(&[1.0 / images as f32, -1.0, 0.7]);
    let r = &mut draw.recorder;
    let total = r.temp([1, 1, 1, 1]);
    let gradient = loss(r, logits, labels, factor, total);
    draw.gradient(logits, total, one, gradient);
}
