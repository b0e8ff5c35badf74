//! The headers that Spin adds to each request of a component. The request's route is found by `routes`.

use crate::access::Sender;
use crate::outbound::is_peer;
use crate::problem::{HeadError, Problem};
use crate::routes::Match;
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Request, header};

/// Adds Spin's headers to a client's request, and removes those that the client sent under such names.
///
/// # Errors
/// Also [`Problem::NoHost`] for a host at which only components call each other.
pub(crate) fn prepare<B>(
    request: Request<B>,
    found: &Match,
    id: &str,
    sender: Option<Sender>,
) -> Result<Request<B>, Problem> {
    let host = require_host(&request)?;
    add(request, &host, found, id, sender)
}

/// The one host that a client's request names.
///
/// # Errors
/// [`Problem::NoHost`], also for a host at which only components call each other.
pub(crate) fn require_host<B>(request: &Request<B>) -> Result<Authority, Problem> {
    host(request).ok().filter(|host| !is_peer(host.host())).ok_or(Problem::NoHost)
}

/// Adds them to the request of another component.
pub(crate) fn prepare_call<B>(
    request: Request<B>,
    found: &Match,
    id: &str,
    sender: Sender,
) -> Result<Request<B>, Problem> {
    let host = host(&request)?;
    add(request, &host, found, id, Some(sender))
}

fn add<B>(
    mut request: Request<B>,
    host: &Authority,
    found: &Match,
    id: &str,
    sender: Option<Sender>,
) -> Result<Request<B>, Problem> {
    let target = request.uri().path_and_query().ok_or(Problem::Head(HeadError::Malformed))?;
    let encrypted = sender.is_some_and(|sender| sender.is_encrypted);
    // The connection's, as in Spin: a target in absolute form may name another.
    let scheme = if encrypted { "https" } else { "http" };
    let full_url = format!("{scheme}://{host}{target}");
    let headers = request.headers_mut();
    let forged: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("spin-")).cloned().collect();
    for name in forged {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
    let named = found
        .named
        .iter()
        .map(|(name, value)| (format!("spin-path-match-{}", name.replace('_', "-")), value));
    let fixed = [
        ("spin-full-url", &full_url),
        ("spin-path-info", &found.path_info),
        ("spin-matched-route", &found.matched),
        ("spin-raw-component-route", &found.route),
        ("spin-component-route", &found.base),
        ("spin-base-path", &"/".to_owned()),
        ("x-request-id", &id.to_owned()),
    ];
    let fixed = fixed.map(|(name, value)| (name.to_owned(), value.clone()));
    let client = sender.map(|sender| ("spin-client-addr".to_owned(), sender.address.to_string()));
    let named = named.map(|(name, value)| (name, value.clone()));
    for (name, value) in fixed.into_iter().chain(named).chain(client) {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(&value);
        // A segment whose name is not valid in a header name is left out.
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    Ok(request)
}

/// The host that the request is for: from its target or its one Host field (RFC 9112, section 3.2).
///
/// # Errors
/// [`Problem::NoHost`] when there is none or more than one, when it is more than a host and a port, or when
/// target and field name different ones.
fn host<B>(request: &Request<B>) -> Result<Authority, Problem> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let (field, more) = (fields.next(), fields.next().is_some());
    let field = field.map(|field| Authority::try_from(field.as_bytes())).transpose();
    let field = field.ok().filter(|_| !more).ok_or(Problem::NoHost)?;
    let host = match (request.uri().authority(), &field) {
        (Some(target), Some(field)) if target != field => return Err(Problem::NoHost),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(Problem::NoHost),
    };
    let is_plain = !host.as_str().contains('@') && !host.host().is_empty();
    if is_plain { Ok(host.clone()) } else { Err(Problem::NoHost) }
}

#[cfg(test)]
mod tests {
    use super::prepare;
    use crate::access::Sender;
    use crate::problem::Problem;
    use crate::routes::Routes;
    use http::{HeaderValue, Request};

    #[test]
    fn a_request_names_one_host() {
        let mut routes = Routes::default();
        routes.add("/...", 0).unwrap();
        let found = routes.find("/p").unwrap();
        let full_url = |target: &str, hosts: &[&str]| {
            let request = hosts
                .iter()
                .fold(Request::get(target), |request, host| request.header("host", *host));
            let prepared = prepare(request.body(()).unwrap(), &found, "id", None).ok()?;
            prepared.headers().get("spin-full-url").map(|url| url.to_str().unwrap().to_owned())
        };
        let cases: [(&str, &[&str], Option<&str>); 12] = [
            ("/p?q", &["h"], Some("http://h/p?q")),
            ("/p?q", &["[::1]:80"], Some("http://[::1]:80/p?q")),
            ("http://h/p?q", &["h"], Some("http://h/p?q")),
            ("https://h/p", &["H"], Some("http://h/p")),
            ("http://h/p?q", &["other"], None),
            ("/p", &["a", "a"], None),
            ("/p", &["a/b"], None),
            ("/p", &["a b"], None),
            ("/p", &["user@a"], None),
            ("/p", &[], None),
            ("/p", &["other.spin.internal"], None),
            ("/p", &["other.spin.internal:80"], None),
        ];
        for (target, hosts, expected) in cases {
            assert_eq!(full_url(target, hosts).as_deref(), expected, "{target} {hosts:?}");
        }
        let no_path = Request::get("abc").header("host", "abc").body(()).unwrap();
        assert!(matches!(prepare(no_path, &found, "id", None), Err(Problem::Head(_))));
    }

    #[test]
    fn a_clients_spin_headers_are_replaced() {
        let mut routes = Routes::default();
        routes.add("/user/:id/...", 0).unwrap();
        let found = routes.find("/user/7/photo").unwrap();
        let request = Request::get("/user/7/photo?x=1")
            .header("host", "example.test")
            .header("spin-client-addr", "forged")
            .header("spin-anything", "forged")
            .body(())
            .unwrap();
        let address = "127.0.0.1:9".parse().unwrap();
        let sender = Sender { address, is_encrypted: false, only_probes: false };
        let headers = prepare(request, &found, "id-1", Some(sender)).unwrap().headers().clone();
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
