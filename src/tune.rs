//! Which variants this adapter runs fastest: measured once for each shape, kept in the user's cache directory.
//!
//! The clock chooses among candidates of one class, which give the same bits (see [`Choices::usual`]): whatever was measured,
//! and however busy the machine is, runs of one seed give the same bits. Someone may choose otherwise: `diffuse tune`
//! compares all classes, and what it finds is taken from a file.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::gpu::choices::{Key, Way};
use crate::gpu::compiler::{Compiler, Shader, spills};
use crate::gpu::trial;
use crate::gpu::tune::{self, Contest, Timing};
use crate::gpu::{Candidate, Choices, Context, Precision, Recordings, Ways};
use crate::ops::{self, conv2d};

/// When to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never: the defaults for this kind of device.
    #[default]
    Off,
    /// Never, but what the cache holds is run.
    Known,
    /// What the cache lacks.
    Cached,
    /// Everything again, however long it takes.
    Full,
}

/// Whether drivers that compute on the CPU run convolutions of 3x3 by Winograd's algorithm, where it is fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Winograd {
    /// Never: the products are summed as they stand
    #[serde(rename = "off")]
    Off,
    /// By F(2x2, 3x3): other bits, errors no larger
    #[default]
    #[serde(rename = "2")]
    #[value(name = "2")]
    Two,
}

/// A shape and the way that won it, as files hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    #[serde(flatten)]
    pub key: Key,
    pub way: String,
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// Shape by shape, the fastest first.
    pub measured: Vec<(Key, Vec<Timing>)>,
    /// Shapes that the budget left to what won most of the others.
    pub guessed: usize,
    pub time: Duration,
    /// Where the winners are kept.
    pub cache: Option<PathBuf>,
}

/// What was tuned on an adapter, as files hold it.
#[derive(Debug, Serialize, Deserialize)]
struct Tuned {
    adapter: String,
    driver: String,
    winners: Vec<Chosen>,
    /// What computes wrongly.
    wrong: BTreeSet<Way>,
    /// What is doubtful and was checked.
    #[serde(default)]
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Verdict {
    #[serde(flatten)]
    way: Way,
    is_right: bool,
}

/// What measures: [`WallClock`], or a test's stand-in.
pub trait Clock {
    /// Times the candidates for a shape.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    fn time(&mut self, context: &Context, contest: &Contest) -> Result<Vec<Timing>>;

    /// Whether no more may be measured.
    fn is_over(&mut self) -> bool;
}

/// The device's own time, for as long as a budget lasts.
pub struct WallClock {
    end: Option<Instant>,
}

impl WallClock {
    /// Without an end.
    pub fn endless() -> WallClock {
        WallClock { end: None }
    }

    /// For what the cache lacks: most of the time goes where there is most work, the rest is guessed.
    fn brief(context: &Context) -> WallClock {
        let budget = Duration::from_secs(if context.is_cpu() { 20 } else { 5 });
        WallClock { end: Some(Instant::now() + budget) }
    }
}

impl Clock for WallClock {
    fn time(&mut self, context: &Context, contest: &Contest) -> Result<Vec<Timing>> {
        tune::time(context, contest)
    }

    fn is_over(&mut self) -> bool {
        self.end.is_some_and(|end| Instant::now() > end)
    }
}

/// By what ways are chosen; the default is to measure nothing and to keep nothing.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub mode: Mode,
    /// Where winners are kept: see [`crate::files::cache_directory`].
    pub directory: Option<PathBuf>,
    /// What someone chose, whatever the clock says.
    pub explicit: Vec<Chosen>,
    pub winograd: Winograd,
    /// Hears of what was measured, and on which adapter.
    pub tell: Option<fn(&Tuning, &str)>,
}

impl Policy {
    /// What is known of `context` before anything is measured: what was chosen, and what the cache holds.
    pub fn known(&self, context: &Context, precision: Precision) -> Arc<Choices> {
        let mut choices = Choices::new(context.kind(), precision);
        if self.winograd == Winograd::Off {
            choices.avoid(conv2d::WINOGRAD);
        }
        if let (Mode::Off | Mode::Known | Mode::Cached, Some(path)) = (self.mode, self.cache(context)) {
            let tuned = cached(&path, context);
            tuned.verdicts.into_iter().for_each(|verdict| choices.judge(verdict.way, verdict.is_right));
            if self.mode == Mode::Off {
                return self.with_explicit(choices);
            }
            tuned.winners.into_iter().for_each(|chosen| choices.set_timed(chosen.key, chosen.way));
            tuned.wrong.into_iter().for_each(|way| choices.exclude(way));
        }
        self.with_explicit(choices)
    }

