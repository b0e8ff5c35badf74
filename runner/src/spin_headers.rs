//! The headers that Spin gives a component with each request.

use crate::problem::Problem;
use crate::routes::Match;
use http::{HeaderName, HeaderValue, Request, header};
use std::net::SocketAddr;

/// Marks a request that came over TLS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Encrypted;

/// Gives the component the headers that Spin gives, and none of a client's own that pretend to be.
pub(crate) fn prepare<B>(
    mut request: Request<B>,
    found: &Match,
    id: &str,
    client: Option<SocketAddr>,
) -> Result<Request<B>, Problem> {
    let host = match request.headers().get(header::HOST) {
        Some(host) => host.to_str().map_err(|_| Problem::NoHost)?.to_owned(),
        None => request.uri().authority().ok_or(Problem::NoHost)?.to_string(),
    };
    let scheme = if request.extensions().get::<Encrypted>().is_some() { "https" } else { "http" };
    let full_url = format!("{scheme}://{host}{}", request.uri());
    let headers = request.headers_mut();
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("spin-")).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    let named = found.named.iter().map(|(name, value)| (format!("spin-path-match-{name}"), value));
    let fixed = [
        ("spin-full-url", &full_url),
        ("spin-path-info", &found.path_info),
        ("spin-matched-route", &found.route),
        ("spin-raw-component-route", &found.route),
        ("spin-component-route", &found.base),
        ("spin-base-path", &"/".to_owned()),
        ("x-request-id", &id.to_owned()),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value.clone()));
    let client = client.map(|address| ("spin-client-addr".to_owned(), address.to_string()));
    let named = named.map(|(name, value)| (name, value.clone()));
    for (name, value) in fixed.into_iter().chain(named).chain(client) {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(&value);
        // A segment's name may be no header name, and a path no header value; Spin leaves those out.
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::prepare;
    use crate::routes::Routes;
    use http::{HeaderValue, Request};

    #[test]
    fn spins_headers_are_ours_to_say() {
        let mut routes = Routes::default();
        routes.add("/user/:id/...", 0).unwrap();
        let found = routes.find("/user/7/photo").unwrap();
        let request = Request::get("/user/7/photo?x=1")
            .header("host", "example.test")
            .header("spin-client-addr", "forged")
            .header("spin-anything", "forged")
            .body(())
            .unwrap();
        let client = "127.0.0.1:9".parse().ok();
        let headers = prepare(request, &found, "id-1", client).unwrap().headers().clone();
        let expected = [
            ("spin-full-url", "http://example.test/user/7/photo?x=1"),
            ("spin-path-info", "/photo"),
            ("spin-matched-route", "/user/:id/..."),
            ("spin-component-route", "/user/:id"),
            ("spin-path-match-id", "7"),
            ("spin-client-addr", "127.0.0.1:9"),
            ("x-request-id", "id-1"),
        ];
        for (name, value) in expected {
            assert_eq!(headers.get(name).map(HeaderValue::as_bytes), Some(value.as_bytes()));
        }
        assert!(!headers.contains_key("spin-anything"));
    }
}
