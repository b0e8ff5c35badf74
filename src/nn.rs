//! [`Inference`] by the host's wasi-nn: load by name, prepare, compute, and copy out what is wanted.
//!
//! Models come by name only, which lets the host grant them, share them between instances and map
//! their weights; the component never sees a weight.

use skincell_vision::card::Dtype;
use skincell_vision::tensor::PhotoTensor;

use crate::inference::{Element, Inference, InferenceError, OutputTensor};

use bindings::wasi::nn::errors::{Error, ErrorCode};
use bindings::wasi::nn::graph::load_by_name;
use bindings::wasi::nn::tensor::{Tensor as HostTensor, TensorType};

/// What wit-bindgen makes of `wit/wasi-nn.wit`.
#[allow(warnings, unsafe_code, clippy::all, clippy::too_many_lines, reason = "generated")]
mod bindings {
    spin_sdk::wit_bindgen::generate!({
        path: "wit/wasi-nn.wit",
        world: "ml",
        runtime_path: "::spin_sdk::wit_bindgen::rt",
    });
}

/// The host this component runs in.
pub(crate) struct Host;

impl Inference for Host {
    fn load(&self, model: &str) -> Result<(), InferenceError> {
        load_by_name(model).map(drop).map_err(|error| not_loaded(model, &error))
    }

    fn infer(
        &self,
        model: &str,
        (input, tensor): (&str, PhotoTensor),
        wanted: &[&str],
    ) -> Result<Vec<OutputTensor>, InferenceError> {
        let graph = load_by_name(model).map_err(|error| not_loaded(model, &error))?;
        let context = graph.init_execution_context().map_err(|error| not_loaded(model, &error))?;
        let ty = match tensor.dtype {
            Dtype::F32 => TensorType::Fp32,
            Dtype::U8 => TensorType::U8,
        };
        let tensor = HostTensor::new(&tensor.dimensions, ty, &tensor.data);
        let outputs = context
            .compute(vec![(input.to_owned(), tensor)])
            .map_err(|error| not_computed(model, &error))?;
        let wanted = outputs.iter().filter(|(name, _)| wanted.contains(&name.as_str()));
        Ok(wanted.map(|(name, tensor)| fetch(name, tensor)).collect())
    }
}

fn fetch(name: &str, tensor: &HostTensor) -> OutputTensor {
    let element = match tensor.ty() {
        TensorType::Fp32 => Element::F32,
        other => Element::Other(format!("{other:?}")),
    };
    OutputTensor {
        name: name.to_owned(),
        dimensions: tensor.dimensions(),
        element,
        data: tensor.data(),
    }
}

fn not_loaded(model: &str, error: &Error) -> InferenceError {
    let (model, why) = (model.to_owned(), said(error));
    match error.code() {
        ErrorCode::NotFound | ErrorCode::Security => InferenceError::NotGranted { model, why },
        ErrorCode::Timeout => InferenceError::Timeout { model, why },
        _ => InferenceError::Unavailable { model, why },
    }
}

fn not_computed(model: &str, error: &Error) -> InferenceError {
    let (model, why) = (model.to_owned(), said(error));
    match error.code() {
        ErrorCode::Timeout => InferenceError::Timeout { model, why },
        ErrorCode::TooLarge => InferenceError::Unavailable { model, why },
        _ => InferenceError::Failed { model, why },
    }
}

/// The host's words on one line, at most a few hundred characters of them.
fn said(error: &Error) -> String {
    const LONGEST: usize = 300;
    let words = error.data();
    let line = words.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.is_empty() {
        true => format!("{:?}", error.code()),
        false => line.chars().take(LONGEST).collect(),
    }
}
