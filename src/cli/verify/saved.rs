//! `diffuse verify RUN`: whether files are as they were saved.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde_json::json;

use super::super::output::Json;
use diffuse::checkpoint::manifest::{self, MANIFEST, Wrong};
use diffuse::checkpoint::of_run;
use diffuse::error::counted;
use diffuse::train::best;

/// One checkpoint and what is wrong with it.
struct Checked {
    place: PathBuf,
    /// Files that its manifest lists; none without a manifest.
    files: Option<usize>,
    wrong: Vec<Wrong>,
}

/// Checks all checkpoints of the run at `path`, or the one that is there.
pub fn verify(path: &Path, json: &Json) -> Result<()> {
    let mut places = of_run(path);
    if places.is_empty() && path.join(MANIFEST).is_file() {
        places = vec![path.into()];
    }
    if places.is_empty() {
        bail!("{}: no run with a checkpoint, and no checkpoint with a {MANIFEST}", path.display());
    }
    let check = |place: PathBuf| -> Result<Checked> {
        Ok(Checked { files: manifest::count(&place), wrong: manifest::wrong(&place, |_| true)?, place })
    };
    let all: Vec<Checked> = places.into_iter().map(check).collect::<Result<_>>()?;
    let wrong: usize = all.iter().map(|checked| checked.wrong.len()).sum();
    let whole = all.iter().filter(|checked| checked.wrong.is_empty()).map(|checked| checked.place.clone());
    let best = best(&whole.collect::<Vec<_>>());
    let path = best.as_ref().map(|(path, _)| path);
    json.print(
        || Ok(json!({ "checkpoints": all.iter().map(object).collect::<Vec<_>>(), "best": path, "wrong": wrong })),
        || Ok(all.iter().flat_map(lines).chain(best.as_ref().map(best_line)).collect::<Vec<_>>().join("\n")),
    )?;
    if wrong > 0 {
        bail!("{} not as {} saved", counted(wrong as u64, "file"), if wrong == 1 { "it was" } else { "they were" });
    }
    Ok(())
}

fn object(checked: &Checked) -> serde_json::Value {
    let wrong = checked.wrong.iter().map(|Wrong { file, problem }| json!({ "file": file, "problem": problem }));
    json!({ "path": checked.place, "files": checked.files, "wrong": wrong.collect::<Vec<_>>() })
}

fn best_line((place, loss): &(PathBuf, f64)) -> String {
    format!("best   {}: the least mean training loss since the save before, {loss:.6}", place.display())
}

fn lines(checked: &Checked) -> Vec<String> {
    let place = checked.place.display();
    match checked.files {
        _ if !checked.wrong.is_empty() => {
            let line = |Wrong { file, problem }: &Wrong| format!("WRONG  {}: {problem}", file.display());
            checked.wrong.iter().map(line).collect()
        }
        Some(files) => vec![format!("ok     {place}: {} as saved", counted(files as u64, "file"))],
        None => vec![format!("?      {place}: no {MANIFEST}, so nobody knows what was saved")],
    }
}
