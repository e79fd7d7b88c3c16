//! Tar archives of images: those of WebDataset, shards in which `KEY.jpg` and `KEY.cls` stand side by side, folders that are classes,
//! and that of CIFAR's binary files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::account::{LeftOut, WEBDATASET};
use super::cifar::Packed;
use super::dataset::{Dataset, Read, Want};
use super::decode::check_length;
use super::encoded::Encoded;
use super::parts::is_part;
use super::place::{Parsed, stem};
use super::tar::{Entry, Next, Tar};
use super::watch::Files;
use crate::error::{Error, Result};

const IMAGES: [&str; 8] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"];
/// The longest file of a label.
const MAX_LABEL: u64 = 1 << 20;

/// What stands side by side under one key.
#[derive(Default)]
struct Sample {
    key: String,
    image: Option<(PathBuf, Vec<u8>)>,
    label: Option<i64>,
}

/// A set in the making.
struct Set<'a> {
    encoded: Encoded<'a>,
    sample: Sample,
    count: usize,
    /// Folders of images without a label, each with its number and the first of its images.
    folders: BTreeMap<String, (u32, PathBuf)>,
    others: LeftOut,
    links: LeftOut,
    further: LeftOut,
    has_labels: bool,
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
        set.add(path, want, &all, None)?;
    }
    set.finish(shards.first().map_or(Path::new(""), |first| first), name)
}

/// Reads the one archive at `path`: a shard, or CIFAR's.
///
/// # Errors
/// As [`load`].
pub(super) fn load_one(path: &Path, want: &Want, tested: bool) -> Result<Read> {
    let (mut set, mut cifar) = (Set::new(want), Packed::default());
    let mut all = Files::new(std::iter::once(path));
    all.begin(path);
    set.add(path, want, &all, Some(&mut cifar))?;
    match cifar.load(path, want, tested)? {
        Some(read) => Ok(read),
        None => Ok((set.finish(path, stem(path))?, Ok(None))),
    }
}

impl<'a> Set<'a> {
    fn new(want: &'a Want) -> Set<'a> {
        Set {
            encoded: Encoded::new(want),
            sample: Sample::default(),
            count: 0,
            folders: BTreeMap::new(),
            others: LeftOut::default(),
            links: LeftOut::default(),
            further: LeftOut::default(),
            has_labels: false,
        }
    }

    /// Adds what is in one archive; files of CIFAR go to `cifar`.
    fn add(&mut self, path: &Path, want: &Want, all: &Files, mut cifar: Option<&mut Packed>) -> Result<()> {
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
                want.check_memory(entry.length.saturating_add(cifar.bytes), "the batches in it have")
                    .map_err(refused)?;
                cifar.add(&entry.name, tar.content().map_err(refused)?);
                continue;
            }
            self.add_entry(path, entry, &mut tar, want)?;
            self.encoded.reach(all.share(tar.share()));
        }
        self.flush()
    }

    /// Adds one file of a sample.
    fn add_entry(&mut self, path: &Path, entry: Entry, tar: &mut Tar, want: &Want) -> Result<()> {
        let place = path.join(&entry.name);
        let refused = |problem: String| Error::file(path, problem);
        let (folder, file) = entry.name.rsplit_once('/').unwrap_or(("", &entry.name));
        if entry.name.split('/').any(|part| part.starts_with('.')) {
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
                .and_then(|()| want.check_memory(entry.length, "the file has"))
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
        self.count += 1;
        self.has_labels |= label.is_some();
        let folder = key.rsplit_once('/').map_or("", |(folder, _)| folder);
        if label.is_some() || folder.is_empty() {
            return self.encoded.push(place, bytes, label);
        }
        let number = self.folders.len() as u32;
        let (number, _) = self.folders.entry(folder.into()).or_insert_with(|| (number, place.clone()));
        let number = i64::from(*number);
        self.encoded.push(place, bytes, Some(number))
    }

    /// The names of the classes, if folders are such; numbers of folders become numbers of classes.
    fn classes(&mut self, source: &Path) -> Result<Option<Vec<String>>> {
        let Some((_, first)) = self.folders.values().next() else { return Ok(None) };
        if self.has_labels {
            return Err(Error::file(first, "no label, though others have one"));
        }
        let folders: Vec<&str> = self.folders.keys().map(String::as_str).collect();
        let (names, labels) = classes_of(&folders).map_err(|(problem, folder)| {
            let image = Path::new(folder).join(self.folders[folder].1.file_name().unwrap_or_default());
            Error::file(source, format!("{problem} ({}): unpack it and give the folder", image.display()))
        })?;
        let mut of_folder = vec![0; folders.len()];
        self.folders.values().zip(labels).for_each(|((folder, _), label)| of_folder[*folder as usize] = label);
        self.encoded.relabel(&of_folder)?;
        Ok(Some(names))
    }

    fn finish(mut self, source: &Path, name: String) -> Result<Dataset> {
        if self.count == 0 {
            let first = self.others.first.or(self.links.first);
            let first = first.map_or_else(String::new, |first| format!(" (but {})", first.display()));
            return Err(Error::file(source, format!("an archive without images{first}")));
        }
        let classes = self.classes(source)?;
        let mut data = self.encoded.finish(source, name, WEBDATASET, classes)?;
        if !data.account.is_labelled {
            data.account.notes.push(format!("{}: no KEY.cls, so all images are one class", source.display()));
        }
        data.account.skip_left(self.further, "a second image of its key");
        data.account.skip_left(self.links, "a link or a device in the archive, not followed");
        data.account.skip_left(self.others, "neither an image nor a label (.cls, .json)");
        Ok(data)
    }
}

/// Names, and for each folder the number of its class.
type Classes = (Vec<String>, Vec<u32>);
/// What stands against that, and which folder.
type Against<'a> = (&'static str, &'a str);

/// The classes that folders are: what they are called behind the folders that all of them are in.
fn classes_of<'a>(folders: &[&'a str]) -> std::result::Result<Classes, Against<'a>> {
    let mut paths: Vec<Vec<&str>> = folders.iter().map(|folder| folder.split('/').collect()).collect();
    let is_one = |paths: &[Vec<&str>]| paths.iter().all(|path| path[0] == paths[0][0]);
    while is_one(&paths) && paths.iter().all(|path| path.len() > 1) {
        paths.iter_mut().for_each(|path| _ = path.remove(0));
    }
    let beside = paths.iter().position(|path| path.len() == 1).filter(|_| paths.len() > 1 && is_one(&paths));
    if let Some(at) = beside {
        return Err(("images beside folders of images", folders[at]));
    }
    if let Some(at) = paths.iter().position(|path| is_part(path[0])) {
        return Err(("folders of parts", folders[at]));
    }
    let mut names: Vec<&str> = paths.iter().map(|path| path[0]).collect();
    names.sort();
    names.dedup();
    // As in a folder of images: 2 before 10.
    names.sort_by_key(|name| name.parse::<u64>().unwrap_or(u64::MAX));
    let numbers: BTreeMap<&str, u32> = names.iter().copied().zip(0..).collect();
    let labels = paths.iter().map(|path| numbers[path[0]]).collect();
    Ok((names.into_iter().map(String::from).collect(), labels))
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
