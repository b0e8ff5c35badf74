//! What is about to be written, beside the framework it came from, on photos.
//!
//! The framework answers through [`Reference`]: Keras's `predict`, the PyTorch module, or, for an ONNX
//! file, the file as it was read, run by the engine. Compared are probabilities.

use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::Output;
use skincell_vision::rank::{RankError, probabilities};
use thiserror::Error;

use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;
use crate::scores::Reading;

/// One input of a model for one photo, float32.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The input's name.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// The elements, last axis fastest.
    pub values: Vec<f32>,
}

/// Who says what is right.
pub trait Reference {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Every output by name, its elements in order, for one photo.
    ///
    /// # Errors
    /// Its own words.
    fn predict(&mut self, inputs: &[Given]) -> Result<Vec<(String, Vec<f64>)>, String>;
}

/// The answers of both sides, compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Who was compared with.
    pub with: String,
    /// Largest difference of a probability.
    pub difference: f64,
    /// The photos.
    pub photos: Vec<String>,
    /// Likeliest class of each photo and its probability, as will be served.
    pub likeliest: Vec<(usize, f64)>,
    /// Largest difference of one class's probability between two photos.
    pub spread: f64,
}

/// Why there is no comparison.
#[derive(Debug, Error)]
pub enum CompareError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The framework.
    #[error("{name} does not predict: {reason}")]
    Reference {
        /// Its name.
        name: String,
        /// What it said.
        reason: String,
    },
    /// What will be served are no probabilities.
    #[error("the prepared model's scores cannot be read: {0}")]
    Scores(#[from] RankError),
    /// Another number of scores.
    #[error(
        "{name} gives {found} scores for a photo, and the exported model {expected}; name the output \
         with --scores"
    )]
    Count {
        /// Its name.
        name: String,
        /// How many it gives.
        found: usize,
        /// How many the exported model gives.
        expected: usize,
    },
    /// They differ.
    #[error(
        "the prepared model's probabilities differ from those of {with} by {difference:.1e} on {photo}, \
         and {allowed:.0e} is allowed; where that is known and small enough for its purpose, \
         --max-difference lets it pass"
    )]
    Differs {
        /// Who was compared with.
        with: String,
        /// By how much.
        difference: f64,
        /// On which photo.
        photo: String,
        /// How much is let pass.
        allowed: f64,
    },
}

/// The tensors of some photos, by the photos' names.
pub(crate) type Samples = [(String, Tensor<f32>)];

/// What the original says: the numbers of each photo's scores.
pub(crate) fn original(
    graph: &Graph,
    output: &str,
    samples: &Samples,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let engine = GraphEngine::load(graph)?;
    samples.iter().map(|(_, photo)| one(&engine, output, photo)).collect()
}

fn one(engine: &GraphEngine, output: &str, photo: &Tensor<f32>) -> Result<Vec<f32>, EngineError> {
    let tensors = engine.run(photo.view().into(), &[output])?;
    Ok(tensors.first().map(|t| t.iter().copied().collect()).unwrap_or_default())
}

/// What is right: the framework's numbers where there is one, else the original's.
pub(crate) fn expected(
    reference: Option<&mut dyn Reference>,
    output: &str,
    original: &[Vec<f32>],
    samples: &Samples,
    (input, defaults): (&str, &[(String, Vec<f32>)]),
) -> Result<(String, Vec<Vec<f64>>), CompareError> {
    let Some(reference) = reference else {
        let wide = |numbers: &Vec<f32>| numbers.iter().map(|n| f64::from(*n)).collect();
        return Ok(("the original, by rten".to_owned(), original.iter().map(wide).collect()));
    };
    let name = reference.name().to_owned();
    let mut found = Vec::new();
    for ((_, photo), numbers) in samples.iter().zip(original) {
        let shape = photo.shape().to_vec();
        let values = photo.iter().copied().collect();
        let mut given = vec![Given { name: input.to_owned(), shape, values }];
        given.extend(defaults.iter().map(|(name, values)| {
            let (name, shape) = (name.clone(), vec![1, values.len()]);
            Given { name, shape, values: values.clone() }
        }));
        let fail = |reason| CompareError::Reference { name: name.clone(), reason };
        let answers = reference.predict(&given).map_err(fail)?;
        let by_name = answers.iter().position(|(name, _)| name == output);
        // An inner tensor has no name there; a single output of the same length is it or what it becomes.
        let scores = match (by_name, &answers[..]) {
            (Some(at), answers) => answers.get(at).map(|(_, scores)| scores.clone()),
            (None, [(_, scores)]) => Some(scores.clone()),
            _ => None,
        };
        let scores = scores.unwrap_or_default();
        if scores.len() != numbers.len() {
            let (found, expected) = (scores.len(), numbers.len());
            return Err(CompareError::Count { name, found, expected });
        }
        found.push(scores);
    }
    Ok((name, found))
}

/// Runs what will be served and compares.
///
/// # Errors
/// [`CompareError::Differs`] above `allowed`.
pub(crate) fn compare(
    prepared: &Graph,
    output: &Output,
    samples: &Samples,
    (with, right): (String, Vec<Vec<f64>>),
    reading: &Reading,
    allowed: f64,
) -> Result<Comparison, CompareError> {
    let engine = GraphEngine::load(prepared)?;
    let mut difference = 0.0_f64;
    let mut served = Vec::new();
    for ((photo, tensor), numbers) in samples.iter().zip(&right) {
        let found = probabilities(&one(&engine, &output.name, tensor)?, output)?;
        let pairs = found.iter().zip(reading.probabilities(numbers));
        let off = pairs.map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        if off > allowed || off.is_nan() {
            let photo = photo.clone();
            return Err(CompareError::Differs { with, difference: off, photo, allowed });
        }
        difference = difference.max(off);
        served.push(found);
    }
    let likeliest = |found: &Vec<f32>| {
        let best = skincell_vision::rank::rank(found, 1);
        best.first().map_or((0, 0.0), |best| (best.index, f64::from(best.probability)))
    };
    let classes = served.first().map_or(0, Vec::len);
    let span = |class: usize| {
        let of = served.iter().filter_map(|found| found.get(class).copied());
        let (low, high) = of.fold((1.0_f32, 0.0_f32), |(l, h), p| (l.min(p), h.max(p)));
        f64::from(high - low)
    };
    Ok(Comparison {
        with,
        difference,
        photos: samples.iter().map(|(name, _)| name.clone()).collect(),
        likeliest: served.iter().map(likeliest).collect(),
        spread: (0..classes).map(span).fold(0.0, f64::max),
    })
}
