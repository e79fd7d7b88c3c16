//! What was run, file by file and way by way, so that a reader sees what was not.

use std::collections::BTreeMap;

use super::Fate;
use super::setting::Setting;
use super::source::Mutant;

/// See above.
#[derive(Default)]
pub struct Report {
    files: BTreeMap<&'static str, BTreeMap<Fate, usize>>,
    /// `shaders/x.wgsl:12 in f`, the line before and after.
    pub survivors: Vec<String>,
}

impl Report {
    pub fn add(&mut self, file: &'static str, mutant: &Mutant, fate: Fate) {
        *self.files.entry(file).or_default().entry(fate).or_default() += 1;
        if fate == Fate::Survived {
            let Mutant { function, number, line, changed, .. } = mutant;
            self.survivors.push(format!("shaders/{file}.wgsl:{number} in {function}\n  - {line}\n  + {changed}"));
            println!("{}", self.survivors[self.survivors.len() - 1]);
        }
    }

    /// A line for each file and way, then the sums, then the ways that this device has not.
    pub fn text(&self, settings: &[Setting]) -> String {
        let mut lines = Vec::new();
        let mut sums = BTreeMap::<&str, usize>::new();
        for (file, fates) in &self.files {
            for (fate, count) in fates {
                *sums.entry(name(*fate)).or_default() += count;
                let way = match fate {
                    Fate::Caught(index) => format!(" by {}", settings[*index].label()),
                    _ => String::new(),
                };
                lines.push(format!("{:30} {count:5} {}{way}", format!("{file}.wgsl"), name(*fate)));
            }
        }
        lines.push(format!("all files: {sums:?}"));
        let missing: Vec<String> = settings.iter().filter(|s| !s.is_here()).map(Setting::label).collect();
        lines.push(format!("ways that this device does not run: {}", missing.join(", ")));
        lines.join("\n")
    }
}

fn name(fate: Fate) -> &'static str {
    match fate {
        Fate::Caught(_) => "caught",
        Fate::Allowed => "allowed",
        Fate::Invalid => "invalid",
        Fate::NotHere => "not run here",
        Fate::Survived => "survived",
    }
}
