//! How the bytes of a page are packed.

use std::io::Read;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use crate::data::place::Parsed;

/// How many times its bytes LZ4 may hold at the most: each adds up to 255 to the length of a match.
const MOST_LZ4: usize = 255;

/// What packed a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Nothing,
    Snappy,
    Gzip,
    Brotli,
    /// In the frames of Hadoop, or, by some writers, without them.
    FramedLz4,
    Zstandard,
    Lz4,
}

impl Codec {
    /// The one of this number. The error says what it is if it is not read.
    pub fn of(number: i64) -> Parsed<Codec> {
        Ok(match number {
            0 => Codec::Nothing,
            1 => Codec::Snappy,
            2 => Codec::Gzip,
            4 => Codec::Brotli,
            5 => Codec::FramedLz4,
            6 => Codec::Zstandard,
            7 => Codec::Lz4,
            _ => {
                let name = if number == 3 { "LZO".into() } else { format!("codec {number}") };
                let read = "read are Snappy, gzip, Brotli, LZ4, Zstandard and plain";
                return Err(format!("packed with {name}: {read}; write it with compression=\"snappy\""));
            }
        })
    }

    /// `levels`, and behind them the `length` bytes that `packed` holds; none if it holds another number of them.
    pub fn unpack(self, levels: &[u8], packed: &[u8], length: usize) -> Option<Vec<u8>> {
        let all = levels.len().checked_add(length)?;
        let mut bytes = levels.to_vec();
        match self {
            Codec::Nothing => bytes.extend(packed),
            Codec::Gzip => _ = MultiGzDecoder::new(packed).take(length as u64 + 1).read_to_end(&mut bytes).ok()?,
            Codec::Zstandard => unpack_zstandard(packed, all, &mut bytes)?,
            // Some leave a page without values empty.
            _ if length == 0 => {}
            Codec::Snappy => {
                snap::raw::decompress_len(packed).ok().filter(|own| *own == length)?;
                bytes.resize(all, 0);
                snap::raw::Decoder::new().decompress(packed, &mut bytes[levels.len()..]).ok()?;
            }
            Codec::Brotli => {
                bytes.resize(all, 0);
                unpack_brotli(packed, &mut bytes[levels.len()..])?;
            }
            Codec::Lz4 | Codec::FramedLz4 => {
                if length / MOST_LZ4 > packed.len() {
                    return None;
                }
                bytes.resize(all, 0);
                let values = &mut bytes[levels.len()..];
                let framed = if self == Codec::FramedLz4 { unpack_frames(packed, values) } else { None };
                framed.or_else(|| unpack_lz4(packed, values).filter(|own| *own == length).map(|_| ()))?;
            }
        }
        (bytes.len() == all).then_some(bytes)
    }
}

/// Adds what the frames in `packed` hold to `bytes`, until these are more than `most`.
fn unpack_zstandard(mut packed: &[u8], most: usize, bytes: &mut Vec<u8>) -> Option<()> {
    while !packed.is_empty() && bytes.len() <= most {
        let left = most + 1 - bytes.len();
        let frame = StreamingDecoder::new(&mut packed).ok()?;
        frame.take(left as u64).read_to_end(bytes).ok()?;
    }
    Some(())
}

/// Fills `bytes`, no less and no more. Beside them a decoder holds its window, which has 16 MiB at the most, and grows with what is there.
fn unpack_brotli(packed: &[u8], bytes: &mut [u8]) -> Option<()> {
    let allocator = StandardAlloc::default;
    let mut state = BrotliState::new_strict(allocator(), allocator(), allocator());
    let (mut packed_left, mut packed_at) = (packed.len(), 0);
    let (mut left, mut at, mut total) = (bytes.len(), 0, 0);
    let result = BrotliDecompressStream(
        &mut packed_left,
        &mut packed_at,
        packed,
        &mut left,
        &mut at,
        bytes,
        &mut total,
        &mut state,
    );
    (matches!(result, BrotliResult::ResultSuccess) && left == 0).then_some(())
}

/// Unpacks one block into the beginning of `bytes`, and says how many it holds.
fn unpack_lz4(packed: &[u8], bytes: &mut [u8]) -> Option<usize> {
    lz4_flex::block::decompress_into(packed, bytes).ok()
}

/// Fills `bytes` with what Hadoop's frames hold: each has the number of its bytes, then blocks, each behind its packed length, until it is full.
/// Numbers have four bytes, the highest first.
fn unpack_frames(mut packed: &[u8], mut bytes: &mut [u8]) -> Option<()> {
    let number = |packed: &mut &[u8]| -> Option<usize> {
        let (number, rest) = packed.split_first_chunk()?;
        *packed = rest;
        usize::try_from(u32::from_be_bytes(*number)).ok()
    };
    while !packed.is_empty() {
        let length = number(&mut packed)?;
        let (mut frame, rest) = bytes.split_at_mut_checked(length)?;
        bytes = rest;
        while !frame.is_empty() {
            let length = number(&mut packed)?;
            let (block, rest) = packed.split_at_checked(length)?;
            packed = rest;
            let own = unpack_lz4(block, frame).filter(|own| *own > 0)?;
            frame = &mut frame[own..];
        }
    }
    bytes.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of these numbers of bytes, of blocks of at most `block` each.
    fn frames(bytes: &[u8], lengths: &[usize], block: usize) -> Vec<u8> {
        let (mut packed, mut rest) = (Vec::new(), bytes);
        let number = |number: usize| (number as u32).to_be_bytes();
        for length in lengths {
            let (frame, after) = rest.split_at(*length);
            packed.extend(number(*length));
            for own in frame.chunks(block) {
                let own = lz4_flex::block::compress(own);
                packed.extend(number(own.len()));
                packed.extend(own);
            }
            rest = after;
        }
        packed
    }

    #[test]
    fn frames_hold_blocks_and_are_filled() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| (i * i / 7) as u8).collect();
        let levels = [1, 2, 3];
        let whole = [&levels[..], &bytes].concat();
        for packed in [
            frames(&bytes, &[1000], 1000),
            frames(&bytes, &[400, 600], 1000),
            frames(&bytes, &[1000], 300),
            frames(&bytes, &[0, 900, 100], 300),
            lz4_flex::block::compress(&bytes),
        ] {
            let unpack = |packed: &[u8], length| Codec::FramedLz4.unpack(&levels, packed, length);
            assert_eq!(unpack(&packed, 1000).as_ref(), Some(&whole));
            for (packed, length) in [(&packed[..], 999), (&packed, 1001), (&packed[..packed.len() - 1], 1000)] {
                assert_eq!(unpack(packed, length), None);
            }
        }
    }

    #[test]
    fn no_room_is_made_for_what_a_block_cannot_hold() {
        assert_eq!(Codec::Lz4.unpack(&[], &[0; 100], isize::MAX as usize), None);
        assert_eq!(Codec::FramedLz4.unpack(&[], &[0; 100], isize::MAX as usize), None);
    }
}
