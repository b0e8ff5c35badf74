//! What of the Open Inference Protocol only the host knows: that it is not ready, and how often and for how
//! long each model ran, as Triton's clients ask for it.
//!
//! `GET /v2/health/ready`, `/v2/models/stats`, `/v2/models/{m}/stats` and `/v2/models/{m}/versions/1/stats`.
//! The rest of the protocol is the component's, and so are these paths if there is nothing to say here: the
//! host is ready, or the model is not granted. An application without models has these paths to itself.

use crate::admin;
use crate::nn::RunCounts;
use crate::service::Service;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// The only version of every model.
const VERSION: &str = "1";

/// Answers a request for what only the host knows.
pub(crate) fn answer<B>(service: &Service, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return None;
    }
    match request.uri().path() {
        "/v2/health/ready" => not_ready(service),
        path => statistics(service, asked(path)?),
    }
}

/// The answer if the host is not ready, so that this path never disagrees with `/readyz`.
fn not_ready(service: &Service) -> Option<Response<Full<Bytes>>> {
    if service.models.counts().is_empty() || admin::ready(service).status().is_success() {
        return None;
    }
    let mut answer = admin::json(&json!({ "ready": false }));
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    Some(answer)
}

/// The statistics of the model `asked`, or of all.
fn statistics(service: &Service, asked: Option<&str>) -> Option<Response<Full<Bytes>>> {
    let counts = service.models.counts();
    let found = counts.iter().filter(|(name, _)| asked.is_none_or(|asked| asked == *name));
    let models: Vec<Value> = found.map(|(name, counts)| members(name, counts)).collect();
    (!models.is_empty()).then(|| admin::json(&json!({ "model_stats": models })))
}

/// The model whose statistics are at `path`, `Some(None)` for all; `None` for another path.
fn asked(path: &str) -> Option<Option<&str>> {
    let segments: Vec<&str> = path.strip_prefix("/v2/models/")?.split('/').collect();
    match segments.as_slice() {
        ["stats"] => Some(None),
        [model, "stats"] | [model, "versions", VERSION, "stats"] => Some(Some(*model)),
        _ => None,
    }
}

/// The members of Triton's statistics. Waiting and the conversion of tensors are not counted by model, so
/// their counts are 0. Every run is of one row.
fn members(name: &str, counts: &RunCounts) -> Value {
    let duration = |(count, ns): (u64, u64)| json!({"count": count, "ns": ns});
    let (succeeded, failed) = (counts.succeeded(), counts.failed());
    let uncounted = duration((0, 0));
    json!({
        "name": name,
        "version": VERSION,
        "last_inference": counts.last_ms(),
        "inference_count": succeeded.0,
        "execution_count": succeeded.0,
        "inference_stats": {
            "success": duration(succeeded),
            "fail": duration(failed),
            "queue": uncounted,
            "compute_input": uncounted,
            "compute_infer": duration(succeeded),
            "compute_output": uncounted,
            "cache_hit": uncounted,
            "cache_miss": uncounted,
        },
        "batch_stats": [{
            "batch_size": 1,
            "compute_input": uncounted,
            "compute_infer": duration(succeeded),
            "compute_output": uncounted,
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::asked;

    #[test]
    fn the_paths_are_tritons() {
        assert_eq!(asked("/v2/models/stats"), Some(None));
        assert_eq!(asked("/v2/models/skin/stats"), Some(Some("skin")));
        assert_eq!(asked("/v2/models/skin/versions/1/stats"), Some(Some("skin")));
        for other in ["/v2/models/skin", "/v2/models/skin/versions/2/stats", "/v2/models/a/b/stats"]
        {
            assert_eq!(asked(other), None, "{other}");
        }
    }
}
