//! Which way each shape runs: kernels have variants, variants have tiles; what suits one device does not suit another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::agreement::Declared;
use super::kernel::{Kernel, Need, Precision};

/// What choices depend on of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// A GPU; not a driver that computes on the CPU.
    pub gpu: bool,
    /// The least number of lanes that a subgroup has; 0 where kernels can't use subgroups.
    pub subgroup: u32,
    pub needs: Vec<Need>,
    /// Whether a lane that takes 128 registers leaves a core half empty, or spills: Apple's GPUs.
    pub few_registers: bool,
}

impl Device {
    /// Lanes that fill it: sums over rows are split until there are as many.
    pub fn lanes(&self) -> u32 {
        if self.gpu { 65_536 } else { 2_048 }
    }
}

/// For which devices a candidate is made: on others it would cost the tuner more than it could win.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meant {
    ForAll,
    ForGpus,
    /// GPUs but those of few registers.
    ForLargeGpus,
    /// Drivers that compute on the CPU: it keeps more in registers than GPUs have.
    ForCpus,
}

/// One way to run an entry point: a variant of the kernel, and values of its `override` constants.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub kernel: &'static Kernel,
    pub constants: &'static [(&'static str, u32)],
    /// Where it is timed and chosen. One for drivers that compute on the CPU runs nowhere else: compilers of GPUs keep its sums in
    /// memory, or fail. All others run everywhere, and are checked everywhere.
    pub meant: Meant,
    /// What its results are held to, where that is not what sums of products in any order are.
    pub bound: Option<Declared>,
    /// Candidates of one class sum in one order, and so give the same bits: the clock chooses among them. Between classes
    /// the rule of [`Choices::usual`] chooses.
    pub class: &'static str,
    /// The shapes for which that rule considers it: all, if there is none.
    rule: Option<fn(&[u32]) -> bool>,
    /// Whether it runs only where it was seen to compute rightly ([`super::trial`]): drivers of matrix units are young.
    pub doubtful: bool,
    /// The shapes that it can run: all, if there is none.
    fits: Option<fn(&[u32]) -> bool>,
}

/// The class of those that add one product behind the other, the summed index ascending.
pub const IN_ORDER: &str = "in order";

/// The constant that says how many lanes of a subgroup a variant relies on.
const LANES: &str = "LANES";

