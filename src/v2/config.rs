//! A model's configuration as Triton's clients ask for it (its model configuration extension).

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::Card;

use super::tensors::{self, MAX_BATCH, Tensor};

/// The members of Triton's model configuration that say something about a model here.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "ModelConfiguration"))]
pub(crate) struct Configuration {
    name: String,
    platform: &'static str,
    backend: &'static str,
    /// Most rows of a batch. They are run one after another.
    max_batch_size: u64,
    input: Vec<ConfiguredTensor>,
    output: Vec<ConfiguredTensor>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct ConfiguredTensor {
    name: String,
    /// `TYPE_FP32` or `TYPE_UINT8`.
    data_type: String,
    /// Length of each axis after the batch axis.
    dims: Vec<u64>,
}

impl Configuration {
    pub(super) fn of(card: &Card) -> Self {
        let outputs = tensors::outputs(card).into_iter().map(|(_, output)| output);
        Self {
            name: card.name.clone(),
            platform: super::PLATFORM,
            backend: "skincell",
            max_batch_size: MAX_BATCH,
            input: vec![ConfiguredTensor::of(tensors::input(card))],
            output: outputs.map(ConfiguredTensor::of).collect(),
        }
    }
}

impl ConfiguredTensor {
    fn of(tensor: Tensor) -> Self {
        let data_type = format!("TYPE_{}", tensor.datatype);
        Self { name: tensor.name, data_type, dims: tensor.row }
    }
}
