//! The part of a card that describes the Grad-CAM output.

use serde::{Deserialize, Serialize};

use super::{Form, is_default};

/// The Grad-CAM output, `[1, rows, height, width]`, f32. Each row is the map of one class; `classes` says
/// which.
///
/// The map of class c is `M_c = Σ_k (h·w · ∂logit_c/∂t_k averaged over the map) · t_k`, where `t` is the
/// target feature map. [`crate::gradcam::heatmap`] makes a heatmap of these maps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradCam {
    /// Name of the graph's output.
    pub output: String,
    /// Columns of the map.
    pub width: u32,
    /// Rows of the map.
    pub height: u32,
    /// The feature map with respect to which the gradient is taken.
    pub target: Target,
    /// The score whose gradient is taken, if the graph allows both.
    pub basis: Basis,
    /// Name of the graph's node that computes the feature map.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<String>,
    /// The scores whose gradient the graph itself takes: the logits, or the probabilities if the graph has
    /// no logits (as with a mean of two softmaxes). In the latter case the maps are already those of
    /// [`Basis::Probability`].
    #[serde(default = "Form::logits", skip_serializing_if = "Form::is_logits")]
    pub of: Form,
    /// Which classes have maps.
    #[serde(default, skip_serializing_if = "is_default")]
    pub classes: MapClasses,
}

impl GradCam {
    /// The number of maps in the output of a model with `classes` classes.
    #[must_use]
    pub fn rows(&self, classes: usize) -> usize {
        match &self.classes {
            MapClasses::All => classes,
            MapClasses::Likeliest { count, .. } => *count as usize * self.sets(),
        }
    }

    /// The card's field that takes the index of a class a request asks for, if there is one.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        match &self.classes {
            MapClasses::All => None,
            MapClasses::Likeliest { asked, .. } => asked.as_deref(),
        }
    }

    /// The number of maps of each of the likeliest classes. If there are two, all maps of probabilities
    /// come first, then all maps of logits.
    pub(crate) fn sets(&self) -> usize {
        if self.basis == Basis::Probability && self.of == Form::Logits { 2 } else { 1 }
    }
}

/// Which classes of a photo have Grad-CAM maps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum MapClasses {
    /// Every class, in the order of the scores.
    #[default]
    All,
    /// The `count` likeliest classes, likeliest first; used if maps of all classes would cost too much.
    ///
    /// With [`Basis::Probability`] and logits in the graph, the first `count` maps are those of the
    /// probabilities (the activation's derivative included), and the same classes' logit maps follow.
    Likeliest {
        /// The number of classes with maps.
        count: u32,
        /// Name of the graph's output with the indices of these classes: `[1, count]`, f32, whole numbers.
        output: String,
        /// Name of the card's field, of one number, that takes the index of a class a request asks for;
        /// [`NOT_ASKED`] for none. If that class is not among the likeliest, it has the last of the maps.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asked: Option<String>,
    },
}

/// Given in place of a class's index: no class is asked for.
pub const NOT_ASKED: f32 = -1.0;

/// The feature map a Grad-CAM is computed on.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The last convolution's raw output, before batch norm and activation (the origin app's choice).
    Conv,
    /// The activation after it (the textbook's choice).
    Activation,
}

/// The score whose gradient a heatmap shows.
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// The class's probability, after softmax or sigmoid (the origin app's choice).
    Probability,
    /// The class's logit (the textbook's choice).
    Logit,
}
