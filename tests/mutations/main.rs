//! Do the cases of the kernels notice a wrong kernel? Each shader is changed in one place (a sign, a bound, a stride,
//! a dropped term), and some case must be out of tolerance.
//!
//! The mutants of a function run on the dispatches of the entry points that reach it, taken out of the recordings that
//! `verify` and `tests/ops.rs` draw, with the twins' values as inputs: many cases in one plan, because compiling is what
//! takes time. Mutants of lib.wgsl run in the kernels that call them.
//!
//! By default a seeded sample of every function runs; `DIFFUSE_MUTATIONS=all` runs every mutant,
//! `DIFFUSE_MUTATIONS=NAME` those whose `kernel.function` holds NAME.

mod allowed;
mod source;

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;

use diffuse::gpu::kernel::{EntryPoint, LIBRARY};
use diffuse::gpu::recorder::{Place, TensorInfo};
use diffuse::gpu::{Context, CpuState, Kernel, Recording, Tensor};
use diffuse::ops::case::{Case, Values};
use diffuse::ops::{self, Op, Which};
use diffuse::random::Random;
use diffuse::verify;

use source::{Mutant, Source};

/// As many cases as `tests/ops.rs` draws.
const CASES: u64 = 24;
/// These catch nearly everything: a plan of their own.
const FIRST: u64 = 6;
/// Mutants of each function in the sample.
const SAMPLE: usize = 3;
const SEED: u64 = 1;

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// It isn't WGSL any more, or naga's validation refuses it.
    Invalid,
    Caught,
    /// It changes no result; see `allowed.rs`.
    Allowed,
    Survived,
}

/// The dispatches of one entry point in some cases, all in one recording.
type Trials = HashMap<(&'static str, &'static str, usize), Option<Case>>;

/// Cases that share a plan. One plan has one step, so that an entry point that reads the step gets a plan for each case.
fn batches(entry: &EntryPoint) -> Vec<std::ops::Range<u64>> {
    match entry.step {
        None => vec![0..FIRST, FIRST..CASES],
        Some(_) => (0..CASES).map(|seed| seed..seed + 1).collect(),
    }
}

/// Takes the dispatches of `entry` out of the cases `seeds`.
fn trial(op: &Op, entry: &str, seeds: std::ops::Range<u64>) -> Option<Case> {
    let (mut recording, mut inputs, mut step) = (Recording::default(), Vec::new(), None);
    recording.scopes.push(String::new());
    for seed in seeds {
        let case = Case::new(op, Which::Random(seed), &Default::default());
        let mut state = case.state();
        // Without dispatches this fills the named buffers that have contents of their own.
        Recording { dispatches: Vec::new(), ..case.recording.clone() }.run_cpu(&mut state, &case.step);
        for dispatch in &case.recording.dispatches {
            let single = Recording { dispatches: vec![dispatch.clone()], ..case.recording.clone() };
            if (dispatch.kernel.name, dispatch.entry) == (op.kernel.name, entry) {
                step.get_or_insert(case.step.clone());
                append(&mut recording, &mut inputs, &single, &state);
            }
            single.run_cpu(&mut state, &case.step);
        }
    }
    Some(Case { recording, inputs, gradients: Vec::new(), step: step? })
}

/// Adds the one dispatch of `single` to `recording`, on temporaries of its own that hold what `state` has.
fn append(recording: &mut Recording, inputs: &mut Vec<(Tensor, Values)>, single: &Recording, state: &CpuState) {
    let mut dispatch = single.dispatches[0].clone();
    dispatch.scope = 0;
    for (id, binding) in dispatch.io.iter_mut().zip(&dispatch.kernel.entry_point(dispatch.entry).storage) {
        let old = single.tensor(*id);
        recording.tensors.push(TensorInfo { place: Place::Temporary, ..single.tensors[*id as usize] });
        *id = recording.tensors.len() as u32 - 1;
        if binding.access.reads() {
            let values = state.read(single, old);
            let values = match binding.integer {
                true => Values::U32(values.iter().map(|value| *value as u32).collect()),
                false => Values::F32(values.iter().map(|value| *value as f32).collect()),
            };
            inputs.push((recording.tensor(*id), values));
        }
    }
    recording.dispatches.push(dispatch);
}

/// A kernel's text with `mutant` in it, which may be in the library; every loop bounded.
fn mutated(kernel: &Kernel, library: &Source, mutant: &Mutant, in_library: bool) -> String {
    let mut text = if in_library { LIBRARY.to_string() } else { kernel.text() };
    text.replace_range(mutant.range.clone(), &mutant.replacement);
    if in_library {
        // The library stands before the kernel unchanged; the kernel calls changed copies of its functions.
        let names = library.names();
        let first = text.find("\nfn ").expect("the library has functions");
        let copies = Source::renamed(&text[first..], &names, "changed_");
        text = Source::renamed(&kernel.text(), &names, "changed_") + &copies;
    }
    source::bounded(&text)
}

/// Whether the recorder would still take the calls that `original` takes.
fn same_bindings(original: &EntryPoint, mutant: &EntryPoint) -> bool {
    let names = |entry: &EntryPoint| {
        let storage: Vec<String> = entry.storage.iter().map(|binding| binding.name.clone()).collect();
        (storage, entry.params.is_some())
    };
    names(original) == names(mutant)
}

fn is_valid(source: &str) -> bool {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let Ok(module) = naga::front::wgsl::parse_str(source) else { return false };
    Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module).is_ok()
}

