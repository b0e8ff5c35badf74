//! Checks the wire format of an ONNX file: is it a complete model, with every length inside the file?
//!
//! `rten-onnx` 0.27 trusts the lengths inside nested messages, so a damaged length makes it ask for more
//! memory than there is; and it never returns from a varint longer than ten bytes. This check therefore
//! runs before it. It looks at tags, lengths and packed numbers only, collects the names of data files
//! ([`crate::external`] decides which of them may be read), and reports the offset of the first wrong byte.
//! Field numbers are those of `onnx.proto`.

use std::collections::BTreeSet;

use thiserror::Error;

/// Why the bytes are not a complete ONNX model.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OutlineError {
    /// The bytes are something other than an ONNX model, whose first field is its IR version.
    #[error("this is not an ONNX model: it begins with {begins}; {advice}")]
    NotOnnx {
        /// The first bytes, as [`beginning`] writes them.
        begins: String,
        /// What to do.
        advice: &'static str,
    },
    /// A length reaches past the end of the message that contains it.
    #[error(
        "the file is cut short or damaged: at byte {at} a {what} of {length} bytes begins, and only \
         {left} are left; copy or export it again"
    )]
    CutShort {
        /// Offset in the file.
        at: usize,
        /// Which message or field.
        what: &'static str,
        /// Its declared length.
        length: u64,
        /// Bytes left in the containing message.
        left: usize,
    },
    /// The bytes are not valid protobuf.
    #[error("the file is damaged at byte {at}: {problem}; copy or export it again")]
    Damaged {
        /// Offset in the file.
        at: usize,
        /// The reason.
        problem: &'static str,
    },
}

/// The kinds of messages and fields that the check distinguishes.
#[derive(Clone, Copy, PartialEq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    SequenceType,
    /// A function of the model; it has nodes, as a graph does.
    Function,
    /// `TrainingInfoProto`: two graphs.
    Training,
    /// `SparseTensorProto`: two tensors.
    SparseTensor,
    /// Where a tensor's data lies: a key and a value.
    ExternalData,
    /// A message of strings and numbers; messages inside it are not checked.
    Flat,
    /// Packed varints.
    Packed,
    /// Contents not checked.
    Opaque,
}

impl Message {
    /// The kind of the field `number` of this message. Every message that `rten-onnx` or `function` decodes
    /// must be listed here; a field missing here is not checked inside.
    fn field(self, number: u64) -> Self {
        match (self, number) {
            // ModelProto: graph 7; AttributeProto: g 6, graphs 11; TrainingInfoProto: initialization 1,
            // algorithm 2.
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            // ModelProto: training_info 20, functions 25, opset_import 8, metadata_props 14; FunctionProto:
            // opset_import 9; TensorShapeProto: dim 1.
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Model, 8 | 14) | (Self::Function, 9) | (Self::Shape, 1) => Self::Flat,
            // TensorProto: int32_data 5, int64_data 7, external_data 13.
            (Self::Tensor, 5 | 7) => Self::Packed,
            (Self::Tensor, 13) => Self::ExternalData,
            // GraphProto: node 1; FunctionProto: node 7.
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            // GraphProto: initializer 5; AttributeProto: t 5, tensors 10; SparseTensorProto: values 1,
            // indices 2.
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => {
                Self::Tensor
            }
            // GraphProto: sparse_initializer 15; AttributeProto: sparse_tensor 22, sparse_tensors 23.
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            // GraphProto: input 11, output 12, value_info 13.
            (Self::Graph, 11..=13) => Self::ValueInfo,
            // NodeProto: attribute 5; FunctionProto: attribute_proto 11.
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            // ValueInfoProto: type 2; TypeProto.Sequence: elem_type 1.
            (Self::ValueInfo, 2) | (Self::SequenceType, 1) => Self::Type,
            // TypeProto: tensor_type 1, sequence_type 4; TypeProto.Tensor: shape 2.
            (Self::Type, 1) => Self::TensorType,
            (Self::Type, 4) => Self::SequenceType,
            (Self::TensorType, 2) => Self::Shape,
            _ => Self::Opaque,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Graph => "graph",
            Self::Node => "node",
            Self::Attribute => "attribute",
            Self::Tensor | Self::SparseTensor => "tensor",
            Self::Function => "function",
            Self::Training => "training",
            Self::ValueInfo => "value description",
            Self::Type | Self::TensorType | Self::Shape | Self::SequenceType => "type",
            Self::ExternalData | Self::Flat | Self::Packed | Self::Opaque => "field",
        }
    }
}

