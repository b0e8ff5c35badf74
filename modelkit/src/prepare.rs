//! `model prepare`: makes a folder that is ready to serve from an exported ONNX classifier.
//!
//! Reads and simplifies the graph, determines what its scores are, adds the Grad-CAM output, compares the
//! result on photos with the original framework, adds the familiarity output if photos are given for it, and
//! writes the folder. On an error nothing is written. Conversion from Keras and PyTorch, packing and
//! quantizing are left to their own commands.

use std::path::Path;

use skincell_vision::card::{
    CARD_VERSION, Card, Class, Dtype, Fit, GradCam, Input, Output, is_model_name,
};

use crate::compare::{self, Comparison, Reference};
use crate::familiarity::{self, FamiliarityReport, FamiliarizeOptions};
use crate::fields;
use crate::gradcam::{self, Price};
use crate::interface::{self, InterfaceError, Photo};
use crate::onnx::engine::{EngineError, Probe};
use crate::onnx::external::{self, GRAPH_FILE, WEIGHTS_FILE};
use crate::onnx::graph::{Graph, op};
use crate::onnx::integer;
use crate::onnx::read::{read, refuse_nan, refuse_private};
use crate::onnx::single;
use crate::onnx::{
    branch, einsum, exact, expand, fixed, fold, fused, qoperator, settled, standardized,
    statistics, unknown, walk,
};
use crate::photos;
use crate::scores::{self, Settled};
use crate::warnings;
use crate::write::{Draft, name_of};

mod classes;
mod error;
mod maps;
mod options;
use classes::classes;
pub use error::PrepareError;
use maps::{Given, shown, solve, without_failing_maps};
pub use options::{CamTarget, PrepareOptions};

/// Most photos to compare on. Chosen: each is run by both graphs, which takes long with large models.
pub const COMPARED: usize = 16;

/// Name of the card's file in a model's folder.
pub const CARD_FILE: &str = "card.json";

/// The current step of `prepare`, for a progress display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading and checking the ONNX file.
    Read,
    /// Running the model to determine shapes and the kind of its scores.
    Probe,
    /// Building the Grad-CAM output.
    Solve,
    /// Comparing the prepared graph with the original.
    Compare,
    /// Fitting familiarity to photos: runs done, and all of them.
    Familiarize(usize, usize),
    /// Writing the folder.
    Write,
}

/// The result of `prepare`.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The card as written.
    pub card: Card,
    /// Name of the shown layer and its number of channels, if there is a Grad-CAM output.
    pub shown_layer: Option<(String, usize)>,
    /// The cost of the Grad-CAM output, if there is one.
    pub price: Option<Price>,
    /// How the probabilities are computed, as a text for users.
    pub probabilities: String,
    /// The comparison with the original.
    pub comparison: Comparison,
    /// Least, mean and largest element of the first photo's tensor, each by channel (R, G, B).
    pub seen: [[f32; 3]; 3],
    /// The familiarity output, if one was fitted.
    pub familiarity: Option<FamiliarityReport>,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of `model.onnx` and `model.onnx.data`.
    pub bytes: (u64, u64),
    /// Notes and warnings for users.
    pub notes: Vec<String>,
}

/// Prepares an ONNX model and writes its folder.
///
/// # Errors
/// [`PrepareError`]; then nothing is written.
pub fn prepare(
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Step),
) -> Result<Report, PrepareError> {
    prepare_from(options, None, progress)
}

/// Checks that a model may be written to `output` under `name`, or under the folder's own name if that is
/// empty, so that a mistake is found before the work. `force` allows that the folder exists.
///
/// # Errors
/// [`PrepareError::Name`], or [`PrepareError::Write`] if the folder exists or cannot be one.
pub fn check_target(output: &Path, name: &str, force: bool) -> Result<(), PrepareError> {
    begin(output, name, force).map(drop)
}

