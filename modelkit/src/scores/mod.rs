//! Decides whether a classifier's output holds logits or probabilities and which activation belongs to it,
//! and adds nodes that bring it to `[1, classes]`.
//!
//! The evidence is the last function of the graph (`ending`), the bounds of the graph's values (`range`)
//! and the output on photos. If it allows more than one interpretation, [`ScoresError`] names the flag that
//! decides. Choosing the output tensor is left to [`crate::interface`].

mod ending;
mod error;
mod range;

use skincell_vision::card::{Activation, Form};

use crate::onnx::engine::Probe;
use crate::onnx::graph::{Graph, input, int_attribute, label, op, value_info};
use ending::{Ending, Function, ending};
pub use error::ScoresError;
use range::{Range, never_negative, range};
use skincell_onnx::Constant;

/// The scores of a graph.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores {
    /// The graph's output, `[1, classes]`.
    pub(crate) output: String,
    /// The value of which the probabilities are the softmax or sigmoid, `[1, classes]`; it is the output
    /// itself if the graph applies neither. `None` if there is no such value, as for a mean of two
    /// softmaxes; the output then holds probabilities.
    pub(crate) logits: Option<String>,
    pub(crate) form: Form,
    /// The function that turns logits into probabilities.
    pub(crate) activation: Activation,
}

impl Scores {
    /// The value whose gradient is computed: the logits, or the probabilities if there are no logits.
    pub(crate) fn differentiated(&self) -> &str {
        self.logits.as_deref().unwrap_or(&self.output)
    }
}

/// The activation given by the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidActivation {
    /// The probabilities are the softmax of the scores, or the graph ends with a softmax.
    Softmax,
    /// The probabilities are the sigmoid of each score, or the graph ends with a sigmoid.
    Sigmoid,
    /// The scores are logarithms of probabilities.
    LogSoftmax,
    /// The scores are probabilities, and the graph does not show how they were computed.
    None,
}

/// The scores found, and how, for the report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    pub(crate) scores: Scores,
    /// How the probabilities are computed, for the report.
    pub(crate) how: String,
    /// Whether the activation is an assumption, without evidence in the graph.
    pub(crate) assumed: bool,
    /// How the original output becomes probabilities, for the comparison.
    pub(crate) reading: Reading,
}

/// How the original output becomes probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) form: Form,
    pub(crate) activation: Activation,
    /// Whether a single score stands for two classes: it is the second's.
    pub(crate) pair: bool,
}

impl Reading {
    /// Probabilities of one photo in the order of the labels, in f64.
    pub(crate) fn probabilities(&self, numbers: &[f64]) -> Vec<f64> {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let values: Vec<f64> = match (self.form, self.activation) {
            (Form::Probabilities, _) => numbers.to_vec(),
            (Form::Logits, Activation::Sigmoid) => numbers.iter().map(|x| sigmoid(*x)).collect(),
            (Form::Logits, Activation::Softmax) => {
                let most = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = numbers.iter().map(|x| (x - most).exp()).collect();
                let sum: f64 = powers.iter().sum();
                powers.iter().map(|p| p / sum).collect()
            }
        };
        match values[..] {
            [p] if self.pair => vec![1.0 - p, p],
            _ => values,
        }
    }
}

/// Largest distance of a sum of probabilities from 1, enough for a thousand of them in half precision.
const SUM_TOLERANCE: f64 = 2e-3;

/// The same if the graph rounds the result of its softmax to 8 bits.
const ROUGH_SUM_TOLERANCE: f64 = 0.1;

/// Properties of the scores of all photos.
struct Numbers {
    /// Whether each is between 0 and 1.
    within: bool,
    /// Whether those of each photo sum to 1.
    sums_to_one: bool,
    /// Whether they do up to rounding to 8 bits.
    sums_roughly: bool,
    /// Whether none is negative and those of each photo sum to 100.
    percent: bool,
    /// Sum of the first photo's.
    first_sum: f64,
}

