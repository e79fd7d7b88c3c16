//! Tar archives of images: those of WebDataset, shards in which `KEY.jpg` and `KEY.cls` stand side by side, folders that are classes,
//! and that of CIFAR's binary files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::account::{LeftOut, Skipped, WEBDATASET};
use super::cifar::Packed;
use super::dataset::{Dataset, Read, Want};
use super::decode::check_length;
use super::encoded::{Encoded, Goes, Group, Labelled};
use super::folder::check_number;
use super::parts::is_part;
use super::pixels::Labels;
use super::place::{Parsed, is_hidden, natural, stem};
use super::tar::{Entry, Next, Tar};
use super::tree::{Folder, Taken, Tree, arrange};
use super::watch::Files;
use crate::error::{Error, Result};

const IMAGES: [&str; 8] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"];
/// The longest file of a label.
const MAX_LABEL: u64 = 1 << 20;
/// What a kind of images takes beside its names.
const KIND_BYTES: u64 = 256;

/// What stands side by side under one key.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<(PathBuf, Vec<u8>)>,
    label: Option<i64>,
}

/// Images of one folder and one label; with a label only the part matters that the folder is in.
struct Kind {
    folder: String,
    label: Option<u32>,
    group: Group,
    /// The first of them, and how many could be decoded.
    first: PathBuf,
    images: usize,
}

/// A set in the making.
struct Set<'a> {
    want: &'a Want,
    encoded: Encoded<'a>,
    sample: Sample,
    labelled: Labelled,
    /// The marks of images are places among these.
    kinds: Vec<Kind>,
    places: BTreeMap<(String, Option<u32>), usize>,
    /// The folders that may be parts.
    groups: BTreeMap<String, Group>,
    /// What all of these take in memory.
    bytes: u64,
    others: LeftOut,
    links: LeftOut,
    further: LeftOut,
}

/// Reads the shards as one set, and fits the images to what is wanted.
///
/// # Errors
/// One line that names the shard which can't be read or has no images.
pub(super) fn load(shards: &[PathBuf], name: String, want: &Want) -> Result<Dataset> {
    let mut set = Set::new(want);
    let mut all = Files::new(shards.iter().map(PathBuf::as_path));
    for path in shards {
        all.begin(path);
        set.add(path, &all, None)?;
    }
    let source = shards.first().map_or(Path::new(""), |first| first);
    let (mut data, test) = set.finish(source, name)?;
    if let Some(test) = test? {
        let why = "test images within shards, which are not read: give each part shards of its own";
        data.account.skipped.push(Skipped { count: test.len(), first: source.into(), why: why.into() });
    }
    Ok(data)
}

/// Reads the one archive at `path`: a shard, or CIFAR's.
///
/// # Errors
/// As [`load`].
pub(super) fn load_one(path: &Path, want: &Want, tested: bool) -> Result<Read> {
    let (mut set, mut cifar) = (Set::new(want), Packed::default());
    let mut all = Files::new(std::iter::once(path));
    all.begin(path);
    set.add(path, &all, Some(&mut cifar))?;
    match cifar.load(path, want, tested)? {
        Some(read) => Ok(read),
        None => set.finish(path, stem(path)).map(|(train, test)| (train, if tested { test } else { Ok(None) })),
    }
}

