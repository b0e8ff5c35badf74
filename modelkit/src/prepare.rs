//! `model prepare`: from an exported ONNX classifier to a folder that is ready to serve.
//!
//! Reads, checks, clears, adds the Grad-CAM output, runs the result once against the original, and
//! writes everything at once or nothing.

use std::path::PathBuf;

use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::{
    Activation, Basis, CARD_VERSION, Card, CardError, Class, Dtype, Form, GradCam, Input, Output,
    Target,
};
use thiserror::Error;

use crate::engine::{Engine, EngineError, Probe};
use crate::external::{self, GRAPH_FILE, WEIGHTS_FILE};
use crate::fold;
use crate::gradcam::{self, Wanted};
use crate::graph::Graph;
use crate::interface::{self, InterfaceError, Photo};
use crate::read::{ReadError, read};
use crate::scores::{self, Scores};
use crate::write::{Draft, WriteError};

/// Name of the card's file in a model's folder.
pub const CARD_FILE: &str = "card.json";

/// What `prepare` is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// The exported ONNX file.
    pub model: PathBuf,
    /// The folder to write; its last part is the model's name where `name` is empty.
    pub output: PathBuf,
    /// The classes, in the order of the scores; see [`crate::parse_labels`].
    pub classes: Vec<Class>,
    /// The name the model is asked for by.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// What every answer must carry.
    pub notice: String,
    /// SPDX expression of the weights' licence.
    pub license: String,
    /// Where the weights came from.
    pub source: String,
    /// Subtracted from each channel (R, G, B), in pixel units 0–255.
    pub mean: [f32; 3],
    /// Divides each channel afterwards, in pixel units.
    pub std: [f32; 3],
    /// Whether the served graph takes pixels as bytes and normalises them itself.
    pub input: Dtype,
    /// Width and height in pixels, for a model that leaves them open.
    pub size: Option<(u32, u32)>,
    /// Which output are the scores, for a model with several.
    pub scores: Option<String>,
    /// What turns logits into probabilities, where the graph does not say; softmax if `None`.
    pub activation: Option<Activation>,
    /// The feature map of the Grad-CAM.
    pub target: CamTarget,
    /// The score whose gradient is shown.
    pub basis: Basis,
    /// Whether the last convolution's bias is its own, and not what a folded batch norm left; the graph
    /// decides if `None`.
    pub own_bias: Option<bool>,
    /// Whether a folder that is there already is replaced.
    pub force: bool,
}

/// Which feature map Grad-CAM is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CamTarget {
    /// The last convolution where it can be solved, and the activation otherwise.
    #[default]
    Solvable,
    /// This one, or none.
    Only(Target),
    /// None: the model is served without heatmaps.
    None,
}

/// Why a model could not be prepared. Nothing is written then.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The ONNX file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its input or output.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// Running it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The scores have the wrong shape.
    #[error("output \"{name}\" has shape {shape:?}; scores are [1, classes]")]
    Scores {
        /// The output.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The labels do not fit the scores.
    #[error(
        "the model gives {scores} scores and the labels name {labels} classes; they must match"
    )]
    Labels {
        /// Scores of the model.
        scores: usize,
        /// Labels given.
        labels: usize,
    },
    /// The card.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The prepared graph computes something else than the original.
    #[error(
        "the prepared graph's scores differ from the original's by {difference:e}; this is a fault \
         of skincell, please report it with the model"
    )]
    Differs {
        /// Largest absolute difference of a score.
        difference: f32,
    },
    /// Laying out the files.
    #[error("the graph cannot be encoded: {0}")]
    Encode(String),
    /// Writing the folder.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What `prepare` is doing, for a progress display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Reading and checking the ONNX file.
    Read,
    /// Learning shapes by running it once.
    Probe,
    /// Building the Grad-CAM output.
    Solve,
    /// Comparing the prepared graph with the original.
    Compare,
    /// Writing the folder.
    Write,
}

/// What `prepare` did.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The card as written.
    pub card: Card,
    /// The last convolution and the channels of its map, where there is a Grad-CAM output.
    pub conv: Option<(String, usize)>,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of `model.onnx` and `model.onnx.data`.
    pub bytes: (u64, u64),
    /// What the reader of the terminal should know.
    pub notes: Vec<String>,
}

