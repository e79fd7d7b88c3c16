//! Which variants this adapter runs fastest: measured once for each shape, kept in the user's cache directory.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::files;
use crate::gpu::choices::{Key, Ways};
use crate::gpu::tune::{self, MOST_DEVIATION, Timing};
use crate::gpu::{Choices, Context, Precision, Recording};

/// When to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Never: the defaults for this kind of device.
    Off,
    /// What the cache lacks.
    #[default]
    Cached,
    /// Everything again, however long it takes.
    Full,
}

/// A shape and the way that won it, as files hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    #[serde(flatten)]
    pub key: Key,
    pub way: String,
}

/// What [`prepare`] measured.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// Shape by shape, the fastest first.
    pub measured: Vec<(Key, Vec<Timing>)>,
    /// Shapes that the budget left to what won most of the others.
    pub guessed: usize,
    /// Ways that compute wrongly here: `conv2d forward, subgroup LANES=8`.
    pub wrong: BTreeSet<String>,
    pub time: Duration,
    /// Where the winners are kept.
    pub cache: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Cache {
    adapter: String,
    driver: String,
    winners: Vec<Chosen>,
}

/// The environment variable that names another directory for the cache.
pub const CACHE_DIRECTORY: &str = "DIFFUSE_CACHE_DIR";

/// Time for what the cache lacks: most of it goes where there is most work, the rest is guessed.
fn budget(context: &Context) -> Duration {
    Duration::from_secs(if context.is_cpu() { 20 } else { 5 })
}

/// Puts the fastest known variants into `context`, and measures for what `record` asks and the cache in `directory` lacks.
///
/// # Errors
/// What `record` returns, or [`crate::error::Error::Device`] if the device fails. A cache that can't be read or written is
/// a warning.
pub fn prepare(
    context: &mut Context,
    mode: Mode,
    directory: Option<&Path>,
    record: impl FnOnce(&Arc<Choices>) -> Result<Vec<Recording>>,
) -> Result<Tuning> {
    let mut choices = context.choices.defaults();
    if mode == Mode::Off {
        return Ok(Tuning::default());
    }
    let cache = directory.map(|directory| directory.join(file_name(context)));
    if mode == Mode::Cached {
        cached(cache.as_ref()).into_iter().for_each(|chosen| choices.set(chosen.key, chosen.way));
    }
    let recordings = record(&Arc::new(choices.clone()))?;
    let mut tuning = Tuning { cache, ..Tuning::default() };
    let missing = missing(&recordings, &choices);
    if !missing.is_empty() {
        measure(context, mode, missing, &mut choices, &mut tuning)?;
        store(context, &choices, &tuning);
    }
    context.choices = Arc::new(choices);
    Ok(tuning)
}

/// What `choices` chose, for a file.
pub fn chosen(choices: &Choices) -> Vec<Chosen> {
    choices.iter().map(|(key, way)| Chosen { key: key.clone(), way: way.into() }).collect()
}

/// The variants that a file names, for this device.
pub fn restore(context: &mut Context, chosen: Vec<Chosen>) {
    let mut choices = context.choices.defaults();
    chosen.into_iter().for_each(|chosen| choices.set(chosen.key, chosen.way));
    context.choices = Arc::new(choices);
}

/// Shapes that can run in several ways here and have no winner yet; those with the most work first.
fn missing(recordings: &[Recording], choices: &Choices) -> Vec<(Key, &'static Ways)> {
    let several =
        |ways: &Ways| ways.candidates.iter().filter(|c| c.suits(&choices.device, choices.precision)).count() > 1;
    let asked = recordings.iter().flat_map(|recording| &recording.asked);
    let open = asked.filter(|(key, ways)| several(ways) && choices.get(key).is_none());
    let unique: BTreeMap<Key, &'static Ways> = open.map(|(key, ways)| (key.clone(), *ways)).collect();
    let mut all: Vec<_> = unique.into_iter().collect();
    let work = |key: &Key| key.shape.iter().map(|extent| (*extent).max(1) as f64).product::<f64>();
    all.sort_by(|(a, _), (b, _)| work(b).total_cmp(&work(a)));
    all
}

