//! Reads a JPEG's segments before anything is decoded: its frame, its scans with their tables, its colours,
//! orientation and profile. Entropy-coded data is only searched for the next marker.
//!
//! Markers and layouts are those of ITU-T T.81, annex B. Deviations are accepted if libjpeg-turbo accepts
//! them.

use super::frame::{Component, Frame};
use super::refusal::{corrupt, truncated, unsupported};
use super::tables::Tables;
use crate::photo::error::PhotoError;
use jpeg_decoder::ColorTransform;

/// Most scans a file may have. Encoders write 10 to 15 for a progressive photo; decoding visits every block
/// in each scan, even in a scan without data.
const MAX_SCANS: usize = 100;

/// The contents of the segments.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub(super) frame: Frame<'a>,
    pub(super) scans: Vec<Scan<'a>>,
    /// Blocks of all scans together, with all blocks of each scan's components.
    pub(super) blocks_visited: u64,
    /// The first EXIF block, from its TIFF header on.
    pub(super) exif: Option<&'a [u8]>,
    /// The parts of a colour profile: number, number of parts, bytes.
    pub(super) profile: Vec<(u8, u8, &'a [u8])>,
    jfif: bool,
    /// The colour transform of the last Adobe segment.
    adobe: Option<u8>,
}

/// One scan: its parameters, its tables, and its entropy-coded data including restart markers.
#[derive(Debug)]
pub(super) struct Scan<'a> {
    /// For each component its index in the frame and the numbers of its DC and AC tables.
    pub(super) components: Vec<(usize, u8, u8)>,
    /// First and last coefficient, in zigzag order.
    pub(super) band: (u8, u8),
    /// Bit positions of successive approximation: of the scan before and of this scan.
    pub(super) bits: (u8, u8),
    pub(super) tables: Tables<'a>,
    /// Units between two restart markers; 0 without restart markers.
    pub(super) restart: u16,
    pub(super) data: &'a [u8],
    /// Bytes before the first restart marker.
    pub(super) first: usize,
}

impl Header<'_> {
    /// The colour space of the components, by the rules of libjpeg-turbo (`default_decompress_parms`): a JFIF
    /// segment means YCbCr; without one the Adobe segment decides, and without that the identifiers.
    pub(super) fn colors(&self) -> ColorTransform {
        let ids: Vec<u8> = self.frame.components.iter().map(|c| c.identifier).collect();
        match (ids.as_slice(), self.jfif, self.adobe) {
            ([_], _, _) => ColorTransform::Grayscale,
            ([_, _, _, _], _, None | Some(0)) => ColorTransform::CMYK,
            ([_, _, _, _], _, Some(_)) => ColorTransform::YCCK,
            (_, true, _) => ColorTransform::YCbCr,
            (_, false, Some(0)) | (b"RGB", false, None) => ColorTransform::RGB,
            _ => ColorTransform::YCbCr,
        }
    }
}

/// Reads the segments of `bytes` up to the end marker, or in a sequential file up to the end of the scan with
/// the last component. Bytes after that, such as a vendor's trailer, are not read.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, PhotoError> {
    let mut walk = Walk {
        frame: None,
        scans: Vec::new(),
        tables: Tables::new(),
        restart: 0,
        exif: None,
        profile: Vec::new(),
        jfif: false,
        adobe: None,
        blocks: 0,
    };
    let mut rest = bytes.get(2..).ok_or_else(truncated)?;
    let ended = loop {
        let Some((marker, after)) = next_marker(rest) else { break false };
        rest = match marker {
            0xD9 => break true,
            // Restart markers and TEM have no payload.
            0xD0..=0xD7 | 0x01 => after,
            _ => {
                // A malformed segment after all coefficients is a trailer.
                let (segment, after) = match segment(after) {
                    Err(_) if walk.is_complete() => break true,
                    result => result?,
                };
                walk.take(marker, segment, after)?
            }
        };
        if walk.is_sequential() && walk.is_complete() && walk.has_height() {
            break true;
        }
    };
    walk.finish(ended)
}

