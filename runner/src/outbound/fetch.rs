//! Fetches a file for the runner itself, before it serves: HTTP/1.1, with TLS as for components.
//!
//! Size, redirects and every wait are limited, and nothing but the file's bytes is believed: the caller
//! checks their digest. Proxies, and going on where an interrupted download ended, are left out.

use super::tls::{Roots, Stream};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use std::io::Write;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;
use wasmtime_wasi_http::io::TokioIo;

/// Most bytes of a file.
const MAX_SIZE: u64 = 256 << 20;
/// Most redirects.
const MAX_REDIRECTS: usize = 5;
/// Time limit of each step: connecting, the head of an answer, the next part of its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time limit of it all.
const ALL: Duration = Duration::from_secs(600);

/// Writes the file at `url` to `sink`, and returns its size.
///
/// # Errors
/// When it cannot be had in time, is larger than 256 MiB, or cannot be written.
pub(crate) fn fetch(url: &str, sink: &mut (impl Write + Send)) -> anyhow::Result<u64> {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(ALL, follow(url, sink)).await })?
    };
    // The caller may be on a runtime's thread, which may not wait for another runtime.
    let done = std::thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        .with_context(|| format!("cannot download {url}"))
}

async fn follow(url: &str, sink: &mut impl Write) -> anyhow::Result<u64> {
    let roots = Roots::default();
    let mut url = Url::parse(url)?;
    for _ in 0..=MAX_REDIRECTS {
        let mut answer = ask(&roots, &url).await?;
        match answer.response.status() {
            StatusCode::OK => return answer.write(sink).await,
            status if status.is_redirection() => {
                let place = answer.response.headers().get(header::LOCATION);
                let place = place.context("it redirects without saying where")?.to_str()?;
                let next = url.join(place)?;
                ensure!(
                    next.scheme() == "https" || url.scheme() == "http",
                    "it redirects from https to {next}"
                );
                url = next;
            }
            status => bail!("the server answers {status}"),
        }
    }
    bail!("it redirects more than {MAX_REDIRECTS} times")
}

/// An answer, and the task behind its connection.
struct Answer {
    response: Response<Incoming>,
    connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

async fn ask(roots: &Roots, url: &Url) -> anyhow::Result<Answer> {
    let host = url.host().context("the address names no host")?.to_owned();
    let port = url.port_or_known_default().context("the address names no port")?;
    let name = url.host_str().unwrap_or_default();
    // A name is resolved without its brackets of IPv6.
    let target = (name.trim_start_matches('[').trim_end_matches(']'), port);
    let stream = timeout(PATIENCE, TcpStream::connect(target)).await??;
    let stream = match url.scheme() {
        "https" => timeout(PATIENCE, roots.connect(&host, stream)).await??,
        "http" => Stream::Plain(stream),
        other => bail!("{other} is neither http nor https"),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let authority = match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let request = Request::get(format!("{}{query}", url.path()))
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("skincell/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())?;
    let response = timeout(PATIENCE, sender.send_request(request)).await??;
    Ok(Answer { response, connection })
}

impl Answer {
    async fn write(&mut self, sink: &mut impl Write) -> anyhow::Result<u64> {
        let mut size = 0_u64;
        let body = self.response.body_mut();
        while let Some(frame) = timeout(PATIENCE, body.frame()).await? {
            let Ok(data) = frame?.into_data() else { continue };
            size += data.len() as u64;
            ensure!(size <= MAX_SIZE, "it is larger than {} MiB", MAX_SIZE >> 20);
            sink.write_all(&data)?;
        }
        Ok(size)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