fn measure(
    context: &Context,
    mode: Mode,
    missing: Vec<(Key, &'static Ways)>,
    choices: &mut Choices,
    tuning: &mut Tuning,
) -> Result<()> {
    let start = Instant::now();
    let mut wins: BTreeMap<(String, String), BTreeMap<String, usize>> = BTreeMap::new();
    for (key, ways) in missing {
        let entry = (key.kernel.clone(), key.entry.clone());
        if mode == Mode::Cached && start.elapsed() > budget(context) {
            let most = wins.get(&entry).and_then(|wins| wins.iter().max_by_key(|(_, count)| **count));
            if let Some((way, _)) = most {
                choices.set(key, way.clone());
                tuning.guessed += 1;
            }
            continue;
        }
        let mut timings = tune::time(context, ways, &key.shape)?;
        for timing in timings.iter().filter(|timing| timing.deviation > MOST_DEVIATION) {
            let way = format!("{} {}, {}", key.kernel, key.entry, timing.candidate.label());
            if tuning.wrong.insert(way.clone()) {
                let name = &context.info.name;
                log::warn!("{name} computes {way} wrongly (deviation {:.1e}): not used", timing.deviation);
            }
        }
        timings.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let right = timings.iter().find(|timing| timing.deviation <= MOST_DEVIATION || timing.candidate.is_register());
        let way = right.expect("every device runs the variant register").candidate.label();
        *wins.entry(entry).or_default().entry(way.clone()).or_default() += 1;
        choices.set(key.clone(), way);
        tuning.measured.push((key, timings));
    }
    tuning.time = start.elapsed();
    Ok(())
}

/// Where the winners are kept: what [`CACHE_DIRECTORY`] names, or the user's cache directory, if there is one.
pub fn cache_directory() -> Option<PathBuf> {
    let named = std::env::var_os(CACHE_DIRECTORY).map(PathBuf::from);
    named.or_else(|| dirs::cache_dir().map(|directory| directory.join("diffuse")))
}

/// A file for each adapter, driver and state of the shaders.
fn file_name(context: &Context) -> String {
    let mut hasher = DefaultHasher::new();
    (&context.info.name, context.driver(), env!("CARGO_PKG_VERSION")).hash(&mut hasher);
    for kernel in crate::ops::ALL.iter().flat_map(|op| op.variants()) {
        [Precision::F32, Precision::F16].iter().for_each(|precision| kernel.source(*precision).hash(&mut hasher));
    }
    format!("tune-{:016x}.json", hasher.finish())
}

fn cached(path: Option<&PathBuf>) -> Vec<Chosen> {
    let Some(text) = path.and_then(|path| std::fs::read(path).ok()) else { return Vec::new() };
    match serde_json::from_slice::<Cache>(&text) {
        Ok(cache) => cache.winners,
        Err(error) => {
            log::warn!("{}: {error}; measuring again", path.map(|path| path.display().to_string()).unwrap_or_default());
            Vec::new()
        }
    }
}

/// Adds to what the file holds: other models' shapes stay.
fn store(context: &Context, choices: &Choices, tuning: &Tuning) {
    let Some(path) = &tuning.cache else { return };
    let mut winners: BTreeMap<Key, String> =
        cached(Some(path)).into_iter().map(|chosen| (chosen.key, chosen.way)).collect();
    winners.extend(choices.iter().map(|(key, way)| (key.clone(), way.to_string())));
    let winners = winners.into_iter().map(|(key, way)| Chosen { key, way }).collect();
    let cache = Cache { adapter: context.info.name.clone(), driver: context.driver(), winners };
    let text = serde_json::to_vec_pretty(&cache).expect("names and numbers");
    let directory = path.parent().map(std::fs::create_dir_all);
    let written = directory.transpose().map_err(|error| error.to_string());
    let written = written.and_then(|_| files::write_atomic(path, &text).map_err(|error| error.to_string()));
    if let Err(error) = written {
        log::warn!("what was tuned can't be kept: {}: {error}", path.display());
    }
}
