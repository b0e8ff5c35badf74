//! A dense layer that reads a whole flattened map: its weights are summed over the places (pixels) of each
//! channel when the model is prepared.
//!
//! Grad-CAM sums the gradient over the places anyway. If all places have the same factor, the sum can be
//! computed once; otherwise the running graph would read the largest layer of such a network a second time.

use super::closed::Diagonal;
use super::closed::name;
use super::reverse::Shapes;
use super::tangent::Region;
use crate::onnx::graph::{Graph, input, ints, op};
use skincell_onnx::Constant;

/// The map that `x` flattens, the name of the averaged weights, and the axis of the map's channels. `None` if
/// `x` is not a flattened map of `region`, or its places have different factors.
///
/// The weights are averaged over the places, so they give the mean gradient of a place.
pub(super) fn over_places(
    graph: &mut Graph,
    shapes: &Shapes,
    region: &Region,
    x: &str,
    weights: &str,
    in_by_out: bool,
) -> Option<(String, String, usize)> {
    let mut moves = Vec::new();
    let mut map = x.to_owned();
    let tangent = loop {
        let places = |axis: usize| {
            Some(shapes.get(&map)?.iter().product::<usize>() / shapes.get(&map)?.get(axis)?)
        };
        match region.tangents.get(&map) {
            Some(tangent) if places(tangent.axis)? > 1 => break tangent,
            Some(_) => return None,
            None => {}
        }
        let (_, node) = graph.producer_of(&map)?;
        if !matches!(op(node), "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" | "Transpose") {
            return None;
        }
        moves.push(node.clone());
        input(node, 0)?.clone_into(&mut map);
    };
    if matches!(tangent.factor, Diagonal::Value(_)) {
        return None;
    }
    // The channel of each element, in the order of the flattened elements.
    let shape = shapes.get(&map)?.clone();
    let inner: usize = shape.get(tangent.axis + 1..)?.iter().product();
    let channels = *shape.get(tangent.axis)?;
    let count: usize = shape.iter().product();
    let mut of: Vec<usize> = (0..count).map(|i| i / inner % channels).collect();
    let mut dims = shape;
    for node in moves.iter().rev() {
        if op(node) == "Transpose" {
            let perm: Vec<usize> = match ints(node, "perm") {
                Some(perm) => perm.iter().filter_map(|p| usize::try_from(*p).ok()).collect(),
                None => (0..dims.len()).rev().collect(),
            };
            of = transposed(&of, &dims, &perm)?;
        }
        dims.clone_from(shapes.get(node.output.first()?)?);
    }
    let tensor = graph.constants.get(weights)?;
    let [rows, columns] = tensor.dims[..] else { return None };
    let (inputs, outputs) = if in_by_out { (rows, columns) } else { (columns, rows) };
    if inputs != count {
        return None;
    }
    let values = tensor.to_f32()?;
    let mut sums = vec![0.0_f64; channels * outputs];
    for (at, value) in values.iter().enumerate() {
        let (from, to) =
            if in_by_out { (at / columns, at % columns) } else { (at % columns, at / columns) };
        let channel = *of.get(from)?;
        let place = if in_by_out { channel * outputs + to } else { to * channels + channel };
        *sums.get_mut(place)? += f64::from(*value);
    }
    let places = (count / channels) as f64;
    let means: Vec<f32> = sums.iter().map(|s| (s / places) as f32).collect();
    let dims = if in_by_out { [channels, outputs] } else { [outputs, channels] };
    let axis = tangent.axis;
    Some((map, graph.add_constant(&name("summed"), Constant::f32(&dims, &means)), axis))
}

fn transposed(of: &[usize], dims: &[usize], perm: &[usize]) -> Option<Vec<usize>> {
    let strides: Vec<usize> =
        (0..dims.len()).map(|a| dims[a + 1..].iter().product::<usize>()).collect();
    let mut moved = Vec::with_capacity(of.len());
    for mut at in 0..of.len() {
        let mut from = 0;
        for axis in perm.iter().rev() {
            let side = *dims.get(*axis)?;
            from += at % side * strides.get(*axis)?;
            at /= side;
        }
        moved.push(*of.get(from)?);
    }
    Some(moved)
}
