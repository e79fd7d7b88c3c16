//! Parquet tables with a column of image files, as hubs of data sets hand them out.
//!
//! Read by hand, for a damaged file can claim any size: what is allocated is checked first. Uncompressed, Snappy, gzip and
//! Zstandard; values plain or by a dictionary. That is what pyarrow and polars write, unless they are asked for something else, which is
//! refused by name.

mod footer;
mod page;
mod runs;
mod thrift;

use std::fs::File;
use std::path::{Path, PathBuf};

use serde_json::Value;

use self::footer::{Footer, Leaf, Type};
use self::page::Chunk;
use super::account::PARQUET;
use super::dataset::{Dataset, Want};
use super::decode::check_length;
use super::encoded::Encoded;
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

/// Reads the files as one set, and fits the images to what is wanted.
///
/// # Errors
/// One line that names the file which can't be read or has no column of images.
pub(super) fn load(files: &[PathBuf], name: String, want: &Want) -> Result<Dataset> {
    let mut encoded = Encoded::new(want);
    let (mut classes, mut notes) = (None, Vec::new());
    let mut all = Files::new(files.iter().map(PathBuf::as_path));
    for path in files {
        all.begin(path);
        let refused = |problem| Error::file(path, problem);
        let file = open(path)?;
        let footer = Footer::read(&file, want).map_err(refused)?;
        let columns = choose(&footer.leaves).map_err(refused)?;
        match columns.labels {
            Some(labels) => classes = classes.or_else(|| class_names(&footer, &footer.leaves[labels].path[0])),
            None if notes.is_empty() => notes.push(format!("{}: {}", path.display(), unlabelled(&footer.leaves))),
            None => {}
        }
        read((&file, path), &footer, &columns, want, &all, &mut encoded)?;
    }
    let source = files.first().map_or(Path::new(""), |first| first);
    let mut data = encoded.finish(source, name, PARQUET, classes)?;
    data.account.notes.append(&mut notes);
    Ok(data)
}

/// Adds the images of one file.
fn read(
    (file, path): (&File, &Path),
    footer: &Footer,
    columns: &Columns,
    want: &Want,
    all: &Files,
    encoded: &mut Encoded,
) -> Result<()> {
    let refused = |problem: String| Error::file(path, problem);
    let mut row = 0_u64;
    let rows: u64 = footer.groups.iter().map(|group| group.rows).fold(0, u64::saturating_add);
    for group in &footer.groups {
        let labels = match columns.labels {
            Some(column) => {
                let mut labels = Vec::new();
                let chunk = Chunk::new(file, group, column, &footer.leaves[column], want).map_err(refused)?;
                chunk.each(path, &mut |value| {
                    labels.push(value.map(whole));
                    Ok(())
                })?;
                labels
            }
            None => Vec::new(),
        };
        let leaf = &footer.leaves[columns.images];
        let mut labels = labels.into_iter();
        let chunk = Chunk::new(file, group, columns.images, leaf, want).map_err(refused)?;
        chunk.each(path, &mut |value| {
            let place = || path.join(format!("row {row}"));
            let Some(bytes) = value else {
                let problem = format!("no bytes in the column {}: the images are elsewhere", leaf.path.join("."));
                return Err(Error::file(place(), problem));
            };
            check_length(bytes.len() as u64)
                .map_err(|problem| Error::file(place(), format!("an image file {problem}")))?;
            encoded.reach(all.share((row + 1) as f64 / rows as f64));
            encoded.push(place(), bytes.to_vec(), labels.next().flatten())?;
            row += 1;
            Ok(())
        })?;
    }
    match row {
        0 => Err(refused("a table without rows".into())),
        _ => Ok(()),
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
        return Err(format!("the column {} is nested: a label is one whole number a row", leaf.path.join(".")));
    }
    if leaf.kind != Type::Int32 && leaf.kind != Type::Int64 {
        return Err(format!("the column {} holds no whole numbers: labels are such", leaf.path[0]));
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
