//! Why a graph gets no Grad-CAM output.

use rten_onnx::onnx::NodeProto;

use crate::onnx::graph::label;

/// The operator that prevents it, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) node: String,
    pub(crate) why: Reason,
}

/// Why a node prevents a heatmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The whole head of the model reads no common map.
    NoMap,
    /// A convolution comes after the layer to be shown.
    Convolution,
    /// The operator's derivative is not known.
    NoRule,
    /// The layer is not known by its name, and others are.
    Proposing {
        /// A text for users that the names may follow.
        text: String,
        /// The names of maps, the likeliest first.
        names: Vec<String>,
    },
    /// Any other, as a text for users that follows the node's name.
    Other(String),
}

impl Refusal {
    pub(crate) fn at(node: &NodeProto, why: impl Into<Reason>) -> Self {
        Self { node: label(node), why: why.into() }
    }

    /// The names that the reason proposes.
    pub(crate) fn proposes(&self) -> Option<&[String]> {
        match &self.why {
            Reason::Proposing { names, .. } => Some(names),
            _ => None,
        }
    }

    /// Whether the reason is that several parts of the model end in maps of their own.
    pub(crate) fn is_of_parts(&self) -> bool {
        matches!(self.why, Reason::NoMap | Reason::Convolution)
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self::Other(text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self::Other(text.to_owned())
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NoMap => "there is no feature map on all paths from the photo to it",
            Self::Convolution => {
                "a convolution comes after the layer to be shown, and heatmaps exist only for layers \
                 without a convolution after them"
            }
            Self::NoRule => "there is no rule for its derivative",
            Self::Other(text) | Self::Proposing { text, .. } => text,
        })
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.why)
    }
}
