//! Compares every kind of file that this crate decodes with its expected pixels, from Pillow or computed in
//! `fixtures/make.py`. Broken files are tested in `hostile.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it cannot go on")]

mod common;

use common::{difference, fixture, fixtures, ppm};
use skincell_vision::photo::{Colors, Format, Limits, decode, decode_as, sniff};
use std::collections::BTreeSet;

/// A model large enough that no fixture is decoded at a smaller scale.
const TARGET: (u32, u32) = (4096, 4096);

/// Largest and mean difference allowed for a fixture. Most must be equal. Correct JPEG decoders differ in the
/// rounding of transform and chroma; samples of 5 and 6 bits are widened by rounding here and by shifting in
/// Pillow.
fn tolerance(name: &str) -> (u8, f64) {
    match name {
        // Libraries interpolate differently between the points of 8-bit tables.
        _ if name.starts_with("icc_table_") => (6, 1.1),
        // Conversions in fixed point and in floats differ, in addition to JPEG's own tolerance.
        _ if name.starts_with("icc_") && name.ends_with(".jpg") => (6, 0.4),
        _ if ["icc_", "gamma_", "code_points_", "alpha_"]
            .iter()
            .any(|kind| name.starts_with(kind)) =>
        {
            (2, 0.2)
        }
        _ if name.ends_with(".jpg") => (3, 0.2),
        "rgb565.bmp" => (1, 0.5),
        _ => (0, 0.0),
    }
}

#[test]
fn every_fixture_decodes_to_its_pixels() {
    let mut names = BTreeSet::new();
    for entry in fixtures().read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(photo) = name.strip_suffix(".ppm") {
            names.insert(photo.to_owned());
        }
    }
    assert_eq!(names.len(), 138, "adjust this number when fixtures are added or removed");
    let mut wrong = Vec::new();
    for name in &names {
        let (width, height, expected) = ppm(&fixture(&format!("{name}.ppm")));
        let photo = match decode(&fixture(name), TARGET, &Limits::default()) {
            Ok(photo) => photo,
            Err(error) => {
                wrong.push(format!("{name}: {error}"));
                continue;
            }
        };
        if (photo.width(), photo.height()) != (width, height) {
            wrong.push(format!("{name}: {}x{}", photo.width(), photo.height()));
            continue;
        }
        let (most, mean) = difference(photo.pixels(), &expected);
        println!("{name}: largest difference {most}, mean {mean:.3}");
        let (allowed, allowed_mean) = tolerance(name);
        if most > allowed || mean > allowed_mean {
            wrong.push(format!("{name}: largest difference {most}, mean {mean:.3}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Without conversion the pixels are the file's own values.
#[test]
fn stored_colours_are_the_files_own() {
    let (_, _, plain) = ppm(&fixture("rgb8.png.ppm"));
    for name in ["icc_p3.png", "icc_adobe_rgb.webp", "gamma_1.png"] {
        let limits = Limits::default();
        let photo = decode_as(&fixture(name), TARGET, &limits, Colors::Stored).unwrap();
        assert_eq!(photo.pixels(), plain, "{name}");
        let converted = decode(&fixture(name), TARGET, &limits).unwrap();
        let (most, _) = difference(converted.pixels(), &plain);
        assert!(most > 10, "{name}: {most}");
    }
}

#[test]
fn formats_are_recognised_by_their_bytes() {
    for (name, expected) in [
        ("grey.jpg", Some(Format::Jpeg)),
        ("rgb8.png", Some(Format::Png)),
        ("lossy.webp", Some(Format::WebP)),
        ("rgb24.bmp", Some(Format::Bmp)),
        ("plain.gif", Some(Format::Gif)),
        ("rgb8.png.ppm", None),
        ("make.py", None),
    ] {
        assert_eq!(sniff(&fixture(name)), expected, "{name}");
    }
    assert_eq!(sniff(b""), None);
    assert_eq!(sniff(b"GIF88a"), None);
    assert_eq!(sniff(b"RIFF\0\0\0\0WAVE"), None);
}
