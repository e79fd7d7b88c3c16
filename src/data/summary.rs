//! What a data set is, in a line and as a run stores it.

use serde_json::{Value, json};

use super::account::Account;
use super::dataset::Dataset;
use crate::error::{counted, list_names};

impl Dataset {
    /// Images of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        self.labels.iter().for_each(|label| counts[*label as usize] += 1);
        counts
    }

    /// What was read, in one line: `cats: 8 RGB images of 16x16 from 30x40 (scaled, cropped), 2 classes: tom (3), kit (5)`.
    pub fn summary(&self) -> String {
        let Account { source, part, changes, held_out, .. } = &self.account;
        let place = match part {
            Some(part) => format!("{source} ({part})"),
            None => source.clone(),
        };
        let noun = if self.channels == 1 { "grey image" } else { "RGB image" };
        let (images, changed) = (counted(self.len() as u64, noun), changes.said(self.len() + held_out));
        let (height, width) = (self.height, self.width);
        let held_out = match held_out {
            0 => String::new(),
            held_out => format!(", {held_out} more held out as test images"),
        };
        format!("{place}: {images} of {height}x{width}{changed}{held_out}, {}", self.classes_said())
    }

    fn classes_said(&self) -> String {
        let counts = self.counts();
        match counts.as_slice() {
            [_] if !self.account.is_labelled => return "one class".into(),
            [_] => return format!("one class: {}", self.classes[0]),
            [first, rest @ ..] if rest.iter().all(|count| count == first) => {
                let each = format!("{} classes of {first} each", counts.len());
                return format!("{each}: {}", list_names(&self.classes));
            }
            _ => {}
        }
        let named: Vec<String> =
            self.classes.iter().zip(&counts).map(|(class, count)| format!("{class} ({count})")).collect();
        let (least, most) = (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        let spread = if counts.len() > 20 { format!(" of {least} to {most}") } else { String::new() };
        format!("{} classes{spread}: {}", counts.len(), list_names(&named))
    }

    /// All that is known of it, as a run stores it; `mirrored` says whether images are shown mirrored, too.
    pub fn description(&self, mirrored: Option<bool>) -> Value {
        let classes: Vec<Value> = self
            .classes
            .iter()
            .zip(self.counts())
            .map(|(name, images)| json!({ "name": name, "images": images }))
            .collect();
        let Account { source, format, part, changes, skipped, notes, held_out, is_labelled: _ } = &self.account;
        json!({
            "source": source, "format": format, "part": part, "images": self.len(), "height": self.height,
            "width": self.width, "channels": self.channels, "classes": classes, "changes": changes, "skipped": skipped,
            "notes": notes, "held_out": held_out, "mirrored": mirrored,
        })
    }
}
