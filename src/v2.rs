//! The Open Inference Protocol, version 2, over HTTP, as in KServe, Triton and OpenVINO Model Server; their
//! clients work unchanged.
//!
//! A model's input is a tensor that the client prepares as the card says, or a batch of up to 16. Its outputs
//! are the scores, the probabilities computed from them, and the Grad-CAM maps. Every model has only version
//! `1`. Photos are posted to `/predict` instead.

mod config;
mod request;
mod response;
mod tensors;

use http::request::Parts;
use http::{Method, Response, StatusCode};
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Card, Familiar};

use crate::answer;
use crate::body::Source;
use crate::familiarity;
use crate::inference::{self, Inference, Scores};
use crate::model_fields;
use crate::models;
use crate::predict;
use crate::problem::{Problem, excerpt};
use crate::settings::Settings;
use crate::v2::tensors::Description;

pub(crate) use config::Configuration;
#[cfg(test)]
pub(crate) use request::InferRequestBody;
#[cfg(test)]
pub(crate) use response::Inferred;

/// The only version of every model.
const VERSION: &str = "1";

/// The platform of every model: where it came from, whichever engine runs it.
const PLATFORM: &str = "onnx_onnxv1";

/// The part of `path` after `/v2`, if it is a path of this protocol.
#[must_use]
pub(crate) fn below(path: &str) -> Option<&str> {
    path.strip_prefix("/v2").filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers the request for `path`, a result of [`below`]. Errors have the protocol's own form.
#[must_use]
pub(crate) fn answer<S: Source>(
    head: &Parts,
    path: &str,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
) -> Response<Vec<u8>> {
    route(head, path, source, settings, inference).unwrap_or_else(|problem| refusal(&problem))
}

fn route<S: Source>(
    head: &Parts,
    path: &str,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
) -> Result<Response<Vec<u8>>, Problem> {
    let segments: Vec<&str> = path.split('/').skip(1).filter(|part| !part.is_empty()).collect();
    // A version may follow the model.
    let (model, action) = match segments.as_slice() {
        ["models", model, "versions", version, action @ ..] => {
            check_version(version)?;
            (Some(*model), action)
        }
        ["models", model, action @ ..] => (Some(*model), action),
        other => (None, other),
    };
    let posts = matches!((model, action), (Some(_), ["infer"]) | (None, ["repository", "index"]));
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let is_allowed = if posts { head.method == Method::POST } else { reads };
    let allow = || match is_allowed {
        true => Ok(()),
        false => Err(Problem::MethodNotAllowed {
            method: excerpt(head.method.as_str()),
            allow: if posts { "POST" } else { "GET, HEAD" },
        }),
    };
    match (model, action) {
        (None, []) => allow().and_then(|()| answer::json(&Server::this())),
        (None, ["health", "live"]) => allow().and_then(|()| answer::json(&Live { live: true })),
        (None, ["health", "ready"]) => allow().and_then(|()| ready(settings)),
        (None, ["repository", "index"]) => allow().and_then(|()| index(settings)),
        (Some(name), []) => allow().and_then(|()| metadata(settings, name)),
        (Some(name), ["config"]) => {
            allow().and_then(|()| answer::json(&Configuration::of(&served(settings, name)?)))
        }
        (Some(name), ["ready"]) => allow().and_then(|()| model_ready(settings, inference, name)),
        (Some(name), ["infer"]) => {
            allow().and_then(|()| infer(head, source, settings, inference, name))
        }
        _ => Err(Problem::UnknownPath { path: excerpt(head.uri.path()) }),
    }
}

/// The main path of this protocol: read, infer, answer.
fn infer<S: Source>(
    head: &Parts,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
    name: &str,
) -> Result<Response<Vec<u8>>, Problem> {
    predict::accepts_photos(settings)?;
    let card = served(settings, name)?;
    let (asked, batch) = request::read(head, source, settings.max_body, &card)?;
    let fields = model_fields::tensors(&card, &[], None)?;
    let is_batch = batch.rows > 1;
    let run = |(number, row)| {
        let scores = inference::run(inference, &card, row, fields.clone(), asked.wants_cam())?;
        let familiar = familiarity::read(&scores, &card, settings.unfamiliar);
        let result = familiar.map(|familiar| (scores, familiar));
        result.map_err(|problem| if is_batch { problem.of_row(number) } else { problem })
    };
    let rows: Vec<(Scores, Option<Familiar>)> =
        batch.rows().enumerate().map(run).collect::<Result<_, Problem>>()?;
    response::write(&card, &asked, &rows)
}

/// The card of the model `name`, without its Grad-CAM output if the operator switched it off.
fn served(settings: &Settings, name: &str) -> Result<Card, Problem> {
    let mut card = models::find(settings, Some(name))?;
    card.gradcam = card.gradcam.filter(|_| settings.gradcam);
    Ok(card)
}

fn check_version(version: &str) -> Result<(), Problem> {
    match version {
        VERSION => Ok(()),
        other => Err(Problem::UnknownVersion { version: excerpt(other) }),
    }
}

/// Name and version of the server.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "ServerMetadata"))]
pub(crate) struct Server {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 4],
}

