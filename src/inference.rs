//! Runs a model through the host, and checks its outputs against the card before they are used.
//!
//! [`Inference`] is implemented by wasi-nn in the component (`nn`), by cellnet in the browser
//! (`browser/src/local.rs`), and by a model computed by hand in tests.

use skincell_vision::card::{Card, Familiarity, MapClasses};
use skincell_vision::gradcam::Cam;
use skincell_vision::tensor::PhotoTensor;
use thiserror::Error;

/// An output of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// Name of the graph's output.
    pub name: String,
    /// Length of each axis, outermost first.
    pub dimensions: Vec<u32>,
    /// The element type; only 32-bit floats are read.
    pub element: Element,
    /// The elements, little-endian, last axis fastest.
    pub data: Vec<u8>,
}

/// Element type of an [`OutputTensor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// IEEE 754 single precision.
    F32,
    /// Another type, by name.
    Other(String),
}

/// A host that runs models.
pub trait Inference {
    /// Checks that the host grants `model`. Its files are read only by [`Inference::infer`], so a damaged
    /// model passes.
    ///
    /// # Errors
    /// [`InferenceError`] with the host's message.
    fn load(&self, model: &str) -> Result<(), InferenceError>;

    /// Runs `model` on its named inputs and returns those outputs that are `wanted` and exist.
    ///
    /// # Errors
    /// [`InferenceError`] with the host's message.
    fn infer(
        &self,
        model: &str,
        inputs: Vec<(&str, PhotoTensor)>,
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, InferenceError>;
}

/// Why inference failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InferenceError {
    /// The host has no such model, or does not grant it.
    #[error(
        "the host does not load model {model:?} for this component ({why}): add it to ai_models \
         in spin.toml, or name another, see /models"
    )]
    NotGranted {
        /// The model.
        model: String,
        /// The host's message.
        why: String,
    },
    /// The model could not be loaded.
    #[error("model {model:?} cannot be loaded ({why}); the service's log says more")]
    Unavailable {
        /// The model.
        model: String,
        /// The host's message.
        why: String,
    },
    /// The model exceeded its time limit.
    #[error(
        "model {model:?} did not answer in time ({why}): try again when the service is less busy"
    )]
    Timeout {
        /// The model.
        model: String,
        /// The host's message.
        why: String,
    },
    /// The model failed on this photo.
    #[error(
        "model {model:?} failed on this photo ({why}): try another photo; if it fails on every photo, the service's \
         operator can test it with `skincell model check`"
    )]
    Failed {
        /// The model.
        model: String,
        /// The host's message.
        why: String,
    },
    /// The outputs do not match the card.
    #[error(
        "model {model:?} returned {found}, but its card says {expected}: prepare the model again"
    )]
    Mismatch {
        /// The model.
        model: String,
        /// The outputs found, as the middle of a sentence.
        found: String,
        /// The output that the card declares, as the middle of a sentence.
        expected: String,
    },
}

/// A model's outputs for one photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    /// `[classes]`, in the card's order: logits or probabilities, as `card.output.form` says.
    pub scores: Vec<f32>,
    /// The Grad-CAM maps `[rows, height, width]`, neither normalised nor clipped, if requested.
    pub cam: Option<Cam>,
    /// How far the photo's features lie from those of the photos that familiarity was fitted to, divided by
    /// the largest distance that counts as familiar: above 0 and finite, familiar up to 1. `None` if the card
    /// has no output for it.
    pub familiarity: Option<f32>,
}

