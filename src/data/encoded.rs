//! Images as files within a file: PNG, JPEG and the like, decoded as they come, so that only a few are held beside the set.

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
    label: Option<u32>,
}

/// A data set that grows image by image.
pub(super) struct Encoded<'a> {
    want: &'a Want,
    /// Known once an image was decoded, if the size is left open.
    shape: Option<Shape>,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    images: Room,
    labels: Vec<u32>,
    /// The first image with a label, and the first without one.
    labelled: Option<PathBuf>,
    unlabelled: Option<PathBuf>,
    changes: Changes,
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
            images: Room::default(),
            labels: Vec::new(),
            labelled: None,
            unlabelled: None,
            changes: Changes::default(),
            unread: Unread::default(),
            share: 0.0,
            watched: Watched::new(want.watch),
        }
    }

    /// The images from here on are behind this share of the source.
    pub fn reach(&mut self, share: f64) {
        self.share = share;
    }

    /// Adds one image; a label below 0 is none, as hubs mark those of test images.
    ///
    /// # Errors
    /// One line that names `place`, if its label can't be one; or the images are too large to hold.
    pub fn push(&mut self, place: PathBuf, bytes: Vec<u8>, label: Option<i64>) -> Result<()> {
        let label = match label.filter(|label| *label >= 0).map(u32::try_from) {
            None => None,
            Some(Ok(label @ 0..=LARGEST_LABEL)) => Some(label),
            Some(_) => {
                let problem = format!("label {} is none of 0 to {LARGEST_LABEL}", label.unwrap_or_default());
                return Err(Error::file(place, problem));
            }
        };
        let first = if label.is_some() { &mut self.labelled } else { &mut self.unlabelled };
        first.get_or_insert_with(|| place.clone());
        self.waiting_bytes += bytes.len();
        self.waiting.push(Waiting { place, bytes, label });
        if self.waiting.len() >= MOST_WAITING || self.waiting_bytes >= MOST_BYTES { self.decode() } else { Ok(()) }
    }

    /// Makes each label the number that `numbers` has in its place.
    ///
    /// # Errors
    /// The images are too large to hold.
    pub fn relabel(&mut self, numbers: &[u32]) -> Result<()> {
        self.decode()?;
        self.labels.iter_mut().for_each(|label| *label = numbers.get(*label as usize).copied().unwrap_or_default());
        Ok(())
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
        let (before, count) = (self.labels.len(), waiting.len());
        let decoded = |index: usize| decode_guarded(&waiting[index].bytes, self.want);
        self.watched.expect(count, self.share);
        let Fitted { changes, failures } = fit_images(&mut self.images, before, count, shape, &self.watched, decoded)?;
        if failures.len() < count {
            self.changes.add(&changes);
        }
        let mut failures = failures.into_iter().peekable();
        for (index, image) in waiting.into_iter().enumerate() {
            match failures.next_if(|(failed, _)| *failed == index) {
                Some((_, problem)) => self.unread.add(image.place, problem),
                None => self.labels.push(image.label.unwrap_or_default()),
            }
        }
        Ok(())
    }

    /// The data set of all images out of `source`; `classes` names them, or they are numbers.
    ///
    /// # Errors
    /// One line that names `source`, if none could be decoded, some lack a label, or a label has no name.
    pub fn finish(
        mut self,
        source: &Path,
        name: String,
        format: &'static str,
        classes: Option<Vec<String>>,
    ) -> Result<Dataset> {
        self.decode()?;
        let count = self.labels.len();
        let Some(shape) = self.shape.filter(|_| count > 0) else {
            let first = self.unread.first();
            let first =
                first.map_or_else(String::new, |(path, problem)| format!(", first {}: {problem}", path.display()));
            let tried = self.unread.count;
            return Err(Error::file(source, format!("no image can be read ({tried} tried{first})")));
        };
        if let (Some(labelled), Some(unlabelled)) = (&self.labelled, &self.unlabelled) {
            return Err(Error::file(unlabelled, format!("no label, though {} has one", labelled.display())));
        }
        let labels = match (self.labelled.is_some(), classes) {
            (false, _) => Labels::None,
            (true, None) => Labels::Numbers(self.labels),
            (true, Some(names)) => match self.labels.iter().find(|label| **label as usize >= names.len()) {
                Some(label) => {
                    let problem = format!("label {label}, but there are {} names of classes", names.len());
                    return Err(Error::file(source, problem));
                }
                None => Labels::Named(self.labels, names),
            },
        };
        let mut account = Account { format, changes: self.changes, ..Account::default() };
        account.skip_unread(self.unread);
        account.note_lost_colour(count);
        let (labels, classes) = classify(labels, count, &name, &mut account);
        let Shape { height, width, channels } = shape;
        let mut data = Dataset { name, height, width, channels, images: self.images.into(), labels, classes, account };
        note_empty_classes(&mut data);
        Ok(data)
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