impl Numbers {
    fn of(outputs: &[Vec<f32>]) -> Result<Self, ScoresError> {
        for (photo, scores) in outputs.iter().enumerate() {
            if let Some((index, &score)) = scores.iter().enumerate().find(|(_, s)| !s.is_finite()) {
                return Err(ScoresError::NotFinite { photo: photo + 1, index, score });
            }
        }
        let sum = |scores: &Vec<f32>| scores.iter().map(|s| f64::from(*s)).sum::<f64>();
        let slack = SUM_TOLERANCE as f32;
        let within = outputs.iter().flatten().all(|s| (-slack..=1.0 + slack).contains(s));
        let first_sum = outputs.first().map_or(0.0, sum);
        let sums = |slack: f64| {
            within && !outputs.is_empty() && outputs.iter().all(|s| (sum(s) - 1.0).abs() <= slack)
        };
        let (sums_to_one, sums_roughly) = (sums(SUM_TOLERANCE), sums(ROUGH_SUM_TOLERANCE));
        let hundred = |s: &Vec<f32>| {
            s.iter().all(|x| *x >= -slack) && (sum(s) - 100.0).abs() <= 100.0 * SUM_TOLERANCE
        };
        let percent = !outputs.is_empty() && outputs.iter().all(hundred);
        Ok(Self { within, sums_to_one, sums_roughly, percent, first_sum })
    }
}

/// The interpretation of the scores, found before the graph is changed.
struct Found {
    form: Form,
    activation: Activation,
    /// Name of the input of the graph's last function.
    before: Option<String>,
    how: String,
    assumed: bool,
}

/// Decides how output `name` becomes probabilities, and brings it to `[1, classes]`.
///
/// `outputs` are its values on some photos, `labels` is the number of labels; `probe` was loaded from the
/// unchanged graph.
///
/// # Errors
/// [`ScoresError`] if the scores cannot be interpreted or the flag `said` contradicts them.
pub(crate) fn settle(
    graph: &mut Graph,
    probe: &mut Probe,
    name: &str,
    outputs: &[Vec<f32>],
    labels: usize,
    said: Option<SaidActivation>,
) -> Result<Settled, ScoresError> {
    let shape = shape_of(probe, name)?;
    let count = classes(name, &shape)?;
    let pair = count == 1 && labels == 2;
    if count != labels && !pair {
        return Err(ScoresError::Labels { scores: count, labels });
    }
    let numbers = Numbers::of(outputs)?;
    let end = ending(graph, name);
    let found = match said {
        Some(said) => as_said(said, end.as_ref(), &numbers)?,
        None => decide(graph, name, count, end, &numbers)?,
    };
    let reading = Reading { form: found.form, activation: found.activation, pair };
    let how = match (pair, found.how) {
        (true, how) => format!("{how}; the score is the probability of the second label"),
        (false, how) => how,
    };
    let before = match &found.before {
        Some(before) => Some((before.as_str(), shape_of(probe, before)?)),
        None => None,
    };
    let output = flat(graph, name, &shape, "scores/flat");
    let logits = match before {
        Some((before, shape)) => Some(flat(graph, before, &shape, "scores/logits")),
        None => (found.form == Form::Logits).then(|| output.clone()),
    };
    let scores = Scores { output, logits, form: found.form, activation: found.activation };
    let scores = if pair { paired(graph, scores) } else { scores };
    let classes = if pair { 2 } else { count };
    graph.outputs = vec![value_info(&scores.output, &[1, classes])];
    Ok(Settled { scores, how, assumed: found.assumed, reading })
}

/// The number of scores in an output of this shape.
///
/// # Errors
/// [`ScoresError::Shape`] if more than one axis is longer than 1, or the batch is.
fn classes(name: &str, shape: &[usize]) -> Result<usize, ScoresError> {
    let long = shape.iter().filter(|side| **side != 1).count();
    let count: usize = shape.iter().product();
    if long > 1 || count == 0 || (long == 1 && shape.len() > 1 && shape.first() != Some(&1)) {
        let (kind, advice) = usual(shape);
        return Err(ScoresError::Shape {
            name: name.to_owned(),
            shape: shape.to_vec(),
            kind,
            advice,
        });
    }
    Ok(count)
}

