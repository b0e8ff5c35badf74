//! Matches inputs to a model's input names; unknown, missing and repeated names are errors, for every
//! engine.

use crate::error::RunError;
use crate::tensor::NamedTensor;

/// The index of each of `inputs` in `known`, the model's input names. Each name must be given exactly once.
pub(crate) fn matched(known: &[String], inputs: &[NamedTensor]) -> Result<Vec<usize>, RunError> {
    let mut indices = Vec::with_capacity(inputs.len());
    for (name, _) in inputs {
        let index = known.iter().position(|known| known == name);
        let index = index
            .ok_or_else(|| RunError::UnknownInput { name: name.clone(), known: known.to_vec() })?;
        if indices.contains(&index) {
            return Err(RunError::RepeatedInput(name.clone()));
        }
        indices.push(index);
    }
    match (0..known.len()).find(|index| !indices.contains(index)) {
        Some(missing) => Err(RunError::MissingInput(known[missing].clone())),
        None => Ok(indices),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::matched;
    use crate::error::RunError;
    use crate::tensor::{Dtype, Tensor};

    #[test]
    fn each_input_must_be_given_exactly_once() {
        let known = ["a".to_owned(), "b".to_owned()];
        let matched = |names: &[&str]| {
            let tensor = || Tensor::new(vec![], Dtype::U8, vec![0]);
            let inputs: Vec<_> = names.iter().map(|name| ((*name).to_owned(), tensor())).collect();
            matched(&known, &inputs)
        };
        assert_eq!(matched(&["b", "a"]).unwrap(), [1, 0]);
        assert!(matches!(matched(&["b"]), Err(RunError::MissingInput(name)) if name == "a"));
        assert!(matches!(matched(&["a", "a"]), Err(RunError::RepeatedInput(name)) if name == "a"));
        let unknown = matched(&["a", "b", "c"]);
        assert!(matches!(unknown, Err(RunError::UnknownInput { name, .. }) if name == "c"));
    }
}
