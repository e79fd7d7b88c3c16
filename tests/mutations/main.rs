//! Do the cases of the kernels notice a wrong kernel? Each shader file is changed in one place (a sign, a bound, a stride,
//! a dropped term), and some case must be out of tolerance in some way to run the file.
//!
//! The mutants of a function run on the dispatches of the entry points that reach it, taken out of the recordings that
//! `verify` and `tests/ops.rs` draw, corners first, with the twins' values as inputs: many cases in one plan, because
//! compiling is what takes time. The ways to run a file (variant, constants, precision) take turns at being the first that a mutant meets.
//!
//! By default a seeded sample of every function runs, but of the files in [`SLOW`]. `DIFFUSE_MUTATIONS=all` runs every mutant, `DIFFUSE_MUTATIONS=A,B`
//! those whose `file.function` begins with A or B (`lib.product.subgroup`, `attention.tiled.forward`), of each function as many as
//! `DIFFUSE_MUTATIONS_SAMPLE` says, if it does. `DIFFUSE_MUTATIONS_WAYS=A,B` lets only ways run whose label begins so
//! (`conv2d.tiled`, `conv2d.subgroup LANES=8`).

mod allowed;
mod harness;
mod report;
mod setting;
mod source;
mod trial;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use diffuse::gpu::Device;
use diffuse::random::Random;

use harness::{Harness, compile_fast, sources};
use report::Report;
use source::Mutant;

/// Mutants of each function in the sample.
const SAMPLE: usize = 1;
const SEED: u64 = 1;
/// What the compiler of Mesa 22.3 takes minutes for (one mutant of each function of `attention.subgroup` and `attention.wide`: above 400 s
/// of CPU time there, 22 s with Mesa 26.1). These run where `DIFFUSE_MUTATIONS` names them, as `.ci/run` does on the newer one.
const SLOW: [&str; 4] = ["attention", "attention.subgroup", "attention.tiled", "attention.wide"];

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// The way that caught it: an index of the harness's settings.
    Caught(usize),
    /// It changes no result; see `allowed.rs`.
    Allowed,
    /// It isn't WGSL any more, or naga or the driver refuse it.
    Invalid,
    /// No way to run it is possible on this device.
    NotHere,
    Survived,
}

/// What an environment variable lists, commas between.
fn listed(variable: &str) -> Option<Vec<String>> {
    let list = std::env::var(variable).ok()?;
    Some(list.split(',').map(|part| part.trim().to_string()).collect())
}

/// Every mutant with the stem of its file, `attention.tiled`.
fn all_mutants() -> Vec<(&'static str, Mutant)> {
    let of_file = |(stem, source): (&'static str, source::Source)| {
        source.mutants().into_iter().map(move |mutant| (stem, mutant)).collect::<Vec<_>>()
    };
    sources(&setting::all(&Device::default())).into_iter().flat_map(of_file).collect()
}

/// Those that `wanted` names, or all that are quick.
fn named(all: Vec<(&'static str, Mutant)>, wanted: Option<&[String]>) -> Vec<(&'static str, Mutant)> {
    let Some(wanted) = wanted else {
        return all.into_iter().filter(|(file, _)| !SLOW.contains(file)).collect();
    };
    let is_wanted = |(file, mutant): &(&'static str, Mutant)| {
        let name = format!("{file}.{}.", mutant.function);
        wanted.iter().any(|wanted| wanted == "all" || name.starts_with(&format!("{wanted}.")))
    };
    all.into_iter().filter(is_wanted).collect()
}

/// `count` mutants of each function, drawn by its name: a change of another function changes nothing here.
fn sample(all: Vec<(&'static str, Mutant)>, count: usize) -> Vec<(&'static str, Mutant)> {
    let mut functions: BTreeMap<(&str, String), Vec<Mutant>> = BTreeMap::new();
    for (file, mutant) in all {
        functions.entry((file, mutant.function.clone())).or_default().push(mutant);
    }
    let mut sample = Vec::new();
    for ((file, function), mut mutants) in functions {
        let name = file.bytes().chain(function.bytes());
        let mut random = Random::new(name.fold(SEED, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into())));
        for _ in 0..count.min(mutants.len()) {
            let index = random.bits() as usize % mutants.len();
            sample.push((file, mutants.swap_remove(index)));
        }
    }
    sample
}

/// Those to run, as the environment says; see above.
fn chosen() -> Vec<(&'static str, Mutant)> {
    let wanted = listed("DIFFUSE_MUTATIONS");
    let count = match std::env::var("DIFFUSE_MUTATIONS_SAMPLE") {
        Ok(count) => count.parse().expect("DIFFUSE_MUTATIONS_SAMPLE is a number of mutants"),
        Err(_) if wanted.is_some() => usize::MAX,
        Err(_) => SAMPLE,
    };
    sample(named(all_mutants(), wanted.as_deref()), count)
}

/// What becomes of each. Threads take one file after the other, each with a device of its own: a core compiles at a time.
fn fates(mutants: &[(&'static str, Mutant)], wanted: Option<&[String]>) -> Vec<Fate> {
    let mut files: Vec<&str> = mutants.iter().map(|(file, _)| *file).collect();
    files.dedup();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(vec![None; mutants.len()]));
    let work = || {
        let mut harness = Harness::new(wanted.map(<[String]>::to_vec));
        let ways = harness.labels();
        while let Some(own) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            for (number, (file, mutant)) in mutants.iter().enumerate().filter(|(_, (file, _))| file == own) {
                let fate = match allowed::reason(file, mutant, &ways) {
                    Some(_) => Fate::Allowed,
                    None => harness.fate(number, file, mutant),
                };
                found.lock().expect("no thread panicked")[number] = Some(fate);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    found.into_inner().expect("no thread panicked").into_iter().map(|fate| fate.expect("each was run")).collect()
}

#[test]
fn no_allowance_is_stale() {
    let stale = allowed::stale(&all_mutants());
    assert!(stale.is_empty(), "no mutant matches\n{}", stale.join("\n"));
}

#[test]
fn the_cases_catch_wrong_kernels() {
    let mutants = chosen();
    assert!(!mutants.is_empty(), "DIFFUSE_MUTATIONS names no function");
    compile_fast();
    let wanted = listed("DIFFUSE_MUTATIONS_WAYS");
    let mut report = Report::default();
    for ((file, mutant), fate) in mutants.iter().zip(fates(&mutants, wanted.as_deref())) {
        report.add(file, mutant, fate);
    }
    println!("seed {SEED}\n{}", report.text(&Harness::new(wanted).settings));
    let survivors = report.survivors;
    assert!(survivors.is_empty(), "no case notices {} mutants\n{}", survivors.len(), survivors.join("\n"));
}
