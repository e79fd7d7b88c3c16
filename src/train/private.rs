//! What a private run keeps and what it tells: the ledger in `private/`, and `privacy.json` beside the model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::checkpoint;
use crate::error::{Error, Result, counted};
use crate::files;
use crate::privacy::truncation::{self, SHARE};
use crate::privacy::{self, Epsilon, PrivacyError, SampledGaussian};
use crate::run::TrainOptions;
use crate::run::private::Mechanism;

/// What is never to be published with a run.
pub const PRIVATE: &str = "private";
const LEDGER: &str = "ledger.json";
/// What is promised, beside the model.
pub const PRIVACY: &str = "privacy.json";
/// Says so in the directory itself.
const NOTICE: &str = "DO_NOT_PUBLISH.txt";
const TEXT: &str = "What is in this directory tells of single images of the training data.\n\
                    None of it is private: never publish it with the model.\n";

/// What may cost more than the budget by rounding alone.
const SLACK: f64 = 1.0 + 1e-9;

/// Where a run keeps what it writes beside its checkpoints: in private/ if it is private.
pub(super) fn beside(directory: &Path, options: &TrainOptions) -> PathBuf {
    if options.is_private() { directory.join(PRIVATE) } else { directory.into() }
}

/// Makes, in a run's directory, the place of what is never to be published. It says so itself, and nobody but its owner may look into it.
///
/// # Errors
/// [`Error::File`] if it can't be made.
pub(super) fn prepare(directory: &Path) -> Result<PathBuf> {
    let place = directory.join(PRIVATE);
    files::create_closed_directory(&place).map_err(|error| Error::file(&place, error))?;
    files::write_atomic(&place.join(NOTICE), TEXT.as_bytes())?;
    Ok(place)
}

fn refused(error: PrivacyError) -> Error {
    Error::Config(error.to_string())
}

/// What a run spends, by its options with noise and places known.
#[derive(Clone, Copy, Debug)]
struct Terms {
    images: u64,
    sampling: f64,
    noise: f64,
    places: u64,
    delta: f64,
    budget: Option<f64>,
}

impl Terms {
    fn of(options: &TrainOptions, images: u64) -> Terms {
        Terms {
            images,
            sampling: f64::from(options.batch) / images as f64,
            noise: options.dp_noise.unwrap_or(f64::NAN),
            places: options.passes().into(),
            delta: options.dp_delta.unwrap_or(f64::NAN),
            budget: options.dp_epsilon,
        }
    }

    /// The delta that is left for the noise.
    fn of_noise(&self) -> f64 {
        self.delta * (1.0 - SHARE)
    }

    fn epsilon(&self, steps: u64) -> Result<Epsilon> {
        let Terms { sampling, noise, .. } = *self;
        SampledGaussian { sampling, noise, steps }.epsilon(self.of_noise()).map_err(refused)
    }

    fn truncation(&self, steps: u64, epsilon: f64) -> f64 {
        truncation::delta(self.images, self.sampling, self.places, steps, epsilon)
    }

    /// Whether so many steps keep within the budget and the places are enough for them.
    fn check(&self, steps: u64, taken: u64) -> Result<()> {
        let epsilon = self.epsilon(steps)?.pld;
        if let Some(budget) = self.budget.filter(|budget| epsilon > budget * SLACK) {
            let allowed = privacy::steps_for(budget, self.of_noise(), self.sampling, self.noise).map_err(refused)?;
            return Err(Error::Config(format!(
                "the budget would be passed: {} cost epsilon {epsilon:.4} of --dp-epsilon {budget}, which allows {allowed}, {taken} of \
                 them taken",
                counted(steps, "step")
            )));
        }
        let cost = self.truncation(steps, epsilon);
        if cost > SHARE * self.delta {
            let share = SHARE * self.delta;
            let places = truncation::places(self.images, self.sampling, steps, epsilon, share);
            return Err(Error::Config(format!(
                "--dp-places {}: that more images join a step costs delta {cost:.1e} in {}, more than a hundredth of --dp-delta; \
                 {places} are enough",
                self.places,
                counted(steps, "step")
            )));
        }
        Ok(())
    }
}

