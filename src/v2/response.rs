//! Writes the answer to an inference request: JSON, followed by the tensors that were requested as raw
//! bytes.

use http::Response;
use http::header::{HeaderName, HeaderValue};
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Card, Familiar};
use skincell_vision::rank;

use super::VERSION;
use super::request::{InferRequest, JSON_LENGTH, RequestedOutput};
use super::tensors::Output;
use crate::answer;
use crate::familiarity;
use crate::inference::{InferenceError, Scores};
use crate::problem::Problem;

/// The answer of a model.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "InferenceResponse"))]
pub(crate) struct Inferred<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "OutputTensor"))]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Size>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Values>,
}

/// The number of this tensor's raw bytes after the JSON.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "BinarySize"))]
struct Size {
    binary_data_size: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[serde(untagged)]
#[cfg_attr(test, schemars(rename = "TensorData"))]
enum Values {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

/// Writes the requested outputs of the rows of a batch.
///
/// # Errors
/// [`Problem::Scores`] or [`Problem::Inference`] for numbers that are not finite.
pub(super) fn write(
    card: &Card,
    request: &InferRequest,
    batch: &[(Scores, Option<Familiar>)],
) -> Result<Response<Vec<u8>>, Problem> {
    let probabilities = |(scores, _): &(Scores, Option<Familiar>)| {
        rank::probabilities(&scores.scores, &card.output).map(|plain| rank::answered(&plain, card))
    };
    let probabilities: Vec<Vec<f32>> = batch.iter().map(probabilities).collect::<Result<_, _>>()?;
    let mut raw = Vec::new();
    let mut outputs = Vec::with_capacity(request.outputs.len());
    for requested in &request.outputs {
        let row = |(scores, probabilities): (&Scores, &Vec<f32>)| match requested.output {
            Output::Scores => scores.scores.clone(),
            Output::Probabilities => probabilities.clone(),
            Output::Cam => scores.cam.as_ref().map(|cam| cam.maps.clone()).unwrap_or_default(),
            Output::Familiarity => scores.familiarity.into_iter().collect(),
            Output::CamClasses => {
                scores.cam.as_ref().map(|cam| cam.classes.clone()).unwrap_or_default()
            }
        };
        let scores = batch.iter().map(|(scores, _)| scores);
        let rows: Vec<Vec<f32>> = scores.zip(&probabilities).map(row).collect();
        rows.iter().try_for_each(|row| finite(card, requested.output, row))?;
        outputs.push(tensor(card, requested, &rows, &mut raw));
    }
    let has_binary = request.outputs.iter().any(|requested| requested.is_binary);
    let (model_name, id) = (card.name.as_str(), request.id.as_deref());
    let mut response = answer::json(&Inferred { model_name, model_version: VERSION, id, outputs })?;
    let headers = batch.iter().zip(&probabilities).filter_map(|((_, familiar), probabilities)| {
        familiarity::certainty(familiar.clone(), probabilities, card).header(card)
    });
    let headers: Vec<_> = headers.collect();
    let header = match headers.as_slice() {
        [one] => Some(one.clone()),
        several => familiarity::several(several),
    };
    if let Some(value) = header {
        response.headers_mut().insert(familiarity::HEADER, value);
    }
    if has_binary {
        let length = response.body().len();
        response.body_mut().append(&mut raw);
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(JSON_LENGTH), HeaderValue::from(length));
        let octets = HeaderValue::from_static("application/octet-stream");
        headers.insert(http::header::CONTENT_TYPE, octets);
    }
    Ok(response)
}

/// One output, in the JSON or appended to `raw`.
fn tensor<'a>(
    card: &Card,
    requested: &'a RequestedOutput,
    rows: &[Vec<f32>],
    raw: &mut Vec<u8>,
) -> Tensor<'a> {
    let count = rows.len() as u64;
    let (values, datatype, shape) = match requested.classification {
        Some(classes) => {
            let texts: Vec<String> =
                rows.iter().flat_map(|row| classified(card, row, classes)).collect();
            let shape = vec![count, texts.len() as u64 / count.max(1)];
            (Values::Texts(texts), "BYTES", shape)
        }
        None => {
            let tensor = &requested.tensor;
            (Values::Numbers(rows.concat()), tensor.datatype, tensor.shape(count))
        }
    };
    let name = &requested.tensor.name;
    if !requested.is_binary {
        return Tensor { name, datatype, shape, parameters: None, data: Some(values) };
    }
    let before = raw.len();
    match values {
        Values::Numbers(numbers) => raw.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        // Each element of BYTES is preceded by its length in 4 bytes.
        Values::Texts(texts) => {
            for text in texts {
                raw.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                raw.extend(text.as_bytes());
            }
        }
    }
    let parameters = Some(Size { binary_data_size: raw.len() - before });
    Tensor { name, datatype, shape, parameters, data: None }
}

/// The highest values as Triton's classification extension writes them: `score:index:label`.
fn classified(card: &Card, values: &[f32], classes: usize) -> Vec<String> {
    let text = |ranked: rank::Ranked| {
        let label = card.classes.get(ranked.index).map_or("", |class| class.label.as_str());
        format!("{:.6}:{}:{label}", ranked.probability, ranked.index)
    };
    rank::rank(values, classes).into_iter().map(text).collect()
}

/// JSON cannot represent infinity or NaN.
fn finite(card: &Card, output: Output, values: &[f32]) -> Result<(), InferenceError> {
    match values.iter().position(|value| !value.is_finite()).filter(|_| output == Output::Cam) {
        None => Ok(()),
        Some(at) => Err(InferenceError::Failed {
            model: card.name.clone(),
            why: format!("Grad-CAM value {at} is not finite"),
        }),
    }
}
