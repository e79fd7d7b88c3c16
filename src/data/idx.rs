//! IDX, the format of MNIST: a big-endian header, then the values, row after row.
//!
//! ```text
//! bytes 0-1   zero
//! byte  2     type of the values: 0x08 is unsigned bytes; labels may be shorts (0x0b) or ints (0x0c), too
//! byte  3     D, the number of dimensions: 3 for images [N, H, W], 1 for labels [N], or 2 [N, K] as QMNIST has them, whose
//!             first column they are
//! 4 D bytes   the dimensions as u32
//! the rest    their product of values
//! ```
//!
//! Files may be gzipped, whatever their name says. What a header promises is believed only as far as bytes follow.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

use super::dataset::{Dataset, Shape, Want};
use super::pixels::{self, LARGEST_LABEL, Labels, Pixels};
use super::place::{Parsed, damaged, entries, reason};
use super::room::Room;
use crate::error::{Error, Result};
use crate::files;

pub(super) const FORMAT: &str = "IDX files";
/// How the names of image files end.
const IMAGES: [&str; 2] = ["-images-idx3-ubyte", "-images.idx3-ubyte"];
/// How those of their labels go on behind the same beginning.
const LABELS: [&str; 2] = ["-labels-idx", "-labels.idx"];
/// How the beginning ends, of training images and of test images.
const TRAIN: [&str; 1] = ["train"];
const TEST: [&str; 2] = ["t10k", "test"];

const UNSIGNED_BYTE: u8 = 0x08;
const SHORT: u8 = 0x0b;
const INT: u8 = 0x0c;
/// The most dimensions that a header is read of.
const DIMENSIONS: u8 = 4;

/// The files of one set.
#[derive(Clone)]
pub(super) struct Pair {
    prefix: String,
    images: PathBuf,
    labels: Option<PathBuf>,
}

impl Pair {
    /// What is before one of `parts` at the end of the prefix: nothing for `train`, `emnist-letters-` for
    /// `emnist-letters-train`.
    fn family(&self, parts: &[&str]) -> Option<&str> {
        let family = parts.iter().find_map(|part| self.prefix.strip_suffix(part))?;
        (family.is_empty() || family.ends_with(['-', '_', '.'])).then_some(family)
    }

    /// The name of its family without a dash.
    fn family_name(&self) -> &str {
        let family = self.family(&TRAIN).or(self.family(&TEST));
        family.map_or(self.prefix.as_str(), |family| family.trim_end_matches(['-', '_', '.']))
    }
}

/// The images of one file, [N, H, W].
struct Images {
    shape: [u32; 3],
    bytes: Room,
}

/// The embedded set: the 10,000 test images of MNIST.
pub(super) fn embedded(want: &Want) -> Result<Dataset> {
    let images: &[u8] = include_bytes!("../../assets/digits/t10k-images-idx3-ubyte.gz");
    let labels: &[u8] = include_bytes!("../../assets/digits/t10k-labels-idx1-ubyte.gz");
    let images =
        parse(images, want, read_images).map_err(|problem| Error::file("digits (embedded images)", problem))?;
    let labels =
        parse(labels, want, read_labels).map_err(|problem| Error::file("digits (embedded labels)", problem))?;
    let mut data = dataset("digits".into(), images, Some(labels), want)?;
    data.account.format = "digits";
    Ok(data)
}

/// The pairs of IDX files in a directory.
pub(super) struct Sets {
    pub train: Pair,
    pub test: Option<Pair>,
    /// The image files of further ones.
    pub others: Vec<PathBuf>,
}

/// The pair of IDX files to use in `directory`, of the set called `only` if that is given, and that of its test images:
/// `train` before `t10k` or `test`, whatever their names begin with; none if it has none.
///
/// # Errors
/// Several sets: which one is meant is not ours to guess.
pub(super) fn find(directory: &Path, only: Option<&str>) -> Result<Option<Sets>> {
    let mut pairs = pairs(directory)?;
    if let Some(only) = only {
        pairs.retain(|pair| pair.family_name() == only || pair.prefix == only);
    }
    let Some((train, test)) = choose(directory, &pairs)? else { return Ok(None) };
    let is_other = |pair: &Pair| {
        only.is_none() && [Some(&train), test.as_ref()].iter().flatten().all(|it| it.prefix != pair.prefix)
    };
    let others = pairs.into_iter().filter(is_other).map(|pair| pair.images).collect();
    Ok(Some(Sets { train, test, others }))
}

