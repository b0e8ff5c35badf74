//! The parts of a card that say how far a model knows a kind of photo: familiarity, and calibration of its
//! probabilities.

use serde::{Deserialize, Serialize};

use super::CardError;

/// Most quantiles that a card may list.
const MAX_QUANTILES: usize = 1001;

/// How to read the graph's familiarity output, `[1, 1]` f32: the photo's distance from the photos that it was
/// fitted to, divided by the largest distance that is accepted. Up to 1 a photo is familiar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Familiarity {
    /// Name of the graph's output.
    pub output: String,
    /// The distance and its source, in words.
    pub method: String,
    /// The photos it was fitted to, in words, such as "840 drawings".
    pub basis: String,
    /// Number of photos it was fitted to, without outliers.
    pub photos: u32,
    /// Number of different pictures among them; copies count once.
    pub pictures: u32,
    /// Share of further photos of the same kind that are expected to be familiar.
    pub accepted: f32,
    /// Area under the ROC curve between photos that the fit had not seen and pictures of other kinds.
    pub auroc: f32,
    /// The pictures of other kinds, in words.
    pub against: String,
    /// Scores of photos that the fit had not seen, at evenly spaced quantiles from the least to the largest.
    pub quantiles: Vec<f32>,
    /// Mean of the natural logarithms of these scores.
    pub log_mean: f32,
    /// Standard deviation of these logarithms.
    pub log_deviation: f32,
    /// Files among the photos given that are of another kind, and were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outliers: Vec<String>,
}

/// A photo's familiarity, as answered.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Familiar {
    /// Distance from the photos the model knows, in units of the largest accepted distance.
    pub score: f64,
    /// Whether the score is at most 1. It does not say that the classes are right.
    pub is_familiar: bool,
    /// Per cent of known photos with at least this score; small for unusual photos.
    pub percentile: f64,
    /// The photos that the model knows, in words.
    pub basis: String,
}

impl Familiarity {
    /// The score as it is answered: the largest number for one that is no number, infinite, or not above 0.
    /// The distance of a photo is never 0: some engines make 0 of what is no number.
    #[must_use]
    pub fn answered(score: f32) -> f32 {
        if score.is_finite() && score > 0.0 { score } else { f32::MAX }
    }

    /// Reads a score of the graph, after [`Self::answered`].
    #[must_use]
    pub fn read(&self, score: f32) -> Familiar {
        let score = Self::answered(score);
        Familiar {
            score: rounded(f64::from(score), 3),
            is_familiar: score <= 1.0,
            percentile: rounded(self.percentile(score), 1),
            basis: self.basis.clone(),
        }
    }

    /// How far the logarithm of a score is from the mean of known photos', in their standard deviations,
    /// within ±[`Self::MOST_DEVIATIONS`]. Drift is judged by its mean over many photos.
    #[must_use]
    pub fn deviation(&self, score: f64) -> f64 {
        let deviation = (score.ln() - f64::from(self.log_mean)) / f64::from(self.log_deviation);
        deviation.clamp(-Self::MOST_DEVIATIONS, Self::MOST_DEVIATIONS)
    }

    /// The largest deviation answered, so that a single photo cannot hide the others.
    pub const MOST_DEVIATIONS: f64 = 20.0;

    /// Per cent of known photos with at least this score, counting the photo itself (the p-value of conformal
    /// prediction; Vovk, Gammerman and Shafer 2005), linear between quantiles.
    fn percentile(&self, score: f32) -> f64 {
        let below = self.quantiles.partition_point(|quantile| *quantile < score);
        let last = self.quantiles.len().saturating_sub(1).max(1) as f64;
        let part = match (below.checked_sub(1), self.quantiles.get(below)) {
            (Some(before), Some(next)) => {
                let least = self.quantiles[before];
                before as f64 + f64::from((score - least) / (next - least))
            }
            (None, _) => 0.0,
            (Some(_), None) => last,
        };
        let known = f64::from(self.pictures);
        (1.0 + known * (1.0 - part / last)) / (1.0 + known) * 100.0
    }

