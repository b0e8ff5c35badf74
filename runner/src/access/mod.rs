//! Access control: bearer tokens, a rate limit for each client, CORS, and the security headers of answers.
//!
//! It looks at a request's head only: a request that is denied is answered before its body is read and before
//! a component or a model is touched. TLS is left to `server`, the meaning of requests to the application.

mod address;
mod cors;
mod file;
mod rate;
mod tokens;

pub use cors::{Cors, OriginError};
pub(crate) use file::Watched;
pub use rate::{Rate, RateError};
pub use tokens::{TokenError, Tokens};

use crate::routes::Routes;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use ipnet::IpNet;
use rate::Limiter;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is required of clients; by default nothing.
#[derive(Debug, Default)]
pub struct Rules {
    /// Bearer tokens, one of which is required; `None` requires none.
    pub tokens: Option<Tokens>,
    /// Routes that may be read (GET, HEAD) without a token: those that the application declares `open`.
    pub open: Routes,
    /// Origins whose pages may call.
    pub cors: Cors,
    /// Requests allowed for each client address.
    pub rate: Option<Rate>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether the runner's own endpoints are on a port of their own: this one then has no probes of its own.
    pub admin_apart: bool,
}

/// The rules, and the requests counted for the rate limit.
#[derive(Debug, Default)]
pub struct Access {
    rules: Rules,
    limiter: Option<Limiter>,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sender {
    /// The other end of the socket.
    pub(crate) address: SocketAddr,
    /// Whether it came over TLS.
    pub(crate) is_encrypted: bool,
    /// Whether its connection is one of those kept for probes.
    pub(crate) only_probes: bool,
}

/// A request that is let through.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// A request for the application or the runner, and its client: an address, or the 64 bits of an IPv6
    /// network; `None` for a request that came over no socket.
    Client(Option<IpAddr>),
    /// A browser's preflight request, and the answer.
    Preflight(Box<Response<Full<Bytes>>>),
}

/// Why a request is not let through.
#[derive(Debug)]
pub(crate) enum Denied {
    /// All other connections are taken; the one it came over is kept for probes.
    OnlyProbes,
    /// The client's address made as many requests as it may; it may make another after this time.
    TooOften(Duration),
    /// The token is missing or unknown.
    Token(TokenError),
}

/// Paths that probes ask for, without a token and without a rate limit: they tell only that the process
/// lives.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/.well-known/spin/health"];

