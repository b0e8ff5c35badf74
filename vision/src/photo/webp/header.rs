//! Reads a WebP's chunks before anything is decoded: its size by the container and by the coded frame, its
//! orientation, its coding, and whether it is complete. The coded data is not decoded here. Layouts are those
//! of the WebP container specification and RFC 6386, section 9.1.

use super::partitions;
use crate::photo::error::PhotoError;
use crate::photo::format::Format;

/// The contents of a file's chunks.
#[derive(Debug, PartialEq)]
pub(super) struct Header<'a> {
    /// Width in pixels of the picture, or of an animation's canvas.
    pub(super) width: u32,
    pub(super) height: u32,
    /// The picture, or an animation's first frame.
    pub(super) frame: Frame<'a>,
    /// For an animation: the frame's place on the canvas, from the left and the top.
    pub(super) origin: Option<(u32, u32)>,
    pub(super) exif: Option<&'a [u8]>,
    /// The ICC profile.
    pub(super) profile: Option<&'a [u8]>,
}

/// One coded picture.
#[derive(Debug, PartialEq)]
pub(super) struct Frame<'a> {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) coding: Coding,
    /// Whether pixels have alpha.
    pub(super) has_alpha: bool,
    /// The `VP8 ` or `VP8L` chunk.
    pub(super) coded: &'a [u8],
    /// The `ALPH` chunk beside it.
    pub(super) alpha: Option<&'a [u8]>,
}

impl Frame<'_> {
    /// The frame without its `ALPH` chunk.
    fn without_alpha_plane(self) -> Self {
        match self.coding {
            Coding::LossyAlpha => {
                Self { coding: Coding::Lossy, has_alpha: false, alpha: None, ..self }
            }
            Coding::Lossy | Coding::Lossless => self,
        }
    }
}

/// How a frame is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Lossy,
    LossyAlpha,
    Lossless,
}

/// One chunk: its name in upper case and its payload.
type Chunk<'a> = ([u8; 4], &'a [u8]);

/// Reads the chunks of a file.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, PhotoError> {
    let chunks = chunks(bytes.get(12..).unwrap_or_default());
    let find = |name: &[u8; 4]| chunks.iter().find(|(n, _)| n == name).map(|(_, data)| *data);
    let extended = find(b"VP8X");
    let mut canvas = None;
    let mut is_animated = false;
    // Alpha and a profile that the header does not announce are ignored, as browsers do.
    let (mut has_alpha, mut profile) = (true, None);
    if let Some(extended) = extended {
        let &[flags, _, _, _, w0, w1, w2, h0, h1, h2] =
            extended.first_chunk().ok_or_else(|| corrupt("its extended header is too short"))?;
        canvas = Some((side([w0, w1, w2]), side([h0, h1, h2])));
        is_animated = flags & 0b10 != 0;
        has_alpha = flags & 0b1_0000 != 0;
        profile = find(b"ICCP").filter(|_| flags & 0b10_0000 != 0);
    }
    let (frame, origin) = if is_animated {
        first_frame(find(b"ANMF").ok_or_else(|| corrupt("an animation without frames"))?)?
    } else {
        let frame = frame(&chunks)?;
        (if has_alpha { frame } else { frame.without_alpha_plane() }, None)
    };
    let (width, height) = canvas.unwrap_or((frame.width, frame.height));
    let fits = match origin {
        Some((left, top)) => left + frame.width <= width && top + frame.height <= height,
        None => (frame.width, frame.height) == (width, height),
    };
    if !fits {
        return Err(corrupt("its headers disagree about its size"));
    }
    Ok(Header { width, height, frame, origin, exif: find(b"EXIF"), profile })
}

/// A file that contains only `frame`.
pub(super) fn container(frame: &Frame<'_>) -> Vec<u8> {
    let name = if frame.coding == Coding::Lossless { b"VP8L" } else { b"VP8 " };
    let size = 42 + frame.coded.len() + frame.alpha.map_or(0, |alpha| alpha.len() + 1);
    let mut file = Vec::with_capacity(size);
    file.extend(b"RIFF\0\0\0\0WEBP");
    let mut chunk = |name: &[u8; 4], data: &[u8]| {
        file.extend(name);
        // The chunk comes from a file whose chunk lengths fit 32 bits.
        file.extend((data.len() as u32).to_le_bytes());
        file.extend(data);
        file.extend((data.len() % 2 == 1).then_some(0));
    };
    if let Some(alpha) = frame.alpha {
        let ([w0, w1, w2, _], [h0, h1, h2, _]) =
            ((frame.width - 1).to_le_bytes(), (frame.height - 1).to_le_bytes());
        chunk(b"VP8X", &[0x10, 0, 0, 0, w0, w1, w2, h0, h1, h2]);
        chunk(b"ALPH", alpha);
    }
    chunk(name, frame.coded);
    let length = ((file.len() - 8) as u32).to_le_bytes();
    file[4..8].copy_from_slice(&length);
    file
}

