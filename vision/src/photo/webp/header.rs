//! A WebP's chunks, walked before anything is decoded: its size as the container and as the coded
//! frame say it, its orientation, how it is coded, and whether it is whole. Leaves out the coded
//! data. Layouts are those of the WebP container specification and RFC 6386, section 9.1.

use super::partitions;
use crate::photo::error::PhotoError;
use crate::photo::format::Format;

/// What the chunks of a file say.
#[derive(Debug, PartialEq)]
pub(super) struct Header<'a> {
    /// The picture's (an animation's canvas's) width in pixels.
    pub(super) width: u32,
    pub(super) height: u32,
    /// The coded frame's width: the picture's own, or the first frame's of an animation.
    pub(super) frame_width: u32,
    pub(super) frame_height: u32,
    pub(super) coding: Coding,
    /// Whether the container declares alpha.
    pub(super) alpha: bool,
    pub(super) animated: bool,
    /// Bytes of coded data.
    pub(super) coded: u64,
    pub(super) exif: Option<&'a [u8]>,
}

/// How a frame is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Lossy,
    LossyAlpha,
    Lossless,
}

/// One chunk: its name, its payload.
type Chunk<'a> = (&'a [u8; 4], &'a [u8]);

/// Walks the chunks of `bytes`.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, PhotoError> {
    let length = bytes.get(4..).and_then(<[u8]>::first_chunk).copied().ok_or(TRUNCATED)?;
    let length = u32::from_le_bytes(length) as usize;
    let body = bytes.get(8..).unwrap_or_default().get(..length).ok_or(TRUNCATED)?;
    let chunks = chunks(body.get(4..).unwrap_or_default())?;
    let find = |name: &[u8; 4]| chunks.iter().find(|(n, _)| *n == name).map(|(_, data)| *data);
    let Some(extended) = find(b"VP8X") else {
        let frame = frame(&chunks)?;
        return Ok(Header { exif: None, ..frame });
    };
    let &[flags, _, _, _, w0, w1, w2, h0, h1, h2] =
        extended.first_chunk().ok_or_else(|| corrupt("its extended header is too short"))?;
    let (width, height) = (side([w0, w1, w2]), side([h0, h1, h2]));
    let animated = flags & 0b10 != 0;
    let frame = if animated {
        first_frame(find(b"ANMF").ok_or_else(|| corrupt("an animation without frames"))?)?
    } else {
        frame(&chunks)?
    };
    let fits = if animated {
        frame.width <= width && frame.height <= height
    } else {
        (frame.width, frame.height) == (width, height)
    };
    if !fits {
        return Err(corrupt("its headers disagree about its size"));
    }
    let alpha = flags & 0b1_0000 != 0;
    Ok(Header { width, height, alpha, animated, exif: find(b"EXIF"), ..frame })
}

const TRUNCATED: PhotoError = PhotoError::Truncated { format: Format::WebP };

fn corrupt(detail: &str) -> PhotoError {
    PhotoError::corrupt(Format::WebP, detail)
}

/// A side as the container stores it: 24 bits, less one.
fn side([low, middle, high]: [u8; 3]) -> u32 {
    u32::from_le_bytes([low, middle, high, 0]) + 1
}

/// All chunks of `body`, in order. Each is padded to an even length; the last may lack its pad.
fn chunks(mut body: &[u8]) -> Result<Vec<Chunk<'_>>, PhotoError> {
    let mut chunks = Vec::new();
    while let Some((name, rest)) = body.split_first_chunk() {
        let (length, rest) = rest.split_first_chunk().ok_or(TRUNCATED)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (data, rest) = rest.split_at_checked(length).ok_or(TRUNCATED)?;
        chunks.push((name, data));
        body = rest.get(length % 2..).unwrap_or_default();
    }
    Ok(chunks)
}

/// The header of an animation's frame. The decoder trusts that the frame's size is that of the
/// coded picture, and that an alpha plane is followed by a lossy picture: both are checked here.
fn first_frame(data: &[u8]) -> Result<Header<'_>, PhotoError> {
    let short = || corrupt("its first frame's header is too short");
    let &[w0, w1, w2, h0, h1, h2] =
        data.get(6..).and_then(<[u8]>::first_chunk).ok_or_else(short)?;
    let chunks = chunks(data.get(16..).ok_or_else(short)?)?;
    let frame = match chunks.as_slice() {
        [(b"VP8 " | b"VP8L", _), ..] => frame(chunks.get(..1).unwrap_or_default())?,
        [(b"ALPH", _), (b"VP8 ", _), ..] => frame(chunks.get(..2).unwrap_or_default())?,
        _ => return Err(corrupt("its first frame has no picture")),
    };
    if (frame.width, frame.height) != (side([w0, w1, w2]), side([h0, h1, h2])) {
        return Err(corrupt("its headers disagree about its first frame's size"));
    }
    Ok(frame)
}

