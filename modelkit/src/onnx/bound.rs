//! How many elements the outputs of a node can have, from what is known of its inputs.
//!
//! The sizes follow <https://onnx.ai/onnx/operators/>. They are upper bounds: parts that only make a value
//! smaller, such as strides, are left out. All products stop at the largest u64.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;

use super::graph::{attribute, int, ints, op};

/// What is known of an input.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Its shape; empty for a scalar or an input that is left out.
    pub(super) shape: Vec<usize>,
    /// Its elements, if they are few and numbers.
    pub(super) numbers: Option<Vec<f64>>,
}

impl Known {
    /// Number of its elements.
    pub(super) fn count(&self) -> u64 {
        product(self.shape.iter().map(|side| *side as f64))
    }

    fn side(&self, axis: usize) -> f64 {
        self.shape.get(axis).copied().unwrap_or(1) as f64
    }

    fn numbers(&self) -> &[f64] {
        self.numbers.as_deref().unwrap_or_default()
    }
}

/// The product of sizes; one that is not a number or below 0 counts as 0.
fn product(sides: impl IntoIterator<Item = f64>) -> u64 {
    // The cast keeps to the limits of u64, and makes 0 of NaN.
    sides.into_iter().fold(1_u64, |all, side| all.saturating_mul(side.ceil() as u64))
}

/// Operators that work element by element on inputs of different shapes.
const BROADCAST: [&str; 21] = [
    "Add",
    "And",
    "BitShift",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
];

/// The largest number of elements of an output of `node`, given its inputs in order.
pub(super) fn bound(node: &NodeProto, inputs: &[Known]) -> u64 {
    let none = Known::default();
    let at = |index: usize| inputs.get(index).unwrap_or(&none);
    let (x, w) = (at(0), at(1));
    match op(node) {
        "Pad" => padded(node, inputs),
        "Expand" => broadcast([&x.shape[..], &whole(w.numbers())]),
        "Tile" => repeated(inputs),
        "ConstantOfShape" => product(x.numbers().iter().copied()),
        "Range" => range(x.numbers(), w.numbers(), at(2).numbers()),
        "OneHot" => product([x.count() as f64, w.numbers().first().copied().unwrap_or(1.0)]),
        "Resize" | "Upsample" => resized(node, inputs),
        "Conv" | "ConvInteger" | "QLinearConv" => {
            product([x.side(0), w.side(0)]).saturating_mul(slid(node, x))
        }
        "MaxPool" | "AveragePool" | "LpPool" => {
            product([x.side(0), x.side(1)]).saturating_mul(slid(node, x))
        }
        "ConvTranspose" => spread(node, x, w),
        "Gather" => {
            let axis = place(int(node, "axis", 0), x.shape.len());
            let rest = x.shape.iter().enumerate().filter(|(at, _)| *at != axis);
            product(rest.map(|(_, side)| *side as f64)).saturating_mul(w.count())
        }
        "GatherND" => {
            let depth = w.shape.last().copied().unwrap_or(0);
            let rows = w.shape.iter().rev().skip(1).map(|side| *side as f64);
            let rest = x.shape.iter().skip(depth).map(|side| *side as f64);
            product(rows.chain(rest))
        }
        "GatherElements" => w.count(),
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => multiplied(x, w),
        "Gemm" => {
            let rows = x.side(usize::from(int(node, "transA", 0) != 0));
            product([rows, w.side(usize::from(int(node, "transB", 0) == 0))])
        }
        "Einsum" => summed(node, inputs),
        "Attention" | "MultiHeadAttention" | "GroupQueryAttention" => attended(node, inputs),
        "LSTM" | "GRU" | "RNN" => product([x.side(0), x.side(1), at(2).side(0), at(2).side(2)]),
        "GridSample" => product([x.side(0), x.side(1), w.side(1), w.side(2)]),
        "NonZero" => product([x.count() as f64, x.shape.len() as f64]),
        "Concat" => inputs.iter().fold(0, |all, input| all.saturating_add(input.count())),
        name if BROADCAST.contains(&name) => broadcast(inputs.iter().map(|i| &i.shape[..])),
        _ => inputs.iter().map(Known::count).max().unwrap_or(0),
    }
}

/// Elements of shapes that are broadcast together: along each axis, counted from the last, the largest side.
fn broadcast<'s>(shapes: impl IntoIterator<Item = &'s [usize]>) -> u64 {
    let mut sides: Vec<usize> = Vec::new();
    for shape in shapes {
        for (axis, side) in shape.iter().rev().enumerate() {
            match sides.get_mut(axis) {
                Some(held) => *held = (*held).max(*side),
                None => sides.push(*side),
            }
        }
    }
    product(sides.into_iter().map(|side| side as f64))
}

fn whole(numbers: &[f64]) -> Vec<usize> {
    numbers.iter().map(|number| *number as usize).collect()
}

/// An axis that may count from the end.
fn place(axis: i64, rank: usize) -> usize {
    let axis = if axis < 0 { axis.saturating_add(rank as i64) } else { axis };
    usize::try_from(axis).unwrap_or(0)
}