/// How deep messages may nest. A graph in a node's attribute takes three levels, so about 20 graphs within
/// each other.
const MAX_DEPTH: usize = 64;

/// The result of checking a complete ONNX model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outline<'a> {
    /// The files that tensors name for their data.
    pub data_files: BTreeSet<&'a str>,
    /// Whether a node is a `DequantizeLinear`, as in every model in the form QDQ.
    pub dequantizes: bool,
    has_graph: bool,
}

/// Checks that `bytes` is an ONNX model with a graph.
///
/// # Errors
/// [`OutlineError`] with the offset of the first error.
pub fn check(bytes: &[u8]) -> Result<Outline<'_>, OutlineError> {
    // The tag of field 1, a varint, or of field 2, 3, 4, 7 or 8 if the writer put the IR version later.
    if !matches!(bytes.first(), Some(0x08 | 0x12 | 0x1a | 0x22 | 0x3a | 0x42)) {
        return Err(not_onnx(bytes));
    }
    let mut outline = Outline::default();
    match walk(bytes, 0, Message::Model, 0, &mut outline) {
        Ok(()) if outline.has_graph => Ok(outline),
        Ok(()) => Err(not_onnx(bytes)),
        // Text can begin with a byte that is also a valid tag.
        Err(_) if looks_like_text(bytes) => Err(not_onnx(bytes)),
        Err(error) => Err(error),
    }
}

fn looks_like_text(bytes: &[u8]) -> bool {
    let start = bytes.get(..256).unwrap_or(bytes);
    start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e))
}

fn not_onnx(bytes: &[u8]) -> OutlineError {
    let start = bytes.get(..16).unwrap_or(bytes);
    let text = String::from_utf8_lossy(start).trim_start().to_lowercase();
    let advice = if text.starts_with("version https:") {
        "that is a pointer of Git LFS: fetch the file itself with `git lfs pull`"
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        "that is a web page: download the file itself"
    } else {
        "export the model to ONNX first"
    };
    OutlineError::NotOnnx { begins: beginning(start), advice }
}

/// How messages show the first bytes of a file: text in quotation marks, anything else in hexadecimal.
#[must_use]
pub fn beginning(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        _ if bytes.is_empty() => "nothing: it is empty".to_owned(),
        Ok(text) if looks_like_text(bytes) => format!("{text:?}"),
        _ => bytes.iter().fold("the bytes".to_owned(), |shown, byte| format!("{shown} {byte:02x}")),
    }
}

fn walk<'a>(
    bytes: &'a [u8],
    base: usize,
    message: Message,
    depth: usize,
    outline: &mut Outline<'a>,
) -> Result<(), OutlineError> {
    if depth > MAX_DEPTH {
        return Err(OutlineError::Damaged { at: base, problem: "messages nest too deep" });
    }
    let mut at = 0;
    while message == Message::Packed && at < bytes.len() {
        varint(bytes, &mut at, base)?;
    }
    // Key and value of an `ExternalData` entry.
    let mut entry: [&[u8]; 2] = [&[], &[]];
    while at < bytes.len() {
        let tag = varint(bytes, &mut at, base)?;
        let field = message.field(tag >> 3);
        let length = match tag & 7 {
            0 => {
                varint(bytes, &mut at, base)?;
                continue;
            }
            1 => 8,
            2 => varint(bytes, &mut at, base)?,
            5 => 4,
            _ => {
                return Err(OutlineError::Damaged {
                    at: base + at,
                    problem: "a field of unknown kind",
                });
            }
        };
        let left = bytes.len() - at;
        let inside = usize::try_from(length).ok().and_then(|n| bytes.get(at..)?.get(..n));
        let Some(inside) = inside else {
            return Err(OutlineError::CutShort { at: base + at, what: field.name(), length, left });
        };
        outline.has_graph |= message == Message::Model && field == Message::Graph;
        match (message, tag >> 3) {
            (Message::ExternalData, 1) => entry[0] = inside,
            (Message::ExternalData, 2) => entry[1] = inside,
            // NodeProto: op_type 4.
            (Message::Node, 4) => outline.dequantizes |= inside == b"DequantizeLinear",
            _ if tag & 7 == 2 && field != Message::Opaque => {
                walk(inside, base + at, field, depth + 1, outline)?;
            }
            _ => {}
        }
        at += inside.len();
    }
    if let [b"location", location] = entry {
        let problem = "the name of a data file is not UTF-8";
        let location =
            str::from_utf8(location).map_err(|_| OutlineError::Damaged { at: base, problem })?;
        outline.data_files.insert(location);
    }
    Ok(())
}

