//! Runs a model folder as a server does, from one photo's tensor to scores and Grad-CAM maps.
//!
//! `check`, `measure` and `quantize` examine served models, so they use the server's engines, which the
//! caller passes in. Computing probabilities and heatmaps from the result is left to the callers.

use std::fmt;
use std::path::{Path, PathBuf};

use skincell_engines::{Dtype, Engine, LoadError, Model, RunError, Source, Tensor};
use skincell_onnx::regular;
use skincell_vision::card::{self, Card, CardError, GradCam, MapClasses};
use skincell_vision::gradcam::{Cam, GradCamError};
use skincell_vision::rank::RankError;
use skincell_vision::tensor;
use thiserror::Error;

use crate::prepare::CARD_FILE;

/// Why a folder cannot be run.
#[derive(Debug, Error)]
pub enum ServedError {
    /// A file is missing or cannot be read.
    #[error("{path}: {error}; `skincell model prepare` makes a whole folder", path = path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The reason.
        error: std::io::Error,
    },
    /// The card is not valid.
    #[error("{path}: {error}", path = path.display())]
    Card {
        /// Path of the card.
        path: PathBuf,
        /// The reason.
        error: CardError,
    },
    /// None of the engines supports the folder.
    #[error(
        "{folder} has no model file for any of these engines: {engines}; `skincell model \
         prepare` makes a whole folder, `skincell model pack` adds model.cell",
        folder = folder.display()
    )]
    NoEngine {
        /// The folder.
        folder: PathBuf,
        /// Names of the engines.
        engines: String,
    },
    /// The engine cannot load the model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine fails on a photo.
    #[error("{engine} cannot run the model: {error}")]
    Run {
        /// Name of the engine.
        engine: &'static str,
        /// The reason.
        error: RunError,
    },
    /// The graph lacks an output named in the card, or its elements are no floats.
    #[error(
        "the card names the output \"{name}\", but {engine} finds {found}; prepare the model again"
    )]
    Output {
        /// Name of the engine.
        engine: &'static str,
        /// The output's name in the card.
        name: String,
        /// Names of the outputs that exist.
        found: String,
    },
    /// The model has another number of scores than the card has classes.
    #[error(
        "{engine} returns {found} scores, but the card has {classes} classes; prepare the model again"
    )]
    Classes {
        /// Name of the engine.
        engine: &'static str,
        /// Number of scores.
        found: usize,
        /// Number of the card's classes.
        classes: usize,
    },
    /// A heatmap cannot be computed.
    #[error("{engine} on {photo}: {error}")]
    Maps {
        /// Name of the engine.
        engine: &'static str,
        /// Path or name of the photo.
        photo: String,
        /// The reason.
        error: GradCamError,
    },
    /// The scores cannot become probabilities.
    #[error("{engine} returns invalid scores: {error}")]
    Scores {
        /// Name of the engine.
        engine: &'static str,
        /// The reason.
        error: RankError,
    },
}

/// Outputs of a model for one photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// `[classes]`, the graph's output: logits or probabilities.
    pub scores: Vec<f32>,
    /// The Grad-CAM maps, if the card has an output for them.
    pub cam: Option<Cam>,
    /// The familiarity score, if the card has an output for it.
    pub familiarity: Option<f32>,
}

/// A folder's card, and its model loaded by an engine.
pub struct Served {
    card: Card,
    engine: &'static str,
    model: Box<dyn Model>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served")
            .field("name", &self.card.name)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

/// Reads a folder's card.
///
/// # Errors
/// [`ServedError::File`] if it cannot be read, [`ServedError::Card`] if it is not valid.
pub fn read_card(folder: &Path) -> Result<Card, ServedError> {
    let path = folder.join(CARD_FILE);
    let bytes =
        regular::read(&path).map_err(|error| ServedError::File { path: path.clone(), error })?;
    Card::parse(&bytes).map_err(|error| ServedError::Card { path, error })
}

/// The first of the engines that supports the folder: the one that would serve it.
///
/// # Errors
/// [`ServedError::NoEngine`] if none does.
pub fn server<'e>(
    engines: &'e [Box<dyn Engine>],
    folder: &Path,
) -> Result<&'e dyn Engine, ServedError> {
    let mut all = engines.iter().map(AsRef::as_ref);
    all.find(|engine| engine.takes(&Source::Folder(folder))).ok_or_else(|| ServedError::NoEngine {
        folder: folder.to_owned(),
        engines: engines.iter().map(|engine| engine.name()).collect::<Vec<_>>().join(", "),
    })
}

