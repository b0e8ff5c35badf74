//! Replaces values that a graph computes from shapes alone by constants, for a known photo size.
//!
//! Exporters write reshapes with sizes read from tensors, class tokens repeated to the batch, and masks of
//! shifted windows. With the photo's size known all of these are constants, which later steps can read. Large
//! values are left as they are, and so is arithmetic on weights alone, such as their dequantization.

use std::collections::HashSet;

use rten_onnx::onnx::DataType;

use crate::onnx::engine::{EngineError, Fixed, Probe};
use crate::onnx::graph::{Graph, attribute, input, int, op, output, reads};
use skincell_onnx::Constant;

/// Most elements of a value that becomes a constant.
const MOST_ELEMENTS: usize = 1 << 18;

/// Arithmetic on constants of up to this many elements is computed as well, such as an exponent's reciprocal.
const FEW_ELEMENTS: usize = 64;

/// Replaces values that follow from shapes by constants; `probe` was loaded from the unchanged graph.
///
/// # Errors
/// [`EngineError`] if the engine cannot compute them.
pub(crate) fn fix_shapes(graph: &mut Graph, probe: &Probe) -> Result<(), EngineError> {
    let mut varies: HashSet<&str> = graph.inputs.iter().filter_map(|i| i.name.as_deref()).collect();
    let mut shaped: HashSet<&str> = HashSet::new();
    let mut wanted: HashSet<&str> = HashSet::new();
    let few = |i: &&str| graph.constants.get(*i).is_some_and(|c| c.len() <= FEW_ELEMENTS);
    for node in &graph.nodes {
        let taken = reads(node);
        let outputs = node.output.iter().map(String::as_str);
        if !matches!(op(node), "Shape" | "Size") && taken.iter().any(|i| varies.contains(i)) {
            wanted.extend(taken.into_iter().filter(|i| shaped.contains(i)));
            varies.extend(outputs);
        } else if matches!(op(node), "Shape" | "Size" | "ConstantOfShape" | "Range")
            || taken.iter().any(|i| shaped.contains(i))
            || (!taken.is_empty() && taken.iter().all(few))
        {
            shaped.extend(outputs);
        }
    }
    let mut wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    wanted.retain(|name| !graph.is_output(name));
    wanted.sort();
    let names: Vec<&str> = wanted.iter().map(String::as_str).collect();
    for (name, value) in wanted.iter().zip(probe.fixed(&names)?) {
        let Some((_, node)) = graph.producer_of(name) else { continue };
        let several = node.output.len() != 1;
        let dtype = dtype(graph, name, DEPTH);
        let constant = match value {
            Some(Fixed::Floats(dims, values)) if dtype == Some(DataType::FLOAT) => {
                Constant::f32(&dims, &values)
            }
            Some(Fixed::Integers(dims, values)) if dtype == Some(DataType::INT64) => {
                let values: Vec<i64> = values.into_iter().map(widened).collect();
                Constant { dims, ..Constant::i64_list(&values) }
            }
            Some(Fixed::Integers(dims, values)) if dtype == Some(DataType::BOOL) => {
                let bytes = values.into_iter().map(|value| u8::from(value != 0)).collect();
                Constant { dtype: DataType::BOOL, dims, bytes }
            }
            _ => continue,
        };
        if constant.len() <= MOST_ELEMENTS && !several {
            let index = graph.nodes.iter().position(|n| output(n) == name);
            index.map(|index| graph.nodes.remove(index));
            graph.constants.insert(name.clone(), constant);
        }
    }
    graph.drop_unused();
    Ok(())
}

/// Most nodes followed back to find an element type.
const DEPTH: usize = 64;

/// The element type of a value computed from shapes. The graph shows it; rten holds all integers and booleans
/// in 32 bits.
fn dtype(graph: &Graph, value: &str, left: usize) -> Option<DataType> {
    if let Some(constant) = graph.constants.get(value) {
        return Some(constant.dtype);
    }
    let (_, node) = graph.producer_of(value).filter(|_| left > 0)?;
    let like = |index| dtype(graph, input(node, index)?, left - 1);
    match op(node) {
        "Shape" | "Size" => Some(DataType::INT64),
        "Cast" => Some(int(node, "to", 0)).and_then(|to| i32::try_from(to).ok()).map(DataType),
        "ConstantOfShape" => match attribute(node, "value") {
            None => Some(DataType::FLOAT),
            Some(value) => value.t.as_ref()?.data_type,
        },
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Not" | "And" | "Or"
        | "Xor" => Some(DataType::BOOL),
        "Where" => like(1),
        "Identity" | "Reshape" | "Expand" | "Squeeze" | "Unsqueeze" | "Slice" | "Concat"
        | "Gather" | "Transpose" | "Tile" | "Range" | "Add" | "Sub" | "Mul" | "Div" | "Mod"
        | "Neg" | "Reciprocal" | "Floor" | "Ceil" | "Sqrt" | "Max" | "Min" | "ReduceProd"
        | "ScatterND" | "Pow" | "CumSum" | "Sin" | "Cos" | "Exp" => like(0),
        _ => None,
    }
}

/// To 64 bits. The ends of the 32-bit range mean "to the end" in `Slice`, so they become those of 64 bits.
fn widened(value: i32) -> i64 {
    match value {
        i32::MAX => i64::MAX,
        i32::MIN => i64::MIN,
        value => i64::from(value),
    }
}