    fn with_explicit(&self, mut choices: Choices) -> Arc<Choices> {
        self.explicit.iter().cloned().for_each(|chosen| choices.set_explicit(chosen.key, chosen.way));
        choices.into()
    }

    fn cache(&self, context: &Context) -> Option<PathBuf> {
        self.directory.as_ref().map(|directory| directory.join(file_name(context)))
    }
}

/// What will run.
pub struct Settled {
    /// Made with `choices`.
    pub recordings: Recordings,
    pub choices: Arc<Choices>,
    pub tuning: Tuning,
}

/// What `record` records with the fastest ways: those that `choices` knows, the others measured as `policy` says. What is doubtful
/// is checked before, whatever the policy, and not used if it computes wrongly.
///
/// # Errors
/// What `record` returns, [`Error::Config`] if a way was chosen that there is not or that computes wrongly, or
/// [`Error::Device`] if the device fails. A cache that can't be read or written is a warning.
pub fn settle(
    context: &Context,
    policy: &Policy,
    choices: &Arc<Choices>,
    record: impl Fn(&Arc<Choices>) -> Result<Recordings>,
) -> Result<Settled> {
    let clock: Option<&mut dyn Clock> = match policy.mode {
        Mode::Off | Mode::Known => None,
        Mode::Cached => Some(&mut WallClock::brief(context)),
        Mode::Full => Some(&mut WallClock::endless()),
    };
    let settled = settle_by(context, clock, policy.cache(context), choices, record)?;
    if let (Some(tell), false) = (policy.tell, settled.tuning.measured.is_empty()) {
        tell(&settled.tuning, &context.info.name);
    }
    Ok(settled)
}

/// As [`settle`], by a clock of the caller's, if any; the winners are added to the file `cache`.
///
/// # Errors
/// As [`settle`].
pub fn settle_by(
    context: &Context,
    clock: Option<&mut dyn Clock>,
    cache: Option<PathBuf>,
    choices: &Arc<Choices>,
    record: impl Fn(&Arc<Choices>) -> Result<Recordings>,
) -> Result<Settled> {
    let recordings = record(choices)?;
    let judged = judge(context, &recordings, choices)?;
    check_explicit(&recordings, &judged)?;
    let (settled, tuning) = match (clock, open(&recordings, &judged)) {
        (Some(clock), open) if !open.is_empty() => {
            let mut tuner = Tuner::new(context, clock, &judged);
            tuner.measure_all(open)?;
            tuner.finish(cache)
        }
        _ => {
            let is_new = !Arc::ptr_eq(&judged, choices);
            let cache = cache.filter(|path| !is_new || store(context, path, &judged));
            (judged, Tuning { cache, ..Tuning::default() })
        }
    };
    let is_new = !Arc::ptr_eq(&settled, choices);
    let recordings = if is_new { record(&settled)? } else { recordings };
    Ok(Settled { recordings, choices: settled, tuning })
}

/// What `recordings` could run and nobody knows to be right.
fn doubtful(recordings: &Recordings, choices: &Choices) -> Vec<(&'static Ways, Vec<&'static Candidate>)> {
    let mut doubtful: BTreeMap<_, (&'static Ways, Vec<&'static Candidate>)> = BTreeMap::new();
    for (key, ways) in asked(recordings) {
        let explicit = choices.explicit().get(&key);
        let could_run = |c: &Candidate| {
            c.suits(&choices.device, choices.precision)
                || c.runs_on(&choices.device, choices.precision) && explicit == Some(&c.label())
        };
        let unknown = |c: &&Candidate| c.doubtful && could_run(c) && choices.verdict(ways, c).is_none();
        for candidate in ways.candidates.iter().filter(unknown) {
            let (_, own) = doubtful.entry((ways.kernel, ways.entry)).or_insert_with(|| (ways, Vec::new()));
            if !own.iter().any(|other| std::ptr::eq(*other, candidate)) {
                own.push(candidate);
            }
        }
    }
    doubtful.into_values().collect()
}

/// Checks what is doubtful; the same choices if nothing is.
fn judge(context: &Context, recordings: &Recordings, choices: &Arc<Choices>) -> Result<Arc<Choices>> {
    let doubtful = doubtful(recordings, choices);
    if doubtful.is_empty() {
        return Ok(choices.clone());
    }
    let mut judged = Choices::clone(choices);
    for (ways, candidates) in doubtful {
        let errors = trial::check(context, choices.precision, ways, &candidates)?;
        for (candidate, error) in candidates.into_iter().zip(errors) {
            let way = judged.way(ways, candidate);
            if error > 1.0 {
                warn_of_wrong(context, &way, error);
            }
            judged.judge(way, error <= 1.0);
        }
    }
    Ok(judged.into())
}

