//! Mutants that change no result, each with the reason: `allowed.txt`.

use std::sync::OnceLock;

use super::source::Mutant;

/// Nothing stands in its place.
const DROPPED: &str = "dropped";
/// Stands for the end of the line, where lines are alike and both texts go on with the line behind.
const NEXT_LINE: &str = "\\n";

/// One change of one function or constant.
struct Rule {
    /// `file.function`.
    place: String,
    from: String,
    /// What replaces its first occurrence in the line.
    to: String,
    why: &'static str,
    /// A part of the labels of the ways in which it shows: where none of them is here, the reason holds.
    unless: Option<&'static str>,
}

fn rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| parse(include_str!("allowed.txt")))
}

/// A reason is a line `= reason`, maybe with `unless WAY` behind it. The mutants that it holds for follow, a line
/// `file.function,function: text => text that replaces it => another`.
fn parse(text: &'static str) -> Vec<Rule> {
    let (mut why, mut unless, mut rules) = ("", None, Vec::new());
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(reason) = line.strip_prefix("= ") {
            (why, unless) = (reason, None);
        } else if let Some(way) = line.strip_prefix("unless ") {
            unless = Some(way);
        } else {
            let (places, change) = line.split_once(": ").expect("places, then what changes");
            let (file, functions) = places.rsplit_once('.').expect("a file and its functions");
            let texts: Vec<String> =
                change.split(" => ").map(|text| text.replace(NEXT_LINE, "\n").replace(DROPPED, "")).collect();
            for (function, to) in functions.split(',').flat_map(|f| texts[1..].iter().map(move |to| (f, to.clone()))) {
                rules.push(Rule { place: format!("{file}.{function}"), from: texts[0].clone(), to, why, unless });
            }
        }
    }
    rules
}

impl Rule {
    fn matches(&self, file: &str, mutant: &Mutant) -> bool {
        let with_next = |line: &str| format!("{line}\n{}", mutant.next);
        let (before, after) = (with_next(&mutant.line), with_next(&mutant.changed));
        self.place == format!("{file}.{}", mutant.function)
            && before.contains(&self.from)
            && before.replacen(&self.from, &self.to, 1).trim() == after.trim()
    }
}

/// Why no case can notice `mutant`, in the ways of these labels.
pub fn reason(file: &str, mutant: &Mutant, ways: &[String]) -> Option<&'static str> {
    let holds = |rule: &&Rule| rule.unless.is_none_or(|part| !ways.iter().any(|way| way.contains(part)));
    rules().iter().filter(holds).find(|rule| rule.matches(file, mutant)).map(|rule| rule.why)
}

/// Entries that no mutant matches: the shader has changed.
pub fn stale(all: &[(&'static str, Mutant)]) -> Vec<String> {
    let unused = rules().iter().filter(|rule| !all.iter().any(|(file, mutant)| rule.matches(file, mutant)));
    unused.map(|rule| format!("{}: {} -> {}", rule.place, rule.from, rule.to)).collect()
}