/// What an output of this shape usually is, and what to do, each as a part of a sentence.
fn usual(shape: &[usize]) -> (&'static str, &'static str) {
    match *shape {
        [1, _, height, width] if height > 1 || width > 1 => (
            ", as of a segmentation or a picture, with numbers for each place",
            ", or export the model with their mean over the places, scores.mean((2, 3))",
        ),
        [1, _, _] => (
            ", as of an object detector's boxes or of a sequence",
            "; a detector has none, and skincell serves classifiers",
        ),
        [batch, ..] if batch > 1 => {
            (", as of several photos", ", or export the model for one photo")
        }
        _ => ("", ""),
    }
}

/// Interprets the scores as the user's flag demands.
///
/// # Errors
/// [`ScoresError::Contradiction`] if the graph or the scores contradict the flag.
fn as_said(
    said: SaidActivation,
    end: Option<&Ending>,
    numbers: &Numbers,
) -> Result<Found, ScoresError> {
    let function = end.map(|end| end.function);
    let before = end.map(|end| end.before.clone());
    let refuse = |said, found: String| Err(ScoresError::Contradiction { said, found });
    let node = || end.map(|end| end.node.clone()).unwrap_or_default();
    let found = |form, activation, before, how: &str| {
        Ok(Found { form, activation, before, how: how.to_owned(), assumed: false })
    };
    let (done, logits) = (Form::Probabilities, Form::Logits);
    match (said, function) {
        (SaidActivation::Softmax, Some(Function::Sigmoid)) => {
            refuse("softmax", format!("{} ends the graph", node()))
        }
        (SaidActivation::Sigmoid, Some(Function::Softmax | Function::LogSoftmax)) => {
            refuse("sigmoid", format!("{} ends the graph", node()))
        }
        (SaidActivation::Softmax, Some(Function::Softmax)) => {
            found(done, Activation::Softmax, before, "softmax, in the graph")
        }
        (SaidActivation::Sigmoid, Some(Function::Sigmoid)) => {
            found(done, Activation::Sigmoid, before, "sigmoid, in the graph")
        }
        (SaidActivation::Softmax | SaidActivation::LogSoftmax, _) => {
            if function == Some(Function::Softmax) {
                return refuse("log-softmax", format!("{} ends the graph", node()));
            }
            let before = before.filter(|_| function == Some(Function::LogSoftmax));
            found(logits, Activation::Softmax, before, "softmax, as --activation says")
        }
        (SaidActivation::Sigmoid, _) => {
            found(logits, Activation::Sigmoid, None, "sigmoid, as --activation says")
        }
        (SaidActivation::None, _) if !numbers.within => {
            refuse("none", "the scores leave the range from 0 to 1".to_owned())
        }
        (SaidActivation::None, _) => {
            let activation = match (function, numbers.sums_to_one) {
                (Some(Function::Sigmoid), _) | (_, false) => Activation::Sigmoid,
                _ => Activation::Softmax,
            };
            let before = before.filter(|_| function != Some(Function::LogSoftmax));
            found(done, activation, before, "none, as --activation says")
        }
    }
}

