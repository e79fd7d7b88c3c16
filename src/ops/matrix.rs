//! What convolution and linear layer have in common: both are products of matrices, y = scale (x W + bias + addend), whose
//! variants cut rows and channels into the same tiles.

use super::reduce;
use crate::gpu::choices::IN_ORDER;
use crate::gpu::{Candidate, Grid, Recorder, Slice, Tensor, Value};

/// Defines the kernel `$name` in its variants, with the twins in `$twin`, and the ways to run its three entry points, each of
/// which `alone(r, shape, entry)` records, for comparisons in the shapes `TRIALS`. `$channels` gives input and output channels of a
/// shape; `$register` are the `TILE_ROWS` and `WEIGHT_TILE_K` of the tiles in registers for drivers that compute on the CPU, `$rows`
/// counts the rows. `$first` are candidates of the kernel's own, before all others.
macro_rules! products {
    ($name:literal, $twin:path, $channels:expr, $rows:expr, $register:expr $(, $first:expr)*) => {
        use $twin as twin;

        const TWINS: &[(&str, crate::cpu::Twin)] = &[
            ("forward", twin::forward),
            ("backward_data", twin::backward_data),
            ("backward_weight", twin::backward_weight),
        ];
        pub static KERNEL: Kernel = Kernel::variant($name, "register", &[], &matrix::files!($name, "register"), TWINS);
        static SUBGROUP: Kernel = Kernel::variant(
            $name,
            "subgroup",
            &[Need::Subgroups],
            &matrix::files!($name, "subgroup", "lib.subgroup.wgsl"),
            TWINS,
        );
        static TILED: Kernel = Kernel::variant($name, "tiled", &[], &matrix::files!($name, "tiled"), TWINS);
        static COOP8: Kernel = Kernel::variant(
            $name,
            "coop8",
            &[Need::Subgroups, Need::Matrices8],
            &matrix::files!($name, "coop", "lib.coop8.wgsl", "lib.coop.wgsl"),
            TWINS,
        );
        static COOP16: Kernel = Kernel::variant(
            $name,
            "coop16",
            &[Need::Subgroups, Need::Matrices16],
            &matrix::files!($name, "coop", "lib.coop16.wgsl", "lib.coop.wgsl"),
            TWINS,
        );

        /// Whether input and output channels fill half a tile of matrix units at least: else most of what they multiply is
        /// padding.
        fn fills_half_a_tile(kernel: &Kernel, shape: &[u32]) -> bool {
            $channels(shape).iter().all(|channels| *channels >= 2 * kernel.constant("TILE_QUADS", &[]))
        }

        /// Whether there are tiles of 128 rows by 64 channels enough for the largest GPUs.
        fn has_many_tiles(shape: &[u32]) -> bool {
            let channels = $channels(shape).into_iter().max().expect("of input and output");
            $rows(shape).div_ceil(128) * channels.div_ceil(64) >= 512
        }

        static CANDIDATES: &[Candidate] = &[
            $($first,)*
            Candidate::for_cpus(&SUBGROUP, &[("LANES", 8)]),
            Candidate::for_cpus(&SUBGROUP, &[("LANES", 4)]),
            Candidate::for_cpus(&SUBGROUP, &[("LANES", 16)]),
            Candidate::for_cpus(&KERNEL, &[("TILE_ROWS", $register.0), ("WEIGHT_TILE_K", $register.1)]),
            Candidate::new(&KERNEL, &[]),
            Candidate::for_large_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 16), ("PAD", 0)]),
            Candidate::for_large_gpus(&TILED, &[("ROW_LANES", 8), ("CHANNEL_LANES", 8)]),
            Candidate::for_gpus(&TILED, &[("ROW_LANES", 8), ("CHANNEL_LANES", 8), ("ROWS", 4)]),
            Candidate::for_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 8), ("ROWS", 4)]),
            Candidate::for_large_gpus(&TILED, &[("ROW_LANES", 16), ("CHANNEL_LANES", 8)]).usual_for(has_many_tiles),
            Candidate::for_gpus(&COOP8, &[("LANES", 8)])
                .of_class("coop8")
                .when_checked()
                .usual_for(|shape| fills_half_a_tile(&COOP8, shape)),
            Candidate::for_gpus(&COOP8, &[("LANES", 32)])
                .of_class("coop8")
                .when_checked()
                .usual_for(|shape| fills_half_a_tile(&COOP8, shape)),
            Candidate::for_gpus(&COOP16, &[("LANES", 64)])
                .of_class("coop16")
                .when_checked()
                .usual_for(|shape| fills_half_a_tile(&COOP16, shape)),
            Candidate::for_gpus(&COOP16, &[("LANES", 32)])
                .of_class("coop16")
                .when_checked()
                .usual_for(|shape| fills_half_a_tile(&COOP16, shape)),
        ];

        pub static FORWARD: Ways = Ways {
            kernel: $name,
            entry: "forward",
            candidates: CANDIDATES,
            record: |r, shape| alone(r, shape, "forward"),
            trials: TRIALS,
        };
        pub static BACKWARD_DATA: Ways = Ways {
            kernel: $name,
            entry: "backward_data",
            candidates: CANDIDATES,
            record: |r, shape| alone(r, shape, "backward_data"),
            trials: TRIALS,
        };
        pub static BACKWARD_WEIGHT: Ways = Ways {
            kernel: $name,
            entry: "backward_weight",
            candidates: CANDIDATES,
            record: |r, shape| alone(r, shape, "backward_weight"),
            trials: TRIALS,
        };
    };
}
pub(super) use products;

