//! Fuzzing of `prepare`: classifiers changed at random, in their graph and in their bytes, are prepared
//! correctly or refused, in bounded time and memory, and no partial folder remains.
//!
//! The networks are those of `tests/reference/heads`. If a changed network still runs in rten, the prepared
//! one must return the same probabilities. By default some hundred changes with fixed seeds are tried; with
//! `SKINCELL_FUZZ_SECONDS` as many as fit into that time, with other seeds in each run. The network that is
//! being tried lies in `mutated.onnx` in cargo's folder for tests (`target/tmp`), also after an abort.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rten::{Model, ModelOptions, Value};
use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_engines::{Engine, Rten};
use skincell_modelkit::served::Served;
use skincell_modelkit::{PrepareOptions, parse_labels, prepare};
use skincell_onnx::build;
use skincell_vision::card::{Activation, Card};
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::PhotoTensor;

/// Changes tried if no time is given.
const ROUNDS: u64 = 150;
/// Longest time of one preparation, on a machine under other load.
const LONGEST: Duration = Duration::from_secs(30);
/// Largest peak memory of the process.
const MEMORY: u64 = 2 << 30;

/// Xorshift (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end.max(1)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

fn nets() -> Vec<Vec<u8>> {
    let heads = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/reference/heads");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(heads).expect("the nets").map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.iter().map(|folder| fs::read(folder.join("model.onnx")).expect("a net")).collect()
}

/// Makes one change of the graph: removes, doubles or replaces a node, or changes an attribute, a shape, a
/// name or a type.
fn change(model: &mut ModelProto, random: &mut Random) {
    let graph = model.graph.as_mut().expect("a graph");
    match random.below(13) {
        0..4 => change_nodes(graph, random),
        4..9 => {
            let at = random.below(graph.node.len());
            let names = graph.node.iter().flat_map(|node| node.output.clone()).collect::<Vec<_>>();
            change_node(&mut graph.node[at], &names, random);
        }
        9..11 => {
            let at = random.below(graph.initializer.len());
            change_weights(&mut graph.initializer[at], random);
        }
        11 => change_input(&mut graph.input[0], random),
        _ => model.opset_import[0].version = Some(random.pick(&[-1, 1, 7, 9, 11, 13, 21, 99])),
    }
}

fn change_nodes(graph: &mut GraphProto, random: &mut Random) {
    const OPERATORS: [&str; 14] = [
        "Relu",
        "Sigmoid",
        "Softmax",
        "Tanh",
        "Add",
        "Mul",
        "Sub",
        "MaxPool",
        "GlobalAveragePool",
        "Flatten",
        "Transpose",
        "Identity",
        "LogSoftmax",
        "Cast",
    ];
    let at = random.below(graph.node.len());
    match random.below(4) {
        0 => drop(graph.node.remove(at)),
        1 => graph.node.push(graph.node[at].clone()),
        2 => graph.node[at].op_type = Some(random.pick(&OPERATORS).to_owned()),
        _ => graph.node[at].domain = Some("other.domain".to_owned()),
    }
}

/// Changes or removes an attribute of the node, replaces one of its inputs, or removes its last input.
fn change_node(node: &mut NodeProto, names: &[String], random: &mut Random) {
    const SMALL: [i64; 12] = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 8, 13, 31];
    let (attributes, inputs) = (node.attribute.len(), node.input.len());
    match random.below(5) {
        0 if inputs > 0 => {
            node.input[random.below(inputs)] = names[random.below(names.len())].clone()
        }
        1 => drop(node.input.pop()),
        _ if attributes == 0 => {}
        2 => drop(node.attribute.remove(random.below(attributes))),
        _ => {
            let attribute = &mut node.attribute[random.below(attributes)];
            if let Some(number) = &mut attribute.i {
                *number = random.pick(&SMALL);
            } else if let Some(number) = &mut attribute.f {
                *number = random.pick(&[0.0, -1.0, 1e-6, 0.5, 3.0, f32::INFINITY, f32::NAN]);
            } else if attribute.ints.is_empty() {
                attribute.name = Some("nothing".to_owned());
            } else {
                let place = random.below(attribute.ints.len());
                attribute.ints[place] = random.pick(&SMALL);
            }
        }
    }
}

fn change_weights(weights: &mut TensorProto, random: &mut Random) {
    let dims = &mut weights.dims;
    match random.below(4) {
        0 => dims.reverse(),
        1 => drop(dims.pop()),
        2 => dims.push(random.pick(&[-1, 0, 1, 7, 1 << 31, i64::MAX])),
        _ => {
            let types = [DataType::INT64, DataType::FLOAT16, DataType::UINT8, DataType::DOUBLE];
            weights.data_type = Some(random.pick(&types));
        }
    }
}

