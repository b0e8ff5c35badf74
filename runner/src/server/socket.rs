//! A connection's socket, with three additions to hyper: a refusal reaches a client that is still sending,
//! unreadable heads are answered with problem details, and clients that end their sending half early are
//! answered.
//!
//! Bytes only: the handler decides which requests are refused, and `paced` ends clients that do not read.

use super::exchange::Exchange;
use super::half_close::HalfClose;
use super::refusal::{self, Limits};
use crate::timeouts::Portion;
use std::io::{ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A socket as hyper sees it.
pub(super) struct Socket<S> {
    inner: S,
    exchange: Arc<Exchange>,
    limits: Limits,
    heads: HeadWatch,
    /// The answer that replaces hyper's own.
    refusal: Option<Refusal>,
    half_close: HalfClose,
    /// Whether some of the answer has been written.
    has_begun: bool,
    /// Whether hyper still holds some of the answer.
    has_rest: bool,
    /// How much a client that was answered early may still send, and for how long.
    linger_limit: Portion,
    linger: Option<Linger>,
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
    /// `limits` are stated in refusals; `linger` limits what a client may send after its answer.
    pub(super) fn new(inner: S, exchange: Arc<Exchange>, limits: Limits, linger: Portion) -> Self {
        Self {
            inner,
            exchange,
            limits,
            heads: HeadWatch::default(),
            refusal: None,
            half_close: HalfClose::default(),
            has_begun: false,
            has_rest: false,
            linger_limit: linger,
            linger: None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                break;
            }
            if !self.exchange.at_work() {
                return Poll::Ready(Ok(()));
            }
            if !self.exchange.is_whole() {
                // The body's reader may not have seen the last bytes yet; it goes first.
                ready!(self.half_close.poll_body(context));
                if self.exchange.wants_body() {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            // Once the answer has begun nothing else may be sent; a client that is gone shows in the answer's
            // own writes.
            let may_send = !self.has_begun && !self.has_rest;
            let next = ready!(self.half_close.poll_next(may_send, context));
            self.send_ahead(next, context)?;
        }
        if !self.exchange.at_work() {
            self.has_begun = false;
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
        self.replace_refusal(bytes);
        if self.refusal.is_some() {
            return self.poll_refusal(context).map_ok(|()| bytes.len());
        }
        let (ahead, rest) = self.beyond_ahead(bytes)?;
        let written = Pin::new(&mut self.inner).poll_write(context, rest).map_ok(|n| n + ahead);
        self.wrote(&written, bytes.len());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        if let [first, rest @ ..] = pieces
            && (rest.is_empty() || !self.half_close.ahead().is_empty())
        {
            return self.poll_write(context, first);
        }
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.wrote(&written, pieces.iter().map(|piece| piece.len()).sum());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.exchange.at_work() {
            self.half_close.answered();
        }
        Pin::new(&mut self.inner).poll_flush(context)
    }

    /// Ends the sending half and then, if the client may still be sending, discards what it sends for a
    /// while: closing at once would reset the connection, and the client would lose the unread rest of its
    /// answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(context))?;
            if !this.exchange.has_unread_input() {
                return Poll::Ready(Ok(()));
            }
        }
        let limit = this.linger_limit;
        let linger = this.linger.get_or_insert_with(|| Linger {
            until: Box::pin(sleep(limit.within)),
            bytes_left: limit.bytes,
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
    /// Notes whether all of the answer so far was written.
    fn wrote(&mut self, written: &Poll<Result<usize>>, offered: usize) {
        if written.is_ready() {
            self.half_close.begun();
        }
        self.has_begun = true;
        self.has_rest = !matches!(written, Poll::Ready(Ok(length)) if *length == offered);
    }

    /// How many of the answer's first bytes were sent ahead of it, and the rest of `bytes`.
    fn beyond_ahead<'a>(&self, bytes: &'a [u8]) -> Result<(usize, &'a [u8])> {
        let ahead = self.half_close.ahead();
        match bytes.strip_prefix(ahead) {
            Some(rest) => Ok((ahead.len(), rest)),
            None => Err(ErrorKind::InvalidData.into()),
        }
    }

    /// If these bytes are hyper's own answer to an unreadable head, replaces them.
    fn replace_refusal(&mut self, bytes: &[u8]) {
        if self.refusal.is_some() || self.exchange.at_work() {
            return;
        }
        let is_beyond_u64 = self.heads.is_length_beyond_u64;
        if let Some(bytes) = refusal::in_place_of(bytes, self.limits, is_beyond_u64) {
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

    /// Sends a byte of an answer ahead of it. If the client cannot take it now, it is tried again later.
    fn send_ahead(&mut self, byte: &[u8], context: &mut Context<'_>) -> Result<()> {
        match Pin::new(&mut self.inner).poll_write(context, byte) {
            Poll::Ready(Ok(0)) => return Err(ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(_)) => self.half_close.sent(),
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Ok(()),
        }
        match Pin::new(&mut self.inner).poll_flush(context) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }
}

/// Finds a `Content-Length` that does not fit 64 bits, which hyper would report as a head that is too long.
#[derive(Debug, Default)]
struct HeadWatch {
    /// How many bytes of [`FIELD`] the last bytes match.
    matched: usize,
    /// The value of the digits so far; `None` if it does not fit 64 bits.
    value: Option<u64>,
    is_length_beyond_u64: bool,
}

const FIELD: &[u8] = b"\ncontent-length:";

/// hyper reserves the two larger values for bodies of unknown length.
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
                    self.is_length_beyond_u64 |= self.value.is_none_or(|v| v > LARGEST_LENGTH);
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
    fn a_length_beyond_64_bits_is_found_however_it_is_split() {
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
                assert_eq!(watch.is_length_beyond_u64, expected, "{head:?} by {size}");
            }
        }
    }
}
