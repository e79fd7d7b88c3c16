//! What can go wrong at the boundaries of the program: files, flags, configurations, the device.
//!
//! Each message is one line that says what, where and what to do. A wrong shape inside the code is not an error of
//! this kind: it panics while a step is recorded, before anything runs.

use std::fmt::{self, Display, Formatter, Write};
use std::path::{Path, PathBuf};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory that can't be read or written, or does not hold what it should.
    #[error("{}: {}", one_line(path.display()), one_line(problem))]
    File { path: PathBuf, problem: String },
    /// A configuration or a combination of flags that can't be built.
    #[error("{}", one_line(.0))]
    Config(String),
    /// No adapter, a device that can't run this, or one that failed.
    #[error("{0}")]
    Device(String),
    /// A device that stopped working, or does not answer: another one, opened on the same adapter, may work.
    #[error("the device was lost: {0}")]
    Lost(String),
    /// A run whose numbers stopped being finite.
    #[error("{0}")]
    Diverged(String),
    /// Someone asked it to end.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An error about the file or directory at `path`.
    pub fn file(path: impl AsRef<Path>, problem: impl ToString) -> Error {
        let problem = problem.to_string();
        // The number of a system's error says nothing that its words don't.
        let problem = problem.split_once(" (os error ").map_or(problem.clone(), |(words, _)| words.to_lowercase());
        Error::File { path: path.as_ref().to_path_buf(), problem }
    }
}

/// `text` without line breaks or what else steers a terminal: names out of files may hold anything.
pub fn one_line(text: impl Display) -> String {
    let escaped = |letter: char| match letter.is_control() {
        true => letter.escape_default().collect::<String>(),
        false => letter.into(),
    };
    text.to_string().chars().map(escaped).collect()
}

/// `1 image`, `2 images`.
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        count => format!("{count} {noun}s"),
    }
}

/// A word as a shell takes it.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Text of users, of files or of drivers as HTML takes it: nothing in it is markup, in elements and in attributes between double quotes alike.
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        one_line(&self.0).chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            letter => f.write_char(letter),
        })
    }
}

/// Names with commas between them; numbers in a row as `0 to 9`; the first twenty of very many.
pub fn list_names(names: &[String]) -> String {
    const LISTED: usize = 20;
    let begin: Option<usize> = names.first().and_then(|first| first.parse().ok());
    let counts_on = |begin: usize| names.iter().zip(begin..).all(|(name, number)| *name == number.to_string());
    match names.get(..LISTED) {
        _ if names.len() > 2 && begin.is_some_and(counts_on) => format!("{} to {}", names[0], names[names.len() - 1]),
        Some(first) if names.len() > LISTED + 1 => format!("{} and {} more", first.join(", "), names.len() - LISTED),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_a_file_calls_its_parts() {
        let line = Error::file("a\nb", "tensor \u{1b}[2J\r\nweights is missing: résumé").to_string();
        assert_eq!(line, "a\\nb: tensor \\u{1b}[2J\\r\\nweights is missing: résumé");
        assert_eq!(Error::Config("a\tb".into()).to_string(), "a\\tb");
    }

    #[test]
    fn what_users_say_is_no_markup() {
        let hostile = "<script>alert('1')</script>\n\" onload=\"x&amp;";
        let escaped = Escaped(hostile).to_string();
        assert_eq!(escaped, r"&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\n&quot; onload=&quot;x&amp;amp;");
    }

    #[test]
    fn very_many_names_are_cut() {
        let named = |count: usize| (0..count).map(|i| format!("n{i}")).collect::<Vec<_>>();
        assert!(list_names(&named(21)).ends_with("n19, n20"));
        assert!(list_names(&named(100)).ends_with("n19 and 80 more"));
        let numbers = |all: &[usize]| list_names(&all.iter().map(usize::to_string).collect::<Vec<_>>());
        assert_eq!(numbers(&[0, 1, 2, 3]), "0 to 3");
        assert_eq!(
            (numbers(&[0, 1]), numbers(&[1, 2, 4]), numbers(&[])),
            ("0, 1".into(), "1, 2, 4".into(), String::new())
        );
    }
}
