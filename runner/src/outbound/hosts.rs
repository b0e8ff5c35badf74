//! The hosts that a component may call: `allowed_outbound_hosts`, by Spin's rules.
//!
//! An entry is `scheme://host[:port]`. The scheme may be `*`; the host `*`, `*.example.com`, a name, an
//! address, a network as `10.0.0.0/8`, or `self`; the port `*` or a range as `8000..9000`, whose end is left
//! out. Connecting, and which addresses a name may have, are left to the rest of this room.

use super::address::is_public;
use anyhow::{Context, bail, ensure};
use ipnet::IpNet;
use std::net::IpAddr;
use std::ops::Range;
use url::Host;

/// Host of a request to the application itself, where a client needs one.
pub(super) const SELF: &str = "self.alt";

/// Domain of requests from one component to another.
const PEERS: &str = "spin.internal";

/// The component that `host` names, if it is that of a request from one component to another.
pub(super) fn peer(host: &str) -> Option<&str> {
    let (name, domain) = host.split_once('.')?;
    (domain == PEERS).then_some(name)
}

/// Whether `host` is one at which components call each other.
pub(crate) fn is_peer(host: &str) -> bool {
    peer(host).is_some()
}

/// The schemes of entries that allow nothing here, because components connect by HTTP alone.
pub(crate) fn unused_schemes(entries: &[String]) -> impl Iterator<Item = &str> {
    let schemes = entries.iter().filter_map(|entry| entry.trim().split_once("://"));
    schemes.map(|(scheme, _)| scheme).filter(|scheme| !matches!(*scheme, "http" | "https" | "*"))
}

/// The entries of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct AllowedHosts(Vec<AllowedHost>);

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AllowedHost {
    /// `None` allows any.
    scheme: Option<String>,
    host: HostPattern,
    /// `None` allows any.
    ports: Option<Range<u32>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Any,
    /// With its dot: `.example.com`.
    Subdomains(String),
    Own,
    Exact(Host),
    Network(IpNet),
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) scheme: String,
    pub(super) host: Host,
    pub(super) port: u16,
}

impl AllowedHosts {
    /// Reads a component's entries, whose templates are expanded.
    ///
    /// # Errors
    /// With the entry, for one that is not of the form above.
    pub(crate) fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Self> {
        let entries = entries.into_iter().map(|entry| {
            AllowedHost::parse(entry).with_context(|| format!("allowed_outbound_hosts: {entry:?}"))
        });
        entries.collect::<anyhow::Result<_>>().map(Self)
    }

    /// Whether a request may go to `destination`, by its name.
    pub(super) fn allows(&self, destination: &Destination) -> bool {
        self.0.iter().any(|entry| entry.allows(destination))
    }

    /// Whether requests to the application itself are allowed.
    pub(super) fn allows_own(&self) -> bool {
        let own = |entry: &AllowedHost| matches!(entry.host, HostPattern::Any | HostPattern::Own);
        let http = |entry: &AllowedHost| {
            entry.scheme.as_deref().is_none_or(|s| matches!(s, "http" | "https"))
        };
        self.0.iter().any(|entry| own(entry) && http(entry))
    }

    /// Whether a request to `destination` may connect to `address`, one of the addresses of its host. A
    /// public address may always be used. Any other has to be named: as an address, by a network that
    /// contains it, or, if it is this machine's own, as `localhost`.
    pub(super) fn may_connect(&self, destination: &Destination, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let names = |entry: &AllowedHost| match &entry.host {
            HostPattern::Network(network) => network.contains(&address),
            HostPattern::Exact(Host::Ipv4(exact)) => IpAddr::V4(*exact) == address,
            HostPattern::Exact(Host::Ipv6(exact)) => IpAddr::V6(*exact).to_canonical() == address,
            HostPattern::Exact(Host::Domain(name)) => name == "localhost" && address.is_loopback(),
            _ => false,
        };
        let fits = |entry: &AllowedHost| {
            entry.allows_scheme(destination) && entry.allows_port(destination)
        };
        is_public(address) || self.0.iter().any(|entry| fits(entry) && names(entry))
    }
}

impl AllowedHost {
    /// Spin's order: the text after the last colon is the port unless all of it is a host.
    fn parse(entry: &str) -> anyhow::Result<Self> {
        let entry = entry.trim();
        let (scheme, rest) = entry.split_once("://").context(
            "an entry has the form scheme://host[:port], such as https://api.example.com or http://*:8080",
        )?;
        let (host, port) = match rest.rsplit_once(':') {
            None => (rest, ""),
            Some((host, "")) => (host, ""),
            Some((host, tail)) if HostPattern::parse(rest).is_err() => match tail.split_once('/') {
                Some((port, "")) => (host, port),
                Some(_) => bail!("an entry has no path"),
                None => (host, tail),
            },
            Some(_) => (rest, ""),
        };
        let ports = ports(port, scheme)?;
        let host = HostPattern::parse(host).with_context(|| format!("the host {host:?}"))?;
        ensure!(
            scheme == "*" || scheme.chars().all(char::is_alphabetic),
            "the scheme {scheme:?} is not made of letters"
        );
        let scheme = (scheme != "*").then(|| scheme.to_owned());
        Ok(Self { scheme, host, ports })
    }

