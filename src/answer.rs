//! Turns results and problems into HTTP responses.
//!
//! It defines the members of the answer, and the headers of every response.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
#[cfg(test)]
use schemars::JsonSchema;
use serde::Serialize;
use skincell_vision::card::{Basis, Card, Familiar};
use skincell_vision::rank::Ranked;
use skincell_vision::view::Region;

use crate::clock::Timing;
use crate::coding;
use crate::explain::{ClassMap, Explanation};
use crate::familiarity::{self, Certainty};
use crate::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The result for a photo.
#[derive(Debug)]
pub struct Outcome {
    /// The most likely classes.
    pub ranking: Vec<Ranked>,
    /// The heatmap, or why there is none.
    pub heatmap: Explanation,
    /// The part of the photo that the model saw.
    pub region: Region,
    /// How far the classes may be relied on.
    pub certainty: Certainty,
}

/// The answer to a photo as JSON.
///
/// # Errors
/// As [`json`].
pub fn prediction(
    card: &Card,
    outcome: &Outcome,
    timing: Timing,
) -> Result<Response<Vec<u8>>, Problem> {
    let certainty = outcome.certainty.header(card);
    Ok(annotated(json(&PredictResponse::of(card, outcome, timing))?, timing, certainty))
}

/// The response with its timing and its certainty in headers.
#[must_use]
pub fn annotated(
    mut response: Response<Vec<u8>>,
    timing: Timing,
    certainty: Option<HeaderValue>,
) -> Response<Vec<u8>> {
    if let Ok(value) = HeaderValue::from_str(&timing.header()) {
        response.headers_mut().insert(HeaderName::from_static("server-timing"), value);
    }
    if let Some(value) = certainty {
        response.headers_mut().insert(familiarity::HEADER, value);
    }
    response
}

/// The drawn heatmap alone as the answer to a photo.
///
/// # Errors
/// [`Problem::NoHeatmap`] if there is none.
pub fn overlay(heatmap: Explanation) -> Result<Response<Vec<u8>>, Problem> {
    match heatmap {
        Explanation::Shown { png, .. } => Ok(with_type("image/png", png)),
        Explanation::Missing(why) => Err(Problem::NoHeatmap { why }),
        Explanation::Maps(_) => {
            let why = "the request says heatmap=maps".to_owned();
            Err(Problem::NoHeatmap { why })
        }
    }
}

/// The answer of `GET /health`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(crate) struct Health {
    status: &'static str,
}

impl Health {
    /// The component runs.
    pub(crate) const OK: Self = Self { status: "ok" };
}

/// A value as a JSON response.
///
/// # Errors
/// [`Problem::Internal`] for a value without a JSON form.
pub fn json(value: &impl Serialize) -> Result<Response<Vec<u8>>, Problem> {
    let body = serde_json::to_vec(value)
        .map_err(|error| Problem::Internal { step: "the answer", why: error.to_string() })?;
    Ok(with_type("application/json", body))
}

