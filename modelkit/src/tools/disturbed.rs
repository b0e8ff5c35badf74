//! Copies of a graph that round a little differently, to learn how much its answers depend on that.
//!
//! Where a value falls to another integer, everything after it differs. Engines sum in different orders, so
//! each rounds some values differently. A change of the photo shows that only if it reaches the values behind
//! the first rounding; so here every value that is about to be rounded is multiplied by nearly 1.

use std::fs;
use std::path::Path;

use skincell_engines::Engine;
use skincell_onnx::Constant;
use skincell_vision::card::Card;
use thiserror::Error;

use crate::compare::{rounds, sign};
use crate::onnx::external::{GRAPH_FILE, WEIGHTS_FILE, lay_out};
use crate::onnx::graph::{Graph, input};
use crate::onnx::read::{ReadError, read};
use crate::tools::served::{Served, ServedError};

/// Number of copies.
const COPIES: usize = 4;

/// Why the copies cannot be made.
#[derive(Debug, Error)]
pub enum DisturbedError {
    /// The graph cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A copy cannot be encoded.
    #[error("a copy of the graph cannot be encoded: {0}")]
    Encode(String),
    /// A copy cannot be written to the folder of temporary files.
    #[error("a copy of the graph cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// The engine cannot load a copy.
    #[error(transparent)]
    Served(#[from] ServedError),
}

/// Copies of the graph in `folder`, loaded by `engine`; none if it does not round. `by` is the part of a
/// value by which it changes before it is rounded.
///
/// # Errors
/// [`DisturbedError`].
pub(super) fn copies(
    folder: &Path,
    card: &Card,
    engine: &dyn Engine,
    by: f32,
) -> Result<Vec<Served>, DisturbedError> {
    let graph = read(&folder.join(GRAPH_FILE))?;
    if !graph.nodes.iter().any(rounds) {
        return Ok(Vec::new());
    }
    let copy = |number| {
        let files = lay_out(&disturbed(graph.clone(), by, number))
            .map_err(|error| DisturbedError::Encode(error.to_string()))?;
        let home = tempfile::tempdir()?;
        fs::write(home.path().join(GRAPH_FILE), files.graph)?;
        fs::write(home.path().join(WEIGHTS_FILE), files.weights)?;
        Ok(Served::with_card(card.clone(), home.path(), engine)?)
    };
    (1..=COPIES).map(copy).collect()
}

/// The graph with each computed value that is rounded multiplied by 1 plus or minus `by` before.
fn disturbed(mut graph: Graph, by: f32, copy: usize) -> Graph {
    for index in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[index];
        let computed = input(node, 0).filter(|value| !graph.constants.contains_key(*value));
        let Some(value) = computed.filter(|_| rounds(node)).map(str::to_owned) else { continue };
        let factor = Constant::scalar(1.0 + sign(index * COPIES + copy) * by);
        let factor = graph.add_constant("disturbed/factor", factor);
        let product = graph.emit("disturbed", "Mul", &[&value, &factor], Vec::new());
        graph.nodes[index].input[0] = product;
        if let Some(product) = graph.nodes.pop() {
            graph.nodes.insert(index, product);
        }
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::graph::{op, value_info};

    #[test]
    fn computed_values_are_multiplied_before_they_are_rounded() {
        let mut graph = Graph { inputs: vec![value_info("photo", &[1, 2])], ..Graph::default() };
        graph.constants.insert("weights".to_owned(), Constant::f32(&[2], &[1.0, 2.0]));
        graph.emit("bytes", "QuantizeLinear", &["photo", "scale"], vec![]);
        graph.emit("quantized", "QuantizeLinear", &["weights", "scale"], vec![]);
        graph.emit("scores", "DequantizeLinear", &["bytes", "scale"], vec![]);
        let found = disturbed(graph, 1e-6, 1);
        let operators: Vec<_> = found.nodes.iter().map(op).collect();
        assert_eq!(operators, ["Mul", "QuantizeLinear", "QuantizeLinear", "DequantizeLinear"]);
        assert_eq!(input(&found.nodes[0], 0), Some("photo"));
        assert_eq!(input(&found.nodes[1], 0), Some("disturbed"));
        assert_eq!(input(&found.nodes[2], 0), Some("weights"));
        let factor = found.constants["disturbed/factor"].to_f32().unwrap_or_default();
        assert!((factor[0] - 1.0).abs() > 0.0 && (factor[0] - 1.0).abs() < 2e-6, "{factor:?}");
    }
}
