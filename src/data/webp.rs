//! What is seen of a WebP without decoding it: the sizes that its streams of pixels declare, each beside that of the whole.
//!
//! ```text
//! `VP8 `, 4 bytes of length, 3 of flags, 9d 01 2a; width and height in 14 of 16 bits each, the low byte first
//! `VP8L`, 4 bytes of length, 2f; width - 1 and height - 1 in 14 bits each, the low bits first
//! ```

/// The bytes that the largest of them takes as RGB, whatever the file says of itself.
pub(super) fn largest(bytes: &[u8]) -> u64 {
    // Wherever a decoder may look: in the file, in its frames, or behind a length that is wrong.
    let streams = bytes.windows(18).filter(|window| window.starts_with(b"VP8"));
    streams.filter_map(size).map(|[width, height]| 3 * width * height).max().unwrap_or(0)
}

/// Of the stream that begins there, if one does.
fn size(stream: &[u8]) -> Option<[u64; 2]> {
    let number = |at: usize| u64::from(u16::from_le_bytes([stream[at], stream[at + 1]]));
    match (stream[3], &stream[8..]) {
        (b' ', [_, _, _, 0x9d, 0x01, 0x2a, ..]) => Some([number(14) & 0x3fff, number(16) & 0x3fff]),
        (b'L', [0x2f, ..]) => {
            let both = number(9) | number(11) << 16;
            Some([(both & 0x3fff) + 1, (both >> 14 & 0x3fff) + 1])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_wherever_they_stand() {
        let lossy = [&b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a"[..], &[5, 0xc0, 6, 0x40]].concat();
        let lossless = [&b"VP8L\0\0\0\0\x2f"[..], &(6_u32 << 14 | 7).to_le_bytes(), &[0; 5]].concat();
        assert_eq!((size(&lossy), size(&lossless)), (Some([5, 6]), Some([8, 7])));
        assert_eq!(largest(&[b"RIFF..", &lossy[..], b"ANMF", &lossless].concat()), 3 * 56);
        assert_eq!((largest(&lossy[..17]), largest(b"VP8 VP8L VP8VP8VP8VP8VP8")), (0, 0));
    }
}