fn attribute_numbers(node: &NodeProto, name: &str) -> Vec<f64> {
    let Some(found) = attribute(node, name) else { return Vec::new() };
    let floats = found.floats.iter().copied().map(f64::from);
    found.ints.iter().map(|number| *number as f64).chain(floats).collect()
}

fn padded(node: &NodeProto, inputs: &[Known]) -> u64 {
    let Some(x) = inputs.first() else { return 0 };
    let mut sides: Vec<f64> = x.shape.iter().map(|side| *side as f64).collect();
    let pads = match inputs.get(1).map(Known::numbers) {
        Some(numbers) if !numbers.is_empty() => numbers.to_vec(),
        _ => attribute_numbers(node, "pads"),
    };
    let axes: Vec<usize> = match inputs.get(3).map(Known::numbers) {
        Some(axes) if !axes.is_empty() => {
            axes.iter().map(|axis| place(*axis as i64, sides.len())).collect()
        }
        _ => (0..sides.len()).collect(),
    };
    let (before, after) = pads.split_at(pads.len() / 2);
    for (axis, (before, after)) in axes.into_iter().zip(before.iter().zip(after)) {
        if let Some(side) = sides.get_mut(axis) {
            *side += before + after;
        }
    }
    product(sides)
}

fn repeated(inputs: &[Known]) -> u64 {
    let Some([x, repeats]) = inputs.get(..2) else { return 0 };
    product(repeats.numbers().iter().copied()).saturating_mul(x.count())
}

fn range(start: &[f64], end: &[f64], step: &[f64]) -> u64 {
    let first = |numbers: &[f64]| numbers.first().copied().unwrap_or(0.0);
    product([(first(end) - first(start)) / first(step)])
}

/// `Resize` by sizes or factors, wherever the operator set of the node has them.
fn resized(node: &NodeProto, inputs: &[Known]) -> u64 {
    let Some(x) = inputs.first() else { return 0 };
    let factors = |scales: &[f64]| {
        product(scales.iter().map(|scale| scale.max(1.0))).saturating_mul(x.count())
    };
    let axes: Vec<usize> = match ints(node, "axes") {
        Some(axes) => axes.iter().map(|axis| place(*axis, x.shape.len())).collect(),
        None => (0..x.shape.len()).collect(),
    };
    // Sizes are the fourth input, and factors the second or third; the region of interest has other lengths.
    match inputs.get(3).map(Known::numbers) {
        Some(sizes) if !sizes.is_empty() => {
            let kept = x.shape.iter().enumerate().filter(|(axis, _)| !axes.contains(axis));
            product(kept.map(|(_, side)| *side as f64).chain(sizes.iter().copied()))
        }
        _ => {
            let given = inputs.iter().skip(1).map(|input| factors(input.numbers()));
            given.chain([factors(&attribute_numbers(node, "scales"))]).max().unwrap_or(0)
        }
    }
}

/// Positions of a window that moves by one over the padded map.
fn slid(node: &NodeProto, x: &Known) -> u64 {
    let pads = attribute_numbers(node, "pads");
    let rank = x.shape.len().saturating_sub(2);
    let side = |axis: usize| {
        let pad = |at: usize| pads.get(at).copied().unwrap_or(0.0);
        x.side(axis + 2) + pad(axis) + pad(axis + pads.len() / 2)
    };
    product((0..rank).map(side))
}

/// A transposed convolution without what its pads cut off.
fn spread(node: &NodeProto, x: &Known, w: &Known) -> u64 {
    let rank = x.shape.len().saturating_sub(2);
    let of = |name: &str, axis: usize, default: i64| {
        ints(node, name).and_then(|list| list.get(axis).copied()).unwrap_or(default) as f64
    };
    let side = |axis: usize| {
        let window = (w.side(axis + 2) - 1.0) * of("dilations", axis, 1) + 1.0;
        let moved = (x.side(axis + 2) - 1.0) * of("strides", axis, 1);
        let least = moved + window + of("output_padding", axis, 0);
        least.max(of("output_shape", axis, 0))
    };
    let channels = [x.side(0), w.side(1), int(node, "group", 1) as f64];
    product(channels).saturating_mul(product((0..rank).map(side)))
}

