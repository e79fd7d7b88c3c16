//! `manifest.json`: which files a checkpoint was saved with, and the hash of each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::json::{read_json, write_json};
use crate::error::{Error, Result};

pub const MANIFEST: &str = "manifest.json";

/// Of what the file holds.
pub const FORMAT_VERSION: u64 = 1;

#[derive(Serialize, Deserialize)]
struct Manifest {
    format_version: u64,
    #[serde(default)]
    made_on: Option<MadeOn>,
    /// Of each file, in hexadecimal digits.
    blake3: BTreeMap<String, String>,
}

/// What a checkpoint's numbers were computed by: others round otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeOn {
    pub adapter: String,
    pub driver: String,
    /// A hash of all kernels, in hexadecimal digits.
    pub shaders: String,
}

/// What is wrong with a file.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub file: PathBuf,
    pub problem: String,
}

/// Writes the manifest of all files that are in `directory`: the last one to be written there.
///
/// # Errors
/// [`Error::File`] if a file can't be read, or the manifest not be written.
pub fn write(directory: &Path, made_on: &MadeOn) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(|error| Error::file(directory, error))?;
    let mut blake3 = BTreeMap::new();
    let named = |error| Error::file(directory, error);
    for entry in entries {
        let entry = entry.map_err(named)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().map_err(named)?.is_file() && name != MANIFEST {
            blake3.insert(name, hash(&entry.path())?);
        }
    }
    let made_on = Some(made_on.clone());
    write_json(&directory.join(MANIFEST), &Manifest { format_version: FORMAT_VERSION, made_on, blake3 })
}

/// What the checkpoint in `directory` was made on, if its manifest says.
pub fn made_on(directory: &Path) -> Option<MadeOn> {
    read_json::<Manifest>(&directory.join(MANIFEST)).ok()?.made_on
}

/// Whether the manifest in `directory` lists a file of that name.
pub fn lists(directory: &Path, name: &str) -> bool {
    read_json::<Manifest>(&directory.join(MANIFEST)).is_ok_and(|manifest| manifest.blake3.contains_key(name))
}

/// How many files the manifest in `directory` lists; none without one that can be read.
pub fn count(directory: &Path) -> Option<usize> {
    Some(read_json::<Manifest>(&directory.join(MANIFEST)).ok()?.blake3.len())
}

/// Those files of `directory` that are `wanted` by name and not as they were saved. Without a manifest nobody knows.
///
/// # Errors
/// [`Error::File`] if the manifest is of a format that isn't read.
pub fn wrong(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<Wrong>> {
    let path = directory.join(MANIFEST);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let manifest: Manifest = match read_json(&path) {
        Ok(manifest) => manifest,
        Err(Error::File { path, problem }) => return Ok(vec![Wrong { file: path, problem }]),
        Err(error) => return Err(error),
    };
    if manifest.format_version != FORMAT_VERSION {
        let found = manifest.format_version;
        return Err(Error::file(path, format!("format_version {found} is not read here, {FORMAT_VERSION} is")));
    }
    let mut all = Vec::new();
    for (name, saved) in manifest.blake3.iter().filter(|(name, _)| wanted(name)) {
        if Path::new(name).file_name().is_none_or(|last| last != name.as_str()) {
            all.push(Wrong { file: path.clone(), problem: format!("{name:?} is not the name of a file beside it") });
            continue;
        }
        let file = directory.join(name);
        let problem = match file.is_file() {
            false => "is missing".into(),
            true => match hash(&file) {
                Ok(hash) if hash == *saved => continue,
                Ok(_) => format!("is not as it was saved ({MANIFEST} has its hash)"),
                Err(Error::File { problem, .. }) => problem,
                Err(error) => return Err(error),
            },
        };
        all.push(Wrong { file, problem });
    }
    Ok(all)
}

/// Whether the files of `directory` that are `wanted` by name are as they were saved. Without a manifest nobody knows.
///
/// # Errors
/// [`Error::File`] names the file that is another or missing, or the manifest that isn't read.
pub fn check(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    wrong(directory, wanted)?.first().map_or(Ok(()), |wrong| Err(refused(wrong)))
}

fn refused(Wrong { file, problem }: &Wrong) -> Error {
    Error::file(
        file,
        format!(
            "{problem}: copy the checkpoint anew, or take another, such as one of the run's checkpoints/; if the change is \
             meant, remove {MANIFEST}"
        ),
    )
}

/// The first of `places` whose files, as far as they are `wanted`, are as they were saved; and what is wrong with those before
/// it.
///
/// # Errors
/// [`check`]'s of the first, if none is; at once if one is of a format that isn't read.
pub fn first_whole(places: Vec<PathBuf>, wanted: impl Fn(&str) -> bool) -> Result<(PathBuf, Vec<Wrong>)> {
    let mut before = Vec::new();
    for place in places {
        match wrong(&place, &wanted)?.into_iter().next() {
            None => return Ok((place, before)),
            Some(wrong) => before.push(wrong),
        }
    }
    Err(refused(before.first().expect("a place to look at")))
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
        let made_on = MadeOn { adapter: "a card".into(), driver: "a driver".into(), shaders: "0".into() };
        write(place.path(), &made_on).expect("a manifest");
        assert_eq!(super::made_on(place.path()), Some(made_on));
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
        for outside in ["/etc/hostname", "../other", "..", "a/abc", ""] {
            put(MANIFEST, &format!(r#"{{"format_version": 1, "blake3": {{"{outside}": "{known}"}}}}"#));
            assert!(all().expect_err("outside").contains("is not the name of a file beside it"), "{outside}");
        }
        put(MANIFEST, "no JSON");
        assert!(all().expect_err("no manifest").contains("no JSON object"));
        fs::remove_file(at(MANIFEST)).expect("it is there");
        assert_eq!(all(), Ok(()));
    }
}
