//! JSON as Python writes it.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::files::write_atomic;

/// Reads a JSON object from a file.
///
/// # Errors
/// [`Error::File`] if it can't be read, is no JSON object, or not the one that is wanted.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    // In two steps: serde would also fill a struct from a list, with defaults for what the list lacks.
    let object: Map<String, Value> = serde_json::from_str(&numbers_in_words(&text))
        .map_err(|error| Error::file(path, format!("no JSON object: {error}")))?;
    from_object(object, path)
}

/// JSON as Python writes and reads it: no mark at its head, and `Infinity`, `-Infinity` and `NaN`, which JSON has not, in
/// quotation marks. Those are no numbers then where a finite one is needed.
fn numbers_in_words(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let parts = text.split('"');
    let mut quoted = false;
    let mut written: Vec<String> = Vec::new();
    for part in parts {
        written.push(if quoted { part.into() } else { quote_words(part) });
        // A quotation mark behind an odd number of backslashes is a character of the string.
        let backslashes = part.len() - part.trim_end_matches('\\').len();
        quoted = !quoted || backslashes % 2 == 1;
    }
    written.join("\"")
}

fn quote_words(part: &str) -> String {
    let words = part.replace("Infinity", "\"Infinity\"").replace("-\"Infinity\"", "\"-Infinity\"");
    words.replace("NaN", "\"NaN\"")
}

/// What an object says; the error names the key.
pub(super) fn from_object<T: serde::de::DeserializeOwned>(object: Map<String, Value>, path: &Path) -> Result<T> {
    let read = |object: Map<String, Value>| serde_json::from_value::<T>(object.into());
    let error = match read(object.clone()) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    // No file of ours or of diffusers has so many keys, of which each is looked at beside all others.
    if object.len() > 1000 {
        return Err(Error::file(path, in_words(&error)));
    }
    // serde says what is wrong, not where: the key at fault says it alone, or without it something else is said.
    let says_it = |(key, value): &(&String, &Value)| {
        let alone = Map::from_iter([((*key).clone(), (*value).clone())]);
        read(alone).err().is_some_and(|other| other.to_string() == error.to_string())
    };
    if let Some((key, _)) = object.iter().find(says_it) {
        return Err(Error::file(path, format!("{key}: {}", in_words(&error))));
    }
    let is_at_fault = |key: &&String| {
        let mut others = object.clone();
        others.remove(key.as_str());
        read(others).err().is_none_or(|other| other.to_string() != error.to_string())
    };
    match object.keys().find(is_at_fault) {
        Some(key) => Err(Error::file(path, format!("{key}: {}", in_words(&error)))),
        None => Err(Error::file(path, in_words(&error))),
    }
}

/// What serde says, without the names of Rust's types.
fn in_words(error: &serde_json::Error) -> String {
    const WORDS: [(&str, &str); 6] = [
        ("expected f64", "expected a number"),
        ("expected f32", "expected a number"),
        ("expected usize", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected a boolean", "expected true or false"),
    ];
    WORDS.iter().fold(error.to_string(), |text, (rust, words)| text.replace(rust, words))
}

/// Writes a JSON file, whole or not at all.
///
/// # Errors
/// [`Error::File`] if the place can't be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| Error::file(path, error))?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::UNetConfig;

    #[test]
    fn the_key_at_fault_is_named_unless_there_are_too_many() {
        let problem = |keys: usize| {
            let own = ("in_channels".to_string(), Value::from("three"));
            let object = (0..keys).map(|index| (format!("key {index}"), Value::Null)).chain([own]).collect();
            from_object::<UNetConfig>(object, Path::new("c")).expect_err("no number").to_string()
        };
        assert_eq!(problem(10), "c: in_channels: invalid type: string \"three\", expected a whole number");
        // Each beside all others would take hours.
        assert_eq!(problem(200_000), "c: invalid type: string \"three\", expected a whole number");
    }
}