    fn allows(&self, destination: &Destination) -> bool {
        self.allows_scheme(destination)
            && self.allows_port(destination)
            && self.host.allows(&destination.host)
    }

    fn allows_scheme(&self, destination: &Destination) -> bool {
        self.scheme.as_ref().is_none_or(|scheme| *scheme == destination.scheme)
    }

    fn allows_port(&self, destination: &Destination) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&u32::from(destination.port)))
    }
}

impl HostPattern {
    fn parse(host: &str) -> anyhow::Result<Self> {
        let host = host.trim();
        match host {
            "*" => return Ok(Self::Any),
            "self" | SELF => return Ok(Self::Own),
            _ => {}
        }
        ensure!(!host.starts_with('{'), "a list of hosts is not understood");
        if let Ok(network) = host.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let host = host.strip_suffix('/').unwrap_or(host);
        ensure!(!host.contains('/'), "it has a path");
        if let Some(domain) = host.strip_prefix("*.") {
            ensure!(!domain.contains('*'), "a wildcard stands only at its beginning");
            let Host::Domain(domain) = Host::parse(domain)? else {
                bail!("a wildcard stands only before a domain");
            };
            return Ok(Self::Subdomains(format!(".{domain}")));
        }
        ensure!(
            !host.contains('*'),
            "a wildcard stands only for all of it, or as in *.example.com"
        );
        Ok(Self::Exact(Host::parse(host)?))
    }

    fn allows(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (Self::Subdomains(suffix), Host::Domain(name)) => name.ends_with(suffix),
            (Self::Exact(exact), host) => exact == host,
            (Self::Network(network), Host::Ipv4(address)) => {
                network.contains(&IpAddr::V4(*address))
            }
            (Self::Network(network), Host::Ipv6(address)) => {
                network.contains(&IpAddr::V6(*address))
            }
            (Self::Subdomains(_) | Self::Network(_) | Self::Own, _) => false,
        }
    }
}

/// The ports of an entry. Without any they are the scheme's own.
fn ports(port: &str, scheme: &str) -> anyhow::Result<Option<Range<u32>>> {
    let number = |text: &str| {
        text.parse::<u16>()
            .map(u32::from)
            .with_context(|| format!("the port {text:?} is not a number"))
    };
    match (port, port.split_once("..")) {
        ("*", _) => Ok(None),
        ("", _) => {
            let port = default_port(scheme).with_context(|| {
                format!("the scheme {scheme:?} has no port of its own; name one")
            })?;
            Ok(Some(u32::from(port)..u32::from(port) + 1))
        }
        (_, Some((first, end))) => Ok(Some(number(first)?..number(end)?)),
        (port, None) => number(port).map(|port| Some(port..port + 1)),
    }
}

