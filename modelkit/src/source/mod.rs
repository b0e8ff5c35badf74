//! Decides what reads a model: ONNX's reader, Keras or PyTorch. The content of a file decides, and its name
//! only where the content leaves a choice, because files are renamed, cut short or of another tool.

mod content;
mod zip;

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::export::Framework;
use crate::prepare::CARD_FILE;
use content::Content;
use skincell_onnx::{outline, regular};

/// A model that can be prepared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its file, or the folder of a SavedModel.
    pub path: PathBuf,
    /// The framework that exports it; `None` for ONNX.
    pub framework: Option<Framework>,
}

/// Why a file or folder is no model that can be prepared.
#[derive(Debug, Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("{path}: {error}", path = path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// It is of a kind that is not read.
    #[error("{path}: {kind}; {advice}", path = path.display())]
    Kind {
        /// The file or folder.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A framework would not read it under its name.
    #[error(
        "{path}: by its content it is {kind}, which Keras reads only under a name that ends in .{right}: rename \
         it",
        path = path.display()
    )]
    Name {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// The extension it must have.
        right: &'static str,
    },
    /// Its name promises a framework's file, and its content is of another kind.
    #[error(
        "{path}: its name is that of a {framework} file, but it is none: it begins with {begins}; save the \
         model again ({save})",
        path = path.display(),
        framework = framework.name(),
        save = saved(*framework)
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// The framework its name belongs to.
        framework: Framework,
        /// The first bytes, in words.
        begins: String,
    },
    /// A folder with several models.
    #[error("{path} holds {names}; name the one to prepare", path = path.display())]
    Several {
        /// The folder.
        path: PathBuf,
        /// Paths of the models in it.
        names: String,
    },
}

fn saved(framework: Framework) -> &'static str {
    match framework {
        Framework::Keras => "model.save(\"model.keras\")",
        Framework::Torch => {
            "torch.export.save(torch.export.export(net.eval(), (photo,)), \"model.pt2\")"
        }
    }
}

/// Bytes of an unknown file that its error shows.
const SHOWN: u64 = 16;

/// The model at a path.
///
/// # Errors
/// [`SourceError`] says what it is instead, and what to do.
pub fn find(model: &Path) -> Result<Source, SourceError> {
    let failed = |error| SourceError::Read { path: model.to_owned(), error };
    if model.metadata().map_err(failed)?.is_dir() {
        return in_folder(model);
    }
    let content =
        regular::open(model).and_then(|mut file| Content::of(&mut file)).map_err(failed)?;
    let name = model.extension().and_then(|end| end.to_str()).unwrap_or_default();
    let refuse = |(kind, advice)| Err(SourceError::Kind { path: model.to_owned(), kind, advice });
    let found = |framework| Ok(Source { path: model.to_owned(), framework });
    match content {
        Content::Onnx => found(None),
        Content::Program | Content::Script => found(Some(Framework::Torch)),
        Content::Keras if name == "keras" => found(Some(Framework::Keras)),
        Content::Hdf5 if matches!(name, "h5" | "hdf5") => found(Some(Framework::Keras)),
        Content::Keras | Content::Hdf5 => {
            let (kind, right) = match content {
                Content::Keras => ("an archive of Keras", "keras"),
                _ => ("HDF5", "h5"),
            };
            Err(SourceError::Name { path: model.to_owned(), kind, right })
        }
        Content::Unknown => unknown(model, &name.to_lowercase()),
        other => refuse(of_content(other, &name.to_lowercase())),
    }
}

/// A file whose content shows no kind: its name decides.
fn unknown(model: &Path, name: &str) -> Result<Source, SourceError> {
    let path = model.to_owned();
    if let Some((kind, advice)) = of_name(name) {
        return Err(SourceError::Kind { path, kind, advice });
    }
    let framework = match name {
        "keras" | "h5" | "hdf5" => Framework::Keras,
        "pt" | "pt2" => Framework::Torch,
        // The reader of ONNX says where a file is damaged.
        _ => return Ok(Source { path, framework: None }),
    };
    let mut begin = Vec::new();
    let read = regular::open(model).and_then(|file| file.take(SHOWN).read_to_end(&mut begin));
    read.map_err(|error| SourceError::Read { path: path.clone(), error })?;
    let begins = outline::beginning(&begin);
    Err(SourceError::Content { path, framework, begins })
}

