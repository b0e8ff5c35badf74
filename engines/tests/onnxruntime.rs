//! The engine ONNX Runtime: round trips of every element type, sums of quantized models, and errors for
//! inputs that do not fit. Skipped with a printed reason if `ORT_DYLIB_PATH` names no library.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(feature = "onnxruntime")]

use rten_onnx::onnx::{DataType, GraphProto, TensorProto};
use skincell_engines::{Dtype, Engine, LoadError, Model, OnnxRuntime, RunError, Source, Tensor};
use skincell_onnx::build::{model, node, tensor, value};
use std::path::Path;
use tempfile::TempDir;

/// The element types of wasi-nn: name, our type, ONNX type, bytes of an element.
const TYPES: [(&str, Dtype, DataType, usize); 7] = [
    ("u8", Dtype::U8, DataType::UINT8, 1),
    ("f16", Dtype::F16, DataType::FLOAT16, 2),
    ("bf16", Dtype::Bf16, DataType::BFLOAT16, 2),
    ("f32", Dtype::F32, DataType::FLOAT, 4),
    ("f64", Dtype::F64, DataType::DOUBLE, 8),
    ("i32", Dtype::I32, DataType::INT32, 4),
    ("i64", Dtype::I64, DataType::INT64, 8),
];
const DIMENSIONS: [u32; 2] = [2, 3];

/// The engine, or `None` after saying why not.
fn engine() -> Option<OnnxRuntime> {
    let library = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    let Some(library) = library else {
        println!("skipped: ORT_DYLIB_PATH names no ONNX Runtime library");
        return None;
    };
    Some(OnnxRuntime::new(Path::new(&library), 1).unwrap())
}

/// A folder with a model of this graph.
fn folder_with(operator_set: i64, graph: GraphProto) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let bytes = model(operator_set, graph).write_buf().unwrap();
    std::fs::write(folder.path().join("model.onnx"), bytes).unwrap();
    folder
}

/// A folder with a model that returns each input `X` as an output named `X out`.
fn echo() -> TempDir {
    let output = |name: &str| format!("{name} out");
    let described = |name: &str, dtype| value(name, dtype, &DIMENSIONS);
    let graph = GraphProto {
        node: TYPES.map(|(name, ..)| node("Identity", &[name], &output(name))).into(),
        initializer: vec![],
        input: TYPES.map(|(name, _, dtype, _)| described(name, dtype)).into(),
        output: TYPES.map(|(name, _, dtype, _)| described(&output(name), dtype)).into(),
        value_info: vec![],
    };
    folder_with(17, graph)
}

/// One tensor of each type; its bytes count up from `first`.
fn inputs(first: u8) -> Vec<(String, Tensor)> {
    let tensor = |(name, ty, _, size): (&str, Dtype, DataType, usize)| {
        let length = DIMENSIONS.iter().product::<u32>() as usize * size;
        let data = (0..length).map(|i| first.wrapping_add(i as u8)).collect();
        (name.to_owned(), Tensor::new(DIMENSIONS.to_vec(), ty, data))
    };
    TYPES.map(tensor).into()
}

/// A folder with a dense layer in the form QDQ: `X` times weights of 64 rows and 2 columns, all 127 and all
/// -128. X and Y are float32; their scales are 1 and 2¹⁴, their zero points 0 and 128.
fn quantized_layer() -> TempDir {
    let number = |name: &str, value: f32| tensor(name, &[], &[value]);
    let bytes = |name: &str, dims: &[i64], ty, values: &[i32]| TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(ty),
        int32_data: values.to_vec(),
        ..Default::default()
    };
    let weights = [127, -128].repeat(64);
    let graph = GraphProto {
        node: vec![
            node("QuantizeLinear", &["X", "one", "zero"], "x"),
            node("DequantizeLinear", &["x", "one", "zero"], "x read"),
            node("DequantizeLinear", &["w", "one", "zero signed"], "w read"),
            node("MatMul", &["x read", "w read"], "product"),
            node("QuantizeLinear", &["product", "step", "middle"], "y"),
            node("DequantizeLinear", &["y", "step", "middle"], "Y"),
        ],
        initializer: vec![
            number("one", 1.0),
            number("step", 16384.0),
            bytes("zero", &[], DataType::UINT8, &[0]),
            bytes("middle", &[], DataType::UINT8, &[128]),
            bytes("zero signed", &[], DataType::INT8, &[0]),
            bytes("w", &[64, 2], DataType::INT8, &weights),
        ],
        input: vec![value("X", DataType::FLOAT, &[1, 64])],
        output: vec![value("Y", DataType::FLOAT, &[1, 2])],
        value_info: vec![],
    };
    folder_with(13, graph)
}

type Inputs = Vec<(String, Tensor)>;

