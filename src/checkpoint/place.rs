//! Where the files of a checkpoint are, in the layouts that diffusers, accelerate and this program write.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::json::read_json;
use crate::error::{Error, Result, list_names};
use crate::tensors::{self, FileTensors};

pub const CONFIG: &str = "config.json";
pub const MODEL: &str = "diffusion_pytorch_model.safetensors";
pub const SCHEDULER: &str = "scheduler_config.json";
/// Of a pipeline's parts.
pub const PIPELINE: &str = "model_index.json";
/// The weights of a classifier.
pub const CLASSIFIER: &str = "classifier.safetensors";

/// Of a run: its newest checkpoint, the one that makes way for it, and those that were kept before it, each `step_N`.
pub const CHECKPOINT: &str = "checkpoint";
pub const OLD: &str = "checkpoint.old";
pub const KEPT: &str = "checkpoints";
/// What the names of kept checkpoints begin with.
const STEP: &str = "step_";

/// The place among the checkpoints of the run in `directory` that one of `step` steps is kept in.
pub fn kept_place(directory: &Path, step: u64) -> PathBuf {
    directory.join(KEPT).join(format!("{STEP}{step:06}"))
}

/// The checkpoints that the run in `directory` has kept, with their steps: the first ones first.
pub fn kept(directory: &Path) -> Vec<(u64, PathBuf)> {
    let number = |name: &str| name.strip_prefix(STEP)?.parse::<u64>().ok();
    let entries = fs::read_dir(directory.join(KEPT)).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path())));
    let mut found: Vec<(u64, PathBuf)> = found.filter(|(_, place)| place.is_dir()).collect();
    found.sort();
    found
}

/// All checkpoints of the run in `directory`, the newest first.
pub fn of_run(directory: &Path) -> Vec<PathBuf> {
    let newest = [CHECKPOINT, OLD].map(|name| directory.join(name)).into_iter().filter(|place| place.is_dir());
    newest.chain(kept(directory).into_iter().rev().map(|(_, place)| place)).collect()
}

/// What names of weights begin with.
pub const STEM: &str = "diffusion_pytorch_model";
/// What names of weights end with that PyTorch pickled, or other frameworks wrote.
const NOT_READ: [&str; 7] = ["bin", "ckpt", "pt", "pth", "msgpack", "h5", "onnx"];

/// A model's `config.json` and weights.
pub struct Place {
    /// Where `config.json` is.
    pub directory: PathBuf,
    weights: PathBuf,
    /// Whether the weights were asked for by their path.
    is_asked_for: bool,
}

impl Place {
    /// What `path` names: weights with a `config.json` beside them, or a directory of both: itself, its `checkpoint` (a run), its
    /// `unet_ema` or `unet` (accelerate, a pipeline), or the directory that its `model_index.json` gives a `UNet2DModel`.
    ///
    /// # Errors
    /// [`Error::File`] says what is there in place of that.
    pub fn find(path: &Path) -> Result<Place> {
        if path.is_file() {
            return of_file(path);
        }
        let names = ["", CHECKPOINT, OLD, "unet_ema", "unet"].map(String::from);
        let places = names.into_iter().chain(component(path)?).map(|name| path.join(name));
        // The `config.json` of a run lies above its checkpoint, with no weights beside it.
        let mut nothing = None;
        for directory in places.filter(|place| place.join(CONFIG).is_file()) {
            match weights_in(&directory)? {
                Some(weights) => return Ok(Place { directory, weights, is_asked_for: false }),
                None => nothing = nothing.or(Some(directory)),
            }
        }
        Err(match nothing {
            _ if !path.exists() => Error::file(path, "no such directory"),
            Some(directory) => Error::file(&directory, absent(&directory)),
            None => {
                Error::file(path, format!("no {CONFIG} with {MODEL} here, in checkpoint/ or in unet/{}", below(path)))
            }
        })
    }

    /// The tensors of all files, and the file to name where one is wrong.
    ///
    /// # Errors
    /// [`Error::File`] if a file can't be read or is missing.
    pub fn tensors(&self) -> Result<(FileTensors, &Path)> {
        let name = name_of(&self.weights);
        if !self.is_asked_for && name != MODEL && name != plain_index() {
            log::warn!("{}: no {MODEL}, so {name} it is", self.directory.display());
        }
        let mut all = FileTensors::new();
        for file in files(&self.weights)? {
            all.extend(tensors::read(&file)?);
        }
        Ok((all, &self.weights))
    }
}

fn of_file(path: &Path) -> Result<Place> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => {}
        Some("json") if is_index(&name_of(path)) => {}
        Some(ending) if NOT_READ.contains(&ending) => return Err(Error::file(path, conversion(&directory))),
        _ => return Err(Error::file(path, format!("no weights: a checkpoint is a directory of {CONFIG} and {MODEL}"))),
    }
    if !directory.join(CONFIG).is_file() {
        return Err(Error::file(path, format!("no {CONFIG} beside it, which says what these weights are of")));
    }
    Ok(Place { directory, weights: path.into(), is_asked_for: true })
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// An index names the file of each tensor: `NAME.safetensors.index.json`, of a variant `NAME.safetensors.index.fp16.json`.
fn is_index(name: &str) -> bool {
    name.contains(".safetensors.index.") && name.ends_with(".json")
}

