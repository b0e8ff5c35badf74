//! Tests that a scaled decode, resampled to the model's size, gives nearly the same picture as a decode at
//! full size.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where it cannot go on")]

mod common;

use common::{difference, fixture};
use skincell_vision::overlay::encode_png;
use skincell_vision::photo::{Limits, Photo, decode};
use skincell_vision::resize::resize;

/// A target so large that every fixture is decoded at full size.
const WHOLE: (u32, u32) = (4096, 4096);

fn decoded(bytes: &[u8], target: (u32, u32)) -> Photo {
    decode(bytes, target, &Limits::default()).unwrap()
}

#[test]
fn scaled_decodes_are_the_same_picture() {
    let jpeg = fixture("large.jpg");
    let turned = fixture("large_turned.jpg");
    let progressive = fixture("large_progressive.jpg");
    let grainy = fixture("grainy_progressive.jpg");
    let png = encode_png(&decoded(&jpeg, WHOLE)).unwrap();
    // Each with the size that its scale gives: 1/2, 1/4 or 1/8 for JPEG, any whole fraction for PNG.
    for (name, file, side, (width, height)) in [
        ("jpeg", &jpeg, 224, (671, 502)),
        ("jpeg", &jpeg, 125, (336, 251)),
        ("jpeg", &jpeg, 60, (168, 126)),
        ("progressive jpeg", &progressive, 224, (671, 502)),
        ("progressive jpeg", &progressive, 125, (336, 251)),
        ("progressive jpeg", &progressive, 60, (168, 126)),
        ("grainy progressive jpeg", &grainy, 70, (200, 150)),
        ("grainy progressive jpeg", &grainy, 37, (100, 75)),
        ("grainy progressive jpeg", &grainy, 18, (50, 38)),
        ("turned jpeg", &turned, 224, (671, 502)),
        ("turned jpeg", &turned, 60, (168, 126)),
        ("png", &png, 224, (671, 502)),
        ("png", &png, 100, (269, 201)),
        ("png", &png, 60, (168, 126)),
        ("png", &png, 30, (84, 63)),
    ] {
        let photo = decoded(file, (side, side));
        assert_eq!((photo.width(), photo.height()), (width, height), "{name} for {side}");
        let scaled = resize(&photo, side, side).unwrap();
        let whole = resize(&decoded(file, WHOLE), side, side).unwrap();
        let (most, mean) = difference(scaled.pixels(), whole.pixels());
        println!("{name} for {side}: largest difference {most}, mean {mean:.3}");
        assert!(mean <= 1.5 && most <= 6, "{name} for {side}: most {most}, mean {mean:.3}");
    }
}

/// If one side of the target is small, the other side of the photo stays at least twice its own target.
#[test]
fn both_sides_stay_twice_the_target() {
    let png = encode_png(&decoded(&fixture("large.jpg"), WHOLE)).unwrap();
    for file in [fixture("large.jpg"), fixture("large_turned.jpg"), png] {
        for target in [(10, 400), (400, 10), (10, 300), (1, 1), (0, 0), (670, 501)] {
            let photo = decoded(&file, target);
            let enough = photo.width() >= 2 * target.0 && photo.height() >= 2 * target.1;
            let whole = (photo.width(), photo.height()) == (1341, 1003);
            assert!(enough || whole, "{target:?}: {}x{}", photo.width(), photo.height());
        }
    }
}
