//! Who may come in: bearer tokens, a rate for each client, CORS, and what every answer tells browsers.
//!
//! The door looks at heads only. What it refuses is answered before any of the body is read and before a
//! component or a model hears of it. TLS is the socket's (`server`), which requests mean what is the
//! application's.

mod address;
mod cors;
mod file;
mod rate;
mod tokens;

pub use cors::{Cors, OriginError};
pub(crate) use file::Watched;
pub use rate::{Rate, RateError};
pub use tokens::{TokenError, Tokens};

use crate::problem::Problem;
use crate::routes::Routes;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use ipnet::IpNet;
use rate::Limiter;
use std::net::{IpAddr, SocketAddr};

/// What the door asks of those who come; by default nothing.
#[derive(Debug, Default)]
pub struct Rules {
    /// Bearer tokens, one of which is wanted; `None` wants none.
    pub tokens: Option<Tokens>,
    /// What may be read (GET, HEAD) without a token: the routes an application declares `open`.
    pub open: Routes,
    /// Origins whose pages may call.
    pub cors: Cors,
    /// How often one client address may ask.
    pub rate: Option<Rate>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether clients come over TLS: then browsers are told to stay with it.
    pub is_tls: bool,
    /// Whether the runner's own endpoints are on a port of their own: then probes have no place here.
    pub admin_apart: bool,
}

/// The rules, and who came lately.
#[derive(Debug, Default)]
pub struct Door {
    rules: Rules,
    limiter: Option<Limiter>,
}

/// Where probes look, whoever they are: they tell nothing but that the process lives.
const PROBES: [&str; 3] = ["/healthz", "/readyz", "/.well-known/spin/health"];

