//! Convolutions of 3x3, stride 1 and padding 1 with 16 multiplications where 36 go directly:
//! `shaders/conv2d.winograd.wgsl`.

use crate::cpu::conv2d::winograd as twin;
use crate::gpu::kernel::wgsl;
use crate::gpu::{Candidate, Grid, Kernel, Need, Recorder, Tensor, Value};
use crate::ops::matrix::{Epilogue, declared, tile, weight_tile};

pub(super) static KERNEL: Kernel = Kernel::variant(
    "conv2d",
    "winograd",
    &[Need::Subgroups],
    &[wgsl!("conv2d.winograd.wgsl"), wgsl!("lib.subgroup.wgsl")],
    &[
        ("transform_weight", twin::transform_weight),
        ("transform_flipped", twin::transform_flipped),
        ("transform_input", twin::transform_input),
        ("forward", twin::forward),
        ("backward_data", twin::backward_data),
        ("transform_gradient", twin::transform_gradient),
        ("backward_weight", twin::backward_weight),
        ("collect_weight", twin::collect_weight),
    ],
);

/// Bytes of transformed tiles that a dispatch makes for the next, at the most, but for one block: what stays in the caches is read
/// from there.
const SCRATCH: u64 = 7 << 18;

const FREQUENCIES: u32 = 16;

pub(super) fn is_way(candidate: &Candidate) -> bool {
    std::ptr::eq(candidate.kernel, &KERNEL)
}

/// Blocks of tiles that go together.
#[derive(Clone, Copy)]
struct Piece {
    first: u32,
    blocks: u32,
}

/// One convolution in this way: how large images and channels are, in the words of the shader.
struct Extent<'a> {
    candidate: &'a Candidate,
    images: [u32; 3],
    c4: u32,
    k4: u32,
}

impl Extent<'_> {
    fn tiles(&self) -> u32 {
        let [n, h, w] = self.images;
        n * h.div_ceil(2) * w.div_ceil(2)
    }

    fn block(&self) -> u32 {
        declared(self.candidate, "TILE_ROWS")
    }

    /// All blocks, as few at a time as the scratch holds of `quads` transformed quads of channels.
    fn pieces(&self, quads: u32) -> Vec<Piece> {
        let blocks = self.tiles().div_ceil(self.block());
        let bytes = 16 * (FREQUENCIES * self.block()) as u64 * quads as u64;
        let count = blocks.div_ceil((SCRATCH / bytes).max(1) as u32);
        let most = blocks.div_ceil(count);
        let starts = (0..blocks).step_by(most as usize);
        starts.map(|first| Piece { first, blocks: most.min(blocks - first) }).collect()
    }

    fn params(&self, piece: Piece, epilogue: Epilogue) -> Vec<(&'static str, Value)> {
        let [n, h, w] = self.images;
        let own = [
            ("n", n.into()),
            ("h", h.into()),
            ("w", w.into()),
            ("c4", self.c4.into()),
            ("k4", self.k4.into()),
            ("first", piece.first.into()),
            ("blocks", piece.blocks.into()),
        ];
        own.into_iter().chain(epilogue.params()).collect()
    }

    fn record(&self, r: &mut Recorder, entry: &'static str, piece: Piece, io: &[Tensor], grid: Grid, flops: u64) {
        let params = self.params(piece, Epilogue::NONE);
        r.dispatch_candidate(self.candidate, entry, &params, io, grid, flops);
    }

    /// The weight's frequencies, by `entry`.
    fn weights(&self, r: &mut Recorder, entry: &'static str, weight: Tensor) -> Tensor {
        let u = r.temp([FREQUENCIES, self.c4, self.k4, 16]);
        let grid = Grid::Invocations(self.c4 as u64 * self.k4 as u64);
        self.record(
            r,
            entry,
            Piece { first: 0, blocks: 0 },
            &[weight, u],
            grid,
            28 * 2 * 16 * self.c4 as u64 * self.k4 as u64,
        );
        u
    }

    /// The frequencies of the tiles of a piece of x or dy, by `entry`.
    fn tiles_of(&self, r: &mut Recorder, entry: &'static str, piece: Piece, x: Tensor) -> Tensor {
        let v = r.temp([piece.blocks, FREQUENCIES, x.channels4(), 4 * self.block()]);
        let of_x = Extent { c4: x.channels4(), k4: x.channels4(), ..*self };
        let count = (piece.blocks * self.block()) as u64 * x.channels4() as u64;
        of_x.record(r, entry, piece, &[x, v], Grid::Invocations(count), 32 * 4 * count);
        v
    }

    /// Multiplies and adds of a product of all frequencies of a piece.
    fn product_flops(&self, piece: Piece) -> u64 {
        2 * 16 * (FREQUENCIES * piece.blocks * self.block()) as u64 * self.c4 as u64 * self.k4 as u64
    }

    fn product_grid(&self, piece: Piece) -> Grid {
        Grid::Workgroups(piece.blocks as u64 * self.k4.div_ceil(tile(self.candidate).1) as u64)
    }
}

