//! IDX, the format of MNIST: a big-endian header, then the values, row after row.
//!
//! ```text
//! bytes 0-1   zero
//! byte  2     type of the values: 0x08 is unsigned bytes, the only one read here
//! byte  3     D, the number of dimensions: 3 for images [N, H, W], 1 for labels [N]
//! 4 D bytes   the dimensions as u32
//! the rest    their product of values
//! ```
//!
//! Files may be gzipped, whatever their name says. What a header promises is believed only as far as bytes follow.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use image::{DynamicImage, GrayImage};

use super::dataset::{Dataset, Shape, Want, bytes_of};
use super::fill::fill_images;
use super::place::{entries, reason};
use super::resize;
use crate::error::{Error, Result};

/// How the names of image files end, and how their labels' do.
const ENDINGS: [(&str, &str); 2] =
    [("-images-idx3-ubyte", "-labels-idx1-ubyte"), ("-images.idx3-ubyte", "-labels.idx1-ubyte")];

const UNSIGNED_BYTE: u8 = 0x08;

/// The files of one set.
pub(super) struct Pair {
    prefix: String,
    images: PathBuf,
    labels: Option<PathBuf>,
}

/// The values of one file, `shape` long in each of `D` dimensions.
struct Values<const D: usize> {
    shape: [u32; D],
    bytes: Vec<u8>,
}

/// The embedded set: the 10,000 test images of MNIST.
pub(super) fn embedded(want: &Want) -> Result<Dataset> {
    let images: &[u8] = include_bytes!("../../assets/digits/t10k-images-idx3-ubyte.gz");
    let labels: &[u8] = include_bytes!("../../assets/digits/t10k-labels-idx1-ubyte.gz");
    let images = parse(images).map_err(|problem| Error::file("digits (embedded images)", problem))?;
    let labels = parse(labels).map_err(|problem| Error::file("digits (embedded labels)", problem))?;
    dataset("digits".into(), images, Some(labels), want)
}

/// The pair of IDX files to use in `directory`: `train`, else `t10k`, else the only one; `None` if it has none.
///
/// # Errors
/// Several pairs with neither of the two usual names: which one is meant is not ours to guess.
pub(super) fn find(directory: &Path) -> Result<Option<Pair>> {
    let mut pairs = pairs(directory)?;
    let usual = ["train", "t10k"].iter().find_map(|name| pairs.iter().position(|pair| pair.prefix == *name));
    match (usual, pairs.len()) {
        (Some(index), _) => Ok(Some(pairs.swap_remove(index))),
        (None, 0 | 1) => Ok(pairs.pop()),
        (None, _) => {
            let names: Vec<_> = pairs.iter().map(|pair| pair.prefix.as_str()).collect();
            let problem = format!(
                "several sets of IDX files ({}): move the one to use to a directory of its own",
                names.join(", ")
            );
            Err(Error::file(directory, problem))
        }
    }
}

/// The pair of test images: `t10k` beside `train`.
pub(super) fn find_test(directory: &Path) -> Result<Option<Pair>> {
    let mut pairs = pairs(directory)?;
    let place = |pairs: &[Pair], name: &str| pairs.iter().position(|pair| pair.prefix == name);
    let test = place(&pairs, "train").and(place(&pairs, "t10k"));
    Ok(test.map(|index| pairs.swap_remove(index)))
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
    let prefix = ENDINGS.iter().find_map(|(images, _)| stem.strip_suffix(images))?;
    let wanted: Vec<String> = ENDINGS.iter().map(|(_, labels)| format!("{prefix}{labels}")).collect();
    let is_label =
        |path: &&PathBuf| stem_of(path).is_some_and(|stem| wanted.iter().any(|name| name == stem)) && path.is_file();
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
    let images: Values<3> = read(&pair.images)?;
    let labels: Option<Values<1>> = pair.labels.as_deref().map(read).transpose()?;
    let [count, height, width] = images.shape;
    if images.bytes.is_empty() {
        let problem = format!("holds no pixels ({count} images of {height}x{width}): give a set with some");
        return Err(Error::file(&pair.images, problem));
    }
    if let (Some(labels), Some(path)) = (&labels, &pair.labels)
        && labels.shape != [count]
    {
        let problem = format!(
            "{count} images, but {} has {} labels: take both from the same set",
            path.display(),
            labels.shape[0]
        );
        return Err(Error::file(&pair.images, problem));
    }
    let mut data = dataset(name, images, labels, want)?;
    if pair.labels.is_none() {
        let images = pair.images.display();
        data.warnings.push(format!("{images}: no labels beside it, so all images are one class"));
    }
    Ok(data)
}

/// Reads one file of `D` dimensions.
fn read<const D: usize>(path: &Path) -> Result<Values<D>> {
    let file = File::open(path).map_err(|error| Error::file(path, reason(&error)))?;
    parse(BufReader::new(file)).map_err(|problem| Error::file(path, problem))
}