/// The files of one variant of `$name`: what is its own, what the variants share, the libraries of the variant, and the variant.
macro_rules! files {
    ($name:literal, $variant:literal $(, $library:literal)*) => {
        [wgsl!($name ".wgsl"), wgsl!("lib.product.wgsl"), $(wgsl!($library),)* wgsl!("lib.product." $variant ".wgsl")]
    };
}
pub(super) use files;

/// What is added to the output.
#[derive(Clone, Copy, Debug)]
pub enum Addend {
    None,
    /// A tensor as large as the output.
    PerRow(Tensor),
    /// One row for each image, [N, 1, 1, K]: of a convolution only.
    PerImage(Slice),
    /// Another product: of a convolution only.
    Product(Product),
}

/// x W + bias, row by row.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// [N, P, Q, D].
    pub x: Tensor,
    /// [1, 1, D, K], D padded to a multiple of 4.
    pub weight: Tensor,
    /// [1, 1, 1, K].
    pub bias: Tensor,
}

impl Addend {
    /// What the shaders call NONE, PER_IMAGE, PER_ROW and PRODUCT.
    pub(super) fn kind(self) -> u32 {
        match self {
            Addend::None => 0,
            Addend::PerImage(_) => 1,
            Addend::PerRow(_) => 2,
            Addend::Product(_) => 3,
        }
    }

    /// What is bound; where nothing is added, something must be.
    pub(super) fn tensor_or(self, other: Tensor) -> Tensor {
        match self {
            Addend::None => other,
            Addend::PerRow(tensor) => tensor,
            Addend::PerImage(slice) => slice.tensor,
            Addend::Product(product) => product.x,
        }
    }
}

/// What is done to the output while it is in registers: y = scale (x W + bias + addend).
#[derive(Clone, Copy, Debug)]
pub struct Epilogue {
    pub addend: Addend,
    pub scale: f32,
}

impl Epilogue {
    /// Nothing but the bias.
    pub const NONE: Epilogue = Epilogue { addend: Addend::None, scale: 1.0 };

