//! The footer of a Parquet file: its columns, where their pages are, and what else its writer noted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use super::thrift::{self, Value};
use crate::data::dataset::Want;
use crate::data::place::{Parsed, reason};

/// Of a row in memory: its label, which takes next to nothing in a file where it is one of a run.
const ROW_BYTES: u64 = size_of::<Option<i64>>() as u64;
const MAGIC: &[u8; 4] = b"PAR1";
/// The longest footer that is read.
const MAX_FOOTER: u64 = 16 << 20;
/// How many times its bytes the tree of a footer takes: a field of a byte or two is a value and its number.
const TREE: u64 = 40;
const SMALL_TREE: u64 = 1 << 20;
const MOST_DEPTH: usize = 16;
/// Each column has the names of all groups that it is in.
const MOST_NAME: usize = 256;
const MOST_LEAVES: usize = 10_000;

/// Of which type the values of a column are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Int32,
    Int64,
    Bytes,
    Other,
}

/// A column.
pub struct Leaf {
    /// Its name behind those of the groups it is in.
    pub path: Vec<String>,
    pub kind: Type,
    pub is_text: bool,
    /// Whether a row may have several.
    pub is_repeated: bool,
    /// How many of the names on its path may be null.
    pub optional: u32,
}

/// Some rows of all columns.
pub struct Group {
    pub rows: u64,
    /// One for each leaf.
    pub places: Vec<Place>,
}

/// The pages of a column in one group.
pub struct Place {
    pub codec: i64,
    pub start: u64,
    pub length: u64,
}

/// What is read of a footer.
pub struct Footer {
    pub leaves: Vec<Leaf>,
    pub groups: Vec<Group>,
    pub key_values: Vec<(String, String)>,
}

impl Footer {
    /// Reads it. The error is what is wrong with the file.
    pub fn read(file: &File, want: &Want) -> Parsed<Footer> {
        let bytes = bytes(file, want)?;
        let (root, _) = thrift::read(&bytes)?;
        let elements = root.list(2);
        let mut leaves = Vec::new();
        let children = elements.first().and_then(|root| root.int(5)).unwrap_or(0);
        let mut rest = elements.get(1..).unwrap_or_default().iter();
        for _ in 0..children {
            walk(&mut rest, &[], (0, false), &mut leaves)?;
        }
        if leaves.is_empty() {
            return Err("a table without columns".into());
        }
        let groups = root.list(4).iter().map(|group| group_of(group, leaves.len())).collect::<Parsed<Vec<Group>>>()?;
        check_groups(&groups, file, want)?;
        let key_value = |pair: &Value| Some((pair.text(1)?, pair.text(2)?));
        let key_values = root.list(5).iter().filter_map(key_value).collect();
        Ok(Footer { leaves, groups, key_values })
    }
}

/// The footer: before the last eight bytes of the file, of which the first four are its length.
fn bytes(mut file: &File, want: &Want) -> Parsed<Vec<u8>> {
    let length = file.seek(SeekFrom::End(0)).map_err(|error| reason(&error))?;
    let mut read_at = |at: u64, count: u64| -> Parsed<Vec<u8>> {
        file.seek(SeekFrom::Start(at)).map_err(|error| reason(&error))?;
        let mut bytes = Vec::new();
        file.take(count).read_to_end(&mut bytes).map_err(|error| reason(&error))?;
        Ok(bytes)
    };
    let start = read_at(0, 4)?;
    let end = read_at(length.saturating_sub(8), 8)?;
    if end.ends_with(b"PARE") {
        return Err("an encrypted table, which is not read".into());
    }
    if start != MAGIC {
        return Err("not a Parquet file: get it again".into());
    }
    if length < 12 || !end.ends_with(MAGIC) {
        return Err("truncated: it ends without its footer: get it again".into());
    }
    let footer = u64::from(u32::from_le_bytes([end[0], end[1], end[2], end[3]]));
    if footer > length - 12 {
        return Err("its footer is damaged: get it again".into());
    }
    if footer > MAX_FOOTER {
        return Err(format!("its footer has {footer} bytes, more than the {MAX_FOOTER} that are read"));
    }
    want.check_memory(footer, "its footer has")?;
    if footer * TREE > SMALL_TREE {
        want.check_memory(footer * TREE, "its footer takes up to")?;
    }
    read_at(length - 8 - footer, footer)
}

