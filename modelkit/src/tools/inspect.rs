//! `model inspect`: describes an ONNX file or a prepared folder, and tries which engines support it.
//!
//! It changes nothing. Results are not compared; [`crate::check`] does that.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rten::Value;
use rten_onnx::onnx::{DataType, ValueInfoProto};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::Card;
use thiserror::Error;

use crate::interface::dimensions;
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::external::{GRAPH_FILE, WEIGHTS_FILE};
use crate::onnx::graph::{Graph, op};
use crate::onnx::read::{ReadError, read};
use crate::onnx::walk::refuse_large_from;
use crate::prepare::CARD_FILE;
use crate::tools::pack::{CELL_FILE, CellError, PackedWeights, is_packed, packed_weights, verify};
use crate::tools::served::{ServedError, read_card};

/// Why the file or folder could not be inspected.
#[derive(Debug, Error)]
pub enum InspectError {
    /// The ONNX file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The folder's card cannot be read.
    #[error(transparent)]
    Card(#[from] ServedError),
    /// The folder's packed file is damaged.
    #[error(transparent)]
    Cell(#[from] CellError),
}

/// An input or output: name, element type, and dimensions (an open one as its name or `?`).
pub type Port = (String, String, Vec<String>);

/// Result of [`inspect`].
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// The ONNX file.
    pub model: PathBuf,
    /// The card beside it, if there is one.
    pub card: Option<Card>,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Inputs of the graph.
    pub inputs: Vec<Port>,
    /// Outputs of the graph.
    pub outputs: Vec<Port>,
    /// Number of weights.
    pub parameters: u64,
    /// Number and bytes of the constants of each element type.
    pub constants: BTreeMap<String, (usize, u64)>,
    /// Number of nodes of each operator, the most frequent first.
    pub operators: Vec<(String, usize)>,
    /// The files and their sizes in bytes.
    pub files: Vec<(String, u64)>,
    /// Each engine, whether it supports the model, and the result or the reason.
    pub engines: Vec<(&'static str, bool, String)>,
    /// The weights in the folder's `model.cell`, if it has one.
    pub packed: Option<PackedWeights>,
    /// The engine that serves the folder, and the reason; `None` for a single file, which is not served.
    pub serves: Option<(&'static str, String)>,
}

/// Describes an ONNX file or a prepared folder.
///
/// # Errors
/// [`InspectError`] if the ONNX file, or a card that exists, cannot be read, or a
/// `model.cell` is damaged.
pub fn inspect(path: &Path) -> Result<Inspection, InspectError> {
    let folder = path.is_dir().then_some(path);
    let model = folder.map_or_else(|| path.to_owned(), |folder| folder.join(GRAPH_FILE));
    let graph = read(&model)?;
    folder.map_or(Ok(()), verify)?;
    let card = match folder.filter(|f| f.join(CARD_FILE).exists()) {
        Some(folder) => Some(read_card(folder)?),
        None => None,
    };
    let mut operators = BTreeMap::new();
    for node in &graph.nodes {
        *operators.entry(op(node).to_owned()).or_insert(0_usize) += 1;
    }
    let mut operators: Vec<(String, usize)> = operators.into_iter().collect();
    operators.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut constants: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for tensor in graph.constants.values() {
        let held = constants.entry(tensor.dtype.to_string().to_lowercase()).or_default();
        *held = (held.0 + 1, held.1 + tensor.bytes.len() as u64);
    }
    let engines = match large(&graph) {
        Some(why) => vec![("rten", false, why.clone()), ("cellnet", false, why)],
        None => vec![in_rten(&graph), in_cellnet(&model)],
    };
    let serves = folder.map(|folder| serves(folder, &engines));
    Ok(Inspection {
        opset: graph.opset(),
        inputs: graph.inputs.iter().map(port).collect(),
        outputs: graph.outputs.iter().map(port).collect(),
        parameters: graph.parameters(),
        constants,
        operators,
        files: files(&model, folder),
        packed: folder.and_then(packed_weights),
        engines,
        serves,
        model,
        card,
    })
}

fn port(value: &ValueInfoProto) -> Port {
    let tensor = value.r#type.as_ref().and_then(|t| t.tensor_type.as_ref());
    let dtype = tensor.and_then(|t| t.elem_type).unwrap_or(DataType(0));
    let dims = dimensions(value).into_iter().map(|(text, _)| text).collect();
    (value.name.clone().unwrap_or_default(), dtype.to_string().to_lowercase(), dims)
}

fn files(model: &Path, folder: Option<&Path>) -> Vec<(String, u64)> {
    let size = |path: PathBuf| fs::metadata(path).map(|m| m.len()).ok();
    match folder {
        None => {
            let name = model.file_name().map(|n| n.to_string_lossy().into_owned());
            size(model.to_owned()).map(|s| (name.unwrap_or_default(), s)).into_iter().collect()
        }
        Some(folder) => [GRAPH_FILE, WEIGHTS_FILE, CELL_FILE, CARD_FILE]
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), size(folder.join(name))?)))
            .collect(),
    }
}

