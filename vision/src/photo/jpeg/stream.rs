//! A sequential JPEG in the form the decoding library expects: tables, frame and scans in the standard's
//! order, with each scan's data taken from the file without a copy. Headers are written anew, so that
//! missing Huffman tables or end markers, vendors' segments and odd scan parameters do not matter.
//!
//! The library fills data that ends too early with zero bits and goes on. To make it fail instead, one bits
//! are inserted before each marker inside and after a scan's data. No Huffman code consists of ones only
//! (T.81, C.2), so a decoder that still expects blocks fails on them, and a decoder that has all its blocks
//! skips them as padding.

use super::frame::Frame;
use super::header::{Scan, marker_at};
use super::tables::{Codes, Steps};
use std::cell::Cell;
use std::io::{self, Read};

/// 32 one bits, with stuffed bytes: enough for 16 bits of a magnitude and 16 of a code. There may not be
/// more, because the decoder looks only 7 to 8 bytes ahead for a restart marker.
const ONES: &[u8] = &[0xFF, 0, 0xFF, 0, 0xFF, 0, 0xFF, 0];

/// The stream that the decoder reads.
pub(super) struct Stream<'a> {
    /// The bytes to be read next; empty while headers are read.
    run: &'a [u8],
    /// Headers written here.
    made: Vec<u8>,
    /// Number of bytes of `made` that have been read.
    at: usize,
    /// The current scan's data up to its first restart marker, to be read after its header.
    first: &'a [u8],
    /// Whether one bits come next.
    ones_due: bool,
    /// The current scan's remaining data, from a restart marker on.
    rest: &'a [u8],
    scans: std::slice::Iter<'a, Scan<'a>>,
    ended: bool,
    is_behind_data: &'a Cell<bool>,
}

impl<'a> Stream<'a> {
    /// Sets `is_behind_data` once all data of all scans has been read.
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

    /// Prepares the next bytes to be read; `false` at the end.
    #[cold]
    fn refill(&mut self) -> bool {
        if !self.first.is_empty() {
            self.run = std::mem::take(&mut self.first);
        } else if self.ones_due {
            (self.run, self.ones_due) = (ONES, false);
            self.is_behind_data.set(self.rest.is_empty() && self.scans.len() == 0);
        } else if !self.rest.is_empty() {
            // From a restart marker (two bytes) up to the next one.
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

    /// As [`Read::read_exact`], across several runs.
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

/// Entropy-coded data without the fill bytes that may precede a marker (T.81, B.1.1.2). The inserted one bits
/// come between them and the marker, so the decoder would take them for data.
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

    /// The decoder mostly reads one byte at a time from the file's data, so this case is fast.
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

/// SOI, quantization tables and frame header. Components are numbered by their place from 0, and each has the
/// table of that number. The coding is extended sequential: baseline with four Huffman tables instead of two.
pub(super) fn frame_header(frame: &Frame<'_>) -> Vec<u8> {
    let mut made = vec![0xFF, 0xD8];
    for (at, component) in frame.components.iter().enumerate() {
        push_steps(&mut made, at, component.steps);
    }
    let count = frame.components.len();
    push_segment(&mut made, 0xC1, 6 + 3 * count);
    made.push(8);
    // Both sides were read from 16 bits, so they fit.
    made.extend((frame.height as u16).to_be_bytes());
    made.extend((frame.width as u16).to_be_bytes());
    made.push(count as u8);
    for (at, component) in frame.components.iter().enumerate() {
        made.extend([at as u8, component.across << 4 | component.down, at as u8]);
    }
    made
}

/// Writes a quantization table of 16-bit steps. A step of 0 is written as 1; `transcode` then sets its
/// coefficients to 0.
fn push_steps(made: &mut Vec<u8>, at: usize, steps: Option<Steps<'_>>) {
    let Some(steps) = steps else { return };
    push_segment(made, 0xDB, 1 + 128);
    made.push(0x10 | at as u8);
    made.extend(steps.iter().flat_map(|step| step.max(1).to_be_bytes()));
}

/// Huffman tables, restart interval and scan header. Tables are numbered by the component's place in the
/// scan.
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

/// Writes a Huffman table; `kind` holds its class and number. A missing table is left to the decoder to
/// report.
pub(super) fn push_codes(made: &mut Vec<u8>, kind: usize, codes: Option<Codes<'_>>) {
    let Some(codes) = codes else { return };
    push_segment(made, 0xC4, 17 + codes.values.len());
    made.push(kind as u8);
    made.extend(codes.counts);
    made.extend(codes.values);
}

/// Writes the header of a scan of all coefficients of `components`, each with the tables numbered by its
/// place.
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
    // Fits 16 bits: at most 17 + 256 bytes and the length itself.
    made.extend(((length + 2) as u16).to_be_bytes());
}
