//! Flags of `sample` that start from a picture, keep a part of it, or go from one seed to another.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::output::say;
use super::outputs::{Input, input};
use diffuse::data;
use diffuse::diffusion::{Sampler, Schedule};
use diffuse::run::{Known, Start};

/// Flags of editing.
#[derive(clap::Args)]
#[group(id = "editing")]
pub struct Flags {
    /// Image to start from, instead of noise
    #[arg(long, value_name = "IMAGE")]
    from: Option<PathBuf>,
    /// Share of the steps that are taken from there, above 0 to 1: how much may change [default: 0.6; with --mask 1]
    #[arg(long, value_name = "S", requires = "from")]
    strength: Option<f64>,
    /// Black or transparent where the image of --from stays, white where it is painted anew, grey for a part of each; as
    /// large as that image, or as the model's
    #[arg(long, value_name = "MASK.png", requires = "from")]
    mask: Option<PathBuf>,
    /// From the first image of one seed to that of another, in --count images
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["from", "seed"])]
    interpolate: Option<Vec<u32>>,
}

/// What editing asks of a request.
pub struct Edit {
    pub start: Start,
    pub known: Option<Known>,
    /// Standard deviation of the noise to start from.
    pub initial_scale: f64,
}

impl Flags {
    /// Whether all images are to be of one class if none is named.
    pub fn is_of_one_class(&self) -> bool {
        self.interpolate.is_some()
    }

    /// The seeds between which images are drawn, if they are.
    pub fn seeds(&self) -> Option<Vec<u32>> {
        self.interpolate.clone()
    }

    /// The files that are read, by their flags.
    pub fn files(&self) -> [Option<Input<'_>>; 2] {
        [input("--from", self.from.as_deref()), input("--mask", self.mask.as_deref())]
    }

    /// Adds what is asked for to an object.
    pub fn describe(&self, object: &mut Value) {
        object["from"] = json!(self.from);
        object["mask"] = json!(self.mask);
        object["strength"] = json!(self.from.as_ref().map(|_| self.strength()));
    }

    /// The share of the steps that are taken.
    pub fn strength(&self) -> f64 {
        let of_image = if self.from.is_some() && self.mask.is_none() { 0.6 } else { 1.0 };
        self.strength.unwrap_or(of_image)
    }

    /// Reads the images, for a model of `shape` (H, W, C) and a sampler whose strength is set.
    ///
    /// # Errors
    /// One line that names the file or the flag.
    pub fn read(&self, shape: [u32; 3], count: u32, sampler: &Sampler, schedule: &Schedule) -> Result<Edit> {
        let initial_scale = sampler.initial_scale(schedule);
        if let Some(seeds) = &self.interpolate {
            if count < 2 {
                bail!("--interpolate needs --count 2 or more");
            }
            let start = Start::Between { seeds: [seeds[0].into(), seeds[1].into()] };
            return Ok(Edit { start, known: None, initial_scale });
        }
        let Some(path) = &self.from else { return Ok(Edit { start: Start::Noise, known: None, initial_scale }) };
        let picture = data::load_image(path, shape)?;
        let [height, width, _] = shape;
        match picture.changes.said(1).as_str() {
            "" => {}
            changed => say(format_args!("{}: {height}x{width}{changed}", path.display())),
        }
        let image: Vec<f32> = picture.bytes.iter().map(|byte| *byte as f32 / 127.5 - 1.0).collect();
        let known = match &self.mask {
            Some(path) => {
                let mask = data::load_mask(path, shape, picture.changes.largest)?;
                if let Some(odd) = odd(&mask) {
                    say(format_args!("{}: {odd}", path.display()));
                }
                let mask = mask.iter().map(|byte| 1.0 - *byte as f32 / 255.0).collect();
                Some(Known { image: image.clone(), mask })
            }
            None => None,
        };
        if sampler.strength == 1.0 {
            return Ok(Edit { start: Start::Noise, known, initial_scale });
        }
        let level = sampler.program(schedule)?.start();
        Ok(Edit { start: Start::Image { image, scale: level.alpha }, known, initial_scale: level.sigma })
    }
}

/// What is worth a line of a mask of these bytes, of 0 what stays to 255 what is painted anew.
fn odd(mask: &[u8]) -> Option<String> {
    /// What a filter leaves of white at the least.
    const WHITE: u8 = 250;
    match (mask.iter().min(), mask.iter().max()) {
        (_, Some(0)) => Some("black or transparent all over: nothing is painted anew".into()),
        (_, Some(brightest)) if *brightest < WHITE => {
            Some(format!("its brightest part is {brightest} of 255, and white alone is painted anew as a whole"))
        }
        (Some(darkest), _) if *darkest > 0 => {
            Some("black or transparent nowhere: no part of the picture is kept".into())
        }
        _ => None,
    }
}
