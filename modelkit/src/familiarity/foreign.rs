//! Pictures of other kinds, drawn by formulas and always the same, to test a fit on.
//!
//! They are fields of one colour (some of them colours of skin), gradients, noise, stripes, tiles, discs and
//! lines of writing. They do not replace real pictures of other kinds: a fit that does not tell even these
//! is certainly useless, but one that does may still accept others.

use skincell_vision::photo::Photo;

use crate::samples;

/// The pictures in words, for the card.
pub(super) const DESCRIPTION: &str =
    "59 drawn pictures of colours, gradients, noise, stripes, tiles, discs and writing";

const SIDE: u32 = 256;
/// Pictures of each kind.
const EACH: u32 = 8;

/// All pictures.
pub(super) fn pictures() -> Vec<Photo> {
    let kinds: [Kind; 7] = [flat, gradient, noise, stripes, tiles, discs, writing];
    let mut photos: Vec<Photo> = samples::photos().into_iter().map(|(_, photo)| photo).collect();
    for (kind, draw) in kinds.into_iter().enumerate() {
        for number in 0..EACH {
            let seed = Seed(1 + kind as u32 * EACH + number);
            let places = (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y)));
            let pixels = places.flat_map(|(x, y)| draw(&seed, x as f32, y as f32));
            let pixels: Vec<u8> = pixels.map(|level| level.clamp(0.0, 255.0) as u8).collect();
            photos.extend(Photo::from_rgb(SIDE, SIDE, pixels));
        }
    }
    photos
}

/// R, G, B (0 to 255) of a picture at a pixel.
type Kind = fn(&Seed, f32, f32) -> [f32; 3];

/// The number of a picture, from which its properties are made.
struct Seed(u32);

impl Seed {
    /// A number from 0 to 1 that depends on the picture and on `of`, such as a property or a pixel.
    fn number(&self, of: u32) -> f32 {
        let mut x = self.0.wrapping_mul(0x9e37_79b9) ^ of.wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        ((x ^ (x >> 16)) >> 8) as f32 / (1 << 24) as f32
    }

    fn color(&self, of: u32) -> [f32; 3] {
        [0, 1, 2].map(|channel| self.number(1000 + of * 3 + channel) * 255.0)
    }
}

/// Half of them in colours of skin: red above green above blue.
fn flat(seed: &Seed, _: f32, _: f32) -> [f32; 3] {
    let light = 60.0 + 190.0 * seed.number(1);
    if seed.number(2) < 0.5 { [light, light * 0.76, light * 0.63] } else { seed.color(0) }
}

fn gradient(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let turn = seed.number(1) * std::f32::consts::TAU;
    let share = 0.5 + ((x - 128.0) * turn.cos() + (y - 128.0) * turn.sin()) / 360.0;
    mixed(seed.color(0), seed.color(1), share)
}

fn noise(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let cell = 1 << (seed.0 % 4);
    let place = (y as u32 / cell) * SIDE + x as u32 / cell;
    [0, 1, 2].map(|channel| seed.number(5000 + place * 3 + channel) * 255.0)
}

fn stripes(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let turn = seed.number(1) * std::f32::consts::TAU;
    let along = x * turn.cos() + y * turn.sin();
    let share = (along / (2.0 + 20.0 * seed.number(2))).sin();
    mixed(seed.color(0), seed.color(1), f32::from(u8::from(share > 0.0)))
}

fn tiles(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let side = 8.0 + 40.0 * seed.number(1);
    seed.color(10 + (y / side) as u32 * 64 + (x / side) as u32)
}

fn discs(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let inside = |disc: &u32| {
        let [u, v, radius] = [0, 1, 2].map(|part| seed.number(100 + disc * 3 + part) * 256.0);
        (x - u).hypot(y - v) < 8.0 + radius / 4.0
    };
    (0..12).find(inside).map_or_else(|| seed.color(0), |disc| seed.color(20 + disc))
}

/// Dark words of irregular strokes on white paper.
fn writing(seed: &Seed, x: f32, y: f32) -> [f32; 3] {
    let (line, row) = ((y / 16.0) as u32, y as u32 % 16);
    let letter = (x / 7.0) as u32;
    let gap = seed.number(3000 + line * 64 + letter) < 0.2 || !(3..=12).contains(&row);
    let stroke = seed.number(9000 + (line * 256 + letter) * 64 + (row / 2) * 4 + x as u32 % 7 / 2);
    [if !gap && stroke < 0.45 { 30.0 } else { 240.0 }; 3]
}

fn mixed(first: [f32; 3], second: [f32; 3], share: f32) -> [f32; 3] {
    [0, 1, 2].map(|channel| first[channel] + (second[channel] - first[channel]) * share)
}
