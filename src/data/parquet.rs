//! Parquet tables with a column of image files, as hubs of data sets hand them out.
//!
//! Read by hand, for a damaged file can claim any size: what is allocated is checked first. Uncompressed, Snappy, gzip, Brotli, LZ4 and
//! Zstandard; values plain, by a dictionary, or as deltas. That is all that pyarrow and polars write of such columns; what else there is
//! is refused by name.

mod codec;
mod deltas;
mod footer;
mod labels;
mod page;
mod runs;
mod thrift;
mod values;

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::footer::{Footer, Leaf, Type};
use self::labels::Names;
use self::page::Chunk;
use super::account::PARQUET;
use super::dataset::{Dataset, Want};
use super::decode::check_length;
use super::encoded::{Encoded, Labelled};
use super::pixels::Labels;
use super::place::{Parsed, open};
use super::watch::Files;
use crate::error::{Error, Result, list_names};

const IMAGES: [&str; 9] = ["image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "pixels"];
const LABELS: [&str; 8] = ["label", "labels", "fine_label", "class", "target", "cls", "label_id", "y"];

/// Which columns are read, by their places among the leaves.
struct Columns {
    images: usize,
    labels: Option<usize>,
}

/// Of all files.
struct Set<'a> {
    want: &'a Want,
    encoded: Encoded<'a>,
    labelled: Labelled,
    /// Of labels that are text.
    names: Names,
    /// Whether labels are, and a file that has some.
    kind: Option<(bool, &'a Path)>,
}

/// Reads the files as one set, and fits the images to what is wanted.
///
/// # Errors
/// One line that names the file which can't be read or has no column of images.
pub(super) fn load(files: &[PathBuf], name: String, want: &Want) -> Result<Dataset> {
    let (encoded, labelled, names) = (Encoded::new(want), Labelled::default(), Names::default());
    let mut set = Set { want, encoded, labelled, names, kind: None };
    let (mut classes, mut notes) = (None, Vec::new());
    let mut all = Files::new(files.iter().map(PathBuf::as_path));
    for path in files {
        all.begin(path);
        let refused = |problem| Error::file(path, problem);
        let file = open(path)?;
        let footer = Footer::read(&file, want).map_err(refused)?;
        let columns = choose(&footer.leaves).map_err(refused)?;
        match columns.labels.map(|labels| &footer.leaves[labels]) {
            Some(labels) => {
                set.check_kind(labels.is_text, path)?;
                classes = classes.or_else(|| class_names(&footer, &labels.path[0]));
            }
            None if notes.is_empty() => notes.push(format!("{}: {}", path.display(), unlabelled(&footer.leaves))),
            None => {}
        }
        set.add((&file, path), &footer, &columns, &all)?;
    }
    let source = files.first().map_or(Path::new(""), |first| first);
    let Set { encoded, labelled, names, .. } = set;
    let labels = |marks: Vec<u32>| match (labelled.all()?, names.classes(), classes) {
        (false, ..) => Ok(Labels::None),
        (true, Some((names, places)), _) => {
            Ok(Labels::Named(marks.iter().map(|mark| places[*mark as usize]).collect(), names))
        }
        (true, None, None) => Ok(Labels::Numbers(marks)),
        (true, None, Some(names)) => match marks.iter().find(|mark| **mark as usize >= names.len()) {
            Some(label) => {
                let problem = format!("label {label}, but there are {} names of classes", names.len());
                Err(Error::file(source, problem))
            }
            None => Ok(Labels::Named(marks, names)),
        },
    };
    let mut data = encoded.finish(source, name, PARQUET, labels)?;
    data.account.notes.append(&mut notes);
    Ok(data)
}

impl<'a> Set<'a> {
    /// Refuses labels of which some are text, some numbers.
    fn check_kind(&mut self, is_text: bool, path: &'a Path) -> Result<()> {
        let (first, other) = *self.kind.get_or_insert((is_text, path));
        if first == is_text {
            return Ok(());
        }
        let what = |is_text| if is_text { "text" } else { "numbers" };
        let problem = format!("its labels are {}, those of {} {}", what(is_text), other.display(), what(first));
        Err(Error::file(path, problem))
    }

    /// Adds the images of one file.
    fn add(&mut self, (file, path): (&File, &Path), footer: &Footer, columns: &Columns, all: &Files) -> Result<()> {
        let (refused, want) = (|problem: String| Error::file(path, problem), self.want);
        let chunk =
            |group, column: usize| Chunk::new(file, group, column, &footer.leaves[column], want).map_err(refused);
        let mut row = 0_u64;
        let rows: u64 = footer.groups.iter().map(|group| group.rows).fold(0, u64::saturating_add);
        for group in &footer.groups {
            let mut labels = Vec::new();
            if let Some(column) = columns.labels {
                let is_text = footer.leaves[column].is_text;
                chunk(group, column)?.each(path, &mut |value| {
                    let number = |value: &[u8]| if is_text { self.names.number(value, want) } else { Ok(whole(value)) };
                    let place = || path.join(format!("row {}", row + labels.len() as u64));
                    let label = value.map(number).transpose().map_err(|problem| Error::file(place(), problem))?;
                    labels.push(label);
                    Ok(())
                })?;
            }
            let mut labels = labels.into_iter();
            chunk(group, columns.images)?.each(path, &mut |value| {
                let place = || path.join(format!("row {row}"));
                let Some(bytes) = value else {
                    let column = footer.leaves[columns.images].path.join(".");
                    let problem = format!("no bytes in the column {column}: the images are elsewhere");
                    return Err(Error::file(place(), problem));
                };
                check_length(bytes.len() as u64)
                    .map_err(|problem| Error::file(place(), format!("an image file {problem}")))?;
                self.encoded.reach(all.share((row + 1) as f64 / rows as f64));
                let label = self.labelled.add(&place(), labels.next().flatten())?;
                self.encoded.push(place(), bytes.to_vec(), label.unwrap_or_default(), 0)?;
                row += 1;
                Ok(())
            })?;
        }
        match row {
            0 => Err(refused("a table without rows".into())),
            _ => Ok(()),
        }
    }
}

/// The number that the bytes of a value are, little-endian with its sign.
fn whole(bytes: &[u8]) -> i64 {
    let unused = 64 - 8 * bytes.len().clamp(1, 8) as u32;
    let bits = bytes.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (bits << unused) as i64 >> unused
}

/// The columns of images and of labels.
fn choose(leaves: &[Leaf]) -> Parsed<Columns> {
    let is_file = |leaf: &Leaf| leaf.kind == Type::Bytes && leaf.path.len() == 2 && leaf.path[1] == "bytes";
    let is_binary = |leaf: &Leaf| leaf.kind == Type::Bytes && leaf.path.len() == 1 && !leaf.is_text;
    let candidates = |of: &dyn Fn(&Leaf) -> bool| -> Vec<usize> {
        (0..leaves.len()).filter(|&at| of(&leaves[at]) && !leaves[at].is_repeated).collect()
    };
    let (files, binary) = (candidates(&is_file), candidates(&is_binary));
    let named = |list: &[usize]| {
        IMAGES.iter().find_map(|name| list.iter().copied().find(|&at| leaves[at].path[0].eq_ignore_ascii_case(name)))
    };
    let only = |list: &[usize]| if let [only] = list { Some(*only) } else { None };
    let images = named(&files).or_else(|| only(&files)).or_else(|| named(&binary)).or_else(|| only(&binary));
    let images = images.ok_or_else(|| no_images(leaves, &[files, binary].concat()))?;
    let label = LABELS.iter().find_map(|name| {
        leaves.iter().position(|leaf| leaf.path[0].eq_ignore_ascii_case(name) && leaf.path[0] != leaves[images].path[0])
    });
    let Some(at) = label else { return Ok(Columns { images, labels: None }) };
    let leaf = &leaves[at];
    if leaf.is_repeated || leaf.path.len() > 1 {
        return Err(format!("the column {} is nested: a label is one number or name a row", leaf.path.join(".")));
    }
    let is_label = matches!(leaf.kind, Type::Int32 | Type::Int64) || leaf.kind == Type::Bytes && leaf.is_text;
    if !is_label {
        return Err(format!("the column {} holds neither whole numbers nor text: labels are such", leaf.path[0]));
    }
    Ok(Columns { images, labels: Some(at) })
}

fn no_images(leaves: &[Leaf], several: &[usize]) -> String {
    let names = |list: &[&Leaf]| list_names(&list.iter().map(|leaf| leaf.path.join(".")).collect::<Vec<_>>());
    if several.len() > 1 {
        let several: Vec<&Leaf> = several.iter().map(|&at| &leaves[at]).collect();
        return format!("several columns of images ({}): call the one to read `image`", names(&several));
    }
    let nested = leaves.iter().find(|leaf| leaf.kind == Type::Bytes && leaf.path.len() > 2 && !leaf.is_text);
    let all = names(&leaves.iter().collect::<Vec<_>>());
    match nested {
        Some(leaf) => format!("the column {} is nested: read is one image a row", leaf.path.join(".")),
        None => format!("no column of images among {all}: one of image files is read (bytes, or {{bytes, path}})"),
    }
}

/// That there is no column of labels, and which might be meant.
fn unlabelled(leaves: &[Leaf]) -> String {
    let could_be =
        |leaf: &&Leaf| matches!(leaf.kind, Type::Int32 | Type::Int64) && leaf.path.len() == 1 && !leaf.is_repeated;
    let others: Vec<String> = leaves.iter().filter(could_be).map(|leaf| leaf.path[0].clone()).collect();
    let hint = if others.is_empty() {
        String::new()
    } else {
        format!(" (whole numbers are in {}: call one `label`)", list_names(&others))
    };
    format!("no column of labels, so all images are one class{hint}")
}

/// The names of the labels' classes, as `datasets` leaves them in a file.
fn class_names(footer: &Footer, column: &str) -> Option<Vec<String>> {
    let (_, text) = footer.key_values.iter().find(|(key, _)| key == "huggingface")?;
    let value: Value = serde_json::from_str(text).ok()?;
    let names = value["info"]["features"][column]["names"].as_array()?;
    let is_line = |name: &&str| !name.contains(char::is_control);
    names.iter().map(|name| name.as_str().filter(is_line).map(String::from)).collect()
}