/// Measures candidates of all classes for what `recordings` ask for, as long as it takes. The winners of the usual classes are kept
/// as `policy` says, those of all classes are for a file, see [`write()`].
///
/// # Errors
/// [`Error::Device`] if the device fails.
pub fn compare(
    context: &Context,
    policy: &Policy,
    choices: &Arc<Choices>,
    recordings: &Recordings,
) -> Result<(Arc<Choices>, Tuning)> {
    let mut clock = WallClock::endless();
    let choices = judge(context, recordings, choices)?;
    let mut tuner = Tuner::new(context, &mut clock, &choices);
    for (key, ways) in open(recordings, &choices) {
        let mut candidates = choices.contenders(ways, &key.shape);
        tuner.drop_spilling(ways, &key, &mut candidates);
        tuner.measure(&key, ways, &candidates)?;
    }
    Ok(tuner.finish(policy.cache(context)))
}

/// Writes the winners of all classes, for [`read()`].
///
/// # Errors
/// [`Error::File`] if it can't be written.
pub fn write(context: &Context, path: &Path, tuning: &Tuning) -> Result<()> {
    let winner = |(key, timings): &(Key, Vec<Timing>)| {
        Some(Chosen { key: key.clone(), way: winner(timings)?.candidate.label() })
    };
    let tuned = Tuned { winners: tuning.measured.iter().filter_map(winner).collect(), ..Tuned::of(context) };
    files::write_atomic(path, &serde_json::to_vec_pretty(&tuned).expect("names and numbers"))
}

/// The fastest way that computes rightly, of any class.
pub fn winner(timings: &[Timing]) -> Option<&Timing> {
    timings.iter().find(|timing| timing.is_right())
}

/// What `diffuse tune` wrote to `path`.
///
/// # Errors
/// [`Error::File`] if it can't be read, is no such file, or was made on another adapter or driver.
pub fn read(context: &Context, path: &Path) -> Result<Vec<Chosen>> {
    read_for(&context.info.name, &context.driver(), path)
}

/// As [`read()`], on the adapter and driver of these names; without a device, so that hostile files can be tried.
///
/// # Errors
/// As [`read()`].
pub fn read_for(adapter: &str, driver: &str, path: &Path) -> Result<Vec<Chosen>> {
    let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
    let tuned: Tuned = serde_json::from_slice(&text)
        .map_err(|error| Error::file(path, format!("{error}; diffuse tune --out FILE makes such files")))?;
    if (tuned.adapter.as_str(), tuned.driver.as_str()) != (adapter, driver) {
        let problem = format!(
            "tuned on {}, {}; this is {adapter}, {driver}: make another with diffuse tune --out FILE",
            tuned.adapter, tuned.driver
        );
        return Err(Error::file(path, problem));
    }
    Ok(tuned.winners)
}

/// What someone chose, for a file: the clock's choices change no bit, and are left out.
pub fn chosen(choices: &Choices) -> Vec<Chosen> {
    choices.explicit().iter().map(|(key, way)| Chosen { key: key.clone(), way: way.clone() }).collect()
}

/// Every shape that was asked for, once; those with the most work first.
fn asked(recordings: &Recordings) -> Vec<(Key, &'static Ways)> {
    let asked = recordings.iter().flat_map(|(_, recording)| &recording.asked);
    let unique: BTreeMap<Key, &'static Ways> = asked.map(|(key, ways)| (key.clone(), *ways)).collect();
    let mut all: Vec<_> = unique.into_iter().collect();
    let work = |key: &Key| key.shape.iter().map(|extent| (*extent).max(1) as f64).product::<f64>();
    all.sort_by(|(a, _), (b, _)| work(b).total_cmp(&work(a)));
    all
}

/// Shapes that can run in several ways here, of which nothing is known yet.
fn open(recordings: &Recordings, choices: &Choices) -> Vec<(Key, &'static Ways)> {
    let mut all = asked(recordings);
    all.retain(|(key, ways)| choices.contenders(ways, &key.shape).len() > 1 && !choices.knows(key));
    all
}