impl Candidate {
    pub const fn new(kernel: &'static Kernel, constants: &'static [(&'static str, u32)]) -> Candidate {
        let (class, rule, fits, bound) = (IN_ORDER, None, None, None);
        Candidate { kernel, constants, meant: Meant::ForAll, class, rule, fits, bound, doubtful: false }
    }

    /// One that only GPUs time and choose.
    pub const fn for_gpus(kernel: &'static Kernel, constants: &'static [(&'static str, u32)]) -> Candidate {
        Candidate { meant: Meant::ForGpus, ..Candidate::new(kernel, constants) }
    }

    /// The same, which spills on GPUs of few registers (benches/compilers.md).
    pub const fn for_large_gpus(kernel: &'static Kernel, constants: &'static [(&'static str, u32)]) -> Candidate {
        Candidate { meant: Meant::ForLargeGpus, ..Candidate::new(kernel, constants) }
    }

    /// One that only drivers which compute on the CPU time and choose.
    pub const fn for_cpus(kernel: &'static Kernel, constants: &'static [(&'static str, u32)]) -> Candidate {
        Candidate { meant: Meant::ForCpus, ..Candidate::new(kernel, constants) }
    }

    /// The same, held to a bound of its own.
    pub const fn held_to(self, declared: Declared) -> Candidate {
        Candidate { bound: Some(declared), ..self }
    }

    /// The same, which sums in an order of its own.
    pub const fn of_class(self, class: &'static str) -> Candidate {
        Candidate { class, ..self }
    }

    /// The same, which the rule considers for some shapes only.
    pub const fn usual_for(self, rule: fn(&[u32]) -> bool) -> Candidate {
        Candidate { rule: Some(rule), ..self }
    }

    /// One that runs only where it was seen to compute rightly.
    pub const fn when_checked(self) -> Candidate {
        Candidate { doubtful: true, ..self }
    }

    /// The same, which can run some shapes only. Where it is asked for others, the usual one runs.
    pub const fn only_for(self, fits: fn(&[u32]) -> bool) -> Candidate {
        Candidate { fits: Some(fits), ..self }
    }

    /// Whether it can run some shapes only.
    pub fn is_limited(&self) -> bool {
        self.fits.is_some()
    }

    /// Whether it can run a shape.
    pub fn takes(&self, shape: &[u32]) -> bool {
        self.fits.is_none_or(|fits| fits(shape))
    }

    /// `subgroup LANES=8 SHARE=3`.
    pub fn label(&self) -> String {
        let constants = self.constants.iter().map(|(name, value)| format!(" {name}={value}"));
        std::iter::once(self.kernel.variant.to_string()).chain(constants).collect()
    }

    /// Whether it is what every device runs, and others are compared with.
    pub fn is_plain(&self) -> bool {
        self.is_register() && self.constants.is_empty()
    }

    /// Whether each lane has a tile of its own, in registers.
    pub fn is_register(&self) -> bool {
        self.kernel.variant == "register"
    }

    /// Whether `device` can run it: it has what the variant needs, and a subgroup is as wide as it relies on. A wider one
    /// would do, but a driver that computes on the CPU would leave its lanes idle.
    pub fn runs_on(&self, device: &Device, precision: Precision) -> bool {
        if precision == Precision::F32 && self.kernel.needs.iter().any(|need| need.is_matrices()) {
            return false;
        }
        if self.meant == Meant::ForCpus && device.gpu {
            return false;
        }
        let lanes = self.constants.iter().find(|(name, _)| *name == LANES).map(|(_, lanes)| *lanes);
        let fits = |lanes| lanes == device.subgroup || device.gpu && lanes < device.subgroup;
        lanes.is_none_or(fits) && self.kernel.needs.iter().all(|need| device.needs.contains(need))
    }

    /// Whether `device` should consider it, without being told to.
    pub fn suits(&self, device: &Device, precision: Precision) -> bool {
        let is_meant = match self.meant {
            Meant::ForAll => true,
            Meant::ForGpus => device.gpu,
            Meant::ForLargeGpus => device.gpu && !device.few_registers,
            Meant::ForCpus => !device.gpu,
        };
        is_meant && self.runs_on(device, precision)
    }
}

/// The ways to run one entry point, which `R` records: [`super::Recorder`]. Choices know nothing of recording.
#[derive(Debug)]
pub struct Ways<R> {
    pub kernel: &'static str,
    pub entry: &'static str,
    /// From what suits drivers that compute on the CPU to what suits GPUs. Every device runs the one of the variant
    /// `register`.
    pub candidates: &'static [Candidate],
    /// Records the entry point alone, for a shape as the operation asks for it: what the tuner times.
    pub record: fn(&mut R, &[u32]),
    /// Shapes in which candidates are compared, small and hard: odd extents, several tiles and splits, none but full tiles.
    pub trials: &'static [&'static [u32]],
}

impl<R> Ways<R> {
    /// The one that every device runs.
    pub fn register(&self) -> &'static Candidate {
        let register = self.candidates.iter().find(|candidate| candidate.is_plain());
        register.expect("every device runs the variant register, for every shape")
    }
}

/// An entry point and a shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub kernel: String,
    pub entry: String,
    pub precision: Precision,
    pub shape: Vec<u32>,
}

/// A candidate of an entry point, by its label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Way {
    pub kernel: String,
    pub entry: String,
    pub precision: Precision,
    pub way: String,
}

/// What a device runs, shape by shape; where nothing is known, what suits most devices of its kind.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    pub device: Device,
    pub precision: Precision,
    /// What the clock chose, of the usual class.
    timed: BTreeMap<Key, String>,
    /// What someone chose, of any class.
    explicit: BTreeMap<Key, String>,
    /// What computes wrongly on this device.
    wrong: BTreeSet<Way>,
    /// Whether what is doubtful computes rightly on this device.
    verdicts: BTreeMap<Way, bool>,
    /// Classes that are not usual here, because someone said so.
    avoided: BTreeSet<&'static str>,
    forced: Option<usize>,
}

impl Choices {
    /// The defaults for `device` at `precision`.
    pub fn new(device: &Device, precision: Precision) -> Choices {
        Choices { device: device.clone(), precision, ..Choices::default() }
    }

    /// Candidate number `index` for every shape, where there is one and the device runs it: for tests and the tuner.
    pub fn forced(device: &Device, precision: Precision, index: usize) -> Choices {
        Choices { forced: Some(index), ..Choices::new(device, precision) }
    }

    /// The same device at `precision`; nothing is chosen if that is another one.
    pub fn at(self: &Arc<Choices>, precision: Precision) -> Arc<Choices> {
        match self.precision == precision {
            true => self.clone(),
            false => Arc::new(Choices { avoided: self.avoided.clone(), ..Choices::new(&self.device, precision) }),
        }
    }

    /// What a shape is known by.
    pub fn key<R>(&self, ways: &Ways<R>, shape: &[u32]) -> Key {
        let (kernel, entry) = (ways.kernel.into(), ways.entry.into());
        Key { kernel, entry, precision: self.precision, shape: shape.into() }
    }

    /// The candidate with this label won: it runs if it is of the same class as the usual one.
    pub fn set_timed(&mut self, key: Key, label: String) {
        self.timed.insert(key, label);
    }

    /// The candidate with this label runs, whatever its class.
    pub fn set_explicit(&mut self, key: Key, label: String) {
        self.explicit.insert(key, label);
    }

    /// This way is not run unless someone asks for it.
    pub fn exclude(&mut self, way: Way) {
        self.wrong.insert(way);
    }

    /// What is doubtful was checked: it runs from now on, or never.
    pub fn judge(&mut self, way: Way, is_right: bool) {
        self.verdicts.insert(way, is_right);
    }

    /// What was doubtful, and whether it is right.
    pub fn verdicts(&self) -> &BTreeMap<Way, bool> {
        &self.verdicts
    }

    /// Whether a candidate is right, if it is doubtful and was checked.
    pub fn verdict<R>(&self, ways: &Ways<R>, candidate: &Candidate) -> Option<bool> {
        self.verdicts.get(&self.way(ways, candidate)).copied()
    }

    /// Whether a candidate is beyond doubt.
    pub fn trusts<R>(&self, ways: &Ways<R>, candidate: &Candidate) -> bool {
        !candidate.doubtful || self.verdict(ways, candidate) == Some(true)
    }

    /// No way of this class is usual.
    pub fn avoid(&mut self, class: &'static str) {
        self.avoided.insert(class);
    }

    /// Whether something is chosen for a shape.
    pub fn knows(&self, key: &Key) -> bool {
        self.explicit.contains_key(key) || self.timed.contains_key(key)
    }

    /// What the clock chose, by shape.
    pub fn timed(&self) -> &BTreeMap<Key, String> {
        &self.timed
    }

    /// What someone chose, by shape.
    pub fn explicit(&self) -> &BTreeMap<Key, String> {
        &self.explicit
    }

    /// What is excluded.
    pub fn wrong(&self) -> &BTreeSet<Way> {
        &self.wrong
    }

    /// A candidate of an entry point as it is known by here.
    pub fn way<R>(&self, ways: &Ways<R>, candidate: &Candidate) -> Way {
        let (kernel, entry) = (ways.kernel.into(), ways.entry.into());
        Way { kernel, entry, precision: self.precision, way: candidate.label() }
    }

    /// What runs a shape where nothing else is chosen: a rule of the device, the precision and the shape alone, so that
    /// runs of one seed give the same bits.
    pub fn usual<R>(&self, ways: &Ways<R>, shape: &[u32]) -> &'static Candidate {
        let is_usual = |c: &Candidate| !self.avoided.contains(c.class) && c.rule.is_none_or(|rule| rule(shape));
        let rightly = |c: &&Candidate| self.suits(c, shape) && is_usual(c) && !self.excludes(ways, c);
        let found = match self.device.gpu {
            true => ways.candidates.iter().rev().find(rightly),
            false => ways.candidates.iter().find(rightly),
        };
        found.unwrap_or_else(|| ways.register())
    }

    /// Whether a candidate is not run unless someone asks for it.
    fn excludes<R>(&self, ways: &Ways<R>, candidate: &Candidate) -> bool {
        !self.trusts(ways, candidate) || !self.wrong.is_empty() && self.wrong.contains(&self.way(ways, candidate))
    }

    /// What is worth timing for a shape, of any class.
    pub fn contenders<R>(&self, ways: &Ways<R>, shape: &[u32]) -> Vec<&'static Candidate> {
        let may = |c: &&Candidate| self.suits(c, shape) && self.trusts(ways, c);
        ways.candidates.iter().filter(may).collect()
    }

    /// What the clock may choose from for a shape: the candidates of the usual one's class.
    pub fn class<R>(&self, ways: &Ways<R>, shape: &[u32]) -> Vec<&'static Candidate> {
        let class = self.usual(ways, shape).class;
        let may = |c: &&Candidate| c.class == class && self.suits(c, shape) && !self.excludes(ways, c);
        ways.candidates.iter().filter(may).collect()
    }