impl Server {
    fn this() -> Self {
        let extensions =
            ["binary_tensor_data", "classification", "model_configuration", "model_repository"];
        Self { name: "skincell", version: env!("CARGO_PKG_VERSION"), extensions }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct Live {
    live: bool,
}

/// Whether there are mounted models and all have a valid card.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct Ready {
    ready: bool,
}

/// Reads cards only, so that frequent probes do not keep models loaded.
fn ready(settings: &Settings) -> Result<Response<Vec<u8>>, Problem> {
    let names = models::names(settings);
    let ready =
        !names.is_empty() && names.iter().all(|name| models::find(settings, Some(name)).is_ok());
    let mut response = answer::json(&Ready { ready })?;
    if !ready {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(response)
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct ModelReady {
    name: String,
    ready: bool,
}

/// Asks the host whether it grants the model. Whether its files can be loaded is not known before a
/// prediction.
fn model_ready(
    settings: &Settings,
    inference: &impl Inference,
    name: &str,
) -> Result<Response<Vec<u8>>, Problem> {
    let card = served(settings, name)?;
    inference.load(&card.name)?;
    answer::json(&ModelReady { name: card.name, ready: true })
}

/// A model's inputs and outputs.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "ModelMetadata"))]
pub(crate) struct Metadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    inputs: Vec<Description>,
    outputs: Vec<Description>,
}

fn metadata(settings: &Settings, name: &str) -> Result<Response<Vec<u8>>, Problem> {
    let card = served(settings, name)?;
    answer::json(&Metadata {
        inputs: vec![tensors::input(&card).described()],
        outputs: tensors::outputs(&card)
            .into_iter()
            .map(|(_, output)| output.described())
            .collect(),
        name: card.name,
        versions: [VERSION],
        platform: PLATFORM,
    })
}

/// A model in the repository, as in Triton.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct Indexed {
    name: String,
    version: &'static str,
    state: &'static str,
    reason: String,
}

fn index(settings: &Settings) -> Result<Response<Vec<u8>>, Problem> {
    let entry = |name: String| {
        let reason = models::find(settings, Some(&name)).err().map(|problem| problem.to_string());
        let state = if reason.is_none() { "READY" } else { "UNAVAILABLE" };
        Indexed { name, version: VERSION, state, reason: reason.unwrap_or_default() }
    };
    answer::json(&models::names(settings).into_iter().map(entry).collect::<Vec<_>>())
}

/// An error in the protocol's own form.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "InferenceError"))]
pub(crate) struct Refusal {
    error: String,
}

fn refusal(problem: &Problem) -> Response<Vec<u8>> {
    let body = serde_json::to_vec(&Refusal { error: problem.to_string() }).unwrap_or_default();
    answer::refusal_with(problem, "application/json", body)
}

#[cfg(test)]
#[path = "v2/tests.rs"]
mod tests;