fn images(x: Tensor) -> [u32; 3] {
    [x.n(), x.height(), x.width()]
}

/// y = scale (conv(x, weight) + bias + addend).
pub(super) fn forward(r: &mut Recorder, candidate: &Candidate, [x, weight, bias, y]: [Tensor; 4], epilogue: Epilogue) {
    let extent = Extent { candidate, images: images(x), c4: x.channels4(), k4: y.channels4() };
    let u = extent.weights(r, "transform_weight", weight);
    for piece in extent.pieces(extent.c4) {
        let v = extent.tiles_of(r, "transform_input", piece, x);
        let params = extent.params(piece, epilogue);
        let (grid, flops) = (extent.product_grid(piece), extent.product_flops(piece));
        r.dispatch_candidate(
            candidate,
            "forward",
            &params,
            &[v, u, bias, epilogue.addend.tensor_or(x), y],
            grid,
            flops,
        );
    }
}

/// dx, the convolution of dy with the weight turned by half a turn.
pub(super) fn backward_data(r: &mut Recorder, candidate: &Candidate, [dy, weight, dx]: [Tensor; 3]) {
    let extent = Extent { candidate, images: images(dy), c4: dy.channels4(), k4: dx.channels4() };
    let u = extent.weights(r, "transform_flipped", weight);
    for piece in extent.pieces(extent.c4) {
        let v = extent.tiles_of(r, "transform_input", piece, dy);
        let (grid, flops) = (extent.product_grid(piece), extent.product_flops(piece));
        extent.record(r, "backward_data", piece, &[v, u, dx], grid, flops);
    }
}

/// dW: the sums over tiles go from piece to piece.
pub(super) fn backward_weight(r: &mut Recorder, candidate: &Candidate, [x, dy, dweight]: [Tensor; 3]) {
    let extent = Extent { candidate, images: images(x), c4: x.channels4(), k4: dy.channels4() };
    let (quads_c, quads_k) = weight_tile(candidate);
    let groups = FREQUENCIES * extent.c4.div_ceil(quads_c) * extent.k4.div_ceil(quads_k);
    let mut before = None;
    for piece in extent.pieces(extent.c4 + extent.k4) {
        let v = extent.tiles_of(r, "transform_input", piece, x);
        let d = extent.tiles_of(r, "transform_gradient", piece, dy);
        let sums = r.temp([FREQUENCIES, extent.c4, extent.k4, 16]);
        // Where there is nothing before, something must be bound in its place.
        let io = [v, d, before.unwrap_or(v), sums];
        let grid = Grid::Workgroups(groups as u64);
        extent.record(r, "backward_weight", piece, &io, grid, extent.product_flops(piece));
        before = Some(sums);
    }
    let sums = before.expect("there is a tile");
    let rows = 4 * extent.c4 as u64 * extent.k4 as u64;
    let all = Piece { first: 0, blocks: 0 };
    extent.record(r, "collect_weight", all, &[sums, dweight], Grid::Invocations(rows), 35 * 4 * rows);
}
