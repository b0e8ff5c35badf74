//! A connection's socket, with what a service that refuses uploads owes its clients and hyper leaves
//! out: a refusal that arrives although the client is still sending, problem details where hyper
//! refuses a head with a bare status, and an end for clients that do not read.
//!
//! Bytes only; which requests are refused is decided by whoever answers them.

use super::exchange::Exchange;
use super::refusal;
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes read and thrown away of a request that was answered before it was sent whole.
const LINGER_BYTES: u64 = 64 << 20;
/// How long that may take, all together.
const LINGER_TIME: Duration = Duration::from_secs(5);
/// How long a client that does not take its answer as fast as it comes may take for the next
/// [`STALL_BYTES`] of it: who reads a byte now and then is cut off too.
const STALL_TIME: Duration = Duration::from_secs(30);
const STALL_BYTES: usize = 64 << 10;

/// A socket as hyper sees it.
pub(super) struct Socket<S> {
    inner: S,
    exchange: Arc<Exchange>,
    /// Largest request body, for the refusal of a length beyond all counting.
    max_body: u64,
    heads: HeadWatch,
    /// What goes out in place of hyper's own words.
    refusal: Option<Refusal>,
    stall: Option<Stall>,
    linger: Option<Linger>,
}

struct Stall {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

struct Refusal {
    bytes: Vec<u8>,
    written: usize,
}

struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: u64,
}

impl<S> Socket<S> {
    pub(super) fn new(inner: S, exchange: Arc<Exchange>, max_body: u64) -> Self {
        Self {
            inner,
            exchange,
            max_body,
            heads: HeadWatch::default(),
            refusal: None,
            stall: None,
            linger: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if !self.exchange.at_work() {
            self.heads.see(buffer.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        self.refuse_in_our_words(bytes);
        if self.refusal.is_some() {
            return self.poll_refusal(context).map_ok(|()| bytes.len());
        }
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.unless_stalled(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if let [only] = pieces {
            return self.poll_write(context, only);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.unless_stalled(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// hyper flushes once all it had is written: whoever read slowly has caught up.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.stall = None;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    /// Says that no more comes, and where the client may still be sending, lets it: closing at once
    /// would reset the connection, and the client would lose the answer it has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            if !this.exchange.has_unread_input() {
                return Poll::Ready(Ok(()));
            }
        }
        let linger = this.linger.get_or_insert_with(|| Linger {
            until: Box::pin(sleep(LINGER_TIME)),
            bytes_left: LINGER_BYTES,
        });
        let mut waste = [0; 16 << 10];
        while linger.bytes_left > 0 && linger.until.as_mut().poll(context).is_pending() {
            let mut buffer = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer));
            let length = buffer.filled().len() as u64;
            if read.is_err() || length == 0 {
                break;
            }
            linger.bytes_left = linger.bytes_left.saturating_sub(length);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Socket<S> {
    /// Where hyper answers a head it cannot read with a bare status, sets up what is sent instead.
    fn refuse_in_our_words(&mut self, bytes: &[u8]) {
        if self.refusal.is_some() || self.exchange.at_work() {
            return;
        }
        let beyond = self.heads.length_beyond_counting.then_some(self.max_body);
        if let Some(bytes) = refusal::in_place_of(bytes, beyond) {
            self.exchange.leave_unread();
            self.refusal = Some(Refusal { bytes, written: 0 });
        }
    }

    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        while let Some(refusal) = &mut self.refusal {
            let rest = refusal.bytes.get(refusal.written..).unwrap_or_default();
            if rest.is_empty() {
                self.refusal = None;
                break;
            }
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                written => refusal.written += written,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends a write that has been waiting for too long for the client to take what it is sent.
    fn unless_stalled(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<Result<usize>>,
    ) -> Poll<Result<usize>> {
        if let Poll::Ready(outcome) = &written {
            let taken = *outcome.as_ref().unwrap_or(&0);
            self.stall = self.stall.take().filter(|stall| taken < stall.bytes_left);
            if let Some(stall) = &mut self.stall {
                stall.bytes_left -= taken;
            }
            return written;
        }
        let stall = self.stall.get_or_insert_with(|| Stall {
            until: Box::pin(sleep(STALL_TIME)),
            bytes_left: STALL_BYTES,
        });
        ready!(stall.until.as_mut().poll(context));
        Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

/// Looks for a `Content-Length` that hyper cannot count: it would answer as if the head were too long.
#[derive(Debug, Default)]
struct HeadWatch {
    /// How much of [`FIELD`] the last bytes are.
    matched: usize,
    /// The digits so far; `None` beyond 64 bits.
    value: Option<u64>,
    length_beyond_counting: bool,
}

const FIELD: &[u8] = b"\ncontent-length:";

/// hyper keeps the two largest lengths for bodies whose end is not known beforehand.
const LARGEST_LENGTH: u64 = u64::MAX - 2;

impl HeadWatch {
    fn see(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match FIELD.get(self.matched) {
                Some(&next) if next == byte.to_ascii_lowercase() => {
                    self.matched += 1;
                    self.value = Some(0);
                }
                None if matches!(byte, b' ' | b'\t') => {}
                None if byte.is_ascii_digit() => {
                    let digit = u64::from(byte - b'0');
                    self.value = self.value.and_then(|v| v.checked_mul(10)?.checked_add(digit));
                    self.length_beyond_counting |= self.value.is_none_or(|v| v > LARGEST_LENGTH);
                }
                _ => self.matched = usize::from(byte == b'\n'),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::HeadWatch;

    #[test]
    fn a_length_beyond_counting_is_seen_in_any_pieces() {
        let cases = [
            ("GET / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n", true),
            ("GET / HTTP/1.1\r\ncontent-LENGTH:18446744073709551614\r\n", true),
            ("GET / HTTP/1.1\r\nA: b\r\ncontent-length: 99999999999999999999999999\r\n", true),
            ("GET / HTTP/1.1\r\nContent-Length: 18446744073709551613\r\n", false),
            ("GET / HTTP/1.1\r\nContent-Length: 12\r\nX: 18446744073709551615\r\n", false),
            ("GET / HTTP/1.1\r\nX-Content-Length: 18446744073709551615\r\n", false),
        ];
        for (head, expected) in cases {
            for size in [1, 7, head.len()] {
                let mut watch = HeadWatch::default();
                head.as_bytes().chunks(size).for_each(|piece| watch.see(piece));
                assert_eq!(watch.length_beyond_counting, expected, "{head:?} by {size}");
            }
        }
    }
}
