//! `skincell model prepare`: turns a trained classifier into a folder that can be served.

use crate::output::out;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, ValueEnum};
use skincell_modelkit::export::{Exported, export};
use skincell_modelkit::preprocess::Preprocess;
use skincell_modelkit::source::{self, Source};
use skincell_modelkit::{
    COMPARED, CamTarget, PrepareOptions, Reference, SaidActivation, Step, check_target,
    decode_labels, parse_labels, photos, prepare_from,
};
use skincell_vision::card::{Basis, Class, Dtype, Layout, Target};

use super::prepare_report::{can_be_written, preview, report_text};
use super::preprocess_flags::PreprocessFlags;
use super::progress::Progress;
use crate::pack::{PackFlags, pack_shown_as};

const PREPARE_HELP: &str = "\
What it does:
  The exported graph is checked and simplified. A second output with the Grad-CAM maps of all
  classes is added; where all would cost too much, of the ten likeliest and one that a request asks
  for. The weights are written to a separate file, so that a server can map them instead of copying
  them. The result is a folder with model.onnx, model.onnx.data and card.json, and model.cell if
  the engine cellnet supports the graph and gives the same answers.

Example, a Keras EfficientNetV2, which normalises inside the model:
  skincell model prepare dermatology.keras --labels labels.txt -o models/skin --force

Example, a PyTorch export with torchvision's preprocessing:
  skincell model prepare raw.onnx --labels labels.txt -o models/skin --preprocess torch \\
      --notice \"Not a medical device.\"

Example, a model with one score, the probability of the second label:
  skincell model prepare mole.onnx --labels benign,malignant -o models/mole

The result is compared with the original framework on photos (--photos, or else three drawings),
and refused if a probability differs by more than --max-difference.

To a folder given with --photos (at least 35 pictures of the kind the model is used for), the
output `familiarity` is fitted, which tells photos of other kinds; if its subfolders are named as
the classes, the probabilities are calibrated too. See `skincell model familiarize --help`.

Labels are lines of text (optionally followed by a tab and a display name), CSV or JSON, in the
order of the model's scores:
  Heathy<TAB>Healthy";

/// Arguments of `skincell model prepare`.
#[derive(Debug, Args)]
#[command(after_help = PREPARE_HELP)]
pub(crate) struct PrepareArguments {
    /// The classifier: an ONNX file (with or without weights in files beside it), a Keras model (.keras,
    /// .h5, a SavedModel folder), or a PyTorch program (.pt2, .pt)
    pub(super) model: PathBuf,
    /// The folder to write; its last component is the model's name
    #[arg(short, long, value_name = "FOLDER")]
    output: PathBuf,
    /// Replace the folder if it exists
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    flags: PrepareFlags,
}

