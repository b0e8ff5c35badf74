//! TLS on a socket, by rustls: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1. Certificates are replaced while it runs.
//! Client certificates are left out.

use super::http2::ALPN;
use crate::access::Watched;
use anyhow::{Context, bail};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::server::TlsStream;

/// Bytes that a session may buffer for a client that does not read: one TLS record.
const BUFFER: usize = 16 << 10;

/// A certificate chain and its private key, from PEM files.
#[derive(Debug)]
pub struct Tls {
    certificates: Watched,
    key: Watched,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a certificate chain, the server's own first, and its private key.
    ///
    /// # Errors
    /// When a file cannot be used, with its name and the reason.
    pub fn read(certificates: &Path, key: &Path) -> anyhow::Result<Self> {
        let (certificates, key) = (Watched::new(certificates), Watched::new(key));
        let pair = Pair::read(&certificates, &key)?;
        pair.is_new(&certificates, &key);
        let current = RwLock::new(Arc::new(pair.configuration(&certificates, &key)?));
        Ok(Self { certificates, key, current })
    }

    /// Reads the files again if they have changed. Unusable files, such as a certificate whose key is not
    /// there yet, change nothing.
    pub(super) fn refresh(&self) {
        let (certificates, key) = (&self.certificates, &self.key);
        let Ok(pair) = Pair::read(certificates, key) else { return };
        if !pair.is_new(certificates, key) {
            return;
        }
        match pair.configuration(certificates, key) {
            Ok(read) => {
                tracing::info!("the certificates were read again");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
            }
            Err(error) => tracing::error!("the certificates stay as they were: {error:#}"),
        }
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// When the client breaks the protocol or disconnects.
    pub(super) async fn accept<S>(&self, stream: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let acceptor = TlsAcceptor::from(current);
        acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(BUFFER))).await
    }
}

/// The content of both files.
struct Pair {
    certificates: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn read(certificates: &Watched, key: &Watched) -> anyhow::Result<Self> {
        let content = |file: &Watched| {
            file.content().with_context(|| format!("cannot read {}", file.path().display()))
        };
        Ok(Self { certificates: content(certificates)?, key: content(key)? })
    }

    fn is_new(&self, certificates: &Watched, key: &Watched) -> bool {
        // `|` rather than `||`: both are checked, so that neither counts as new a second time.
        certificates.is_new(&self.certificates) | key.is_new(&self.key)
    }

    fn configuration(&self, certificates: &Watched, key: &Watched) -> anyhow::Result<ServerConfig> {
        let (shown, key) = (certificates.path().display(), key.path().display());
        let chain = CertificateDer::pem_slice_iter(&self.certificates)
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("cannot read certificates in {shown}"))?;
        if chain.is_empty() {
            bail!("{shown} holds no certificate: it needs `-----BEGIN CERTIFICATE-----`");
        }
        let private = PrivateKeyDer::from_pem_slice(&self.key)
            .with_context(|| format!("cannot read a private key in {key}"))?;
        let provider = Arc::new(ring::default_provider());
        let mut configuration = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .with_context(|| {
                format!("the certificate in {shown} and the key in {key} do not match")
            })?;
        configuration.alpn_protocols = vec![ALPN.to_vec(), b"http/1.1".to_vec()];
        // Clients keep their sessions themselves, in encrypted tickets (RFC 5077): what the server kept for
        // them would lie scattered over pages that the allocator could then not give back.
        configuration.ticketer =
            ring::Ticketer::new().context("cannot make keys for TLS tickets")?;
        configuration.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(configuration)
    }
}