fn change_input(value: &mut ValueInfoProto, random: &mut Random) {
    let tensor = value.r#type.as_mut().and_then(|t| t.tensor_type.as_mut());
    let dims = &mut tensor.and_then(|t| t.shape.as_mut()).expect("a shape").dim;
    let side = random.pick(&[-1, 0, 1, 3, 16, 33, 1 << 40]);
    let open = Dimension { dim_value: None, dim_param: Some("n".to_owned()) };
    let said = Dimension { dim_value: Some(side), dim_param: None };
    let place = random.below(dims.len());
    dims[place] = if random.below(3) == 0 { open } else { said };
}

/// Makes a few changes of the bytes.
fn scramble(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at.max(1)),
            _ => drop(bytes.splice(at..at, (0..random.below(9)).map(|_| 0xff))),
        }
    }
}

fn mutant(nets: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = nets[random.below(nets.len())].clone();
    if random.below(5) > 0 {
        let mut model = ModelProto::parse_buf(&bytes).expect("a net");
        for _ in 0..=random.below(3) {
            change(&mut model, random);
        }
        bytes = model.write_buf().expect("encodes");
    }
    if random.below(5) == 0 {
        scramble(&mut bytes, random);
    }
    bytes
}

fn listing(folder: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<String> = fs::read_dir(folder).unwrap().map(|e| name(e).unwrap()).collect();
    names.sort();
    names
}

/// The net with every `Sign` as (x > 0) - (x < 0): rten's gives 1 for 0, and ONNX says 0.
fn with_signs_spelled(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let mut model = ModelProto::parse_buf(&bytes).ok()?;
    let graph = model.graph.as_mut()?;
    if graph.node.iter().all(|node| node.op_type.as_deref() != Some("Sign")) {
        return Some(bytes);
    }
    graph.initializer.push(build::tensor("none", &[], &[0.0]));
    let nodes = std::mem::take(&mut graph.node);
    for mut node in nodes {
        if let (Some("Sign"), [x], [y]) =
            (node.op_type.as_deref(), &node.input[..], &node.output[..])
        {
            let (above, below) = (format!("{y}/above"), format!("{y}/below"));
            for (operator, side) in [("Greater", &above), ("Less", &below)] {
                let condition = format!("{side}/condition");
                let mut cast = build::node("Cast", &[&condition], side);
                cast.attribute.push(build::int_attribute("to", i64::from(DataType::FLOAT.0)));
                graph.node.push(build::node(operator, &[x, "none"], &condition));
                graph.node.push(cast);
            }
            node = build::node("Sub", &[&above, &below], y);
        }
        graph.node.push(node);
    }
    model.write_buf().ok()
}

/// The scores of the changed network itself for a photo, in rten; `None` if it does not run.
fn own_scores(file: &Path, photo: &[f32], shape: &[usize]) -> Option<Vec<f32>> {
    let run = || {
        let bytes = with_signs_spelled(fs::read(file).ok()?)?;
        let model = ModelOptions::with_all_ops().load(bytes).ok()?;
        let run = |model: &Model| {
            let tensor = Tensor::from_data(shape, photo.to_vec());
            let (input, output) = (*model.input_ids().first()?, *model.output_ids().first()?);
            let values = model.run(vec![(input, tensor.view().into())], &[output], None).ok()?;
            match values.into_iter().next()? {
                Value::FloatTensor(scores) => Some(scores.iter().copied().collect()),
                _ => None,
            }
        };
        run(&model)
    };
    catch_unwind(AssertUnwindSafe(run)).ok().flatten()
}

/// Prepares one changed network; returns whether it was accepted.
///
/// # Errors
/// A text that describes the fault: a panic, an empty error, files left behind, or wrong probabilities.
fn tried(bytes: &[u8]) -> Result<bool, String> {
    let home = tempfile::tempdir().expect("a temporary folder");
    let (file, output) = (home.path().join("raw.onnx"), home.path().join("out"));
    fs::write(&file, bytes).expect("written");
    let options = PrepareOptions {
        model: file.clone(),
        output: output.clone(),
        classes: parse_labels("a\nb\nc\nd").expect("four labels"),
        mean: [127.5; 3],
        std: [127.5; 3],
        size: None,
        ..PrepareOptions::default()
    };
    let done = catch_unwind(AssertUnwindSafe(|| prepare(&options, &mut |_| {})));
    match done.map_err(|_| "prepare panicked".to_owned())? {
        Err(error) if error.to_string().is_empty() => Err("refused with an empty error".to_owned()),
        Err(error) if listing(home.path()) != ["raw.onnx"] => {
            Err(format!("left {:?} behind ({error})", listing(home.path())))
        }
        Err(_) => Ok(false),
        Ok(_) if listing(home.path()) != ["out", "raw.onnx"] => {
            Err(format!("left {:?} behind", listing(home.path())))
        }
        Ok(_) => catch_unwind(AssertUnwindSafe(|| same(&file, &output)))
            .map_err(|_| "what was prepared panics".to_owned())?
            .map(|()| true),
    }
}

