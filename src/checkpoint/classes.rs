//! Which classes a model knows and what they are called: keys of `config.json` that diffusers carries along and does not
//! read, for it takes no key that begins with an underscore.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::place::CONFIG;
use crate::error::{Error, Result, list_names};

/// The index of the embedding that stands for no class.
const NULL_CLASS: &str = "_null_class";
/// The names of the classes, in the order of their indices.
const CLASS_NAMES: &str = "_class_names";

/// The classes that a model can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// In the order of their indices; `0`, `1`, ... where nobody gave any.
    pub names: Vec<String>,
    /// Whether somebody gave names.
    pub are_named: bool,
    /// Whether one embedding more, the last, was trained to stand for no class.
    pub has_null: bool,
}

impl Classes {
    /// What `given`, a configuration in `directory`, says of `embeds` embeddings.
    ///
    /// A model has a null class where its configuration names the last embedding as such. Checkpoints that this program made
    /// before it wrote that key all have one; they are known by the `trainer.json` beside them. Anything else is as diffusers
    /// trains it: a class an embedding.
    ///
    /// # Errors
    /// [`Error::File`] if the null class is none of the embeddings, or another than the last.
    pub(super) fn read(given: &Map<String, Value>, embeds: u32, directory: &Path) -> Result<Classes> {
        let has_null = match given.get(NULL_CLASS) {
            // An embedding that was cut off is no null class any more.
            Some(index) => match index.as_u64() {
                Some(index) if index == u64::from(embeds) - 1 => index > 0,
                Some(index) if index == u64::from(embeds) => false,
                _ => {
                    let problem = format!("{NULL_CLASS} is {index}, and must be the last embedding, {}", embeds - 1);
                    return Err(Error::file(directory.join(CONFIG), problem));
                }
            },
            None => embeds > 1 && directory.join("trainer.json").is_file(),
        };
        Ok(Classes::named(given, embeds - u32::from(has_null), has_null))
    }

    /// `count` classes under the names that are in `given`, if those are as many.
    pub(super) fn named(given: &Map<String, Value>, count: u32, has_null: bool) -> Classes {
        let names = given.get(CLASS_NAMES).and_then(|names| serde_json::from_value::<Vec<String>>(names.clone()).ok());
        if let Some(names) = names.as_ref().filter(|names| names.len() != count as usize) {
            log::warn!(
                "config.json: {CLASS_NAMES} holds {} names, and there are {count} classes: they are numbered",
                names.len()
            );
        }
        let names = names.filter(|names| names.len() == count as usize);
        let are_named = names.is_some();
        let names = names.unwrap_or_else(|| (0..count).map(|index| index.to_string()).collect());
        Classes { names, are_named, has_null }
    }

    /// Of a run's model of `embeds` embeddings, whose last is the null class; unnamed if `names` are none.
    pub(super) fn of_run(names: &[String], embeds: u32) -> Classes {
        let numbers = || (0..embeds - 1).map(|index| index.to_string()).collect();
        let names_or_numbers = if names.is_empty() { numbers() } else { names.to_vec() };
        Classes { names: names_or_numbers, are_named: !names.is_empty(), has_null: true }
    }

    /// Writes the keys that [`Classes::read`] reads, of a model of `embeds` embeddings.
    pub(super) fn write(&self, config: &mut Map<String, Value>, embeds: u32) {
        if self.has_null {
            config.insert(NULL_CLASS.into(), (embeds - 1).into());
        }
        if self.are_named {
            Classes::write_names(config, &self.names);
        }
    }

    /// Writes the names, if there are any.
    pub(super) fn write_names(config: &mut Map<String, Value>, names: &[String]) {
        if !names.is_empty() {
            config.insert(CLASS_NAMES.into(), json!(names));
        }
    }

    /// How many can be drawn.
    pub fn count(&self) -> u32 {
        self.names.len() as u32
    }

    /// The index of the class that is called so, else of that number.
    ///
    /// # Errors
    /// [`Error::Config`] lists the classes.
    pub fn index(&self, text: &str) -> Result<u32> {
        let by_name = self.names.iter().position(|name| name == text);
        let by_number = || text.parse().ok().filter(|index| *index < self.names.len());
        let found = by_name.or_else(by_number).map(|index| index as u32);
        found.ok_or_else(|| Error::Config(format!("no class {text} among {}", self.listed())))
    }

    /// `3 classes: ant, bee, cat`.
    pub fn listed(&self) -> String {
        let (count, names) = (self.names.len(), list_names(&self.names));
        if count == 1 { format!("1 class: {names}") } else { format!("{count} classes: {names}") }
    }

    /// Whether `other` is of other names, or of another number of classes.
    pub fn differs_from(&self, other: &Classes) -> bool {
        self.names.len() != other.names.len() || self.are_named && other.are_named && self.names != other.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: Value, embeds: u32) -> Classes {
        let given = config.as_object().expect("an object");
        Classes::read(given, embeds, Path::new("nowhere")).expect("a null class that can be")
    }

    #[test]
    fn a_null_class_is_one_that_is_named_and_there() {
        let cases = [(json!({}), 3, 3), (json!({"_null_class": 2}), 3, 2), (json!({"_null_class": 3}), 3, 3)];
        for (config, embeds, count) in cases {
            let classes = read(config, embeds);
            assert_eq!((classes.count(), classes.has_null), (count, count < embeds));
        }
        assert_eq!(read(json!({"_null_class": 0}), 1).count(), 1);
        for wrong in [json!(1), json!(4), json!(-1), json!(u64::MAX), json!(2.0), json!("2"), json!(null)] {
            let given = json!({"_null_class": wrong});
            let error = Classes::read(given.as_object().expect("an object"), 3, Path::new("m")).map(|_| ());
            assert!(error.expect_err("no null class").to_string().ends_with("and must be the last embedding, 2"));
        }
    }

    #[test]
    fn a_checkpoint_of_a_run_has_a_null_class_without_saying_so() {
        let place = tempfile::tempdir().expect("a place");
        std::fs::write(place.path().join("trainer.json"), "{}").expect("room");
        let of = |embeds| Classes::read(&Map::new(), embeds, place.path()).expect("no key");
        assert_eq!((of(11).count(), of(11).has_null, of(1).count()), (10, true, 1));
    }

    #[test]
    fn a_name_goes_before_a_number() {
        let classes = read(json!({"_null_class": 3, "_class_names": ["1", "ant", "7"]}), 4);
        let index = |text: &str| classes.index(text).map_err(|error| error.to_string());
        assert_eq!([index("1"), index("ant"), index("0"), index("7"), index("2")], [0, 1, 0, 2, 2].map(Ok));
        assert_eq!(index("3"), Err("no class 3 among 3 classes: 1, ant, 7".into()));
        assert!(index("-1").is_err() && index("").is_err());
        // Names of another number are of other classes.
        assert_eq!(read(json!({"_class_names": ["a"]}), 2).names, ["0", "1"]);
    }

    #[test]
    fn classes_are_listed_in_a_line() {
        let listed = |config, embeds| read(config, embeds).listed();
        assert_eq!(listed(json!({}), 10), "10 classes: 0 to 9");
        assert_eq!(listed(json!({"_class_names": ["b", "a"]}), 2), "2 classes: b, a");
        assert_eq!(listed(json!({"_class_names": ["b"]}), 1), "1 class: b");
    }
}
