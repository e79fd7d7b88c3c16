//! Runs: what they write and where, what the ledger holds them to.

use std::collections::BTreeMap;
use std::path::Path;

use diffuse::data::Dataset;
use diffuse::gpu::Context;
use diffuse::nn::config::Size;
use diffuse::privacy::steps_for;
use diffuse::run::TrainOptions;
use diffuse::train::private::resolve;
use diffuse::train::{Over, Run, Stored, Watch, run};
use diffuse::tune::Policy;

use super::common::{context, dataset, model, options};
use super::private;

/// Stops behind some steps, and listens.
#[derive(Default)]
struct Ear {
    stop_at: Option<u64>,
    seen: u64,
    notes: Vec<String>,
}

impl Watch for Ear {
    fn step(&mut self, metrics: &diffuse::run::Metrics, _: f64) {
        self.seen = metrics.step;
    }

    fn note(&mut self, line: &str) {
        self.notes.push(line.into());
    }

    fn stop(&self) -> bool {
        self.stop_at.is_some_and(|stop| self.seen >= stop)
    }
}

/// Of the embedded digits at 8x8, with as many places as they need.
fn of_digits(steps: u64) -> TrainOptions {
    let mut options = TrainOptions { model: model(10), dp_places: None, dp_delta: Some(1e-5), ..private(1, 2, 1.0) };
    options.model.sample_size = Some(Size::Square(8));
    TrainOptions { steps, batch: 3, flip: None, ..options }
}

fn create<'a>(
    context: &'a Context,
    place: &Path,
    options: &TrainOptions,
    data: &Dataset,
) -> diffuse::error::Result<Run<'a>> {
    Run::create(context, &Policy::default(), place, options.clone(), data, (Over::Nothing, None))
}

fn resume<'a>(
    context: &'a Context,
    place: &Path,
    change: impl Fn(&mut TrainOptions),
) -> diffuse::error::Result<Run<'a>> {
    let stored = Stored::open(place)?;
    let mut options = stored.options().clone();
    change(&mut options);
    Run::resume(context, &Policy::default(), stored, options, None)
}

