//! Reads the EXIF orientation and turns a photo upright. Other EXIF tags are not read.

use super::picture::Photo;

/// The operation that turns a photo upright, for EXIF's numbers 1 to 8 (CIPA DC-008, tag 0x0112).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    Upright,
    FlipHorizontal,
    Rotate180,
    FlipVertical,
    Rotate90FlipH,
    Rotate90,
    Rotate270FlipH,
    Rotate270,
}

impl Orientation {
    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Upright,
            2 => Self::FlipHorizontal,
            3 => Self::Rotate180,
            4 => Self::FlipVertical,
            5 => Self::Rotate90FlipH,
            6 => Self::Rotate90,
            7 => Self::Rotate270FlipH,
            8 => Self::Rotate270,
            _ => return None,
        })
    }
}

/// The orientation of an EXIF block, with or without the `Exif` prefix before its TIFF header. Upright if the
/// block has no orientation or cannot be read.
pub(super) fn from_exif(exif: &[u8]) -> Orientation {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    tag(tiff).and_then(Orientation::from_number).unwrap_or(Orientation::Upright)
}

/// The orientation's number in the first directory of a TIFF block.
fn tag(tiff: &[u8]) -> Option<u16> {
    let is_little = match tiff.first_chunk()? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let word = |at: usize| {
        let bytes = *tiff.get(at..)?.first_chunk()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let bytes = *tiff.get(4..)?.first_chunk()?;
    let at = if is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) } as usize;
    let entries = usize::from(word(at)?);
    let entry = |index: usize| at.checked_add(2 + 12 * index);
    let places = (0..entries).map_while(entry).take_while(|&at| at < tiff.len());
    let place = places.into_iter().find(|&at| word(at) == Some(0x0112))?;
    // The value must have the type SHORT.
    (word(place + 2) == Some(3)).then(|| word(place + 8))?
}

/// The size in the file of a photo that has `width` and `height` when upright.
pub(super) fn in_file(orientation: Orientation, (width, height): (u32, u32)) -> (u32, u32) {
    if swaps_sides(orientation) { (height, width) } else { (width, height) }
}

/// Further bytes needed to turn a photo of `pixels` pixels upright.
pub(super) fn memory(orientation: Orientation, pixels: u64) -> u64 {
    if swaps_sides(orientation) { pixels * 3 } else { 0 }
}

/// Turns `photo` upright.
pub(super) fn orient(photo: Photo, orientation: Orientation) -> Photo {
    use Orientation as O;
    // A quarter turn is a transposition with one flip; EXIF 5 has no flip and EXIF 7 has both.
    match orientation {
        O::Upright => photo,
        O::FlipHorizontal => photo.mirrored(),
        O::Rotate180 => photo.mirrored().flipped(),
        O::FlipVertical => photo.flipped(),
        O::Rotate90FlipH => photo.transposed(),
        O::Rotate90 => photo.transposed().mirrored(),
        O::Rotate270FlipH => photo.transposed().mirrored().flipped(),
        O::Rotate270 => photo.transposed().flipped(),
    }
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps column and row of the upright photo, with the file's last column and row, to column and row in
    /// the file.
    type Place = fn(u32, u32, u32, u32) -> (u32, u32);

    /// Compares each orientation pixel by pixel with its definition by row 0 and column 0 (EXIF 2.32, 4.6.4).
    #[test]
    fn turns_as_exif_defines() {
        for (width, height) in [(1, 1), (1, 5), (4, 1), (5, 3), (33, 70), (64, 32)] {
            let pixels: Vec<u8> = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
            let (right, bottom) = (width - 1, height - 1);
            let places: [Place; 8] = [
                |x, y, _, _| (x, y),
                |x, y, right, _| (right - x, y),
                |x, y, right, bottom| (right - x, bottom - y),
                |x, y, _, bottom| (x, bottom - y),
                |x, y, _, _| (y, x),
                |x, y, _, bottom| (y, bottom - x),
                |x, y, right, bottom| (right - y, bottom - x),
                |x, y, right, _| (right - y, x),
            ];
            for (exif, place) in (1..).zip(places) {
                let orientation = Orientation::from_number(exif).unwrap();
                let photo = Photo::from_rgb(width, height, pixels.clone()).unwrap();
                let turned = orient(photo, orientation);
                let size = (turned.width(), turned.height());
                assert_eq!(size, if exif < 5 { (width, height) } else { (height, width) });
                assert_eq!(size, in_file(orientation, (width, height)), "EXIF {exif}");
                for (at, found) in turned.pixels().chunks_exact(3).enumerate() {
                    let (x, y) = place(at as u32 % size.0, at as u32 / size.0, right, bottom);
                    let from = (y * width + x) as usize * 3;
                    assert_eq!(found, &pixels[from..from + 3], "EXIF {exif} {width}x{height}");
                }
            }
        }
    }

    /// The partly covered column and row turn with the pixels.
    #[test]
    fn turns_the_extent_with_the_pixels() {
        let rows = [
            (1, 0.0, 0.0, 3.5, 1.25),
            (2, 0.5, 0.0, 3.5, 1.25),
            (3, 0.5, 0.75, 3.5, 1.25),
            (4, 0.0, 0.75, 3.5, 1.25),
            (5, 0.0, 0.0, 1.25, 3.5),
            (6, 0.75, 0.0, 1.25, 3.5),
            (7, 0.75, 0.5, 1.25, 3.5),
            (8, 0.0, 0.5, 1.25, 3.5),
        ];
        for (exif, left, top, width, height) in rows {
            let photo = Photo::from_rgb(4, 2, vec![0; 24]).unwrap().covering(3.5, 1.25);
            let extent = orient(photo, Orientation::from_number(exif).unwrap()).extent();
            let found = (extent.left, extent.top, extent.width, extent.height);
            assert_eq!(found, (left, top, width, height), "EXIF {exif}");
        }
    }

    #[test]
    fn reads_only_well_formed_exif() {
        let little = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let big = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let prefixed = [b"Exif\0\0", &little[..]].concat();
        for exif in [&little[..], big, &prefixed] {
            assert_eq!(from_exif(exif), Orientation::Rotate90);
            for length in 0..exif.len() - 8 {
                assert_eq!(from_exif(&exif[..length]), Orientation::Upright, "{length}");
            }
        }
    }
}
