//! `skincell model inspect`: prints a model as a table.

use crate::output::out;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use skincell_modelkit::inspect::{Inspection, Port, inspect};
use skincell_modelkit::pack::Precision;
use skincell_vision::card::Card;

use super::engines::in_onnxruntime;
use super::units::bytes;
use super::words;
use crate::engine_library::EngineLibrary;

/// Flags of `skincell model inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  skincell model inspect models/skin      a prepared folder, with its card
  skincell model inspect exported.onnx    any ONNX file, before it is prepared")]
pub(crate) struct InspectArguments {
    /// A prepared folder or an ONNX file
    pub(super) model: PathBuf,
    #[command(flatten)]
    library: EngineLibrary,
}

/// Runs `model inspect`.
///
/// # Errors
/// A file cannot be read.
pub(super) fn run(arguments: &InspectArguments) -> anyhow::Result<ExitCode> {
    let mut found = inspect(&arguments.model)?;
    if let Some(library) = arguments.library.path() {
        found.engines.push(in_onnxruntime(&found.model, &library));
    }
    out!("{}", render(&found));
    Ok(ExitCode::SUCCESS)
}

/// A table of names and values.
struct Table(String);

impl Table {
    fn title(&mut self, title: &str) {
        self.0.push_str(&format!("\n{title}\n"));
    }

    fn row(&mut self, name: &str, value: &str) {
        self.0.push_str(&format!("  {name:<12} {value}\n"));
    }
}

fn render(found: &Inspection) -> String {
    let mut table = Table(format!("{}\n", found.model.display()));
    table.title("graph");
    for (what, ports) in [("input", &found.inputs), ("output", &found.outputs)] {
        for (name, dtype, dims) in ports.iter().map(|p: &Port| p) {
            table.row(what, &format!("{name}  {dtype} [{}]", dims.join(", ")));
        }
    }
    table.row("parameters", &found.parameters.to_string());
    table.row("opset", &found.opset.to_string());
    let nodes: usize = found.operators.iter().map(|(_, count)| count).sum();
    table.row("operators", &format!("{nodes} nodes"));
    for some in found.operators.chunks(4) {
        let line: Vec<String> =
            some.iter().map(|(operator, count)| format!("{count:>4} {operator:<18}")).collect();
        table.row("", line.concat().trim_end());
    }
    table.title("bytes");
    for (dtype, (count, size)) in &found.constants {
        table.row(dtype, &format!("{} in {count} tensors", bytes(*size)));
    }
    for (file, size) in &found.files {
        table.row("", &format!("{file:<16} {:>10}", bytes(*size)));
    }
    if let Some(card) = &found.card {
        card_rows(&mut table, card);
    }
    table.title("engines");
    for (engine, takes, words) in &found.engines {
        let sign = if *takes { "yes" } else { "no" };
        table.row(engine, &format!("{sign:<4} {words}"));
    }
    if let Some(weights) = found.packed {
        let bits = match weights.precision {
            Precision::Single => "float32",
            Precision::Half => "16 bits, large ones; computed in float32",
        };
        table.row("packed weights", bits);
        if let (own @ 1.., all) = weights.on_integers {
            let words = format!("8 bits, summed as integers, in {own} of {all} convolutions");
            table.row("", &words);
        }
    }
    if let Some((engine, why)) = &found.serves {
        table.row("serves", &format!("{engine}, {why}"));
    }
    table.0
}

fn card_rows(table: &mut Table, card: &Card) {
    table.title("card");
    table.row("name", &card.name);
    for (name, value) in [
        ("title", &card.title),
        ("notice", &card.notice),
        ("license", &card.license),
        ("source", &card.source),
    ] {
        if !value.is_empty() {
            table.row(name, value);
        }
    }
    let input = &card.input;
    table.row(
        "photo",
        &format!("{}, mean {:?}, std {:?}", words::tensor(input), input.mean, input.std),
    );
    let scores = format!("{}, {} classes", words::scores(&card.output), card.classes.len());
    table.row("scores", &scores);
    let labels: Vec<&str> = card.classes.iter().take(7).map(|c| c.label.as_str()).collect();
    let more = if card.classes.len() > labels.len() { ", …" } else { "" };
    table.row("classes", &format!("{}{more}", labels.join(", ")));
    let map = match (&card.gradcam, &card.gradcam_missing) {
        (Some(map), _) => {
            format!("{}x{} as \"{}\", {}", map.width, map.height, map.output, words::explains(map))
        }
        (None, Some(reason)) => format!("none: {reason}"),
        (None, None) => "none".to_owned(),
    };
    table.row("grad-cam", &map);
}
