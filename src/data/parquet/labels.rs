//! Labels that are text: the classes are what is in the column, in the order of folders.

use std::collections::BTreeMap;

use crate::data::dataset::Want;
use crate::data::place::{Parsed, natural};

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
        let is_line = |name: &&str| !name.trim().is_empty() && !name.contains(char::is_control);
        let name = std::str::from_utf8(name).ok().filter(is_line).ok_or_else(|| {
            let name: String = String::from_utf8_lossy(name).chars().take(40).collect();
            format!("label {name:?} is no name, a line of UTF-8")
        })?;
        if let Some(number) = self.numbers.get(name) {
            return Ok(i64::from(*number));
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