/// Prepares a model and writes its folder.
///
/// # Errors
/// [`PrepareError`]; nothing is written then.
pub fn prepare(
    options: &PrepareOptions,
    progress: &mut dyn FnMut(Step),
) -> Result<Report, PrepareError> {
    let draft = Draft::begin(&options.output, options.force)?;
    progress(Step::Read);
    let mut graph = read(&options.model)?;
    let mut notes = Vec::new();
    let chosen = interface::output(&mut graph, options.scores.as_deref())?;
    graph.drop_unused();
    let photo =
        Photo { dtype: options.input, mean: options.mean, std: options.std, size: options.size };
    let mut input = interface::input(&mut graph, &photo)?;
    fold::replace_unknown(&mut graph);
    let original = graph.clone();
    fold::drop_identities(&mut graph);
    let shifts = fold::fold_batch_norms(&mut graph);

    progress(Step::Probe);
    let shape = interface::shape_of(&input);
    let mut probe = Probe::new(&graph, &shape)?;
    let mut scores = scores::scores(&graph, &chosen);
    check_scores(&mut probe, &scores, options)?;
    if let (Form::Logits, Some(activation)) = (scores.form, options.activation) {
        scores.activation = activation;
    }

    progress(Step::Solve);
    let solved = match options.target {
        CamTarget::None => Err("the model was prepared without".to_owned()),
        CamTarget::Solvable => solve(&mut graph, &mut probe, &scores, &shifts, options, None)?,
        CamTarget::Only(target) => {
            solve(&mut graph, &mut probe, &scores, &shifts, options, Some(target))?
        }
    };
    graph.drop_unused();
    progress(Step::Compare);
    let difference = compare(&original, &graph, &shape, &scores)?;
    // Folding a batch norm rounds each weight once more; 1e-3 of a logit is far above that.
    if difference > 1e-3 {
        return Err(PrepareError::Differs { difference });
    }
    if options.input == Dtype::U8 {
        interface::take_bytes(&mut graph, &mut input);
    }
    let (gradcam, missing, conv) = match solved {
        Ok(added) => {
            notes.extend(added.note);
            (Some(added.card), None, Some((added.conv, added.channels)))
        }
        Err(why) => (None, Some(why), None),
    };
    let card = card(options, input, &scores, gradcam, missing);
    progress(Step::Write);
    let bytes = write(draft, &graph, &card)?;
    Ok(Report { parameters: graph.parameters(), card, conv, bytes, notes })
}

fn check_scores(
    probe: &mut Probe,
    scores: &Scores,
    options: &PrepareOptions,
) -> Result<(), PrepareError> {
    let shapes = probe.learn(&[scores.output.as_str(), scores.differentiated()])?;
    let shape = shapes.get(&scores.output).cloned().unwrap_or_default();
    let [1, count] = shape[..] else {
        return Err(PrepareError::Scores { name: scores.output.clone(), shape });
    };
    if count != options.classes.len() {
        return Err(PrepareError::Labels { scores: count, labels: options.classes.len() });
    }
    Ok(())
}

/// Adds the Grad-CAM output for the target asked for, or for the first that can be solved. The inner
/// error names the operator in the way.
fn solve(
    graph: &mut Graph,
    probe: &mut Probe,
    scores: &Scores,
    shifts: &fold::Shifts,
    options: &PrepareOptions,
    only: Option<Target>,
) -> Result<Result<gradcam::Added, String>, EngineError> {
    let tail = match gradcam::find(graph, probe, scores.differentiated())? {
        Ok(tail) => tail,
        Err(refusal) => return Ok(Err(refusal.to_string())),
    };
    let wanted = Wanted { target: only, basis: options.basis, own_bias: options.own_bias };
    let added = gradcam::add(graph, probe, scores, &tail, shifts, wanted)?;
    Ok(added.map_err(|refusal| refusal.to_string()))
}

/// Largest difference of a logit between two graphs, on one photo of fixed noise.
fn compare(
    original: &Graph,
    prepared: &Graph,
    shape: &[usize],
    scores: &Scores,
) -> Result<f32, EngineError> {
    let elements = shape.iter().product::<usize>();
    // A fixed linear congruential sequence (Numerical Recipes): the same noise in every run.
    let mut state = 1_u32;
    let noise: Vec<f32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
    .take(elements)
    .collect();
    let photo = Tensor::from_data(shape, noise);
    let run = |graph| Engine::load(graph)?.run(photo.view().into(), &[&scores.output]);
    let (before, after) = (run(original)?, run(prepared)?);
    let flat = |tensors: &[Tensor<f32>]| -> Vec<f32> {
        tensors.iter().flat_map(|t| t.iter().copied().collect::<Vec<_>>()).collect()
    };
    let pairs = flat(&before).into_iter().zip(flat(&after));
    Ok(pairs.map(|(a, b)| (a - b).abs() / a.abs().max(1.0)).fold(0.0, f32::max))
}

fn card(
    options: &PrepareOptions,
    input: Input,
    scores: &Scores,
    gradcam: Option<GradCam>,
    gradcam_missing: Option<String>,
) -> Card {
    let folder = options.output.file_name().map(|n| n.to_string_lossy().into_owned());
    let named = (!options.name.is_empty()).then(|| options.name.clone());
    Card {
        card_version: CARD_VERSION,
        name: named.or(folder).unwrap_or_default(),
        title: options.title.clone(),
        notice: options.notice.clone(),
        license: options.license.clone(),
        source: options.source.clone(),
        input,
        output: Output {
            name: scores.output.clone(),
            form: scores.form,
            activation: scores.activation,
        },
        gradcam,
        gradcam_missing,
        classes: options.classes.clone(),
    }
}

fn write(draft: Draft, graph: &Graph, card: &Card) -> Result<(u64, u64), PrepareError> {
    card.check()?;
    let files = external::lay_out(graph).map_err(|e| PrepareError::Encode(e.to_string()))?;
    draft.write(GRAPH_FILE, &files.graph)?;
    draft.write(WEIGHTS_FILE, &files.weights)?;
    draft.write(CARD_FILE, card.to_json()?.as_bytes())?;
    draft.publish()?;
    Ok((files.graph.len() as u64, files.weights.len() as u64))
}
