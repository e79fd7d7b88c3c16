//! Images as files within a file: PNG, JPEG and the like, decoded as they come, so that only a few are held beside the set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::account::{Account, Changes, Unread};
use super::dataset::{Dataset, Shape, Want};
use super::decode::{Decoded, decode_guarded};
use super::fill::{Fitted, fit_images};
use super::pixels::{LARGEST_LABEL, Labels, classify, note_empty_classes};
use super::room::Room;
use super::watch::Watched;
use crate::error::{Error, Result};

/// How many images wait for being decoded together, and their bytes.
const MOST_WAITING: usize = 512;
const MOST_BYTES: usize = 32 << 20;

/// An image that waits for being decoded.
struct Waiting {
    /// Where it is, for warnings.
    place: PathBuf,
    bytes: Vec<u8>,
    mark: u32,
}

/// Images that may become a set of their own; those of one file are 0.
pub(super) type Group = u32;

/// A data set that grows image by image.
pub(super) struct Encoded<'a> {
    want: &'a Want,
    /// Known once an image was decoded, if the size is left open.
    shape: Option<Shape>,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// That of all that wait.
    group: Group,
    images: Room,
    /// What who reads the source knows of each image.
    marks: Vec<u32>,
    changes: BTreeMap<Group, Changes>,
    unread: Unread,
    /// How much of the source was read.
    share: f64,
    watched: Watched,
}

impl<'a> Encoded<'a> {
    pub fn new(want: &'a Want) -> Encoded<'a> {
        Encoded {
            want,
            shape: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            group: 0,
            images: Room::default(),
            marks: Vec::new(),
            changes: BTreeMap::new(),
            unread: Unread::default(),
            share: 0.0,
            watched: Watched::new(want.watch),
        }
    }

    /// The images from here on are behind this share of the source.
    pub fn reach(&mut self, share: f64) {
        self.share = share;
    }

    /// Adds one image; `mark` comes back with it.
    ///
    /// # Errors
    /// The images are too large to hold.
    pub fn push(&mut self, place: PathBuf, bytes: Vec<u8>, mark: u32, group: Group) -> Result<()> {
        if group != self.group {
            self.decode()?;
            self.group = group;
        }
        self.waiting_bytes += bytes.len();
        self.waiting.push(Waiting { place, bytes, mark });
        if self.waiting.len() >= MOST_WAITING || self.waiting_bytes >= MOST_BYTES { self.decode() } else { Ok(()) }
    }

    /// The marks of all images that could be decoded.
    ///
    /// # Errors
    /// The images are too large to hold.
    pub fn marks(&mut self) -> Result<&[u32]> {
        self.decode()?;
        Ok(&self.marks)
    }

    /// Gives the images of the marks that go `There`, as do those of some groups; forgets those that go nowhere.
    ///
    /// # Errors
    /// The images are too large to hold.
    pub fn divide(&mut self, goes: impl Fn(u32) -> Goes, group_goes: impl Fn(Group) -> Goes) -> Result<Encoded<'a>> {
        self.decode()?;
        let mut other = Encoded { shape: self.shape, ..Encoded::new(self.want) };
        let moved = self.marks.iter().filter(|mark| goes(**mark) == Goes::There).count();
        let Some(shape) = self.shape else { return Ok(other) };
        let bytes = shape.bytes(1)?;
        if moved > 0 {
            shape.grow(&mut other.images, moved)?;
        }
        let (mut here, mut there) = (0, other.images.chunks_exact_mut(bytes));
        for (index, mark) in self.marks.iter().enumerate() {
            let own = index * bytes..(index + 1) * bytes;
            match goes(*mark) {
                Goes::Nowhere => {}
                Goes::There => {
                    there.next().into_iter().for_each(|there| there.copy_from_slice(&self.images[own.clone()]))
                }
                Goes::Here => {
                    self.images.copy_within(own, here);
                    here += bytes;
                }
            }
        }
        self.images.truncate(here);
        other.marks = self.marks.extract_if(.., |mark| goes(*mark) == Goes::There).collect();
        self.marks.retain(|mark| goes(*mark) == Goes::Here);
        other.changes = self.changes.extract_if(.., |group, _| group_goes(*group) == Goes::There).collect();
        self.changes.retain(|group, _| group_goes(*group) == Goes::Here);
        Ok(other)
    }

