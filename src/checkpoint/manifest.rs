//! `manifest.json`: which files a checkpoint was saved with, and the hash of each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::json::{read_json, write_json};
use crate::error::{Error, Result};

pub const MANIFEST: &str = "manifest.json";

/// Of what the file holds.
const FORMAT_VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format_version: u64,
    /// Of each file, in hexadecimal digits.
    blake3: BTreeMap<String, String>,
}

/// Writes the manifest of all files that are in `directory`: the last one to be written there.
///
/// # Errors
/// [`Error::File`] if a file can't be read, or the manifest not be written.
pub fn write(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| Error::file(directory, error))?;
    let mut blake3 = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| Error::file(directory, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_file() && name != MANIFEST {
            blake3.insert(name, hash(&path)?);
        }
    }
    write_json(&directory.join(MANIFEST), &Manifest { format_version: FORMAT_VERSION, blake3 })
}

/// Whether the files of `directory` that are `wanted` by name are as they were saved. Without a manifest nobody knows.
///
/// # Errors
/// [`Error::File`] names the file that is another or missing, or the manifest that isn't read.
pub fn check(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let path = directory.join(MANIFEST);
    if !path.exists() {
        return Ok(());
    }
    let manifest: Manifest = read_json(&path)?;
    if manifest.format_version != FORMAT_VERSION {
        let found = manifest.format_version;
        return Err(Error::file(path, format!("format_version {found} is not read here, {FORMAT_VERSION} is")));
    }
    for (name, saved) in manifest.blake3.iter().filter(|(name, _)| wanted(name)) {
        let file = directory.join(name);
        let problem = match file.is_file() {
            false => "is missing",
            true if hash(&file)? != *saved => "is not as it was saved",
            true => continue,
        };
        return Err(Error::file(
            file,
            format!(
                "{problem} ({MANIFEST} has its hash): copy the checkpoint anew, or take another, such as one of the run's \
                 checkpoints/; if the change is meant, remove {MANIFEST}"
            ),
        ));
    }
    Ok(())
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|error| Error::file(path, error))?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named() {
        let place = tempfile::tempdir().expect("a place");
        let at = |name: &str| place.path().join(name);
        let put = |name: &str, text: &str| fs::write(at(name), text).expect("room");
        put("abc", "abc");
        put("other", "");
        write(place.path()).expect("a manifest");
        // The vector of "abc" is BLAKE3's own.
        let known = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert!(fs::read_to_string(at(MANIFEST)).expect("text").contains(&format!("\"abc\": \"{known}\"")));
        let all = || check(place.path(), |_| true).map_err(|error| error.to_string());
        put("new", "nobody's");
        assert_eq!(all(), Ok(()));
        put("abc", "abd");
        let problem = all().expect_err("another file");
        assert!(problem.contains("abc: is not as it was saved") && !problem.contains('\n'), "{problem}");
        assert!(check(place.path(), |name| name == "other").is_ok());
        fs::remove_file(at("abc")).expect("it is there");
        assert!(all().expect_err("no file").contains("abc: is missing"));
        put(MANIFEST, r#"{"format_version": 2, "blake3": {}}"#);
        assert!(all().expect_err("another format").contains("format_version 2 is not read here"));
        put(MANIFEST, "no JSON");
        assert!(all().expect_err("no manifest").contains("no JSON object"));
        fs::remove_file(at(MANIFEST)).expect("it is there");
        assert_eq!(all(), Ok(()));
    }
}