fn plain_index() -> String {
    format!("{MODEL}.index.json")
}

/// The directory of the U-Net of a pipeline.
fn component(pipeline: &Path) -> Result<Option<String>> {
    let path = pipeline.join(PIPELINE);
    if !path.is_file() {
        return Ok(None);
    }
    let index: Map<String, Value> = read_json(&path)?;
    let is_unet = |kind: &Value| kind.get(1).and_then(Value::as_str) == Some("UNet2DModel");
    let found = index.iter().find(|(_, kind)| is_unet(kind)).map(|(name, _)| name.clone());
    if found.is_none() {
        let class = index.get("_class_name").and_then(Value::as_str).unwrap_or("a pipeline");
        return Err(Error::file(
            &path,
            format!("{class} without a UNet2DModel, which is what this program draws with"),
        ));
    }
    let decoder = index.iter().find(|(name, kind)| ["vae", "vqvae"].contains(&name.as_str()) && !kind[0].is_null());
    if let Some((name, _)) = decoder {
        return Err(Error::file(
            &path,
            format!("a pipeline of latents: its {name} makes images of them, and is not read"),
        ));
    }
    // A name, not a way out of the pipeline.
    Ok(found.filter(|name| is_plain(name)))
}

fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|last| last == name)
}

/// The index of the weights in `directory`, or their file: the plain one, else that of the one variant there is.
fn weights_in(directory: &Path) -> Result<Option<PathBuf>> {
    // In diffusers' order.
    for name in [plain_index(), MODEL.to_string()] {
        if directory.join(&name).is_file() {
            return Ok(Some(directory.join(name)));
        }
    }
    let names = weights_like(directory);
    let is_shard = |name: &str| name.contains("-of-");
    let variants: Vec<&String> =
        names.iter().filter(|name| is_index(name) || name.ends_with(".safetensors") && !is_shard(name)).collect();
    match variants[..] {
        [] => Ok(None),
        [one] => Ok(Some(directory.join(one))),
        _ => {
            let all: Vec<&str> = variants.iter().map(|name| name.as_str()).collect();
            Err(Error::file(directory, format!("several variants, give the path of one: {}", all.join(", "))))
        }
    }
}

/// The names in `directory` that weights have, in order.
fn weights_like(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| name_of(&entry.path())).collect();
    names.retain(|name| name.starts_with(STEM));
    names.sort();
    names
}

/// The checkpoints that lie in `directory` under other names.
fn below(directory: &Path) -> String {
    let holds = |path: &PathBuf| ["", "unet", "unet_ema"].iter().any(|name| path.join(name).join(CONFIG).is_file());
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.retain(holds);
    found.sort();
    let names: Vec<String> = found.iter().map(|path| name_of(path)).collect();
    if names.is_empty() { String::new() } else { format!("; but in {}: give one", list_names(&names)) }
}

/// What is said where there are no weights that are read.
fn absent(directory: &Path) -> String {
    if directory.join(CLASSIFIER).is_file() {
        return "a classifier: --classifier takes it, and evaluate --judge".into();
    }
    let names = weights_like(directory);
    let ending =
        |name: &String| Path::new(name).extension().is_some_and(|it| NOT_READ.iter().any(|other| it == *other));
    match (names.iter().find(|name| ending(name)), names.first()) {
        (Some(name), _) => format!("{name}: {}", conversion(directory)),
        (None, Some(name)) => format!("no {MODEL}, only {name}, of which the index is missing"),
        (None, None) => format!("{CONFIG} without {MODEL}"),
    }
}

fn conversion(directory: &Path) -> String {
    let place = directory.display();
    format!(
        "weights of this kind are not read; diffusers writes them as safetensors: \
         UNet2DModel.from_pretrained({place:?}, use_safetensors=False).save_pretrained({place:?})",
        place = place.to_string()
    )
}

/// The files of the weights: what an index lists, or the file itself.
fn files(weights: &Path) -> Result<BTreeSet<PathBuf>> {
    if !is_index(&name_of(weights)) {
        return Ok(BTreeSet::from([weights.into()]));
    }
    let index: Map<String, Value> = read_json(weights)?;
    let wrong = |what: &str| Error::file(weights, format!("{what}: no index of safetensors files"));
    let map = index.get("weight_map").and_then(Value::as_object).ok_or_else(|| wrong("no weight_map"))?;
    let files = map.values().map(|name| match name.as_str() {
        Some(name) if is_plain(name) => Ok(weights.with_file_name(name)),
        _ => Err(wrong(&name.to_string())),
    });
    files.collect()
}
