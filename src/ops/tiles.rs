//! Do the corners reach every edge of every tile? Without a GPU: of what is recorded for a device that runs all candidates.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::case::{Case, Which};
use super::matrix::{declared, tile, weight_tile};
use super::{ALL, Op, attention, conv2d};
use crate::gpu::choices::Meant;
use crate::gpu::kernel::Need;
use crate::gpu::recorder::{Dispatch, Value};
use crate::gpu::{Candidate, Choices, Device, Precision, Ways};

/// The longest turn of the loops of all candidates, in quadruples of channels or in rows of backward_weight. Shorter ones divide it.
fn longest_turn(ways: &Ways, name: &'static str) -> u32 {
    ways.candidates.iter().map(|candidate| declared(candidate, name)).max().expect("a candidate")
}

/// Convolution and linear layer have the same.
fn turn_of_quads() -> u32 {
    longest_turn(&conv2d::FORWARD, "TURN_QUADS")
}

fn turn_of_rows() -> u32 {
    longest_turn(&conv2d::BACKWARD_WEIGHT, "TURN_ROWS")
}

/// What the shader of convolutions calls so.
const PRODUCT: u32 = 3;

/// Extents that one dispatch cuts into tiles.
struct Axis {
    name: &'static str,
    extents: Vec<u32>,
    tile: u32,
    /// Whether there may be several.
    is_cut: bool,
}

impl Axis {
    fn new(name: &'static str, extent: u32, tile: u32) -> Axis {
        Axis { name, extents: vec![extent], tile, is_cut: true }
    }

    /// Of one tile at the most.
    fn uncut(name: &'static str, extent: u32, tile: u32) -> Axis {
        Axis { is_cut: false, ..Axis::new(name, extent, tile) }
    }

    /// The cases of an axis that a corner must reach.
    const EDGES: [&'static str; 3] =
        ["less than a tile", "tiles that are all full", "several tiles, the last one not full"];

    /// Those that there are: a tile of one is never but full.
    fn possible(&self) -> &'static [&'static str] {
        match (self.tile, self.is_cut) {
            (1, _) => &Axis::EDGES[1..2],
            (_, true) => &Axis::EDGES,
            (_, false) => &Axis::EDGES[..2],
        }
    }

    fn edges(&self) -> Vec<&'static str> {
        let edge = |extent: &u32| match (extent / self.tile, extent % self.tile) {
            (0, _) => Axis::EDGES[0],
            (_, 0) => Axis::EDGES[1],
            _ => Axis::EDGES[2],
        };
        self.extents.iter().filter(|extent| **extent > 0).map(edge).collect()
    }
}

