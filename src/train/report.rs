//! `report.html`: what a run learnt from, how it went, what it draws, and how to go on with it, on one page that needs nothing else.

mod charts;
mod configuration;
mod images;
mod page;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::curves::Curves;
use super::private::beside;
use super::stored::REPORT;
use crate::chart::{significant, whole};
use crate::checkpoint::manifest::MadeOn;
use crate::data::Dataset;
use crate::error::{Escaped, Result, quoted};
use crate::files::write_atomic;
use crate::run::{Task, TrainOptions};

/// What stays the same as long as a process trains.
pub(super) struct Report {
    /// Of the run.
    pub directory: PathBuf,
    /// See [`data_section`].
    pub data: String,
    pub classes: Vec<String>,
    pub parameters: u64,
    pub made_on: MadeOn,
}

/// What a run learns from, as a part of its page. `line` says it in a line.
pub(super) fn data_section(options: &TrainOptions, data: &Dataset, line: &str) -> String {
    let reason = match (options.is_private(), options.canaries.is_some()) {
        (true, _) => Some("training is private"),
        (_, true) => Some("they would tell which canaries are among them"),
        _ => None,
    };
    let mut section = format!("<section><h2>Learnt from</h2><p>{}</p>", Escaped(line));
    match reason {
        Some(reason) => {
            _ = write!(section, "<p class=\"note\">No training images are shown: {reason}.</p>");
            images::write_counts(&mut section, data);
        }
        None => images::write_sheet(&mut section, data),
    }
    section.push_str("</section>");
    section
}

impl Report {
    /// Writes the page of a run that has done `step` steps, whole or not at all: of a private run among what is never to be published.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] if it can't be written.
    pub fn write(&self, step: u64, options: &TrainOptions, curves: &Curves) -> Result<()> {
        let place = beside(&self.directory, options);
        let page = self.page(&place, step, options, curves);
        write_atomic(&place.join(REPORT), page.as_bytes())
    }

    fn page(&self, place: &Path, step: u64, options: &TrainOptions, curves: &Curves) -> String {
        let whole_path = std::path::absolute(&self.directory).unwrap_or_else(|_| self.directory.clone());
        let name = whole_path.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
        let mut page = String::new();
        page::begin(&mut page, &format!("{name}, step {} of {}", whole(step), whole(options.steps)));
        _ = write!(page, "<header><h1>{}</h1><p>{}</p></header>", Escaped(&name), Escaped(self.about(options)));
        if options.is_private() {
            page.push_str(
                "<p class=\"warning\">This run trains under differential privacy, and this page is not covered by it: what it shows \
                 tells of single images. It stays in <code>private/</code>, and is never to be published with the model.</p>",
            );
        }
        self.write_facts(&mut page, step, options, curves);
        charts::write(&mut page, curves);
        images::write_grids(&mut page, place, step);
        page.push_str(&self.data);
        self.write_commands(&mut page, step, options);
        configuration::write(&mut page, options);
        page::end(&mut page);
        page
    }

    /// What is trained on what, in a line.
    fn about(&self, options: &TrainOptions) -> String {
        let MadeOn { adapter, driver, .. } = &self.made_on;
        let what = if options.task == Task::Denoise { "U-Net" } else { "Classifier" };
        format!("{what} of {} parameters on {adapter}, driver {driver}", whole(self.parameters))
    }

    fn write_facts(&self, page: &mut String, step: u64, options: &TrainOptions, curves: &Curves) {
        let smoothed = curves.loss.smoothed().last().map_or("none yet".into(), |(_, loss)| significant(*loss, 3));
        let pace = curves.images_per_second.smoothed().last().map(|(_, pace)| *pace).filter(|pace| *pace > 0.0);
        let images = (options.steps - step.min(options.steps)) * u64::from(options.images_of_a_step());
        let left = match pace {
            _ if images == 0 => "none".into(),
            Some(pace) => format!("about {}", duration(images as f64 / pace)),
            None => "unknown".into(),
        };
        let facts = [
            ("steps", format!("{} of {}", whole(step), whole(options.steps))),
            ("loss, smoothed", smoothed),
            ("images a second", pace.map_or("unknown".into(), |pace| significant(pace, 3))),
            ("images a step", whole(options.images_of_a_step().into())),
            ("time left", left),
        ];
        page.push_str("<dl class=\"facts\">");
        facts
            .iter()
            .for_each(|(name, value)| _ = write!(page, "<div><dt>{name}</dt><dd>{}</dd></div>", Escaped(value)));
        page.push_str("</dl>");
    }

