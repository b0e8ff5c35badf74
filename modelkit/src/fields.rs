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

/// The note if default values of further inputs became part of computed constants.
const FIXED: &str =
    "the values of --input-default are built into the graph; a request cannot set them";

/// Turns the inputs besides the photo back into inputs, if requests may set them; otherwise adds a note.
///
/// `twin` is the graph prepared with other values, if there are such inputs.
pub(crate) fn opened_or_noted<E>(
    graph: &mut Graph,
    twin: Option<Result<Graph, E>>,
    defaults: &[(String, Vec<f32>)],
    notes: &mut Vec<String>,
) -> Vec<Field> {
    let Some(twin) = twin else { return Vec::new() };
    match twin.ok().and_then(|twin| opened(graph, twin, defaults)) {
        Some((open, fields)) => {
            *graph = open;
            fields
        }
        None => {
            notes.push(FIXED.to_owned());
            Vec::new()
        }
    }
}

/// The graph with these constants as inputs again, and their description. `None` if `twin`, prepared with
/// other values, differs in anything else.
fn opened(
    graph: &Graph,
    mut twin: Graph,
    defaults: &[(String, Vec<f32>)],
) -> Option<(Graph, Vec<Field>)> {
    let mut graph = graph.clone();
    let all = |graph: &mut Graph| {
        defaults.iter().filter_map(|(name, _)| open(graph, name)).collect::<Vec<_>>()
    };
    let fields = all(&mut graph);
    all(&mut twin);
    let bytes = external::in_one_piece(&graph).ok()?;
    (external::in_one_piece(&twin).ok()? == bytes).then_some((graph, fields))
}

/// Turns a constant into a float32 input. `None` if there is no such constant: one that no node reads has
/// been dropped.
pub(crate) fn open(graph: &mut Graph, name: &str) -> Option<Field> {
    let held = graph.constants.remove(name)?;
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
    Some(Field { name: name.to_owned(), shape, default })
}

/// The graph with the default values of these inputs as constants.
pub(crate) fn closed(graph: &Graph, fields: &[Field]) -> Graph {
    let mut closed = graph.clone();
    for Field { name, shape, default } in fields {
        closed.inputs.retain(|input| input.name.as_deref() != Some(name));
        let dims: Vec<usize> = shape.iter().map(|side| *side as usize).collect();
        closed.constants.insert(name.clone(), Constant::f32(&dims, default));
    }
    closed
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
