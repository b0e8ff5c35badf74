//! Runs one small graph for each hot kernel, for counting instructions (used by `tests/instructions.rs`).
//!
//! ```text
//! instructions pack FOLDER            writes FOLDER/CASE.cell
//! instructions run FOLDER ISA         runs each: a profiler sees `measured`, then `said`, once for each
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};

use cellnet::pack::{Options, pack_file};
use cellnet::plan::Algorithm;
use cellnet::{Isa, Model, Pool, TensorRef, Workspace};
use rten_onnx::onnx::{AttributeProto, DataType, ModelProto, NodeProto, TensorProto};

#[path = "../tests/common/mod.rs"]
mod common;
use common::{bytes, declared, int, integers, ints, model, node, tensor};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Side of the maps; odd, so that tiles are cut at the edges.
const SIDE: i64 = 19;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["pack", folder] => pack(Path::new(folder)),
        ["run", folder, isa] => run(Path::new(folder), isa),
        _ => Err("usage: instructions pack FOLDER | run FOLDER ISA".into()),
    }
}

/// A graph under construction: `x` goes in, the last node's output `y` comes out.
struct Case {
    name: &'static str,
    channels: i64,
    nodes: Vec<NodeProto>,
    weights: Vec<TensorProto>,
    algorithm: Algorithm,
}

impl Case {
    fn new(name: &'static str, channels: i64) -> Self {
        let (nodes, weights) = (Vec::new(), Vec::new());
        Self { name, channels, nodes, weights, algorithm: Algorithm::Direct }
    }

    fn op(mut self, op: &str, inputs: &[&str], output: &str, more: Vec<AttributeProto>) -> Self {
        self.nodes.push(node(op, inputs, output, more));
        self
    }

    /// A square convolution of `input` that keeps the size at stride 1.
    fn conv(
        self,
        (input, output): (&str, &str),
        weights: [i64; 3],
        stride: i64,
        groups: i64,
    ) -> Self {
        let [outputs, inputs, kernel] = weights;
        let held = format!("w-{output}");
        let more = vec![
            ints("pads", &[kernel / 2; 4]),
            ints("strides", &[stride; 2]),
            int("group", groups),
        ];
        let mut case = self.op("Conv", &[input, &held], output, more);
        let dims = [outputs, inputs, kernel, kernel];
        case.weights.push(tensor(&held, &dims, |i| (i * 37 % 101) as f32 / 500.0 - 0.1));
        case
    }

    fn silu(self, input: &str, output: &str) -> Self {
        let gate = format!("s-{output}");
        self.op("Sigmoid", &[input], &gate, vec![]).op("Mul", &[input, &gate], output, vec![])
    }

    fn relu6(mut self, input: &str, output: &str) -> Self {
        self.weights.push(tensor("zero", &[], |_| 0.0));
        self.weights.push(tensor("six", &[], |_| 6.0));
        self.op("Clip", &[input, "zero", "six"], output, vec![])
    }

    fn by(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self
    }

    fn graph(self) -> ModelProto {
        let input = declared("x", &[1, self.channels, SIDE, SIDE]);
        model(self.nodes, self.weights, vec![input], &["y"])
    }
}

/// A pair of steps, computed one slice of channels at a time.
fn together() -> Case {
    Case::new("1x1 and depthwise 3x3 together, SiLU", 32)
        .conv(("x", "c"), [192, 32, 1], 1, 1)
        .silu("c", "d")
        .conv(("d", "e"), [192, 1, 3], 1, 192)
        .silu("e", "y")
}

/// A convolution on bytes, as `QuantizeLinear` and `DequantizeLinear` say it.
fn on_bytes(name: &'static str, [outputs, inputs, kernel]: [usize; 3]) -> Case {
    let mut case = Case::new(name, inputs as i64)
        .op("QuantizeLinear", &["x", "scale", "zero"], "q", vec![])
        .op("DequantizeLinear", &["q", "scale", "zero"], "a", vec![])
        .op("DequantizeLinear", &["integers", "scale"], "w", vec![])
        .op("Conv", &["a", "w"], "c", vec![ints("pads", &[kernel as i64 / 2; 4])])
        .op("Relu", &["c"], "y", vec![]);
    let weights = (0..outputs * inputs * kernel * kernel).map(|i| (i * 37 % 251) as u8);
    let dims = [outputs, inputs, kernel, kernel];
    case.weights.push(bytes("integers", DataType::INT8, &dims, weights.collect()));
    case.weights.push(bytes("zero", DataType::UINT8, &[], vec![120]));
    case.weights.push(tensor("scale", &[], |_| 0.01));
    case
}