    pub(super) fn check(&self) -> Result<(), CardError> {
        let bad = |field, problem: String| Err(CardError::Value { field, problem });
        if !(2..=MAX_QUANTILES).contains(&self.quantiles.len())
            || !self.quantiles.is_sorted()
            || self.quantiles.iter().any(|quantile| !quantile.is_finite())
        {
            let problem = format!("must be 2 to {MAX_QUANTILES} ascending numbers");
            return bad("familiarity.quantiles", problem);
        }
        let (mean, deviation) = (self.log_mean, self.log_deviation);
        if !mean.is_finite() || !deviation.is_finite() || deviation <= 0.0 {
            let problem = format!("is {deviation}; it must be above 0, and log_mean {mean} finite");
            return bad("familiarity.log_deviation", problem);
        }
        Ok(())
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

/// A correction of the probabilities, fitted to labelled photos: the scores are divided by a temperature
/// (Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Divides the logits before the activation; 1 changes nothing.
    pub temperature: f32,
    /// Number of labelled photos it was fitted to.
    pub photos: u32,
    /// A probability from 0 to 1. If no class reaches it, the answer says that it is not certain.
    pub certain_above: f32,
}

impl Calibration {
    pub(super) fn check(&self) -> Result<(), CardError> {
        let bad = |field, problem: String| Err(CardError::Value { field, problem });
        if !(0.01..=100.0).contains(&self.temperature) {
            let problem = format!("is {}; 0.01 to 100 is supported", self.temperature);
            return bad("calibration.temperature", problem);
        }
        if !(0.0..=1.0).contains(&self.certain_above) {
            let problem = format!("is {}; it is a probability from 0 to 1", self.certain_above);
            return bad("calibration.certain_above", problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn familiarity() -> Familiarity {
        Familiarity {
            output: "familiarity".to_owned(),
            method: String::new(),
            basis: "99 drawings".to_owned(),
            photos: 99,
            pictures: 99,
            accepted: 0.98,
            auroc: 0.99,
            against: String::new(),
            quantiles: vec![0.5, 0.7, 1.1],
            log_mean: -0.4,
            log_deviation: 0.1,
            outliers: Vec::new(),
        }
    }

    #[test]
    fn a_score_is_placed_among_those_of_known_photos() {
        let cases = [
            (0.1, true, 100.0),
            (0.5, true, 100.0),
            (0.65, true, 62.9),
            (0.7, true, 50.5),
            (1.0, true, 13.4),
            (1.1, false, 1.0),
            (9.0, false, 1.0),
            (f32::NAN, false, 1.0),
            (f32::INFINITY, false, 1.0),
            (0.0, false, 1.0),
            (-0.0, false, 1.0),
            (f32::NEG_INFINITY, false, 1.0),
        ];
        for (score, is_familiar, percentile) in cases {
            let read = familiarity().read(score);
            assert_eq!((read.is_familiar, read.percentile), (is_familiar, percentile), "{score}");
        }
    }

    #[test]
    fn deviations_are_those_of_the_logarithm_and_bounded() {
        let known = familiarity();
        for (score, expected) in [(1.0, 4.0), ((-0.5_f64).exp(), -1.0), (0.0, -20.0), (1e30, 20.0)]
        {
            let found = known.deviation(score);
            assert!((found - expected).abs() < 1e-5, "{score}: {found}");
        }
    }

    #[test]
    fn quantiles_must_ascend_and_a_temperature_must_be_usable() {
        let broken = [vec![1.0], vec![1.0, 0.5], vec![0.0, f32::INFINITY]];
        for quantiles in broken {
            assert!(
                Familiarity { quantiles: quantiles.clone(), ..familiarity() }.check().is_err(),
                "{quantiles:?}"
            );
        }
        assert!(familiarity().check().is_ok());
        let calibration = |temperature| Calibration { temperature, photos: 1, certain_above: 0.5 };
        for temperature in [0.0, -1.0, f32::NAN, 1e3] {
            assert!(calibration(temperature).check().is_err(), "{temperature}");
        }
        assert!(calibration(0.58).check().is_ok());
    }
}
