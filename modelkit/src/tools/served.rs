//! A model folder as a server runs it: one photo in, scores and maps out.
//!
//! `check`, `measure` and `quantize` look at what is served, so they run the server's own engines: modelkit maps
//! no file itself and knows no engine by name.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use skincell_engines::{Dtype, Engine, LoadError, Model, RunError, Source, Tensor};
use skincell_vision::card::{self, Card, CardError, GradCam, MapClasses};
use skincell_vision::gradcam::Cam;
use skincell_vision::rank::RankError;
use skincell_vision::tensor;
use thiserror::Error;

use crate::prepare::CARD_FILE;

/// Why a folder cannot be run as it is served.
#[derive(Debug, Error)]
pub enum ServedError {
    /// A file is missing or cannot be read.
    #[error("{path}: {error}; `skincell model prepare` makes a whole folder", path = path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the file system said.
        error: std::io::Error,
    },
    /// The card.
    #[error("{path}: {error}", path = path.display())]
    Card {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: CardError,
    },
    /// No engine was given that takes the folder.
    #[error(
        "{folder} holds nothing that one of these engines takes: {engines}; `skincell model \
         prepare` makes a whole folder, `skincell model pack` adds model.cell",
        folder = folder.display()
    )]
    NoEngine {
        /// The folder.
        folder: PathBuf,
        /// The engines asked.
        engines: String,
    },
    /// The engine refuses the model.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The engine fails on a photo.
    #[error("{engine} cannot run the model: {error}")]
    Run {
        /// Which engine.
        engine: &'static str,
        /// What it said.
        error: RunError,
    },
    /// The graph does not have what the card says.
    #[error(
        "the card says the graph has an output \"{name}\", and {engine} finds {found}; prepare again"
    )]
    Output {
        /// Which engine.
        engine: &'static str,
        /// Its name in the card.
        name: String,
        /// The outputs there are.
        found: String,
    },
    /// The scores cannot become probabilities.
    #[error("{engine} gives scores that are no scores: {error}")]
    Scores {
        /// Which engine.
        engine: &'static str,
        /// What is wrong with them.
        error: RankError,
    },
}

/// What a model says of one photo.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// `[classes]`, as the graph gives them.
    pub scores: Vec<f32>,
    /// The maps, where the card has a Grad-CAM output.
    pub cam: Option<Cam>,
}

/// A folder's card, and its model in an engine.
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
/// [`ServedError::File`] or [`ServedError::Card`].
pub fn read_card(folder: &Path) -> Result<Card, ServedError> {
    let path = folder.join(CARD_FILE);
    let bytes = fs::read(&path).map_err(|error| ServedError::File { path: path.clone(), error })?;
    Card::parse(&bytes).map_err(|error| ServedError::Card { path, error })
}

/// The first of the engines that takes the folder: the one that would serve it.
///
/// # Errors
/// [`ServedError::NoEngine`] when none does.
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

/// All of the engines that take the folder, in their order.
///
/// # Errors
/// [`ServedError::NoEngine`] when none does.
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
    /// [`ServedError`] when the card is missing or the engine refuses the model.
    pub fn open(folder: &Path, engine: &dyn Engine) -> Result<Self, ServedError> {
        let card = read_card(folder)?;
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

    /// Runs one photo's tensor (`vision::tensor::from_photo` makes it).
    ///
    /// # Errors
    /// [`ServedError`] when the engine fails or an output of the card is not there.
    pub fn run(&self, photo: &tensor::PhotoTensor) -> Result<Outcome, ServedError> {
        let engine = self.engine;
        let mut inputs = vec![(self.card.input.name.clone(), for_engine(photo))];
        inputs.extend(self.card.fields.iter().map(|field| {
            let bytes = field.default.iter().flat_map(|number| number.to_le_bytes()).collect();
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
        let cam = |map: &GradCam| {
            let classes = match &map.classes {
                MapClasses::All => Vec::new(),
                MapClasses::Likeliest { output, .. } => take(output)?,
            };
            Ok::<_, ServedError>(Cam { maps: take(&map.output)?, classes })
        };
        let cam = self.card.gradcam.as_ref().map(cam).transpose()?;
        Ok(Outcome { scores, cam })
    }
}

/// A photo's tensor as an engine takes it.
fn for_engine(photo: &tensor::PhotoTensor) -> Tensor {
    let dtype = match photo.dtype {
        card::Dtype::F32 => Dtype::F32,
        card::Dtype::U8 => Dtype::U8,
    };
    Tensor::new(photo.dimensions.clone(), dtype, photo.data.clone())
}
