//! Checkpoint directories of classifiers: `config.json`, `classifier.safetensors`, `scheduler_config.json`.
//!
//! The configuration is that of the U-Net whose encoder half it is, without the keys of the other half, with `classes`
//! and a `_class_name` of its own.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{
    CHECKPOINT, CLASSIFIER, CONFIG, Classes, OLD, SCHEDULER, SchedulerConfig, flatten, read_json, unflatten, whole,
    write_json,
};
use crate::error::{Error, Result};
use crate::nn::{Classifier, ClassifierConfig, UNetConfig};
use crate::tensors;

/// `_class_name` of a classifier's configuration.
pub const CLASS_NAME: &str = "UNet2DClassifier";

/// Keys of a U-Net that say nothing of its encoder.
const DECODER_KEYS: [&str; 4] = ["out_channels", "up_block_types", "upsample_type", "num_class_embeds"];

/// A classifier out of a checkpoint directory.
pub struct Checkpoint {
    pub classifier: Classifier,
    /// What it tells apart.
    pub classes: Classes,
    /// The flat buffer of weights.
    pub weights: Vec<f32>,
    /// The noise that it was trained on.
    pub scheduler: SchedulerConfig,
    pub directory: PathBuf,
}

/// The directory that `path` names: itself, or its `checkpoint` (a run).
fn find(path: &Path) -> Result<PathBuf> {
    let places = [path.to_path_buf(), path.join(CHECKPOINT), path.join(OLD)];
    let found = places.into_iter().find(|place| place.join(CONFIG).is_file() && place.join(CLASSIFIER).is_file());
    found.ok_or_else(|| {
        let problem = if path.exists() {
            format!("no classifier: no {CONFIG} with {CLASSIFIER} here or in checkpoint/; train-classifier makes one")
        } else {
            "no such directory".into()
        };
        Error::file(path, problem)
    })
}

fn read_config(path: &Path) -> Result<ClassifierConfig> {
    let mut given: Map<String, Value> = read_json(path)?;
    if given.get("_class_name").and_then(Value::as_str) != Some(CLASS_NAME) {
        return Err(Error::file(path, format!("_class_name is not {CLASS_NAME}")));
    }
    let classes = given.remove("classes").and_then(|classes| classes.as_u64());
    let Some(classes) = classes.and_then(|classes| u32::try_from(classes).ok()) else {
        return Err(Error::file(path, "classes is no whole number"));
    };
    given.remove("_class_name");
    let mut unet: UNetConfig = serde_json::from_value(given.into()).map_err(|error| Error::file(path, error))?;
    // The half that isn't there: anything that fits.
    unet.out_channels = unet.in_channels;
    unet.up_block_types = vec!["UpBlock2D".into(); unet.block_out_channels.len()];
    Ok(ClassifierConfig { unet, classes })
}

/// Loads the classifier that `path` names: a checkpoint directory or a run.
///
/// # Errors
/// [`Error::File`] names the file and what is wrong with it.
pub fn load(path: &Path) -> Result<Checkpoint> {
    let directory = whole(path, &find(path)?, |name| [CONFIG, SCHEDULER, CLASSIFIER].contains(&name))?;
    let config = directory.join(CONFIG);
    let given: Map<String, Value> = read_json(&config)?;
    let classifier = Classifier::new(read_config(&config)?).map_err(|error| Error::file(&config, error))?;
    let model = directory.join(CLASSIFIER);
    let weights = flatten(&classifier.params, tensors::read(&model)?, &model)?;
    let scheduler = read_json(&directory.join(SCHEDULER))?;
    let classes = Classes::named(&given, classifier.config.classes, false);
    Ok(Checkpoint { classifier, classes, weights, scheduler, directory })
}

/// Writes configuration, `names` of the classes if there are any, weights and the schedule of the noise into `directory`.
///
/// # Errors
/// [`Error::File`] if a file can't be written.
pub fn save(
    directory: &Path,
    classifier: &Classifier,
    names: &[String],
    weights: &[f32],
    scheduler: &SchedulerConfig,
) -> Result<()> {
    let Ok(Value::Object(mut config)) = serde_json::to_value(&classifier.config.unet) else {
        return Err(Error::file(directory, "the configuration is no JSON object"));
    };
    config.retain(|key, _| !DECODER_KEYS.contains(&key.as_str()));
    config.insert("_class_name".into(), CLASS_NAME.into());
    Classes::write_names(&mut config, names);
    config.insert("classes".into(), classifier.config.classes.into());
    write_json(&directory.join(CONFIG), &config)?;
    write_json(&directory.join(SCHEDULER), scheduler)?;
    tensors::write(&directory.join(CLASSIFIER), &unflatten(&classifier.params, weights, ""))
}