/// A response with status 200 and these bytes.
#[must_use]
pub fn with_type(content_type: &'static str, body: Vec<u8>) -> Response<Vec<u8>> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// The response to a request: the outcome, or its problem in the form of RFC 9457, with the headers of
/// every response. Responses must not be cached, because they are about a person's skin, unless they say
/// themselves how long: the files of the page.
#[must_use]
pub fn finish(head: &Parts, outcome: Result<Response<Vec<u8>>, Problem>) -> Response<Vec<u8>> {
    let request_id = request_id(head);
    let mut response = outcome.unwrap_or_else(|problem| {
        refusal(&problem, request_id.as_ref().and_then(|id| id.to_str().ok()))
    });
    let length = HeaderValue::from(response.body().len());
    // A response without its body has the length of another.
    let has_length = head.method != Method::HEAD && response.status() != StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    let no_store = HeaderValue::from_static("no-store");
    headers.entry(header::CACHE_CONTROL).or_insert(no_store);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(id) = request_id {
        headers.insert(REQUEST_ID, id);
    }
    if has_length {
        headers.insert(header::CONTENT_LENGTH, length);
    } else {
        response.body_mut().clear();
    }
    response
}

fn refusal(problem: &Problem, request_id: Option<&str>) -> Response<Vec<u8>> {
    refusal_with(problem, "application/problem+json", problem.to_json(request_id))
}

/// A response to a problem, with a body in another form.
#[must_use]
pub fn refusal_with(
    problem: &Problem,
    content_type: &'static str,
    body: Vec<u8>,
) -> Response<Vec<u8>> {
    let mut response = with_type(content_type, body);
    *response.status_mut() =
        StatusCode::from_u16(problem.kind().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    match problem {
        Problem::MethodNotAllowed { allow, .. } => {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        Problem::Unfamiliar { header: Some(value), .. } => {
            headers.insert(familiarity::HEADER, value.clone());
        }
        Problem::UnsupportedEncoding { .. } => {
            let accepted = HeaderValue::from_static(coding::ACCEPTED);
            headers.insert(header::ACCEPT_ENCODING, accepted);
        }
        _ => {}
    }
    response
}

/// The request's id, if a valid one came with it: it is set by the host or a proxy and returned.
fn request_id(head: &Parts) -> Option<HeaderValue> {
    const LONGEST: usize = 128;
    let id = head.headers.get(&REQUEST_ID)?;
    let sensible = !id.is_empty() && id.len() <= LONGEST && id.to_str().is_ok();
    sensible.then(|| id.clone())
}

/// The answer to a photo.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "Prediction"))]
pub(crate) struct PredictResponse<'a> {
    model: Model<'a>,
    /// The most likely classes, in descending order.
    results: Vec<Class<'a>>,
    /// Whether the photo is of the kind that the model knows; omitted if the model does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    familiarity: Option<Familiar>,
    /// Whether the photo is familiar and a class is probable enough; omitted if the model does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_certain: Option<bool>,
    /// The drawn heatmap as PNG, of the model's input size: over the photo, or alone with `heatmap=alpha`.
    heatmap_base64: Option<String>,
    /// The class the heatmap explains.
    heatmap_class: Option<&'a str>,
    /// The score whose gradient it shows.
    heatmap_basis: Option<Basis>,
    /// With `heatmap=maps`: the heatmaps of several classes as numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    heatmap_maps: Option<Vec<Map<'a>>>,
    /// The part of the photo that heatmap and overlay cover; omitted if it is the whole photo.
    #[serde(skip_serializing_if = "Option::is_none")]
    heatmap_region: Option<Region>,
    /// The reason, if there is no heatmap.
    #[serde(skip_serializing_if = "Option::is_none")]
    heatmap_missing: Option<&'a str>,
    timing_ms: Timing,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "AnsweringModel"))]
pub(crate) struct Model<'a> {
    name: &'a str,
    /// A notice for every reader, such as "not a medical device".
    notice: &'a str,
}

#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "RankedClass"))]
struct Class<'a> {
    /// The label used in training.
    class: &'a str,
    /// A display name, if the card has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    display: Option<&'a str>,
    /// Probability in per cent.
    probability: f64,
    index: usize,
}

/// One class's heatmap as numbers.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
#[cfg_attr(test, schemars(rename = "ClassMap"))]
struct Map<'a> {
    class: &'a str,
    index: usize,
    basis: Basis,
    width: u32,
    height: u32,
    /// Values from 0 to 1 with 4 decimals, in rows from the top, over the whole photo or `heatmap_region`.
    values: Vec<f64>,
}

impl<'a> PredictResponse<'a> {
    /// The members for the result of `card`'s model.
    pub(crate) fn of(card: &'a Card, outcome: &'a Outcome, timing: Timing) -> Self {
        let Outcome { ranking, heatmap, region, certainty } = outcome;
        let class = |ranked: &Ranked| {
            let class = card.classes.get(ranked.index)?;
            let (probability, index) = (per_cent(ranked.probability), ranked.index);
            let display = class.display.as_deref();
            Some(Class { class: &class.label, display, probability, index })
        };
        let label = |index: usize| card.classes.get(index).map(|class| class.label.as_str());
        let mut response = Self {
            model: Model::of(card),
            results: ranking.iter().filter_map(class).collect(),
            familiarity: certainty.familiarity.clone(),
            is_certain: certainty.is_certain,
            heatmap_base64: None,
            heatmap_class: None,
            heatmap_basis: None,
            heatmap_maps: None,
            heatmap_region: Some(*region).filter(|region| *region != Region::WHOLE),
            heatmap_missing: None,
            timing_ms: timing,
        };
        match heatmap {
            Explanation::Shown { png, class, basis } => {
                response.heatmap_base64 = Some(STANDARD.encode(png));
                response.heatmap_class = label(*class);
                response.heatmap_basis = Some(*basis);
            }
            Explanation::Maps(maps) => {
                let first = maps.first();
                response.heatmap_class = first.and_then(|map| label(map.class));
                response.heatmap_basis = first.map(|map| map.heatmap.basis());
                response.heatmap_maps =
                    Some(maps.iter().filter_map(|map| numbers(card, map)).collect());
            }
            Explanation::Missing(why) => {
                response.heatmap_missing = Some(why);
                response.heatmap_region = None;
            }
        }
        response
    }
}