struct Harness {
    context: Context,
    library: Source,
    sources: Vec<(&'static Op, Source)>,
    trials: Trials,
}

fn open() -> Context {
    // Bounds checks stay on: mutants read and write anywhere.
    Context::checked(None).expect("GPU tests need an adapter")
}

fn sources(library: &Source) -> Vec<(&'static Op, Source)> {
    ops::ALL.iter().map(|op| (op, Source::new(&op.kernel.text()).with_uniforms_of(library))).collect()
}

/// Every mutant with the name of its file.
fn all_mutants(sources: &[(&'static Op, Source)], library: &Source) -> Vec<(&'static str, Mutant)> {
    let all = |name: &'static str, source: &Source| source.mutants().into_iter().map(move |mutant| (name, mutant));
    let kernels = sources.iter().flat_map(|(op, source)| all(op.kernel.name, source));
    kernels.chain(all("lib", library)).collect()
}

impl Harness {
    fn new() -> Harness {
        let library = Source::new(LIBRARY);
        Harness { context: open(), sources: sources(&library), library, trials: Trials::new() }
    }

    fn fate(&mut self, file: &str, mutant: &Mutant) -> Fate {
        let mut fate = Fate::Invalid;
        for index in 0..self.sources.len() {
            let (op, source) = &self.sources[index];
            let (op, in_library) = (*op, file == "lib");
            let reached = |entry: &str| source.reaches(entry, &self.library).contains(&mutant.function);
            let entries: Vec<&'static str> =
                op.kernel.twins.iter().map(|(entry, _)| *entry).filter(|entry| reached(entry)).collect();
            if entries.is_empty() || (!in_library && file != op.kernel.name) {
                continue;
            }
            let text = mutated(op.kernel, &self.library, mutant, in_library);
            if !is_valid(&format!("{LIBRARY}\n{text}")) {
                continue;
            }
            let kernel: &'static Kernel =
                Box::leak(Box::new(Kernel::new(op.kernel.name, Box::leak(Box::new([&*text.leak()])), op.kernel.twins)));
            fate = Fate::Survived;
            if entries.iter().any(|entry| self.catches(op, kernel, entry)) {
                return Fate::Caught;
            }
        }
        fate
    }

    /// Whether some case of `entry` tells `kernel` from the twin.
    fn catches(&mut self, op: &Op, kernel: &'static Kernel, entry: &'static str) -> bool {
        if !same_bindings(op.kernel.entry_point(entry), kernel.entry_point(entry)) {
            return true;
        }
        for (index, seeds) in batches(op.kernel.entry_point(entry)).into_iter().enumerate() {
            let name = op.kernel.name;
            let trial = self.trials.entry((name, entry, index)).or_insert_with(|| trial(op, entry, seeds));
            let Some(case) = trial else { continue };
            case.recording.dispatches.iter_mut().for_each(|dispatch| dispatch.kernel = kernel);
            let mut report = verify::Report::default();
            let context = &self.context;
            let run = || verify::compare(context, case, "", &mut report);
            let ran = std::panic::catch_unwind(AssertUnwindSafe(run));
            if !matches!(ran, Ok(Ok(()))) {
                println!("{name}.{entry}: a device was lost to a mutant");
                self.context = open();
                return true;
            }
            if !report.agrees() {
                return true;
            }
        }
        false
    }
}

/// `SAMPLE` mutants of each function, or those that `wanted` names.
fn chosen(all: Vec<(&'static str, Mutant)>, wanted: Option<&str>) -> Vec<(&'static str, Mutant)> {
    if let Some(wanted) = wanted {
        let named = |file: &str, mutant: &Mutant| format!("{file}.{}", mutant.function).contains(wanted);
        return all.into_iter().filter(|(file, mutant)| wanted == "all" || named(file, mutant)).collect();
    }
    let mut functions: BTreeMap<(&str, String), Vec<Mutant>> = BTreeMap::new();
    for (file, mutant) in all {
        functions.entry((file, mutant.function.clone())).or_default().push(mutant);
    }
    let mut random = Random::new(SEED);
    let mut sample = Vec::new();
    for ((file, _), mut mutants) in functions {
        for _ in 0..SAMPLE.min(mutants.len()) {
            let index = random.bits() as usize % mutants.len();
            sample.push((file, mutants.swap_remove(index)));
        }
    }
    sample
}

#[test]
fn no_allowance_is_stale() {
    let library = Source::new(LIBRARY);
    let stale = allowed::stale(&all_mutants(&sources(&library), &library));
    assert!(stale.is_empty(), "no mutant matches\n{}", stale.join("\n"));
}

#[test]
fn the_cases_catch_wrong_kernels() {
    let wanted = std::env::var("DIFFUSE_MUTATIONS").ok();
    let mut harness = Harness::new();
    let mutants = chosen(all_mutants(&harness.sources, &harness.library), wanted.as_deref());
    assert!(!mutants.is_empty(), "DIFFUSE_MUTATIONS names no function");
    let (mut counts, mut survivors) = (BTreeMap::<_, usize>::new(), Vec::new());
    for (file, mutant) in mutants {
        let fate = if allowed::reason(file, &mutant).is_some() { Fate::Allowed } else { harness.fate(file, &mutant) };
        *counts.entry(fate).or_default() += 1;
        if fate == Fate::Survived {
            let Mutant { function, number, line, changed, .. } = mutant;
            survivors.push(format!("shaders/{file}.wgsl:{number} in {function}\n  - {line}\n  + {changed}"));
            println!("{}", survivors[survivors.len() - 1]);
        }
    }
    println!("seed {SEED}: {counts:?}");
    assert!(survivors.is_empty(), "no case notices {} mutants\n{}", survivors.len(), survivors.join("\n"));
}
