//! NumPy's arrays of images and of labels: those of an `.npz`, an `.npy` alone, or those of a directory.
//!
//! Names say what an array is: `x_train`, `train_images`, `X`, `images`, `data`, `arr_0` are images; `y_train`, `train_labels`, `y`,
//! `labels`, `target`, `arr_1` labels.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::account::ARRAYS;
use super::dataset::{Dataset, Shape, Want};
use super::npy::{Header, Kind};
use super::parts::Part;
use super::pixels::{self, LARGEST_LABEL, Labels, Pixels};
use super::place::{Parsed, ending, open, stem};
use super::room::Room;
use crate::error::{Error, Result, list_names};

const IMAGES: [&str; 6] = ["x", "images", "image", "imgs", "img", "data"];
const LABELS: [&str; 7] = ["y", "labels", "label", "targets", "target", "class", "classes"];

/// Where an array is.
#[derive(Clone)]
struct Place {
    /// What it is called.
    key: String,
    file: PathBuf,
    /// Its number in the archive that the file is.
    number: Option<usize>,
}

impl Place {
    /// What errors and warnings call it.
    fn path(&self) -> PathBuf {
        if self.number.is_some() { self.file.join(&self.key) } else { self.file.clone() }
    }

    /// What `make` makes of the array's header and the values that follow.
    fn read<T>(&self, want: &Want, make: impl FnOnce(Header, &mut dyn Read) -> Parsed<T>) -> Result<T> {
        let refused = |problem| Error::file(self.path(), problem);
        let made = |source: &mut dyn Read| make(Header::read(source, want)?, source);
        let mut file = open(&self.file)?;
        let read = match self.number {
            None => made(&mut file),
            Some(number) => {
                let mut archive = archive(&self.file)?;
                archive.by_index(number).map_err(|error| said(&error)).and_then(|mut entry| made(&mut entry))
            }
        };
        read.map_err(refused)
    }

    /// The images in it. How numbers become levels is guessed from the first ones; if all of them say otherwise, they are read again.
    fn images(&self, want: &Want) -> Result<Pixels> {
        let first = self.read(want, |header, source| images(&header, source, None))?;
        match first {
            Ok(pixels) => Ok(pixels),
            Err(range) => self
                .read(want, |header, source| images(&header, source, Some(range)))?
                .map_err(|_| Error::file(self.path(), "changed while it was read: read it again")),
        }
    }
}

/// The images of a part and their labels.
#[derive(Clone)]
pub(super) struct Pair {
    part: Part,
    images: Place,
    labels: Option<Place>,
}

/// The arrays of a source.
pub(super) struct Arrays {
    pub train: Pair,
    pub test: Option<Pair>,
    /// Further parts, by their images.
    pub further: Vec<PathBuf>,
    /// Arrays of which the names say nothing.
    pub unknown: Vec<PathBuf>,
}

fn archive(path: &Path) -> Result<ZipArchive<File>> {
    ZipArchive::new(open(path)?).map_err(|error| Error::file(path, said(&error)))
}

fn said(error: &zip::result::ZipError) -> String {
    let said = error.to_string();
    format!("no whole archive of arrays ({}): get it again", said.lines().next().unwrap_or_default())
}

/// The arrays of the file at `path`, an `.npz` or `.npy`; an array alone is images, whatever it is called.
///
/// # Errors
/// One line that names the file, if it can't be read or holds no images.
pub(super) fn of_file(path: &Path) -> Result<Arrays> {
    if ending(path) == "npy" {
        let images = Place { key: stem(path), file: path.into(), number: None };
        let train = Pair { part: Part::Whole, images, labels: None };
        return Ok(Arrays { train, test: None, further: Vec::new(), unknown: Vec::new() });
    }
    let archive = archive(path)?;
    let place = |(number, name): (usize, String)| {
        let key = name.strip_suffix(".npy")?.to_string();
        Some(Place { key, file: path.into(), number: Some(number) })
    };
    let places: Vec<Place> =
        (0..archive.len()).filter_map(|i| place((i, archive.name_for_index(i)?.ok()?.into_owned()))).collect();
    let keys: Vec<String> = places.iter().map(|place| place.key.clone()).collect();
    choose(path, places)?.ok_or_else(|| {
        let found = if keys.is_empty() { "no arrays".into() } else { format!("arrays {}", list_names(&keys)) };
        let problem = format!("{found}, none called as images are (x_train, train_images, images, data): save them so");
        Error::file(path, problem)
    })
}