    /// Decodes what waits.
    fn decode(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let Some(shape) = self.shape.or_else(|| shape_of(self.want, &waiting)) else {
            for image in waiting {
                let problem = decode_guarded(&image.bytes, self.want).err().unwrap_or_default();
                self.unread.add(image.place, problem);
            }
            return Ok(());
        };
        self.shape = Some(shape);
        let (before, count) = (self.marks.len(), waiting.len());
        let decoded = |index: usize| decode_guarded(&waiting[index].bytes, self.want);
        self.watched.expect(count, self.share);
        let Fitted { changes, failures } = fit_images(&mut self.images, before, count, shape, &self.watched, decoded)?;
        if failures.len() < count {
            self.changes.entry(self.group).or_default().add(&changes);
        }
        let mut failures = failures.into_iter().peekable();
        for (index, image) in waiting.into_iter().enumerate() {
            match failures.next_if(|(failed, _)| *failed == index) {
                Some((_, problem)) => self.unread.add(image.place, problem),
                None => self.marks.push(image.mark),
            }
        }
        Ok(())
    }

    /// The data set of all images out of `source`, of which `labels` makes its labels out of the marks.
    ///
    /// # Errors
    /// One line that names `source`, if none could be decoded; and those of `labels`.
    pub fn finish(
        mut self,
        source: &Path,
        name: String,
        format: &'static str,
        labels: impl FnOnce(Vec<u32>) -> Result<Labels>,
    ) -> Result<Dataset> {
        self.decode()?;
        let count = self.marks.len();
        let Some(shape) = self.shape.filter(|_| count > 0) else {
            let first = self.unread.first();
            let first =
                first.map_or_else(String::new, |(path, problem)| format!(", first {}: {problem}", path.display()));
            let tried = match self.unread.count {
                // They were counted where these come from.
                0 => String::new(),
                tried => format!(" ({tried} tried{first})"),
            };
            return Err(Error::file(source, format!("no image can be read{tried}")));
        };
        let mut account = Account { format, ..Account::default() };
        self.changes.values().for_each(|changes| account.changes.add(changes));
        account.skip_unread(self.unread);
        account.note_lost_colour(count);
        let (labels, classes) = classify(labels(self.marks)?, count, &name, &mut account);
        let Shape { height, width, channels } = shape;
        let mut data = Dataset { name, height, width, channels, images: self.images.into(), labels, classes, account };
        note_empty_classes(&mut data);
        Ok(data)
    }
}

/// Where an image goes if its set is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    Here,
    There,
    Nowhere,
}

/// Whether images have labels: all of them, or none.
#[derive(Default)]
pub(super) struct Labelled {
    first: Option<PathBuf>,
    without: Option<PathBuf>,
}

impl Labelled {
    /// The label of the image at `place`; one below 0 is none, as hubs mark those of test images.
    ///
    /// # Errors
    /// One line that names `place`, if its label can't be one.
    pub fn add(&mut self, place: &Path, label: Option<i64>) -> Result<Option<u32>> {
        let label = match label.filter(|label| *label >= 0).map(u32::try_from) {
            None => None,
            Some(Ok(label @ 0..=LARGEST_LABEL)) => Some(label),
            Some(_) => {
                let problem = format!("label {} is none of 0 to {LARGEST_LABEL}", label.unwrap_or_default());
                return Err(Error::file(place, problem));
            }
        };
        let first = if label.is_some() { &mut self.first } else { &mut self.without };
        first.get_or_insert_with(|| place.into());
        Ok(label)
    }

    /// Whether all have one.
    ///
    /// # Errors
    /// One line that names the first without, if some have.
    pub fn all(&self) -> Result<bool> {
        match (&self.first, &self.without) {
            (Some(labelled), Some(without)) => {
                Err(Error::file(without, format!("no label, though {} has one", labelled.display())))
            }
            (first, _) => Ok(first.is_some()),
        }
    }
}

/// What is wanted; an open size is that of the first image that can be decoded, a square if its sides differ.
fn shape_of(want: &Want, images: &[Waiting]) -> Option<Shape> {
    let first = || images.iter().find_map(|image| decode_guarded(&image.bytes, want).ok());
    let (open, grey) = ((want.height, want.width) == (None, None), want.channels.is_none());
    let first: Option<Decoded> = if open || grey { Some(first()?) } else { None };
    let side = first.as_ref().map_or(1, |first| first.image.width().min(first.image.height()));
    let is_grey = first.is_some_and(|first| !first.image.color().has_color());
    let (height, width) = (want.height.or(want.width), want.width.or(want.height));
    Some(Shape {
        height: height.unwrap_or(side),
        width: width.unwrap_or(side),
        channels: want.channels.unwrap_or(if is_grey { 1 } else { 3 }),
    })
}