fn varint(bytes: &[u8], at: &mut usize, base: usize) -> Result<u64, OutlineError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some(byte) = bytes.get(*at) else {
            return Err(OutlineError::Damaged {
                at: base + *at,
                problem: "the file ends within a number",
            });
        };
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(OutlineError::Damaged { at: base + *at, problem: "a number longer than 64 bits" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(tag: u8, bytes: &[u8]) -> Vec<u8> {
        [&[tag, bytes.len() as u8], bytes].concat()
    }

    /// A model whose only initializer has these bytes for its `int64_data`.
    fn packed(numbers: &[u8]) -> Vec<u8> {
        [&[8, 8], &*inside(0x3a, &inside(0x2a, &inside(0x3a, numbers)))].concat()
    }

    /// A model with a function of which one operator set is these bytes.
    fn versions(bytes: &[u8]) -> Vec<u8> {
        // A tag of two bytes: field 25.
        let function = [&[0xca, 1, bytes.len() as u8 + 2], &*inside(0x4a, bytes)].concat();
        [&[8, 8], &*inside(0x3a, &[]), &function].concat()
    }

    /// A tensor whose `external_data` has this key and value.
    fn external(key: &str, value: &[u8]) -> Vec<u8> {
        inside(0x6a, &[inside(0x0a, key.as_bytes()), inside(0x12, value)].concat())
    }

    #[test]
    fn data_files_are_found_in_every_place_that_holds_tensors() {
        let tensor =
            |name: &str| [external("location", name.as_bytes()), external("offset", b"7")].concat();
        let node = |name: &str| inside(0x2a, &inside(0x2a, &tensor(name)));
        let graph = [inside(0x2a, &tensor("initializer")), inside(0x0a, &node("attribute"))];
        let mut function = inside(0xca, &inside(0x3a, &node("function")));
        // A tag of two bytes: field 25.
        function.insert(1, 1);
        let model = [vec![8, 8], inside(0x3a, &graph.concat()), function].concat();
        let found = check(&model).map(|outline| outline.data_files);
        assert_eq!(found, Ok(["attribute", "function", "initializer"].into()));
        let named = [vec![8, 8], inside(0x3a, &inside(0x2a, &external("location", &[0xff])))];
        assert!(matches!(check(&named.concat()), Err(OutlineError::Damaged { .. })));
    }

    #[test]
    fn other_files_and_damaged_models_are_refused() {
        let whole: &[u8] = &[0x08, 0x08, 0x3a, 0x04, 0x0a, 0x02, 0x22, 0x00];
        assert!(check(whole).is_ok());
        assert!(check(&packed(&[0xff, 1, 2])).is_ok());
        let cases: &[(&str, Vec<u8>, &str)] = &[
            ("empty", vec![], "begins with nothing: it is empty;"),
            ("text", b"Hello, I am a text file.".to_vec(), "not an ONNX model"),
            ("a pointer", b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull"),
            ("a web page", b"<!DOCTYPE html><html>".to_vec(), "download the file"),
            ("text that begins like a tag", b"\"quoted\"".to_vec(), "not an ONNX model"),
            (
                "png",
                b"\x89PNG\r\n\x1a\n".to_vec(),
                "begins with the bytes 89 50 4e 47 0d 0a 1a 0a;",
            ),
            ("quoted text", b"a file".to_vec(), "begins with \"a file\";"),
            ("no graph", vec![0x08, 0x08], "not an ONNX model"),
            ("cut", whole[..6].to_vec(), "cut short"),
            ("inner length", vec![0x08, 0x08, 0x3a, 0x02, 0x0a, 0x7f], "cut short"),
            ("huge length", vec![8, 8, 0x3a, 0xff, 0xff, 0xff, 0xff, 0x7f], "cut short"),
            ("group", vec![0x08, 0x08, 0x3b], "damaged"),
            ("a tag without end", [&[8, 8][..], &[0xff; 12]].concat(), "longer than 64 bits"),
            ("packed numbers without end", packed(&[0xff; 12]), "longer than 64 bits"),
            ("packed numbers cut short", packed(&[1, 0x80]), "ends within a number"),
            ("a function's operator set without end", versions(&[0xff; 12]), "longer than 64 bits"),
        ];
        for (name, bytes, says) in cases {
            let error = check(bytes).map_err(|e| e.to_string());
            assert!(error.as_ref().is_err_and(|e| e.contains(says)), "{name}: {error:?}");
        }
    }
}
