//! `diffuse evaluate --quality`: samples, drawn or read from a file, against training images.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::args::Args;
use super::found::Found;
use crate::cli::draw::{self, Drawing, Film, Method};
use crate::cli::output::say;
use diffuse::checkpoint::{Checkpoint, Classes, classifier};
use diffuse::data::{Dataset, Split};
use diffuse::diffusion::Sampler;
use diffuse::evaluate::quality::{self, nearest_pairs};
use diffuse::picture::{self, Images};
use diffuse::ranks::Ranks;
use diffuse::run::{Observer, Request, Session};
use diffuse::tensors;

/// The picture of samples beside what is nearest to them.
pub const NEAREST: &str = "nearest_neighbours.png";

/// Where samples come from.
enum Source<'a> {
    File(Images),
    Draw(Box<Drawing<'a>>, Sampler),
}

/// What is judged, and by whom.
pub struct Trial<'a> {
    judge: classifier::Checkpoint,
    source: Source<'a>,
    /// The class of each sample, if they have any.
    labels: Option<Vec<u32>>,
}

impl<'a> Trial<'a> {
    /// Loads what was asked for.
    pub fn load(
        args: &Args,
        (model, ranks): (&'a Checkpoint, Option<&'a dyn Ranks>),
        judge: &Path,
        split: &Split,
    ) -> Result<Trial<'a>> {
        let loaded = classifier::load(judge)?;
        let mut classes = model.classes.clone();
        let (source, labels) = match &args.samples {
            Some(path) => {
                let samples = read_samples(path)?;
                let labels = classes.as_ref().map(|classes| in_turn(samples.count as u32, classes));
                (Source::File(samples), labels)
            }
            None => {
                let (drawing, sampler) = drawing(args, model, ranks)?;
                classes = classes.or(drawing.classifier.as_ref().map(|classifier| classifier.classes.clone()));
                let labels = drawing.labels().map(<[u32]>::to_vec);
                (Source::Draw(Box::new(drawing), sampler), labels)
            }
        };
        let known = &loaded.classes;
        if let Some(classes) = classes.filter(|classes| classes.differs_from(known)) {
            let (known, drawn) = (known.listed(), classes.listed());
            bail!("{}: it knows {known}; what draws the samples knows {drawn}", judge.display());
        }
        let trial = Trial { judge: loaded, source, labels };
        trial.check(split)?;
        if let (Source::File(samples), Some(count)) = (&trial.source, args.count.filter(|_| args.samples.is_some()))
            && count != samples.count
        {
            bail!("--count {count}: the file of --samples holds {}, and all of them are judged", samples.count);
        }
        Ok(trial)
    }

    /// Refuses beforehand what the judge could not judge.
    fn check(&self, split: &Split) -> Result<()> {
        let count = match &self.source {
            Source::File(samples) => samples.count,
            Source::Draw(drawing, _) => drawing.request.count as usize,
        };
        quality::check_counts(count, split)?;
        if let Source::Draw(drawing, _) = &self.source {
            drawing.frame()?;
        }
        let Dataset { height, width, channels, .. } = split.test;
        let (known, unet) = (self.judge.classifier.config.sides()?, &self.judge.classifier.config.unet);
        if (known, unet.in_channels) != ((height, width), channels) {
            let (h, w) = known;
            let problem =
                format!("images of {h}x{w}x{}, the model draws {height}x{width}x{channels}", unet.in_channels);
            bail!("{}: it judges {problem}", self.judge.directory.display());
        }
        if let Source::File(Images { height: h, width: w, channels: c, .. }) = self.source
            && [h, w, c] != [height, width, channels].map(|extent| extent as usize)
        {
            bail!("samples of {h}x{w}x{c}, and a model of {height}x{width}x{channels}");
        }
        Ok(())
    }

    /// Draws if need be, and judges.
    pub fn run(self, args: &Args, session: &Session, split: &Split, found: &mut Found) -> Result<()> {
        let observer = Observer::new(session.another(), &self.judge.classifier, &self.judge.weights)?;
        let samples = match self.source {
            Source::File(samples) => samples,
            Source::Draw(drawing, sampler) => {
                let drawn = drawing.run(session.another(), &mut Film::none())?;
                found.drawn = Some(Method::of(&drawing, &sampler, drawn.evaluations));
                drawn.images
            }
        };
        let report = quality::judge(&observer, &samples, self.labels.as_deref(), split, args.seed.into())?;
        let path = args.out.join(NEAREST);
        let pairs = nearest_pairs(&samples, &split.train, &report.nearest, 20);
        picture::write_png(&path, &picture::grid(&pairs, 10, picture::default_scale(pairs.height)))?;
        found.files.push(path);
        found.quality = Some(report);
        Ok(())
    }
}

/// Each class in turn.
fn in_turn(count: u32, classes: &Classes) -> Vec<u32> {
    (0..count).map(|i| i % classes.count()).collect()
}

fn drawing<'a>(args: &Args, model: &'a Checkpoint, ranks: Option<&'a dyn Ranks>) -> Result<(Drawing<'a>, Sampler)> {
    let most = draw::MOST as usize;
    let count = args.count.unwrap_or(1000);
    if count > most {
        bail!("--count must be 1 to {most} with --quality");
    }
    let count = count as u32;
    let sampler = args.sampler.sampler(&model.scheduler, &args.variance)?;
    let labels = model.classes.as_ref().map(|classes| in_turn(count, classes));
    let guidance = draw::guidance(args.guidance, model, 1.0)?;
    let request = Request { labels, guidance, ..draw::request(model, &sampler, count, args.seed)? };
    let labels = |classes: &Classes| Ok(request.labels.clone().unwrap_or_else(|| in_turn(count, classes)));
    let (classifier, steering) = args.steering.load(model, labels)?.unzip();
    let request = Request { steering, ..request };
    Ok((Drawing { model, request, classifier, batch: args.batch, ranks }, sampler))
}

/// The tensor `samples` [N, C, H, W] of a file.
fn read_samples(path: &Path) -> Result<Images> {
    let mut file = tensors::read(path)?;
    let tensor = file.remove("samples").with_context(|| format!("{}: no tensor `samples`", path.display()))?;
    let Some((values, [count, height, width, channels])) = tensor.to_images() else {
        bail!("{}: samples must be [N, C, H, W]", path.display());
    };
    if let Some(value) = values.iter().find(|value| !(-1.001..=1.001).contains(*value)) {
        bail!(
            "{}: samples must be numbers from -1 to 1, as sample --tensor writes them; one is {value}",
            path.display()
        );
    }
    if values.iter().all(|value| *value >= 0.0) {
        say(format_args!("{}: no sample has a number below 0; -1 is black here, not 0", path.display()));
    }
    Ok(Images { values, count, height, width, channels })
}
