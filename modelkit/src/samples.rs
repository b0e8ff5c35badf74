//! Three pictures to run a model on if no photos are given. They are drawn by formulas and always the same.
//!
//! They do not show skin. They suffice to compare two graphs and to see the range of a model's outputs, and
//! differ in brightness, colour and detail.

use skincell_vision::photo::Photo;

/// Width and height of each; the aspect ratio differs from that of models' inputs, so that cropping matters.
const SIZE: (u32, u32) = (320, 240);

/// The three pictures with their names.
#[must_use]
pub fn photos() -> Vec<(String, Photo)> {
    let drawings: [(&str, Drawing); 3] = [("patch", patch), ("waves", waves), ("tiles", tiles)];
    let made = |(name, drawing): (&str, Drawing)| {
        let (width, height) = SIZE;
        let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
        let pixels = places.flat_map(|(x, y)| {
            drawing(f64::from(x) / f64::from(width), f64::from(y) / f64::from(height))
                .map(|level| level.clamp(0.0, 255.0) as u8)
        });
        Some((name.to_owned(), Photo::from_rgb(width, height, pixels.collect())?))
    };
    drawings.into_iter().filter_map(made).collect()
}

/// R, G, B (0 to 255) at the position `(x, y)` (each 0 to 1).
type Drawing = fn(f64, f64) -> [f64; 3];

/// A dark, round patch on a light, warm background.
fn patch(x: f64, y: f64) -> [f64; 3] {
    let distance = ((x - 0.45).powi(2) + (y - 0.55).powi(2)).sqrt();
    let dark = 1.0 / (1.0 + ((distance - 0.2) * 40.0).exp());
    let grain = ((x * 91.0).sin() * (y * 83.0).cos()) * 6.0;
    [225.0 - 120.0 * dark, 178.0 - 110.0 * dark, 155.0 - 90.0 * dark].map(|c| c + grain)
}

/// Smooth coloured waves of full contrast.
fn waves(x: f64, y: f64) -> [f64; 3] {
    [(7.0 * x + y).sin(), (9.0 * y).cos(), (5.0 * x * y + 1.0).sin()].map(|w| w * 120.0 + 127.0)
}

/// Dark tiles of single colours, with hard edges.
fn tiles(x: f64, y: f64) -> [f64; 3] {
    let (column, row) = ((x * 9.0).floor(), (y * 7.0).floor());
    let level = |k: f64| ((column * 37.0 + row * 61.0 + k * 29.0) * 13.0) % 160.0;
    [level(1.0), level(2.0), level(3.0)]
}
