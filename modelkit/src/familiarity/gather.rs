//! Lists photos with their labels, and runs a graph on them.
//!
//! A photo's label is the name of the subfolder it lies in, if that is a class of the card: its label or
//! display name, with or without matching case. Photos are read by skincell's own decoder and resizer.

use std::path::PathBuf;

use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::Card;
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::{PhotoTensor, from_photo};
use skincell_vision::view;

use super::{FamiliarityError, foreign};
use crate::interface::shape_of;
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;
use crate::photos::{self, PhotosError};

/// A photo's file.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) file: PathBuf,
    /// The file's name, with its subfolder's.
    pub(crate) name: String,
    /// Index of its class, if its subfolder names one.
    pub(crate) class: Option<usize>,
}

/// What a graph computes from a photo.
#[derive(Debug, Clone)]
pub(super) struct Gathered {
    pub(super) features: Vec<f32>,
    pub(super) probabilities: Vec<f32>,
    /// Name of the picture it shows: the file's name up to `__`, or to its extension.
    pub(super) picture: String,
}

/// The photos in files and folders, and in the subfolders of these.
///
/// # Errors
/// [`PhotosError`] if a path does not exist or a folder and its subfolders hold no photo.
pub(crate) fn list(paths: &[PathBuf], card: &Card) -> Result<Vec<Picture>, PhotosError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        found.extend(photos::listed_or_none(path)?.into_iter().map(plain));
        for folder in if path.is_dir() { photos::subfolders(path)? } else { Vec::new() } {
            let name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
            let name = name.unwrap_or_default();
            let class = class(card, &name);
            found.extend(photos::listed_or_none(&folder)?.into_iter().map(|file| {
                let plain = plain(file);
                Picture { name: format!("{name}/{}", plain.name), class, ..plain }
            }));
        }
        if found.len() == before {
            return Err(PhotosError::Empty(path.clone()));
        }
    }
    Ok(found)
}

fn plain(file: PathBuf) -> Picture {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned());
    Picture { name: name.unwrap_or_default(), file, class: None }
}

fn class(card: &Card, folder: &str) -> Option<usize> {
    let folded = folder.to_lowercase();
    let is = |name: &str| name.to_lowercase() == folded;
    card.classes.iter().position(|c| is(&c.label) || c.display.as_deref().is_some_and(is))
}

/// Runs the graph, which has the photo as its only input in float32, on each photo.
///
/// # Errors
/// [`FamiliarityError`] for the first photo that cannot be read or run.
pub(super) fn run(
    graph: &Graph,
    card: &Card,
    features: &str,
    pictures: &[Picture],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Gathered>, FamiliarityError> {
    let engine = GraphEngine::load(graph)?;
    let mut gathered = Vec::with_capacity(pictures.len());
    for (done, picture) in pictures.iter().enumerate() {
        progress(done, pictures.len());
        let tensor = photos::load(&picture.file, &card.input)?;
        let stem = picture.name.rsplit_once('.').map_or(&*picture.name, |(stem, _)| stem);
        let stem = stem.split("__").next().unwrap_or(stem).to_owned();
        gathered.push(one(&engine, card, features, &tensor, stem)?);
    }
    progress(pictures.len(), pictures.len());
    Ok(gathered)
}

/// As [`run`], on the drawn pictures of other kinds.
///
/// # Errors
/// The engine's.
pub(super) fn drawn(
    graph: &Graph,
    card: &Card,
    features: &str,
) -> Result<Vec<Gathered>, FamiliarityError> {
    let engine = GraphEngine::load(graph)?;
    let each = foreign::pictures().into_iter().enumerate().map(|(index, photo)| {
        let path = || PathBuf::from(format!("drawn picture {index}"));
        let seen = view::view(&photo, &card.input)
            .map_err(|error| PhotosError::Resize { path: path(), error })?;
        let tensor = from_photo(&seen.photo, &card.input)
            .map_err(|error| PhotosError::PhotoTensor { path: path(), error })?;
        one(&engine, card, features, &tensor, index.to_string())
    });
    each.collect()
}

fn one(
    engine: &GraphEngine,
    card: &Card,
    features: &str,
    tensor: &PhotoTensor,
    picture: String,
) -> Result<Gathered, FamiliarityError> {
    let photo = Tensor::from_data(&shape_of(&card.input), photos::elements(tensor));
    let found = engine.run(photo.view().into(), &[features, &card.output.name])?;
    let mut found = found.into_iter().map(|tensor| tensor.to_vec());
    let (features, scores) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
    if features.iter().any(|value| !value.is_finite()) {
        return Err(EngineError::Run("its features are not finite".to_owned()).into());
    }
    let probabilities = probabilities(&scores, &card.output)
        .map_err(|error| EngineError::Run(error.to_string()))?;
    Ok(Gathered { features, probabilities, picture })
}