/// Refuses what someone chose and can't be had: something else would give other bits.
fn check_explicit(recordings: &Recordings, choices: &Choices) -> Result<()> {
    for (key, ways) in asked(recordings) {
        let Some(way) = choices.explicit().get(&key) else { continue };
        let runs = |c: &Candidate| c.label() == *way && c.runs_on(&choices.device, choices.precision);
        let problem = match ways.candidates.iter().find(|c| runs(c)) {
            None => "which this device or version lacks",
            Some(candidate) if !choices.trusts(ways, candidate) => "which this device computes wrongly",
            Some(_) => continue,
        };
        let Key { kernel, entry, shape, .. } = key;
        let asked = format!("{kernel}.{entry} of {shape:?} is to run as {way:?}");
        return Err(Error::Config(format!("{asked}, {problem}: make another file with diffuse tune --out FILE")));
    }
    Ok(())
}

/// Measures, and chooses by it.
struct Tuner<'a> {
    context: &'a Context,
    clock: &'a mut dyn Clock,
    choices: Choices,
    tuning: Tuning,
    start: Instant,
    /// Opened where the device tells what it compiles.
    compiler: Option<Compiler>,
    spilled: BTreeMap<Way, bool>,
}

impl<'a> Tuner<'a> {
    fn new(context: &'a Context, clock: &'a mut dyn Clock, choices: &Choices) -> Tuner<'a> {
        // A driver that computes on the CPU has no registers that matter.
        let compiler = if context.is_cpu() { None } else { Compiler::new(context).ok() };
        let (choices, tuning, start) = (choices.clone(), Tuning::default(), Instant::now());
        Tuner { context, clock, choices, tuning, start, compiler, spilled: BTreeMap::new() }
    }

    /// The choices, which are added to the file `cache`, and what was measured for them.
    fn finish(self, cache: Option<PathBuf>) -> (Arc<Choices>, Tuning) {
        let cache = cache.filter(|path| store(self.context, path, &self.choices));
        (self.choices.into(), Tuning { cache, time: self.start.elapsed(), ..self.tuning })
    }

    /// The smallest shape of each entry point is always measured, so that what computes wrongly is found whatever the budget.
    fn measure_all(&mut self, open: Vec<(Key, &'static Ways)>) -> Result<()> {
        let entry = |key: &Key| (key.kernel.clone(), key.entry.clone());
        let smallest: BTreeMap<_, _> = open.iter().map(|(key, _)| (entry(key), key.clone())).collect();
        let is_smallest = |key: &Key| smallest.values().any(|other| other == key);
        let (first, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|(key, _)| is_smallest(key));
        let must = first.len();
        let mut wins: BTreeMap<(String, String), BTreeMap<String, usize>> = BTreeMap::new();
        for (index, (key, ways)) in first.into_iter().chain(rest).enumerate() {
            let mut candidates = self.choices.class(ways, &key.shape);
            self.drop_spilling(ways, &key, &mut candidates);
            if index >= must && (candidates.len() < 2 || self.clock.is_over()) {
                let most = wins.get(&entry(&key)).and_then(|wins| wins.iter().max_by_key(|(_, count)| **count));
                let usual = || self.choices.usual(ways, &key.shape).label();
                let way = most.map_or_else(usual, |(way, _)| way.clone());
                self.tuning.guessed += (candidates.len() > 1) as usize;
                self.choices.set_timed(key, way);
                continue;
            }
            let way = self.measure(&key, ways, &candidates)?;
            *wins.entry(entry(&key)).or_default().entry(way).or_default() += 1;
        }
        Ok(())
    }

    /// Drops what this device's compiler moves to memory; not what runs anyway where nothing is timed.
    fn drop_spilling(&mut self, ways: &Ways, key: &Key, candidates: &mut Vec<&'static Candidate>) {
        let usual = self.choices.usual(ways, &key.shape);
        candidates.retain(|candidate| std::ptr::eq(*candidate, usual) || !self.spills(ways, candidate));
    }

    /// Whether a candidate spills here; false where nobody tells.
    fn spills(&mut self, ways: &Ways, candidate: &Candidate) -> bool {
        let Some(compiler) = &self.compiler else { return false };
        let way = self.choices.way(ways, candidate);
        if let Some(known) = self.spilled.get(&way) {
            return *known;
        }
        let Candidate { kernel, constants, .. } = *candidate;
        let shader = Shader { kernel, entry: ways.entry, constants, precision: self.choices.precision };
        let spilled = compiler.compile(&shader).is_ok_and(|statistics| spills(&statistics));
        if spilled {
            let (name, Way { kernel, entry, way, .. }) = (&self.context.info.name, &way);
            log::info!("{name} keeps registers of {kernel} {entry}, {way} in memory: not timed");
        }
        self.spilled.insert(way, spilled);
        spilled
    }

    /// Times `candidates` for one shape; the fastest of those that may be chosen is, and its label is returned.
    fn measure(&mut self, key: &Key, ways: &Ways, candidates: &[&'static Candidate]) -> Result<String> {
        let shape = &key.shape;
        let mut timings =
            self.clock.time(self.context, &Contest { ways, shape, candidates, choices: &self.choices })?;
        let usual = loop {
            let usual = self.choices.usual(ways, &key.shape);
            let wrong = |timing: &&Timing| std::ptr::eq(timing.candidate, usual) && !timing.is_right();
            let Some(timing) = timings.iter().find(wrong) else { break usual };
            // The others' bits were compared with those of a wrong result.
            self.exclude(ways, timing);
            timings = self.clock.time(self.context, &Contest { ways, shape, candidates, choices: &self.choices })?;
        };
        for timing in timings.iter().filter(|t| !t.is_right() || !t.usual_bits && t.candidate.class == usual.class) {
            self.exclude(ways, timing);
        }
        timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let may = |timing: &&Timing| timing.is_right() && timing.usual_bits && timing.candidate.class == usual.class;
        let way = timings.iter().find(may).map_or(usual, |timing| timing.candidate).label();
        self.choices.set_timed(key.clone(), way.clone());
        self.tuning.measured.push((key.clone(), timings));
        Ok(way)
    }

    /// A way that computes wrongly, or other bits than its class promises, is not used on this device.
    fn exclude(&mut self, ways: &Ways, timing: &Timing) {
        let way = self.choices.way(ways, timing.candidate);
        match timing.is_right() {
            false => warn_of_wrong(self.context, &way, timing.error),
            true => {
                let Way { kernel, entry, way, .. } = &way;
                let name = &self.context.info.name;
                log::info!(
                    "{name} rounds {kernel} {entry}, {way} otherwise than the other ways of its class: not used"
                );
            }
        }
        self.choices.exclude(way);
    }
}

fn warn_of_wrong(context: &Context, way: &Way, error: f64) {
    let (name, Way { kernel, entry, way, .. }) = (&context.info.name, way);
    log::warn!("{name} computes {kernel} {entry}, {way} wrongly ({error:.1} times what rounding allows): not used");
}

/// A file for each adapter, driver and state of the shaders.
fn file_name(context: &Context) -> String {
    let mut hasher = DefaultHasher::new();
    (&context.info.name, context.driver(), env!("CARGO_PKG_VERSION"), ops::digest()).hash(&mut hasher);
    format!("tune-{:016x}.json", hasher.finish())
}

impl Tuned {
    /// Nothing yet, on this adapter.
    fn of(context: &Context) -> Tuned {
        let (adapter, driver) = (context.info.name.clone(), context.driver());
        Tuned { adapter, driver, winners: Vec::new(), wrong: BTreeSet::new(), verdicts: Vec::new() }
    }
}

fn cached(path: &Path, context: &Context) -> Tuned {
    let Ok(text) = std::fs::read(path) else { return Tuned::of(context) };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        log::warn!("{}: {error}; measuring again", path.display());
        Tuned::of(context)
    })
}

