//! Ranks the classes by the model's scores. Applies the activation if the graph does not. Classes are
//! indices into the card's list; labels are not used here.

use crate::card::{Activation, Card, Form, Output};
use thiserror::Error;

/// One class and how probable it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    /// Index into the card's list of classes.
    pub index: usize,
    /// Probability, 0 to 1.
    pub probability: f32,
}

/// Why scores cannot be read as probabilities.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum RankError {
    /// The model returned no scores.
    #[error("the model gave no scores: check that the card's output names the score tensor")]
    Empty,
    /// A score is NaN or infinite.
    #[error("the model's score {index} is {score}: run `skincell model check` on this model")]
    NotFinite {
        /// Index of the first such score.
        index: usize,
        /// The score.
        score: f32,
    },
    /// The card says probabilities, but a score is outside 0 to 1.
    #[error(
        "the model's score {index} is {score}, outside 0 to 1, though its card says probabilities: \
         set output.form to logits in the card"
    )]
    NotProbability {
        /// Index of the first such score.
        index: usize,
        /// The score.
        score: f32,
    },
}

/// How far a probability may lie outside 0 to 1 because of rounding. Half precision's next number above 1 is
/// 1 + 2^-10; twice that is allowed.
const ROUNDING: f32 = 1.0 / 512.0;

/// Turns the score tensor, `[classes]` f32, into probabilities in the same order, each 0 to 1.
///
/// Logits go through the card's activation: softmax (after subtracting the largest logit, summed in f64 so
/// that even 100,000 classes add up to 1) or sigmoid. Scores that are already probabilities are clamped
/// if they are within 1/512 of 0 to 1, and refused beyond.
///
/// # Errors
/// [`RankError`] for no scores, a score that is not finite, or a probability outside 0 to 1.
pub fn probabilities(scores: &[f32], output: &Output) -> Result<Vec<f32>, RankError> {
    if scores.is_empty() {
        return Err(RankError::Empty);
    }
    if let Some((index, &score)) = scores.iter().enumerate().find(|(_, s)| !s.is_finite()) {
        return Err(RankError::NotFinite { index, score });
    }
    match (output.form, output.activation) {
        (Form::Probabilities, _) => checked(scores),
        (Form::Logits, Activation::Softmax) => Ok(softmax(scores)),
        (Form::Logits, Activation::Sigmoid) => Ok(scores.iter().map(|&s| sigmoid(s)).collect()),
    }
}

/// The probabilities after dividing the scores behind them by a temperature (Guo et al. 2017,
/// arXiv:1706.04599). The order of the classes stays the same.
///
/// Computed from the probabilities, so that one function serves every form of scores: for softmax
/// `p^(1/T)` divided by their sum, for sigmoid the same of p and 1 - p.
#[must_use]
pub fn calibrated(probabilities: &[f32], activation: Activation, temperature: f32) -> Vec<f32> {
    let power = |p: f64| p.powf(1.0 / f64::from(temperature));
    let each = probabilities.iter().map(|p| f64::from(*p));
    match activation {
        Activation::Softmax => {
            let sum: f64 = each.clone().map(power).sum();
            each.map(|p| (power(p) / sum) as f32).collect()
        }
        Activation::Sigmoid => {
            each.map(|p| (power(p) / (power(p) + power(1.0 - p))) as f32).collect()
        }
    }
}

/// The probabilities as answered: with the card's calibration, if it has one. Heatmaps use those without it.
#[must_use]
pub fn answered(probabilities: &[f32], card: &Card) -> Vec<f32> {
    match &card.calibration {
        None => probabilities.to_vec(),
        Some(calibration) => {
            calibrated(probabilities, card.output.activation, calibration.temperature)
        }
    }
}

/// The `top_k` most probable classes, most probable first, ties by index; all classes if `top_k` is larger
/// than their number.
#[must_use]
pub fn rank(probabilities: &[f32], top_k: usize) -> Vec<Ranked> {
    let mut ranked: Vec<Ranked> = probabilities
        .iter()
        .enumerate()
        .map(|(index, &probability)| Ranked { index, probability })
        .collect();
    ranked.sort_by(|a, b| {
        b.probability.total_cmp(&a.probability).then_with(|| a.index.cmp(&b.index))
    });
    ranked.truncate(top_k);
    ranked
}

