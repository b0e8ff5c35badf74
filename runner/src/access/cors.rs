//! CORS by an allow-list of origins, empty by default. A page that is served from here needs no permission.

use super::empty;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::Full;

/// The origins whose pages may call this service.
#[derive(Debug, Clone, Default)]
pub struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
}

/// A text that is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write scheme, host and port alone, such as https://clinic.example, or *"
)]
pub struct OriginError(String);

/// Methods and headers that a page may send, and headers that it may read, beyond those that browsers always
/// allow.
const METHODS: &str = "GET, HEAD, POST";
const ASKED: &str = "accept, authorization, content-type, inference-header-content-length, traceparent, \
                     x-request-id";
const TOLD: &str = "inference-header-content-length, retry-after, server-timing, x-answer-certainty, \
                    x-request-id";

impl Cors {
    /// An allow-list; `*` is every origin.
    ///
    /// # Errors
    /// [`OriginError`] for a text that browsers do not send as an origin.
    pub fn new(origins: &[String]) -> Result<Self, OriginError> {
        let mut cors = Self::default();
        for origin in origins {
            if origin == "*" {
                cors.any = true;
                continue;
            }
            let host =
                ["http://", "https://"].iter().find_map(|scheme| origin.strip_prefix(scheme));
            let plain =
                host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '*', '@', ' ']));
            let value = HeaderValue::from_str(origin).ok().filter(|_| plain);
            cors.origins.push(value.ok_or_else(|| OriginError(origin.clone()))?);
        }
        Ok(cors)
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any || self.origins.contains(origin)
    }

    fn is_off(&self) -> bool {
        !self.any && self.origins.is_empty()
    }

    /// The answer to a preflight request; `None` for any other request, and for an empty allow-list, which
    /// leaves CORS to the application.
    pub(super) fn preflight(&self, head: &Parts) -> Option<Response<Full<Bytes>>> {
        let asks = head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        let origin = head.headers.get(header::ORIGIN)?;
        if head.method != Method::OPTIONS || !asks || self.is_off() {
            return None;
        }
        let mut fields = Vec::new();
        if self.allows(origin) {
            // `add_headers` adds the origin, as on any other answer.
            fields = vec![
                (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS)),
                (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ASKED)),
                (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
            ];
        }
        Some(empty(fields))
    }

    /// Lets the page at `origin` read the answer if it is on the list.
    pub(super) fn add_headers(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if self.is_off() {
            return;
        }
        // Caches must not give one page's permission to another.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|origin| self.allows(origin)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(TOLD));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cors;
    use http::{HeaderMap, Request};

    #[test]
    fn only_listed_origins_may_call() {
        let cors = Cors::new(&["https://clinic.example".to_owned()]).unwrap();
        for (origin, expected) in [
            ("https://clinic.example", true),
            ("https://clinic.example.evil.test", false),
            ("http://clinic.example", false),
            ("null", false),
        ] {
            let request = Request::options("/predict")
                .header("origin", origin)
                .header("access-control-request-method", "POST")
                .body(())
                .unwrap();
            let (head, ()) = request.into_parts();
            let mut answer = cors.preflight(&head).unwrap();
            cors.add_headers(head.headers.get("origin"), answer.headers_mut());
            assert_eq!(answer.status(), 204);
            for name in ["access-control-allow-origin", "access-control-allow-methods"] {
                assert_eq!(answer.headers().contains_key(name), expected, "{origin} {name}");
            }
            assert_eq!(answer.headers()["vary"], "origin");
        }
    }

    #[test]
    fn without_origins_cors_is_left_to_the_application() {
        let request = Request::options("/")
            .header("origin", "https://a.test")
            .header("access-control-request-method", "POST");
        let (head, ()) = request.body(()).unwrap().into_parts();
        assert!(Cors::default().preflight(&head).is_none());
        let mut headers = HeaderMap::new();
        Cors::default().add_headers(head.headers.get("origin"), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn malformed_origins_are_refused() {
        for wrong in
            ["clinic.example", "https://", "https://a.test/", "https://*.a.test", "ftp://a.test"]
        {
            assert!(Cors::new(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
        assert!(Cors::new(&["*".to_owned()]).unwrap().any);
    }
}