/// Begins to write a folder that [`check_target`] accepts.
fn begin(output: &Path, name: &str, force: bool) -> Result<Draft, PrepareError> {
    let draft = Draft::begin(output, force)?;
    let called = name_or_folder(name, output);
    if is_model_name(&called) {
        return Ok(draft);
    }
    let small = called.to_lowercase().replace(' ', "-");
    let advice = match (name.is_empty(), is_model_name(&small)) {
        (true, true) => format!("write -o {}", output.with_file_name(small).display()),
        (true, false) => "give the folder of -o such a name".to_owned(),
        (false, true) => format!("write --name {small}"),
        (false, false) => "give --name such a name".to_owned(),
    };
    Err(PrepareError::Name { name: called, advice })
}

/// The model's name: the one that was given, or its folder's.
fn name_or_folder(name: &str, output: &Path) -> String {
    if name.is_empty() { name_of(output) } else { name.to_owned() }
}

/// As [`prepare`], compared with the framework that exported the model.
///
/// In order: read and rewrite the file; score the photos with that graph; build the Grad-CAM output;
/// remove it again if no engine computes it; compare; open further inputs; fit familiarity; write. With
/// further inputs (`options.defaults`) the graph is built a second time with other values, the twin: if both
/// graphs are otherwise equal, these inputs may be set by requests.
///
/// # Errors
/// [`PrepareError`]; then nothing is written.
pub fn prepare_from(
    options: &PrepareOptions,
    reference: Option<&mut dyn Reference>,
    progress: &mut dyn FnMut(Step),
) -> Result<Report, PrepareError> {
    let draft = begin(&options.output, &options.name, options.force)?;
    progress(Step::Read);
    let Loaded { graph, mut input, batch, classes, chosen, mut assumed, takes_bytes } =
        load(options)?;
    let mut notes = Vec::new();
    let samples = photos::samples(&photos::some(&options.photos, COMPARED)?, &input)?;
    let original = compare::original(&graph, &chosen, &samples).map_err(|e| of_batch(e, batch))?;
    let defaults = (input.name.as_str(), &options.defaults[..]);
    let expected = compare::expected(reference, &chosen, &original, &samples, defaults)?;
    let twin = (!options.defaults.is_empty())
        .then(|| fields::with_other_numbers(&graph, &options.defaults));
    let numbers = (&original[..], &samples[..]);
    let known = With::of(&input, &chosen, numbers, classes.len());
    let Built { mut graph, settled, maps } = build(graph, &known, options, progress)?;
    let mut twin =
        twin.map(|twin| build(twin, &known, options, &mut |_| {}).map(|built| built.graph));
    let scores = &settled.scores;
    progress(Step::Compare);
    let other = twin.as_mut().and_then(|twin| twin.as_mut().ok());
    let maps = without_failing_maps(maps, &mut graph, other, (&samples, options))?;
    let output =
        Output { name: scores.output.clone(), form: scores.form, activation: scores.activation };
    let allowed = options.max_difference.unwrap_or(MAX_DIFFERENCE);
    let comparison =
        compare::compare(&graph, &output, &samples, expected, &settled.reading, allowed)?;
    notes.extend(warnings::of(&graph, &input, &samples, &comparison)?);
    let seen = warnings::seen(&input, &samples);
    let mut fields = fields::opened_or_noted(&mut graph, twin, &options.defaults, &mut notes);
    let asked = maps.as_ref().ok().and_then(|added| added.card.asked());
    fields.extend(asked.and_then(|name| fields::open(&mut graph, name)));
    let usual = if takes_bytes { Dtype::U8 } else { Dtype::F32 };
    if options.input.unwrap_or(usual) == Dtype::U8 {
        interface::take_bytes(&mut graph, &mut input);
    }
    let price = maps.as_ref().ok().map(|added| added.price);
    let (gradcam, missing, shown_layer) = shown(maps, &mut notes);
    if settled.assumed {
        assumed.push("activation".to_owned());
    }
    let mut card =
        Card { assumed, fields, ..card(options, classes, input, output, gradcam, missing) };
    let show = &mut |done, all| progress(Step::Familiarize(done, all));
    let (photos, basis) = (&options.photos[..], &*options.photos_basis);
    let fit = FamiliarizeOptions { photos, basis, replace: true };
    let familiarity = familiarity::add_or_note(&mut graph, &mut card, &fit, &mut notes, show)?;
    progress(Step::Write);
    let bytes = write(draft, &graph, &card)?;
    Ok(Report {
        parameters: graph.parameters(),
        card,
        shown_layer,
        price,
        probabilities: settled.how,
        comparison,
        seen,
        familiarity,
        bytes,
        notes,
    })
}