const WEIGHTS: &str = "it holds weights without the network";
const PICKLE: &str =
    "it is a pickle (a state dict, or a whole module), and a pickle is code, which is not run";
const PICKLE_ADVICE: &str = "in the script that defines the network: net.load_state_dict(…), net.eval(), then torch.onnx.export(net, \
     torch.zeros(1, 3, H, W), \"model.onnx\"). For a network of timm, net = \
     timm.create_model(\"NAME\", num_classes=N, checkpoint_path=\"FILE\"). For a .pt of Ultralytics: yolo export model=FILE \
     format=onnx. For fastai: torch.onnx.export(learn.model.eval(), …)";
const TFLITE: (&str, &str) = (
    "it is a model of TensorFlow Lite, which cannot be read back into Keras",
    "prepare the .keras, .h5 or SavedModel it was made from, or convert it with `python -m tf2onnx.convert \
     --tflite FILE --output model.onnx`",
);
const ORT: (&str, &str) = (
    "it is in ONNX Runtime's own format (.ort), which only ONNX Runtime reads",
    "prepare the .onnx file it was made from",
);
const SAFETENSORS: (&str, &str) = (
    WEIGHTS,
    "`optimum-cli export onnx --model FOLDER OUT` exports a Hugging Face folder to ONNX; for timm, \
     net = timm.create_model(\"NAME\", num_classes=N, checkpoint_path=\"FILE\").eval(), then \
     torch.onnx.export(net, torch.zeros(1, 3, H, W), \"model.onnx\")",
);
const CORE_ML: (&str, &str) = (
    "it is a model of Core ML, which cannot be converted back",
    "prepare the Keras, PyTorch or ONNX file it was made from",
);
const OTHER_ENGINE: (&str, &str) =
    ("it is made for another engine", "prepare the ONNX file it was made from");
const PACKED: (&str, &str) = ("it is an archive", "unpack it first, and name the model inside");
const TENSORFLOW_JS: (&str, &str) = (
    "it describes a TensorFlow.js model without its weights",
    "prepare the Keras export of the same model (Teachable Machine: Export Model, Tensorflow, Keras)",
);
const KERAS_JSON: (&str, &str) = (
    "it describes a Keras model without its weights",
    "in the Python that made it: model = keras.models.model_from_json(open(FILE).read()), \
     model.load_weights(WEIGHTS), model.save(\"model.keras\")",
);
const PHOTO: (&str, &str) =
    ("it is a photo and not a model", "ask a model about it with `skincell classify FILE`");
const FROZEN: (&str, &str) = (
    "it is a graph of TensorFlow",
    "for a SavedModel, name its folder; convert a frozen graph to ONNX with `python -m tf2onnx.convert \
     --graphdef FILE --inputs NAME:0 --outputs NAME:0 --output model.onnx`",
);

/// What a file of this content is, and what to do. `name` is its extension.
fn of_content(content: Content, name: &str) -> (&'static str, &'static str) {
    match content {
        Content::Empty => ("the file is empty", "copy, download or export it again"),
        Content::CutArchive | Content::CutHdf5 => {
            ("the file is cut short: its end is missing", "copy, download or save it again")
        }
        Content::TorchPickle | Content::Pickle => (PICKLE, PICKLE_ADVICE),
        Content::TfLite => TFLITE,
        Content::OrtFormat => ORT,
        Content::Safetensors | Content::Gguf => SAFETENSORS,
        Content::CoreMl => CORE_ML,
        Content::GitPointer => (
            "that is a pointer of Git LFS and not the model",
            "fetch the file itself with `git lfs pull`",
        ),
        Content::KerasJson => KERAS_JSON,
        Content::Photo => PHOTO,
        Content::WebPage => ("that is a web page and not the model", "download the file itself"),
        Content::Archive if matches!(name, "keras" | "pt" | "pt2") => (
            "it is an archive without the members of a model",
            "save the model again: model.save(\"model.keras\") in Keras, torch.export.save in PyTorch",
        ),
        _ => PACKED,
    }
}

