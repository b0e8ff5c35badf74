//! The tensors that go into a model and come out: names, types, axes.

use serde::{Deserialize, Serialize};

/// Element type of a tensor given to or taken from the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// One byte, 0–255.
    U8,
    /// IEEE 754 single.
    F32,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F32 => 4,
        }
    }
}

/// Order of a tensor's axes outside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// `[.., channel, height, width]`, as in PyTorch.
    ChannelsFirst,
    /// `[.., height, width, channel]`, as in Keras.
    ChannelsLast,
}

/// A named input or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the ONNX graph.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions in the ONNX graph, with as many elements as the map.
    pub dims: Vec<u32>,
    /// Order of the axes.
    pub order: Order,
    /// The map.
    pub map: u32,
    /// Inputs only: a factor for each channel; empty for 1.
    pub scale: Vec<f32>,
    /// Inputs only: a summand for each channel after scaling; empty for 0.
    pub bias: Vec<f32>,
}
