//! Lists photos with their labels, and runs a graph on them.
//!
//! A photo's label is the name of the given folder's subfolder it lies in, if that is a class of the card:
//! its label or display name, with or without matching case. Photos are read by skincell's own decoder and
//! resizer.

use std::path::{Path, PathBuf};

use rten_tensor::Tensor;
use rten_tensor::prelude::*;
use skincell_vision::card::{Card, Input, Layout};
use skincell_vision::rank::probabilities;
use skincell_vision::tensor::{PhotoTensor, from_photo};
use skincell_vision::view;

use super::{FamiliarityError, foreign, some_of};
use crate::interface::shape_of;
use crate::onnx::engine::{EngineError, GraphEngine};
use crate::onnx::graph::Graph;
use crate::photos::{self, PhotosError};

/// Parts of a thumbnail's side.
const PARTS: usize = 16;
/// Most subfolders and classes that a note lists.
const SHOWN: usize = 10;

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
    pub(super) looks: Looks,
}

/// What tells a photo from others without a model.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    /// The mean of all channels in each of 16 x 16 parts of the photo as the model sees it, from its top,
    /// less the mean of all parts.
    pub(super) thumbnail: Vec<f32>,
    /// The picture it shows: the file's path up to `__` in its name, or to its extension.
    pub(super) picture: PathBuf,
}

impl Looks {
    /// Of a photo whose elements are in the layout of the model's input.
    pub(super) fn of(picture: PathBuf, elements: &[f32], input: &Input) -> Self {
        Looks { thumbnail: thumbnail(elements, input), picture }
    }
}

/// The photos in files and folders, and in all their subfolders. The label is that of the first subfolder.
/// Photos of kinds that cannot be read are among them.
///
/// # Errors
/// [`PhotosError`] if a path does not exist or a folder and its subfolders hold no photo.
pub(crate) fn list(paths: &[PathBuf], card: &Card) -> Result<Vec<Picture>, PhotosError> {
    let mut found = Vec::new();
    for path in paths {
        let before = found.len();
        found.extend(photos::all_in(path)?.into_iter().map(plain));
        for folder in if path.is_dir() { photos::subfolders(path)? } else { Vec::new() } {
            let name = folder.file_name().map(|n| n.to_string_lossy().into_owned());
            let class = class(card, &name.unwrap_or_default());
            found.extend(photos::all_below(&folder)?.into_iter().map(|file| {
                let inner = file.strip_prefix(path).unwrap_or(&file).iter();
                let parts: Vec<_> = inner.map(|part| part.to_string_lossy()).collect();
                Picture { name: parts.join("/"), class, file }
            }));
        }
        if found.len() == before {
            return Err(PhotosError::Empty(path.clone()));
        }
    }
    Ok(found)
}

/// What is wrong with the names of the subfolders, if some are named as no class.
pub(super) fn unlabelled(pictures: &[Picture], card: &Card) -> Option<String> {
    let mut folders: Vec<(&str, usize)> = Vec::new();
    for picture in pictures.iter().filter(|picture| picture.class.is_none()) {
        let Some((folder, _)) = picture.name.split_once('/') else { continue };
        match folders.iter_mut().find(|(name, _)| *name == folder) {
            Some((_, count)) => *count += 1,
            None => folders.push((folder, 1)),
        }
    }
    if folders.is_empty() {
        return None;
    }
    let named: Vec<_> =
        folders.iter().map(|(name, count)| format!("{name:?} ({count} photos)")).collect();
    let classes: Vec<_> = card.classes.iter().map(|class| format!("{:?}", class.label)).collect();
    Some(format!(
        "no class of the model is named as the subfolders {}; its classes are {}",
        some_of(&named, SHOWN, ", "),
        some_of(&classes, SHOWN, ", ")
    ))
}

/// The file without its extension and without what follows `__` in its name: the same for versions of one
/// picture.
pub(super) fn picture_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    // A name that begins with `__` is a name of its own.
    let end = stem.match_indices("__").map(|(at, _)| at).find(|at| *at > 0).unwrap_or(stem.len());
    file.with_file_name(&stem[..end])
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
/// [`FamiliarityError`] for all photos that cannot be read, or the first that cannot be run.
pub(super) fn run(
    graph: &Graph,
    card: &Card,
    features: &str,
    pictures: &[Picture],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Gathered>, FamiliarityError> {
    let engine = GraphEngine::load(graph)?;
    let mut gathered = Vec::with_capacity(pictures.len());
    let mut files = Vec::new();
    for (done, picture) in pictures.iter().enumerate() {
        progress(done, pictures.len());
        let tensor = match photos::load(&picture.file, &card.input) {
            // After a file that cannot be read, the others are only read.
            Ok(_) if !files.is_empty() => continue,
            Ok(tensor) => tensor,
            Err(error) => {
                files.push(error.to_string());
                continue;
            }
        };
        gathered.push(one(&engine, card, features, &tensor, picture_of(&picture.file))?);
    }
    progress(pictures.len(), pictures.len());
    if files.is_empty() {
        Ok(gathered)
    } else {
        Err(FamiliarityError::Unreadable { photos: pictures.len(), files })
    }
}

/// The values `[1, 1]` of the output `name` for those of the photos that can be read.
///
/// # Errors
/// The engine's.
pub(super) fn scores(
    graph: &Graph,
    card: &Card,
    name: &str,
    pictures: &[&Picture],
) -> Result<Vec<f32>, EngineError> {
    let engine = GraphEngine::load(graph)?;
    let tensors = pictures.iter().filter_map(|each| photos::load(&each.file, &card.input).ok());
    let score = |tensor| {
        let photo = Tensor::from_data(&shape_of(&card.input), photos::elements(&tensor));
        let found = engine.run(photo.view().into(), &[name])?;
        Ok(found.first().and_then(|score| score.iter().next().copied()).unwrap_or(f32::NAN))
    };
    tensors.map(score).collect()
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
        one(&engine, card, features, &tensor, path())
    });
    each.collect()
}

