//! Inputs besides the photo, such as an age. They are constants while a model is prepared and become inputs
//! again afterwards, which a request may set.
//!
//! This is correct only if preparing has not computed other constants from their values. To check this, the
//! model is prepared a second time (the twin) with other values, and the two graphs must otherwise be equal.

use skincell_onnx::Constant;
use skincell_onnx::build::DataType;
use skincell_vision::card::Field;

use crate::onnx::external;
use crate::onnx::graph::{Graph, int_attribute, value_info};

/// The graph with these constants as inputs again, and their description. `None` if `twin`, prepared with
/// other values, differs in anything else.
pub(crate) fn opened(
    graph: &Graph,
    mut twin: Graph,
    defaults: &[(String, Vec<f32>)],
) -> Option<(Graph, Vec<Field>)> {
    let mut graph = graph.clone();
    let fields = open(&mut graph, defaults);
    open(&mut twin, defaults);
    let bytes = external::in_one_piece(&graph).ok()?;
    (external::in_one_piece(&twin).ok()? == bytes).then_some((graph, fields))
}

/// Turns the constants of `defaults` into float32 inputs.
fn open(graph: &mut Graph, defaults: &[(String, Vec<f32>)]) -> Vec<Field> {
    let mut fields = Vec::new();
    for (name, _) in defaults {
        // A constant that no node reads has been dropped.
        let Some(held) = graph.constants.remove(name) else { continue };
        let default = numbers(&held);
        let shape = held.dims.iter().map(|side| u32::try_from(*side).unwrap_or(u32::MAX)).collect();
        if held.dtype != DataType::FLOAT {
            let typed = graph.fresh("input/typed");
            graph.replace_reads(name, &typed);
            let to = vec![int_attribute("to", i64::from(held.dtype.0))];
            graph.emit("input/typed", "Cast", &[name], to);
            if let Some(cast) = graph.nodes.pop() {
                graph.nodes.insert(0, cast);
            }
        }
        graph.inputs.push(value_info(name, &held.dims));
        fields.push(Field { name: name.clone(), shape, default });
    }
    fields
}

/// The graph with other values in these constants.
pub(crate) fn with_other_numbers(graph: &Graph, defaults: &[(String, Vec<f32>)]) -> Graph {
    let mut other = graph.clone();
    for (name, _) in defaults {
        let Some(held) = other.constants.get_mut(name) else { continue };
        *held = match held.to_i64() {
            // Integers may be indices, so they change by at most 1 and stay within an even table.
            Some(list) => {
                let list: Vec<i64> = list.iter().map(|n| n ^ 1).collect();
                Constant { dims: held.dims.clone(), ..Constant::i64_list(&list) }
            }
            None => {
                let moved: Vec<f32> = numbers(held).iter().map(|n| n * 0.5 + 1.25).collect();
                Constant::f32(&held.dims.clone(), &moved)
            }
        };
    }
    other
}

/// The values of such a constant, as f32.
fn numbers(constant: &Constant) -> Vec<f32> {
    let whole = || constant.to_i64().map(|list| list.iter().map(|n| *n as f32).collect());
    constant.to_f32().or_else(whole).unwrap_or_default()
}