/// The port that a scheme has without one, of those that Spin knows.
pub(super) fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        "postgres" => Some(5432),
        "mysql" => Some(3306),
        "redis" => Some(6379),
        "mqtt" => Some(1883),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{AllowedHosts, Destination, default_port, peer};
    use http::Uri;
    use url::Host;

    fn destination(url: &str) -> Destination {
        let uri: Uri = url.parse().unwrap();
        let scheme = uri.scheme_str().unwrap().to_owned();
        let port = uri.port_u16().or_else(|| default_port(&scheme)).unwrap();
        Destination { host: Host::parse(uri.host().unwrap()).unwrap(), scheme, port }
    }

    /// What Spin decides, by the tests and the code of its `outbound-networking-config`.
    #[test]
    fn entries_allow_what_they_allow_in_spin() {
        let cases = [
            ("http://example.com", "http://example.com/", true),
            ("http://example.com", "http://example.com:80/x", true),
            ("http://example.com", "http://example.com:8080/", false),
            ("http://example.com", "https://example.com/", false),
            ("http://example.com", "http://www.example.com/", false),
            ("http://example.com/", "http://example.com/", true),
            ("http://example.com:8080", "http://example.com:8080/", true),
            ("http://example.com:8080/", "http://example.com:8080/", true),
            ("http://example.com:8080", "http://example.com/", false),
            ("http://example.com:*", "http://example.com:9/", true),
            ("https://example.com", "https://EXAMPLE.com/", true),
            ("https://EXAMPLE.com", "https://example.com/", true),
            ("https://example.com:443", "https://example.com/", true),
            ("*://example.com:*", "https://example.com:9/", true),
            ("*://example.com:443", "https://example.com/", true),
            ("*://example.com:443", "http://example.com/", false),
            ("http://*.example.com", "http://a.example.com/", true),
            ("http://*.example.com", "http://a.b.example.com/", true),
            ("http://*.example.com", "http://example.com/", false),
            ("http://*.example.com", "http://anexample.com/", false),
            ("http://*.example.com", "http://a.example.com:81/", false),
            ("http://*", "http://example.com/", true),
            ("http://*", "https://example.com/", false),
            ("http://*:8080", "http://1.2.3.4:8080/", true),
            ("http://*:8080..9090", "http://example.com:8080/", true),
            ("http://*:8080..9090", "http://example.com:9089/", true),
            ("http://*:8080..9090", "http://example.com:9090/", false),
            ("*://*:*", "https://example.com:1/", true),
            ("*://*:*", "http://[2606:4700::1]/", true),
            ("http://1.2.3.4", "http://1.2.3.4/", true),
            ("http://1.2.3.4", "http://1.2.3.5/", false),
            ("http://10.0.0.0/8", "http://10.255.0.1/", true),
            ("http://10.0.0.0/8", "http://11.0.0.1/", false),
            ("http://10.0.0.0/8:*", "http://10.1.1.1:9/", true),
            ("http://10.1.2.3/8", "http://10.9.9.9/", true),
            ("http://10.0.0.0/8", "http://ten.example.com/", false),
            ("http://[::1]", "http://[::1]/", true),
            ("http://[::1]:8080", "http://[::1]:8080/", true),
            ("http://[::1]:8080", "http://[::2]:8080/", false),
            ("http://2001:db8::/32", "http://[2001:db8::7]/", true),
            ("http://localhost:3000", "http://localhost:3000/", true),
            ("http://self", "http://self/", false),
            ("http://other.spin.internal", "http://other.spin.internal/", true),
            ("http://other.spin.internal", "http://another.spin.internal/", false),
            ("http://*.spin.internal", "http://another.spin.internal/x", true),
            ("http://*.spin.internal", "https://another.spin.internal/", false),
            ("http://münchen.example", "http://xn--mnchen-3ya.example/", true),
        ];
        for (entry, url, expected) in cases {
            let allowed = AllowedHosts::parse([entry]).unwrap_or_else(|e| panic!("{entry}: {e:#}"));
            assert_eq!(allowed.allows(&destination(url)), expected, "{entry} and {url}");
        }
        assert!(!AllowedHosts::default().allows(&destination("http://example.com/")));
    }

    #[test]
    fn entries_of_another_form_are_refused() {
        for entry in [
            "*",
            "",
            "example.com",
            "example.com:80",
            "http://example.com/path",
            "http://example.com:80/path",
            "http://a.*.com",
            "http://*.*.com",
            "http://ex*ample.com",
            "http://example.com:x",
            "http://example.com:1..x",
            "http://example.com:99999",
            "ftp://example.com",
            "*://example.com",
            "{http,https}://example.com",
            "http://{a,b}.com",
            "http://example.com:{80,90}",
            "h2-x://a:1",
            "http://*.1.2.3.4",
        ] {
            assert!(AllowedHosts::parse([entry]).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_host_of_the_internal_domain_names_a_component() {
        assert_eq!(peer("front-1.spin.internal"), Some("front-1"));
        for host in
            ["spin.internal", "a.b.spin.internal", "a.spin.internal.test", "a.SPIN.internal"]
        {
            assert_eq!(peer(host), None, "{host}");
        }
    }

    #[test]
    fn requests_to_the_application_itself_need_an_entry() {
        for (entry, expected) in [
            ("http://self", true),
            ("https://self", true),
            ("http://self.alt", true),
            ("*://*:*", true),
            ("http://*", true),
            ("redis://*", false),
            ("http://self.example", false),
            ("http://localhost", false),
        ] {
            assert_eq!(AllowedHosts::parse([entry]).unwrap().allows_own(), expected, "{entry}");
        }
    }

    #[test]
    fn an_address_that_is_not_public_has_to_be_named() {
        let cases = [
            ("http://example.com", "http://example.com/", "8.8.8.8", true),
            ("http://example.com", "http://example.com/", "127.0.0.1", false),
            ("http://example.com", "http://example.com/", "::ffff:10.0.0.1", false),
            ("*://*:*", "http://127.0.0.1:80/", "127.0.0.1", false),
            ("*://*:*", "http://169.254.169.254/", "169.254.169.254", false),
            ("http://127.0.0.1:80", "http://127.0.0.1/", "127.0.0.1", true),
            ("http://127.0.0.1:81", "http://127.0.0.1/", "127.0.0.1", false),
            ("http://10.0.0.0/8", "http://10.0.0.1/", "10.0.0.1", true),
            ("http://[::1]", "http://[::1]/", "::1", true),
            ("http://localhost", "http://localhost/", "127.0.0.1", true),
            ("http://localhost", "http://localhost/", "::1", true),
            ("http://localhost", "http://localhost/", "10.0.0.1", false),
        ];
        for (entry, url, address, expected) in cases {
            let allowed = AllowedHosts::parse([entry]).unwrap();
            let address = address.parse().unwrap();
            let found = allowed.may_connect(&destination(url), address);
            assert_eq!(found, expected, "{entry}, {url} at {address}");
        }
        // A name among the hosts, and its network beside it.
        let both = AllowedHosts::parse(["http://db.example", "http://10.0.0.0/8"]).unwrap();
        assert!(both.may_connect(&destination("http://db.example/"), "10.1.1.1".parse().unwrap()));
    }
}
