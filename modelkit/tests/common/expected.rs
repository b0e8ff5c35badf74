//! What a fixture's original gives: arrays in `expected.f32`, found by `expected.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Where an array begins in `expected.f32`, in elements, and its shape.
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

/// The largest difference of two arrays; infinite where one is longer.
pub fn largest(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
