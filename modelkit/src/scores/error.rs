//! Why scores cannot be interpreted.

use thiserror::Error;

use crate::onnx::engine::EngineError;

/// Why the scores cannot be interpreted.
#[derive(Debug, Error)]
pub enum ScoresError {
    /// More than one axis has several elements.
    #[error(
        "output \"{name}\" has shape {shape:?}{kind}; the scores of one photo are [1, classes]: name the \
         tensor that holds them with --scores NAME{advice}"
    )]
    Shape {
        /// The output.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// What such a shape usually is, or nothing.
        kind: &'static str,
        /// What else to do, or nothing.
        advice: &'static str,
    },
    /// A single score that no photo makes negative, which a logit would be for half of all photos.
    #[error(
        "the single score of output \"{name}\" comes from {node}, which makes it 0 or more: as a logit it would \
         give every photo at least 50 %. Name the tensor before it with --scores NAME{before}, or give \
         --activation sigmoid if it is a logit all the same, none if it is a probability"
    )]
    NeverNegative {
        /// The output.
        name: String,
        /// The node.
        node: String,
        /// The tensor before that node, as the end of the sentence, or nothing.
        before: String,
    },
    /// Several scores that no photo makes negative, as the evidence of classes has, but not logits.
    #[error(
        "{node} makes the scores of output \"{name}\" 0 or more, without an upper limit: they may be evidence, \
         counts or intensities, and a softmax would be a guess. Name the tensor of the logits or probabilities \
         with --scores NAME{before}, or give --activation softmax if they are logits all the same"
    )]
    Evidence {
        /// The output.
        name: String,
        /// The node.
        node: String,
        /// The tensor before the output, as an example, or nothing.
        before: String,
    },
    /// The number of labels differs from that of the scores. (Two labels may name one score.)
    #[error(
        "scores of the model: {scores}, classes that the labels name: {labels}; give as many labels \
         as scores (for a single score give one label, or two and the score is the second's probability)"
    )]
    Labels {
        /// Scores of the model.
        scores: usize,
        /// Labels given.
        labels: usize,
    },
    /// The scores may be probabilities or logits.
    #[error(
        "the scores of output \"{name}\" lie between 0 and 1 on every photo and {sum}, and the graph \
         does not show whether they are probabilities: give --activation none if they are, \
         --activation softmax or sigmoid if they are logits"
    )]
    Ambiguous {
        /// Name of the output.
        name: String,
        /// A statement about their sum, as the middle of a sentence.
        sum: &'static str,
    },
    /// The scores are percentages.
    #[error(
        "the scores of output \"{name}\" sum to 100 on every photo: they are percentages; name the tensor \
         that holds the probabilities, before the multiplication, with --scores NAME{before}"
    )]
    Percent {
        /// Name of the output.
        name: String,
        /// The tensor before the last node, as the end of the sentence, or nothing.
        before: String,
    },
    /// The graph keeps the scores within bounds that neither logits nor probabilities have.
    #[error(
        "the graph keeps the scores of output \"{name}\" between {low} and {high}, which suits neither \
         logits nor probabilities: name another tensor with --scores NAME{before}, or give --activation \
         softmax or sigmoid if they are logits"
    )]
    Bounded {
        /// Name of the output.
        name: String,
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
        /// The tensor before the last node, as the end of the sentence, or nothing.
        before: String,
    },
    /// The flag contradicts the graph or the scores.
    #[error("--activation {said} was given, but {found}; leave the flag out, or correct it")]
    Contradiction {
        /// The flag's value.
        said: &'static str,
        /// The contradicting fact, as the middle of a sentence.
        found: String,
    },
    /// The last softmax runs over another axis than that of the classes.
    #[error(
        "{node} ends the graph, but the scores of a photo sum to {sum}: it does not run over the \
         classes; name the tensor before it with --scores \"{before}\""
    )]
    WrongAxis {
        /// The softmax node.
        node: String,
        /// Sum of the first photo's scores.
        sum: f64,
        /// Name of the softmax's input.
        before: String,
    },
    /// The last softmax runs over one score.
    #[error(
        "{node} runs over a single score, which makes it 1 for every photo; name the tensor before it \
         with --scores \"{before}\""
    )]
    Constant {
        /// The softmax node.
        node: String,
        /// Name of its input.
        before: String,
    },
    /// The engine cannot run the graph to find the shapes of its values.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A score is NaN or infinite.
    #[error(
        "score {index} of photo {photo} is {score}, which is not a finite number; check the \
         model's preprocessing (--preprocess) and its export"
    )]
    NotFinite {
        /// Number of the photo, from 1.
        photo: usize,
        /// Index of the score, from 0.
        index: usize,
        /// The score.
        score: f32,
    },
}