/// Adds to what the file holds: other models' shapes stay. Whether it could be written.
fn store(context: &Context, path: &Path, choices: &Choices) -> bool {
    let known = cached(path, context);
    let mut winners: BTreeMap<Key, String> = known.winners.into_iter().map(|chosen| (chosen.key, chosen.way)).collect();
    winners.extend(choices.timed().clone());
    let winners = winners.into_iter().map(|(key, way)| Chosen { key, way }).collect();
    let wrong = known.wrong.union(choices.wrong()).cloned().collect();
    let mut verdicts: BTreeMap<Way, bool> = known.verdicts.into_iter().map(|own| (own.way, own.is_right)).collect();
    verdicts.extend(choices.verdicts().clone());
    let verdicts = verdicts.into_iter().map(|(way, is_right)| Verdict { way, is_right }).collect();
    let tuned = Tuned { winners, wrong, verdicts, ..Tuned::of(context) };
    let text = serde_json::to_vec_pretty(&tuned).expect("names and numbers");
    let directory = path.parent().map(std::fs::create_dir_all);
    let written = directory.transpose().map_err(|error| error.to_string());
    let written = written.and_then(|_| files::write_atomic(path, &text).map_err(|error| error.to_string()));
    if let Err(error) = &written {
        log::warn!("what was tuned can't be kept: {}: {error}", path.display());
    }
    written.is_ok()
}
