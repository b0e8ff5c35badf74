//! `skincell model prepare`: from an exported classifier to a folder that can be served.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use skincell_modelkit::export::{Exported, Framework, export};
use skincell_modelkit::{CamTarget, PrepareOptions, Report, Step, parse_labels, prepare};
use skincell_vision::card::{Activation, Basis, Dtype, Target};

use super::progress::Progress;
use crate::pack::{PackFlags, pack_and_report};

const PREPARE_HELP: &str = "\
What it does:
  The exported graph is checked and cleared; a second output, the Grad-CAM maps of all classes, is
  added to it; the weights go into a file of their own, so that a server maps them instead of
  copying them. The result is a folder with model.onnx, model.onnx.data and card.json.

Example, a Keras EfficientNetV2, which normalises inside the model:
  skincell model prepare dermatology.keras --labels labels.txt -o models/skin --force

Example, a PyTorch export with ImageNet's normalisation:
  skincell model prepare raw.onnx --labels labels.txt -o models/skin \\
      --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375 \\
      --notice \"Not a medical device.\"

The labels file has one class a line, in the order of the model's scores; a tab and a name to show
may follow:
  Heathy<TAB>Healthy";

/// Flags of `skincell model prepare`.
#[derive(Debug, Args)]
#[command(after_help = PREPARE_HELP)]
pub(crate) struct PrepareArguments {
    /// The classifier: an ONNX file (weights in files beside it are read too), a Keras model (.keras,
    /// .h5, a SavedModel folder), or a PyTorch program (.pt2, .pt)
    model: PathBuf,
    /// One class a line, in the order of the scores; a tab and a name to show may follow
    #[arg(long, value_name = "FILE")]
    labels: PathBuf,
    /// The folder to write; its last part is the model's name
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// The name the model is asked for by, if not the folder's
    #[arg(long, default_value = "")]
    name: String,
    /// One line on the model, for people
    #[arg(long, default_value = "")]
    title: String,
    /// What every answer must carry, such as "Not a medical device."
    #[arg(long, default_value = "")]
    notice: String,
    /// SPDX expression of the weights' licence
    #[arg(long, default_value = "")]
    license: String,
    /// Where the weights came from
    #[arg(long, default_value = "")]
    source: String,
    /// Subtracted from the R, G and B of each pixel, which run from 0 to 255
    #[arg(long, value_name = "R,G,B", default_value = "0,0,0", value_parser = parse_triple)]
    mean: [f32; 3],
    /// Divides R, G and B afterwards
    #[arg(long, value_name = "R,G,B", default_value = "1,1,1", value_parser = parse_triple)]
    std: [f32; 3],
    /// What a server sends: normalised float32, or the bytes themselves, normalised in the graph
    #[arg(long, value_enum, default_value_t = InputKind::F32)]
    input: InputKind,
    /// The photo's size, for a model that leaves it open
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Which output are the scores, for a model with several
    #[arg(long = "scores", value_name = "NAME")]
    scores: Option<String>,
    /// What turns scores into probabilities, where the graph does not say [default: softmax]
    #[arg(long, value_enum)]
    activation: Option<ActivationKind>,
    /// Which map Grad-CAM shows: the last convolution's raw output, the activation after it, or none
    /// at all [default: conv where its bias is known and it is all that is pooled, else activation]
    #[arg(long, value_enum)]
    cam_target: Option<TargetKind>,
    /// Whose gradient Grad-CAM shows: the class's probability, or its score before softmax
    #[arg(long, value_enum, default_value_t = BasisKind::Probability)]
    cam_basis: BasisKind,
    /// Whether the last convolution's bias is its own, or what a folded batch norm left [default: as the
    /// file says; where it does not, the activation is shown, which is right either way]
    #[arg(long, value_enum)]
    conv_bias: Option<BiasKind>,
    /// The Python that exports a Keras or PyTorch model; it needs what models/keras/requirements.txt or
    /// models/torch/requirements.txt says
    #[arg(long, value_name = "PYTHON", env = "SKINCELL_PYTHON", default_value = "python3")]
    python: PathBuf,
    /// Replace the folder if it is there already
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    packing: PackFlags,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum InputKind {
    F32,
    U8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ActivationKind {
    Softmax,
    Sigmoid,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TargetKind {
    Conv,
    Activation,
    None,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BasisKind {
    Probability,
    Logit,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum BiasKind {
    Folded,
    Own,
}

fn parse_triple(text: &str) -> Result<[f32; 3], String> {
    let numbers: Result<Vec<f32>, _> = text.split(',').map(|n| n.trim().parse::<f32>()).collect();
    match numbers.as_deref() {
        Ok([r, g, b]) => Ok([*r, *g, *b]),
        Ok([one]) => Ok([*one; 3]),
        Ok(other) => Err(format!("{} numbers; one each for R, G and B is wanted", other.len())),
        Err(error) => Err(format!("{error}; wanted is a list such as 127.5,127.5,127.5")),
    }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is no size; wanted is WIDTHxHEIGHT, such as 300x300");
    let (width, height) = text.split_once('x').ok_or_else(wrong)?;
    let side = |side: &str| side.parse::<u32>().map_err(|_| wrong());
    Ok((side(width)?, side(height)?))
}

/// Runs `model prepare`.
///
/// # Errors
/// What is wrong with the labels, the model or the folder.
pub(super) fn run(arguments: PrepareArguments) -> anyhow::Result<ExitCode> {
    let labels = std::fs::read_to_string(&arguments.labels)
        .with_context(|| format!("labels {}", arguments.labels.display()))?;
    let classes =
        parse_labels(&labels).with_context(|| format!("labels {}", arguments.labels.display()))?;
    if classes.is_empty() {
        bail!("labels {}: no class in it", arguments.labels.display());
    }
    let progress = Progress::new();
    let exported = match Framework::of(&arguments.model) {
        None => None,
        Some(framework) => {
            progress.show(&format!("exporting with {}", framework.name()));
            Some(export(&arguments.model, framework, &arguments.python, arguments.size)?)
        }
    };
    let output = arguments.output.clone();
    let model = exported.as_ref().map_or(arguments.model, Exported::path);
    let options = PrepareOptions {
        model,
        output: arguments.output,
        classes,
        name: arguments.name,
        title: arguments.title,
        notice: arguments.notice,
        license: arguments.license,
        source: arguments.source,
        mean: arguments.mean,
        std: arguments.std,
        input: match arguments.input {
            InputKind::F32 => Dtype::F32,
            InputKind::U8 => Dtype::U8,
        },
        size: arguments.size,
        scores: arguments.scores,
        activation: arguments.activation.map(|a| match a {
            ActivationKind::Softmax => Activation::Softmax,
            ActivationKind::Sigmoid => Activation::Sigmoid,
        }),
        target: match arguments.cam_target {
            None => CamTarget::Solvable,
            Some(TargetKind::Conv) => CamTarget::Only(Target::Conv),
            Some(TargetKind::Activation) => CamTarget::Only(Target::Activation),
            Some(TargetKind::None) => CamTarget::None,
        },
        basis: match arguments.cam_basis {
            BasisKind::Probability => Basis::Probability,
            BasisKind::Logit => Basis::Logit,
        },
        own_bias: arguments.conv_bias.map(|kind| kind == BiasKind::Own),
        force: arguments.force,
    };
    let report = prepare(&options, &mut |step| progress.show(words(step)))?;
    progress.done();
    print_report(&report, &output.display().to_string());
    pack_and_report(&output, &arguments.packing)?;
    Ok(ExitCode::SUCCESS)
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Read => "reading the model",
        Step::Probe => "learning its shapes",
        Step::Solve => "solving Grad-CAM",
        Step::Compare => "comparing with the original",
        Step::Write => "writing",
    }
}

fn print_report(report: &Report, folder: &str) {
    let card = &report.card;
    let input = &card.input;
    println!("{folder} is ready to serve as \"{}\"", card.name);
    println!(
        "  input    {} {}x{} {:?} {:?}",
        input.name, input.width, input.height, input.layout, input.dtype
    );
    println!("  scores   {} of {} classes", card.output.name, card.classes.len());
    match (&card.gradcam, &report.conv, &card.gradcam_missing) {
        (Some(map), Some((conv, channels)), _) => println!(
            "  grad-cam {} {}x{} of {channels} channels, from {conv} (target {:?}, basis {:?})",
            map.output, map.width, map.height, map.target, map.basis
        ),
        (_, _, Some(reason)) => println!("  grad-cam none: {reason}"),
        _ => {}
    }
    let (graph, weights) = report.bytes;
    println!(
        "  weights  {} parameters, {} bytes to map beside a graph of {graph} bytes",
        report.parameters, weights
    );
    for note in &report.notes {
        println!("  note     {note}");
    }
}
