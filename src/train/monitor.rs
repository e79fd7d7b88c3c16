//! A run as others see it, from its files alone: under way, ended, or not begun yet.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::log::{self, METRICS, Row};
use super::private::PRIVATE;
use super::stored::{SAMPLES, TRAINER_STATE};
use super::tail::Tail;
use crate::checkpoint::{self, CHECKPOINT};
use crate::error::{Error, Result};
use crate::files::modified;
use crate::nn::config::Size;
use crate::run::TrainOptions;

/// Lines that are kept of what happened.
const MOST_EVENTS: usize = 50;
/// Steps over which the pace is taken.
const PACE: usize = 50;
/// How far apart the times of a file system may lie.
const COARSEST_CLOCK: Duration = Duration::from_secs(3);

/// A run directory, and what was read there so far.
pub struct Monitor {
    directory: PathBuf,
    tail: Option<Tail>,
    rows: Vec<Row>,
    /// When the file that says so was written, too.
    plan: Option<(SystemTime, Plan)>,
    /// When the last checkpoint that was told of was written.
    saved: Option<SystemTime>,
    grid: Option<Grid>,
    /// When the directory of grids changed last, as it was when all in it were looked at.
    drawn: Option<SystemTime>,
    events: VecDeque<String>,
}

/// How far a run is to go, and what it draws.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Plan {
    steps: u64,
    images_of_a_step: u32,
    sides: Option<[u32; 2]>,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    None,
    Some,
    /// Some, and there is more already, of a file that is long.
    More,
}

/// A grid of samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grid {
    pub path: PathBuf,
    pub written: SystemTime,
}

/// Whether there is something to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No directory, or none of a run.
    Missing,
    /// A run whose first step is not known yet.
    Beginning,
    UnderWay,
    /// All steps are done.
    Done,
}

impl Monitor {
    /// Watches the run in `directory`, which may be there later.
    ///
    /// # Errors
    /// [`Error::File`] if it is a file.
    pub fn new(directory: &Path) -> Result<Monitor> {
        if directory.is_file() {
            return Err(Error::file(directory, "this is a file; name the directory of a run"));
        }
        Ok(Monitor {
            directory: directory.into(),
            tail: None,
            rows: Vec::new(),
            plan: None,
            saved: None,
            grid: None,
            drawn: None,
            events: VecDeque::new(),
        })
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Every step that is known, in order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// What happened, the newest last.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.events.iter().map(String::as_str)
    }

    /// The newest grid of samples.
    pub fn grid(&self) -> Option<&Grid> {
        self.grid.as_ref()
    }

