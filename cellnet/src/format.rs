//! Reads and writes the file `model.cell`: a header of 64 bytes, the plan, the weights. This module covers
//! bytes and checksums; [`crate::plan`] defines the plan and `check` decides whether it is sound.
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `CELLNET\0` |
//! | 8..12 | format version |
//! | 12..16 | CRC-32 of the header with these four bytes zero |
//! | 16..24 | length of the plan |
//! | 24..32 | offset of the weights, a multiple of 64 |
//! | 32..40 | length of the weights in bytes, a multiple of 64 |
//! | 40..44 | CRC-32 of the plan and the zeros after it |
//! | 44..48 | CRC-32 of the weights |
//! | 48..64 | zeros |
//!
//! All numbers are little-endian. The plan follows at byte 64 in postcard's encoding, padded with zeros up
//! to the weights. Opening a file does not check the CRC of the weights, because that would read them all;
//! [`crate::Model::verify`] does.

use crate::error::OpenError;
use crate::plan::Plan;

/// The version of the format that this crate writes, and the only one it reads.
pub const VERSION: u32 = 6;
/// The first eight bytes.
pub const MAGIC: [u8; 8] = *b"CELLNET\0";
/// Bytes of the header.
pub const HEADER: usize = 64;
/// Alignment of the plan and the weights in the file.
pub const ALIGN: usize = 64;

/// The parts of a file: the decoded plan and the place of the weights.
#[derive(Debug)]
pub struct Parts {
    /// The plan, not yet checked.
    pub plan: Plan,
    /// Byte range of the weights in the file.
    pub weights: std::ops::Range<usize>,
    /// CRC-32 the weights should have.
    pub weights_crc: u32,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

/// Encodes header, plan and weights.
///
/// # Errors
/// [`OpenError::Decode`] if the plan cannot be encoded.
pub fn write(plan: &Plan, weights: &[f32]) -> Result<Vec<u8>, OpenError> {
    let plan_bytes = postcard::to_allocvec(plan)
        .map_err(|e| OpenError::Decode { part: "plan", reason: e.to_string() })?;
    let offset = (HEADER + plan_bytes.len()).next_multiple_of(ALIGN);
    let weights_len = (weights.len() * 4).next_multiple_of(ALIGN);
    let mut file = Vec::with_capacity(offset + weights_len);
    file.extend_from_slice(&MAGIC);
    file.resize(HEADER, 0);
    file.extend_from_slice(&plan_bytes);
    file.resize(offset, 0);
    for value in weights {
        file.extend_from_slice(&value.to_le_bytes());
    }
    file.resize(offset + weights_len, 0);
    let plan_crc = crc32fast::hash(&file[HEADER..offset]);
    let weights_crc = crc32fast::hash(&file[offset..]);
    file[8..12].copy_from_slice(&VERSION.to_le_bytes());
    file[16..24].copy_from_slice(&(plan_bytes.len() as u64).to_le_bytes());
    file[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
    file[32..40].copy_from_slice(&(weights_len as u64).to_le_bytes());
    file[40..44].copy_from_slice(&plan_crc.to_le_bytes());
    file[44..48].copy_from_slice(&weights_crc.to_le_bytes());
    let header_crc = crc32fast::hash(&file[..HEADER]);
    file[12..16].copy_from_slice(&header_crc.to_le_bytes());
    Ok(file)
}

/// Decodes a file. Neither the plan's soundness nor the weights' checksum is checked.
///
/// # Errors
/// Every variant of [`OpenError`] but `Io` and `Plan`.
pub fn read(file: &[u8]) -> Result<Parts, OpenError> {
    if cfg!(target_endian = "big") {
        return Err(OpenError::Endian);
    }
    let Some(header) = file.get(..HEADER) else {
        return Err(OpenError::Length { found: file.len() as u64, expected: HEADER as u64 });
    };
    check_header(header)?;
    let (plan_len, offset) = (long(header, 16), long(header, 24));
    let weights_len = long(header, 32);
    let plan_end = (HEADER as u64).checked_add(plan_len);
    let end = offset.checked_add(weights_len);
    let aligned = offset.is_multiple_of(ALIGN as u64) && weights_len.is_multiple_of(ALIGN as u64);
    let (Some(plan_end), Some(end), true) = (plan_end, end, aligned) else {
        let reason = format!("plan of {plan_len} bytes, weights {weights_len} at {offset}");
        return Err(OpenError::Decode { part: "header", reason });
    };
    if end != file.len() as u64 {
        return Err(OpenError::Length { found: file.len() as u64, expected: end });
    }
    if plan_end > offset {
        let reason = format!("the plan ends at {plan_end}, after the weights begin at {offset}");
        return Err(OpenError::Decode { part: "header", reason });
    }
    // Both fit into usize: neither exceeds the file's length, compared above.
    let (plan_end, offset) = (plan_end as usize, offset as usize);
    let found = crc32fast::hash(&file[HEADER..offset]);
    if found != word(header, 40) {
        return Err(OpenError::Checksum { part: "plan", found, expected: word(header, 40) });
    }
    let (plan, rest) = postcard::take_from_bytes::<Plan>(&file[HEADER..plan_end])
        .map_err(|e| OpenError::Decode { part: "plan", reason: e.to_string() })?;
    if !rest.is_empty() {
        let reason = format!("{} bytes are left over", rest.len());
        return Err(OpenError::Decode { part: "plan", reason });
    }
    Ok(Parts { plan, weights: offset..file.len(), weights_crc: word(header, 44) })
}

fn check_header(header: &[u8]) -> Result<(), OpenError> {
    let mut found = [0; 8];
    found.copy_from_slice(&header[..8]);
    if found != MAGIC {
        return Err(OpenError::Magic { found });
    }
    let version = word(header, 8);
    if version != VERSION {
        return Err(OpenError::Version { found: version, expected: VERSION });
    }
    let mut blank = [0; HEADER];
    blank.copy_from_slice(header);
    blank[12..16].fill(0);
    let found = crc32fast::hash(&blank);
    if found != word(header, 12) {
        return Err(OpenError::Checksum { part: "header", found, expected: word(header, 12) });
    }
    Ok(())
}
