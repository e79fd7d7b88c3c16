//! Files that no library writes: what they declare is more than they have.

use super::*;

/// A value of Thrift's compact protocol.
enum Value {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Struct(Vec<(u8, Value)>),
}

use Value::{Int, List, Struct};

fn text(text: &str) -> Value {
    Value::Bytes(text.into())
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

impl Value {
    fn kind(&self) -> u8 {
        match self {
            Int(_) => 6,
            Value::Bytes(_) => 8,
            List(_) => 9,
            Struct(_) => 12,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Int(number) => varint((number << 1 ^ number >> 63) as u64),
            Value::Bytes(bytes) => [varint(bytes.len() as u64), bytes.clone()].concat(),
            List(values) => {
                let head = vec![0xf0 | values.first().map_or(6, Value::kind)];
                let values = values.iter().flat_map(Value::bytes).collect();
                [head, varint(self.count()), values].concat()
            }
            Struct(fields) => {
                // Each field's number in full, behind its type.
                let field = |(id, value): &(u8, Value)| {
                    [vec![value.kind()], varint(u64::from(*id) << 1), value.bytes()].concat()
                };
                fields.iter().flat_map(field).chain([0]).collect()
            }
        }
    }

    fn count(&self) -> u64 {
        if let List(values) = self { values.len() as u64 } else { 1 }
    }
}

/// A table of one column of images, `name`: a dictionary of `value` alone, and `rows` times that in each of `groups`, which share their pages.
fn table(name: &str, value: &[u8], rows: u64, groups: usize) -> Vec<u8> {
    let page = |kind: i64, about: u8, count: u64, encoding: i64, bytes: &[u8]| {
        let length = Int(bytes.len() as i64);
        let about = (about, Struct(vec![(1, Int(count as i64)), (2, Int(encoding))]));
        let head = Struct(vec![(1, Int(kind)), (2, Int(bytes.len() as i64)), (3, length), about]);
        [head.bytes(), bytes.to_vec()].concat()
    };
    let dictionary = page(2, 7, 1, 0, &[&(value.len() as u32).to_le_bytes(), value].concat());
    // Indices of one bit: a run of zeros.
    let data = page(0, 5, rows, 8, &[&[1], &varint(rows << 1)[..], &[0]].concat());
    let start = 4 + dictionary.len() as i64;
    let length = (dictionary.len() + data.len()) as i64;
    let place = || Struct(vec![(4, Int(0)), (7, Int(length)), (9, Int(start)), (11, Int(4))]);
    let group = || Struct(vec![(1, List(vec![Struct(vec![(3, place())])])), (3, Int(rows as i64))]);
    let schema =
        vec![Struct(vec![(4, text("schema")), (5, Int(1))]), Struct(vec![(1, Int(6)), (3, Int(0)), (4, text(name))])];
    let footer = Struct(vec![(2, List(schema)), (4, List((0..groups).map(|_| group()).collect()))]).bytes();
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", &dictionary[..], &data, &footer, &length, b"PAR1"].concat()
}

#[test]
fn a_table_hands_out_no_more_than_it_may() {
    let image = grey(7);
    let set = directory(&[
        ("five.parquet", &table("image", &image, 5, 1)),
        ("many.parquet", &table("image", &image, 100_000, 1)),
        ("shared.parquet", &table("image", &image, 5, 9)),
        ("groups.parquet", &table("image", &image, 5, 3000)),
        ("rows.parquet", &table("image", &[], 1 << 40, 1)),
        ("name.parquet", &table(&"x".repeat(10_000), &image, 5, 1)),
    ]);
    let limit = |bytes| want(8, 8, 1).limited(bytes);
    let five = open(&set.path().join("five.parquet"), &limit(8000)).unwrap();
    assert_eq!((five.len(), &five.images[..]), (5, &[7; 5 * 64][..]));
    let cases = [
        (
            "many",
            4 << 20,
            "column image: its repeated values unpack to 4.0 MiB, more than --memory-limit allows (4.0 MiB)",
        ),
        ("shared", 4 << 20, "its columns are longer than the file"),
        ("rows", 1 << 30, "the labels of its rows take 16384.0 GiB, more than --memory-limit"),
        ("name", 4 << 20, "the columns in its footer are damaged"),
        ("groups", 2 << 20, "its footer takes up to"),
    ];
    for (name, bytes, part) in cases {
        let file = format!("{name}.parquet");
        refused(&set.path().join(&file), &limit(bytes), &[&file, part]);
    }
}

#[test]
fn a_picture_is_not_decoded_beyond_the_limit() {
    let picture = encode(RgbImage::from_pixel(600, 500, Rgb([1, 2, 3])), ImageFormat::Png);
    let set = directory(&[("a/0.png", &picture), ("a/1.png", &grey(1))]);
    let set = set.path();
    assert_eq!(open(set, &want(8, 8, 1).limited(900_000)).unwrap().len(), 2);
    let data = open(set, &want(8, 8, 1).limited(899_999)).unwrap();
    let why = "larger than --memory-limit allows (878.9 KiB): raise it if the file is to be trusted";
    assert_eq!((data.len(), data.account.skipped[0].why.as_str()), (1, why));
}

#[test]
fn what_decoders_make_room_for_before_they_look_is_looked_at_before() {
    // A TIFF of one grey pixel, one of whose entries has so many values.
    let tiff = |count: u32| {
        let entry = |tag: u16, kind: u16, count: u32, value: u32| {
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
        };
        let entries = [
            entry(256, 3, 1, 1),
            entry(257, 3, 1, 1),
            entry(258, 3, count, 8),
            entry(259, 3, 1, 1),
            entry(262, 3, 1, 1),
            entry(273, 4, 1, 8),
            entry(279, 4, 1, 1),
        ];
        [&b"II*\0\x0c\0\0\0\x2a\0\0\0\x07\0"[..], &entries.concat(), &[0; 4]].concat()
    };
    // A WebP of 4x4 whose stream of pixels claims another size.
    let webp = |side: u16| {
        let mut bytes = encode(RgbImage::new(4, 4), ImageFormat::WebP);
        bytes.extend(b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a");
        bytes.extend([side.to_le_bytes(), side.to_le_bytes()].concat());
        bytes
    };
    let set =
        directory(&[("0.tif", &tiff(1)), ("1.tif", &tiff(40_000)), ("2.webp", &webp(1000)), ("3.webp", &webp(1001))]);
    let data = open(set.path(), &want(1, 1, 1).limited(3_000_000)).unwrap();
    let why: Vec<&str> = data.account.skipped.iter().map(|skipped| skipped.why.as_str()).collect();
    let too_large = "larger than --memory-limit allows (2.9 MiB): raise it if the file is to be trusted";
    assert_eq!(
        (&data.images[..], why),
        (&[42, 0][..], vec!["corrupt image: a list in it is longer than the file", too_large])
    );
}

#[test]
fn frames_and_names_that_are_none_are_harmless() {
    // A GIF of 2x2 whose second frame claims more pixels a side than all of it has.
    let frame = |side: u16| {
        let side = side.to_le_bytes();
        [&[0x2c, 0, 0, 0, 0][..], &side, &side, &[0, 2, 2, 0x84, 0x51, 0]].concat()
    };
    let head = [&b"GIF89a\x02\0\x02\0\x80\0\0"[..], &[255, 255, 255, 0, 0, 0]].concat();
    let gif = |sides: &[u16]| [head.clone(), sides.iter().flat_map(|side| frame(*side)).collect(), vec![0x3b]].concat();
    let set = directory(&[("0.gif", &gif(&[2])), ("1.gif", &gif(&[2, 2])), ("2.gif", &gif(&[2, 200]))]);
    let data = open(set.path(), &want(2, 2, 1)).unwrap();
    assert_eq!((data.len(), data.account.changes.first_frames), (3, 2));
}