/// The pair to train on and that of its test images, out of all that are considered.
fn choose(directory: &Path, pairs: &[Pair]) -> Result<Option<(Pair, Option<Pair>)>> {
    let with = |family: &str, parts: &[&str]| pairs.iter().find(|pair| pair.family(parts) == Some(family)).cloned();
    // MNIST's own names go before all others.
    let mut families: Vec<&str> = pairs.iter().map(Pair::family_name).collect();
    families.dedup();
    if let Some(pair) = with("", &TRAIN).or_else(|| with("", &TEST)) {
        let test = with("", &TEST).filter(|test| test.prefix != pair.prefix);
        return Ok(Some((pair, test)));
    }
    match families.as_slice() {
        [] => Ok(None),
        [_] => {
            let family = pairs.iter().find_map(|pair| pair.family(&TRAIN).or(pair.family(&TEST))).unwrap_or_default();
            let train = with(family, &TRAIN).or_else(|| with(family, &TEST)).or_else(|| pairs.first().cloned());
            let test = |train: &Pair| with(family, &TEST).filter(|test| test.prefix != train.prefix);
            Ok(train.map(|train| (train.clone(), test(&train))))
        }
        [first, ..] => {
            let problem = format!(
                "several sets of IDX files ({}): name one, as {}",
                families.join(", "),
                directory.join(first).display()
            );
            Err(Error::file(directory, problem))
        }
    }
}

/// Whether `directory` holds IDX files whose names begin with `prefix`.
pub(super) fn has(directory: &Path, prefix: &str) -> bool {
    pairs(directory).is_ok_and(|pairs| pairs.iter().any(|pair| pair.family_name() == prefix || pair.prefix == prefix))
}

/// All pairs in `directory`.
fn pairs(directory: &Path) -> Result<Vec<Pair>> {
    let paths = entries(directory)?;
    let mut pairs: Vec<Pair> = Vec::new();
    for path in &paths {
        // A file and its gzipped copy are one set; the plain one sorts first.
        if let Some(pair) = pair_of(path, &paths)
            && path.is_file()
            && !pairs.iter().any(|other| other.prefix == pair.prefix)
        {
            pairs.push(pair);
        }
    }
    Ok(pairs)
}

/// The pair whose images are in the file at `path`, if that is what its name says.
fn pair_of(path: &Path, siblings: &[PathBuf]) -> Option<Pair> {
    let stem = stem_of(path)?;
    let prefix = IMAGES.iter().find_map(|images| stem.strip_suffix(images))?;
    let is_of_labels =
        |stem: &str| stem.strip_prefix(prefix).is_some_and(|end| LABELS.iter().any(|labels| end.starts_with(labels)));
    let is_label = |path: &&PathBuf| stem_of(path).is_some_and(is_of_labels) && path.is_file();
    let labels = siblings.iter().find(is_label).cloned();
    Some(Pair { prefix: prefix.to_string(), images: path.to_path_buf(), labels })
}

/// The file's name without `.gz`.
fn stem_of(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    Some(name.strip_suffix(".gz").unwrap_or(name))
}

/// Reads the pair and fits the images to what is wanted.
///
/// # Errors
/// One line that names the file that is unreadable, damaged, empty or no IDX, or both when their counts differ.
pub(super) fn load(pair: &Pair, name: String, want: &Want) -> Result<Dataset> {
    let images = read(&pair.images, want, read_images)?;
    let labels = pair.labels.as_deref().map(|path| read(path, want, read_labels)).transpose()?;
    let [count, height, width] = images.shape;
    if images.bytes.is_empty() {
        let problem = format!("holds no pixels ({count} images of {height}x{width}): give a set with some");
        return Err(Error::file(&pair.images, problem));
    }
    if let (Some(labels), Some(path)) = (&labels, &pair.labels)
        && labels.len() != count as usize
    {
        let problem =
            format!("{count} images, but {} has {} labels: take both from the same set", path.display(), labels.len());
        return Err(Error::file(&pair.images, problem));
    }
    let mut data = dataset(name, images, labels, want)?;
    data.account.part = Some(pair.prefix.clone());
    if pair.labels.is_none() {
        let images = pair.images.display();
        data.account.notes.push(format!("{images}: no labels beside it, so all images are one class"));
    }
    if pair.prefix.starts_with("emnist") {
        let problem = "EMNIST's own files hold rows for columns: its letters are read lying, as they are stored";
        data.account.notes.push(format!("{}: {problem}", pair.images.display()));
    }
    Ok(data)
}