/// The engine the server chooses if its options name no ONNX Runtime library: cellnet if there is a packed
/// file, otherwise rten.
fn serves(folder: &Path, engines: &[(&'static str, bool, String)]) -> (&'static str, String) {
    let takes = |engine: &str| engines.iter().any(|(name, takes, _)| *name == engine && *takes);
    match (folder.join(CELL_FILE).exists(), takes("cellnet")) {
        (true, _) if is_packed(folder) => ("cellnet", format!("because {CELL_FILE} exists")),
        (true, _) => (
            "cellnet",
            format!(
                "because {CELL_FILE} exists; {GRAPH_FILE} is newer, so pack it again: `skincell model pack`"
            ),
        ),
        (false, true) => (
            "rten",
            format!(
                "because {CELL_FILE} does not exist; to serve with cellnet, make it: `skincell model pack`"
            ),
        ),
        (false, false) if !takes("rten") => (
            "onnxruntime",
            "if --engine-lib names its library, because cellnet and rten do not support this graph"
                .to_owned(),
        ),
        (false, false) => ("rten", "because cellnet does not support this graph".to_owned()),
    }
}

/// Why no engine may try the graph, as `prepare` says it: a node would make a value that no memory holds.
/// `None` also if that is unknown, because the inputs' sizes are open or rten does not know an operator.
fn large(graph: &Graph) -> Option<String> {
    let mut given = HashMap::new();
    for input in &graph.inputs {
        let sides = sides(input)?;
        let value: Value = match port(input).1.as_str() {
            "uint8" => Tensor::<u8>::zeros(&sides).into(),
            "int8" => Tensor::<i8>::zeros(&sides).into(),
            "int32" | "int64" | "bool" => Tensor::<i32>::zeros(&sides).into(),
            _ => Tensor::<f32>::zeros(&sides).into(),
        };
        given.insert(input.name.clone().unwrap_or_default(), value);
    }
    match refuse_large_from(graph, given) {
        Err(error @ EngineError::Large { .. }) => Some(error.to_string()),
        _ => None,
    }
}

/// The sides of an input for one photo; `None` if another one is open, or together they are too large.
fn sides(input: &ValueInfoProto) -> Option<Vec<usize>> {
    let sides = dimensions(input).into_iter().enumerate();
    let sides: Vec<usize> =
        sides.map(|(axis, (_, side))| side.or((axis == 0).then_some(1))).collect::<Option<_>>()?;
    let elements = sides.iter().try_fold(1_usize, |all, side| all.checked_mul(*side))?;
    (elements <= MOST_OF_INPUT).then_some(sides)
}

/// Most elements of an input that is tried: 256 MiB as float32.
const MOST_OF_INPUT: usize = 1 << 26;

/// Loads the graph and runs it on an empty photo.
fn in_rten(graph: &Graph) -> (&'static str, bool, String) {
    let try_it = || {
        let engine = GraphEngine::load(graph).map_err(|e| e.to_string())?;
        let [input] = &graph.inputs[..] else {
            return Ok(format!("loads it; not run: it takes {} inputs", graph.inputs.len()));
        };
        let Some(shape) = sides(input) else {
            return Ok("loads it; not run: its input's size is open or too large".to_owned());
        };
        let output = graph.outputs.first().and_then(|o| o.name.as_deref()).unwrap_or_default();
        let start = Instant::now();
        let ran = if port(input).1 == "uint8" {
            engine.run(Tensor::<u8>::zeros(&shape).view().into(), &[output])
        } else {
            engine.run(Tensor::<f32>::zeros(&shape).view().into(), &[output])
        };
        ran.map_err(|e| e.to_string())?;
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Ok(format!("runs it, {milliseconds:.0} ms for an empty photo, cold"))
    };
    match try_it() {
        Ok(text) => ("rten", true, text),
        Err(why) => ("rten", false, why),
    }
}

/// Packs the graph and drops the result.
fn in_cellnet(model: &Path) -> (&'static str, bool, String) {
    match cellnet::pack::pack(model, &cellnet::pack::Options::default()) {
        Ok(bytes) => {
            let mib = bytes.len() as f64 / f64::from(1 << 20);
            ("cellnet", true, format!("packs it into {mib:.1} MiB"))
        }
        Err(why) => ("cellnet", false, why.to_string()),
    }
}