    /// What runs a shape.
    pub fn choose<R>(&self, ways: &Ways<R>, shape: &[u32]) -> &'static Candidate {
        if let Some(candidate) = self.forced_of(ways).filter(|candidate| candidate.takes(shape)) {
            return candidate;
        }
        let key = self.key(ways, shape);
        let named = |label: &String, among: &[&'static Candidate]| among.iter().find(|c| c.label() == *label).copied();
        let explicit = self.explicit.get(&key).and_then(|label| {
            let all: Vec<_> = ways.candidates.iter().filter(|c| self.runs(c) && c.takes(shape)).collect();
            named(label, &all)
        });
        let timed = || self.timed.get(&key).and_then(|label| named(label, &self.class(ways, shape)));
        explicit.or_else(timed).unwrap_or_else(|| self.usual(ways, shape))
    }

    /// A way to run an entry point that not every device can: the one that is forced, or the first.
    pub fn possible<R>(&self, ways: &Ways<R>) -> Option<&'static Candidate> {
        self.forced_of(ways).or_else(|| ways.candidates.iter().find(|c| self.runs(c)))
    }

    /// The one that is forced, where it runs.
    fn forced_of<R>(&self, ways: &Ways<R>) -> Option<&'static Candidate> {
        self.forced.and_then(|index| ways.candidates.get(index)).filter(|c| self.runs(c))
    }

    /// Whether the device should consider it for a shape.
    fn suits(&self, candidate: &Candidate, shape: &[u32]) -> bool {
        candidate.suits(&self.device, self.precision) && candidate.takes(shape)
    }

    fn runs(&self, candidate: &Candidate) -> bool {
        candidate.runs_on(&self.device, self.precision)
    }
}