/// In a transformer, computes only the tokens that the differentiated `scores` depend on
/// (`gradcam::pull_up`); other graphs stay as they are.
fn narrow(graph: &mut Graph, photo: &[usize], scores: &str) -> Result<(), EngineError> {
    let mut probe = Probe::new(graph, photo)?;
    let mut shapes = probe.learn_made(&graph.nodes)?.clone();
    gradcam::pull_up(graph, &mut shapes, scores);
    Ok(())
}

/// The inputs of [`build`] besides the graph.
struct With<'a> {
    input: &'a Input,
    chosen: &'a str,
    original: &'a [Vec<f32>],
    samples: &'a compare::Samples,
    classes: usize,
}

impl<'a> With<'a> {
    /// From the photo input, the name of the scores, their values on the samples, and the number of classes.
    fn of(
        input: &'a Input,
        chosen: &'a str,
        (original, samples): (&'a [Vec<f32>], &'a compare::Samples),
        classes: usize,
    ) -> Self {
        Self { input, chosen, original, samples, classes }
    }
}

/// A graph whose kind of scores is known, with its Grad-CAM output or the reason why it has none.
struct Built {
    graph: Graph,
    settled: Settled,
    maps: Result<gradcam::Added, String>,
}

fn build(
    mut graph: Graph,
    with: &With<'_>,
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Step),
) -> Result<Built, PrepareError> {
    fold::drop_identities(&mut graph);
    settled::settle(&mut graph, 0);
    let mut shifts = fold::fold_batch_norms(&mut graph);
    progress(Step::Probe);
    let shape = interface::shape_of(with.input);
    let probe = Probe::new(&graph, &shape)?;
    fixed::fix_shapes(&mut graph, &probe)?;
    if branch::take_known(&mut graph) {
        fold::drop_identities(&mut graph);
        shifts.extend(fold::fold_batch_norms(&mut graph));
        graph.drop_unused();
    }
    let mut probe = Probe::new(&graph, &shape)?;
    if graph.nodes.iter().any(|node| op(node) == "Einsum") {
        let shapes = probe.learn_made(&graph.nodes)?;
        einsum::expand(&mut graph, shapes);
        fold::drop_identities(&mut graph);
        probe = Probe::new(&graph, &shape)?;
    }
    if expand::has_any(&graph) || statistics::has_any(&graph) {
        let shapes = probe.learn_made(&graph.nodes)?;
        expand::drop_needless(&mut graph, shapes);
        statistics::write_out(&mut graph, shapes);
        probe = Probe::new(&graph, &shape)?;
    }
    let (chosen, original, said) = (with.chosen, with.original, options.activation);
    let settled = scores::settle(&mut graph, &mut probe, chosen, original, with.classes, said)?;
    narrow(&mut graph, &shape, settled.scores.differentiated())?;
    settled::settle(&mut graph, 0);
    let mut probe = Probe::new(&graph, &shape)?;
    progress(Step::Solve);
    let (scores, input, samples) = (&settled.scores, with.input, with.samples);
    let given = Given { scores, shifts: &shifts, input, options, samples };
    let integers = gradcam::as_values(&mut graph);
    let maps = solve(&mut graph, &mut probe, &given)?;
    if let Some(integers) = integers {
        integers.put_back(&mut graph);
    }
    graph.drop_unused();
    Ok(Built { graph, settled, maps })
}

/// A model that was read, with its photo input and its scores.
struct Loaded {
    graph: Graph,
    input: Input,
    /// Number of photos that the file takes at once, if it is fixed.
    batch: Option<usize>,
    classes: Vec<Class>,
    /// Name of the value that holds the scores in the file.
    chosen: String,
    /// Names of settings that were assumed.
    assumed: Vec<String>,
    /// Whether the model takes the photo as bytes.
    takes_bytes: bool,
}

