//! Labels that are text: the classes are what is in the column, in the order of folders.

use std::collections::BTreeMap;

use crate::data::dataset::Want;
use crate::data::pixels::LARGEST_LABEL;
use crate::data::place::{Parsed, natural};

/// The longest name, as of a folder: what is longer describes an image.
const MOST_NAME: usize = 255;
/// What a name takes in memory beside its bytes.
const NAME_BYTES: u64 = 64;

/// The names so far, each with a number: the first to come is 0.
#[derive(Default)]
pub struct Names {
    numbers: BTreeMap<String, u32>,
    bytes: u64,
}

impl Names {
    /// The number of a name. The error is what is wrong with it.
    pub fn number(&mut self, name: &[u8], want: &Want) -> Parsed<i64> {
        let is_name =
            |name: &&str| !name.trim().is_empty() && !name.contains(char::is_control) && name.len() <= MOST_NAME;
        let name = std::str::from_utf8(name).ok().filter(is_name).ok_or_else(|| {
            let name: String = String::from_utf8_lossy(name).chars().take(40).collect();
            format!("label {name:?} is no name, which is a line of UTF-8 of up to {MOST_NAME} bytes")
        })?;
        if let Some(number) = self.numbers.get(name) {
            return Ok(i64::from(*number));
        }
        if self.numbers.len() > LARGEST_LABEL as usize {
            return Err(format!("more than {} names of classes: do labels describe each image?", LARGEST_LABEL + 1));
        }
        self.bytes += name.len() as u64 + NAME_BYTES;
        want.check_memory(self.bytes, "the names of its labels take")?;
        let number = self.numbers.len() as u32;
        self.numbers.insert(name.into(), number);
        Ok(i64::from(number))
    }

    /// The classes, and which of them each number is; none if no label was a name.
    pub fn classes(self) -> Option<(Vec<String>, Vec<u32>)> {
        let mut names: Vec<(String, u32)> = self.numbers.into_iter().collect();
        names.sort_by_key(|(name, _)| natural(name));
        let mut classes = vec![0; names.len()];
        names.iter().zip(0..).for_each(|((_, number), class)| classes[*number as usize] = class);
        (!names.is_empty()).then(|| (names.into_iter().map(|(name, _)| name).collect(), classes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_names_than_labels_can_number() {
        let mut names = Names::default();
        let mut number = |name: u32| names.number(name.to_string().as_bytes(), &Want::default());
        assert!((0..=LARGEST_LABEL).all(|name| number(name) == Ok(i64::from(name))));
        assert_eq!(number(7), Ok(7));
        assert_eq!(
            number(65_536).err().as_deref(),
            Some("more than 65536 names of classes: do labels describe each image?")
        );
        let (classes, places) = names.classes().expect("names");
        assert_eq!((classes.len(), &classes[10], places[10]), (65_536, &"10".to_string(), 10));
    }

    #[test]
    fn names_take_no_more_than_they_may() {
        let (mut names, want) = (Names::default(), Want::default().limited(200));
        assert_eq!((names.number(b"ant", &want), names.number(b"bee", &want)), (Ok(0), Ok(1)));
        let problem = names.number(b"cow", &want).unwrap_err();
        assert!(problem.starts_with("the names of its labels take 201 bytes"), "{problem}");
        assert_eq!(names.number(b"ant", &want), Ok(0));
    }
}
