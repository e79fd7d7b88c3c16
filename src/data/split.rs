//! Training images and test images of one source.

use std::collections::BTreeMap;

use super::account::Account;
use super::dataset::{Dataset, Want};
use super::source::load_parts;
use crate::error::Result;

/// One image of each class in so many is held out where the source has no test images.
pub const HELD_OUT: usize = 10;

/// Two data sets of the same classes that have no image in common.
#[derive(Debug, Clone)]
pub struct Split {
    pub train: Dataset,
    pub test: Dataset,
    /// Whether the test images were taken out of the training images, every tenth of each class, for want of others: a
    /// model that was trained on all of them has seen them.
    pub held_out: bool,
}

impl Split {
    /// What was read, in one line.
    pub fn summary(&self) -> String {
        let (train, tests) = (self.train.summary(), self.test.len());
        match &self.test.account.part {
            Some(part) if !self.held_out => format!("{train}; {tests} test images ({part})"),
            _ => train,
        }
    }

    /// Gives each class the index that its name has in `names`; without `are_named`, where nobody said what `names` are, there
    /// only must be no more classes than that.
    ///
    /// # Errors
    /// What doesn't fit, without the name of the source.
    pub fn put_in_order(&mut self, names: &[String], are_named: bool) -> std::result::Result<(), String> {
        [&mut self.train, &mut self.test].into_iter().try_for_each(|data| {
            if are_named && (names.len() > 1 || data.classes.len() > 1) {
                return data.put_in_order(names);
            }
            match data.classes.len() > names.len() {
                true => Err(format!("{} classes, and the checkpoint knows {}", data.classes.len(), names.len())),
                false => Ok(()),
            }
        })
    }
}

/// As [`super::load`], with test images: those of the source, if it has some beside its training images; else every tenth
/// image of each class, which is taken from the others.
///
/// # Errors
/// Those of [`super::load`], for either part; of test images of a class that isn't learnt, too.
pub fn load_split(source: &str, want: &Want) -> Result<Split> {
    let (train, test) = load_parts(source, want)?;
    match test? {
        Some(test) => Ok(Split { train, test, held_out: false }),
        None => hold_out(train),
    }
}

/// Takes the test images out; where none can be spared, both parts are the whole.
fn hold_out(whole: Dataset) -> Result<Split> {
    let tests = test_indices(&whole.labels);
    if tests.is_empty() {
        return Ok(Split { test: whole.clone(), train: whole, held_out: true });
    }
    let mut is_test = vec![false; whole.len()];
    tests.iter().for_each(|&index| is_test[index] = true);
    let rest: Vec<usize> = (0..whole.len()).filter(|&index| !is_test[index]).collect();
    let Account { source, format, is_labelled, .. } = whole.account.clone();
    let account = Account { source, format, is_labelled, part: Some("held out".into()), ..Account::default() };
    let test = Dataset { account, ..whole.part(&tests)? };
    let mut train = whole.part(&rest)?;
    train.account.held_out = test.len();
    Ok(Split { train, test, held_out: true })
}

/// The images that are held out: every tenth of each class, in the order of the data; where no class has ten, the first
/// of each that has two. A class never loses its last image. They come class by class in turn, so that the first of
/// them are of all classes, too.
fn test_indices(labels: &[u32]) -> Vec<usize> {
    let mut classes: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(index, label)| classes.entry(*label).or_default().push(index));
    let most = classes.values().map(Vec::len).max().unwrap_or(0);
    let first = if most < HELD_OUT { 0 } else { HELD_OUT - 1 };
    let can_spare = || classes.values().filter(|images| images.len() > 1);
    (first..most)
        .step_by(HELD_OUT)
        .flat_map(|rank| can_spare().filter_map(move |images| images.get(rank)))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Images whose bytes say which they are, of these classes.
    fn numbered(labels: &[u32]) -> Dataset {
        let classes = labels.iter().max().map_or(0, |label| label + 1);
        Dataset {
            name: "numbers".into(),
            height: 1,
            width: 2,
            channels: 1,
            images: (0..labels.len() as u8).flat_map(|i| [i, 100 + i]).collect(),
            labels: labels.to_vec(),
            classes: (0..classes).map(|i| i.to_string()).collect(),
            account: Account { notes: vec!["odd".into()], ..Account::default() },
        }
    }

    fn taken(whole: Dataset) -> Split {
        hold_out(whole).expect("a few bytes")
    }

    #[test]
    fn every_tenth_image_is_held_out() {
        let Split { train, test, held_out } = taken(numbered(&[0; 25]));
        assert!(held_out);
        assert_eq!(test.images, [9, 109, 19, 119]);
        assert_eq!(test.labels, [0, 0]);
        assert_eq!((train.len(), train.images.len(), train.account.warnings()), (23, 46, vec!["odd".to_string()]));
        assert_eq!(train.images[16..20], [8, 108, 10, 110]);
        assert!(test.account.warnings().is_empty() && train.account.held_out == 2);
    }

    #[test]
    fn every_class_is_held_out_alike_whatever_the_order() {
        let cycling: Vec<u32> = (0..100).map(|i| i % 10).collect();
        let test = taken(numbered(&cycling)).test;
        assert_eq!(test.labels, (0..10).collect::<Vec<_>>());
        assert_eq!(test.images.iter().step_by(2).copied().collect::<Vec<_>>(), (90..100).collect::<Vec<_>>());
        let sorted: Vec<u32> = (0..60).map(|i| i / 20).collect();
        assert_eq!(taken(numbered(&sorted)).test.labels, [0, 1, 2, 0, 1, 2]);
        let uneven: Vec<u32> = [vec![0; 31], vec![1; 9], vec![2; 10]].concat();
        let Split { train, test, .. } = taken(numbered(&uneven));
        assert_eq!((test.labels, train.len()), (vec![0, 2, 0, 0], 46));
    }

    #[test]
    fn a_small_set_keeps_an_image_of_each_class() {
        let few = taken(numbered(&[0, 0, 1, 2, 2, 2]));
        assert_eq!((few.test.labels, few.train.labels), (vec![0, 2], vec![0, 1, 2, 2]));
        for alone in [&[0][..], &[0, 1, 2]] {
            let whole = taken(numbered(alone));
            assert_eq!((&whole.test.labels[..], &whole.train.labels[..]), (alone, alone));
        }
    }
}