fn load(options: &PrepareOptions) -> Result<Loaded, PrepareError> {
    let mut graph = read(&options.model)?;
    let classes = classes(options, &graph)?;
    let chosen = interface::output(&mut graph, options.scores.as_deref())?;
    graph.drop_unused();
    qoperator::write_as_qdq(&mut graph);
    refuse_private(&graph)?;
    fold::drop_identities(&mut graph);
    settled::settle(&mut graph, 0);
    standardized::settle(&mut graph);
    exact::refuse_other(&graph)?;
    single::convert(&mut graph);
    let takes_bytes = interface::bytes_to_float(&mut graph);
    let batch = graph.inputs.first().and_then(|photo| interface::dimensions(photo).first()?.1);
    let mut input = interface::input_of(&mut graph, &photo(options), &options.defaults)?;
    if takes_bytes && (input.mean, input.std) != ([0.0; 3], [1.0; 3]) {
        return Err(InterfaceError::Bytes { name: input.name }.into());
    }
    let squashed = input.resize.fit == Fit::Stretch && options.crop_ratio < 1.0;
    if input.resize.fit == Fit::Crop || squashed {
        let side = f64::from(input.width.max(input.height)) / options.crop_ratio;
        // timm and torchvision: floor(224 / 0.875) = 256.
        input.resize.shortest.get_or_insert(side.floor() as u32);
    }
    input.check()?;
    fold::drop_identities(&mut graph);
    fused::split(&mut graph);
    unknown::replace(&mut graph);
    integer::widen(&mut graph);
    let shape = interface::shape_of(&input);
    walk::refuse_large(&graph, &shape).map_err(|error| of_batch(error, batch))?;
    exact::rewrite(&mut graph, &shape)??;
    let mut assumed = options.assumed.clone();
    assumed.retain(|part| part != "range" || !takes_bytes);
    Ok(Loaded { graph, input, batch, classes, chosen, assumed, takes_bytes })
}

fn of_batch(error: EngineError, batch: Option<usize>) -> PrepareError {
    match batch {
        Some(batch) if batch > 1 => PrepareError::Batch { batch, error },
        _ => error.into(),
    }
}

/// Default of the largest accepted difference of a probability. Chosen, not measured: 0.01 points.
const MAX_DIFFERENCE: f64 = 1e-4;

fn photo(options: &PrepareOptions) -> Photo {
    Photo {
        mean: options.mean,
        std: options.std,
        order: options.order,
        resize: options.resize,
        layout: options.layout,
        size: options.size,
    }
}

fn card(
    options: &PrepareOptions,
    classes: Vec<Class>,
    input: Input,
    output: Output,
    gradcam: Option<GradCam>,
    gradcam_missing: Option<String>,
) -> Card {
    Card {
        card_version: CARD_VERSION,
        name: name_or_folder(&options.name, &options.output),
        title: options.title.clone(),
        notice: options.notice.clone(),
        license: options.license.clone(),
        source: options.source.clone(),
        input,
        fields: Vec::new(),
        output,
        gradcam,
        gradcam_missing,
        familiarity: None,
        calibration: None,
        on_device: options.on_device,
        assumed: Vec::new(),
        classes,
    }
}

fn write(draft: Draft, graph: &Graph, card: &Card) -> Result<(u64, u64), PrepareError> {
    card.check()?;
    // Folding makes NaN of a batch norm with a negative variance.
    refuse_nan(graph)?;
    let files = external::lay_out(graph).map_err(|e| PrepareError::Encode(e.to_string()))?;
    draft.write(GRAPH_FILE, &files.graph)?;
    draft.write(WEIGHTS_FILE, &files.weights)?;
    draft.write(CARD_FILE, card.to_json()?.as_bytes())?;
    draft.publish()?;
    Ok((files.graph.len() as u64, files.weights.len() as u64))
}