/// The state of reading the segments.
struct Walk<'a> {
    frame: Option<Frame<'a>>,
    scans: Vec<Scan<'a>>,
    tables: Tables<'a>,
    restart: u16,
    exif: Option<&'a [u8]>,
    profile: Vec<(u8, u8, &'a [u8])>,
    jfif: bool,
    adobe: Option<u8>,
    blocks: u64,
}

impl<'a> Walk<'a> {
    /// Reads one segment; returns the bytes after it, or for a scan the bytes after its data.
    fn take(
        &mut self,
        marker: u8,
        segment: &'a [u8],
        after: &'a [u8],
    ) -> Result<&'a [u8], PhotoError> {
        match marker {
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                if self.frame.is_some() {
                    return Err(unsupported("more than one frame"));
                }
                self.frame = Some(Frame::read(marker, segment)?);
            }
            0xC4 => self.tables.read_codes(segment)?,
            0xCC => return Err(unsupported("arithmetic coding")),
            0xDB => self.tables.read_steps(segment)?,
            0xDD => self.restart = word(segment).ok_or_else(truncated)?,
            0xDC => {
                if let Some(frame) = self.frame.as_mut().filter(|frame| frame.height == 0) {
                    frame.height = word(segment).ok_or_else(truncated)?.into();
                }
            }
            0xDA => return self.scan(segment, after),
            0xE0 => self.jfif |= segment.len() >= 14 && segment.starts_with(b"JFIF\0"),
            0xE1 if self.exif.is_none() => self.exif = segment.strip_prefix(b"Exif\0\0"),
            0xE2 if self.profile.len() < 255 => {
                if let Some([number, parts, data @ ..]) = segment.strip_prefix(b"ICC_PROFILE\0") {
                    self.profile.push((*number, *parts, data));
                }
            }
            0xEE if segment.len() >= 12 && segment.starts_with(b"Adobe") => {
                self.adobe = segment.get(11).copied();
            }
            _ => {}
        }
        Ok(after)
    }

    /// Reads a scan and returns the bytes after its data.
    fn scan(&mut self, segment: &'a [u8], after: &'a [u8]) -> Result<&'a [u8], PhotoError> {
        let Some(frame) = &mut self.frame else {
            return Err(corrupt("a scan comes before its frame"));
        };
        let (data, first, rest) = entropy_coded(after);
        let mut scan = Scan::read(frame, segment)?;
        scan.tables = self.tables;
        scan.restart = self.restart;
        scan.data = data;
        scan.first = first;
        self.blocks += scan.components.iter().map(|&(at, ..)| frame.blocks(at)).sum::<u64>();
        for &(at, ..) in &scan.components {
            let component = &mut frame.components[at];
            // The table that is defined when the component's first scan begins applies to all its scans.
            let steps = self.tables.steps.get(usize::from(component.table)).copied().flatten();
            component.steps = component.steps.or(steps);
            component.mark(scan.band, scan.bits.1);
        }
        self.scans.push(scan);
        if self.scans.len() > MAX_SCANS {
            return Err(unsupported(format!("more than {MAX_SCANS} scans")));
        }
        Ok(rest)
    }

    fn is_sequential(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| !frame.progressive)
    }

    /// Whether scans have completed every coefficient of every component in full precision.
    fn is_complete(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| frame.components.iter().all(Component::is_complete))
    }

    fn has_height(&self) -> bool {
        self.frame.as_ref().is_some_and(|frame| frame.height > 0)
    }

    /// The header. `ended` says whether reading stopped at the picture's end and not at the end of the bytes.
    fn finish(self, ended: bool) -> Result<Header<'a>, PhotoError> {
        if !ended && !self.is_complete() {
            return Err(truncated());
        }
        let frame = self.frame.ok_or_else(|| corrupt("it has no frame"))?;
        if self.scans.is_empty() {
            return Err(corrupt("it has no scan"));
        }
        Ok(Header {
            frame,
            scans: self.scans,
            blocks_visited: self.blocks,
            exif: self.exif,
            profile: self.profile,
            jfif: self.jfif,
            adobe: self.adobe,
        })
    }
}