impl<'a> Set<'a> {
    fn new(want: &'a Want) -> Set<'a> {
        Set {
            want,
            encoded: Encoded::new(want),
            sample: Sample::default(),
            labelled: Labelled::default(),
            kinds: Vec::new(),
            places: BTreeMap::new(),
            groups: BTreeMap::new(),
            bytes: 0,
            others: LeftOut::default(),
            links: LeftOut::default(),
            further: LeftOut::default(),
        }
    }

    /// Adds what is in one archive; files of CIFAR go to `cifar`.
    fn add(&mut self, path: &Path, all: &Files, mut cifar: Option<&mut Packed>) -> Result<()> {
        let refused = |problem: String| Error::file(path, problem);
        let mut tar = Tar::open(path)?;
        loop {
            let entry = match tar.next().map_err(refused)? {
                Next::End => break,
                Next::Other(name) => {
                    self.links.add(path.join(name));
                    continue;
                }
                Next::File(entry) => entry,
            };
            if let Some(cifar) = &mut cifar
                && Packed::takes(&entry.name).map_err(refused)?
            {
                let bytes = entry.length.saturating_add(cifar.bytes);
                self.want.check_memory(bytes, "the batches in it have").map_err(refused)?;
                cifar.add(&entry.name, tar.content().map_err(refused)?);
                continue;
            }
            self.add_entry(path, entry, &mut tar)?;
            self.encoded.reach(all.share(tar.share()));
        }
        self.flush()
    }

    /// Adds one file of a sample.
    fn add_entry(&mut self, path: &Path, entry: Entry, tar: &mut Tar) -> Result<()> {
        let place = path.join(&entry.name);
        let refused = |problem: String| Error::file(path, problem);
        let (folder, file) = entry.name.rsplit_once('/').unwrap_or(("", &entry.name));
        if entry.name.split('/').any(|part| part != "." && is_hidden(part)) {
            return Ok(());
        }
        let Some((key, ending)) = file.split_once('.') else {
            self.others.add(place);
            return Ok(());
        };
        let (key, ending) = (format!("{folder}/{key}"), ending.to_lowercase());
        if key != self.sample.key {
            self.flush()?;
            self.sample.key = key;
        }
        // `input.png` is a png, as the library of that name has it.
        let ending = ending.rsplit('.').next().unwrap_or(&ending);
        let is_label = ending == "cls" || ending == "json";
        if IMAGES.contains(&ending) {
            if self.sample.image.is_some() {
                self.further.add(place);
                return Ok(());
            }
            check_length(entry.length)
                .map_err(|problem| format!("an image file {problem}"))
                .and_then(|()| self.want.check_memory(entry.length, "the file has"))
                .map_err(|problem| Error::file(&place, problem))?;
            self.sample.image = Some((place, tar.content().map_err(refused)?));
        } else if is_label && entry.length <= MAX_LABEL {
            let text = tar.content().map_err(refused)?;
            let label = if ending == "cls" { label_of_text(&text).map(Some) } else { Ok(label_of_json(&text)) };
            let label = label.map_err(|problem| Error::file(&place, problem))?;
            self.sample.label = label.or(self.sample.label);
        } else {
            self.others.add(place);
        }
        Ok(())
    }

    /// The sample is whole.
    fn flush(&mut self) -> Result<()> {
        let Sample { key, image, label } = std::mem::take(&mut self.sample);
        let Some((place, bytes)) = image else { return Ok(()) };
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        let part = part_of(folder);
        let label = self.labelled.add(&place, label)?;
        let folder = if label.is_some() { part } else { folder };
        let kind = match self.places.get(&(folder.into(), label)) {
            Some(kind) => *kind,
            None => self.begin_kind(folder, part, label, &place).map_err(|problem| Error::file(&place, problem))?,
        };
        self.encoded.push(place, bytes, kind as u32, self.kinds[kind].group)
    }

    /// The place of a further kind.
    fn begin_kind(&mut self, folder: &str, part: &str, label: Option<u32>, first: &Path) -> Parsed<usize> {
        self.bytes += KIND_BYTES + (3 * folder.len() + first.as_os_str().len()) as u64;
        self.want.check_memory(self.bytes, "the names of folders up to this one take")?;
        let (group, place) = (self.groups.len() as Group, self.kinds.len());
        let group = *self.groups.entry(part.into()).or_insert(group);
        self.kinds.push(Kind { folder: folder.into(), label, group, first: first.into(), images: 0 });
        self.places.insert((folder.into(), label), place);
        Ok(place)
    }

    /// The images to train on, and those to test on if folders say which these are.
    fn finish(mut self, source: &Path, name: String) -> Result<Read> {
        if self.kinds.is_empty() {
            let first = self.others.first.or(self.links.first);
            let first = first.map_or_else(String::new, |first| format!(" (but {})", first.display()));
            return Err(Error::file(source, format!("an archive without images{first}")));
        }
        let is_labelled = self.labelled.all()?;
        self.encoded.marks()?.iter().for_each(|mark| self.kinds[*mark as usize].images += 1);
        let folders = self.kinds.iter();
        let folders: Vec<Folder> =
            folders.map(|kind| Folder { path: &kind.folder, images: kind.images, first: &kind.first }).collect();
        let tree = arrange(&folders).map_err(|problem| Error::file(source, problem))?;
        let Tree { taken, part, test, note } = tree;
        let goes = |kind: usize| match taken[kind] {
            Taken::Left(_) => Goes::Nowhere,
            Taken::Read { is_test: true, .. } => Goes::There,
            Taken::Read { .. } => Goes::Here,
        };
        let mut groups = vec![Goes::Nowhere; self.groups.len()];
        for (kind, own) in self.kinds.iter().enumerate().filter(|(kind, _)| goes(*kind) != Goes::Nowhere) {
            groups[own.group as usize] = goes(kind);
        }
        let other = self.encoded.divide(|mark| goes(mark as usize), |group| groups[group as usize])?;
        let labels = |marks| labels_of(source, marks, &self.kinds, &taken, is_labelled);
        let mut data = self.encoded.finish(source, name.clone(), WEBDATASET, labels)?;
        data.account.part = part.map(String::from);
        data.account.notes.extend(note);
        if !data.account.is_labelled {
            data.account.notes.push(format!("{}: no KEY.cls, so all images are one class", source.display()));
        }
        for (kind, taken) in self.kinds.iter().zip(&taken) {
            if let Taken::Left(why) = taken
                && kind.images > 0
            {
                skip(&mut data.account.skipped, kind, why);
            }
        }
        data.account.skip_left(self.further, "a second image of its key");
        data.account.skip_left(self.links, "a link or a device in the archive, not followed");
        data.account.skip_left(self.others, "neither an image nor a label (.cls, .json)");
        let test = test.map(|part| {
            let mut test = other.finish(&source.join(part), name, WEBDATASET, labels)?;
            test.account.part = Some(part.into());
            Ok(test)
        });
        Ok((data, test.transpose()))
    }
}

/// The images of a kind are left out, with others for the same reason.
fn skip(skipped: &mut Vec<Skipped>, kind: &Kind, why: &str) {
    match skipped.iter_mut().find(|skipped| skipped.why == why) {
        Some(skipped) => skipped.count += kind.images,
        None => skipped.push(Skipped { count: kind.images, first: kind.first.clone(), why: why.into() }),
    }
}

/// The folder as far as its first name that is one of a part; of others nothing.
fn part_of(folder: &str) -> &str {
    let mut end = 0;
    for name in folder.split('/') {
        end += name.len();
        if is_part(name) {
            return &folder[..end];
        }
        end += 1;
    }
    ""
}

/// The labels of images of these kinds: their own, or the folders that are classes.
fn labels_of(source: &Path, marks: Vec<u32>, kinds: &[Kind], taken: &[Taken], is_labelled: bool) -> Result<Labels> {
    if is_labelled {
        let label = |mark: &u32| kinds[*mark as usize].label.unwrap_or_default();
        return Ok(Labels::Numbers(marks.iter().map(label).collect()));
    }
    let class = |mark: &u32| if let Taken::Read { class, .. } = taken[*mark as usize] { class } else { None };
    let Some(own) = marks.iter().map(class).collect::<Option<Vec<&str>>>() else { return Ok(Labels::None) };
    let mut names = own.clone();
    names.sort();
    names.dedup();
    names.sort_by_key(|name| natural(name));
    check_number(source, names.len())?;
    let numbers: BTreeMap<&str, u32> = names.iter().copied().zip(0..).collect();
    let labels = own.iter().map(|name| numbers[name]).collect();
    Ok(Labels::Named(labels, names.into_iter().map(String::from).collect()))
}

fn label_of_text(text: &[u8]) -> Parsed<i64> {
    let text = String::from_utf8_lossy(text);
    text.trim()
        .parse()
        .map_err(|_| format!("{:?} is no label, a whole number", text.trim().chars().take(40).collect::<String>()))
}

/// The `label` or `cls` of the JSON of a sample, which may be about something else.
fn label_of_json(text: &[u8]) -> Option<i64> {
    let value: Value = serde_json::from_slice(text).ok()?;
    value.get("label").or(value.get("cls"))?.as_i64()
}