/// Parses one file of `D` dimensions, gzipped or not. The error is what is wrong with it.
fn parse<const D: usize>(mut source: impl BufRead) -> std::result::Result<Values<D>, String> {
    let start = source.fill_buf().map_err(|error| reason(&error))?;
    if start.is_empty() {
        return Err("empty file: get it again".into());
    }
    // By content: browsers unpack files and leave them the name.
    if start.starts_with(&[0x1f, 0x8b]) { values(MultiGzDecoder::new(source)) } else { values(source) }
}

fn values<const D: usize>(mut source: impl Read) -> std::result::Result<Values<D>, String> {
    let shape = header(&mut source)?;
    let each = shape[1..].iter().try_fold(1_u64, |product, &side| product.checked_mul(u64::from(side)));
    let expected = each.and_then(|each| bytes_of(shape[0].into(), each)).ok_or_else(|| {
        format!(
            "its header promises {shape:?} values, more than can be held (4 GiB with labels): give fewer images, or is it \
             damaged?"
        )
    })? as u64;
    let mut bytes = Vec::new();
    // The vector grows with what arrives, so a wrong header costs no memory. The one byte more shows a tail, and
    // makes the gzip decoder reach its checksum.
    source.take(expected + 1).read_to_end(&mut bytes).map_err(|error| damaged(&error))?;
    let found = bytes.len() as u64;
    if found < expected {
        return Err(format!("truncated: its header promises {expected} values, {found} follow: get it again"));
    }
    if found > expected {
        return Err(format!("more than the {expected} values that its header promises: is it damaged?"));
    }
    Ok(Values { shape, bytes })
}

/// Reads the header and checks that it's one of unsigned bytes in `D` dimensions.
fn header<const D: usize>(source: &mut impl Read) -> std::result::Result<[u32; D], String> {
    let truncated = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "truncated: it ends within its header: get it again".into(),
        _ => damaged(&error),
    };
    let mut magic = [0; 4];
    source.read_exact(&mut magic).map_err(truncated)?;
    match magic {
        [0, 0, UNSIGNED_BYTE, dimensions] if usize::from(dimensions) == D => {}
        [0, 0, UNSIGNED_BYTE, dimensions] => {
            return Err(format!("{dimensions} dimensions where {D} were expected: are images and labels swapped?"));
        }
        [0, 0, kind @ 0x09..=0x0e, _] => {
            return Err(format!("values of type {kind:#04x}: only unsigned bytes (0x08) can be read"));
        }
        _ => return Err("not an IDX file: get it again".into()),
    }
    let mut shape = [0; D];
    for side in &mut shape {
        let mut bytes = [0; 4];
        source.read_exact(&mut bytes).map_err(truncated)?;
        *side = u32::from_be_bytes(bytes);
    }
    Ok(shape)
}

/// What to say when reading stops within the file.
fn damaged(error: &std::io::Error) -> String {
    format!("truncated or damaged ({}): get it again", reason(error))
}

/// Builds the data set from parsed files that agree in their counts.
fn dataset(name: String, images: Values<3>, labels: Option<Values<1>>, want: &Want) -> Result<Dataset> {
    let [_, height, width] = images.shape;
    let own = Shape { height, width, channels: 1 };
    let shape = Shape {
        height: want.height.unwrap_or(height),
        width: want.width.unwrap_or(width),
        channels: want.channels.unwrap_or(1),
    };
    let count = images.shape[0] as usize;
    let (labels, classes) = match labels {
        Some(labels) => classify(&labels.bytes),
        None => (vec![0; count], vec![name.clone()]),
    };
    let images = if shape == own { images.bytes } else { fit_all(&images, own, shape)? };
    let Shape { height, width, channels } = shape;
    Ok(Dataset { name, height, width, channels, images, labels, classes, flip: false, warnings: Vec::new() })
}

/// Labels as indices, and the names of all classes up to the largest label.
fn classify(labels: &[u8]) -> (Vec<u32>, Vec<String>) {
    let classes = labels.iter().max().map_or(0, |&largest| u32::from(largest) + 1);
    (labels.iter().map(|&label| u32::from(label)).collect(), (0..classes).map(|class| class.to_string()).collect())
}

/// Fits every image of the shape `own` into the wanted one.
fn fit_all(images: &Values<3>, own: Shape, shape: Shape) -> Result<Vec<u8>> {
    let count = images.shape[0] as usize;
    let (from, to) = (own.bytes(1)?, shape.bytes(1)?);
    let mut fitted = shape.allocate(count)?;
    fill_images(&mut fitted, to, |index, slot| {
        let pixels = images.bytes[index * from..][..from].to_vec();
        let image = GrayImage::from_raw(own.width, own.height, pixels).ok_or(())?;
        resize::fit(DynamicImage::ImageLuma8(image), shape, slot);
        Ok::<(), ()>(())
    });
    Ok(fitted)
}