impl<'a> Model<'a> {
    pub(crate) fn of(card: &'a Card) -> Self {
        Self { name: &card.name, notice: &card.notice }
    }
}

fn numbers<'a>(card: &'a Card, ClassMap { class, heatmap }: &ClassMap) -> Option<Map<'a>> {
    Some(Map {
        class: &card.classes.get(*class)?.label,
        index: *class,
        basis: heatmap.basis(),
        width: heatmap.width(),
        height: heatmap.height(),
        values: heatmap.values().iter().map(|v| (f64::from(*v) * 1e4).round() / 1e4).collect(),
    })
}

/// Per cent with 4 decimals: the precision of f32, and the sum of 1000 classes, each rounded by at most
/// 0.00005, is still 100 ± 0.05.
pub(crate) fn per_cent(probability: f32) -> f64 {
    (f64::from(probability) * 1e6).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::tests::card_json;

    fn head(method: &str, request_id: Option<&str>) -> Parts {
        let mut request = http::Request::builder().method(method).uri("/");
        if let Some(id) = request_id {
            request = request.header("x-request-id", id);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn rounding_keeps_the_sum() {
        let even = vec![1.0_f32 / 1000.0; 1000];
        let sum: f64 = even.iter().map(|p| per_cent(*p)).sum();
        assert!((sum - 100.0).abs() < 0.1, "{sum}");
        assert_eq!([per_cent(0.713_123_45), per_cent(1.0), per_cent(1e-9)], [71.3123, 100.0, 0.0]);
    }

    #[test]
    fn the_answer_has_the_documented_members() {
        let card = Card::parse(card_json("skin").as_bytes()).unwrap();
        let ranking =
            [Ranked { index: 0, probability: 0.75 }, Ranked { index: 1, probability: 0.25 }];
        let shown = Explanation::Shown { png: vec![1, 2, 3], class: 1, basis: Basis::Probability };
        let answer = |heatmap| {
            let (ranking, region) = (ranking.to_vec(), Region::WHOLE);
            let outcome = Outcome { ranking, heatmap, region, certainty: Certainty::default() };
            let response = prediction(&card, &outcome, Timing::default());
            response.unwrap().into_body()
        };
        assert_eq!(
            String::from_utf8(answer(shown)).unwrap(),
            "{\"model\":{\"name\":\"skin\",\"notice\":\"No medical device.\"},\
             \"results\":[{\"class\":\"Heathy\",\"display\":\"Healthy\",\"probability\":75.0,\"index\":0},\
             {\"class\":\"Éczema\",\"probability\":25.0,\"index\":1}],\
             \"heatmap_base64\":\"AQID\",\"heatmap_class\":\"Éczema\",\"heatmap_basis\":\"probability\",\
             \"timing_ms\":{\"decode\":0.0,\"inference\":0.0,\"heatmap\":0.0,\"total\":0.0}}"
        );
        let without = answer(Explanation::Missing("off".to_owned()));
        let without: serde_json::Value = serde_json::from_slice(&without).unwrap();
        assert_eq!(without["heatmap_base64"], serde_json::Value::Null);
        assert_eq!(without["heatmap_missing"], "off");
    }

    #[test]
    fn problems_have_the_form_of_rfc_9457() {
        let problem = || Problem::MethodNotAllowed { method: "PUT".to_owned(), allow: "POST" };
        let response = finish(&head("PUT", Some("r-1")), Err(problem()));
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["allow"], "POST");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["x-request-id"], "r-1");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["type"], "urn:skincell:problem:method-not-allowed");
        assert_eq!(body["title"], "Method not allowed");
        assert_eq!(body["status"], 405);
        assert_eq!(body["request_id"], "r-1");
        assert!(body["detail"].as_str().unwrap().contains("use POST"));
        let long = "r".repeat(200);
        let response = finish(&head("PUT", Some(&long)), Err(problem()));
        assert!(!response.headers().contains_key("x-request-id"));
    }

    #[test]
    fn responses_to_head_have_headers_only() {
        let page = || Ok(with_type("text/html", b"page".to_vec()));
        let get = finish(&head("GET", None), page());
        assert_eq!(
            (get.body().as_slice(), &get.headers()["content-length"]),
            (&b"page"[..], &"4".parse().unwrap())
        );
        let head = finish(&head("HEAD", None), page());
        assert!(head.body().is_empty() && head.headers()["content-type"] == "text/html");
    }
}
