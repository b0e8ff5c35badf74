//! Compares Grad-CAM with its definition: the gradient is taken numerically through a small network in f64.

use super::*;
use crate::card::Target;
use crate::common::{Random, reference};

const CHANNELS: usize = 5;
const CLASSES: usize = 4;
const WIDTH: u32 = 4;
const HEIGHT: u32 = 3;
const AREA: usize = (WIDTH * HEIGHT) as usize;

fn map(basis: Basis) -> GradCam {
    let output = "cam".to_owned();
    GradCam {
        output,
        width: WIDTH,
        height: HEIGHT,
        target: Target::Activation,
        basis,
        layer: None,
        of: Form::Logits,
        classes: MapClasses::All,
    }
}

/// Global average pooling and one dense layer over a feature map `[CHANNELS, AREA]`.
struct Network {
    features: Vec<f64>,
    weights: Vec<f64>,
    activation: Activation,
}

impl Network {
    fn new(seed: u64, scale: f64, activation: Activation) -> Self {
        let mut random = Random(seed);
        let mut draw = |count: usize, scale: f64| -> Vec<f64> {
            (0..count).map(|_| (random.below(2001) as f64 / 1000.0 - 1.0) * scale).collect()
        };
        let features = draw(CHANNELS * AREA, 2.0);
        Self { features, weights: draw(CLASSES * CHANNELS, scale), activation }
    }

    fn probabilities(&self, features: &[f64]) -> Vec<f64> {
        let pooled: Vec<f64> =
            features.chunks_exact(AREA).map(|f| f.iter().sum::<f64>() / AREA as f64).collect();
        let logits: Vec<f64> = self
            .weights
            .chunks_exact(CHANNELS)
            .map(|row| row.iter().zip(&pooled).map(|(w, g)| w * g).sum())
            .collect();
        match self.activation {
            Activation::Sigmoid => logits.iter().map(|l| 1.0 / (1.0 + (-l).exp())).collect(),
            Activation::Softmax => {
                let powers: Vec<f64> = logits.iter().map(|l| l.exp()).collect();
                powers.iter().map(|p| p / powers.iter().sum::<f64>()).collect()
            }
        }
    }

    /// The maps that a prepared graph returns: `M_c = Σ_k weights[c,k]·features[k]`.
    fn cam(&self) -> Vec<f32> {
        let mut maps = vec![0.0; CLASSES * AREA];
        for (map, row) in maps.chunks_exact_mut(AREA).zip(self.weights.chunks_exact(CHANNELS)) {
            for (feature, weight) in self.features.chunks_exact(AREA).zip(row) {
                map.iter_mut().zip(feature).for_each(|(m, f)| *m += weight * f);
            }
        }
        maps.iter().map(|&m| m as f32).collect()
    }

    /// Grad-CAM as its paper defines it, with the gradient by central differences. A channel's weight is
    /// the gradient's mean over the map; the heatmap is relu of the weighted sum, divided by its maximum.
    fn by_definition(&self, class: usize) -> Vec<f64> {
        const STEP: f64 = 1e-5;
        let gradient = |at: usize| {
            let shifted = |step: f64| {
                let mut features = self.features.clone();
                features[at] += step;
                self.probabilities(&features)[class]
            };
            (shifted(STEP) - shifted(-STEP)) / (2.0 * STEP)
        };
        let mut heat = [0.0; AREA];
        for (channel, feature) in self.features.chunks_exact(AREA).enumerate() {
            let weight: f64 =
                (0..AREA).map(|at| gradient(channel * AREA + at)).sum::<f64>() / AREA as f64;
            heat.iter_mut().zip(feature).for_each(|(h, f)| *h += weight * f);
        }
        let most = heat.iter().copied().fold(0.0, f64::max);
        heat.iter().map(|h| if most > 0.0 { h.max(0.0) / most } else { 0.0 }).collect()
    }
}

#[test]
fn probability_maps_are_the_numeric_gradient() {
    for activation in [Activation::Softmax, Activation::Sigmoid] {
        for seed in 0..20 {
            let network = Network::new(seed, 2.0, activation);
            let probabilities = network.probabilities(&network.features);
            let probabilities: Vec<f32> = probabilities.iter().map(|&p| p as f32).collect();
            for class in 0..CLASSES {
                let map = map(Basis::Probability);
                let found = heatmap(&network.cam(), &map, &probabilities, activation, class);
                let found = found.unwrap();
                assert_eq!(found.basis(), Basis::Probability);
                assert_eq!((found.width(), found.height()), (WIDTH, HEIGHT));
                for (found, expected) in found.values().iter().zip(network.by_definition(class)) {
                    let off = (f64::from(*found) - expected).abs();
                    assert!(off < 2e-5, "seed {seed} class {class} {activation:?}: off by {off}");
                }
            }
        }
    }
}