/// Runs the card's model on the photo's `tensor` and on `fields`; fetches its Grad-CAM output only if
/// `with_cam`.
///
/// # Errors
/// [`InferenceError`] if the host fails or the outputs do not match the card.
pub fn run(
    inference: &impl Inference,
    card: &Card,
    tensor: PhotoTensor,
    fields: Vec<(&str, PhotoTensor)>,
    with_cam: bool,
) -> Result<Scores, InferenceError> {
    let map = card.gradcam.as_ref().filter(|_| with_cam);
    let mut wanted = vec![card.output.name.as_str()];
    wanted.extend(map.map(|map| map.output.as_str()));
    let familiarity_output =
        card.familiarity.as_ref().map(|familiarity| familiarity.output.as_str());
    wanted.extend(familiarity_output);
    let class_list = map.and_then(|map| match &map.classes {
        MapClasses::All => None,
        MapClasses::Likeliest { count, output, .. } => Some((output.as_str(), u64::from(*count))),
    });
    wanted.extend(class_list.map(|(output, _)| output));
    let mut inputs = vec![(card.input.name.as_str(), tensor)];
    inputs.extend(fields);
    let outputs = inference.infer(&card.name, inputs, &wanted)?;
    let classes = card.classes.len() as u64;
    let scores = floats(card, &outputs, &card.output.name, &[classes])?;
    let cam = map
        .map(|map| {
            let rows = map.rows(card.classes.len()) as u64;
            let shape = [rows, u64::from(map.height), u64::from(map.width)];
            let maps = floats(card, &outputs, &map.output, &shape)?;
            let classes =
                class_list.map(|(output, count)| floats(card, &outputs, output, &[count]));
            Ok(Cam { maps, classes: classes.transpose()?.unwrap_or_default() })
        })
        .transpose()?;
    let familiarity =
        familiarity_output.map(|output| floats(card, &outputs, output, &[1])).transpose()?;
    let familiarity = familiarity.and_then(|list| list.first().copied().map(Familiarity::answered));
    Ok(Scores { scores, cam, familiarity })
}

/// The elements of the output `name`, after checking its type, shape and length against the card. A leading
/// batch axis of 1 is expected, but may be missing.
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
    // At most two sets of `MAX_CLASSES` · `MAX_MAP_SIDE`² (`skincell_vision::card`), so the product fits.
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

    /// A model of two classes that can be computed by hand. Its logits are 4 times the means of red and of
    /// blue (0 to 1), and its maps are 1 at the top left for class 0 and at the bottom right for class 1.
    pub(crate) struct RedOrBlue;

    impl Inference for RedOrBlue {
        fn load(&self, _: &str) -> Result<(), InferenceError> {
            Ok(())
        }

        fn infer(
            &self,
            _: &str,
            inputs: Vec<(&str, PhotoTensor)>,
            wanted: &[&str],
        ) -> Result<Vec<OutputTensor>, InferenceError> {
            let tensor = &inputs[0].1;
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

    /// A host that always returns the same outputs.
    pub(crate) struct Fixed(pub(crate) Result<Vec<OutputTensor>, InferenceError>);

    impl Inference for Fixed {
        fn load(&self, _: &str) -> Result<(), InferenceError> {
            self.0.clone().map(drop)
        }

        fn infer(
            &self,
            _: &str,
            _: Vec<(&str, PhotoTensor)>,
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
            match (run(&Fixed(Ok(outputs)), &card, tensor, vec![], true), expect) {
                (Ok(scores), Ok(())) => {
                    assert_eq!(
                        scores,
                        Scores {
                            scores: vec![1.0, 2.0],
                            cam: Some(vec![0.5; 8].into()),
                            familiarity: None
                        },
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
    fn maps_of_the_likeliest_classes_come_with_their_classes() {
        let mut card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let output = "cam_classes".to_owned();
        card.gradcam.as_mut().unwrap().classes =
            MapClasses::Likeliest { count: 1, output, asked: None };
        let photo =
            || PhotoTensor { dimensions: vec![1, 4, 4, 3], dtype: Dtype::U8, data: vec![0; 48] };
        let mut outputs = vec![
            self::output("logits", &[1, 2], &[1.0, 2.0]),
            self::output("cam", &[1, 2, 2, 2], &[0.5; 8]),
        ];
        let missing =
            run(&Fixed(Ok(outputs.clone())), &card, photo(), Vec::new(), true).unwrap_err();
        assert!(missing.to_string().contains("cam_classes"), "{missing}");
        outputs.push(self::output("cam_classes", &[1, 1], &[1.0]));
        let scores = run(&Fixed(Ok(outputs)), &card, photo(), Vec::new(), true).unwrap();
        assert_eq!(scores.cam, Some(Cam { maps: vec![0.5; 8], classes: vec![1.0] }));
    }

    #[test]
    fn the_cam_is_fetched_only_on_request() {
        let card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let tensor =
            PhotoTensor { dimensions: vec![1, 4, 4, 3], dtype: Dtype::U8, data: vec![0; 48] };
        let scores = run(&RedOrBlue, &card, tensor, vec![], false).unwrap();
        assert_eq!(scores, Scores { scores: vec![0.0, 0.0], cam: None, familiarity: None });
    }
}
