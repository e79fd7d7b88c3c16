//! A sheet of images, a row for each class with its name.

use std::path::Path;

use image::{GenericImage, Rgb, RgbImage};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::canvas::{Area, Drawn, canvas, pixels, text};
use crate::error::{Error, Result};
use crate::picture::{self, Images};

/// Pixels of a row's name, at the left, and between two rows.
const NAMES: u32 = 150;
const GAP: u32 = 6;
/// Letters of a name that fit there.
const LONGEST_NAME: usize = 18;
/// Pixels along a side; what would lie beyond is left out.
const LONGEST_SIDE: u32 = 16_384;

/// Images of one class.
pub struct Row {
    /// Its name.
    pub name: String,
    /// What stands below the name.
    pub note: String,
    /// What is shown of it.
    pub images: Images,
}

/// Draws the rows into a PNG or JPEG, each image about 64 pixels tall or as large as it is, `columns` in a line; how many rows it shows:
/// those that fit 16,384 pixels.
///
/// # Errors
/// [`Error::File`], naming `path`, if the place can't be written.
pub fn write_sheet(path: &Path, rows: &[Row], columns: usize) -> Result<usize> {
    let grids = rows.iter().map(|row| picture::grid(&row.images, columns, picture::default_scale(row.images.height)));
    let (mut shown, mut height) = (Vec::new(), GAP);
    for grid in grids {
        if !shown.is_empty() && height + grid.height() + GAP > LONGEST_SIDE {
            break;
        }
        let top = height;
        height += grid.height().max(40) + GAP;
        shown.push((top, grid));
    }
    let width = NAMES + shown.iter().map(|(_, grid)| grid.width()).max().unwrap_or(0) + GAP;
    let tops: Vec<u32> = shown.iter().map(|(top, _)| *top).collect();
    let names =
        canvas((NAMES, height), |area| draw_names(area, rows, &tops)).map_err(|error| Error::file(path, error))?;
    let mut sheet = RgbImage::from_pixel(width, height, Rgb([255; 3]));
    let places = std::iter::once(((0, 0), &names)).chain(shown.iter().map(|(top, grid)| ((NAMES, *top), grid)));
    for ((x, y), part) in places {
        sheet.copy_from(part, x, y).map_err(|error| Error::file(path, error))?;
    }
    picture::write(path, &sheet)?;
    Ok(shown.len())
}

fn draw_names(area: &Area, rows: &[Row], tops: &[u32]) -> Drawn<()> {
    let line = |words: &str, height: i32, top: i32| {
        let style = text(height).pos(Pos::new(HPos::Left, VPos::Top));
        area.draw(&Text::new(words.to_string(), (pixels(8), pixels(top)), style))
    };
    for (row, top) in rows.iter().zip(tops) {
        let top = *top as i32;
        line(&shortened(&row.name), 15, top + 2)?;
        line(&row.note, 12, top + 20)?;
    }
    Ok(())
}

fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.into(),
    }
}
