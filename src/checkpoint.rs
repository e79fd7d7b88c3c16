//! Checkpoint directories as diffusers has them: `config.json`, `diffusion_pytorch_model.safetensors`,
//! `scheduler_config.json`.

mod classes;
pub mod classifier;
mod json;
pub mod manifest;
pub mod pipeline;
mod place;
mod scheduler;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::nn::{Params, UNet, UNetConfig};
use crate::tensors::{self, FileTensor, FileTensors};

pub use classes::Classes;
use json::from_object;
pub use json::{read_json, write_json};
pub use place::{
    CHECKPOINT, CLASSIFIER, CONFIG, KEPT, MODEL, OLD, PIPELINE, Place, SCHEDULER, STEM, kept, kept_place, of_run,
};
pub use scheduler::SchedulerConfig;

/// What diffusers' `EMAModel` writes into the configuration of an average of weights: how it was averaged, not what it is of.
const EMA_KEYS: [&str; 7] =
    ["decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"];

/// A model out of a checkpoint directory.
pub struct Checkpoint {
    pub unet: UNet,
    /// What it can be asked for, if it is told a class.
    pub classes: Option<Classes>,
    /// The flat buffer of weights.
    pub weights: Vec<f32>,
    pub scheduler: SchedulerConfig,
    pub directory: PathBuf,
}

/// Reads a `config.json`; unknown keys are named in a warning and left alone.
///
/// # Errors
/// [`Error::File`] if it is no JSON object, or asks for what can't be built.
pub fn read_config(path: &Path) -> Result<UNetConfig> {
    config_of(read_json(path)?, path)
}

/// What the object out of the file `path` says of a model.
fn config_of(given: Map<String, Value>, path: &Path) -> Result<UNetConfig> {
    if given.contains_key("model") && given.contains_key("data") {
        return Err(Error::file(path, "the options of a run, not a model alone: --config takes them"));
    }
    let known = serde_json::to_value(UNetConfig::default()).map_err(|error| Error::file(path, error))?;
    let is_known = |key: &str| known.get(key).is_some() || EMA_KEYS.contains(&key) || key.starts_with('_');
    let unknown = |key: &&String| !is_known(key);
    let unknown: Vec<&str> = given.keys().filter(unknown).map(String::as_str).collect();
    if !unknown.is_empty() {
        log::warn!("{}: ignored, for this program does not know them: {}", path.display(), unknown.join(", "));
    }
    let mut config: UNetConfig = from_object(given, path)?;
    for name in config.down_block_types.iter_mut().chain(&mut config.up_block_types) {
        // What they were called in the first checkpoints of diffusers.
        *name = name.strip_prefix("UNetRes").unwrap_or(name).into();
    }
    config.validate().map_err(|error| Error::file(path, error))?;
    Ok(config)
}

/// Loads a checkpoint directory; the scheduler's configuration is searched beside the model and in a pipeline's
/// `scheduler`, and is diffusers' default without.
///
/// # Errors
/// [`Error::File`] names the file that is not as its manifest has it, or the tensor that is missing, extra, of another shape, or
/// not finite.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let mut place = Place::find(path)?;
    let whole = whole(path, &place.directory, |name| [CONFIG, SCHEDULER].contains(&name) || name.starts_with(STEM))?;
    if whole != place.directory {
        place = Place::find(&whole)?;
    }
    let directory = place.directory.clone();
    let given: Map<String, Value> = read_json(&directory.join(CONFIG))?;
    let unet = UNet::new(config_of(given.clone(), &directory.join(CONFIG))?)?;
    let classes = unet.config.num_class_embeds.map(|embeds| Classes::read(&given, embeds, &directory)).transpose()?;
    let (tensors, file) = place.tensors()?;
    let weights = flatten(&unet.params, tensors, file)?;
    // Beside the model, beside it in a pipeline, or above accelerate's checkpoints of a pipeline.
    let places = ["", "../scheduler", "../../scheduler"].map(|place| directory.join(place).join(SCHEDULER));
    let scheduler = match places.iter().find(|path| path.is_file()) {
        Some(path) => read_json(path)?,
        None => {
            log::warn!(
                "{}: no {SCHEDULER}, so this was trained on 1000 linear betas and predicts the noise, or images come out wrong",
                directory.display()
            );
            SchedulerConfig::default()
        }
    };
    Ok(Checkpoint { unet, classes, weights, scheduler, directory })
}

