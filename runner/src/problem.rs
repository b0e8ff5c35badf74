//! The runner's own error answers, RFC 9457 problem details, with one table from error to status.
//!
//! Components write their own, in the same form. Types are `urn:skincell:problem:<name>`: stable names, not
//! addresses. Counting and logging are left to `handler`.

use crate::access::{Denied, TokenError};
use crate::admission::Refusal;
use crate::sandbox::Failure;
use crate::upload::UploadError;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use std::time::Duration;

/// Why the runner answers instead of a component.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No route matches.
    #[error(
        "no route of this application matches {0:?}; its routes are in its spin.toml, and `skincell up` prints them"
    )]
    NoRoute(String),
    /// The queue is full or too slow.
    #[error("{}", refusal_detail(.0))]
    Busy(Refusal),
    /// The body was refused.
    #[error("{0}")]
    Upload(UploadError),
    /// The head cannot be read.
    #[error("{0}")]
    Head(HeadError),
    /// The instance failed.
    #[error("{}", failure_detail(.0))]
    Failed(Failure),
    /// The token is missing or unknown.
    #[error("{0}")]
    Token(TokenError),
    /// The client exceeds its rate limit; it may make another request after this time.
    #[error(
        "this address makes more requests than it may; try again after the seconds in Retry-After"
    )]
    TooOften(Duration),
    /// The request does not name exactly one host.
    #[error(
        "the request must name one host: exactly one Host header, a name or an address, optionally with a \
         port, equal to the target's host if the target has one"
    )]
    NoHost,
}

/// What is wrong with a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// It is not HTTP/1.1.
    #[error("the request's head is not valid HTTP/1.1; check its lines and lengths")]
    Malformed,
    /// Its target or its fields are too long, or there are too many fields.
    #[error(
        "the request's head is longer than {limit} bytes or has more than 100 fields; shorten it"
    )]
    TooLong {
        /// `--http1-max-buf-size`.
        limit: u32,
    },
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::OnlyProbes => Self::Busy(Refusal::Connections),
            Denied::TooOften(wait) => Self::TooOften(wait),
            Denied::Token(error) => Self::Token(error),
        }
    }
}

fn refusal_detail(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NeverFits { .. } => {
            format!("{refusal}; raise --memory-limit or lower --max-instance-memory")
        }
        _ => format!("{refusal}; try again after the seconds in Retry-After"),
    }
}

fn failure_detail(failure: &Failure) -> String {
    match failure {
        Failure::Deadline(after) => format!(
            "no answer within {} s; send less, or raise --request-timeout",
            after.as_secs_f64()
        ),
        Failure::OutOfMemory { limit, .. } => format!(
            "this request needs more than the {} MiB an instance may have; send less, or \
             raise --max-instance-memory",
            limit >> 20
        ),
        Failure::NoInstance(_) => {
            "the system has no room for another instance now; try again after the seconds in \
             Retry-After"
                .to_owned()
        }
        Failure::Trap(_) => {
            "the component failed on this request; the log has the reason under this request id"
                .to_owned()
        }
    }
}

/// The challenge of RFC 6750, for a missing or an unknown token.
fn challenge(error: &TokenError) -> &'static str {
    match error {
        TokenError::Unknown => "Bearer realm=\"skincell\", error=\"invalid_token\"",
        _ => "Bearer realm=\"skincell\"",
    }
}

