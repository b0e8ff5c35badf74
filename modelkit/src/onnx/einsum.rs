//! Writes `Einsum` of two operands as transposes, reshapes and one matrix product.
//!
//! All rules for Grad-CAM and cellnet then apply to it. Left as they are: one or more than two operands, an
//! ellipsis, a letter that occurs twice in one operand, and letters of one operand that are summed alone.

use std::collections::HashMap;

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;

use crate::onnx::graph::{Graph, attribute, input, ints_attribute, op, output};

/// The letters of an equation, by the part they have in the matrix product.
struct Product {
    a: Vec<char>,
    b: Vec<char>,
    y: Vec<char>,
    /// In both operands and the result.
    batch: Vec<char>,
    /// In the first operand and the result.
    rows: Vec<char>,
    /// In both operands only.
    inner: Vec<char>,
    /// In the second operand and the result.
    columns: Vec<char>,
}

/// Replaces every `Einsum` that can be written as a matrix product. `shapes` holds the shapes of computed
/// values.
pub(crate) fn expand(graph: &mut Graph, shapes: &HashMap<String, Vec<usize>>) {
    let mut index = 0;
    while index < graph.nodes.len() {
        let node = graph.nodes[index].clone();
        let found = if op(&node) == "Einsum" { product(graph, shapes, &node) } else { None };
        let Some((product, sides)) = found else {
            index += 1;
            continue;
        };
        let end = graph.nodes.len();
        write(graph, &node, &product, &sides);
        index += graph.put_in_place(index, end);
    }
}

/// The product that a node computes, and the length of each letter's axis.
fn product(
    graph: &Graph,
    shapes: &HashMap<String, Vec<usize>>,
    node: &NodeProto,
) -> Option<(Product, HashMap<char, usize>)> {
    let equation = attribute(node, "equation")?.s.as_ref()?;
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (operands, y) = equation.split_once("->")?;
    let (a, b) = operands.split_once(',')?;
    let letters = |text: &str| {
        let letters: Vec<char> = text.chars().collect();
        let once = |c: &char| letters.iter().filter(|other| *other == c).count() == 1;
        letters.iter().all(|c| c.is_ascii_alphabetic() && once(c)).then_some(letters.clone())
    };
    let (a, b, y) = (letters(a)?, letters(b)?, letters(y)?);
    let mut sides = HashMap::new();
    for (operand, letters) in [(0, &a), (1, &b)] {
        let name = input(node, operand)?;
        let dims = graph.constants.get(name).map(|c| &c.dims).or_else(|| shapes.get(name))?;
        if dims.len() != letters.len() {
            return None;
        }
        for (letter, side) in letters.iter().zip(dims) {
            // An axis of length 1 beside a longer one would have to be broadcast.
            if *sides.entry(*letter).or_insert(*side) != *side {
                return None;
            }
        }
    }
    let of = |letters: &[char], other: bool, result: bool, others: &[char]| -> Vec<char> {
        let fits = |c: &&char| others.contains(c) == other && y.contains(c) == result;
        letters.iter().filter(fits).copied().collect()
    };
    let alone = !of(&a, false, false, &b).is_empty() || !of(&b, false, false, &a).is_empty();
    let known = y.iter().all(|c| sides.contains_key(c));
    if alone || !known {
        return None;
    }
    let (batch, inner) = (of(&a, true, true, &b), of(&a, true, false, &b));
    let (rows, columns) = (of(&a, false, true, &b), of(&b, false, true, &a));
    Some((Product { a, b, y, batch, rows, inner, columns }, sides))
}

/// Appends the nodes that compute a product.
fn write(graph: &mut Graph, node: &NodeProto, product: &Product, sides: &HashMap<char, usize>) {
    let side = |letters: &[char]| letters.iter().map(|c| sides[c]).product::<usize>();
    let lengths = |letters: &[char]| letters.iter().map(|c| sides[c]).collect::<Vec<usize>>();
    let Product { a, b, y, batch, rows, inner, columns } = product;
    let mut operand = |index: usize, from: &[char], first: &[char], second: &[char]| {
        let wanted = [batch, first, second].concat();
        let value = input(node, index).unwrap_or_default();
        let value = transposed(graph, value, from, &wanted);
        let dims = [lengths(batch), vec![side(first), side(second)]].concat();
        reshaped(graph, &value, &lengths(&wanted), &dims)
    };
    let left = operand(0, a, rows, inner);
    let right = operand(1, b, inner, columns);
    let found = graph.emit("einsum/product", "MatMul", &[&left, &right], vec![]);
    let dims = [lengths(batch), vec![side(rows), side(columns)]].concat();
    let order = [&batch[..], rows, columns].concat();
    let found = reshaped(graph, &found, &dims, &lengths(&order));
    let found = transposed(graph, &found, &order, y);
    graph.emit("einsum/value", "Identity", &[&found], vec![]);
    if let Some(last) = graph.nodes.last_mut() {
        last.name = node.name.clone().filter(|name| !name.is_empty()).or_else(|| last.name.clone());
        last.output = vec![output(node).to_owned()];
    }
}

/// The value with its axes `from` in the order `to`.
fn transposed(graph: &mut Graph, value: &str, from: &[char], to: &[char]) -> String {
    if from == to {
        return value.to_owned();
    }
    let place = |c: &char| from.iter().position(|other| other == c);
    let order: Vec<i64> =
        to.iter().filter_map(place).filter_map(|p| i64::try_from(p).ok()).collect();
    graph.emit("einsum/order", "Transpose", &[value], vec![ints_attribute("perm", &order)])
}

fn reshaped(graph: &mut Graph, value: &str, from: &[usize], to: &[usize]) -> String {
    if from == to {
        return value.to_owned();
    }
    let dims: Vec<i64> = to.iter().filter_map(|d| i64::try_from(*d).ok()).collect();
    let dims = graph.add_constant("einsum/dims", Constant::i64_list(&dims));
    graph.emit("einsum/shape", "Reshape", &[value, &dims], vec![])
}