/// Adds the leaves of the next element of the schema, which is below those of `path`.
fn walk<'a, 'b: 'a>(
    rest: &mut impl Iterator<Item = &'a Value<'b>>,
    path: &[String],
    (optional, is_repeated): (u32, bool),
    leaves: &mut Vec<Leaf>,
) -> Parsed<()> {
    let damaged = "the columns in its footer are damaged: get it again";
    let element = rest.next().ok_or(damaged)?;
    let name = element.text(4).filter(|name| name.len() <= MOST_NAME).ok_or(damaged)?;
    let path = [path, &[name]].concat();
    if path.len() > MOST_DEPTH || leaves.len() > MOST_LEAVES {
        return Err(damaged.into());
    }
    let repetition = element.int(3).unwrap_or(0);
    // A repeated one counts among the levels of definition, too.
    let levels = (optional + u32::from(repetition != 0), is_repeated || repetition == 2);
    let children = element.int(5).unwrap_or(0);
    if children > 0 {
        return (0..children).try_for_each(|_| walk(rest, &path, levels, leaves));
    }
    let kind = match element.int(1) {
        Some(1) => Type::Int32,
        Some(2) => Type::Int64,
        Some(6) => Type::Bytes,
        _ => Type::Other,
    };
    // UTF8, ENUM and JSON of the older list; STRING, ENUM and JSON of the newer.
    let is_text = matches!(element.int(6), Some(0 | 4 | 19))
        || element.get(10).is_some_and(|kind| [1, 4, 12].iter().any(|id| kind.get(*id).is_some()));
    leaves.push(Leaf { path, kind, is_text, is_repeated: levels.1, optional: levels.0 });
    Ok(())
}

/// Refuses groups that share what is in the file: a small one could be read for ever; and more rows than may be.
fn check_groups(groups: &[Group], file: &File, want: &Want) -> Parsed<()> {
    let own = file.metadata().map_err(|error| reason(&error))?.len();
    let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
    if sum(&mut groups.iter().flat_map(|group| &group.places).map(|place| place.length)) > own {
        return Err("its columns are longer than the file: get it again".into());
    }
    let rows = sum(&mut groups.iter().map(|group| group.rows));
    want.check_memory(rows.saturating_mul(ROW_BYTES), "the labels of its rows take")
}

fn group_of(group: &Value, leaves: usize) -> Parsed<Group> {
    let damaged = || String::from("the rows in its footer are damaged: get it again");
    let place = |column: &Value| {
        if column.get(1).is_some() {
            return Err("its columns are in other files, which are not read".into());
        }
        let about = column.get(3).ok_or_else(damaged)?;
        let number = |id: i16| about.int(id).and_then(|number| u64::try_from(number).ok());
        let (data, length) = (number(9).ok_or_else(damaged)?, number(7).ok_or_else(damaged)?);
        // Writers that have no dictionary may say that it is at 0.
        let start = number(11).filter(|dictionary| (4..data).contains(dictionary)).unwrap_or(data);
        Ok(Place { codec: about.int(4).unwrap_or(-1), start, length })
    };
    let places = group.list(1).iter().map(place).collect::<Parsed<Vec<Place>>>()?;
    let rows = group.int(3).and_then(|rows| u64::try_from(rows).ok()).ok_or_else(damaged)?;
    if places.len() != leaves {
        return Err(damaged());
    }
    Ok(Group { rows, places })
}
