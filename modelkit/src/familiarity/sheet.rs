//! The operators that compute the familiarity in a graph.
//!
//! Every operator works on `[1, n]` and sums are products with a column of ones, because that is what all
//! engines support in their fast paths. The column is the last of the directions: alone it would be padded to
//! a panel of its own.
//!
//! What is not a number stays so up to the output, because the answer must not call it familiar: `Abs` keeps
//! it, while `Relu` makes it 0 in some engines. Features that are all 0, which is what a network's own `Relu`
//! may have made of it, become 0 / 0.

use rten_onnx::onnx::NodeProto;
use skincell_onnx::Constant;

use super::distance::Distance;
use super::hidden;
use crate::gradcam;
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::graph::{Graph, int_attribute, ints_attribute, op, output, value_info};

/// The beginning of the names of all nodes and constants added here.
pub(crate) const PREFIX: &str = "familiarity/";
/// Finds the pooled features before the head, `[1, channels]`, and returns their name with the nodes that had
/// to be added. Without a map that the network computes they are those of [`hidden`]. The graph has the photo
/// as its only input.
///
/// # Errors
/// The inner error says why there are none; the outer one is the engine's.
pub(super) fn features(
    graph: &mut Graph,
    scores: &str,
    photo: &[usize],
) -> Result<Result<(String, Vec<NodeProto>), String>, EngineError> {
    let mut probe = Probe::new(graph, photo)?;
    let last_map = match gradcam::find(graph, &mut probe, scores)? {
        // Otherwise the "map" is the photo, whose channels are three colours.
        Ok(last_map) if hidden::is_learnt(graph, &last_map.pooled) => last_map,
        found => {
            let last = hidden::find(graph, &mut probe, scores)?;
            let refusal = found.err().map(|refusal| format!("{refusal}, and "));
            return Ok(match last {
                Ok((name, _)) => Ok((name, Vec::new())),
                Err(why) => Err(refusal.unwrap_or_default() + &why),
            });
        }
    };
    let nodes: Vec<NodeProto> =
        graph.consumers_of(&last_map.pooled).into_iter().map(|i| graph.nodes[i].clone()).collect();
    let shapes = probe.learn(&[&last_map.pooled])?.clone();
    let shape = shapes.get(&last_map.pooled).cloned().unwrap_or_default();
    let channels = shape.get(last_map.axis).copied().unwrap_or_default();
    let before = graph.nodes.len();
    let mut value = None;
    for node in nodes.iter().filter(|node| matches!(op(node), "GlobalAveragePool" | "ReduceMean")) {
        let made = probe.learn(&[output(node)])?.get(output(node)).cloned().unwrap_or_default();
        if made.iter().product::<usize>() == channels {
            value = Some((output(node).to_owned(), made));
            break;
        }
    }
    let (mut name, dims) =
        value.unwrap_or_else(|| pooled(graph, &last_map.pooled, &shape, last_map.axis));
    if dims != [1, channels] {
        let flat = graph.consumers_of(&name).into_iter().find_map(|index| {
            let node = &graph.nodes[index];
            matches!(op(node), "Flatten" | "Reshape" | "Squeeze").then(|| output(node).to_owned())
        });
        let flat = match flat {
            Some(flat)
                if probe
                    .learn(&[&flat])
                    .is_ok_and(|all| all.get(&flat) == Some(&vec![1, channels])) =>
            {
                Some(flat)
            }
            _ => None,
        };
        name = flat.unwrap_or_else(|| {
            let shape =
                graph.add_constant(&named("shape"), Constant::i64_list(&[1, channels as i64]));
            graph.emit(&named("features"), "Reshape", &[&name, &shape], vec![])
        });
    }
    let added = graph.nodes[before..].to_vec();
    Ok(Ok((name, added)))
}

/// The mean of a map over its places.
fn pooled(graph: &mut Graph, map: &str, shape: &[usize], axis: usize) -> (String, Vec<usize>) {
    let dims = (0..shape.len()).map(|i| if i == axis { shape[i] } else { 1 }).collect();
    if shape.len() == 4 && axis == 1 {
        return (graph.emit(&named("mean"), "GlobalAveragePool", &[map], vec![]), dims);
    }
    let axes: Vec<i64> = (1..shape.len()).filter(|i| *i != axis).map(|i| i as i64).collect();
    let keep = int_attribute("keepdims", 1);
    let name = if graph.opset() < 18 {
        let attributes = vec![ints_attribute("axes", &axes), keep];
        graph.emit(&named("mean"), "ReduceMean", &[map], attributes)
    } else {
        let axes = graph.add_constant(&named("axes"), Constant::i64_list(&axes));
        graph.emit(&named("mean"), "ReduceMean", &[map, &axes], vec![keep])
    };
    (name, dims)
}

fn named(base: &str) -> String {
    format!("{PREFIX}{base}")
}

/// Adds the output: the distance of the features divided by the threshold. Returns its name.
pub(super) fn add(graph: &mut Graph, features: &str, fitted: &Distance, threshold: f64) -> String {
    let channels = fitted.mean.len();
    let rank = fitted.rank;
    let scale = (fitted.precision / (threshold * threshold)) as f32;
    let mut constant = |base: &str, dims: &[usize], values: &[f32]| {
        graph.add_constant(&named(base), Constant::f32(dims, values))
    };
    let mean = constant("mean_of_photos", &[1, channels], &fitted.mean);
    let rows = fitted.directions.chunks_exact(rank);
    let with_one: Vec<f32> = rows.flat_map(|row| row.iter().copied().chain([1.0])).collect();
    let directions = constant("directions_and_ones", &[channels, rank + 1], &with_one);
    let mut chosen = vec![1.0; rank];
    chosen.push(0.0);
    let first = constant("all_but_the_last", &[rank + 1, 1], &chosen);
    let chosen: Vec<f32> = chosen.iter().map(|one| 1.0 - one).collect();
    let last = constant("the_last", &[rank + 1, 1], &chosen);
    let scale = constant("scale", &[1, 1], &[scale]);
    let mut emit = |base: &str, operator: &str, inputs: &[&str]| {
        graph.emit(&named(base), operator, inputs, vec![])
    };
    let square = emit("square", "Mul", &[features, features]);
    let sums = emit("sums", "MatMul", &[&square, &directions]);
    let sum = emit("sum", "MatMul", &[&sums, &last]);
    let norm = emit("norm", "Sqrt", &[&sum]);
    let unit = emit("unit", "Div", &[features, &norm]);
    let rest = emit("difference", "Sub", &[&unit, &mean]);
    let square = emit("difference_square", "Mul", &[&rest, &rest]);
    let sums = emit("difference_sums", "MatMul", &[&square, &directions]);
    let all = emit("all", "MatMul", &[&sums, &last]);
    let along = emit("along", "MatMul", &[&rest, &directions]);
    let square = emit("along_square", "Mul", &[&along, &along]);
    let usual = emit("usual", "MatMul", &[&square, &first]);
    let left = emit("left", "Sub", &[&all, &usual]);
    let left = emit("not_negative", "Abs", &[&left]);
    let scaled = emit("scaled", "Mul", &[&left, &scale]);
    let distance = graph.emit("familiarity", "Sqrt", &[&scaled], vec![]);
    graph.outputs.push(value_info(&distance, &[1, 1]));
    distance
}
