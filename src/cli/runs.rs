//! Run directories: what a new one is called, and which there are.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use diffuse::checkpoint::{self, CHECKPOINT};
use diffuse::error::list_names;
use diffuse::files::modified;
use diffuse::run::Task;
use diffuse::train::{METRICS, PRIVATE, TRAINER_STATE};

/// Where runs are that were given no other place.
const RUNS: &str = "runs";

/// What names the model in `path`: its last part without an ending, or what it is in if that says what all are called.
pub fn stem(path: &Path) -> String {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    let names = path.ancestors().filter_map(|part| Some(part.file_stem()?.to_string_lossy().into_owned()));
    let is_own = |name: &String| !["config", CHECKPOINT, "unet", "unet_ema"].contains(&name.as_str());
    let name = names.into_iter().find(is_own).unwrap_or_default();
    // Of a name that may hold anything, what no shell asks to be quoted.
    let plain = |letter: char| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '-' };
    name.chars().map(plain).collect()
}

/// A directory that is not there yet, for a run of a model called `name` that begins now.
pub fn fresh(name: &str) -> PathBuf {
    fresh_in(Path::new(RUNS), &format!("{}_{name}", jiff::ZonedDateTime::now().strftime("%Y-%m-%d_%H-%M")))
}

fn fresh_in(runs: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|number| runs.join(format!("{name}-{number}")));
    let mut places = std::iter::once(runs.join(name)).chain(numbered);
    places.find(|place| place.symlink_metadata().is_err()).expect("there are more numbers than directories")
}

/// Which runs of that task are there, the newest first, in a part of a line.
pub fn there(task: Task) -> String {
    let found: Vec<String> = found_in(Path::new(RUNS), task).iter().map(|run| run.display().to_string()).collect();
    match found[..] {
        [] => format!("there is none in {RUNS}/"),
        _ => format!("the newest first there are {}", list_names(&found)),
    }
}

fn found_in(runs: &Path, task: Task) -> Vec<PathBuf> {
    let places = fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<(SystemTime, PathBuf)> =
        places.filter(|place| is_of(place, task)).filter_map(|place| Some((changed(&place)?, place))).collect();
    found.sort();
    found.into_iter().rev().map(|(_, place)| place).collect()
}

fn is_of(place: &Path, task: Task) -> bool {
    let config = checkpoint::read_json::<serde_json::Value>(&place.join(checkpoint::CONFIG)).unwrap_or_default();
    let own = serde_json::from_value::<Task>(config["task"].clone()).unwrap_or_default();
    own == task
}

/// When something came of the run in `place` last; none if it is no run.
fn changed(place: &Path) -> Option<SystemTime> {
    let files = [place.join(METRICS), place.join(PRIVATE).join(METRICS), place.join(CHECKPOINT).join(TRAINER_STATE)];
    files.iter().filter_map(|file| modified(file)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_run_takes_no_place_that_is_taken() {
        let place = tempfile::tempdir().expect("a place");
        let fresh = || fresh_in(place.path(), "2026-11-30_14-05_mnist").file_name().unwrap().to_owned();
        assert_eq!(fresh(), "2026-11-30_14-05_mnist");
        fs::create_dir(place.path().join(fresh())).unwrap();
        assert_eq!(fresh(), "2026-11-30_14-05_mnist-2");
        fs::write(place.path().join(fresh()), "a file").unwrap();
        assert_eq!(fresh(), "2026-11-30_14-05_mnist-3");
    }

    #[test]
    fn a_model_is_called_what_its_file_or_its_run_is() {
        let said = ["tiny.json", "models/my cat.json", "other/checkpoint", "other/unet/config.json", "v1.5/unet"]
            .map(|path| stem(Path::new(path)));
        assert_eq!(said, ["tiny", "my-cat", "other", "other", "v1"]);
    }

    #[test]
    fn runs_are_found_by_what_they_train_the_newest_first() {
        let place = tempfile::tempdir().expect("a place");
        for (age, (name, task)) in [("new", "denoise"), ("judge", "classify"), ("old", "denoise")].iter().enumerate() {
            let run = place.path().join(name);
            fs::create_dir(&run).unwrap();
            fs::write(run.join("config.json"), format!(r#"{{"task": "{task}"}}"#)).unwrap();
            let file = fs::File::create(run.join(METRICS)).unwrap();
            let hours = std::time::Duration::from_secs(3600 * age as u64);
            file.set_modified(SystemTime::now() - hours).unwrap();
        }
        fs::create_dir(place.path().join("no run")).unwrap();
        let found = |task| -> Vec<String> {
            let names = found_in(place.path(), task).into_iter();
            names.map(|run| run.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(
            (found(Task::Denoise), found(Task::Classify)),
            (vec!["new".into(), "old".into()], vec!["judge".into()])
        );
        assert!(found_in(&place.path().join("none"), Task::Denoise).is_empty());
    }
}