/// The output of an `Einsum`: the sides of its letters, and the largest of those that an ellipsis stands
/// for. Of more than two operands, those of all letters, because their products may have them.
fn summed(node: &NodeProto, inputs: &[Known]) -> u64 {
    let all = || inputs.iter().fold(1_u64, |all, input| all.saturating_mul(input.count()));
    let Some(equation) = attribute(node, "equation").and_then(|found| found.s.as_ref()) else {
        return all();
    };
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, result) = match equation.split_once("->") {
        Some((operands, result)) if inputs.len() <= 2 => (operands, Some(result)),
        Some((operands, _)) => (operands, None),
        None => (equation.as_str(), None),
    };
    if operands.split(',').count() != inputs.len() {
        return all();
    }
    let (mut sides, mut between) = (HashMap::new(), 1);
    for (operand, input) in operands.split(',').zip(inputs) {
        let (first, last) = operand.split_once("...").unwrap_or((operand, ""));
        let (before, after) = (first.chars().count(), last.chars().count());
        let Some(rest) = input.shape.len().checked_sub(before + after) else { return all() };
        let of_ellipsis = input.shape.iter().skip(before).take(rest);
        between = between.max(product(of_ellipsis.map(|side| *side as f64)));
        let lettered =
            input.shape.iter().take(before).chain(input.shape.iter().skip(before + rest));
        for (letter, side) in first.chars().chain(last.chars()).zip(lettered) {
            let held = sides.entry(letter).or_insert(*side);
            *held = (*held).max(*side);
        }
    }
    let kept = sides.iter().filter(|(letter, _)| result.is_none_or(|y| y.contains(**letter)));
    product(kept.map(|(_, side)| *side as f64)).saturating_mul(between)
}

/// Attention of rows `[batch, tokens, channels]` or `[batch, heads, tokens, channels]`: its scores or its
/// results, whichever are more.
fn attended(node: &NodeProto, inputs: &[Known]) -> u64 {
    let none = Known::default();
    let query = inputs.first().unwrap_or(&none);
    // com.microsoft's `Attention` has weights there, and attends to its own rows.
    let key =
        inputs.get(1).filter(|key| key.shape.len() == query.shape.len() && key.shape.len() > 2);
    let tokens = |known: &Known| known.side(known.shape.len().saturating_sub(2));
    let named = ["num_heads", "q_num_heads"].map(|name| int(node, name, 1) as f64);
    let heads = if query.shape.len() > 3 { query.side(1) } else { named[0].max(named[1]) };
    let scores = product([query.side(0), heads, tokens(query), tokens(key.unwrap_or(query))]);
    inputs.iter().map(Known::count).max().unwrap_or(0).max(scores)
}

/// A product of matrices, broadcast over the axes before the last two.
fn multiplied(x: &Known, w: &Known) -> u64 {
    let outer = |known: &Known| known.shape[..known.shape.len().saturating_sub(2)].to_vec();
    let rows = if x.shape.len() > 1 { x.shape[x.shape.len() - 2] } else { 1 };
    let columns = if w.shape.len() > 1 { w.shape[w.shape.len() - 1] } else { 1 };
    let (a, b) = (outer(x), outer(w));
    broadcast([&a[..], &b[..]]).saturating_mul(product([rows as f64, columns as f64]))
}

#[cfg(test)]
mod tests {
    use skincell_onnx::build::{int_attribute, text_attribute};

    use super::{Known, NodeProto, bound};

    fn of(shapes: &[&[usize]]) -> Vec<Known> {
        let known = |shape: &&[usize]| Known { shape: shape.to_vec(), numbers: None };
        shapes.iter().map(known).collect()
    }

    fn einsum(equation: &str, shapes: &[&[usize]]) -> u64 {
        let node = NodeProto {
            op_type: Some("Einsum".to_owned()),
            attribute: vec![text_attribute("equation", equation)],
            ..NodeProto::default()
        };
        bound(&node, &of(shapes))
    }

    /// The product of all operands refused torchvision's MaxViT, of 64 groups with 49 tokens.
    #[test]
    fn an_einsum_has_the_sides_of_its_letters() {
        let side: &[usize] = &[1, 64, 2, 49, 32];
        assert_eq!(einsum("B G H I D, B G H J D -> B G H I J", &[side, side]), 64 * 2 * 49 * 49);
        assert_eq!(einsum("...ij,...jk->...ik", &[&[5, 2, 3], &[5, 3, 4]]), 5 * 2 * 4);
        assert_eq!(einsum("ij,jk", &[&[2, 3], &[3, 4]]), 2 * 3 * 4);
        assert_eq!(einsum("i,j,k->ijk", &[&[2], &[3], &[4]]), 2 * 3 * 4);
        // Operands of other ranks than the equation says.
        assert_eq!(einsum("ij,jk->ik", &[&[2], &[3, 4]]), 2 * 3 * 4);
        assert_eq!(einsum("ij->ij", &[&[2, 3], &[3, 4]]), 2 * 3 * 3 * 4);
    }

    #[test]
    fn attention_has_scores_for_each_head() {
        let node = NodeProto {
            op_type: Some("MultiHeadAttention".to_owned()),
            attribute: vec![int_attribute("num_heads", 4)],
            ..NodeProto::default()
        };
        let rows: &[usize] = &[1, 100, 16];
        assert_eq!(bound(&node, &of(&[rows, &[1, 50, 16], &[1, 50, 16]])), 4 * 100 * 50);
        let heads: &[usize] = &[1, 3, 100, 16];
        assert_eq!(bound(&node, &of(&[heads, heads, heads])), 3 * 100 * 100);
        assert_eq!(bound(&node, &of(&[rows, &[16, 48], &[48]])), 4 * 100 * 100);
    }
}
