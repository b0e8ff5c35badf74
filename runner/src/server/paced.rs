//! A TCP connection that fails if its client reads too slowly. It lies below TLS, so that one rule holds for
//! writing, flushing and shutting down, encrypted or not. It also finds the protocol that a client begins
//! with. Slow senders are left to `upload`.

use super::exchange::Exchange;
use crate::timeouts::Portion;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Most bytes that are read to find the protocol: more than it needs, so that a usual head is read at once.
const AHEAD: usize = 1024;

/// See the module.
pub(super) struct Paced<S> {
    inner: S,
    exchange: Arc<Exchange>,
    pace: Portion,
    stall: Option<Stall>,
    /// Bytes that were read to find the protocol, to be read again.
    ahead: Vec<u8>,
}

/// A pending write: the bytes that the client still has to take, and the deadline.
struct Stall {
    until: Pin<Box<Sleep>>,
    bytes_left: u64,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S, exchange: Arc<Exchange>, pace: Portion) -> Self {
        Self { inner, exchange, pace, stall: None, ahead: Vec::new() }
    }

    /// Fails a write that has waited too long for the client to read.
    fn unless_stalled<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<Result<T>>,
        bytes: impl Fn(&T) -> u64,
    ) -> Poll<Result<T>> {
        if let Poll::Ready(outcome) = &written {
            if let Some(stall) = &mut self.stall {
                let taken = outcome.as_ref().map_or(0, bytes);
                self.exchange.client_took(taken);
                stall.bytes_left = stall.bytes_left.saturating_sub(taken);
                if stall.bytes_left == 0 {
                    self.stall = None;
                }
            }
            return written;
        }
        self.exchange.client_is_full();
        let pace = self.pace;
        let stall = self.stall.get_or_insert_with(|| Stall {
            until: Box::pin(sleep(pace.within)),
            bytes_left: pace.bytes,
        });
        ready!(stall.until.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> Paced<S> {
    /// Whether the client begins with `expected`: reads until that is certain. The bytes are read again
    /// later.
    ///
    /// # Errors
    /// When the connection fails.
    pub(super) async fn begins_with(&mut self, expected: &[u8]) -> Result<bool> {
        self.ahead.reserve_exact(AHEAD);
        while self.ahead.len() < expected.len() && expected.starts_with(&self.ahead) {
            if self.inner.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
        }
        Ok(self.ahead.starts_with(expected))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.ahead.is_empty() {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(this.ahead.drain(..length).as_slice());
        if this.ahead.is_empty() {
            this.ahead = Vec::new(); // a connection may stay open for long
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.unless_stalled(context, written, |taken| *taken as u64)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.unless_stalled(context, written, |taken| *taken as u64)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// A complete flush means that everything was written (TLS flushes its own buffers first), so a slow
    /// client has caught up.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        if flushed.is_ready() {
            self.stall = None;
        }
        self.unless_stalled(context, flushed, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(context);
        self.unless_stalled(context, shut, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::Paced;
    use crate::timeouts::Portion;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufWriter, duplex};
    use tokio::time::{Instant, sleep};

    const PACE: Portion = Portion { bytes: 1000, within: Duration::from_secs(30) };

    #[tokio::test(start_paused = true)]
    async fn writing_flushing_and_shutting_down_fail_if_the_client_does_not_read() {
        let (server, _client) = duplex(100);
        let mut paced = Paced::new(server, Arc::default(), PACE);
        paced.write_all(&[0; 100]).await.unwrap();
        let start = Instant::now();
        let error = paced.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), PACE.within);

        // Like TLS: it accepts everything, and writes it when it is flushed.
        let (server, _client) = duplex(10);
        let mut tls = BufWriter::new(Paced::new(server, Arc::default(), PACE));
        tls.write_all(&[0; 100]).await.unwrap();
        let start = Instant::now();
        assert!(tls.flush().await.is_err(), "bytes in TLS's own buffers are timed as well");
        assert!(tls.shutdown().await.is_err());
        assert!(start.elapsed() <= 2 * PACE.within, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_bytes_that_show_the_protocol_are_read_again() {
        for (sent, expected) in
            [("PRI *", true), ("PRI", false), ("POST", false), ("PRI * HTTP/2.0", true)]
        {
            let (server, mut client) = duplex(100);
            let mut paced = Paced::new(server, Arc::default(), PACE);
            client.write_all(sent.as_bytes()).await.unwrap();
            drop(client);
            assert_eq!(paced.begins_with(b"PRI *").await.unwrap(), expected, "{sent}");
            let mut read = String::new();
            paced.read_to_string(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_keeps_the_pace_is_served_to_the_end() {
        for (pause, kept) in [(2, true), (4, false)] {
            // 100 bytes each time: 1,000 bytes in 20 s are in time, in 40 s they are not.
            let (server, mut client) = duplex(100);
            let mut paced = Paced::new(server, Arc::default(), PACE);
            let reads = tokio::spawn(async move {
                let mut piece = [0; 100];
                while client.read_exact(&mut piece).await.is_ok() {
                    sleep(Duration::from_secs(pause)).await;
                }
            });
            assert_eq!(paced.write_all(&[0; 5000]).await.is_ok(), kept, "every {pause} s");
            drop(paced);
            reads.await.unwrap();
        }
    }
}
