//! Thrift's compact protocol, in which Parquet writes its headers, as a tree of numbered fields.

use crate::data::place::Parsed;

/// Structs in structs; Parquet has about eight.
const MOST_DEPTH: usize = 24;

/// A value; one takes at least a byte of the input.
#[derive(Debug)]
pub enum Value<'a> {
    Bool(bool),
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Struct(Vec<(i16, Value<'a>)>),
}

impl<'a> Value<'a> {
    /// The field `id` of a struct.
    pub fn get(&self, id: i16) -> Option<&Value<'a>> {
        let Value::Struct(fields) = self else { return None };
        fields.iter().find(|(own, _)| *own == id).map(|(_, value)| value)
    }

    pub fn int(&self, id: i16) -> Option<i64> {
        if let Some(Value::Int(number)) = self.get(id) { Some(*number) } else { None }
    }

    pub fn bool(&self, id: i16) -> Option<bool> {
        if let Some(Value::Bool(value)) = self.get(id) { Some(*value) } else { None }
    }

    pub fn text(&self, id: i16) -> Option<String> {
        let Some(Value::Bytes(bytes)) = self.get(id) else { return None };
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// The elements of the list in field `id`, none if there is no list.
    pub fn list(&self, id: i16) -> &[Value<'a>] {
        if let Some(Value::List(list)) = self.get(id) { list } else { &[] }
    }
}

/// The struct that `bytes` begin with, and how many of them it is.
pub fn read(bytes: &[u8]) -> Parsed<(Value<'_>, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let value = reader.structure(0)?;
    Ok((value, reader.at))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or("a header of the table ends early: get it again")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Parsed<u8> {
        Ok(self.take(1)?[0])
    }

    fn unsigned(&mut self) -> Parsed<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(damaged())
    }

    fn signed(&mut self) -> Parsed<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn structure(&mut self, depth: usize) -> Parsed<Value<'a>> {
        let (mut fields, mut id) = (Vec::new(), 0_i16);
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Value::Struct(fields));
            }
            id = match head >> 4 {
                0 => i16::try_from(self.signed()?).map_err(|_| damaged())?,
                step => id.checked_add(i16::from(step)).ok_or_else(damaged)?,
            };
            let value = match head & 15 {
                // A boolean's type is its value.
                kind @ 1..=2 => Value::Bool(kind == 1),
                kind => self.value(kind, depth)?,
            };
            fields.push((id, value));
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Parsed<Value<'a>> {
        if depth > MOST_DEPTH {
            return Err(damaged());
        }
        Ok(match kind {
            1 | 2 => Value::Bool(self.byte()? == 1),
            3 => Value::Int(i64::from(self.byte()? as i8)),
            4..=6 => Value::Int(self.signed()?),
            7 => Value::Bytes(self.take(8)?),
            8 => {
                let length = usize::try_from(self.unsigned()?).map_err(|_| damaged())?;
                Value::Bytes(self.take(length)?)
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.unsigned()? } else { u64::from(head >> 4) };
                // It grows with what is there, whatever it claims.
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(head & 15, depth + 1)?);
                }
                Value::List(list)
            }
            12 => self.structure(depth + 1)?,
            _ => return Err(damaged()),
        })
    }
}

fn damaged() -> String {
    "a header of the table is damaged: get it again".into()
}
