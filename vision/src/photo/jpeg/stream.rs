//! A sequential JPEG as the decoder wants it: tables, frame and scans in the standard's own order, each scan's
//! data straight from the file. What files forget or add (Huffman tables, an end marker, vendors' segments,
//! scan parameters) is written or left out here, so that nothing is copied and nothing is guessed downstream.
//!
//! The decoder fills data that ends too early with zero bits and goes on. It must not: before each marker inside
//! and behind a scan's data stand one bits here. No Huffman code consists of ones only (T.81, C.2), so a
//! decoder that still expects blocks fails on them, and one that has all its blocks skips them as padding.

use super::frame::Frame;
use super::header::{Scan, marker_at};
use super::tables::{Codes, Steps};
use std::cell::Cell;
use std::io::{self, Read};

/// One bits, bytes stuffed. Before a restart marker the decoder looks 7 to 8 bytes ahead for it, so there must
/// not be more; 32 bits are a magnitude's 16 and a code's 16.
const ONES: &[u8] = &[0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0];

/// The stream, to be read to its end.
pub(super) struct Stream<'a> {
    /// What is read next. Empty while headers are read.
    run: &'a [u8],
    /// Headers that were made here, and how much of them has been read.
    made: Vec<u8>,
    at: usize,
    /// The scan's data up to its first restart marker, behind its header.
    first: &'a [u8],
    /// What follows in the scan at work: ones, if they are due, then the rest from a restart marker on.
    ones_due: bool,
    rest: &'a [u8],
    scans: std::slice::Iter<'a, Scan<'a>>,
    ended: bool,
    /// Told once all data of all scans has been read.
    is_behind_data: &'a Cell<bool>,
}

impl<'a> Stream<'a> {
    /// `is_behind_data` is set once all data of all scans has been read.
    pub(super) fn new(
        frame: &Frame<'_>,
        scans: &'a [Scan<'a>],
        is_behind_data: &'a Cell<bool>,
    ) -> Self {
        Self {
            run: &[],
            made: frame_header(frame),
            at: 0,
            first: &[],
            ones_due: false,
            rest: &[],
            scans: scans.iter(),
            ended: false,
            is_behind_data,
        }
    }

    /// The next bytes; `false` at the end.
    #[cold]
    fn refill(&mut self) -> bool {
        if !self.first.is_empty() {
            self.run = std::mem::take(&mut self.first);
        } else if self.ones_due {
            (self.run, self.ones_due) = (ONES, false);
            self.is_behind_data.set(self.rest.is_empty() && self.scans.len() == 0);
        } else if !self.rest.is_empty() {
            // From a restart marker, whose code is the second byte, to the one after it.
            let next = marker_at(self.rest.get(2..).unwrap_or_default(), |_| true);
            let end = next.map_or(self.rest.len(), |at| at + 2);
            (self.run, self.rest) = self.rest.split_at(end);
            self.run = without_fill(self.run);
            self.ones_due = true;
        } else if let Some(scan) = self.scans.next() {
            (self.made, self.at) = (scan_header(scan), 0);
            let data = scan.data.split_at_checked(scan.first).unwrap_or((scan.data, &[]));
            (self.first, self.rest) = (without_fill(data.0), data.1);
            self.ones_due = true;
        } else if !self.ended {
            (self.run, self.ended) = (&[0xFF, 0xD9], true);
        } else {
            return false;
        }
        true
    }

    /// As [`Read::read_exact`], across the ends of runs.
    #[cold]
    fn read_across(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = self.read(buffer)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            buffer = buffer.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Entropy-coded data without the fill bytes that may stand before a marker (T.81, B.1.1.2): behind the ones that
/// come between, they would be taken for data.
fn without_fill(mut data: &[u8]) -> &[u8] {
    while let [before @ .., 0xFF] = data {
        data = before;
    }
    data
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut source = self.made.get(self.at..).unwrap_or_default();
            if !source.is_empty() {
                let count = source.read(buffer)?;
                self.at += count;
                return Ok(count);
            }
            if !self.run.is_empty() {
                return self.run.read(buffer);
            }
            if buffer.is_empty() || !self.refill() {
                return Ok(0);
            }
        }
    }

    /// The decoder asks for one byte at a time: the common case is a slice of the file.
    #[inline(always)]
    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        match (&mut *buffer, self.run) {
            ([place], [byte, rest @ ..]) => {
                (*place, self.run) = (*byte, rest);
                Ok(())
            }
            _ => self.read_across(buffer),
        }
    }
}

/// SOI, quantization tables and frame, components numbered from 0 by their place and each with the table of
/// that number. As extended sequential coding, which is baseline with four Huffman tables instead of two.
pub(super) fn frame_header(frame: &Frame<'_>) -> Vec<u8> {
    let mut made = vec![0xFF, 0xD8];
    for (at, component) in frame.components.iter().enumerate() {
        push_steps(&mut made, at, component.steps);
    }
    let count = frame.components.len();
    push_segment(&mut made, 0xC1, 6 + 3 * count);
    made.push(8);
    // Both sides were read from 16 bits.
    made.extend((frame.height as u16).to_be_bytes());
    made.extend((frame.width as u16).to_be_bytes());
    made.push(count as u8);
    for (at, component) in frame.components.iter().enumerate() {
        made.extend([at as u8, component.across << 4 | component.down, at as u8]);
    }
    made
}

/// A quantization table of 16-bit steps. A step of 0 is written as 1: see `transcode`.
fn push_steps(made: &mut Vec<u8>, at: usize, steps: Option<Steps<'_>>) {
    let Some(steps) = steps else { return };
    push_segment(made, 0xDB, 1 + 128);
    made.push(0x10 | at as u8);
    made.extend(steps.iter().flat_map(|step| step.max(1).to_be_bytes()));
}

/// Huffman tables, restart interval and scan header; tables are numbered by the component's place in the scan.
fn scan_header(scan: &Scan<'_>) -> Vec<u8> {
    let mut made = Vec::new();
    for (at, &(_, dc, ac)) in scan.components.iter().enumerate() {
        let dc = scan.tables.dc.get(usize::from(dc)).copied().flatten();
        let ac = scan.tables.ac.get(usize::from(ac)).copied().flatten();
        push_codes(&mut made, at, dc);
        push_codes(&mut made, 0x10 | at, ac);
    }
    push_segment(&mut made, 0xDD, 2);
    made.extend(scan.restart.to_be_bytes());
    push_scan(&mut made, &scan.components.iter().map(|(at, ..)| *at).collect::<Vec<_>>());
    made
}

/// A Huffman table, `kind` its class and number; the decoder tells if a scan lacks one.
pub(super) fn push_codes(made: &mut Vec<u8>, kind: usize, codes: Option<Codes<'_>>) {
    let Some(codes) = codes else { return };
    push_segment(made, 0xC4, 17 + codes.values.len());
    made.push(kind as u8);
    made.extend(codes.counts);
    made.extend(codes.values);
}

/// The header of a scan over all coefficients of `components`, each with the tables of its place in the scan.
pub(super) fn push_scan(made: &mut Vec<u8>, components: &[usize]) {
    push_segment(made, 0xDA, 4 + 2 * components.len());
    made.push(components.len() as u8);
    for (place, at) in components.iter().enumerate() {
        made.extend([*at as u8, (place << 4 | place) as u8]);
    }
    made.extend([0, 63, 0]);
}

fn push_segment(made: &mut Vec<u8>, marker: u8, length: usize) {
    made.extend([0xFF, marker]);
    // At most 17 + 256 bytes and the length itself.
    made.extend(((length + 2) as u16).to_be_bytes());
}
