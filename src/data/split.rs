//! Training images and test images of one source.

use std::path::Path;

use super::{Dataset, Want, check, idx, load, name_of};
use crate::error::Result;

/// One image in so many is held out where the source has no test images.
pub const HELD_OUT: usize = 10;

/// Two data sets of the same classes that have no image in common.
#[derive(Debug, Clone)]
pub struct Split {
    pub train: Dataset,
    pub test: Dataset,
    /// Whether the test images were taken out of the training images, every tenth one, for want of others: a model
    /// that was trained on all of them has seen them.
    pub held_out: bool,
}

/// As [`load`], with test images: the `t10k` pair of a directory of IDX files that has a `train` pair, too; else every
/// tenth image, which is taken from the others.
///
/// # Errors
/// Those of [`load`], for either part.
pub fn load_split(source: &str, want: &Want) -> Result<Split> {
    check(want)?;
    let path = Path::new(source);
    let pair = if source != "digits" && path.is_dir() { idx::find_test(path)? } else { None };
    let train = load(source, want)?;
    match pair {
        Some(pair) => Ok(Split { test: idx::load(&pair, name_of(path), want)?, train, held_out: false }),
        None => Ok(hold_out(train)),
    }
}

/// Takes every tenth image out; of fewer than two images none can be spared, and both parts are the whole.
fn hold_out(mut whole: Dataset) -> Split {
    if whole.len() < 2 {
        return Split { test: whole.clone(), train: whole, held_out: true };
    }
    let bytes = whole.images.len() / whole.len();
    let is_test = |index: usize| index % HELD_OUT == HELD_OUT - 1 || (whole.len() < HELD_OUT && index == 0);
    let part = |test: bool| -> (Vec<u8>, Vec<u32>) {
        let kept = || (0..whole.len()).filter(move |index| is_test(*index) == test);
        let images = kept().flat_map(|index| &whole.images[index * bytes..][..bytes]).copied().collect();
        (images, kept().map(|index| whole.labels[index]).collect())
    };
    let ((images, labels), (test_images, test_labels)) = (part(false), part(true));
    let test = Dataset {
        images: test_images,
        labels: test_labels,
        name: whole.name.clone(),
        classes: whole.classes.clone(),
        warnings: Vec::new(),
        ..whole
    };
    whole.images = images;
    whole.labels = labels;
    Split { train: whole, test, held_out: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(count: u8) -> Dataset {
        Dataset {
            name: "numbers".into(),
            height: 1,
            width: 2,
            channels: 1,
            images: (0..count).flat_map(|i| [i, 100 + i]).collect(),
            labels: (0..count.into()).collect(),
            classes: (0..count).map(|i| i.to_string()).collect(),
            flip: false,
            warnings: vec!["odd".into()],
        }
    }

    #[test]
    fn every_tenth_image_is_held_out() {
        let Split { train, test, held_out } = hold_out(numbered(25));
        assert!(held_out);
        assert_eq!(test.labels, [9, 19]);
        assert_eq!(test.images, [9, 109, 19, 119]);
        assert_eq!((train.len(), train.images.len(), &train.warnings), (23, 46, &vec!["odd".to_string()]));
        assert_eq!(train.labels[8..11], [8, 10, 11]);
        assert_eq!(train.images[16..20], [8, 108, 10, 110]);
        let few = hold_out(numbered(3));
        assert_eq!((few.test.labels, few.train.labels), (vec![0], vec![1, 2]));
    }
}
