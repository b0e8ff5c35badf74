//! Rewrites operators that rten computes otherwise than ONNX says, so that all engines compute the same.
//!
//! rten pads `SAME_LOWER` as `SAME_UPPER`, and computes the softmax of sets before 13 over one axis where
//! these say all axes from the given one on. Both are written out for the photo's size. A bicubic `Resize`
//! and a transposed convolution with `SAME_LOWER` are refused, and what rten does not compute.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;

use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{
    Graph, float, input, int, int_attribute, ints, ints_attribute, label, op, output, text,
};
use crate::onnx::read::ReadError;

/// Rewrites such nodes for a photo of this shape. A bicubic `Resize` that keeps the size changes nothing and
/// stays. (DINOv2 resizes what it knows of positions, for the size it was trained for too.)
///
/// # Errors
/// [`ReadError::Operators`] names another bicubic `Resize`; the outer error is the engine's.
pub(crate) fn rewrite(
    graph: &mut Graph,
    photo: &[usize],
) -> Result<Result<(), ReadError>, EngineError> {
    let old = graph.opset() < 13;
    let cubic = |node: &NodeProto| op(node) == "Resize" && text(node, "mode") == Some("cubic");
    let lower = |node: &NodeProto| {
        matches!(op(node), "Conv" | "ConvInteger" | "MaxPool" | "AveragePool")
            && text(node, "auto_pad") == Some("SAME_LOWER")
    };
    let wide = |node: &NodeProto| old && matches!(op(node), "Softmax" | "LogSoftmax");
    let found = |node: &NodeProto| cubic(node) || lower(node) || wide(node);
    let found: Vec<usize> = (0..graph.nodes.len()).filter(|i| found(&graph.nodes[*i])).collect();
    if found.is_empty() {
        return Ok(Ok(()));
    }
    let shapes = shapes(graph, photo, &found)?;
    let ends = |node: &NodeProto| Some((shapes.get(input(node, 0)?)?, shapes.get(output(node))?));
    let resizes = |node: &&NodeProto| cubic(node) && ends(node).is_none_or(|(x, y)| x != y);
    if let Some(node) = found.iter().map(|index| &graph.nodes[*index]).find(resizes) {
        return Ok(Err(bicubic(node)));
    }
    // From the last on, so that indices stay right.
    for index in found.into_iter().rev() {
        let node = graph.nodes[index].clone();
        let Some((x, y)) = ends(&node) else { continue };
        if lower(&node) {
            let window = window(graph, &node);
            pad_below(&mut graph.nodes[index], x, y, &window);
        } else if wide(&node) {
            spread_softmax(graph, index, x);
        }
    }
    Ok(Ok(()))
}

fn bicubic(node: &NodeProto) -> ReadError {
    ReadError::Operators(format!(
        "{} resizes bicubically, which the engine rten would compute otherwise; resize bilinearly in the \
         model, or export it without this step and prepare it with --filter bicubic",
        label(node)
    ))
}

/// What rten does not compute at all, as an error's text.
fn unknown(node: &NodeProto) -> Option<String> {
    let name = label(node);
    match op(node) {
        "DFT" | "STFT" => Some(format!(
            "{name} computes a Fourier transform, which the engine rten does not know: write it in the model as \
             a product with the transform's matrix, and export it again"
        )),
        "RandomNormal" | "RandomNormalLike" | "RandomUniform" | "RandomUniformLike"
        | "Bernoulli" | "Multinomial" => Some(format!(
            "{name} draws random numbers, so that a photo would have another answer each time: export the \
             model for prediction (PyTorch: model.eval(); Keras: training=False)"
        )),
        "QuantizeLinear" | "DequantizeLinear" if int(node, "block_size", 0) != 0 => Some(format!(
            "{name} has a scale for each block of elements (block_size), which the engine rten does not know: \
             quantize with one scale for each channel (per_channel=True), or prepare the model that was \
             quantized"
        )),
        "Resize" => {
            let how = unknown_resize(node)?;
            Some(format!(
                "{name} resizes {how}, which the engine rten does not know: resize bilinearly in the model, or \
                 export it without this step and prepare it with --filter, for the size behind this step"
            ))
        }
        _ => None,
    }
}

/// How a `Resize` works that rten does not know.
fn unknown_resize(node: &NodeProto) -> Option<String> {
    let coefficient = float(node, "cubic_coeff_a", -0.75);
    if text(node, "mode") == Some("cubic") && (coefficient + 0.75).abs() > 1e-6 {
        return Some(format!("bicubically with the coefficient {coefficient}"));
    }
    if int(node, "antialias", 0) != 0 {
        return Some("with antialiasing".to_owned());
    }
    if int(node, "exclude_outside", 0) != 0 {
        return Some("without the pixels outside the picture (exclude_outside)".to_owned());
    }
    let known = ["asymmetric", "half_pixel", "align_corners", "pytorch_half_pixel"];
    let places = text(node, "coordinate_transformation_mode").unwrap_or("half_pixel");
    if !known.contains(&places) {
        return Some(format!("by the rule {places} of where a pixel lies"));
    }
    let policy = text(node, "keep_aspect_ratio_policy").filter(|policy| *policy != "stretch")?;
    Some(format!("by the rule {policy} of the sides' ratio"))
}

