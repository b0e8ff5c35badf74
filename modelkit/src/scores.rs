//! What the numbers a classifier gives are: logits, probabilities, or neither in a form that is served.

use skincell_vision::card::{Activation, Form};

use crate::graph::{Graph, input, int, op};

/// The scores a graph gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scores {
    /// The graph's output, `[1, classes]`.
    pub(crate) output: String,
    /// The value whose softmax or sigmoid the probabilities are; the output itself where the graph
    /// applies neither. `None` where no such value exists, as for a mean of two softmaxes: the output
    /// then holds probabilities.
    pub(crate) logits: Option<String>,
    pub(crate) form: Form,
    /// Softmax, unless the graph says otherwise.
    pub(crate) activation: Activation,
}

impl Scores {
    /// The value whose gradient is taken: the logits, or the probabilities where there are none.
    pub(crate) fn differentiated(&self) -> &str {
        self.logits.as_deref().unwrap_or(&self.output)
    }
}

/// Looks for softmax or sigmoid before the output of that name.
pub(crate) fn scores(graph: &Graph, name: &str) -> Scores {
    let mut value = name.to_owned();
    let scores = |logits: &str, form, activation| Scores {
        output: name.to_owned(),
        logits: Some(logits.to_owned()),
        form,
        activation,
    };
    while let Some((_, node)) = graph.producer_of(&value) {
        let before = input(node, 0).unwrap_or_default();
        match op(node) {
            "Identity" => before.clone_into(&mut value),
            "Softmax" if matches!(int(node, "axis", -1), -1 | 1) => {
                return scores(before, Form::Probabilities, Activation::Softmax);
            }
            "Sigmoid" => return scores(before, Form::Probabilities, Activation::Sigmoid),
            _ => break,
        }
    }
    scores(&value, Form::Logits, Activation::Softmax)
}