/// The header of the frame coded in `chunks`, as if it were a picture of its own.
fn frame<'a>(chunks: &[Chunk<'a>]) -> Result<Header<'a>, PhotoError> {
    let coded = chunks.iter().find(|(name, _)| matches!(*name, b"VP8 " | b"VP8L"));
    let &(name, data) = coded.ok_or_else(|| corrupt("it has no picture"))?;
    let short = || corrupt("its picture's header is broken");
    let (width, height, coding, alpha) = if name == b"VP8L" {
        let &[0x2F, b0, b1, b2, b3] = data.first_chunk().ok_or_else(short)? else {
            return Err(short());
        };
        let bits = u32::from_le_bytes([b0, b1, b2, b3]);
        let side = |bits: u32| (bits & 0x3FFF) + 1;
        (side(bits), side(bits >> 14), Coding::Lossless, bits >> 28 & 1 == 1)
    } else {
        let &[tag, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1] =
            data.first_chunk().ok_or_else(short)?
        else {
            return Err(short());
        };
        if tag & 1 == 1 {
            return Err(corrupt("its picture builds on another one"));
        }
        if !partitions::fit(data) {
            return Err(TRUNCATED);
        }
        let side = |bytes: [u8; 2]| u32::from(u16::from_le_bytes(bytes) & 0x3FFF);
        let alpha = chunks.iter().any(|(name, _)| *name == b"ALPH");
        let coding = if alpha { Coding::LossyAlpha } else { Coding::Lossy };
        (side([w0, w1]), side([h0, h1]), coding, alpha)
    };
    Ok(Header {
        width,
        height,
        frame_width: width,
        frame_height: height,
        coding,
        alpha,
        animated: false,
        coded: data.len() as u64,
        exif: None,
    })
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
        let expected = Header {
            width: 5,
            height: 6,
            frame_width: 5,
            frame_height: 6,
            coding: Coding::Lossy,
            alpha: false,
            animated: false,
            coded: 11,
            exif: None,
        };
        assert_eq!(read(&plain).unwrap(), expected);

        let bits = (4_u32 | 5 << 14 | 1 << 28).to_le_bytes();
        let lossless = file(&[chunk(b"VP8L", &[&[0x2F][..], &bits].concat())]);
        let header = read(&lossless).unwrap();
        let found = (header.width, header.height, header.coding, header.alpha);
        assert_eq!(found, (5, 6, Coding::Lossless, true));

        let alpha = chunk(b"ALPH", &[1]);
        let exif = chunk(b"EXIF", b"abc");
        let with_alpha = file(&[extended(0x18, 5, 6), alpha, lossy(5, 6), exif]);
        let header = read(&with_alpha).unwrap();
        assert_eq!((header.coding, header.exif), (Coding::LossyAlpha, Some(&b"abc"[..])));

        let frame = frame_chunk(5, 6, &lossy(5, 6));
        let animation = file(&[extended(2, 50, 60), frame]);
        let header = read(&animation).unwrap();
        assert!(header.animated);
        assert_eq!((header.width, header.height), (50, 60));
        assert_eq!((header.frame_width, header.frame_height), (5, 6));
    }

    #[test]
    fn refuses_what_is_cut_or_disagrees() {
        let whole = file(&[extended(0, 5, 6), lossy(5, 6)]);
        for length in 12..whole.len() {
            assert_eq!(read(&whole[..length]).unwrap_err(), TRUNCATED, "{length}");
        }
        let inter = chunk(b"VP8 ", &[1, 0, 0, 0x9D, 1, 0x2A, 5, 0, 6, 0]);
        let alpha_alone = [chunk(b"ALPH", &[1]), chunk(b"VP8L", &[0x2F, 0, 0, 0, 0])].concat();
        for (chunks, words) in [
            (vec![extended(0, 5, 7), lossy(5, 6)], "disagree"),
            (vec![extended(2, 50, 60), frame_chunk(51, 6, &lossy(51, 6))], "disagree"),
            (vec![extended(2, 50, 60), frame_chunk(5, 6, &lossy(5, 7))], "first frame's size"),
            (vec![extended(2, 50, 60), frame_chunk(1, 1, &alpha_alone)], "no picture"),
            (vec![extended(2, 50, 60), chunk(b"ANMF", &[0; 9])], "too short"),
            (vec![inter], "builds on another"),
            (vec![extended(2, 50, 60)], "without frames"),
            (vec![extended(0, 5, 7)], "no picture"),
            (vec![chunk(b"VP8X", &[0; 9]), lossy(5, 6)], "too short"),
            (vec![chunk(b"VP8L", &[0; 5])], "broken"),
            (vec![chunk(b"VP8 ", &[0; 10])], "broken"),
        ] {
            let message = read(&file(&chunks)).unwrap_err().to_string();
            assert!(message.contains(words), "{message} / {words}");
        }
    }
}
