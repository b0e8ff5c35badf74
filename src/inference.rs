//! Running a model: what the host is asked for, and the check of what it gave against the card
//! before any of it is used.
//!
//! [`Inference`] is the seam: wasi-nn in the component (`nn`), arithmetic by hand in tests.

use skincell_vision::card::Card;
use skincell_vision::tensor::PhotoTensor;
use thiserror::Error;

/// A tensor that came back from a model.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// Name of the graph's output.
    pub name: String,
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// Whether its elements are 32-bit floats, the only ones read here; else what they are.
    pub element: Element,
    /// The elements, little-endian, last axis fastest.
    pub data: Vec<u8>,
}

/// Element type of an [`OutputTensor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 single.
    F32,
    /// Any other, by name.
    Other(String),
}

/// A host that runs models.
pub trait Inference {
    /// Makes sure that `model` can be run, without running it.
    ///
    /// # Errors
    /// [`InferenceError`] with what the host said.
    fn load(&self, model: &str) -> Result<(), InferenceError>;

    /// Runs `model` on one named input and gives those outputs that are `wanted` and exist.
    ///
    /// # Errors
    /// [`InferenceError`] with what the host said.
    fn infer(
        &self,
        model: &str,
        input: (&str, PhotoTensor),
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, InferenceError>;
}

/// Why a model gave no answer, or one that its card rules out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InferenceError {
    /// The host knows no such model, or does not grant it.
    #[error(
        "the host does not load model {model:?} for this component ({why}): add it to ai_models in spin.toml, or name another, see /models"
    )]
    NotGranted {
        /// The model.
        model: String,
        /// What the host said.
        why: String,
    },
    /// It could not be loaded now.
    #[error(
        "model {model:?} cannot be loaded ({why}): try again later, the service's log says more"
    )]
    Unavailable {
        /// The model.
        model: String,
        /// What the host said.
        why: String,
    },
    /// It took too long.
    #[error(
        "model {model:?} did not answer in time ({why}): try again when the service is less busy"
    )]
    Timeout {
        /// The model.
        model: String,
        /// What the host said.
        why: String,
    },
    /// It was loaded and failed on this photo.
    #[error("model {model:?} failed on this photo ({why}): run `skincell model check` on it")]
    Failed {
        /// The model.
        model: String,
        /// What the host said.
        why: String,
    },
    /// It answered something else than its card says.
    #[error("model {model:?} gave {found}, its card says {expected}: prepare the model again")]
    Mismatch {
        /// The model.
        model: String,
        /// What came.
        found: String,
        /// What the card says.
        expected: String,
    },
}

/// What a model says about one photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// The score tensor, `[classes]`, as `card.output` describes it.
    pub scores: Vec<f32>,
    /// The Grad-CAM maps of all classes, `[classes, height, width]`, where they were wanted.
    pub cam: Option<Vec<f32>>,
}

/// Runs the card's model on `tensor`; its Grad-CAM output is fetched only where `with_cam`.
///
/// # Errors
/// [`InferenceError`] for what the host said, or outputs other than the card's.
pub fn run(
    inference: &impl Inference,
    card: &Card,
    tensor: PhotoTensor,
    with_cam: bool,
) -> Result<Scores, InferenceError> {
    let map = card.gradcam.as_ref().filter(|_| with_cam);
    let mut wanted = vec![card.output.name.as_str()];
    wanted.extend(map.map(|map| map.output.as_str()));
    let outputs = inference.infer(&card.name, (&card.input.name, tensor), &wanted)?;
    let classes = card.classes.len() as u64;
    let scores = floats(card, &outputs, &card.output.name, &[classes])?;
    let cam = map
        .map(|map| {
            let shape = [classes, u64::from(map.height), u64::from(map.width)];
            floats(card, &outputs, &map.output, &shape)
        })
        .transpose()?;
    Ok(Scores { scores, cam })
}

