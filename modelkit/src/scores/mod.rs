//! What the numbers a classifier gives are, decided by its graph and by what comes out on photos, and
//! brought to `[1, classes]` by nodes added to the graph.
//!
//! The graph says which function ends it (`ending`), or within which bounds its values lie
//! (`range`). The photos say whether the numbers are probabilities. Where the two leave more than one
//! reading, nothing is guessed: [`ScoresError`] names the flag that decides.

mod ending;
mod range;

use skincell_vision::card::{Activation, Form};
use thiserror::Error;

use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, int_attribute, value_info};
use ending::{Ending, Function, ending};
use range::{Range, range};
use skincell_onnx::Constant;

/// The scores a graph gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores {
    /// The graph's output, `[1, classes]`.
    pub(crate) output: String,
    /// The value whose softmax or sigmoid the probabilities are, `[1, classes]`; the output itself
    /// where the graph applies neither. `None` where no such value exists, as for a mean of two
    /// softmaxes: the output then holds probabilities.
    pub(crate) logits: Option<String>,
    pub(crate) form: Form,
    /// What makes probabilities of the logits.
    pub(crate) activation: Activation,
}

impl Scores {
    /// The value whose gradient is taken: the logits, or the probabilities where there are none.
    pub(crate) fn differentiated(&self) -> &str {
        self.logits.as_deref().unwrap_or(&self.output)
    }
}

/// What a user says the numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaidActivation {
    /// Softmax makes probabilities of them, or has done so in the graph.
    Softmax,
    /// A sigmoid of each does, or has done so in the graph.
    Sigmoid,
    /// They are logarithms of probabilities.
    LogSoftmax,
    /// They are probabilities already.
    None,
}

/// Why the numbers cannot be read.
#[derive(Debug, Error)]
pub enum ScoresError {
    /// More than one axis has several elements.
    #[error(
        "output \"{name}\" has shape {shape:?}; the scores of one photo are [1, classes]: name the \
         tensor that holds them with --scores NAME"
    )]
    Shape {
        /// The output.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// As many scores as labels, or one score and two labels.
    #[error(
        "the model gives {scores} scores and the labels name {labels} classes; they must match \
         (a single score takes two labels, the second being the one it stands for, or one)"
    )]
    Labels {
        /// Scores of the model.
        scores: usize,
        /// Labels given.
        labels: usize,
    },
    /// Numbers that could be either.
    #[error(
        "the scores of output \"{name}\" lie between 0 and 1 on every photo and {sum}, and the graph \
         does not show what they are: say it with --activation none (they are probabilities), \
         softmax or sigmoid (they are logits)"
    )]
    Ambiguous {
        /// The output.
        name: String,
        /// What their sum does, as the middle of a sentence.
        sum: &'static str,
    },
    /// The graph says something else than the flag.
    #[error("--activation {said} was given, and {found}; leave the flag out, or correct it")]
    Contradiction {
        /// The flag's value.
        said: &'static str,
        /// What the graph or the numbers say.
        found: String,
    },
    /// A softmax that does not make the classes sum to 1.
    #[error(
        "{node} ends the graph, but the scores of a photo sum to {sum}: it does not run over the \
         classes; name the tensor before it with --scores \"{before}\""
    )]
    WrongAxis {
        /// The softmax.
        node: String,
        /// What they sum to on the first photo.
        sum: f64,
        /// What the softmax reads.
        before: String,
    },
    /// A softmax of one number.
    #[error(
        "{node} runs over a single score, which makes it 1 for every photo; name the tensor before it \
         with --scores \"{before}\""
    )]
    Constant {
        /// The softmax.
        node: String,
        /// What it reads.
        before: String,
    },
    /// Learning shapes.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// NaN or infinity.
    #[error(
        "score {index} of photo {photo} is {score}: the model does not compute; check its \
         preprocessing (--preprocess) and the export"
    )]
    NotFinite {
        /// Which photo, from 1.
        photo: usize,
        /// Which score.
        index: usize,
        /// What it is.
        score: f32,
    },
}

/// What was found, and how: for the report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settled {
    pub(crate) scores: Scores,
    /// How probabilities come about, for people.
    pub(crate) how: String,
    /// Whether the activation is no more than the usual one.
    pub(crate) assumed: bool,
    /// From the original output's numbers to probabilities, to compare with.
    pub(crate) reading: Reading,
}

