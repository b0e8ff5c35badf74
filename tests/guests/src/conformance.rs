//! Makes valid and invalid calls of every function of wasi-nn and prints one line each: the case, the
//! result, and for a run its outputs. Every implementation must give the same lines;
//! `tests/cases/conformance.rs` compares them.

use super::nn::bindings::wasi::nn::errors::Error;
use super::nn::bindings::wasi::nn::graph::{
    ExecutionTarget, GraphEncoding, GraphExecutionContext, load, load_by_name,
};
use super::nn::bindings::wasi::nn::tensor::{Tensor, TensorType};

/// Dimensions of the model's input.
const DIMENSIONS: [u32; 4] = [1, 3, 8, 8];
const ELEMENTS: usize = 3 * 8 * 8;

type Lines = Vec<String>;

/// All cases, for the model `colours` of the tests, whose input is `photo`.
pub(crate) fn all() -> String {
    let mut lines = Lines::new();
    names(&mut lines);
    encodings(&mut lines);
    tensors(&mut lines);
    match load_by_name("colours").and_then(|graph| graph.init_execution_context()) {
        Ok(context) => {
            runs(&context, &mut lines);
            refusals(&context, &mut lines);
            lines.push(format!("afterwards\t{}", outcome(&context, vec![right()])));
        }
        Err(error) => lines.push(format!("colours\t{}", code(&error))),
    }
    lines.join("\n")
}

fn code(error: &Error) -> String {
    format!("{:?}", error.code())
}

fn names(lines: &mut Lines) {
    let asked =
        ["colours", "private", "", ".", "..", "/", "../models/colours", "colours/", "Colours"];
    for name in asked.iter().copied().chain([&*"x".repeat(1000), "col\0ours", "cölours"]) {
        let found = load_by_name(name).map_or_else(|error| code(&error), |_| "found".to_owned());
        lines.push(format!("load-by-name {:.20}\t{found}", name.escape_default().to_string()));
    }
    let broken = load_by_name("broken").and_then(|graph| graph.init_execution_context());
    lines.push(format!(
        "a broken model\t{}",
        broken.map_or_else(|e| code(&e), |_| "loaded".to_owned())
    ));
}

fn encodings(lines: &mut Lines) {
    let encodings = [
        GraphEncoding::Openvino,
        GraphEncoding::Onnx,
        GraphEncoding::Tensorflow,
        GraphEncoding::Pytorch,
        GraphEncoding::Tensorflowlite,
        GraphEncoding::Ggml,
        GraphEncoding::Autodetect,
    ];
    for encoding in encodings {
        let loaded = load(&[vec![8; 1000]], encoding, ExecutionTarget::Cpu);
        let loaded = loaded.map_or_else(|error| code(&error), |_| "loaded".to_owned());
        lines.push(format!("load {encoding:?}\t{loaded}"));
    }
    let nothing = load(&[], GraphEncoding::Onnx, ExecutionTarget::Gpu);
    lines.push(format!(
        "load nothing\t{}",
        nothing.map_or_else(|e| code(&e), |_| "loaded".to_owned())
    ));
}

/// A tensor returns the values it was made of, even if they are inconsistent.
fn tensors(lines: &mut Lines) {
    use TensorType::{Bf16, Fp16, Fp32, Fp64, I32, I64, U8};
    for ty in [Fp16, Fp32, Fp64, Bf16, U8, I32, I64] {
        for (dimensions, data) in [(&[2, 3][..], &[1, 2, 3][..]), (&[], &[]), (&[0; 20], &[7])] {
            let tensor = Tensor::new(dimensions, ty, data);
            let same =
                tensor.dimensions() == dimensions && tensor.ty() == ty && tensor.data() == data;
            lines.push(format!("tensor {ty:?} {dimensions:?}\t{same}"));
        }
    }
}

fn runs(context: &GraphExecutionContext, lines: &mut Lines) {
    lines.push(format!("a run\t{}", outcome(context, vec![right()])));
    lines.push(format!("the same again\t{}", outcome(context, vec![right()])));
    let dark = floats(&DIMENSIONS, &[0.0; ELEMENTS]);
    lines.push(format!("another\t{}", outcome(context, vec![("photo", dark)])));
    let large = floats(&DIMENSIONS, &[1e30; ELEMENTS]);
    lines.push(format!("large\t{}", outcome(context, vec![("photo", large)])));
    // Outputs outlive their context.
    let second = load_by_name("colours").and_then(|graph| graph.init_execution_context());
    let kept = second.and_then(|second| second.compute(vec![named(right())]));
    lines.push(format!("kept\t{}", kept.map_or_else(|error| code(&error), |o| outputs(&o))));
}

