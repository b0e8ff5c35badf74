//! Why a graph gets no Grad-CAM output.

/// The operator that prevents it, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) node: String,
    pub(crate) why: String,
}

/// Why a model without a map that its whole head reads has no heatmap.
pub(crate) const NO_MAP: &str = "there is no feature map on all paths from the photo to it";

/// Why there is no map of a layer before a convolution.
pub(crate) const CONVOLUTION: &str = "a convolution comes after the layer to be shown, and heatmaps \
                                      exist only for layers without a convolution after them";

impl Refusal {
    /// Whether the reason is that several parts of the model end in maps of their own.
    pub(crate) fn is_of_parts(&self) -> bool {
        [NO_MAP, CONVOLUTION].contains(&self.why.as_str())
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.node, self.why)
    }
}