const TRUNCATED: PhotoError = PhotoError::Truncated { format: Format::WebP };

fn corrupt(detail: &str) -> PhotoError {
    PhotoError::corrupt(Format::WebP, detail)
}

/// A side as the container stores it: 24 bits, reduced by one.
fn side([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0]) + 1
}

/// The chunks of `body` in order, up to the first incomplete one. Chunks are padded to an even length, but
/// the last may lack its padding. Names are compared without case.
fn chunks(mut body: &[u8]) -> Vec<Chunk<'_>> {
    /// Most chunks read. A photo has half a dozen; an animation's further frames are not needed.
    const MOST: usize = 64;
    let mut chunks = Vec::new();
    while let Some((name, rest)) = body.split_first_chunk::<4>()
        && let Some((length, rest)) = rest.split_first_chunk()
        && let Some((data, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)
        && chunks.len() < MOST
    {
        chunks.push((name.map(|letter| letter.to_ascii_uppercase()), data));
        body = rest.get(data.len() % 2..).unwrap_or_default();
    }
    chunks
}

/// An animation's frame and its place. The decoder relies on the frame having the size of its coded picture,
/// and on an alpha plane being followed by a lossy picture; both are checked here.
fn first_frame(data: &[u8]) -> Result<(Frame<'_>, Option<(u32, u32)>), PhotoError> {
    let short = || corrupt("its first frame's header is too short");
    let &[x0, x1, x2, y0, y1, y2, w0, w1, w2, h0, h1, h2] = data.first_chunk().ok_or_else(short)?;
    let chunks = chunks(data.get(16..).ok_or_else(short)?);
    let coded = chunks.iter().position(|(name, _)| matches!(name, b"VP8 " | b"VP8L"));
    let coded = coded.ok_or_else(|| corrupt("its first frame has no picture"))?;
    let frame = frame(chunks.get(..=coded).unwrap_or_default())?;
    if (frame.width, frame.height) != (side([w0, w1, w2]), side([h0, h1, h2])) {
        return Err(corrupt("its headers disagree about its first frame's size"));
    }
    // Offsets are stored halved.
    let place = |bytes: [u8; 3]| (side(bytes) - 1) * 2;
    Ok((frame, Some((place([x0, x1, x2]), place([y0, y1, y2])))))
}

