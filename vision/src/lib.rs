//! The computations between a photo's bytes and an answer: decoding, tensors, ranking, Grad-CAM,
//! overlays, and the model card, which holds the settings of one model.
//!
//! The crate consists of pure functions over plain structs. It does not use HTTP, WASI or wasmtime, so
//! each step can be tested natively and gives the same result in the component and in `modelkit`.
//!
//! # The pipeline
//!
//! `decode`, `view` and `tensor` run before inference, `rank` and the heatmap after it:
//!
//! ```
//! use skincell_vision::{card::Card, gradcam, overlay, photo, rank, tensor, view};
//!
//! # fn infer(_: &tensor::PhotoTensor) -> (Vec<f32>, Vec<f32>) { (vec![2.0, 0.5], vec![0.1; 8]) }
//! fn answer(bytes: &[u8], card: &Card) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let photo = view::decode(bytes, &card.input, &photo::Limits::default())?;
//!     let photo = view::view(&photo, &card.input)?.photo;
//!     let (scores, cam) = infer(&tensor::from_photo(&photo, &card.input)?);
//!     let probabilities = rank::probabilities(&scores, &card.output)?;
//!     let Some(best) = rank::rank(&probabilities, 1).first().copied() else { return Ok(Vec::new()) };
//!     let Some(map) = &card.gradcam else { return Ok(Vec::new()) };
//!     let activation = card.output.activation;
//!     let heatmap = gradcam::heatmap(&cam, map, &probabilities, activation, best.index)?;
//!     Ok(overlay::encode_png(&overlay::overlay(&photo, &heatmap, overlay::ALPHA, overlay::Colormap::Jet))?)
//! }
//! # let card = Card::parse(br#"{"card_version": 1, "name": "skin",
//! #   "input": {"name": "x", "layout": "nhwc", "dtype": "u8", "width": 4, "height": 4,
//! #             "mean": [0, 0, 0], "std": [1, 1, 1]},
//! #   "output": {"name": "y", "form": "logits", "activation": "softmax"},
//! #   "gradcam": {"output": "cam", "width": 2, "height": 2, "target": "conv", "basis": "logit"},
//! #   "classes": [{"label": "a"}, {"label": "b"}]}"#).unwrap();
//! # let mut bmp = vec![0; 54 + 16 * 4];
//! # bmp[..2].copy_from_slice(b"BM");
//! # for (at, value) in [(10, 54), (14, 40), (18, 4), (22, 4), (26, 1), (28, 32)] { bmp[at] = value }
//! # assert!(answer(&bmp, &card).unwrap().starts_with(b"\x89PNG"));
//! ```

#![forbid(unsafe_code)]

pub mod card;
pub mod gradcam;
pub mod overlay;
pub mod photo;
pub mod rank;
pub mod resize;
pub mod tensor;
pub mod view;

#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod common;