/// The elements of the output `name`, once its type, shape and length are as the card says. A batch
/// axis of 1 in front is expected, and may be missing.
fn floats(
    card: &Card,
    outputs: &[OutputTensor],
    name: &str,
    shape: &[u64],
) -> Result<Vec<f32>, InferenceError> {
    let mismatch = |found: String| InferenceError::Mismatch {
        model: card.name.clone(),
        found,
        expected: format!("an output {name:?} of f32 {shape:?} behind a batch of 1"),
    };
    let Some(output) = outputs.iter().find(|output| output.name == name) else {
        let names: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
        return Err(mismatch(format!("the outputs {names:?}")));
    };
    if let Element::Other(element) = &output.element {
        return Err(mismatch(format!("{name:?} of {element}")));
    }
    let dimensions: Vec<u64> = output.dimensions.iter().copied().map(u64::from).collect();
    let unbatched = dimensions.strip_prefix(&[1]).filter(|rest| rest.len() == shape.len());
    if unbatched.unwrap_or(&dimensions) != shape {
        return Err(mismatch(format!("{name:?} of {dimensions:?}")));
    }
    let (elements, rest) = output.data.as_chunks::<4>();
    // The card bounds each side, so this product of at most 100,000 · 1024 · 1024 fits.
    if !rest.is_empty() || elements.len() as u64 != shape.iter().product::<u64>() {
        return Err(mismatch(format!("{name:?} of {dimensions:?} in {} bytes", output.data.len())));
    }
    Ok(elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::models::tests::card_json;
    use skincell_vision::card::Dtype;

    /// A model of two classes whose logits are the mean of red and of blue, in 0 to 1 times 4, and
    /// whose maps are class 0 top left, class 1 bottom right, so that every step can be done by hand.
    pub(crate) struct RedOrBlue;

    impl Inference for RedOrBlue {
        fn load(&self, _: &str) -> Result<(), InferenceError> {
            Ok(())
        }

        fn infer(
            &self,
            _: &str,
            (_, tensor): (&str, PhotoTensor),
            wanted: &[&str],
        ) -> Result<Vec<OutputTensor>, InferenceError> {
            let pixels = tensor.data.as_chunks::<3>().0;
            let mean = |channel: usize| {
                pixels.iter().map(|rgb| f32::from(rgb[channel])).sum::<f32>() / pixels.len() as f32
            };
            let logits = [mean(0) / 255.0 * 4.0, mean(2) / 255.0 * 4.0];
            let cam = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0];
            let outputs = [output("logits", &[1, 2], &logits), output("cam", &[1, 2, 2, 2], &cam)];
            Ok(outputs.into_iter().filter(|o| wanted.contains(&o.name.as_str())).collect())
        }
    }

    /// A host that always gives the same.
    pub(crate) struct Fixed(pub(crate) Result<Vec<OutputTensor>, InferenceError>);

    impl Inference for Fixed {
        fn load(&self, _: &str) -> Result<(), InferenceError> {
            self.0.clone().map(drop)
        }

        fn infer(
            &self,
            _: &str,
            _: (&str, PhotoTensor),
            _: &[&str],
        ) -> Result<Vec<OutputTensor>, InferenceError> {
            self.0.clone()
        }
    }

    pub(crate) fn output(name: &str, dimensions: &[u32], values: &[f32]) -> OutputTensor {
        OutputTensor {
            name: name.to_owned(),
            dimensions: dimensions.to_vec(),
            element: Element::F32,
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    #[test]
    fn outputs_are_checked_against_the_card() {
        let card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let logits = || output("logits", &[1, 2], &[1.0, 2.0]);
        let cam = || output("cam", &[1, 2, 2, 2], &[0.5; 8]);
        let f16 = OutputTensor { element: Element::Other("FP16".to_owned()), ..logits() };
        let short = OutputTensor { data: vec![0; 7], ..logits() };
        let cases = [
            ("as the card says", vec![logits(), cam()], Ok(())),
            ("without a batch axis", vec![output("logits", &[2], &[1.0, 2.0]), cam()], Ok(())),
            ("another order", vec![cam(), logits()], Ok(())),
            ("no outputs", vec![], Err("the outputs []")),
            ("no cam", vec![logits()], Err("the outputs [\"logits\"]")),
            (
                "another number of classes",
                vec![output("logits", &[1, 3], &[0.0; 3]), cam()],
                Err("[1, 3]"),
            ),
            ("a batch of two", vec![output("logits", &[2, 2], &[0.0; 4]), cam()], Err("[2, 2]")),
            (
                "a map of another size",
                vec![logits(), output("cam", &[1, 2, 4, 1], &[0.0; 8])],
                Err("[1, 2, 4, 1]"),
            ),
            ("half floats", vec![f16, cam()], Err("FP16")),
            ("too few bytes", vec![short, cam()], Err("in 7 bytes")),
            ("no axes", vec![output("logits", &[], &[1.0]), cam()], Err("[]")),
        ];
        for (name, outputs, expect) in cases {
            let tensor =
                PhotoTensor { dimensions: vec![1, 4, 4, 3], dtype: Dtype::U8, data: vec![0; 48] };
            match (run(&Fixed(Ok(outputs)), &card, tensor, true), expect) {
                (Ok(scores), Ok(())) => {
                    assert_eq!(
                        scores,
                        Scores { scores: vec![1.0, 2.0], cam: Some(vec![0.5; 8]) },
                        "{name}"
                    );
                }
                (Err(problem), Err(part)) => {
                    assert!(matches!(problem, InferenceError::Mismatch { .. }), "{name}");
                    assert!(problem.to_string().contains(part), "{name}: {problem}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }

    #[test]
    fn the_cam_is_not_fetched_unasked() {
        let card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let tensor =
            PhotoTensor { dimensions: vec![1, 4, 4, 3], dtype: Dtype::U8, data: vec![0; 48] };
        let scores = run(&RedOrBlue, &card, tensor, false).unwrap();
        assert_eq!(scores, Scores { scores: vec![0.0, 0.0], cam: None });
    }
}