/// Whether rten computes the network as ONNX says: in sets before 13 it takes the softmax of a map over one
/// axis only, and what is prepared is right instead.
fn is_as_onnx_says(bytes: &[u8]) -> bool {
    let Ok(model) = ModelProto::parse_buf(bytes) else { return false };
    let old = model.opset_import.iter().any(|set| set.version.is_some_and(|v| v < 13));
    let softmax =
        |node: &NodeProto| matches!(node.op_type.as_deref(), Some("Softmax" | "LogSoftmax"));
    !(old && model.graph.is_some_and(|graph| graph.node.iter().any(softmax)))
}

/// Checks that the prepared network returns the probabilities of the changed one.
fn same(file: &Path, output: &Path) -> Result<(), String> {
    let card = fs::read(output.join("card.json")).map_err(|e| e.to_string())?;
    let card = Card::parse(&card).map_err(|error| error.to_string())?;
    let engine: &dyn Engine = &Rten::new(1);
    let served = Served::open(output, engine).map_err(|error| error.to_string())?;
    let shape = [1, 3, card.input.height as usize, card.input.width as usize];
    let photo: Vec<f32> =
        (0..shape.iter().product()).map(|at: usize| ((at * 37) as f32 * 0.11).sin()).collect();
    let tensor = PhotoTensor {
        dimensions: shape.map(|side| side as u32).to_vec(),
        dtype: card.input.dtype,
        data: photo.iter().flat_map(|value| value.to_le_bytes()).collect(),
    };
    let outcome = served.run(&tensor).map_err(|error| error.to_string())?;
    let comparable = fs::read(file).is_ok_and(|bytes| is_as_onnx_says(&bytes));
    let own = own_scores(file, &photo, &shape).filter(|_| comparable);
    let found = match (probabilities(&outcome.scores, &card.output), &own) {
        (Ok(found), _) => found,
        // The network itself has no finite score for this photo, and each such answer is refused.
        (Err(_), Some(own)) if own.iter().any(|score| !score.is_finite()) => return Ok(()),
        (Err(error), _) => return Err(error.to_string()),
    };
    let Some(own) = own else { return Ok(()) };
    if card.output.activation != Activation::Softmax || own.len() != found.len() {
        return Ok(());
    }
    let sum: f32 = own.iter().sum();
    let done = own.iter().all(|p| (0.0..=1.0).contains(p)) && (sum - 1.0).abs() < 1e-3;
    let most = own.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = own.iter().map(|z| (z - most).exp()).collect();
    let total: f32 = powers.iter().sum();
    let right = if done { own } else { powers.iter().map(|p| p / total).collect() };
    let off = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    if off <= 1e-4 { Ok(()) } else { Err(format!("{found:?} is served, {right:?} is right")) }
}

fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

#[test]
fn changed_networks_are_prepared_correctly_or_refused() {
    let nets = nets();
    assert!(nets.len() >= 25, "only {} nets", nets.len());
    let seconds = std::env::var("SKINCELL_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let first = match until {
        Some(_) => u64::from(std::process::id()) << 32,
        None => 0,
    };
    let (send, receive) = mpsc::channel();
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutated.onnx");
    let worker = move || {
        for round in first.. {
            if until.map_or(round == ROUNDS, |until| Instant::now() >= until) {
                break;
            }
            let mut random = Random((round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let bytes = mutant(&nets, &mut random);
            fs::write(&kept, &bytes).expect("the network tried is kept");
            if send.send((round, tried(&bytes))).is_err() {
                break;
            }
        }
    };
    let worker = std::thread::spawn(worker);
    let (mut taken, mut refused, mut bad) = (0, 0, Vec::new());
    let mut next = first;
    loop {
        match receive.recv_timeout(LONGEST) {
            Ok((round, outcome)) => {
                next = round + 1;
                match outcome {
                    Ok(true) => taken += 1,
                    Ok(false) => refused += 1,
                    Err(why) => bad.push(format!("round {round}: {why}")),
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("round {next} takes longer than {LONGEST:?}")
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    worker.join().expect("the worker ends");
    println!("{taken} taken, {refused} refused, at most {} MiB", memory() >> 20);
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused");
    assert!(memory() < MEMORY, "{} bytes", memory());
}
