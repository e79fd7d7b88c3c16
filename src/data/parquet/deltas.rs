//! Numbers as what each adds to the one before it: Parquet's DELTA_BINARY_PACKED.
//!
//! ```text
//! numbers in a block, parts of a block, numbers in all, the first number
//! each block: the least that one adds, a width in bits for each part, then parts: what each adds beyond that, in so many bits
//! ```
//! Of the last block parts that hold none are left out; the others are whole.

use super::runs::{bits, take, varint};

/// The numbers; it ends behind the last, or where the bytes are damaged.
#[derive(Clone)]
pub struct Deltas<'a> {
    bytes: &'a [u8],
    /// How many numbers a part has, and how many parts a block.
    of_part: u64,
    parts: u64,
    left: u64,
    value: i64,
    is_begun: bool,
    /// The least that one adds in this block, and the widths of its further parts.
    least: i64,
    widths: &'a [u8],
    /// The part that is being read, and how much of it was.
    part: &'a [u8],
    width: u32,
    read: u64,
}

impl<'a> Deltas<'a> {
    /// Those that `bytes` begin with; none if there are more than `most`.
    pub fn new(mut bytes: &'a [u8], most: u64) -> Option<Deltas<'a>> {
        let [of_block, parts, count] = [varint(&mut bytes)?, varint(&mut bytes)?, varint(&mut bytes)?];
        let value = signed(&mut bytes)?;
        let of_part = of_block.checked_div(parts).filter(|of_part| of_part * parts == of_block)?;
        let is_whole = of_part > 0 && of_part.is_multiple_of(8) && of_part <= u64::from(u32::MAX);
        (is_whole && count <= most).then_some(Deltas {
            bytes,
            of_part,
            parts,
            left: count,
            value,
            is_begun: false,
            least: 0,
            widths: &[],
            part: &[],
            width: 0,
            read: of_part,
        })
    }

    /// The bytes behind the last number.
    pub fn rest(mut self) -> Option<&'a [u8]> {
        while self.left > 0 {
            self.next()?;
        }
        Some(self.bytes)
    }

    /// Begins the next part.
    fn advance(&mut self) -> Option<()> {
        if self.widths.is_empty() {
            self.least = signed(&mut self.bytes)?;
            self.widths = take(&mut self.bytes, self.parts)?;
        }
        let (width, widths) = self.widths.split_first()?;
        let width = u32::from(*width);
        if width > u64::BITS {
            return None;
        }
        self.part = take(&mut self.bytes, self.of_part * u64::from(width) / 8)?;
        (self.widths, self.width, self.read) = (widths, width, 0);
        Some(())
    }
}

impl Iterator for Deltas<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        self.left = self.left.checked_sub(1)?;
        if !self.is_begun {
            self.is_begun = true;
            return Some(self.value);
        }
        if self.read == self.of_part {
            self.advance()?;
        }
        let beyond = bits(self.part, self.read * u64::from(self.width), self.width)?;
        self.read += 1;
        // Writers count round: the difference of two numbers may need a bit more than they do.
        self.value = self.value.wrapping_add(self.least).wrapping_add(beyond as i64);
        Some(self.value)
    }
}

/// A number whose lowest bit is its sign.
fn signed(bytes: &mut &[u8]) -> Option<i64> {
    let value = varint(bytes)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What pyarrow wrote of such numbers, without the zeros at its end.
    const LONG: &str =
        "8002040500ffffffffffffffffff01400000000000000000000000ffffffffffffff7f00000000000000000600000000000080";
    const SHORT: &str = "800104050efdffffff0f20000000f8fffffffeffff7f00000000f6ffff7f";

    fn bytes(hex: &str, length: usize) -> Vec<u8> {
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2).unwrap_or("00"), 16).expect("hexadecimal");
        (0..length).map(|at| byte(2 * at)).collect()
    }

    #[test]
    fn numbers_of_all_widths_are_as_their_writer_had_them() {
        let long = bytes(LONG, 531);
        let all = Deltas::new(&long, 5).expect("five numbers");
        assert_eq!(all.clone().collect::<Vec<_>>(), [0, i64::MIN, i64::MAX, -1, 5]);
        assert_eq!(all.rest().map(<[u8]>::len), Some(0));
        // In 32 bits sums begin again, too.
        let short = bytes(SHORT, 142);
        let all: Vec<i32> = Deltas::new(&short, 5).expect("five numbers").map(|number| number as i32).collect();
        assert_eq!(all, [7, i32::MIN, i32::MAX, 0, -9]);
        let behind = [&short[..], b"x"].concat();
        assert_eq!(Deltas::new(&behind, 5).and_then(Deltas::rest), Some(&b"x"[..]));
    }

    #[test]
    fn what_is_cut_or_claims_more_is_noticed() {
        let short = bytes(SHORT, 142);
        assert!(Deltas::new(&short, 4).is_none());
        for length in 0..short.len() {
            assert_eq!(Deltas::new(&short[..length], 5).and_then(Deltas::rest), None, "{length} bytes");
        }
        // Blocks of 0 parts, of 0 numbers, of parts that are no whole bytes, and a width of 65 bits.
        for start in [&[8, 0, 1, 0][..], &[0, 1, 1, 0], &[12, 1, 1, 0], &[8, 1, 2, 0, 0, 65]] {
            let all = [start, &[0; 80]].concat();
            assert_eq!(Deltas::new(&all, 9).and_then(Deltas::rest), None, "{start:?}");
        }
    }
}
