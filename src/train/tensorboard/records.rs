//! TFRecord, the framing of event files: length, its checksum, bytes, their checksum, all little-endian.

use crc::{CRC_32_ISCSI, Crc, Table};

const CHECKSUM: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC-32C, masked: the checksum of bytes that hold their checksum would be a constant.
pub(super) fn masked(bytes: &[u8]) -> u32 {
    CHECKSUM.checksum(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Puts a record behind `file`.
pub(super) fn write(file: &mut Vec<u8>, record: &[u8]) {
    let length = (record.len() as u64).to_le_bytes();
    file.extend(length);
    file.extend(masked(&length).to_le_bytes());
    file.extend(record);
    file.extend(masked(record).to_le_bytes());
}