/// Reads one file.
fn read<T>(path: &Path, want: &Want, values: Values<T>) -> Result<T> {
    let file = File::open(path).map_err(|error| Error::file(path, reason(&error)))?;
    parse(BufReader::new(file), want, values).map_err(|problem| Error::file(path, problem))
}

/// Reads images or labels out of an unpacked file.
type Values<T> = fn(&mut dyn Read, &Want) -> Parsed<T>;

/// Parses one file, gzipped or not.
fn parse<T>(mut source: impl BufRead, want: &Want, values: Values<T>) -> Parsed<T> {
    let start = source.fill_buf().map_err(|error| reason(&error))?;
    if let Some(problem) = files::lfs_pointer(start) {
        return Err(problem.into());
    }
    if start.is_empty() {
        return Err("empty file: get it again".into());
    }
    // By content: browsers unpack files and leave them the name.
    if start.starts_with(&[0x1f, 0x8b]) {
        values(&mut MultiGzDecoder::new(source), want)
    } else {
        // It fills no memory, and no more of the disk than the file does.
        values(&mut source, &want.limited(u64::MAX))
    }
}

fn read_images(source: &mut dyn Read, want: &Want) -> Parsed<Images> {
    let (kind, shape) = header(source)?;
    let [count, height, width] = *shape.as_slice() else {
        let why = if shape.len() > 3 { "only grey images are read" } else { "are images and labels swapped?" };
        return Err(format!("{} dimensions where 3 were expected: {why}", shape.len()));
    };
    if kind != UNSIGNED_BYTE {
        return Err(format!("values of type {kind:#04x}: only unsigned bytes (0x08) can be read"));
    }
    Ok(Images { shape: [count, height, width], bytes: body(source, &shape, 1, want)? })
}

fn read_labels(source: &mut dyn Read, want: &Want) -> Parsed<Vec<u32>> {
    let (kind, shape) = header(source)?;
    let columns = match *shape.as_slice() {
        [_] => 1,
        [_, columns] if columns > 0 => columns as usize,
        _ => {
            let dimensions = shape.len();
            return Err(format!("{dimensions} dimensions where 1 or 2 were expected: are images and labels swapped?"));
        }
    };
    let size = match kind {
        UNSIGNED_BYTE => 1,
        SHORT => 2,
        INT => 4,
        _ => return Err(format!("labels of type {kind:#04x}: only whole numbers (0x08, 0x0b, 0x0c) can be read")),
    };
    let bytes = body(source, &shape, size, want)?;
    let label = |bytes: &[u8]| bytes[..size].iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
    let labels: Vec<u32> = bytes.chunks_exact(size * columns).map(label).collect();
    match labels.iter().find(|label| **label > LARGEST_LABEL) {
        Some(label) => Err(format!("label {} is none of 0 to 65535: is it damaged?", *label as i32)),
        None => Ok(labels),
    }
}

/// The values, of `size` bytes each, that a header of this shape promises.
fn body(source: &mut dyn Read, shape: &[u32], size: usize, want: &Want) -> Parsed<Room> {
    let expected = shape.iter().try_fold(size as u64, |product, &side| product.checked_mul(u64::from(side)));
    let expected = expected
        .filter(|expected| *expected < isize::MAX as u64)
        .ok_or_else(|| format!("its header promises {shape:?} values, more than can be addressed: is it damaged?"))?;
    want.check_memory(expected, "its header promises")?;
    Room::promised(source, expected, size)
}

/// Reads the header: the type of the values, and their shape.
fn header(source: &mut dyn Read) -> Parsed<(u8, Vec<u32>)> {
    let truncated = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "truncated: it ends within its header: get it again".into(),
        _ => damaged(&error),
    };
    let mut magic = [0; 4];
    source.read_exact(&mut magic).map_err(truncated)?;
    let [0, 0, kind @ (UNSIGNED_BYTE | 0x09..=0x0e), dimensions @ 1..=DIMENSIONS] = magic else {
        return Err("not an IDX file: get it again".into());
    };
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let mut bytes = [0; 4];
        source.read_exact(&mut bytes).map_err(truncated)?;
        shape.push(u32::from_be_bytes(bytes));
    }
    Ok((kind, shape))
}

/// Builds the data set from parsed files that agree in their counts.
fn dataset(name: String, images: Images, labels: Option<Vec<u32>>, want: &Want) -> Result<Dataset> {
    let [count, height, width] = images.shape;
    let pixels = Pixels { count: count as usize, shape: Shape { height, width, channels: 1 }, bytes: images.bytes };
    pixels::dataset(name, FORMAT, pixels, labels.map_or(Labels::None, Labels::Numbers), want)
}