/// Two classes and maps of two pixels: every number can be checked by hand.
#[test]
fn small_maps_by_hand() {
    let cam = [4.0, -2.0, 1.0, 3.0];
    let map = |basis| GradCam { width: 2, height: 1, ..map(basis) };
    let probability = Basis::Probability;
    let logit = Basis::Logit;
    let (softmax, sigmoid) = (Activation::Softmax, Activation::Sigmoid);
    for (basis, activation, p, class, expected, expected_basis) in [
        // p·(1 - p)·(M_0 - M_1) = [3, -5] / 4 / 2.
        (probability, softmax, [0.5, 0.5], 0, [1.0, 0.0], probability),
        (probability, softmax, [0.5, 0.5], 1, [0.0, 1.0], probability),
        (probability, sigmoid, [0.5, 0.5], 1, [1.0 / 3.0, 1.0], probability),
        (logit, softmax, [0.5, 0.5], 1, [1.0 / 3.0, 1.0], logit),
        // Saturated: the gradient of the probability vanishes.
        (probability, softmax, [1.0, 0.0], 0, [1.0, 0.0], logit),
        (probability, softmax, [1.0, 1e-11], 0, [1.0, 0.0], logit),
        (probability, sigmoid, [1.0, 0.0], 1, [1.0 / 3.0, 1.0], logit),
        // Just above the threshold: 1e-9·3/2.
        (probability, softmax, [1.0, 1e-9], 0, [1.0, 0.0], probability),
    ] {
        let found = heatmap(&cam, &map(basis), &p, activation, class).unwrap();
        assert_eq!(found.basis(), expected_basis, "{basis:?} {activation:?} {p:?}");
        for (found, expected) in found.values().iter().zip(expected) {
            let off: f32 = found - expected;
            assert!(off.abs() < 1e-6, "{basis:?} {activation:?} {p:?}: {found} {expected}");
        }
    }
}

#[test]
fn maps_without_evidence_are_blank() {
    let map = GradCam { width: 2, height: 1, ..map(Basis::Probability) };
    for cam in [[0.0; 4], [-1.0, -2.0, -1.0, -2.0], [1e-11; 4]] {
        let found = heatmap(&cam, &map, &[0.5, 0.5], Activation::Softmax, 0).unwrap();
        assert_eq!(found.values(), [0.0; 2]);
        assert_eq!(found.basis(), Basis::Logit);
    }
}