/// All files of a directory but those in private/, by their paths in it.
fn published(place: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(place).expect("a directory").flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path.is_dir() && name != "private" {
            files.extend(published(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else if path.is_file() {
            files.insert(name, std::fs::read(path).expect("a file"));
        }
    }
    files
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("it was written")).expect("JSON")
}

#[track_caller]
fn refused<T>(result: diffuse::error::Result<T>, said: &str) {
    let error = result.err().unwrap_or_else(|| panic!("nothing says {said}")).to_string();
    assert!(error.contains(said) && !error.contains('\n'), "{error}");
}

#[test]
fn a_run_that_goes_on_has_the_bits_of_one_that_was_never_stopped() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let mut options = of_digits(6);
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    let [whole, parts] = ["whole", "parts"].map(|name| place.path().join(name));
    assert!(create(&context, &whole, &options, &data).unwrap().train(&mut Ear::default()).unwrap());
    let mut ear = Ear { stop_at: Some(2), ..Ear::default() };
    assert!(!create(&context, &parts, &options, &data).unwrap().train(&mut ear).unwrap());
    assert!(resume(&context, &parts, |_| ()).unwrap().train(&mut Ear::default()).unwrap());
    let [whole, parts] = [whole, parts].map(|run| {
        let metrics = std::fs::read_to_string(run.join("private/metrics.csv")).expect("it was written");
        let lines: Vec<String> =
            metrics.lines().map(|line| line.split(',').take(4).collect::<Vec<_>>().join(",")).collect();
        (published(&run.join("checkpoint")), lines, json(&run.join("private/ledger.json")))
    });
    assert_eq!(whole.0.keys().collect::<Vec<_>>(), parts.0.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole.0 {
        assert!(*bytes == parts.0[name] || name == "manifest.json", "{name} differs");
    }
    assert_eq!((whole.1.len(), &whole.1, &whole.2), (7, &parts.1, &parts.2));
    assert_eq!((&whole.2["steps"], whole.2["sizes"].as_array().map(Vec::len)), (&6.into(), Some(6)));
}

#[test]
fn what_is_published_holds_nothing_secret_and_all_that_tells_of_images_is_in_private() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let options = TrainOptions {
        dp_seed: None,
        steps: 4,
        sample_every: 2,
        sample_steps: 2,
        checkpoint_every: 2,
        dp_places: None,
        dp_delta: Some(0.1),
        ..private(9, 2, 1.0)
    };
    let run = |name: &str, data: &Dataset| {
        let mut ear = Ear::default();
        let place = place.path().join(name);
        let mut run = create(&context, &place, &options, data).unwrap();
        assert!(run.train(&mut ear).unwrap());
        let files = published(&place);
        let lottery = run.trainer().lottery().expect("it is private");
        for (file, bytes) in &files {
            assert!(!lottery.secret_is_in(bytes), "{file} holds the key");
            let holds = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
            for place in lottery.places() {
                assert!(!holds(bytemuck::cast_slice(&place.key)), "{file} holds the key of a place");
            }
        }
        let notes: Vec<String> = ear.notes.iter().map(|note| note.replace(name, "RUN")).collect();
        (place, files, notes)
    };
    let data = dataset(9, 3);
    let (place, files, notes) = run("with", &data);
    let names: Vec<&String> = files.keys().filter(|name| !name.starts_with("checkpoint")).collect();
    assert_eq!(names, ["config.json"]);
    let files_of = ["ledger.json", "metrics.csv", "data.json", "loss.png", "report.html", "samples/step_000002.png"];
    for file in files_of.iter().chain(&["DO_NOT_PUBLISH.txt"]) {
        assert!(place.join("private").join(file).is_file(), "{file}");
    }
    let report = std::fs::read_to_string(place.join("private/report.html")).unwrap();
    assert!(report.contains("never to be published") && !report.contains("training images of class"), "{report}");
    let state = json(&place.join("checkpoint/trainer.json"));
    assert!(state["digest"].is_null() && state.get("mean_loss").is_none(), "{state}");
    let told = json(&place.join("checkpoint/privacy.json"));
    assert_eq!((&told["private"], &told["steps"], &told["images"]), (&true.into(), &4.into(), &9.into()));
    let (pld, rdp) = (told["epsilon"]["pld"].as_f64().unwrap(), told["epsilon"]["rdp"].as_f64().unwrap());
    assert!(0.0 < pld && pld <= rdp, "{pld} {rdp}");
    // Of as many images, one of them another: the same files of the same sizes, and the same is said.
    let mut other = dataset(9, 3);
    let mut images = other.images.to_vec();
    images[8 * 64..].fill(0);
    other.images = images.into();
    let (_, others, said) = run("without", &other);
    let sizes = |files: &BTreeMap<String, Vec<u8>>| -> Vec<String> { files.keys().cloned().collect() };
    assert_eq!(sizes(&files), sizes(&others));
    assert_eq!(notes, said);
}