/// The picture coded in `chunks`.
fn frame<'a>(chunks: &[Chunk<'a>]) -> Result<Frame<'a>, PhotoError> {
    let coded = chunks.iter().find(|(name, _)| matches!(name, b"VP8 " | b"VP8L"));
    let &(name, coded) = coded.ok_or(TRUNCATED)?;
    let short = || corrupt("its picture's header is broken");
    if &name == b"VP8L" {
        let &[0x2F, b0, b1, b2, b3] = coded.first_chunk().ok_or_else(short)? else {
            return Err(short());
        };
        let bits = u32::from_le_bytes([b0, b1, b2, b3]);
        let side = |bits: u32| (bits & 0x3FFF) + 1;
        let has_alpha = bits >> 28 & 1 == 1;
        let (width, height, coding) = (side(bits), side(bits >> 14), Coding::Lossless);
        return Ok(Frame { width, height, coding, has_alpha, coded, alpha: None });
    }
    let &[tag, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1] = coded.first_chunk().ok_or_else(short)?
    else {
        return Err(short());
    };
    if tag & 1 == 1 {
        return Err(corrupt("its picture builds on another one"));
    }
    if !partitions::fit(coded) {
        return Err(TRUNCATED);
    }
    let side = |bytes: [u8; 2]| u32::from(u16::from_le_bytes(bytes) & 0x3FFF);
    let alpha = chunks.iter().find(|(name, _)| name == b"ALPH").map(|(_, data)| *data);
    let coding = if alpha.is_some() { Coding::LossyAlpha } else { Coding::Lossy };
    let (width, height) = (side([w0, w1]), side([h0, h1]));
    Ok(Frame { width, height, coding, has_alpha: alpha.is_some(), coded, alpha })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
        let length = (data.len() as u32).to_le_bytes();
        [name, &length[..], data, &vec![0; data.len() % 2]].concat()
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        let body = [b"WEBP".to_vec(), chunks.concat()].concat();
        [b"RIFF", &(body.len() as u32).to_le_bytes()[..], &body].concat()
    }

    fn extended(flags: u8, width: u8, height: u8) -> Vec<u8> {
        chunk(b"VP8X", &[flags, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0])
    }

    fn frame_chunk(width: u8, height: u8, coded: &[u8]) -> Vec<u8> {
        let sides = [0, 0, 0, 0, 0, 0, width - 1, 0, 0, height - 1, 0, 0, 0, 0, 0, 0];
        chunk(b"ANMF", &[&sides[..], coded].concat())
    }

    fn lossy(width: u8, height: u8) -> Vec<u8> {
        chunk(b"VP8 ", &[0, 0, 0, 0x9D, 1, 0x2A, width, 0, height, 0x40, 9])
    }

    #[test]
    fn reads_each_kind() {
        let plain = file(&[lossy(5, 6)]);
        let header = read(&plain).unwrap();
        assert_eq!((header.width, header.height, header.origin), (5, 6, None));
        assert_eq!((header.frame.coding, header.frame.coded.len()), (Coding::Lossy, 11));
        assert_eq!(container(&header.frame), plain);

        let bits = (4_u32 | 5 << 14 | 1 << 28).to_le_bytes();
        let lossless = file(&[chunk(b"VP8L", &[&[0x2F][..], &bits].concat())]);
        let frame = read(&lossless).unwrap().frame;
        let found = (frame.width, frame.height, frame.coding, frame.has_alpha);
        assert_eq!(found, (5, 6, Coding::Lossless, true));

        let alpha = chunk(b"ALPH", &[1]);
        let parts = [extended(0x10, 5, 6), alpha, lossy(5, 6)];
        // A name in lower case, and a chunk that is not whole.
        let mut whole = file(&[&parts[..], &[chunk(b"exif", b"abc")]].concat());
        whole.extend(b"XMP \xFF\0\0\0");
        let header = read(&whole).unwrap();
        assert_eq!((header.frame.coding, header.exif), (Coding::LossyAlpha, Some(&b"abc"[..])));
        assert_eq!(container(&header.frame), file(&parts));

        let animation = file(&[extended(2, 50, 60), frame_chunk(5, 6, &lossy(5, 6))]);
        let header = read(&animation).unwrap();
        assert_eq!((header.width, header.height, header.origin), (50, 60, Some((0, 0))));
        assert_eq!((header.frame.width, header.frame.height), (5, 6));
    }

    #[test]
    fn refuses_what_is_cut_or_disagrees() {
        let whole = file(&[extended(0, 5, 6), lossy(5, 6)]);
        for length in 12..whole.len() - 1 {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        let inter = chunk(b"VP8 ", &[1, 0, 0, 0x9D, 1, 0x2A, 5, 0, 6, 0]);
        for (chunks, words) in [
            (vec![extended(0, 5, 7), lossy(5, 6)], "disagree"),
            (vec![extended(2, 50, 60), frame_chunk(51, 6, &lossy(51, 6))], "disagree"),
            (vec![extended(2, 50, 60), frame_chunk(5, 6, &lossy(5, 7))], "first frame's size"),
            (vec![extended(2, 50, 60), frame_chunk(1, 1, &[])], "no picture"),
            (vec![extended(2, 50, 60), chunk(b"ANMF", &[0; 9])], "too short"),
            (vec![inter], "builds on another"),
            (vec![extended(2, 50, 60)], "without frames"),
            (vec![extended(0, 5, 7)], "cut short"),
            (vec![chunk(b"VP8X", &[0; 9]), lossy(5, 6)], "too short"),
            (vec![chunk(b"VP8L", &[0; 5])], "broken"),
            (vec![chunk(b"VP8 ", &[0; 10])], "broken"),
        ] {
            let message = read(&file(&chunks)).unwrap_err().to_string();
            assert!(message.contains(words), "{message} / {words}");
        }
    }
}