/// Interprets the scores by the last function of the graph, the bounds of its values and the scores.
fn decide(
    graph: &Graph,
    name: &str,
    count: usize,
    end: Option<Ending>,
    numbers: &Numbers,
) -> Result<Found, ScoresError> {
    let found = |form, activation, before, how: &str, assumed| {
        Ok(Found { form, activation, before, how: how.to_owned(), assumed })
    };
    let (done, logits) = (Form::Probabilities, Form::Logits);
    if let Some(Ending { function, before, node }) = end {
        return match function {
            Function::Softmax if count == 1 => Err(ScoresError::Constant { node, before }),
            Function::Softmax if numbers.sums_roughly => {
                found(done, Activation::Softmax, Some(before), "softmax, in the graph", false)
            }
            Function::Softmax => {
                Err(ScoresError::WrongAxis { node, sum: numbers.first_sum, before })
            }
            Function::LogSoftmax => found(
                logits,
                Activation::Softmax,
                Some(before),
                "softmax, of the graph's log-softmax",
                false,
            ),
            Function::Sigmoid => {
                found(done, Activation::Sigmoid, Some(before), "sigmoid, in the graph", false)
            }
        };
    }
    if numbers.sums_to_one && count > 1 {
        let how = "none: they sum to 1 on every photo, so they are probabilities";
        return found(done, Activation::Softmax, None, how, false);
    }
    let before = || match graph.producer_of(name).and_then(|(_, node)| input(node, 0)) {
        Some(before) => format!(", such as \"{before}\""),
        None => String::new(),
    };
    if numbers.percent && count > 1 {
        return Err(ScoresError::Percent { name: name.to_owned(), before: before() });
    }
    let bounds = range(graph, name);
    let is_bounded = matches!(bounds, Range::Within(..));
    if !is_bounded && (count == 1 || !numbers.within) {
        refuse_evidence(graph, name, count)?;
    }
    match (numbers.within, bounds) {
        (true, Range::Within(low, high)) if low >= 0.0 && high <= 1.0 => {
            let how = "none: the graph keeps each between 0 and 1, so they are probabilities";
            found(done, Activation::Sigmoid, None, how, false)
        }
        (true, Range::Within(..) | Range::Unknown) => {
            let sum = if count > 1 { "do not sum to 1" } else { "are one per photo" };
            Err(ScoresError::Ambiguous { name: name.to_owned(), sum })
        }
        // Logits that were clipped have wide bounds around 0.
        (false, Range::Within(low, high)) if low >= 0.0 || (low >= -1.0 && high <= 1.0) => {
            Err(ScoresError::Bounded { name: name.to_owned(), low, high, before: before() })
        }
        _ if count == 1 => {
            found(logits, Activation::Sigmoid, None, "sigmoid, of the one logit", true)
        }
        _ => found(logits, Activation::Softmax, None, "softmax, of the logits", true),
    }
}

/// Refuses scores that a node makes 0 or more, except several that are those of a plain ReLU: the logits of
/// some networks end in one.
fn refuse_evidence(graph: &Graph, name: &str, count: usize) -> Result<(), ScoresError> {
    let Some((node, is_shifted)) = never_negative(graph, name) else { return Ok(()) };
    let before = input(node, 0).map_or(String::new(), |before| format!(", such as \"{before}\""));
    let (name, maker) = (name.to_owned(), label(node));
    if count == 1 {
        return Err(ScoresError::NeverNegative { name, node: maker, before });
    }
    match is_shifted || op(node) != "Relu" {
        true => Err(ScoresError::Evidence { name, node: maker, before }),
        false => Ok(()),
    }
}

fn shape_of(probe: &mut Probe, name: &str) -> Result<Vec<usize>, ScoresError> {
    Ok(probe.learn(&[name])?.get(name).cloned().unwrap_or_default())
}

/// Reshapes the value to `[1, elements]`.
fn flat(graph: &mut Graph, value: &str, shape: &[usize], base: &str) -> String {
    let count: usize = shape.iter().product();
    if *shape == [1, count] {
        return value.to_owned();
    }
    let sides = [1, i64::try_from(count).unwrap_or(i64::MAX)];
    let sides = graph.add_constant("scores/shape", Constant::i64_list(&sides));
    graph.emit(base, "Reshape", &[value, &sides], vec![])
}

/// Makes two scores of one that stands for the second class.
fn paired(graph: &mut Graph, single: Scores) -> Scores {
    let Some(logit) = single.logits else {
        let one = graph.add_constant("scores/one", Constant::f32(&[1, 1], &[1.0]));
        let rest = graph.emit("scores/rest", "Sub", &[&one, &single.output], vec![]);
        let axis = vec![int_attribute("axis", 1)];
        let output = graph.emit("scores/pair", "Concat", &[&rest, &single.output], axis);
        let (form, activation) = (Form::Probabilities, Activation::Softmax);
        return Scores { output, logits: None, form, activation };
    };
    // softmax([−z/2, z/2]) = [1 − sigmoid(z), sigmoid(z)], so that each class has its own gradient.
    let halves = graph.add_constant("scores/halves", Constant::f32(&[1, 2], &[-0.5, 0.5]));
    let output = graph.emit("scores/pair", "MatMul", &[&logit, &halves], vec![]);
    let logits = Some(output.clone());
    Scores { output, logits, form: Form::Logits, activation: Activation::Softmax }
}
