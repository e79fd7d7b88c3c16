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
        let head = self.varint()?;
        if head & 1 == 0 {
            let bytes = self.take(u64::from(self.width.div_ceil(8)))?;
            self.value = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
            self.repeated = head >> 1;
            return Some(());
        }
        let groups = head >> 1;
        // The last group may be cut short.
        let length = groups.checked_mul(u64::from(self.width))?.min(self.bytes.len() as u64);
        self.packed_bytes = self.take(length)?;
        self.packed = groups.checked_mul(8)?;
        self.bit = 0;
        Some(())
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..42).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(usize::try_from(count).ok()?)?;
        self.bytes = rest;
        Some(taken)
    }

    fn unpack(&mut self) -> Option<u32> {
        let (first, shift) = ((self.bit / 8) as usize, self.bit % 8);
        let last = (self.bit + u64::from(self.width)).div_ceil(8) as usize;
        let bytes = self.packed_bytes.get(first..last)?;
        let bits = bytes.iter().rev().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        self.bit += u64::from(self.width);
        Some((bits >> shift & ((1 << self.width) - 1)) as u32)
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