/// Whose request it is: an address, or the 64 bits of an IPv6 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl Door {
    /// A door with these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self { limiter: rules.rate.map(Limiter::new), rules }
    }

    /// Whether a path is one where probes look.
    #[must_use]
    pub fn is_probe(&self, path: &str) -> bool {
        // Spin's own stays with the application.
        PROBES.contains(&path) && (!self.rules.admin_apart || path.starts_with("/.well-known/"))
    }

    /// Whose connection one from `peer` is; `None` for a trusted proxy's, which are many clients'.
    #[must_use]
    pub fn counted_address(&self, peer: IpAddr) -> Option<IpAddr> {
        address::counted(peer, &self.rules.trusted_proxies)
    }

    /// Lets a request in and says whose it is, or gives what it is answered instead.
    ///
    /// # Errors
    /// [`Refusal`]: a preflight's answer, or the problem.
    pub fn admit(
        &self,
        head: &Parts,
        client: SocketAddr,
        brings_body: bool,
    ) -> Result<ClientAddress, Refusal> {
        let path = head.uri.path();
        let who = address::of(&head.headers, client.ip(), &self.rules.trusted_proxies);
        if self.is_probe(path) {
            return Ok(ClientAddress(who));
        }
        if let Some(answer) = self.rules.cors.preflight(head) {
            return Err(Refusal::Preflight(Box::new(answer)));
        }
        if let Some(limiter) = &self.limiter {
            let wait = limiter.ask(who).err();
            if let Some(wait) = wait {
                return Err(Refusal::Problem(Problem::TooOften(wait)));
            }
        }
        let Some(tokens) = &self.rules.tokens else { return Ok(ClientAddress(who)) };
        let reads = matches!(head.method, Method::GET | Method::HEAD);
        if reads && !brings_body && self.rules.open.find(path).is_some() {
            return Ok(ClientAddress(who));
        }
        let known = tokens.check(&head.headers).map(|()| ClientAddress(who));
        known.map_err(|error| Refusal::Problem(Problem::Token(error)))
    }

    /// Says on an answer what browsers must know: whose page may read it, and to take it for what it says.
    /// What the application says itself stays.
    pub fn dress<B>(&self, origin: Option<&HeaderValue>, answer: &mut Response<B>) {
        let headers = answer.headers_mut();
        let mut fixed = vec![
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        if self.rules.is_tls {
            fixed.push((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
        }
        for (name, value) in fixed {
            headers.entry(name).or_insert(HeaderValue::from_static(value));
        }
        self.rules.cors.dress(origin, headers);
    }

    /// Reads the tokens again where their file has changed. Looks at the disk; call it now and then.
    pub fn refresh(&self) {
        if let Some(tokens) = &self.rules.tokens {
            tokens.refresh();
        }
    }
}

/// What is answered in place of the application.
#[derive(Debug)]
pub enum Refusal {
    /// A browser asked whether a page may call: this is whether.
    Preflight(Box<Response<Full<Bytes>>>),
    /// Not now, or not without a token.
    Problem(Problem),
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
    use super::{Cors, Door, Rate, Refusal, Rules, Tokens};
    use crate::problem::Problem;
    use crate::routes::Routes;
    use http::Request;
    use http::request::Parts;
    use std::net::SocketAddr;

    const TOKEN: &str = "0123456789abcdef";

    fn head(method: &str, path: &str, fields: &[(&str, &str)]) -> Parts {
        let request = Request::builder().method(method).uri(path);
        let request = fields.iter().fold(request, |request, (n, v)| request.header(*n, *v));
        request.body(()).unwrap().into_parts().0
    }

    fn client() -> SocketAddr {
        "192.0.2.1:5".parse().unwrap()
    }

    fn guarded() -> Door {
        let mut open = Routes::default();
        open.add("/", 0).unwrap();
        open.add("/page/...", 1).unwrap();
        Door::new(Rules { tokens: Some(Tokens::of(&[TOKEN])), open, ..Rules::default() })
    }

    #[test]
    fn without_rules_everybody_comes_in() {
        let door = Door::default();
        assert!(door.admit(&head("POST", "/predict", &[]), client(), false).is_ok());
        assert!(
            door.admit(
                &head("OPTIONS", "/predict", &[("origin", "https://a.test")]),
                client(),
                false
            )
            .is_ok()
        );
    }

    #[test]
    fn a_token_opens_all_and_none_opens_what_is_declared_and_read_only() {
        let door = guarded();
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
            let admitted = door.admit(&head(method, path, &fields), client(), false);
            assert_eq!(admitted.is_ok(), expected, "{method} {path} {authorization:?}");
        }
    }

    /// A body without a token would take room from those who have one.
    #[test]
    fn what_is_open_without_a_token_is_open_without_a_body() {
        let (door, get) = (guarded(), head("GET", "/page/main.js", &[]));
        assert!(door.admit(&get, client(), false).is_ok());
        assert!(matches!(
            door.admit(&get, client(), true),
            Err(Refusal::Problem(Problem::Token(_)))
        ));
        let bearer = format!("Bearer {TOKEN}");
        let known = head("GET", "/page/main.js", &[("authorization", &bearer)]);
        assert!(door.admit(&known, client(), true).is_ok());
    }

    #[test]
    fn where_the_runner_has_a_port_of_its_own_its_paths_are_the_applications_here() {
        let tokens = Some(Tokens::of(&[TOKEN]));
        let door = Door::new(Rules { tokens, admin_apart: true, ..Rules::default() });
        assert!(door.admit(&head("GET", "/healthz", &[]), client(), false).is_err());
        let spins = head("GET", "/.well-known/spin/health", &[]);
        assert!(door.admit(&spins, client(), false).is_ok());
    }

    #[test]
    fn who_asks_too_often_waits_but_probes_never_do() {
        let rate: Rate = "2/m".parse().unwrap();
        let door = Door::new(Rules { rate: Some(rate), ..Rules::default() });
        let ask = |path| door.admit(&head("GET", path, &[]), client(), false);
        assert!(ask("/a").is_ok() && ask("/a").is_ok());
        let refused = ask("/a");
        assert!(matches!(refused, Err(Refusal::Problem(Problem::TooOften(_)))), "{refused:?}");
        assert!(ask("/healthz").is_ok());
    }

    #[test]
    fn answers_are_dressed_once() {
        let cors: Cors = Cors::new(&["https://a.test".to_owned()]).unwrap();
        let door = Door::new(Rules { cors, is_tls: true, ..Rules::default() });
        let mut answer =
            http::Response::builder().header("referrer-policy", "origin").body(()).unwrap();
        door.dress(Some(&"https://a.test".parse().unwrap()), &mut answer);
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
