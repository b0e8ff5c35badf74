//! Broken models and wrong options: `prepare` returns an error that names the fault, and writes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::path::Path;

use common::{classifier, node, options, tensor};
use rten_onnx::onnx::{DataLocation, ModelProto, StringStringEntryProto, TensorProto};
use skincell_modelkit::{PrepareOptions, parse_labels, prepare};

/// Writes files beside the model and returns the model's bytes.
type Lay = Box<dyn Fn(&Path) -> Vec<u8>>;

/// One broken input: its name, its files, a change of the options, and texts that the error must contain.
struct Case {
    name: &'static str,
    lay: Lay,
    change: fn(&mut PrepareOptions),
    says: &'static [&'static str],
}

fn bytes(model: &ModelProto) -> Vec<u8> {
    model.write_buf().expect("encodes")
}

fn case(
    name: &'static str,
    says: &'static [&'static str],
    lay: impl Fn(&Path) -> Vec<u8> + 'static,
) -> Case {
    Case { name, lay: Box::new(lay), change: |_| {}, says }
}

/// A case with a change of the valid classifier.
fn changed(
    name: &'static str,
    says: &'static [&'static str],
    change: impl Fn(&mut ModelProto) + 'static,
) -> Case {
    case(name, says, move |_| {
        let mut model = classifier();
        change(&mut model);
        bytes(&model)
    })
}

/// A case of the valid classifier with other options.
fn asked(
    name: &'static str,
    says: &'static [&'static str],
    change: fn(&mut PrepareOptions),
) -> Case {
    Case { name, lay: Box::new(|_| bytes(&classifier())), change, says }
}

/// Declares that the convolution's weights are in another file; writes no file.
fn external(model: &mut ModelProto, entries: &[(&str, &str)]) {
    let graph = model.graph.as_mut().expect("it has a graph");
    let weights = &mut graph.initializer[0];
    weights.raw_data = None;
    weights.data_location = Some(DataLocation::EXTERNAL);
    let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
        key: Some((*key).to_owned()),
        value: Some((*value).to_owned()),
    };
    weights.external_data = entries.iter().map(entry).collect();
}

fn first_weights(model: &mut ModelProto) -> &mut TensorProto {
    &mut model.graph.as_mut().expect("it has a graph").initializer[0]
}

fn files() -> Vec<Case> {
    vec![
        case("a text file", &["not an ONNX model", "Once upon"], |_| b"Once upon a time".to_vec()),
        case("an empty file", &["not an ONNX model"], |_| vec![]),
        case("a truncated model", &["cut short", "export it again"], |_| {
            let whole = bytes(&classifier());
            whole[..whole.len() / 2].to_vec()
        }),
        // Found by fuzzing: `rten-onnx` would read it in an endless loop.
        case("a varint without an end", &["longer than 64 bits", "export it again"], |_| {
            [bytes(&classifier()), vec![0xff; 11]].concat()
        }),
        case("a name that is not UTF-8", &["damaged"], |_| {
            let mut whole = bytes(&classifier());
            let at = whole.windows(6).position(|w| w == b"node_z").expect("the node's name");
            whole[at] = 0xff;
            whole
        }),
        changed("missing external data", &["\"w\"", "lost.data", "beside it"], |model| {
            external(model, &[("location", "lost.data"), ("offset", "0"), ("length", "1728")]);
        }),
        changed(
            "a path to the parent folder",
            &["../secret.data", "leaves the model's folder"],
            |model| {
                external(model, &[("location", "../secret.data")]);
            },
        ),
        changed("an absolute path", &["/etc/passwd", "leaves the model's folder"], |model| {
            external(model, &[("location", "/etc/passwd")]);
        }),
        case("a link to another folder", &["link.data", "leaves the model's folder"], |folder| {
            std::os::unix::fs::symlink("/etc/passwd", folder.join("link.data")).expect("linked");
            let mut model = classifier();
            external(&mut model, &[("location", "link.data")]);
            bytes(&model)
        }),
        case("external data cut short", &["short.data", "the file has 100"], |folder| {
            std::fs::write(folder.join("short.data"), [0; 100]).expect("written");
            let mut model = classifier();
            external(&mut model, &[("location", "short.data"), ("offset", "64")]);
            bytes(&model)
        }),
        case("an offset past 64 bits", &["short.data", "are asked for"], |folder| {
            std::fs::write(folder.join("short.data"), [0; 100]).expect("written");
            let mut model = classifier();
            let far = u64::MAX.to_string();
            external(&mut model, &[("location", "short.data"), ("offset", &far)]);
            bytes(&model)
        }),
    ]
}

