//! Reads the expected results of a fixture: arrays in `expected.f32`, at the offsets in `expected.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skincell_vision::card::Input;
use skincell_vision::photo::Photo;
use skincell_vision::tensor::{PhotoTensor, from_photo};

/// Columns and rows of the photos that fixtures are made with.
const SIDE: usize = 32;

/// The folder of the scripts that make fixtures, and of their fixtures.
pub fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference")
}

/// The first `count` photos that fixtures are made with, as tensors for `input`.
pub fn photos(input: &Input, count: usize) -> Vec<PhotoTensor> {
    let pixels = fs::read(reference().join("fixtures/photos.u8")).expect("photos");
    let tensor = |pixels: &[u8]| {
        let photo = Photo::from_rgb(SIDE as u32, SIDE as u32, pixels.to_vec()).expect("a photo");
        from_photo(&photo, input).expect("a tensor")
    };
    let photos: Vec<_> = pixels.chunks_exact(SIDE * SIDE * 3).take(count).map(tensor).collect();
    assert_eq!(photos.len(), count, "photos");
    photos
}

/// Shape of an array, and its first element's index in `expected.f32`.
#[derive(Deserialize)]
struct Part {
    shape: Vec<usize>,
    offset: usize,
}

pub struct Expected {
    parts: BTreeMap<String, Part>,
    values: Vec<f32>,
}

impl Expected {
    pub fn read(folder: &Path) -> Self {
        let parts = fs::read(folder.join("expected.json")).expect("expected.json");
        let bytes = fs::read(folder.join("expected.f32")).expect("expected.f32");
        let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Self { parts: serde_json::from_slice(&parts).expect("an index"), values }
    }

    pub fn has(&self, key: &str) -> bool {
        self.parts.contains_key(key)
    }

    /// The values of one photo and, for maps, one class.
    pub fn part(&self, key: &str, places: &[usize]) -> &[f32] {
        let part = &self.parts[key];
        let mut size: usize = part.shape.iter().product();
        let mut at = part.offset;
        for (place, side) in places.iter().zip(&part.shape) {
            size /= side;
            at += place * size;
        }
        &self.values[at..at + size]
    }
}

/// The largest difference of two arrays; infinite if their lengths differ.
pub fn largest(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
