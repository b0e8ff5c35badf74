//! Inputs beside the photo, such as an age: constants while a model is prepared, inputs again once it is, which a
//! request may set.
//!
//! That is only right where nothing was worked out of their numbers on the way. So the model is prepared a second
//! time with other numbers, and the two must differ in nothing else.

use skincell_onnx::Constant;
use skincell_onnx::build::DataType;
use skincell_vision::card::Field;

use crate::onnx::external;
use crate::onnx::graph::{Graph, int_attribute, value_info};

/// The graph with the inputs beside the photo open, and what they are. `None` where `twin`, the same made with other
/// numbers, differs in more than these.
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

/// Makes the constants that stand for inputs beside the photo inputs again, float32, which a request may set.
fn open(graph: &mut Graph, defaults: &[(String, Vec<f32>)]) -> Vec<Field> {
    let mut fields = Vec::new();
    for (name, _) in defaults {
        // One that nothing reads is gone.
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

/// The graph with other numbers in these constants.
pub(crate) fn with_other_numbers(graph: &Graph, defaults: &[(String, Vec<f32>)]) -> Graph {
    let mut other = graph.clone();
    for (name, _) in defaults {
        let Some(held) = other.constants.get_mut(name) else { continue };
        *held = match held.to_i64() {
            // An index stays one of a small table.
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

/// The numbers of such a constant.
fn numbers(constant: &Constant) -> Vec<f32> {
    let whole = || constant.to_i64().map(|list| list.iter().map(|n| *n as f32).collect());
    constant.to_f32().or_else(whole).unwrap_or_default()
}