impl Problem {
    /// The table: status, last part of the type, and title.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::NoRoute(_) => (StatusCode::NOT_FOUND, "no-route", "No such route"),
            Self::Busy(Refusal::Memory) => {
                (StatusCode::SERVICE_UNAVAILABLE, "out-of-memory", "Memory is short")
            }
            Self::Busy(Refusal::NeverFits { .. }) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "memory-limit-too-small",
                "The memory limit has no room for this request",
            ),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at once"),
            Self::Upload(UploadError::TooLarge { .. }) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The request body is too large")
            }
            Self::Upload(UploadError::TooSlow(_)) => {
                (StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The request body came too slowly")
            }
            Self::Upload(UploadError::NoRoom) => {
                (StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many requests at once")
            }
            Self::Upload(UploadError::BrokenOff) => {
                (StatusCode::BAD_REQUEST, "body-interrupted", "The request body broke off")
            }
            Self::Failed(Failure::Deadline(_)) => {
                (StatusCode::GATEWAY_TIMEOUT, "deadline", "The request took too long")
            }
            Self::Failed(Failure::OutOfMemory { .. }) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "needs-too-much-memory",
                "The request needs too much memory",
            ),
            Self::Failed(Failure::NoInstance(_)) => {
                (StatusCode::SERVICE_UNAVAILABLE, "no-instance", "No room for an instance now")
            }
            Self::Failed(Failure::Trap(_)) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "component-failed", "The component failed")
            }
            Self::Head(HeadError::Malformed) => {
                (StatusCode::BAD_REQUEST, "bad-request", "The request's head is malformed")
            }
            Self::Head(HeadError::TooLong { .. }) => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "The request's head is too large",
            ),
            Self::Token(_) => (StatusCode::UNAUTHORIZED, "unauthorized", "A token is required"),
            Self::TooOften(_) => {
                (StatusCode::TOO_MANY_REQUESTS, "too-often", "Too many requests from one address")
            }
            Self::NoHost => {
                (StatusCode::BAD_REQUEST, "no-host", "The request does not name one host")
            }
        }
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// The answer's body.
    #[must_use]
    pub fn body(&self, request_id: &str) -> Value {
        let (status, name, title) = self.row();
        let mut body = json!({
            "type": format!("urn:skincell:problem:{name}"),
            "title": title,
            "status": status.as_u16(),
            "detail": self.to_string(),
            "request_id": request_id,
        });
        if let Self::Failed(Failure::OutOfMemory { asked, limit }) = self {
            body["actual"] = json!(asked);
            body["limit"] = json!(limit);
        }
        if let Self::Upload(UploadError::TooLarge { limit, announced }) = self {
            body["limit"] = json!(limit);
            body["actual"] = json!(announced);
        }
        body
    }

    /// The whole answer.
    #[must_use]
    pub fn response(&self, request_id: &str) -> Response<Full<Bytes>> {
        let status = self.status();
        let mut response = Response::new(Full::from(self.body(request_id).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        match self {
            Self::TooOften(wait) => {
                let seconds = wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX);
                headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            Self::Token(error) => {
                headers
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge(error)));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::{HeadError, Problem};
    use crate::access::TokenError;
    use crate::admission::Refusal;
    use crate::sandbox::Failure;
    use crate::upload::UploadError;
    use std::time::Duration;

    #[test]
    fn every_row_has_its_status() {
        let table = [
            (Problem::NoRoute("/x".into()), 404),
            (Problem::Busy(Refusal::Full { length: 3 }), 503),
            (Problem::Busy(Refusal::TooLong(Duration::from_secs(1))), 503),
            (Problem::Busy(Refusal::Memory), 503),
            (Problem::Busy(Refusal::Connections), 503),
            (Problem::Busy(Refusal::Address), 503),
            (Problem::Busy(Refusal::NeverFits { needed: 2, missing: 1 }), 503),
            (Problem::Upload(UploadError::TooLarge { limit: 1, announced: None }), 413),
            (Problem::Upload(UploadError::TooSlow(Duration::from_secs(1))), 408),
            (Problem::Upload(UploadError::BrokenOff), 400),
            (Problem::Upload(UploadError::NoRoom), 503),
            (Problem::Failed(Failure::Deadline(Duration::from_secs(1))), 504),
            (Problem::Failed(Failure::OutOfMemory { asked: 2, limit: 1 }), 413),
            (Problem::Failed(Failure::NoInstance("no address space".into())), 503),
            (Problem::Failed(Failure::Trap("unreachable".into())), 500),
            (Problem::Token(TokenError::Missing), 401),
            (Problem::Token(TokenError::Unknown), 401),
            (Problem::TooOften(Duration::from_millis(1001)), 429),
            (Problem::NoHost, 400),
            (Problem::Head(HeadError::Malformed), 400),
            (Problem::Head(HeadError::TooLong { limit: 16384 }), 431),
        ];
        for (problem, status) in table {
            let response = problem.response("id-1");
            assert_eq!(response.status().as_u16(), status, "{problem:?}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            let waits = [429, 503].contains(&status);
            assert_eq!(response.headers().contains_key("retry-after"), waits);
            assert_eq!(response.headers().contains_key("www-authenticate"), status == 401);
        }
    }

    #[test]
    fn a_traps_reason_goes_to_the_log_and_not_to_the_client() {
        let problem = Problem::Failed(Failure::Trap("secret backtrace".into()));
        assert!(!problem.to_string().contains("secret"));
    }
}
