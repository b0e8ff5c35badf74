//! What is probably meant by a path that is neither a prepared model nor a model file: one of the models in a
//! folder, the folder of a prepared model's file, or a similar name.

use crate::alike::{does_not_exist, likely, most_like};
use skincell_modelkit::CARD_FILE;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The files of a prepared folder that are no model by themselves.
const PARTS: [&str; 4] = [CARD_FILE, "model.onnx", "model.onnx.data", "model.cell"];

/// Most models that are listed.
const SHOWN: usize = 12;

/// The folder that holds models in a checkout or an archive.
const MODELS: &str = "models";

/// Why `path` is not a model, with what to name instead; `None` if it may be one.
pub fn instead(path: &Path) -> Option<String> {
    let shown = path.display();
    let folder = path.parent().unwrap_or(Path::new(""));
    if !path.exists() {
        let model = likely_model(path).filter(|_| folder == Path::new(""));
        return Some(does_not_exist(path, model.or_else(|| likely(path))));
    }
    let name = path.file_name().unwrap_or_default();
    if path.is_file() && PARTS.iter().any(|part| *part == name) && folder.join(CARD_FILE).exists() {
        let here = || Path::new(".").canonicalize().ok();
        let folder =
            Some(folder.to_owned()).filter(|folder| folder != Path::new("")).or_else(here)?;
        return Some(format!(
            "{shown} is a part of a prepared model, which is its folder: name {}",
            folder.display()
        ));
    }
    let models = models_in(path);
    let first = models.first()?;
    let names: Vec<&str> = models.iter().take(SHOWN).map(String::as_str).collect();
    let more = match models.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "{shown} is no model, but a folder that holds {}{more}: name one of them, such as {}",
        names.join(", "),
        path.join(first).display()
    ))
}

/// The names of the prepared models in a folder.
fn models_in(folder: &Path) -> BTreeSet<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let prepared = entries.filter(|entry| entry.path().join(CARD_FILE).exists());
    prepared.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The model in `models` whose name is most like that of `path`.
fn likely_model(path: &Path) -> Option<PathBuf> {
    let models = Path::new(MODELS);
    most_like(path.file_name()?.to_str()?, models_in(models).iter()).map(|model| models.join(model))
}

#[cfg(test)]
mod tests {
    use super::instead;

    #[test]
    fn what_is_no_model_names_the_likely_one() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for model in ["mine", "other"] {
            std::fs::create_dir(at(model)).unwrap();
            std::fs::write(at(model).join("card.json"), "{}").unwrap();
        }
        std::fs::write(at("mine/model.onnx"), "").unwrap();
        std::fs::write(at("raw.onnx"), "").unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        let said = |name: &str| {
            instead(&at(name)).map(|words| words.replace(&at("").display().to_string(), ""))
        };
        assert_eq!(said("mein").as_deref(), Some("mein does not exist; did you mean mine?"));
        assert_eq!(said("xyz").as_deref(), Some("xyz does not exist"));
        for part in ["mine/card.json", "mine/model.onnx"] {
            let words = said(part).unwrap();
            assert!(words.ends_with("which is its folder: name mine"), "{words}");
        }
        let words = said("").unwrap();
        assert!(words.contains("holds mine, other: name one of them, such as mine"), "{words}");
        assert_eq!(said("raw.onnx"), None);
        assert_eq!(said("empty"), None);
    }
}
