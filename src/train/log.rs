//! `metrics.csv`: one line a step.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::appended::Appended;
use super::curves::Curves;
use super::private::PRIVATE;
use crate::error::{Error, Result};
use crate::files::write_atomic;
use crate::run::{LEVELS, Metrics};

pub const METRICS: &str = "metrics.csv";
const HEADER: &str = "step,loss,grad_norm,lr,images_per_s,loss_0,loss_1,loss_2,loss_3,loss_4,loss_5,loss_6,loss_7\n";
/// Columns; and those of files before losses by level came.
const COLUMNS: usize = 5 + LEVELS;
const COLUMNS_ONCE: usize = 5;

/// Whether a run began in `directory`, private or not.
pub(super) fn is_there(directory: &Path) -> bool {
    [directory.into(), directory.join(PRIVATE)].iter().any(|place| place.join(METRICS).exists())
}

/// The file, and the losses in it.
pub struct MetricsLog {
    lines: Appended,
    points: Vec<(u64, f32)>,
    curves: Curves,
}

/// A line of the file, read back.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub metrics: Metrics,
    pub images_per_second: f64,
}

/// The row that a line says; none if it is broken or the heading.
pub(super) fn read_row(line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split(',').collect();
    if ![COLUMNS, COLUMNS_ONCE].contains(&fields.len()) {
        return None;
    }
    let mut by_level = [None; LEVELS];
    for (level, field) in by_level.iter_mut().zip(&fields[COLUMNS_ONCE..]) {
        *level = field.parse().ok();
    }
    let metrics = Metrics {
        step: fields[0].parse().ok()?,
        loss: fields[1].parse().ok()?,
        gradient_norm: fields[2].parse().ok()?,
        learning_rate: fields[3].parse().ok()?,
        by_level,
    };
    Some(Row { metrics, images_per_second: fields[4].parse().ok()? })
}

impl MetricsLog {
    /// Starts a new file.
    ///
    /// # Errors
    /// [`Error::File`] if the place can't be written.
    pub fn create(directory: &Path) -> Result<MetricsLog> {
        let path = directory.join(METRICS);
        write_atomic(&path, HEADER.as_bytes())?;
        MetricsLog::open(path, Vec::new(), Curves::default())
    }

    /// Goes on behind `step`; later lines, of a run that was killed after its last checkpoint, are dropped.
    ///
    /// # Errors
    /// [`Error::File`] if the file can't be read or written.
    pub fn resume(directory: &Path, step: u64) -> Result<MetricsLog> {
        let path = directory.join(METRICS);
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(Error::file(&path, error)),
            bytes => bytes.unwrap_or_default(),
        };
        // A disk that lost its power may have left anything behind the last line that was synced.
        let text = String::from_utf8_lossy(&bytes);
        let mut kept = String::from(HEADER);
        let (mut points, mut curves) = (Vec::new(), Curves::default());
        for line in text.lines().skip(1) {
            let Some(Row { metrics, images_per_second }) = read_row(line).filter(|row| row.metrics.step <= step) else {
                continue;
            };
            kept.push_str(line);
            kept.extend(std::iter::repeat_n(',', COLUMNS - 1 - line.matches(',').count()));
            kept.push('\n');
            points.push((metrics.step, metrics.loss));
            curves.push(&metrics, images_per_second);
        }
        write_atomic(&path, kept.as_bytes())?;
        MetricsLog::open(path, points, curves)
    }

    /// Goes on in a new file, where what was said before is gone.
    ///
    /// # Errors
    /// As [`MetricsLog::create`].
    pub fn begin_anew(&mut self, directory: &Path) -> Result<()> {
        let path = directory.join(METRICS);
        write_atomic(&path, HEADER.as_bytes())?;
        self.lines.go_on_in(Appended::open(path)?);
        Ok(())
    }

    fn open(path: PathBuf, points: Vec<(u64, f32)>, curves: Curves) -> Result<MetricsLog> {
        Ok(MetricsLog { lines: Appended::open(path)?, points, curves })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// As [`MetricsLog::flush`].
    pub fn add(&mut self, metrics: &Metrics, images_per_second: f64) -> Result<()> {
        let Metrics { step, loss, gradient_norm, learning_rate, by_level } = metrics;
        self.points.push((*step, *loss));
        self.curves.push(metrics, images_per_second);
        let mut line = format!("{step},{loss},{gradient_norm},{learning_rate:.6e},{images_per_second:.2}");
        for level in by_level {
            line.push(',');
            _ = level.map(|loss| write!(line, "{loss}"));
        }
        line.push('\n');
        self.lines.add(|waiting| waiting.extend(line.as_bytes()))
    }

    /// Brings all lines to the file.
    ///
    /// # Errors
    /// [`Error::File`] if the disk is full; what is not in the file waits for the next time.
    pub fn flush(&mut self) -> Result<()> {
        self.lines.flush()
    }

    /// All columns, thinned.
    pub(super) fn curves(&self) -> &Curves {
        &self.curves
    }

    /// (step, loss) of every line.
    pub fn points(&self) -> &[(u64, f32)] {
        &self.points
    }
}

/// Makes the lines last that are in the file of the run in `directory`.
///
/// # Errors
/// [`Error::File`] if they don't, or the file is gone.
pub fn sync(directory: &Path) -> Result<()> {
    let path = directory.join(METRICS);
    let opened = OpenOptions::new().append(true).open(&path);
    opened.and_then(|file| file.sync_all()).map_err(|error| Error::file(&path, error))
}

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn lines_wait_for_a_disk_that_is_full() {
        let place = tempfile::tempdir().expect("a place");
        let mut log = MetricsLog::create(place.path()).expect("room");
        let add = |log: &mut MetricsLog, step| {
            let mut by_level = [None; LEVELS];
            by_level[6] = Some(0.25);
            let metrics = Metrics { step, loss: 0.5, gradient_norm: 1.0, learning_rate: 1e-3, by_level };
            log.add(&metrics, 10.0).expect("it waits");
        };
        let full = OpenOptions::new().write(true).open("/dev/full").expect("a device of Linux");
        let room = std::mem::replace(&mut log.lines.file, full);
        add(&mut log, 1);
        let problem = log.flush().expect_err("no room").to_string();
        assert!(problem.contains("metrics.csv: no space left on device"), "{problem}");
        log.lines.file = room;
        add(&mut log, 2);
        log.flush().expect("room");
        let text = || std::fs::read_to_string(place.path().join(METRICS)).expect("text");
        let mut expected =
            format!("{HEADER}1,0.5,1,1.000000e-3,10.00,,,,,,,0.25,\n2,0.5,1,1.000000e-3,10.00,,,,,,,0.25,\n");
        assert_eq!(text(), expected);
        // What waits for the next flush is there when the run ends, however it does.
        add(&mut log, 3);
        drop(log);
        expected.push_str("3,0.5,1,1.000000e-3,10.00,,,,,,,0.25,\n");
        assert_eq!(text(), expected);
    }
}