/// What a file of this extension is, and what to do, if its content shows nothing.
fn of_name(name: &str) -> Option<(&'static str, &'static str)> {
    Some(match name {
        "pth" | "ckpt" => (WEIGHTS, PICKLE_ADVICE),
        "safetensors" | "bin" => SAFETENSORS,
        "pkl" | "pickle" | "joblib" => (PICKLE, PICKLE_ADVICE),
        "tflite" => TFLITE,
        "ort" => ORT,
        "pb" | "pbtxt" => FROZEN,
        "mlmodel" | "mlpackage" => CORE_ML,
        "engine" | "plan" | "trt" | "xml" | "param" | "mnn" => OTHER_ENGINE,
        "zip" | "tar" | "gz" | "tgz" | "7z" | "rar" => PACKED,
        "json" => TENSORFLOW_JS,
        _ => return None,
    })
}

/// The model that a folder is or holds.
fn in_folder(folder: &Path) -> Result<Source, SourceError> {
    let path = folder.to_owned();
    let failed = |error| SourceError::Read { path: path.clone(), error };
    let entries = std::fs::read_dir(folder).map_err(failed)?;
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let has = |name: &str| names.iter().any(|n| n == name);
    let refuse = |(kind, advice)| Err(SourceError::Kind { path: path.clone(), kind, advice });
    if has("saved_model.pb") {
        return Ok(Source { path, framework: Some(Framework::Keras) });
    }
    if has(CARD_FILE) {
        let serve = "serve it with `skincell serve FOLDER`, or name the file it was made from";
        return refuse(("it is prepared already", serve));
    }
    if let Some(known) = of_folder(&has, &path) {
        return refuse(known);
    }
    let ends = |ends: &[&str]| -> Vec<&String> {
        let fits = |name: &&String| ends.iter().any(|end| name.to_lowercase().ends_with(end));
        names.iter().filter(fits).collect()
    };
    let graphs = ends(&[".onnx"]);
    let plain = graphs.iter().find(|name| **name == "model.onnx").or_else(|| graphs.first());
    if let Some(name) = plain.filter(|name| graphs.len() == 1 || **name == "model.onnx") {
        return Ok(Source { path: folder.join(name), framework: None });
    }
    let models = ends(&[".onnx", ".keras", ".h5", ".hdf5", ".pt", ".pt2"]);
    let inside = |name: &&String| folder.join(name).join("saved_model.pb").exists();
    let models: Vec<&String> = models.into_iter().chain(names.iter().filter(inside)).collect();
    match &models[..] {
        [] if has("model.safetensors") || has("pytorch_model.bin") => refuse(SAFETENSORS),
        [] if has("model.json") => refuse(TENSORFLOW_JS),
        [] => refuse((
            "the folder holds no model",
            "name an .onnx, .keras, .h5, .pt2 or .pt file, or a SavedModel folder, which has a \
             saved_model.pb",
        )),
        models => {
            let names = models.iter().map(|name| folder.join(name).display().to_string());
            let names = names.collect::<Vec<_>>().join(", ");
            Err(SourceError::Several { path, names })
        }
    }
}

/// What a folder with these members is, if it is of a kind that is not read, and what to do.
fn of_folder(has: &impl Fn(&str) -> bool, path: &Path) -> Option<(&'static str, &'static str)> {
    if has("config.json") && has("model.weights.h5") {
        return Some((
            "it is an unpacked .keras file",
            "pack it again: cd FOLDER, python3 -m zipfile -c ../model.keras *, and name ../model.keras",
        ));
    }
    if has("data.pkl") || has("archive_format") {
        return Some((
            "it is an unpacked file of PyTorch",
            "name the .pt or .pt2 file it was unpacked from",
        ));
    }
    let package = path.extension().is_some_and(|end| end == "mlpackage" || end == "mlmodelc");
    package.then_some(CORE_ML)
}

#[cfg(test)]
mod tests;