fn refusals(context: &GraphExecutionContext, lines: &mut Lines) {
    let bytes = vec![0; ELEMENTS * 8];
    let tensor =
        |dimensions: &[u32], ty, length: usize| Tensor::new(dimensions, ty, &bytes[..length]);
    let (all, f32s) = (&DIMENSIONS[..], ELEMENTS * 4);
    let cases = [
        ("no inputs", vec![]),
        ("an unknown input", vec![("image", tensor(all, TensorType::Fp32, f32s))]),
        ("an input too many", vec![right(), ("image", tensor(all, TensorType::Fp32, f32s))]),
        ("an input twice", vec![right(), right()]),
        ("no name", vec![("", tensor(all, TensorType::Fp32, f32s))]),
        ("too few bytes", vec![("photo", tensor(all, TensorType::Fp32, f32s - 1))]),
        ("too many bytes", vec![("photo", tensor(all, TensorType::Fp32, f32s + 4))]),
        ("no bytes", vec![("photo", tensor(all, TensorType::Fp32, 0))]),
        ("a smaller photo", vec![("photo", tensor(&[1, 3, 4, 4], TensorType::Fp32, 192))]),
        ("a batch", vec![("photo", tensor(&[2, 3, 8, 4], TensorType::Fp32, f32s))]),
        ("channels last", vec![("photo", tensor(&[1, 8, 8, 3], TensorType::Fp32, f32s))]),
        ("three axes", vec![("photo", tensor(&[3, 8, 8], TensorType::Fp32, f32s))]),
        ("nine axes", vec![("photo", tensor(&[1; 9], TensorType::Fp32, 4))]),
        ("no axes", vec![("photo", tensor(&[], TensorType::Fp32, 4))]),
        ("no elements", vec![("photo", tensor(&[1, 3, 0, 8], TensorType::Fp32, 0))]),
        ("too long axes", vec![("photo", tensor(&[u32::MAX; 4], TensorType::Fp32, f32s))]),
        ("bytes for floats", vec![("photo", tensor(all, TensorType::U8, ELEMENTS))]),
        ("halves for floats", vec![("photo", tensor(all, TensorType::Fp16, ELEMENTS * 2))]),
        ("upper halves", vec![("photo", tensor(all, TensorType::Bf16, ELEMENTS * 2))]),
        ("doubles for floats", vec![("photo", tensor(all, TensorType::Fp64, ELEMENTS * 8))]),
        ("integers for floats", vec![("photo", tensor(all, TensorType::I32, f32s))]),
        ("long integers", vec![("photo", tensor(all, TensorType::I64, ELEMENTS * 8))]),
    ];
    for (case, inputs) in cases {
        lines.push(format!("{case}\t{}", outcome(context, inputs)));
    }
}

/// A valid input: a ramp.
fn right() -> (&'static str, Tensor) {
    let ramp: Vec<f32> = (0..ELEMENTS).map(|i| i as f32 / ELEMENTS as f32).collect();
    ("photo", floats(&DIMENSIONS, &ramp))
}

fn floats(dimensions: &[u32], values: &[f32]) -> Tensor {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor::new(dimensions, TensorType::Fp32, &bytes)
}

fn named((name, tensor): (&str, Tensor)) -> (String, Tensor) {
    (name.to_owned(), tensor)
}

fn outcome(context: &GraphExecutionContext, inputs: Vec<(&str, Tensor)>) -> String {
    let run = context.compute(inputs.into_iter().map(named).collect());
    run.map_or_else(|error| code(&error), |found| outputs(&found))
}

/// Name, type, dimensions and elements of each output, in the order of the names.
fn outputs(found: &[(String, Tensor)]) -> String {
    let mut lines: Vec<String> = found
        .iter()
        .map(|(name, tensor)| {
            let (elements, rest) = (tensor.data(), tensor.data().len() % 4);
            let elements =
                elements.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let elements: Vec<String> = elements.map(|value| format!("{value:e}")).collect();
            let (ty, dimensions) = (tensor.ty(), tensor.dimensions());
            format!("{name} {ty:?} {dimensions:?} {rest} {}", elements.join(" "))
        })
        .collect();
    lines.sort();
    lines.join("\t")
}
