//! The classes of a model: given, or named in the graph or in the file's metadata.

use std::collections::BTreeMap;

use skincell_vision::card::Class;

use super::{PrepareError, PrepareOptions};
use crate::interface;
use crate::labels::parse_labels;
use crate::onnx::graph::Graph;
use crate::onnx::read::ReadError;

/// Metadata under which tools write the names of the classes: Ultralytics, transformers, PyTorch's
/// `ImageFolder`, Keras's generators and scripts.
const KEYS: [&str; 9] = [
    "names",
    "id2label",
    "classes",
    "class_names",
    "label_names",
    "labels",
    "class_to_idx",
    "class_indices",
    "label_map",
];

/// The given classes, or those named in the graph or its metadata.
pub(super) fn classes(options: &PrepareOptions, graph: &Graph) -> Result<Vec<Class>, PrepareError> {
    if !options.classes.is_empty() {
        return Ok(options.classes.clone());
    }
    if let Some(inside) = interface::labels_inside(graph) {
        return Ok(inside.into_iter().map(|label| Class { label, display: None }).collect());
    }
    let file = skincell_onnx::read(&options.model).map_err(ReadError::File)?;
    in_metadata(&file.metadata).ok_or(PrepareError::NoLabels)
}

/// The classes in a file's metadata; `None` if it names none, or different ones under several keys.
fn in_metadata(metadata: &BTreeMap<String, String>) -> Option<Vec<Class>> {
    let mut found = KEYS.iter().filter_map(|key| several(metadata.get(*key)?));
    let first = found.next()?;
    found.all(|other| other == first).then_some(first)
}

/// The labels of a text that clearly lists some: JSON, a dictionary of Python, lines, or words with commas.
fn several(text: &str) -> Option<Vec<Class>> {
    let text = text.trim();
    let listed = text.starts_with(['[', '{']) || text.contains('\n');
    let text = if listed { text.to_owned() } else { text.replace(',', "\n") };
    parse_labels(&text).ok().filter(|classes| listed && !classes.is_empty() || classes.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::in_metadata;

    fn found(entries: &[(&str, &str)]) -> Option<Vec<String>> {
        let entries = entries.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        let classes = in_metadata(&entries.collect())?;
        Some(classes.into_iter().map(|class| class.label).collect())
    }

    #[test]
    fn names_are_read_from_the_metadata_of_common_tools_if_they_are_clear() {
        let right = Some(["nv", "mel"].map(str::to_owned).to_vec());
        for (key, text) in [
            ("names", "{0: 'nv', 1: 'mel'}"),
            ("id2label", "{\"0\": \"nv\", \"1\": \"mel\"}"),
            ("class_names", "[\"nv\", \"mel\"]"),
            ("classes", "['nv', 'mel']"),
            ("labels", "nv\nmel"),
            ("labels", "nv, mel"),
            ("class_to_idx", "{\"mel\": 1, \"nv\": 0}"),
        ] {
            assert_eq!(found(&[(key, text)]), right, "{key} {text}");
        }
        assert_eq!(found(&[("names", "[\"nv\", \"mel\"]"), ("labels", "nv,mel")]), right);
        assert_eq!(found(&[("names", "[\"nv\", \"mel\"]"), ("labels", "mel,nv")]), None);
        for (key, text) in [("labels", "skin"), ("names", ""), ("classes", "7"), ("author", "a,b")]
        {
            assert_eq!(found(&[(key, text)]), None, "{key} {text}");
        }
    }
}
