//! Compares the prepared graph with the original on photos, before it is written.
//!
//! The original is the framework behind [`Reference`] (Keras's `predict`, the PyTorch module) or, for an ONNX
//! file, the graph as it was read, run by the engine. Only probabilities are compared, not heatmaps.
//!
//! A network that rounds to integers while it runs multiplies the last bit of a sum: where a value falls to
//! another integer, everything after it differs. Fused operators sum in another order. So such a network may
//! differ from itself by as much as a change of the photo by [`CHANGE`] makes of it.

use rten_onnx::onnx::NodeProto;
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::Output;
use skincell_vision::rank::{RankError, probabilities};
use thiserror::Error;

use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::{Graph, op};
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
    /// If that was needed to accept the difference, by how much a probability changes with a photo that is
    /// changed by a millionth of its largest element, because the network rounds to integers.
    pub rounding: Option<f64>,
}

/// A change of a photo that is no more than rounding in float32, as a part of its largest element.
pub(crate) const CHANGE: f32 = 1e-6;
/// How many changes are tried.
const CHANGES: usize = 8;
/// How many times the largest change the difference may be: of so few changes, a larger one is likely.
pub(crate) const MARGIN: f64 = 4.0;

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
    let (mut difference, mut rounding) = (0.0_f64, None);
    let mut served = Vec::new();
    for ((photo, tensor), numbers) in samples.iter().zip(&right) {
        let found = probabilities(&one(&engine, &output.name, tensor)?, output)?;
        let right = reading.probabilities(numbers);
        let off = largest(&found, &right);
        if off > allowed || off.is_nan() {
            let own = changes(prepared, output, tensor, &right, allowed)?;
            let Some(own) = own.filter(|own| off <= own * MARGIN) else {
                let photo = photo.clone();
                return Err(CompareError::Differs { with, difference: off, photo, allowed });
            };
            rounding = Some(rounding.map_or(own, |most: f64| most.max(own)));
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
        rounding,
    })
}

fn largest(found: &[f32], right: &[f64]) -> f64 {
    let off = found.iter().zip(right).map(|(a, b)| (f64::from(*a) - b).abs());
    // `f64::max` would drop a difference that is not a number.
    off.fold(0.0, |most, off| if most.is_nan() || off <= most { most } else { off })
}

/// By how much a probability changes with small changes of the photo, if the network rounds to integers, and
/// without fused operators has the `right` probabilities.
fn changes(
    prepared: &Graph,
    output: &Output,
    photo: &Tensor<f32>,
    right: &[f64],
    allowed: f64,
) -> Result<Option<f64>, CompareError> {
    if !prepared.nodes.iter().any(rounds) {
        return Ok(None);
    }
    let engine = GraphEngine::load(prepared)?;
    let run = |photo: &Tensor<f32>| -> Result<f64, CompareError> {
        let found = probabilities(&one(&engine, &output.name, photo)?, output)?;
        Ok(largest(&found, right))
    };
    let off = run(photo)?;
    if off > allowed || off.is_nan() {
        return Ok(None);
    }
    let mut most = 0.0_f64;
    for values in changed(&photo.to_vec()) {
        most = most.max(run(&Tensor::from_data(photo.shape(), values))?);
    }
    Ok(Some(most))
}

/// Whether a node makes integers of 8 or 16 bits of what the model computes.
pub(crate) fn quantizes(node: &NodeProto) -> bool {
    matches!(op(node), "QuantizeLinear" | "DynamicQuantizeLinear")
}

/// Whether a node rounds to integers, of whatever type.
pub(crate) fn rounds(node: &NodeProto) -> bool {
    quantizes(node) || op(node) == "Round"
}

/// 1 or -1, without an order: by Knuth's multiplicative hash.
pub(crate) fn sign(number: usize) -> f32 {
    if number.wrapping_mul(2_654_435_769) & (1 << 31) == 0 { 1.0 } else { -1.0 }
}

/// [`CHANGES`] ways to change a photo's elements by [`CHANGE`] of the largest one, up or down.
pub(crate) fn changed(photo: &[f32]) -> impl Iterator<Item = Vec<f32>> {
    let step = CHANGE * photo.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    (1..=CHANGES).map(move |change| {
        let moved = |(index, value): (usize, &f32)| value + sign(index * CHANGES + change) * step;
        photo.iter().enumerate().map(moved).collect()
    })
}

#[cfg(test)]
mod tests {
    use rten_onnx::onnx::OperatorSetIdProto;
    use skincell_onnx::Constant;
    use skincell_vision::card::{Activation, Form};

    use super::*;
    use crate::onnx::graph::value_info;

    /// Two scores: the photo's two elements, enlarged so that one lies between two integers. Rounded, if
    /// `rounds`.
    fn graph(rounds: bool) -> Graph {
        let mut graph = Graph {
            inputs: vec![value_info("photo", &[1, 2])],
            outputs: vec![value_info("scores", &[1, 2])],
            ir_version: 8,
            opsets: vec![OperatorSetIdProto { version: Some(17), domain: None }],
            ..Graph::default()
        };
        let hundred = graph.add_constant("hundred", Constant::scalar(100.0));
        let large = graph.emit("large", "Mul", &["photo", &hundred], vec![]);
        let operator = if rounds { "Round" } else { "Identity" };
        graph.emit("scores", operator, &[&large], vec![]);
        graph
    }

    /// The changes of the graph's probabilities, if those of the photo are `off` by this much.
    fn changes_of(graph: &Graph, off: f64) -> Option<f64> {
        let name = "scores".to_owned();
        let output = Output { name, form: Form::Logits, activation: Activation::Softmax };
        let photo = Tensor::from_data(&[1, 2], vec![0.02, 0.024_999_99]);
        let engine = GraphEngine::load(graph).expect("loads");
        let scores = one(&engine, "scores", &photo).expect("runs");
        let found = probabilities(&scores, &output).expect("probabilities");
        let right: Vec<f64> = found.iter().map(|found| f64::from(*found) + off).collect();
        changes(graph, &output, &photo, &right, 1e-4).expect("runs")
    }

    #[test]
    fn only_networks_that_round_may_differ_from_themselves() {
        let half = changes_of(&graph(true), 0.0).expect("it rounds");
        // Scores of 2 and 3 instead of 2 and 2.
        let expected = 1.0 / (1.0 + (-1.0f64).exp()) - 0.5;
        assert!((half - expected).abs() < 1e-6, "{half}");
        assert_eq!(changes_of(&graph(false), 0.0), None);
    }

    #[test]
    fn a_network_that_rounds_must_be_right_without_fused_operators() {
        assert_eq!(changes_of(&graph(true), 2e-4), None);
        assert_eq!(changes_of(&graph(true), f64::NAN), None);
    }

    #[test]
    fn a_difference_that_is_no_number_is_not_passed_over() {
        assert!(largest(&[0.5, f32::NAN, 0.5], &[0.5, 0.5, 0.4]).is_nan());
    }
}
