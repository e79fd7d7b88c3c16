//! What the driver's compiler made of kernels: of those that a step runs, or of every way to run every kernel.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::Result;
use crate::gpu::compiler::{Compiler, SCRATCH, SPILLS, Shader, Statistic};
use crate::gpu::recorder::Dispatch;
use crate::gpu::{Candidate, Context, Precision, Recordings};
use crate::ops::{self, Op};

/// One pipeline, with the counts that people compare; none where the driver doesn't give one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compiled {
    /// `conv2d.tiled.forward`.
    pub entry: String,
    /// `LANES=8 SHARE=3`.
    pub constants: String,
    pub precision: Precision,
    /// Whether it is considered on this device without being told to.
    pub suits: bool,
    /// A lane's, in the driver's own unit.
    pub registers: Option<f64>,
    /// Registers, or instructions that move them to memory: above 0 is a spill.
    pub spills: Option<f64>,
    /// Bytes of private memory.
    pub scratch: Option<f64>,
    /// Bytes of workgroup memory.
    pub shared: Option<f64>,
    /// Subgroups, or lanes, that one unit holds at once.
    pub occupancy: Option<f64>,
    pub instructions: Option<f64>,
    /// The driver's estimate of a subgroup's time.
    pub cycles: Option<f64>,
    /// All that it counts, under its own names.
    pub statistics: BTreeMap<String, f64>,
}

/// What drivers call the counts: AMD (RADV), NVIDIA (NVK), Apple (Honeykrisp), Qualcomm (Turnip), Intel (ANV).
const REGISTERS: [&str; 5] = ["VGPRs", "Number of GPRs", "Registers used", "GPRs", "Register count"];
const SHARED: [&str; 2] = ["LDS size", "Workgroup Memory Size"];
const OCCUPANCY: [&str; 4] = ["Subgroups per SIMD", "Max warps/SM", "Threads", "Max Waves Per Core"];
const INSTRUCTIONS: [&str; 3] = ["Instructions", "Instruction count", "Instruction Count"];
const CYCLES: [&str; 4] = ["Latency", "Static cycle count", "Cycles", "Cycle count"];

impl Compiled {
    fn of(shader: &Shader, suits: bool, found: Vec<Statistic>) -> Compiled {
        let statistics: BTreeMap<String, f64> = found.into_iter().map(|own| (own.name, own.value)).collect();
        let first = |names: &[&str]| names.iter().find_map(|name| statistics.get(*name)).copied();
        let most = |names: &[&str]| names.iter().filter_map(|name| statistics.get(*name)).copied().reduce(f64::max);
        let constants: Vec<String> = shader.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Compiled {
            entry: format!("{}.{}", shader.kernel.label(), shader.entry),
            constants: constants.join(" "),
            precision: shader.precision,
            suits,
            registers: first(&REGISTERS),
            spills: most(&SPILLS),
            scratch: first(&SCRATCH),
            shared: first(&SHARED),
            occupancy: first(&OCCUPANCY),
            instructions: first(&INSTRUCTIONS),
            cycles: first(&CYCLES),
            statistics,
        }
    }

    /// Whether what belongs in registers is in memory: spilled, or an array that the compiler keeps there.
    pub fn spills(&self) -> bool {
        [self.spills, self.scratch].into_iter().flatten().any(|count| count > 0.0)
    }
}

/// What is made of the shaders that `recordings` dispatch, each once, in their order.
///
/// # Errors
/// [`crate::error::Error::Device`] if the driver doesn't tell, or can't compile one.
pub fn of_recordings(context: &Context, recordings: &Recordings) -> Result<Vec<Compiled>> {
    let shaders = recordings.dispatches().map(|(recording, dispatch)| {
        let Dispatch { kernel, entry, constants, .. } = *dispatch;
        (Shader { kernel, entry, constants, precision: recording.precision }, true)
    });
    compile(context, shaders.collect())
}

/// What is made of every way to run every kernel that the device of `context` could run.
///
/// # Errors
/// As [`of_recordings`].
pub fn of_all(context: &Context) -> Result<Vec<Compiled>> {
    let halves = context.has_halves();
    let precisions = if halves { &[Precision::F32, Precision::F16][..] } else { &[Precision::F32] };
    let of = |(op, precision): (&'static Op, Precision)| {
        let chosen = |entry: &str| op.ways.iter().any(|ways| ways.entry == entry);
        let plain =
            op.kernel.entry_points().iter().map(|entry| entry.name.as_str()).filter(move |entry| !chosen(entry));
        let plain = plain.map(move |entry| (Shader { kernel: op.kernel, entry, constants: &[], precision }, true));
        let all = op.ways.iter().flat_map(|ways| ways.candidates.iter().map(|candidate| (candidate, ways.entry)));
        let runs = all.filter(move |(candidate, _)| candidate.runs_on(context.kind(), precision));
        let runs = runs.map(move |(candidate, entry)| {
            let Candidate { kernel, constants, .. } = *candidate;
            (Shader { kernel, entry, constants, precision }, candidate.suits(context.kind(), precision))
        });
        let differs = move |(shader, _): &(Shader, bool)| precision == Precision::F32 || shader.kernel.knows_halves();
        plain.chain(runs).filter(differs)
    };
    let all = precisions.iter().flat_map(|precision| ops::ALL.iter().map(move |op| (op, *precision)));
    let shaders = all.flat_map(of).collect();
    compile(context, shaders)
}

/// Each once, with whether it suits the device.
fn compile(context: &Context, shaders: Vec<(Shader, bool)>) -> Result<Vec<Compiled>> {
    let compiler = Compiler::new(context)?;
    let mut seen = BTreeSet::new();
    let mut compiled = Vec::new();
    for (shader, suits) in shaders {
        let key = (shader.kernel.label(), shader.entry, shader.constants, shader.precision);
        if seen.insert(key) {
            compiled.push(Compiled::of(&shader, suits, compiler.compile(&shader)?));
        }
    }
    Ok(compiled)
}
