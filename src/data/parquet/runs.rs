//! Small numbers as runs of one value and as packed bits, in turn: Parquet's levels, and indices into dictionaries.

/// The numbers of so many bits each; it ends with the bytes.
pub struct Runs<'a> {
    bytes: &'a [u8],
    width: u32,
    /// How many of the run are left.
    repeated: u64,
    value: u32,
    /// How many packed ones are left, and the bits before the next.
    packed: u64,
    bit: u64,
    packed_bytes: &'a [u8],
}

impl<'a> Runs<'a> {
    /// Of `width` bits, at most 32.
    pub fn new(bytes: &'a [u8], width: u32) -> Runs<'a> {
        Runs { bytes, width: width.min(32), repeated: 0, value: 0, packed: 0, bit: 0, packed_bytes: &[] }
    }

    /// Begins the next run.
    fn advance(&mut self) -> Option<()> {
        let head = varint(&mut self.bytes)?;
        if head & 1 == 0 {
            let bytes = take(&mut self.bytes, u64::from(self.width.div_ceil(8)))?;
            self.value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.repeated = head >> 1;
            return Some(());
        }
        let groups = head >> 1;
        // The last group may be cut short.
        let length = groups.checked_mul(u64::from(self.width))?.min(self.bytes.len() as u64);
        self.packed_bytes = take(&mut self.bytes, length)?;
        self.packed = groups.checked_mul(8)?;
        self.bit = 0;
        Some(())
    }

    fn unpack(&mut self) -> Option<u32> {
        let value = bits(self.packed_bytes, self.bit, self.width)?;
        self.bit += u64::from(self.width);
        Some(value as u32)
    }
}

impl Iterator for Runs<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            if self.repeated > 0 {
                self.repeated -= 1;
                return Some(self.value);
            }
            if self.packed > 0 {
                self.packed -= 1;
                return self.unpack();
            }
            self.advance()?;
        }
    }
}

/// The number that `bytes` begin with, seven bits a byte, the lowest first.
pub fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The first `count` of `bytes`, which begin behind them then.
pub fn take<'a>(bytes: &mut &'a [u8], count: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(count).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The number of `width` bits, at most 64, behind the first `bit` ones; the lowest bits are first.
pub fn bits(bytes: &[u8], bit: u64, width: u32) -> Option<u64> {
    let (first, shift) = ((bit / 8) as usize, bit % 8);
    let last = (bit + u64::from(width)).div_ceil(8) as usize;
    let bytes = bytes.get(first..last)?;
    let bits = bytes.iter().rev().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    Some((bits >> shift & ((1 << width) - 1)) as u64)
}

pub(super) fn damaged() -> String {
    "a page is damaged: get it again".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_format_is_read() {
        // 0 to 7 in 3 bits each, then 4 times 5.
        let bytes = [0b11, 0b1000_1000, 0b1100_0110, 0b1111_1010, 4 << 1, 5];
        assert_eq!(Runs::new(&bytes, 3).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 7, 5, 5, 5, 5]);
        assert_eq!(Runs::new(&bytes[..3], 3).count(), 5);
    }
}