    fn write_commands(&self, page: &mut String, step: u64, options: &TrainOptions) {
        let place = quoted(&self.directory.to_string_lossy());
        let command = if options.task == Task::Denoise { "train" } else { "train-classifier" };
        let longer = if step < options.steps { String::new() } else { format!(" --steps {}", 2 * options.steps) };
        let mut commands = vec![("Go on", format!("diffuse {command} --resume --out {place}{longer}"))];
        if options.task == Task::Denoise {
            let class = options.model.num_class_embeds.and(self.classes.first());
            let class = class.map_or(String::new(), |class| format!(" --class {}", quoted(class)));
            commands.push(("Draw", format!("diffuse sample {place}{class} --out samples.png")));
            let data = quoted(&options.data);
            commands.push(("Judge", format!("diffuse evaluate {place} --data {data}")));
        }
        page.push_str("<section><h2>Commands</h2><dl class=\"commands\">");
        for (name, line) in commands {
            _ = write!(page, "<dt>{name}</dt><dd><pre>{}</pre></dd>", Escaped(line));
        }
        page.push_str("</dl></section>");
    }
}

/// About so long, as people say it.
fn duration(seconds: f64) -> String {
    match seconds {
        0.0..90.0 => format!("{seconds:.0} s"),
        90.0..5400.0 => format!("{:.0} min", seconds / 60.0),
        5400.0..172_800.0 => format!("{:.1} h", seconds / 3600.0),
        _ => format!("{:.1} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::data::{self, Want};
    use crate::run::{LEVELS, Metrics};
    use crate::train::private::PRIVATE;

    fn report(directory: &Path, options: &TrainOptions) -> Report {
        let data = data::load("digits", &Want::default()).expect("the embedded digits");
        Report {
            directory: directory.into(),
            data: data_section(options, &data, "a line"),
            classes: data.classes.clone(),
            parameters: 7,
            made_on: MadeOn { adapter: "<card>".into(), driver: "1".into(), shaders: "2".into() },
        }
    }

    fn curves(steps: u64) -> Curves {
        let mut curves = Curves::default();
        for step in 1..=steps {
            let loss = 1.0 / step as f32;
            let by_level = [Some(loss); LEVELS];
            let metrics = Metrics { step, loss, gradient_norm: 1.0 + loss, learning_rate: 1e-3, by_level };
            curves.push(&metrics, 10.0);
        }
        curves
    }

    #[test]
    fn a_long_run_with_many_grids_has_a_small_page() {
        let place = tempfile::tempdir().expect("a place");
        fs::create_dir(place.path().join("samples")).expect("a directory");
        for step in 1..=40 {
            let path = place.path().join(format!("samples/step_{step:06}.png"));
            fs::write(path, vec![0; 130_000]).expect("a file");
        }
        let options = TrainOptions { steps: 300_000, ..TrainOptions::default() };
        let (report, curves) = (report(place.path(), &options), curves(200_000));
        let begun = std::time::Instant::now();
        report.write(200_000, &options, &curves).expect("room");
        println!("written in {:?}", begun.elapsed());
        let page = fs::read_to_string(place.path().join(REPORT)).expect("a page");
        println!("{} bytes", page.len());
        assert!(page.len() < 5_000_000 && page.contains("20 of 40 grids"), "{}", page.len());
        let paths: Vec<&str> = page.split("<path class=\"line ").skip(1).collect();
        assert_eq!(paths.len(), 2 + LEVELS + 2 + 1 + 2);
        assert!(paths.iter().all(|path| path.split('"').nth(2).is_some_and(|d| d.matches('L').count() < 1000)));
        assert!(page.contains("200,000 of 300,000") && page.contains("&lt;card&gt;") && !page.contains("<card>"));
    }

    #[test]
    fn what_must_not_be_shown_is_not() {
        let place = tempfile::tempdir().expect("a place");
        let plain = TrainOptions::default();
        let canaries = TrainOptions { canaries: Some(3), ..plain.clone() };
        let private = TrainOptions { dp_noise: Some(1.0), dp_delta: Some(1e-5), ..plain.clone() };
        let write = |options: &TrainOptions| {
            report(place.path(), options).write(3, options, &curves(3)).expect("room");
            let beside = if options.is_private() { place.path().join(PRIVATE) } else { place.path().into() };
            let page = fs::read_to_string(beside.join(REPORT)).expect("a page");
            fs::remove_file(beside.join(REPORT)).expect("it is there");
            page
        };
        assert_eq!(write(&plain).matches("training images of class").count(), 10);
        for options in [canaries, private] {
            let page = write(&options);
            assert!(!page.contains("<img") && page.contains("No training images are shown"), "{page}");
            assert_eq!(page.contains("never to be published"), options.is_private());
            // None is beside the weights.
            assert!(!place.path().join(REPORT).exists());
        }
    }
}
