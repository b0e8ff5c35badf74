//! Describes a model's tensors for the protocol, from its card: names, types and shapes.

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Card, Dtype, Layout, MapClasses};

/// The output that this component computes from the scores: `[batch, classes]`, 0 to 1.
pub(super) const PROBABILITIES: &str = "probabilities";

/// Most rows of a batch. The rows are run one after another.
pub(super) const MAX_BATCH: u64 = 16;

/// A tensor's name, element type and shape, without the batch axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    /// Name of the graph's tensor.
    pub(super) name: String,
    /// `FP32` or `UINT8`.
    pub(super) datatype: &'static str,
    /// Length of each axis after the batch axis, outermost first.
    pub(super) row: Vec<u64>,
}

impl Tensor {
    /// The shape of a batch of `rows`.
    pub(super) fn shape(&self, rows: u64) -> Vec<u64> {
        [&[rows], self.row.as_slice()].concat()
    }

    /// Number of elements of a row; `None` if it is more than 2^64.
    pub(super) fn elements(&self) -> Option<u64> {
        self.row.iter().try_fold(1_u64, |size, length| size.checked_mul(*length))
    }

    /// As the model's metadata describe it.
    pub(super) fn described(self) -> Description {
        let fixed = self.row.iter().map(|length| i64::try_from(*length).unwrap_or(i64::MAX));
        let shape = std::iter::once(-1).chain(fixed).collect();
        Description { name: self.name, datatype: self.datatype, shape }
    }
}

/// A tensor's name, element type and shape in the metadata of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "TensorDescription"))]
pub(crate) struct Description {
    /// Name of the graph's tensor.
    name: String,
    /// `FP32` or `UINT8`.
    datatype: &'static str,
    /// Length of each axis, outermost first; -1 is the batch, from 1 to 16.
    shape: Vec<i64>,
}

/// The source of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// The score tensor of the graph.
    Scores,
    /// The probabilities computed from the scores.
    Probabilities,
    /// The Grad-CAM maps.
    Cam,
    /// The classes of the maps, if only some classes have one.
    CamClasses,
    /// The familiarity, `[batch, 1]`: above 1 the photo is of an unknown kind.
    Familiarity,
}

/// The input tensor: channels in RGB order, prepared as the card's `mean` and `std` say.
pub(super) fn input(card: &Card) -> Tensor {
    let (width, height) = (u64::from(card.input.width), u64::from(card.input.height));
    let row = match card.input.layout {
        Layout::Nchw => vec![3, height, width],
        Layout::Nhwc => vec![height, width, 3],
    };
    Tensor { name: card.input.name.clone(), datatype: datatype(card.input.dtype), row }
}

/// The output tensors, in the order of the answer.
pub(super) fn outputs(card: &Card) -> Vec<(Output, Tensor)> {
    let classes = card.classes.len() as u64;
    let tensor =
        |name: &str, row| Tensor { name: name.to_owned(), datatype: datatype(Dtype::F32), row };
    let mut outputs = vec![(Output::Scores, tensor(&card.output.name, vec![classes]))];
    if let Some(map) = &card.gradcam {
        let rows = map.rows(card.classes.len()) as u64;
        let row = vec![rows, u64::from(map.height), u64::from(map.width)];
        outputs.push((Output::Cam, tensor(&map.output, row)));
        if let MapClasses::Likeliest { count, output, .. } = &map.classes {
            outputs.push((Output::CamClasses, tensor(output, vec![u64::from(*count)])));
        }
    }
    if let Some(familiarity) = &card.familiarity {
        outputs.push((Output::Familiarity, tensor(&familiarity.output, vec![1])));
    }
    // If the graph has an output of this name, it is kept instead.
    if outputs.iter().all(|(_, output)| output.name != PROBABILITIES) {
        outputs.push((Output::Probabilities, tensor(PROBABILITIES, vec![classes])));
    }
    outputs
}

/// The protocol's name of an element type.
pub(super) fn datatype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "FP32",
        Dtype::U8 => "UINT8",
    }
}

/// Bytes of one element.
pub(super) fn element_size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::U8 => 1,
    }
}
