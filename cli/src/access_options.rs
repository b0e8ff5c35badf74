//! The flags of `up` for access control: tokens, rate limits, CORS, TLS.

use anyhow::{Context, bail};
use clap::Args;
use skincell_runner::access::{Access, Cors, Rate, Rules, Tokens};
use skincell_runner::app::App;
use skincell_runner::server::Tls;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Flags for access control.
#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
pub struct AccessOptions {
    /// Require a bearer token from this file, one per line; changes apply while it runs. Probes and routes
    /// that the manifest declares `open` need no token.
    #[arg(long, value_name = "FILE", env = "SKINCELL_TOKENS_FILE")]
    tokens_file: Option<PathBuf>,

    /// Requests allowed for each client address, such as 10/s or 100/m; more are answered 429.
    #[arg(long, value_name = "N/s|m|h", env = "SKINCELL_RATE_LIMIT")]
    rate_limit: Option<Rate>,

    /// Trust X-Forwarded-For from proxies in this network; may be given several times.
    #[arg(long, value_name = "NETWORK", env = "SKINCELL_TRUSTED_PROXIES", value_delimiter = ',')]
    #[arg(value_parser = network)]
    trusted_proxy: Vec<ipnet::IpNet>,

    /// Connections allowed for each client address except trusted proxies; more are answered 503 [default: no
    /// limit while connections are free].
    #[arg(long, value_name = "N", env = "SKINCELL_MAX_CONNECTIONS_PER_ADDRESS")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    max_connections_per_address: Option<u16>,

    /// Serve /healthz, /readyz, /metrics and /memory on this address instead of --listen, over plain HTTP
    /// and without a token; with port 0 a free port is chosen and printed.
    #[arg(long, value_name = "ADDRESS", env = "SKINCELL_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,

    /// Allow calls from pages of this origin (CORS), or of any origin with *; may be given several times.
    #[arg(long, value_name = "ORIGIN", env = "SKINCELL_CORS_ORIGINS", value_delimiter = ',')]
    cors_origin: Vec<String>,

    /// Serve TLS with this certificate chain, a PEM file; a changed file is reloaded.
    #[arg(long, value_name = "FILE", env = "SPIN_TLS_CERT", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, a PEM file.
    #[arg(long, value_name = "FILE", env = "SPIN_TLS_KEY", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl AccessOptions {
    /// The certificate, if one is given.
    ///
    /// # Errors
    /// A message with the file that cannot be used.
    pub fn tls(&self) -> anyhow::Result<Option<Arc<Tls>>> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificates), Some(key)) => {
                let tls = Tls::read(certificates, key).context("--tls-cert and --tls-key")?;
                Ok(Some(Arc::new(tls)))
            }
            (None, None) => Ok(None),
            _ => bail!("--tls-cert and --tls-key go together: give both"),
        }
    }

    /// Access control for `app`.
    ///
    /// # Errors
    /// A message with the invalid flag.
    pub fn access(&self, app: &App) -> anyhow::Result<Access> {
        let tokens = self.tokens_file.as_deref().map(Tokens::read).transpose();
        Ok(Access::new(Rules {
            tokens: tokens.context("--tokens-file")?,
            open: app.open_routes()?,
            cors: Cors::new(&self.cors_origin).context("--cors-origin")?,
            rate: self.rate_limit,
            trusted_proxies: self.trusted_proxy.clone(),
            admin_apart: self.admin_listen.is_some(),
        }))
    }

    /// Connections allowed for one address.
    pub fn connections_per_address(&self) -> Option<usize> {
        self.max_connections_per_address.map(usize::from)
    }

    /// A warning if others can reach `address` without a token or without TLS.
    pub fn warning(&self, address: SocketAddr) -> Option<String> {
        if address.ip().to_canonical().is_loopback() {
            return None;
        }
        let (token, tls) = (self.tokens_file.is_some(), self.tls_cert.is_some());
        match (token, tls) {
            (false, _) => Some(format!(
                "{address} can be reached by others and requires no token: set --tokens-file, or put it \
                 behind a proxy that authenticates clients"
            )),
            (true, false) => Some(format!(
                "tokens and photos reach {address} unencrypted: set --tls-cert and --tls-key, or put it \
                 behind a proxy with TLS"
            )),
            (true, true) => None,
        }
    }
}

/// A warning if others can reach the admin port, which has neither tokens nor TLS.
pub fn admin_warning(address: SocketAddr) -> Option<String> {
    (!address.ip().to_canonical().is_loopback()).then(|| {
        format!(
            "--admin-listen: {address} can be reached by others, and shows models and memory without a \
             token: use a loopback address or a private network"
        )
    })
}

/// Parses a network such as `10.0.0.0/8`, or one address.
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let address = || text.parse::<IpAddr>().map(Into::into);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| "write such as 10.0.0.0/8 or 10.0.0.1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{AccessOptions, admin_warning, network};
    use clap::{Args, FromArgMatches};

    fn options(flags: &[&str]) -> AccessOptions {
        let command = AccessOptions::augment_args(clap::Command::new("up"));
        let matches = command.try_get_matches_from([&["up"], flags].concat()).unwrap();
        AccessOptions::from_arg_matches(&matches).unwrap()
    }

    #[test]
    fn only_addresses_that_others_can_reach_give_warnings() {
        let warns =
            |flags: &[&str], address: &str| options(flags).warning(address.parse().unwrap());
        for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(warns(&[], loopback), None, "{loopback}");
        }
        for reachable in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1"] {
            assert!(warns(&[], reachable).unwrap().contains("--tokens-file"), "{reachable}");
        }
        let tokens = ["--tokens-file", "t"];
        assert!(warns(&tokens, "0.0.0.0:1").unwrap().contains("--tls-cert"));
        let all = ["--tokens-file", "t", "--tls-cert", "c", "--tls-key", "k"];
        assert_eq!(warns(&all, "0.0.0.0:1"), None);
        // The admin port never has tokens or TLS.
        assert_eq!(admin_warning("127.0.0.1:1".parse().unwrap()), None);
        assert!(admin_warning("0.0.0.0:1".parse().unwrap()).unwrap().contains("loopback"));
    }

    #[test]
    fn proxies_are_networks_or_addresses() {
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert!(network("10.0.0.0/8").is_ok() && network("10.0.0.0/33").is_err());
        let two = options(&["--trusted-proxy", "10.0.0.0/8,::1"]);
        assert_eq!(two.trusted_proxy.len(), 2);
    }
}