#[test]
fn inputs_that_contradict_the_card_are_errors() {
    let map = map(Basis::Probability);
    let cam = [0.0; CLASSES * AREA];
    let even = [0.25; CLASSES];
    let soft = Activation::Softmax;
    let shape = |found, rows| GradCamError::Shape { found, rows, height: 3, width: 4 };
    let with = |at: usize, value: f32| {
        let mut cam = cam;
        cam[at] = value;
        heatmap(&cam, &map, &even, soft, 0).unwrap_err()
    };
    for (error, expected) in [
        (heatmap(&cam[1..], &map, &even, soft, 0).unwrap_err(), shape(47, 4)),
        (heatmap(&cam, &map, &even[1..], soft, 0).unwrap_err(), shape(48, 3)),
        (heatmap(&[], &map, &[], soft, 0).unwrap_err(), shape(0, 0)),
        (
            heatmap(&cam, &map, &even, soft, 4).unwrap_err(),
            GradCamError::Class { class: 4, classes: 4 },
        ),
        (with(7, f32::NAN), GradCamError::NotFinite { what: "Grad-CAM value", index: 7 }),
        (with(0, f32::INFINITY), GradCamError::NotFinite { what: "Grad-CAM value", index: 0 }),
        (
            heatmap(&cam, &map, &[0.5, f32::NAN, 0.0, 0.0], soft, 0).unwrap_err(),
            GradCamError::NotFinite { what: "probability", index: 1 },
        ),
    ] {
        assert_eq!(error, expected);
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn heatmaps_check_their_size_and_range() {
    for (width, height, values, fits) in [
        (2, 1, vec![0.0, 1.0], true),
        (2, 1, vec![0.0], false),
        (0, 0, vec![], false),
        (1, 1, vec![1.1], false),
        (1, 1, vec![f32::NAN], false),
        (u32::MAX, u32::MAX, vec![0.0], false),
    ] {
        let heatmap = Heatmap::new(width, height, values, Basis::Logit);
        assert_eq!(heatmap.is_some(), fits, "{width}x{height}");
    }
}

/// Compares with OpenCV's results (`tests/reference/make.py`).
#[test]
fn upsampling_is_opencvs_bilinear() {
    for (size, target) in [
        ((10, 10), (37, 23)),
        ((3, 5), (8, 6)),
        ((1, 1), (5, 4)),
        ((7, 1), (3, 3)),
        ((9, 9), (9, 9)),
    ] {
        let bytes = Random(u64::from(size.0)).bytes((size.0 * size.1) as usize);
        let values = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
        let heatmap = Heatmap::new(size.0, size.1, values, Basis::Logit).unwrap();
        let found = upsample(&heatmap, target.0, target.1);
        let name = format!("bilinear_{}x{}_{}x{}.f32", size.0, size.1, target.0, target.1);
        let expected = reference(&name);
        assert_eq!(found.len() * 4, expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected.as_chunks().0) {
            let off = (found - f32::from_le_bytes(*expected)).abs();
            assert!(off <= 1e-6, "{name}: off by {off}");
        }
    }
    let heatmap = Heatmap::new(1, 1, vec![1.0], Basis::Logit).unwrap();
    assert!(upsample(&heatmap, 0, 3).is_empty());
}

/// A mean of two softmaxes has no logits; its maps were once wrongly multiplied by a softmax's derivative.
#[test]
fn maps_of_probabilities_are_shown_as_they_are() {
    let cam = [4.0, -2.0, 1.0, 3.0];
    for basis in [Basis::Probability, Basis::Logit] {
        let map = GradCam { width: 2, height: 1, of: Form::Probabilities, ..map(basis) };
        for (class, expected) in [(0, [1.0, 0.0]), (1, [1.0 / 3.0, 1.0])] {
            let found = heatmap(&cam, &map, &[0.6, 0.4], Activation::Softmax, class).unwrap();
            assert_eq!(found.basis(), Basis::Probability);
            for (found, expected) in found.values().iter().zip(expected) {
                let off: f32 = found - expected;
                assert!(off.abs() < 1e-6, "class {class}: {found} {expected}");
            }
        }
    }
}

/// Maps of the two likeliest of four classes, 2 and 0: of their probabilities, then of their logits.
#[test]
fn the_likeliest_classes_alone_have_maps() {
    let output = "cam_classes".to_owned();
    let classes = MapClasses::Likeliest { count: 2, output, asked: None };
    let map = |basis| GradCam { width: 2, height: 1, classes: classes.clone(), ..map(basis) };
    let maps = vec![1.0, 4.0, 0.0, -3.0, 8.0, 2.0, 5.0, 10.0];
    let of = |listed: &[f32], class| {
        let cam = Cam { maps: maps.clone(), classes: listed.to_vec() };
        heatmap(&cam, &map(Basis::Probability), &[0.3, 0.1, 0.5, 0.1], Activation::Softmax, class)
    };
    let listed = [2.0, 0.0];
    let likeliest = of(&listed, 2).unwrap();
    assert_eq!((likeliest.values(), likeliest.basis()), (&[0.25, 1.0][..], Basis::Probability));
    // The probability map of class 0 has no positive value, so its logit map is shown.
    let other = of(&listed, 0).unwrap();
    assert_eq!((other.values(), other.basis()), (&[0.5, 1.0][..], Basis::Logit));
    assert_eq!(of(&listed, 1), Err(GradCamError::Unlikely { class: 1, count: 2 }));
    for wrong in [&[2.0][..], &[2.0, 0.5], &[2.0, -1.0], &[2.0, 4.0], &[2.0, f32::NAN]] {
        assert!(matches!(of(wrong, 2), Err(GradCamError::Classes { .. })), "{wrong:?}");
    }
    let cam = Cam { maps: maps[..4].to_vec(), classes: listed.to_vec() };
    let p = [0.3, 0.1, 0.5, 0.1];
    let logit = heatmap(&cam, &map(Basis::Logit), &p, Activation::Softmax, 2).unwrap();
    assert_eq!((logit.values(), logit.basis()), (&[0.25, 1.0][..], Basis::Logit));
    let short = heatmap(&cam, &map(Basis::Probability), &p, Activation::Softmax, 2);
    assert_eq!(short, Err(GradCamError::Shape { found: 4, rows: 4, height: 1, width: 2 }));
}