/// How the original output's numbers become probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    pub(crate) form: Form,
    pub(crate) activation: Activation,
    /// A single score of two classes: it stands for the second.
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

/// How far a sum of probabilities may be from 1: a thousand of them in half precision.
const SUM_TOLERANCE: f64 = 2e-3;

/// The same after a softmax in the graph whose result was rounded to 8 bits.
const ROUGH_SUM_TOLERANCE: f64 = 0.1;

/// What the numbers on the photos say by themselves.
struct Numbers {
    within: bool,
    sums_to_one: bool,
    /// Likewise, with the rounding of eight bits.
    sums_roughly: bool,
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
        Ok(Self { within, sums_to_one, sums_roughly, first_sum })
    }
}

/// What the scores are, before the graph is touched.
struct Found {
    form: Form,
    activation: Activation,
    /// What the function that ends the graph reads.
    before: Option<String>,
    how: String,
    assumed: bool,
}

/// Decides what output `name` of the given `shape` holds, and brings it to `[1, classes]`.
///
/// `outputs` are its numbers on some photos, `labels` the number of classes the labels name; `probe`
/// was loaded from the graph as it is.
///
/// # Errors
/// [`ScoresError`], with the flag that decides.
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

/// The number of scores of a shape in which one axis at most is longer than 1.
fn classes(name: &str, shape: &[usize]) -> Result<usize, ScoresError> {
    let long = shape.iter().filter(|side| **side != 1).count();
    let count: usize = shape.iter().product();
    if long > 1 || count == 0 || (long == 1 && shape.len() > 1 && shape.first() != Some(&1)) {
        return Err(ScoresError::Shape { name: name.to_owned(), shape: shape.to_vec() });
    }
    Ok(count)
}

/// Reads the numbers as the user says, where graph and numbers allow it.
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

/// Decides by the function that ends the graph, by the bounds of its values, and by the numbers.
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
    let bounds = range(graph, name);
    match (numbers.within, bounds) {
        (true, Range::Within(low, high)) if low >= 0.0 && high <= 1.0 => {
            let how = "none: the graph keeps each between 0 and 1, so they are probabilities";
            found(done, Activation::Sigmoid, None, how, false)
        }
        (true, Range::Within(..) | Range::Unknown) => {
            let sum = if count > 1 { "do not sum to 1" } else { "are one a photo" };
            Err(ScoresError::Ambiguous { name: name.to_owned(), sum })
        }
        _ if count == 1 => {
            found(logits, Activation::Sigmoid, None, "sigmoid, of the one logit", false)
        }
        _ => found(logits, Activation::Softmax, None, "softmax, of the logits", true),
    }
}

fn shape_of(probe: &mut Probe, name: &str) -> Result<Vec<usize>, ScoresError> {
    Ok(probe.learn(&[name])?.get(name).cloned().unwrap_or_default())
}

/// The value as `[1, elements]`.
fn flat(graph: &mut Graph, value: &str, shape: &[usize], base: &str) -> String {
    let count: usize = shape.iter().product();
    if *shape == [1, count] {
        return value.to_owned();
    }
    let sides = [1, i64::try_from(count).unwrap_or(i64::MAX)];
    let sides = graph.add_constant("scores/shape", Constant::i64_list(&sides));
    graph.emit(base, "Reshape", &[value, &sides], vec![])
}

/// Two scores out of one, whose probability is the second's.
fn paired(graph: &mut Graph, single: Scores) -> Scores {
    let Some(logit) = single.logits else {
        let one = graph.add_constant("scores/one", Constant::f32(&[1, 1], &[1.0]));
        let rest = graph.emit("scores/rest", "Sub", &[&one, &single.output], vec![]);
        let axis = vec![int_attribute("axis", 1)];
        let output = graph.emit("scores/pair", "Concat", &[&rest, &single.output], axis);
        let (form, activation) = (Form::Probabilities, Activation::Softmax);
        return Scores { output, logits: None, form, activation };
    };
    // softmax([−z/2, z/2]) = [1 − sigmoid(z), sigmoid(z)], and each class has a gradient of its own.
    let halves = graph.add_constant("scores/halves", Constant::f32(&[1, 2], &[-0.5, 0.5]));
    let output = graph.emit("scores/pair", "MatMul", &[&logit, &halves], vec![]);
    let logits = Some(output.clone());
    Scores { output, logits, form: Form::Logits, activation: Activation::Softmax }
}