fn checked(scores: &[f32]) -> Result<Vec<f32>, RankError> {
    let allowed = -ROUNDING..=1.0 + ROUNDING;
    match scores.iter().enumerate().find(|(_, s)| !allowed.contains(s)) {
        Some((index, &score)) => Err(RankError::NotProbability { index, score }),
        None => Ok(scores.iter().map(|s| s.clamp(0.0, 1.0)).collect()),
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The difference of two finite f32 may overflow f32, so it is taken in f64.
    let powers: Vec<f64> =
        logits.iter().map(|&l| (f64::from(l) - f64::from(largest)).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| (p / sum) as f32).collect()
}

fn sigmoid(logit: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(form: Form, activation: Activation) -> Output {
        Output { name: "scores".to_owned(), form, activation }
    }

    /// Expected values from numpy in float64: `np.exp(x - x.max())` over its sum; `1/(1+np.exp(-x))`.
    #[test]
    fn activations_are_exact_and_stable() {
        let softmax = output(Form::Logits, Activation::Softmax);
        let sigmoid = output(Form::Logits, Activation::Sigmoid);
        for (scores, output, expected) in [
            (&[1.0, 2.0, 3.0][..], &softmax, &[0.090_030_57, 0.244_728_48, 0.665_240_94][..]),
            (&[1001.0, 1002.0, 1003.0], &softmax, &[0.090_030_57, 0.244_728_48, 0.665_240_94]),
            (&[-5.0], &softmax, &[1.0]),
            (&[f32::MAX, f32::MIN], &softmax, &[1.0, 0.0]),
            (&[0.0; 4], &softmax, &[0.25; 4]),
            (&[0.0, 2.0, -2.0], &sigmoid, &[0.5, 0.880_797_1, 0.119_202_92]),
            (&[f32::MAX, f32::MIN, 100.0, -100.0], &sigmoid, &[1.0, 0.0, 1.0, 3.72e-44]),
        ] {
            let found = probabilities(scores, output).unwrap();
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() <= 1e-7, "{scores:?}: {found} {expected}");
            }
        }
    }

    /// Against the activations of the divided scores.
    #[test]
    fn a_temperature_divides_the_scores() {
        let scores = [1.5_f32, -0.25, 0.75, -6.0];
        for activation in [Activation::Softmax, Activation::Sigmoid] {
            let output = output(Form::Logits, activation);
            for temperature in [0.58_f32, 1.0, 2.5] {
                let divided: Vec<f32> = scores.iter().map(|score| score / temperature).collect();
                let expected = probabilities(&divided, &output).unwrap();
                let plain = probabilities(&scores, &output).unwrap();
                let found = calibrated(&plain, activation, temperature);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!((found - expected).abs() < 1e-6, "{activation:?} {temperature}");
                }
            }
        }
        assert_eq!(calibrated(&[1.0, 0.0], Activation::Softmax, 0.5), [1.0, 0.0]);
        assert_eq!(calibrated(&[1.0, 0.0], Activation::Sigmoid, 2.0), [1.0, 0.0]);
    }

    #[test]
    fn many_classes_sum_to_one() {
        let scores: Vec<f32> = (0..100_000_u32).map(|i| (i % 977) as f32 * 0.01).collect();
        let found = probabilities(&scores, &output(Form::Logits, Activation::Softmax)).unwrap();
        let sum: f64 = found.iter().map(|&p| f64::from(p)).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{sum}");
    }

    #[test]
    fn probabilities_pass_through_checked() {
        let given = output(Form::Probabilities, Activation::Softmax);
        assert_eq!(probabilities(&[0.25, 0.75], &given).unwrap(), [0.25, 0.75]);
        assert_eq!(probabilities(&[1.000_5, -0.000_5], &given).unwrap(), [1.0, 0.0]);
        let error = probabilities(&[0.5, 3.5], &given).unwrap_err();
        assert_eq!(error, RankError::NotProbability { index: 1, score: 3.5 });
    }

    #[test]
    fn missing_and_non_finite_scores_are_errors() {
        for form in [Form::Logits, Form::Probabilities] {
            let output = output(form, Activation::Softmax);
            assert_eq!(probabilities(&[], &output).unwrap_err(), RankError::Empty);
            for score in [f32::INFINITY, f32::NEG_INFINITY] {
                let error = probabilities(&[0.0, score], &output).unwrap_err();
                assert_eq!(error, RankError::NotFinite { index: 1, score });
            }
            let error = probabilities(&[f32::NAN], &output).unwrap_err();
            assert!(matches!(error, RankError::NotFinite { index: 0, .. }), "{error}");
        }
    }

    #[test]
    fn ranks_descending_with_ties_by_index() {
        let probabilities = [0.1, 0.4, 0.1, 0.4, 0.0];
        let order = |top_k| rank(&probabilities, top_k).iter().map(|r| r.index).collect::<Vec<_>>();
        for (top_k, expected) in [
            (0, &[][..]),
            (1, &[1]),
            (3, &[1, 3, 0]),
            (5, &[1, 3, 0, 2, 4]),
            (99, &[1, 3, 0, 2, 4]),
        ] {
            assert_eq!(order(top_k), expected, "top {top_k}");
        }
        assert_eq!(rank(&probabilities, 1), [Ranked { index: 1, probability: 0.4 }]);
        assert_eq!(rank(&[], 3), []);
    }
}