/// `options` of a private run on so many images, with the noise and the places that its budget asks for.
///
/// # Errors
/// [`Error::Config`] if there are none, or more would be spent than the budget.
pub fn resolve(options: &TrainOptions, images: u64) -> Result<TrainOptions> {
    let mut options = options.clone();
    if !options.is_private() {
        return Ok(options);
    }
    options.validate()?;
    let mut terms = Terms::of(&options, images);
    if terms.delta * images as f64 > 1.0 {
        let most = 1.0 / images as f64;
        let problem = format!("--dp-delta {:e} is above 1/{images}: whole images could be published", terms.delta);
        return Err(Error::Config(format!("{problem}; at most {most:.1e}, better a tenth of that")));
    }
    Mechanism::check_batch(&options, images)?;
    if let (None, Some(epsilon)) = (options.dp_noise, options.dp_epsilon) {
        let noise = privacy::noise_for(epsilon, terms.of_noise(), terms.sampling, options.steps).map_err(refused)?;
        terms.noise = noise.pld;
        options.dp_noise = Some(noise.pld);
    }
    if options.dp_places.is_none() {
        let epsilon = terms.epsilon(options.steps)?.pld;
        let share = SHARE * terms.delta;
        let places = truncation::places(images, terms.sampling, options.steps, epsilon, share).max(1);
        options.dp_places = Some(u32::try_from(places).unwrap_or(u32::MAX));
        terms.places = places;
    }
    options.validate()?;
    terms.check(options.steps, 0)?;
    Ok(options)
}

/// What was spent on a data set. It only grows: what was released stays so, whichever checkpoint a run goes back to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ledger {
    /// Of the images, which checkpoints of a private run don't hold: one digest tells two data sets apart.
    pub digest: String,
    images: u64,
    batch: u32,
    noise: f64,
    places: u32,
    clip: f64,
    draws: u32,
    delta: f64,
    /// Whether anybody can repeat what was drawn in secret.
    seeded: bool,
    /// Steps whose outcome was saved, or is about to be.
    steps: u64,
    /// Images that joined each step, as far as they were heard of.
    pub sizes: Vec<u32>,
}

impl Ledger {
    /// Nothing is spent yet.
    pub fn new(options: &TrainOptions, images: u64, digest: String) -> Ledger {
        Ledger {
            digest,
            images,
            batch: options.batch,
            noise: options.dp_noise.unwrap_or(f64::NAN),
            places: options.passes(),
            clip: options.clip(),
            draws: options.rows(),
            delta: options.dp_delta.unwrap_or(f64::NAN),
            seeded: options.dp_seed.is_some(),
            steps: 0,
            sizes: Vec::new(),
        }
    }

    /// That of the run in `directory`, of which a checkpoint stands at `step` steps.
    ///
    /// # Errors
    /// [`Error::File`] if it is missing, of another run, or says less than the checkpoint.
    pub fn open(directory: &Path, checkpoint: &Path, options: &TrainOptions, step: u64) -> Result<Ledger> {
        let path = directory.join(PRIVATE).join(LEDGER);
        if !path.is_file() {
            return Err(Error::file(
                path,
                "missing: without it nobody knows what this run has spent, and none can go on",
            ));
        }
        let ledger: Ledger = checkpoint::read_json(&path)?;
        let told: Value = checkpoint::read_json(&checkpoint.join(PRIVACY))?;
        let own = Ledger::new(options, ledger.images, ledger.digest.clone());
        if (Ledger { steps: ledger.steps, sizes: ledger.sizes.clone(), ..own }) != ledger {
            return Err(Error::file(path, "the ledger of another run: its numbers are not those of the checkpoint"));
        }
        let least = told["steps"].as_u64().unwrap_or(u64::MAX).max(step);
        if ledger.steps < least {
            let problem = format!(
                "{} in the ledger, and {} has spent {least}: it was shortened",
                counted(ledger.steps, "step"),
                checkpoint.display()
            );
            return Err(Error::file(path, problem));
        }
        Ok(ledger)
    }

