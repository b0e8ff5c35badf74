//! Compares the prepared graph with the original on photos, before it is written.
//!
//! The original is the framework behind [`Reference`] (Keras's `predict`, the PyTorch module) or, for an ONNX
//! file, the graph as it was read, run by the engine. Only probabilities are compared, not heatmaps.

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

/// The original framework, which computes the expected scores.
pub trait Reference {
    /// Its name, as shown to users.
    fn name(&self) -> &str;

    /// The names and elements of all outputs for one photo.
    ///
    /// # Errors
    /// The framework's message.
    fn predict(&mut self, inputs: &[Given]) -> Result<Vec<(String, Vec<f64>)>, String>;
}

/// The result of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Name of the original.
    pub with: String,
    /// Largest difference of a probability.
    pub difference: f64,
    /// Names of the photos.
    pub photos: Vec<String>,
    /// Likeliest class of each photo and its probability, by the prepared graph.
    pub likeliest: Vec<(usize, f64)>,
    /// Largest difference of one class's probability between two photos.
    pub spread: f64,
}

/// Why the comparison failed.
#[derive(Debug, Error)]
pub enum CompareError {
    /// The engine cannot run a graph.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The framework reported an error.
    #[error("{name} cannot predict: {reason}")]
    Reference {
        /// The framework's name.
        name: String,
        /// Its message.
        reason: String,
    },
    /// The prepared graph's scores are not valid.
    #[error("the prepared model's scores cannot be read: {0}")]
    Scores(#[from] RankError),
    /// The numbers of scores differ.
    #[error(
        "{name} returns {found} scores for a photo, but the exported model returns {expected}; name the \
         output with --scores"
    )]
    Count {
        /// The framework's name.
        name: String,
        /// Number of the framework's scores.
        found: usize,
        /// Number of the exported model's scores.
        expected: usize,
    },
    /// The probabilities differ.
    #[error(
        "the prepared model's probabilities differ from those of {with} by {difference:.1e} on {photo}, \
         and {allowed:.0e} is allowed; if the cause is known and the difference acceptable, raise \
         --max-difference"
    )]
    Differs {
        /// Name of the original.
        with: String,
        /// The difference.
        difference: f64,
        /// The photo.
        photo: String,
        /// The largest accepted difference.
        allowed: f64,
    },
}

/// Names and tensors of some photos.
pub(crate) type Samples = [(String, Tensor<f32>)];

/// The scores of the original graph for each photo.
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

/// The expected scores and the name of their source: the framework's if there is one, otherwise the original
/// graph's.
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
        // An inner tensor of the graph has no name in the framework. A single output of the same length then
        // holds the same scores, or their probabilities.
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

/// Runs the prepared graph and compares.
///
/// # Errors
/// [`CompareError::Differs`] for a difference above `allowed`.
pub(crate) fn compare(
    prepared: &Graph,
    output: &Output,
    samples: &Samples,
    (with, right): (String, Vec<Vec<f64>>),
    reading: &Reading,
    allowed: f64,
) -> Result<Comparison, CompareError> {
    let engine = GraphEngine::load_as_served(prepared)?;
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
