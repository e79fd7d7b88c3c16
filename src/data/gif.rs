//! What is seen of a GIF without decoding it: whether it has more than one frame. A frame may claim to be larger than the picture, and
//! the decoder of all frames makes room for it.
//!
//! ```text
//! 13 bytes of header, the table of colours; then blocks
//! 21, a kind, parts                                  what is said of the next frame
//! 2c, 9 bytes, the table of colours, a byte, parts   a frame
//! 3b                                                 the end
//! parts: each behind a byte that is its length; one of length 0 is the last
//! ```

/// Whether a second frame begins behind the first.
pub(super) fn is_animation(bytes: &[u8]) -> bool {
    second(bytes).is_some()
}

/// Where the second frame begins.
fn second(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut frames) = (13 + table(*bytes.get(10)?), 0);
    loop {
        match bytes.get(at)? {
            0x21 => at = behind_parts(bytes, at + 2)?,
            0x2c if frames > 0 => return Some(at),
            0x2c => {
                frames += 1;
                at = behind_parts(bytes, at + 11 + table(*bytes.get(at + 9)?))?;
            }
            _ => return None,
        }
    }
}

/// Bytes of the table of colours of which these flags speak.
fn table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

fn behind_parts(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length == 0 {
            return Some(at);
        }
    }
}
