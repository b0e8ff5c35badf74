//! The component: a photo of skin in, ranked classes and a Grad-CAM heatmap out.
//!
//! A WASI 0.2 HTTP component (`entry`) that runs inference through its host's wasi-nn (`nn`). Everything
//! between the two is plain functions, tested natively. Image processing is in `skincell_vision`. The
//! component contains no model and keeps nothing between requests: an instance serves one request and is
//! dropped.

pub mod answer;
mod api_page;
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
mod html;
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
mod plain_page;
mod predict;
pub mod problem;
mod question;
pub mod settings;
mod several;
pub mod upload;
mod url_form;
mod v2;

use http::request::Parts;
use http::{Method, Request, Response};

use crate::body::Source;
use crate::inference::Inference;
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
    let outcome = predict::predict(&head, source, settings, inference);
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
    // Frameworks of the web write a slash at the end.
    let path = match head.uri.path() {
        "/predict/" => "/predict",
        "/models/" => "/models",
        "/health/" => "/health",
        path => path,
    };
    if let Some(below) = v2::below(path) {
        return Ok(v2::answer(head, below, source, settings, inference));
    }
    let (is_page, is_device) = (page::has(path), device::is_path(path));
    let allow = match path {
        "/predict" => "POST",
        "/health" | "/models" | "/openapi.json" | "/docs" | "/docs/" => "GET, HEAD",
        _ if is_page || is_device => "GET, HEAD",
        _ => return Err(Problem::UnknownPath { path: excerpt(path) }),
    };
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    match path {
        "/predict" if head.method == Method::POST => {
            predict::predict(head, source, settings, inference)
        }
        "/health" if reads => answer::json(&answer::Health::OK),
        "/models" if reads => answer::json(&models::list(settings)),
        "/openapi.json" if reads => Ok(answer::with_type("application/json", OPENAPI.into())),
        "/docs" if reads => Ok(api_page::answer(settings, OPENAPI)),
        "/docs/" if reads => Ok(api_page::moved()),
        _ if is_page && reads => Ok(page::answer(path, settings.page)),
        _ if is_device && reads => device::answer(head, settings),
        _ => Err(Problem::MethodNotAllowed { method: excerpt(head.method.as_str()), allow }),
    }
}