    /// Steps done, as far as is known.
    pub fn step(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.metrics.step)
    }

    /// Steps in all, if the run says it.
    pub fn steps(&self) -> Option<u64> {
        self.plan.map(|(_, plan)| plan.steps)
    }

    /// Height and width of the images that it draws, if it says them.
    pub fn sides(&self) -> Option<[u32; 2]> {
        self.plan.and_then(|(_, plan)| plan.sides)
    }

    pub fn standing(&self) -> Standing {
        match self.steps() {
            Some(steps) if steps > 0 && self.step() >= steps => Standing::Done,
            _ if !self.rows.is_empty() => Standing::UnderWay,
            Some(_) => Standing::Beginning,
            None if self.tail.is_some() => Standing::Beginning,
            None => Standing::Missing,
        }
    }

    /// Since when nothing was heard of a run that is under way.
    pub fn silent_for(&self) -> Option<Duration> {
        let written = modified(self.tail.as_ref()?.path())?;
        (self.standing() == Standing::UnderWay).then(|| written.elapsed().unwrap_or_default())
    }

    /// Images a second, lately.
    pub fn pace(&self) -> Option<f64> {
        let last = &self.rows[self.rows.len().saturating_sub(PACE)..];
        let paces = last.iter().map(|row| row.images_per_second).filter(|pace| pace.is_finite() && *pace > 0.0);
        // The mean time of a step, for a pause in one must count.
        let (count, seconds) = paces.fold((0.0, 0.0), |(count, seconds), pace| (count + 1.0, seconds + 1.0 / pace));
        (count > 0.0).then(|| count / seconds)
    }

    /// How long the other steps take at that pace.
    pub fn left(&self) -> Option<Duration> {
        let ((_, plan), pace) = (self.plan?, self.pace()?);
        let images = plan.steps.saturating_sub(self.step()) as f64 * f64::from(plan.images_of_a_step);
        Duration::try_from_secs_f64(images / pace).ok()
    }

    /// Reads what is new.
    pub fn look(&mut self) -> News {
        let before = (self.plan, self.saved, self.grid.clone(), self.standing());
        self.look_at_plan();
        let (has_rows, goes_on) = self.look_at_metrics();
        self.look_at_checkpoint();
        self.look_at_samples();
        match before == (self.plan, self.saved, self.grid.clone(), self.standing()) {
            _ if goes_on => News::More,
            true if !has_rows => News::None,
            _ => News::Some,
        }
    }

    /// Where the run writes its metrics.
    fn place(&self) -> PathBuf {
        let private = self.directory.join(PRIVATE);
        let is_private = !self.directory.join(METRICS).exists() && private.join(METRICS).exists();
        if is_private { private } else { self.directory.clone() }
    }

    fn look_at_plan(&mut self) {
        let path = self.directory.join(checkpoint::CONFIG);
        let Some(written) = modified(&path) else { return };
        if self.plan.is_some_and(|(then, _)| then == written) {
            return;
        }
        // Of a run of another version a part may do: what is not known is passed over.
        let told = checkpoint::read_json::<Value>(&path).unwrap_or_default();
        let number = |key: &str| told[key].as_u64();
        let Some(steps) = number("steps") else { return };
        let usual = TrainOptions::default();
        let part = |key: &str, usual: u32| number(key).map_or(usual, |images| images.min(u32::MAX.into()) as u32);
        let images = part("batch", usual.batch).saturating_mul(part("accumulate", usual.accumulate));
        if let Some((_, before)) = self.plan.filter(|(_, before)| before.steps != steps) {
            self.tell(format!("{steps} steps now, {} before", before.steps));
        }
        let size = serde_json::from_value::<Size>(told["model"]["sample_size"].clone());
        let sides = size.ok().map(|size| size.sides().into());
        self.plan = Some((written, Plan { steps, images_of_a_step: images, sides }));
    }

    /// Whether there are new rows, or others, and whether there are more.
    fn look_at_metrics(&mut self) -> (bool, bool) {
        let path = self.place().join(METRICS);
        if self.tail.as_ref().is_none_or(|tail| tail.path() != path) {
            if !path.is_file() {
                return (false, false);
            }
            self.rows.clear();
            self.tail = Some(Tail::new(&path));
        }
        // What can't be read now may be there at the next look: a run that goes on replaces the file.
        let Some(Ok(news)) = self.tail.as_mut().map(Tail::look) else { return (false, false) };
        let before = self.step();
        if news.is_anew {
            self.rows.clear();
        }
        for row in news.lines.iter().filter_map(|line| log::read_row(line)) {
            // A run that went back behind steps says these once more.
            let behind = self.rows.partition_point(|before| before.metrics.step < row.metrics.step);
            self.rows.truncate(behind);
            self.rows.push(row);
        }
        if news.is_anew {
            let step = self.step();
            self.tell(if step < before { format!("goes on from step {step}") } else { "goes on".into() });
        }
        (news.is_anew || !news.lines.is_empty(), news.goes_on)
    }

    fn look_at_checkpoint(&mut self) {
        let path = self.directory.join(CHECKPOINT).join(TRAINER_STATE);
        let written = modified(&path);
        if written.is_none() || written == self.saved {
            return;
        }
        let Ok(state) = checkpoint::read_json::<Value>(&path) else { return };
        self.saved = written;
        let loss = state["mean_loss"].as_f64().map(|loss| format!(", mean loss {loss:.4}")).unwrap_or_default();
        if let Some(step) = state["step"].as_u64() {
            self.tell(format!("checkpoint of step {step}{loss}"));
        }
    }

    fn look_at_samples(&mut self) {
        let directory = self.place().join(SAMPLES);
        let changed = modified(&directory);
        // A clock may be coarse: what changed just now is looked at again.
        let is_old = changed.is_some_and(|changed| changed.elapsed().is_ok_and(|age| age > COARSEST_CLOCK));
        if changed.is_none() || changed == self.drawn && is_old {
            return;
        }
        self.drawn = changed;
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "png"));
        let grids = paths.filter_map(|path| Some(Grid { written: modified(&path)?, path }));
        let newest = grids.max_by(|one, other| (one.written, &one.path).cmp(&(other.written, &other.path)));
        if newest == self.grid {
            return;
        }
        if let Some(Grid { path, .. }) = &newest {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.tell(format!("drew {SAMPLES}/{name}"));
        }
        self.grid = newest;
    }

    fn tell(&mut self, line: String) {
        self.events.push_back(line);
        if self.events.len() > MOST_EVENTS {
            self.events.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEADER: &str =
        "step,loss,grad_norm,lr,images_per_s,loss_0,loss_1,loss_2,loss_3,loss_4,loss_5,loss_6,loss_7\n";

    fn steps(from: u64, to: u64) -> String {
        (from..=to).map(|step| format!("{step},0.5,1.5,1e-3,100,0.1,,,,,,,0.9\n")).collect()
    }

    fn watched(directory: &Path) -> Monitor {
        let mut monitor = Monitor::new(directory).expect("no file");
        monitor.look();
        monitor
    }

    fn events(monitor: &Monitor) -> String {
        monitor.events().collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_run_is_waited_for_and_followed_to_its_end() {
        let place = tempfile::tempdir().expect("a place");
        let run = place.path().join("run");
        let mut monitor = watched(&run);
        assert_eq!(monitor.standing(), Standing::Missing);
        fs::create_dir_all(run.join("checkpoint")).unwrap();
        fs::write(
            run.join("config.json"),
            r#"{"steps": 30, "batch": 10, "accumulate": 2, "model": {"sample_size": [8, 6]}}"#,
        )
        .unwrap();
        monitor.look();
        assert_eq!((monitor.standing(), monitor.left()), (Standing::Beginning, None));
        assert_eq!(monitor.sides(), Some([8, 6]));
        fs::write(run.join(METRICS), HEADER.to_string() + &steps(1, 10)).unwrap();
        monitor.look();
        assert_eq!((monitor.standing(), monitor.step(), monitor.steps()), (Standing::UnderWay, 10, Some(30)));
        // 20 steps of 20 images, 100 a second.
        assert_eq!(monitor.left(), Some(Duration::from_secs(4)));
        let row = &monitor.rows()[9];
        assert_eq!((row.metrics.loss, row.metrics.by_level[0], row.metrics.by_level[1]), (0.5, Some(0.1), None));
        fs::write(run.join("checkpoint/trainer.json"), r#"{"step": 10, "mean_loss": 0.25}"#).unwrap();
        fs::write(run.join(METRICS), HEADER.to_string() + &steps(1, 30)).unwrap();
        assert_eq!([monitor.look(), monitor.look()], [News::Some, News::None]);
        assert_eq!((monitor.standing(), monitor.silent_for()), (Standing::Done, None));
        assert_eq!(events(&monitor), "checkpoint of step 10, mean loss 0.2500");
    }

    #[test]
    fn a_run_that_goes_on_from_its_checkpoint_loses_the_steps_behind_it() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join(METRICS);
        fs::write(&path, HEADER.to_string() + &steps(1, 10)).unwrap();
        let mut monitor = watched(place.path());
        fs::write(&path, HEADER.to_string() + &steps(1, 7)).unwrap();
        monitor.look();
        assert_eq!((monitor.step(), monitor.rows().len()), (7, 7));
        assert!(events(&monitor).contains("goes on from step 7"), "{}", events(&monitor));
        // The same file, in which steps are said once more.
        fs::write(&path, HEADER.to_string() + &steps(1, 7) + &steps(5, 6)).unwrap();
        monitor.look();
        assert_eq!((monitor.step(), monitor.rows().len()), (6, 6));
    }

    #[test]
    fn lines_that_are_broken_are_passed_over() {
        let place = tempfile::tempdir().expect("a place");
        let text = "step,loss,grad_norm,lr,images_per_s\n1,0.5,1,1e-3,10\n2,0.\n,,,,\nnonsense\n\n3,NaN,inf,1e-3,10\n\
                    4,0.5,1,1e-3,10,,,,,,,,\n5,0.5,1,1e-3,10,x,,,,,,,\n6,0.5,1,1e-3,10,1\n-7,0.5,1,1e-3,10\n8,0.4";
        fs::write(place.path().join(METRICS), text).unwrap();
        let monitor = watched(place.path());
        let found: Vec<u64> = monitor.rows().iter().map(|row| row.metrics.step).collect();
        assert_eq!(found, [1, 3, 4, 5]);
        assert!(monitor.rows()[1].metrics.loss.is_nan() && monitor.rows()[3].metrics.by_level[0].is_none());
        assert_eq!(monitor.steps(), None);
    }

    #[test]
    fn what_a_private_run_keeps_to_itself_is_found() {
        let place = tempfile::tempdir().expect("a place");
        let private = place.path().join(PRIVATE);
        fs::create_dir_all(private.join(SAMPLES)).unwrap();
        // Of canaries alone: no metrics.
        fs::write(place.path().join(METRICS), HEADER.to_string() + &steps(1, 2)).unwrap();
        assert_eq!(watched(place.path()).step(), 2);
        fs::rename(place.path().join(METRICS), private.join(METRICS)).unwrap();
        fs::write(private.join(SAMPLES).join("step_000002.png"), "").unwrap();
        let monitor = watched(place.path());
        assert_eq!(monitor.step(), 2);
        assert_eq!(monitor.grid().map(|grid| grid.path.clone()), Some(private.join("samples/step_000002.png")));
        assert_eq!(events(&monitor), "drew samples/step_000002.png");
    }

    #[test]
    fn a_file_is_no_run() {
        let place = tempfile::tempdir().expect("a place");
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let problem = Monitor::new(&file).err().expect("a file").to_string();
        assert!(problem.contains("name the directory of a run"), "{problem}");
    }
}