fn one(
    engine: &GraphEngine,
    card: &Card,
    features: &str,
    tensor: &PhotoTensor,
    picture: PathBuf,
) -> Result<Gathered, FamiliarityError> {
    let elements = photos::elements(tensor);
    let looks = Looks::of(picture, &elements, &card.input);
    let photo = Tensor::from_data(&shape_of(&card.input), elements);
    let found = engine.run(photo.view().into(), &[features, &card.output.name])?;
    let mut found = found.into_iter().map(|tensor| tensor.to_vec());
    let (features, scores) = (found.next().unwrap_or_default(), found.next().unwrap_or_default());
    if features.iter().any(|value| !value.is_finite()) {
        return Err(EngineError::Run("its features are not finite".to_owned()).into());
    }
    let probabilities = probabilities(&scores, &card.output)
        .map_err(|error| EngineError::Run(error.to_string()))?;
    Ok(Gathered { features, probabilities, looks })
}

/// See [`Looks::thumbnail`].
fn thumbnail(elements: &[f32], input: &Input) -> Vec<f32> {
    let (width, height) = (input.width as usize, input.height as usize);
    let place = |index: usize| match input.layout {
        Layout::Nchw => index % (width * height),
        Layout::Nhwc => index / 3,
    };
    let mut sums = vec![(0.0_f64, 0_u32); PARTS * PARTS];
    for (index, value) in elements.iter().enumerate() {
        let (x, y) = (place(index) % width, place(index) / width);
        let part = y * PARTS / height * PARTS + x * PARTS / width;
        if let Some((sum, count)) = sums.get_mut(part) {
            *sum += f64::from(*value);
            *count += 1;
        }
    }
    let parts = sums.into_iter().map(|(sum, count)| (sum / f64::from(count.max(1))) as f32);
    let parts: Vec<f32> = parts.collect();
    let mean = parts.iter().sum::<f32>() / parts.len() as f32;
    parts.into_iter().map(|part| part - mean).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use super::*;

    const CARD: &str = r#"{"card_version": 1, "name": "moles", "input": {"name": "image", "layout": "nchw",
        "dtype": "f32", "width": 8, "height": 8, "mean": [0, 0, 0], "std": [1, 1, 1]},
        "output": {"name": "logits", "form": "logits", "activation": "softmax"},
        "classes": [{"label": "benign"}, {"label": "malignant", "display": "Not benign"}]}"#;

    #[test]
    fn subfolders_named_as_no_class_are_noted() {
        let card: Card = serde_json::from_str(CARD).unwrap();
        let picture = |name: &str| {
            let class = name.split_once('/').and_then(|(folder, _)| class(&card, folder));
            Picture { file: PathBuf::from(name), name: name.to_owned(), class }
        };
        let all = ["not benign/1.png", "Benign/2.png", "3.png"].map(picture);
        assert_eq!(unlabelled(&all, &card), None);
        let all = ["benign/1.png", "beningn/2.png", "beningn/3.png", "moles/4.png"].map(picture);
        let said = unlabelled(&all, &card).unwrap();
        assert!(said.contains(r#""beningn" (2 photos), "moles" (1 photos);"#), "{said}");
        assert!(said.ends_with(r#"its classes are "benign", "malignant""#), "{said}");
    }

    #[test]
    fn versions_of_one_picture_are_known_by_their_names() {
        let same = |a: &str, b: &str| picture_of(Path::new(a)) == picture_of(Path::new(b));
        assert!(
            same("a/mole__left.jpg", "a/mole__right.png") && same("a/mole.jpg", "a/mole__2.jpg")
        );
        assert!(!same("a/1.jpg", "b/1.jpg"), "cameras give the same names");
        assert!(!same("a__b/1.jpg", "a__b/2.jpg") && !same("__1.jpg", "__2.jpg"));
    }

    #[test]
    fn photos_are_listed_at_any_depth_with_those_that_cannot_be_read() {
        let home = tempfile::tempdir().unwrap();
        let files =
            ["a.JPG", "Benign/2026/b.heic", "benign/c.png", "notes.txt", ".d.png", ".cache/e.png"];
        for file in files {
            let path = home.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, []).unwrap();
        }
        let card: Card = serde_json::from_str(CARD).unwrap();
        let found = list(&[home.path().to_owned()], &card).unwrap();
        let found: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.class)).collect();
        let expected =
            [("a.JPG", None), ("Benign/2026/b.heic", Some(0)), ("benign/c.png", Some(0))];
        assert_eq!(found, expected);
    }
}
