//! A model as a pipeline of diffusers: `model_index.json`, `unet/`, `scheduler/`.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Checkpoint, DIFFUSERS, PIPELINE, SCHEDULER, save_unet, write_json};
use crate::error::{Error, Result};
use crate::files;

/// Why a pipeline of diffusers that loads a model can't draw with it unedited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// It passes no labels to the network.
    Labels,
    /// It draws with its own class of scheduler alone: others scale the network's input, or take no generator.
    AnotherLoop,
}

impl Needs {
    /// What `model` needs, if anything.
    pub fn of(model: &Checkpoint) -> Option<Needs> {
        match model.scheduler.class_name.as_str() {
            _ if model.classes.is_some() => Some(Needs::Labels),
            "DDPMScheduler" | "DDIMScheduler" => None,
            _ => Some(Needs::AnotherLoop),
        }
    }
}

/// diffusers' class of the pipeline.
fn class(model: &Checkpoint) -> &'static str {
    if model.scheduler.class_name == "DDIMScheduler" { "DDIMPipeline" } else { "DDPMPipeline" }
}

/// Whether diffusers can draw with `model` what is drawn here.
///
/// # Errors
/// [`Error::Config`] names what it can't say.
fn check(model: &Checkpoint) -> Result<()> {
    let (config, scheduler) = (&model.unet.config, &model.scheduler);
    config.validate_denoiser()?;
    let Some(size) = config.sample_size else {
        return Err(Error::Config(
            "config.json has no sample_size, and diffusers' pipeline draws nothing without: --size says it".into(),
        ));
    };
    let (height, width) = size.sides();
    config.validate_size(height, width)?;
    let learned = scheduler.class_name == "DDPMScheduler" && scheduler.learns_variance();
    if config.learns_variance() && !learned {
        return Err(Error::Config(format!(
            "this network learns its variance (out_channels {}), which diffusers' {} of variance_type {} can't take: a \
             DDPMScheduler of learned_range can",
            config.out_channels, scheduler.class_name, scheduler.variance_type
        )));
    }
    if learned { config.validate_variance() } else { Ok(()) }
}

/// Writes `model` as the pipeline `directory`, whole or not at all. One that is there is replaced.
///
/// # Errors
/// [`Error::Config`] names what diffusers can't say, [`Error::File`] what can't be written.
pub fn export(model: &Checkpoint, directory: &Path) -> Result<()> {
    check(model)?;
    let scheduler = model.scheduler.for_diffusers()?;
    let index = json!({
        "_class_name": class(model),
        "_diffusers_version": DIFFUSERS,
        "scheduler": ["diffusers", model.scheduler.class_name],
        "unet": ["diffusers", model.unet.config.class_name],
    });
    files::replace_directory(directory, |fresh| {
        write_json(&fresh.join("scheduler").join(SCHEDULER), &scheduler)?;
        save_unet(&fresh.join("unet"), &model.unet, model.classes.as_ref(), &model.weights)?;
        write_json(&fresh.join(PIPELINE), &index)
    })
}

/// Whether a pipeline may be written to `directory`: where there is nothing, or over a pipeline if `replace` says so.
///
/// # Errors
/// [`Error::File`] says what is there instead.
pub fn check_place(directory: &Path, replace: bool) -> Result<()> {
    let refuse = |problem: &str| Err(Error::file(directory, problem));
    if directory.file_name().is_none() {
        return refuse("this can't be the name of a pipeline");
    }
    if directory.symlink_metadata().is_ok() && !directory.is_dir() {
        return refuse("this is a file; name a directory");
    }
    let is_filled = fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    match directory.join(PIPELINE).is_file() {
        true if !replace => return refuse("holds a pipeline already; --replace puts the new one in its place"),
        false if is_filled => return refuse("holds other files than a pipeline; name another directory"),
        _ => {}
    }
    // A file that would lie beside it can be written where it can.
    files::check_writable(&directory.with_extension("diffuse")).map_err(|error| match error {
        Error::File { problem, .. } => Error::file(directory, problem),
        error => error,
    })
}