/// The checkpoint `found` if its files, as far as they are `wanted`, are as they were saved; else, where `path` is a run, the
/// newest before it of which that is true, which is said in a warning.
///
/// # Errors
/// Of [`manifest::check`], if there is none.
fn whole(path: &Path, found: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let others = of_run(path).into_iter().filter(|other| other != found);
    let (whole, wrong) = manifest::first_whole([found.into()].into_iter().chain(others).collect(), wanted)?;
    if let Some(manifest::Wrong { file, problem }) = wrong.first() {
        log::warn!("{}: {problem}; {} is taken instead", file.display(), whole.display());
    }
    Ok(whole)
}

/// What names begin with of a model that was saved inside torch's `compile` or `DataParallel`.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "_orig_mod."];

/// The name that today's diffusers gives a tensor of a wrapped model, or of an attention block of old.
fn today(name: &str) -> String {
    let name = WRAPPERS.iter().fold(name, |name, wrapper| name.strip_prefix(wrapper).unwrap_or(name));
    let Some((path, kind)) = name.rsplit_once('.') else { return name.into() };
    let Some((block, part)) = path.rsplit_once('.') else { return name.into() };
    let part = match part {
        "query" => "to_q",
        "key" => "to_k",
        "value" => "to_v",
        "proj_attn" => "to_out.0",
        _ => return name.into(),
    };
    format!("{block}.{part}.{kind}")
}

/// Packs a file's tensors into a flat buffer; each parameter must be there once, and nothing else.
///
/// # Errors
/// [`Error::File`] names the tensor that is missing, extra, of another shape, or not finite.
pub fn flatten(params: &Params, tensors: FileTensors, path: &Path) -> Result<Vec<f32>> {
    let mut named = FileTensors::new();
    for (name, tensor) in tensors {
        if named.insert(today(&name), tensor).is_some() {
            return Err(Error::file(path, format!("tensor {name} is there twice, under two names: {}", today(&name))));
        }
    }
    for parameter in &params.all {
        let name = &parameter.name;
        let refuse = |problem: String| Err(Error::file(path, format!("tensor {name} {problem}")));
        let Some(tensor) = named.get(name) else { return refuse("is missing".into()) };
        // A 1x1 convolution of old is a linear layer of today.
        let squeezed = |shape: &[usize]| shape.iter().copied().filter(|extent| *extent != 1).collect::<Vec<_>>();
        if tensor.shape != parameter.shape && squeezed(&tensor.shape) != squeezed(&parameter.shape) {
            return refuse(format!("has shape {:?}, the configuration makes it {:?}", tensor.shape, parameter.shape));
        }
        if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
            return refuse(format!("is not finite: element {index} is {}", tensor.values[index]));
        }
    }
    let known: HashSet<&str> = params.all.iter().map(|parameter| parameter.name.as_str()).collect();
    if let Some(name) = named.keys().find(|name| !known.contains(name.as_str())) {
        let extra = named.len() - known.len();
        let problem = format!("tensor {name} is not in the model that the configuration makes ({extra} extra)");
        return Err(Error::file(path, problem));
    }
    // A configuration can ask for more than any memory; what is allocated is what the file has.
    let mut flat = vec![0.0; params.elements as usize];
    params.all.iter().for_each(|parameter| parameter.pack(&named[&parameter.name].values, &mut flat));
    Ok(flat)
}

/// The table of class embeddings, a row a class; the null class comes last.
const CLASS_TABLE: &str = "class_embedding.weight";

