//! Decodes the coefficients that a scaled decode of a progressive JPEG needs: of each block's 8×8 those of
//! the 1×1, 2×2 or 4×4 lowest frequencies. Sequential files come here too where `transcode` must mend them.
//!
//! A progressive photo of 12 megapixels has 36 MB of coefficients, or 72 without chroma subsampling, and an
//! instance has 64 MiB; at a quarter of the size a sixteenth of them is kept. Coding is that of ITU-T T.81,
//! F.2 and G.2, which refer to G.1.2, and names are short for its own: the `band` of a scan is Ss to Se, its
//! `bits` are Ah and Al, a unit is an MCU, and a mean is a DC coefficient. The inverse transform is left to
//! the decoding library (see `transcode`).

use super::bits::{Bits, Table};
use super::frame::Frame;
use super::header::Scan;
use super::refusal::corrupt;
use super::tables::Codes;
use crate::photo::error::PhotoError;

/// Row and column of each coefficient in zigzag order, as `8 * row + column` (T.81, figure A.6).
#[rustfmt::skip]
const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// The coefficients of a block that are kept, and their places.
pub(super) struct Kept {
    /// For each coefficient in zigzag order its place among the kept ones.
    pub(super) places: [Option<u8>; 64],
    /// The number of kept coefficients.
    pub(super) count: usize,
    /// The last kept coefficient in zigzag order.
    last: u8,
}

impl Kept {
    /// The coefficients needed for a block of `eighths` × `eighths` pixels.
    pub(super) fn new(eighths: u32) -> Self {
        let side = eighths as u8;
        let (mut places, mut count, mut last) = ([None; 64], 0, 0);
        for (at, place) in places.iter_mut().enumerate() {
            if ZIGZAG[at] / 8 < side && ZIGZAG[at] % 8 < side {
                (*place, count, last) = (Some(count as u8), count + 1, at as u8);
            }
        }
        Self { places, count, last }
    }
}

/// The kept coefficients of a picture.
pub(super) struct Coefficients {
    pub(super) kept: Kept,
    pub(super) planes: Vec<Plane>,
}

/// The kept coefficients of one component, block after block; rows of blocks are padded to whole units.
pub(super) struct Plane {
    pub(super) columns: usize,
    values: Vec<i16>,
    /// For each block a mask of the coefficients, kept or not, that are not zero. Refining scans need it;
    /// empty if there are none.
    nonzero: Vec<u64>,
}

/// The coefficients of one block.
struct Block<'a> {
    values: &'a mut [i16],
    nonzero: Option<&'a mut u64>,
}

impl Plane {
    pub(super) fn block(&self, at: usize, count: usize) -> &[i16] {
        self.values.get(at * count..(at + 1) * count).unwrap_or_default()
    }
}