/// Refuses what rten computes as something else, or not at all.
///
/// # Errors
/// [`ReadError::Operators`] with the node.
pub(crate) fn refuse_other(graph: &Graph) -> Result<(), ReadError> {
    let lower =
        |n: &&NodeProto| op(n) == "ConvTranspose" && text(n, "auto_pad") == Some("SAME_LOWER");
    let trains = |n: &&NodeProto| {
        let first_byte = || graph.constants.get(input(n, 2)?)?.bytes.first().copied();
        // Before operator set 14 the number of outputs said so.
        let by_outputs = graph.opset() < 14 && n.output.len() > 1;
        (op(n) == "BatchNormalization" && (by_outputs || int(n, "training_mode", 0) != 0))
            || (op(n) == "Dropout" && first_byte().is_some_and(|byte| byte != 0))
    };
    if let Some(node) = graph.nodes.iter().find(trains) {
        return Err(ReadError::Operators(format!(
            "{} works as in training, by the statistics of the photo itself or at random; export the model \
             for prediction (PyTorch: model.eval(); Keras: training=False)",
            label(node)
        )));
    }
    if let Some(text) = graph.nodes.iter().find_map(unknown) {
        return Err(ReadError::Operators(text));
    }
    match graph.nodes.iter().find(lower) {
        None => Ok(()),
        Some(node) => Err(ReadError::Operators(format!(
            "{} pads by auto_pad SAME_LOWER, which the engine rten would compute otherwise; export it with \
             pads as numbers",
            label(node)
        ))),
    }
}

/// The shapes of the inputs and outputs of some nodes.
fn shapes(
    graph: &Graph,
    photo: &[usize],
    nodes: &[usize],
) -> Result<HashMap<String, Vec<usize>>, EngineError> {
    let ends = nodes.iter().map(|i| &graph.nodes[*i]).flat_map(|n| [input(n, 0), Some(output(n))]);
    let is_fixed = |value: &&str| graph.constants.contains_key(*value);
    let (fixed, made): (Vec<&str>, Vec<&str>) = ends.flatten().partition(is_fixed);
    let mut shapes = Probe::new(graph, photo)?.learn(&made)?.clone();
    let dims = |name: &str| Some((name.to_owned(), graph.constants.get(name)?.dims.clone()));
    shapes.extend(fixed.into_iter().filter_map(dims));
    Ok(shapes)
}

/// Rows and columns of the window of a convolution or pooling, spread by its dilations.
fn window(graph: &Graph, node: &NodeProto) -> Vec<usize> {
    let weights = || graph.constants.get(input(node, 1)?)?.dims.get(2..).map(<[usize]>::to_vec);
    let whole = |list: &[i64]| list.iter().filter_map(|v| usize::try_from(*v).ok()).collect();
    let sides: Vec<usize> =
        ints(node, "kernel_shape").map(whole).or_else(weights).unwrap_or_default();
    let dilations: Vec<usize> = ints(node, "dilations").map(whole).unwrap_or_default();
    let spread = |(at, side): (usize, &usize)| {
        side.saturating_sub(1) * dilations.get(at).copied().unwrap_or(1) + 1
    };
    sides.iter().enumerate().map(spread).collect()
}

/// Writes `SAME_LOWER` as numbers: of an odd padding the larger half comes first.
fn pad_below(node: &mut NodeProto, x: &[usize], y: &[usize], window: &[usize]) {
    let strides = ints(node, "strides").unwrap_or_default();
    let total = |axis: usize| {
        let stride = strides.get(axis).and_then(|s| usize::try_from(*s).ok()).unwrap_or(1);
        let (side, made) = (x.get(axis + 2)?, y.get(axis + 2)?);
        Some((made.saturating_sub(1) * stride + window[axis]).saturating_sub(*side))
    };
    let Some(totals) = (0..window.len()).map(total).collect::<Option<Vec<_>>>() else { return };
    let first = totals.iter().map(|total| total - total / 2);
    let pads: Vec<i64> =
        first.chain(totals.iter().map(|t| t / 2)).filter_map(|p| i64::try_from(p).ok()).collect();
    let old = ["auto_pad", "pads"];
    node.attribute.retain(|a| !old.contains(&a.name.as_deref().unwrap_or_default()));
    node.attribute.push(ints_attribute("pads", &pads));
}

/// Writes a softmax over several axes as one over the only axis of a matrix.
fn spread_softmax(graph: &mut Graph, index: usize, x: &[usize]) {
    let node = graph.nodes[index].clone();
    let rank = i64::try_from(x.len()).unwrap_or(0);
    let axis = int(&node, "axis", 1);
    let from = if axis < 0 { axis + rank } else { axis };
    let after = usize::try_from(from).ok().and_then(|from| x.get(from + 1..));
    if after.is_none_or(|after| after.iter().all(|side| *side == 1)) {
        return;
    }
    let end = graph.nodes.len();
    let read = input(&node, 0).unwrap_or_default();
    let rows = graph.emit("softmax/rows", "Flatten", &[read], vec![int_attribute("axis", from)]);
    let made = graph.emit("softmax/made", op(&node), &[&rows], vec![int_attribute("axis", 1)]);
    let sides: Vec<i64> = x.iter().filter_map(|side| i64::try_from(*side).ok()).collect();
    let sides = graph.add_constant("softmax/shape", Constant::i64_list(&sides));
    graph.emit("softmax/value", "Reshape", &[&made, &sides], vec![]);
    graph.take_place(index, end);
}