    /// As parameters of a convolution.
    pub(super) fn params(self) -> [(&'static str, Value); 4] {
        let [stride4, first4] = match self.addend {
            Addend::PerImage(slice) => [slice.tensor.channels4(), slice.first / 4],
            Addend::Product(product) => [product.x.channels4(), 0],
            Addend::None | Addend::PerRow(_) => [0, 0],
        };
        [
            ("addend", self.addend.kind().into()),
            ("addend_stride4", stride4.into()),
            ("addend_first4", first4.into()),
            ("scale", self.scale.into()),
        ]
    }
}

/// Tiles to lanes or workgroups, whatever a tile of the candidate is.
pub(super) fn grid(candidate: &Candidate, tiles: u64) -> Grid {
    if candidate.is_register() { Grid::Invocations(tiles) } else { Grid::Workgroups(tiles) }
}

/// A constant that the WGSL of a candidate declares.
pub(super) fn declared(candidate: &Candidate, name: &'static str) -> u32 {
    candidate.kernel.constant(name, candidate.constants)
}

/// A tile of a candidate: rows and quads of channels of one lane or workgroup.
pub(super) fn tile(candidate: &Candidate) -> (u32, u32) {
    (declared(candidate, "TILE_ROWS"), declared(candidate, "TILE_QUADS"))
}

/// A tile of a weight's gradient: quads of x and of dy, likewise.
pub(super) fn weight_tile(candidate: &Candidate) -> (u32, u32) {
    (declared(candidate, "WEIGHT_TILE_C"), declared(candidate, "WEIGHT_TILE_K"))
}

/// The gradient of a weight as a product over rows.
pub(super) struct WeightGradient {
    /// Rows of dy, and their number in memory.
    pub rows: u32,
    /// Matrices of the weight, one for each tap, of `c4` by `k4` quads.
    pub matrices: u32,
    pub c4: u32,
    pub k4: u32,
    /// Quads of x and of dy in a tile.
    pub tile: (u32, u32),
    pub flops: u64,
}

impl WeightGradient {
    /// Lanes that make one split. All candidates of a class count alike, so that all of them split alike: on a GPU a lane makes
    /// 2 x 2 quads, on a driver that computes on the CPU 8 x 1, and on matrix units a workgroup is 128 lanes.
    fn lanes(&self, r: &Recorder, candidate: &Candidate) -> u32 {
        match candidate.class {
            IN_ORDER if r.is_gpu() => self.matrices * self.c4.div_ceil(2) * self.k4.div_ceil(2),
            IN_ORDER => self.matrices * self.c4.div_ceil(8) * self.k4,
            _ => self.tiles() * 128,
        }
    }

    fn tiles(&self) -> u32 {
        self.matrices * self.c4.div_ceil(self.tile.0) * self.k4.div_ceil(self.tile.1)
    }

    /// Records it and the bias's, the sum over rows; sums over splits at [`reduce::sum_waiting`] at the latest. `params` are
    /// those of the kernel for (splits, rows of a split).
    pub fn record(
        &self,
        r: &mut Recorder,
        candidate: &Candidate,
        [x, dy]: [Tensor; 2],
        [dweight, dbias]: [Tensor; 2],
        params: impl FnOnce(u32, u32) -> Vec<(&'static str, Value)>,
    ) {
        let (splits, split_rows) = reduce::splits(r, self.rows, self.lanes(r, candidate));
        let [taps_h, taps_w, channels, k] = dweight.shape;
        let [partial, partial_bias] = match splits {
            1 => [dweight, dbias],
            _ => [r.temp([splits * taps_h, taps_w, channels, k]), r.temp([splits, 1, 1, k])],
        };
        let grid = grid(candidate, splits as u64 * self.tiles() as u64);
        let params = params(splits, split_rows);
        r.dispatch_candidate(candidate, "backward_weight", &params, &[x, dy, partial, partial_bias], grid, self.flops);
        if splits > 1 {
            reduce::sum_later(r, partial, splits, dweight);
            reduce::sum_later(r, partial_bias, splits, dbias);
        }
    }
}
