//! Reads bits and Huffman codes of entropy-coded data (ITU-T T.81, F.2.2). Data that ends too early is an
//! error here, whereas the decoding library continues with zeros.

use super::refusal::{corrupt, truncated};
use super::tables::Codes;
use crate::photo::error::PhotoError;

/// A reader of bits that removes byte stuffing.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// The next bits, from the highest down; all bits after the last one are 0.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { data, buffer: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            match self.data {
                [0xFF, 0, rest @ ..] => {
                    self.buffer |= 0xFF << (56 - self.count);
                    self.data = rest;
                }
                [0xFF, ..] | [] => return,
                [byte, rest @ ..] => {
                    self.buffer |= u64::from(*byte) << (56 - self.count);
                    self.data = rest;
                }
            }
            self.count += 8;
        }
    }

    /// The next `count` bits, at most 16, as a number.
    #[inline]
    pub(super) fn take(&mut self, count: u32) -> Result<u32, PhotoError> {
        if count == 0 {
            return Ok(0);
        }
        if self.count < 16 {
            self.fill();
        }
        let value = (self.buffer >> (64 - count)) as u32;
        self.skip(count)?;
        Ok(value)
    }

    #[inline]
    fn skip(&mut self, count: u32) -> Result<(), PhotoError> {
        self.count = self.count.checked_sub(count).ok_or_else(truncated)?;
        self.buffer <<= count;
        Ok(())
    }

    /// A difference of `size` bits, at most 15 (F.2.2.1, EXTEND).
    #[inline]
    pub(super) fn difference(&mut self, size: u32) -> Result<i32, PhotoError> {
        let value = self.take(size)? as i32;
        let is_negative = size > 0 && value < 1 << (size - 1);
        Ok(if is_negative { value - (1 << size) + 1 } else { value })
    }

    /// The value of the next Huffman code.
    #[inline]
    pub(super) fn code(&mut self, table: &Table<'_>) -> Result<u8, PhotoError> {
        if self.count < 16 {
            self.fill();
        }
        let (value, size) = table.short[(self.buffer >> 56) as usize];
        if size > 0 {
            self.skip(size.into())?;
            return Ok(value);
        }
        let bits = (self.buffer >> 48) as u32;
        for size in 9..=16 {
            let (first, end, place) = table.long[size - 9];
            let code = bits >> (16 - size);
            if (first..end).contains(&code) {
                self.skip(size as u32)?;
                return Ok(table.values[(place + code - first) as usize]);
            }
        }
        Err(if self.count < 16 {
            truncated()
        } else {
            corrupt("a Huffman code is not in its table")
        })
    }

    /// Skips the padding bits and reads restart marker `number`.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), PhotoError> {
        self.fill();
        if self.count >= 8 {
            return Err(corrupt("a restart marker is missing"));
        }
        let filled = self.data.iter().take_while(|&&byte| byte == 0xFF).count();
        if self.data.get(filled) != Some(&(0xD0 | number)) {
            return Err(corrupt("a restart marker is missing"));
        }
        *self = Self::new(self.data.get(filled + 1..).unwrap_or_default());
        Ok(())
    }
}

/// A Huffman table prepared for decoding.
pub(super) struct Table<'a> {
    /// For each value of the next eight bits: value and size of their code; size 0 if the code is longer.
    short: [(u8, u8); 256],
    /// For sizes 9 to 16: first code, end of the codes, index of the first code's value.
    long: [(u32, u32, u32); 8],
    values: &'a [u8],
}

impl<'a> Table<'a> {
    pub(super) fn new(codes: Codes<'a>) -> Result<Self, PhotoError> {
        let mut table = Self { short: [(0, 0); 256], long: [(0, 0, 0); 8], values: codes.values };
        let (mut code, mut place) = (0_u32, 0_usize);
        for (size, &count) in (1_usize..).zip(codes.counts) {
            let end = code + u32::from(count);
            if end > 1 << size {
                return Err(corrupt("a Huffman table has more codes than fit their length"));
            }
            if size > 8 {
                table.long[size - 9] = (code, end, place as u32);
            } else {
                let values = codes.values.get(place..).unwrap_or_default();
                for (code, &value) in (code as usize..end as usize).zip(values) {
                    table.short[code << (8 - size)..(code + 1) << (8 - size)]
                        .fill((value, size as u8));
                }
            }
            (code, place) = (end << 1, place + usize::from(count));
        }
        Ok(table)
    }
}