/// All of the engines that support the folder, in their order.
///
/// # Errors
/// [`ServedError::NoEngine`] if none does.
pub fn takers<'e>(
    engines: &'e [Box<dyn Engine>],
    folder: &Path,
) -> Result<Vec<&'e dyn Engine>, ServedError> {
    server(engines, folder)?;
    let all = engines.iter().map(AsRef::as_ref);
    let source = Source::Folder(folder);
    Ok(all.filter(|engine: &&dyn Engine| engine.takes(&source)).collect())
}

impl Served {
    /// Loads a folder into an engine.
    ///
    /// # Errors
    /// [`ServedError`] if the card is missing or invalid, or the engine cannot load the model.
    pub fn open(folder: &Path, engine: &dyn Engine) -> Result<Self, ServedError> {
        Self::with_card(read_card(folder)?, folder, engine)
    }

    /// As [`Served::open`], with a card that does not lie in the folder.
    pub(crate) fn with_card(
        card: Card,
        folder: &Path,
        engine: &dyn Engine,
    ) -> Result<Self, ServedError> {
        let model = engine.load(Source::Folder(folder))?;
        Ok(Self { card, engine: engine.name(), model })
    }

    /// The model's card.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Name of the engine that runs it.
    #[must_use]
    pub fn engine(&self) -> &'static str {
        self.engine
    }

    /// Runs the tensor of one photo, made by `skincell_vision::tensor::from_photo`. Fields have their
    /// defaults.
    ///
    /// # Errors
    /// [`ServedError`] if the engine fails or an output named in the card is missing.
    pub fn run(&self, photo: &tensor::PhotoTensor) -> Result<Outcome, ServedError> {
        self.run_for(photo, None)
    }

    /// Runs one photo's tensor, with a map of `class` where only the likeliest classes have maps.
    ///
    /// # Errors
    /// As [`Served::run`].
    pub fn run_for(
        &self,
        photo: &tensor::PhotoTensor,
        class: Option<usize>,
    ) -> Result<Outcome, ServedError> {
        let engine = self.engine;
        let asked = self.card.gradcam.as_ref().and_then(GradCam::asked).zip(class);
        let mut inputs = vec![(self.card.input.name.clone(), for_engine(photo))];
        inputs.extend(self.card.fields.iter().map(|field| {
            let numbers = match asked {
                Some((name, class)) if name == field.name => &[class as f32][..],
                _ => &field.default,
            };
            let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            (field.name.clone(), Tensor::new(field.shape.clone(), Dtype::F32, bytes))
        }));
        let outputs = self.model.run(&inputs);
        let outputs = outputs.map_err(|error| ServedError::Run { engine, error })?;
        let named = |name: &str| {
            let (_, tensor) = outputs.iter().find(|(output, _)| output == name)?;
            tensor.to_f32()
        };
        let take = |name: &str| match named(name) {
            Some(elements) => Ok(elements),
            None => {
                let found: Vec<&str> = outputs.iter().map(|(n, _)| n.as_str()).collect();
                let (name, found) = (name.to_owned(), found.join(", "));
                Err(ServedError::Output { engine, name, found })
            }
        };
        let scores = take(&self.card.output.name)?;
        let (found, classes) = (scores.len(), self.card.classes.len());
        if found != classes {
            return Err(ServedError::Classes { engine, found, classes });
        }
        let cam = |map: &GradCam| {
            let classes = match &map.classes {
                MapClasses::All => Vec::new(),
                MapClasses::Likeliest { output, .. } => take(output)?,
            };
            Ok::<_, ServedError>(Cam { maps: take(&map.output)?, classes })
        };
        let cam = self.card.gradcam.as_ref().map(cam).transpose()?;
        let known = self.card.familiarity.as_ref().map(|familiarity| take(&familiarity.output));
        let familiarity = known.transpose()?.and_then(|list| list.first().copied());
        Ok(Outcome { scores, cam, familiarity })
    }
}

/// A photo's tensor in the engines' type.
fn for_engine(photo: &tensor::PhotoTensor) -> Tensor {
    let dtype = match photo.dtype {
        card::Dtype::F32 => Dtype::F32,
        card::Dtype::U8 => Dtype::U8,
    };
    Tensor::new(photo.dimensions.clone(), dtype, photo.data.clone())
}