fn cases() -> Vec<Case> {
    let window = |side: i64| vec![ints("kernel_shape", &[side; 2]), ints("strides", &[2, 2])];
    let batch_norm = |case: Case| {
        let mut case = case;
        for (name, value) in [("gamma", 1.1), ("beta", 0.1), ("mean", 0.2), ("variance", 0.9)] {
            case.weights.push(tensor(name, &[104], |_| value));
        }
        case.op("BatchNormalization", &["j", "gamma", "beta", "mean", "variance"], "n", vec![])
    };
    let squeeze = |case: Case| {
        let mut case = case;
        case.weights.push(integers("spatial", &[2, 3]));
        case.op("ReduceMean", &["d", "spatial"], "m", vec![int("keepdims", 1)])
    };
    let square =
        |name, algorithm| Case::new(name, 48).conv(("x", "c"), [64, 48, 3], 1, 1).by(algorithm);
    vec![
        Case::new("1x1, SiLU", 64).conv(("x", "c"), [192, 64, 1], 1, 1).silu("c", "y"),
        Case::new("1x1, ReLU6", 64).conv(("x", "c"), [200, 64, 1], 1, 1).relu6("c", "y"),
        Case::new("1x1, residual", 64).conv(("x", "c"), [64, 64, 1], 1, 1).op(
            "Add",
            &["c", "x"],
            "y",
            vec![],
        ),
        square("3x3, direct", Algorithm::Direct).op("Relu", &["c"], "y", vec![]),
        square("3x3, F(2x2)", Algorithm::Winograd2).silu("c", "y"),
        square("3x3, F(4x4)", Algorithm::Winograd4).silu("c", "y"),
        Case::new("3x3 of 3 channels, stride 2", 3)
            .conv(("x", "c"), [24, 3, 3], 2, 1)
            .silu("c", "y"),
        Case::new("3x3, 6 groups", 48).conv(("x", "c"), [48, 8, 3], 1, 6).op(
            "Relu",
            &["c"],
            "y",
            vec![],
        ),
        squeeze(
            Case::new("depthwise 3x3, SiLU, means", 96)
                .conv(("x", "c"), [96, 1, 3], 1, 96)
                .silu("c", "d"),
        )
        .op("Mul", &["d", "m"], "y", vec![]),
        together(),
        on_bytes("1x1 of bytes", [200, 64, 1]),
        on_bytes("3x3 of bytes", [64, 48, 3]),
        Case::new("depthwise 5x5, ReLU6, stride 2", 96)
            .conv(("x", "c"), [96, 1, 5], 2, 96)
            .relu6("c", "y"),
        Case::new("largest of 3x3", 64).op("MaxPool", &["x"], "y", window(3)),
        Case::new("mean of all", 64).op("GlobalAveragePool", &["x"], "y", vec![]),
        batch_norm(
            Case::new("concatenation, batch norm", 64).conv(("x", "c"), [40, 64, 1], 1, 1).op(
                "Concat",
                &["x", "c"],
                "j",
                vec![int("axis", 1)],
            ),
        )
        .op("Relu", &["n"], "y", vec![]),
    ]
}

fn file(folder: &Path, name: &str) -> PathBuf {
    let plain = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    folder.join(plain).with_extension("cell")
}

fn pack(folder: &Path) -> Outcome {
    for case in cases() {
        let (name, algorithms) = (case.name, vec![case.algorithm]);
        let onnx = folder.join("case.onnx");
        std::fs::write(&onnx, case.graph().write_buf()?)?;
        let max_size = f64::INFINITY;
        let options = Options { algorithms, max_error: 1.0, max_size, ..Options::default() };
        pack_file(&onnx, &file(folder, name), &options)?;
    }
    Ok(())
}

fn run(folder: &Path, isa: &str) -> Outcome {
    let Some(isa) = Isa::available().into_iter().find(|i| i.name() == isa) else {
        println!("no {isa}");
        return Ok(());
    };
    let pool = Pool::new(1);
    for case in cases() {
        let model = Model::open(file(folder, case.name))?;
        let mut workspace = Workspace::with_isa(&model, isa);
        let count = model.inputs().first().map_or(0, cellnet::plan::TensorSpec::elements);
        let values: Vec<f32> = (0..count).map(|i| (i * 31 % 97) as f32 / 48.0 - 1.0).collect();
        let inputs = [("x", TensorRef::F32(values.as_slice()))];
        // The first run allocates memory; the second, which is counted, is like all later runs.
        model.run(&mut workspace, &pool, &inputs)?;
        measured(&model, &mut workspace, &pool, &inputs)?;
        said(case.name);
    }
    Ok(())
}

/// Prints the measured case; the profiler dumps its counts at this call.
#[inline(never)]
fn said(name: &str) {
    println!("{name}");
}

/// The run that is counted.
#[inline(never)]
fn measured(
    model: &Model,
    workspace: &mut Workspace,
    pool: &Pool,
    inputs: &[(&str, TensorRef<'_>)],
) -> Outcome {
    std::hint::black_box(model.run(workspace, pool, inputs)?);
    Ok(())
}