impl Coefficients {
    /// Bytes held for a picture.
    pub(super) fn memory(frame: &Frame<'_>, scans: &[Scan<'_>], eighths: u32) -> u64 {
        let masks = if is_refined(scans, &Kept::new(eighths)) { 8 } else { 0 };
        frame.all_blocks().0 * (u64::from(eighths * eighths) * 2 + masks)
    }

    /// Decodes the scans that contain kept coefficients, and those that such scans depend on.
    pub(super) fn read(
        frame: &Frame<'_>,
        scans: &[Scan<'_>],
        eighths: u32,
    ) -> Result<Self, PhotoError> {
        let kept = Kept::new(eighths);
        let refined = is_refined(scans, &kept);
        let plane = |at: usize| {
            let blocks = frame.blocks(at) as usize;
            Plane {
                columns: frame.padded(at).0 as usize,
                values: vec![0; blocks * kept.count],
                nonzero: vec![0; if refined { blocks } else { 0 }],
            }
        };
        let planes = (0..frame.components.len()).map(plane).collect();
        let mut coefficients = Self { kept, planes };
        let needed = needed(scans, coefficients.kept.last);
        for (scan, _) in scans.iter().zip(needed).filter(|(_, needed)| *needed) {
            coefficients.scan(frame, scan)?;
        }
        Ok(coefficients)
    }

    /// Decodes one scan. A scan of several components is ordered by units, a scan of a single component by
    /// that component's own blocks (T.81, A.2).
    fn scan(&mut self, frame: &Frame<'_>, scan: &Scan<'_>) -> Result<(), PhotoError> {
        let mut decoder = BlockDecoder::new(scan, &self.kept)?;
        let single = match scan.components.as_slice() {
            [(at, ..)] => Some(frame.own(*at)),
            _ => None,
        };
        let (columns, rows) = single.unwrap_or_else(|| frame.units());
        let mut left = scan.restart;
        let mut number = 0;
        for row in 0..rows as usize {
            for column in 0..columns as usize {
                if scan.restart > 0 && left == 0 {
                    decoder.restart(number)?;
                    (left, number) = (scan.restart, (number + 1) % 8);
                }
                left = left.wrapping_sub(1);
                for (index, &(at, ..)) in scan.components.iter().enumerate() {
                    let component = &frame.components[at];
                    let (across, down) = match single {
                        Some(_) => (1, 1),
                        None => (usize::from(component.across), usize::from(component.down)),
                    };
                    let plane = &mut self.planes[at];
                    for inner in 0..across * down {
                        let y = row * down + inner / across;
                        let block = y * plane.columns + column * across + inner % across;
                        decoder.block(index, plane.block_mut(block, self.kept.count))?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Plane {
    fn block_mut(&mut self, at: usize, count: usize) -> Block<'_> {
        let values = self.values.get_mut(at * count..(at + 1) * count).unwrap_or_default();
        Block { values, nonzero: self.nonzero.get_mut(at) }
    }
}

/// For each scan, whether it must be decoded for the coefficients up to `last`. The coding of a refining scan
/// depends on which coefficients of its whole band are not zero, so earlier scans of that band are needed
/// too.
fn needed(scans: &[Scan<'_>], last: u8) -> Vec<bool> {
    let mut reach = last;
    let mut needed: Vec<bool> = scans
        .iter()
        .rev()
        .map(|scan| {
            let is_needed = scan.band.0 <= reach;
            if is_needed && scan.bits.0 > 0 {
                reach = reach.max(scan.band.1);
            }
            is_needed
        })
        .collect();
    needed.reverse();
    needed
}

/// Whether a needed scan refines coefficients other than the block's mean.
fn is_refined(scans: &[Scan<'_>], kept: &Kept) -> bool {
    scans.iter().any(|scan| scan.bits.0 > 0 && scan.band.0 > 0 && scan.band.0 <= kept.last)
}

impl Block<'_> {
    #[inline]
    fn set(&mut self, kept: &Kept, at: u8, value: i16) {
        if let Some(place) = kept.places[usize::from(at)] {
            self.values[usize::from(place)] = value;
        }
        if let Some(mask) = &mut self.nonzero {
            **mask |= 1 << at;
        }
    }

    /// Adds `bit` to the magnitude of a coefficient.
    fn grow(&mut self, kept: &Kept, at: u8, bit: i16) {
        if let Some(place) = kept.places[usize::from(at)] {
            let value = &mut self.values[usize::from(place)];
            let step = if *value < 0 { -bit } else { bit };
            *value = value.wrapping_add(step);
        }
    }
}

/// Decodes the blocks of one scan.
struct BlockDecoder<'a> {
    scan: &'a Scan<'a>,
    kept: &'a Kept,
    bits: Bits<'a>,
    /// DC and AC table of each component of the scan; `None` for a table that the scan does not need.
    tables: Vec<(Option<Table<'a>>, Option<Table<'a>>)>,
    means: [i32; 4],
    /// Remaining blocks of the current end-of-band run.
    ended: u32,
}

impl<'a> BlockDecoder<'a> {
    fn new(scan: &'a Scan<'a>, kept: &'a Kept) -> Result<Self, PhotoError> {
        let table = |needed: bool, tables: &[Option<Codes<'a>>; 4], number: u8| {
            let codes = tables.get(usize::from(number)).copied().flatten();
            let missing = || corrupt("a Huffman table is missing");
            needed.then(|| Table::new(codes.ok_or_else(missing)?)).transpose()
        };
        let (from, to) = scan.band;
        let tables = scan.components.iter().map(|&(_, dc, ac)| {
            let dc = table(from == 0 && scan.bits.0 == 0, &scan.tables.dc, dc)?;
            Ok((dc, table(to > 0, &scan.tables.ac, ac)?))
        });
        let tables = tables.collect::<Result<_, _>>()?;
        Ok(Self { scan, kept, bits: Bits::new(scan.data), tables, means: [0; 4], ended: 0 })
    }

    fn restart(&mut self, number: u8) -> Result<(), PhotoError> {
        (self.means, self.ended) = ([0; 4], 0);
        self.bits.restart(number)
    }

    #[inline]
    fn block(&mut self, index: usize, mut block: Block<'_>) -> Result<(), PhotoError> {
        let ((from, to), (high, low)) = (self.scan.band, self.scan.bits);
        if from == 0 {
            self.mean(index, &mut block, high > 0, low)?;
        }
        match to {
            0 => Ok(()),
            _ if high > 0 => self.refine(index, &mut block, from, to, 1 << low),
            _ => self.first(index, &mut block, from.max(1), to, low),
        }
    }

    /// Decodes the coefficient of frequency 0, the block's mean.
    fn mean(
        &mut self,
        index: usize,
        block: &mut Block<'_>,
        refines: bool,
        low: u8,
    ) -> Result<(), PhotoError> {
        if refines {
            let bit = self.bits.take(1)? as i16;
            block.values[0] |= bit << low;
        } else if let Some((Some(table), _)) = self.tables.get(index) {
            let size = u32::from(self.bits.code(table)?);
            if size > 11 {
                return Err(corrupt("a difference of means has more than 11 bits"));
            }
            let difference = self.bits.difference(size)?;
            self.means[index] = self.means[index].wrapping_add(difference);
            block.values[0] = (self.means[index] << low) as i16;
        }
        Ok(())
    }

    /// Decodes a block in the first scan of coefficients `at` to `to` (G.1.2.2), which is the only scan in
    /// sequential coding.
    fn first(
        &mut self,
        index: usize,
        block: &mut Block<'_>,
        mut at: u8,
        to: u8,
        low: u8,
    ) -> Result<(), PhotoError> {
        if self.ended > 0 {
            self.ended -= 1;
            return Ok(());
        }
        let Some((_, Some(table))) = self.tables.get(index) else { return Ok(()) };
        while at <= to {
            let code = self.bits.code(table)?;
            let (run, size) = (code >> 4, u32::from(code & 15));
            match (run, size) {
                (15, 0) => at += 16,
                (run, 0) => {
                    self.ended = (1 << run) - 1 + self.bits.take(run.into())?;
                    return Ok(());
                }
                _ => {
                    let value = self.bits.difference(size)?;
                    at += run;
                    if at > to {
                        return Err(corrupt("a run of zeros goes beyond its block"));
                    }
                    block.set(self.kept, at, (value << low) as i16);
                    at += 1;
                }
            }
        }
        Ok(())
    }

    /// Decodes a block in a scan that adds `bit` to coefficients `at` to `to` (G.1.2.3).
    fn refine(
        &mut self,
        index: usize,
        block: &mut Block<'_>,
        mut at: u8,
        to: u8,
        bit: i16,
    ) -> Result<(), PhotoError> {
        let Some((_, Some(table))) = self.tables.get(index) else { return Ok(()) };
        while at <= to && self.ended == 0 {
            let code = self.bits.code(table)?;
            let (run, size) = (code >> 4, code & 15);
            let value = match (run, size) {
                (15, 0) => 0,
                (run, 0) => {
                    self.ended = (1 << run) + self.bits.take(run.into())?;
                    break;
                }
                (_, 1) if self.bits.take(1)? == 1 => bit,
                (_, 1) => -bit,
                _ => return Err(corrupt("a refined coefficient has more than one bit")),
            };
            at = refine_until(&mut self.bits, self.kept, block, (at, to, run), bit)?;
            if value != 0 {
                if at > to {
                    return Err(corrupt("a run of zeros goes beyond its block"));
                }
                block.set(self.kept, at, value);
            }
            at += 1;
        }
        if self.ended > 0 {
            // Without a limit of zeros: only refines.
            refine_until(&mut self.bits, self.kept, block, (at, to, u8::MAX), bit)?;
            self.ended -= 1;
        }
        Ok(())
    }
}

/// Refines the nonzero coefficients from `at` to `to` until `zeros` zero coefficients have been passed.
/// Returns the index of the next zero coefficient, or `to + 1`.
fn refine_until(
    bits: &mut Bits<'_>,
    kept: &Kept,
    block: &mut Block<'_>,
    (mut at, to, mut zeros): (u8, u8, u8),
    bit: i16,
) -> Result<u8, PhotoError> {
    let nonzero = block.nonzero.as_deref().copied().unwrap_or_default();
    while at <= to {
        if nonzero >> at & 1 == 1 {
            if bits.take(1)? == 1 {
                block.grow(kept, at, bit);
            }
        } else if zeros == 0 {
            break;
        } else {
            zeros -= 1;
        }
        at += 1;
    }
    Ok(at)
}
