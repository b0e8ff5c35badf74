//! Reads an inference request: JSON, with the tensor in it or as raw bytes after it.
//!
//! The shape is known from the card except for the batch, so a request cannot make the component reserve much
//! memory: a tensor must have exactly the model's name and type and a shape of at most [`MAX_BATCH`] rows,
//! and more numbers than that are refused.

use std::borrow::Cow;
use std::fmt;

use http::request::Parts;
#[cfg(test)]
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use skincell_vision::card::{Card, Dtype};
use skincell_vision::tensor::PhotoTensor;

use super::tensors::{self, MAX_BATCH, Output, Tensor};
use crate::body::{Body, Source};
use crate::json_form::without_bom;
use crate::problem::{Problem, excerpt};

/// The header with the length of the JSON in bytes; raw tensors follow it.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// Longest list of tensors or axes that is read.
const LONGEST_LIST: usize = 16;

/// Most numbers of a batch's answer in JSON: as text they take about a quarter of an instance's memory.
const MAX_NUMBERS: u64 = 1 << 20;

/// The request without its input tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InferRequest {
    /// Returned with the answer.
    pub(super) id: Option<String>,
    /// The requested outputs, in order.
    pub(super) outputs: Vec<RequestedOutput>,
}

/// A requested output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestedOutput {
    pub(super) output: Output,
    pub(super) tensor: Tensor,
    /// As raw bytes after the JSON.
    pub(super) is_binary: bool,
    /// As this many classes, `score:index:label` each, in descending order.
    pub(super) classification: Option<usize>,
}

impl InferRequest {
    /// Whether the Grad-CAM output is needed.
    pub(super) fn wants_cam(&self) -> bool {
        self.outputs.iter().any(|wanted| matches!(wanted.output, Output::Cam | Output::CamClasses))
    }
}

/// The input: the rows of a batch, one after another.
pub(super) struct Batch {
    pub(super) rows: usize,
    /// The shape of a row, as a batch of 1.
    dimensions: Vec<u32>,
    dtype: Dtype,
    data: Vec<u8>,
}

impl Batch {
    /// The rows, each as a batch of 1: the form that models take.
    pub(super) fn rows(&self) -> impl Iterator<Item = PhotoTensor> {
        let size = (self.data.len() / self.rows).max(1);
        self.data.chunks(size).map(|row| PhotoTensor {
            dimensions: self.dimensions.clone(),
            dtype: self.dtype,
            data: row.to_vec(),
        })
    }
}

/// The body of an inference request.
#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "InferenceRequest"))]
pub(crate) struct InferRequestBody<'a> {
    /// Returned with the answer.
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    /// The model's only input.
    #[serde(borrow)]
    #[cfg_attr(test, schemars(with = "Vec<Input<'a>>", length(min = 1, max = 1)))]
    inputs: List<Input<'a>>,
    /// The requested outputs; all if missing or empty.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Option<Vec<Requested<'a>>>", length(max = 16)))]
    outputs: Option<List<Requested<'a>>>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "InputTensor"))]
struct Input<'a> {
    /// The input's name, as in the model's metadata.
    #[serde(borrow)]
    name: Cow<'a, str>,
    /// The input's shape, as in the model's metadata, with a batch of 1 to 16.
    #[cfg_attr(test, schemars(with = "Vec<u64>", length(max = 16)))]
    shape: List<u64>,
    /// The input's element type, `FP32` or `UINT8`, as in the model's metadata.
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
    /// The numbers in row-major order, flat or nested as the shape says; missing if they follow the JSON as
    /// raw bytes.
    // Kept as text, because the numbers are read only after the rest matched the card.
    #[serde(borrow, default)]
    #[cfg_attr(test, schemars(with = "Option<Vec<f64>>"))]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "RequestedOutput"))]
struct Requested<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    parameters: Parameters,
}

/// The supported parameters of requests, inputs and outputs; others are ignored.
#[derive(Default, Deserialize)]
#[cfg_attr(test, derive(JsonSchema))]
struct Parameters {
    /// On an input: its number of raw bytes after the JSON.
    binary_data_size: Option<u64>,
    /// On an output: answer with raw bytes after the JSON.
    binary_data: Option<bool>,
    /// On the request: `binary_data` for every output.
    binary_data_output: Option<bool>,
    /// On an output: answer with this many `score:index:label`, in descending order.
    classification: Option<u64>,
}

/// Reads the request and the batch for `card`'s model.
///
/// # Errors
/// [`Problem::BadInference`], and the problems of reading a body.
pub(super) fn read<S: Source>(
    head: &Parts,
    source: S,
    max_body: u64,
    card: &Card,
) -> Result<(InferRequest, Batch), Problem> {
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let mut body = Body::of(head, source, max_body)?.read_all()?;
    let end = match head.headers.get(JSON_LENGTH) {
        None => body.len(),
        Some(_) => text(JSON_LENGTH)
            .and_then(|end| end.parse().ok())
            .filter(|end| *end <= body.len())
            .ok_or_else(|| bad(format!("has an {JSON_LENGTH} beyond its {} bytes", body.len())))?,
    };
    let (json, raw) = body.split_at(end);
    let parsed: InferRequestBody<'_> =
        serde_json::from_slice(without_bom(json)).map_err(not_json)?;
    let request = infer_request(&parsed, card)?;
    let (rows, inline) = inline(&parsed, card, raw.len())?;
    check_answer(&request, rows)?;
    drop(parsed);
    let data = match inline {
        Some(data) => data,
        None => {
            body.drain(..end);
            body
        }
    };
    let shape = tensors::input(card).shape(1);
    let dimensions = shape.iter().filter_map(|length| u32::try_from(*length).ok()).collect();
    check_finite(card, &data)?;
    Ok((request, Batch { rows, dimensions, dtype: card.input.dtype, data }))
}