fn graphs() -> Vec<Case> {
    vec![
        changed("2 GB of declared dims", &["\"w\"", "2147483648 bytes", "holds 1728"], |model| {
            first_weights(model).dims = vec![1 << 29];
        }),
        changed("dims past 64 bits", &["\"w\"", "exceeds 64 bits"], |model| {
            first_weights(model).dims = vec![1 << 62, 1 << 62];
        }),
        changed("a negative dim", &["\"w\"", "negative"], |model| {
            first_weights(model).dims = vec![-1, 3, 3, 3];
        }),
        changed("a huge input", &["\"image\"", "100000x100000", "4096"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.input[0] = common::float_value("image", &[1, 3, 100_000, 100_000]);
        }),
        changed("a cycle", &["2 nodes wait for each other", "Relu"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.node[1] = node("Relu", &["x"], "a");
            graph.node.push(node("Sigmoid", &["a"], "x"));
            graph.node[2] = node("GlobalAveragePool", &["z"], "g");
        }),
        changed("a value without a producer", &["GlobalAveragePool", "\"nothing\""], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.node[2] = node("GlobalAveragePool", &["nothing"], "g");
        }),
        changed("a value made twice", &["\"a\"", "made twice"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.node.push(node("Relu", &["z"], "a"));
        }),
        changed("a private operator", &["\"my.ops\"", "Fancy"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.node[1] = node("Fancy", &["z"], "a");
            graph.node[1].domain = Some("my.ops".to_owned());
        }),
        changed("an unknown operator", &["rten", "Fancy"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.node[1] = node("Fancy", &["z"], "a");
        }),
        changed("an old operator set", &["operator set 6"], |model| {
            model.opset_import[0].version = Some(6);
        }),
        changed("no photo", &["[1, 4, 8, 8]", "a photo is"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.input[0] = common::float_value("image", &[1, 4, 8, 8]);
        }),
        changed("two inputs", &["takes 2 inputs", "\"more\""], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.input.push(common::float_value("more", &[1]));
            graph.node[1] = node("Add", &["z", "more"], "a");
        }),
        changed("two outputs", &["\"scores\", \"a\"", "--scores"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.output.push(common::float_value("a", &[1]));
        }),
        changed("weights that do not fit", &["rten cannot run"], |model| {
            let graph = model.graph.as_mut().expect("it has a graph");
            graph.initializer[2] = tensor("dense", &[8, 10], &common::noise(3, 80));
        }),
    ]
}

fn options_of_them() -> Vec<Case> {
    vec![
        asked("too few labels", &["scores of the model: 5", "the labels name: 2"], |o| {
            o.classes = parse_labels("a\nb").expect("two labels");
        }),
        asked("an invalid name", &["--name", "\"../x\""], |o| o.name = "../x".to_owned()),
        asked("std of zero", &["input.std", "not 0"], |o| o.std = [1.0, 0.0, 1.0]),
        asked("another size", &["--size 9x9", "8x8"], |o| o.size = Some((9, 9))),
        asked("no such output", &["no output \"x\"", "\"scores\""], |o| {
            o.scores = Some("x".to_owned());
        }),
        asked("no such file", &["gone.onnx", "No such file"], |o| {
            o.model = o.model.with_file_name("gone.onnx");
        }),
        asked("no folder", &["cannot be a model's folder"], |o| o.output = "/".into()),
    ]
}

#[test]
fn errors_name_the_fault_and_no_file_is_written() {
    for case in files().into_iter().chain(graphs()).chain(options_of_them()) {
        let home = tempfile::tempdir().expect("a temporary folder");
        let path = home.path().join("raw.onnx");
        std::fs::write(&path, (case.lay)(home.path())).expect("written");
        let before = listing(home.path());
        let mut options = options(path, home.path());
        (case.change)(&mut options);
        let error = match prepare(&options, &mut |_| {}) {
            Ok(_) => panic!("{}: was prepared", case.name),
            Err(error) => error.to_string(),
        };
        for part in case.says {
            assert!(error.contains(part), "{}: {error:?} does not contain {part:?}", case.name);
        }
        assert_eq!(listing(home.path()), before, "{}: left something behind", case.name);
    }
}

fn listing(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.expect("readable").file_name().to_string_lossy().into_owned()
    };
    let mut names: Vec<String> = entries.map(name).collect();
    names.sort();
    names
}
