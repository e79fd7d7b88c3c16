//! Images of the page: some of the data, and the grids that the run drew.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use image::imageops;

use super::page::write_png;
use crate::chart::whole;
use crate::data::Dataset;
use crate::error::{Escaped, counted};
use crate::picture::{self, Images};
use crate::train::stored::SAMPLES;

/// Classes that are shown, and images of all of them, about.
const MOST_CLASSES: usize = 60;
const MOST_IMAGES: usize = 160;
/// Pixels of an image that is shown smaller than it is.
const HEIGHT: u32 = 64;
/// Grids at the most, and bytes of all of them together: base64 makes a third more of them, and the page stays below five megabytes.
const MOST_GRIDS: usize = 20;
const MOST_BYTES: u64 = 2_700_000;

/// Writes some images of each class with its name.
pub(super) fn write_sheet(page: &mut String, data: &Dataset) {
    let (classes, counts) = (data.classes.len(), data.counts());
    let each = if classes == 1 { 32 } else { (MOST_IMAGES / classes).clamp(3, 8) };
    page.push_str("<div class=\"sheet\">");
    for (label, images) in data.some_of_each(each).iter().enumerate().take(MOST_CLASSES) {
        let (name, count) = (&data.classes[label], counts[label] as u64);
        page.push_str("<figure>");
        if let Some(png) = strip(data, images) {
            write_png(page, &png, format!("training images of class {name}"));
        }
        let count = format!("{} image{}", whole(count), if count == 1 { "" } else { "s" });
        _ = write!(page, "<figcaption><bdi>{}</bdi> <small>{count}</small></figcaption></figure>", Escaped(name));
    }
    page.push_str("</div>");
    if classes > MOST_CLASSES {
        _ = write!(page, "<p class=\"note\">The first {MOST_CLASSES} of {} classes.</p>", whole(classes as u64));
    }
}

/// Writes the names of the classes and how many images each has.
pub(super) fn write_counts(page: &mut String, data: &Dataset) {
    page.push_str("<ul class=\"classes\">");
    for (name, count) in data.classes.iter().zip(data.counts()).take(MOST_CLASSES) {
        let count = counted(count as u64, "image");
        _ = write!(page, "<li><bdi>{}</bdi> <small>{count}</small></li>", Escaped(name));
    }
    page.push_str("</ul>");
}

/// These images side by side as PNG; none if there is none.
fn strip(data: &Dataset, images: &[usize]) -> Option<Vec<u8>> {
    let shape = [data.height, data.width, data.channels].map(|side| side as usize);
    let bytes = images.iter().flat_map(|image| data.image(*image)).copied();
    let shown = Images::of_bytes(bytes, images.len(), shape);
    let columns = images.len().min(8);
    let grid = picture::grid(&shown, columns, picture::default_scale(shape[0]));
    let grid = match data.height > 2 * HEIGHT {
        true => imageops::thumbnail(
            &grid,
            (grid.width() * HEIGHT / data.height).max(1),
            grid.height() * HEIGHT / data.height,
        ),
        false => grid,
    };
    picture::encode_png(&grid).ok().filter(|_| !images.is_empty())
}

/// Writes the grids in `samples/` of `place` up to `step`, the newest first; of many some, spread over the run.
pub(super) fn write_grids(page: &mut String, place: &Path, step: u64) {
    let all = grids(&place.join(SAMPLES), step);
    if all.is_empty() {
        return;
    }
    page.push_str("<section><h2>Samples</h2><div class=\"grids\">");
    let (mut shown, mut bytes) = (0, 0);
    for (step, path) in spread(&all) {
        bytes += fs::metadata(path).map_or(0, |file| file.len());
        // One that can't be read is left out: it may be just being replaced.
        let Some(png) = (bytes <= MOST_BYTES).then(|| fs::read(path).ok()).flatten() else { continue };
        shown += 1;
        let step = whole(*step);
        page.push_str("<figure>");
        write_png(page, &png, format!("samples after step {step}"));
        _ = write!(page, "<figcaption>step {step}</figcaption></figure>");
    }
    page.push_str("</div>");
    if shown < all.len() {
        _ = write!(page, "<p class=\"note\">{shown} of {} grids; all are in <code>{SAMPLES}/</code>.</p>", all.len());
    }
    page.push_str("</section>");
}

/// The grids up to `step`, the newest first.
fn grids(directory: &Path, step: u64) -> Vec<(u64, PathBuf)> {
    let of = |path: PathBuf| {
        let number = path.file_name()?.to_str()?.strip_prefix("step_")?.strip_suffix(".png")?.parse().ok()?;
        (number <= step).then_some((number, path))
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(|entry| of(entry.path())).collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    found
}

/// As many as are shown, with the first and the last.
fn spread<T>(all: &[T]) -> impl Iterator<Item = &T> {
    let shown = all.len().min(MOST_GRIDS);
    (0..shown).map(move |index| &all[index * (all.len() - 1) / (shown - 1).max(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_newest_first_spread_over_the_run_and_bounded() {
        let place = tempfile::tempdir().expect("a place");
        let samples = place.path().join(SAMPLES);
        fs::create_dir(&samples).expect("a directory");
        for step in 1..=100_u64 {
            fs::write(samples.join(format!("step_{:06}.png", 10 * step)), step.to_le_bytes()).expect("a file");
        }
        fs::write(samples.join("step_notes.png"), "mine").expect("a file");
        let found = grids(&samples, 990);
        let shown: Vec<u64> = spread(&found).map(|(step, _)| *step).collect();
        assert_eq!((shown.len(), shown[0], shown[19]), (MOST_GRIDS, 990, 10), "{shown:?}");
        assert!(shown.windows(2).all(|pair| pair[0] > pair[1]), "{shown:?}");
        let mut page = String::new();
        write_grids(&mut page, place.path(), 990);
        assert!(page.contains("20 of 99 grids"), "{page}");
        let first = page.find("step 990<").zip(page.find("step 10<"));
        assert!(first.is_some_and(|(newest, oldest)| newest < oldest), "{page}");
        // Of large ones fewer: the page stays small.
        for step in 1..=100_u64 {
            fs::write(samples.join(format!("step_{:06}.png", 10 * step)), vec![0; 1_000_000]).expect("a file");
        }
        let mut page = String::new();
        write_grids(&mut page, place.path(), 990);
        assert!(page.contains("2 of 99 grids") && page.len() < 4_000_000, "{}", page.len());
    }
}