/// Checks that a batch's answer in JSON fits into memory. One row does: a card limits its numbers.
fn check_answer(request: &InferRequest, rows: usize) -> Result<(), Problem> {
    let texts = request.outputs.iter().filter(|requested| !requested.is_binary);
    let row: u64 = texts.filter_map(|requested| requested.tensor.elements()).sum();
    let numbers = row.saturating_mul(rows as u64);
    if rows == 1 || numbers <= MAX_NUMBERS {
        return Ok(());
    }
    Err(bad(format!(
        "asks for {numbers} numbers as JSON, of which a batch may have {MAX_NUMBERS}: ask for \
         binary_data, for fewer outputs or for fewer rows"
    )))
}

/// The number of rows, and the tensor's elements from the JSON, or `None` if they are the `raw` bytes after
/// it.
fn inline(
    body: &InferRequestBody<'_>,
    card: &Card,
    raw: usize,
) -> Result<(usize, Option<Vec<u8>>), Problem> {
    let expected = tensors::input(card);
    let [input] = body.inputs.0.as_slice() else {
        let found = body.inputs.0.len();
        return Err(bad(format!("has {found} inputs: send the one, {}", say(&expected))));
    };
    let rows = input.shape.0.first().copied().filter(|rows| (1..=MAX_BATCH).contains(rows));
    let is_same = input.name == expected.name
        && input.datatype == expected.datatype
        && rows.is_some_and(|rows| input.shape.0 == expected.shape(rows));
    let Some(rows) = rows.filter(|_| is_same) else {
        let (name, datatype) = (excerpt(&input.name), excerpt(&input.datatype));
        let found = format!("{name:?} {datatype} {:?}", input.shape.0);
        return Err(bad(format!("has the input {found}: send {}", say(&expected))));
    };
    let elements = expected.elements().and_then(|row| usize::try_from(row.checked_mul(rows)?).ok());
    let elements = elements.ok_or_else(|| bad("is for a tensor that is too large".to_owned()))?;
    let bytes = elements.saturating_mul(tensors::element_size(card.input.dtype));
    let data = match (input.data, input.parameters.binary_data_size) {
        (None, Some(declared)) if declared == bytes as u64 && raw == bytes => None,
        (None, Some(declared)) => {
            return Err(bad(format!(
                "declares {declared} bytes of {:?} and has {raw} after its JSON: send {bytes}",
                expected.name
            )));
        }
        (Some(data), None) if raw == 0 => {
            Some(numbers(data, card.input.dtype, &input.shape.0, (elements, bytes))?)
        }
        (Some(_), _) => {
            return Err(bad("has its tensor twice: send `data` or raw bytes".to_owned()));
        }
        (None, None) => {
            let why = "has no tensor: send `data`, or raw bytes and binary_data_size";
            return Err(bad(why.to_owned()));
        }
    };
    Ok((usize::try_from(rows).unwrap_or(1), data))
}

/// Reads `data`, the JSON of a tensor of this shape with so many elements, which take so many bytes.
fn numbers(
    data: &RawValue,
    dtype: Dtype,
    shape: &[u64],
    (elements, bytes): (usize, usize),
) -> Result<Vec<u8>, Problem> {
    // Every number takes two bytes of JSON at least, so the text limits what is reserved.
    let most = data.get().len().saturating_mul(tensors::element_size(dtype)) / 2 + 1;
    let mut flat = Flat { dtype, most: bytes, data: Vec::with_capacity(bytes.min(most)) };
    let mut reader = serde_json::Deserializer::from_str(data.get());
    Level { flat: &mut flat, axes: shape, is_outermost: true }
        .deserialize(&mut reader)
        .map_err(not_json)?;
    match flat.data.len() == bytes {
        true => Ok(flat.data),
        false => Err(bad(format!("has fewer than the {elements} numbers of its shape"))),
    }
}