#[test]
fn the_ledger_counts_what_was_spent_whatever_is_gone_back_to() {
    let context = context();
    let place = tempfile::tempdir().expect("a place for runs");
    let place = place.path().join("run");
    let mut options = TrainOptions { checkpoint_every: 2, dp_epsilon: Some(0.05), ..of_digits(4) };
    let data = run::load_data(&mut options, None).expect("the embedded digits");
    assert!(create(&context, &place, &options, &data).unwrap().train(&mut Ear::default()).unwrap());
    let [ledger, checkpoint] = ["private/ledger.json", "checkpoint"].map(|name| place.join(name));
    let intact = std::fs::read_to_string(&ledger).unwrap();
    let steps = |steps: u64| move |options: &mut TrainOptions| options.steps = steps;
    // Missing, shortened, of another run.
    std::fs::remove_file(&ledger).unwrap();
    refused(resume(&context, &place, steps(5)), "ledger.json: missing: without it nobody knows");
    std::fs::write(&ledger, intact.replace("\"steps\": 4", "\"steps\": 3")).unwrap();
    refused(resume(&context, &place, steps(5)), "it was shortened");
    std::fs::write(&ledger, intact.replace("\"batch\": 3", "\"batch\": 2")).unwrap();
    refused(resume(&context, &place, steps(5)), "the ledger of another run");
    std::fs::write(&ledger, &intact).unwrap();
    // The budget.
    refused(resume(&context, &place, steps(100_000)), "the budget would be passed");
    // Back to step 2: what was spent stays so.
    std::fs::rename(&checkpoint, place.join("aside")).unwrap();
    std::fs::rename(place.join("checkpoints/step_000002"), &checkpoint).unwrap();
    std::fs::remove_dir_all(place.join("aside")).unwrap();
    let mut run = resume(&context, &place, |_| ()).unwrap();
    assert!(run.notes().iter().any(|note| note.contains("the ledger counts 2 steps more")), "{:?}", run.notes());
    assert!(run.train(&mut Ear::default()).unwrap());
    drop(run);
    let (now, told) = (json(&ledger), json(&checkpoint.join("privacy.json")));
    assert_eq!((&now["steps"], &told["steps"], &told["steps_of_this_model"]), (&6.into(), &6.into(), &4.into()));
    assert_eq!((&told["private"], told["warning"].is_string()), (&false.into(), true), "made with --dp-seed");
    // Other images.
    std::fs::write(&ledger, std::fs::read_to_string(&ledger).unwrap().replacen("\"digest\": \"", "\"digest\": \"f", 1))
        .unwrap();
    refused(resume(&context, &place, steps(5)), "this is not the same run");
}

#[test]
fn a_budget_is_kept_and_what_makes_no_sense_is_refused() {
    let budget = TrainOptions {
        dp_noise: None,
        dp_epsilon: Some(2.0),
        dp_delta: Some(1e-5),
        dp_places: None,
        batch: 50,
        steps: 500,
        ..private(1, 2, 1.0)
    };
    let found = resolve(&budget, 10_000).expect("there is such noise");
    let (noise, places) = (found.dp_noise.expect("found"), found.dp_places.expect("found"));
    assert!((0.5..1.5).contains(&noise) && (80..200).contains(&places), "{noise} {places}");
    let of = |change: &dyn Fn(&mut TrainOptions)| {
        let mut options = found.clone();
        change(&mut options);
        resolve(&options, 10_000)
    };
    assert!(of(&|_| ()).is_ok_and(|same| same == found));
    // Noise is told in thousandths, so that a few steps more may fit.
    let allowed = steps_for(2.0, 1e-5 * 0.99, 50.0 / 10_000.0, noise).expect("it is accounted");
    assert!((500..510).contains(&allowed), "{allowed}");
    let with = |steps: u64| of(&|options| (options.steps, options.dp_places) = (steps, None));
    assert!(with(allowed).is_ok());
    refused(with(allowed + 1), &format!("which allows {allowed}"));
    refused(of(&|options| options.dp_noise = Some(noise * 0.99)), "the budget would be passed");
    refused(of(&|options| options.dp_places = Some(60)), "--dp-places 60: that more images join a step costs delta");
    refused(of(&|options| options.dp_delta = Some(1e-3)), "above 1/10000");
    refused(of(&|options| options.dp_delta = None), "--dp needs --dp-delta");
    refused(of(&|options| options.batch = 10_001), "--batch 10001");
    refused(of(&|options| options.accumulate = 2), "without --accumulate and --micro-batch");
    refused(of(&|options| options.on_nan = Some(diffuse::run::OnNan::Skip)), "--on-nan does not go with --dp");
    let plain = options(10, 4, 1);
    let of = |change: &dyn Fn(&mut TrainOptions)| {
        let mut options = plain.clone();
        change(&mut options);
        options.validate()
    };
    refused(of(&|options| options.dp = true), "--dp needs a budget");
    refused(of(&|options| options.dp_clip = Some(1.0)), "--dp-clip goes with --dp-epsilon or --dp-noise");
    refused(of(&|options| options.dp_seed = Some(1)), "--dp-seed goes with");
    refused(of(&|options| (options.dp_noise, options.dp_delta) = (Some(0.0), Some(1e-5))), "must be above 0");
    refused(of(&|options| (options.dp_noise, options.dp_delta) = (Some(f64::NAN), Some(1e-5))), "must be above 0");
}
