//! Describes a model's tensors for the protocol, from its card: names, types and shapes.

#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Card, Dtype, Layout, MapClasses};

/// The output that this component computes from the scores: `[1, classes]`, 0 to 1.
pub(super) const PROBABILITIES: &str = "probabilities";

/// A tensor's name, element type and shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "TensorDescription"))]
pub(crate) struct Description {
    /// Name of the graph's tensor.
    pub(super) name: String,
    /// `FP32` or `UINT8`.
    pub(super) datatype: &'static str,
    /// Length of each axis, outermost first; never -1, because no axis is variable.
    pub(super) shape: Vec<u64>,
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
    /// The familiarity, `[1, 1]`: above 1 the photo is of an unknown kind.
    Familiarity,
}

/// The input tensor: batch 1, channels in RGB order, prepared as the card's `mean` and `std` say.
pub(super) fn input(card: &Card) -> Description {
    let (width, height) = (u64::from(card.input.width), u64::from(card.input.height));
    let shape = match card.input.layout {
        Layout::Nchw => vec![1, 3, height, width],
        Layout::Nhwc => vec![1, height, width, 3],
    };
    Description { name: card.input.name.clone(), datatype: datatype(card.input.dtype), shape }
}

/// The output tensors, in the order of the answer.
pub(super) fn outputs(card: &Card) -> Vec<(Output, Description)> {
    let classes = card.classes.len() as u64;
    let described = |name: &str, shape| Description {
        name: name.to_owned(),
        datatype: datatype(Dtype::F32),
        shape,
    };
    let mut outputs = vec![(Output::Scores, described(&card.output.name, vec![1, classes]))];
    if let Some(map) = &card.gradcam {
        let rows = map.rows(card.classes.len()) as u64;
        let shape = vec![1, rows, u64::from(map.height), u64::from(map.width)];
        outputs.push((Output::Cam, described(&map.output, shape)));
        if let MapClasses::Likeliest { count, output, .. } = &map.classes {
            outputs.push((Output::CamClasses, described(output, vec![1, u64::from(*count)])));
        }
    }
    if let Some(familiarity) = &card.familiarity {
        outputs.push((Output::Familiarity, described(&familiarity.output, vec![1, 1])));
    }
    // If the graph has an output of this name, it is kept instead.
    if outputs.iter().all(|(_, output)| output.name != PROBABILITIES) {
        outputs.push((Output::Probabilities, described(PROBABILITIES, vec![1, classes])));
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