/// The requested outputs: the named ones, or all.
fn infer_request(body: &InferRequestBody<'_>, card: &Card) -> Result<InferRequest, Problem> {
    let known = tensors::outputs(card);
    let all_binary = body.parameters.binary_data_output.unwrap_or(false);
    let plain = |(output, tensor): &(Output, Tensor)| RequestedOutput {
        output: *output,
        tensor: tensor.clone(),
        is_binary: all_binary,
        classification: None,
    };
    let outputs = match &body.outputs {
        None => known.iter().map(plain).collect(),
        Some(List(requested)) if requested.is_empty() => known.iter().map(plain).collect(),
        Some(List(requested)) => requested
            .iter()
            .map(|requested| {
                let found = known.iter().find(|(_, tensor)| tensor.name == requested.name);
                let found = found.ok_or_else(|| unknown_output(&requested.name, &known))?;
                let classes = requested.parameters.classification.filter(|classes| *classes > 0);
                if classes.is_some() && matches!(found.0, Output::Cam | Output::CamClasses) {
                    let name = &found.1.name;
                    return Err(bad(format!(
                        "asks to classify {name:?}: this output does not support classification"
                    )));
                }
                Ok(RequestedOutput {
                    is_binary: requested.parameters.binary_data.unwrap_or(all_binary),
                    classification: classes.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
                    ..plain(found)
                })
            })
            .collect::<Result<_, _>>()?,
    };
    Ok(InferRequest { id: body.id.as_deref().map(str::to_owned), outputs })
}

fn unknown_output(name: &str, known: &[(Output, Tensor)]) -> Problem {
    let known: Vec<&str> = known.iter().map(|(_, tensor)| tensor.name.as_str()).collect();
    bad(format!("asks for the output {:?}: there are {known:?}", excerpt(name)))
}

fn check_finite(card: &Card, data: &[u8]) -> Result<(), Problem> {
    let floats = data.as_chunks::<4>().0;
    let at = floats.iter().position(|bytes| !f32::from_le_bytes(*bytes).is_finite());
    match (card.input.dtype, at) {
        (Dtype::F32, Some(at)) => Err(bad(format!("has a number that is not finite, at {at}"))),
        _ => Ok(()),
    }
}

fn say(tensor: &Tensor) -> String {
    let Tensor { name, datatype, .. } = tensor;
    format!("{name:?} {datatype} {:?}, or a batch of up to {MAX_BATCH}", tensor.shape(1))
}

fn bad(why: String) -> Problem {
    Problem::BadInference { why }
}

fn not_json(error: serde_json::Error) -> Problem {
    bad(format!("cannot be read ({})", excerpt(&error.to_string())))
}

/// A list of at most [`LONGEST_LIST`] elements.
struct List<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {LONGEST_LIST}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut read = Vec::new();
                while read.len() < LONGEST_LIST {
                    match list.next_element()? {
                        Some(element) => read.push(element),
                        None => return Ok(List(read)),
                    }
                }
                match list.next_element::<IgnoredAny>()? {
                    Some(_) => Err(A::Error::invalid_length(LONGEST_LIST + 1, &self)),
                    None => Ok(List(read)),
                }
            }
        }
        deserializer.deserialize_seq(ListVisitor(std::marker::PhantomData))
    }
}

/// Elements in row-major order, little-endian, at most `most` bytes.
struct Flat {
    dtype: Dtype,
    most: usize,
    data: Vec<u8>,
}

impl Flat {
    fn push<E: Error>(&mut self, number: f64) -> Result<(), E> {
        if self.data.len() >= self.most {
            return Err(E::custom("`data` has more numbers than its shape"));
        }
        match self.dtype {
            Dtype::F32 => self.data.extend((number as f32).to_le_bytes()),
            Dtype::U8 if (0.0..=255.0).contains(&number) && number.fract() == 0.0 => {
                self.data.push(number as u8);
            }
            Dtype::U8 => return Err(E::custom("UINT8 takes whole numbers from 0 to 255")),
        }
        Ok(())
    }
}

/// What a list holds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Number,
    List,
}

/// A number, or a list of all numbers of `axes`, or of as many lists as the first of them is long.
struct Level<'a> {
    flat: &'a mut Flat,
    /// Lengths of this list's axes, the slowest first.
    axes: &'a [u64],
    is_outermost: bool,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = Held;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Held, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = Held;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_outermost {
            "a list of numbers"
        } else {
            "numbers, or lists of them"
        })
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Held, E> {
        if self.is_outermost {
            return Err(E::invalid_type(serde::de::Unexpected::Float(number), &self));
        }
        self.flat.push(number).map(|()| Held::Number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Held, E> {
        self.visit_f64(number as f64)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Held, E> {
        self.visit_f64(number as f64)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Held, A::Error> {
        let Some((outer, inner)) = self.axes.split_first() else {
            return Err(A::Error::custom("`data` is nested deeper than its shape"));
        };
        let (mut length, mut held) = (0, Held::Number);
        loop {
            let level = Level { flat: &mut *self.flat, axes: inner, is_outermost: false };
            let Some(next) = list.next_element_seed(level)? else { break };
            if length > 0 && next != held {
                return Err(A::Error::custom("`data` has numbers and lists side by side"));
            }
            (length, held) = (length + 1, next);
        }
        let expected = match held {
            Held::List => *outer,
            // How many numbers a flat list has is checked by its reader.
            Held::Number if self.is_outermost => length,
            Held::Number => self.axes.iter().product(),
        };
        if length == expected {
            return Ok(Held::List);
        }
        Err(A::Error::custom(format!(
            "`data` is not nested as its shape says: a list of {length} where {expected} belong; a flat list \
             needs no nesting"
        )))
    }
}