#[test]
fn concurrent_runs_return_every_element_type_unchanged() {
    let Some(engine) = engine() else { return };
    let folder = echo();
    let model = engine.load(Source::Folder(folder.path())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            let model = &model;
            scope.spawn(move || {
                for round in 0..32 {
                    let given = inputs(thread * 32 + round);
                    let outputs = model.run(&given).unwrap();
                    assert_eq!(outputs.len(), TYPES.len());
                    for ((name, tensor), (output, result)) in given.iter().zip(&outputs) {
                        assert_eq!(output, &format!("{name} out"));
                        assert_eq!(result.dimensions, tensor.dimensions, "{name}");
                        assert_eq!(result.data, tensor.data, "{name}");
                        assert_eq!(result.dtype, tensor.dtype);
                    }
                }
            });
        }
    });
}

#[test]
fn inputs_that_do_not_fit_are_errors_that_name_them() {
    let Some(engine) = engine() else { return };
    let folder = echo();
    let model = engine.load(Source::Folder(folder.path())).unwrap();
    let run = |change: &dyn Fn(&mut Inputs)| {
        let mut given = inputs(0);
        change(&mut given);
        model.run(&given).map(|outputs| outputs.len())
    };
    let unknown = run(&|given| given[0].0 = "u9".to_owned());
    assert!(matches!(unknown, Err(RunError::UnknownInput { name, .. }) if name == "u9"));
    let missing = run(&|given| drop(given.remove(0)));
    assert!(matches!(missing, Err(RunError::MissingInput(name)) if name == "u8"));
    let cut = run(&|given| given[3].1.data.truncate(23));
    assert!(matches!(cut, Err(RunError::Tensor { name, .. }) if name == "f32"));
    let shape = run(&|given| given[3].1.dimensions = vec![3, 2]);
    assert!(matches!(&shape, Err(RunError::Engine(words)) if words.contains("f32")), "{shape:?}");
    let ty = run(&|given| given[3].1.dtype = Dtype::I32);
    assert!(matches!(ty, Err(RunError::Engine(_))));
    assert!(run(&|_| {}).is_ok(), "the model still runs");
}

#[test]
fn missing_and_damaged_models_and_libraries_are_refused() {
    let Some(engine) = engine() else { return };
    let folder = tempfile::tempdir().unwrap();
    let refusal = |outcome: Result<Box<dyn Model>, LoadError>| outcome.map(drop).unwrap_err();
    assert!(matches!(refusal(engine.load(Source::Folder(folder.path()))), LoadError::Missing(_)));
    std::fs::write(folder.path().join("model.onnx"), "no model").unwrap();
    let refused = refusal(engine.load(Source::Folder(folder.path())));
    assert!(matches!(refused, LoadError::Refused { engine: "onnxruntime", .. }), "{refused}");
    let nowhere = OnnxRuntime::new(&folder.path().join("lib.so"), 1).map(drop).unwrap_err();
    assert!(nowhere.to_string().contains("lib.so"), "{nowhere}");
}

#[test]
fn a_model_too_large_for_the_allowance_is_not_taken_or_stays_mapped() {
    let Some(engine) = engine() else { return };
    let folder = echo();
    let tight = engine.with_allowance(Some(1 << 20));
    assert!(
        tight.takes(&Source::Folder(folder.path())),
        "an engine chosen by name takes every model"
    );
    let model = tight.load(Source::Folder(folder.path())).unwrap();
    assert_eq!(model.run(&inputs(7)).unwrap()[0].1.data, inputs(7)[0].1.data);
    assert!(!tight.only_where_it_fits().takes(&Source::Folder(folder.path())));
}

/// On x86 without VNNI, ONNX Runtime's sums of pairs of 8-bit products stop at 32,767; 2 · 255 · 127 is more.
#[test]
fn large_sums_of_quantized_models_are_not_cut_off() {
    let Some(engine) = engine() else { return };
    let folder = quantized_layer();
    let input = Tensor::new(vec![1, 64], Dtype::F32, 255.0_f32.to_le_bytes().repeat(64));
    let steps = |weight: f64| ((255.0 * 64.0 * weight / 16384.0).round() * 16384.0) as f32;
    let expected = [steps(127.0).to_le_bytes(), steps(-128.0).to_le_bytes()].concat();
    for engine in [engine, self::engine().unwrap().with_allowance(Some(0))] {
        let model = engine.load(Source::Folder(folder.path())).unwrap();
        let outputs = model.run(&[("X".to_owned(), input.clone())]).unwrap();
        assert_eq!(outputs[0].1.data, expected);
    }
}

#[test]
fn an_output_that_wasi_nn_has_no_type_for_is_named() {
    let Some(engine) = engine() else { return };
    let graph = GraphProto {
        node: vec![node("IsNaN", &["scores"], "unknown")],
        initializer: vec![],
        input: vec![value("scores", DataType::FLOAT, &DIMENSIONS)],
        output: vec![value("unknown", DataType::BOOL, &DIMENSIONS)],
        value_info: vec![],
    };
    let folder = folder_with(17, graph);
    let model = engine.load(Source::Folder(folder.path())).unwrap();
    let given = Tensor::new(DIMENSIONS.to_vec(), Dtype::F32, vec![0; 24]);
    let error = model.run(&[("scores".to_owned(), given)]).err().unwrap().to_string();
    assert!(error.starts_with("the output \"unknown\" is ") && error.contains("bool"), "{error}");
}