impl Access {
    /// Access control by these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { limiter: rules.rate.map(Limiter::new), rules }
    }

    /// Whether a path is one that probes ask for.
    pub(crate) fn is_probe(&self, path: &str) -> bool {
        // Spin's own stays with the application.
        PROBES.contains(&path) && (!self.rules.admin_apart || path.starts_with("/.well-known/"))
    }

    /// The address that a connection from `peer` counts for; `None` for a trusted proxy's, which carries many
    /// clients' requests.
    pub(crate) fn counted_address(&self, peer: IpAddr) -> Option<IpAddr> {
        address::counted(peer, &self.rules.trusted_proxies)
    }

    /// Checks the head of a request.
    ///
    /// # Errors
    /// [`Denied`].
    pub(crate) fn check(
        &self,
        head: &Parts,
        sender: &Sender,
        has_body: bool,
    ) -> Result<Admitted, Denied> {
        let path = head.uri.path();
        let client = address::of(&head.headers, sender.address.ip(), &self.rules.trusted_proxies);
        let admitted = Admitted::Client(Some(client));
        if self.is_probe(path) {
            return Ok(admitted);
        }
        if sender.only_probes {
            return Err(Denied::OnlyProbes);
        }
        if let Some(answer) = self.rules.cors.preflight(head) {
            return Ok(Admitted::Preflight(Box::new(answer)));
        }
        if let Some(limiter) = &self.limiter {
            limiter.ask(client).map_err(Denied::TooOften)?;
        }
        let Some(tokens) = &self.rules.tokens else { return Ok(admitted) };
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        if is_read && !has_body && self.rules.open.find(path).is_some() {
            return Ok(admitted);
        }
        tokens.check(&head.headers).map_err(Denied::Token)?;
        Ok(admitted)
    }

    /// Adds the headers that browsers need: the pages that may read the answer, no guessing of its type, no
    /// referrer, and after a request over TLS, TLS from now on. Those that the application has set stay.
    pub(crate) fn add_headers<B>(
        &self,
        origin: Option<&HeaderValue>,
        is_encrypted: bool,
        answer: &mut Response<B>,
    ) {
        let headers = answer.headers_mut();
        let mut fixed = vec![
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if is_encrypted {
            fixed.push((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
        }
        for (name, value) in fixed {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        self.rules.cors.add_headers(origin, headers);
    }

    /// Reads the tokens again if their file has changed. It reads from the disk; the server calls it every
    /// few seconds.
    pub(crate) fn refresh(&self) {
        if let Some(tokens) = &self.rules.tokens {
            tokens.refresh();
        }
    }
}

/// An answer without content.
fn empty(fields: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().extend(fields);
    answer
}

#[cfg(test)]
mod tests {
    use super::{Access, Cors, Denied, Rate, Rules, Sender, Tokens};
    use crate::routes::Routes;
    use http::Request;
    use http::request::Parts;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    const TOKEN: &str = "0123456789abcdef";

    fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(path);
        let request = fields.iter().fold(request, |request, (n, v)| request.header(*n, *v));
        request.body(()).unwrap().into_parts().0
    }

    const CLIENT: Sender = Sender {
        address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 5),
        is_encrypted: false,
        only_probes: false,
    };

    fn guarded() -> Access {
        let mut open = Routes::default();
        open.add("/", 0).unwrap();
        open.add("/page/...", 1).unwrap();
        Access::new(Rules { tokens: Some(Tokens::of(&[TOKEN])), open, ..Rules::default() })
    }

    #[test]
    fn without_rules_every_request_is_let_through() {
        let access = Access::default();
        assert!(access.check(&head("POST", "/predict", &[]), &CLIENT, false).is_ok());
        assert!(
            access
                .check(
                    &head("OPTIONS", "/predict", &[("origin", "https://a.test")]),
                    &CLIENT,
                    false
                )
                .is_ok()
        );
    }

    #[test]
    fn without_a_token_only_open_routes_can_be_read() {
        let access = guarded();
        let bearer = format!("Bearer {TOKEN}");
        let cases = [
            ("GET", "/", None, true),
            ("GET", "/page/main.js", None, true),
            ("POST", "/", None, false),
            ("POST", "/predict", None, false),
            ("GET", "/metrics", None, false),
            ("GET", "/page", None, true),
            ("GET", "/pages", None, false),
            ("GET", "/healthz", None, true),
            ("GET", "/readyz", None, true),
            ("POST", "/predict", Some(bearer.as_str()), true),
            ("POST", "/predict", Some("Bearer 0123456789abcdeF"), false),
            ("POST", "/predict", Some("Basic 0123456789abcdef"), false),
            ("POST", "/predict", Some("bearer 0123456789abcdef"), true),
        ];
        for (method, path, authorization, expected) in cases {
            let fields: Vec<_> =
                authorization.map(|value| ("authorization", value)).into_iter().collect();
            let admitted = access.check(&head(method, path, &fields), &CLIENT, false);
            assert_eq!(admitted.is_ok(), expected, "{method} {path} {authorization:?}");
        }
    }

    /// A body without a token would take memory from clients that have one.
    #[test]
    fn open_routes_take_no_body_without_a_token() {
        let (access, get) = (guarded(), head("GET", "/page/main.js", &[]));
        assert!(access.check(&get, &CLIENT, false).is_ok());
        assert!(matches!(access.check(&get, &CLIENT, true), Err(Denied::Token(_))));
        let bearer = format!("Bearer {TOKEN}");
        let known = head("GET", "/page/main.js", &[("authorization", &bearer)]);
        assert!(access.check(&known, &CLIENT, true).is_ok());
    }

    #[test]
    fn with_an_admin_port_the_runners_paths_are_the_applications() {
        let tokens = Some(Tokens::of(&[TOKEN]));
        let access = Access::new(Rules { tokens, admin_apart: true, ..Rules::default() });
        assert!(access.check(&head("GET", "/healthz", &[]), &CLIENT, false).is_err());
        let spins = head("GET", "/.well-known/spin/health", &[]);
        assert!(access.check(&spins, &CLIENT, false).is_ok());
    }

    #[test]
    fn a_connection_kept_for_probes_serves_probes_only() {
        let (access, kept) = (Access::default(), Sender { only_probes: true, ..CLIENT });
        assert!(access.check(&head("GET", "/healthz", &[]), &kept, false).is_ok());
        let other = access.check(&head("GET", "/predict", &[]), &kept, false);
        assert!(matches!(other, Err(Denied::OnlyProbes)), "{other:?}");
    }

    #[test]
    fn the_rate_limit_applies_to_all_but_probes() {
        let rate: Rate = "2/m".parse().unwrap();
        let access = Access::new(Rules { rate: Some(rate), ..Rules::default() });
        let ask = |path| access.check(&head("GET", path, &[]), &CLIENT, false);
        assert!(ask("/a").is_ok() && ask("/a").is_ok());
        let refused = ask("/a");
        assert!(matches!(refused, Err(Denied::TooOften(_))), "{refused:?}");
        assert!(ask("/healthz").is_ok());
    }

    #[test]
    fn the_applications_own_headers_stay() {
        let cors: Cors = Cors::new(&["https://a.test".to_owned()]).unwrap();
        let access = Access::new(Rules { cors, ..Rules::default() });
        let mut answer =
            http::Response::builder().header("referrer-policy", "origin").body(()).unwrap();
        access.add_headers(Some(&"https://a.test".parse().unwrap()), true, &mut answer);
        let said = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(
            said("referrer-policy").as_deref(),
            Some("origin"),
            "the application's own stays"
        );
        assert_eq!(said("x-content-type-options").as_deref(), Some("nosniff"));
        assert!(said("strict-transport-security").is_some());
        assert_eq!(said("access-control-allow-origin").as_deref(), Some("https://a.test"));
    }
}