/// The flags that determine a prepared model; shared with `skincell serve`.
#[derive(Debug, Clone, PartialEq, Args)]
pub(crate) struct PrepareFlags {
    /// The classes in the order of the scores: a file (text, CSV, JSON), or a list such as benign,malignant
    /// [default: the names in the model or in a file beside it]
    #[arg(long, value_name = "FILE|A,B,C")]
    pub(crate) labels: Option<String>,
    /// The model's name in requests, if it is not the folder's
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// A one-line description of the model
    #[arg(long, default_value = "", hide_default_value = true)]
    title: String,
    /// A notice included in every answer, such as "Not a medical device."
    #[arg(long, default_value = "", hide_default_value = true)]
    notice: String,
    /// Let browsers load the model, to run it on the user's own device; only if its licence lets you give
    /// it away
    #[arg(long)]
    on_device: bool,
    /// SPDX expression of the weights' licence
    #[arg(long, default_value = "", hide_default_value = true)]
    license: String,
    /// The source of the weights
    #[arg(long, default_value = "", hide_default_value = true)]
    source: String,
    #[command(flatten)]
    preprocess: PreprocessFlags,
    /// The model's input: float32 normalised by the server, or bytes normalised in the graph; if left out,
    /// bytes for a model that takes bytes, and else float32
    #[arg(long, value_enum)]
    input: Option<InputKind>,
    /// The input size, for a model with variable input size
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Order of the input's axes, if the graph does not show it
    #[arg(long, value_enum)]
    layout: Option<LayoutKind>,
    /// The output with the scores, for a model with several; may be any tensor of the graph
    #[arg(long = "scores", value_name = "NAME")]
    scores: Option<String>,
    /// The activation that turns scores into probabilities: softmax or sigmoid of logits, log-softmax for
    /// logarithms of probabilities, none for probabilities [default: inferred from the graph and its
    /// scores]
    #[arg(long, value_enum)]
    activation: Option<ActivationKind>,
    /// Numbers for an input other than the photo, such as an age, used unless the request's `fields` set it;
    /// may be given several times
    #[arg(long, value_name = "NAME=VALUE[,VALUE...]", value_parser = parse_default)]
    input_default: Vec<(String, Vec<f32>)>,
    /// Largest accepted difference of a probability (0 to 1) from the original framework
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 1e-4, value_parser = parse_difference)]
    max_difference: f64,
    /// Write the first photo as the model sees it to this PNG
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// The feature map for Grad-CAM: the last convolution's output, the activation after it, or no heatmap
    /// [default: conv if its bias is known and only it is pooled, else activation]
    #[arg(long, value_enum)]
    cam_target: Option<TargetKind>,
    /// The layer or node whose map Grad-CAM shows, by its name in PyTorch, Keras or the ONNX file, such as
    /// features.29 or blocks.11.norm1 [default: the last map on all paths to the scores]
    #[arg(long, value_name = "NAME", conflicts_with = "cam_target")]
    cam_layer: Option<String>,
    /// The value whose gradient Grad-CAM shows: the class's probability, or its score before softmax
    #[arg(long, value_enum, default_value_t = BasisKind::Probability)]
    cam_basis: BasisKind,
    /// Whether the last convolution's bias is its own or comes from a folded batch norm [default: as the
    /// file says; if it does not, the activation is used, which is correct in both cases]
    #[arg(long, value_enum)]
    conv_bias: Option<BiasKind>,
    /// The Python that exports a Keras or PyTorch model, with that framework installed [default: the python3
    /// beside this program, as in a virtual environment, else the one in PATH]
    #[arg(long, value_name = "PYTHON", env = "SKINCELL_PYTHON")]
    python: Option<PathBuf>,
    #[command(flatten)]
    packing: PackFlags,
    /// The photos in the folders of --photos in words, for answers about familiarity [default: their number]
    #[arg(long, default_value = "", hide_default_value = true)]
    basis: String,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum InputKind {
    F32,
    U8,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum ActivationKind {
    Softmax,
    Sigmoid,
    LogSoftmax,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum LayoutKind {
    Nchw,
    Nhwc,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum TargetKind {
    Conv,
    Activation,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum BasisKind {
    Probability,
    Logit,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
enum BiasKind {
    Folded,
    Own,
}

fn parse_difference(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is not valid; give a number from 0 to 1, such as 1e-4");
    text.parse().ok().filter(|difference| (0.0..=1.0).contains(difference)).ok_or_else(wrong)
}

fn parse_default(text: &str) -> Result<(String, Vec<f32>), String> {
    let expected = "write NAME=VALUE[,VALUE...], such as age=54";
    let (name, values) = text.split_once('=').ok_or(expected)?;
    let values: Result<Vec<f32>, _> = values.split(',').map(|v| v.trim().parse::<f32>()).collect();
    let values = values.map_err(|error| format!("{error}; {expected}"))?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(format!("a value is not finite; {expected}"));
    }
    Ok((name.to_owned(), values))
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("{text:?} is not a size; write WIDTHxHEIGHT, such as 300x300");
    let (width, height) = text.split_once('x').ok_or_else(wrong)?;
    let side = |side: &str| side.parse::<u32>().map_err(|_| wrong());
    Ok((side(width)?, side(height)?))
}

/// The Python to run if none is named: the one beside this program, as in a virtual environment, else the one
/// in PATH.
pub(crate) fn python() -> PathBuf {
    const NAME: &str = "python3";
    let beside = std::env::current_exe().map(|program| program.with_file_name(NAME));
    beside.ok().filter(|python| python.is_file()).unwrap_or_else(|| NAME.into())
}

impl PrepareFlags {
    /// Whether a flag differs from its default. The Python does not count: a variable may name it.
    ///
    /// # Errors
    /// Never; an error would mean that a flag is required.
    pub(crate) fn are_given(&self) -> anyhow::Result<bool> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            flags: PrepareFlags,
        }
        let defaults = Alone::try_parse_from(["skincell"])?.flags;
        Ok(Self { python: None, ..self.clone() } != Self { python: None, ..defaults })
    }
}

/// Runs `model prepare`.
///
/// # Errors
/// The labels, the model or the folder are not usable.
pub(super) fn run(arguments: &PrepareArguments) -> anyhow::Result<ExitCode> {
    let output = &arguments.output;
    let tell = |text: &str| out!("{text}");
    let scratch = std::env::temp_dir();
    let place = Place { output, shown: output, scratch: &scratch, force: arguments.force };
    prepare(&arguments.model, &place, &arguments.flags, tell)?;
    Ok(ExitCode::SUCCESS)
}

/// Where a model is prepared.
pub(crate) struct Place<'a> {
    /// The prepared folder.
    pub(crate) output: &'a Path,
    /// What the folder is called in the report.
    pub(crate) shown: &'a Path,
    /// Where the exported model lies meanwhile, in a folder of its own.
    pub(crate) scratch: &'a Path,
    /// Whether `output` may exist and is then replaced.
    pub(crate) force: bool,
}

/// Prepares and packs `model`. Shows progress and tells the report.
///
/// # Errors
/// The labels, the model or the folder are not usable.
pub(crate) fn prepare(
    model: &Path,
    place: &Place<'_>,
    flags: &PrepareFlags,
    tell: impl Fn(&str),
) -> anyhow::Result<()> {
    let &Place { output, shown, scratch, force } = place;
    check_target(output, &flags.name, force)?;
    if !flags.basis.is_empty() && flags.packing.photos.is_empty() {
        bail!("--basis names the photos of --photos in words: give both, or neither");
    }
    let Source { path, framework } = source::find(model)?;
    if path != model {
        tell(&format!("the model is {}\n", path.display()));
    }
    let (classes, found) = labels(flags.labels.as_deref(), &path)?;
    flags.preview.as_deref().map_or(Ok(()), can_be_written)?;
    let progress = Progress::new();
    let mut exported = match framework {
        None => None,
        Some(framework) => {
            progress.show(&format!("exporting with {}", framework.name()));
            let python = flags.python.clone().unwrap_or_else(python);
            Some(export(model, framework, &python, flags.size, scratch)?)
        }
    };
    let recognised = exported.as_ref().and_then(Exported::convention);
    let (parts, sources) = flags.preprocess.parts(&path, recognised);
    if let Some(found) = found {
        tell(&format!("labels are read from {}, found beside the model\n", found.display()));
    }
    let graph = exported.as_ref().map_or(path, Exported::path);
    let options = PrepareOptions {
        output: output.to_owned(),
        force,
        ..options(flags, graph, classes, parts)
    };
    let reference = exported.as_mut().map(|exported| exported as &mut dyn Reference);
    let report = prepare_from(&options, reference, &mut |step| match step {
        Step::Familiarize(done, total) => progress.show_part(words(step), done, total),
        _ => progress.show(words(step)),
    })?;
    progress.done();
    tell(&report_text(&report, &shown.display().to_string(), &sources));
    let photos = photos::some(&flags.packing.photos, COMPARED)?;
    pack_shown_as(output, shown, &PackFlags { photos, ..flags.packing.clone() })?;
    // Last, because the folder is whole even if the picture cannot be written.
    if let Some(file) = &flags.preview {
        tell(&preview(file, &photos::some(&options.photos, 1)?, &report.card.input)?);
    }
    Ok(())
}

/// Everything besides the model file that determines the prepared folder, as text: two equal texts mean
/// equal folders. Photos count by path, size and time of change.
///
/// # Errors
/// The labels or photos cannot be read.
pub(crate) fn fingerprint(model: &Path, flags: &PrepareFlags) -> anyhow::Result<String> {
    let (classes, _) = labels(flags.labels.as_deref(), model)?;
    let (parts, _) = flags.preprocess.parts(model, None);
    let stamp = |path: PathBuf| -> anyhow::Result<_> {
        let data = std::fs::metadata(&path).with_context(|| path.display().to_string())?;
        Ok((path, data.len(), data.modified()?))
    };
    let photos = photos::some(&flags.packing.photos, usize::MAX)?.into_iter().map(stamp);
    let photos = photos.collect::<anyhow::Result<Vec<_>>>()?;
    // The first two do not change the folder, and the labels are in `classes`.
    let rest = PrepareFlags { python: None, preview: None, labels: None, ..flags.clone() };
    Ok(format!("{classes:?}\n{parts:?}\n{photos:?}\n{rest:?}"))
}

/// The flags as options of the library.
fn options(
    flags: &PrepareFlags,
    model: PathBuf,
    classes: Vec<Class>,
    parts: Preprocess,
) -> PrepareOptions {
    PrepareOptions {
        model,
        classes,
        name: flags.name.clone(),
        title: flags.title.clone(),
        notice: flags.notice.clone(),
        on_device: flags.on_device,
        license: flags.license.clone(),
        source: flags.source.clone(),
        mean: parts.mean.unwrap_or([0.0; 3]),
        std: parts.std.unwrap_or([1.0; 3]),
        order: parts.order.unwrap_or_default(),
        resize: parts.resize(),
        crop_ratio: parts.crop_ratio.unwrap_or(1.0),
        layout: flags.layout.map(|layout| match layout {
            LayoutKind::Nchw => Layout::Nchw,
            LayoutKind::Nhwc => Layout::Nhwc,
        }),
        assumed: parts.assumed(),
        defaults: flags.input_default.clone(),
        photos: flags.packing.photos.clone(),
        photos_basis: flags.basis.clone(),
        max_difference: Some(flags.max_difference),
        input: flags.input.map(|kind| match kind {
            InputKind::F32 => Dtype::F32,
            InputKind::U8 => Dtype::U8,
        }),
        size: flags.size,
        scores: flags.scores.clone(),
        activation: flags.activation.map(|a| match a {
            ActivationKind::Softmax => SaidActivation::Softmax,
            ActivationKind::Sigmoid => SaidActivation::Sigmoid,
            ActivationKind::LogSoftmax => SaidActivation::LogSoftmax,
            ActivationKind::None => SaidActivation::None,
        }),
        target: match flags.cam_target {
            None => CamTarget::Solvable,
            Some(TargetKind::Conv) => CamTarget::Only(Target::Conv),
            Some(TargetKind::Activation) => CamTarget::Only(Target::Activation),
            Some(TargetKind::None) => CamTarget::None,
        },
        layer: flags.cam_layer.clone(),
        basis: match flags.cam_basis {
            BasisKind::Probability => Basis::Probability,
            BasisKind::Logit => Basis::Logit,
        },
        own_bias: flags.conv_bias.map(|kind| kind == BiasKind::Own),
        ..PrepareOptions::default()
    }
}

/// Files with class names that tools write beside a model.
const BESIDE: [&str; 6] = [
    "labels.txt",
    "class_names.txt",
    "class_indices.json",
    "class_names.json",
    "labels.json",
    "config.json",
];

/// The classes from a file, a list, or a file beside the model, which is returned too. Empty if the model
/// itself may name them.
fn labels(given: Option<&str>, model: &Path) -> anyhow::Result<(Vec<Class>, Option<PathBuf>)> {
    let read = |path: &Path| -> anyhow::Result<Vec<Class>> {
        let bytes = std::fs::read(path).with_context(|| format!("labels {}", path.display()))?;
        if path.extension().is_some_and(|end| ["yaml", "yml", "pbtxt"].iter().any(|e| end == *e)) {
            anyhow::bail!(
                "labels {}: this form is not read; write the names into a text file, one per line in the \
                 order of the scores",
                path.display()
            );
        }
        let text = decode_labels(&bytes).with_context(|| format!("labels {}", path.display()))?;
        parse_labels(&text).with_context(|| format!("labels {}", path.display()))
    };
    let Some(given) = given else {
        let folder = if model.is_dir() { Some(model) } else { model.parent() };
        let found = BESIDE.iter().filter_map(|name| Some(folder?.join(name))).find(|file| {
            // A config.json without classes is not a list of labels.
            let is_config = file.file_name().is_some_and(|name| name == "config.json");
            file.is_file() && (!is_config || read(file).is_ok())
        });
        let Some(found) = found else { return Ok((Vec::new(), None)) };
        return Ok((read(&found)?, Some(found)));
    };
    let path = Path::new(given);
    if !path.exists() && given.contains(',') {
        let classes = parse_labels(&given.replace(',', "\n")).context("--labels")?;
        return Ok((classes, None));
    }
    if !path.exists() {
        bail!(
            "--labels {given}: there is no such file; write several labels with commas, such as \
             benign,malignant, and a single one with a comma after it: --labels {given},"
        );
    }
    let classes = read(path)?;
    if classes.is_empty() {
        bail!("labels {given}: the file has no classes");
    }
    Ok((classes, None))
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Read => "reading the model",
        Step::Probe => "learning its shapes",
        Step::Solve => "solving Grad-CAM",
        Step::Compare => "comparing with the original",
        Step::Familiarize(..) => "running the photos",
        Step::Write => "writing",
    }
}
