//! The component: a photo of skin in, ranked classes and a Grad-CAM heatmap out.
//!
//! A WASI 0.2 HTTP component (`entry`) that runs inference through its host's wasi-nn (`nn`). Everything
//! between the two is plain functions, tested natively. Image processing is in `skincell_vision`. The
//! component contains no model and keeps nothing between requests: an instance serves one request and is
//! dropped.

pub mod answer;
pub mod body;
pub mod clock;
mod coding;
pub mod device;
mod encoded;
#[cfg(target_env = "p2")]
mod entry;
pub mod explain;
pub mod familiarity;
mod fields;
#[cfg(test)]
mod flow_tests;
pub mod inference;
mod json_form;
mod model_fields;
pub mod models;
mod multipart;
pub mod negotiate;
#[cfg(target_env = "p2")]
mod nn;
#[cfg(test)]
mod openapi;
pub mod options;
pub mod page;
mod parameters;
pub mod problem;
pub mod settings;
pub mod upload;
mod url_form;
mod v2;

use http::request::Parts;
use http::{Method, Request, Response};
use skincell_vision::card::Card;
use skincell_vision::photo::Limits;
use skincell_vision::view::{self, View};
use skincell_vision::{rank, tensor};

use crate::body::Source;
use crate::clock::{Clock, Timing};
use crate::explain::HeatmapRequest;
use crate::inference::Inference;
use crate::options::DEFAULT_TOP_K;
use crate::problem::{Problem, excerpt};
use crate::settings::Settings;

/// The body of `/openapi.json`; see `openapi`.
const OPENAPI: &[u8] = include_bytes!("openapi.json");

/// Answers a request; `variable` looks up environment variables.
pub fn respond<S: Source>(
    request: Request<S>,
    variable: impl Fn(&str) -> Option<String>,
    inference: &impl Inference,
) -> Response<Vec<u8>> {
    let (head, source) = request.into_parts();
    let outcome = Settings::read(variable)
        .map_err(Problem::from)
        .and_then(|settings| route(&head, source, &settings, inference));
    answer::finish(&head, outcome)
}

/// Answers a request to `/predict`, whatever its path: for a program that serves nothing else.
pub fn respond_to_photo<S: Source>(
    request: Request<S>,
    settings: &Settings,
    inference: &impl Inference,
) -> Response<Vec<u8>> {
    let (head, source) = request.into_parts();
    let outcome = predict(&head, source, settings, inference);
    answer::finish(&head, outcome)
}

/// Dispatches a request by path and method. `/health` only shows that the component runs; it does not look
/// at models.
fn route<S: Source>(
    head: &Parts,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
) -> Result<Response<Vec<u8>>, Problem> {
    let path = head.uri.path();
    if let Some(below) = v2::below(path) {
        return Ok(v2::answer(head, below, source, settings, inference));
    }
    let (is_page, is_device) = (page::has(path), device::is_path(path));
    let allow = match path {
        "/predict" => "POST",
        "/health" | "/models" | "/openapi.json" => "GET, HEAD",
        _ if is_page || is_device => "GET, HEAD",
        _ => return Err(Problem::UnknownPath { path: excerpt(path) }),
    };
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match path {
        "/predict" if head.method == Method::POST => predict(head, source, settings, inference),
        "/health" if reads => answer::json(&answer::Health::OK),
        "/models" if reads => answer::json(&models::list(settings)),
        "/openapi.json" if reads => Ok(answer::with_type("application/json", OPENAPI.into())),
        _ if is_page && reads => Ok(page::answer(path, settings.page)),
        _ if is_device && reads => device::answer(head, settings),
        _ => Err(Problem::MethodNotAllowed { method: excerpt(head.method.as_str()), allow }),
    }
}

/// The main path: read, decode, infer, rank, explain, answer.
fn predict<S: Source>(
    head: &Parts,
    source: S,
    settings: &Settings,
    inference: &impl Inference,
) -> Result<Response<Vec<u8>>, Problem> {
    let mut clock = Clock::start();
    accepts_photos(settings)?;
    let form = negotiate::answer_form(&head.headers)?;
    let upload = upload::read(head, source, settings.max_body)?;
    let card = models::find(settings, upload.options.model.as_deref())?;
    let heatmap_request = HeatmapRequest::of(settings, &upload.options, &card)?;
    let fields = model_fields::tensors(&card, &upload.options.fields, heatmap_request.class())?;
    let top_k = upload.options.top_k.unwrap_or(DEFAULT_TOP_K);
    clock.lap();

    let seen = decode(upload.photo, &card, settings)?;
    let tensor = tensor::from_photo(&seen.photo, &card.input).map_err(internal("the tensor"))?;
    let decode = clock.lap();

    let with_cam = heatmap_request.is_make();
    let scores = inference::run(inference, &card, tensor, fields, with_cam)?;
    let inference = clock.lap();

    let familiarity = familiarity::read(&scores, &card, settings.unfamiliar)?;
    let plain = rank::probabilities(&scores.scores, &card.output)?;
    let probabilities = rank::answered(&plain, &card);
    let ranking = rank::rank(&probabilities, top_k);
    let heatmap = explain::explain(&heatmap_request, &card, &seen, &scores, &plain, &ranking)?;
    let certainty = familiarity::certainty(familiarity, &probabilities, &card);
    let timing = Timing { decode, inference, heatmap: clock.lap(), total: clock.total() };
    let result = answer::Outcome { ranking, heatmap, region: seen.region, certainty };
    answer::prediction(form, &card, result, timing)
}

/// Checks that the service takes photos and tensors at all.
pub(crate) fn accepts_photos(settings: &Settings) -> Result<(), Problem> {
    if settings.predict { Ok(()) } else { Err(Problem::PredictOff) }
}

/// The photo as the model sees it. Takes the file's bytes by value, to free them before inference.
fn decode(bytes: Vec<u8>, card: &Card, settings: &Settings) -> Result<View, Problem> {
    let photo = view::decode_as(&bytes, &card.input, &Limits::default(), settings.colors)?;
    drop(bytes);
    view::view(&photo, &card.input).map_err(internal("resizing"))
}

fn internal<E: std::error::Error>(step: &'static str) -> impl FnOnce(E) -> Problem {
    move |error| Problem::Internal { step, why: error.to_string() }
}
