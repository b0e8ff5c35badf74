//! A JPEG's quantization and Huffman tables, as slices of the file (ITU-T T.81, B.2.4). Huffman decoding is
//! in `bits`.

use super::refusal::{corrupt, truncated};
use crate::photo::error::PhotoError;

/// Quantization steps in zigzag order, 8 or 16 bits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps<'a> {
    wide: bool,
    bytes: &'a [u8],
}

impl Steps<'_> {
    /// The 64 steps, in zigzag order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        let size = if self.wide { 2 } else { 1 };
        let word = |step: &[u8]| step.iter().fold(0, |sum, &byte| sum << 8 | u16::from(byte));
        self.bytes.chunks_exact(size).map(word)
    }

    /// Whether a step is 0. libjpeg then decodes the coefficient as 0; the decoder used here refuses the
    /// file.
    pub(super) fn has_zero(&self) -> bool {
        self.iter().any(|step| step == 0)
    }
}

/// A Huffman table: the number of codes of each length from 1 to 16, and their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codes<'a> {
    pub(super) counts: &'a [u8; 16],
    pub(super) values: &'a [u8],
}

/// The tables defined at one point of the file, by their numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tables<'a> {
    pub(super) steps: [Option<Steps<'a>>; 4],
    pub(super) dc: [Option<Codes<'a>>; 4],
    pub(super) ac: [Option<Codes<'a>>; 4],
}

impl<'a> Tables<'a> {
    /// The initial tables: the typical codes of T.81, K.3, which frames of webcams leave out. libjpeg-turbo
    /// assumes the same tables.
    pub(super) fn new() -> Self {
        let standard = |codes: &[Codes<'a>; 2]| [Some(codes[0]), Some(codes[1]), None, None];
        Self { steps: [None; 4], dc: standard(&STANDARD_DC), ac: standard(&STANDARD_AC) }
    }

    /// Reads the quantization tables of a DQT segment.
    pub(super) fn read_steps(&mut self, mut segment: &'a [u8]) -> Result<(), PhotoError> {
        while let Some((&kind, rest)) = segment.split_first() {
            let wide = kind >> 4 != 0;
            let (bytes, rest) =
                rest.split_at_checked(if wide { 128 } else { 64 }).ok_or_else(truncated)?;
            let place = self.steps.get_mut(usize::from(kind & 15));
            *place.ok_or_else(|| corrupt("a quantization table's number is above 3"))? =
                Some(Steps { wide, bytes });
            segment = rest;
        }
        Ok(())
    }

    /// Reads the Huffman tables of a DHT segment. A table without codes counts as undefined.
    pub(super) fn read_codes(&mut self, mut segment: &'a [u8]) -> Result<(), PhotoError> {
        while let Some((&kind, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(truncated)?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            if count > 256 {
                return Err(corrupt("a Huffman table has more than 256 codes"));
            }
            let (values, rest) = rest.split_at_checked(count).ok_or_else(truncated)?;
            let class = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let place = class.get_mut(usize::from(kind & 15)).filter(|_| kind >> 4 < 2);
            *place.ok_or_else(|| corrupt("a Huffman table's number is above 3"))? =
                (count > 0).then_some(Codes { counts, values });
            segment = rest;
        }
        Ok(())
    }
}

/// Tables K.3 and K.4: DC coefficients of luminance and chrominance.
const STANDARD_DC: [Codes<'static>; 2] = [
    Codes {
        counts: &[0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    },
    Codes {
        counts: &[0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0],
        values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    },
];

/// Tables K.5 and K.6: AC coefficients of luminance and chrominance.
const STANDARD_AC: [Codes<'static>; 2] = [
    Codes {
        counts: &[0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7D],
        values: b"\
            \x01\x02\x03\x00\x04\x11\x05\x12\x21\x31\x41\x06\x13\x51\x61\x07\
            \x22\x71\x14\x32\x81\x91\xA1\x08\x23\x42\xB1\xC1\x15\x52\xD1\xF0\
            \x24\x33\x62\x72\x82\x09\x0A\x16\x17\x18\x19\x1A\x25\x26\x27\x28\
            \x29\x2A\x34\x35\x36\x37\x38\x39\x3A\x43\x44\x45\x46\x47\x48\x49\
            \x4A\x53\x54\x55\x56\x57\x58\x59\x5A\x63\x64\x65\x66\x67\x68\x69\
            \x6A\x73\x74\x75\x76\x77\x78\x79\x7A\x83\x84\x85\x86\x87\x88\x89\
            \x8A\x92\x93\x94\x95\x96\x97\x98\x99\x9A\xA2\xA3\xA4\xA5\xA6\xA7\
            \xA8\xA9\xAA\xB2\xB3\xB4\xB5\xB6\xB7\xB8\xB9\xBA\xC2\xC3\xC4\xC5\
            \xC6\xC7\xC8\xC9\xCA\xD2\xD3\xD4\xD5\xD6\xD7\xD8\xD9\xDA\xE1\xE2\
            \xE3\xE4\xE5\xE6\xE7\xE8\xE9\xEA\xF1\xF2\xF3\xF4\xF5\xF6\xF7\xF8\
            \xF9\xFA",
    },
    Codes {
        counts: &[0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77],
        values: b"\
            \x00\x01\x02\x03\x11\x04\x05\x21\x31\x06\x12\x41\x51\x07\x61\x71\
            \x13\x22\x32\x81\x08\x14\x42\x91\xA1\xB1\xC1\x09\x23\x33\x52\xF0\
            \x15\x62\x72\xD1\x0A\x16\x24\x34\xE1\x25\xF1\x17\x18\x19\x1A\x26\
            \x27\x28\x29\x2A\x35\x36\x37\x38\x39\x3A\x43\x44\x45\x46\x47\x48\
            \x49\x4A\x53\x54\x55\x56\x57\x58\x59\x5A\x63\x64\x65\x66\x67\x68\
            \x69\x6A\x73\x74\x75\x76\x77\x78\x79\x7A\x82\x83\x84\x85\x86\x87\
            \x88\x89\x8A\x92\x93\x94\x95\x96\x97\x98\x99\x9A\xA2\xA3\xA4\xA5\
            \xA6\xA7\xA8\xA9\xAA\xB2\xB3\xB4\xB5\xB6\xB7\xB8\xB9\xBA\xC2\xC3\
            \xC4\xC5\xC6\xC7\xC8\xC9\xCA\xD2\xD3\xD4\xD5\xD6\xD7\xD8\xD9\xDA\
            \xE2\xE3\xE4\xE5\xE6\xE7\xE8\xE9\xEA\xF2\xF3\xF4\xF5\xF6\xF7\xF8\
            \xF9\xFA",
    },
];