/// What a dispatch shows of its edges.
#[derive(Default)]
struct Edges {
    axes: Vec<Axis>,
    /// Further cases that some corner must reach, and whether this one does.
    others: Vec<(&'static str, bool)>,
    /// Tiles of all axes.
    tiles: u32,
}

fn parameter(dispatch: &Dispatch, name: &str) -> u32 {
    match dispatch.params.iter().find(|(param, _)| *param == name) {
        Some((_, Value::U32(value))) => *value,
        _ => panic!("{} has no parameter {name}", dispatch.entry),
    }
}

/// Of a sum over `rows` that backward_weight splits.
fn of_splits(dispatch: &Dispatch, rows: u32, edges: &mut Edges) {
    let [splits, split_rows] = ["splits", "split_rows"].map(|name| parameter(dispatch, name));
    let last = rows - (splits - 1) * split_rows;
    let extents = vec![split_rows, last];
    edges.axes.push(Axis { name: "rows of a split", extents, tile: turn_of_rows(), is_cut: true });
    let several = splits > 1;
    edges
        .others
        .extend([("one split", !several), ("several splits, the last one short", several && last < split_rows)]);
    edges.tiles *= splits;
}

/// Of tiles of 2x2 outputs.
fn of_winograd(candidate: &Candidate, dispatch: &Dispatch) -> Edges {
    let get = |name| parameter(dispatch, name);
    let (c4, k4, blocks) = (get("c4"), get("k4"), get("blocks"));
    let tiles = get("h").div_ceil(2) * get("w").div_ceil(2);
    let (block, quads) = tile(candidate);
    let mut edges = Edges {
        axes: vec![Axis::new("tiles of 2x2", get("n") * tiles, block)],
        others: vec![
            ("images that end within a block", get("n") > 1 && !tiles.is_multiple_of(block)),
            ("rows and columns that fill tiles", (get("h") % 2, get("w") % 2) == (0, 0)),
            ("a row that fills no tile", (get("h") % 2, get("w") % 2) == (1, 0)),
            ("a column that fills no tile", (get("h") % 2, get("w") % 2) == (0, 1)),
            ("an image of one row", get("h") == 1),
            ("the first of several pieces", get("first") == 0 && blocks * block < get("n") * tiles),
            ("a further piece", get("first") > 0),
        ],
        tiles: 0,
    };
    if dispatch.entry == "backward_weight" {
        let (quads_c, quads_k) = weight_tile(candidate);
        edges.axes.extend([Axis::new("channels in", c4, quads_c), Axis::new("channels out", k4, quads_k)]);
        edges.tiles = 16 * c4.div_ceil(quads_c) * k4.div_ceil(quads_k);
    } else {
        edges.axes.extend([
            Axis::new("channels made", k4, quads),
            Axis::new("channels summed", c4, declared(candidate, "TURN_QUADS")),
        ]);
        edges.tiles = blocks * k4.div_ceil(quads);
    }
    edges
}

/// The channels of a product that a convolution adds, none if it adds another thing.
fn of_product(dispatch: &Dispatch) -> Axis {
    let adds = parameter(dispatch, "addend") == PRODUCT;
    let extents = adds.then(|| parameter(dispatch, "addend_stride4")).into_iter().collect();
    Axis { name: "channels of a product, in turns", extents, tile: turn_of_quads(), is_cut: true }
}

fn of_conv2d(candidate: &Candidate, dispatch: &Dispatch) -> Edges {
    if candidate.class == conv2d::WINOGRAD {
        return of_winograd(candidate, dispatch);
    }
    let get = |name| parameter(dispatch, name);
    let (c4, k4, images, outputs) = (get("c4"), get("k4"), get("n"), get("p") * get("q"));
    let (rows, quads) = tile(candidate);
    match dispatch.entry {
        "forward" => Edges {
            axes: [
                Axis::new("rows", images * outputs, rows),
                Axis::new("channels out", k4, quads),
                Axis::new("channels in, in turns", c4, turn_of_quads()),
            ]
            .into_iter()
            .chain(conv2d::takes_products(candidate).then(|| of_product(dispatch)))
            .collect(),
            others: vec![("images that end within a tile", images > 1 && !outputs.is_multiple_of(rows))],
            tiles: (images * outputs).div_ceil(rows) * k4.div_ceil(quads),
        },
        "backward_data" => {
            let (stride, parities) = (get("stride"), parities(dispatch));
            let inputs: Vec<u32> = parities.iter().map(|parity| images * parity).collect();
            Edges {
                others: vec![
                    ("images that end within a tile", images > 1 && !parities[0].is_multiple_of(rows)),
                    ("a parity without inputs", inputs.contains(&0)),
                    ("a parity without taps", stride == 2 && (get("r"), get("s")) == (1, 1)),
                ],
                tiles: inputs.iter().map(|inputs| inputs.div_ceil(rows)).sum::<u32>() * c4.div_ceil(quads),
                axes: vec![
                    Axis {
                        name: if stride == 1 { "inputs" } else { "inputs of a parity" },
                        extents: inputs,
                        tile: rows,
                        is_cut: true,
                    },
                    Axis::new("channels in", c4, quads),
                    Axis::new("channels out, in turns", k4, turn_of_quads()),
                ],
            }
        }
        _ => {
            let (quads_c, quads_k) = weight_tile(candidate);
            let mut edges = Edges {
                axes: vec![Axis::new("channels in", c4, quads_c), Axis::new("channels out", k4, quads_k)],
                others: Vec::new(),
                tiles: get("r") * get("s") * c4.div_ceil(quads_c) * k4.div_ceil(quads_k),
            };
            of_splits(dispatch, images * outputs, &mut edges);
            let within = get("splits") > 1 && !get("split_rows").is_multiple_of(get("q"));
            edges.others.push(("a split that begins within a row", within));
            edges
        }
    }
}

/// Inputs of an image with each parity.
fn parities(dispatch: &Dispatch) -> Vec<u32> {
    let [h, w, stride] = ["h", "w", "stride"].map(|name| parameter(dispatch, name));
    let inputs = |first: u32, extent: u32| (0..extent).filter(|at| at % stride == first).count() as u32;
    (0..stride * stride).map(|parity| inputs(parity / stride, h) * inputs(parity % stride, w)).collect()
}

fn of_linear(candidate: &Candidate, dispatch: &Dispatch) -> Edges {
    let [m, c4, k4] = ["rows", "c4", "k4"].map(|name| parameter(dispatch, name));
    let (rows, quads) = tile(candidate);
    let product = |made: Axis, summed: Axis| Edges {
        tiles: m.div_ceil(rows) * made.extents[0].div_ceil(quads),
        axes: vec![Axis::new("rows", m, rows), made, summed],
        others: Vec::new(),
    };
    match dispatch.entry {
        "forward" => {
            product(Axis::new("channels out", k4, quads), Axis::new("channels in, in turns", c4, turn_of_quads()))
        }
        "backward_data" => {
            product(Axis::new("channels in", c4, quads), Axis::new("channels out, in turns", k4, turn_of_quads()))
        }
        _ => {
            let (quads_c, quads_k) = weight_tile(candidate);
            let mut edges = Edges {
                axes: vec![Axis::new("channels in", c4, quads_c), Axis::new("channels out", k4, quads_k)],
                others: Vec::new(),
                tiles: c4.div_ceil(quads_c) * k4.div_ceil(quads_k),
            };
            of_splits(dispatch, m, &mut edges);
            edges
        }
    }
}

fn of_attention(candidate: &Candidate, dispatch: &Dispatch) -> Edges {
    let [places, tokens, channels4] = ["places", "tokens", "channels4"].map(|name| parameter(dispatch, name));
    let (own, quads) = attention::tile(candidate);
    let others = declared(candidate, "OTHER_TOKENS");
    let mut axes = vec![Axis::new("own tokens", tokens, own), Axis::new("other tokens", tokens, others)];
    match candidate.is_limited() {
        true => axes.push(Axis::uncut("channels", channels4, quads)),
        false => axes.extend([
            Axis::new("channels", channels4, quads),
            Axis::new("channels, in turns", channels4, longest_turn(&attention::FORWARD, "TURN_QUADS")),
        ]),
    }
    Edges {
        axes,
        others: vec![("several images and heads", parameter(dispatch, "heads") > 1 && places > 2)],
        tiles: places,
    }
}

/// Whether the grid has two rows of workgroups, and one that has nothing to do.
fn has_surplus(candidate: &Candidate, dispatch: &Dispatch, tiles: u32) -> bool {
    // In the variants `register` each lane has a tile.
    let lanes = candidate.kernel.entry_point(dispatch.entry).workgroup_size[0];
    let groups = if candidate.is_register() { tiles.div_ceil(lanes) } else { tiles };
    assert!(dispatch.grid[0] * dispatch.grid[1] >= groups, "{}: a workgroup is missing", candidate.label());
    dispatch.grid[1] == 2 && dispatch.grid[0] * 2 > groups
}

/// By entry point and what some corner must reach: the corners that do.
type Reached = BTreeMap<(&'static str, String), Vec<&'static str>>;

fn reached(op: &Op, candidate: &Candidate, choices: &Arc<Choices>, of: fn(&Candidate, &Dispatch) -> Edges) -> Reached {
    let mut reached = Reached::new();
    for (index, corner) in op.corners.iter().enumerate() {
        let case = Case::new(op, Which::Corner(index), choices);
        let is_way = |dispatch: &&Dispatch| op.ways.iter().any(|ways| ways.entry == dispatch.entry);
        let own = case.recording.dispatches.iter().filter(|dispatch| dispatch.kernel.name == op.kernel.name);
        // One that can't run a shape leaves it to another.
        let ran = |dispatch: &&Dispatch| {
            let is_own =
                dispatch.kernel.label() == candidate.kernel.label() && dispatch.constants == candidate.constants;
            is_own || !candidate.is_limited()
        };
        for dispatch in own.filter(is_way).filter(ran) {
            assert_eq!((dispatch.kernel.label(), dispatch.constants), (candidate.kernel.label(), candidate.constants));
            let edges = of(candidate, dispatch);
            let mut note = |what: String, is_reached: bool| {
                let corners = reached.entry((dispatch.entry, what)).or_default();
                corners.extend(is_reached.then_some(corner.name));
            };
            for axis in &edges.axes {
                axis.possible().iter().for_each(|edge| {
                    note(format!("{}, tiles of {}: {edge}", axis.name, axis.tile), axis.edges().contains(edge))
                });
            }
            edges.others.iter().for_each(|(what, is_reached)| note(what.to_string(), *is_reached));
            note("a surplus workgroup".into(), has_surplus(candidate, dispatch, edges.tiles));
        }
    }
    reached
}

/// What no corner reaches.
fn missing(name: &str, of: fn(&Candidate, &Dispatch) -> Edges) -> Vec<String> {
    let op = ALL.iter().find(|op| op.kernel.name == name).expect("a kernel");
    let mut missing = Vec::new();
    for (index, candidate) in op.ways[0].candidates.iter().enumerate() {
        // Of a wider subgroup a GPU runs the narrower variants too; a driver that computes on the CPU does not.
        let gpu = candidate.meant != Meant::ForCpus;
        let lanes = candidate.constants.iter().find(|(name, _)| *name == "LANES").map_or(8, |(_, lanes)| *lanes);
        let needs = vec![Need::Subgroups, Need::Matrices8, Need::Matrices16];
        let device = Device { gpu, subgroup: if gpu { 64 } else { lanes }, needs, ..Device::default() };
        let choices = Arc::new(Choices::forced(&device, Precision::F16, index));
        for ((entry, what), corners) in reached(op, candidate, &choices, of) {
            if corners.is_empty() {
                missing.push(format!("{name}.{entry} {}, {what}", candidate.label()));
            }
        }
    }
    missing
}

#[test]
fn the_corners_reach_every_edge_of_every_tile() {
    let missing =
        [missing("conv2d", of_conv2d), missing("linear", of_linear), missing("attention", of_attention)].concat();
    assert!(missing.is_empty(), "no corner reaches\n{}", missing.join("\n"));
}

#[test]
fn corners_have_names_of_their_own_that_fit_a_line() {
    for op in ALL {
        assert!(op.corners.len() > 1, "{}: grids of one row and of two", op.kernel.name);
        for (index, corner) in op.corners.iter().enumerate() {
            let name = corner.name;
            assert!((1..=super::Corner::WIDTH).contains(&name.len()), "{}: the length of {name}", op.kernel.name);
            let other = op.corners[..index].iter().find(|other| other.name == name);
            assert!(other.is_none(), "{}: two corners {name}", op.kernel.name);
        }
    }
}
