//! The operator sets that a model's nodes belong to.

use rten_onnx::onnx::OperatorSetIdProto;

/// Whether a set is that of the standard's own operators.
#[must_use]
pub fn is_standard(set: &OperatorSetIdProto) -> bool {
    matches!(set.domain.as_deref().unwrap_or_default(), "" | "ai.onnx")
}

/// Version of the standard's own operators, where one is given.
#[must_use]
pub fn opset(sets: &[OperatorSetIdProto]) -> Option<i64> {
    sets.iter().find(|set| is_standard(set)).and_then(|set| set.version)
}