    /// Steps that are spent.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The same with so many steps spent, all of a run.
    pub fn charged(&self, steps: u64) -> Ledger {
        Ledger { steps, ..self.clone() }
    }

    /// Writes it into the run's directory, before the outcome of its steps can be seen. What was entered there before stays spent.
    ///
    /// # Errors
    /// [`Error::File`] if it can't be written: the outcome must not be saved then.
    pub fn enter(&self, directory: &Path) -> Result<()> {
        let place = prepare(directory)?.join(LEDGER);
        let before = checkpoint::read_json::<Ledger>(&place).map_or(0, |ledger| ledger.steps);
        checkpoint::write_json(&place, &self.charged(self.steps.max(before)))
    }

    fn terms(&self, budget: Option<f64>) -> Terms {
        let Ledger { images, noise, delta, .. } = *self;
        let sampling = f64::from(self.batch) / images as f64;
        Terms { images, sampling, noise, places: self.places.into(), delta, budget }
    }

    /// Whether `more` steps may follow.
    ///
    /// # Errors
    /// [`Error::Config`] if they would pass the budget.
    pub fn check(&self, more: u64, budget: Option<f64>) -> Result<()> {
        self.terms(budget).check(self.steps + more, self.steps)
    }

    /// What is promised of a model after `steps` of its own, all that was spent counted.
    ///
    /// # Errors
    /// [`Error::Config`] if it can't be accounted.
    pub fn statement(&self, steps: u64, budget: Option<f64>) -> Result<Value> {
        let terms = self.terms(budget);
        let epsilon = terms.epsilon(self.steps)?;
        let mut told = json!({
            "private": !self.seeded,
            "mechanism": "DP-SGD: images join by secret coins (Poisson sampling), each image's gradient is clipped, Gaussian noise",
            "adjacency": "add or remove one image",
            "epsilon": { "pld": epsilon.pld, "rdp": epsilon.rdp, "rdp_order": epsilon.order },
            "delta": self.delta,
            "delta_of_truncation": terms.truncation(self.steps, epsilon.pld),
            "budget": budget,
            "steps": self.steps,
            "steps_of_this_model": steps,
            "images": self.images,
            "expected_batch": self.batch,
            "sampling_rate": terms.sampling,
            "noise_multiplier": self.noise,
            "clip": self.clip,
            "draws": self.draws,
            "places": self.places,
            "covered": COVERED,
            "not_covered": NOT_COVERED,
        });
        if self.seeded {
            told["warning"] =
                "made with --dp-seed: anybody can repeat its coins and noise, so that nothing is private".into();
        }
        Ok(told)
    }

    /// The same in a line.
    ///
    /// # Errors
    /// As [`Ledger::statement`].
    pub fn line(&self, steps: u64) -> Result<String> {
        let terms = self.terms(None);
        let Epsilon { pld, rdp, .. } = terms.epsilon(steps)?;
        let Ledger { delta, noise, clip, draws, places, .. } = self;
        let seeded = if self.seeded { "NOT PRIVATE (--dp-seed): as if " } else { "" };
        Ok(format!(
            "{seeded}epsilon {pld:.4} by PLD, {rdp:.4} by RDP, at delta {delta:e} after {} (add or remove one image; q {:.6}, noise \
             {noise:.4}, clip {clip}, {draws} draws, {places} places)",
            counted(steps, "step"),
            terms.sampling
        ))
    }
}

const COVERED: [&str; 3] = [
    "weights, their average and the optimizer's moments, of this and all checkpoints of the run",
    "whatever is computed from them without the training images: samples, other evaluations",
    "augmentation, hidden classes, draws of timestep and noise: they are of one image each and cost nothing",
];

const NOT_COVERED: [&str; 5] = [
    "everything in private/ of the run: losses, sizes of steps, sample grids, counts of classes, the data's digest",
    "what a terminal showed of the run",
    "the number of images, the names of the classes and the size of the images",
    "choices that somebody made by looking at the training images or at what is in private/, other runs included",
    "weights that the run began with, on the data that those were trained on",
];
