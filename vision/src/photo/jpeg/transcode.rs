//! Codes coefficients as a sequential JPEG, one row of units at a time. The decoding library then does the
//! transform, chroma and colours as for any other photo. The coefficients come from `coefficients`.

use super::coefficients::Coefficients;
use super::frame::Frame;
use super::stream::{frame_header, push_codes, push_scan};
use super::tables::Codes;
use std::io::{self, Read};

/// Codes for sizes 0 to 11, four bits each.
const DC: Codes<'static> = Codes {
    counts: &[0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
};

/// Codes for all pairs of run and size. Each is coded as its own eight bits; only the last has nine, because
/// no code may consist of ones only.
const AC: Codes<'static> = Codes {
    counts: &[0, 0, 0, 0, 0, 0, 0, 255, 1, 0, 0, 0, 0, 0, 0, 0],
    values: &{
        let mut values = [0; 256];
        let mut at = 0;
        while at < 256 {
            values[at] = at as u8;
            at += 1;
        }
        values
    },
};

/// The stream that the decoder reads.
pub(super) struct Transcoded<'a> {
    frame: &'a Frame<'a>,
    coefficients: Coefficients,
    /// For each component its kept coefficients: index in zigzag order, place, whether the step is 0.
    order: Vec<Vec<(u8, usize, bool)>>,
    row: u32,
    rows: u32,
    means: [i32; 4],
    made: Vec<u8>,
    at: usize,
    bits: u64,
    count: u32,
}

impl<'a> Transcoded<'a> {
    pub(super) fn new(frame: &'a Frame<'a>, coefficients: Coefficients) -> Self {
        let mut made = frame_header(frame);
        let components: Vec<usize> = (0..frame.components.len()).collect();
        for &at in &components {
            push_codes(&mut made, at, Some(DC));
            push_codes(&mut made, 0x10 | at, Some(AC));
        }
        push_scan(&mut made, &components);
        let order = frame.components.iter().map(|component| {
            let steps = component.steps.iter().flat_map(|steps| steps.iter());
            let steps = steps.map(|step| step == 0).chain(std::iter::repeat(false));
            let places = (0_u8..).zip(coefficients.kept.places).zip(steps);
            places.filter_map(|((at, place), zero)| Some((at, usize::from(place?), zero))).collect()
        });
        let order = order.collect();
        let rows = if components.len() == 1 { frame.own(0).1 } else { frame.units().1 };
        Self {
            frame,
            coefficients,
            order,
            row: 0,
            rows,
            means: [0; 4],
            made,
            at: 0,
            bits: 0,
            count: 0,
        }
    }

    /// Writes the next row of units, or the end marker; `false` after the end.
    fn refill(&mut self) -> bool {
        self.made.clear();
        self.at = 0;
        if self.row > self.rows {
            return false;
        }
        if self.row == self.rows {
            // Pads the last byte with ones.
            self.put(0x7F, 7);
            self.made.extend([0xFF, 0xD9]);
        } else if self.frame.components.len() == 1 {
            for column in 0..self.frame.own(0).0 as usize {
                let plane = &self.coefficients.planes[0];
                self.block(0, self.row as usize * plane.columns + column);
            }
        } else {
            self.units();
        }
        self.row += 1;
        true
    }

    /// Writes a row of units of several components.
    fn units(&mut self) {
        for unit in 0..self.frame.units().0 as usize {
            for (at, component) in self.frame.components.iter().enumerate() {
                let (across, down) = (usize::from(component.across), usize::from(component.down));
                for inner in 0..across * down {
                    let y = self.row as usize * down + inner / across;
                    let columns = self.coefficients.planes[at].columns;
                    self.block(at, y * columns + unit * across + inner % across);
                }
            }
        }
    }

    fn block(&mut self, component: usize, block: usize) {
        let order = std::mem::take(&mut self.order[component]);
        let kept = self.coefficients.kept.count;
        let values = self.coefficients.planes[component].block(block, kept);
        let mut copy = [0_i16; 64];
        copy.iter_mut().zip(values).for_each(|(to, from)| *to = *from);
        let mut next = 1_u8;
        for &(at, place, zero) in &order {
            let value = if zero { 0 } else { i32::from(copy[place]) };
            if at == 0 {
                // The decoder accepts differences of up to 11 bits, which suffice for 8-bit samples.
                let value = value.clamp(-1024, 1023);
                let difference = value - self.means[component];
                self.means[component] = value;
                self.coded(0, difference, 4);
            } else if value != 0 {
                while at - next >= 16 {
                    self.put(0xF0, 8);
                    next += 16;
                }
                self.coded((at - next) << 4, value.clamp(-16_383, 16_383), 8);
                next = at + 1;
            }
        }
        if next < 64 {
            self.put(0, 8);
        }
        self.order[component] = order;
    }

    /// Writes run and size in `width` bits, then the value's own bits.
    fn coded(&mut self, run: u8, value: i32, width: u32) {
        let size = 32 - value.unsigned_abs().leading_zeros();
        // The size is at most 14 and the run 15, so the code of nine bits is never needed.
        self.put(u32::from(run) | size, width);
        let bits = if value < 0 { value - 1 } else { value } as u32;
        self.put(bits & ((1 << size) - 1), size);
    }

    fn put(&mut self, bits: u32, count: u32) {
        self.bits = self.bits << count | u64::from(bits);
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.bits >> self.count) as u8;
            self.made.push(byte);
            if byte == 0xFF {
                self.made.push(0);
            }
        }
    }
}

impl Read for Transcoded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.made.len() {
            if !self.refill() {
                return Ok(0);
            }
        }
        let mut source = self.made.get(self.at..).unwrap_or_default();
        let count = source.read(buffer)?;
        self.at += count;
        Ok(count)
    }
}