/// The arrays in these files, each an `.npy`; none if none is called as images are.
///
/// # Errors
/// As [`of_file`].
pub(super) fn of_files(directory: &Path, files: &[PathBuf]) -> Result<Option<Arrays>> {
    let place = |file: &PathBuf| Place { key: stem(file), file: file.clone(), number: None };
    choose(directory, files.iter().map(place).collect())
}

/// Whether the array is images and of which part, if its name says so.
fn role(key: &str) -> Option<(bool, Part)> {
    match key {
        "arr_0" => return Some((true, Part::Whole)),
        "arr_1" => return Some((false, Part::Whole)),
        _ => {}
    }
    let key = key.to_lowercase();
    let words: Vec<&str> = key.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let of = |known: &[&str]| words.iter().filter(|word| known.contains(word)).count();
    let parts = words.iter().filter(|word| Part::of_word(word).is_some()).count();
    match (of(&IMAGES), of(&LABELS)) {
        (images, labels) if images + labels == 0 || images + labels + parts < words.len() => None,
        (_, labels) => Some((labels == 0, Part::of(words.into_iter()))),
    }
}

/// Pairs arrays by their names; none if none is called as images are.
fn choose(source: &Path, places: Vec<Place>) -> Result<Option<Arrays>> {
    let (mut images, mut labels, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for place in places {
        let (list, part) = match role(&place.key) {
            Some((true, part)) => (&mut images, part),
            Some((false, part)) => (&mut labels, part),
            None => {
                unknown.push(place.path());
                continue;
            }
        };
        if let Some((_, other)) = list.iter().find(|(own, _)| *own == part) {
            let other: &Place = other;
            let problem = format!("{} and {} can't both be meant: take one away", other.key, place.key);
            return Err(Error::file(source, problem));
        }
        list.push((part, place));
    }
    images.sort_by_key(|(part, _)| *part);
    let label = |part: Part| labels.iter().find(|(own, _)| *own == part).map(|(_, place)| place.clone());
    let pair = |(part, images): (Part, Place)| Pair { part, images, labels: label(part) };
    let mut pairs = images.into_iter().map(pair);
    let Some(train) = pairs.next() else { return Ok(None) };
    // Without a part to train on, a set without parts is one.
    let mut rest: Vec<Pair> = pairs.collect();
    let (train, rest) = match rest.pop_if(|last| last.part == Part::Whole && train.part != Part::Train) {
        Some(whole) => (whole, [vec![train], rest].concat()),
        None => (train, rest),
    };
    let is_test = |pair: &Pair| matches!(pair.part, Part::Test(_));
    let test = rest.first().filter(|pair| is_test(pair)).cloned();
    let further = rest.iter().skip(test.iter().len()).map(|pair| pair.images.path()).collect();
    Ok(Some(Arrays { train, test, further, unknown }))
}

/// Reads the pair and fits the images to what is wanted.
///
/// # Errors
/// One line that names the array which can't be read, is none of images or labels, or both when their counts differ.
pub(super) fn load(pair: &Pair, name: String, want: &Want) -> Result<Dataset> {
    let pixels = pair.images.images(want)?;
    let labels = pair.labels.as_ref().map(|place| place.read(want, labels)).transpose()?;
    if let (Some(labels), Some(place)) = (&labels, &pair.labels)
        && labels.len() != pixels.count
    {
        let (count, other) = (pixels.count, place.path());
        let problem = format!("{count} images, but {} has {} labels", other.display(), labels.len());
        return Err(Error::file(pair.images.path(), problem));
    }
    let is_dim = pixels.bytes.iter().all(|value| *value <= 1);
    let images = pair.images.path();
    let mut data = pixels::dataset(name, ARRAYS, pixels, labels.map_or(Labels::None, Labels::Numbers), want)?;
    data.account.part = pair.part.name().map(String::from);
    if pair.labels.is_none() {
        data.account.notes.push(format!("{}: no labels beside it, so all images are one class", images.display()));
    }
    if is_dim {
        let problem = "no value is above 1 of 255, so all images are black: are these 0 and 1? Save them as bool";
        data.account.notes.push(format!("{}: {problem}", images.display()));
    }
    Ok(data)
}

/// Labels, `[N]` or `[N, 1]`.
fn labels(header: Header, source: &mut dyn Read) -> Parsed<Vec<u32>> {
    match *header.shape.as_slice() {
        [_] | [_, 1] => {}
        [_, _] => return Err(format!("labels of shape {:?}: if these are one-hot, save y.argmax(1)", header.shape)),
        _ => return Err(format!("labels of shape {:?}: there is one for each image, [N]", header.shape)),
    }
    if header.kind == Kind::Float {
        return Err("labels are floats: save whole numbers, y.astype(int)".into());
    }
    let (mut labels, mut wrong) = (Vec::new(), None);
    header.numbers(source, &mut |numbers| {
        wrong = wrong.or(numbers.iter().copied().find(|label| !(0.0..=f64::from(LARGEST_LABEL)).contains(label)));
        labels.extend(numbers.iter().map(|label| *label as u32));
    })?;
    match wrong {
        Some(label) => Err(format!("label {label} is none of 0 to {LARGEST_LABEL}")),
        None => Ok(labels),
    }
}

/// The strides of images, rows, columns and channels.
type Strides = [usize; 4];

/// Images `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`, as `[N, H, W, C]` bytes; or the range of their values, if it is not the
/// `known` one or the one that the first values suggest.
fn images(header: &Header, source: &mut dyn Read, known: Option<Range>) -> Parsed<std::result::Result<Pixels, Range>> {
    let (count, shape, strides) = layout(header)?;
    let bytes = if header.is_bytes() {
        header.as_they_lie(source)?
    } else {
        let (mut seen, mut taken) = (Seen::default(), known);
        let bytes = header.converted(source, &mut |numbers, levels| {
            seen.add(numbers);
            taken.get_or_insert_with(|| seen.likely(header.kind)).levels(numbers, levels);
        })?;
        let range = seen.range(header.kind)?;
        if taken != Some(range) {
            return Ok(Err(range));
        }
        bytes
    };
    Ok(Ok(Pixels { count, shape, bytes: in_order(bytes, count, shape, strides)? }))
}

fn layout(array: &Header) -> Parsed<(usize, Shape, Strides)> {
    let sides = &array.shape;
    let few = |channels: usize| [1, 3].contains(&channels);
    let product = |sides: &[usize]| sides.iter().product::<usize>();
    let stride = |at: usize| if array.is_fortran { product(&sides[..at]) } else { product(&sides[at + 1..]) };
    let (height, width, channels) = match *sides.as_slice() {
        [_, _, last] if few(last) => {
            return Err(format!("shape {sides:?} is that of one image: save [N, H, W] or [N, H, W, C]"));
        }
        [_, _, _] => (1, 2, None),
        [_, first, _, last] if few(first) && few(last) => {
            return Err(format!(
                "shape {sides:?} is [N, H, W, C] as well as [N, C, H, W]: save [N, H, W] of grey ones"
            ));
        }
        [_, _, _, last] if few(last) => (1, 2, Some(3)),
        [_, first, _, _] if few(first) => (2, 3, Some(1)),
        [_, _, _, _] => return Err(format!("shape {sides:?}: images have 1 (grey) or 3 (RGB) channels, [N, H, W, C]")),
        [_, flat] => return Err(format!("rows of {flat} values: save images, x.reshape(-1, height, width)")),
        _ => return Err(format!("shape {sides:?} is none of images: [N, H, W] or [N, H, W, C]")),
    };
    if array.len() == 0 {
        return Err(format!("shape {sides:?} holds no pixels: give a set with some"));
    }
    let side = |at: usize| u32::try_from(sides[at]).map_err(|_| format!("shape {sides:?} is too large to hold"));
    let channel = channels.map_or(0, stride);
    let shape = Shape { height: side(height)?, width: side(width)?, channels: channels.map_or(Ok(1), side)? };
    Ok((sides[0], shape, [stride(0), stride(height), stride(width), channel]))
}

/// Which values are black and white.
#[derive(Clone, Copy, PartialEq)]
struct Range(f64, f64);

impl Range {
    const LEVELS: Range = Range(0.0, 255.0);
    const SHARES: Range = Range(0.0, 1.0);
    const SIGNED: Range = Range(-1.0, 1.0);

    /// The levels, 0 to 255, of numbers within the range.
    fn levels(self, numbers: &[f64], levels: &mut [u8]) {
        let Range(from, to) = self;
        for (level, number) in levels.iter_mut().zip(numbers) {
            let exact = (number - from) / (to - from) * 255.0;
            let nearest = nearest(exact);
            // Halves go up, as `f64::round` has it, which calls a function for each number.
            let rounded = nearest + f64::from(u8::from(exact - nearest >= 0.5));
            *level = (rounded + WHOLE).to_bits() as u8;
        }
    }
}

/// A number that is added to others below 2^51 has no place behind the point, and ends with the bits of their nearest whole one.
const WHOLE: f64 = 1.5 * (1_u64 << 52) as f64;

/// The nearest whole number of one below 2^51, the even one of two.
fn nearest(number: f64) -> f64 {
    number + WHOLE - WHOLE
}

/// What is looked at side by side.
const LANES: usize = 8;

/// What numbers there are.
struct Seen {
    least: [f64; LANES],
    most: [f64; LANES],
    are_whole: bool,
    are_finite: bool,
}

impl Default for Seen {
    fn default() -> Seen {
        let (least, most) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
        Seen { least, most, are_whole: true, are_finite: true }
    }
}

impl Seen {
    fn add(&mut self, numbers: &[f64]) {
        let (chunks, rest) = numbers.as_chunks();
        chunks.iter().for_each(|numbers| self.add_lanes(numbers));
        rest.iter().for_each(|number| self.add_lanes(&[*number; LANES]));
    }

    fn add_lanes(&mut self, numbers: &[f64; LANES]) {
        let (mut are_whole, mut are_finite) = (true, true);
        for (lane, number) in numbers.iter().enumerate() {
            self.least[lane] = if *number < self.least[lane] { *number } else { self.least[lane] };
            self.most[lane] = if *number > self.most[lane] { *number } else { self.most[lane] };
            are_whole &= nearest(*number) == *number;
            are_finite &= number.is_finite();
        }
        self.are_whole &= are_whole;
        self.are_finite &= are_finite;
    }

    fn least(&self) -> f64 {
        self.least.into_iter().fold(f64::INFINITY, f64::min)
    }

    fn most(&self) -> f64 {
        self.most.into_iter().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The range, by the first numbers.
    fn likely(&self, kind: Kind) -> Range {
        match kind {
            Kind::Bool => Range::SHARES,
            Kind::Float if self.least() < 0.0 => Range::SIGNED,
            Kind::Float if !self.are_whole || self.most() <= 1.0 => Range::SHARES,
            _ => Range::LEVELS,
        }
    }

    /// The range of all numbers.
    ///
    /// Whole numbers are levels. Floats are levels if all are whole and one is above 1; else they are shares of 0 to 1, or of -1 to 1, if
    /// they reach both ends of that to a level.
    fn range(&self, kind: Kind) -> Parsed<Range> {
        const LEVEL: f64 = 1.0 / 255.0;
        const SIGNED_LOW: f64 = -1.0 + 2.0 * LEVEL;
        const SIGNED_HIGH: f64 = 1.0 - 2.0 * LEVEL;
        if !self.are_finite {
            return Err("a value is infinite or not a number".into());
        }
        let (least, most, is_float) = (self.least(), self.most(), kind == Kind::Float);
        match (least, most) {
            _ if kind == Kind::Bool => Ok(Range::SHARES),
            (0.0..=255.0, 0.0..=255.0) if !is_float || self.are_whole && most > 1.0 => Ok(Range::LEVELS),
            (0.0..=LEVEL, _) if is_float && (1.0 - LEVEL..=1.0).contains(&most) => Ok(Range::SHARES),
            (-1.0..=SIGNED_LOW, SIGNED_HIGH..=1.0) if is_float => Ok(Range::SIGNED),
            _ if is_float => Err(format!(
                "floats from {least} to {most}: read are 0 to 1 and -1 to 1, where both ends are reached, and whole numbers of 0 to \
                 255; save x.astype(np.uint8) of 0 to 255"
            )),
            _ => Err(format!("values from {least} to {most}: pixels are 0 to 255")),
        }
    }
}

/// `[N, H, W, C]` out of values that lie so.
fn in_order(bytes: Room, count: usize, shape: Shape, strides: Strides) -> Parsed<Room> {
    let [height, width, channels] = [shape.height, shape.width, shape.channels].map(|side| side as usize);
    let row = width * channels;
    let channel = if channels == 1 { strides[3] } else { 1 };
    if strides == [height * row, row, channels, channel] {
        return Ok(bytes);
    }
    let mut ordered = shape.allocate(count).map_err(|error| error.to_string())?;
    let mut slots = ordered.iter_mut();
    for image in 0..count {
        for y in 0..height {
            for x in 0..width {
                let first = image * strides[0] + y * strides[1] + x * strides[2];
                let pixel = (0..channels).map(|c| bytes[first + c * strides[3]]);
                pixel.zip(slots.by_ref()).for_each(|(value, slot)| *slot = value);
            }
        }
    }
    Ok(ordered)
}