/// `tensors`, of a model that knows the classes `then`, as a flat buffer for one like it of classes `now`: their rows go where the
/// classes of their names are, or their numbers where nobody gave names. New classes take the rows of the flat buffer `fresh`.
///
/// # Errors
/// [`Error::File`] names `place` and the tensor or the class that doesn't fit.
pub fn adopt(
    params: &Params,
    fresh: &[f32],
    mut tensors: FileTensors,
    (then, now): (Option<&Classes>, &[String]),
    place: &Path,
) -> Result<Vec<f32>> {
    let own = params.all.iter().find(|parameter| parameter.name == CLASS_TABLE);
    if let (Some(own), Some(old), Some(then)) = (own, tensors.get_mut(CLASS_TABLE), then)
        && old.shape[1..] == own.shape[1..]
    {
        let (width, mut values) = (own.shape[1], own.unpack(fresh));
        let row = |index: usize| index * width..(index + 1) * width;
        for (index, name) in then.names.iter().enumerate() {
            let found = if then.are_named { now.iter().position(|now| now == name) } else { Some(index) };
            let Some(to) = found.filter(|to| *to < now.len()) else {
                return Err(Error::file(place, format!("it knows the class {name}, which the data have not")));
            };
            values[row(to)].copy_from_slice(&old.values[row(index)]);
        }
        if then.has_null {
            values[row(own.shape[0] - 1)].copy_from_slice(&old.values[row(then.names.len())]);
        }
        *old = FileTensor { shape: own.shape.clone(), values };
    }
    flatten(params, tensors, place)
}

/// The tensors of a flat buffer under diffusers' names, each preceded by `prefix`.
pub fn unflatten(params: &Params, flat: &[f32], prefix: &str) -> FileTensors {
    let tensors = params.all.iter().map(|parameter| {
        let tensor = FileTensor { shape: parameter.shape.clone(), values: parameter.unpack(flat) };
        (format!("{prefix}{}", parameter.name), tensor)
    });
    tensors.collect()
}

/// Writes configuration, weights and scheduler into `directory`. Of a conditional model the last embedding is the null class,
/// the others are of the classes whose `names` these are; none are written if there are none.
///
/// # Errors
/// [`Error::File`] if a file can't be written.
pub fn save(
    directory: &Path,
    unet: &UNet,
    names: &[String],
    weights: &[f32],
    scheduler: &SchedulerConfig,
) -> Result<()> {
    let classes = unet.config.num_class_embeds.map(|embeds| Classes::of_run(names, embeds));
    write_json(&directory.join(SCHEDULER), &scheduler.to_json())?;
    save_unet(directory, unet, classes.as_ref(), weights)
}

/// The release of diffusers whose keys are written.
const DIFFUSERS: &str = "0.35.0";

/// Writes configuration and weights into `directory`, as `UNet2DModel.save_pretrained` does.
fn save_unet(directory: &Path, unet: &UNet, classes: Option<&Classes>, weights: &[f32]) -> Result<()> {
    let Ok(Value::Object(mut config)) = serde_json::to_value(&unet.config) else {
        return Err(Error::file(directory, "the configuration is no JSON object"));
    };
    if let (Some(classes), Some(embeds)) = (classes, unet.config.num_class_embeds) {
        classes.write(&mut config, embeds);
    }
    config.insert("_diffusers_version".into(), DIFFUSERS.into());
    write_json(&directory.join(CONFIG), &config)?;
    tensors::write(&directory.join(MODEL), &unflatten(&unet.params, weights, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_beyond_all_memory_is_not_allocated_for_a_file_that_has_none_of_it() {
        let names = |name: &str| vec![name.to_string()];
        let (down_block_types, up_block_types) = (names("DownBlock2D"), names("UpBlock2D"));
        let config = UNetConfig {
            block_out_channels: vec![65_536],
            layers_per_block: 64,
            down_block_types,
            up_block_types,
            ..UNetConfig::default()
        };
        let params = UNet::new(config).expect("it could be built").params;
        assert!(params.elements > 1 << 43);
        let error = flatten(&params, FileTensors::new(), Path::new("w")).expect_err("no tensors").to_string();
        assert_eq!(error, "w: tensor conv_in.weight is missing");
    }
}