impl<'a> Scan<'a> {
    /// Reads a scan header (B.2.3). In sequential coding the progressive parameters have no meaning and are
    /// ignored as in libjpeg: some phones write other values than the standard's.
    fn read(frame: &Frame<'_>, segment: &'a [u8]) -> Result<Self, PhotoError> {
        let short = || corrupt("a scan's header has the wrong length");
        let (&count, rest) = segment.split_first().ok_or_else(short)?;
        let (named, rest) = rest.split_at_checked(usize::from(count) * 2).ok_or_else(short)?;
        let &[from, to, bits] = rest.first_chunk().ok_or_else(short)?;
        let mut components: Vec<(usize, u8, u8)> = Vec::new();
        for &[identifier, tables] in named.as_chunks().0 {
            let taken = |at: usize| components.iter().any(|(other, ..)| *other == at);
            let mut places = frame.components.iter().enumerate();
            let at = places.position(|(at, c)| c.identifier == identifier && !taken(at));
            let at = at.ok_or_else(|| corrupt("a scan names a component that is not there"))?;
            components.push((at, tables >> 4, tables & 15));
        }
        let increases = components.is_sorted_by(|(a, ..), (b, ..)| a < b);
        if components.is_empty() || !increases {
            return Err(corrupt("a scan's components are not in the order of the frame"));
        }
        let (band, bits) = match frame.progressive {
            true => ((from, to), (bits >> 4, bits & 15)),
            false => ((0, 63), (0, 0)),
        };
        let is_band = match band {
            (0, 0) => true,
            (0, _) => !frame.progressive,
            (from, to) => from <= to && to < 64 && components.len() == 1,
        };
        if !is_band || bits.1 > 13 || (bits.0 > 0 && bits.0 != bits.1 + 1) {
            return Err(corrupt("a scan's parameters contradict each other"));
        }
        Ok(Self { components, band, bits, tables: Tables::new(), restart: 0, data: &[], first: 0 })
    }
}

/// The next marker's code and the bytes after it. Other bytes before it are skipped, as decoders do; `FF 00`
/// is a stuffed byte of coded data and `FF FF` is fill.
fn next_marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let at = marker_at(bytes, |_| true)?;
    let [_, marker, rest @ ..] = bytes.get(at..)? else { return None };
    Some((*marker, rest))
}

/// The offset of the next marker that `is_wanted` accepts: the offset of the `FF` right before its code.
pub(super) fn marker_at(bytes: &[u8], is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    memchr::memchr_iter(0xFF, bytes).find(|at| {
        matches!(bytes.get(at + 1), Some(&code) if code != 0 && code != 0xFF && is_wanted(code))
    })
}

/// A scan's entropy-coded data including restart markers, the number of bytes before the first of these, and
/// the bytes after the data.
fn entropy_coded(bytes: &[u8]) -> (&[u8], usize, &[u8]) {
    let first = marker_at(bytes, |_| true).unwrap_or(bytes.len());
    let more = bytes.get(first..).unwrap_or_default();
    let end = marker_at(more, |code| !(0xD0..=0xD7).contains(&code)).unwrap_or(more.len());
    let (data, rest) = bytes.split_at(first + end);
    (data, first, rest)
}

/// A segment's payload and the bytes after it.
fn segment(bytes: &[u8]) -> Result<(&[u8], &[u8]), PhotoError> {
    let Some((length, rest)) = bytes.split_first_chunk() else { return Err(truncated()) };
    let length = usize::from(u16::from_be_bytes(*length))
        .checked_sub(2)
        .ok_or_else(|| corrupt("a segment's length is below 2"))?;
    rest.split_at_checked(length).ok_or_else(truncated)
}

fn word(segment: &[u8]) -> Option<u16> {
    segment.first_chunk().copied().map(u16::from_be_bytes)
}
