//! Runs mutants.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;

use diffuse::gpu::kernel::{EntryPoint, File};
use diffuse::gpu::{Context, Kernel, Need, Precision};
use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, SubgroupOperationSet, ValidationFlags, Validator};

use super::Fate;
use super::setting::{self, Setting};
use super::source::{self, Mutant, Source};
use super::trial::{Trial, Verdict, trials};

/// The file's name without what all of them end in.
fn stem(file: &File) -> &'static str {
    file.name.strip_suffix(".wgsl").expect("a shader file is named *.wgsl")
}

/// Every file that some setting runs, with its stem.
pub fn sources(settings: &[Setting]) -> Vec<(&'static str, Source)> {
    let mut sources: Vec<(&'static str, Source)> = Vec::new();
    for setting in settings {
        let files = setting.kernel.files(setting.precision);
        for file in &files {
            if sources.iter().all(|(known, _)| *known != stem(file)) {
                let own = Source::new(file.text);
                sources.push((stem(file), files.iter().fold(own, |own, file| own.with_uniforms_of(file.text))));
            }
        }
    }
    sources
}

pub struct Harness {
    context: Context,
    pub settings: Vec<Setting>,
    /// Prefixes of labels of the settings that may run.
    wanted: Option<Vec<String>>,
    /// By setting and entry point.
    trials: HashMap<(usize, &'static str), Vec<Trial>>,
    /// Functions and constants that an entry point uses, by setting and entry point.
    reached: HashMap<(usize, &'static str), BTreeSet<String>>,
    /// Files with all loops bounded.
    bounded: HashMap<&'static str, File>,
}

fn open() -> Context {
    // Bounds checks stay on: mutants read and write anywhere.
    Context::checked(None).expect("GPU tests need an adapter")
}

/// Tells Mesa's drivers, which read it when they are loaded, not to optimize what runs once nor to keep it. Comes before any
/// [`Harness`].
pub fn compile_fast() {
    // SAFETY: no other thread reads or writes the environment: the other tests open no device, and no thread was started.
    unsafe {
        std::env::set_var("GALLIVM_PERF", "nopt");
        std::env::set_var("MESA_SHADER_CACHE_DISABLE", "true");
    }
}

impl Harness {
    pub fn new(wanted: Option<Vec<String>>) -> Harness {
        let context = open();
        let settings = setting::all(context.kind());
        let (trials, reached, bounded) = (HashMap::new(), HashMap::new(), HashMap::new());
        Harness { context, settings, wanted, trials, reached, bounded }
    }

    /// The ways that may run here.
    pub fn labels(&self) -> Vec<String> {
        let runs = |setting: &&Setting| setting.is_here() && self.is_wanted(setting);
        self.settings.iter().filter(runs).map(Setting::label).collect()
    }

    fn is_wanted(&self, setting: &Setting) -> bool {
        let label = setting.label();
        self.wanted.as_ref().is_none_or(|all| all.iter().any(|wanted| label.starts_with(wanted)))
    }

    /// What becomes of mutant number `number` of a file.
    pub fn fate(&mut self, number: usize, file: &str, mutant: &Mutant) -> Fate {
        let mut ways = self.ways(file, mutant);
        if ways.is_empty() {
            return Fate::NotHere;
        }
        let first = number % ways.len();
        ways.rotate_left(first);
        self.context.forget_pipelines();
        let mut kernels: HashMap<(String, Precision), &'static Kernel> = HashMap::new();
        let mut fate = Fate::Invalid;
        for (index, entries) in ways {
            let Setting { kernel, precision, .. } = self.settings[index];
            let kernel = *kernels
                .entry((kernel.label(), precision))
                .or_insert_with(|| self.mutated(kernel, precision, Some((file, mutant))));
            if !is_valid(&self.settings[index], kernel) {
                continue;
            }
            for entry in entries {
                match self.catches(index, kernel, entry) {
                    Verdict::Differs => return Fate::Caught(index),
                    Verdict::Agrees => fate = Fate::Survived,
                    Verdict::Refused => {}
                }
            }
        }
        fate
    }

    /// The settings in which `file` may be mutated, and the entry points that reach the mutant: those in single precision
    /// if there are some, because a tolerance for halves hides more.
    fn ways(&mut self, file: &str, mutant: &Mutant) -> Vec<(usize, Vec<&'static str>)> {
        let mut ways = Vec::new();
        for index in 0..self.settings.len() {
            let setting = &self.settings[index];
            let single = file != "lib.f16" && !setting.kernel.needs.iter().any(|need| need.is_matrices());
            let holds = setting.kernel.files(setting.precision).iter().any(|other| stem(other) == file);
            let right = (setting.precision == Precision::F32) == single;
            if !holds || !right || !setting.is_here() || !self.is_wanted(setting) {
                continue;
            }
            let entries: Vec<&'static str> = setting.kernel.twins.iter().map(|(entry, _)| *entry).collect();
            let reaching: Vec<_> =
                entries.into_iter().filter(|entry| self.reaches(index, entry, &mutant.function)).collect();
            ways.push((index, reaching));
        }
        ways.retain(|(_, entries)| !entries.is_empty());
        ways
    }

    /// Whether an entry point uses a function or constant.
    fn reaches(&mut self, index: usize, entry: &'static str, function: &str) -> bool {
        let setting = &self.settings[index];
        let reached = self.reached.entry((index, entry)).or_insert_with(|| {
            let texts: Vec<&str> = setting.kernel.files(setting.precision).iter().map(|file| file.text).collect();
            Source::new(&texts.join("\n")).reaches(entry)
        });
        reached.contains(function)
    }

    /// A kernel with all loops bounded and, if there is one, the mutant of a file in it.
    fn mutated(&mut self, kernel: &Kernel, precision: Precision, mutant: Option<(&str, &Mutant)>) -> &'static Kernel {
        let files = kernel.files(precision).into_iter().map(|file| match mutant {
            Some((changed, mutant)) if stem(&file) == changed => {
                let mut text = file.text.to_string();
                text.replace_range(mutant.range.clone(), &mutant.replacement);
                bounded(file.name, &text)
            }
            _ => *self.bounded.entry(file.name).or_insert_with(|| bounded(file.name, file.text)),
        });
        let files: Vec<File> = files.collect();
        Box::leak(Box::new(kernel.with_changed(files.leak())))
    }

    /// Whether some case of `entry` tells `kernel` from the twin.
    fn catches(&mut self, index: usize, kernel: &'static Kernel, entry: &'static str) -> Verdict {
        let original = self.settings[index].kernel.entry_point(entry);
        if !same_bindings(original, kernel.entry_point(entry)) {
            return Verdict::Differs;
        }
        self.prepare(index, entry);
        let mut verdict = Verdict::Agrees;
        for number in 0..self.trials[&(index, entry)].len() {
            verdict = self.run(index, entry, number, kernel);
            if verdict != Verdict::Agrees {
                break;
            }
        }
        verdict
    }

    /// Draws the trials of an entry point, in which the right kernel with its loops bounded must agree.
    fn prepare(&mut self, index: usize, entry: &'static str) {
        if self.trials.contains_key(&(index, entry)) {
            return;
        }
        let setting = self.settings[index].clone();
        let drawn = trials(&setting, entry);
        // What there is no choice for runs without constants.
        let is_run = !drawn.is_empty() || !setting.constants.is_empty();
        assert!(is_run, "no case runs {entry} as {}", setting.label());
        let count = drawn.len();
        self.trials.insert((index, entry), drawn);
        let right = self.mutated(setting.kernel, setting.precision, None);
        assert!(is_valid(&setting, right), "{} without a mutant is not valid", setting.label());
        for number in 0..count {
            let verdict = self.run(index, entry, number, right);
            assert_eq!(verdict, Verdict::Agrees, "{} {entry} without a mutant", setting.label());
        }
    }

    fn run(&mut self, index: usize, entry: &'static str, number: usize, kernel: &'static Kernel) -> Verdict {
        let trial = &mut self.trials.get_mut(&(index, entry)).expect("prepared")[number];
        let context = &self.context;
        match std::panic::catch_unwind(AssertUnwindSafe(|| trial.run(context, kernel))) {
            Ok(Ok(verdict)) => verdict,
            _ => {
                println!("{}.{entry}: a device was lost to a mutant", kernel.label());
                self.context = open();
                Verdict::Differs
            }
        }
    }
}

fn bounded(name: &'static str, text: &str) -> File {
    let fuel = if name == "lib.wgsl" { source::FUEL_DECLARED } else { "" };
    File { name, text: (source::bounded(text) + fuel).leak() }
}

/// Whether the recorder would still take the calls that `original` takes.
fn same_bindings(original: &EntryPoint, mutant: &EntryPoint) -> bool {
    let names = |entry: &EntryPoint| {
        let storage: Vec<String> = entry.storage.iter().map(|binding| binding.name.clone()).collect();
        (storage, entry.params.is_some())
    };
    names(original) == names(mutant)
}

/// Whether `kernel`, the setting's own but for a mutant, is WGSL that uses no more than the setting's kernel says, with
/// the setting's constants too.
fn is_valid(setting: &Setting, kernel: &Kernel) -> bool {
    let of = |need: &Need| match need {
        Need::Subgroups => Capabilities::SUBGROUP,
        Need::Matrices8 | Need::Matrices16 => Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16,
    };
    let capabilities = kernel.needs.iter().map(of).fold(Capabilities::SHADER_FLOAT16_IN_FLOAT32, |all, one| all | one);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    validator.subgroup_operations(SubgroupOperationSet::all()).subgroup_stages(naga::valid::ShaderStages::COMPUTE);
    // Half precision as well: a kernel is reflected in both.
    let mut modules = [Precision::F32, Precision::F16].map(|p| naga::front::wgsl::parse_str(&kernel.source(p)));
    if modules.iter().any(Result::is_err) {
        return false;
    }
    modules.swap(0, (setting.precision == Precision::F16) as usize);
    let [Ok(module), Ok(_)] = &modules else { return false };
    let Ok(info) = validator.validate(module) else { return false };
    let values = setting.constants.iter().map(|(name, value)| (name.to_string(), *value as f64)).collect();
    process_overrides(module, &info, None, &values).is_ok()
}
