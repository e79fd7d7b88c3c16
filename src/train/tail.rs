//! A text file that somebody else writes: what came since the last look.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of a look, so that nobody who watches waits long for a large file.
const MOST: u64 = 4 << 20;
/// A line that has no end by then is none.
const LONGEST_LINE: usize = 1 << 16;
/// Bytes before the end of what was read by which the file is known again: a run that goes on writes a new one in its place.
const KNOWN_BY: usize = 256;

/// The file, and how far it was read.
pub(super) struct Tail {
    path: PathBuf,
    read: u64,
    /// The last bytes that were read.
    last: Vec<u8>,
    /// A line that has no end yet.
    begun: Vec<u8>,
}

/// What a look found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Whether the file is another, or shorter than it was: all of its lines come again.
    pub is_anew: bool,
    /// Whole lines, without their ends.
    pub lines: Vec<String>,
    /// Whether there is more to read already.
    pub goes_on: bool,
}

impl Tail {
    pub fn new(path: &Path) -> Tail {
        Tail { path: path.into(), read: 0, last: Vec::new(), begun: Vec::new() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was appended since the last look.
    ///
    /// # Errors
    /// If the file is not there, or can't be read.
    pub fn look(&mut self) -> io::Result<News> {
        let mut file = File::open(&self.path)?;
        let is_anew = self.read > 0 && !self.is_known(&mut file)?;
        if is_anew {
            *self = Tail::new(&self.path);
        }
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut fresh = Vec::new();
        file.take(MOST).read_to_end(&mut fresh)?;
        self.read += fresh.len() as u64;
        self.last.extend(&fresh);
        self.last.drain(..self.last.len().saturating_sub(KNOWN_BY));
        Ok(News { is_anew, lines: self.lines(&fresh), goes_on: self.read < length })
    }

    /// Whether the file still holds what was read of it last.
    fn is_known(&self, file: &mut File) -> io::Result<bool> {
        if file.seek(SeekFrom::End(0))? < self.read {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(self.read - self.last.len() as u64))?;
        let mut there = vec![0; self.last.len()];
        match file.read_exact(&mut there) {
            // It was cut between the two calls.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| there == self.last),
        }
    }

    /// The lines that end in `fresh`; what is behind the last of them waits for its end.
    fn lines(&mut self, fresh: &[u8]) -> Vec<String> {
        self.begun.extend(fresh);
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else {
            if self.begun.len() > LONGEST_LINE {
                self.begun.clear();
            }
            return Vec::new();
        };
        let whole: Vec<u8> = self.begun.drain(..=end).collect();
        String::from_utf8_lossy(&whole).lines().map(String::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("a place");
        file.write_all(text.as_bytes()).expect("room");
    }

    #[test]
    fn only_whole_lines_come_and_each_once() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join("f");
        let mut tail = Tail::new(&path);
        assert_eq!(tail.look().expect_err("no file").kind(), io::ErrorKind::NotFound);
        append(&path, "one\ntw");
        assert_eq!(tail.look().expect("a file").lines, ["one"]);
        append(&path, "o\r\nthree\n");
        let news = tail.look().expect("a file");
        assert_eq!((news.lines, news.is_anew, news.goes_on), (vec!["two".into(), "three".into()], false, false));
        assert_eq!(tail.look().expect("a file"), News::default());
        // Bytes that are no text harm their own line alone.
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\xff\xfe\nfour\n").unwrap();
        assert_eq!(tail.look().expect("a file").lines[1], "four");
    }

    #[test]
    fn a_file_that_is_cut_or_replaced_is_read_anew() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join("f");
        append(&path, "one\ntwo\nthree\n");
        let mut tail = Tail::new(&path);
        tail.look().expect("a file");
        fs::write(&path, "one\ntwo\n").unwrap();
        let news = tail.look().expect("a file");
        assert_eq!((news.is_anew, news.lines.len()), (true, 2));
        // As long as it was, and longer, but another.
        for text in ["one\nTWO\n", "ONE\nTWO\nthree\n"] {
            fs::write(&path, text).unwrap();
            let news = tail.look().expect("a file");
            assert_eq!((news.is_anew, news.lines.join("\n") + "\n"), (true, text.to_string()));
        }
    }

    #[test]
    fn a_long_file_comes_in_parts_and_a_line_without_end_is_dropped() {
        let place = tempfile::tempdir().expect("a place");
        let path = place.path().join("f");
        let count = MOST as usize / 10 + 7;
        append(&path, &"123456789\n".repeat(count));
        let mut tail = Tail::new(&path);
        let (one, other) = (tail.look().expect("a file"), tail.look().expect("a file"));
        assert!(one.goes_on && !other.goes_on);
        assert_eq!(one.lines.len() + other.lines.len(), count);
        append(&path, &"x".repeat(LONGEST_LINE + 1));
        assert!(tail.look().expect("a file").lines.is_empty() && tail.begun.is_empty());
    }
}
